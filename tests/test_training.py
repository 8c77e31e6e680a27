"""Hyperparameters, training, evaluation and the picture, against NumPy and counts by hand."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re

import numpy as np
import pytest

import autoencoder as ae
from conftest import files
from test_built import DATA, HP, IMAGES, build, train

tf = ae.tf


@pytest.mark.parametrize("name, value", [("enc_n", (5, 0)), ("epoch_n", 2.5), ("init", "He")])
@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_a_wrong_hyperparameter_is_named(name, value, rate):
    for wrong in ({name: value}, {"learning_rate": rate}):
        with pytest.raises(ae.AutoEncoderError, match=f"^{[*wrong][0]} must be "):
            ae.HParams(**wrong)


def test_defaults_are_the_tutorials_and_numpy_numbers_and_lists_are_accepted():
    others = ("relu", "relu", "normal", "none", 55000, 10, 100, 0.001, "constant", 0.0, 0)
    assert dataclasses.astuple(ae.HParams()) == (784, (500, 300), 20, (300, 500), *others)
    hp = ae.HParams(Z_n=np.int64(5), learning_rate=np.float32(0.5), enc_n=[7, np.int32(8)], dec_n=9)
    assert hp == ae.HParams(Z_n=5, learning_rate=0.5, enc_n=(7, 8), dec_n=(9,))
    assert json.loads(json.dumps(dataclasses.asdict(hp)))["enc_n"] == [7, 8]


def test_a_second_training_in_a_session_starts_the_schedule_again():
    net = build(dataclasses.replace(HP, schedule="linear"))
    with ae.start_session(net) as sess:
        ae.train(sess, net, DATA, loop=ae.feed_loop)
        first, second = ae.train(sess, net, DATA, loop=ae.feed_loop)
        assert second.validation_loss < first.validation_loss
        assert sess.run(tf.train.get_global_step(net.X.graph)) == 2 * 11  # minibatches


def test_weight_decay_shrinks_the_weights_after_adams_step():
    hp = dataclasses.replace(HP, epoch_n=1, batch_size=len(IMAGES))  # one step
    _, without = train(ae.build(hp))
    _, decayed = train(ae.build(dataclasses.replace(hp, weight_decay=3.0)))
    assert without.keys() == decayed.keys()
    for name, value in without.items():
        is_weight = re.fullmatch(r".*/w:0", name)
        expected = value * (1 - hp.learning_rate * 3) if is_weight else value
        np.testing.assert_allclose(decayed[name], expected, rtol=1e-6)


def loss_with_summary_of_vector(G, X):
    tf.summary.scalar("errors", tf.reduce_sum(tf.square(G - X), axis=1))
    return ae.l2_loss(G, X)


def test_what_cannot_be_trained_leaves_the_earlier_run(tmp_path):
    run = tmp_path / "run"
    train(build(), run)
    before = files(tmp_path)
    net = build()
    final = build()
    final.X.graph.finalize()
    X, Z, G, L = net[1:5]
    with X.graph.as_default():
        targets = tf.placeholder(tf.float32, [None, 16], "targets")
        share = tf.placeholder(tf.float32, [], "share")
        of_bytes = tf.placeholder(tf.uint8, [None, 16])
        images = tf.placeholder(tf.float32, [None, 4, 4, 1])
        early = tf.variables_initializer(tf.trainable_variables())
        changes = (
            ({"X": of_bytes}, "X must be a placeholder of floats, not .* uint8"),
            ({"X": 2 * X}, "X must be a placeholder of floats, not mul"),
            ({"X": images}, r"X must be \(batch, 16\), not \(None, 4, 4, 1\): use tf.reshape"),
            ({"init": early}, "init does not initialize training/beta1_power, .*: make init after"),
            ({"loss": L / (0 * L)}, r"loss \(.*\) is inf before training"),
            ({"X": targets}, "loss does not depend on X, targets:0"),
            ({"loss": ae.l2_loss(G, targets)}, "loss needs the placeholder targets, .*targets = X"),
            ({"Z": Z * share}, "Z needs the placeholder share, .*placeholder_with_default"),
            ({"opt": [net.opt, share]}, "opt needs the placeholder share"),
            (
                {"opt": tf.train.AdamOptimizer()},
                "opt must be what minimize returns, not .*AdamOptimizer",
            ),
            ({"training_feed": {share: 0.5}}, "share:0 in training_feed must be a tf.place"),
            (
                {"G": tf.reshape(G, [-1, 4, 4])},
                r"G \(Reshape:0\) must be \(10, 16\), not \(10, 4, 4\)",
            ),
            ({"loss": tf.reduce_sum(G, axis=1)}, r"loss \(Sum:0\) must be a scalar, not \(10,\)"),
            ({"Z": tf.reduce_sum(Z, axis=1)}, r"Z \(Sum_1:0\) must be \(batch, n\), not \(10,\)"),
            (
                {"Z": Z + tf.zeros([20, 3])},
                "fixed number of images, batch_size must be that and divide 210",
            ),
        )
    cases = [(net._replace(**change), DATA, run, words) for change, words in changes]
    summary = build(loss=loss_with_summary_of_vector)
    linear = build(dataclasses.replace(HP, schedule="linear", train_n=55000))
    images = ae.DataSet((255 * IMAGES).astype(np.uint8))
    high = ae.DataSet(IMAGES.reshape(-1, 4, 4, 1))
    none = DATA.validation.subset(slice(0))
    cases += (
        (final, DATA, run, "the graph is finalized"),
        (summary, DATA, run, r"a tf.summary cannot be run: tags and values are not the same shape"),
        (net, dataclasses.replace(DATA, train=high), run, r"X_n is 16, .* \(210, 4, 4, 1\)"),
        (net, dataclasses.replace(DATA, train=images), run, "floats from 0 to 1, not uint8"),
        (net, dataclasses.replace(DATA, validation=none), run, "there are no validation images"),
        (linear, DATA, run, "needs train_n: it is 55000, not 210"),
        (net, DATA, f"{tmp_path}/logs\\run", r"in a path with \["),
        (net, DATA, None, "needs the logdir"),
    )
    for network, data, logdir, words in cases:
        with pytest.raises(ae.AutoEncoderError, match=words):
            train(network, logdir, data, resume=logdir is None)
    assert files(tmp_path) == before


@pytest.mark.parametrize("loop, seconds, shown", [(None, 9, 1), (ae.feed_loop, 0.09, 4)])
def test_on_a_terminal_the_loss_so_far_is_printed_over(loop, seconds, shown, monkeypatch):
    """seconds: that one of the 11 minibatches takes; but the compiled loop makes one call of all."""
    clock = itertools.count(1)
    monkeypatch.setattr(ae.print_line, "next_progress", 0.0)
    monkeypatch.setattr(ae.time, "monotonic", lambda: seconds * next(clock))
    terminal, other_end = os.openpty()
    with open(other_end, "w") as stdout, contextlib.redirect_stdout(stdout):
        history, _ = train(build(), loop=loop)
    lines = os.read(terminal, 10**6).decode().split("\r\n")
    assert len(lines) == 3 and lines[-1] == ""
    for epoch, line in zip(history, lines):
        _, *progress, last = line.split("\r")
        assert abs(len(progress) - shown) < 2
        assert float(progress[-1].split("loss: ")[1]) == pytest.approx(epoch.loss, rel=0.2)
        assert last.endswith(f", validation loss: {epoch.validation_loss:.3f}")


def test_evaluation_by_hand():
    net = build(loss=lambda G, X: tf.reduce_mean(tf.square(G - X)))
    net = net._replace(Z=net.Z * [1.0, 0.0, 1.0])  # a latent that is 0 for every image is not live
    X = IMAGES[:50]  # minibatches of 20, 20 and 10
    with ae.start_session(net) as sess:
        result = ae.evaluate(sess, net, X)
        errors = np.square(sess.run(net.G, {net.X: X}) - np.float64(X))
    losses = [batch.mean() for batch in np.split(errors, [20, 40])]
    assert result == pytest.approx((sum(losses) * 100 / 50, errors.mean(), 2, 3), rel=1e-6)


def test_the_picture_shows_the_images_that_it_is_given():
    X = np.random.RandomState(0).rand(12, 16)
    G = X / 2
    some_labels = np.array([1, 0, 1, 2, 0, 2] * 2)
    cases = [(some_labels, [1, 0, 3]), (None, range(10)), (-np.arange(12), range(11, 1, -1))]
    for labels, firsts in cases:
        axes = ae.plot_reconstruction(X, G, labels).get_axes()
        shown = [np.asarray(a.images[0].get_array()).ravel() for a in axes]
        np.testing.assert_array_equal(shown, [X[0], G[0], *X[firsts], *G[firsts]])
        assert {a.images[0].get_clim() for a in axes} == {(0, 1)}  # black is 0 in each
        assert [a.get_ylabel() for a in axes[:2]] == ["X", "G"]
