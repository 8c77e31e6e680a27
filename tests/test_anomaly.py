"""beyond.anomaly, against NumPy's sums and sorted distances, and scikit-learn's AUROC."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import autoencoder as ae
from beyond import anomaly
from beyond.common import load_run
from conftest import SMALL, typed


def logs_by_numpy(sess, net, X, normal):
    """The logarithms of the scores of images X of 4 x 4 pixels, by formula. normal: training images."""
    Z, G, codes = (
        sess.run(net.Z, {net.X: X}),
        sess.run(net.G, {net.X: X}),
        sess.run(net.Z, {net.X: normal}),
    )
    squares = (G.astype(np.float64) - X) ** 2
    error = squares.sum(axis=1) / 2
    ink = (X.astype(np.float64) ** 2).sum(axis=1)
    window = squares.sum(axis=1)  # 4 x 4 pixels are less than a window of 5 x 5
    lengths = np.linalg.norm(np.float64(Z), axis=1)[:, None] * np.linalg.norm(codes, axis=1)
    cosines = Z @ np.float64(codes).T / lengths
    distance = 1 - np.sort(cosines, axis=1)[:, -6:-1].mean(axis=1)
    floor = 1e-4
    return {
        "error": np.log(error + floor),
        "reconstruction": np.log(error / (1 + ink) + floor) + np.log(window + floor),
        "distance": np.log(distance + floor),
    }


def test_scores_threshold_and_flags(model):
    with load_run(model[0]) as (sess, net, data):
        normal = data.train.images
        X = np.tile(data.test.images, (11, 1))  # 1,100: two batches
        X[0] = 0  # a black image has no ink to be relative to
        detector = anomaly.make_detector(sess, net, data)
        scores, flags = anomaly.detect(sess, net, X, detector)
        logs = logs_by_numpy(sess, net, X, normal)
        of_validation = logs_by_numpy(sess, net, data.validation.images, normal)
        _, unknown = anomaly.detect(sess, net, np.full((1, 16), np.nan, np.float32), detector)
    expected = {}
    for name, values in logs.items():
        median = np.sort(of_validation[name])[13]  # of 27 images
        above = np.sort(of_validation[name])[13:] - median
        sd = (above @ above / 14) ** 0.5
        expected[name] = (values - median) / sd
        of_validation[name] = (of_validation[name] - median) / sd
        np.testing.assert_allclose(scores[name], expected[name], rtol=1e-3, atol=1e-3)
    largest = np.maximum(expected["reconstruction"], expected["distance"])
    np.testing.assert_allclose(scores["largest"], largest, rtol=1e-3, atol=1e-3)
    # Of 27 validation images, 1 is less than 5%, and 2 are more.
    of_validation = np.maximum(of_validation["reconstruction"], of_validation["distance"])
    assert detector.threshold == pytest.approx(np.sort(of_validation)[-2], abs=3e-3)
    assert np.array_equal(flags, scores["largest"] > detector.threshold)
    assert 0 < flags.sum() < len(flags)
    assert unknown.all()


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
    assert not flags.any()
    assert of_others.any()


def test_defects_change_what_they_say():
    images = np.random.RandomState(0).uniform(0.1, 0.9, (200, 784)).astype(np.float32)
    sizes = {"inverted patch": 25, "hole": 25, "spot": 16, "line": 16}
    found = anomaly.defects(images)
    assert list(found) == list(sizes)
    for kind, damaged in found.items():
        changed = damaged != images
        assert np.array_equal(changed.sum(axis=1), np.full(200, sizes[kind]))
        new = {"inverted patch": 1 - images, "hole": np.zeros(1), "spot": np.ones(1)}
        expected = np.broadcast_to(new.get(kind, np.ones(1)), images.shape)
        np.testing.assert_array_equal(damaged[changed], expected[changed])
        rows, columns = np.nonzero(ae.as_2d(changed[0]))
        if kind != "line":
            assert np.ptp(rows) == np.ptp(columns) == np.sqrt(sizes[kind]) - 1


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
    tables = re.findall(r"^(.*): (AUROC|average precision)$", out, re.MULTILINE)
    means = [(experiment, "AUROC"), (experiment, "average precision")]
    of_labels = [(f"label {i}", "AUROC") for i in range(3)]
    assert tables == (of_labels if experiment.startswith("one") else []) + means


def test_the_table_has_the_mean_over_cases_and_the_standard_deviation_over_seeds():
    values = np.array([[0.5, 0.7], [0.9, 0.7]])  # (cases, seeds)
    by_case = [[{("s", "a"): value, ("s", "b"): 0.25} for value in of_case] for of_case in values]
    row = anomaly.mean_table(by_case, ["s"], ["a", "b"]).splitlines()[1]
    assert row.split() == ["s", "0.700", "0.250", "0.250"]
    by_case[0][0]["s", "a"] = 0.3  # mean of each seed: 0.6 and 0.7
    row = anomaly.mean_table(by_case, ["s"], ["a", "b"]).splitlines()[1]
    assert row.split() == ["s", "0.650", "±", "0.071", "0.250", "0.250"]


def test_baselines_by_numpy():
    train, images = np.random.RandomState(0).rand(2, 40, 9).astype(np.float32)
    baselines = anomaly.make_baselines(ae.DataSet(train), 2)
    found = {name: score(images) for name, score in baselines.items()}
    mean = train.mean(axis=0)
    axes = np.linalg.svd(train - mean)[2][:2]
    G = np.clip((images - mean) @ axes.T @ axes + mean, 0, 1)
    lengths = np.linalg.norm(images, axis=1)[:, None] * np.linalg.norm(train, axis=1)
    all_distances = {
        "cosine distance": 1 - images @ train.T / lengths,
        "Euclidean distance": np.linalg.norm(images[:, None] - train, axis=2),
    }
    expected = {"PCA error": np.square(G - images).sum(axis=1)}
    for name, distances in all_distances.items():
        expected[name] = np.sort(distances, axis=1)[:, :5].mean(axis=1)
    assert list(found) == [*expected, "isolation forest"]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)
    far = np.vstack([images[:1], np.full((1, 9), 9)])
    assert np.argmax(baselines["isolation forest"](far)) == 1


def test_one_label_against_the_others(small_dir):
    data = ae.read_data_sets(small_dir)
    for one, experiment in ((True, "one-normal"), (False, "one-abnormal")):
        for label, (_, normal, abnormal) in enumerate(anomaly.cases(experiment, data)):
            is_normal = (data.test.labels == label) == one
            assert np.array_equal(normal.test.images, data.test.images[is_normal])
            assert np.array_equal(abnormal["other labels"], data.test.images[~is_normal])
            for part, whole in zip([normal.train, normal.validation], data):
                assert np.array_equal(part.labels == label, np.full(len(part.labels), one))
                assert len(part.labels) == ((whole.labels == label) == one).sum()


def test_auroc_is_the_share_of_pairs_in_which_the_abnormal_image_has_the_greater_score():
    scores = {"normal": {"s": np.array([1, 2, 4])}, "other": {"s": np.array([3, 5])}}
    found = anomaly.separations(roc_auc_score, scores)
    assert found == {("s", "other"): pytest.approx(5 / 6)}  # 3 > 1, 3 > 2, 5 > 1, 2 and 4


def test_what_makes_no_experiment_is_refused_before_training(small_dir, tmp_path, capfd):
    train, _, test = ae.read_data_sets(small_dir)
    for name, y_train, y_test, phrase in (
        ("missing", train.labels, np.minimum(test.labels, 8), "two labels or more"),
        ("single", 0 * train.labels, 0 * test.labels, "two labels or more"),
        ("none", None, None, "no labels"),
    ):
        labels = {} if y_train is None else {"y_train": y_train, "y_test": y_test}
        path = tmp_path / f"{name}.npz"
        np.savez(path, x_train=train.images, x_test=test.images, **labels)
        assert typed("--data_dir", path, module="anomaly") == 2
        assert phrase in capfd.readouterr().err
    assert typed("--data_dir", small_dir, "--seed", 0, -1, module="anomaly") == 2
    out, err = capfd.readouterr()
    assert "seed must be an integer >= 0" in err
    assert out == ""
