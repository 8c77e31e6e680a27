"""Nothing is lost: runs that are killed, interrupted, resumed, damaged or out of space."""

import dataclasses
import functools
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import autoencoder as ae
from conftest import ROOT, SMALL, command_of, files, score_of, shell, small_files, typed

tf = ae.tf
HP = ae.HParams(
    X_n=16, enc_n=(8, 6), Z_n=3, dec_n=(6, 8), Z_activation="linear", epoch_n=4, batch_size=30
)
LINEAR = [*SMALL, "--Z_activation", "linear"]


def kept(logdir, epoch):
    """{name: value} of the checkpoint, as TensorFlow itself reads it."""
    reader = tf.train.load_checkpoint(str(logdir / "checkpoints" / f"epoch-{epoch}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def curves(logdir):
    """{(run, tag): [(step, value)]} of all scalars, as TensorBoard itself reads them."""
    found = {}
    for run in ("train", "validation", "test"):
        events = EventAccumulator(str(logdir / run))
        events.Reload()
        for tag in events.Tags()["tensors"]:
            if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
                read = [
                    (e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)
                ]
                found[run, tag] = [(step, float(value)) for step, value in read]
    return found


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return small_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def data(data_dir):
    return ae.read_data_sets(data_dir)


built = functools.cache(ae.build)  # a graph takes longer to build than to train on


def train(data, logdir, hp=HP, **arguments):
    """-> history, all variables"""
    g = built(hp)
    with ae.start(g) as sess:
        history = ae.train(sess, g, data, logdir, steps_of=ae.fed_steps, **arguments)
        with g.X.graph.as_default():
            return history, sess.run(tf.global_variables())


@pytest.fixture(scope="module")
def unbroken(data):
    return train(data, None)


def check(run, unbroken):
    assert run[0] == unbroken[0]
    assert all(map(np.array_equal, run[1], unbroken[1]))


class Killed(BaseException):
    pass


@pytest.fixture
def stopped(data, tmp_path, monkeypatch):
    """A run that was killed in its fourth epoch."""
    stop_in_epoch(4, monkeypatch)
    with monkeypatch.context(), pytest.raises(Killed):
        train(data, tmp_path / "run")
    monkeypatch.undo()
    return tmp_path / "run"


def stop_in_epoch(epoch, monkeypatch):
    train_epoch = ae.train_epoch

    def killing(sess, g, pixels, k, steps):
        if k == epoch:
            raise Killed
        return train_epoch(sess, g, pixels, k, steps)

    monkeypatch.setattr(ae, "train_epoch", killing)


# ---- Killed ----

DRIVER = """
import os, random, runpy, shutil, signal, sys, time
import autoencoder

earlier, folders, *flags = sys.argv[1:]

def job(folder, *more):  # in a fork, so that TensorFlow is loaded once only
    pid = os.fork()
    if pid == 0:
        sys.argv = ["autoencoder.py", *flags, "--logdir", folder, *more]
        try:
            runpy.run_path("autoencoder.py", run_name="__main__")
        except SystemExit as e:
            os._exit(e.code)
    return pid

def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed(folder, *more):
    pid, delay = job(folder, *more), delays.uniform(0.3, 2)
    end = time.monotonic() + delay
    while time.monotonic() < end:
        time.sleep(0.02)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
    os.kill(pid, signal.SIGKILL)
    return exit_code(pid)

delays, kills, run = random.Random(0), 0, 0
while kills < 20:
    run += 1
    folder, more = f"{folders}/{run}", ["--resume"]
    if run % 2:
        shutil.copytree(earlier, folder)
    for _ in range(5):
        code = killed(folder, "--resume")
        if code == 2 and run % 2:  # all that is there is yet the earlier run
            code = killed(folder)
        kills += code == -signal.SIGKILL
        if code == 0:
            break
    code = exit_code(job(folder, "--resume"))
    if code == 2 and run % 2:
        code = exit_code(job(folder))
    assert code == 0, code
print("kills:", kills)
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_as_one_that_was_not(data_dir, tmp_path):
    # A batch of more than all images is trained on without compilation, which takes a second.
    flags = [*LINEAR, "--epoch_n", 40, "--batch_size", 400, "--data_dir", data_dir, "--logdir"]
    assert typed(*flags, tmp_path / "unbroken") == 0
    assert typed(*flags, tmp_path / "earlier", "--seed", 1, "--epoch_n", 3) == 0
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-c", DRIVER, tmp_path / "earlier", tmp_path / "runs", *flags[:-1]]
    run = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = kept(tmp_path / "unbroken", 40), curves(tmp_path / "unbroken")
    for folder in (tmp_path / "runs").iterdir():
        assert same(kept(folder, 40), expected[0])
        assert curves(folder) == expected[1]
    assert int(run.stdout.split("kills: ")[1]) >= 20
    steps = [step for step, _ in expected[1]["validation", "loss"]]
    assert steps == list(range(1, 41))


@pytest.mark.slow
def test_the_real_job_killed_and_resumed(short_job, tmp_path):
    flags = ["--epoch_n", 2, "--logdir", tmp_path / "run"]
    job = subprocess.Popen(command_of(flags), stdout=subprocess.DEVNULL)
    while not (tmp_path / "run" / "checkpoints" / "epoch-1.index").exists():
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1))
    job.kill()
    job.wait()
    resumed = shell(*flags, "--resume")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert re.search("^resumed after epoch [12]$", resumed.stdout, re.M)
    assert score_of(resumed.stdout) == score_of(short_job.stdout)
    assert same(kept(tmp_path / "run", 2), kept(short_job.logdir, 2))
    assert curves(tmp_path / "run") == curves(short_job.logdir)


OTHER = dataclasses.replace(HP, seed=1)


@pytest.mark.parametrize("earlier", [None, HP, OTHER])
def test_killed_between_any_two_things_that_a_checkpoint_does(data, tmp_path, monkeypatch, earlier):
    """Before and after each file that is written, renamed or deleted, in two epochs."""

    monkeypatch.setattr(ae, "trace", lambda g, data: b"")  # takes most of the time of two epochs

    def two_epochs(logdir, hp=HP, **arguments):
        hp = dataclasses.replace(hp, epoch_n=2)
        return train(data, logdir, hp, **arguments)

    unbroken = two_epochs(None)
    if earlier:
        of_earlier = two_epochs(tmp_path / "earlier", earlier)
    killed_at, moment = True, 0
    while killed_at:
        moment, logdir, count = moment + 1, tmp_path / f"{moment}", iter(range(1000))
        if earlier:
            shutil.copytree(tmp_path / "earlier", logdir)

        def pass_by(count=count, moment=moment):
            if next(count) == moment:
                raise Killed

        def fatal(function, pass_by=pass_by):
            def killing(*arguments, **named):
                pass_by()
                answer = function(*arguments, **named)
                pass_by()
                return answer

            return killing

        with monkeypatch.context() as patch:
            for of, name in (
                (ae.Path, "unlink"), (ae.Path, "write_text"), (ae.Path, "replace"),
                (tf.train.Saver, "save"),
            ):  # fmt: skip
                patch.setattr(of, name, fatal(getattr(of, name)))
            try:
                two_epochs(logdir)
                killed_at = False
            except Killed:
                pass
        try:
            check(two_epochs(logdir, resume=True), unbroken)
        except ae.AutoEncoderError as e:  # the earlier run is there still, and whole
            assert "seed 1, not 0" in str(e) and earlier == OTHER
            check(two_epochs(logdir, earlier, resume=True), of_earlier)
    assert moment > 10


# ---- Interrupted ----


def test_ctrl_c_goes_back_to_the_last_epoch(data_dir, data, tmp_path):
    flags = [*LINEAR, "--epoch_n", 60, "--batch_size", 10, "--data_dir", data_dir, "--logdir"]
    run = subprocess.Popen(
        command_of([*flags, tmp_path / "run"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in run.stdout:
        if line.startswith("epoch: 7,"):
            run.send_signal(signal.SIGINT)
            break
    _, said = run.communicate()
    again = "autoencoder.py: interrupted; --resume goes on after the last whole epoch\n"
    assert (run.returncode, said.lstrip("\n")) == (130, again)
    assert typed(*flags, tmp_path / "run", "--resume") == 0
    assert typed(*flags, tmp_path / "unbroken") == 0
    assert same(kept(tmp_path / "run", 60), kept(tmp_path / "unbroken", 60))
    assert curves(tmp_path / "run") == curves(tmp_path / "unbroken")


# ---- What is kept, and replaced ----


def names(logdir):
    return sorted({path.name.split(".")[0] for path in (logdir / "checkpoints").iterdir()})


def test_the_two_newest_epochs_are_kept(data, unbroken, tmp_path, monkeypatch):
    seen, evaluate = [], ae.evaluate

    def watched(*arguments):
        seen.append(names(tmp_path) if seen else [])
        return evaluate(*arguments)

    monkeypatch.setattr(ae, "evaluate", watched)
    train(data, tmp_path)
    assert seen[2:] == [["epoch-1", "epoch-2", "run"], ["epoch-2", "epoch-3", "run"]]
    assert names(tmp_path) == ["epoch-3", "epoch-4", "run"]
    restored = kept(tmp_path, 4).values()
    assert sorted(map(np.sum, restored)) == sorted(map(np.sum, unbroken[1]))


def test_a_fresh_run_changes_nothing_of_an_earlier_one_before_the_end_of_its_first_epoch(
    data, unbroken, tmp_path, monkeypatch, capsys
):
    train(data, tmp_path)
    mine = [tmp_path / "notes.txt", tmp_path / "checkpoints" / "epoch-mine", tmp_path / "train" / "events.out.tfevents.mine"]  # fmt: skip
    for path in mine:
        path.write_text("a file of the user's")
    before = files(tmp_path)
    capsys.readouterr()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_in_epoch(1, patch)
        train(data, tmp_path, OTHER)
    said = capsys.readouterr().out
    assert said == f"replacing the run in {tmp_path}: another logdir would keep it\n"
    assert files(tmp_path) == before
    check(train(data, tmp_path, resume=True), unbroken)
    capsys.readouterr()
    train(data, tmp_path, OTHER)
    assert capsys.readouterr().out.startswith(said)
    assert names(tmp_path) == ["epoch-3", "epoch-4", "epoch-mine", "run"]
    assert len([*tmp_path.rglob("events.out.tfevents.*.autoencoder")]) == 3
    assert {path.read_text() for path in mine} == {"a file of the user's"}
    shutil.rmtree(tmp_path / "checkpoints")  # only curves are left: they are an earlier run, too
    train(data, tmp_path, OTHER)
    assert capsys.readouterr().out.startswith(said)


def test_a_run_in_another_runs_subfolder_is_kept(data, tmp_path):
    train(data, tmp_path / "inner")
    before = files(tmp_path)
    train(data, tmp_path, OTHER)
    assert {path: files(tmp_path)[path] for path in before} == before


# ---- Gone on with ----


def test_a_complete_run_is_evaluated_again_or_trains_longer(data_dir, data, tmp_path, capsys):
    flags = [*LINEAR, "--batch_size", 30, "--data_dir", data_dir, "--logdir", tmp_path / "run"]
    assert typed(*flags, "--epoch_n", 2, "--resume") == 0  # there is nothing yet: it begins
    first = capsys.readouterr().out.splitlines()
    assert typed(*flags, "--epoch_n", 2, "--resume") == 0
    assert capsys.readouterr().out.splitlines() == [first[0], "resumed after epoch 2", *first[3:]]
    assert typed(*flags, "--epoch_n", 4, "--resume") == 0
    assert typed(*flags[:-1], tmp_path / "unbroken", "--epoch_n", 4) == 0
    assert same(kept(tmp_path / "run", 4), kept(tmp_path / "unbroken", 4))
    assert [step for step, _ in curves(tmp_path / "run")["train", "loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in curves(tmp_path / "run")["test", "loss"]] == [2, 4]


REFUSED = {
    "other hyperparameters": (
        dict(batch_size=5, enc_n=(9,)), "enc_n [8, 6], not [9]; batch_size 30, not 5; graph "),
    "fewer epochs": (dict(epoch_n=2), "epoch_n 4, not 2"),
    "another schedule": (dict(schedule="cosine"), "schedule constant, not cosine"),
}  # fmt: skip


@pytest.mark.parametrize("change", REFUSED)
def test_another_run_is_refused_by_name(stopped, data, change):
    changes, words = REFUSED[change]
    before = files(stopped)
    with pytest.raises(ae.AutoEncoderError) as error:
        train(data, stopped, dataclasses.replace(HP, **changes), resume=True)
    assert f"{stopped} has another run: {words}" in str(error.value)
    assert files(stopped) == before


def test_a_cosine_does_not_train_longer(data, tmp_path):
    cosine = dataclasses.replace(HP, schedule="cosine", epoch_n=2)
    train(data, tmp_path, cosine)
    with pytest.raises(ae.AutoEncoderError) as error:
        train(data, tmp_path, dataclasses.replace(cosine, epoch_n=4), resume=True)
    assert str(error.value).endswith(
        ": epoch_n 2, not 4; each step of a cosine depends on epoch_n; use another logdir"
    )


@pytest.mark.parametrize("part", ["train", "validation"])
def test_other_images_are_refused(stopped, data, part):
    pixels = getattr(data, part).pixels.copy()
    pixels[17, 3] ^= 1
    other = data._replace(**{part: ae.DataSet(pixels, None)})
    with pytest.raises(
        ae.AutoEncoderError,
        match="has another run: images [0-9]+, not [0-9]+; use another logdir$",
    ):
        train(other, stopped, resume=True)


def test_another_split_of_the_same_images_is_refused(stopped, data):
    pixels = np.concatenate([data.validation.pixels, data.train.pixels])
    other = data._replace(
        train=ae.DataSet(pixels[20:], None), validation=ae.DataSet(pixels[:20], None)
    )
    with pytest.raises(
        ae.AutoEncoderError,
        match="has another run: images [0-9]+, not [0-9]+; use another logdir$",
    ):
        train(other, stopped, resume=True)


# ---- Damaged ----


@pytest.mark.parametrize("end", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "deleted"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    stopped, data, unbroken, tmp_path, capfd, end, damage
):
    for draw in map(random.Random, range(12 if damage in ("cut", "flipped") else 1)):
        logdir = tmp_path / "copy"
        shutil.rmtree(logdir, ignore_errors=True)
        shutil.copytree(stopped, logdir)
        path = logdir / "checkpoints" / f"epoch-3.{end}"
        content = bytearray(path.read_bytes())
        at = draw.randrange(len(content))
        if damage == "flipped":
            content[at] ^= 1 << draw.randrange(8)
        path.write_bytes({"cut": content[:at], "flipped": content}.get(damage, b""))
        if damage == "deleted":
            path.unlink()
        g = ae.build(HP)
        with ae.start(g) as sess:
            history = ae.restore(sess, g, data, logdir)
        said = f"{logdir / 'checkpoints' / 'epoch-3'} is damaged; looking for an earlier one\n"
        out, err = capfd.readouterr()
        assert (out, err) == (said, "") and len(history) == 2
    check(train(data, logdir, resume=True), unbroken)


def test_where_none_is_intact_it_is_refused(stopped, data):
    for path in (stopped / "checkpoints").glob("*.index"):
        path.write_bytes(b"damaged")
    before = files(stopped)
    with pytest.raises(ae.AutoEncoderError, match="is intact: to begin anew, do not resume$"):
        train(data, stopped, resume=True)
    assert files(stopped) == before


def test_damaged_json_is_refused_in_one_line(stopped, data):
    path = stopped / "checkpoints" / "run.json"
    good = json.loads(path.read_text())
    changes = [
        {"history": 3}, {"history": [[1]]}, {"enc_n": [[8]]}, {"Z_n": "3"},
        {"schedule": None}, {"seed": -1},
    ]  # fmt: skip
    texts = [json.dumps(good | change) for change in changes]
    texts += [json.dumps({k: v for k, v in good.items() if k != name}) for name in good]
    texts += ["", "null", "[]", "{", "7", '"x"', "\0", path.read_text()[:100]]
    for text in texts:
        path.write_text(text)
        before = files(stopped)
        with pytest.raises(ae.AutoEncoderError) as error:
            train(data, stopped, resume=True)
        assert str(stopped) in str(error.value) and "\n" not in str(error.value)
        assert files(stopped) == before
    path.unlink()
    with pytest.raises(ae.AutoEncoderError, match="run.json is damaged: .*No such file"):
        train(data, stopped, resume=True)


# ---- Out of space ----


# Met first by an event file, run.json, a checkpoint's data, its index, and an event file again.
@pytest.mark.parametrize("size", ["176k", "180k", "184k", "188k", "200k"])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(data_dir, tmp_path, capfd, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        flags = [*LINEAR, "--batch_size", 10, "--data_dir", data_dir, "--logdir", disk / "run"]
        assert typed(*flags, "--epoch_n", 60) == 2
        error = capfd.readouterr().err
        assert error.startswith("autoencoder.py: error: ") and error.count("\n") == 1
        assert "No space left on device" in error
        data, hp = ae.read_data_sets(data_dir), dataclasses.replace(HP, epoch_n=60, batch_size=10)
        g = ae.build(hp)
        with ae.start(g) as sess:
            assert ae.restore(sess, g, data, disk / "run")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_is_deleted_is_an_error(data, tmp_path, monkeypatch):
    evaluate = ae.evaluate

    def deleting(*arguments):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return evaluate(*arguments)

    monkeypatch.setattr(ae, "evaluate", deleting)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "run")):
        train(data, tmp_path / "run")
