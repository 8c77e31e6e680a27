"""Generates pictures that resemble photographs, to try beyond.screen on: see --help. The folders of
plates are laid out as those of the MVTec anomaly detection dataset."""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import autoencoder as ae
from beyond.common import new_path, progress_bar

SIDE = 256
PLATE = (40, 72, 216, 184)  # left, top, right, bottom
HOLES = ((76, 128), (128, 128), (180, 128))
COUNTS = {"train/good": 3000, "test/good": 100}
COUNTS |= {f"test/{defect}": 50 for defect in ("scratch", "hole", "chip", "stain")}


def plates():
    """Yields the name and the picture of each plate."""
    rng = np.random.default_rng(0)
    for folder, count in COUNTS.items():
        for i in range(count):
            yield f"{folder}/{i:04d}.png", draw_plate(rng, kind=folder.split("/")[1])


def draw_plate(rng, kind):
    """Returns a plate as a Pillow image. rng: np.random.Generator; kind: good, or a defect."""
    background = int(rng.uniform(10, 30))
    metal = int(rng.uniform(150, 190))
    picture = Image.new("L", (SIDE, SIDE), background)
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle(PLATE, radius=18, fill=metal)
    holes = list(HOLES)
    if kind == "hole":
        holes.pop(rng.integers(len(holes)))
    for x, y in holes:
        draw.circle((x, y), 16, fill=background)
    left, top, right, bottom = PLATE
    x = rng.uniform(left + 20, right - 20)
    y = rng.uniform(top + 15, bottom - 15)
    if kind == "scratch":
        angle = rng.uniform(0, np.pi)
        dx = 30 * np.cos(angle)
        dy = 30 * np.sin(angle)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=metal - 90, width=3)
    elif kind == "chip":
        edge = top if rng.random() < 0.5 else bottom
        draw.circle((x, edge), rng.uniform(9, 14), fill=background)
    elif kind == "stain":
        stain = Image.new("L", picture.size)
        radius = rng.uniform(8, 14)
        ImageDraw.Draw(stain).ellipse((x - radius, y - 7, x + radius, y + 7), fill=160)
        picture.paste(metal - 90, mask=stain.filter(ImageFilter.GaussianBlur(3)))
    shift = tuple(map(int, rng.integers(-6, 7, size=2)))
    picture = picture.rotate(
        rng.uniform(-4, 4), Image.Resampling.BICUBIC, translate=shift, fillcolor=background
    )
    grey = np.asarray(picture.filter(ImageFilter.GaussianBlur(1)), float)
    slope = rng.uniform(-0.2, 0.2, size=2)
    return with_noise(grey * (1 + gradient(grey.shape, slope)), 5, rng)


def digits():
    """Yields the name and the picture of each digit."""
    rng = np.random.default_rng(0)
    images = ae.read_data_sets().test.images[:200]
    for i, digit in enumerate(ae.as_2d(images)):
        yield f"{i:03d}.jpg", draw_digit(rng, digit)


def draw_digit(rng, digit):
    """Returns a digit (28, 28) on paper, as a Pillow image: dark on bright, turned, at some place."""
    width, height = 400, 300
    side = int(rng.uniform(120, 210))
    ink = Image.fromarray(np.uint8(np.round(255 * digit)))
    ink = ink.resize((side, side), Image.Resampling.BICUBIC)
    ink = ink.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True)
    place = rng.integers(width - ink.width + 1), rng.integers(height - ink.height + 1)
    sheet = Image.new("L", (width, height))
    sheet.paste(ink, tuple(map(int, place)))
    ink_share = np.asarray(sheet.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 2)))) / 255
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(20, 80) * np.array([np.cos(angle), np.sin(angle)])
    paper = rng.uniform(170, 210) + gradient(ink_share.shape, slope)
    grey = paper * (1 - ink_share) + rng.uniform(30, 70) * ink_share
    return with_noise(grey, rng.uniform(2, 8), rng)


def gradient(shape, slope):
    """Returns an array that rises by slope (x, y) from one end to the other, with 0 in the middle."""
    height, width = shape
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    return slope[0] * x + slope[1] * y


def with_noise(grey, sd, rng):
    """Returns greys (height, width) with noise of a standard deviation, as a Pillow image."""
    noisy = grey + rng.normal(0, sd, grey.shape)
    return Image.fromarray(np.uint8(np.clip(noisy, 0, 255)))


KINDS = {"plates": plates, "digits": digits}


def main(args):
    """Generates pictures that resemble photographs into FOLDER: `plates`, 3,000 good metal plates for
    training, and for test good ones and ones with a defect; or `digits`, 200 digits on paper."""
    ae.require(not args.folder.exists(), f"{args.folder} exists already: choose another folder")
    with new_path(args.folder) as folder:
        for name, picture in progress_bar("drawing", KINDS[args.kind]()):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=90)
    print(f"pictures: {args.folder}")


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.synthetic", main.__doc__)
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=" or ".join(KINDS))
    help = "a new folder to write"
    parser.add_argument("folder", type=ae.user_path, metavar="FOLDER", help=help)
    sys.exit(ae.run_command(main, parser))
