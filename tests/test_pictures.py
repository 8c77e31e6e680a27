"""beyond.pictures and beyond.screen, on pictures made with Pillow, against arrays made with NumPy."""

import argparse
import csv
import os
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from beyond import pictures, screen, synthetic
from beyond.common import load_run
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
SIZE = 8


ANIMATED = {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]}
CLEAR = int(DEEP[0, 0])  # a grey that is transparent


def palette_picture():
    picture = Image.fromarray(INDEX).convert("P")
    picture.putpalette(PALETTE.tobytes())
    return picture


# file: picture, what Pillow needs to save it, its greys, what is not transparent
PICTURES = {
    "grey.png": (Image.fromarray(GREY), {}, GREY, 1),
    "animation.gif": (Image.fromarray(GREY), ANIMATED, GREY, 1),
    "turned.png": (Image.fromarray(np.rot90(GREY).copy()), {"exif": TURNED}, GREY, 1),
    "damaged exif.png": (Image.fromarray(GREY), {"exif": b"Exif\0\0no TIFF"}, GREY, 1),
    "colour.png": (Image.fromarray(COLOUR), {}, COLOUR @ LUMINANCE, 1),
    "palette.gif": (palette_picture(), {"transparency": 2}, PALETTE[INDEX] @ LUMINANCE, INDEX != 2),
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
    assert image.dtype == np.uint8
    tolerance = 0 if name in ("grey.png", "animation.gif", "turned.png") else 1
    np.testing.assert_allclose(image, greys * opaque, atol=tolerance)
    np.testing.assert_allclose(inverted, (255 - greys) * opaque, atol=tolerance)


@pytest.mark.parametrize("invert", [False, True])
def test_other_sizes_are_fitted_without_distortion_and_padded_with_black(tmp_path, invert):
    Image.new("L", (100, 25), 0 if invert else 255).save(tmp_path / "wide.png")
    expected = np.zeros((8, 8))
    expected[3:5] = 255
    image, _ = pictures.read_picture(tmp_path / "wide.png", 8, invert)
    np.testing.assert_array_equal(image, expected)
    Image.new("L", (40, 3000), 0 if invert else 255).save(tmp_path / "long.png")
    image, _ = pictures.read_picture(tmp_path / "long.png", 8, invert)
    assert sorted(image.sum(axis=0)) == [0] * 7 + [8 * 255]


@pytest.mark.parametrize("name", ["stripes.png", "stripes.jpg"])
def test_large_pictures_are_averaged(tmp_path, name):
    stripes = np.zeros((1200, 1200), np.uint8)
    stripes[:, ::3] = 150  # so that every 150th column alone has no dark one
    stripes[:600] += 60
    Image.fromarray(stripes).save(tmp_path / name)
    image, _ = pictures.read_picture(tmp_path / name, 8)
    far = [0, 1, 6, 7]  # rows, from the edge in the middle, which the filter sharpens
    means = stripes.reshape(8, 150, 8, 150).mean(axis=(1, 3))
    np.testing.assert_allclose(image[far], means[far], atol=5)


@pytest.mark.parametrize("left, top", [(20, 30), (180, 90)])
def test_centering_frames_ink_on_uneven_paper_as_mnist(tmp_path, left, top):
    picture = Image.new("L", (400, 300))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top, left + 20, top + 150), 255)  # an L: its centre of mass is not
    draw.rectangle((left, top + 130, left + 100, top + 150), 255)  # in the middle of its box
    paper = np.linspace(120, 220, 400) + RS.normal(0, 5, (300, 400))
    photograph = np.where(np.asarray(picture) > 0, 40, paper)
    Image.fromarray(photograph.astype(np.uint8)).save(tmp_path / "L.png")
    image, _ = pictures.read_picture(tmp_path / "L.png", 28, invert=True, center=True)
    rows, columns = np.nonzero(image > 127)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == pytest.approx((20, 20 * 100 / 150), abs=1)
    middle = np.average(np.indices((28, 28)).reshape(2, -1), axis=1, weights=image.ravel())
    assert middle == pytest.approx((13.5, 13.5), abs=0.6)


@pytest.mark.parametrize("width", [2, 10])
def test_centering_thickens_a_thin_line_to_one_of_mnist(tmp_path, mnist, width):
    picture = Image.new("L", (60, 600), 230)
    ImageDraw.Draw(picture).rectangle((25, 40, 24 + width, 560), 20)
    picture.save(tmp_path / "1.png")
    image, _ = pictures.read_picture(tmp_path / "1.png", 28, invert=True, center=True)
    ones = mnist.test.images[mnist.test.labels == 1]
    low, high = np.percentile(ones.sum(axis=1), [5, 95])
    assert low < image.sum() / 255 < high


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
        flags = [arrays[name].tolist() for name in ("size", "invert", "center")]
        assert flags == [SIZE, False, False]
        train, test = arrays["x_train"], arrays["x_test"]
        assert (len(train), len(test), train.dtype) == (40, 10, np.uint8)
        assert set(arrays["y_test"]) == {0, 1}  # not the last ones of the folder
        images = np.concatenate([train, test])
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]])
    for label, saved in enumerate((circles, squares)):
        found = sorted(image.tobytes() for image in images[labels == label])
        assert found == sorted(image.tobytes() for image in saved)
    assert sorted(path.name for path in output.parent.iterdir()) == ["shapes.npz", "shapes.png"]
    preview = np.asarray(Image.open(output.with_suffix(".png")).convert("L"))
    assert np.isin(preview, np.arange(183, 255, 3)).sum() > 1000  # the greys of the squares


