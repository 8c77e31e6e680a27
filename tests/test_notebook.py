"""AutoEncoder.ipynb: as it is committed, and executed on a tenth of the data."""

import json
import os
import re
import shutil
import signal
import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import autoencoder as ae
from conftest import ROOT, free_port, needs_browser, server

NOTEBOOK = ROOT / "AutoEncoder.ipynb"
SECTIONS = ["Imports", "Hyperparameters", "Input data", "Model architecture", "Session"]
SECTIONS += ["Training", "Evaluation", "TensorBoard"]
SHORTER = [  # cell, what it has, what it has in the test
    ("imports", "tf = ae.tf", "tf = ae.tf; ae.compile_loop = lambda *_: ae.feed_loop"),
    ("hp", "epoch_n=10", "epoch_n=1"),
    ("data", "read_data_sets()", "read_data_sets('mnist.npz')"),
    ("entropy", "epoch_n=2", "epoch_n=1"),
    ("compare", "(2, 5, 20)", "(2,)"),
    ("tune", "trials=4", "trials=2"),
    ("tuned", 'ae.RECIPES["tuned"]', 'dataclasses.replace(ae.RECIPES["tuned"], epoch_n=1)'),
]


def read():
    """The notebook, and its code cells by their ids."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return notebook, {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def check_outputs(cells):
    for cell in cells.values():
        assert cell.outputs
        for output in cell.outputs:
            assert output.output_type != "error", output
            assert output.get("name") != "stderr", output


def test_outputs_are_of_one_run_from_top_to_bottom():
    _, cells = read()
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    check_outputs(cells)
    assert text_of(cells["training"]).count("epoch: ") == 10
    assert re.match(r"score: [0-9.]+ .* of 20 latents live", text_of(cells["score"]))
    assert NOTEBOOK.stat().st_size < 1_200_000
    for cell in cells.values():
        data = [output.get("data", {}) for output in cell.outputs]
        text = text_of(cell) + json.dumps([d for d in data if "image/png" not in d])
        assert not re.search(r"/(home|root|work|tmp|usr|Users)/|[A-Z]:\\|site-packages", text), text


def test_sections_are_the_tutorials_in_its_order():
    notebook, _ = read()
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = [heading.split(" / ")[-1] for heading in re.findall(r"^## (.*)$", markdown, re.M)]
    assert headings[:8] == SECTIONS


def test_hyperparameters_and_source_are_the_modules():
    _, cells = read()
    namespace = {"ae": ae}
    exec(cells["hp"].source, namespace)
    assert namespace["hp"] == ae.HParams()
    module = (ROOT / "autoencoder.py").read_text()
    for id in ("source", "feed-source", "train-source"):
        shown = cells[id].outputs[0].data["text/plain"]
        names = re.findall(r"^def (\w+)", shown, re.M)
        assert names == re.findall(r"ae\.(\w+)", cells[id].source)
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
    # What interact draws, or an exception in it, is in the state of its widget.
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    drawn = [w["state"]["outputs"] for w in widgets.values() if w["model_name"] == "OutputModel"]
    assert [[list(output["data"]) for output in outputs] for outputs in drawn] == [
        [["text/plain", "image/png"]]
    ] * 2
    assert "text/html" in json.dumps(cells["tensorboard"].outputs)
    data = ae.read_data_sets(folder / "mnist.npz")
    g = ae.build(ae.HParams(epoch_n=1))
    with ae.start_session(g) as sess:
        ae.train(sess, g, data, loop=ae.feed_loop)
        assert text_of(cells["score"]) == f"{ae.evaluate(sess, g, data.test.images)}\n"


@needs_browser
def test_a_slider_changes_the_picture(driver, folder):
    """In JupyterLab, after the cells that lead to the first slider."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    notebook, cells = read()
    shorten(cells)
    ids = "imports hp data digits tutorial build training latent live turned sliders".split()
    notebook.cells = [cells[id] for id in ids]
    nbformat.write(notebook, folder / "slider.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.root_dir={folder}", f"--port={port}", "--IdentityProvider.token="]
    command += ["--LabApp.expose_app_in_browser=True"]
    url = f"http://127.0.0.1:{port}/lab/tree/slider.ipynb"
    wait = WebDriverWait(driver, 120)

    def element(selector):
        return wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, selector), selector)[0]

    def picture():
        script = "return fetch(document.querySelector('.widget-image').src).then(r => r.text())"
        return driver.execute_script(script)

    with server(command, url, folder / "log"):
        driver.get(url)
        element(".jp-CodeCell")
        # JupyterLab asks for a kernel if none has started, and draws only the cells in sight.
        driver.execute_script("return jupyterapp.shell.currentWidget.sessionContext.ready")
        driver.execute_script("jupyterapp.commands.execute('notebook:run-all-cells')")
        last = len(ids) - 1
        driver.execute_script(f"jupyterapp.shell.currentWidget.content.scrollToItem({last})")
        handle = element(".noUi-handle")
        element(".widget-image[src^='blob:']")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
        before = picture()
        ActionChains(driver).drag_and_drop_by_offset(handle, 300, 0).perform()
        wait.until(lambda _: picture() != before, "the picture did not change")
