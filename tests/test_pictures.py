"""beyond.pictures and beyond.screen, on pictures made with Pillow, against arrays made with NumPy."""

import argparse
import csv
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import sklearn.decomposition
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

import autoencoder as ae
from beyond import anomaly, pictures, screen, synthetic
from beyond.common import load_run, new_path
from conftest import SMALL, files, typed

RS = np.random.RandomState(0)
GREY = RS.randint(0, 256, (6, 6), np.uint8)
ALPHA = RS.randint(0, 256, (6, 6), np.uint8)
COLOUR = RS.randint(0, 256, (6, 6, 3), np.uint8)
DEEP = RS.randint(0, 65536, (6, 6), np.uint16)
INDEX = RS.randint(0, 4, (6, 6), np.uint8)  # into PALETTE
PALETTE = RS.randint(0, 256, (4, 3), np.uint8)
LUMINANCE = [0.299, 0.587, 0.114]  # ITU-R BT.601
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: to turn right
ANIMATED = {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]}
CLEAR = int(DEEP[0, 0])  # a grey that is transparent
INDEXED = Image.fromarray(INDEX).convert("P")
INDEXED.putpalette(PALETTE.tobytes())
SIZE = 8

# file: picture, what Pillow needs to save it, its greys, what is not transparent
PICTURES = {
    "grey.png": (Image.fromarray(GREY), {}, GREY, 1),
    "animation.gif": (Image.fromarray(GREY), ANIMATED, GREY, 1),
    "turned.png": (Image.fromarray(np.rot90(GREY).copy()), {"exif": TURNED}, GREY, 1),
    "damaged exif.png": (Image.fromarray(GREY), {"exif": b"Exif\0\0no TIFF"}, GREY, 1),
    "colour.png": (Image.fromarray(COLOUR), {}, COLOUR @ LUMINANCE, 1),
    "palette.gif": (INDEXED, {"transparency": 2}, PALETTE[INDEX] @ LUMINANCE, INDEX != 2),
    "alpha.png": (Image.fromarray(np.dstack([GREY, ALPHA])), {}, GREY, ALPHA / 255),
    "16 bits.png": (Image.fromarray(DEEP), {}, DEEP / 257, 1),
    "clear.png": (Image.fromarray(DEEP), {"transparency": CLEAR}, DEEP / 257, DEEP != CLEAR),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_the_right_size_stay_as_they_are(tmp_path, name):
    picture, options, greys, opaque = PICTURES[name]
    picture.save(tmp_path / name, **options)
    image, _ = pictures.read_picture(tmp_path / name, 6)
    inverted, _ = pictures.read_picture(tmp_path / name, 6, invert=True)
    tolerance = 0 if name in ("grey.png", "animation.gif", "turned.png") else 1
    np.testing.assert_allclose(image, greys * opaque, atol=tolerance)
    np.testing.assert_allclose(inverted, (255 - greys) * opaque, atol=tolerance)


@pytest.mark.parametrize("invert", [False, True])
def test_other_sizes_are_fitted_without_distortion_and_padded_with_black(tmp_path, invert):
    picture = Image.new("L", (100, 25), 0 if invert else 255)
    picture.putpixel((50, 12), 128)  # pictures of one grey are left out
    picture.save(tmp_path / "wide.png")
    expected = np.zeros((8, 8))
    expected[3:5] = 255
    image, _ = pictures.read_picture(tmp_path / "wide.png", 8, invert)
    np.testing.assert_array_equal(image, expected)


def test_centering_frames_ink_on_uneven_paper_as_mnist(tmp_path):
    picture = Image.new("L", (400, 300))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((20, 30, 40, 180), 255)  # an L: its centre of mass is not
    draw.rectangle((20, 160, 120, 180), 255)  # in the middle of its box
    paper = np.linspace(120, 220, 400) + RS.normal(0, 5, (300, 400))
    photograph = np.where(np.asarray(picture) > 0, 40, paper)
    Image.fromarray(photograph.astype(np.uint8)).save(tmp_path / "L.png")
    image, _ = pictures.read_picture(tmp_path / "L.png", 28, invert=True, center=True)
    rows, columns = np.nonzero(image > 127)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == pytest.approx((20, 20 * 100 / 150), abs=1)
    middle = np.average(np.indices((28, 28)).reshape(2, -1), axis=1, weights=image.ravel())
    assert middle == pytest.approx((13.5, 13.5), abs=0.6)


def save_squares(folder, n, brightest=255, paper=0):
    """Saves n pictures, each a square of another grey. Returns the images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.full((n, SIZE, SIZE), paper, np.uint8)
    for i, image in enumerate(images):
        image[i % 3 : i % 3 + 4, 2:6] = brightest - 3 * i
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return images


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A folder of 25 circles and 25 squares, what they are, and the .npz file made of it."""
    folder = tmp_path_factory.mktemp("pictures")
    squares = save_squares(folder / "squares", 25)
    circles = save_squares(folder / "circles" / "deep down", 25, paper=7)
    output = tmp_path_factory.mktemp("images") / "new" / "shapes.npz"
    assert typed(folder, output, "--size", SIZE, module="pictures") == 0
    return folder, circles, squares, output


def test_each_picture_is_in_the_training_or_the_test_images_once(classes):
    _, circles, squares, output = classes
    with np.load(output, allow_pickle=False) as arrays:
        assert arrays["class_names"].tolist() == ["circles", "squares"]
        flags = [arrays[name].tolist() for name in ("invert", "center")]
        assert flags == [False, False]
        train, test = arrays["x_train"], arrays["x_test"]
        assert (len(train), len(test), train.dtype) == (40, 10, np.uint8)
        assert set(arrays["y_test"]) == {0, 1}  # not the last ones of the folder
        images = np.concatenate([train, test])
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]])
    for label, saved in enumerate((circles, squares)):
        found = sorted(image.tobytes() for image in images[labels == label])
        assert found == sorted(image.tobytes() for image in saved)
    preview = np.asarray(Image.open(output.with_suffix(".png")).convert("L"))
    assert np.isin(preview, np.arange(183, 255, 3)).sum() > 1000  # the greys of the squares


