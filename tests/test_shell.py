"""`python autoencoder.py`, as its users run it; and the shape of the module that they read."""

import ast
import re
import subprocess
import sys

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, files, score_of, typed


def pca_score(mnist, n):
    """The score of PCA with n components, by the covariance matrix of the training images."""
    X = mnist.train.images.astype(np.float64)
    mean = X.mean(axis=0)
    _, vectors = np.linalg.eigh((X - mean).T @ (X - mean))
    basis = vectors[:, -n:]
    test = mnist.test.images - mean
    return 100 * ((test - test @ basis @ basis.T) ** 2).sum() / 2 / len(test)


@pytest.mark.slow
def test_the_main_job_has_the_tutorials_score_and_beats_pca(main_job, mnist):
    assert (main_job.returncode, main_job.stderr) == (0, "")
    assert "\nepoch: 10, loss: " in main_job.stdout and "\r" not in main_job.stdout
    score = score_of(main_job.stdout)
    assert 380 < score < 640  # six runs of the tutorial's code gave 394 to 602
    pca = pca_score(mnist, 20)
    assert pca == pytest.approx(922.6, abs=0.1)
    assert score < pca * 2 / 3


LEFT = [
    "checkpoints/epoch-1.data-00000-of-00001", "checkpoints/epoch-1.index",
    "checkpoints/epoch-2.data-00000-of-00001", "checkpoints/epoch-2.index", "checkpoints/run.json",
    "events", "reconstruction.png", "test/Z.tsv", "test/events", "test/labels.tsv",
    "test/projector_config.pbtxt", "test/thumbnails.png", "train/events", "validation/events",
]  # fmt: skip


@pytest.mark.slow
def test_what_the_main_job_prints_and_leaves_and_its_memory(short_job):
    assert (short_job.returncode, short_job.stderr) == (0, "")
    device, one, two, score, picture, board = short_job.stdout.splitlines()
    assert re.fullmatch("device: (CPU, [0-9]+ cores|GPU, .*)", device)
    for k, line in enumerate((one, two), 1):
        assert re.fullmatch(rf"epoch: {k}, loss: [0-9.]+, validation loss: [0-9.]+", line)
    assert score_of(score) > 0 and picture == "X | G: short_job/reconstruction.png"
    assert board == "graph and losses: tensorboard --logdir short_job"
    assert (short_job.logdir / "reconstruction.png").read_bytes().startswith(b"\x89PNG")
    left = [str(path.relative_to(short_job.logdir)) for path in files(short_job.logdir)]
    assert sorted(re.sub(r"\.out\..*", "", path) for path in left) == LEFT
    assert float(short_job.peak) < 400  # MiB


BAD = {
    "--epoch_n x": "argument --epoch_n: invalid int value: 'x' (see --help)",
    "--batch_size 0": "batch_size must be a whole number from 1, not 0",
    "--Z_n -1": "Z_n must be a whole number from 1, not -1",
    "--enc_n 500 -300": "enc_n must be whole numbers from 1, not [500, -300]",
    "--enc_n": "argument --enc_n: expected at least one argument (see --help)",
    "--learning_rate nan": "learning_rate must be a number above 0, not nan",
    "--learning_rate 0": "learning_rate must be a number above 0, not 0.0",
    "--seed 1.5": "argument --seed: invalid int value: '1.5' (see --help)",
    "--seed -1": "seed must be a whole number from 0, not -1",
    "--X_n 785": "unrecognized arguments: --X_n 785 (see --help)",
    "--epoch 1": "unrecognized arguments: --epoch 1 (see --help)",
    "compare": "unrecognized arguments: compare (see --help)",
    "--data_dir {file}": "there is no {file}/train-images-idx3-ubyte, nor .gz",
    "--logdir {file}": "[Errno 17] File exists: '{file}'",
    "--logdir /proc/logs": "[Errno 2] No such file or directory: '/proc/logs'",
    "--learning_rate 1e30": "the loss is not finite: try learning_rate < 1e+30",
}
CHOICES = ("recipe", "activation", "Z_activation", "init", "schedule")


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_status_2(arguments, small_dir, tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    argv = arguments.format(file=tmp_path / "file").split()
    if "--data_dir" not in argv:
        argv += ["--data_dir", small_dir]
    if "--logdir" not in argv:
        argv += ["--logdir", tmp_path / "run"]
    before = files(tmp_path)
    assert typed(*argv) == 2
    expected = BAD[arguments].format(file=tmp_path / "file")
    assert capfd.readouterr().err == f"autoencoder.py: error: {expected}\n"
    if arguments != "--learning_rate 1e30":  # that is seen only when it has been trained
        assert files(tmp_path) == before


@pytest.mark.parametrize("flag", CHOICES)
def test_a_wrong_choice_is_one_line_that_has_the_right_ones(flag, tmp_path, capfd):
    assert typed(f"--{flag}", "wrong", "--logdir", tmp_path) == 2
    error = capfd.readouterr().err
    said = f"autoencoder.py: error: argument --{flag}: invalid choice: 'wrong' \\(choose from .*\\)"
    assert re.fullmatch(f"{said} \\(see --help\\)\n", error)


def test_help_names_every_hyperparameter_and_its_default(capfd):
    assert typed("--help") == 0
    text = re.sub(r"\s+", " ", capfd.readouterr().out)
    for name, value in ae.dataclasses.asdict(ae.HParams()).items():
        if name != "X_n":
            default = " ".join(map(str, value)) if isinstance(value, tuple) else value
            assert re.search(rf"--{name} .*?\(default: {default}\)", text)
    for flag in ("--recipe", "--data_dir", "--logdir", "--resume"):
        assert flag in text


def test_importing_does_nothing_but_define(tmp_path):
    code = "import sys; sys.dont_write_bytecode = True; "
    code += f"sys.path.insert(0, {str(ROOT)!r}); import autoencoder"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert files(tmp_path) == {}


def test_the_module_is_read_in_one_sitting():
    text = (ROOT / "autoencoder.py").read_text()
    assert len(text.splitlines()) <= 950 and not re.search("(import|from) beyond", text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[ast.get_docstring(node) is not None]
            lines = node.end_lineno - first.lineno + 2
            assert lines <= (30 if node.name == "train" else 45), node.name
