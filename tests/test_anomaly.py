"""beyond.anomaly, against NumPy's sums and sorted distances."""

import dataclasses
import re

import numpy as np
import pytest
import scipy.signal
import sklearn.decomposition

import autoencoder as ae
from beyond import anomaly, baselines
from beyond.common import load_run
from conftest import SMALL, typed


def logs_by_numpy(sess, net, X, normal):
    """The logarithms of the scores of images X of 4 x 4 pixels, by formula. normal: training images."""
    images = np.float64(np.concatenate([X, normal, np.zeros((1, 16))]))
    Z, G = map(np.float64, sess.run([net.Z, net.G], {net.X: images}))
    Z -= Z[-1]  # that of a black image
    codes = Z[len(X) : -1]
    Z = Z[: len(X)]
    D = G - images
    squares = D**2
    usual = squares[len(X) : -1].mean(axis=0)
    D = D[: len(X)]
    squares = squares[: len(X)]
    lengths = np.linalg.norm(Z, axis=1)[:, None] * np.linalg.norm(codes, axis=1)
    cosines = Z @ codes.T / np.maximum(lengths, 1e-9)  # a black image has no direction
    parts = {  # 4 x 4 pixels are less than a window of 5 x 5
        "error": squares.sum(axis=1) / 2,
        "reconstruction": squares.sum(axis=1) / (1 + (X**2).sum(axis=1)),
        "local": (squares / (usual + usual.mean())).sum(axis=1),
        "brightness": abs(D.sum(axis=1)),
        "distance": 1 - np.sort(cosines, axis=1)[:, -6:-1].mean(axis=1),
    }
    return {name: np.log(values + 1e-4) for name, values in parts.items()}


@pytest.mark.parametrize("distance_images", [0, 3000])
def test_scores_threshold_and_flags(model, distance_images, monkeypatch):
    monkeypatch.setattr(anomaly, "DISTANCE_IMAGES", distance_images)
    with load_run(model[0]) as (sess, net, data):
        X = np.concatenate([data.validation.images, *[data.test.images] * 11])  # two batches
        X[-1] = 0  # a black image has no ink to be relative to
        detector = anomaly.make_detector(sess, net, data)
        scores, flags = anomaly.detect(sess, net, X, detector)
        logs = logs_by_numpy(sess, net, X, data.train.images)
        _, unknown = anomaly.detect(sess, net, np.full((1, 16), np.nan, np.float32), detector)
    expected = {}
    for name, values in logs.items():
        of_validation = np.sort(values[:27])
        median = of_validation[13]
        above = of_validation[13:] - median
        sd = (above @ above / 14) ** 0.5
        expected[name] = (values - median) / sd
        np.testing.assert_allclose(scores[name], expected[name], rtol=1e-3, atol=1e-3)
    parts = ["reconstruction", "local", "brightness"] + ["distance"] * (distance_images == 0)
    largest = np.max([expected[name] for name in parts], axis=0)
    np.testing.assert_allclose(scores["largest"], largest, rtol=1e-3, atol=1e-3)
    # Of 27 validation images, 1 is less than 5%, and 2 are more.
    assert detector.thresholds["largest"] == pytest.approx(np.sort(largest[:27])[-2], abs=3e-3)
    assert np.array_equal(flags["largest"], scores["largest"] > detector.thresholds["largest"])
    assert 0 < flags["largest"].sum() < len(X)
    assert all(map(np.all, unknown.values()))


