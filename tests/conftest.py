"""What the tests share: real data, small made-up data, a command line and a browser to watch."""

import collections
import contextlib
import gzip
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest

import autoencoder as ae

ROOT = Path(__file__).resolve().parent.parent


tried = collections.Counter()  # what was done to runs and checkpoints, printed at the end


def pytest_terminal_summary(terminalreporter):
    if tried:
        counts = ", ".join(f"{what}: {n}" for what, n in sorted(tried.items()))
        terminalreporter.write_line(counts)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than ten seconds")


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


@pytest.fixture
def small_hp():
    return ae.HParams(X_n=16, enc_n=(8, 6), Z_n=3, dec_n=(6, 8), epoch_n=2)


def shell(*arguments, cwd=ROOT):
    """Runs `python autoencoder.py ...` as a process of its own."""
    command = [sys.executable, str(ROOT / "autoencoder.py"), *map(str, arguments)]
    run = subprocess.run(command, cwd=cwd, capture_output=True, timeout=600)
    run.stdout, run.stderr = run.stdout.decode(), run.stderr.decode()  # "\r" stays "\r"
    return run


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
    size = ["--X_n", 16, "--enc_n", 8, 6, "--Z_n", 3, "--dec_n", 6, 8, "--epoch_n", 1]
    run = shell(*size, "--data_dir", data, "--logdir", logdir)
    assert (run.returncode, run.stderr) == (0, "")
    return logdir, data


def png(path, pixels):
    """A PNG file of 8 bits and no filter, by the format's description."""
    height, width = pixels.shape[:2]
    colour = 0 if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]]

    def chunk(name, content):
        checked = name + content
        return len(content).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour, 0, 0, 0])
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def write_kinds(folder, images):
    """The same images (n, 4, 4), bytes, in files of every kind. -> their paths"""
    folder.mkdir()
    (folder / "a.idx3-ubyte").write_bytes(idx(images))
    (folder / "a.gz").write_bytes(gzip.compress(idx(images)))
    np.save(folder / "bytes.npy", images)
    np.save(folder / "channel.npy", images[..., None])
    np.save(folder / "flat.npy", images.reshape(len(images), -1).astype(np.int64))
    np.save(folder / "floats.npy", images.astype(np.float64))
    np.save(folder / "scaled.npy", images / 255)
    np.savez(folder / "one.npz", anything=images)
    rgb = np.repeat(images[..., None], 3, axis=-1)
    opaque = np.full_like(rgb[..., :1], 255)
    for name, image in (("pngs", images), ("rgb", rgb), ("rgba", np.append(rgb, opaque, axis=-1))):
        (folder / name).mkdir()
        for i, pixels in enumerate(image):
            png(folder / name / f"{i:03d}.png", pixels)
    return sorted(folder.iterdir())


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


@contextlib.contextmanager
def browser(folder, size):
    """Headless Chromium, with its files in the folder. WebGL is drawn without a GPU."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "use-angle=swiftshader",
                 "enable-unsafe-swiftshader", "disable-background-networking",
                 "disable-component-update", "disable-sync", "no-first-run",
                 f"window-size={size}", f"user-data-dir={folder / 'chromium'}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()
