"""Nothing is lost: runs that are killed, interrupted, resumed, damaged or out of space."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
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
    """Returns the variables as TensorFlow reads them, and the losses as TensorBoard does."""
    reader = tf.train.load_checkpoint(ae.read_run(logdir).checkpoint)
    names = reader.get_variable_to_shape_map()
    variables = {name: reader.get_tensor(name).tobytes() for name in names}
    losses = []
    for run in ("train", "validation"):
        events = EventAccumulator(str(logdir / run)).Reload()
        losses.append([(event.step, event.value) for event in events.Scalars(ae.LOSS_TAG)])
    return variables, losses


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


def test_killed_between_any_two_operations_on_files(tmp_path, monkeypatch):
    hp = dataclasses.replace(HP, enc_n=(), dec_n=(), schedule="linear")
    unbroken = train(tmp_path / "unbroken", hp)
    earlier, _ = train(tmp_path / "earlier", OTHER)
    refused = 0
    for moment in itertools.count():
        logdir = shutil.copytree(tmp_path / "earlier", tmp_path / str(moment))
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            kill_before(moment, patch)
            train(logdir, hp)
            break
        try:
            assert train(logdir, hp, resume=True) == unbroken
        except ae.AutoEncoderError as e:  # the earlier run is still there, and whole
            assert "seed (1, not 0)" in str(e)
            assert train(logdir, OTHER, resume=True)[0] == earlier
            refused += 1
    assert 0 < refused < moment - 10


def test_ctrl_c(small_dir, tmp_path):
    flags = [*SMALL, "--epoch_n", 12, "--batch_size", 400, "--data_dir", small_dir, "--logdir"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell's & ignores SIGINT.
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command_of([*flags, tmp_path / "run"]), **pipes)
    while not process.stdout.readline().startswith("epoch: 3,"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1].strip()
    assert (process.returncode, error.count("\n")) == (130, 0)
    assert "interrupted; --resume continues" in error
    assert typed(*flags, tmp_path / "run", "--resume") == 0
    assert typed(*flags, tmp_path / "unbroken") == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


@pytest.mark.parametrize("centering", ["none", "mean"])
def test_a_run_is_stopped_by_an_exception_of_on_epoch_and_made_longer(tmp_path, capsys, centering):
    logdir = tmp_path / "run"
    hp = dataclasses.replace(HP, centering=centering)
    long = dataclasses.replace(LONG, centering=centering)
    with pytest.raises(ZeroDivisionError):
        train(logdir, hp, resume=True, on_epoch=lambda epoch: 1 / 0)
    assert f"no checkpoint in {logdir}" in capsys.readouterr().out
    longer = train(logdir, long, resume=True)
    assert longer == train(tmp_path / "unbroken", long)
    mean = np.mean(DATA.train.images, axis=0, dtype=np.float64).astype(np.float32)
    assert longer[0].get(ae.MEAN_IMAGE) == (mean.tobytes() if centering == "mean" else None)
    names = {path.name.split(".")[0] for path in (logdir / "checkpoints").iterdir()}
    assert names == {"checkpoint", "epoch-12", "run"}
    assert "resumed after epoch 1\n" in capsys.readouterr().out
    assert train(logdir, long, resume=True) == longer
    assert capsys.readouterr().out == "resumed after epoch 12\n"


def test_another_run_is_refused_by_name(tmp_path):
    images = IMAGES.copy()
    images[17, 3] /= 2
    cosine = dataclasses.replace(HP, schedule="cosine")
    for hp in (HP, cosine):
        train(tmp_path / hp.schedule, hp)
    before = files(tmp_path)
    numbers = r"enc_n \(\[8, 6\], not \[9\]\), batch_size \(20, not 5\), graph:"
    for hp, changes, data, words in (
        (HP, {"batch_size": 5, "enc_n": (9,)}, DATA, numbers),
        (HP, {"epoch_n": 1}, DATA, r"epoch_n \(2, not 1\):"),
        (HP, {}, dataclasses.replace(DATA, train=ae.DataSet(images)), "images:"),
        (HP, {}, dataclasses.replace(DATA, validation=DATA.train), "images:"),
        (cosine, {"epoch_n": 4}, DATA, r"epoch_n \(2, not 4\)"),
    ):
        with pytest.raises(ae.AutoEncoderError, match=f"another {words}"):
            train(tmp_path / hp.schedule, dataclasses.replace(hp, **changes), data, resume=True)
    assert files(tmp_path) == before


def test_files_of_others_are_ignored_and_stay(tmp_path, capsys):
    unbroken = train(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "epoch-1.index.tempstate123").touch()  # of a save that was killed
    own = {*checkpoints.glob("epoch-*"), *tmp_path.rglob("*.autoencoder")}
    train(tmp_path / "inner run")
    (checkpoints / "epoch-9 old").mkdir()
    for name in (".DS_Store", "epoch-1.index copy", "epoch-9 old/epoch-9.index", "epoch-mine"):
        (checkpoints / name).write_text("of somebody else")
    for name in ("model.ckpt.index", "best-1.index.tempstate123", "epoch-7.index"):
        (checkpoints / name).write_text("of another Saver")
    (tmp_path / "train" / "events.out.tfevents.1.mine").touch()
    net = test_built.build()
    with net.X.graph.as_default(), ae.start_session(net) as sess:
        tf.train.Saver().save(sess, str(checkpoints / "best"), 1)  # which changes `checkpoint`
    before = files(tmp_path)
    assert train(tmp_path, resume=True) == unbroken
    (checkpoints / "epoch-7.index").unlink()
    train(tmp_path, OTHER)
    assert f"will replace the earlier run in {tmp_path}" in capsys.readouterr().out
    after = files(tmp_path)
    gone_or_changed = {path for path in before if before[path] != after.get(path)}
    others = {checkpoints / name for name in ("checkpoint", "run.json", "epoch-7.index")}
    assert gone_or_changed == own | others


def loss_that_fails(G, X):
    is_evaluation = tf.shape(X)[0] < 20  # so that the failure is known in training only
    with tf.control_dependencies([tf.Assert(is_evaluation, [G])]):
        return ae.l2_loss(G, X)


def loss_with_summary_that_fails(G, X):
    biases = [v for v in tf.trainable_variables() if len(v.shape) == 1]  # 0 before training
    value = tf.log(1 - 1e9 * tf.reduce_max(tf.abs(biases[-1])))
    tf.summary.scalar("failure", tf.check_numerics(value, "not finite"))
    return ae.l2_loss(G, X)


@pytest.mark.parametrize("loss", [loss_that_fails, loss_with_summary_that_fails])
def test_a_first_epoch_that_fails_leaves_the_earlier_run(tmp_path, loss):
    train(tmp_path, OTHER)
    before = files(tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError):
        test_built.train(test_built.build(loss=loss), tmp_path)
    assert files(tmp_path) == before


class SessionWithoutTraces(tf.Session):
    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        if options:
            raise RuntimeError("no trace")
        return super().run(fetches, feed_dict)


def test_what_is_not_needed_to_train_does_not_stop_it(tmp_path, capsys):
    def loss(G, X):
        other = tf.Variable(0.0)  # of another network, not initialized
        labels = tf.placeholder(tf.float32, [None])
        for name, value in {"other": other, "labels": labels, "mine": G}.items():
            tf.summary.scalar(name, tf.reduce_mean(value))
        return ae.l2_loss(G, X)

    net = test_built.build(loss=loss)
    net = net._replace(Z=net.Z * math.nan)
    with SessionWithoutTraces(graph=net.X.graph) as sess:
        for variable in net.variables:
            sess.run(variable.initializer)
        history = ae.train(sess, net._replace(init=None), DATA, tmp_path, loop=ae.feed_loop)
        weights = sess.run(net.variables)
    assert "no times of operations for TensorBoard: no trace" in capsys.readouterr().out
    expected, by_name = test_built.train(test_built.build())
    assert [epoch.loss for epoch in history] == [epoch.loss for epoch in expected]
    for variable, value in zip(net.variables, weights):
        assert np.array_equal(value, by_name[variable.name])
    events = EventAccumulator(str(tmp_path / "validation")).Reload()
    assert {"mine"} <= {*events.Tags()["scalars"]} and len(events.Tags()["scalars"]) == 3
    assert events.Histograms("training/Z")[-1].histogram_value.num == 0


def test_what_training_alone_is_fed_belongs_to_the_run(tmp_path):
    def encode(X, hp):
        return ae.encode(X * tf.placeholder_with_default(1.0, [], "scale"), hp)

    nets = [test_built.build(encode=encode, training_feed={"scale:0": s}) for s in (0.5, 0.25)]
    history, _ = test_built.train(nets[0], tmp_path)
    with pytest.raises(
        ae.AutoEncoderError, match=r"training_feed \({'scale:0': 0.5}, not {.*0.25}"
    ):
        test_built.train(nets[1], tmp_path, resume=True)
    assert test_built.train(nets[0], tmp_path, resume=True)[0] == history


def test_damaged_files_are_refused(tmp_path):
    train(tmp_path)
    run = json.loads((tmp_path / "checkpoints" / "run.json").read_text())
    old = {name: value for name, value in run.items() if name != "train_n"}
    for name, content, words in (
        ("epoch-2.index", b"text", "epoch-2 cannot be read: .+$"),
        ("epoch-2.data-00000-of-00001", b"text", "epoch-2 cannot be read: .+$"),
        ("run.json", b"{", "is damaged"),
        ("run.json", json.dumps(run | {"Z_n": "3"}).encode(), "is damaged"),
        ("run.json", json.dumps(old).encode(), "has no 'train_n': another version wrote it"),
    ):
        path = tmp_path / "checkpoints" / name
        good = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(ae.AutoEncoderError, match=words):
            train(tmp_path, resume=True)
        path.write_bytes(good)


def test_a_run_is_opened_while_a_training_replaces_its_checkpoint(tmp_path, monkeypatch):
    train(tmp_path)
    run = ae.read_run(tmp_path)
    replaced = run._replace(checkpoint=run.checkpoint[:-1] + "1", history=run.history[:1])
    found = [replaced, run, run]
    monkeypatch.setattr(ae, "read_run", lambda logdir: found.pop(0))
    net = test_built.build(HP)
    with ae.start_session(net) as sess:
        assert ae.restore(sess, net, DATA, tmp_path) == run.history and not found


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_leaves_the_last_checkpoint(small_dir, tmp_path, monkeypatch, capfd, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mount is not allowed")
    flags = [*SMALL, "--batch_size", 400, "--data_dir", small_dir, "--logdir", disk / "run"]
    try:
        assert typed(*flags, "--epoch_n", 1) == 0
        variables, _ = outcome(disk / "run")
        for owner, name in (tf.summary.FileWriter, "add_graph"), (tf.train.Saver, "save"):
            write = getattr(owner, name)

            def write_on_full_disk(*args, **kwargs):
                space = os.statvfs(disk)
                (disk / "filler").write_bytes(bytes(space.f_bavail * space.f_bsize))
                return write(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, write_on_full_disk)
                assert typed(*flags, "--epoch_n", 2, "--resume") == 2
            error = capfd.readouterr().err
            assert re.fullmatch("autoencoder.py: error: .*No space left on device.*\n", error)
            assert "tensorflow" not in {record.name for record in caplog.records}
            assert outcome(disk / "run")[0] == variables
            (disk / "filler").unlink()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
