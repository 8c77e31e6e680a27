"""What is built is what is trained, saved, resumed and shown, whatever somebody builds.

Each changed graph is trained by the compiled loop and by the tutorial's own, a call of the session
for each minibatch: that one runs g.opt and knows nothing else.
"""

import dataclasses
import functools

import numpy as np
import pytest

import autoencoder as ae
from conftest import files

tf = ae.tf
HP = ae.HParams(
    X_n=16, enc_n=(8, 6), Z_n=3, dec_n=(6, 8), Z_activation="linear", epoch_n=2, batch_size=20
)
PIXELS = np.random.RandomState(0).randint(0, 256, (210, 16), np.uint8)  # the last minibatch is half
DATA = ae.DataSets(
    ae.DataSet(PIXELS, None), ae.DataSet(PIXELS[:30], None), ae.DataSet(PIXELS[30:60], None)
)


def built(encode=ae.encode, loss=ae.l2_loss, minimize=None, hp=HP):
    """The graph that ae.build makes, with some of its parts changed."""
    with tf.Graph().as_default():
        X = ae.inputs(hp)
        Z = encode(X, hp)
        G = ae.decode(Z, hp)
        L = loss(G, X)
        with tf.name_scope("training"):
            rate = tf.placeholder_with_default(hp.learning_rate, [], "learning_rate")
            opt = minimize(rate, L) if minimize else tf.train.AdamOptimizer(rate).minimize(L)
        return ae.Graph(hp, X, Z, G, L, rate, opt, tf.global_variables_initializer())


def trained(g, steps_of):
    """-> history without times, all variables by name"""
    with ae.start(g) as sess:
        history = ae.train(sess, g, DATA, steps_of=steps_of)
        return history, variables(g, sess)


@functools.cache
def untouched():
    return trained(built(), ae.fed_steps)[0]


def variables(g, sess):
    with g.X.graph.as_default():
        return {
            v.name: value
            for v, value in zip(tf.global_variables(), sess.run(tf.global_variables()))
        }


def cross_entropy(G, X):
    with tf.name_scope("loss"):
        return -tf.reduce_sum(X * tf.log(G + 1e-6) + (1 - X) * tf.log(1 - G + 1e-6))


def penalty(G, X):
    loss = ae.l2_loss(G, X)
    return loss + 0.1 * tf.add_n([tf.nn.l2_loss(w) for w in tf.trainable_variables()])


def with_own_variable(X, hp):
    """A layer of one's own in front of the tutorial's, made as the tutorial makes them."""
    w = tf.Variable(tf.truncated_normal([hp.X_n, hp.X_n], stddev=0.3, seed=1))
    return ae.encode(tf.tanh(tf.matmul(X, w)), hp)


def with_unused_variable(X, hp):
    tf.Variable(tf.zeros([5]), name="unused", trainable=False)
    return ae.encode(X, hp)


def decayed(rate, loss):
    step = tf.train.get_or_create_global_step()
    decayed = tf.train.exponential_decay(0.01, step, 5, 0.5, staircase=True)
    return tf.train.AdamOptimizer(decayed).minimize(loss, global_step=step)


def clipped(rate, loss):
    adam = tf.train.AdamOptimizer(rate)
    gradients, weights = zip(*adam.compute_gradients(loss))
    gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
    return adam.apply_gradients(zip(gradients, weights))


def averaged(rate, loss):
    opt = tf.train.AdamOptimizer(rate).minimize(loss)
    with tf.control_dependencies([opt]):
        return tf.train.ExponentialMovingAverage(0.9).apply(tf.trainable_variables())


COMPILED = {
    "the tutorial's": {},
    "cross entropy": {"loss": cross_entropy},
    "a penalty": {"loss": penalty},
    "a variable of one's own": {"encode": with_own_variable},
    "an unused variable": {"encode": with_unused_variable},
    "a third layer": {"hp": dataclasses.replace(HP, enc_n=(9, 8, 6))},
    "momentum": {"minimize": lambda rate, L: tf.train.MomentumOptimizer(rate, 0.9).minimize(L)},
    "Adagrad": {"minimize": lambda rate, L: tf.train.AdagradOptimizer(rate).minimize(L)},
    "RMSProp": {"minimize": lambda rate, L: tf.train.RMSPropOptimizer(rate).minimize(L)},
    "gradient descent": {
        "minimize": lambda rate, L: tf.train.GradientDescentOptimizer(rate / 100).minimize(L)
    },
    "other betas": {"minimize": lambda rate, L: tf.train.AdamOptimizer(rate, 0.5, 0.9).minimize(L)},
    "a rate that is ignored": {"minimize": lambda _, L: tf.train.AdamOptimizer(0.01).minimize(L)},
    "a decay by global_step": {"minimize": decayed},
    "clipped gradients": {"minimize": clipped},
    "moving averages": {"minimize": averaged},
}


