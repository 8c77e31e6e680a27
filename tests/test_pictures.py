"""beyond.pictures and beyond.screen, on pictures made with Pillow, against arrays made with NumPy."""

import csv
import gzip
import os
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

import autoencoder as ae
from beyond import pictures, screen
from conftest import SMALL, files, idx, typed

RS = np.random.RandomState(0)
GREY = RS.randint(0, 256, (6, 6), np.uint8)
ALPHA = RS.randint(0, 256, (6, 6), np.uint8)
COLOUR = RS.randint(0, 256, (6, 6, 3), np.uint8)
DEEP = RS.randint(0, 65536, (6, 6), np.uint16)
INDEX = RS.randint(0, 4, (6, 6), np.uint8)  # into PALETTE
PALETTE = RS.randint(0, 256, (4, 3), np.uint8)
SIZE = 8


def luminance(colour):
    return colour @ [0.299, 0.587, 0.114]  # ITU-R BT.601


def palette_picture():
    picture = Image.fromarray(INDEX).convert("P")
    picture.putpalette(PALETTE.tobytes())
    return picture


def exif_rotation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def opaque(grey):
    return grey, 255 - grey


# file: picture, what Pillow needs to save it, the grey image, the image with --invert
FORMATS = {
    "grey.png": (Image.fromarray(GREY), {}, *opaque(GREY)),
    "grey.bmp": (Image.fromarray(GREY), {}, *opaque(GREY)),
    "grey.gif": (Image.fromarray(GREY), {}, *opaque(GREY)),
    "grey.tiff": (Image.fromarray(GREY), {}, *opaque(GREY)),
    "grey.webp": (Image.fromarray(GREY), {"lossless": True}, *opaque(GREY)),
    "bits.png": (Image.fromarray(GREY > 99), {}, *opaque(255 * (GREY > 99))),
    "colour.png": (Image.fromarray(COLOUR), {}, *opaque(luminance(COLOUR))),
    "palette.png": (palette_picture(), {}, *opaque(luminance(PALETTE)[INDEX])),
    "16 bits.png": (Image.fromarray(DEEP), {}, *opaque(DEEP / 257)),
    "16 bits.tiff": (Image.fromarray(DEEP), {}, *opaque(DEEP / 257)),
    "32 bits.tiff": (Image.fromarray(DEEP.astype(np.int32)), {}, *opaque(DEEP / 257)),
    "alpha.png": (
        Image.fromarray(np.dstack([GREY, ALPHA])),
        {},
        GREY * (ALPHA / 255),
        (255 - GREY) * (ALPHA / 255),
    ),
    "alpha.webp": (
        Image.fromarray(np.dstack([COLOUR, ALPHA])),
        {"lossless": True, "exact": True},
        luminance(COLOUR) * (ALPHA / 255),
        (255 - luminance(COLOUR)) * (ALPHA / 255),
    ),
    "palette with transparency.gif": (
        palette_picture(),
        {"transparency": 2},
        luminance(PALETTE)[INDEX] * (INDEX != 2),
        (255 - luminance(PALETTE)[INDEX]) * (INDEX != 2),
    ),
    "a transparent grey.png": (
        Image.fromarray(GREY),
        {"transparency": int(GREY[0, 0])},
        GREY * (GREY != GREY[0, 0]),
        (255 - GREY) * (GREY != GREY[0, 0]),
    ),
    "a transparent grey of 16 bits.png": (
        Image.fromarray(DEEP),
        {"transparency": int(DEEP[0, 0])},
        DEEP / 257 * (DEEP != DEEP[0, 0]),
        (255 - DEEP / 257) * (DEEP != DEEP[0, 0]),
    ),
    "to turn right.png": (
        Image.fromarray(np.rot90(GREY).copy()),
        {"exif": exif_rotation(6)},
        *opaque(GREY),
    ),
    "animation.gif": (
        Image.fromarray(GREY),
        {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]},
        *opaque(GREY),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_of_the_right_size_stay_as_they_are(tmp_path, name):
    picture, options, grey, inverted = FORMATS[name]
    picture.save(tmp_path / name, **options)
    exact = name.startswith(("grey", "to turn", "animation", "bits"))
    for invert, expected in ((False, grey), (True, inverted)):
        image, _ = pictures.read_picture(tmp_path / name, 6, invert)
        assert image.dtype == np.uint8
        np.testing.assert_allclose(image, expected, atol=0 if exact else 1)


@pytest.mark.parametrize("invert", [False, True])
def test_other_sizes_are_fitted_without_distortion_and_padded_with_black(tmp_path, invert):
    Image.new("L", (100, 25), 0 if invert else 255).save(tmp_path / "wide.png")
    expected = np.zeros((8, 8))
    expected[3:5] = 255
    image, _ = pictures.read_picture(tmp_path / "wide.png", 8, invert)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("name", ["stripes.png", "stripes.jpg"])
def test_large_pictures_are_averaged(tmp_path, name):
    stripes = np.zeros((1200, 1200), np.uint8)
    stripes[:, ::3] = 150  # so that every 150th column alone has no dark one
    stripes[:600] += 60
    Image.fromarray(stripes).save(tmp_path / name)
    means = stripes.reshape(8, 150, 8, 150).mean(axis=(1, 3))
    image, _ = pictures.read_picture(tmp_path / name, 8)
    far = [0, 1, 6, 7]  # rows, from the edge in the middle, which the filter sharpens
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
    y, x = np.indices((28, 28))
    middle = (x * image).sum() / image.sum(), (y * image).sum() / image.sum()
    assert middle == pytest.approx((13.5, 13.5), abs=0.6)
    ink = 20 * 150 + 20 * 80
    assert image.sum() / 255 == pytest.approx(ink * (20 / 150) ** 2, rel=0.15)


def save_squares(folder, n, brightest=255):
    """Saves n pictures, each a square of another grey, in three formats. Returns the images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.zeros((n, SIZE, SIZE), np.uint8)
    for i, image in enumerate(images):
        image[i % 3 : i % 3 + 4, 2:6] = brightest - 3 * i
        extension = ("png", "bmp", "tiff")[i % 3]
        Image.fromarray(image).save(folder / f"{i:02}.{extension}")
    return images


def as_rows(images):
    """Returns images as a sorted list of bytes."""
    return sorted(image.tobytes() for image in images)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A folder of 25 circles and 25 squares, what they are, and the .npz file made of it."""
    folder = tmp_path_factory.mktemp("pictures")
    squares = save_squares(folder / "squares", 25)
    circles = np.maximum(squares, 7)
    (folder / "circles" / "deep down").mkdir(parents=True)
    for i, image in enumerate(circles):
        Image.fromarray(image).save(folder / "circles" / "deep down" / f"{i}.png")
    output = tmp_path_factory.mktemp("images") / "new" / "shapes.npz"
    assert typed(folder, output, "--size", SIZE, module="pictures") == 0
    return folder, circles, squares, output


def test_each_picture_is_in_the_training_or_the_test_images_once(classes):
    _, circles, squares, output = classes
    with np.load(output, allow_pickle=False) as arrays:
        assert arrays["class_names"].tolist() == ["circles", "squares"]
        train, test = arrays["x_train"], arrays["x_test"]
        assert (len(train), len(test), train.dtype) == (40, 10, np.uint8)
        assert set(arrays["y_test"]) == {0, 1}  # not the last ones of the folder
        images = np.concatenate([train, test])
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]])
    assert as_rows(images[labels == 0]) == as_rows(circles)
    assert as_rows(images[labels == 1]) == as_rows(squares)
    assert sorted(path.name for path in output.parent.iterdir()) == ["shapes.npz", "shapes.png"]


