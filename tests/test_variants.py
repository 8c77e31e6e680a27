"""beyond.variants: each kind is trained alike by both loops, resumed and opened; the ELBO by NumPy."""

import dataclasses
import re

import numpy as np
import pytest

import autoencoder as ae
from beyond import keras_model, variants
from beyond.common import load_run, open_network
from conftest import SMALL, typed
from test_built import HP, IMAGES, check, train

tf = ae.tf
ALL = pytest.mark.parametrize("kind", variants.KINDS)


@ALL
def test_both_loops_and_a_resumed_run_end_with_the_same_weights(kind, tmp_path, capsys):
    short = variants.KINDS[kind](dataclasses.replace(HP, epoch_n=1))
    net = variants.KINDS[kind](HP)
    unbroken = train(net)
    capsys.readouterr()
    check(train(net, loop=None), unbroken, rtol=1e-5, atol=1e-5)
    assert ("without XLA" in capsys.readouterr().out) == (kind == "convolutional")
    train(short, tmp_path)
    check(train(net, tmp_path, resume=True), unbroken)


def test_noise_is_normal_and_differs_from_step_to_step_and_by_its_use():
    with tf.Graph().as_default(), tf.Session() as sess:
        x = tf.zeros([1000, 31])
        noise = [variants.normal(x, HP), variants.normal(x, HP, use=1)]
        step = tf.train.get_global_step()
        sess.run(step.initializer)
        draws = [*sess.run(noise), *sess.run(noise)[:1]]
        sess.run(step.assign_add(1))
        draws += sess.run(noise)
    assert np.array_equal(draws[0], draws[2])
    draws = np.reshape([draws[k] for k in (0, 1, 3, 4)], [4, -1]).astype(np.float64)
    np.testing.assert_allclose(np.cov(draws), np.eye(4), atol=0.03)  # of 31,000: five sigmas
    np.testing.assert_allclose(draws.mean(axis=1), 0, atol=0.03)
    np.testing.assert_allclose((draws**4).mean(axis=1), 3, atol=0.3)


def test_the_elbo_is_numpys():
    net = variants.variational(HP, beta=4.0)
    with ae.start_session(net) as sess:
        split = net.X.graph.get_operation_by_name("sample/split").outputs
        feed = {net.X: IMAGES[:20], **net.training_feed}
        logits = net.G.op.inputs[0]
        mean, log_variance, logits, loss = sess.run([*split, logits, net.loss], feed)
        parts = variants.evidence(sess, net, IMAGES[:20])
        mode = sess.run([net.Z, split[0]], {net.X: IMAGES[:20]})
    assert np.array_equal(*mode)  # without noise, Z is the mean
    X, variance = IMAGES[:20], np.exp(np.float64(log_variance))
    log_G = -np.logaddexp(0, -np.float64(logits))
    log_1_minus_G = -np.logaddexp(0, np.float64(logits))
    cross_entropy = -(X * log_G + (1 - X) * log_1_minus_G).sum()
    divergence = (variance + mean**2 - 1 - log_variance).sum() / 2
    assert parts * 20 == pytest.approx([cross_entropy, divergence], rel=1e-4)
    assert loss == pytest.approx(cross_entropy + 4 * divergence, rel=1e-4)


@ALL
def test_a_run_is_opened_by_its_folder_alone(kind, small_dir, tmp_path, capfd):
    run = tmp_path / "run"
    flags = [*SMALL, "--epoch_n", 1, "--data_dir", small_dir, "--logdir", run]
    assert typed(kind, *flags, "--init", "he", module="variants") == 0
    assert (run / "reconstruction.png").exists()
    np.save(tmp_path / "images.npy", IMAGES)
    assert typed(tmp_path / "images.npy", "--logdir", run, module="screen") == 0
    assert typed("--logdir", run, "--output", tmp_path / "saved", module="export") == 0
    assert open_network(run)[2] == kind
    if kind in ("tied", "variational", "convolutional"):
        with pytest.raises(
            ae.AutoEncoderError, match=f"is {kind}, which does not consist of Dense"
        ):
            keras_model.keras_model(run)
    with load_run(run) as (sess, net, data):
        expected = sess.run(net.Z, {net.X: data.test.images})
    with tf.Graph().as_default(), tf.Session() as sess:
        loaded = tf.saved_model.load(sess, ["serve"], str(tmp_path / "saved"))
        encode = loaded.signature_def["encode"]
        feed = {encode.inputs["images"].name: data.test.images}
        np.testing.assert_allclose(sess.run(encode.outputs["Z"].name, feed), expected, rtol=1e-5)
    other = "tied" if kind != "tied" else "plain"
    assert typed(other, *flags, "--init", "he", "--resume", module="variants") == 2
    assert re.search("has another .*graph:", capfd.readouterr().err)
