"""`python autoencoder.py`, as its users run it."""

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, files, score_of, shell, tried


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


def test_the_main_job_in_short(tmp_path):
    run = shell("train", "--epoch_n", 2, "--batch_size", 5500, "--enc_n", 50, 30, "--logdir", "run",
                cwd=tmp_path)  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert lines[0].startswith("device: ")
    assert re.fullmatch(r"epoch: 2, loss: [0-9.]+, validation loss: [0-9.]+", lines[-4])
    assert score_of(run.stdout) > 0
    assert lines[-2:] == [
        "X | G: run/reconstruction.png",
        "graph and losses: tensorboard --logdir run",
    ]
    assert (tmp_path / "run" / "reconstruction.png").read_bytes().startswith(b"\x89PNG")
    kinds = [path.name.split(".")[0] for path in sorted((tmp_path / "run").rglob("*.*"))]
    assert sorted(kinds) == [
        "Z", "autoencoder", "autoencoder", "autoencoder", "detector", "events",
        "events", "events", "events", "labels", "projector_config", "reconstruction", "thumbnails",
    ]  # fmt: skip
    kept = ae.newest_checkpoint(tmp_path / "run")
    assert kept.hp == ae.HParams(epoch_n=2, batch_size=5500, enc_n=(50, 30))


def test_the_main_job_without_tensorboard(tmp_path):
    run = shell("--tensorboard", "off", "--epoch_n", 1, "--enc_n", 50, 30, "--logdir", "run",
                cwd=tmp_path)  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[-1] == "X | G: run/reconstruction.png"
    kinds = [path.name.split(".")[0] for path in sorted((tmp_path / "run").rglob("*.*"))]
    assert sorted(kinds) == 3 * ["autoencoder"] + ["detector", "reconstruction"]


