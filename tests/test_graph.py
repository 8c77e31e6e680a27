"""The graph against the tutorial's own graph, its own first 200 steps, and plain NumPy."""

import json
import re

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT

tf = ae.tf
SEED_GRAPH = json.loads((ROOT / "tests" / "seed_graph.json").read_text())["nodes"]
SEED_TRAJECTORY = json.loads((ROOT / "tests" / "seed_trajectory.json").read_text())

# How TensorFlow 2 says what TensorFlow 1 said; and the variables have names of their own.
OPS = {"Add": "AddV2", "VariableV2": "VarHandleOp", "Assign": "AssignVariableOp"}


def renamed(name):
    return re.sub(r"/Variable\b(?!_)", "/w", re.sub(r"/Variable_1\b", "/b", name))


@pytest.fixture(scope="module")
def g():
    return ae.build(ae.HParams())


@pytest.mark.parametrize("name, op, inputs", [n for n in SEED_GRAPH if not n[0].endswith("/read")])
def test_every_forward_node_of_the_tutorial(g, name, op, inputs):
    node = g.X.graph.get_operation_by_name(renamed(name))
    assert node.type == OPS.get(op, op)
    reads = [tensor.op for tensor in node.inputs]
    variables = [read.inputs[0].op if read.type == "ReadVariableOp" else read for read in reads]
    assert [op.name for op in variables] == [renamed(i).removesuffix("/read") for i in inputs]


def test_the_picture_has_the_tutorials_boxes_and_training(g):
    boxes = {op.name.split("/")[0] for op in g.X.graph.get_operations()}
    assert boxes == {"X", "Encoder", "Z", "Decoder", "G", "loss", "training", "init"}


def test_the_fields_of_graph_are_the_nodes_they_say(g):
    assert [t.op.name for t in (g.X, g.Z, g.G, g.loss)] == [
        "X/Placeholder", "Z/Relu", "G/Sigmoid", "loss/L2Loss",
    ]  # fmt: skip
    assert (g.rate.op.name, g.opt.name, g.init.name) == (
        "training/learning_rate", "training/Adam", "init",
    )  # fmt: skip


def test_variables_and_their_number(g):
    with g.X.graph.as_default():
        variables = tf.trainable_variables()
    layers = ["Encoder/Layer01", "Encoder/Layer02", "Z", "Decoder/Layer01", "Decoder/Layer02", "G"]
    widths = [784, 500, 300, 20, 300, 500, 784]
    expected = []
    for layer, n, m in zip(layers, widths, widths[1:]):
        expected += [(f"{layer}/w:0", (n, m)), (f"{layer}/b:0", (m,))]
    assert [(v.name, tuple(v.shape)) for v in variables] == expected
    assert sum(int(np.prod(v.shape)) for v in variables) == 1_098_404


@pytest.fixture
def sess(g):
    with tf.Session(graph=g.X.graph) as sess:
        sess.run(g.init)
        yield sess


def weights(g, sess):
    with g.X.graph.as_default():
        return sess.run(tf.trainable_variables())


