"""What is built is what is trained, saved and resumed, whatever somebody builds.

Each changed graph is trained by the compiled loop and by feed_loop, which runs net.opt and knows
nothing else of the graph.
"""

import dataclasses

import numpy as np
import pytest

import autoencoder as ae
from conftest import files

tf = ae.tf
HP = ae.HParams(
    X_n=16, enc_n=(8, 6), Z_n=3, dec_n=(6, 8), activation="swish", Z_activation="linear",
    init="he", train_n=210, epoch_n=2, batch_size=20, learning_rate=0.01,
)  # fmt: skip
IMAGES = np.random.RandomState(0).rand(210, 16).astype(np.float32)  # the last batch is half
DATA = ae.DataSets(*[ae.DataSet(IMAGES[:n]) for n in (210, 30, 30)])


def build(hp=HP, encode=ae.encode, loss=ae.l2_loss, minimize=None, training_feed={}):
    """The graph of ae.build, with some of its parts changed.

    minimize: function of the loss. -> one step of an optimizer with a rate of its own
    training_feed: by the names of the tensors
    """
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(hp.seed)
        X = ae.inputs(hp)
        Z = encode(X, hp)
        G = ae.decode(Z, hp)
        L = loss(G, X)
        opt = minimize(L) if minimize else ae.training(L, hp)
        feed = {graph.get_tensor_by_name(name): value for name, value in training_feed.items()}
        return ae.Network(hp, X, Z, G, L, opt, tf.global_variables_initializer(), feed)


def train(net, logdir=None, data=DATA, loop=ae.feed_loop, **options):
    """Trains in a session of its own. -> history, all variables by name"""
    with ae.start_session(net) as sess:
        history = ae.train(sess, net, data, logdir, loop=loop, **options)
        with net.X.graph.as_default():
            return history, sess.run({v.name: v for v in tf.global_variables()})


def check(actual, expected, rtol=0, atol=0):
    """Compares what `train` returned: bit by bit, or up to a tolerance."""
    np.testing.assert_allclose(np.float64(actual[0]), np.float64(expected[0]), rtol)
    assert actual[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        np.testing.assert_allclose(actual[1][name], value, rtol, atol, err_msg=name)


def encode_with_layer(X, hp):
    """A layer before those of the tutorial, made as the tutorial makes them."""
    w = tf.Variable(tf.truncated_normal([hp.X_n, hp.X_n], stddev=0.3))
    return ae.encode(tf.tanh(tf.matmul(X, w)), hp)


def rmsprop_with_decay(loss):
    step = tf.train.get_or_create_global_step()
    rate = tf.train.exponential_decay(0.01, step, 5, 0.5, staircase=True)
    return tf.train.RMSPropOptimizer(rate).minimize(loss, global_step=step)


CHANGED = {"encode": encode_with_layer, "minimize": rmsprop_with_decay}


# 210 steps are three calls of 55 and a shorter one.
@pytest.mark.parametrize(
    "changes", [{"hp": dataclasses.replace(HP, batch_size=1, schedule="cosine", seed=1)}, CHANGED]
)
def test_both_loops_train_what_was_built(changes, capsys):
    net = build(**changes)
    check(train(net, loop=None), train(net), rtol=1e-5, atol=1e-5)
    assert "without XLA" not in capsys.readouterr().out


@pytest.mark.parametrize("loop", [ae.feed_loop, None])
def test_what_training_alone_is_fed_may_change_after_an_epoch(loop, tmp_path, capsys):
    hp = dataclasses.replace(HP, learning_rate=1e-30)  # the weights stay as they are
    data = dataclasses.replace(DATA, validation=DATA.train)

    def weighted_loss(G, X):
        return tf.placeholder_with_default(1.0, [], "weight") * ae.l2_loss(G, X)

    def change(epoch):
        net.training_feed[weight] = 5.0

    net = build(hp, loss=weighted_loss, training_feed={"weight:0": 3.0})
    (weight,) = net.training_feed
    first, second = train(net, tmp_path, data, loop, on_epoch=change)[0]
    assert first.loss == pytest.approx(3 * first.validation_loss, rel=1e-5)
    assert second.loss == pytest.approx(5 * second.validation_loss, rel=1e-5)
    assert "without XLA" not in capsys.readouterr().out


def encode_with_dropout(X, hp):
    keep_prob = tf.placeholder_with_default(1.0, [], "keep_prob")
    return ae.encode(tf.nn.dropout(X, keep_prob), hp)


def encode_with_convolution(X, hp):
    filters = tf.Variable(tf.truncated_normal([3, 3, 1, 1], stddev=0.3))
    images = tf.nn.conv2d(tf.reshape(X, [-1, 4, 4, 1]), filters, [1, 1, 1, 1], "SAME")
    return ae.encode(tf.reshape(images, [-1, 16]), hp)


def encode_with_reference(X, hp):
    """With such a variable as tf.disable_resource_variables() makes of all."""
    return ae.encode(X * tf.Variable(tf.ones([16]), use_resource=False), hp)


def loss_in_python(G, X):
    sum_of_X = tf.py_func(np.sum, [X], tf.float32)
    return ae.l2_loss(G, X) + tf.reshape(sum_of_X, [])


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"encode": encode_with_dropout, "training_feed": {"keep_prob:0": 0.5}}, "random numbers"),
        ({"encode": encode_with_convolution}, "convolutions are slow on a CPU"),
        ({"encode": encode_with_reference}, "tf.enable_resource_variables()"),
        ({"loss": loss_in_python}, "unsupported operations"),
        ({"loss": lambda G, X: tf.cast(ae.l2_loss(G, X), tf.float64)}, "float64"),
    ],
)
def test_what_xla_cannot_compile_is_trained_by_feed_loop(changes, reason, capfd, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    net = build(**changes)
    fed = train(net)
    capfd.readouterr()
    check(train(net, loop=None), fed)
    out, err = capfd.readouterr()
    first_line, *epochs = out.splitlines()
    assert first_line.startswith("training with feed_loop, without XLA: ") and reason in first_line
    assert (len(epochs), err) == (HP.epoch_n, "")


def test_convolutions_are_compiled_for_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    net = build(encode=encode_with_convolution)
    check(train(net, loop=None), train(net), rtol=1e-5, atol=1e-5)
    assert "without XLA" not in capsys.readouterr().out


def test_a_changed_graph_is_resumed_and_refused_by_another(tmp_path):
    # TensorFlow numbers functions, and the gradients of swish, by what the process has built before.
    def loss(G, X):
        return tf.cond(tf.reduce_sum(X) > 0, lambda: 1.0, lambda: 0.0) * loss_in_python(G, X)

    short, long = (dataclasses.replace(HP, epoch_n=n) for n in (1, 2))
    train(build(short, loss=loss, **CHANGED), tmp_path)
    unbroken = train(build(long, loss=loss, **CHANGED))
    check(train(build(long, loss=loss, **CHANGED), tmp_path, resume=True), unbroken)
    before = files(tmp_path)
    with pytest.raises(ae.AutoEncoderError, match=r"another graph: .*reset_default_graph"):
        train(build(), tmp_path, resume=True)
    assert files(tmp_path) == before
