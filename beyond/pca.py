"""Is PCA enough? The tutorial asks it and never measures it.

    python -m beyond.pca --help

PCA with n components is the best linear way to reduce an image to n numbers. `compare` fits it on
the training images and compares it with a trained network that has as many latents: how well each
reconstructs the test images, and how often a test image has the label of its nearest neighbours.
"""

import contextlib
import dataclasses
import sys
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import autoencoder as ae
from beyond.common import check_labels, encode_images, format_table, in_batches

tf = ae.tf
ACCURACY = "5-nearest-neighbour accuracy"


def pca(X, n):
    """The first n principal components of the rows of X (m, k), from their covariance matrix.

    -> mean (k,), components (k, n). The codes are (X - mean) @ components.
    """
    _, vectors = np.linalg.eigh(np.cov(X, rowvar=False, dtype=np.float64))
    return X.mean(axis=0, dtype=np.float64), vectors[:, ::-1][:, :n]


class Comparison(NamedTuple):
    evaluation: ae.Evaluation
    accuracy: float  # see knn_accuracy
    G: np.ndarray  # (n, X_n), reconstructions of the test images


def compare(sess, g, data):
    """Compares a trained network with PCA of as many components, fitted on the training images.

    data: DataSets with labels. -> {"PCA": Comparison, "autoencoder": Comparison}
    """
    check_labels(data)
    n, images, X = g.hp.Z_n, data.train.images, data.test.images
    mean, components = pca(images, n)
    codes, test_codes = (np.float32((x - mean) @ components) for x in (images, X))
    G = np.float32(test_codes @ components.T + mean)
    mse = np.square(G - X).mean(dtype=np.float64)
    pca_evaluation = ae.Evaluation(100 / 2 * X.shape[1] * mse, mse, n, n)
    Z = encode_images(sess, g, images)
    test_Z = encode_images(sess, g, X)
    labels = data.train.labels, data.test.labels
    evaluation = ae.evaluate(sess, g, data.test.pixels)
    decoded = sess.run(g.G, {g.Z: test_Z})
    return {
        "PCA": Comparison(pca_evaluation, knn_accuracy(codes, test_codes, *labels), G),
        "autoencoder": Comparison(evaluation, knn_accuracy(Z, test_Z, *labels), decoded),
    }


# ---- Nearest neighbours --------------------------------------------------------------------------


def knn_accuracy(codes, test_codes, labels, test_labels, k=5):
    """Accuracy of k-nearest-neighbour classification of test codes by the training images' `codes`.

    codes: (n, m); test_codes: (l, m). Distances are Euclidean. Of labels that are equally frequent
    among the neighbours, the smallest wins.
    """
    with nearest_neighbours(codes, k) as nearest:
        batches = in_batches(test_codes, "nearest neighbours")
        indices = np.concatenate([nearest(batch)[0] for batch in batches])
    predicted = [np.bincount(votes).argmax() for votes in labels[indices]]
    return (predicted == test_labels).mean()


@contextlib.contextmanager
def nearest_neighbours(codes, k):
    """Yields a function: other codes (n, m) -> indices of the k nearest of `codes` to each, and the
    squared Euclidean distances; both (n, k), the nearest first."""
    with tf.Graph().as_default() as graph:
        codes_ph = tf.placeholder(tf.float32, [None, codes.shape[1]])
        query_ph = tf.placeholder(tf.float32, [None, codes.shape[1]])
        stored = tf.Variable(codes_ph, trainable=False, validate_shape=False)
        nearest = nearest_in_graph(query_ph, stored, min(k, len(codes)))
    with tf.Session(graph=graph, config=ae.session_config()) as sess:
        sess.run(stored.initializer, {codes_ph: codes})
        yield lambda query: sess.run(nearest, {query_ph: query})


def nearest_in_graph(query, codes, k):
    """query: (n, m), codes: (l, m) -> indices (n, k), squared distances (n, k)"""
    # Largest where the squared distance |q|^2 - 2 q.c + |c|^2 is smallest. It is rounded too
    # coarsely to serve as the distance, which is computed for the nearest alone.
    nearness = tf.matmul(query, codes, transpose_b=True) - tf.reduce_sum(codes**2, 1) / 2
    indices = tf.math.top_k(nearness, k).indices
    return indices, tf.reduce_sum((tf.gather(codes, indices) - query[:, None]) ** 2, 2)


