"""`python autoencoder.py` as its users run it, and what importing the module does."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest

import autoencoder as ae
from conftest import ROOT, SMALL, files, score_of, shell, small_files, typed

LEFT = """checkpoints/checkpoint checkpoints/epoch-10.data-00000-of-00001
checkpoints/epoch-10.index checkpoints/run.json events reconstruction.png test/Z.tsv test/events
test/labels.tsv test/projector_config.pbtxt test/thumbnails.png train/events validation/events"""


def test_the_main_job(main_job):
    assert (main_job.returncode, main_job.stderr) == (0, "")
    device, *epochs, score, picture, tensorboard = main_job.stdout.splitlines()
    assert re.match("device: (CPU|GPU), ", device)
    assert len(epochs) == 10
    for k, line in enumerate(epochs, 1):
        assert re.fullmatch(rf"epoch: {k}, loss: [0-9.]+, validation loss: [0-9.]+", line)
    assert 380 < score_of(score) < 640  # six runs of the tutorial's code: 394 to 602
    assert str(main_job.logdir / "reconstruction.png") in picture
    assert str(main_job.logdir) in tensorboard
    left = [str(path.relative_to(main_job.logdir)) for path in files(main_job.logdir)]
    assert sorted(re.sub(r"\.out\.tfevents\..*", "", path) for path in left) == LEFT.split()


def test_a_console_and_a_folder_with_other_characters(small_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    logdir = tmp_path / "学習"
    flags = [*SMALL, "--recipe", "tuned", "--epoch_n", 2, "--Z_n", 5, "--data_dir", small_dir]
    run = shell(*flags, "--logdir", logdir)
    assert (run.returncode, run.stderr) == (0, "")
    assert (logdir / "reconstruction.png").exists()
    # A recipe, with what the flags and the data say.
    hp, _ = ae.read_run(logdir)
    changes = {"X_n": 16, "enc_n": (8, 6), "Z_n": 5, "dec_n": (6, 8), "train_n": 300, "epoch_n": 2}
    assert hp == dataclasses.replace(ae.RECIPES["tuned"], **changes)


BAD = {
    "--epoch_n x": "--epoch_n: invalid int value: 'x'",
    "--enc_n": "--enc_n: expected at least one argument",
    "--activation tanh": "choose from .*relu.*swish",
    "--epochs 3": "unrecognized arguments: --epochs 3",
    "--batch_size 0": "batch_size must be an integer > 0, not 0",
    "--enc_n 500 -300": "enc_n must be an integer > 0, not -300",
    "--learning_rate nan": "learning_rate must be a number > 0, not nan",
    "--data_dir caf\udce9": r"'caf\\udce9' is not in UTF-8",
    "--data_dir {dir}/none": "{dir}/none/train-images-idx3-ubyte",
    "--logdir {dir}/run[1]": r"{dir}/run\[1\]: .* \[",
    "--logdir {dir}/file": "{dir}/file",
    "--logdir /proc/x": "/proc/x",
    "--learning_rate 1e30": "the loss is not finite: .*learning_rate",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_status_2(arguments, small_dir, tmp_path, capfd):
    (tmp_path / "file").write_text("a file of the user's")
    before = files(tmp_path)
    given = arguments.format(dir=tmp_path).split()
    assert typed(*SMALL, "--data_dir", small_dir, "--logdir", tmp_path / "run", *given) == 2
    message = BAD[arguments].format(dir=tmp_path)
    assert re.fullmatch(rf"autoencoder.py: error: .*{message}.*\n", capfd.readouterr().err)
    if "1e30" not in arguments:  # that is known only after an epoch
        assert files(tmp_path) == before


def test_help_has_the_default_of_every_hyperparameter(capfd):
    assert typed("--help") == 0
    text = " ".join(capfd.readouterr().out.split())
    for name, value in dataclasses.asdict(ae.HParams()).items():
        default = " ".join(map(str, value)) if isinstance(value, tuple) else value
        found = re.search(rf"--{name} [^()]*\(default: {default}\)", text)
        assert found or name in ("X_n", "train_n")


def test_home_folder_and_resume_without_a_checkpoint(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(small_files(tmp_path))
    assert typed(*SMALL, "--data_dir=~", "--logdir=~/mistyped", "--epoch_n", 1, "--resume") == 0
    assert f"no checkpoint in {tmp_path}/mistyped" in capfd.readouterr().out
    assert (tmp_path / "mistyped" / "reconstruction.png").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("closed", ["", "2>&-"])
def test_import_changes_nothing(tmp_path, closed):
    code = """if True:
        import os
        def descriptor(number):
            try:
                status = os.fstat(number)
            except OSError:
                return "closed"
            return status.st_dev, status.st_ino
        before = descriptor(1), descriptor(2)
        import autoencoder
        assert (descriptor(1), descriptor(2)) == before
    """
    command = ["sh", "-c", f'"$0" -B -c "$1" {closed}', sys.executable, code]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert files(tmp_path) == {}


def test_tensorflows_log_can_be_seen(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert re.search(r"^I0000 .* oneDNN", shell("--help").stderr, re.MULTILINE)