def png_of_zeros(width, height):
    """The start of a PNG that says that it has this size."""
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT"):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


def add_unreadable(folder):
    """Adds files that are no pictures to a folder. Returns a phrase of the reason, for each name."""
    (folder / "notes.txt").write_text("no picture")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "empty.png").touch()
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "folder.png").mkdir()
    (folder / "link").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    (folder / "bomb.png").write_bytes(png_of_zeros(30000, 30000))
    (folder / "large.png").write_bytes(png_of_zeros(12000, 12000))
    noise = RS.randint(0, 256, (50, 50), np.uint8)
    Image.fromarray(noise).save(folder / "cut.jpg")
    os.truncate(folder / "cut.jpg", 1500)
    Image.fromarray(np.eye(8, dtype=np.float32)).save(folder / "floats.tiff")
    Image.fromarray(np.full((8, 8), -1, np.int32)).save(folder / "negative.tiff")
    not_opened, not_regular = "not a picture", "neither a regular file"
    return {
        "notes.txt": not_opened,
        ".DS_Store": not_opened,
        "empty.png": not_opened,
        "dangling.png": not_regular,
        "link": not_regular,
        "pipe.png": not_regular,
        "bomb.png": "exceeds limit",
        "large.png": "exceeds limit",
        "cut.jpg": "truncated",
        "floats.tiff": "floats",
        "negative.tiff": "-1",
    }


@pytest.fixture(scope="module")
def logdir(classes, tmp_path_factory):
    """A run on the .npz file of `classes`."""
    logdir = tmp_path_factory.mktemp("logs") / "run"
    command = ["--data_dir", classes[-1], "--logdir", logdir, *SMALL, "--epoch_n", 1]
    assert typed(*command, "--init", "he", "--Z_activation", "linear") == 0
    return logdir


