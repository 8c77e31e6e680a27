"""Detects abnormal images by their reconstruction, as the tutorial suggests but does not show.

    python -m beyond.anomaly --help

Measures in three experiments how well scores separate abnormal test images from normal ones.
beyond.screen and beyond.export use its functions.

| score          | description                                                                    |
|----------------|--------------------------------------------------------------------------------|
| error          | E = sum of (G - X)^2 / 2, the loss of the image                                |
| relative error | E / (1 + |X|^2), because an image with little ink has little error             |
| distance       | d, the mean cosine distance of Z to the 5 nearest Z of normal images, because  |
|                | an image can be reconstructed well from a Z that no normal image has           |
| combined       | d times the fourth root of the relative error                                  |

The 1 in the relative error is a single white pixel. It gives a black image a score. The cosine
distance of two vectors is 1 minus the cosine of the angle between them.
"""

import dataclasses
import sys
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import RocCurveDisplay, roc_auc_score

import autoencoder as ae
from beyond.common import (
    check_labels,
    encode_images,
    format_table,
    in_batches,
    train_with_bar,
)

tf = ae.tf
SCORE = "combined"  # chosen on validation images


class Detector(NamedTuple):
    scores: dict  # {name of a score: tensor (batch,)}, in the graph of the network
    threshold: float  # an image whose SCORE is greater is abnormal


def make_detector(sess, g, data, rate=0.05):
    """Returns a Detector of images that are not like those of `data` (DataSets), on which the network
    in the session was trained. At most `rate` of the validation images are above its threshold."""
    scores = add_scores(sess, g, data.train.images)
    normal = score_images(sess, g, scores, data.validation.images)[SCORE]
    # The smallest score that at most `rate` exceed.
    threshold = np.quantile(normal, 1 - rate, method="inverted_cdf")
    return Detector(scores, float(threshold))


def add_scores(sess, g, normal_images, k=5):
    """Adds the scores of the images in g.X to the graph. Returns {name: tensor (batch,)}.

    normal_images: (n, X_n). The Z of the first 10,000 become a constant of the graph.
    """
    codes = encode_images(sess, g, normal_images[:10000])
    k = min(k, len(codes))
    with g.X.graph.as_default(), tf.name_scope("scores"):
        error = tf.reduce_sum((g.G - g.X) ** 2, axis=1) / 2
        relative_error = error / (1 + tf.reduce_sum(g.X**2, axis=1))
        unit_Z = tf.math.l2_normalize(g.Z, axis=1)
        unit_codes = tf.math.l2_normalize(tf.constant(codes), axis=1)
        cosines = tf.matmul(unit_Z, unit_codes, transpose_b=True)
        distance = 1 - tf.reduce_mean(tf.math.top_k(cosines, k).values, axis=1)
        return {
            "error": error,
            "relative error": relative_error,
            "distance": distance,
            SCORE: relative_error**0.25 * distance,
        }


def score_images(sess, g, scores, images):
    """Scores images (n, X_n). scores: see add_scores. Returns {name: (n,)}."""
    batches = [sess.run(scores, {g.X: batch}) for batch in in_batches(images, "scoring")]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in scores}


def detect(sess, g, images, detector):
    """Returns SCORE of images (n, X_n), and whether each is abnormal: scores (n,), flags (n,)."""
    scores = score_images(sess, g, detector.scores, images)[SCORE]
    return scores, scores > detector.threshold


# ---- Experiments ---------------------------------------------------------------------------------

EXPERIMENTS = ("one-normal", "one-abnormal", "no-digits")


def experiment_scores(experiment, data, hp):
    """Trains on the normal images of each case of an experiment, and scores the test images. Yields
    the name of the case and {name of a score: (scores of normal images, of abnormal images)}."""
    for train, test, others in cases(experiment, data):
        g = ae.build(dataclasses.replace(hp, train_n=train.num_examples))
        with ae.start_session(g) as sess:
            train_with_bar(sess, g, data._replace(train=train))
            scores = add_scores(sess, g, train.images)
            normal = score_images(sess, g, scores, test)
            for case, images in others.items():
                abnormal = score_images(sess, g, scores, images)
                yield case, {name: (normal[name], abnormal[name]) for name in scores}


