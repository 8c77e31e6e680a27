"""What was trained, used by programs that have TensorFlow and not this project."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import autoencoder as ae
from beyond import anomaly, export
from conftest import files, typed

tf = ae.tf

# What somebody else has: TensorFlow, NumPy, and the exported folder.
PROGRAM = """
import sys
import numpy as np
import tensorflow as tf

assert tf.executing_eagerly() and not any("autoencoder" in name for name in sys.modules)
model = tf.saved_model.load(sys.argv[1])
X = tf.constant(np.load(sys.argv[2]))
Z = model.signatures["encode"](images=X)["Z"]
found = {"Z": Z, "decoded": model.signatures["decode"](Z=Z)["G"]}
found |= model.signatures["reconstruct"](images=X) | model.signatures["detect"](images=X)
np.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def exported(main_job, mnist, tmp_path_factory):
    """The main job's network, exported: its folder, 1,000 images, and what the session answers."""
    folder = tmp_path_factory.mktemp("exported")
    output = folder / "saved"
    assert typed("--logdir", main_job.logdir, "--output", output, module="export") == 0
    X = mnist.test.images[:1000]
    np.save(folder / "X.npy", X)
    with anomaly.trained(main_job.logdir, mnist) as (sess, g):
        Z, G = sess.run([g.Z, g.G], {g.X: X})
        score, flag = anomaly.detect(sess, g, X, anomaly.detector(sess, g, mnist))
    error = np.square(G - X, dtype=np.float64).sum(axis=1) / 2
    return folder, {"Z": Z, "decoded": G, "G": G, "error": error, "score": score, "flag": flag}


def check(found, expected):
    assert found.shape == expected.shape
    if found.dtype == bool:
        assert np.array_equal(found, expected) and 0 < found.sum() < len(found)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_somebody_elses_program_has_the_sessions_answers(exported, tmp_path):
    folder, answers = exported
    command = [sys.executable, "-I", "-c", PROGRAM, folder / "saved", folder / "X.npy", "found.npz"]
    subprocess.run([*map(str, command)], cwd=tmp_path, check=True, capture_output=True)
    found = np.load(tmp_path / "found.npz")
    assert set(found) == set(answers)
    for name, expected in answers.items():
        check(found[name], expected)


@pytest.mark.slow
def test_tensorflows_own_tool_runs_it(exported, tmp_path):
    folder, answers = exported
    tool = [Path(sys.executable).with_name("saved_model_cli"), "run", "--dir", folder / "saved"]
    tool += ["--tag_set", "serve", "--signature_def", "detect", "--inputs"]
    tool += [f"images={folder / 'X.npy'}", "--outdir", "out"]
    subprocess.run([*map(str, tool)], cwd=tmp_path, check=True, capture_output=True)
    for name in ("score", "flag"):
        check(np.load(tmp_path / "out" / f"{name}.npy"), answers[name])


def test_a_changed_graph_is_what_is_exported(small_hp, tmp_path, capfd):
    with tf.Graph().as_default():
        X = ae.inputs(small_hp)
        w = tf.Variable(tf.truncated_normal([16, 16], seed=1))
        Z = ae.encode(tf.tanh(tf.matmul(X, w)), small_hp)
        G = ae.decode(Z, small_hp)
        loss = ae.l2_loss(G, X)
        rate, opt = ae.training(loss, small_hp)
        g = ae.Graph(small_hp, X, Z, G, loss, rate, opt, tf.global_variables_initializer())
    images = np.random.RandomState(0).rand(7, 16).astype(np.float32)
    with ae.start(g) as sess:
        found = anomaly.Detector(sess.run(g.Z, {g.X: images}), 0.5)
        export.export(sess, g, tmp_path / "saved", found)
        expected = sess.run(g.G, {g.X: images})
    with tf.Graph().as_default(), tf.Session() as other:
        saved = tf.saved_model.load(other, ["serve"], str(tmp_path / "saved"))
        signature = saved.signature_def["reconstruct"]
        fetch, feed = signature.outputs["G"].name, signature.inputs["images"].name
        check(other.run(fetch, {feed: images}), expected)
    assert capfd.readouterr().err == ""


def test_an_output_that_exists_is_refused(model, tmp_path, capfd):
    (tmp_path / "mine").write_text("a file of the user's")
    before = files(tmp_path)
    folders = ["--logdir", model[0], "--data_dir", model[1]]
    for output in (tmp_path, tmp_path / "mine"):
        assert typed(*folders, "--output", output, module="export") == 2
        said = f"python -m beyond.export: error: {output} is there already: choose another output\n"
        assert capfd.readouterr().err == said
    assert files(tmp_path) == before
