"""Detects abnormal images by their reconstruction, as the tutorial suggests but does not show.

The command measures how well scores separate abnormal test images from normal ones: see --help.
README.md defines the scores. beyond.screen and beyond.export use the functions.
"""

import dataclasses
import sys
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

import autoencoder as ae
from beyond import common
from beyond.baselines import NAMES, NEIGHBOUR_IMAGES, NEIGHBOURS, make_baselines
from beyond.kinds import KINDS

tf = ae.tf
PARTS = ("reconstruction", "local", "brightness", "distance")  # of the score `largest`
SCORES = ("error", *PARTS, "largest")
SCORE = "largest"  # by which screen and export decide by default
WINDOW = 5
DISTANCE_IMAGES = 3000  # with fewer training images, `distance` is hardly better than chance


# ---- Scores of a network -------------------------------------------------------------------------


class Detector(NamedTuple):
    tensors: dict  # {name of a score: tensor (batch,)}, in the graph of the network
    thresholds: dict  # {name of a score: the highest value that is not flagged}
    usual: np.ndarray  # (X_n,), see usual_squares


def make_detector(sess, net, data, rate=0.05, baselines=None):
    """Adds the scores of the images in net.X to the graph of the network in the session, which was trained
    on `data` (DataSets), normal images. Returns a Detector. At most `rate` of the validation images are
    above its thresholds.

    baselines: what make_baselines returns.
    """
    train = data.train.images[:NEIGHBOUR_IMAGES]
    usual = usual_squares(sess, net, train)
    with net.X.graph.as_default(), tf.name_scope("scores"):
        values = network_scores(sess, net, train, usual)
        values |= {name: in_graph(baseline, net.X) for name, baseline in (baselines or {}).items()}
        # What is added is small, but more than rounding.
        logs = {name: tf.log(value + 1e-4) for name, value in values.items()}
        of_normal = common.run_batches(sess, net, logs, data.validation.images, "scoring")
        tensors, normal = {}, {}
        for name, tensor in logs.items():
            median = np.median(of_normal[name])
            above = of_normal[name][of_normal[name] >= median]
            sd = np.sqrt(np.mean((above - median) ** 2))
            sd = max(sd, 0.05)  # images that are all alike differ by rounding alone
            tensors[name] = (tensor - median) / sd
            normal[name] = (of_normal[name] - median) / sd
        parts = PARTS if len(train) >= DISTANCE_IMAGES else PARTS[:-1]
        tensors["largest"] = tf.reduce_max([tensors[name] for name in parts], axis=0)
        normal["largest"] = np.max([normal[name] for name in parts], axis=0)
    thresholds = {}
    for name, values in normal.items():
        # The smallest score that at most `rate` exceed, and more than rounding changes.
        quantile = np.quantile(values, 1 - rate, method="inverted_cdf")
        thresholds[name] = float(quantile) + 0.001
    return Detector(tensors, thresholds, usual)


def network_scores(sess, net, train, usual):
    """Adds the network's own scores of the images in net.X to the default graph, as README.md defines them
    but without logarithms. Returns {name: tensor (batch,)}.

    train: training images (n, X_n), whose Z become a constant of the graph; usual: see usual_squares.
    """
    # Copies of an image would be neighbours of each other, at distance 0.
    codes = common.encode_images(sess, net, np.unique(train, axis=0))
    black = sess.run(net.Z, {net.X: np.zeros_like(train[:1])})
    difference = net.G - net.X
    squares = difference**2
    # The 1 is a white pixel. It gives a black image a score.
    ink = 1 + tf.reduce_sum(net.X**2, axis=1)
    too_bright = largest_in_window(difference)
    too_dark = largest_in_window(-difference)
    return {
        "error": tf.reduce_sum(squares, axis=1) / 2,
        "reconstruction": largest_in_window(squares) / ink,
        "local": largest_in_window(squares / usual),
        "brightness": tf.maximum(too_bright, too_dark),
        "distance": distance_to_neighbours(net.Z - black, codes - black),
    }


def detect(sess, net, images, detector):
    """Scores images (n, X_n) by a Detector. Returns the scores, {name: (n,)}, and whether each image is
    abnormal by each score, {name: (n,)}."""
    scores = common.run_batches(sess, net, detector.tensors, images, "scoring")
    thresholds = detector.thresholds
    # Also abnormal if a score is NaN.
    return scores, {name: ~(values <= thresholds[name]) for name, values in scores.items()}


def add_score_flags(parser, names):
    """Adds to a parser which of the scores decides, and the share of normal images that it may flag."""
    help = f"{', '.join(names)}: see beyond/README.md (default: %(default)s)"
    parser.add_argument("--score", choices=names, default=SCORE, metavar="NAME", help=help)
    help = "share of the validation images above the threshold (default: %(default)s)"
    parser.add_argument("--rate", type=float, default=0.05, metavar="REAL", help=help)