@pytest.mark.parametrize("change", COMPILED)
def test_the_compiled_loop_trains_what_was_built(change, capfd):
    (history, fed), (compiled_history, compiled) = (
        trained(built(**COMPILED[change]), steps_of)
        for steps_of in (ae.fed_steps, ae.compiled_steps)
    )
    assert "as XLA cannot" not in capfd.readouterr().out
    np.testing.assert_allclose(compiled_history, history, rtol=1e-5)
    assert fed.keys() == compiled.keys()
    for name in fed:
        np.testing.assert_allclose(compiled[name], fed[name], rtol=1e-3, atol=1e-5)
    same = change in ("the tutorial's", "an unused variable", "moving averages")
    assert (history == untouched()) == same  # the change made a difference, or should make none


def in_python(G, X):
    loss = ae.l2_loss(G, X)
    value = tf.py_func(lambda x: x, [tf.stop_gradient(loss)], tf.float32)
    return loss + 0 * tf.reshape(value, [])


def dropout(X, hp):
    return ae.encode(tf.nn.dropout(X, rate=0.2, seed=3), hp)


FALLING_BACK = {
    "py_func": {"loss": in_python},
    "cond": {
        "loss": lambda G, X: tf.cond(tf.reduce_sum(X) > 0, lambda: ae.l2_loss(G, X), lambda: 0.0)
    },
    "dropout": {"encode": dropout},
    "float64": {"loss": lambda G, X: tf.cast(ae.l2_loss(G, X), tf.float64)},
}


@pytest.mark.parametrize("change", FALLING_BACK)
def test_what_xla_cannot_do_is_trained_by_the_tutorials_loop(change, capfd):
    expected = trained(built(**FALLING_BACK[change]), ae.fed_steps)
    capfd.readouterr()
    history, weights = trained(built(**FALLING_BACK[change]), ae.compiled_steps)
    out, err = capfd.readouterr()
    why = "training by the tutorial's loop, as XLA cannot compile this graph: "
    assert (out.count(why), out.count("\n"), err) == (1, 1 + HP.epoch_n, "")
    assert history == expected[0]
    for name, value in expected[1].items():
        np.testing.assert_array_equal(weights[name], value)


def test_a_graph_that_is_changed_after_a_first_training():
    """g._replace is all that it takes: another optimizer, then other hyperparameters."""
    results = []
    for steps_of in (ae.fed_steps, ae.compiled_steps):
        g = built()
        with g.X.graph.as_default():
            descent = tf.train.GradientDescentOptimizer(g.rate / 100).minimize(g.loss)
        longer = dataclasses.replace(HP, epoch_n=3, batch_size=30, seed=1)
        with ae.start(g) as sess:
            ae.train(sess, g, DATA, steps_of=steps_of)
            ae.train(sess, g._replace(opt=descent), DATA, steps_of=steps_of)
            last = ae.train(sess, g._replace(hp=longer), DATA, steps_of=steps_of)
            results.append((np.array(last)[:, :4], variables(g, sess)))
    (history, fed), (compiled_history, compiled) = results
    assert len(history) == 3
    np.testing.assert_allclose(compiled_history, history, rtol=1e-5)
    for name in fed:
        np.testing.assert_allclose(compiled[name], fed[name], rtol=1e-3, atol=1e-5)


CHANGED = {
    "cross entropy": {"loss": cross_entropy},
    "a variable of one's own": {"encode": with_own_variable},
    "RMSProp": COMPILED["RMSProp"],
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_graph_is_saved_resumed_and_refused_by_another(change, tmp_path):
    longer = dataclasses.replace(HP, epoch_n=4)
    unbroken = trained(built(**CHANGED[change], hp=longer), None)
    for hp in (HP, longer):
        g = built(**CHANGED[change], hp=hp)
        with ae.start(g) as sess:
            history = ae.train(sess, g, DATA, tmp_path, resume=True)
            weights = variables(g, sess)
    assert history == unbroken[0]
    for name, value in unbroken[1].items():
        np.testing.assert_array_equal(weights[name], value)
    before = files(tmp_path)
    g = built(hp=longer)
    with ae.start(g) as sess, pytest.raises(ae.AutoEncoderError, match="has another run: graph "):
        ae.train(sess, g, DATA, tmp_path, resume=True)
    assert files(tmp_path) == before


def test_a_changed_graph_is_what_tensorboard_shows(tmp_path):
    g = built(encode=with_own_variable)
    with ae.start(g) as sess:
        ae.train(sess, g, DATA, tmp_path / "first")  # and again, with what that left in the graph
        ae.train(sess, g, DATA, tmp_path / "second")
    shown = tf.GraphDef.FromString(ae.picture(g.X.graph))
    before = built(encode=with_own_variable).X.graph.as_graph_def()
    assert {node.name for node in shown.node} == {node.name for node in before.node}


def test_a_run_is_gone_on_with_however_much_was_built_before(tmp_path):
    """TensorFlow numbers the gradients of swish by what a process has built."""
    swish = dataclasses.replace(HP, activation="swish", epoch_n=1)
    for longer in (1, 2):
        ae.build(swish)
        g = ae.build(dataclasses.replace(swish, epoch_n=longer))
        with ae.start(g) as sess:
            assert len(ae.train(sess, g, DATA, tmp_path, resume=True)) == longer
