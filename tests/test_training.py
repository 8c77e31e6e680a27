"""Hyperparameters, training, evaluation and the picture, against NumPy and counts by hand."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

import autoencoder as ae
from conftest import files
from test_built import HP, PIXELS, build, mean_loss, train

tf = ae.tf

WRONG = {
    "X_n": [0, [784]],
    "Z_n": ["20", -1],
    "epoch_n": [2.5, True, math.inf],
    "batch_size": [None],
    "enc_n": [500, "500", (500, 0), [[500]], (True,)],
    "dec_n": [None, (3.5,)],
    "seed": [-1, 1.0, False],
    "learning_rate": [0, -0.1, "fast", True, None, math.nan, math.inf, [0.1]],
    "activation": ["Relu", "linear"],
    "Z_activation": [None, "swish"],
    "init": [0.1],
    "schedule": [["cosine"]],
    "weight_decay": [-0.1],
    "G_bias": [-101, 100, math.nan],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_hyperparameter_is_named(name):
    for value in WRONG[name]:
        with pytest.raises(ae.AutoEncoderError) as error:
            ae.HParams(**{name: value})
        assert str(error.value).startswith(f"{name} must be ")
        assert repr(value) in str(error.value)


def test_defaults_are_the_tutorials_and_numpy_numbers_and_lists_are_accepted():
    others = ("relu", "relu", "normal", 0.0, 10, 100, 0.001, "constant", 0.0, 0)
    assert dataclasses.astuple(ae.HParams()) == (784, (500, 300), 20, (300, 500), *others)
    hp = ae.HParams(Z_n=np.int64(5), learning_rate=np.float32(0.5), enc_n=[7, np.int32(8)])
    assert hp == ae.HParams(Z_n=5, learning_rate=0.5, enc_n=(7, 8))
    assert json.loads(json.dumps(dataclasses.asdict(hp)))["enc_n"] == [7, 8]


def test_every_image_once_an_epoch_and_in_another_order():
    class Session:
        def run(self, fetches, feed):
            batches.append(feed[g.X])
            return 0.0, None

    g = build(dataclasses.replace(HP, X_n=1, batch_size=100))
    images = np.arange(1050, dtype=np.float32)[:, None]
    other_seed = g._replace(hp=dataclasses.replace(g.hp, seed=1))
    orders = []
    for graph, epoch in ((g, 1), (g, 2), (other_seed, 1), (g, 1)):
        batches = []
        ae.feed_loop(Session(), graph, images, epoch)
        assert [len(batch) for batch in batches] == 10 * [100] + [50]
        orders.append(tuple(np.concatenate(batches).ravel()))
        assert sorted(orders[-1]) == list(range(1050))
    assert len(set(orders)) == 3 and orders[0] == orders[3]


def test_learning_rates_by_hand_and_that_they_are_fed():
    constant = dataclasses.replace(HP, learning_rate=0.004, batch_size=1)
    cosine = dataclasses.replace(constant, schedule="cosine")
    assert ae.learning_rates(constant, 2, 3) == pytest.approx([0.004] * 3)
    linear = dataclasses.replace(constant, schedule="linear")
    rates = np.concatenate([ae.learning_rates(linear, epoch, 3) for epoch in (1, 2)])
    np.testing.assert_allclose(rates, 0.004 * np.arange(6, 0, -1) / 6, rtol=1e-6)
    rates = np.concatenate([ae.learning_rates(cosine, epoch, 3) for epoch in (1, 2)])
    # The cosines of 0, 30, 60, 90, 120 and 150 degrees, moved from [-1, 1] to [0, 0.004].
    by_hand = 0.001 * np.array([4, 2 + 3**0.5, 3, 2, 1, 2 - 3**0.5])
    np.testing.assert_allclose(rates, by_hand, rtol=1e-6)
    g = ae.build(constant)
    with g.X.graph.as_default(), ae.start_session(g) as sess:
        before = sess.run(tf.trainable_variables())
        sess.run(g.opt, ae.feed_dict(g, PIXELS, rate=0))
        assert all(map(np.array_equal, before, sess.run(tf.trainable_variables())))


def test_weight_decay_shrinks_the_weights_after_adams_step():
    hp = dataclasses.replace(HP, epoch_n=1, batch_size=len(PIXELS))  # one step
    _, without = train(ae.build(hp))
    _, decayed = train(ae.build(dataclasses.replace(hp, weight_decay=3.0)))
    assert without.keys() == decayed.keys()
    for name, value in without.items():
        is_weight = re.fullmatch(r".*/w:0", name)
        expected = value * (1 - hp.learning_rate * 3) if is_weight else value
        np.testing.assert_allclose(decayed[name], expected, rtol=1e-6)


@pytest.mark.parametrize("init", ["normal", "he", "glorot"])
def test_the_initial_bias_of_G(init):
    biases = []
    for G_bias in (0.0, -2.0):
        g = ae.build(dataclasses.replace(HP, init=init, G_bias=G_bias))
        with g.X.graph.as_default(), ae.start_session(g) as sess:
            variables = [v for v in tf.trainable_variables() if v.op.name.endswith("b")]
            biases.append(sess.run(variables))
    assert variables[-1].op.name == "G/b"
    for i, (zero, minus_two) in enumerate(zip(*biases)):
        shift = -2 if i == len(variables) - 1 else 0
        np.testing.assert_allclose(minus_two, zero + shift, atol=1e-6)
        assert np.all(zero == 0) == (init != "normal")


def test_same_seed_same_bits():
    seven, again, eight = (
        train(ae.build(dataclasses.replace(HP, seed=seed)), loop=None)[1] for seed in (7, 7, 8)
    )
    for name, value in seven.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    assert not any(np.array_equal(seven[name], eight[name]) for name in seven if "/w" in name)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    g = build()
    with g.X.graph.as_default():
        computed = tf.train.exponential_decay(0.001, tf.train.get_or_create_global_step(), 5, 0.5)
    for graph, logdir, words in (
        (build(dataclasses.replace(HP, X_n=25)), tmp_path / "run", "X_n is 25, .* 16 pixels"),
        (g._replace(rate=computed), tmp_path / "run", "rate must be the placeholder"),
        (g, tmp_path / "run[1]", r"path with \["),
        (g, None, "needs the logdir"),
    ):
        with pytest.raises(ae.AutoEncoderError, match=words):
            train(graph, logdir, resume=logdir is None)
    assert not any(tmp_path.iterdir())


def test_diverged_in_the_first_epoch_leaves_the_earlier_run(tmp_path):
    train(build(), tmp_path)
    before = files(tmp_path)
    with pytest.raises(ae.Diverged, match="not finite"):
        train(build(dataclasses.replace(HP, learning_rate=1e10)), tmp_path)
    assert before.items() <= files(tmp_path).items()


def test_an_exception_of_on_epoch_stops_the_training_after_the_epoch_is_saved(tmp_path, capsys):
    with pytest.raises(ZeroDivisionError):
        train(build(), tmp_path, on_epoch=lambda epoch: 1 / 0)
    history, _ = train(build(), tmp_path, resume=True)
    assert "resumed after epoch 1\n" in capsys.readouterr().out
    assert [epoch.epoch for epoch in history] == [1, 2]


@pytest.mark.parametrize("loss", [ae.l2_loss, mean_loss])
def test_evaluation_by_hand(loss):
    g = build(loss=loss)
    g = g._replace(Z=g.Z * [1.0, 0.0, 1.0])  # a latent that is 0 for every image is not live
    X = np.float32(PIXELS[:50] / 255)  # minibatches of 20, 20 and 10
    with ae.start_session(g) as sess:
        result = ae.evaluate(sess, g, X)
        errors = np.square(sess.run(g.G, {g.X: X}) - np.float64(X))
    losses = [e.mean() if loss is mean_loss else e.sum() / 2 for e in np.split(errors, [20, 40])]
    assert result == pytest.approx((sum(losses) * 100 / 50, errors.mean(), 2, 3), rel=1e-6)


def test_the_picture_shows_the_images_that_it_is_given():
    X = np.random.RandomState(0).rand(6, 16)
    G = X / 2
    for labels, firsts in ((np.array([1, 0, 1, 2, 0, 2]), [1, 0, 3]), (None, range(6))):
        axes = ae.plot_reconstruction(X, G, labels).get_axes()
        shown = [np.asarray(a.images[0].get_array()).ravel() for a in axes]
        np.testing.assert_array_equal(shown, [X[0], G[0], *X[firsts], *G[firsts]])
        assert [a.get_ylabel() for a in axes[:2]] == ["X", "G"]