def in_graph(baseline, X):
    """Returns what a function of images returns for X, as a tensor: (batch,)."""
    return tf.numpy_function(lambda images: np.float32(baseline(images)), [X], tf.float32)


def usual_squares(sess, net, images):
    """Returns v + mean of v: (X_n,). v is the mean of (G - X)^2 of a pixel over images (n, X_n). Where it is
    nearly 0, a small error would be many times the usual one. The mean of v prevents that."""
    G = common.run_batches(sess, net, net.G, images, "reconstructing")
    v = np.square(G - images).mean(axis=0)
    return v + v.mean() + 1e-9  # not 0, if G is X


def largest_in_window(values):
    """Returns the largest sum of values (batch, X_n) in a square of WINDOW pixels: (batch,)."""
    height, width = ae.as_2d(np.empty(values.shape[1])).shape
    size = [min(WINDOW, height), min(WINDOW, width)]
    images = tf.reshape(values, [-1, height, width, 1])
    means = tf.nn.avg_pool2d(images, size, strides=1, padding="VALID")
    return size[0] * size[1] * tf.reduce_max(means, axis=[1, 2, 3])


def distance_to_neighbours(Z, codes):
    """Returns the mean cosine distance of Z (batch, Z_n) to the nearest of codes (n, Z_n): (batch,). That of
    a Z of zeros is 1.

    The nearest one of all is left out, unless it is the only one, because that of a training image is
    the image itself.
    """
    unit_Z = tf.math.l2_normalize(Z, axis=1)
    unit_codes = tf.math.l2_normalize(tf.constant(codes), axis=1)
    cosines = tf.matmul(unit_Z, unit_codes, transpose_b=True)
    nearest = tf.math.top_k(cosines, min(1 + NEIGHBOURS, len(codes))).values
    start = min(1, len(codes) - 1)
    return 1 - tf.reduce_mean(nearest[:, start:], axis=1)


def joined(normal, abnormal):
    """Returns normal images (m, X_n) and abnormal ones, {kind: (l, X_n)}, as one array (n, X_n), and the
    kind of each: "normal", or the key (n,)."""
    parts = {"normal": normal} | abnormal
    counts = [len(images) for images in parts.values()]
    return np.concatenate([*parts.values()]), np.repeat([*parts], counts)


def aurocs(scores, kinds):
    """Returns how well each score separates each kind of abnormal images from the normal ones, by the area
    under the ROC curve: {(name of the score, kind): value}. scores: {name: (n,)}; kinds: see joined."""
    found = {}
    for name, values in scores.items():
        for kind in np.unique(kinds[kinds != "normal"]):
            rows = np.isin(kinds, ["normal", kind])
            found[name, kind] = roc_auc_score(kinds[rows] == kind, values[rows])
    return found


def network_aurocs(sess, net, data, images, kinds):
    """Returns what `aurocs` does, of the scores of images (n, X_n) by a network trained on `data`."""
    scores, _ = detect(sess, net, images, make_detector(sess, net, data))
    return aurocs(scores, kinds)


# ---- Abnormal images -----------------------------------------------------------------------------

EXPERIMENTS = ("one-normal", "one-abnormal", "defects")


def cases(experiment, data):
    """Yields the cases of an experiment: a label, or None; DataSets of normal images; and abnormal test
    images, {kind: (m, X_n)}.

    one-normal: for each label, its images are normal. Those of the others, and its own test images with
    a defect, are abnormal. one-abnormal: its images are abnormal, and those of the others normal.
    defects: all images are normal. Test images with a defect are abnormal.
    Raises AutoEncoderError if a part of the data lacks a label, or if there is only one.
    """
    if experiment == "defects":
        yield None, data, defects(data.test.images)
        return
    common.check_labels(data)
    parts = [data.train, data.validation, data.test]
    labels = np.unique(data.train.labels)
    same = all(np.array_equal(labels, np.unique(part.labels)) for part in parts)
    needed = "two labels or more, each in all three parts"
    ae.require(same and len(labels) > 1, f"{data.path} needs {needed}")
    one_normal = experiment == "one-normal"
    for label in labels:
        normal = [part.subset((part.labels == label) == one_normal) for part in parts]
        others = data.test.images[(data.test.labels == label) != one_normal]
        of_normal = defects(normal[-1].images) if one_normal else {}
        yield label, ae.DataSets(*normal, data.path), {"other labels": others} | of_normal


