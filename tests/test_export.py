"""beyond.export: a SavedModel in a program that has TensorFlow and nothing of this project."""

import subprocess
import sys

import numpy as np

from beyond import anomaly
from beyond.common import load_run
from conftest import files, typed

PROGRAM = """
import numpy as np
import tensorflow as tf

model = tf.saved_model.load("saved")
X = tf.constant(np.load("X.npy"))
Z = model.signatures["encode"](images=X)["Z"]
found = {"Z": Z, "decoded": model.signatures["decode"](Z=Z)["G"]}
found |= model.signatures["reconstruct"](images=X) | model.signatures["detect"](images=X)
np.savez("found.npz", **found)
"""


def test_another_program_computes_what_the_session_does(model, tmp_path):
    assert typed("--logdir", model[0], "--output", tmp_path / "saved", module="export") == 0
    with load_run(model[0]) as (sess, g, data):
        X = data.test.images
        Z, G = sess.run([g.Z, g.G], {g.X: X})
        score, flag = anomaly.detect(sess, g, X, anomaly.detector(sess, g, data))
    np.save(tmp_path / "X.npy", X)
    # -I: without the folder of this project
    subprocess.run([sys.executable, "-I", "-c", PROGRAM], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npz")
    error = ((G.astype(np.float64) - X) ** 2).sum(axis=1) / 2
    expected = {"Z": Z, "decoded": G, "G": G, "error": error, "score": score}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found["flag"], flag)
    assert 0 < flag.sum() < len(flag)


def test_an_output_that_exists_is_refused(model, tmp_path, capfd):
    before = files(tmp_path)
    assert typed("--logdir", model[0], "--output", tmp_path, module="export") == 2
    assert f"{tmp_path} exists already" in capfd.readouterr().err
    assert files(tmp_path) == before
