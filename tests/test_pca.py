"""beyond.pca, against NumPy's singular value decomposition and neighbours found by sorting."""

import dataclasses

import numpy as np
import pytest

import autoencoder as ae
from beyond import pca
from beyond.common import load_run
from conftest import typed


def accuracy_by_sorting(codes, test_codes, data):
    """5-nearest-neighbour accuracy. Of labels with as many votes, the smallest wins."""
    correct, labels = 0, ae.as_integers(data.train.labels)
    for code, label in zip(test_codes.astype(np.float64), ae.as_integers(data.test.labels)):
        nearest = np.argsort(((codes - code) ** 2).sum(axis=1), kind="stable")[:5]
        votes = labels[nearest].tolist()
        correct += max(sorted(set(votes)), key=votes.count) == label
    return correct / len(test_codes)


@pytest.mark.parametrize("n, Z_n, components", [(300, 3, 3), (300, 20, 16), (3, 20, 2)])
def test_results_are_numpys(small_hp, small_dir, n, Z_n, components):
    data = ae.read_data_sets(small_dir, one_hot=n == 3)
    data = dataclasses.replace(data, train=data.train.subset(slice(n)))
    X, train_X = data.test.images, data.train.images
    net = ae.build(dataclasses.replace(small_hp, Z_n=Z_n))
    with ae.start_session(net) as sess:
        results = {"PCA": pca.evaluate_pca(data, Z_n)}
        results["autoencoder"] = pca.evaluate_network(sess, net, data)
        Z, G = sess.run([net.Z, net.G], {net.X: X})
        train_Z = sess.run(net.Z, {net.X: train_X})
    mean = train_X.mean(axis=0, dtype=np.float64)
    V = np.linalg.svd(train_X - mean, full_matrices=False)[2][:components].T
    codes, train_codes = (X - mean) @ V, (train_X - mean) @ V
    pca_G = np.clip(codes @ V.T + mean, 0, 1)
    expected = {"PCA": (pca_G, codes, train_codes), "autoencoder": (G, Z, train_Z)}
    for method, (G, test_codes, codes) in expected.items():
        found = results[method]
        # Components of similar variance are mixed by rounding. The error stays the least possible.
        np.testing.assert_allclose(found.G, G[ae.first_of_each(data.test.labels)], atol=1e-4)
        squared_error = ((G - X) ** 2).sum()  # of 100 images
        assert found.score == pytest.approx(squared_error / 2, rel=1e-5, abs=1e-6)
        assert found.accuracy == accuracy_by_sorting(codes, test_codes, data)
        assert found.live == np.any(test_codes != 0, axis=0).sum()


def test_command(small_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(ae, "compile_loop", lambda *_: ae.feed_loop)
    logdir = tmp_path / "logs"
    command = ["--enc_n", 8, "--dec_n", 8, "--epoch_n", 2, "--Z_n", 5, 2, "--seed", 0, 1]
    assert typed(*command, "--data_dir", small_dir, "--logdir", logdir, module="pca") == 0
    out, err = capfd.readouterr()
    assert (err, out.count("epoch: ")) == ("", 8)
    data = ae.read_data_sets(small_dir)
    by_seed = []
    for seed in (0, 1):
        with load_run(logdir / f"Z_n=5,seed={seed}") as (sess, net, _):
            by_seed.append(ae.evaluate(sess, net, data.test.images))
    scores = [evaluation.score for evaluation in by_seed]
    mean, sd = np.mean(scores), np.std(scores, ddof=1)
    row = f"5 autoencoder {mean:.1f} ± {sd:.1f} {by_seed[0].live} {by_seed[1].live}"
    accuracy = accuracy_by_sorting(data.train.images, data.test.images, data)
    rows = [" ".join(line.split()[:7]) for line in out.splitlines()]
    assert row in rows
    assert f"pixels {accuracy:.2%}" in rows
