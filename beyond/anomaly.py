"""Detects abnormal images by their reconstruction, as the tutorial suggests but does not show.

    python -m beyond.anomaly --help

Measures how well scores separate abnormal test images from normal ones. beyond.screen and
beyond.export use its functions.

| score          | logarithm of                                                                   |
|----------------|--------------------------------------------------------------------------------|
| error          | E = sum of (G - X)^2 / 2, the loss of the image                                |
| reconstruction | W E / (1 + |X|^2), where W is the largest sum of (G - X)^2 in a window of 5 x 5|
|                | pixels: an image with little ink has little error, and a defect is small       |
| distance       | mean cosine distance of Z to the nearest Z of training images, because an      |
|                | image can be reconstructed well from a Z that no normal image has              |
| largest        | the larger of reconstruction and distance                                      |

Each is in standard deviations of the validation images, which are normal: their median is subtracted,
and the difference is divided by the standard deviation, from the median, of those above it. So an
image is as abnormal as the more unusual of its reconstruction and its Z. The images below the median
are left out because the distributions are not symmetrical.

| baseline           | score                                                                      |
|--------------------|----------------------------------------------------------------------------|
| PCA error          | squared error of PCA with as many components as the network has latents    |
| cosine distance    | mean distance of the pixels to the 5 nearest training images               |
| Euclidean distance | the same by another distance                                               |
| isolation forest   | scikit-learn's IsolationForest of the pixels                               |

The cosine distance of two vectors is 1 minus the cosine of the angle between them.
"""

import collections
import dataclasses
import itertools
import sys
from typing import NamedTuple

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

import autoencoder as ae
from beyond.common import check_labels, encode_images, format_table, in_batches, train_with_bar
from beyond.pca import fit_pca, reconstruct_by_pca

tf = ae.tf
SCORES = ("error", "reconstruction", "distance", "largest")
SCORE = "largest"  # what screen and export use; chosen on validation images
NEIGHBOURS = 5
NEIGHBOUR_IMAGES = 10000  # the training images among which neighbours are looked for
WINDOW = 5


# ---- Scores of a network -------------------------------------------------------------------------


class Detector(NamedTuple):
    scores: dict  # {name of a score: tensor (batch,)}, in the graph of the network
    score: str  # the name of the one that decides
    threshold: float  # an image is abnormal unless its score is at most this


def make_detector(sess, g, data, score=SCORE, rate=0.05):
    """Returns a Detector of images that are not like those of `data` (DataSets), on which the network
    in the session was trained. At most `rate` of the validation images are above its threshold."""
    scores = add_scores(sess, g, data)
    normal = score_images(sess, g, scores, data.validation.images)[score]
    # The smallest score that at most `rate` exceed, and more than rounding changes.
    threshold = np.quantile(normal, 1 - rate, method="inverted_cdf") + 0.001
    return Detector(scores, score, float(threshold))


def add_scores(sess, g, data):
    """Adds the scores of the images in g.X to the graph. Returns {name: tensor (batch,)}.

    data: DataSets of normal images. The Z of the first 10,000 training images become a constant of
    the graph.
    """
    # Copies of an image would be neighbours of each other, at distance 0.
    different_images = np.unique(data.train.images[:NEIGHBOUR_IMAGES], axis=0)
    codes = encode_images(sess, g, different_images)
    with g.X.graph.as_default(), tf.name_scope("scores"):
        squares = (g.G - g.X) ** 2
        error = tf.reduce_sum(squares, axis=1) / 2
        # The 1 is a white pixel. It gives a black image a score.
        relative_error = error / (1 + tf.reduce_sum(g.X**2, axis=1))
        log_reconstruction = log(relative_error) + log(largest_in_window(squares))
        logs = {
            "error": log(error),
            "reconstruction": log_reconstruction,
            "distance": log(distance_to_neighbours(g.Z, codes)),
        }
        of_normal = score_images(sess, g, logs, data.validation.images)
        scores = {}
        for name, tensor in logs.items():
            median = np.median(of_normal[name])
            above = of_normal[name][of_normal[name] >= median]
            sd = np.sqrt(np.mean((above - median) ** 2))
            # Images that are all alike differ by rounding alone.
            scores[name] = (tensor - median) / max(sd, 0.05)
        scores["largest"] = tf.maximum(scores["reconstruction"], scores["distance"])
        return scores


def log(tensor):
    """Returns the logarithm. What is added is small, but more than rounding."""
    return tf.log(tensor + 1e-4)