def defects(images):
    """Returns images (n, X_n) with a defect at a random place: {kind: (n, X_n)}.

    inverted patch, hole: 5 x 5 pixels around a pixel of the ink are inverted, or black. spot: 4 x 4
    pixels are white. line: 16 pixels in a row, a column or a diagonal are white.
    """
    rng = np.random.default_rng(0)
    originals = ae.as_2d(images)
    kinds = {kind: originals.copy() for kind in ("inverted patch", "hole", "spot", "line")}
    for i, image in enumerate(originals):
        ink = np.argwhere(image >= image.max() / 2)
        patch = square(image, rng.choice(ink), 5)
        kinds["inverted patch"][i][patch] = 1 - image[patch]
        kinds["hole"][i][square(image, rng.choice(ink), 5)] = 0
        kinds["spot"][i][square(image, rng.integers(image.shape), 4)] = 1
        kinds["line"][i][line(image, 16, rng)] = 1
    return {kind: damaged.reshape(images.shape) for kind, damaged in kinds.items()}


def square(image, middle, size):
    """Returns the indices of a square of an image, around a pixel, moved inwards at an edge."""
    last_start = np.maximum(np.array(image.shape) - size, 0)
    top, left = np.clip(middle - size // 2, 0, last_start)
    return slice(top, top + size), slice(left, left + size)


def line(image, length, rng):
    """Returns the indices of a line of an image, in one of four directions."""
    height, width = image.shape
    steps = np.arange(min(length, height, width))
    down, right = ((0, 1), (1, 0), (1, 1), (1, -1))[rng.integers(4)]
    rows = down * steps
    columns = right * steps
    rows += rng.integers(height - np.ptp(rows))
    columns += rng.integers(width - np.ptp(columns)) - columns.min()
    return rows, columns


# ---- Experiments ---------------------------------------------------------------------------------


def measure(data, abnormal, hps, kind="plain"):
    """Scores normal and abnormal test images by networks, and by baselines, that were trained on normal
    images. Returns for each of hps what `aurocs` does.

    data: DataSets of normal images; abnormal: {kind: (m, X_n)}; hps: HParams with different seeds; kind:
    of the networks, of kinds.KINDS.
    """
    images, kinds = joined(data.test.images, abnormal)
    baselines = make_baselines(data, hps[0].Z_n)
    of_baselines = {name: baseline(images) for name, baseline in baselines.items()}
    by_baselines = aurocs(of_baselines, kinds)
    by_seed = []
    for hp in hps:
        net = KINDS[kind](dataclasses.replace(hp, train_n=data.train.num_examples))
        with ae.start_session(net) as sess:
            common.train_with_bar(sess, net, data)
            by_seed.append(network_aurocs(sess, net, data, images, kinds) | by_baselines)
    return by_seed


def mean_table(by_case, names, kinds):
    """Returns a table as text, of means over the cases, ± the standard deviation over the seeds.

    by_case: for each case, for each seed, what `aurocs` returns. names, kinds: rows and columns.
    """
    table = [["score", *kinds, "worst"]]
    for name in names:
        of_seeds = {}
        for kind in kinds:
            values = [[found[name, kind] for found in by_seed] for by_seed in by_case]
            of_seeds[kind] = np.mean(values, axis=0)
        worst = min(values.mean() for values in of_seeds.values())
        cells = [common.mean_sd(values, ".3f") for values in of_seeds.values()]
        table.append([name, *cells, f"{worst:.3f}"])
    return common.format_table(*table)


def main(args):
    """Trains on normal images alone, and measures how well the scores of the network, and those of
    baselines, separate abnormal test images from normal ones: by the area under the ROC curve (AUROC),
    which is 1 if every abnormal image has a greater score than every normal one, and 0.5 by chance."""
    data = ae.read_data_sets(args.data_dir)
    base = ae.hparams_from_args(args, data)
    hps = [dataclasses.replace(base, seed=seed) for seed in args.seeds]
    print(f"device: {ae.device()}")
    names = (*SCORES, *NAMES)
    by_case = []
    for label, normal, abnormal in cases(args.experiment, data):
        by_case.append(measure(normal, abnormal, hps, args.kind))
        if label is not None:
            print(f"label {label}\n{mean_table(by_case[-1:], names, abnormal)}\n", flush=True)
    print(f"{args.experiment}\n{mean_table(by_case, names, abnormal)}")


if __name__ == "__main__":
    example = "python -m beyond.anomaly --recipe tuned --seed 0 1 2"
    parser = ae.Parser("python -m beyond.anomaly", main.__doc__, example)
    parser.add_data_dir()
    help = f"{', '.join(EXPERIMENTS[:-1])} or {EXPERIMENTS[-1]} (default: one-normal)"
    parser.add_argument(
        "--experiment", choices=EXPERIMENTS, default="one-normal", metavar="NAME", help=help
    )
    help = f"of the network: {' or '.join(KINDS)} (default: plain)"
    parser.add_argument("--kind", choices=KINDS, default="plain", metavar="NAME", help=help)
    ae.add_hparams(parser)
    common.add_seeds(parser)
    sys.exit(ae.run_command(main, parser))
