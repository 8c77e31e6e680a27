"""beyond.export: a SavedModel in a program that has TensorFlow and nothing of this project."""

import json
import shutil
import subprocess
import sys

import numpy as np

import autoencoder as ae
from beyond import anomaly, kinds
from beyond.common import load_run
from conftest import typed

PROGRAM = """
import numpy as np
import tensorflow as tf
model = tf.saved_model.load("saved")
X = tf.constant(np.load("X.npy"))
Z = model.signatures["encode"](images=X)["Z"]
found = model.signatures["reconstruct"](images=X) | model.signatures["serving_default"](images=X)
np.savez("found.npz", Z=Z, decoded=model.signatures["decode"](Z=Z)["G"], **found)
"""


def test_another_program_computes_what_the_session_does(model, tmp_path):
    assert typed("--logdir", model[0], "--output", tmp_path / "saved", module="export") == 0
    with load_run(model[0]) as (sess, net, data):
        X = data.test.images
        Z, G = sess.run([net.Z, net.G], {net.X: X})
        detector = anomaly.make_detector(sess, net, data)
        scores, flags = anomaly.detect(sess, net, X, detector)
    np.save(tmp_path / "X.npy", X)
    subprocess.run([sys.executable, "-I", "-c", PROGRAM], cwd=tmp_path, check=True)  # -I: isolated
    found = np.load(tmp_path / "found.npz")
    expected = {"Z": Z, "decoded": G, "G": G, "error": ((G - X) ** 2).sum(axis=1) / 2}
    expected |= {
        "score": scores["largest"],
        "threshold": detector.thresholds["largest"],
        "flag": flags["largest"],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    assert 0 < flags["largest"].sum() < len(X)
    flags = ["--score", "local", "--rate", 0.3]
    assert typed("--logdir", model[0], "--output", tmp_path / "l", *flags, module="export") == 0
    with ae.tf.Graph().as_default(), ae.tf.Session() as sess:
        saved = ae.tf.saved_model.load(sess, ["serve"], str(tmp_path / "l"))
        outputs = saved.signature_def["detect"].outputs
        found = sess.run(
            outputs["score"].name, {saved.signature_def["detect"].inputs["images"].name: X}
        )
        np.testing.assert_allclose(found, scores["local"], rtol=1e-5, atol=1e-6)
        assert sess.run(outputs["threshold"].name) < detector.thresholds["local"]


def test_a_network_with_another_amount_of_noise(model, tmp_path):
    data = ae.read_data_sets(model[1])
    net = kinds.denoising(ae.read_run(model[0]).hp, sd=0.2)
    with ae.start_session(net) as sess:
        ae.train(sess, net, data, tmp_path / "run")
        G = sess.run(net.G, {net.X: data.test.images})
    with load_run(tmp_path / "run") as (sess, net, data):
        assert np.array_equal(sess.run(net.G, {net.X: data.test.images}), G)
    assert list(net.training_feed.values()) == [0.2]


def test_a_run_on_arrays_needs_their_place(model, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(model[0], run)
    path = run / "checkpoints" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_dir": None}))
    command = ["--logdir", run, "--output", tmp_path / "saved"]
    assert typed(*command, module="export") == 2
    assert "--data_dir" in capfd.readouterr().err
    assert typed(*command, "--data_dir", model[1], module="export") == 0