def test_what_is_skipped_left_out_or_read_in_part_is_named(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns of more
    folder = tmp_path / "pictures"
    for name in ("a", "b", "locked", ".hidden", "@eaDir", "a/.ipynb_checkpoints"):
        save_squares(folder / name, 10)
    (folder / ".DS_Store").touch()
    Image.fromarray(GREY).save(folder / "b" / "scan.tiff", **ANIMATED)
    reasons = add_unreadable(folder) | {"locked": "Permission denied"}
    scandir = os.scandir

    def refuse(path):  # as for another user than root
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert typed(folder, tmp_path / "new.npz", module="pictures") == 0
    out, err = capfd.readouterr()
    assert err == ""
    left_out = dict(re.findall(r"^left out: (.+?): (.*)$", out, re.MULTILINE))
    assert left_out.keys() == reasons.keys()
    assert all(reasons[name] in left_out[name] for name in reasons)
    assert "skipped: 4 hidden" in out
    assert "--epoch_n 4000 " in out  # 16 training images are one minibatch
    assert "pictures: 21 (20 PNG, 1 TIFF: first of several pages or frames)" in out


def add_unreadable(folder):
    """Adds files that cannot be read to a folder. Returns {name: a phrase of the reason}."""
    (folder / "photograph.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "link").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    Image.new("L", (40, 40)).save(folder / "large.png")
    Image.fromarray(RS.randint(0, 256, (30, 30), np.uint8)).save(folder / "cut.jpg")
    os.truncate(folder / "cut.jpg", 700)
    Image.fromarray(np.eye(8, dtype=np.float32)).save(folder / "floats.tiff")
    return {
        "photograph.HEIC": "Pillow cannot open it, without pip install pillow-heif",
        "link": "neither a regular file",
        "pipe.png": "neither a regular file",
        "large.png": "exceeds limit",
        "cut.jpg": "truncated",
        "floats.tiff": "floats",
    }


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
    with open(logdir / folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, np.array([float(row["largest"]) for row in rows])


def test_screening_a_folder(classes, logdir, tmp_path, capfd):
    folder = tmp_path / "pictures"
    images = save_squares(folder / "sub, folder", 24, brightest=244)
    Image.fromarray(images[0]).save(os.fsencode(folder) + b"/caf\xe9.png")
    rows, scores = screened(folder, logdir)
    out, err = capfd.readouterr()
    assert err == ""
    names = sorted(path.name for path in (folder / "sub, folder").iterdir())
    assert [row["file"] for row in rows] == [r"caf\udce9.png", *(f"sub, folder/{n}" for n in names)]
    assert scores[0] == scores[1]
    threshold = float(re.search(r"by largest above ([0-9.]+),", out)[1])
    assert 0 < np.sum(scores > threshold) < 25
    assert [row["flag"] for row in rows] == [str(int(score > threshold)) for score in scores]
    table = re.findall(r"^ *(?:[0-9.-]+ +){4}[01] +((?:caf|sub).*)$", out, re.MULTILINE)
    most_abnormal = np.argsort(-scores, kind="stable")[:10]
    assert table == [rows[i]["file"] for i in most_abnormal]
    assert (logdir / "screened" / "screened.png").exists()

    # The same images in an array, the negative of one, and a picture alone have the same scores.
    images = np.concatenate([images[:1], images])
    np.save(tmp_path / "images.npy", images)
    rows, of_array = screened(tmp_path / "images.npy", logdir)
    np.testing.assert_allclose(of_array, scores, atol=1e-3)
    assert [row["file"] for row in rows] == list(map(str, range(25)))
    alone, score = screened(folder / "sub, folder" / "05.png", logdir)
    assert [row["file"] for row in alone] == ["05.png"]
    np.testing.assert_allclose(score, scores[6:7], atol=1e-3)
    Image.fromarray(255 - images[6]).save(tmp_path / "negative.png")
    # As if beyond.pictures had been called with --invert.
    with np.load(classes[-1]) as arrays:
        np.savez(tmp_path / "inverted.npz", **dict(arrays) | {"invert": True})
    inverted = ["--data_dir", tmp_path / "inverted.npz"]
    _, score = screened(tmp_path / "negative.png", logdir, *inverted)
    np.testing.assert_allclose(score, scores[6:7], atol=1e-3)


def test_the_picture_shows_where_an_image_is_abnormal(model):
    with load_run(model[0]) as (sess, net, data):
        X = data.test.images[:3]
        G = sess.run(net.G, {net.X: X})
        axes = screen.plot_screened(sess, net, X, ["a", "b", "c"]).axes
    shown = [np.asarray(a.images[0].get_array()).ravel() for a in axes]
    difference = abs(G - X) / abs(G - X).max()
    np.testing.assert_allclose(shown, [*X, *G, *difference], atol=1e-6)
    assert [a.get_title() for a in axes[:3]] == ["a", "b", "c"]


def test_screening_tells_how_abnormal_each_subfolder_is(logdir, tmp_path, capfd):
    save_squares(tmp_path / "pictures" / "Good", 9)
    save_squares(tmp_path / "pictures" / "bright", 7, paper=99)
    output = tmp_path / "new" / "output"
    options = ["--rate", 0.2, "--show", 3, "--output", output]
    rows, scores = screened(tmp_path / "pictures", logdir, *options, folder=output)
    out = capfd.readouterr().out
    flags = np.array([int(row["flag"]) for row in rows])
    is_bright = np.array([row["file"].startswith("bright") for row in rows])
    area = roc_auc_score(is_bright, scores)
    share = f"{flags[is_bright].mean():.1%}"
    median = re.escape(f"{np.median(scores[is_bright]):.1f}")
    assert re.search(rf"bright +7 +{share} +{median} +{area:.3f}( +[01][.0-9]+){{4}}\n", out)
    assert re.search(r" Good +9 +[0-9.]+% +[0-9.e+-]+\n", out)
    assert len(re.findall(r"^.* [01] +(?:Good|bright)/", out, re.MULTILINE)) == 3
    assert "3 validation images are few" in out  # fewer than 10 / 0.2


def test_generated_pictures_are_in_folders_by_their_defects(tmp_path, monkeypatch):
    counts = {"train/good": 3, "test/good": 1, "test/scratch": 1, "test/hole": 1, "test/chip": 1}
    monkeypatch.setattr(synthetic, "COUNTS", counts)
    monkeypatch.chdir(tmp_path)
    for kind in ("plates", "digits"):
        synthetic.main(argparse.Namespace(kind=kind, folder=tmp_path / kind))
    plates = tmp_path / "plates"
    assert {name: len(list((plates / name).iterdir())) for name in counts} == counts
    assert len(list((tmp_path / "digits").iterdir())) == 200
    assert typed("plates", plates, module="synthetic") == 2
    metal = {}  # pixels that are as bright as the plate
    for kind in ("good", "scratch", "hole", "chip", "stain"):
        picture = np.asarray(synthetic.draw_plate(np.random.default_rng(0), kind))
        metal[kind] = np.sum(picture > 0.75 * np.median(picture[picture > 100]))
    # A scratch is 60 x 3 pixels, a chip half a circle. A hole, of 16^2 pi, is missing.
    lost = {kind: metal["good"] - n for kind, n in metal.items()}
    assert 100 < lost["scratch"] < 300 and 700 < -lost["hole"] < 1000
    assert 100 < lost["chip"] < 400 and 60 < lost["stain"] < 400


def test_bad_input_is_refused(classes, logdir, tmp_path, capfd):
    few = tmp_path / "few"
    mixed = tmp_path / "mixed"
    save_squares(few, 14)
    save_squares(mixed, 20)
    save_squares(mixed / "sub", 1)
    (tmp_path / "old.npz").touch()
    np.save(tmp_path / "large.npy", np.zeros((3, 5, 5), np.uint8))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "large.npy").read_bytes()[:99])
    folder = classes[0]
    cases = [
        ("pictures", [folder, tmp_path / "old.npz"], "old.npz exists already"),
        ("pictures", [few, tmp_path / "new.npz"], "14 pictures, and training needs at least 15"),
        ("pictures", [mixed, mixed / "new.npz"], "is inside"),
        ("pictures", [mixed, tmp_path / "new.npz"], "00.png is in no subfolder"),
        ("screen", [tmp_path / "large.npy", "--logdir", logdir], "25 pixels, not 64"),
        ("screen", [tmp_path / "large.npy", "--logdir", logdir, "--center"], "for an array"),
        ("screen", [tmp_path / "cut.npy", "--logdir", logdir], "cut.npy cannot be read"),
        ("screen", [few, "--logdir", tmp_path / "none"], "no trained network"),
        ("screen", [few, "--logdir", logdir, "--invert"], "was made without --invert"),
        ("screen", [few, "--logdir", logdir, "--data_dir", tmp_path / "no"], "no does not exist"),
        ("screen", [few, "--logdir", logdir, "--rate", 1], "--rate must be between 0 and 1"),
    ]
    before = files(tmp_path)
    for module, arguments, phrase in cases:
        assert typed(*arguments, module=module) == 2
        assert phrase in capfd.readouterr().err
    assert files(tmp_path) == before
