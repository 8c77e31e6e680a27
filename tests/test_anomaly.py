"""beyond.anomaly, against pairs, sorted distances and pictures that Pillow wrote."""

import csv
import re

import numpy as np
import pytest
from PIL import Image

import autoencoder as ae
from beyond import anomaly
from beyond.common import load_run
from conftest import SMALL, files, typed


@pytest.mark.parametrize("levels", [3, 20, 10**6])  # many ties, some, none
def test_auroc_is_the_share_of_ordered_pairs(levels):
    rs = np.random.RandomState(0)
    normal, abnormal = rs.randint(0, levels, 70), rs.randint(levels // 4, 2 * levels, 50)
    pairs = [(a > n) + (a == n) / 2 for a in abnormal for n in normal]
    assert anomaly.auroc(normal, abnormal) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_threshold_by_hand():
    scores = np.random.RandomState(0).permutation(np.arange(1.0, 101))
    assert anomaly.fit_threshold(scores) == 95  # 96 to 100 exceed it
    ties = np.array([1.0] * 90 + [2.0] * 10)
    assert anomaly.fit_threshold(ties) == 2  # 10 of 100 exceed 1


def scores_by_numpy(sess, g, X, codes):
    Z, G = sess.run([g.Z, g.G], {g.X: X})
    error = ((G.astype(np.float64) - X) ** 2).sum(axis=1) / 2
    squares = ((Z[:, None].astype(np.float64) - codes) ** 2).sum(axis=2)
    return error, error * (1 + np.sort(squares, axis=1)[:, :5].mean(axis=1))


@pytest.mark.parametrize("experiment", anomaly.EXPERIMENTS)
def test_experiments_train_on_normal_images(small_dir, tmp_path, monkeypatch, capfd, experiment):
    trained_on, train = [], ae.train

    def spy(sess, g, data):
        trained_on.append(set(data.train.labels.tolist()))
        return train(sess, g, data, loop=ae.feed_loop)

    monkeypatch.setattr(ae, "train", spy)
    command = [*SMALL, "--experiment", experiment, "--batch_size", 10, "--epoch_n", 1]
    command += ["--data_dir", small_dir, "--logdir", tmp_path / "logs"]
    assert typed(*command, module="anomaly") == 0
    all_labels = set(range(10))
    expected = {
        "one-normal": [{label} for label in range(10)],
        "one-abnormal": [all_labels - {label} for label in range(10)],
        "no-digits": [all_labels],
    }
    assert trained_on == expected[experiment]
    out, err = capfd.readouterr()
    assert err == ""
    areas = np.array(re.findall(r"AUROC ([0-9.]+) \(error\) ([0-9.]+)", out), float)
    means = re.search(r"mean AUROC +([0-9.]+) +([0-9.]+)", out).groups()
    np.testing.assert_allclose(np.array(means, float), areas.mean(axis=0), atol=1e-4)


def test_screening_a_folder_of_pictures(model, tmp_path, capfd):
    images = np.random.RandomState(2).randint(0, 256, (15, 4, 4), np.uint8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{i:02d}, a comma.{('png', 'bmp', 'gif')[i % 3]}" for i in range(15)]
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / name)
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(folder / "wide.png")
    (folder / "notes.txt").write_text("no picture")
    with load_run(model[0]) as (sess, g, data):
        codes = sess.run(g.Z, {g.X: data.train.images})
        _, validation_scores = scores_by_numpy(sess, g, data.validation.images, codes)
        X = images.reshape(15, 16) / np.float32(255)
        error, expected = scores_by_numpy(sess, g, X, codes)
        of_many = anomaly.anomaly_score(sess, g, np.tile(X, (70, 1)), codes)["error"]
    np.testing.assert_allclose(of_many, np.tile(error, 70), rtol=1e-5)  # 1,050: two batches
    threshold = np.sort(validation_scores)[-2]  # 1 of 27 is less than 5%, and 2 are more
    command = [folder, "--trained", model[0], "--logdir", tmp_path / "logs"]
    assert typed(*command, module="anomaly") == 0
    with open(tmp_path / "logs" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == names
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-4)
    assert [row["flag"] for row in rows] == [str(int(score > threshold)) for score in expected]
    out = capfd.readouterr().out
    assert f"with a score above {threshold:.4g}," in out
    assert "notes.txt, wide.png" in out
    assert (tmp_path / "logs" / "screened.png").exists()


def test_bad_input_is_one_line_and_status_2(model, tmp_path, capfd):
    logdir, data_dir = model
    np.save(tmp_path / "large.npy", np.zeros((3, 5, 5), np.uint8))
    (tmp_path / "text.txt").write_text("no picture")
    data = ae.read_data_sets(data_dir)
    np.savez(tmp_path / "set.npz", x_train=data.train.pixels, x_test=data.test.pixels)
    cases = [
        ("none.png", [], "none.png"),
        ("large.npy", [], "25 pixels, not 16"),
        ("text.txt", [], "no picture of 4 x 4"),
        ("text.txt", ["--trained", tmp_path / "none"], "no trained network"),
        ("text.txt", ["--data_dir", tmp_path / "set.npz"], "different images"),
    ]
    before = files(tmp_path)
    for name, arguments, phrase in cases:
        command = [tmp_path / name, "--logdir", tmp_path / "logs", "--trained", logdir, *arguments]
        assert typed(*command, module="anomaly") == 2
        error = capfd.readouterr().err
        assert phrase in error
        assert error.count("\n") == 1
        assert files(tmp_path) == before
