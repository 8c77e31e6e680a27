"""What the network cannot restore, or restores from a strange Z, is abnormal."""

import csv
import gzip
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, files, idx, png, shell, tried, write_kinds
from scale import PEAK


def ordered_pairs(normal, abnormal):
    """The area under the ROC curve, as the share of pairs in the right order."""
    return np.mean([(a > n) + (a == n) / 2 for a in abnormal for n in normal])


@pytest.mark.parametrize("levels", [3, 20, 10**6])  # many ties, some, none
def test_auroc_is_the_share_of_ordered_pairs(levels):
    rs = np.random.RandomState(0)
    normal, abnormal = rs.randint(0, levels, 70), rs.randint(levels // 4, 2 * levels, 50)
    assert ae.auroc(normal, abnormal) == pytest.approx(ordered_pairs(normal, abnormal), abs=1e-12)
    assert ae.auroc(np.array([1, 2]), np.array([3, 4])) == 1
    assert ae.auroc(np.array([3, 4]), np.array([1, 2])) == 0
    assert ae.auroc(np.array([5, 5]), np.array([5])) == 0.5


def test_the_threshold_by_hand():
    scores = np.random.RandomState(0).permutation(np.arange(1.0, 101))
    assert ae.fit_threshold(scores) == 95  # 96 to 100 exceed it
    assert ae.fit_threshold(scores, 0.1) == 90
    assert ae.fit_threshold(np.array([2.0, 7.0]), 0.01) == 7
    assert ae.fit_threshold(np.full(9, 3.0)) == 3
    ties = np.array([1.0] * 90 + [2.0] * 10)
    assert ae.fit_threshold(ties, 0.05) == 2  # at 1, ten of a hundred would exceed it


@pytest.mark.parametrize(
    "scores, rate, words",
    [
        ([], 0.05, "a threshold needs scores"),
        ([1, np.nan], 0.05, "a threshold needs scores, and none of them NaN"),
        ([1, 2], 0, "false_positive_rate must be a number between 0 and 1, not 0"),
        ([1, 2], 1.0, "false_positive_rate must be a number between 0 and 1, not 1.0"),
        ([1, 2], "x", "false_positive_rate must be a number between 0 and 1, not 'x'"),
    ],
)
def test_a_threshold_that_cannot_be(scores, rate, words):
    with pytest.raises(ae.AutoEncoderError, match=words):
        ae.fit_threshold(np.array(scores), rate)


def test_scores_are_plain_numpys(small_hp):
    rs = np.random.RandomState(0)
    pixels, codes = rs.randint(0, 256, (2345, 16), np.uint8), rs.rand(50, 3).astype(np.float32)
    X = pixels * np.float32(1 / 255)
    g = ae.build(small_hp)
    with ae.start(g) as sess:
        scores = ae.anomaly_score(sess, g, pixels, codes)
        of_floats = ae.anomaly_score(sess, g, X, codes)
        Z, G = sess.run([g.Z, g.G], {g.X: X})
    error = ((G.astype(np.float64) - X) ** 2).sum(axis=1) / 2
    squares = ((Z[:, None].astype(np.float64) - codes) ** 2).sum(axis=2)
    distance = np.sort(squares, axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(scores["error"], error, rtol=1e-5)
    np.testing.assert_allclose(scores["error x distance"], error * (1 + distance), rtol=1e-4)
    for name in ae.SCORES:
        np.testing.assert_array_equal(scores[name], of_floats[name])


def test_scores_take_no_more_memory_for_more_images():
    code = PEAK + (
        "import numpy as np, autoencoder as ae\n"
        "g = ae.build(ae.HParams())\n"
        "row, codes = np.arange(784, dtype=np.uint8), np.zeros((5000, 20), np.float32)\n"
        "with ae.start(g) as sess:\n"
        "    for n in (10_000, 110_000):\n"
        "        ae.anomaly_score(sess, g, np.broadcast_to(row, (n, 784)), codes)\n"
        "        print('MiB:', peak())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    few, many = map(float, re.findall("MiB: ([0-9.]+)", run.stdout))
    assert many - few < 30  # 100,000 images as float32 would be 299, the scores alone are 1


def test_only_normal_images_are_learnt_from(small_hp, small_dir, monkeypatch):
    seen, train = [], ae.train

    def watched(sess, g, data):
        seen.append((set(data.train.labels.tolist()), set(data.validation.labels.tolist())))
        return train(sess, g, data)

    monkeypatch.setattr(ae, "train", watched)
    monkeypatch.setattr(ae, "compiled_steps", ae.fed_steps)  # twenty compilations take long
    data = ae.read_data_sets(small_dir)
    rare = data._replace(validation=ae.DataSet(*(array[:9] for array in data.validation)))  # no 9
    hp = ae.dataclasses.replace(small_hp, batch_size=10)
    for data, is_normal in ((rare, True), (data, False)):
        seen.clear()
        for digit, (what, scores) in enumerate(ae.one_label(data, hp, is_normal)):
            normal = {digit} if is_normal else set(range(10)) - {digit}
            assert what == f"label {digit}"
            assert seen[digit] == (normal, normal)
            expected = np.isin(data.test.labels, list(normal)).sum()
            assert {name: tuple(map(len, s)) for name, s in scores.items()} == {
                name: (expected, 100 - expected) for name in ae.SCORES
            }


def test_what_is_no_digit(mnist):
    abnormal = ae.no_digits(mnist.test)
    for images in abnormal.values():
        assert images.dtype == np.uint8 and images.shape[1] == 784
    noise, grey, inverted, turned = abnormal.values()
    assert np.bincount(noise.ravel(), minlength=256).std() < 0.05 * noise.size / 256
    assert sorted({tuple(set(row)) for row in grey}) == [(level,) for level in range(256)]
    assert np.array_equal(inverted.astype(int) + mnist.test.pixels, np.full((10000, 784), 255))
    first, turned = mnist.test.pixels[0].reshape(28, 28), turned[0].reshape(28, 28)
    assert all(turned[27 - x, y] == first[y, x] for x in range(28) for y in range(28))


@pytest.mark.parametrize("experiment", ae.EXPERIMENTS)
def test_experiments_in_the_shell(small_dir, tmp_path, monkeypatch, capfd, experiment):
    if experiment != "no-digits":  # ten compilations take long
        monkeypatch.setattr(ae, "compiled_steps", ae.fed_steps)
    size = ["--X_n", 16, "--enc_n", 8, 6, "--Z_n", 3, "--dec_n", 6, 8, "--epoch_n", 1]
    folders = ["--data_dir", small_dir, "--logdir", tmp_path / "logs"]
    seeds = [0, 1] if experiment == "no-digits" else [0]  # the others train ten networks for each
    command = ["anomaly", "--experiment", experiment, "--seed", *seeds, "--batch_size", 10]
    assert ae.main(list(map(str, [*command, *size, *folders]))) == 0
    out, err = capfd.readouterr()
    assert err == ""
    *table, error, combined, picture = out.splitlines()
    rows = [line.rsplit(maxsplit=2) for line in table[-(4 if experiment == "no-digits" else 10) :]]
    for column, line, name in ((1, error, "error"), (2, combined, "error x distance")):
        mean = re.fullmatch(rf"mean AUROC: (0\.\d{{4}}) \({name}\)", line)[1]
        assert float(mean) == pytest.approx(np.mean([float(row[column]) for row in rows]), abs=6e-4)
    for seed in seeds:
        assert out.count(f"seed {seed}, ") == len(rows)
    assert picture == f"ROC curves: {tmp_path / 'logs' / experiment}.png"


def test_other_images_are_abnormal_too(small_dir, tmp_path):
    for name in ("other.npy", "second.npy"):
        np.save(tmp_path / name, np.zeros((7, 4, 4), np.uint8))
    size = ["--X_n", 16, "--enc_n", 8, 6, "--Z_n", 3, "--dec_n", 6, 8, "--epoch_n", 1]
    folders = ["--data_dir", small_dir, "--logdir", tmp_path / "logs"]
    run = shell("anomaly", "--experiment", "no-digits", "--other", tmp_path / "other.npy",
                tmp_path / "second.npy", *size, *folders)  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert re.search(r"^ *other: .*other.npy +[01]\.\d{3} +[01]\.\d{3}$", run.stdout, re.M)
    assert re.search(r"^ *other: .*second.npy +[01]\.\d{3} +[01]\.\d{3}$", run.stdout, re.M)


@pytest.mark.slow
def test_zeros_are_told_from_other_digits(mnist):
    what, scores = next(ae.one_label(mnist, ae.RECIPES["tuned"], True))
    assert what == "label 0"
    areas = {name: ae.auroc(*scores[name]) for name in ae.SCORES}
    assert areas["error"] > 0.98 and areas["error x distance"] > 0.99


# ---- A user's own images ----


def scores_of(path):
    head, *rows = path.read_text().splitlines()
    if head == "index,score,flag,file":
        names = [row.split(",")[3] for row in rows]
        assert names == sorted(names) and len(names[0]) > len(".png")
    else:
        assert head == "index,score,flag"
    table = np.array([row.split(",")[:3] for row in rows], float)
    assert np.array_equal(table[:, 0], np.arange(len(rows)))
    return table[:, 1], table[:, 2]


def test_every_kind_of_file_has_the_same_scores(model, tmp_path, capsys):
    logdir, data = model
    images = np.random.RandomState(1).randint(0, 256, (25, 4, 4), np.uint8)
    scores = {}
    for path in write_kinds(tmp_path / "kinds", images):
        output = tmp_path / "scores.csv"
        assert ae.main(["detect", str(path), "--logdir", str(logdir), "--output", str(output)]) == 0
        printed = capsys.readouterr().out
        values = "0 to 1" if path.name == "scaled.npy" else "0 to 255"
        assert f"\nimages: 25, values {values}\n" in printed
        scores[path.name], flags = scores_of(output)
        threshold = float(re.search(r"^threshold: ([0-9.e+-]+), ", printed, re.M)[1])
        clear = np.abs(scores[path.name] / threshold - 1) > 1e-3  # it is printed to four digits
        assert np.array_equal(flags[clear], (scores[path.name] > threshold)[clear])
        assert clear.sum() > 20
        assert f"\nflagged: {int(flags.sum())} of 25\n" in printed
        assert path.is_dir() == ("file" in output.read_text().splitlines()[0])
        if path.is_dir():
            assert f"{scores[path.name].argmax():03d}.png" in printed
    assert len(scores) == 11
    for found in scores.values():
        np.testing.assert_allclose(found, scores["bytes.npy"], rtol=1e-4)
    assert (tmp_path / "scores.detect.png").read_bytes().startswith(b"\x89PNG")


def test_one_png_is_one_image(model, tmp_path):
    logdir, _ = model
    png(tmp_path / "one.png", np.full((4, 4), 9, np.uint8))
    run = shell("detect", tmp_path / "one.png", "--logdir", logdir, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "\nmodel: " in run.stdout and ", Z_n 3, dec_n 6 8, enc_n 8 6, epoch_n 1\n" in run.stdout
    assert "\nimages: 1, values 0 to 255\n" in run.stdout
    assert len(scores_of(logdir / "scores.csv")[0]) == 1


def test_the_threshold_is_of_validation_images(model):
    logdir, data_dir = model
    data = ae.read_data_sets(data_dir)
    with ae.load_model(logdir) as (sess, g, detector):
        shares = []
        for part in (data.validation, data.test):
            scores, flags = ae.detect(sess, g, part.pixels, detector)
            assert np.array_equal(flags, scores > detector.threshold)
            shares.append(flags.mean())
        np.testing.assert_array_equal(
            detector.codes, sess.run(g.Z, {g.X: data.train.images[:10000]})
        )
    assert 0.05 - 1 / 27 < shares[0] <= 0.05 == detector.false_positive_rate  # to one image of 27
    assert shares[1] == detector.measured


def test_a_folder_of_other_things_too(model, tmp_path, capsys):
    logdir, _ = model
    folder, output = tmp_path / "pictures", tmp_path / "scores.csv"
    folder.mkdir()
    for i in range(15):
        png(folder / f"{i}, a comma.PNG", np.full((4, 4), 17 * i, np.uint8))
    for name in (".hidden.png", ".DS_Store", "readme.txt", "photo.jpg", "scores.detect.png"):
        (folder / name).write_bytes(b"none of ours")
    (folder / "folder.png").mkdir()
    assert ae.main(["detect", str(folder), "--logdir", str(logdir), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    left_out = "values 0 to 255; other files left out: 3"
    assert f"\nimages: 15, {left_out}\n" in printed
    with open(output, newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["index", "score", "flag", "file"]
    assert [row[3] for row in rows] == sorted(f"{i}, a comma.PNG" for i in range(15))
    assert int(re.search(r"^flagged: (\d+) of 15$", printed, re.M)[1]) == sum(
        row[2] == "1" for row in rows
    )


def test_the_least_abnormal_are_none_of_the_most(model, tmp_path, monkeypatch):
    logdir, _ = model
    drawn, images = [], np.random.RandomState(0).randint(0, 256, (13, 16), np.uint8)
    monkeypatch.setattr(
        ae, "plot_images", lambda titles, **rows: drawn.append((titles, rows)) or ae.Figure()
    )
    for n in (1, 10, 13):
        np.save(tmp_path / "images.npy", images[:n])
        assert ae.main(["detect", str(tmp_path / "images.npy"), "--logdir", str(logdir)]) == 0
        (titles, rows), scores = drawn[-1], scores_of(logdir / "scores.csv")[0]
        shown = {name: [int(t.split(":")[0]) for t in row] for name, row in titles.items()}
        order = np.argsort(-scores).tolist()
        least = {"least abnormal": order[10:][::-1]} if n > 10 else {}
        assert shown == {"most abnormal": order[:10]} | least
        for name, chosen in shown.items():
            np.testing.assert_allclose(rows[name], images[chosen] / 255, rtol=1e-6)


@pytest.mark.parametrize("what", ["model", "image", "device", "folder", "nothing"])
def test_output_overwrites_nothing_but_scores(model, tmp_path, capfd, what):
    logdir, _ = model
    png(tmp_path / "image.png", np.zeros((4, 4), np.uint8))
    output = {
        "model": logdir / "detector.npz",
        "image": tmp_path / "image.png",
        "device": "/dev/full",
        "folder": tmp_path,
        "nothing": "",
    }[what]
    before = files(tmp_path) | files(logdir)
    command = ["detect", str(tmp_path / "image.png"), "--logdir", str(logdir)]
    assert ae.main([*command, "--output", str(output)]) == 2
    assert capfd.readouterr().err == (
        f"autoencoder.py: error: {output or '.'} is there and holds no scores: "
        "choose another output\n"
    )
    assert files(tmp_path) | files(logdir) == before


def test_a_picture_of_the_users_own_is_kept(model, tmp_path, capfd):
    png(tmp_path / "image.png", np.zeros((4, 4), np.uint8))
    command = ["detect", str(tmp_path), "--logdir", str(model[0])]
    output = ["--output", str(tmp_path / "mine.csv")]
    for content in (b"precious", (tmp_path / "image.png").read_bytes()):
        (tmp_path / "mine.detect.png").write_bytes(content)
        before = files(tmp_path)
        assert ae.main([*command, *output]) == 2
        tried["bad inputs refused"] += 1
        assert "mine.detect.png is there and holds no picture of them: " in capfd.readouterr().err
        assert files(tmp_path) == before
    (tmp_path / "mine.detect.png").unlink()
    for _ in range(2):  # the second time, with the first one's files beside the images
        assert ae.main([*command, *output]) == 0
        assert "\nimages: 1, " in capfd.readouterr().out
    assert ae.main([*command, "--output", str(tmp_path / "scores.txt")]) == 2
    assert "output must be .csv, not " in capfd.readouterr().err


def test_a_score_is_the_same_alone_and_among_others(mnist, main_job):
    images = mnist.test.pixels[:300]
    with ae.load_model(main_job.logdir) as (sess, g, detector):
        together, _ = ae.detect(sess, g, images, detector)
        alone = [ae.detect(sess, g, images[i : i + 1], detector)[0][0] for i in range(300)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_a_single_image_without_its_one(model, tmp_path, capfd):
    np.save(tmp_path / "one.npy", np.full((4, 4), 9, np.uint8))
    assert ae.main(["detect", str(tmp_path / "one.npy"), "--logdir", str(model[0])]) == 0
    assert "\nimages: 1, " in capfd.readouterr().out


def test_output_through_a_symbolic_link(model, tmp_path):
    logdir, _ = model
    png(tmp_path / "image.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "link.csv").symlink_to(tmp_path / "scores.csv")
    command = ["detect", str(tmp_path / "image.png"), "--logdir", str(logdir)]
    for _ in range(2):  # the second time, over its own scores
        assert ae.main([*command, "--output", str(tmp_path / "link.csv")]) == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert len(scores_of(tmp_path / "scores.csv")[0]) == 1


IMAGES = np.zeros((3, 4, 4))
BAD = {
    "no-such.npy": (None, "cannot be read: No such file or directory"),
    "no-such": (None, "cannot be read: No such file or directory"),
    "empty.npy": (b"", "is not an array of numbers, or damaged"),
    "empty.gz": (b"", "is not an IDX file of images: it begins with nothing, not 00000803"),
    "text.txt": (b"hello", "is not an IDX file of images: it begins with 68656c6c, not 00000803"),
    "cut.gz": (gzip.compress(idx(IMAGES.astype(np.uint8)))[:-9], "is truncated or corrupt: "),
    "cut.npy": (IMAGES, "is not an array of numbers, or damaged"),
    "shape.npy": (np.zeros((3, 5, 5)), "is 3 x 5 x 5: it must hold images of 4 x 4"),
    "flat.npy": (np.zeros(16), "is 16: it must hold images of 4 x 4"),
    "none.npy": (np.zeros((0, 4, 4)), "is 0 x 4 x 4: it must hold images of 4 x 4"),
    "number.npy": (np.array(3.0), "is one number: it must hold images of 4 x 4"),
    "wide.npy": (np.zeros((3, 2, 8)), "is 3 x 2 x 8: it must hold images of 4 x 4"),
    "nan.npy": (IMAGES + np.nan, "holds values from nan to nan: they must be 0 to 1, or 0 to 255"),
    "high.npy": (IMAGES + 256, "holds values from 256 to 256: they must be 0 to 1, or 0 to 255"),
    "low.npy": (IMAGES - 0.5, "holds values from -0.5 to -0.5: they must be 0 to 1, or 0 to 255"),
    "complex.npy": (IMAGES + 1j, "holds complex128, not numbers"),
    "words.npy": (np.full((3, 16), "a"), "holds <U1, not numbers"),
    "objects.npy": (np.full((3, 16), None), "is not an array of numbers, or damaged"),
    "two.npz": ({"a": IMAGES, "b": IMAGES}, "must hold one array, not 2: a, b"),
    "not.npz": (b"PK\x03\x04 and no more", "is not an array of numbers, or damaged"),
    "not.png": (b"GIF89a", "cannot be read: not a PNG, or damaged"),
    "colour.png": (np.dstack([IMAGES[0], IMAGES[0], IMAGES[0] + 9]), "is in colour: it must be grey"),
    "size.png": (np.zeros((5, 5)), "is 5 x 5: it must hold images of 4 x 4"),
    "wide.png": (np.zeros((2, 8)), "is 2 x 8: it must hold images of 4 x 4"),
    "clear.png": (np.zeros((4, 4, 4)), "is transparent: it must be white or grey on black"),
    "folder": ("folder", "holds no PNG files"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_images_that_are_none_are_one_line(model, tmp_path, capfd, name):
    content, words = BAD[name]
    path, (logdir, _) = tmp_path / name, model
    if isinstance(content, str):
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif name.endswith(".png"):
        png(path, content.astype(np.uint8))
    elif content is not None:
        np.save(path, content, allow_pickle=name == "objects.npy")
        if name.startswith("cut"):
            path.write_bytes(path.read_bytes()[:-8])
    before = files(tmp_path) | files(logdir)
    assert ae.main(["detect", str(path), "--logdir", str(logdir)]) == 2
    tried["bad inputs refused"] += 1
    error = capfd.readouterr().err
    assert error.startswith(f"autoencoder.py: error: {path} {words}") and error.count("\n") == 1
    assert files(tmp_path) | files(logdir) == before


def test_without_a_model_detect_says_what_makes_one(tmp_path, capfd):
    assert ae.main(["detect", "x.png", "--logdir", str(tmp_path)]) == 2
    assert capfd.readouterr().err == (
        f"autoencoder.py: error: there is no trained model in {tmp_path}: "
        f"python autoencoder.py --recipe tuned --logdir {tmp_path} makes one\n"
    )


@pytest.mark.parametrize("name", ["detector.npz", "*.index", "*.data-*", "*.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_a_damaged_model_is_one_line(model, tmp_path, capfd, name, damage):
    logdir = tmp_path / "run"
    shutil.copytree(model[0], logdir)
    (path,) = logdir.rglob(name)
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    np.save(tmp_path / "images.npy", IMAGES)
    assert ae.main(["detect", str(tmp_path / "images.npy"), "--logdir", str(logdir)]) == 2
    error = capfd.readouterr().err
    assert error.startswith("autoencoder.py: error: ") and error.count("\n") == 1
    assert str(logdir) in error