# ---- Table and picture ---------------------------------------------------------------------------


def comparison_table(comparisons, pixels_accuracy):
    """A table, as text. comparisons: {Z_n: compare(...)}"""
    header = ["Z_n", "method", "score", "mean squared error", ACCURACY]
    rows = [
        [Z_n, method, f"{evaluation.score:.1f}", f"{evaluation.mse:.5f}", f"{accuracy:.2%}"]
        for Z_n, methods in sorted(comparisons.items())
        for method, (evaluation, accuracy, _) in methods.items()
    ]
    return format_table(header, *rows, ["", "pixels", "", "", f"{pixels_accuracy:.2%}"])


def plot_comparison(test, comparisons, pixels_accuracy):
    """Draws score and accuracy against Z_n, and reconstructions of an image of each label.

    test: DataSet; comparisons: {Z_n: compare(...)}; pixels_accuracy: knn_accuracy of the images
    themselves. The reconstructions are those of the largest Z_n up to 20. -> Figure
    """
    figure = Figure(figsize=(9, 5.7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 2.6])
    score, accuracy = top.subplots(1, 2)
    Z_ns = sorted(comparisons)
    x = [str(Z_n) for Z_n in Z_ns]  # text, so that the points are equally far apart
    for method, style in (("PCA", "s-"), ("autoencoder", "o-")):
        curve = [comparisons[Z_n][method] for Z_n in Z_ns]
        score.plot(x, [c.evaluation.score for c in curve], style, label=method)
        accuracy.plot(x, [100 * c.accuracy for c in curve], style, label=method)
    score.set(ylabel="score: loss of 100 test images", ylim=(0, None))
    accuracy.set(ylabel=f"{ACCURACY} (%)")
    accuracy.axhline(100 * pixels_accuracy, color="gray", linestyle=":", label="pixels")
    for axes in (score, accuracy):
        axes.set(xlabel="Z_n")
        axes.legend()
    shown = max([Z_n for Z_n in Z_ns if Z_n <= 20], default=Z_ns[0])
    firsts = ae.first_of_each(test.labels)
    rows = {f"{method} {shown}": c.G[firsts] for method, c in comparisons[shown].items()}
    ae.plot_images(bottom, X=ae.to_float(test.pixels[firsts]), **rows)
    return figure


def main(args):
    """Trains an autoencoder for each Z_n, and compares it on the test images with PCA of as many
    components. Continues where it was stopped."""
    data = ae.read_data_sets(args.data_dir)
    check_labels(data)
    base = ae.hparams_from_args(args, data)
    comparisons = {}
    hps = [dataclasses.replace(base, Z_n=Z_n) for Z_n in dict.fromkeys(args.Z_ns)]
    print(f"device: {ae.device()}")
    for hp in hps:
        print(f"Z_n: {hp.Z_n}")
        g = ae.build(hp)
        with ae.start_session(g) as sess:
            ae.train(sess, g, data, args.logdir / f"Z_n={hp.Z_n}", resume=True)
            comparisons[hp.Z_n] = compare(sess, g, data)
    train, _, test, _ = data
    pixels_accuracy = knn_accuracy(train.images, test.images, train.labels, test.labels)
    print(comparison_table(comparisons, pixels_accuracy))
    figure = plot_comparison(data.test, comparisons, pixels_accuracy)
    figure.savefig(args.logdir / "pca.png", dpi=100)
    print(f"picture: {args.logdir / 'pca.png'}")


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.pca", main.__doc__, "logs/pca")
    ae.add_hparams(parser)
    Z_ns = [2, 5, 10, 20, 40]
    help = "latent variables of each network (default: %(default)s)"
    parser.add_argument("--Z_n", dest="Z_ns", type=int, nargs="+", default=Z_ns, help=help)
    sys.exit(ae.run_command(main, parser, hint="; the same command continues"))
