"""Detects abnormal images by their reconstruction, as the tutorial suggests but does not show.

    python -m beyond.anomaly --help

The command measures how well scores separate abnormal test images from normal ones, beside those of
the plain methods of beyond.baselines. beyond.screen and beyond.export use the functions.

| score          | logarithm of                                                                   |
|----------------|--------------------------------------------------------------------------------|
| error          | sum of (G - X)^2 / 2, the loss of the image                                    |
| reconstruction | sum of (G - X)^2 / (1 + |X|^2) in a window of 5 x 5 pixels: an image with      |
|                | little ink has little error                                                    |
| local          | sum of (G - X)^2 / (v + mean of v) in a window, where v is the mean of         |
|                | (G - X)^2 of this pixel over training images: an error where there is usually  |
|                | none                                                                           |
| brightness     | |sum of G - X| in a window: something bright or dark is missing, or too much   |
| distance       | mean cosine distance of Z to the nearest Z of training images: an image can be |
|                | reconstructed well from a Z that no normal image has                           |
| largest        | the largest of the last four                                                   |

Of all windows of an image, the one with the largest value counts. Distances are measured from the Z of
a black image. Each score is in standard deviations of the validation images, which are normal: their
median is subtracted, and the difference is divided by the standard deviation, from the median, of those
above it. So an image is as abnormal as its most unusual aspect. The images below the median are left
out because the distributions are not symmetrical.
"""

import dataclasses
import functools
import sys
import types
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

import autoencoder as ae
from beyond import common
from beyond.baselines import make_baselines
from beyond.kinds import KINDS

tf = ae.tf
PARTS = ("reconstruction", "local", "brightness", "distance")  # of the score `largest`
SCORES = ("error", *PARTS, "largest")
SCORE = "largest"  # what screen and export use
NEIGHBOURS = 5
NEIGHBOUR_IMAGES = 10000  # the training images among which neighbours are looked for
WINDOW = 5
SMALL = 1e-4  # added before a logarithm; more than rounding


# ---- Scores of a network -------------------------------------------------------------------------


class Detector(NamedTuple):
    tensors: dict  # {name of a score: tensor (batch,)}, in the graph of the network
    baselines: dict  # {name of a score: function of images (n, X_n) that returns (n,)}
    thresholds: dict  # {name of a score: the highest value of a normal image}
    score: str  # the name of the one that decides

    @property
    def threshold(self):
        return self.thresholds[self.score]


def make_detector(sess, net, data, score=SCORE, rate=0.05, baselines=types.MappingProxyType({})):
    """Returns a Detector of images that are not like those of `data` (DataSets), on which the network
    in the session was trained. At most `rate` of the validation images are above its thresholds.

    baselines: what make_baselines returns. Their scores will be in standard deviations of the
    validation images, too.
    """
    validation = data.validation.images
    tensors = add_scores(sess, net, data)
    normal = common.run_batches(sess, tensors, net.X, validation, "scoring")
    standardized = {}
    for name, baseline in common.progress_bar("plain methods", baselines.items()):
        logs = np.log(baseline(validation) + SMALL)
        median, sd = median_and_sd(logs)
        standardized[name] = functools.partial(standardized_score, baseline, median, sd)
        normal[name] = (logs - median) / sd
    thresholds = {name: threshold(values, rate) for name, values in normal.items()}
    return Detector(tensors, standardized, thresholds, score)


def standardized_score(baseline, median, sd, images):
    """Returns the logarithm of what a baseline returns, in standard deviations from a median: (n,)."""
    return (np.log(baseline(images) + SMALL) - median) / sd


def detect(sess, net, images, detector):
    """Scores images (n, X_n) by a Detector. Returns by each score its values, {name: (n,)}, and whether the
    images are abnormal, {name: (n,)}."""
    scores = common.run_batches(sess, detector.tensors, net.X, images, "scoring")
    for name, baseline in common.progress_bar("plain methods", detector.baselines.items()):
        scores[name] = baseline(images)
    thresholds = detector.thresholds
    # Also abnormal if the image has a NaN.
    return scores, {name: ~(values <= thresholds[name]) for name, values in scores.items()}


def threshold(normal, rate):
    """Returns the smallest score that at most `rate` of the normal ones (n,) exceed, and more than rounding
    changes."""
    return float(np.quantile(normal, 1 - rate, method="inverted_cdf")) + 0.001


