"""beyond.kinds: each is trained alike by both loops, and after a kill; losses and noise by NumPy."""

import os
import subprocess
import sys

import numpy as np
import pytest

import autoencoder as ae
from beyond.kinds import KINDS, normal, uniform, variational
from beyond.variants import evidence
from conftest import ROOT
from test_built import HP, IMAGES, check, train

tf = ae.tf
# Trains each kind in a process that is killed after the first epoch. It forks before it has a session.
KILLED = """
import os, signal
from beyond.kinds import KINDS
from test_built import HP, train
for kind, make in KINDS.items():
    child = os.fork()
    if not child:
        train(make(HP), kind, on_epoch=lambda epoch: os.kill(os.getpid(), signal.SIGKILL))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of runs that were killed after their first epoch, in folders named as their kinds."""
    folder = tmp_path_factory.mktemp("killed")
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", KILLED], cwd=folder, env=env, check=True, timeout=300)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_both_loops_and_a_killed_run_end_with_the_same_weights(kind, killed, capsys, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    net = KINDS[kind](HP)
    unbroken = train(net)
    capsys.readouterr()
    check(train(net, loop=None), unbroken, rtol=1e-5, atol=1e-5)
    assert ("without XLA" in capsys.readouterr().out) == (kind == "convolutional")
    check(train(net, killed / kind, resume=True), unbroken)
    assert "resumed after epoch 1\n" in capsys.readouterr().out


def test_noise_is_normal_and_differs_from_step_to_step_and_by_its_use():
    with tf.Graph().as_default(), tf.Session() as sess:
        noise = [normal([1000, 31], HP), normal([1000, 31], HP, use=1)]
        step = tf.train.get_global_step()
        sess.run(step.initializer)
        draws = [*sess.run(noise), *sess.run(noise)[:1]]
        sess.run(step.assign_add(1))
        draws += sess.run(noise)
        shares = np.histogram(sess.run(uniform([30000], HP)), 10, (0, 1))[0] / 30000
    assert np.array_equal(draws[0], draws[2])
    draws = np.reshape([draws[k] for k in (0, 1, 3, 4)], [4, -1]).astype(np.float64)
    np.testing.assert_allclose(np.cov(draws), np.eye(4), atol=0.03)  # of 31,000: five sigmas
    np.testing.assert_allclose(draws.mean(axis=1), 0, atol=0.03)
    np.testing.assert_allclose((draws**4).mean(axis=1), 3, atol=0.3)
    np.testing.assert_allclose(shares, 0.1, atol=0.01)


def test_the_elbo_is_numpys_and_less_than_the_bound_of_200_samples():
    net = variational(HP, beta=4.0)
    with ae.start_session(net) as sess:
        split = net.X.graph.get_operation_by_name("sample/split").outputs
        logits = net.G.op.inputs[0]
        feed = {net.X: IMAGES, **net.training_feed}
        mean, log_variance, drawn, loss = sess.run([*split, logits, net.loss], feed)
        parts = evidence(sess, net, IMAGES)
        assert np.array_equal(*sess.run([net.Z, split[0]], {net.X: IMAGES}))  # Z is the mean
        noise = np.random.default_rng(0).standard_normal([200, *mean.shape])
        Z = mean + np.exp(log_variance / 2) * noise
        many = sess.run(logits, {net.Z: Z.reshape(-1, HP.Z_n)}).reshape(200, *IMAGES.shape)
    cross_entropy = np.logaddexp(0, np.float64(drawn)).sum() - (IMAGES * drawn).sum()
    divergence = (np.exp(log_variance) + mean**2 - 1 - log_variance).sum() / 2
    assert parts * len(IMAGES) == pytest.approx([cross_entropy, divergence], rel=1e-4)
    assert loss == pytest.approx(cross_entropy + 4 * divergence, rel=1e-4)
    log_p_of_X = (IMAGES * many - np.logaddexp(0, np.float64(many))).sum(axis=2)
    log_weights = log_p_of_X - (Z**2 - noise**2 - log_variance).sum(axis=2) / 2
    minus_bound = np.log(200) - np.logaddexp.reduce(log_weights, axis=0)
    assert minus_bound.mean() < sum(parts) == pytest.approx(-log_weights.mean(), rel=0.05)


@pytest.mark.parametrize("kind", ["cross-entropy", "sparse"])
def test_the_loss_is_numpys(kind):
    net = KINDS[kind](HP)
    with ae.start_session(net) as sess:
        Z, G, loss = sess.run([net.Z, net.G, net.loss], {net.X: IMAGES})
    X, Z, G = np.float64(IMAGES), np.float64(Z), np.float64(G)
    expected = {
        "cross-entropy": -(X * np.log(G) + (1 - X) * np.log(1 - G)).sum(),
        "sparse": ((G - X) ** 2).sum() / 2 + 0.05 * abs(Z).sum(),
    }
    assert loss == pytest.approx(expected[kind], rel=1e-4)


@pytest.mark.parametrize("kind", ["denoising", "masking"])
def test_images_are_damaged_in_training_only(kind):
    net = KINDS[kind](HP)
    encoded = net.X.graph.get_operation_by_name("Encoder/Layer01/MatMul").inputs[0]
    with ae.start_session(net) as sess:
        damaged = sess.run(encoded, {net.X: IMAGES, **net.training_feed})
        assert np.array_equal(sess.run(encoded, {net.X: IMAGES}), IMAGES)
    if kind == "denoising":
        assert np.std(damaged - IMAGES) == pytest.approx(0.5, rel=0.05)  # of 3,360 numbers
    else:
        kept = damaged != 0
        assert np.array_equal(damaged[kept], 2 * IMAGES[kept])
        assert kept.mean() == pytest.approx(0.5, abs=0.05)
