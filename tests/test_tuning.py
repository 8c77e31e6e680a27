"""beyond.tuning: a search that uses validation images alone, and that can be stopped."""

import json
import signal
import subprocess
import time

import pytest

import autoencoder as ae
from beyond import tuning
from conftest import ROOT, SMALL, command_of, files, typed

SPACE = {"Z_activation": ("relu", "linear"), "learning_rate": (0.01, 0.001)}


def test_test_images_are_used_once_by_the_best_trial(small_hp, small_dir, tmp_path, monkeypatch):
    data = ae.read_data_sets(small_dir)
    evaluated, evaluate = [], ae.evaluate

    def spy(sess, g, images):
        evaluated.append((g.hp, images is data.test.pixels))
        return evaluate(sess, g, images)

    monkeypatch.setattr(ae, "evaluate", spy)
    monkeypatch.setattr(ae, "compile_loop", lambda *_: ae.feed_loop)
    trials, evaluation = tuning.tune(data, tmp_path, 3, small_hp, SPACE)
    best = min(trials.values(), key=lambda trial: trial.validation_loss)
    assert [hp for hp, is_test in evaluated if is_test] == [best.hp]
    g = ae.build(best.hp)
    with ae.start_session(g) as sess:
        assert ae.train(sess, g, data)[-1].validation_loss == best.validation_loss
        assert evaluate(sess, g, data.test.pixels) == evaluation


def test_a_search_that_is_killed_goes_on(small_dir, tmp_path, capfd):
    """The same command finds what a search without a stop finds, and runs no trial again."""
    command = [*SMALL, "--epoch_n", 2, "--data_dir", small_dir, "--space", json.dumps(SPACE)]
    # One minibatch of all images is trained on without compilation.
    command += ["--trials", 4, "--batch_size", 400, "--logdir"]
    assert typed(*command, tmp_path / "unbroken", module="tuning") == 0
    unbroken = capfd.readouterr().out.splitlines()
    killed = tmp_path / "killed"
    words = command_of([*command, killed], "tuning")
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (killed / "trial-002" / "train").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "trial-003").exists()
    before = files(killed / "trial-001")
    assert typed(*command, killed, module="tuning") == 0
    resumed = capfd.readouterr().out.splitlines()
    assert resumed[-6:-1] == unbroken[-6:-1]  # four trials, and the best on the test images
    assert files(killed / "trial-001") == before


@pytest.mark.parametrize("space", ['{"Zn":[5]}', '{"Z_n":[10,0]}', "Z_n"])
def test_bad_input_is_one_line_and_status_2(small_dir, tmp_path, capfd, space):
    folders = ["--data_dir", small_dir, "--logdir", tmp_path / "run"]
    assert typed("--space", space, *folders, module="tuning") == 2
    error = capfd.readouterr().err
    assert "Z" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
