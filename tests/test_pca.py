"""beyond.pca, against NumPy's singular value decomposition and neighbours found by sorting."""

import numpy as np
import pytest

import autoencoder as ae
from beyond import pca
from conftest import files, typed


def svd(X, n):
    """Mean and principal components (k, n) of the rows of X (m, k)."""
    mean = X.mean(axis=0, dtype=np.float64)
    return mean, np.linalg.svd(X - mean, full_matrices=False)[2][:n].T


def accuracy_by_sorting(codes, test_codes, data):
    """5-nearest-neighbour accuracy. Of labels with as many votes, the smallest wins."""
    correct = 0
    for code, label in zip(test_codes.astype(np.float64), data.test.labels):
        nearest = np.argsort(((codes - code) ** 2).sum(axis=1), kind="stable")[:5]
        votes = data.train.labels[nearest].tolist()
        correct += max(sorted(set(votes)), key=votes.count) == label
    return correct / len(test_codes)


def test_compare_is_numpys(small_hp, small_dir):
    data = ae.read_data_sets(small_dir)
    X, train_X = data.test.images, data.train.images
    g = ae.build(small_hp)
    with ae.start_session(g) as sess:
        comparison = pca.compare(sess, g, data)
        Z, G = sess.run([g.Z, g.G], {g.X: X})
        train_Z = sess.run(g.Z, {g.X: train_X})
    mean, components = svd(train_X, 3)
    codes = (X - mean) @ components
    expected = {
        "PCA": (codes @ components.T + mean, codes, (train_X - mean) @ components),
        "autoencoder": (G, Z, train_Z),
    }
    for method, (restored, test_codes, codes) in expected.items():
        found = comparison[method]
        np.testing.assert_allclose(found.G, restored, atol=1e-5)
        squares = ((restored - X) ** 2).sum()  # of 100 images of 16 pixels
        assert found.evaluation.score == pytest.approx(squares / 2, rel=1e-5)
        assert found.evaluation.mse == pytest.approx(squares / 1600, rel=1e-5)
        assert found.accuracy == accuracy_by_sorting(codes, test_codes, data)


def test_command_and_again(small_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(ae, "compile_loop", lambda *_: ae.feed_loop)
    command = ["--enc_n", 8, "--dec_n", 8, "--epoch_n", 2, "--Z_n", 5, 2]
    command += ["--data_dir", small_dir, "--logdir", tmp_path / "logs"]
    assert typed(*command, module="pca") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.count("epoch: ") == 4
    data = ae.read_data_sets(small_dir)
    rows = {tuple(line.split()[:2]) for line in out.splitlines()}
    accuracy = accuracy_by_sorting(data.train.images, data.test.images, data)
    assert {("2", "PCA"), ("5", "autoencoder"), ("pixels", f"{accuracy:.2%}")} <= rows
    assert (tmp_path / "logs" / "pca.png").exists()
    assert typed(*command, module="pca") == 0
    again = capfd.readouterr().out
    assert "epoch: " not in again  # what is complete is not trained again
    assert again.splitlines()[-7:] == out.splitlines()[-7:]


def test_images_without_labels_are_refused(small_dir, tmp_path, capfd):
    data = ae.read_data_sets(small_dir)
    np.savez(tmp_path / "x.npz", x_train=data.train.pixels, x_test=data.test.pixels)
    before = files(tmp_path)
    assert typed("--data_dir", tmp_path / "x.npz", "--logdir", tmp_path / "a", module="pca") == 2
    assert "no labels" in capfd.readouterr().err
    assert files(tmp_path) == before
