"""What the network cannot restore, or restores from a strange Z, is abnormal."""

import csv
import gzip
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import autoencoder as ae
from beyond import anomaly
from beyond.scale import PEAK
from conftest import ROOT, SMALL, files, idx, typed


def ordered_pairs(normal, abnormal):
    """The area under the ROC curve, as the share of pairs in the right order."""
    return np.mean([(a > n) + (a == n) / 2 for a in abnormal for n in normal])


@pytest.mark.parametrize("levels", [3, 20, 10**6])  # many ties, some, none
def test_auroc_is_the_share_of_ordered_pairs(levels):
    rs = np.random.RandomState(0)
    normal, abnormal = rs.randint(0, levels, 70), rs.randint(levels // 4, 2 * levels, 50)
    expected = ordered_pairs(normal, abnormal)
    assert anomaly.auroc(normal, abnormal) == pytest.approx(expected, abs=1e-12)
    assert anomaly.auroc(np.array([1, 2]), np.array([3, 4])) == 1
    assert anomaly.auroc(np.array([3, 4]), np.array([1, 2])) == 0
    assert anomaly.auroc(np.array([5, 5]), np.array([5])) == 0.5


def test_the_threshold_by_hand():
    scores = np.random.RandomState(0).permutation(np.arange(1.0, 101))
    assert anomaly.fit_threshold(scores) == 95  # 96 to 100 exceed it
    assert anomaly.fit_threshold(scores, 0.1) == 90
    assert anomaly.fit_threshold(np.array([2.0, 7.0]), 0.01) == 7
    ties = np.array([1.0] * 90 + [2.0] * 10)
    assert anomaly.fit_threshold(ties, 0.05) == 2  # at 1, ten of a hundred would exceed it


def test_scores_are_plain_numpys(small_hp):
    rs = np.random.RandomState(0)
    pixels, codes = rs.randint(0, 256, (2345, 16), np.uint8), rs.rand(50, 3).astype(np.float32)
    X = pixels * np.float32(1 / 255)
    g = ae.build(small_hp)
    with ae.start(g) as sess:
        scores = anomaly.anomaly_score(sess, g, pixels, codes)
        of_floats = anomaly.anomaly_score(sess, g, X, codes)
        Z, G = sess.run([g.Z, g.G], {g.X: X})
    error = ((G.astype(np.float64) - X) ** 2).sum(axis=1) / 2
    squares = ((Z[:, None].astype(np.float64) - codes) ** 2).sum(axis=2)
    distance = np.sort(squares, axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(scores["error"], error, rtol=1e-5)
    np.testing.assert_allclose(scores["error x distance"], error * (1 + distance), rtol=1e-4)
    for name in anomaly.SCORES:
        np.testing.assert_array_equal(scores[name], of_floats[name])


def test_scores_take_no_more_memory_for_more_images():
    code = PEAK + (
        "import numpy as np, autoencoder as ae\n"
        "from beyond import anomaly\n"
        "g = ae.build(ae.HParams())\n"
        "row, codes = np.arange(784, dtype=np.uint8), np.zeros((5000, 20), np.float32)\n"
        "with ae.start(g) as sess:\n"
        "    for n in (60_000, 160_000):  # after the first, nothing is new\n"
        "        anomaly.anomaly_score(sess, g, np.broadcast_to(row, (n, 784)), codes)\n"
        "        print('MiB:', peak())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    few, many = map(float, re.findall("MiB: ([0-9.]+)", run.stdout))
    assert many - few < 30  # 100,000 images as float32 would be 299, the scores alone are 1


def test_only_normal_images_are_learnt_from(small_hp, small_dir, monkeypatch):
    seen, train = [], ae.train

    def watched(sess, g, data):
        seen.append(set(data.train.labels.tolist()))
        return train(sess, g, data)

    monkeypatch.setattr(ae, "train", watched)
    monkeypatch.setattr(ae, "compiled_steps", ae.fed_steps)  # twenty compilations take long
    data = ae.read_data_sets(small_dir)
    hp = ae.dataclasses.replace(small_hp, batch_size=10, epoch_n=1)
    for experiment in ("one-normal", "one-abnormal"):
        seen.clear()
        for digit, (what, scores) in enumerate(anomaly.scores_of(experiment, data, hp)):
            normal = {digit} if experiment == "one-normal" else set(range(10)) - {digit}
            assert what == f"label {digit}"
            assert seen[digit] == normal
            expected = np.isin(data.test.labels, list(normal)).sum()
            assert {name: tuple(map(len, s)) for name, s in scores.items()} == {
                name: (expected, 100 - expected) for name in anomaly.SCORES
            }


def test_what_is_no_digit(mnist):
    abnormal = anomaly.not_of(mnist.test.pixels)
    for images in abnormal.values():
        assert images.dtype == np.uint8 and images.shape[1] == 784
    noise, grey, inverted, turned = abnormal.values()
    assert np.bincount(noise.ravel(), minlength=256).std() < 0.05 * noise.size / 256
    assert sorted({tuple(set(row)) for row in grey}) == [(level,) for level in range(256)]
    assert np.array_equal(inverted.astype(int) + mnist.test.pixels, np.full((10000, 784), 255))
    first, turned = mnist.test.pixels[0].reshape(28, 28), turned[0].reshape(28, 28)
    assert all(turned[27 - x, y] == first[y, x] for x in range(28) for y in range(28))


@pytest.mark.parametrize("experiment", anomaly.EXPERIMENTS)
def test_experiments_in_the_shell(small_dir, tmp_path, monkeypatch, capfd, experiment):
    monkeypatch.setattr(ae, "compiled_steps", ae.fed_steps)  # ten compilations take long
    seeds = [0, 1] if experiment == "no-digits" else [0]  # the others train ten networks for each
    job = [*SMALL, "--experiment", experiment, "--seed", *seeds, "--batch_size", 10, "--epoch_n", 1]
    job += ["--data_dir", small_dir, "--logdir", tmp_path / "logs"]
    assert typed(*job, module="anomaly") == 0
    out, err = capfd.readouterr()
    assert err == ""
    *table, mean, picture = out.splitlines()
    rows = [line.rsplit(maxsplit=2) for line in table[-(4 if experiment == "no-digits" else 10) :]]
    for column, found in enumerate(mean.split()[2:], 1):
        expected = np.mean([float(row[column]) for row in rows])
        assert float(found) == pytest.approx(expected, abs=6e-4)
    for seed in seeds:
        assert out.count(f"seed {seed}, ") == len(rows)
    assert picture == f"ROC curves: {tmp_path / 'logs' / experiment}.png"


@pytest.mark.slow
def test_zeros_are_told_from_other_digits(mnist):
    what, scores = next(anomaly.scores_of("one-normal", mnist, ae.RECIPES["tuned"]))
    assert what == "label 0"
    areas = {name: anomaly.auroc(*scores[name]) for name in anomaly.SCORES}
    assert areas["error"] > 0.98 and areas["error x distance"] > 0.99


# ---- A person's own pictures ----


def screened(model, pictures, logdir):
    """Screens pictures. -> scores (n,), flags (n,), names; what was printed is left to capfd"""
    trained, data = model
    job = [pictures, "--trained", trained, "--data_dir", data, "--logdir", logdir]
    assert typed(*job, module="anomaly") == 0
    with open(logdir / "scores.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["index", "score", "flag", "file"]
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    scores, flags = np.array([row[1:3] for row in rows], float).T
    return scores, flags, [row[3] for row in rows]


def test_every_kind_of_file_is_read_to_the_same_images(tmp_path):
    images = np.random.RandomState(1).randint(0, 256, (25, 4, 4), np.uint8)
    (tmp_path / "a.idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(images)))
    np.save(tmp_path / "bytes.npy", images)
    np.save(tmp_path / "flat.npy", images.reshape(25, 16) / 255)
    np.savez(tmp_path / "one.npz", anything=images)
    for kind in ("png", "bmp", "gif"):
        for name, of in (("grey", images), ("colour", np.repeat(images[..., None], 3, axis=-1))):
            folder = tmp_path / f"{name} {kind}"
            folder.mkdir()
            for i, pixels in enumerate(of):
                Image.fromarray(pixels).save(folder / f"{i:03d}.{kind}")
    for path in tmp_path.iterdir():
        if path.name == "colour gif":  # has 256 colours of its own
            continue
        found, names, left_out = anomaly.read_pictures(path, 16)
        found = found if found.dtype == np.uint8 else np.rint(255 * found)
        assert np.array_equal(found, images.reshape(25, 16))
        assert names == (
            [f"{i:03d}{next(path.iterdir()).suffix}" for i in range(25)]
            if path.is_dir()
            else [""] * 25
        )
        assert left_out == []


def test_what_screening_prints_and_writes(model, tmp_path, capfd):
    np.save(tmp_path / "images.npy", np.random.RandomState(1).randint(0, 256, (25, 4, 4), np.uint8))
    scores, flags, names = screened(model, tmp_path / "images.npy", tmp_path / "logs")
    assert names == [""] * 25
    out, err = capfd.readouterr()
    assert err == ""
    assert f"\nnetwork: {model[0]}, trained for 1 of 1 epochs\n" in out
    threshold = float(re.search("with a score above ([0-9.e+-]+),\nwhich 5%", out)[1])
    clear = np.abs(scores / threshold - 1) > 1e-3  # it is printed to four digits
    assert np.array_equal(flags[clear], (scores > threshold)[clear])
    assert f"\nflagged (!): {int(flags.sum())} of 25, " in out
    most = [int(line.split()[0]) for line in out.splitlines() if re.match(" *[0-9]+  ", line)]
    assert most == np.argsort(-scores)[:10].tolist()
    assert (tmp_path / "logs" / "screened.png").read_bytes().startswith(b"\x89PNG")


def test_grey_pictures_are_read_to_the_byte(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for kind in ("png", "bmp"):
        Image.fromarray(levels).save(tmp_path / f"levels.{kind}")
        images, names, left_out = anomaly.read_pictures(tmp_path / f"levels.{kind}", 256)
        assert np.array_equal(images, levels.reshape(1, 256))
        assert (names, left_out) == ([f"levels.{kind}"], [])


def test_a_photograph_is_read_too(tmp_path):
    levels = np.kron([[0, 90], [160, 255]], np.ones((8, 8))).astype(np.uint8)  # blocks of JPEG
    Image.fromarray(levels).save(tmp_path / "a.jpg", quality=100)
    images, _, _ = anomaly.read_pictures(tmp_path / "a.jpg", 256)
    np.testing.assert_allclose(images[0].astype(int), levels.ravel(), atol=1)


def test_a_folder_of_other_things_too(model, tmp_path, capfd):
    folder = tmp_path / "pictures"
    (folder / "folder.png").mkdir(parents=True)
    for i in range(15):
        Image.fromarray(np.full((4, 4), 17 * i, np.uint8)).save(folder / f"{i:02d}, a comma.PNG")
    (folder / "notes.txt").write_text("no picture")
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(folder / "wide.png")
    scores, flags, names = screened(model, folder, tmp_path / "logs")
    assert names == [f"{i:02d}, a comma.PNG" for i in range(15)]
    out, err = capfd.readouterr()
    left_out = "left out, as no such picture of 16 pixels: folder.png, notes.txt, wide.png\n"
    assert out.count(left_out) == out.count("left out") == 1
    assert err == "" and re.search(
        rf"^flagged \(!\): {int(flags.sum())} of 15, ", out, re.MULTILINE
    )


def test_the_threshold_is_of_validation_images(model):
    logdir, data_dir = model
    data = ae.read_data_sets(data_dir)
    with anomaly.trained(logdir, data) as (sess, g):
        found = anomaly.detector(sess, g, data)
        scores, flags = anomaly.detect(sess, g, data.validation.pixels, found)
        assert np.array_equal(found.codes, sess.run(g.Z, {g.X: data.train.images}))
    assert np.array_equal(flags, scores > found.threshold)
    assert 0.05 - 1 / 27 < flags.mean() <= 0.05  # to one image of 27


def test_the_picture_marks_the_images_that_it_names(model, tmp_path, monkeypatch):
    drawn, plot_images = [], ae.plot_images
    monkeypatch.setattr(
        ae, "plot_images", lambda **rows: drawn.append(plot_images(**rows)) or drawn[-1]
    )
    images = np.random.RandomState(0).randint(0, 256, (13, 16), np.uint8)
    np.save(tmp_path / "images.npy", images)
    scores, flags, _ = screened(model, tmp_path / "images.npy", tmp_path / "logs")
    titled = [axes for axes in drawn[0].axes if axes.get_title()]
    order = np.argsort(-scores).tolist()
    assert [int(a.get_title().split("\n")[0]) for a in titled] == order[:10] + order[10:][::-1]
    for axes in titled:
        i = int(axes.get_title().split("\n")[0])
        np.testing.assert_allclose(axes.images[0].get_array().ravel(), images[i] / 255, rtol=1e-6)
        assert axes.get_title().endswith("!") == bool(flags[i])


REFUSED = {
    "none.png": "[Errno 2] No such file or directory: '{dir}/none.png'",
    "several.npz": "{dir}/several.npz cannot be read: too many values to unpack (expected 1)",
    "damaged.npz": "{dir}/damaged.npz cannot be read: File is not a zip file",
    "none.npy": "{dir}/none.npy cannot be read: [Errno 2] No such file or directory: '{dir}/none.npy'",
    "other.npy": "{dir}/other.npy holds images of 25 pixels, not 16",
    "text.txt": "{dir}/text.txt has no picture of 4 x 4 pixels",
    "empty": "{dir}/empty has no picture of 4 x 4 pixels",
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line_and_status_2(model, tmp_path, capfd, name):
    np.save(tmp_path / "other.npy", np.zeros((3, 5, 5), np.uint8))
    (tmp_path / "text.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04, cut")
    np.savez(tmp_path / "several.npz", x=np.zeros((3, 4, 4)), y=np.zeros((3, 4, 4)))
    before = files(tmp_path)
    job = [tmp_path / name, "--trained", model[0], "--data_dir", model[1]]
    job += ["--logdir", tmp_path / "a"]
    assert typed(*job, module="anomaly") == 2
    said = REFUSED[name].format(dir=tmp_path)
    assert capfd.readouterr().err == f"python -m beyond.anomaly: error: {said}\n"
    assert files(tmp_path) == before


def test_other_data_than_the_runs_and_no_run(model, small_dir, tmp_path, capfd):
    np.save(tmp_path / "images.npy", np.zeros((3, 4, 4), np.uint8))
    job = [tmp_path / "images.npy", "--logdir", tmp_path / "a", "--trained"]
    for path in small_dir.glob("t10k*labels*"):  # the training images are others by one bit
        path.write_bytes(path.read_bytes())
    assert typed(*job, tmp_path / "nothing", "--data_dir", model[1], module="anomaly") == 2
    said = f"{tmp_path / 'nothing'} has no trained network: see python autoencoder.py\n"
    assert said in capfd.readouterr().err
    made = ae.read_data_sets(model[1])
    other = made.train.pixels.copy()
    other[0, 0] ^= 1
    everything = np.concatenate([made.validation.pixels, other])
    np.savez(tmp_path / "set.npz", x_train=everything, x_test=made.test.pixels)
    assert typed(*job, model[0], "--data_dir", tmp_path / "set.npz", module="anomaly") == 2
    assert re.search(
        "has another run: images [0-9]+, not [0-9]+; use another logdir\n$",
        capfd.readouterr().err,
    )
