"""What the 2019 tutorial does, as it was written for TensorFlow 1, with two import lines changed."""

import numpy as np
import pytest

import autoencoder as ae
import autoencoder as input_data  # was: from tensorflow.examples.tutorials.mnist import input_data
from autoencoder import tf  # was: import tensorflow as tf
from conftest import ROOT
from test_graph import OPS, SEED_GRAPH


def dense(x, n, activation):
    w = tf.Variable(tf.truncated_normal([int(x.shape[1]), n], stddev=0.1))
    b = tf.Variable(tf.truncated_normal([n], stddev=0.1))
    return activation(tf.matmul(x, w) + b)


def stack(x, sizes, scope):
    with tf.name_scope(scope):
        for i, n in enumerate(sizes):
            with tf.name_scope("Layer%02d" % (i + 1)):
                x = dense(x, n, tf.nn.relu)
    return x


def test_the_tutorial_and_what_its_graph_can_do_here(tmp_path, capsys):
    mnist = input_data.read_data_sets(ROOT / "MNIST_data", one_hot=True)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        tf.set_random_seed(0)
        with tf.name_scope("X"):
            X = tf.placeholder(tf.float32, [None, 784])
        h = stack(X, [500, 300], "Encoder")
        with tf.name_scope("Z"):
            Z = dense(h, 20, tf.nn.relu)
        h = stack(Z, [300, 500], "Decoder")
        with tf.name_scope("G"):
            G = dense(h, 784, tf.sigmoid)
        with tf.name_scope("loss"):
            loss = tf.nn.l2_loss(G - X)
        opt = tf.train.AdamOptimizer().minimize(loss)

        sess.run(tf.initialize_all_variables())
        tf.summary.FileWriter(str(tmp_path), sess.graph).close()
        train_X = np.random.RandomState(0).permutation(mnist.train.images)
        for k in range(20):
            sess.run(opt, feed_dict={X: train_X[100 * k : 100 * (k + 1)]})
        batch, labels = mnist.train.next_batch(100)
        assert sess.run(loss, feed_dict={X: batch}) < 4000  # it begins at 9600
        assert labels.shape == (100, 10)
        score = sess.run(loss, feed_dict={X: mnist.test.images}) / 100

        # The tutorial's graph as one of the module's.
        net = ae.Network(
            ae.HParams(epoch_n=2), X, Z, G, loss, opt, tf.global_variables_initializer()
        )
        built = {op.name: op.type for op in graph.get_operations()}
        few = ae.DataSets(*[part.subset(slice(500)) for part in mnist])
        assert ae.evaluate(sess, net, mnist.test.images).score == pytest.approx(score, rel=1e-5)
        first, second = ae.train(sess, net, few, tmp_path / "run")
    assert "without XLA" not in capsys.readouterr().out
    assert score > first.validation_loss > second.validation_loss
    tutorials = {name: OPS.get(op, op) for name, op, _ in SEED_GRAPH if not name.endswith("/read")}
    assert tutorials.items() <= built.items()