def add_scores(sess, net, data):
    """Adds the scores of the images in net.X to the graph. Returns {name: tensor (batch,)}.

    data: DataSets of normal images. The Z of the first 10,000 training images become a constant of
    the graph.
    """
    train = data.train.images[:NEIGHBOUR_IMAGES]
    variance = usual_variance(sess, net, data.train)
    # Copies of an image would be neighbours of each other, at distance 0.
    codes = common.encode_images(sess, net, np.unique(train, axis=0))
    black = sess.run(net.Z, {net.X: np.zeros_like(train[:1])})
    with net.X.graph.as_default(), tf.name_scope("scores"):
        difference = net.G - net.X
        squares = difference**2
        # The 1 is a white pixel. It gives a black image a score.
        ink = 1 + tf.reduce_sum(net.X**2, axis=1)
        too_bright = largest_in_window(difference)
        too_dark = largest_in_window(-difference)
        logs = {
            "error": log(tf.reduce_sum(squares, axis=1) / 2),
            "reconstruction": log(largest_in_window(squares) / ink),
            "local": log(largest_in_window(squares / variance)),
            "brightness": log(tf.maximum(too_bright, too_dark)),
            "distance": log(distance_to_neighbours(net.Z - black, codes - black)),
        }
        of_normal = common.run_batches(sess, logs, net.X, data.validation.images, "scoring")
        scores = {}
        for name, tensor in logs.items():
            median, sd = median_and_sd(of_normal[name])
            scores[name] = (tensor - median) / sd
        scores["largest"] = tf.reduce_max([scores[name] for name in PARTS], axis=0)
        return scores


def usual_variance(sess, net, train):
    """Returns v + mean of v: (X_n,). v is the mean of (G - X)^2 of a pixel over training images, a DataSet.
    The mean keeps pixels that are always the same from being all that counts."""
    images = train.images[:NEIGHBOUR_IMAGES]
    G = common.run_batches(sess, net.G, net.X, images, "reconstructing")
    v = np.square(G - images).mean(axis=0)
    return v + v.mean() + 1e-9


def median_and_sd(normal):
    """Returns the median of normal scores (n,), and the standard deviation, from it, of those above it."""
    median = np.median(normal)
    above = normal[normal >= median]
    sd = np.sqrt(np.mean((above - median) ** 2))
    # Images that are all alike differ by rounding alone.
    return median, max(sd, 0.05)


def log(tensor):
    """Returns the logarithm of a tensor that is not negative."""
    return tf.log(tensor + SMALL)


def largest_in_window(values):
    """Returns the largest sum of values (batch, X_n) in a square of WINDOW pixels: (batch,)."""
    height, width = ae.as_2d(np.empty(values.shape[1])).shape
    size = [min(WINDOW, height), min(WINDOW, width)]
    images = tf.reshape(values, [-1, height, width, 1])
    means = tf.nn.avg_pool2d(images, size, strides=1, padding="VALID")
    return size[0] * size[1] * tf.reduce_max(means, axis=[1, 2, 3])


def distance_to_neighbours(Z, codes):
    """Returns the mean cosine distance of Z (batch, Z_n) to the nearest of codes (n, Z_n): (batch,).

    The nearest one of all is left out, unless it is the only one, because that of a training image is
    the image itself.
    """
    unit_Z = tf.math.l2_normalize(Z, axis=1)
    unit_codes = tf.math.l2_normalize(tf.constant(codes), axis=1)
    cosines = tf.matmul(unit_Z, unit_codes, transpose_b=True)
    nearest = tf.math.top_k(cosines, min(1 + NEIGHBOURS, len(codes))).values
    start = min(1, len(codes) - 1)
    return 1 - tf.reduce_mean(nearest[:, start:], axis=1)


def score_images(sess, net, data, images):
    """Scores images {kind: (m, X_n)} by each score of a network that was trained on `data` (DataSets).
    Returns {kind: {name of a score: (m,)}}."""
    scores = add_scores(sess, net, data)
    return {k: common.run_batches(sess, scores, net.X, X, "scoring") for k, X in images.items()}


# ---- Abnormal images -----------------------------------------------------------------------------

EXPERIMENTS = ("one-normal", "one-abnormal", "defects")


