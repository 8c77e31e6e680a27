"""Nothing is lost: runs that are killed, interrupted, resumed, damaged or out of space."""

import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, files, score_of, shell, small_files, tried

tf = ae.tf

SMALL = ["--X_n", 16, "--enc_n", 8, 6, "--Z_n", 3, "--dec_n", 6, 8, "--Z_activation", "linear"]


def hashes(logdir):
    """The SHA-256 of each variable, as TensorFlow itself reads the folder."""
    kept = tf.train.load_checkpoint(str(logdir / "checkpoints"))
    return {
        name: hashlib.sha256(kept.get_tensor(name).tobytes()).hexdigest()
        for name in kept.get_variable_to_shape_map()
    }


def curves(logdir):
    """{(run, tag): [(step, what was written)]} of all event files; of times, only the steps."""
    found = {}
    for run in ("train", "validation", "test", ""):
        for path in sorted((logdir / run).glob("events.out.tfevents.*.autoencoder")):
            for event in tf.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    timeless = "seconds" not in value.tag and run
                    content = value.SerializeToString() if timeless else None
                    found.setdefault((run, value.tag), []).append((event.step, content))
    found["", "_hparams_/session_end_info"] = None  # may be there again: the last one counts
    return found


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return small_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
    """A run of 60 epochs of 30 steps that nothing stopped."""
    logdir = tmp_path_factory.mktemp("logs") / "unbroken"
    run = shell(*SMALL, "--epoch_n", 60, "--batch_size", 10, "--data_dir", data_dir,
                "--logdir", logdir)  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    return logdir


# ---- Killed ----

