"""`python autoencoder.py` as its users run it, and what importing the module does."""

import dataclasses
import io
import os
import re
import subprocess
import sys

import pytest

import autoencoder as ae
from conftest import ROOT, SMALL, files, score_of, typed

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


def test_a_recipe_and_a_folder_with_other_characters(small_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "cp1252"))
    flags = [*SMALL, "--recipe", "tuned", "--epoch_n", 2, "--Z_n", 5]
    assert typed(*flags, "--data_dir=~", "--logdir=~/学習") == 0
    logdir = tmp_path / "学習"
    assert (logdir / "reconstruction.png").exists()
    # A recipe, with what the flags and the data say.
    hp = ae.read_run(logdir).hp
    changes = {"X_n": 16, "enc_n": (8, 6), "Z_n": 5, "dec_n": (6, 8), "train_n": 300, "epoch_n": 2}
    assert hp == dataclasses.replace(ae.RECIPES["tuned"], **changes)


BAD = {
    "--epochs 3": "unrecognized arguments: --epochs 3",
    "--enc_n 500 -300": "enc_n must be an integer >= 1, not -300",
    "--logdir {dir}/file": "{dir}/file",
    "--logdir=": "'' is no path of this machine",
    "--logdir gs://bucket/run": "'gs://bucket/run' is no path of this machine",
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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone tells")
def test_the_cores_that_the_process_may_use():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    assert ae.device() in ("CPU, 1 core", "GPU")
    os.sched_setaffinity(0, cores)


def test_a_process_that_tensorflow_aborts_says_where():
    program = "import os, autoencoder as ae\nwith ae.muted_stderr():\n    os.abort()"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode < 0 and 'File "<string>", line 3' in run.stderr


def test_a_reader_that_ends_and_a_module_that_is_run_by_its_path(small_dir, tmp_path):
    flags = [*map(str, SMALL), "--data_dir", small_dir, "--logdir", tmp_path / "run"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, ROOT / "autoencoder.py", *flags], **pipes) as run:
        run.stdout.readline()
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == ("", 1)
    module = ROOT / "beyond/screen.py"
    run = subprocess.run([sys.executable, module, "pictures"], cwd=tmp_path, **pipes)
    message = f"{module}: error: run python -m beyond.screen, in {ROOT}\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", message)
