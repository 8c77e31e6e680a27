"""What the network cannot restore is abnormal: the tutorial promises it and never shows it.

    python -m beyond.anomaly [PICTURES] --help

Screens a person's own pictures with a trained network; without any, measures in three experiments
how well abnormal test images are told from normal ones.
"""

import contextlib
import csv
import dataclasses
import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import autoencoder as ae
from beyond.pca import check_labels, codes_of, nearest_of, table, thousands

tf = ae.tf
SCORES = ("error", "error x distance")
ARRAYS = (".npy", ".npz", ".gz", ".idx3-ubyte")


class Detector(NamedTuple):
    codes: np.ndarray  # (n, Z_n), of normal images
    threshold: float  # a greater score is abnormal


def detector(sess, g, data, false_positive_rate=0.05):
    """A Detector of what is not like `data` (DataSets): the codes of the first 10,000 training
    images, which are as good as all, and the threshold of the validation images."""
    codes = codes_of(sess, g, data.train.pixels[:10000])
    scores = anomaly_score(sess, g, data.validation.pixels, codes)["error x distance"]
    return Detector(codes, fit_threshold(scores, false_positive_rate))


def detect(sess, g, images, detector):
    """Which of the images (n, X_n) are abnormal. -> scores (n,), flags (n,)"""
    scores = anomaly_score(sess, g, images, detector.codes)["error x distance"]
    return scores, scores > detector.threshold


def anomaly_score(sess, g, images, codes):
    """How abnormal each of the images (n, X_n) is, in two ways: {name of SCORES: (n,)}.

    `error` is half the squared error of the image: what the network cannot restore is abnormal.
    `error x distance` multiplies it with 1 + the mean squared distance of its Z to the 5 nearest of
    `codes` (m, Z_n), the Z of normal images: what is restored from a Z that no normal image has is
    abnormal too; the 1 is for a network whose latents are all dead. A thousand images at a time.
    """
    errors, factors = [], []
    with nearest_of(codes, 5) as nearest:
        for pixels in thousands(images, "scores"):
            X = ae.scaled(pixels)
            Z, G = sess.run([g.Z, g.G], {g.X: X})
            errors.append(np.square(G - X).sum(axis=1) / 2)
            factors.append(1 + nearest(Z)[1].mean(axis=1))
    error = np.concatenate(errors).astype(np.float64)
    return dict(zip(SCORES, (error, error * np.concatenate(factors))))


def fit_threshold(scores, false_positive_rate=0.05):
    """The score that at most this share of the scores of normal validation images (n,) exceeds."""
    return float(np.quantile(scores, 1 - false_positive_rate, method="inverted_cdf"))


def auroc(normal, abnormal):
    """The area under the ROC curve: how often a score of `abnormal` (n,) exceeds one of `normal`
    (m,), of all pairs; a tie counts half."""
    normal = np.sort(normal)
    below, not_above = (np.searchsorted(normal, abnormal, side) for side in ("left", "right"))
    return (below + not_above).mean() / 2 / len(normal)


# ---- Experiments ---------------------------------------------------------------------------------


def one_label(data, hp, is_normal):
    """For each label, trains on its images alone if it `is_normal`, or else on all others.

    Yields its name, and {name of SCORES: (scores of normal, of abnormal test images)}.
    """
    check_labels(data)
    for label in np.unique(data.train.labels):
        normal = [(part.labels == label) == is_normal for part in data]
        train, validation = (ae.part_of(part, rows) for part, rows in zip(data, normal[:2]))
        if not len(validation.pixels):  # of a rare label
            validation = train
        chosen = data._replace(train=train, validation=validation)
        (scores,) = scores_after_training(chosen, hp, data.test.pixels)
        yield f"label {label}", {k: (s[normal[2]], s[~normal[2]]) for k, s in scores.items()}


def no_digits(data, hp):
    """Trains on all images, and scores what is none of them. Yields as one_label does."""
    abnormal = not_of(data.test)
    normal, *scores = scores_after_training(data, hp, data.test.pixels, *abnormal.values())
    for what, of in zip(abnormal, scores):
        yield what, {name: (normal[name], of[name]) for name in SCORES}


EXPERIMENTS = {
    "one-normal": lambda data, hp: one_label(data, hp, True),
    "one-abnormal": lambda data, hp: one_label(data, hp, False),
    "no-digits": no_digits,
}