def cases(experiment, data):
    """Yields normal training images (a DataSet), normal test images (n, X_n), and abnormal ones, as
    {name: (m, X_n)}. For each label, its images are normal and all others abnormal, or the reverse;
    or all digits are normal, and what no_digits makes of the test images is abnormal.

    Raises AutoEncoderError if a label is missing in the training or in the test images, or if there
    is only one.
    """
    if experiment == "no-digits":
        yield data.train, data.test.images, no_digits(data.test.images)
        return
    check_labels(data)
    labels = np.unique(data.train.labels)
    if not np.array_equal(labels, np.unique(data.test.labels)):
        raise ae.AutoEncoderError("training and test images do not have the same labels")
    if len(labels) == 1:
        raise ae.AutoEncoderError(f"all images have the label {labels[0]}: two are needed")
    for label in labels:
        train_is_normal = data.train.labels == label
        test_is_normal = data.test.labels == label
        if experiment == "one-abnormal":
            train_is_normal = ~train_is_normal
            test_is_normal = ~test_is_normal
        train = data.train.subset(train_is_normal)
        abnormal = {f"label {label}": data.test.images[~test_is_normal]}
        yield train, data.test.images[test_is_normal], abnormal


def no_digits(images):
    """Returns images unlike the given ones (n, X_n): {name: (m, X_n)}."""
    n, X_n = images.shape
    greys = np.linspace(0, 1, 256, dtype=np.float32)
    turned = np.rot90(ae.as_2d(images), axes=(1, 2))
    return {
        "uniform noise": np.random.default_rng(0).random((1000, X_n), np.float32),
        "constant grey": np.repeat(greys[:, np.newaxis], X_n, axis=1),
        "inverted": 1 - images,
        "turned by 90 degrees": turned.reshape(n, X_n),
    }


def truth_and_scores(normal, abnormal):
    """Returns what scikit-learn's functions take: 0 for normal images and 1 for abnormal ones, and
    the scores of both, each (n + m,)."""
    truth = np.repeat([0, 1], [len(normal), len(abnormal)])
    return truth, np.concatenate([normal, abnormal])


def plot_roc(scores_by_case):
    """Draws ROC curves, a panel for each score. Returns a Figure.

    scores_by_case: {case: scores as experiment_scores yields them}
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    names = next(iter(scores_by_case.values()))
    for axes, name in zip(figure.subplots(2, 2).flat, names):
        for case, scores in scores_by_case.items():
            truth, values = truth_and_scores(*scores[name])
            RocCurveDisplay.from_predictions(truth, values, name=case, ax=axes)
        axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="auto")
        axes.set_title(name)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return figure


def main(args):
    """Trains on normal images alone, and measures by the area under the ROC curve (AUROC) how well
    each score separates abnormal test images from normal ones: 1 if every abnormal image has a
    greater score than every normal one, 0.5 by chance. Normal is one label (one-normal), all labels
    except one (one-abnormal), or all digits (no-digits)."""
    data = ae.read_data_sets(args.data_dir)
    base = ae.hparams_from_args(args, data)
    print(f"device: {ae.device()}")
    areas, curves = {}, {}
    for seed in args.seeds:
        hp = dataclasses.replace(base, seed=seed)
        for case, scores in experiment_scores(args.experiment, data, hp):
            names = list(scores)
            found = [roc_auc_score(*truth_and_scores(*pair)) for pair in scores.values()]
            areas.setdefault(case, []).append(found)
            curves.setdefault(case, scores)
            columns = ", ".join(f"{name} {area:.4f}" for name, area in zip(names, found))
            print(f"seed {seed}, {case}: {columns}", flush=True)
    mean_areas = np.mean(list(areas.values()), axis=1)
    rows = [[case, *map("{:.3f}".format, row)] for case, row in zip(areas, mean_areas)]
    last_row = ["mean AUROC", *map("{:.4f}".format, mean_areas.mean(axis=0))]
    print(format_table([args.experiment, *names], *rows, last_row))
    args.logdir.mkdir(parents=True, exist_ok=True)
    path = args.logdir / f"{args.experiment}.png"
    plot_roc(curves).savefig(path, dpi=100)
    print(f"ROC curves, of the first seed: {path}")


if __name__ == "__main__":
    example = "python -m beyond.anomaly --recipe tuned --seed 0 1 2"
    parser = ae.Parser("python -m beyond.anomaly", main.__doc__, "logs/anomaly", example=example)
    help = "one-normal (the default), one-abnormal or no-digits"
    parser.add_argument(
        "--experiment", choices=EXPERIMENTS, default="one-normal", metavar="NAME", help=help
    )
    ae.add_hparams(parser)
    help = "a network for each; the mean is printed (default: 0)"
    parser.add_argument(
        "--seed", dest="seeds", type=int, nargs="+", default=[0], metavar="N", help=help
    )
    sys.exit(ae.run_command(main, parser))
