"""The graph against the tutorial's own graph, its first steps on TensorFlow 1, and plain NumPy."""

import json
import re

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT

tf = ae.tf
SEED_GRAPH = json.loads((ROOT / "tests" / "seed_graph.json").read_text())["nodes"]
SEED_TRAJECTORY = json.loads((ROOT / "tests" / "seed_trajectory.json").read_text())

# What TensorFlow 2 calls the operations of TensorFlow 1.
OPS = {"Add": "AddV2", "VariableV2": "VarHandleOp", "Assign": "AssignVariableOp"}


def renamed(name):
    """The name of a node of the tutorial in our graph, where weights are called w and b."""
    name = re.sub(r"/Variable\b(?!_)", "/w", name)
    return re.sub(r"/Variable_1\b", "/b", name).removesuffix("/read")


@pytest.fixture(scope="module")
def net():
    return ae.build(ae.HParams())


def weights_of(net, sess):
    with net.X.graph.as_default():
        return sess.run(tf.trainable_variables())


def test_every_forward_node_of_the_tutorial(net):
    expected, found = [], []
    for name, op, inputs in SEED_GRAPH:
        if name.endswith("/read"):  # an operation has its own ReadVariableOp instead
            continue
        expected.append((renamed(name), OPS.get(op, op), [renamed(i) for i in inputs]))
        node = net.X.graph.get_operation_by_name(renamed(name))
        sources = [tensor.op for tensor in node.inputs]
        sources = [s.inputs[0].op if s.type == "ReadVariableOp" else s for s in sources]
        found.append((node.name, node.type, [source.name for source in sources]))
    assert found == expected
    assert [t.op.name for t in net[1:5]] == ["X/Placeholder", "Z/Relu", "G/Sigmoid", "loss/L2Loss"]
    boxes = {op.name.split("/")[0] for op in net.X.graph.get_operations()}
    assert boxes == {"X", "Encoder", "Z", "Decoder", "G", "loss", "training", "init"}


@pytest.mark.parametrize("init", ["normal", "he", "glorot"])
def test_initial_weights(init):
    net = ae.build(ae.HParams(init=init))
    with ae.start_session(net) as sess:
        weights = weights_of(net, sess)
    standardized = []
    for w, b in zip(weights[::2], weights[1::2]):
        n, m = w.shape
        # A normal distribution that is cut at two standard deviations has 0.87963 of its own.
        std = {"normal": 0.1 * 0.87963, "he": (2 / n) ** 0.5, "glorot": (2 / (n + m)) ** 0.5}[init]
        assert w.std() == pytest.approx(std, rel=0.03)
        assert np.abs(w).max() <= 2 * std / 0.8796
        assert np.abs(b).max() <= 0.2 and b.any() == (init == "normal")
        standardized.append(w.ravel()[:6000] / std)
    # Each layer draws numbers of its own: no two are correlated by more than five sigmas.
    correlations = np.corrcoef(standardized) - np.eye(len(standardized))
    assert np.abs(correlations).max() < 5 / 6000**0.5


@pytest.mark.parametrize("centering", ["none", "mean"])
def test_forward_pass_is_that_of_numpy(mnist, centering):
    def swish(x):
        return x / (1 + np.exp(-x))

    few = ae.DataSets(*[part.subset(slice(200)) for part in mnist])
    changes = {"activation": "swish", "Z_activation": "linear", "init": "he", "epoch_n": 1}
    net = ae.build(ae.HParams(centering=centering, **changes))
    X = mnist.test.images[:100]
    mean, logits = 0, 0
    if centering == "mean":
        mean = few.train.images.mean(axis=0)
        clipped = np.clip(mean, 0.01, 0.99)
        logits = np.log(clipped / (1 - clipped))
    with ae.start_session(net) as sess:
        ae.train(sess, net, few, loop=ae.feed_loop)
        w1, b1, w2, b2, wz, bz, w3, b3, w4, b4, wg, bg = np.array(weights_of(net, sess), object)
        actual_Z, actual_G, actual_loss = sess.run([net.Z, net.G, net.loss], {net.X: X})
        decoded = sess.run(net.G, {net.Z: actual_Z})
    Z = swish(swish((X - mean) @ w1 + b1) @ w2 + b2) @ wz + bz
    G = 1 / (1 + np.exp(-(swish(swish(Z @ w3 + b3) @ w4 + b4) @ wg + bg + logits)))
    np.testing.assert_allclose(actual_Z, Z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(actual_G, G, rtol=1e-4, atol=1e-5)
    assert actual_loss == pytest.approx(((G - X) ** 2).sum() / 2, rel=1e-5)
    np.testing.assert_array_equal(decoded, actual_G)  # to decode is to feed Z


@pytest.mark.parametrize("compiled", [False, True])
def test_first_steps_are_those_of_the_tutorial_on_tensorflow_1(net, mnist, compiled):
    # How the weights and the order of the images were made is written in seed_trajectory.json.
    rs = np.random.RandomState(0)
    images = mnist.train.images[np.random.RandomState(1).permutation(55000)]
    with net.X.graph.as_default(), ae.start_session(net) as sess:
        for v in tf.trainable_variables():
            v.load(np.float32(0.1 * np.clip(rs.standard_normal(v.shape), -2, 2)), sess)
        score = ae.evaluate(sess, net, mnist.test.images).score
        loop = ae.compile_loop(sess, net) if compiled else ae.feed_loop
        losses = [loop(sess, net, images[k : k + 100], 1) for k in range(0, 1200, 100)]
    assert score == pytest.approx(SEED_TRAJECTORY["score_before"], rel=1e-6)
    assert compiled == (loop is not ae.feed_loop)
    np.testing.assert_allclose(losses, SEED_TRAJECTORY["loss_before_each_step"][:12], rtol=1e-6)