BAD = {
    "--epoch_n x": "epoch_n must be a whole number from 1 to 1000000, not 'x'",
    "--batch_size 0": "batch_size must be a whole number from 1 to 1000000, not 0",
    "--Z_n -1": "Z_n must be a whole number from 1 to 1000000, not -1",
    "--enc_n 500 -300": "enc_n must be a whole number from 1 to 1000000, not -300",
    "--enc_n": "argument --enc_n: expected at least one argument (see --help)",
    "--learning_rate nan": "learning_rate must be a number above 0, at most 1e+38, not nan",
    "--seed 1.5": "seed must be a whole number from 0 to 2147483647, not 1.5",
    "--Z_n 99999999999": "Z_n must be a whole number from 1 to 1000000, not 99999999999",
    "--epochs 3": "unrecognized arguments: --epochs 3 (see --help)",
    "--tensorboard yes": "tensorboard must be on or off, not 'yes'",
    "tarin": "there is no command tarin, only train, compare, anomaly, evaluate, detect, encode, decode, reconstruct, export, tune",
    "--recipe best": "there is no recipe best, only seed, tuned",
    "--activation tanh": "activation must be relu or swish, not 'tanh'",
    "--schedule 0": "schedule must be constant or cosine, not 0",
    "compare --Z_n 2 0": "Z_n must be a whole number from 1 to 1000000, not 0",
    "compare --Z_n 2 --logdir {file}": "{file}/Z_n=2 is not a folder to write to: Not a directory",
    "tune --trials 0": "trials must be a whole number from 1, not 0",
    "tune --trials many": "trials must be a whole number from 1, not 'many'",
    "tune --trial -1": "there is no trial -1, only 0 to 143: see --vary",
    "tune --trial 0.5": "there is no trial 0.5, only 0 to 143: see --vary",
    "tune --vary size 1": "there is no hyperparameter size, only X_n, enc_n, Z_n, dec_n, activation, Z_activation, init, epoch_n, batch_size, learning_rate, schedule, seed",
    "tune --vary seed": "there are no values of seed to try",
    "tune --trial 2 --vary Z_n 5 6 5": "there is no trial 2, only 0 to 1: see --vary",
    "anomaly --experiment all": "there is no experiment all, only one-normal, one-abnormal, no-digits",
    "anomaly --other {file}": "--other goes with --experiment no-digits",
    "anomaly --experiment no-digits --other {file}": "{file} is not an IDX file of images: it begins with 6d696e65, not 00000803",
    "anomaly --seed 0 x": "seed must be a whole number from 0 to 2147483647, not 'x'",
    "tune --vary Z_n 5 0": "Z_n must be a whole number from 1 to 1000000, not 0",
    "tune --trial 0 --vary enc_n 5000000": "enc_n must be a whole number from 1 to 1000000, not 5000000",
    "tune --logdir {file}": "{file}/trial-000 is not a folder to write to: Not a directory",
    "--learning_rate 1e39": "learning_rate must be a number above 0, at most 1e+38, not 1e+39",
    "--data_dir {file}": "{file} is not an IDX file of images: it begins with 6d696e65, not 00000803",
    "--batch_size 55001": "batch_size is 55001, but there are 55000 training images: choose a smaller one",
    "--X_n 785": "X_n is 785, but the images have 784 pixels",
    "--logdir {file}": "{file} is not a folder to write to: File exists",
    "--logdir /proc/logs": "/proc/logs is not a folder to write to: No such file or directory",
    "--learning_rate 1e30": "the loss is nan in epoch 1: try a learning_rate smaller than 1e+30",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_status_2(arguments, tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    argv = arguments.format(file=tmp_path / "file").split()
    if "--logdir" not in argv:
        argv += ["--logdir", str(tmp_path / "run")]
    before = files(tmp_path)
    assert ae.main(argv) == 2
    tried["bad inputs refused"] += 1
    expected = BAD[arguments].format(file=tmp_path / "file")
    assert capfd.readouterr().err == f"autoencoder.py: error: {expected}\n"
    assert files(tmp_path) == before


def test_bad_input_in_a_process_of_its_own(tmp_path):
    run = shell("--Z_n", "none", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        "autoencoder.py: error: Z_n must be a whole number from 1 to 1000000, not 'none'\n"
    )


@pytest.mark.parametrize("target", ["| true", "> /dev/full"])
def test_a_closed_pipe_and_a_full_disk_are_one_line(target, tmp_path):
    job = f"{sys.executable} {ROOT / 'autoencoder.py'} --epoch_n 1 --logdir {tmp_path / 'run'}"
    run = subprocess.run(["bash", "-c", f"{job} {target}"], capture_output=True, text=True)
    assert re.fullmatch(
        "autoencoder.py: error: (Broken pipe|No space left on device)\n", run.stderr
    )
    assert list((tmp_path / "run").rglob("*.*")) == []


def test_ctrl_c_before_it_begins_says_nothing():
    command = [sys.executable, str(ROOT / "autoencoder.py")]
    for seconds in (0.3, 1.0):
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        run.send_signal(signal.SIGINT)
        assert run.communicate() == ("", "") and run.returncode == -signal.SIGINT


@pytest.mark.parametrize("closed, status, said", [(">&-", 2, 1), ("2>&-", 2, 0)])
def test_a_closed_stdout_or_stderr_is_no_traceback(tmp_path, closed, status, said):
    job = f"{sys.executable} {ROOT / 'autoencoder.py'} evaluate --logdir {tmp_path}"
    run = subprocess.run(["bash", "-c", f"{job} {closed}"], capture_output=True, text=True)
    assert (run.returncode, run.stderr.count("\n"), run.stdout) == (status, said, "")


def test_help_names_every_hyperparameter_and_its_default(capfd):
    run = shell("--help")
    assert (run.returncode, run.stderr) == (0, "")
    texts = [run.stdout]
    for command in ("train", "compare", "tune", "anomaly"):
        with pytest.raises(SystemExit, match="0"):
            ae.main([command, "--help"])
        texts.append(capfd.readouterr().out)
    for text in texts:
        for flag in ("--X_n", "--enc_n", "--Z_n", "--dec_n", "--epoch_n", "--batch_size",
                     "--learning_rate", "--seed", "--activation", "--Z_activation", "--init",
                     "--schedule", "--recipe", "--data_dir", "--logdir"):  # fmt: skip
            assert re.search(rf"{flag} .*", text)
        for default in ("(default: 500 300)", "(default: 0.001; tuned: ", "(default: MNIST_data)"):
            assert default in re.sub(r"\s+", " ", text)


def test_importing_does_nothing_but_define(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.dont_write_bytecode = True; import autoencoder"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert files(tmp_path) == {}
