"""Nothing is lost: runs that are killed, interrupted, resumed, damaged or out of space."""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorflow.python.lib.io import file_io

import autoencoder as ae
import test_built
from conftest import SMALL, command_of, files, typed
from test_built import DATA, HP, IMAGES

tf = ae.tf
LONG = dataclasses.replace(HP, epoch_n=12)
OTHER = dataclasses.replace(HP, seed=1, epoch_n=1)


def train(logdir, hp=HP, data=DATA, **options):
    """Trains with feed_loop. Returns what the run leaves."""
    test_built.train(test_built.build(hp), logdir, data, **options)
    return outcome(logdir)


def outcome(logdir):
    """Returns the variables as TensorFlow reads them, and the scalars as TensorBoard does."""
    reader = tf.train.load_checkpoint(logdir / "checkpoints")
    names = reader.get_variable_to_shape_map()
    variables = {name: reader.get_tensor(name).tobytes() for name in names}
    curves = {}
    for run in ("train", "validation"):
        events = EventAccumulator(str(logdir / run)).Reload()
        for tag in events.Tags()["scalars"]:
            curves[run, tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return variables, curves


def kill_before(moment, patch):
    """Raises an error in place of the moment-th operation on files and of all later ones."""
    moments = itertools.count()

    def mortal(operation):
        def operation_or_death(*args, **kwargs):
            if next(moments) >= moment:
                raise KeyboardInterrupt
            return operation(*args, **kwargs)

        return operation_or_death

    for owner, *names in (
        (ae.Path, "unlink", "write_text", "replace"),
        (tf.train.Saver, "save"),
        (file_io, "rename", "delete_file"),  # what Saver.save calls
        (tf.summary.FileWriter, "flush"),
    ):
        for name in names:
            patch.setattr(owner, name, mortal(getattr(owner, name)))


@pytest.mark.parametrize("epoch_n, earlier", [(2, False), (1, True)])
def test_killed_between_any_two_operations_on_files(tmp_path, monkeypatch, epoch_n, earlier):
    hp = dataclasses.replace(HP, enc_n=(), dec_n=(), epoch_n=epoch_n, schedule="linear")
    unbroken = train(tmp_path / "unbroken", hp)
    variables, _ = train(tmp_path / "earlier", OTHER)
    refused = 0
    for moment in itertools.count():
        logdir = tmp_path / str(moment)
        if earlier:
            shutil.copytree(tmp_path / "earlier", logdir)
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            kill_before(moment, patch)
            train(logdir, hp)
            break
        try:
            assert train(logdir, hp, resume=True) == unbroken
        except ae.AutoEncoderError as e:  # the earlier run is still there, and whole
            assert "seed (1, not 0)" in str(e)
            assert train(logdir, OTHER, resume=True)[0] == variables
            refused += 1
    assert moment > 10 and (0 < refused < moment) == earlier


def test_ctrl_c(small_dir, tmp_path):
    flags = [*SMALL, "--epoch_n", 12, "--batch_size", 400, "--data_dir", small_dir, "--logdir"]
    process = subprocess.Popen(
        command_of([*flags, tmp_path / "run"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    )
    while not process.stdout.readline().startswith("epoch: 3,"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1].strip()
    assert (process.returncode, error.count("\n")) == (130, 0)
    assert "interrupted; --resume continues" in error
    assert typed(*flags, tmp_path / "run", "--resume") == 0
    assert typed(*flags, tmp_path / "unbroken") == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


def test_a_run_is_made_longer(tmp_path, capsys):
    train(tmp_path / "run", resume=True)
    assert f"no checkpoint in {tmp_path / 'run'}" in capsys.readouterr().out
    longer = train(tmp_path / "run", LONG, resume=True)
    assert longer == train(tmp_path / "unbroken", LONG)
    assert [step for step, _ in longer[1]["train", ae.LOSS_TAG]] == list(range(1, 13))
    content = EventAccumulator(str(tmp_path / "run")).Reload().PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    assert start.session_start_info.hparams["epoch_n"].number_value == 12
    names = {path.name.split(".")[0] for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"checkpoint", "epoch-12", "run"}
    capsys.readouterr()
    assert train(tmp_path / "run", LONG, resume=True) == longer
    assert capsys.readouterr().out == "resumed after epoch 12\n"


def test_another_run_is_refused_by_name(tmp_path):
    images = IMAGES.copy()
    images[17, 3] /= 2
    cosine = dataclasses.replace(HP, schedule="cosine")
    for hp, changes, data, words in (
        (
            HP,
            {"batch_size": 5, "enc_n": (9,)},
            DATA,
            r"another enc_n \(\[8, 6\], not \[9\]\), batch_size \(20, not 5\), graph:",
        ),
        (HP, {"epoch_n": 1}, DATA, r"another epoch_n \(2, not 1\):"),
        (HP, {}, DATA._replace(train=ae.DataSet(images)), "another images:"),
        (HP, {}, DATA._replace(validation=DATA.train), "another images:"),
        (cosine, {"epoch_n": 4}, DATA, r"another epoch_n \(2, not 4\)"),
    ):
        train(tmp_path, hp)
        before = files(tmp_path)
        with pytest.raises(ae.AutoEncoderError, match=words):
            train(tmp_path, dataclasses.replace(hp, **changes), data, resume=True)
        assert files(tmp_path) == before


def test_files_of_others_are_ignored_and_stay(tmp_path, capsys):
    unbroken = train(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    own = {*checkpoints.glob("epoch-2.*"), *tmp_path.rglob("*.autoencoder")}
    train(tmp_path / "inner run")
    (checkpoints / "epoch-9 old").mkdir()
    for name in (".DS_Store", "epoch-1.index copy", "epoch-9 old/epoch-9.index", "epoch-mine"):
        (checkpoints / name).write_text("of somebody else")
    (tmp_path / "train" / "events.out.tfevents.1.mine").touch()
    before = files(tmp_path)
    assert train(tmp_path, resume=True) == unbroken
    train(tmp_path, OTHER)
    assert f"replacing the earlier run in {tmp_path}" in capsys.readouterr().out
    after = files(tmp_path)
    gone_or_changed = {path for path in before if before[path] != after.get(path)}
    assert gone_or_changed == own | {checkpoints / "checkpoint", checkpoints / "run.json"}


def test_a_damaged_checkpoint_is_refused(tmp_path):
    train(tmp_path)
    for end in ("index", "data-00000-of-00001"):
        path = tmp_path / "checkpoints" / f"epoch-2.{end}"
        content = path.read_bytes()
        for position in (0, len(content) // 2, len(content) - 1):
            damaged = bytearray(content)
            damaged[position] ^= 16
            path.write_bytes(damaged)
            with pytest.raises(
                ae.AutoEncoderError, match="cannot be read: .*: start without resume"
            ):
                train(tmp_path, resume=True)
            assert path.read_bytes() == damaged
        path.write_bytes(content)


def test_a_damaged_run_json_is_refused(tmp_path):
    train(tmp_path)
    path = tmp_path / "checkpoints" / "run.json"
    good = json.loads(path.read_text())
    cases = [(json.dumps(good | {"Z_n": "3"}), "damaged"), ("null", "damaged"), ("{", "damaged")]
    del good["train_n"]  # as in the first versions
    cases.append((json.dumps(good), "has no 'train_n': another version wrote it"))
    for text, words in cases:
        path.write_text(text)
        with pytest.raises(ae.AutoEncoderError, match=f"run.json .*{words}"):
            train(tmp_path, resume=True)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(small_dir, tmp_path, capfd, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mount is not allowed")
    try:
        flags = [*SMALL, "--batch_size", 400, "--data_dir", small_dir, "--logdir", disk / "run"]
        assert typed(*flags, "--epoch_n", 1) == 0
        # The first that does not fit is an event file, run.json, or a file of the checkpoint.
        for pages in (0, 1, 4):
            space = os.statvfs(disk)
            (disk / "filler").write_bytes(bytes((space.f_bavail - pages) * space.f_bsize))
            assert typed(*flags, "--epoch_n", 60, "--resume") == 2
            error = capfd.readouterr().err
            assert error.startswith("autoencoder.py: error: ") and error.count("\n") == 1
            assert "No space left on device" in error
            assert "tensorflow" not in {record.name for record in caplog.records}
            assert outcome(disk / "run")
            (disk / "filler").unlink()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
