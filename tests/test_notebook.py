"""AutoEncoder.ipynb: as it is committed; each cell twice, on a tenth of the data; all, in a browser."""

import ast
import contextlib
import io
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
from beyond import anomaly, pca, tuning
from conftest import ROOT, free_port, needs_browser, score_of, server

NOTEBOOK = ROOT / "AutoEncoder.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def cell_of(notebook, id):
    return next(cell for cell in notebook.cells if cell.id == id)


# ---- As it is committed ----


def test_it_is_committed_with_the_outputs_of_one_full_run():
    cells = code_cells(read())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells)
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr"
    assert NOTEBOOK.stat().st_size < 1_500_000


def test_its_pictures_are_attached():
    """JupyterLab serves nothing of a hidden folder, as .readme is."""
    cells = [cell for cell in read().cells if "![" in cell.source]
    for cell in cells:
        for picture in re.findall(r"!\[.*?\]\((.*?)\)", cell.source):
            assert picture.removeprefix("attachment:") in cell.attachments
    assert cells


def test_it_shows_the_modules_source_as_it_is():
    shown = [
        output["data"]["text/markdown"]
        for cell in code_cells(read())
        for output in cell.outputs
        if "text/markdown" in output.get("data", {})
    ]
    source = (ROOT / "autoencoder.py").read_text()
    functions = re.findall(r"^def .*?(?=\n\n\n|\n```)", "\n\n\n".join(shown), re.M | re.S)
    assert len(functions) > 5 and all(function in source for function in functions)


def test_its_outputs_hold_no_paths_and_no_noise():
    for cell in code_cells(read()):
        for output in cell.outputs:
            shown = output.get("data", {}).items()  # the module's own source is shown as Markdown
            text = json.dumps({k: v for k, v in shown if not re.search("image|markdown", k)})
            text += output.get("text", "")
            assert not re.search(r"/(home|root|work|tmp|usr|Users)/|[A-Z]:\\\\|\r", text), text
            assert not re.search(r"warning|error|deprecat|I0000|site-packages", text, re.I), text
    for cell in code_cells(read()):  # of a training after the first, one line
        said = text_of(cell)
        assert said.count("epoch: ") == (10 if cell.id == "training" else 0)
        assert len(said.splitlines()) <= 20


def test_the_tutorials_sections_in_its_order_in_both_languages():
    headings = re.findall(r"^#+ (.*)$", "\n".join(c.source for c in read().cells if c.cell_type == "markdown"), re.M)  # fmt: skip
    tutorial = [
        "ライブラリのインポート等 / Imports", "ハイパーパラメータ / Hyperparameters",
        "入力データ / Input data", "モデルアーキテクチャ / Model architecture",
        "セッション開始 / Session", "トレーニング / Training", "性能評価 / Evaluation", "TensorBoard",
    ]  # fmt: skip
    assert headings[1 : 1 + len(tutorial)] == tutorial


def test_no_cell_defines_what_a_module_defines():
    module = {
        name
        for of in (ae, anomaly, pca, tuning)
        for name, value in vars(of).items()
        if getattr(value, "__module__", "") == of.__name__
    }
    for cell in code_cells(read()):
        source = re.sub(r"^[%!].*$", "pass", cell.source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, (ast.FunctionDef, ast.ClassDef))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assert node.id not in module


def test_its_hyperparameters_are_the_tutorials():
    names = {"ae": ae}
    exec(cell_of(read(), "hp").source, names)
    assert names["hp"] == ae.HParams()


# ---- Executed ----


@pytest.fixture
def kernel_folder(tmp_path, monkeypatch):
    """A copy of the modules, so that nothing is written into the checkout; the kernel runs elsewhere.

    TensorBoard servers that the notebook starts are stopped at the end.
    """
    module = tmp_path / "module"
    module.mkdir()
    shutil.copy(ROOT / "autoencoder.py", module)
    shutil.copytree(ROOT / "beyond", module / "beyond")
    elsewhere, info = tmp_path / "elsewhere", tmp_path / "tmp"
    elsewhere.mkdir()
    info.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(module))
    monkeypatch.setenv("TMPDIR", str(info))
    # As where nobody activated the virtual environment: what pip installed is not on PATH.
    own, path = os.path.dirname(sys.executable), os.environ["PATH"].split(os.pathsep)
    monkeypatch.setenv("PATH", os.pathsep.join(folder for folder in path if folder != own))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    yield elsewhere
    for path in info.glob(".tensorboard-info/pid-*.info"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGTERM)


@contextlib.contextmanager
def kernel(notebook, folder):
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=600, resources=resources, coalesce_streams=True)
    with client.setup_kernel():
        yield client


