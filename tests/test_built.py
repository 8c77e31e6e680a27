"""What is built is what is trained, saved and resumed, by both loops, whatever somebody builds."""

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


def noise(G, X):
    """A loss with noise that differs from step to step. XLA and TensorFlow draw the same integers."""
    seed = [0, tf.train.get_or_create_global_step()]
    bits = tf.random.stateless_uniform([16], seed, 0, 1000, tf.int32, alg="philox")
    return ae.l2_loss(G * (1 + tf.cast(bits, tf.float32) / 1000), X)


def adam(loss, **options):
    return tf.train.AdamOptimizer(0.01).minimize(loss, **options)


def tensor_of_step(loss):
    with tf.control_dependencies([adam(loss)]):
        step = tf.identity(loss)
    tf.summary.scalar("loss of step", step)  # recording it would make a step
    return step


def list_of_steps(loss):
    return [adam(loss, var_list=tf.trainable_variables()[k::2]) for k in (0, 1)]


def encode_with_convolution(X, hp):
    filters = tf.Variable(tf.truncated_normal([3, 3, 1, 1], stddev=0.3))
    images = tf.nn.conv2d(tf.reshape(X, [-1, 4, 4, 1]), filters, [1, 1, 1, 1], "SAME")
    return ae.encode(tf.reshape(images, [-1, 16]), hp)


def encode_with_moving_mean(X, hp):
    """As batch normalization by hand: another mean in training, where it is also updated."""
    is_training = tf.placeholder_with_default(False, [], "is_training")
    moving = tf.Variable(tf.zeros([16]), trainable=False)
    batch_mean = tf.reduce_mean(X, axis=0)
    update = moving.assign
    mean = tf.cond(is_training, lambda: update(0.9 * moving + 0.1 * batch_mean), moving.read_value)
    return ae.encode(X - mean, hp)


CHANGED = {"encode": encode_with_layer, "minimize": rmsprop_with_decay}
MOVING = {"encode": encode_with_moving_mean, "training_feed": {"is_training:0": True}}
SMALL_BATCHES = dataclasses.replace(HP, batch_size=1, schedule="cosine", seed=1)


# 210 steps are three calls of 55 and a shorter one.
@pytest.mark.parametrize(
    "changes",
    [{"hp": SMALL_BATCHES}, CHANGED, MOVING, {"loss": noise}, {"encode": encode_with_convolution}],
)
def test_both_loops_train_what_was_built(changes, monkeypatch, capsys):
    # for convolutions
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU"])
    net = build(**changes)
    fed = train(net)
    check(train(net, loop=None), fed, rtol=1e-5, atol=1e-5)
    assert "without XLA" not in capsys.readouterr().out
    assert fed[1].get("global_step:0", 22) in (22, 420)  # counted, whatever the schedule is


@pytest.mark.parametrize("minimize", [tensor_of_step, list_of_steps])
@pytest.mark.parametrize("loop", [ae.feed_loop, None])
def test_a_step_may_be_a_tensor_or_a_list(minimize, loop, tmp_path, capsys):
    _, expected = train(build(minimize=adam))
    _, found = train(build(minimize=minimize), tmp_path, loop=loop)
    for variable in ("Encoder/Layer01/w:0", "G/b:0"):
        np.testing.assert_allclose(found[variable], expected[variable], 1e-5, 1e-5)
    assert "without XLA" not in capsys.readouterr().out


def test_a_fixed_number_of_images(tmp_path):
    def encode(X, hp):
        return ae.encode(X, hp) + tf.random_normal([20, hp.Z_n])

    net = build(encode=encode)
    data = ae.DataSets(*[ae.DataSet(IMAGES[:n]) for n in (200, 40, 40)])
    with ae.start_session(net) as sess:
        assert len(ae.train(sess, net, data, tmp_path)) == HP.epoch_n
        ae.write_test(sess, net, data.test, ae.evaluate(sess, net, data.test.images), tmp_path)
        with pytest.raises(ae.AutoEncoderError, match="batch_size must be that and divide 30"):
            ae.evaluate(sess, net, IMAGES[:30])
    assert np.loadtxt(tmp_path / "test" / "Z.tsv").shape == (40, 3)


def network(scope, hp=HP):
    with tf.name_scope(scope):
        X = ae.inputs(hp)
        Z = ae.encode(X, hp)
        G = ae.decode(Z, hp)
        loss = ae.l2_loss(G, X)
        tf.summary.scalar("loss", loss)
        opt = ae.training(loss, dataclasses.replace(hp, weight_decay=0.1))
    return ae.Network(hp, X, Z, G, loss, opt, tf.global_variables_initializer())


def test_two_networks_in_one_graph(tmp_path):
    with tf.Graph().as_default():
        A = network("A")
        with ae.start_session(A) as sess:
            ae.train(sess, A, DATA, tmp_path / "A")
            trained = sess.run(A.variables)
        B = network("B")
        with ae.start_session(B) as sess:
            ae.train(sess, A, DATA, tmp_path / "A", resume=True)
            ae.train(sess, B, DATA, tmp_path / "B")
            ae.train(sess, B, DATA, tmp_path / "B", resume=True)
            for before, after in zip(trained, sess.run(A.variables)):
                assert np.array_equal(before, after)
            ae.train(sess, A, DATA, loop=ae.feed_loop)
            longer = sess.run(A.variables)
            ae.train(sess, B, DATA, tmp_path / "B", resume=True)
            for before, after in zip(longer, sess.run(A.variables)):
                assert np.array_equal(before, after)
    names = [name for name, _ in tf.train.list_variables(ae.read_run(tmp_path / "B").checkpoint)]
    assert names == sorted(variable.op.name for variable in B.variables) and "A/" not in str(names)


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


def encode_with_stateless_noise(X, hp):
    return ae.encode(X + tf.random.stateless_normal([16], [0, 1]), hp)


def loss_with_assert(G, X):
    with tf.control_dependencies([tf.assert_less(G, 2.0)]):
        return ae.l2_loss(G, X)


def encode_with_reference(X, hp):
    """With such a variable as tf.disable_resource_variables() makes of all."""
    return ae.encode(X * tf.Variable(tf.ones([16]), use_resource=False), hp)


def loss_in_python(G, X):
    sum_of_X = tf.py_func(np.sum, [X], tf.float32)
    return ae.l2_loss(G, X) + tf.reshape(sum_of_X, [])


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"encode": encode_with_dropout, "training_feed": {"keep_prob:0": 0.5}}, "RandomUniform"),
        ({"encode": encode_with_stateless_noise}, "StatelessRandomNormalV2"),
        ({"loss": loss_with_assert}, "Assert"),
        ({"loss": lambda G, X: tf.check_numerics(ae.l2_loss(G, X), "")}, "CheckNumerics"),
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


def test_a_call_of_the_compiled_loop_copies_at_most_2_25_pixels():
    hp = dataclasses.replace(HP, X_n=2**20, enc_n=(), dec_n=(), Z_n=1)
    images = np.zeros((40, hp.X_n), np.float32)
    net = build(hp)
    with ae.start_session(net) as sess:
        loop = ae.compile_loop(sess, net)
        calls = []
        loop(sess, net, images, 1, lambda text, is_progress: calls.append(text))
    assert len(calls) == 2  # of 20 x 2^20 pixels


def test_an_attribute_that_changes_is_another_graph():
    sums = []
    for alpha in (0.1, 0.1, 0.2):
        net = build(encode=lambda X, hp: ae.encode(tf.nn.leaky_relu(X, alpha), hp))
        sums.append(ae.graph_checksum(net))
    assert sums[0] == sums[1] != sums[2]


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