DRIVER = """
import os, random, signal, sys, time
import autoencoder as ae

def job(folder):  # in a fork, so that TensorFlow is loaded once only
    pid = os.fork()
    if pid == 0:
        os._exit(ae.main(["train", *sys.argv[2:], "--resume", "--logdir", folder]))
    return pid

delays, kills, run = random.Random(0), 0, 0
while kills < 20:
    run += 1
    folder = f"{sys.argv[1]}/{run}"
    for _ in range(5):
        pid = job(folder)
        time.sleep(delays.uniform(0.3, 2.2))
        os.kill(pid, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            break  # the run was faster
        kills += 1
    assert os.waitpid(job(folder), 0)[1] == 0
print("kills:", kills)
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_as_one_that_was_not(unbroken, data_dir, tmp_path):
    job = [*SMALL, "--epoch_n", 60, "--batch_size", 10, "--data_dir", data_dir]
    command = [sys.executable, "-c", DRIVER, tmp_path, *job]
    run = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    for folder in tmp_path.iterdir():
        assert hashes(folder) == hashes(unbroken)
        assert curves(folder) == curves(unbroken)
        assert set(kinds(folder)) == set(kinds(unbroken))
    tried["kills survived"] += int(run.stdout.split("kills: ")[1])


def kinds(folder):
    return sorted(
        str(path.relative_to(folder)).split(".out.")[0].split("ckpt-")[0] for path in files(folder)
    )


@pytest.mark.slow
def test_the_real_job_killed_and_resumed(main_job, tmp_path):
    command = [sys.executable, str(ROOT / "autoencoder.py"), "--logdir", str(tmp_path / "run")]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in job.stdout:
        if line.startswith("epoch: 5,"):
            time.sleep(random.uniform(0.1, 1.9))
            break
    job.kill()
    job.wait()
    resumed = shell("--logdir", tmp_path / "run", "--resume")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "\nresumed after epoch 5\n" in resumed.stdout
    assert score_of(resumed.stdout) == score_of(main_job.stdout)
    assert hashes(tmp_path / "run") == hashes(main_job.logdir)
    assert curves(tmp_path / "run") == curves(main_job.logdir)
    tried["kills survived"] += 1


# ---- Interrupted ----


def test_ctrl_c_ends_after_the_step_and_the_run_goes_on(unbroken, data_dir, tmp_path):
    job = [*SMALL, "--epoch_n", 60, "--batch_size", 10, "--data_dir", data_dir]
    job += ["--logdir", tmp_path / "run"]
    command = [sys.executable, str(ROOT / "autoencoder.py"), *map(str, job)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in run.stdout:
        if line.startswith("epoch: 7,"):
            run.send_signal(signal.SIGINT)
            break
    said = run.stderr.readline()
    run.send_signal(signal.SIGINT)  # again, while the process ends
    _, more = run.communicate()
    expected = "autoencoder.py: interrupted: add --resume to go on\n"
    assert (run.returncode, said, more) == (130, expected, "")
    resumed = shell(*job, "--resume")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert hashes(tmp_path / "run") == hashes(unbroken)
    assert curves(tmp_path / "run") == curves(unbroken)


class Small:
    """A small network, ready to train in this process."""

    def __init__(self, **hp):
        hp = {"epoch_n": 4, "batch_size": 3, **hp}
        self.hp = ae.HParams(X_n=16, enc_n=(8, 6), Z_n=3, dec_n=(6, 8), Z_activation="linear", **hp)
        self.g = ae.build(self.hp)

    def train(self, data, logdir, resume=None):
        with ae.start(self.g) as sess:
            history = ae.train(sess, self.g, data, logdir, resume=resume)
            with self.g.X.graph.as_default():
                weights = sess.run(tf.trainable_variables())
        return [e._replace(seconds=0) for e in history], weights


@pytest.fixture(scope="module")
def data(data_dir):
    return ae.read_data_sets(data_dir)


def test_interrupted_within_an_epoch(data, tmp_path, monkeypatch):
    history, weights = Small().train(data, tmp_path / "unbroken")
    calls, fed_steps = [], ae.compiled_steps

    def interrupting(sess, g, pixels):
        steps = fed_steps(sess, g, pixels)

        def counted(*arguments):
            calls.append(arguments)
            if len(calls) in (3, 6):  # of two calls an epoch: after the first of the second, ...
                os.kill(os.getpid(), signal.SIGINT)
            return steps(*arguments)

        return counted

    monkeypatch.setattr(ae, "compiled_steps", interrupting)
    for epochs, steps in ((1, 55), (3, 0)):
        with pytest.raises(KeyboardInterrupt):
            Small().train(data, tmp_path / "run", ae.newest_checkpoint(tmp_path / "run"))
        progress = ae.newest_checkpoint(tmp_path / "run").progress
        assert (len(progress.history), progress.steps) == (epochs, steps)
    resumed = Small().train(data, tmp_path / "run", ae.newest_checkpoint(tmp_path / "run"))
    assert resumed[0] == history
    assert all(map(np.array_equal, resumed[1], weights))
    assert curves(tmp_path / "run") == curves(tmp_path / "unbroken")
    assert len(calls) == 8  # no step was done twice


# ---- What is kept ----


def test_the_last_two_and_the_best_are_kept_and_of_a_complete_run_the_weights(
    data, tmp_path, monkeypatch
):
    losses, seen, evaluate = iter([5.0, 2.0, 4.0, 3.0]), [], ae.evaluate

    def made_up(sess, g, images):
        seen.append(sorted(ae.checkpoint_paths(tmp_path)))
        return evaluate(sess, g, images)._replace(score=next(losses))

    monkeypatch.setattr(ae, "evaluate", made_up)
    Small().train(data, tmp_path)
    assert seen == [[], [1], [1, 2], [2, 3]]  # before the checkpoint of each epoch
    final, best = (
        ae.read_checkpoint(path) for path in reversed(ae.checkpoint_paths(tmp_path).values())
    )
    assert (best.kind, len(best.progress.history)) == ("best", 2)
    assert (final.kind, len(final.progress.history)) == ("final", 4)
    assert ae.newest_checkpoint(tmp_path) == final
    monkeypatch.undo()
    _, of_epoch_2 = Small(epoch_n=2).train(data, None)
    with Small().g.X.graph.as_default():
        names = [variable.op.name for variable in tf.trainable_variables()]
    kept = tf.train.load_checkpoint(str(best.path))
    assert sorted(kept.get_variable_to_shape_map()) == sorted(names)
    for name, weights in zip(names, of_epoch_2):
        np.testing.assert_array_equal(kept.get_tensor(name), weights)
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")) == str(final.path)


@pytest.mark.parametrize("stop", ["final", "best"])
def test_stopped_between_the_last_checkpoints(data, tmp_path, monkeypatch, stop):
    """After the description of one was written, and before what it replaces was deleted."""
    losses, evaluate, describe = iter([5.0, 2.0, 4.0, 3.0]), ae.evaluate, ae._describe

    class Killed(BaseException):
        pass

    def killing(checkpoint):
        describe(checkpoint)
        if checkpoint.kind == stop:
            raise Killed

    with monkeypatch.context() as patch:
        made_up = lambda *arguments: evaluate(*arguments)._replace(score=next(losses))
        patch.setattr(ae, "evaluate", made_up)
        patch.setattr(ae, "_describe", killing)
        with pytest.raises(Killed):
            Small().train(data, tmp_path)
    Small().train(data, tmp_path, ae.newest_checkpoint(tmp_path))
    kept = [ae.read_checkpoint(path) for path in ae.checkpoint_paths(tmp_path).values()]
    assert sorted((c.kind, len(c.progress.history)) for c in kept) == [("best", 2), ("final", 4)]
    final = ae.newest_checkpoint(tmp_path).path
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")) == str(final)


def test_a_fresh_run_keeps_the_earlier_one_until_it_has_a_checkpoint(data, tmp_path, monkeypatch):
    Small().train(data, tmp_path)
    (tmp_path / "autoencoder.txt").write_text("a file of the user's")
    before, evaluate = files(tmp_path), ae.evaluate
    seen = []

    def watched(*arguments):
        seen.append({path: files(tmp_path).get(path) for path in before} == before)
        return evaluate(*arguments)

    monkeypatch.setattr(ae, "evaluate", watched)
    Small(seed=1).train(data, tmp_path)
    assert seen == [True, False, False, False]
    assert ae.newest_checkpoint(tmp_path).hp.seed == 1
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 3
    assert (tmp_path / "autoencoder.txt").read_text() == "a file of the user's"


@pytest.mark.parametrize("earlier", [True, False])
def test_ctrl_c_in_the_first_epoch_keeps_an_earlier_run(data, tmp_path, monkeypatch, earlier):
    if earlier:
        Small().train(data, tmp_path)
    before, compiled_steps = files(tmp_path), ae.compiled_steps

    def interrupting(sess, g, pixels):
        steps = compiled_steps(sess, g, pixels)
        return lambda *a: os.kill(os.getpid(), signal.SIGINT) or steps(*a)

    monkeypatch.setattr(ae, "compiled_steps", interrupting)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        Small(seed=1).train(data, tmp_path)
    assert interrupt.value.args == (("nothing of this run is kept",) if earlier else ())
    if earlier:
        assert files(tmp_path) == before
    else:
        assert ae.newest_checkpoint(tmp_path).progress[:2] == ((), 55)


def test_a_second_ctrl_c_does_not_wait(data, tmp_path, monkeypatch):
    compiled_steps, calls = ae.compiled_steps, []

    def interrupting(sess, g, pixels):
        steps = compiled_steps(sess, g, pixels)

        def twice(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            calls.append(arguments)
            return steps(*arguments)

        return twice

    monkeypatch.setattr(ae, "compiled_steps", interrupting)
    with pytest.raises(KeyboardInterrupt):
        Small().train(data, tmp_path)
    assert not calls and not ae.newest_checkpoint(tmp_path)


def test_curves_of_a_run_that_began_without_tensorboard(data, tmp_path, monkeypatch):
    evaluate, count = ae.evaluate, iter(range(4))

    def killing(*arguments):
        if next(count) == 3:
            raise MemoryError
        return evaluate(*arguments)

    small = Small()
    with monkeypatch.context() as patch, ae.start(small.g) as sess:
        patch.setattr(ae, "evaluate", killing)
        with pytest.raises(MemoryError):
            ae.train(sess, small.g, data, tmp_path, tensorboard=False)
    history, _ = Small().train(data, tmp_path, ae.newest_checkpoint(tmp_path))
    steps = [step for step, _ in curves(tmp_path)["validation", "loss"]]
    assert steps == [epoch.epoch for epoch in history] == [1, 2, 3, 4]


def test_diverged_the_last_good_checkpoint_is_kept_and_named(data, tmp_path, monkeypatch):
    losses, evaluate = iter([5.0, 2.0, float("nan")]), ae.evaluate
    made_up = lambda *arguments: evaluate(*arguments)._replace(score=next(losses))
    monkeypatch.setattr(ae, "evaluate", made_up)
    with pytest.raises(ae.Diverged) as error:
        Small().train(data, tmp_path)
    newest = ae.newest_checkpoint(tmp_path)
    assert str(error.value) == (
        "the loss is nan in epoch 3: try a learning_rate smaller than 0.001; "
        f"{newest.path}, after epoch 2, is kept"
    )
    assert len(newest.progress.history) == 2


# ---- Damaged ----


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run that was killed after its third epoch of four."""
    logdir, evaluate = tmp_path_factory.mktemp("logs") / "stopped", ae.evaluate
    count = iter(range(4))

    class Killed(BaseException):
        pass

    def killing(*arguments):
        if next(count) == 3:
            raise Killed
        return evaluate(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ae, "evaluate", killing)
        with pytest.raises(Killed):
            Small().train(data, logdir)
    return logdir


