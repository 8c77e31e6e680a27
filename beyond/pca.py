"""Is PCA enough? The tutorial asks it and never measures it.

    python -m beyond.pca --help

PCA with n components is the best linear way to keep n numbers of an image. `compare` fits it on the
training images, and holds it against a trained network with as many latents: how well each restores
the test images, and how often a test image has the label of its nearest neighbours among the codes.
"""

import contextlib
import dataclasses
import sys
import types
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import autoencoder as ae

tf = ae.tf
ACCURACY = "5-nearest-neighbour accuracy"


def pca(X, n):
    """Principal components of the rows of X (m, k), exact, by the covariance matrix.

    -> mean (k,), components (k, n), the strongest first; codes are (X - mean) @ components.
    """
    _, vectors = np.linalg.eigh(np.cov(X, rowvar=False, dtype=np.float64))
    return X.mean(axis=0, dtype=np.float64), vectors[:, ::-1][:, :n]


class Comparison(NamedTuple):
    evaluation: ae.Evaluation
    accuracy: float  # see knn_accuracy
    G: np.ndarray  # (n, X_n), the test images restored


def compare(sess, g, data):
    """The trained network against PCA with as many components, fitted on the training images.

    data: DataSets with labels. -> {"PCA": Comparison, "autoencoder": Comparison}
    """
    check_labels(data)
    n, images, X = g.hp.Z_n, data.train.images, data.test.images
    mean, components = pca(images, n)
    codes, test_codes = (np.float32((x - mean) @ components) for x in (images, X))
    G = np.float32(test_codes @ components.T + mean)
    per_pixel = np.square(G - X).mean(dtype=np.float64)
    by_pca = ae.Evaluation(100 / 2 * X.shape[1] * per_pixel, per_pixel, n, n)
    Z, test_Z = (codes_of(sess, g, part.pixels) for part in (data.train, data.test))
    labels = data.train.labels, data.test.labels
    evaluation, restored = ae.evaluate(sess, g, data.test.pixels), sess.run(g.G, {g.Z: test_Z})
    return {
        "PCA": Comparison(by_pca, knn_accuracy(codes, test_codes, *labels), G),
        "autoencoder": Comparison(evaluation, knn_accuracy(Z, test_Z, *labels), restored),
    }


def check_labels(data):
    if data.train.labels is None or data.test.labels is None:
        raise ae.AutoEncoderError("the images have no labels, and this needs them")


def codes_of(sess, g, images):
    """Z of images (n, X_n), a thousand at a time. -> (n, Z_n)"""
    return np.concatenate([sess.run(g.Z, {g.X: ae.scaled(x)}) for x in thousands(images, "Z")])


def thousands(rows, what):
    """Yields a thousand of the rows at a time, and says on a terminal how far it is."""
    for i in range(0, len(rows), 1000):
        if sys.stderr.isatty():
            print(f"\r{what}: {100 * i // len(rows)}%", end="", file=sys.stderr, flush=True)
        yield rows[i : i + 1000]
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def on_one_line():
    """Shows what is printed within on one line, where somebody watches, and then no longer: of a
    text that is too long its beginning, as a terminal's next line would stay."""
    shown, erased, watched = sys.stdout, f"\r{' ' * 79}\r", ae.watched()
    line = types.SimpleNamespace(
        write=lambda text: watched and shown.write(text[:79].replace("\n", erased)),
        flush=shown.flush,
        isatty=shown.isatty,
    )
    with contextlib.redirect_stdout(line):
        yield


# ---- Nearest neighbours --------------------------------------------------------------------------


def knn_accuracy(codes, test_codes, labels, test_labels, k=5):
    """How often the majority of the k nearest of `codes` (n, m) has the label of a test code.

    Nearest by Euclidean distance; of labels that are equally frequent, the smallest.
    """
    with nearest_of(codes, k) as nearest:
        indices = [nearest(asked)[0] for asked in thousands(test_codes, "nearest neighbours")]
    named = [np.bincount(votes).argmax() for votes in labels[np.concatenate(indices)]]
    return (named == test_labels).mean()


@contextlib.contextmanager
def nearest_of(codes, k):
    """Yields a function: other codes (n, m) -> which k of `codes` are nearest to each, by Euclidean
    distance, and the squares of these distances; (n, k) both, the nearest first."""
    with tf.Graph().as_default() as graph:
        given, asked = (tf.placeholder(tf.float32, [None, codes.shape[1]]) for _ in range(2))
        kept = tf.Variable(given, trainable=False, validate_shape=False)
        nearest = nearest_in_graph(asked, kept, min(k, len(codes)))
    with ae.session(graph) as sess:
        sess.run(kept.initializer, {given: codes})
        yield lambda others: sess.run(nearest, {asked: others})


