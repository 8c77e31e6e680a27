"""beyond.anomaly, against NumPy's sums and sorted distances, and scikit-learn's AUROC."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import autoencoder as ae
from beyond import anomaly
from beyond.common import load_run
from conftest import SMALL, typed


def scores_by_numpy(sess, g, X, normal):
    """The four scores of images X, by formula. normal: the images whose Z are normal."""
    Z, G, codes = sess.run(g.Z, {g.X: X}), sess.run(g.G, {g.X: X}), sess.run(g.Z, {g.X: normal})
    error = ((G.astype(np.float64) - X) ** 2).sum(axis=1) / 2
    relative_error = error / (1 + (X.astype(np.float64) ** 2).sum(axis=1))
    neighbors = NearestNeighbors(n_neighbors=5, metric="cosine").fit(codes.astype(np.float64))
    distance = neighbors.kneighbors(Z.astype(np.float64))[0].mean(axis=1)
    return {
        "error": error,
        "relative error": relative_error,
        "distance": distance,
        "combined": relative_error**0.25 * distance,
    }


def test_scores_threshold_and_flags(model):
    with load_run(model[0]) as (sess, g, data):
        normal = data.train.images
        X = np.tile(data.test.images, (11, 1))  # 1,100: two batches
        X[0] = 0  # a black image has no ink to be relative to
        detector = anomaly.make_detector(sess, g, data)
        found = anomaly.score_images(sess, g, detector.scores, X)
        scores, flags = anomaly.detect(sess, g, X, detector)
        expected = scores_by_numpy(sess, g, X, normal)
        of_validation = scores_by_numpy(sess, g, data.validation.images, normal)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6)
    assert np.array_equal(scores, found[anomaly.SCORE])
    # Of 27 validation images, 1 is less than 5%, and 2 are more.
    threshold = np.sort(of_validation[anomaly.SCORE])[-2]
    assert detector.threshold == pytest.approx(threshold, rel=1e-4)
    assert np.array_equal(flags, scores > detector.threshold)
    assert 0 < flags.sum() < len(flags)


@pytest.mark.parametrize("experiment", anomaly.EXPERIMENTS)
def test_experiments(small_dir, tmp_path, monkeypatch, capfd, experiment):
    monkeypatch.setattr(ae, "compile_loop", lambda *_: ae.feed_loop)
    # A rate that falls needs the number of the images that are trained on.
    command = [*SMALL, "--experiment", experiment, "--epoch_n", 1, "--schedule", "linear"]
    command += ["--data_dir", small_dir, "--logdir", tmp_path / "logs"]
    assert typed(*command, module="anomaly") == 0
    out, err = capfd.readouterr()
    assert err == ""
    pattern = r"error ([0-9.]+), relative error ([0-9.]+), distance ([0-9.]+), .* ([0-9.]+)\n"
    areas = np.array(re.findall(pattern, out), float)
    assert len(areas) == (4 if experiment == "no-digits" else 10)
    means = out.splitlines()[-2].split()[2:]
    np.testing.assert_allclose(np.array(means, float), areas.mean(axis=0), atol=1e-4)
    assert (tmp_path / "logs" / f"{experiment}.png").exists()


def test_one_label_against_the_others(small_dir):
    data = ae.read_data_sets(small_dir)
    for one, experiment in ((True, "one-normal"), (False, "one-abnormal")):
        for label, (train, normal, abnormal) in enumerate(anomaly.cases(experiment, data)):
            is_normal = (data.test.labels == label) == one
            assert np.array_equal(normal, data.test.images[is_normal])
            assert np.array_equal(abnormal[f"label {label}"], data.test.images[~is_normal])
            assert np.array_equal(train.labels == label, np.full(len(train.labels), one))
            assert len(train.labels) == ((data.train.labels == label) == one).sum()


def test_auroc_is_the_share_of_pairs_in_which_the_abnormal_image_has_the_greater_score():
    truth, scores = anomaly.truth_and_scores(np.array([1, 2, 4]), np.array([3, 5]))
    assert roc_auc_score(truth, scores) == pytest.approx(5 / 6)  # 3 > 1, 3 > 2, 5 > 1, 2 and 4


def test_labels_that_make_no_experiment_are_refused_before_training(small_dir, tmp_path, capfd):
    train, _, test, _ = ae.read_data_sets(small_dir)
    for name, y_train, y_test, phrase in (
        ("missing", train.labels, np.minimum(test.labels, 8), "not have the same labels"),
        ("single", 0 * train.labels, 0 * test.labels, "all images have the label 0"),
        ("none", None, None, "no labels"),
    ):
        labels = {} if y_train is None else {"y_train": y_train, "y_test": y_test}
        path = tmp_path / f"{name}.npz"
        np.savez(path, x_train=train.images, x_test=test.images, **labels)
        assert typed("--data_dir", path, "--logdir", tmp_path / "logs", module="anomaly") == 2
        assert phrase in capfd.readouterr().err
    assert not (tmp_path / "logs").exists()
