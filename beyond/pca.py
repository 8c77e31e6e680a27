"""Is PCA enough? The tutorial asks it and never measures it: see --help.

PCA with n components is the best linear way to reduce an image to n numbers.
"""

import dataclasses
import math
import sys
import warnings
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

import autoencoder as ae
from beyond import common


class Result(NamedTuple):
    score: float  # half the squared error of 100 test images, as autoencoder.evaluate has it
    live: int  # numbers of the code that are not 0 for at least one test image
    accuracy: float  # see knn_accuracy
    G: np.ndarray  # (m, X_n), reconstructions of the first test image of each label


def evaluate_pca(data, n):
    """Returns the Result of PCA with n components. data: DataSets with labels."""
    pca = fit_pca(data.train.images, n)
    codes = pca.transform(data.train.images)
    test_codes = pca.transform(data.test.images)
    return result(codes, test_codes, reconstruct_by_pca(pca, data.test.images), data)


def evaluate_network(sess, net, data):
    """Returns the Result of a trained network. data: DataSets with labels."""
    codes = common.encode_images(sess, net, data.train.images)
    fetches = {"Z": net.Z, "G": net.G}
    found = common.run_batches(sess, net, fetches, data.test.images, "reconstructing")
    return result(codes, found["Z"], found["G"], data)


def result(codes, test_codes, G, data):
    """Returns a Result. codes: (n, m), of the training images; test_codes: (l, m); G: (l, X_n)"""
    score = common.tutorial_score(G, data.test.images)
    live = np.count_nonzero(np.any(test_codes != 0, axis=0))
    accuracy = knn_accuracy(codes, test_codes, data.train.labels, data.test.labels)
    return Result(score, live, accuracy, G[ae.first_of_each(data.test.labels)])


def fit_pca(images, n):
    """Returns scikit-learn's PCA with n components, fitted to images (m, X_n).

    There are at most X_n components, and at most one fewer than images.
    """
    n = min(n, len(images) - 1, images.shape[1])
    # For more than 1,000 pixels, the default solver is a random one. IncrementalPCA needs less memory,
    # but its score on MNIST is worse by 0.5 to 1.7.
    return PCA(n, random_state=0).fit(images)


def reconstruct_by_pca(pca, images):
    """images: (n, X_n) -> reconstructions (n, X_n), clipped to [0, 1], in which the network's G is, too."""
    return np.clip(pca.inverse_transform(pca.transform(images)), 0, 1)


def describe_baselines(data, n):
    """Returns the scores of the validation images by PCA with n components, and by the mean picture of the
    training images as the reconstruction of each, as text; and the mean picture's score. data: DataSets"""
    train, validation = data.train.images, data.validation.images
    pca = fit_pca(train, n)
    pca_score = common.tutorial_score(reconstruct_by_pca(pca, validation), validation)
    mean_score = common.tutorial_score(train.mean(axis=0), validation)
    name = f"PCA with {pca.n_components_} components"
    return f"{name} {pca_score:.1f}, mean picture {mean_score:.1f}", mean_score


def knn_accuracy(codes, test_codes, labels, test_labels, k=5):
    """Returns the accuracy of k-nearest-neighbour classification of test images.

    codes: (n, m), of the training images; test_codes: (l, m).
    labels: (n,) and (l,), any integers; or one-hot. If n is less than k, all n are neighbours.
    Distances are Euclidean, and each neighbour has one vote. Of labels with equally many votes, the
    smallest wins.
    """
    # Trees are slower than "brute" even for 20 numbers. The default metric is Euclidean, too,
    # but with it `predict` needs memory for the test images times the distinct labels.
    k = min(k, len(codes))
    classifier = KNeighborsClassifier(k, algorithm="brute", metric="euclidean")
    with warnings.catch_warnings(action="ignore"):  # it warns of labels that are mostly different
        classifier.fit(codes, ae.as_integers(labels))
    batches = np.array_split(test_codes, math.ceil(len(test_codes) / 1000))
    bar = common.progress_bar("nearest neighbours", batches)
    predicted = np.concatenate([classifier.predict(batch) for batch in bar])
    return (predicted == ae.as_integers(test_labels)).mean()


def table_row(method, Z_n, results):
    """Returns a row of the table. results: the Result of each seed."""
    score = common.mean_sd([result.score for result in results], ".1f")
    live = " ".join(str(result.live) for result in results)
    accuracy = common.mean_sd([100 * result.accuracy for result in results], ".2f")
    return [Z_n, method, score, live, f"{accuracy}%"]


def main(args):
    """Trains an autoencoder for each Z_n and each seed, and compares it on the test images with PCA of
    as many components: scores, latents that are live, and accuracy of nearest neighbours. Continues
    where it was stopped."""
    data = ae.read_data_sets(args.data_dir)
    common.check_labels(data)
    base = ae.hparams_from_args(args, data)
    print(f"device: {ae.device()}")
    table = [["Z_n", "method", "score", "live", "5-nearest-neighbour accuracy"]]
    for Z_n in sorted({*args.Z_ns}):
        results = []
        for seed in args.seeds:
            name = f"Z_n={Z_n},seed={seed}"
            print(name)
            net = ae.build(dataclasses.replace(base, Z_n=Z_n, seed=seed))
            with ae.start_session(net) as sess:
                ae.train(sess, net, data, args.logdir / name, resume=True)
                results.append(evaluate_network(sess, net, data))
        table.append(table_row("PCA", Z_n, [evaluate_pca(data, Z_n)]))
        table.append(table_row("autoencoder", Z_n, results))
    train, test = data.train, data.test
    accuracy = knn_accuracy(train.images, test.images, train.labels, test.labels)
    table.append(["", "pixels", "", "", f"{accuracy:.2%}"])
    print(common.format_table(*table))


if __name__ == "__main__":
    example = "python -m beyond.pca --recipe tuned --Z_n 10 20 --seed 0 1 2"
    parser = ae.Parser("python -m beyond.pca", main.__doc__, example)
    parser.add_data_dir()
    parser.add_logdir("logs/pca", "folder of the runs")
    ae.add_hparams(parser)
    Z_ns = [2, 5, 10, 20, 30, 40]
    help = f"latent variables of each (default: {' '.join(map(str, Z_ns))})"
    parser.add_argument(
        "--Z_n", dest="Z_ns", type=int, nargs="+", default=Z_ns, metavar="N", help=help
    )
    common.add_seeds(parser)
    sys.exit(ae.run_command(main, parser, hint="; the same command continues"))