def test_the_window_with_the_largest_error_by_hand():
    squares = np.random.RandomState(0).rand(3, 64).astype(np.float32)
    expected = np.zeros(3)
    for i, image in enumerate(squares.reshape(3, 8, 8)):
        for y in range(4):
            for x in range(4):
                expected[i] = max(expected[i], image[y : y + 5, x : x + 5].sum())
    with ae.tf.Graph().as_default(), ae.tf.Session() as sess:
        found = sess.run(anomaly.largest_in_window(ae.tf.constant(squares)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("X", [np.ones((60, 16)), np.tile(np.linspace(0, 1, 16), (60, 1))])
def test_images_that_are_all_alike_are_normal(small_hp, X):
    part = ae.DataSet(X.astype(np.float32))
    net = ae.build(small_hp)
    with ae.start_session(net) as sess:
        detector = anomaly.make_detector(sess, net, ae.DataSets(part, part, part))
        scores, flags = anomaly.detect(sess, net, np.float32(X), detector)
        other = np.random.default_rng(0).random((9, 16), np.float32)
        _, of_others = anomaly.detect(sess, net, other, detector)
    assert not flags["largest"].any()
    assert of_others["largest"].any()


def test_plain_methods_are_those_of_numpy():
    rs = np.random.RandomState(0)
    parts = [ae.DataSet(rs.rand(n, 64).astype(np.float32)) for n in (40, 9, 6)]
    train, _, test = [np.float64(part.images) for part in parts]
    methods = baselines.make_baselines(ae.DataSets(*parts), components=3)
    found = {name: method(parts[2].images) for name, method in methods.items()}
    mean = train.mean(axis=0)
    axes = np.linalg.svd(train - mean, full_matrices=False)[2][:3]
    G = np.clip((test - mean) @ axes.T @ axes + mean, 0, 1)
    distances = np.linalg.norm(test[:, None] - train, axis=2)
    cosines = test @ train.T / np.linalg.norm(test, axis=1)[:, None] / np.linalg.norm(train, axis=1)
    expected = {
        "PCA": ((G - test) ** 2).sum(axis=1),
        "cosine": np.sort(1 - cosines)[:, :5].mean(axis=1),
        "Euclidean": np.sort(distances)[:, :5].mean(axis=1),
    }

    def patch(images, y, x):
        return images.reshape(-1, 8, 8)[:, y : y + 7, x : x + 7].reshape(len(images), 49)

    # All four places of 7 x 7 in 8 x 8 pixels are near each other.
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    near = np.stack([patch(train, *place) for place in places], axis=1)

    def nearest(image, others):
        patches = np.concatenate([patch(image[None], *place) for place in places])
        return [np.linalg.norm(near[others] - p, axis=2).min() for p in patches]

    usual = np.array([nearest(image, np.arange(40) != i) for i, image in enumerate(train)])
    median, sd = np.median(usual, axis=0), usual.std(axis=0)
    sd = sd + 0.1 * sd.mean() + 0.01 * median.mean() + 1e-6
    of_test = [nearest(image, np.arange(40)) for image in test]
    expected["patches"] = np.maximum(0, (of_test - median) / sd).max(axis=1)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)


def test_few_validation_images_are_like_new_ones_to_patches():
    images = np.random.RandomState(0).rand(400, 400).astype(np.float32)
    parts = [ae.DataSet(images[rows]) for rows in (slice(196), slice(196, 200), slice(200, None))]
    patches = baselines.make_baselines(ae.DataSets(*parts), components=3)["patches"]
    highest = patches(parts[1].images).max()
    assert (patches(parts[2].images) > highest).mean() < 0.5  # a fifth is expected


def test_random_convolutions_by_scipy_and_numpy():
    rs = np.random.RandomState(0)
    train, test = rs.rand(900, 64).astype(np.float32), rs.rand(6, 64).astype(np.float32)
    filters = np.random.default_rng(0).standard_normal((25, 64), np.float32)
    filters -= filters.mean(axis=0)

    def features(images):
        maps = [
            [scipy.signal.correlate2d(image, f.reshape(5, 5), "valid") for f in filters.T]
            for image in images.reshape(-1, 8, 8)
        ]  # 4 x 4 pixels, so that there is one mean
        return np.maximum(0, maps).mean(axis=(2, 3))

    of_train = features(train)
    difference = features(test) - of_train.mean(axis=0)
    precision = np.linalg.inv(np.cov(of_train.T))
    expected = np.einsum("ij,jk,ik->i", difference, precision, difference)
    found = baselines.make_random_convolutions(train)(test)  # 64 components, which are all
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def test_pictures_that_hardly_differ_are_learned():
    rng = np.random.default_rng(0)
    picture = np.full((20, 20), 0.1)
    picture[4:16, 4:16] = 0.6
    causes = rng.standard_normal((300, 2, 1, 1)) * 0.03  # of light and of a square
    bright_square = np.zeros((20, 20))
    bright_square[8:12, 8:12] = 1
    images = picture * (1 + causes[:, 0]) + bright_square * causes[:, 1]
    images = np.clip(images + rng.normal(0, 0.005, images.shape), 0, 1)
    parts = images.reshape(300, 400).astype(np.float32)
    data = ae.DataSets(*[ae.DataSet(part) for part in (parts[:250], parts[250:], parts[250:])])
    hp = dataclasses.replace(ae.RECIPES["tuned"], X_n=400, train_n=250, epoch_n=200)
    net = ae.build(hp)
    with ae.start_session(net) as sess:
        history = ae.train(sess, net, data, show=lambda *_, **__: None)
    pca = sklearn.decomposition.PCA(20).fit(parts[:250])
    G = pca.inverse_transform(pca.transform(parts[250:]))
    score_of_pca = 100 * ((G - parts[250:]) ** 2).sum() / 2 / 50
    assert history[-1].validation_loss < 1.2 * score_of_pca


def test_defects_change_what_they_say():
    images = np.random.RandomState(0).uniform(0.1, 0.9, (200, 784)).astype(np.float32)
    sizes = {"inverted patch": 25, "hole": 25, "spot": 16, "line": 16}
    found = anomaly.defects(images)
    for kind, size in sizes.items():
        changed = found[kind] != images
        assert np.all(changed.sum(axis=1) == size)
        new = {"inverted patch": (1 - images)[changed], "hole": 0}.get(kind, 1)
        assert np.all(found[kind][changed] == new)


@pytest.mark.parametrize("experiment", anomaly.EXPERIMENTS)
def test_experiments(small_dir, monkeypatch, capfd, experiment):
    monkeypatch.setattr(ae, "compile_loop", lambda *_: ae.feed_loop)
    train, _, test = ae.read_data_sets(small_dir)
    labels = {"y_train": train.labels % 3, "y_test": test.labels % 3}
    np.savez(small_dir / "three.npz", x_train=train.images, x_test=test.images, **labels)
    # A rate that falls needs the number of the images that are trained on.
    command = [*SMALL, "--experiment", experiment, "--epoch_n", 1, "--schedule", "linear"]
    assert typed(*command, "--data_dir", small_dir / "three.npz", module="anomaly") == 0
    out, err = capfd.readouterr()
    assert err == ""
    titles = re.findall(r"^(label .|\w+-\w+|defects)$", out, re.MULTILINE)
    of_labels = [] if experiment == "defects" else ["label 0", "label 1", "label 2"]
    assert titles == [*of_labels, experiment]


def test_one_label_against_the_others(small_dir):
    data = ae.read_data_sets(small_dir)
    for one, experiment in ((True, "one-normal"), (False, "one-abnormal")):
        for label, (_, normal, abnormal) in enumerate(anomaly.cases(experiment, data)):
            for part, whole in zip(normal, data):
                assert np.array_equal(part.images, whole.images[(whole.labels == label) == one])
            others = data.test.images[(data.test.labels == label) != one]
            assert np.array_equal(abnormal["other labels"], others)