def test_initial_weights_are_truncated_normal_and_independent(g, sess):
    arrays = weights(g, sess)
    for array in arrays:
        assert np.abs(array).max() <= 0.2  # cut at two standard deviations of 0.1
    everything = np.concatenate([array.ravel() for array in arrays])
    # The standard deviation of a normal distribution that is cut at two of them: 0.87963.
    assert everything.std() == pytest.approx(0.087963, rel=3e-3)
    assert everything.mean() == pytest.approx(0, abs=3e-4)
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            n = min(a.size, b.size)
            assert abs(np.corrcoef(a.ravel()[:n], b.ravel()[:n])[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("init", ["he", "glorot"])
def test_initial_weights_of_other_kinds(init):
    g = ae.build(ae.HParams(init=init))
    with tf.Session(graph=g.X.graph) as sess:
        sess.run(g.init)
        arrays = weights(g, sess)
    for w, b in zip(arrays[::2], arrays[1::2]):
        n, m = w.shape
        std = {"he": (2 / n) ** 0.5, "glorot": (2 / (n + m)) ** 0.5}[init]
        assert w.std() == pytest.approx(std, rel=0.03)
        assert np.abs(w).max() <= 2 * std / 0.87962 and not b.any()


CHOICES = {"seed": {}, "others": dict(activation="swish", Z_activation="linear", init="he")}


@pytest.mark.parametrize("choices", CHOICES)
def test_forward_pass_is_plain_numpys(mnist, choices):
    g = ae.build(ae.HParams(**CHOICES[choices]))
    with tf.Session(graph=g.X.graph) as sess:
        sess.run(g.init)
        check_forward_pass(g, sess, mnist, choices == "others")


def check_forward_pass(g, sess, mnist, others):
    w1, b1, w2, b2, wz, bz, w3, b3, w4, b4, wg, bg = (
        array.astype(np.float64) for array in weights(g, sess)
    )
    X = mnist.test.images[:100]

    def relu(x):
        return np.maximum(x, 0)

    def swish(x):
        return x / (1 + np.exp(-x))

    f = swish if others else relu
    Z = f(f(X @ w1 + b1) @ w2 + b2) @ wz + bz
    Z = Z if others else relu(Z)
    G = 1 / (1 + np.exp(-(f(f(Z @ w3 + b3) @ w4 + b4) @ wg + bg)))
    got_Z, got_G, got_loss = sess.run([g.Z, g.G, g.loss], {g.X: X})
    np.testing.assert_allclose(got_Z, Z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got_G, G, rtol=1e-4, atol=1e-5)
    assert got_loss == pytest.approx(((G - X) ** 2).sum() / 2, rel=1e-5)
    np.testing.assert_array_equal(sess.run(g.G, {g.Z: got_Z}), got_G)  # decoding is feeding Z


def test_trajectory_is_the_tutorials_on_tensorflow_1(g, sess, mnist):
    rs = np.random.RandomState(0)
    with g.X.graph.as_default():
        state = tf.global_variables()
        for v in tf.trainable_variables():
            v.load(np.float32(0.1 * np.clip(rs.standard_normal(v.shape), -2, 2)), sess)
    score = ae.evaluate(sess, g, mnist.test.images).score
    assert score == pytest.approx(SEED_TRAJECTORY["score_before"], rel=1e-5)
    order, rates = np.random.RandomState(1).permutation(55000), np.full(550, 0.001)
    fed, compiled = (f(sess, g, mnist.train.pixels) for f in (ae.fed_steps, ae.compiled_steps))
    losses, compiled_losses = [], []
    for first in range(0, 200, 20):
        # The compiled loop goes from where the tutorial's is, as it rounds otherwise: of the last
        # bit of the first weights, a thousandth of the loss has come by the hundredth step.
        before = sess.run(state)
        compiled_losses += [compiled(order, rates, k, k + 1) for k in range(first, first + 20)]
        for v, value in zip(state, before):
            v.load(value, sess)
        losses += [fed(order, rates, k, k + 1) for k in range(first, first + 20)]
    expected = SEED_TRAJECTORY["loss_before_each_step"]
    np.testing.assert_allclose(losses[:100], expected[:100], rtol=1e-5)
    np.testing.assert_allclose(losses, expected, rtol=1e-2)
    np.testing.assert_allclose(compiled_losses, losses, rtol=1e-5)
    after = ae.evaluate(sess, g, mnist.test.images)
    assert after.score == pytest.approx(SEED_TRAJECTORY["score_after_200_steps"], rel=1e-2)
    assert after.live == SEED_TRAJECTORY["latents_active_on_test_after"]


def test_building_again_gives_the_same_graph():
    g, again = ae.build(ae.HParams()), ae.build(ae.HParams())
    assert again.X.graph is not g.X.graph
    assert again.X.graph.as_graph_def() == g.X.graph.as_graph_def()


def test_other_depths_and_widths():
    g = ae.build(ae.HParams(X_n=16, enc_n=[9], Z_n=2, dec_n=[3, 4, 5]))
    with g.X.graph.as_default():
        shapes = [tuple(v.shape) for v in tf.trainable_variables()]
    assert shapes[::2] == [(16, 9), (9, 2), (2, 3), (3, 4), (4, 5), (5, 16)]
