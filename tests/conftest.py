"""What the tests share: MNIST, small random data, and ways to run the commands."""

import gzip
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import autoencoder as ae

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--enc_n", 8, 6, "--Z_n", 3, "--dec_n", 6, 8]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """The tests of a file run in one process, and so do those that use the main job."""
    for item in items:
        group = "main job" if "main_job" in item.fixturenames else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def no_notebook(monkeypatch):
    """The notebook's test imports ipykernel, by which the module knows that it is in a notebook."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def idx(array):
    """The bytes of an IDX file of an array of bytes, by the description of the format."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def small_files(folder):
    """Writes four IDX files of random images of 4 x 4 pixels: 327 for training, 100 for test."""
    rs = np.random.RandomState(0)
    for part, n in (("train", 327), ("t10k", 100)):
        images = rs.randint(0, 256, (n, 4, 4), np.uint8)
        labels = rs.randint(0, 10, n).astype(np.uint8)
        labels[:10] = np.arange(10)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def files(folder):
    """{path: content} of every file in a folder and its subfolders."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command_of(arguments, module=None):
    """The words of `python autoencoder.py ...`, or of `python -m beyond.<module> ...`."""
    script = ["-m", f"beyond.{module}"] if module else [ROOT / "autoencoder.py"]
    return [sys.executable, *map(str, [*script, *arguments])]


def shell(*arguments, module=None, cwd=ROOT):
    """Runs a command as a process of its own. Returns its CompletedProcess, with text."""
    command = command_of(arguments, module)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=cwd, env=env, capture_output=True, timeout=600)
    run.stdout = run.stdout.decode()  # with text=True, "\r" would become "\n"
    run.stderr = run.stderr.decode()
    return run


def typed(*arguments, module=None):
    """Runs a command in this process, which has TensorFlow already. Returns its exit status."""
    script = f"beyond/{module}.py" if module else "autoencoder.py"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["autoencoder.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return ended.value.code or 0


def score_of(stdout):
    return float(re.search(r"^score: ([0-9.]+) .* of 20 latents", stdout, re.MULTILINE)[1])


@pytest.fixture(scope="session")
def mnist():
    return ae.read_data_sets(ROOT / "MNIST_data")


@pytest.fixture
def small_dir(tmp_path):
    return small_files(tmp_path)


@pytest.fixture
def small_hp():
    return ae.HParams(X_n=16, enc_n=(8, 6), Z_n=3, dec_n=(6, 8), epoch_n=2)


@pytest.fixture(scope="session")
def main_job(tmp_path_factory):
    """One run of `python autoencoder.py` with all defaults except its `.logdir`."""
    logdir = tmp_path_factory.mktemp("logs") / "main_job"
    run = shell("--logdir", logdir)
    run.logdir = logdir
    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a run on images of 4 x 4 pixels, and the folder of its data."""
    data_dir = small_files(tmp_path_factory.mktemp("data"))
    logdir = tmp_path_factory.mktemp("logs") / "run"
    # So that images differ in Z, as they would not after so few steps with the defaults.
    command = [*SMALL, "--init", "he", "--Z_activation", "linear", "--epoch_n", 1]
    command += ["--centering", "mean"]
    assert typed(*command, "--data_dir", data_dir, "--logdir", logdir) == 0
    return logdir, data_dir