def nearest_in_graph(asked, codes, k):
    """asked: (n, m), codes: (l, m) -> indices (n, k), squares of distances (n, k)"""
    # Negative and halved, so that top_k serves; and rounded, so the distances are taken again.
    nearness = tf.matmul(asked, codes, transpose_b=True) - tf.reduce_sum(codes**2, 1) / 2
    indices = tf.math.top_k(nearness, k).indices
    return indices, tf.reduce_sum((tf.gather(codes, indices) - asked[:, None]) ** 2, 2)


# ---- Table and picture ---------------------------------------------------------------------------


def comparison_table(comparisons, pixels_accuracy):
    """The text of a table. comparisons: {Z_n: compare(...)}"""
    rows = [
        [Z_n, way, f"{of.score:.1f}", f"{of.per_pixel:.5f}", f"{accuracy:.2%}"]
        for Z_n, ways in sorted(comparisons.items())
        for way, (of, accuracy, _) in ways.items()
    ]
    head = ["Z_n", "way", "score", "per pixel", ACCURACY]
    return table(head, *rows, ["", "the pixels", "", "", f"{pixels_accuracy:.2%}"])


def table(*rows):
    """Rows of cells as text, in columns."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(cell.rjust(n) for cell, n in zip(row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def plot_comparison(test, comparisons, pixels_accuracy):
    """Draws score and accuracy against Z_n, and how both restore an image of each label.

    test: DataSet; comparisons: {Z_n: compare(...)}, of which the largest Z_n up to 20 is shown in
    pictures; pixels_accuracy: the knn_accuracy of the images themselves. -> Figure
    """
    figure = Figure(figsize=(9, 5.7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 2.6])
    score, accuracy = top.subplots(1, 2)
    Z_ns = sorted(comparisons)
    x = [str(Z_n) for Z_n in Z_ns]  # as names, they stand equally far apart
    for way, style in (("PCA", "s-"), ("autoencoder", "o-")):
        chosen = [comparisons[Z_n][way] for Z_n in Z_ns]
        score.plot(x, [c.evaluation.score for c in chosen], style, label=way)
        accuracy.plot(x, [100 * c.accuracy for c in chosen], style, label=way)
    score.set(ylabel="score: loss of 100 test images", ylim=(0, None))
    accuracy.set(ylabel=f"{ACCURACY} (%)")
    accuracy.axhline(100 * pixels_accuracy, color="gray", linestyle=":", label="the pixels")
    for axes in (score, accuracy):
        axes.set(xlabel="Z_n")
        axes.legend()
    shown = max([Z_n for Z_n in Z_ns if Z_n <= 20], default=Z_ns[0])
    firsts = ae.first_of_each(test.labels)
    rows = {f"{way} {shown}": c.G[firsts] for way, c in comparisons[shown].items()}
    ae.plot_images(bottom, X=ae.scaled(test.pixels[firsts]), **rows)
    return figure


def main(args):
    """Trains an autoencoder for each Z_n, and compares it on the test images with PCA of as many
    components. Goes on where it was stopped."""
    data = ae.read_data_sets(args.data_dir)
    check_labels(data)
    base, comparisons = ae.hparams(args, data), {}
    hps = [dataclasses.replace(base, Z_n=Z_n) for Z_n in dict.fromkeys(args.Z_ns)]
    print(f"device: {ae.device()}")
    for hp in hps:
        print(f"Z_n: {hp.Z_n}")
        g = ae.build(hp)
        with ae.start(g) as sess:
            ae.train(sess, g, data, args.logdir / f"Z_n={hp.Z_n}", resume=True)
            comparisons[hp.Z_n] = compare(sess, g, data)
    images, labels = zip(*((part.images, part.labels) for part in (data.train, data.test)))
    pixels_accuracy = knn_accuracy(*images, *labels)
    print(comparison_table(comparisons, pixels_accuracy))
    figure = plot_comparison(data.test, comparisons, pixels_accuracy)
    figure.savefig(args.logdir / "pca.png", dpi=100)
    print(f"picture: {args.logdir / 'pca.png'}")


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.pca", main.__doc__, "logs/pca")
    ae.add_hparams(parser)
    Z_ns, what = [2, 5, 10, 20, 40], "of each network (default: %(default)s)"
    parser.add_argument("--Z_n", dest="Z_ns", type=int, nargs="+", default=Z_ns, help=what)
    sys.exit(ae.run(main, parser, again="; the same command goes on"))
