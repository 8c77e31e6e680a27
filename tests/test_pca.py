"""PCA against the autoencoder."""

import dataclasses
import re
import sys

import numpy as np
import pytest

import autoencoder as ae
from beyond import pca
from conftest import files, typed


def svd(X, n):
    """Mean and components (k, n) of the rows of X (m, k), another way."""
    mean = X.mean(axis=0, dtype=np.float64)
    return mean, np.linalg.svd(X - mean, full_matrices=False)[2][:n].T


def test_pca_is_the_svd(small_dir):
    X = ae.read_data_sets(small_dir).train.images
    mean, components = pca.pca(X, 5)
    expected_mean, expected = svd(X, 5)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-12)
    signs = np.sign((components * expected).sum(axis=0))  # of a component, either is right
    np.testing.assert_allclose(components, expected * signs, atol=1e-9)


def test_compare_is_plain_numpy(small_hp, small_dir):
    data = ae.read_data_sets(small_dir)
    X, train_X = data.test.images, data.train.images
    g = ae.build(small_hp)
    with ae.start(g) as sess:
        comparison = pca.compare(sess, g, data)
        Z, G = sess.run([g.Z, g.G], {g.X: X})
        train_Z = sess.run(g.Z, {g.X: train_X})
    mean, basis = svd(train_X, 3)
    codes = (X - mean) @ basis
    expected = {
        "PCA": (codes @ basis.T + mean, codes, (train_X - mean) @ basis),
        "autoencoder": (G, Z, train_Z),
    }
    assert list(comparison) == list(expected)
    for way, (restored, test_codes, codes) in expected.items():
        evaluation, accuracy, found = comparison[way]
        np.testing.assert_allclose(found, restored, atol=1e-5)
        error = ((restored - X) ** 2).sum()  # of 100 images
        assert evaluation.score == pytest.approx(error / 2, rel=1e-5)
        assert evaluation.per_pixel == pytest.approx(error / 1600, rel=1e-5)
        assert (evaluation.live, evaluation.Z_n) == ((test_codes != 0).any(axis=0).sum(), 3)
        assert accuracy == accuracy_by_sorting(codes, test_codes, data)


def accuracy_by_sorting(codes, test_codes, data):
    right = 0
    for code, label in zip(test_codes.astype(np.float64), data.test.labels):
        nearest = np.argsort(((codes - code) ** 2).sum(axis=1), kind="stable")[:5]
        votes = data.train.labels[nearest].tolist()
        right += max(sorted(set(votes)), key=votes.count) == label
    return right / len(test_codes)


def test_pca_of_full_rank_restores_everything(small_hp, small_dir):
    g = ae.build(dataclasses.replace(small_hp, Z_n=16))
    with ae.start(g) as sess:
        evaluation = pca.compare(sess, g, ae.read_data_sets(small_dir))["PCA"].evaluation
    assert evaluation.score < 1e-8 and evaluation.live == 16


def test_nearest_neighbours_by_hand():
    codes = np.array([[0.0], [1], [2], [10], [11], [12]], np.float32)
    labels = np.array([7, 7, 3, 5, 3, 3])
    tests = np.array([[0.9], [11.2], [1.9]], np.float32)  # nearest three: 7 7 3, 3 3 5, 7 7 3
    assert pca.knn_accuracy(codes, tests, labels, np.array([7, 3, 3]), k=3) == 2 / 3
    with pca.nearest_of(codes, 9) as nearest:  # of six
        indices, squares = nearest(np.array([[4.0]], np.float32))
    assert indices.tolist() == [[2, 1, 0, 3, 4, 5]]
    assert squares.tolist() == [[4, 9, 16, 36, 49, 64]]


SIZE = ["--enc_n", 8, 6, "--dec_n", 6, 8, "--epoch_n", 2]


def test_the_table_and_again(small_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(ae, "compiled_steps", ae.fed_steps)  # four compilations take long
    logdir = tmp_path / "logs"
    command = [*SIZE, "--Z_n", 5, 2, 5, "--data_dir", small_dir, "--logdir", logdir]
    assert typed(*command, module="pca") == 0
    out, err = capfd.readouterr()
    assert err == "" and out.count("epoch: ") == 2 * 2
    *_, head, pca2, ae2, pca5, ae5, pixels, picture = out.splitlines()
    assert re.split("  +", head.strip()) == [
        "Z_n", "way", "score", "per pixel", "5-nearest-neighbour accuracy",
    ]  # fmt: skip
    rows = [line.split() for line in (pca2, ae2, pca5, ae5)]
    assert [row[:2] for row in rows] == [
        ["2", "PCA"], ["2", "autoencoder"], ["5", "PCA"], ["5", "autoencoder"],
    ]  # fmt: skip
    data = ae.read_data_sets(small_dir)
    X, train_X = data.test.images, data.train.images
    for (_, _, score, per_pixel, accuracy), n in ((rows[0], 2), (rows[2], 5)):
        mean, basis = svd(train_X, n)
        error = (((X - mean) @ basis @ basis.T + mean - X) ** 2).sum()
        assert float(score) == pytest.approx(error / 2, abs=0.06)
        assert float(per_pixel) == pytest.approx(error / 1600, abs=6e-6)
        right = accuracy_by_sorting((train_X - mean) @ basis, (X - mean) @ basis, data)
        assert accuracy == f"{100 * right:.2f}%"
    assert pixels.split() == [
        "the",
        "pixels",
        f"{100 * accuracy_by_sorting(train_X, X, data):.2f}%",
    ]
    assert picture == f"picture: {logdir / 'pca.png'}"
    assert (logdir / "pca.png").read_bytes().startswith(b"\x89PNG")

    weights = {path: content for path, content in files(logdir).items() if ".data-" in path.name}
    assert typed(*command, module="pca") == 0  # and what is complete is not trained again
    again = capfd.readouterr().out
    assert "epoch: " not in again and again.count("resumed after epoch 2") == 2
    assert again.splitlines()[-7:] == out.splitlines()[-7:]
    assert weights.items() <= files(logdir).items() and len(weights) == 2 * 2


def test_images_without_labels_are_refused(small_dir, tmp_path, capfd):
    data = ae.read_data_sets(small_dir)
    np.savez(tmp_path / "x.npz", x_train=data.train.pixels, x_test=data.test.pixels)
    before = files(tmp_path)
    assert typed("--data_dir", tmp_path / "x.npz", "--logdir", tmp_path / "l", module="pca") == 2
    assert capfd.readouterr().err == (
        "python -m beyond.pca: error: the images have no labels, and this needs them\n"
    )
    assert files(tmp_path) == before


@pytest.mark.parametrize("watched", [True, False])
def test_what_is_printed_on_one_line_is_gone_at_its_end(capsys, monkeypatch, watched):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: watched)
    with pca.on_one_line():
        assert sys.stdout.isatty() == watched
        print("trial 0: activation relu, batch_size 100, " + 99 * "9")
        print("epoch: 1, loss: 1234.5", end="", flush=True)
        print("\repoch: 1, loss: 123.4, validation loss: 5678.9")
    print("score: 6.7")
    out, screen = capsys.readouterr().out, ""
    assert ("loss: 1234.5" in out) == watched
    for text in out.rstrip("\n").split("\r"):  # as a terminal: over what is there
        screen = text + screen[len(text) :]
    assert screen.rstrip(" ") == "score: 6.7"
