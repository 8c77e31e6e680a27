"""Is PCA enough? The tutorial asks it and never measures it.

    python -m beyond.pca --help

PCA with n components is the best linear way to reduce an image to n numbers. `compare` fits
scikit-learn's PCA on the training images. It compares it with a trained network that has as many
latents: how well each reconstructs the test images, and how often a test image has the label of its
nearest neighbours.
"""

import dataclasses
import sys
import warnings
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

import autoencoder as ae
from beyond.common import check_labels, encode_images, format_table, in_batches

ACCURACY = "5-nearest-neighbour accuracy"
MAX_FLOATS = 2**27  # of a sample: 512 MiB as float32, 171,196 images of 28 x 28


class Comparison(NamedTuple):
    evaluation: ae.Evaluation
    accuracy: float  # see knn_accuracy
    G: np.ndarray  # (m, X_n), reconstructions of the first test image of each label


def compare(sess, g, data):
    """Compares a trained network with PCA of as many components.

    data: DataSets with labels.
    Returns {"PCA": Comparison, "autoencoder": Comparison}.
    Raises AutoEncoderError if there are no labels.
    """
    check_labels(data)
    train, test = data.train, data.test
    labels = train.labels, test.labels
    firsts = test.images[ae.first_of_each(test.labels)]
    pca = fit_pca(train, g.hp.Z_n)
    codes = encode_by_pca(pca, train.images)
    test_codes = encode_by_pca(pca, test.images)
    pca_evaluation = evaluate_pca(pca, test.images, g.hp.Z_n)
    pca_G = reconstruct_by_pca(pca, firsts)
    Z = encode_images(sess, g, train.images)
    test_Z = encode_images(sess, g, test.images)
    evaluation = ae.evaluate(sess, g, test.images)
    G = sess.run(g.G, {g.X: firsts})
    return {
        "PCA": Comparison(pca_evaluation, knn_accuracy(codes, test_codes, *labels), pca_G),
        "autoencoder": Comparison(evaluation, knn_accuracy(Z, test_Z, *labels), G),
    }


def sample(data_set):
    """Returns a DataSet of random images, in their order; of all, unless they exceed MAX_FLOATS."""
    n, X_n = data_set.images.shape
    size = min(n, MAX_FLOATS // X_n)
    rows = np.random.default_rng(0).choice(n, size, replace=False)
    return data_set.subset(np.sort(rows))


# ---- PCA -----------------------------------------------------------------------------------------


def fit_pca(train, n):
    """Returns scikit-learn's PCA with n components, fitted on a sample of the training images.

    There are at most X_n components, and at most one fewer than images.
    """
    X = sample(train).images
    n = min(n, len(X) - 1, X.shape[1])
    # The default solver is exact for MNIST. For many pixels it is the randomized one, which does not
    # form a matrix of pixels x pixels. IncrementalPCA needs less memory, but ten times as long, and
    # its score on MNIST is worse by 0.5 to 1.7.
    return PCA(n, random_state=0).fit(X)


def encode_by_pca(pca, images):
    """images: (n, X_n) -> codes: (n, components)"""
    batches = in_batches(images, "encoding by PCA")
    return np.concatenate([pca.transform(batch) for batch in batches])


def reconstruct_by_pca(pca, images):
    """images: (n, X_n) -> (n, X_n), clipped to [0, 1], in which the network's G is, too."""
    return np.clip(pca.inverse_transform(pca.transform(images)), 0, 1)


def evaluate_pca(pca, images, Z_n):
    """Evaluates PCA on images (n, X_n), as a network with Z_n latents. Returns an Evaluation."""
    error = 0.0
    for X in in_batches(images, "evaluating PCA"):
        G = reconstruct_by_pca(pca, X)
        error += np.square(G - X).sum(dtype=np.float64)
    score = ae.REPORTED_IMAGES * error / 2 / len(images)
    return ae.Evaluation(score, error / images.size, pca.n_components_, Z_n)


# ---- Nearest neighbours --------------------------------------------------------------------------


def knn_accuracy(codes, test_codes, labels, test_labels, k=5):
    """Returns the accuracy of k-nearest-neighbour classification of test images.

    codes: (n, m), of the training images; test_codes: (l, m).
    labels: (n,) and (l,), any integers; or one-hot. If n is less than k, all n are neighbours.
    Distances are Euclidean, and each neighbour has one vote. Of labels with equally many votes, the
    smallest wins.
    """
    # Trees are slower than "brute" even for 20 numbers. With the default metric, Euclidean too,
    # `predict` would need memory for the number of test images times that of distinct labels.
    k = min(k, len(codes))
    classifier = KNeighborsClassifier(k, algorithm="brute", metric="euclidean")
    with warnings.catch_warnings(action="ignore"):  # it warns of labels that are mostly different
        classifier.fit(codes, ae.as_integers(labels))
    batches = in_batches(test_codes, "nearest neighbours")
    predicted = np.concatenate([classifier.predict(batch) for batch in batches])
    return (predicted == ae.as_integers(test_labels)).mean()


# ---- Table and picture ---------------------------------------------------------------------------


def comparison_table(comparisons, pixels_accuracy):
    """Returns a table as text. comparisons: {Z_n: compare(...)}; pixels_accuracy: knn_accuracy of the
    images themselves."""
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
    themselves. The reconstructions are those of the largest Z_n up to 20. Returns a Figure.
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
    rows = {f"{method} {shown}": c.G for method, c in comparisons[shown].items()}
    ae.plot_images(bottom, X=test.images[firsts], **rows)
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
    train, test = sample(data.train), data.test
    pixels_accuracy = knn_accuracy(train.images, test.images, train.labels, test.labels)
    print(comparison_table(comparisons, pixels_accuracy))
    figure = plot_comparison(data.test, comparisons, pixels_accuracy)
    figure.savefig(args.logdir / "pca.png", dpi=100)
    print(f"picture: {args.logdir / 'pca.png'}")


if __name__ == "__main__":
    example = "python -m beyond.pca --recipe tuned --Z_n 10 20"
    parser = ae.Parser("python -m beyond.pca", main.__doc__, "logs/pca", example=example)
    ae.add_hparams(parser)
    Z_ns = [2, 5, 10, 20, 30, 40]
    help = f"latent variables of each (default: {' '.join(map(str, Z_ns))})"
    parser.add_argument(
        "--Z_n", dest="Z_ns", type=int, nargs="+", default=Z_ns, metavar="N", help=help
    )
    sys.exit(ae.run_command(main, parser, hint="; the same command continues"))
