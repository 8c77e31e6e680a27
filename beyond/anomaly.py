"""What the network cannot restore is abnormal: the tutorial promises it and never shows it.

    python -m beyond.anomaly [PICTURES] --help

Screens a person's own pictures with a trained network; without any, measures in three experiments
how well abnormal test images are told from normal ones.
"""

import contextlib
import csv
import dataclasses
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import autoencoder as ae
from beyond.pca import check_labels, codes_of, nearest_of, table, thousands

SCORES = ("error", "error x distance")
EXPERIMENTS = ("one-normal", "one-abnormal", "no-digits")
ARRAYS = (".npy", ".npz", ".gz", "idx3-ubyte")  # how the names of files of many images end


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


def experiment(name, data, hp):
    """Trains on normal images alone, and scores normal and abnormal test images.

    -> {what is abnormal: {name of SCORES: (scores of normal, of abnormal)}}
    """
    found = {}
    for normal, others in parts_of(name, data):
        print(f"abnormal: {', '.join(others)}")
        g = ae.build(hp)
        with ae.start(g) as sess:
            ae.train(sess, g, normal)
            codes = codes_of(sess, g, normal.train.pixels[:10000])
            of_normal = anomaly_score(sess, g, normal.test.pixels, codes)
            for what, images in others.items():
                scores = anomaly_score(sess, g, images, codes)
                found[what] = {name: (of_normal[name], scores[name]) for name in SCORES}
    return found


def parts_of(name, data):
    """Yields DataSets of normal images alone, and {what is abnormal: (n, X_n)}: once for all
    images; or for each label, which alone is normal, or alone abnormal."""
    if name == "no-digits":
        yield data, not_of(data.test)
        return
    check_labels(data)
    labels = set.intersection(*(set(part.labels.tolist()) for part in data))
    if len(labels) < 2:
        raise ae.AutoEncoderError("there must be images of two labels, in each part of the data")
    for label in sorted(labels):
        abnormal = [(part.labels == label) != (name == "one-normal") for part in data]
        normal = ae.DataSets(*(ae.part_of(part, ~rows) for part, rows in zip(data, abnormal)))
        what = f"{'all but' * (name == 'one-normal')} label {label}".strip()
        yield normal, {what: data.test.pixels[abnormal[2]]}


def not_of(test):
    """Images that are not what those of `test` (DataSet) are: {what: (n, X_n)}."""
    n, X_n = test.pixels.shape
    return {
        "uniform noise": np.random.default_rng(0).integers(0, 256, (1000, X_n), np.uint8),
        "constant grey": np.repeat(np.arange(256, dtype=np.uint8)[:, None], X_n, axis=1),
        "inverted": (255 if test.pixels.dtype == np.uint8 else 1) - test.pixels,
        "turned by 90 degrees": np.rot90(ae.squares(test.pixels), axes=(1, 2)).reshape(n, X_n),
    }


