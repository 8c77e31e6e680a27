"""What the tests share: real data, small made-up data, a command line and a browser to watch."""

import contextlib
import gzip
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import autoencoder as ae
from beyond.scale import PEAK

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items):
    """The tests run in two processes: what the main job left is looked at in the one that ran it."""
    for item in items:
        group = "main job" if "main_job" in item.fixturenames else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def no_notebook(monkeypatch):
    """The notebook's tests import what says to the module that it is in a notebook."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


@pytest.fixture(scope="session")
def mnist():
    return ae.read_data_sets(ROOT / "MNIST_data")


def idx(array):
    """The IDX file of an array of bytes, by the format's description."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def small_dir(tmp_path):
    return small_files(tmp_path)


def small_files(folder):
    """Four small IDX files: 327 training images of 4 x 4 pixels (27 for validation), 100 for test."""
    rs = np.random.RandomState(0)
    for part, n in (("train", 327), ("t10k", 100)):
        images = rs.randint(0, 256, (n, 4, 4), np.uint8)
        labels = rs.randint(0, 10, n).astype(np.uint8)
        labels[:10] = np.arange(10)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


SMALL = ["--enc_n", 8, 6, "--Z_n", 3, "--dec_n", 6, 8]


@pytest.fixture
def small_hp():
    return ae.HParams(X_n=16, enc_n=(8, 6), Z_n=3, dec_n=(6, 8), epoch_n=2)


def command_of(arguments, module=None):
    """The words of `python autoencoder.py ...`, or of `python -m beyond.<module> ...`."""
    script = ["-m", f"beyond.{module}"] if module else [ROOT / "autoencoder.py"]
    return [sys.executable, *map(str, [*script, *arguments])]


def shell(*arguments, module=None, cwd=ROOT):
    """Runs a command as a process of its own."""
    command, env = command_of(arguments, module), os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=cwd, env=env, capture_output=True, timeout=600)
    run.stdout, run.stderr = run.stdout.decode(), run.stderr.decode()  # "\r" stays "\r"
    return run


def typed(*arguments, module=None):
    """Runs a command as the shell does, but in this process: TensorFlow is loaded already.

    -> its exit status
    """
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["autoencoder.py", *map(str, arguments)])
        script = f"beyond/{module}.py" if module else "autoencoder.py"
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return ended.value.code or 0


@pytest.fixture(scope="session")
def main_job(tmp_path_factory):
    """One run of the main job, with all its defaults but the folder: its `.logdir`."""
    logdir = tmp_path_factory.mktemp("logs") / "main_job"
    run = shell("--logdir", logdir)
    run.logdir = logdir
    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A trained model of images of 4 x 4 pixels: its folder, and that of its data."""
    data = small_files(tmp_path_factory.mktemp("data"))
    logdir = tmp_path_factory.mktemp("logs") / "run"
    run = shell(*SMALL, "--epoch_n", 1, "--data_dir", data, "--logdir", logdir)
    assert (run.returncode, run.stderr) == (0, "")
    return logdir, data


@pytest.fixture(scope="session")
def short_job(main_job):
    """Two epochs of the main job, beside it: its `.logdir`, and `.peak` in MiB above the imports."""
    code = PEAK + (
        "import runpy, sys, autoencoder\n"
        "before, sys.argv = peak(), sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(peak() - before)"
    )
    command = [sys.executable, "-c", code, ROOT / "autoencoder.py", "--epoch_n", "2"]
    logs, env = main_job.logdir.parent, os.environ | {"PYTHONPATH": str(ROOT)}
    command += ["--logdir", "short_job"]
    run = subprocess.run(command, cwd=logs, env=env, capture_output=True, text=True)
    run.stdout, run.peak, _ = re.split("([0-9.]+)\n$", run.stdout)
    run.logdir = logs / "short_job"
    return run


def score_of(stdout):
    return float(re.search(r"^score: ([0-9.]+) .* of 20 latents", stdout, re.MULTILINE)[1])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def files(folder):
    """Every file below a folder, with its content."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs Debian's packages chromium and chromium-driver",
)


@contextlib.contextmanager
def server(command, url, log):
    """Runs a server until the end; yields when it answers at the URL."""
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(300):
            time.sleep(0.2)
            with contextlib.suppress(OSError), urllib.request.urlopen(url):
                break
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Headless Chromium. WebGL is drawn without a GPU."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "use-angle=swiftshader",
                 "enable-unsafe-swiftshader", "disable-background-networking",
                 "disable-component-update", "disable-sync", "no-first-run",
                 "window-size=1400,1000", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
