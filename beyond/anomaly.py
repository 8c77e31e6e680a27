"""What the network cannot restore is abnormal: the tutorial promises it and never shows it.

    python -m beyond.anomaly [PICTURES] --help

Screens a person's own pictures with a trained network; without any, measures in three experiments
how well abnormal test images are told from normal ones.
"""

import csv
import dataclasses
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import autoencoder as ae
from beyond.pca import check_labels, codes_of, nearest_of, on_one_line, table, thousands
from beyond.tuning import trained

SCORES = ("error", "error x distance")


class Detector(NamedTuple):
    codes: np.ndarray  # (n, Z_n), of normal images
    threshold: float  # a greater score is abnormal


def detector(sess, g, data):
    """A Detector of what is not like `data` (DataSets): the codes of the first 10,000 training
    images, which are as good as all, and the threshold of the validation images."""
    codes = codes_of(sess, g, data.train.pixels[:10000])
    scores = anomaly_score(sess, g, data.validation.pixels, codes)["error x distance"]
    return Detector(codes, fit_threshold(scores))


def detect(sess, g, images, detector):
    """Which of the images (n, X_n) are abnormal. -> scores (n,), flags (n,)"""
    scores = anomaly_score(sess, g, images, detector.codes)["error x distance"]
    return scores, scores > detector.threshold


