"""Hyperparameters, session, training, evaluation, picture, and what is left in the log folder."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, files
from scale import PEAK

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


@pytest.mark.parametrize(
    "name, value",
    [
        ("X_n", 0), ("X_n", [784]), ("enc_n", (500, 0)), ("enc_n", "500"), ("Z_n", -1),
        ("dec_n", (3.5,)), ("epoch_n", "x"), ("epoch_n", 2.5), ("epoch_n", True),
        ("batch_size", 0), ("batch_size", None), ("learning_rate", 0), ("learning_rate", "fast"),
        ("learning_rate", float("nan")), ("learning_rate", float("inf")), ("seed", -1),
        ("activation", "Relu"), ("Z_activation", None), ("init", 0.1), ("schedule", True),
    ],
)  # fmt: skip
def test_a_wrong_hyperparameter_is_named(name, value):
    with pytest.raises(ae.AutoEncoderError, match=f"^{name} must be .*, not ") as error:
        ae.HParams(**{name: value})
    wrong = value[-1] if isinstance(value, tuple) else value
    assert str(error.value).endswith(f"not {wrong!r}")


def test_numpy_numbers_and_lists_will_do():
    hp = ae.HParams(Z_n=np.int64(5), learning_rate=np.float32(0.5), enc_n=[7, np.int32(8)], dec_n=9)
    assert hp == ae.HParams(Z_n=5, learning_rate=0.5, enc_n=(7, 8), dec_n=(9,))
    assert json.loads(json.dumps(dataclasses.asdict(hp)))["enc_n"] == [7, 8]


# ---- Session and training ----


def test_the_session_says_which_device_computes(small_hp, capfd):
    ae.start(ae.build(small_hp)).close()
    out, err = capfd.readouterr()
    assert out.startswith("device: ") and out.count("\n") == 1 and err == ""


def test_every_image_once_an_epoch_and_in_another_order(small_hp):
    class Recorder:
        def __init__(self):
            self.batches = []

        def run(self, fetches, feed):
            self.batches += [images for images in feed.values() if images.ndim]
            return 0.0, None

    small_hp = dataclasses.replace(small_hp, X_n=1)
    images = np.arange(1050, dtype=np.float32)[:, None]  # the last minibatch is half a one
    orders = []
    other_hp = dataclasses.replace(small_hp, seed=1)
    for hp, epoch in ((small_hp, 1), (small_hp, 2), (small_hp, 1), (other_hp, 1)):
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


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("kind", ["bytes", "floats"])
@pytest.mark.parametrize("choices", [{}, OTHER_CHOICES])
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


def test_where_xla_cannot_compile_training_goes_on_without(small_hp, monkeypatch, capfd):
    l2_loss = ae.l2_loss

    def with_python_inside(G, X):
        loss = l2_loss(G, X)
        python = tf.numpy_function(lambda x: x, [tf.stop_gradient(loss)], tf.float32)
        return loss + 0 * tf.reshape(python, [])

    images, losses = small_pixels(250), []
    for patched in (False, True):
        if patched:
            monkeypatch.setattr(ae, "l2_loss", with_python_inside)
        g = ae.build(small_hp)
        with ae.start(g) as sess:
            losses.append(ae.train_epoch(sess, g, images, 1))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert capfd.readouterr().out.count("XLA cannot compile here: ") == 1


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


def test_progress_and_history(small_hp, small_dir, capsys):
    data = ae.read_data_sets(small_dir)
    g = ae.build(small_hp)
    with ae.start(g) as sess:
        history = ae.train(sess, g, data)
        last = ae.evaluate(sess, g, data.validation.images).score
    assert [epoch.epoch for epoch in history] == [1, 2]
    assert history[-1].validation_loss == last
    printed = capsys.readouterr().out
    for epoch in history:
        line = f"\repoch: {epoch.epoch}, loss: {epoch.loss:.3f}"
        assert f"{line}, validation loss: {epoch.validation_loss:.3f}\n" in printed


@pytest.mark.parametrize(
    "change, words",
    [
        ({"batch_size": 301}, "batch_size is 301, but there are 300 training images"),
        ({"X_n": 25}, "X_n is 25, but the images have 16 pixels"),
        ({"learning_rate": 1e30}, "the loss is nan in epoch 1: try a learning_rate smaller than"),
    ],
)
def test_training_that_cannot_be_leaves_the_earlier_run(
    small_hp, small_dir, tmp_path, change, words
):
    data, logdir = ae.read_data_sets(small_dir), tmp_path / "logs"
    for hp in (small_hp, dataclasses.replace(small_hp, **change)):
        g = ae.build(hp)
        with ae.start(g) as sess:
            if hp == small_hp:
                ae.train(sess, g, data, logdir)
                before = files(logdir)
            else:
                with pytest.raises(ae.AutoEncoderError, match=words):
                    ae.train(sess, g, data, logdir)
    assert files(logdir) == before


def test_interrupted_training_leaves_the_earlier_run(small_hp, small_dir, tmp_path, monkeypatch):
    data, logdir = ae.read_data_sets(small_dir), tmp_path / "logs"
    g = ae.build(small_hp)
    with ae.start(g) as sess:
        ae.train(sess, g, data, logdir)
        before = files(logdir)
        monkeypatch.setattr(ae, "evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ae.train(sess, g, data, logdir)
    assert files(logdir) == before


def test_memory_of_the_main_job(tmp_path):
    code = PEAK + (
        "import autoencoder as ae\n"
        "before = peak()\n"
        f"ae.main(['--epoch_n', '1', '--logdir', {str(tmp_path)!r}])\n"
        "print('MiB:', peak() - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert float(run.stdout.split("MiB:")[1]) < 400


# ---- Evaluation ----


def test_evaluation_by_hand(small_hp):
    g = ae.build(small_hp)
    images = np.random.RandomState(0).rand(2345, 16).astype(np.float32)
    with ae.start(g) as sess:
        result = ae.evaluate(sess, g, images)
        Z, G = sess.run([g.Z, g.G], {g.X: images})
    squares = (G.astype(np.float64) - images) ** 2
    assert result.score == pytest.approx(squares.sum() / 2 / 2345 * 100, rel=1e-6)
    assert result.per_image == pytest.approx(squares.sum() / 2 / 2345, rel=1e-6)
    assert result.per_pixel == pytest.approx(squares.mean(), rel=1e-6)
    assert (result.live, result.Z_n) == (sum(1 for z in Z.T if any(z > 0)), 3)


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((0, 16), np.float32), "images must be uint8 or float32 or float64, "),
        (np.zeros((5, 16), np.int64), "images must be uint8 or float32 or float64, "),
        (np.zeros((5, 4, 4), np.float32), "images must be uint8 or float32 or float64, "),
        (np.zeros((5, 25), np.float32), "X_n is 16, but the images have 25 pixels"),
    ],
)
def test_images_that_are_none(small_hp, images, words):
    g = ae.build(small_hp)
    with ae.start(g) as sess, pytest.raises(ae.AutoEncoderError, match=words):
        ae.evaluate(sess, g, images)


def test_pca_is_the_singular_value_decomposition():
    X = np.random.RandomState(0).rand(200, 6) * [5, 1, 9, 3, 2, 7]
    mean, components = ae.pca(X.astype(np.float32), 4)
    _, _, vectors = np.linalg.svd(X - X.mean(axis=0))
    np.testing.assert_allclose(np.abs(components.T @ vectors[:4].T), np.eye(4), atol=1e-5)
    _, all_of_them = ae.pca(X, 6)
    np.testing.assert_allclose((X - mean) @ all_of_them @ all_of_them.T + mean, X, atol=1e-5)


def test_the_score_is_the_tutorials_and_its_line(mnist):
    """The tutorial prints sess.run(loss, feed_dict={X: test_X}) / batch_size."""
    g = ae.build(ae.HParams())
    with ae.start(g) as sess:
        result = ae.evaluate(sess, g, mnist.test.images)
        assert ae.evaluate(sess, g, mnist.test.pixels) == result
        seed_score = sess.run(g.loss, feed_dict={g.X: mnist.test.images}) / 100
    assert result.score == pytest.approx(seed_score, rel=1e-5)
    line = ae.Evaluation(486.233, 12, 784, 20)
    assert str(line).startswith(
        "score: 486.233 (4.862 per image, 0.01240 per pixel)"
    ) and "12 of 20 latents" in str(line)


def test_the_picture_shows_the_images_it_is_given():
    labels = np.array([1, 0, 1, 2, 0, 2])
    X = np.random.RandomState(0).rand(6, 16)
    G = X / 2
    expected = [X[0], G[0]] + [X[i] for i in (1, 0, 3)] + [G[i] for i in (1, 0, 3)]
    for kind in (labels, np.eye(10)[labels]):
        figure = ae.plot_reconstruction(X, G, kind)
        shown = [np.asarray(axes.images[0].get_array()).ravel() for axes in figure.get_axes()]
        np.testing.assert_array_equal(shown, expected)
    assert [axes.get_title() for axes in figure.get_axes()[:2]] == ["X", "G"]
