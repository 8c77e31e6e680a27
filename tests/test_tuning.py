"""The tutorial's eight steps, by the search for hyperparameters."""

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

import autoencoder as ae
from beyond import tuning
from conftest import ROOT, command_of, files, free_port, shell, small_files, typed
from conftest import SMALL as SIZE

SPACE = {
    "Z_activation": ("relu", "linear"),
    "learning_rate": (0.01, 0.001),
    "init": ("he", "normal"),
}


def table_of(run):
    """The lines of the table of trials, and of the winner."""
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith("trial  validation loss")]
    return lines[start:-1]


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """search(folder, ...): the shell's search of four trials. And what an unbroken one found."""
    small = small_files(tmp_path_factory.mktemp("small"))
    command = [*SIZE, "--epoch_n", 2, "--data_dir", small, "--space", json.dumps(SPACE)]
    # A batch of more than all images is trained on without compilation, which takes a second.
    command += ["--trials", 4, "--batch_size", 400, "--logdir"]
    return command, table_of(shell(*command, tmp_path_factory.mktemp("unbroken"), module="tuning"))


@pytest.fixture(autouse=True)
def no_compilation(request, monkeypatch):
    """It would take most of the time of small trainings."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(ae, "compiled_steps", ae.fed_steps)


def test_as_many_trials_as_combinations_are_a_grid(small_hp):
    trials = [tuning.trial_hparams(k, small_hp, SPACE) for k in range(8)]
    combinations = [
        dataclasses.replace(small_hp, **dict(zip(SPACE, values)))
        for values in itertools.product(*SPACE.values())
    ]
    assert len(set(trials)) == 8 and set(trials) == set(combinations)
    more = SPACE | {"enc_n": ((5, 4), (7,))}
    assert len({tuning.trial_hparams(k, small_hp, more) for k in range(16)}) == 16
    with pytest.raises(ae.AutoEncoderError, match="^there is no trial 16, only 0 to 15$"):
        tuning.trial_hparams(16, small_hp, more)
    others = [
        tuning.trial_hparams(k, dataclasses.replace(small_hp, seed=1), SPACE) for k in range(8)
    ]
    assert [t.init for t in others] != [t.init for t in trials]


def test_tuning_never_looks_at_the_test_images(small_hp, small_dir, tmp_path, monkeypatch):
    data = ae.read_data_sets(small_dir)
    poison = data._replace(test=ae.DataSet(np.full((9, 16), np.nan, np.float32), np.zeros(9)))
    evaluated, evaluate = [], ae.evaluate

    def watched(sess, g, images):
        evaluated.append((g.hp, bool(np.isnan(images).any())))
        return evaluate(sess, g, images)

    clean, _ = tuning.tune(data, tmp_path / "clean", 3, small_hp, SPACE)
    monkeypatch.setattr(ae, "evaluate", watched)
    poisoned, evaluation = tuning.tune(poison, tmp_path / "poisoned", 3, small_hp, SPACE)
    assert [(k, t[:3]) for k, t in clean.items()] == [(k, t[:3]) for k, t in poisoned.items()]
    assert np.isnan(evaluation.score)
    best = min(poisoned.values(), key=lambda trial: trial.validation_loss)
    assert [hp for hp, is_test in evaluated if is_test] == [best.hp] == [evaluated[-1][0]]
    assert next(iter(poisoned.values())) == best


def test_the_winner_is_the_network_of_its_trial(small_hp, small_dir, tmp_path):
    data = ae.read_data_sets(small_dir)
    trials, evaluation = tuning.tune(data, tmp_path, 2, small_hp, SPACE)
    best = next(iter(trials.values()))
    g = ae.build(best.hp)
    with ae.start(g) as sess:
        history = ae.train(sess, g, data)
        assert (history[-1].validation_loss, history[-1].live) == best[1:3]
        assert ae.evaluate(sess, g, data.test.images) == evaluation


def test_a_search_killed_after_two_trials_goes_on(search, tmp_path):
    command, unbroken = search
    process = subprocess.Popen(
        command_of([*command, tmp_path], "tuning"), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    third = tmp_path / "trial-002" / "train"
    while not third.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = times(tmp_path / "trial-001")
    run = shell(*command, tmp_path, module="tuning")
    assert table_of(run) == unbroken
    assert run.stdout.count("resumed after epoch 2") == 2
    assert times(tmp_path / "trial-001") == before


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_trials_by_processes_of_their_own_gather_to_the_same_table(search, tmp_path):
    command, unbroken = search
    words = command_of([*command, tmp_path, "--trial"], "tuning")
    run = subprocess.run(["xargs", "-n", "1", "-P", "2", *words], input="3 1 2 0", cwd=ROOT,
                         text=True, capture_output=True)  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    before = files(tmp_path)
    run = shell(*command, tmp_path, module="tuning")
    assert table_of(run) == unbroken
    assert run.stdout.count("resumed after epoch 2") == 4 and "epoch: " not in run.stdout
    assert files(tmp_path) == before


def test_a_trial_that_diverges_is_the_last_and_stops_nothing(small_hp, small_dir, tmp_path, capsys):
    data, space = ae.read_data_sets(small_dir), {"learning_rate": (1e30, 0.001)}
    for _ in range(2):  # run, and read again
        trials, _ = tuning.tune(data, tmp_path, 2, small_hp, space)
        assert [trial.hp.learning_rate for trial in trials.values()] == [0.001, 1e30]
        assert [np.isinf(trial.validation_loss) for trial in trials.values()] == [False, True]
    with pytest.raises(ae.AutoEncoderError, match="^all trials diverged: try smaller values"):
        tuning.tune(data, tmp_path / "2", 1, small_hp, {"learning_rate": (1e30,)})


def test_a_space_of_fewer_combinations_than_trials_is_tried_whole(small_hp, small_dir, tmp_path):
    trials, _ = tuning.tune(ae.read_data_sets(small_dir), tmp_path, 20, small_hp, {"Z_n": (2, 3)})
    assert sorted(trials) == [0, 1] and {trial.hp.Z_n for trial in trials.values()} == {2, 3}


def test_damage_is_one_line(small_hp, small_dir, tmp_path):
    data = ae.read_data_sets(small_dir)
    tuning.tune(data, tmp_path, 1, small_hp, SPACE)
    for path in (tmp_path / "trial-000" / "checkpoints").glob("*.index"):
        path.write_bytes(b"")
    with pytest.raises(ae.AutoEncoderError, match="trial-000/checkpoints is intact: "):
        tuning.tune(data, tmp_path, 1, small_hp, SPACE)
    (tmp_path / "trial-000" / "checkpoints" / "run.json").write_text("{")
    with pytest.raises(ae.AutoEncoderError, match="trial-000/checkpoints/run.json is damaged: "):
        tuning.tune(data, tmp_path, 1, small_hp, SPACE)


def test_another_search_in_the_same_folder_is_refused(small_hp, small_dir, tmp_path):
    data = ae.read_data_sets(small_dir)
    tuning.tune(data, tmp_path, 1, small_hp, SPACE)
    before = files(tmp_path)
    with pytest.raises(ae.AutoEncoderError, match="trial-000 has another run: .*seed 0, not 1"):
        tuning.tune(data, tmp_path, 1, dataclasses.replace(small_hp, seed=1), SPACE)
    assert files(tmp_path) == before


NOT = "a space is hyperparameters and lists of values, not "
BAD = {
    "--trials 0": "--trials must be a whole number from 1, not 0",
    "--trials many": "argument --trials: invalid int value: 'many' (see --help)",
    "--trial -1": "there is no trial -1, only 0 to 143",
    '--trial 2 --space {"Z_n":[5,6]}': "there is no trial 2, only 0 to 1",
    '--space {"seed":[]}': NOT + "{'seed': []}",
    '--space {"Zn":[5]}': NOT + "{'Zn': [5]}",
    '--space {"Z_n":5}': NOT + "{'Z_n': 5}",
    '--space {"X_n":[784]}': NOT + "{'X_n': [784]}",
    "--space [1]": NOT + "[1]",
    "--space Z_n": "argument --space: invalid loads value: 'Z_n' (see --help)",
    '--space {"Z_n":[10,0]}': "Z_n must be a whole number from 1, not 0",
    '--space {"enc_n":[[0]]}': "enc_n must be whole numbers from 1, not [0]",
    '--space {"learning_rate":["fast"]}': "learning_rate must be a number above 0, not 'fast'",
    '--space {"init":["magic"]}': "init must be normal or he or glorot, not 'magic'",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_status_2(small_dir, tmp_path, capfd, arguments):
    folders = ["--data_dir", small_dir, "--logdir", tmp_path / "run"]
    assert typed(*arguments.split(), *folders, module="tuning") == 2
    assert capfd.readouterr().err == f"python -m beyond.tuning: error: {BAD[arguments]}\n"
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_a_row_for_each_trial(small_hp, small_dir, tmp_path):
    trials, _ = tuning.tune(ae.read_data_sets(small_dir), tmp_path, 3, small_hp, SPACE)
    port = free_port()
    board = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", tmp_path, "--port", str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        experiment = ask_hparams(port, "experiment", {})
        metrics = [{"metric": metric["name"]} for metric in experiment["metricInfos"]]
        names = {info["name"] for info in experiment["hparamInfos"]}
        assert names == {field.name for field in dataclasses.fields(ae.HParams)}
        request = {"colParams": metrics, "sliceSize": 100, "allowedStatuses": ["STATUS_SUCCESS"]}
        groups = ask_hparams(port, "session_groups", request)["sessionGroups"]
    finally:
        board.terminate()
        board.wait()
    rows = {}
    for group in groups:
        values = {
            m["name"].get("group"): m["value"]
            for m in group["metricValues"]
            if m["name"]["tag"] == "loss"
        }
        rows[group["sessions"][0]["name"]] = (group["hparams"], values["validation"])
    assert sorted(rows) == ["trial-000", "trial-001", "trial-002"]
    for number, trial in trials.items():
        hparams, loss = rows[f"trial-{number:03d}"]
        assert loss == pytest.approx(trial.validation_loss, rel=1e-6)
        assert {name: hparams[name] for name in SPACE} == {
            name: getattr(trial.hp, name) for name in SPACE
        }


def ask_hparams(port, what, request):
    address = f"http://127.0.0.1:{port}/data/plugin/hparams/{what}"
    asked = urllib.request.Request(
        address, json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(120):
        try:
            answer = json.load(urllib.request.urlopen(asked))
            if answer.get("hparamInfos") or answer.get("sessionGroups"):
                return answer
        except OSError:
            pass
        time.sleep(0.25)  # it is starting, or still reading the event files
    raise TimeoutError(address)


# ---- What it found ----


def test_recipes_are_of_the_tutorials_size():
    fixed = ("X_n", "enc_n", "Z_n", "dec_n", "epoch_n", "seed")
    assert ae.RECIPES["seed"] == ae.HParams()
    for name in fixed:
        assert getattr(ae.RECIPES["tuned"], name) == getattr(ae.HParams(), name)