def anomaly_score(sess, g, images, codes):
    """How abnormal each of the images (n, X_n) is, in two ways: {name of SCORES: (n,)}.

    `error` is half the squared error: what the network cannot restore is abnormal. `error x
    distance` is it times 1 + the mean squared distance of its Z to the 5 nearest of `codes`
    (m, Z_n), those of normal images: what is restored from a Z that none of them has is abnormal
    too; the 1 is for a network whose latents are all dead.
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
    """The score that at most this share of the scores of normal images (n,) exceeds."""
    return float(np.quantile(scores, 1 - false_positive_rate, method="inverted_cdf"))


def auroc(normal, abnormal):
    """The area under the ROC curve: how often a score of `abnormal` (n,) exceeds one of `normal`
    (m,), of all pairs; a tie counts half."""
    normal = np.sort(normal)
    below, not_above = (np.searchsorted(normal, abnormal, side) for side in ("left", "right"))
    return (below + not_above).mean() / 2 / len(normal)


# ---- Experiments ---------------------------------------------------------------------------------

EXPERIMENTS = ("one-normal", "one-abnormal", "no-digits")


def cases(experiment, data):
    """Yields normal training images, a DataSet, and test images (n, X_n), normal and {what:
    abnormal}. For each label, its images are normal and all others abnormal, or the reverse; or all
    are normal, and abnormal is what not_of makes of the test images."""
    if experiment == "no-digits":
        yield data.train, data.test.pixels, not_of(data.test.pixels)
        return
    check_labels(data)
    for label in np.unique(data.train.labels):
        one = experiment == "one-normal"
        train, test = ((part.labels == label) == one for part in (data.train, data.test))
        X, abnormal = data.test.pixels[test], {f"label {label}": data.test.pixels[~test]}
        yield ae.part_of(data.train, train), X, abnormal


def scores_of(experiment, data, hp):
    """Trains for each of its cases, and scores the test images. Yields what is normal or abnormal,
    and {name of SCORES: (scores of normal, of abnormal images)}."""
    for train, test, others in cases(experiment, data):
        g = ae.build(hp)
        with ae.start(g) as sess:
            with on_one_line():
                ae.train(sess, g, data._replace(train=train))
            codes = codes_of(sess, g, train.pixels[:10000])
            normal = anomaly_score(sess, g, test, codes)
            for what, images in others.items():
                abnormal = anomaly_score(sess, g, images, codes)
                yield what, {name: (normal[name], abnormal[name]) for name in SCORES}


def not_of(images):
    """What none of the images (n, X_n) is: {what: (m, X_n)}."""
    n, X_n = images.shape
    return {
        "uniform noise": np.random.default_rng(0).integers(0, 256, (1000, X_n), np.uint8),
        "constant grey": np.repeat(np.arange(256, dtype=np.uint8)[:, None], X_n, axis=1),
        "inverted": (255 if images.dtype == np.uint8 else 1) - images,
        "turned by 90 degrees": np.rot90(ae.squares(images), axes=(1, 2)).reshape(n, X_n),
    }


def plot_roc(found):
    """Draws ROC curves, by each of SCORES. found: {what: as scores_of yields it} -> Figure"""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), SCORES):
        for what, scores in found.items():
            normal, abnormal = map(np.sort, scores[name])
            thresholds = np.unique([*normal, *abnormal, np.inf])[::-1]
            rates = [1 - np.searchsorted(s, thresholds) / len(s) for s in (normal, abnormal)]
            axes.plot(*rates, label=f"{what}: {auroc(normal, abnormal):.3f}", lw=1)
        axes.set(title=name, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", title="AUROC")
    return figure


# ---- A person's own pictures ---------------------------------------------------------------------

ARRAYS = (".npy", ".npz", ".gz", "idx3-ubyte")


def read_pictures(path, X_n):
    """Reads a PNG, JPEG, BMP or GIF, grey or in colour, or a folder of them; or a .npy, a .npz of
    one array or an IDX file. -> images (n, X_n), names of their files, names of what is left out"""
    if path.name.endswith(ARRAYS):
        images = ae.data_set(_array(path), None, str(path)).pixels
        if images.shape[1] != X_n:
            raise ae.AutoEncoderError(f"{path} holds images of {images.shape[1]} pixels, not {X_n}")
        return images, [""] * len(images), []
    size, found, left_out = ae.squares(np.empty(X_n)).shape, {}, []
    with ae.tf.Graph().as_default() as graph:
        content = ae.tf.placeholder(ae.tf.string)
        # In colour first: asked for one channel, decode_image refuses each BMP and GIF.
        colour = ae.tf.io.decode_image(content, channels=3, expand_animations=False)
        grey = ae.tf.ensure_shape(ae.tf.image.rgb_to_grayscale(colour), [*size, 1])
        pixels = ae.tf.reshape(grey, [X_n])
    with ae.session(graph) as sess, ae.without_noise(rb".*local_rendezvous|\t \[\["):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            name = file.name.encode(errors="backslashreplace").decode()
            try:
                found[name] = sess.run(pixels, {content: file.read_bytes()})
            except (ae.tf.errors.InvalidArgumentError, IsADirectoryError):
                left_out.append(name)
    if not found:
        raise ae.AutoEncoderError(f"{path} has no picture of {size[1]} x {size[0]} pixels")
    return np.stack(list(found.values())), list(found), left_out


def _array(path):
    try:
        if path.suffix == ".npz":
            (array,) = np.load(path).values()
            return array
        return np.load(path, mmap_mode="r") if path.suffix == ".npy" else ae.read_idx(path)
    except Exception as e:  # of a dozen kinds, by what is damaged
        raise ae.AutoEncoderError(f"{path} cannot be read: {e}") from None


def screen(args, data):
    with trained(args.trained, data) as (sess, g):
        images, names, left_out = read_pictures(args.pictures, g.hp.X_n)
        normal = detector(sess, g, data)
        scores, flags = detect(sess, g, images, normal)
        order = np.argsort(-scores, kind="stable")
        rows, titles = {}, []
        for what, chosen in (("most", order[:10]), ("least", order[:9:-1][:10])):
            if len(chosen):
                X = ae.scaled(images[chosen])
                rows |= {f"{what} abnormal": X, f"{what}: G": sess.run(g.G, {g.X: X})}
                titles.append([f"{i}\n{scores[i]:.3g}{' !' if flags[i] else ''}" for i in chosen])
    figure = ae.plot_images(**rows)
    for line, of_line in zip(np.reshape(figure.axes, (len(rows), -1))[::2], titles):
        for axes, title in zip(line, of_line):
            axes.set_title(title, fontsize="small")
    head = "index", "score", "flag", "file"
    columns = np.arange(len(scores)), np.float32(scores), flags.astype(int), np.array(names)
    args.logdir.mkdir(parents=True, exist_ok=True)
    with open(args.logdir / "scores.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(itertools.chain([head], zip(*columns)))
    figure.savefig(args.logdir / "screened.png", dpi=100)
    if left_out:
        print(f"left out, as no such picture of {g.hp.X_n} pixels: {', '.join(left_out)}")
    print(table(head, *zip(*(column[order[:10]] for column in columns))))
    print(f"flagged (!): {flags.sum()} of {len(flags)}, with a score above {normal.threshold:.4g},")
    print(f"which 5% of the validation images of {args.data_dir} exceed")
    print(f"scores and picture: scores.csv and screened.png in {args.logdir}")


def measure(args, data):
    base, areas, curves = ae.hparams(args, data), {}, {}
    for hp in [dataclasses.replace(base, seed=seed) for seed in args.seeds]:
        for what, scores in scores_of(args.experiment, data, hp):
            found = [auroc(*scores[name]) for name in SCORES]
            print(f"seed {hp.seed}, {what}: AUROC", *map("{:.4f} ({})".format, found, SCORES))
            areas.setdefault(what, []).append(found)
            curves.setdefault(what, scores)
    means = np.mean(list(areas.values()), axis=1)
    rows = [[what, *map("{:.3f}".format, of)] for what, of in zip(areas, means)]
    last = ["mean AUROC", *map("{:.4f}".format, means.mean(axis=0))]
    print(table([args.experiment, *SCORES], *rows, last))
    args.logdir.mkdir(parents=True, exist_ok=True)
    plot_roc(curves).savefig(args.logdir / f"{args.experiment}.png", dpi=100)
    print(f"ROC curves: {args.logdir / args.experiment}.png")


def main(args):
    """Scores PICTURES by how abnormal they are to the network in --trained. Without PICTURES, trains
    by the hyperparameters on normal images alone, for each seed, and measures how often an abnormal
    test image has a greater score than a normal one: the area under the ROC curve (AUROC)."""
    data = ae.read_data_sets(args.data_dir)
    print(f"device: {ae.device()}")
    (screen if args.pictures else measure)(args, data)


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.anomaly", main.__doc__, "logs/anomaly")
    what = "a PNG, JPEG, BMP or GIF, a folder of them, or a .npy, .npz or IDX file of images"
    parser.add_argument("pictures", type=Path, nargs="?", help=what)
    parser.add_argument(
        "--trained", type=Path, default=ae.LOGDIR, help="logdir of the network's run"
    )
    what = "without PICTURES: is one label normal, is one abnormal, or what is no digit at all"
    parser.add_argument("--experiment", choices=EXPERIMENTS, default="one-normal", help=what)
    ae.add_hparams(parser)
    parser.add_argument("--seed", dest="seeds", type=int, nargs="+", default=[0], metavar="SEED")
    sys.exit(ae.run(main, parser))
