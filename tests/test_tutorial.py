"""What the 2019 tutorial does, as it was written for TensorFlow 1, with two import lines changed."""

import os
import re
import subprocess
import sys

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


def readme_block(text):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if "ae.train" in block and text in block)


def test_links_and_both_languages():
    texts = {path: path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("beyond/*.md")]}
    texts[ROOT / "AutoEncoder.ipynb"] = (ROOT / "AutoEncoder.ipynb").read_text()
    for path, text in texts.items():
        text = re.sub("```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        for target, anchor in re.findall(r"\]\((?!http|attachment)([^)#\s]*)#?([^)\s]*)\)", text):
            linked = path.parent / target if target else path
            assert linked.exists(), (path, target)
            titles = re.findall("^#+ (.*)$", linked.read_text(), re.MULTILINE) if anchor else []
            slugs = {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}
            assert not anchor or anchor in slugs or f'<a id="{anchor}">' in texts[linked]
    blocks = re.findall(r"```python\n.*?```", texts[ROOT / "README.ja.md"], re.DOTALL)
    assert readme_block("mnist") in blocks[1] and len(blocks) == 2


WITHOUT_V2 = """
from autoencoder import tf
tf.disable_v2_behavior()
import autoencoder as ae
from test_built import DATA, build
net = build()
with ae.start_session(net) as sess:
    ae.train(sess, net, DATA, "run")
"""


def test_after_disable_v2_behavior_as_many_scripts_call_it(tmp_path):
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    command = [sys.executable, "-c", WITHOUT_V2]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    reason, *epochs = run.stdout.splitlines()
    assert "feed_loop" in reason and "tf.enable_resource_variables()" in reason
    assert [line[:9] for line in epochs] == ["epoch: 1,", "epoch: 2,"]


def test_a_changed_graph_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(readme_block("a third encoder layer"), names)
    assert (names["codes"].shape, names["images"].shape) == ((10000, 20), (10000, 784))
    assert 0 < np.square(names["images"] - names["data"].test.images).mean() < 0.04
    assert (tmp_path / "logs/mine/checkpoints/epoch-2.index").exists()


def test_the_tutorial_and_what_its_graph_can_do_here(tmp_path, monkeypatch, capsys):
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

        # README's lines, after the tutorial's.
        built = {op.name: op.type for op in graph.get_operations()}
        epoch_n, batch_size = 2, 100
        monkeypatch.chdir(tmp_path)
        names = globals() | locals()
        exec(readme_block("mnist"), names)
        assert ae.evaluate(sess, names["net"], mnist.test.images).score == pytest.approx(
            score, rel=1e-5
        )
    out = capsys.readouterr().out
    assert "without XLA" not in out
    first, second, found = map(float, re.findall(r"(?:validation loss|score): ([0-9.]+)", out))
    assert score > first > second > 0.9 * found
    tutorials = {name: OPS.get(op, op) for name, op, _ in SEED_GRAPH if not name.endswith("/read")}
    assert tutorials.items() <= built.items()