def largest_in_window(squares):
    """Returns the largest sum of squared errors (batch, X_n) in a square of WINDOW pixels: (batch,)."""
    height, width = ae.as_2d(np.empty(squares.shape[1])).shape
    size = [min(WINDOW, height), min(WINDOW, width)]
    images = tf.reshape(squares, [-1, height, width, 1])
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


def score_images(sess, g, scores, images):
    """Scores images (n, X_n). scores: see add_scores. Returns {name: (n,)}."""
    batches = [sess.run(scores, {g.X: batch}) for batch in in_batches(images, "scoring")]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in scores}


def detect(sess, g, images, detector):
    """Scores images (n, X_n) by a Detector. Returns {name: (n,)}, and whether each is abnormal: (n,)."""
    scores = score_images(sess, g, detector.scores, images)
    is_normal = scores[detector.score] <= detector.threshold  # False if the image has a NaN
    return scores, ~is_normal


# ---- Baselines -----------------------------------------------------------------------------------


def make_baselines(train, components):
    """Fits what one would try without a network to training images, a DataSet. Returns
    {name: function of images (m, X_n) that returns their scores (m,)}.

    components: of PCA.
    """
    pca = fit_pca(train, components)
    neighbour_images = train.images[:NEIGHBOUR_IMAGES]
    cosine = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute")
    cosine.fit(neighbour_images)
    euclidean = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute")
    euclidean.fit(neighbour_images)

    def pca_error(images):
        return np.square(reconstruct_by_pca(pca, images) - images).sum(axis=1)

    return {
        "PCA error": pca_error,
        "cosine distance": lambda images: cosine.kneighbors(images)[0].mean(axis=1),
        "Euclidean distance": lambda images: euclidean.kneighbors(images)[0].mean(axis=1),
    }


# ---- Abnormal images -----------------------------------------------------------------------------

EXPERIMENTS = ("one-normal", "one-abnormal", "defects", "no-digits")


class Case(NamedTuple):
    name: str
    data: ae.DataSets  # of normal images
    abnormal: dict[str, np.ndarray]  # {kind: (m, X_n)}: other test images, or what is made of them


def cases(experiment, data):
    """Yields the Cases of an experiment.

    one-normal: for each label, its images are normal, and all others abnormal; one-abnormal: the
    reverse; in both, normal test images with a defect are abnormal as well. defects, no-digits: all
    images are normal, and what `defects` or `no_digits` makes of the test images is abnormal.
    Raises AutoEncoderError if a part of the data lacks a label, or if there is only one.
    """
    if experiment == "defects":
        yield Case("all labels", data, defects(data.test.images))
        return
    if experiment == "no-digits":
        yield Case("all labels", data, no_digits(data.test.images))
        return
    check_labels(data)
    parts = [data.train, data.validation, data.test]
    labels = np.unique(data.train.labels)
    if not all(np.array_equal(labels, np.unique(part.labels)) for part in parts):
        raise ae.AutoEncoderError("training, validation and test images differ in their labels")
    if len(labels) == 1:
        raise ae.AutoEncoderError(f"all images have the label {labels[0]}: two are needed")
    for label in labels:
        normal_parts = []
        for part in parts:
            is_normal = (part.labels == label) == (experiment == "one-normal")
            normal_parts.append(part.subset(is_normal))
        normal = ae.DataSets(*normal_parts, data.path)
        other_labels = data.test.images[~is_normal]  # of the last part
        abnormal = {"other labels": other_labels} | defects(normal.test.images)
        yield Case(f"label {label}", normal, abnormal)


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


def no_digits(images):
    """Returns images unlike the given ones (n, X_n): {kind: (m, X_n)}."""
    n, X_n = images.shape
    greys = np.linspace(0, 1, 256, dtype=np.float32)
    turned = np.rot90(ae.as_2d(images), axes=(1, 2))
    return {
        "uniform noise": np.random.default_rng(0).random((1000, X_n), np.float32),
        "constant grey": np.repeat(greys[:, np.newaxis], X_n, axis=1),
        "inverted": 1 - images,
        "turned by 90 degrees": turned.reshape(n, X_n),
    }


# ---- Experiments ---------------------------------------------------------------------------------

MEASURES = {"AUROC": roc_auc_score, "average precision": average_precision_score}


