"""Hyperparameters, training, evaluation and the picture, against NumPy and counts by hand."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import autoencoder as ae
from beyond.scale import PEAK
from conftest import ROOT, files

tf = ae.tf


def variables(g, sess):
    with g.X.graph.as_default():
        return sess.run(tf.global_variables())


# ---- Hyperparameters ----


def test_the_defaults_are_the_tutorials():
    assert dataclasses.asdict(ae.HParams()) == {
        "X_n": 784, "enc_n": (500, 300), "Z_n": 20, "dec_n": (300, 500),
        "activation": "relu", "Z_activation": "relu", "init": "normal",
        "epoch_n": 10, "batch_size": 100, "learning_rate": 0.001, "schedule": "constant", "seed": 0,
    }  # fmt: skip


WRONG = {
    "a whole number from 1": [
        ("X_n", 0), ("X_n", [784]), ("Z_n", -1), ("Z_n", "20"), ("epoch_n", 2.5), ("epoch_n", True),
        ("batch_size", None), ("batch_size", float("inf")),
    ],
    "whole numbers from 1": [
        ("enc_n", (500, 0)), ("enc_n", "500"), ("enc_n", 500), ("enc_n", [[500]]), ("enc_n", None),
        ("dec_n", (3.5,)), ("dec_n", (True,)), ("dec_n", ()), ("dec_n", np.int64(9)),
    ],
    "a whole number from 0": [("seed", -1), ("seed", 1.0), ("seed", False)],
    "a number above 0": [
        ("learning_rate", 0), ("learning_rate", -0.1), ("learning_rate", "fast"),
        ("learning_rate", float("nan")), ("learning_rate", float("inf")), ("learning_rate", True),
        ("learning_rate", None), ("learning_rate", [0.1]),
    ],
    "relu or swish": [("activation", "Relu"), ("activation", "linear")],
    "relu or linear": [("Z_activation", None)],
    "normal or he or glorot": [("init", 0.1)],
    "constant or cosine": [("schedule", True), ("schedule", ["cosine"])],
}  # fmt: skip


@pytest.mark.parametrize(
    "what, name, value", [(what, *pair) for what, pairs in WRONG.items() for pair in pairs]
)
def test_a_wrong_hyperparameter_is_named(what, name, value):
    with pytest.raises(ae.AutoEncoderError) as error:
        ae.HParams(**{name: value})
    assert str(error.value) == f"{name} must be {what}, not {value!r}"


def test_numpy_numbers_and_lists_will_do():
    hp = ae.HParams(Z_n=np.int64(5), learning_rate=np.float32(0.5), enc_n=[7, np.int32(8)])
    assert hp == ae.HParams(Z_n=5, learning_rate=0.5, enc_n=(7, 8))
    assert json.loads(json.dumps(dataclasses.asdict(hp)))["enc_n"] == [7, 8]


# ---- Training ----


def test_every_image_once_an_epoch_and_in_another_order(small_hp):
    class Recorder:
        def __init__(self):
            self.batches = []

        def run(self, fetches, feed):
            self.batches += [images for images in feed.values() if images.ndim]
            return 0.0, None

    images = np.arange(1050, dtype=np.float32)[:, None]  # the last minibatch is half a one
    hp = dataclasses.replace(small_hp, X_n=1)
    orders, other_hp = [], dataclasses.replace(hp, seed=1)
    for hp, epoch in ((hp, 1), (hp, 2), (hp, 1), (other_hp, 1)):
        recorder = Recorder()
        g = ae.build(hp)
        ae.train_epoch(recorder, g, images, epoch, ae.fed_steps(recorder, g, images))
        assert [len(batch) for batch in recorder.batches] == 10 * [100] + [50]
        orders.append(np.concatenate(recorder.batches).ravel())
        assert sorted(orders[-1]) == list(range(1050))
    assert np.array_equal(orders[0], orders[2])
    for a, b in ((0, 1), (0, 3), (1, 3)):
        assert not np.array_equal(orders[a], orders[b])


def small_pixels(n):
    return np.random.RandomState(0).randint(0, 256, (n, 16), np.uint8)


OTHER_CHOICES = dict(activation="swish", Z_activation="linear", init="he", schedule="cosine")


@pytest.mark.parametrize(
    "batch_size, kind, choices",
    [
        (1, "bytes", {}), (7, "floats", {}), (7, "bytes", OTHER_CHOICES),
        (100, "floats", OTHER_CHOICES), (251, "bytes", {}), (10**11, "floats", {}),
    ],
)  # fmt: skip
def test_the_compiled_program_is_the_tutorials_loop(small_hp, batch_size, kind, choices):
    hp = dataclasses.replace(small_hp, batch_size=batch_size, **choices)
    images = small_pixels(250) if kind == "bytes" else np.float32(small_pixels(250) / 300)
    results = []
    for steps_of in (ae.fed_steps, ae.compiled_steps):
        g = ae.build(hp)
        with ae.start(g) as sess:
            steps = steps_of(sess, g, images)
            loss = [ae.train_epoch(sess, g, images, epoch, steps) for epoch in (1, 2)]
            sess.run(g.opt, {g.X: ae.scaled(images)})  # goes on where they left off
            results.append((loss, variables(g, sess)))
    (loss, fed), (compiled_loss, compiled) = results
    np.testing.assert_allclose(compiled_loss, loss, rtol=1e-5)
    assert len(fed) == len(compiled) == 38
    for a, b in zip(fed, compiled):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "schedule, factors", [("constant", [1] * 6), ("cosine", [4, 2 + 3**0.5, 3, 2, 1, 2 - 3**0.5])]
)
def test_the_step_size_of_each_step(small_hp, schedule, factors):
    hp = dataclasses.replace(small_hp, learning_rate=0.004, schedule=schedule)
    rates = np.concatenate([ae.learning_rates(hp, epoch, 3) for epoch in (1, 2)])
    by_hand = 0.004 / factors[0] * np.array(factors)  # cosine of 0, 30, 60, 90, 120, 150 degrees
    np.testing.assert_allclose(rates, by_hand, rtol=1e-6)
    g = ae.build(hp)
    images, moved = np.float32(small_pixels(3) / 255), []
    for rate in rates[:3]:
        with ae.start(g) as sess:  # the first step of Adam moves each weight by the step size
            before = variables(g, sess)[11]  # the biases of G
            sess.run(g.opt, {g.X: images, g.rate: rate})
            moved.append(np.abs(variables(g, sess)[11] - before).max())
    np.testing.assert_allclose(moved, rates[:3], rtol=1e-2)


@pytest.mark.slow
def test_an_epoch_of_the_compiled_program_is_an_epoch_of_the_tutorials_loop(mnist):
    # A small step size: at the tutorial's, rounding alone sets two runs apart within an epoch.
    hp = ae.HParams(learning_rate=1e-5)
    losses, weights = [], []
    for steps_of in (ae.fed_steps, ae.compiled_steps):
        g = ae.build(hp)
        with ae.start(g) as sess:
            before = variables(g, sess)[:12]
            steps = steps_of(sess, g, mnist.train.pixels)
            losses.append(ae.train_epoch(sess, g, mnist.train.pixels, 1, steps))
            weights.append(variables(g, sess)[:12])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b, start in zip(*weights, before):
        assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(a - start)


def test_same_seed_same_weights_other_seed_others(small_hp, small_dir):
    data = ae.read_data_sets(small_dir)
    results = []
    for seed in (7, 7, 8):
        hp = dataclasses.replace(small_hp, seed=seed)
        g = ae.build(hp)
        with ae.start(g) as sess:
            ae.train(sess, g, data)
            results.append(variables(g, sess))
    assert all(np.array_equal(a, b) for a, b in zip(results[0], results[1]))
    assert not any(np.array_equal(a, b) for a, b in zip(results[0][:12], results[2][:12]))


@pytest.mark.parametrize("terminal", [True, False])
def test_history_by_hand_and_its_lines(small_hp, small_dir, capsys, monkeypatch, terminal):
    data = ae.read_data_sets(small_dir)
    # So small a step that the weights stay as they are; 300 steps an epoch are six calls of 55.
    g = ae.build(dataclasses.replace(small_hp, learning_rate=1e-30, batch_size=1))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    with ae.start(g) as sess:
        history = ae.train(sess, g, data)
        Z, *G = sess.run([g.Z, g.G], {g.X: data.validation.images})
        G += sess.run([g.G], {g.X: data.train.images})
    for got, generated, part in zip(("validation_loss", "loss"), G, (data.validation, data.train)):
        by_hand = 100 * ((generated - part.images) ** 2).sum() / 2 / len(generated)
        assert [getattr(e, got) for e in history] == pytest.approx([by_hand] * 2, rel=1e-5)
    live = sum(1 for z in Z.T if any(z > 0))
    assert [(e.epoch, e.live) for e in history] == [(1, live), (2, live)]
    out = capsys.readouterr().out
    lines = [
        f"epoch: {e.epoch}, loss: {e.loss:.3f}, validation loss: {e.validation_loss:.3f}"
        for e in history
    ]
    assert [line.rpartition("\r")[2] for line in out.rstrip("\n").split("\n")] == lines
    assert out.count("\r") == 12 * terminal


def test_images_of_another_size_are_refused(small_hp, small_dir, tmp_path):
    g = ae.build(dataclasses.replace(small_hp, X_n=25))
    with ae.start(g) as sess, pytest.raises(ae.AutoEncoderError) as error:
        ae.train(sess, g, ae.read_data_sets(small_dir), tmp_path / "logs")
    assert str(error.value) == "X_n is 25, but the images have 16 pixels"
    assert not (tmp_path / "logs").exists()


def test_a_loss_that_is_no_number_leaves_the_earlier_checkpoints(
    small_hp, small_dir, tmp_path, capsys
):
    data, before = ae.read_data_sets(small_dir), {}
    for hp in (small_hp, dataclasses.replace(small_hp, learning_rate=1e30)):
        g = ae.build(hp)
        with ae.start(g) as sess:
            if hp == small_hp:
                ae.train(sess, g, data, tmp_path)
                before = files(tmp_path / "checkpoints")
                capsys.readouterr()
            else:
                with pytest.raises(ae.Diverged) as error:
                    ae.train(sess, g, data, tmp_path)
    assert isinstance(error.value, ae.AutoEncoderError)
    assert str(error.value) == "the loss is not finite: try learning_rate < 1e+30"
    first, epoch = capsys.readouterr().out.splitlines()
    assert first == f"replacing the run in {tmp_path}: another logdir would keep it"
    assert epoch.startswith("epoch: 1, loss: ")
    assert before and files(tmp_path / "checkpoints") == before


@pytest.mark.slow
def test_memory_of_the_compiled_program_at_all_images_a_step():
    peaks = []
    for steps_of in ("fed_steps", "compiled_steps"):
        code = PEAK + (
            "import autoencoder as ae\n"
            "data, g = ae.read_data_sets(), ae.build(ae.HParams(batch_size=55000, epoch_n=1))\n"
            f"with ae.start(g) as sess: ae.train(sess, g, data, steps_of=ae.{steps_of})\n"
            "print(peak())"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        peaks.append(float(run.stdout.split()[-1]))
    assert peaks[1] < 1.3 * peaks[0]


# ---- Evaluation ----


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_evaluation_by_hand(small_hp, loss):
    g = ae.build(small_hp)
    if loss == "l1":
        with g.X.graph.as_default():
            g = g._replace(loss=tf.reduce_sum(tf.abs(g.G - g.X)))
    images = np.random.RandomState(0).rand(2345, 16).astype(np.float32)
    with ae.start(g) as sess:
        result = ae.evaluate(sess, g, images)
        Z, G = sess.run([g.Z, g.G], {g.X: images})
    off = np.abs(G.astype(np.float64) - images)
    total = {"l2": (off**2).sum() / 2, "l1": off.sum()}[loss]
    assert result.score == pytest.approx(total / 2345 * 100, rel=1e-6)
    assert result.per_pixel == pytest.approx((off**2).mean(), rel=1e-6)
    assert (result.live, result.Z_n) == (sum(1 for z in Z.T if any(z > 0)), 3)


def test_the_score_is_the_tutorials_and_its_line(mnist):
    """The tutorial prints sess.run(loss, feed_dict={X: test_X}) / batch_size."""
    g = ae.build(ae.HParams())
    with ae.start(g) as sess:
        result = ae.evaluate(sess, g, mnist.test.images)
        assert ae.evaluate(sess, g, mnist.test.pixels) == result
        seed_score = sess.run(g.loss, feed_dict={g.X: mnist.test.images}) / 100
    assert result.score == pytest.approx(seed_score, rel=1e-5)
    line = "score: 486.233 (4.862 per image, 0.01240 per pixel), 12 of 20 latents live"
    assert str(ae.Evaluation(486.233, 0.012404, 12, 20)) == line


@pytest.mark.parametrize(
    "labels, firsts", [(np.array([1, 0, 1, 2, 0, 2]), [1, 0, 3]), (None, [0, 1, 2, 3, 4, 5])]
)
def test_the_picture_shows_the_images_it_is_given(labels, firsts):
    X = np.random.RandomState(0).rand(6, 16)
    G = X / 2
    figure = ae.plot_reconstruction(X, G, labels)
    shown = [np.asarray(axes.images[0].get_array()).ravel() for axes in figure.get_axes()]
    np.testing.assert_array_equal(shown, [X[0], G[0], *X[firsts], *G[firsts]])
    assert [axes.get_ylabel() for axes in figure.get_axes()[:2]] == ["X", "G"]
