"""What the network cannot reconstruct is abnormal: the tutorial promises it and never shows it.

    python -m beyond.anomaly [PICTURES] --help

With PICTURES, screens them by a trained network. Without, measures in three experiments how well
the scores separate abnormal test images from normal ones.
"""

import csv
import dataclasses
import itertools
import sys
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import autoencoder as ae
from beyond.common import (
    check_labels,
    encode_images,
    format_table,
    in_batches,
    load_run,
    one_line_progress,
)
from beyond.pca import nearest_neighbours

SCORES = ("error", "error x distance")


class Detector(NamedTuple):
    codes: np.ndarray  # (n, Z_n), of normal images
    threshold: float  # an image with a greater score is abnormal


def detector(sess, g, data):
    """A Detector for images that are not like `data` (DataSets). It has the codes of the first
    10,000 training images, which are as good as all, and the threshold of the validation images."""
    codes = encode_images(sess, g, data.train.pixels[:10000])
    scores = anomaly_score(sess, g, data.validation.pixels, codes)["error x distance"]
    return Detector(codes, fit_threshold(scores))


def detect(sess, g, images, detector):
    """Which of the images (n, X_n) are abnormal. -> scores (n,), flags (n,)"""
    scores = anomaly_score(sess, g, images, detector.codes)["error x distance"]
    return scores, scores > detector.threshold


def anomaly_score(sess, g, images, codes):
    """How abnormal each of the images (n, X_n) is, by two scores: {name of SCORES: (n,)}.

    `error` is half the squared error: what the network cannot reconstruct is abnormal. `error x
    distance` multiplies it by 1 + the mean squared distance of Z to the 5 nearest of `codes`
    (m, Z_n), those of normal images: an image that is reconstructed from a Z unlike theirs is
    abnormal too. The 1 is for a network in which no latent is live.
    """
    errors, factors = [], []
    with nearest_neighbours(codes, 5) as nearest:
        for pixels in in_batches(images, "scores"):
            X = ae.to_float(pixels)
            Z, G = sess.run([g.Z, g.G], {g.X: X})
            errors.append(np.square(G - X).sum(axis=1) / 2)
            factors.append(1 + nearest(Z)[1].mean(axis=1))
    error = np.concatenate(errors).astype(np.float64)
    return dict(zip(SCORES, (error, error * np.concatenate(factors))))


def fit_threshold(scores, false_positive_rate=0.05):
    """The smallest of the scores (n,) of normal images that at most this share of them exceeds."""
    return float(np.quantile(scores, 1 - false_positive_rate, method="inverted_cdf"))


def auroc(normal, abnormal):
    """Area under the ROC curve: the share of pairs in which the score of `abnormal` (n,) is greater
    than that of `normal` (m,). A tie counts half."""
    normal = np.sort(normal)
    below, not_above = (np.searchsorted(normal, abnormal, side) for side in ("left", "right"))
    return (below + not_above).mean() / 2 / len(normal)


# ---- Experiments ---------------------------------------------------------------------------------

EXPERIMENTS = ("one-normal", "one-abnormal", "no-digits")


def cases(experiment, data):
    """Yields normal training images (a DataSet), normal test images (n, X_n), and abnormal ones, as
    {name: (m, X_n)}. For each label, its images are normal and all others abnormal, or the reverse;
    or all digits are normal, and what no_digits makes of the test images is abnormal."""
    if experiment == "no-digits":
        yield data.train, data.test.pixels, no_digits(data.test.pixels)
        return
    check_labels(data)
    for label in np.unique(data.train.labels):
        one = experiment == "one-normal"
        train, test = ((part.labels == label) == one for part in (data.train, data.test))
        X, abnormal = data.test.pixels[test], {f"label {label}": data.test.pixels[~test]}
        yield data.train.subset(train), X, abnormal


