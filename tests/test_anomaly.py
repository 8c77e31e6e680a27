"""beyond.anomaly, against NumPy's sums and sorted distances."""

import re

import numpy as np
import pytest

import autoencoder as ae
from beyond import anomaly
from beyond.common import load_run
from conftest import SMALL, typed


def logs_by_numpy(sess, net, X, normal):
    """The logarithms of the scores of images X of 4 x 4 pixels, by formula. normal: training images."""
    Z, G = sess.run([net.Z, net.G], {net.X: X})
    codes = sess.run(net.Z, {net.X: normal})
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
    largest = np.maximum(expected["reconstruction"], expected["distance"])
    np.testing.assert_allclose(scores["largest"], largest, rtol=1e-3, atol=1e-3)
    # Of 27 validation images, 1 is less than 5%, and 2 are more.
    assert detector.threshold == pytest.approx(np.sort(largest[:27])[-2], abs=3e-3)
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
    titles = re.findall(r"^(.*): (?:AUROC|average precision)$", out, re.MULTILINE)
    of_labels = [] if experiment == "defects" else ["label 0", "label 1", "label 2"]
    assert titles == [*of_labels, experiment, experiment]


def test_one_label_against_the_others(small_dir):
    data = ae.read_data_sets(small_dir)
    for one, experiment in ((True, "one-normal"), (False, "one-abnormal")):
        for label, (_, normal, abnormal) in enumerate(anomaly.cases(experiment, data)):
            for part, whole in zip(normal, data):
                assert np.array_equal(part.images, whole.images[(whole.labels == label) == one])
            others = data.test.images[(data.test.labels == label) != one]
            assert np.array_equal(abnormal["other labels"], others)
