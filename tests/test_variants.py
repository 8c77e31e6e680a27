"""beyond.variants: a run of each kind is opened by its folder alone, and refused by another kind."""

import re

import numpy as np
import pytest

import autoencoder as ae
from beyond import keras_model
from beyond.common import load_run
from beyond.kinds import KINDS
from conftest import SMALL, typed
from test_built import IMAGES

tf = ae.tf


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_opened_by_its_folder_alone(kind, small_dir, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(ae, "compile_loop", lambda *_: ae.feed_loop)  # it takes seconds
    run = tmp_path / "run"
    flags = [*SMALL, "--epoch_n", 1, "--data_dir", small_dir, "--init", "he", "--logdir", run]
    assert typed(kind, *flags, "--Z_n", 2, module="variants") == 0
    printed = re.findall(r"^(.+): score ([0-9.]+), .* latents vary$", capfd.readouterr().out, re.M)
    assert [name for name, _ in printed] == list(dict.fromkeys([kind, "plain"]))
    assert (run / "reconstruction.png").exists() and (run / "plane.png").exists()
    with load_run(run) as (sess, net, data):
        X = data.test.images
        Z, G = sess.run([net.Z, net.G], {net.X: X})
    assert f"network: {run}, {kind}, trained" in capfd.readouterr().out
    assert printed[0][1] == f"{50 * np.square(G - X).sum(axis=1).mean():.1f}"
    np.save(tmp_path / "images.npy", IMAGES)
    assert typed(tmp_path / "images.npy", "--logdir", run, module="screen") == 0
    assert typed("--logdir", run, "--output", tmp_path / "saved", module="export") == 0
    with tf.Graph().as_default(), tf.Session() as sess:
        loaded = tf.saved_model.load(sess, ["serve"], str(tmp_path / "saved"))
        encode = loaded.signature_def["encode"]
        feed = {encode.inputs["images"].name: X}
        np.testing.assert_allclose(sess.run(encode.outputs["Z"].name, feed), Z, rtol=1e-5)
    if kind in ("tied", "variational", "convolutional"):
        with pytest.raises(ae.AutoEncoderError, match=f"is {kind}, which does not consist of"):
            keras_model.keras_model(run)
    other = "tied" if kind != "tied" else "plain"
    assert typed(other, *flags, "--Z_n", 2, "--resume", module="variants") == 2
    assert re.search(f"the run in {run} has another .*graph: use", capfd.readouterr().err)