def cases(experiment, data):
    """Yields the cases of an experiment: a label, or None; DataSets of normal images; and abnormal test
    images, {kind: (m, X_n)}.

    one-normal: for each label, its images are normal, and all others abnormal; one-abnormal: the
    reverse; defects: all are normal. Test images of the normal ones, with a defect, are abnormal, too.
    Raises AutoEncoderError if a part of the data lacks a label, or if there is only one.
    """
    if experiment == "defects":
        yield None, data, defects(data.test.images)
        return
    common.check_labels(data)
    parts = [data.train, data.validation, data.test]
    labels = np.unique(data.train.labels)
    same = all(np.array_equal(labels, np.unique(part.labels)) for part in parts)
    if not same or len(labels) == 1:
        raise ae.AutoEncoderError(f"{data.path} needs two labels or more, each in all three parts")
    one_normal = experiment == "one-normal"
    for label in labels:
        normal = [part.subset((part.labels == label) == one_normal) for part in parts]
        others = data.test.images[(data.test.labels == label) != one_normal]
        abnormal = {"other labels": others} | defects(normal[-1].images)
        yield label, ae.DataSets(*normal, data.path), abnormal


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
    """Returns the indices of a square of an image, around a pixel, or beside it at an edge."""
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


def score_case(data, abnormal, hps, kind="plain"):
    """Scores normal and abnormal test images by networks and plain methods that are trained on normal
    images. Returns for each of hps {a key of abnormal, or "normal": {name of a score: (m,)}}.

    data: DataSets of normal images; abnormal: {what is abnormal: (m, X_n)}; hps: HParams with different
    seeds; kind: of the networks, of kinds.KINDS.
    """
    images = {"normal": data.test.images} | abnormal
    baselines = make_baselines(data, hps[0].Z_n)
    plain = {name: {} for name in images}
    for name, baseline in common.progress_bar("plain methods", baselines.items()):
        for kind_of_image, X in images.items():
            plain[kind_of_image][name] = baseline(X)
    by_seed = []
    for hp in hps:
        net = KINDS[kind](dataclasses.replace(hp, train_n=data.train.num_examples))
        with ae.start_session(net) as sess:
            common.train_with_bar(sess, net, data)
            by_network = score_images(sess, net, data, images)
        by_seed.append({name: by_network[name] | plain[name] for name in images})
    return by_seed


def separations(scores):
    """Returns how well each score separates each kind of abnormal images from normal ones, by the area
    under the ROC curve: {(name of the score, kind): value}. scores: see score_case."""
    found = {}
    for kind in scores.keys() - {"normal"}:
        for name, abnormal in scores[kind].items():
            normal = scores["normal"][name]
            is_abnormal = np.repeat([0, 1], [len(normal), len(abnormal)])
            found[name, kind] = roc_auc_score(is_abnormal, np.concatenate([normal, abnormal]))
    return found


def mean_table(by_case, names, kinds):
    """Returns a table as text, of means over the cases, ± the standard deviation over the seeds.

    by_case: for each case, for each seed, what separations returns. names, kinds: rows and columns.
    """
    table = [["score", *kinds, "worst"]]
    for name in names:
        row = [name]
        means = []
        for kind in kinds:
            values = [[found[name, kind] for found in by_seed] for by_seed in by_case]
            of_seeds = np.mean(values, axis=0)
            means.append(of_seeds.mean())
            row.append(common.mean_sd(of_seeds, ".3f"))
        table.append([*row, f"{min(means):.3f}"])
    return common.format_table(*table)


def main(args):
    """Trains on normal images alone, and measures how well the scores of the network, and those of plain
    methods, separate abnormal test images from normal ones: by the area under the ROC curve (AUROC),
    which is 1 if every abnormal image has a greater score than every normal one, and 0.5 by chance."""
    data = ae.read_data_sets(args.data_dir)
    base = ae.hparams_from_args(args, data)
    hps = [dataclasses.replace(base, seed=seed) for seed in args.seeds]
    print(f"device: {ae.device()}")
    by_case = []
    for label, normal, abnormal in cases(args.experiment, data):
        by_seed = score_case(normal, abnormal, hps, args.kind)
        names = by_seed[0]["normal"]
        by_case.append([separations(scores) for scores in by_seed])
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