def scores_after_training(normal, hp, *images):
    """Trains on normal images alone, DataSets, and scores each of `images`, (n, X_n)."""
    g = ae.build(hp)
    with ae.start(g) as sess:
        with contextlib.redirect_stdout(io.StringIO()):
            ae.train(sess, g, normal)
        codes = codes_of(sess, g, normal.train.pixels[:10000])
        return [anomaly_score(sess, g, part, codes) for part in images]


def not_of(test):
    """Images that are not what those of `test` (DataSet) are: {what: (n, X_n)}."""
    n, X_n = test.pixels.shape
    return {
        "uniform noise": np.random.default_rng(0).integers(0, 256, (1000, X_n), np.uint8),
        "constant grey": np.repeat(np.arange(256, dtype=np.uint8)[:, None], X_n, axis=1),
        "inverted": (255 if test.pixels.dtype == np.uint8 else 1) - test.pixels,
        "turned by 90 degrees": np.rot90(ae.squares(test.pixels), axes=(1, 2)).reshape(n, X_n),
    }


def plot_roc(panels):
    """Draws ROC curves. panels: {title: {label: (scores of normal, of abnormal)}} -> Figure"""
    figure = Figure(figsize=(4.5 * len(panels), 4.2), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, (title, curves) in zip(grid[0], panels.items()):
        for label, scores in curves.items():
            thresholds = np.unique(np.concatenate(scores))[::-1]
            rates = [1 - np.searchsorted(np.sort(s), thresholds, "left") / len(s) for s in scores]
            axes.plot(*np.hstack([[[0], [0]], rates]), label=f"{label}: {auroc(*scores):.3f}", lw=1)
        axes.set(title=title, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(loc="lower right", fontsize="small", title="AUROC")
    return figure


# ---- A person's own pictures ---------------------------------------------------------------------


def read_pictures(path, X_n):
    """Reads a .npy, a .npz of one array or an IDX file; a picture (PNG, JPEG, BMP or GIF, grey or in
    colour), or a folder of them.

    -> images (n, X_n), names of their files or None, {file that was left out: why}
    """
    if path.name.endswith(ARRAYS):
        images = ae.data_set(_array(path), None, str(path)).pixels
        if images.shape[1] != X_n:
            raise ae.AutoEncoderError(f"{path} holds images of {images.shape[1]} pixels, not {X_n}")
        return images, None, {}
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    size, images, names, left_out = ae.squares(np.empty(X_n)).shape, [], [], {}
    with tf.Graph().as_default() as graph:
        content = tf.placeholder(tf.string)
        picture = tf.io.decode_image(content, channels=3, expand_animations=False)
        picture = tf.image.rgb_to_grayscale(picture)[..., 0]
    with ae.session(graph) as sess, ae.without_noise(rb".*local_rendezvous|\t \[\["):
        for file in paths:
            try:
                pixels = sess.run(picture, {content: file.read_bytes()})
            except (tf.errors.InvalidArgumentError, OSError):
                left_out[file.name] = "no picture"
            else:
                if pixels.shape == size:
                    images.append(pixels.reshape(X_n))
                    names.append(file.name)
                else:
                    left_out[file.name] = "{1} x {0}".format(*pixels.shape)
    if not images:
        found = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        raise ae.AutoEncoderError(f"{path} has no picture of {size[1]} x {size[0]} ({found})")
    return np.stack(images), names, left_out


def _array(path):
    try:
        if path.suffix not in (".npy", ".npz"):
            return ae.read_idx(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array if path.suffix == ".npy" else next(iter(array.values()))
    except (OSError, ValueError, StopIteration) as e:
        raise ae.AutoEncoderError(f"{path} cannot be read: {e}") from None


@contextlib.contextmanager
def trained(logdir, data):
    """Yields session and Graph of the complete run in logdir, which was trained on `data`."""
    none = f"there is no trained network in {logdir}: python autoencoder.py --recipe tuned"
    if not (logdir / ae.CHECKPOINTS).exists():
        raise ae.AutoEncoderError(none)
    hp, _ = ae.read_run(logdir)
    g = ae.build(hp)
    with ae.start(g) as sess:
        if not ae.restore(sess, g, data, logdir):
            raise ae.AutoEncoderError(none)
        yield sess, g


def screen(args, data):
    with trained(args.trained, data) as (sess, g):
        images, names, left_out = read_pictures(args.pictures, g.hp.X_n)
        found = detector(sess, g, data)
        scores, flags = detect(sess, g, images, found)
        order = np.argsort(-scores, kind="stable")
        rows, marks = {}, []
        for what, chosen in (("most", order[:10]), ("least", order[10:][:-11:-1])):
            if len(chosen):
                X = ae.scaled(images[chosen])
                rows |= {f"{what} abnormal": X, f"{what}: G": sess.run(g.G, {g.X: X})}
                marks.append([f"{i}: {scores[i]:.3g}{' !' if flags[i] else ''}" for i in chosen])
    for name, why in left_out.items():
        print(f"left out: {name} ({why})")
    head = ["index", "score", "flag"] + ["file"] * bool(names)
    lines = [[i, f"{scores[i]:.9g}", f"{flags[i]:d}"] for i in range(len(scores))]
    lines = [line + [name] for line, name in zip(lines, names)] if names else lines
    args.logdir.mkdir(parents=True, exist_ok=True)
    with open(args.logdir / "scores.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *lines])
    print(table(head, *(lines[i] for i in order[:10])))
    print(
        f"flagged: {flags.sum()} of {len(flags)}, whose score is above {found.threshold:.4g}, which "
        f"5% of the validation images of {ae.shown(args.data_dir)} exceed"
    )
    figure = ae.plot_images(**rows)
    columns = len(figure.axes) // len(rows)
    for line, titles in enumerate(marks):
        for axes, title in zip(figure.axes[2 * line * columns :], titles):
            axes.set_title(title, fontsize="small")
    figure.savefig(args.logdir / "screened.png", dpi=100)
    print(f"scores: {ae.shown(args.logdir / 'scores.csv')}")
    print(f"picture: {ae.shown(args.logdir / 'screened.png')}")


def measure(args, data):
    seeds = args.seed
    del args.seed
    base = ae.hparams(args, data)
    found, panels = {}, {name: {} for name in SCORES}
    for hp in [dataclasses.replace(base, seed=seed) for seed in seeds]:
        for abnormal, scores in EXPERIMENTS[args.experiment](data, hp):
            areas = [auroc(*scores[name]) for name in SCORES]
            said = ", ".join(f"{area:.4f} ({name})" for area, name in zip(areas, SCORES))
            print(f"seed {hp.seed}, {abnormal}: AUROC {said}", flush=True)
            found.setdefault(abnormal, []).append(areas)
            for name in SCORES:
                panels[name].setdefault(abnormal, scores[name])
    means = np.mean(list(found.values()), axis=1)
    rows = [[what, *(f"{a:.3f}" for a in areas)] for what, areas in zip(found, means)]
    mean = [f"{area:.4f}" for area in means.mean(axis=0)]
    print(table([args.experiment, *SCORES], *rows, ["mean AUROC", *mean]))
    path = args.logdir / f"{args.experiment}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_roc(panels).savefig(path, dpi=100)
    print(f"ROC curves: {ae.shown(path)}")


def main(args):
    """Scores PICTURES by how abnormal they are to the network that was trained in --trained. Without
    PICTURES, trains on normal images alone, once for each seed, and measures how well abnormal test
    images are told from normal ones: by the area under the ROC curve (AUROC), which is how often an
    abnormal image has the greater score."""
    data = ae.read_data_sets(args.data_dir)
    print(f"device: {ae.device()}")
    (screen if args.pictures else measure)(args, data)


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.anomaly", main.__doc__, ae.LOGDIR.parent / "anomaly")
    what = (
        "a picture (PNG, JPEG, BMP, GIF), a folder of them, or a .npy, .npz or IDX file of images"
    )
    parser.add_argument("pictures", type=Path, nargs="?", help=what)
    where = "the --logdir of the run of PICTURES' network; --data_dir must be that run's"
    parser.add_argument("--trained", type=Path, default=ae.LOGDIR, help=where)
    parser.add_argument(
        "--experiment",
        choices=EXPERIMENTS,
        default="one-normal",
        help="without PICTURES: is one label normal, is one abnormal, or what is no digit at all",
    )
    ae.add_hparams(parser)
    several = "seeds of the experiment (default: 0)"
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help=several)
    sys.exit(ae.run(main, parser))