@pytest.mark.parametrize("end", ["index", "data-00000-of-00001", "json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "empty"])
def test_a_damaged_newest_checkpoint_is_passed_over(stopped, tmp_path, capsys, end, damage):
    for seed in range(5 if damage in ("cut", "flipped") else 1):
        logdir = tmp_path / f"{seed}"
        shutil.copytree(stopped, logdir)
        newest, older, *_ = ae.checkpoint_paths(logdir).values()
        path = newest.with_name(f"{newest.name}.{end}")
        content, at = bytearray(path.read_bytes()), random.Random(seed).random()
        at = int(at * len(content))
        if damage == "flipped":
            content[at] ^= 1 << random.Random(seed).randrange(8)
        path.write_bytes({"cut": content[:at], "flipped": content}.get(damage, b""))
        if damage == "missing":
            path.unlink()
        found = ae.newest_checkpoint(logdir)
        said = capsys.readouterr().out
        assert found.path == older and len(found.progress.history) == 2
        assert said.startswith(f"{newest} is damaged: ") and said.count("\n") == 1
        tried["corruptions tried"] += 1


def test_a_tampered_description_is_refused_in_one_line(stopped, tmp_path, capsys):
    logdir = tmp_path / "run"
    shutil.copytree(stopped, logdir)
    newest = next(iter(ae.checkpoint_paths(logdir).values()))
    about = ae.Path(f"{newest}.json")
    good = json.loads(about.read_bytes())["about"]
    hp = good["hp"]
    changes = [
        {"hp": hp | {"enc_n": [10**6, 10**6]}}, {"hp": hp | {"X_n": 10**9}}, {"hp": []},
        {"hp": hp | {"Z_n": "3"}}, {"hp": hp | {"enc_n": [[8]]}}, {"hp": hp | {"more": 1}},
        {"hp": {k: hp[k] for k in list(hp)[1:]}}, {"history": 3}, {"history": [[1]]},
        {"history": [["a"] * 6]}, {"history": [[1e999] * 6]}, {"begun": None}, {"begun": [1]},
        {"begun": [{}, 1, 1]}, {"kind": "final"}, {"kind": []}, {"kind": {}}, {"run": "x"},
        {"begun": [-5, 1.0, 1.0]}, {"begun": [5, math.nan, 1.0]}, {"begun": [5, -1.0, 1.0]},
        {"history": good["history"][1:]}, {"history": good["history"][:1] * 3},
        {"history": [[i, *good["history"][0][1:]] for i in range(1, 6)]},
        {"detector": 7}, {"sha256": []}, {"sha256": {}},
        {"sha256": {"../../etc/passwd": good["sha256"][f"{newest.name}.index"]}},
    ]  # fmt: skip
    texts = [json.dumps(good | {"run": 1})]  # of another checksum than it says
    for change in changes:
        changed = good | change
        checksum = hashlib.sha256(json.dumps(changed).encode()).hexdigest()
        texts.append(json.dumps({"about": changed, "sha256": checksum}))
    texts += ["", "null", "[]", "{", "[" * 100_000, '{"hp": NaN}', "9" * 5000, "\0", "x" * 10**7]
    for text in texts:
        about.write_text(text)
        with pytest.raises(ae.AutoEncoderError, match=f"^{newest} is damaged: ") as error:
            ae.read_checkpoint(newest)
        assert "\n" not in str(error.value)
        tried["corruptions tried"] += 1


def test_any_byte_of_the_description(stopped, tmp_path):
    logdir = tmp_path / "run"
    shutil.copytree(stopped, logdir)
    newest = next(iter(ae.checkpoint_paths(logdir).values()))
    about = ae.Path(f"{newest}.json")
    good, draw, sound = about.read_bytes(), random.Random(0), ae.read_checkpoint(newest)
    for _ in range(500):
        content = bytearray(good)
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        about.write_bytes(content)
        try:
            checkpoint = ae.read_checkpoint(newest)
        except ae.AutoEncoderError:
            pass
        else:
            assert checkpoint == sound
        tried["corruptions tried"] += 1


def test_a_torn_event_file_is_mended(stopped, data, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    for path in (tmp_path / "run").rglob("events.out.tfevents.*"):
        path.write_bytes(path.read_bytes() + b"\x20\0\0\0\0\0\0\0torn")
    Small().train(data, tmp_path / "run", ae.newest_checkpoint(tmp_path / "run"))
    Small().train(data, tmp_path / "unbroken")
    assert curves(tmp_path / "run") == curves(tmp_path / "unbroken")


# ---- Refused ----


def test_resume_of_another_network_names_what_differs(stopped, data):
    checkpoint = ae.newest_checkpoint(stopped)
    before = files(stopped)
    with pytest.raises(ae.AutoEncoderError) as error:
        Small(batch_size=5, seed=7).train(data, stopped, checkpoint)
    assert str(error.value) == (
        f"{checkpoint.path} is of a run with batch_size 3, not 5; seed 0, not 7: leave that "
        "out, or choose another logdir"
    )
    other = data.train.pixels.copy()
    other[17, 3] ^= 1
    with pytest.raises(
        ae.AutoEncoderError, match="is of a run with other images: give its data_dir, or "
    ):
        train = ae.DataSet(other, data.train.labels)
        Small().train(data._replace(train=train), stopped, checkpoint)
    assert files(stopped) == before


def test_resume_of_nothing_begins_and_of_a_complete_run_says_so(
    data_dir, tmp_path, monkeypatch, capfd
):
    def main(*argv):
        status = ae.main(list(map(str, argv)))
        out, err = capfd.readouterr()
        first, _, out = out.partition("\n")
        assert first == "data: 300 training, 27 validation, 100 test images of 4 x 4"
        return status, out, err

    monkeypatch.chdir(tmp_path)
    job = [*SMALL, "--epoch_n", 2, "--data_dir", data_dir, "--logdir", "run", "--resume"]
    status, out, err = main(*job)
    assert (status, err) == (0, "")
    assert out.startswith("no checkpoint in run: starting from the beginning\n")
    before = files(tmp_path)
    bare = ["--data_dir", data_dir, "--logdir", "run", "--resume"]  # as the run's own flags were
    for again in (job, bare):
        said = "the run in run is complete: there is nothing to resume\n"
        assert main(*again) == (0, said, "")
        assert files(tmp_path) == before
    status, out, err = main(*job, "--batch_size", 50, "--Z_n", 2)
    assert (status, out) == (2, "")
    assert re.fullmatch(
        "autoencoder.py: error: run/checkpoints/autoencoder.ckpt-[0-9]+ is of a run with Z_n 3, "
        "not 2; batch_size 100, not 50: leave that out, or choose another logdir\n",
        err,
    )
    assert files(tmp_path) == before
    (tmp_path / "run" / "detector.npz").write_bytes(b"damaged")
    status, out, err = main(*bare)
    assert (status, err) == (0, "")
    assert out.startswith("run/detector.npz is damaged: it is not what was written\n")
    before = {path: content for path, content in before.items() if "ckpt" not in path.name}
    now = files(tmp_path)
    again = ("events", "reconstruction")  # with another time, and another rounding
    assert [p for p in before if now.get(p) != before[p] and not p.name.startswith(again)] == []


def test_evaluate_takes_the_checkpoint(unbroken, stopped, data_dir, data, tmp_path, capfd):
    def evaluated(logdir):
        status = ae.main(["evaluate", "--logdir", str(logdir), "--data_dir", str(data_dir)])
        out, err = capfd.readouterr()
        assert out.startswith("data: 300 training, 27 validation, 100 test images of 4 x 4\n")
        return status, out.split("\n", 1)[1], err

    assert evaluated(tmp_path) == (
        2,
        "",
        f"autoencoder.py: error: there is no trained model in {tmp_path}: python autoencoder.py "
        f"--recipe tuned --logdir {tmp_path} makes one\n",
    )
    for logdir, epochs in ((unbroken, 60), (stopped, 3)):
        checkpoint = ae.newest_checkpoint(logdir)
        assert len(checkpoint.progress.history) == epochs
        g = ae.build(checkpoint.hp)
        kept = tf.train.load_checkpoint(str(logdir / "checkpoints"))
        with g.X.graph.as_default(), ae.start(g) as sess:
            for variable in tf.trainable_variables():
                sess.run(variable.assign(kept.get_tensor(variable.op.name)))
            expected = ae.evaluate(sess, g, data.test.images)
        capfd.readouterr()
        status, out, err = evaluated(logdir)
        assert (status, out.splitlines()[-1], err) == (0, str(expected), "")


def test_detect_of_a_run_that_was_stopped(stopped, tmp_path, capfd):
    np.save(tmp_path / "images.npy", np.zeros((3, 4, 4)))
    assert ae.main(["detect", str(tmp_path / "images.npy"), "--logdir", str(stopped)]) == 2
    assert capfd.readouterr().err == (
        f"autoencoder.py: error: the run in {stopped} has no threshold yet: python autoencoder.py "
        f"--resume --logdir {stopped}, with the run's data_dir, makes one\n"
    )


def test_steps_that_the_epoch_has_not(stopped, data, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    checkpoint = ae.newest_checkpoint(tmp_path / "run")
    progress = checkpoint.progress._replace(steps=100)  # 300 images make 100 steps of 3
    ae._describe(checkpoint._replace(progress=progress))
    with pytest.raises(ae.AutoEncoderError, match=f"{checkpoint.path} is damaged: step 100 of 100"):
        Small().train(data, tmp_path / "run", ae.newest_checkpoint(tmp_path / "run"))


def test_where_no_checkpoint_is_intact_nothing_is_replaced(
    unbroken, stopped, data_dir, tmp_path, capfd
):
    for i, earlier in enumerate((unbroken, stopped)):
        logdir = tmp_path / f"{i}"
        shutil.copytree(earlier, logdir)
        for path in logdir.glob("checkpoints/*.json"):
            path.write_bytes(b"damaged")
        before = files(logdir)
        told = f"autoencoder.py: error: no checkpoint in {logdir} is intact"
        job = [*map(str, SMALL), "--data_dir", str(data_dir), "--resume"]
        for command, more in (
            (job, ": to begin anew, leave out --resume\n"),
            (["evaluate", "--data_dir", str(data_dir)], "\n"),
        ):
            assert ae.main([*command, "--logdir", str(logdir)]) == 2
            out, err = capfd.readouterr()
            assert err == told + more
            assert out.count("is damaged: ") == len(ae.checkpoint_paths(logdir))
        assert files(logdir) == before


def test_a_first_checkpoint_that_is_torn_is_no_checkpoint(stopped, data_dir, tmp_path, capfd):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    oldest = list(ae.checkpoint_paths(stopped).values())[-1]
    values = oldest.with_name(f"{oldest.name}.data-00000-of-00001").read_bytes()
    torn = tmp_path / "run" / "checkpoints" / "autoencoder.ckpt-1.data-00000-of-00001"
    torn.write_bytes(values[:100])
    job = [*map(str, SMALL), "--data_dir", str(data_dir), "--logdir", str(tmp_path / "run")]
    assert ae.main([*job, "--epoch_n", "1", "--resume"]) == 0
    assert "starting from the beginning\n" in capfd.readouterr().out
    assert not torn.exists() and ae.newest_checkpoint(tmp_path / "run").kind == "final"


def test_what_a_run_killed_in_its_first_epoch_left(unbroken, data_dir, tmp_path):
    """Its event files beside those of a complete run go when that is resumed."""
    logdir = tmp_path / "run"
    shutil.copytree(unbroken, logdir)
    before = files(logdir)
    (name,) = [p.name for p in (logdir / "train").glob("events.*")]
    for folder in ("train", "validation", ""):
        run = ae.newest_checkpoint(logdir).run
        (logdir / folder / name.replace(str(run), str(run + 1))).write_bytes(b"killed")
    mine = logdir / "train" / "events.out.tfevents.mine"
    mine.write_text("a file of the user's")
    job = [*map(str, SMALL), "--data_dir", str(data_dir), "--logdir", str(logdir), "--resume"]
    assert ae.main([*job, "--epoch_n", "60", "--batch_size", "10"]) == 0
    assert files(logdir) == before | {mine: mine.read_bytes()}


def test_two_processes_in_one_folder(stopped, data_dir, capfd):
    code = (
        "import sys, autoencoder as ae\n"
        "with ae.only_process(sys.argv[1]):\n"
        "    print('training', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(stopped)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "training\n"
        before = files(stopped)
        job = [*SMALL, "--data_dir", data_dir, "--logdir", stopped]
        assert ae.main([*map(str, job)]) == 2
        assert files(stopped) == before
        other.stdin.close()
    assert capfd.readouterr().err == (
        f"autoencoder.py: error: another process is training into {stopped}: "
        "choose another logdir\n"
    )


# ---- Out of space ----


@pytest.fixture
def small_disk(tmp_path, request):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={getattr(request, 'param', '200k')}"
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(small_disk, data_dir):
    job = [*SMALL, "--batch_size", 10, "--data_dir", data_dir, "--logdir", small_disk / "run"]
    run = shell(*job, "--epoch_n", 60)
    assert run.returncode == 2
    assert run.stderr.startswith("autoencoder.py: error: ") and run.stderr.count("\n") == 1
    assert "No space left on device" in run.stderr
    kept = ae.newest_checkpoint(small_disk / "run")
    assert kept and str(kept.path) in run.stderr
    assert not [path for path in files(small_disk) if path.name.endswith(".tmp")]


@pytest.mark.parametrize("small_disk", ["4k"], indirect=True)
def test_a_disk_that_is_full_from_the_start_is_one_line(small_disk, data_dir, capfd):
    job = [*map(str, SMALL), "--data_dir", str(data_dir), "--logdir", str(small_disk / "run")]
    assert ae.main(job) == 2
    error = capfd.readouterr().err
    assert error.startswith("autoencoder.py: error: ") and error.count("\n") == 1
    assert "No space left on device" in error


def test_a_folder_that_is_deleted_is_one_line(data, tmp_path, monkeypatch):
    evaluate = ae.evaluate

    def deleting(*arguments):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return evaluate(*arguments)

    monkeypatch.setattr(ae, "evaluate", deleting)
    with pytest.raises(ae.AutoEncoderError, match="cannot be written: ") as error:
        Small().train(data, tmp_path / "run")
    assert "\n" not in str(error.value)
