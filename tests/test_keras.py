"""What details.md says of Keras, in processes that do not import autoencoder.py."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import autoencoder as ae
from beyond import keras_model
from beyond.common import load_run
from conftest import ROOT, shell, typed

DETAILS = (ROOT / "beyond" / "details.md").read_text()
EVALUATE = """
images = np.load("X.npy")
np.savez("found.npz", Z=encoder.predict(images), G=autoencoder.predict(images))
"""


def code_with(text):
    """The block of Python in details.md that has a text."""
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", DETAILS, re.DOTALL) if text in b]
    return block


def run(program, folder):
    """Runs a program as a process of its own. Returns what it prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_converted_network_computes_what_the_session_does(model, tmp_path):
    output = tmp_path / "logs" / "digits.keras"
    converted = shell("--logdir", model[0], "--output", output, module="keras_model")
    assert (converted.returncode, converted.stderr) == (0, "")
    with load_run(model[0]) as (sess, net, data):
        X = data.test.images
        Z, G = sess.run([net.Z, net.G], {net.X: X})
    np.save(tmp_path / "X.npy", X)
    run("import numpy as np\n" + code_with("load_model") + EVALUATE, tmp_path)
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_allclose(found["Z"], Z, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["G"], G, rtol=1e-5, atol=1e-6)


def test_the_same_network_by_fit():
    program = code_with("model.fit").replace("epochs=10", "epochs=1, verbose=0")
    score = re.search(r"score: ([0-9.]+)", run(program, ROOT))[1]
    # After one epoch, the validation loss of recipe `tutorial` is 800 to 900. It begins at 9600.
    assert 600 < float(score) < 1200


def test_what_cannot_be_converted(model, tmp_path, capfd):
    old = tmp_path / "old.keras"
    old.touch()
    for logdir, output, phrase in (
        (model[0], old, "exists already"),
        (model[0], tmp_path / "new.h5", "must end in .keras"),
    ):
        assert typed("--logdir", logdir, "--output", output, module="keras_model") == 2
        assert phrase in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == [old]
    # A network of another graph, under the hyperparameters of the tutorial's.
    run = tmp_path / "run"
    shutil.copytree(model[0], run)
    path = run / "checkpoints" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"enc_n": [8, 6, 5]}))
    for logdir, phrase in (
        (run, "not that of autoencoder.build"),
        (tmp_path, "no trained network"),
    ):
        with pytest.raises(ae.AutoEncoderError, match=phrase):
            keras_model.keras_model(logdir)