def score_case(case, hps):
    """Scores the test images of a Case by everything that is trained on its normal images. Yields for
    each HParams {kind, or "normal": {name of a score: (m,)}}."""
    images = {"normal": case.data.test.images} | case.abnormal
    train = case.data.train
    baselines = make_baselines(train, hps[0].Z_n)
    without_seed = {
        kind: {name: score(X) for name, score in baselines.items()} for kind, X in images.items()
    }
    for hp in hps:
        forest = IsolationForest(random_state=hp.seed).fit(train.images)
        g = ae.build(dataclasses.replace(hp, train_n=train.num_examples))
        with ae.start_session(g) as sess:
            train_with_bar(sess, g, case.data)
            scores = add_scores(sess, g, case.data)
            found = {}
            for kind, X in images.items():
                by_forest = {"isolation forest": -forest.score_samples(X)}
                found[kind] = score_images(sess, g, scores, X) | without_seed[kind] | by_forest
            yield found


def separation(measure, normal, abnormal):
    """Returns a measure of MEASURES for the scores of normal and of abnormal images, (n,) and (m,)."""
    is_abnormal = np.repeat([0, 1], [len(normal), len(abnormal)])
    return measure(is_abnormal, np.concatenate([normal, abnormal]))


def mean_table(values, names, kinds):
    """Returns a table as text, of means over the cases, ± the standard deviation over the seeds.

    values: {(name of a score, kind): (cases, seeds)}
    """
    table = [["score", *kinds, "worst"]]
    for name in names:
        row = [name]
        means = []
        for kind in kinds:
            by_seed = values[name, kind].mean(axis=0)
            means.append(by_seed.mean())
            # A baseline without a seed has no standard deviation.
            sd = f" ± {by_seed.std(ddof=1):.3f}" if np.ptp(by_seed) > 0 else ""
            row.append(f"{means[-1]:.3f}{sd}")
        table.append([*row, f"{min(means):.3f}"])
    return format_table(*table)


def main(args):
    """Trains on normal images alone, and measures how well the scores of the network, and those of four
    baselines, separate abnormal test images from normal ones: by the area under the ROC curve (AUROC),
    which is 1 if every abnormal image has a greater score than every normal one, and 0.5 by chance; and
    by average precision."""
    data = ae.read_data_sets(args.data_dir)
    base = ae.hparams_from_args(args, data)
    hps = [dataclasses.replace(base, seed=seed) for seed in args.seeds]
    print(f"device: {ae.device()}")
    found = {measure: collections.defaultdict(list) for measure in MEASURES}
    labels = []
    for case in cases(args.experiment, data):
        labels.append(case.name)
        for hp, scores in zip(hps, score_case(case, hps)):
            names = list(scores["normal"])
            for measure, function in MEASURES.items():
                for name, kind in itertools.product(names, case.abnormal):
                    value = separation(function, scores["normal"][name], scores[kind][name])
                    found[measure][name, kind].append(value)
            areas = [f"{kind} {found['AUROC'][SCORE, kind][-1]:.4f}" for kind in case.abnormal]
            print(f"{case.name}, seed {hp.seed}, AUROC by {SCORE}: {', '.join(areas)}", flush=True)
    for measure, lists in found.items():
        values = {key: np.reshape(row, (len(labels), len(hps))) for key, row in lists.items()}
        print(f"\n{args.experiment}: {measure}\n{mean_table(values, names, case.abnormal)}")
        if len(labels) > 1:
            columns = [values[name, "other labels"].mean(axis=1) for name in names]
            rows = [
                (label, *map("{:.3f}".format, row)) for label, row in zip(labels, zip(*columns))
            ]
            print(f"\n{measure} of other labels\n{format_table(['', *names], *rows)}")


if __name__ == "__main__":
    example = "python -m beyond.anomaly --recipe tuned --seed 0 1 2"
    parser = ae.Parser("python -m beyond.anomaly", main.__doc__, example=example)
    help = "folder of IDX files, or .npz (default: MNIST_data)"
    parser.add_argument(
        "--data_dir", type=ae.user_path, default=ae.DATA_DIR, metavar="PATH", help=help
    )
    help = f"{', '.join(EXPERIMENTS[:-1])} or {EXPERIMENTS[-1]} (default: one-normal)"
    parser.add_argument(
        "--experiment", choices=EXPERIMENTS, default="one-normal", metavar="NAME", help=help
    )
    ae.add_hparams(parser)
    help = "a network for each (default: 0)"
    parser.add_argument(
        "--seed", dest="seeds", type=int, nargs="+", default=[0], metavar="N", help=help
    )
    sys.exit(ae.run_command(main, parser))
