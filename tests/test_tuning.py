"""beyond.tuning: a search that uses validation images alone, and that can be stopped."""

import dataclasses
import re
import signal
import subprocess

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages.journal import JournalFileBackend

import autoencoder as ae
from beyond import common, tuning
from conftest import ROOT, SMALL, command_of, typed

SPACE = {
    "Z_activation": CategoricalDistribution(["relu", "linear"]),
    "learning_rate": FloatDistribution(1e-3, 1e-2, log=True),
}


@pytest.fixture
def without_xla(monkeypatch):
    monkeypatch.setattr(ae, "compile_loop", lambda *_: ae.feed_loop)


def trials_in(logdir):
    """The trials that Optuna itself reads from the folder."""
    backend = JournalFileBackend(str(logdir / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="tuning", storage=storage).trials


def test_validation_images_choose(small_hp, small_dir, tmp_path, monkeypatch, without_xla):
    data = ae.read_data_sets(small_dir)
    evaluated = []
    run_batches = ae.run_batches

    def spy(sess, fetches, placeholder, rows, batch_size):
        evaluated.append(rows)
        return run_batches(sess, fetches, placeholder, rows, batch_size)

    monkeypatch.setattr(ae, "run_batches", spy)
    study = tuning.tune(data, tmp_path, 3, small_hp, SPACE)
    assert all(np.isin(rows, data.validation.images).all() for rows in evaluated)
    trained = {}
    for trial in trials_in(tmp_path):
        run = ae.read_run(tuning.trial_dir(tmp_path, trial))
        assert {name: getattr(run.hp, name) for name in SPACE} == trial.params
        trained[trial.number] = run.history[-1].validation_loss
        assert trial.value == trained[trial.number]
    assert len(trained) == 3
    assert study.best_trial.number == min(trained, key=trained.get)


def test_bad_trials_are_stopped(small_hp, small_dir, tmp_path, without_xla):
    data = ae.read_data_sets(small_dir)
    rates = CategoricalDistribution([0.01, 0.02, 1e-9])  # nothing is learned with the last
    base = dataclasses.replace(small_hp, activation="swish", Z_activation="linear", epoch_n=4)
    tuning.tune(data, tmp_path, 12, base, {"learning_rate": rates})
    pruned = [trial for trial in trials_in(tmp_path) if trial.state.name == "PRUNED"]
    assert 1e-9 in [trial.params["learning_rate"] for trial in pruned]
    assert all(max(trial.intermediate_values) < 4 for trial in pruned)  # of 4 epochs
    with pytest.raises(ae.AutoEncoderError, match="all diverged"):
        diverging = {"learning_rate": CategoricalDistribution([1e30])}
        tuning.tune(data, tmp_path / "diverging", 2, base, diverging)


def test_a_search_goes_on_with_the_same_images_and_settings(
    small_hp, small_dir, tmp_path, without_xla
):
    data = ae.read_data_sets(small_dir)
    base = dataclasses.replace(small_hp, epoch_n=1, seed=2**32)
    tuning.tune(data, tmp_path, 1, base, SPACE)
    journal = tmp_path / "journal.log"
    tuning.tune(dataclasses.replace(data, path=tmp_path / "moved"), tmp_path, 2, base, SPACE)
    assert [trial.state.name for trial in trials_in(tmp_path)] == ["COMPLETE"] * 2
    longer = dataclasses.replace(base, epoch_n=2)
    narrower = SPACE | {"Z_activation": CategoricalDistribution(["linear"])}
    fewer = dataclasses.replace(data, train=data.validation)
    cases = {"epoch_n": (data, longer, SPACE), "Z_activation": (data, base, narrower)}
    for name, (images, hp, space) in (cases | {"images": (fewer, base, SPACE)}).items():
        with pytest.raises(ae.AutoEncoderError, match=f"other {name}: use another logdir"):
            tuning.tune(images, tmp_path, 3, hp, space)
    with open(journal, "ab") as file:
        file.write(b'{"op_code":4,"wor')  # as a full disk leaves it
    with pytest.raises(ae.AutoEncoderError, match="the last line of .*journal.log is incomplete"):
        tuning.tune(data, tmp_path, 3, base, SPACE)


def test_two_processes_share_the_trials_and_one_is_killed(small_dir, tmp_path, capfd):
    logdir = tmp_path / "run"
    command = [*SMALL, "--data_dir", small_dir, "--logdir", logdir, "--epoch_n", 20, "--trials"]
    words = command_of([*command, 4], "tuning")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    to_kill, other = [subprocess.Popen(words, cwd=ROOT, **pipes) for _ in range(2)]
    assert to_kill.stdout.readline().startswith("device: ")
    killed = int(re.match(r"trial (\d+): ", to_kill.stdout.readline())[1])
    to_kill.send_signal(signal.SIGKILL)
    to_kill.communicate()
    _, err = other.communicate(timeout=120)
    assert (other.returncode, err) == (0, "")
    trials = trials_in(logdir)
    assert trials[killed].state.name == "RUNNING"
    assert len({str(trial.params) for trial in trials}) == len(trials)
    assert sum(trial.state.is_finished() for trial in trials) == 4
    assert typed(*command, 5, module="tuning") == 0
    more_trials = trials_in(logdir)
    assert more_trials[: len(trials)] == trials
    assert sum(trial.state.is_finished() for trial in more_trials) == 5
    complete = [trial for trial in more_trials if trial.state.name == "COMPLETE"]
    best = min(complete, key=lambda trial: trial.value)
    out = capfd.readouterr().out
    with common.load_run(tuning.trial_dir(logdir, best)) as (sess, net, data):
        evaluation = ae.evaluate(sess, net, data.test.images)
    assert f"\ntrial {best.number} on the test images: {evaluation}\n" in out


def test_ablation(small_hp, small_dir, monkeypatch, capfd, without_xla):
    data = ae.read_data_sets(small_dir)
    tutorial = dataclasses.replace(small_hp, epoch_n=1, train_n=300)
    tuned = dataclasses.replace(tutorial, activation="swish", learning_rate=0.05)
    monkeypatch.setattr(ae, "read_data_sets", lambda: data)
    monkeypatch.setattr(ae, "RECIPES", {"tutorial": tutorial, "tuned": tuned})
    assert typed(module="ablation") == 0
    _, _, *rows = capfd.readouterr().out.splitlines()
    losses = {}
    for row in rows:
        name, *values = row.strip("|").split("|")
        losses[name.strip()] = [float(value) for value in values]
    assert [*losses][:3] == ["none", "`--activation swish`", "`--learning_rate 0.05`"]
    with ae.start_session(
        net := ae.build(dataclasses.replace(tutorial, activation="swish"))
    ) as sess:
        (epoch,) = ae.train(sess, net, data)
    without, alone = losses["`--learning_rate 0.05`"]
    assert without == pytest.approx(epoch.validation_loss, abs=0.06) != alone
