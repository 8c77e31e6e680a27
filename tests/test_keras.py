"""What details.md says of Keras, in a process that does not import autoencoder.py."""

import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import autoencoder as ae
from beyond import keras_model
from beyond.common import load_run
from conftest import ROOT, shell, typed

EVALUATE = """
import numpy as np
images = np.load("X.npy")
np.savez("found.npz", Z=encoder.predict(images), G=autoencoder.predict(images))
"""


def test_the_converted_network_computes_what_the_session_does(model, tmp_path, capfd):
    output = tmp_path / "logs" / "digits.keras"
    converted = shell("--logdir", model[0], "--output", output, module="keras_model")
    assert (converted.returncode, converted.stderr) == (0, "")
    again = typed("--logdir", model[0], "--output", output, module="keras_model")
    assert again == 2 and "exists already" in capfd.readouterr().err
    with load_run(model[0]) as (sess, net, data):
        X = data.test.images
        Z, G = sess.run([net.Z, net.G], {net.X: X})
    # Keras 3.5 to 3.13 refuse keys that they do not know.
    with zipfile.ZipFile(output) as archive:
        assert not re.search(
            "quantization_config|input_axes|output_axes", str(archive.read("config.json"))
        )
    np.save(tmp_path / "X.npy", X)
    details = (ROOT / "beyond" / "details.md").read_text()
    (block,) = re.findall(r"```python\n([^`]*load_model[^`]*)```", details)
    subprocess.run([sys.executable, "-c", block + EVALUATE], cwd=tmp_path, check=True)
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_allclose(found["Z"], Z, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["G"], G, rtol=1e-5, atol=1e-6)


def test_a_network_of_another_graph_is_refused(model, tmp_path):
    shutil.copytree(model[0], tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "run.json"
    path.write_text(path.read_text().replace('"linear"', '"relu"'))  # Z_activation
    with pytest.raises(ae.AutoEncoderError, match="is none of plain, cross-entropy"):
        keras_model.keras_model(tmp_path / "run")