def screened(path, logdir, *arguments):
    """Screens pictures. Returns the rows of scores.csv, and the scores."""
    assert typed(path, "--logdir", logdir, *arguments, module="screen") == 0
    with open(logdir / "screened" / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, np.array([float(row["score"]) for row in rows])


def test_screening_a_folder_with_unreadable_files(logdir, tmp_path, capfd):
    folder = tmp_path / "pictures"
    images = save_squares(folder / "sub, folder", 24, brightest=244)
    Image.fromarray(images[0]).save(os.fsencode(folder) + b"/caf\xe9.png")
    reasons = add_unreadable(folder)
    rows, scores = screened(folder, logdir)
    out, err = capfd.readouterr()
    assert err == ""
    left_out = dict(re.findall(r"^left out: (.+?): (.*)$", out, re.MULTILINE))
    assert sorted(left_out) == sorted(reasons)
    for name, phrase in reasons.items():
        assert phrase in left_out[name]
    names = sorted(path.name for path in (folder / "sub, folder").iterdir())
    assert [row["file"] for row in rows] == [r"caf\udce9.png", *(f"sub, folder/{n}" for n in names)]
    assert [row["index"] for row in rows] == [str(i) for i in range(25)]
    assert scores[0] == scores[1]
    threshold = float(re.search(r"with a score above ([0-9.e+-]+),", out)[1])
    assert 0 < np.sum(scores > threshold) < 25
    assert [row["flag"] for row in rows] == [str(int(score > threshold)) for score in scores]
    assert f"flagged (!): {np.sum(scores > threshold)} of 25" in out
    table = re.findall(r"^ *(\d+) +[0-9.e+-]+ +!? *(?:caf|sub)", out, re.MULTILINE)
    assert [int(i) for i in table] == np.argsort(-scores, kind="stable")[:10].tolist()
    with Image.open(logdir / "screened" / "screened.png") as figure:
        assert figure.width > 10 * SIZE

    # The same images in an array, and a picture alone, have the same scores.
    np.save(tmp_path / "images.npy", np.concatenate([images[:1], images]))
    _, of_array = screened(tmp_path / "images.npy", logdir)
    np.testing.assert_allclose(of_array, scores, rtol=1e-5)
    alone, score = screened(folder / "sub, folder" / "05.tiff", logdir)
    assert [row["file"] for row in alone] == ["05.tiff"]
    np.testing.assert_allclose(score, scores[6:7], rtol=1e-5)


@pytest.mark.parametrize("ending", [".npy", ".npz", "-idx3-ubyte", "-idx3-ubyte.gz"])
def test_arrays_are_read_as_they_are(tmp_path, ending):
    images = RS.randint(0, 256, (5, 4, 4), np.uint8)
    path = tmp_path / f"images{ending}"
    if ending == ".npy":
        np.save(path, images)
    elif ending == ".npz":
        np.savez(path, images)
    else:
        path.write_bytes(gzip.compress(idx(images)) if ending.endswith("gz") else idx(images))
    pixels, names = screen.read_images(path, 16, invert=False, center=False)
    np.testing.assert_array_equal(pixels, images.reshape(5, 16))
    assert names == [""] * 5


def test_invert_screens_the_negative(logdir, tmp_path):
    images = save_squares(tmp_path / "pictures", 12)
    np.save(tmp_path / "negative.npy", 255 - images)
    _, expected = screened(tmp_path / "negative.npy", logdir)
    _, scores = screened(tmp_path / "pictures", logdir, "--invert")
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_bad_input_is_one_line_and_status_2(classes, logdir, tmp_path, capfd):
    few, mixed = tmp_path / "few", tmp_path / "mixed"
    save_squares(few, 14)
    save_squares(mixed, 20)
    save_squares(mixed / "sub", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.npz").touch()
    (tmp_path / "drawing.png").touch()
    np.save(tmp_path / "large.npy", np.zeros((3, 5, 5), np.uint8))
    folder, _, _, two_parts = classes
    cases = [
        ("pictures", [folder, tmp_path / "old.npz"], "old.npz exists already"),
        ("pictures", [folder, tmp_path / "drawing.npz"], "drawing.png exists already"),
        ("pictures", [folder, tmp_path / "new.txt"], "must end in .npz"),
        ("pictures", [folder, tmp_path / "new.npz", "--size", 0], "--size"),
        ("pictures", [folder], "OUTPUT.npz"),
        ("pictures", [tmp_path / "none", tmp_path / "new.npz"], "none does not exist"),
        ("pictures", [tmp_path / "empty", tmp_path / "new.npz"], "no picture"),
        ("pictures", [few, tmp_path / "new.npz"], "14 pictures, and training needs at least 15"),
        ("pictures", [mixed, tmp_path / "new.npz"], "00.png is in no subfolder"),
        ("screen", [tmp_path / "large.npy", "--logdir", logdir], "25 pixels, not 64"),
        ("screen", [tmp_path / "large.npy", "--logdir", logdir, "--center"], "for an array"),
        ("screen", [two_parts, "--logdir", logdir], "it has 5 arrays, not one"),
        ("screen", [tmp_path / "none.png", "--logdir", logdir], "does not exist"),
        ("screen", [few, "--logdir", tmp_path / "none"], "no trained network"),
    ]
    before = files(tmp_path)
    for module, arguments, phrase in cases:
        assert typed(*arguments, module=module) == 2
        error = capfd.readouterr().err
        assert phrase in error
        assert error.count("\n") == 1
        assert files(tmp_path) == before
    with pytest.raises(ae.AutoEncoderError, match="12 pixels"):
        screen.read_images(few, 12, invert=False, center=False)