def experiment_scores(experiment, data, hp):
    """Trains on the normal images of each case, and scores the test images. Yields the name of the
    case and {name of SCORES: (scores of normal images, scores of abnormal images)}."""
    for train, test, others in cases(experiment, data):
        g = ae.build(hp)
        with ae.start_session(g) as sess:
            with one_line_progress():
                ae.train(sess, g, data._replace(train=train))
            codes = encode_images(sess, g, train.pixels[:10000])
            normal = anomaly_score(sess, g, test, codes)
            for case, images in others.items():
                abnormal = anomaly_score(sess, g, images, codes)
                yield case, {name: (normal[name], abnormal[name]) for name in SCORES}


def no_digits(images):
    """Images unlike the given ones (n, X_n), bytes or floats. -> {name: (m, X_n)}"""
    n, X_n = images.shape
    return {
        "uniform noise": np.random.default_rng(0).integers(0, 256, (1000, X_n), np.uint8),
        "constant grey": np.repeat(np.arange(256, dtype=np.uint8)[:, None], X_n, axis=1),
        "inverted": (255 if images.dtype == np.uint8 else 1) - images,
        "turned by 90 degrees": np.rot90(ae.as_2d(images), axes=(1, 2)).reshape(n, X_n),
    }


def plot_roc(scores_by_case):
    """Draws ROC curves for each of SCORES. scores_by_case: {case: as experiment_scores yields it}
    -> Figure"""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), SCORES):
        for case, scores in scores_by_case.items():
            normal, abnormal = map(np.sort, scores[name])
            thresholds = np.unique([*normal, *abnormal, np.inf])[::-1]
            rates = [1 - np.searchsorted(s, thresholds) / len(s) for s in (normal, abnormal)]
            axes.plot(*rates, label=f"{case}: {auroc(normal, abnormal):.3f}", lw=1)
        axes.set(title=name, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", title="AUROC")
    return figure


# ---- A person's own pictures ---------------------------------------------------------------------

ARRAYS = (".npy", ".npz", ".gz", "idx3-ubyte")


def read_pictures(path, X_n):
    """Reads a PNG, JPEG, BMP or GIF, grey or in colour, or a folder of them; or a .npy, a .npz of
    one array or an IDX file. -> images (n, X_n), their file names, file names that are left out"""
    if path.name.endswith(ARRAYS):
        images = ae.make_data_set(_array(path), None, str(path)).pixels
        if images.shape[1] != X_n:
            raise ae.AutoEncoderError(f"{path} has images of {images.shape[1]} pixels, not {X_n}")
        return images, [""] * len(images), []
    size = ae.as_2d(np.empty(X_n)).shape
    images, left_out = {}, []
    with ae.tf.Graph().as_default() as graph:
        content = ae.tf.placeholder(ae.tf.string)
        # Colour first: with channels=1, decode_image refuses every BMP and GIF.
        colour = ae.tf.io.decode_image(content, channels=3, expand_animations=False)
        grey = ae.tf.ensure_shape(ae.tf.image.rgb_to_grayscale(colour), [*size, 1])
        pixels = ae.tf.reshape(grey, [X_n])
    with ae.tf.Session(graph=graph, config=ae.session_config()) as sess:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            name = file.name.encode(errors="backslashreplace").decode()
            try:
                images[name] = sess.run(pixels, {content: file.read_bytes()})
            except (ae.tf.errors.InvalidArgumentError, IsADirectoryError):
                left_out.append(name)
    if not images:
        raise ae.AutoEncoderError(f"{path} has no picture of {size[1]} x {size[0]} pixels")
    return np.stack(list(images.values())), list(images), left_out


def _array(path):
    try:
        if path.suffix == ".npz":
            (array,) = np.load(path).values()
            return array
        return np.load(path, mmap_mode="r") if path.suffix == ".npy" else ae.read_idx(path)
    except Exception as e:  # NumPy raises a dozen kinds for damaged files
        raise ae.AutoEncoderError(f"{path} cannot be read: {e}") from None


def screen(args):
    with load_run(args.trained, args.data_dir) as (sess, g, data):
        images, names, left_out = read_pictures(args.pictures, g.hp.X_n)
        normal = detector(sess, g, data)
        scores, flags = detect(sess, g, images, normal)
        order = np.argsort(-scores, kind="stable")
        rows, titles = {}, []
        for which, chosen in (("most", order[:10]), ("least", order[:9:-1][:10])):
            if len(chosen):
                X = ae.to_float(images[chosen])
                rows |= {f"{which} abnormal": X, f"{which}: G": sess.run(g.G, {g.X: X})}
                titles.append([f"{i}\n{scores[i]:.3g}{' !' if flags[i] else ''}" for i in chosen])
    figure = ae.plot_images(**rows)
    for axes_row, titles_row in zip(np.reshape(figure.axes, (len(rows), -1))[::2], titles):
        for axes, title in zip(axes_row, titles_row):
            axes.set_title(title, fontsize="small")
    header = "index", "score", "flag", "file"
    columns = np.arange(len(scores)), np.float32(scores), flags.astype(int), np.array(names)
    args.logdir.mkdir(parents=True, exist_ok=True)
    with open(args.logdir / "scores.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(itertools.chain([header], zip(*columns)))
    figure.savefig(args.logdir / "screened.png", dpi=100)
    if left_out:
        print(f"left out, because they are no pictures of {g.hp.X_n} pixels: {', '.join(left_out)}")
    print(format_table(header, *zip(*(column[order[:10]] for column in columns))))
    print(f"flagged (!): {flags.sum()} of {len(flags)}, with a score above {normal.threshold:.4g},")
    print(f"which 5% of the validation images of {data.path} exceed")
    print(f"scores and picture: scores.csv and screened.png in {args.logdir}")


def measure(args):
    data = ae.read_data_sets(args.data_dir or ae.DATA_DIR)
    base = ae.hparams_from_args(args, data)
    areas, curves = {}, {}
    for hp in [dataclasses.replace(base, seed=seed) for seed in args.seeds]:
        for case, scores in experiment_scores(args.experiment, data, hp):
            found = [auroc(*scores[name]) for name in SCORES]
            print(f"seed {hp.seed}, {case}: AUROC", *map("{:.4f} ({})".format, found, SCORES))
            areas.setdefault(case, []).append(found)
            curves.setdefault(case, scores)
    means = np.mean(list(areas.values()), axis=1)
    rows = [[case, *map("{:.3f}".format, row)] for case, row in zip(areas, means)]
    last = ["mean AUROC", *map("{:.4f}".format, means.mean(axis=0))]
    print(format_table([args.experiment, *SCORES], *rows, last))
    args.logdir.mkdir(parents=True, exist_ok=True)
    plot_roc(curves).savefig(args.logdir / f"{args.experiment}.png", dpi=100)
    print(f"ROC curves: {args.logdir / args.experiment}.png")


def main(args):
    """Scores PICTURES by how abnormal they are to the network in --trained. Without PICTURES, trains
    with the hyperparameters on normal images alone, for each seed, and measures how often an
    abnormal test image has a greater score than a normal one: the area under the ROC curve (AUROC).
    """
    print(f"device: {ae.device()}")
    if args.pictures:
        screen(args)
    else:
        measure(args)


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.anomaly", main.__doc__, "logs/anomaly", data_dir=None)
    help = "a PNG, JPEG, BMP or GIF, a folder of them, or a .npy, .npz or IDX file of images"
    parser.add_argument("pictures", type=ae.user_path, nargs="?", help=help)
    help = "with PICTURES: logdir of the network's run (default: %(default)s)"
    parser.add_argument("--trained", type=ae.user_path, default=ae.LOGDIR, help=help)
    help = "without PICTURES: one label is normal, one is abnormal, or abnormal is what is no digit"
    parser.add_argument("--experiment", choices=EXPERIMENTS, default="one-normal", help=help)
    ae.add_hparams(parser)
    parser.add_argument("--seed", dest="seeds", type=int, nargs="+", default=[0], metavar="SEED")
    sys.exit(ae.run_command(main, parser))