def short(mnist, folder):
    """The notebook for a tenth of the images, and one epoch a training by the tutorial's loop, as
    compilation would take most of the time; and the score that it should find."""
    arrays = {}
    for part, n in (("train", 6000), ("test", 1000)):
        pixels, labels = ae.part_of(getattr(mnist, part), slice(n))
        arrays |= {f"x_{part}": pixels, f"y_{part}": labels}
    np.savez(folder / "mnist.npz", **arrays)
    data, g = ae.read_data_sets(folder / "mnist.npz"), ae.build(ae.HParams(epoch_n=1))
    with ae.start(g) as sess, contextlib.redirect_stdout(io.StringIO()):
        ae.train(sess, g, data, steps_of=ae.fed_steps)
        score = ae.evaluate(sess, g, data.test.pixels).score
    notebook = read()
    for id, long, shorter in (
        ("imports", "tf = ae.tf", "tf = ae.tf; ae.compiled_steps = ae.fed_steps"),
        ("hp", "epoch_n=10", "epoch_n=1"),
        ("data", "read_data_sets()", f"read_data_sets({str(folder / 'mnist.npz')!r})"),
        ("entropy", "epoch_n=2", "epoch_n=1"),
        ("compare", "(2, 5, 20)", "(2,)"),
        ("tune", "trials=3", "trials=2"),
        ("tuned", 'ae.RECIPES["tuned"]', 'dataclasses.replace(ae.RECIPES["tuned"], epoch_n=1)'),
    ):
        cell = cell_of(notebook, id)
        assert long in cell.source
        cell.source = cell.source.replace(long, shorter)
    return notebook, f"score: {score:.3f} "


def execute(client, notebook, times=1):
    for index, cell in enumerate(notebook.cells):
        for _ in range(times):
            client.execute_cell(cell, index)
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output.text


@pytest.mark.slow
def test_every_cell_can_be_run_twice_in_a_row_and_all_of_it_again(mnist, kernel_folder, tmp_path):
    notebook, score = short(mnist, tmp_path)
    count = nbformat.v4.new_code_cell(
        "[len(g.X.graph.get_collection('variables')), len(tf.get_default_graph().get_operations())]"
    )
    notebook.cells.append(count)
    with kernel(notebook, kernel_folder) as client:
        execute(client, notebook, times=2)
        assert all(cell.outputs for cell in code_cells(notebook))
        assert text_of(cell_of(notebook, "score")).startswith(score)
        cells = notebook.cells
        end = [cell.id for cell in cells].index("score")
        notebook.cells = cells[: end + 1]
        execute(client, notebook)
        assert text_of(cell_of(notebook, "score")).startswith(score)
        notebook.cells = cells
    assert [path.name for path in kernel_folder.iterdir()] == ["logs"]
    assert "text/html" in json.dumps(cell_of(notebook, "tensorboard").outputs)
    # 12 weights and biases, two moments of each, two powers of beta: one graph, and no other.
    assert count.outputs[0].data["text/plain"] == "[38, 0]"


# ---- In a browser ----


@pytest.mark.slow
@needs_browser
def test_run_all_in_jupyterlab(main_job, kernel_folder, monkeypatch, driver):
    """All of it, as a person does it: Run All, wait, save; and what was found is what it found."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    module, tmp = kernel_folder.parent / "module", kernel_folder.parent
    notebook = read()
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, module / "AutoEncoder.ipynb")
    shutil.copytree(ROOT / "MNIST_data", module / "MNIST_data")
    monkeypatch.delenv("PYTHONPATH")
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={address.split(':')[-1]}", f"--ServerApp.root_dir={module}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password="]

    def wait(seconds, xpath):
        return WebDriverWait(driver, seconds).until(lambda b: b.find_elements(By.XPATH, xpath))

    def saved():
        cells = code_cells(nbformat.read(module / "AutoEncoder.ipynb", as_version=4))
        return {cell.id: cell for cell in cells}

    with server(command, f"{address}/api", tmp / "jupyterlab.log"):
        driver.get(f"{address}/lab/tree/AutoEncoder.ipynb")
        wait(60, '//*[contains(text(), "Python 3 (ipykernel) | Idle")]')
        for menu, item in (("Run", "runmenu:run-all"), ("File", "docmanager:save")):
            wait(10, f'//div[contains(@class, "lm-MenuBar-itemLabel")][text()="{menu}"]')[0].click()
            wait(10, f'//li[@data-command="{item}"]')[0].click()
            last = f"[{len(code_cells(notebook))}]:"
            wait(600, f'//div[contains(@class, "jp-InputPrompt")][text()="{last}"]')
        half_written = [nbformat.reader.NotJSONError]
        written = WebDriverWait(driver, 10, ignored_exceptions=half_written)
        written.until(lambda _: all(cell.outputs for cell in saved().values()))
        picture = wait(10, '//pre[contains(text(), "score: ")]/following::img')[0]
        assert picture.size["width"] > 4 * picture.size["height"] > 400
        driver.get("about:blank")
    cells = saved()
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells.values() for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr", output
    assert (module / "AutoEncoder.ipynb").stat().st_size < 1_500_000
    assert score_of(text_of(cells["score"])) == score_of(main_job.stdout)
    # What its search found; seeds and machines differ by 1% or so.
    _, kept = ae.read_run(module / "logs" / "tuned")
    assert kept["history"][-1].validation_loss == pytest.approx(225.6, rel=0.03)
    assert score_of(text_of(cells["tuned"])) < 250
    assert text_of(cells["tune"]).splitlines()[0].split()[-1] == "schedule"  # and nothing after it
    assert text_of(cells["tuned"]).rstrip().endswith(" 20 of 20 latents live")
