"""AutoEncoder.ipynb: as it is committed, and executed on a tenth of the data."""

import itertools
import json
import os
import re
import shutil
import signal

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import autoencoder as ae
from conftest import ROOT

NOTEBOOK = ROOT / "AutoEncoder.ipynb"
SECTIONS = ["Imports", "Hyperparameters", "Input data", "Model architecture", "Session"]
SECTIONS += ["Training", "Evaluation", "TensorBoard"]
# In the test, what a slider changes is drawn once and without an Output widget, for which nbclient now
# and then waits for ever.
IMPORTS = """from autoencoder import tf
import ipywidgets
ae.compile_loop = lambda *_: ae.feed_loop
def draw_once(f, controls):
    f(**{name: w.value for name, w in controls.items() if hasattr(w, "value")})
    return ipywidgets.HTML()
ipywidgets.interactive_output = draw_once
ipywidgets.interact = lambda **controls: lambda f: draw_once(f, controls)
"""
SHORTER = [  # cell, what it has, what it has in the test
    ("imports", "from autoencoder import tf\n", IMPORTS),
    ("hp", "epoch_n = 10", "epoch_n = 1"),
    ("data", "read_data_sets()", "read_data_sets('mnist.npz')"),
]


def read():
    """The notebook, and its code cells by their ids."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return notebook, {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def check_outputs(cells):
    for output in itertools.chain(*(cell.outputs for cell in cells.values())):
        assert output.output_type != "error", output
        assert output.get("name") != "stderr", output


def test_outputs_are_of_one_run_from_top_to_bottom():
    _, cells = read()
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    check_outputs(cells)
    # Where no widgets run, still pictures take their place. In a file that is opened from a disk,
    # TensorBoard's frame would show the reader's folders.
    for id in ("tensorboard", "sliders", "between", "threshold"):
        assert [set(output.data) for output in cells[id].outputs] == [{"image/png", "text/plain"}]
    for id in ("training", "train"):
        assert text_of(cells[id]).count("epoch: ") == 10
    assert re.match(r"score: [0-9.]+\n", text_of(cells["score"]))
    assert NOTEBOOK.stat().st_size < 1_200_000
    for cell in cells.values():
        data = [output.get("data", {}) for output in cell.outputs]
        text = text_of(cell) + json.dumps([d for d in data if "image/png" not in d])
        assert not re.search(r"/(home|root|work|tmp|usr|Users)/|[A-Z]:\\|site-packages", text), text


def test_sections_names_and_source_are_the_tutorials_and_the_modules():
    notebook, cells = read()
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = [heading.split(" / ")[-1] for heading in re.findall(r"^## (.*)$", markdown, re.M)]
    assert headings[:8] == SECTIONS
    module = (ROOT / "autoencoder.py").read_text()
    for id in ("X", "encoder", "decoder", "loss"):
        shown = cells[id].outputs[-1].data["text/plain"]
        names = re.findall(r"^def (\w+)", shown, re.M)
        assert names == re.findall(r"getsource\(ae\.(\w+)\)", cells[id].source)
        assert all(function.strip() in module for function in shown.split("\n\n\n"))


@pytest.fixture
def folder(tmp_path, monkeypatch, mnist):
    """A folder to run the notebook in, with a copy of the modules, so that ours gets no files, and a
    tenth of MNIST.

    TensorBoard, which the notebook starts, is stopped at the end.
    """
    shutil.copy(ROOT / "autoencoder.py", tmp_path)
    shutil.copytree(ROOT / "beyond", tmp_path / "beyond")
    train, test = mnist.train.subset(slice(6000)), mnist.test.subset(slice(1000))
    arrays = {"x_train": train.images, "y_train": train.labels}
    np.savez(tmp_path / "mnist.npz", x_test=test.images, y_test=test.labels, **arrays)
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    yield tmp_path
    for path in tmp_path.glob("TMPDIR/.tensorboard-info/pid-*.info"):
        os.kill(json.loads(path.read_text())["pid"], signal.SIGTERM)


def shorten(cells):
    for id, long, short in SHORTER:
        assert long in cells[id].source
        cells[id].source = cells[id].source.replace(long, short)
    for cell in cells.values():
        cell.outputs = []


def test_every_cell_runs(folder):
    notebook, cells = read()
    shorten(cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    check_outputs(cells)
    assert "text/html" in json.dumps(cells["tensorboard"].outputs)
    data = ae.read_data_sets(folder / "mnist.npz")
    net = ae.build(ae.HParams(epoch_n=1))
    with ae.start_session(net) as sess:
        sess.run(net.init)  # the second time, as in the notebook
        ae.train(sess, net, data, loop=ae.feed_loop)
        assert text_of(cells["evaluate"]) == f"{ae.evaluate(sess, net, data.test.images)}\n"