def plot_roc(found):
    """Draws ROC curves. found: what experiment() answers -> Figure"""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SCORES)), SCORES):
        for what, scores in found.items():
            pair = [np.sort(of) for of in scores[name]]
            thresholds = np.unique(np.concatenate(pair))[::-1]
            rates = [1 - np.searchsorted(of, thresholds) / len(of) for of in pair]
            axes.plot(*np.hstack([[[0], [0]], rates]), label=f"{what}: {auroc(*pair):.3f}", lw=1)
        axes.set(title=name, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(loc="lower right", fontsize="small", title="AUROC")
    return figure


# ---- A person's own pictures ---------------------------------------------------------------------


def read_pictures(path, X_n):
    """Reads a .npy, a .npz of one array or an IDX file; a picture (PNG, JPEG, BMP or GIF, grey or
    in colour), or a folder of them, and says what it leaves out.

    -> images (n, X_n), the name of the file of each
    """
    if path.name.endswith(ARRAYS):
        images = ae.data_set(_array(path), None, str(path)).pixels
        if images.shape[1] != X_n:
            raise ae.AutoEncoderError(f"{path} holds images of {images.shape[1]} pixels, not {X_n}")
        return images, [path.name] * len(images)
    images = {}
    height, width = ae.squares(np.empty(X_n)).shape
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        try:
            with Image.open(file, formats=("PNG", "JPEG", "BMP", "GIF")) as picture:
                what = f"{picture.width} x {picture.height}, {picture.mode}"
                if picture.size == (width, height) and picture.mode[0] not in "IF":  # 8 bits
                    images[file.name] = np.asarray(picture.convert("L")).reshape(X_n)
        except Exception:  # of many kinds, if it is damaged
            what = "no picture"
        if file.name not in images:
            print(f"left out: {file.name} ({what})")
    if not images:
        raise ae.AutoEncoderError(f"{path} has no picture of {width} x {height}, grey or colour")
    return np.stack(list(images.values())), list(images)


def _array(path):
    try:
        if path.suffix not in (".npy", ".npz"):
            return ae.read_idx(path)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npz":
            (found,) = found.values()
        return found
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as e:
        raise ae.AutoEncoderError(f"{path} cannot be read: {e}") from None


@contextlib.contextmanager
def trained(logdir, data):
    """Yields session and Graph of the run in logdir, which was trained on `data` to its end."""
    none = ae.AutoEncoderError(
        f"no network was trained to its end in {logdir}: python autoencoder.py --recipe tuned"
    )
    if not (logdir / ae.CHECKPOINTS).exists():
        raise none
    hp, _ = ae.read_run(logdir)
    g = ae.build(hp)
    with ae.start(g) as sess:
        if len(ae.restore(sess, g, data, logdir)) < hp.epoch_n:
            raise none
        yield sess, g


def screen(args, data):
    with trained(args.trained, data) as (sess, g):
        images, names = read_pictures(args.pictures, g.hp.X_n)
        found = detector(sess, g, data)
        scores, flags = detect(sess, g, images, found)
        most = np.argsort(-scores, kind="stable")[:10]
        X = ae.scaled(images[most])
        figure = ae.plot_images(X=X, G=sess.run(g.G, {g.X: X}))
    for axes, i in zip(figure.axes, most):
        axes.set_title(f"{i}: {scores[i]:.4g}{' !' if flags[i] else ''}", fontsize="small")
    head = "index", "score", "flag", "file"
    lines = [(i, f"{scores[i]:.9g}", int(flags[i]), name) for i, name in enumerate(names)]
    args.logdir.mkdir(parents=True, exist_ok=True)
    with open(args.logdir / "scores.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *lines])
    print(table(head, *(lines[i] for i in most)))
    print(
        f"flagged: {flags.sum()} of {len(flags)}, whose score is above {found.threshold:.4g}, "
        f"which 5% of the validation images of {ae.shown(args.data_dir)} exceed"
    )
    figure.savefig(args.logdir / "screened.png", dpi=100)
    print(f"scores: {ae.shown(args.logdir / 'scores.csv')}")
    print(f"picture: {ae.shown(args.logdir / 'screened.png')}")


def measure(args, data):
    seeds, areas = args.seed, []
    del args.seed
    base = ae.hparams(args, data)
    for hp in [dataclasses.replace(base, seed=seed) for seed in seeds]:
        print(f"seed: {hp.seed}")
        found = experiment(args.experiment, data, hp)
        areas.append([[auroc(*scores[name]) for name in SCORES] for scores in found.values()])
    means = np.mean(areas, axis=0)
    rows = [[what, *(f"{a:.4f}" for a in of)] for what, of in zip(found, means)]
    mean = ["mean AUROC", *(f"{a:.4f}" for a in means.mean(axis=0))]
    print(table([args.experiment, *SCORES], *rows, mean))
    path = args.logdir / f"{args.experiment}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_roc(found).savefig(path, dpi=100)
    print(f"ROC curves of seed {hp.seed}: {ae.shown(path)}")


def main(args):
    """Scores PICTURES by how abnormal they are to the network that was trained in --trained.
    Without PICTURES, trains on normal images alone, once for each seed, and measures how well
    abnormal test images are told from normal ones: by the area under the ROC curve (AUROC), which
    is how often an abnormal image has the greater score."""
    data = ae.read_data_sets(args.data_dir)
    print(f"device: {ae.device()}")
    (screen if args.pictures else measure)(args, data)


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.anomaly", main.__doc__, ae.LOGDIR.parent / "anomaly")
    what = "a picture (PNG, JPEG, BMP, GIF), a folder of them, or a .npy, .npz or IDX file"
    parser.add_argument("pictures", type=Path, nargs="?", help=what)
    where = "the --logdir of the run of PICTURES' network; --data_dir must be that run's"
    parser.add_argument("--trained", type=Path, default=ae.LOGDIR, help=where)
    of = "without PICTURES: one label is normal, or abnormal, or what is no digit (default: first)"
    parser.add_argument("--experiment", choices=EXPERIMENTS, default=EXPERIMENTS[0], help=of)
    ae.add_hparams(parser)
    several = "seeds of the experiment (default: 0)"
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help=several)
    sys.exit(ae.run(main, parser))