def test_what_is_skipped_left_out_or_read_in_part_is_named(tmp_path, capfd):
    folder = tmp_path / "pictures"
    for paper, name in enumerate(("a", "b", ".hidden", "@eaDir", "a/.ipynb_checkpoints")):
        save_squares(folder / name, 10, paper=paper)
    Image.fromarray(GREY).save(folder / "b" / "scan.tiff", **ANIMATED)
    (folder / "photograph.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    os.mkfifo(folder / "pipe.png")
    Image.fromarray(RS.randint(0, 256, (30, 30), np.uint8)).save(folder / "cut.jpg")
    os.truncate(folder / "cut.jpg", 700)
    Image.new("L", (9, 9), 30).save(folder / "b" / "grey.png")
    for name in ("b/1.txt", "b/2.txt", "b/notes"):
        (folder / name).write_text("3")
    shutil.copytree(folder / "a", folder / "Ground_Truth")
    shutil.copy(folder / "a" / "00.png", folder / "a" / "00_GT.png")
    shutil.copy(folder / "a" / "01.png", folder / "b" / "again.png")
    clear = Image.fromarray(np.dstack([COLOUR, np.zeros_like(GREY)]))
    clear.save(folder / "b" / "clear.png")
    Image.fromarray(DEEP >> 4).save(folder / "b" / "12 bits.png")
    assert typed(folder, tmp_path / "new.npz", "--invert", module="pictures") == 0
    out, err = capfd.readouterr()
    assert err == ""
    left_out = set(re.findall(r"^left out: (.+?): .+$", out, re.MULTILINE))
    others = {"files .txt (2), such as b/1.txt", "files without a suffix (1), such as b/notes"}
    others |= {"files .heic (1), such as photograph.HEIC", "masks (11), by their names or folders"}
    assert left_out == others | {"pipe.png", "cut.jpg", "b/grey.png"}
    assert "files or folders (4)\n" in out and "left out: copies of other pictures (1)\n" in out
    formats = (
        "21 PNG; 1 PNG: dark, less than 64 of 255; 1 PNG: transparent everywhere, which is ignored"
    )
    assert f"pictures: 24 ({formats}; 1 TIFF: first of several pages or frames)\n" in out
    with np.load(tmp_path / "new.npz") as arrays:
        assert len(arrays["x_train"]) + len(arrays["x_test"]) == 23


def test_pictures_outside_of_subfolders_are_a_class_of_their_own():
    files = [Path("x.png"), Path("b/y.png"), Path("b/deep down/z.png")]
    labels, names = pictures.labels_of(files)
    assert labels.tolist() == [0, 1, 1] and names.tolist() == [".", "b"]
    assert pictures.labels_of(files[:1]) == (None, None)


def test_several_shots_of_one_part_stay_together(tmp_path, capfd):
    parts = RS.randint(0, 100, (60, SIZE, SIZE))
    for i in range(300):
        shot = parts[i // 5] + RS.randint(0, 9, (SIZE, SIZE))
        Image.fromarray(shot.astype(np.uint8)).save(tmp_path / f"{i:03}.png")
    output = tmp_path.with_name("my shots.npz")
    assert typed(tmp_path, output, "--size", SIZE, module="pictures") == 0
    out = capfd.readouterr().out
    assert "300 pictures are nearly like others" in out
    data = ae.read_data_sets(output)
    sides = []
    for images in (data.train.images, data.validation.images, data.test.images):
        distances = abs(images[:, None] * 255 - 4 - parts.reshape(60, -1)).sum(axis=2)
        sides.append({*distances.argmin(axis=1)})
    assert not sides[2] & (sides[0] | sides[1]) and len(sides[0] & sides[1]) <= 1
    assert len(sides[2]) == 12 and len(data.test.images) == 60
    command = shlex.split(re.search("^train: python autoencoder.py (.*)$", out, re.MULTILINE)[1])
    assert command[-4:] == ["--data_dir", str(output), "--logdir", "logs/my shots-run"]


def save_part(path, angle=0, scale=1.0, shift=(0, 0), light=(1, 0), scratch=0):
    """Saves a picture of a part with a hole and two arms, which is turned and lit from the right."""
    size = 192
    part = Image.new("L", (size, size))
    draw = ImageDraw.Draw(part)
    draw.ellipse((50, 60, 120, 130), 150)
    draw.ellipse((70, 80, 95, 105), 40)
    draw.rectangle((100, 85, 165, 105), 180)
    draw.rectangle((80, 40, 95, 70), 120)
    draw.line((120, 90, 120 + scratch, 100), 0, 4 if scratch else 0)
    turned = part.rotate(angle, Image.Resampling.BICUBIC, translate=shift)
    smaller = turned.resize([round(scale * size)] * 2)
    picture = Image.new("L", (size, size))
    picture.paste(smaller, (10, 0))
    lit = (np.asarray(picture) + 20.0) * np.linspace(light[0] - light[1], light[0] + light[1], size)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.uint8(lit + RS.uniform(0, 3, lit.shape))).save(path)


def test_aligned_pictures_show_the_object_alike(tmp_path, capfd):
    for i in range(15):
        pose = RS.uniform(-10, 10), RS.uniform(0.85, 1), tuple(RS.randint(-8, 8, 2))
        save_part(tmp_path / "parts" / f"{i}.png", *pose, light=RS.uniform([0.8, -0.2], [1.1, 0.2]))
    save_part(tmp_path / "parts" / "0_mask.png")
    output = tmp_path / "parts.npz"
    assert typed(tmp_path / "parts", output, "--size", 32, "--align", module="pictures") == 0
    assert capfd.readouterr().out.count("masks (1)") == 1
    data = ae.read_data_sets(output)
    images = np.concatenate([data.train.images, data.validation.images, data.test.images])
    assert images.std(axis=0).max() < 0.08 and images.mean(axis=0).max() > 0.7
    # screen does the same to new pictures: one upside down and dark, and one with a scratch.
    save_part(tmp_path / "new" / "dark.png", 180, 0.7, light=(0.5, 0))
    save_part(tmp_path / "new" / "scratch.png", 7, scratch=30)
    Image.fromarray(RS.randint(0, 256, (99, 99), np.uint8)).save(tmp_path / "new" / "noise.png")
    capfd.readouterr()
    found, *names = screen.read_images(tmp_path / "new", output, 32**2, False, False, False)
    assert names == [["dark.png", "scratch.png"], ["noise.png"]]
    assert "noise.png: no object in front of a background is found" in capfd.readouterr().out
    difference = abs(found - images.mean(axis=0)).max(axis=1)
    assert difference[0] < 0.15 and difference[1] > 0.3
    where = np.unravel_index(abs(found[1] - images.mean(axis=0)).argmax(), (32, 32))
    assert where[0] in range(10, 22) and where[1] in range(16, 28)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    (tmp_path / "old").write_text("old")
    full = pytest.raises(ae.AutoEncoderError, match="old cannot be written: .*No space left")
    with full, new_path(tmp_path / "old") as path:
        path.write_text("new")
        Path("/dev/full").write_text("new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
    with new_path(tmp_path / "old") as path:
        path.write_text("new")
        assert (tmp_path / "old").read_text() == "old"
    assert [p.read_text() for p in tmp_path.iterdir()] == ["new"]


@pytest.fixture(scope="module")
def logdir(classes, tmp_path_factory):
    """A run on the .npz file of `classes`."""
    logdir = tmp_path_factory.mktemp("logs") / "run"
    command = ["--data_dir", classes[-1], "--logdir", logdir, *SMALL, "--epoch_n", 1]
    assert typed(*command, "--init", "he", "--Z_activation", "linear") == 0
    return logdir


def screened(path, logdir, *arguments, folder="screened"):
    """Screens pictures. Returns the rows of scores.csv, and the scores."""
    assert typed(path, "--logdir", logdir, *arguments, module="screen") == 0
    with open(logdir / folder / "scores.csv", newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]][:3] == ["file", "flag", "score"]
    scored = [float(row["largest"]) for row in rows if row["largest"]]
    return rows, np.array(scored)


def test_screening_a_folder(classes, logdir, tmp_path, capfd):
    folder = tmp_path / "pictures"
    images = save_squares(folder / "sub, folder", 24, brightest=244)
    Image.new("L", (9, 9)).save(folder / "empty.png")
    (folder / "no picture.png").touch()
    rows, scores = screened(folder, logdir)
    for name in ("no picture.png", "empty.png"):
        assert rows.pop() == dict.fromkeys(rows[0]) | {"file": name, "flag": "not scored"}
    out = capfd.readouterr().out
    assert [row["file"] for row in rows] == [f"sub, folder/{i:02}.png" for i in range(24)]
    threshold = float(re.search(r"by largest above ([0-9.]+),", out)[1])
    assert 0 < np.sum(scores > threshold) < 24
    assert [row["flag"] for row in rows] == [str(int(score > threshold)) for score in scores]
    assert (logdir / "screened" / "screened.png").exists()
    # The same images in an array, and the negative of one, have the same scores.
    np.save(tmp_path / "images.npy", images)
    _, of_array = screened(tmp_path / "images.npy", logdir)
    np.testing.assert_allclose(of_array, scores, atol=1e-3)
    Image.fromarray(255 - images[6]).save(tmp_path / "negative.png")
    # As if beyond.pictures had been called with --invert.
    with np.load(classes[-1]) as arrays:
        np.savez(tmp_path / "inverted.npz", **dict(arrays) | {"invert": True})
    _, score = screened(tmp_path / "negative.png", logdir, "--data_dir", tmp_path / "inverted.npz")
    np.testing.assert_allclose(score, scores[6], atol=1e-3)


def test_the_picture_shows_where_an_image_is_abnormal(model):
    with load_run(model[0]) as (sess, net, data):
        X = data.test.images[:3]
        G = sess.run(net.G, {net.X: X})
        detector = anomaly.make_detector(sess, net, data)
        axes = screen.plot_screened(sess, net, X, detector, ["a", "b", "c"]).axes
        squares = (sess.run(net.G, {net.X: data.train.images}) - data.train.images) ** 2
    shown = [np.asarray(a.images[0].get_array()).ravel() for a in axes]
    usual = squares.mean(axis=0) + squares.mean()
    difference = abs(G - X) / usual**0.5
    np.testing.assert_allclose(
        shown, [*X, *G, *(difference / difference.max(axis=1)[:, None])], atol=1e-6
    )


def test_screening_tells_how_abnormal_each_subfolder_is(logdir, tmp_path, capfd):
    save_squares(tmp_path / "pictures" / "Good_light", 5)
    save_squares(tmp_path / "pictures" / "良品", 4, brightest=247)
    save_squares(tmp_path / "pictures" / "不良", 7, paper=99)
    output = tmp_path / "new" / "output"
    options = ["--rate", 0.2, "--show", 3, "--output", output]
    rows, scores = screened(tmp_path / "pictures", logdir, *options, folder=output)
    out = capfd.readouterr().out
    flags = np.array([int(row["flag"]) for row in rows])
    is_bright = np.array([row["file"].startswith("不良") for row in rows])
    median = np.median(scores[is_bright])
    words = " ".join(out.split())
    assert "normal: Good_light, 良品" in out
    assert f" 不良 7 {flags[is_bright].mean():.1%} {median:.1f} " in words
    for name in rows[0].keys() - {"file", "flag", "score"}:
        area = roc_auc_score(is_bright, [float(row[name]) for row in rows])
        assert f" {name} {area:.3f} {area:.3f} " in words
    table = re.findall(r"^.* [01] +((?:Good_light|良品|不良)/.*)$", out, re.MULTILINE)
    assert table == [rows[i]["file"] for i in np.argsort(-scores)[:3]]


def test_a_plain_method_flags_as_the_network_does(classes, logdir, tmp_path, capfd):
    save_squares(tmp_path / "pictures", 9, paper=30)
    with np.load(classes[-1]) as arrays:
        images = arrays["x_train"].reshape(40, -1) / 255
    train, validation = images[3:], images[:3]  # a twelfth
    pixels = np.stack(
        [np.asarray(Image.open(p)).ravel() for p in sorted((tmp_path / "pictures").iterdir())]
    )
    logs = []
    for X in (validation, pixels / 255):
        distances = np.linalg.norm(X[:, None] - train, axis=2)
        logs.append(np.log(np.sort(distances)[:, :5].mean(axis=1) + 1e-4))
    median = np.median(logs[0])
    above = logs[0][logs[0] >= median] - median
    sd = max(0.05, (above @ above / len(above)) ** 0.5)
    rows, _ = screened(tmp_path / "pictures", logdir, "--score", "Euclidean", "--rate", 0.4)
    found = [float(row["Euclidean"]) for row in rows]
    np.testing.assert_allclose(found, (logs[1] - median) / sd, rtol=1e-3, atol=2e-3)
    threshold = (np.sort(logs[0])[1] - median) / sd + 0.001  # one of three is above
    assert [int(row["flag"]) for row in rows] == list((found > threshold).astype(int))
    out = capfd.readouterr().out
    assert "flagged: 9 of 9, by Euclidean above" in out
    assert [row["score"] for row in rows] == [row["Euclidean"] for row in rows]
    greys = [f"{X.mean():.2f} ± {X.std(axis=1).mean():.2f}" for X in (pixels / 255, validation)]
    assert f"Mean grey and contrast: {greys[0]}, in training {greys[1]}." in out
    assert re.search(r"^ +Euclidean +9 +9$", out, re.MULTILINE)
    pca = sklearn.decomposition.PCA(3).fit(train)
    G = np.clip(pca.inverse_transform(pca.transform(validation)), 0, 1)
    by_pca, by_mean = [50 * ((g - validation) ** 2).sum() / 3 for g in (G, train.mean(axis=0))]
    assert f", PCA with 3 components {by_pca:.1f}, mean picture {by_mean:.1f}\n" in out
    assert "the network is hardly better than the mean picture" in out  # after one epoch


def test_generated_pictures_are_in_folders_by_their_defects(tmp_path, monkeypatch):
    counts = {"train/good": 3, "test/good": 1, "test/scratch": 1, "test/hole": 1, "test/chip": 1}
    monkeypatch.setattr(synthetic, "COUNTS", counts)
    for kind in ("plates", "digits"):
        synthetic.main(argparse.Namespace(kind=kind, folder=tmp_path / kind))
    assert {name: len(list((tmp_path / "plates" / name).iterdir())) for name in counts} == counts
    assert len(list((tmp_path / "digits").iterdir())) == 200
    metal = {}  # pixels that are as bright as the plate
    for kind in ("good", "scratch", "hole", "chip", "stain"):
        picture = np.asarray(synthetic.draw_plate(np.random.default_rng(0), kind))
        metal[kind] = np.sum(picture > 0.75 * np.median(picture[picture > 100]))
    # A scratch is 60 x 3 pixels, a chip half a circle. A hole, of 16^2 pi, is missing.
    lost = {kind: metal["good"] - n for kind, n in metal.items()}
    assert 100 < lost["scratch"] < 300 and 700 < -lost["hole"] < 1000
    assert 100 < lost["chip"] < 400 and 60 < lost["stain"] < 400


def test_bad_input_is_refused(classes, logdir, tmp_path, capfd):
    mixed = tmp_path / "mixed"
    save_squares(mixed, 1)
    save_squares(mixed / "sub", 14, paper=50)
    (tmp_path / "old.npz").touch()
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "large.npy", np.zeros((3, 5, 5), np.uint8))
    cases = [
        ("pictures", [classes[0], tmp_path / "old.npz"], "old.npz exists already"),
        ("pictures", [mixed / "sub", tmp_path / "new.npz"], "needs at least 15"),
        ("pictures", [tmp_path / "empty", tmp_path / "new.npz"], "no picture that can be used"),
        ("screen", [tmp_path / "large.npy", "--logdir", logdir], "25 pixels, not 64"),
        ("screen", [mixed, "--logdir", tmp_path / "none"], "no trained network"),
        ("screen", [mixed / "x", "--logdir", logdir, "--output", tmp_path / "o"], "does not exist"),
        ("screen", [mixed, "--logdir", logdir, "--output", mixed / "sub" / "o"], "is inside"),
        ("screen", [mixed, "--logdir", logdir, "--rate", 2], "must be between 0 and 1, not 2"),
        ("screen", [mixed, "--logdir", logdir, "--invert"], "was made without --invert"),
    ]
    before = files(tmp_path)
    for module, arguments, phrase in cases:
        assert typed(*arguments, module=module) == 2
        assert phrase in capfd.readouterr().err
    assert files(tmp_path) == before
