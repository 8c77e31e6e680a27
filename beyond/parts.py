"""Draws pictures of a metal plate with three holes, to try beyond.screen on defects.

    python -m beyond.parts FOLDER

| folder         | pictures | what is shown                            |
|----------------|----------|------------------------------------------|
| train/good     | 3,000    | plates without a defect                  |
| test/good      | 100      | plates without a defect                  |
| test/scratch   | 50       | a scratch                                |
| test/hole      | 50       | one of the three holes is not drilled    |
| test/chip      | 50       | a piece is broken off an edge            |
| test/stain     | 50       | a stain                                  |

The folders are laid out as those of the MVTec anomaly detection dataset. Plates differ in place, angle,
grey and light.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import autoencoder as ae
from beyond.common import progress_bar

SIDE = 256
PLATE = (40, 72, 216, 184)  # left, top, right, bottom
HOLES = ((76, 128), (128, 128), (180, 128))
DEFECTS = ("scratch", "hole", "chip", "stain")
COUNTS = {"train/good": 3000, "test/good": 100} | {f"test/{defect}": 50 for defect in DEFECTS}


def draw_plate(rng, defect=None):
    """Returns a plate as a Pillow image. rng: np.random.Generator; defect: one of DEFECTS, or None."""
    background = int(rng.uniform(10, 30))
    metal = int(rng.uniform(150, 190))
    picture = Image.new("L", (SIDE, SIDE), background)
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle(PLATE, radius=18, fill=metal)
    holes = list(HOLES)
    if defect == "hole":
        holes.pop(rng.integers(len(holes)))
    for x, y in holes:
        draw.circle((x, y), 16, fill=background)
    left, top, right, bottom = PLATE
    x = rng.uniform(left + 20, right - 20)
    y = rng.uniform(top + 15, bottom - 15)
    if defect == "scratch":
        angle = rng.uniform(0, np.pi)
        dx = 30 * np.cos(angle)
        dy = 30 * np.sin(angle)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=metal - 90, width=3)
    elif defect == "chip":
        edge = top if rng.random() < 0.5 else bottom
        draw.circle((x, edge), rng.uniform(9, 14), fill=background)
    elif defect == "stain":
        stain = Image.new("L", picture.size)
        radius = rng.uniform(8, 14)
        ImageDraw.Draw(stain).ellipse((x - radius, y - 7, x + radius, y + 7), fill=160)
        picture.paste(metal - 90, mask=stain.filter(ImageFilter.GaussianBlur(3)))
    shift = tuple(map(int, rng.integers(-6, 7, size=2)))
    picture = picture.rotate(
        rng.uniform(-4, 4), Image.Resampling.BICUBIC, translate=shift, fillcolor=background
    )
    grey = np.asarray(picture.filter(ImageFilter.GaussianBlur(1)), float)
    slope_x, slope_y = rng.uniform(-0.2, 0.2, size=2)
    y, x = np.mgrid[-0.5 : 0.5 : SIDE * 1j, -0.5 : 0.5 : SIDE * 1j]
    grey *= 1 + slope_x * x + slope_y * y
    grey += rng.normal(0, 5, grey.shape)
    return Image.fromarray(np.uint8(np.clip(grey, 0, 255)))


def main(args):
    """Generates photographs of a metal plate with three holes into FOLDER: of good ones for training;
    and for test of good ones, and of ones with a scratch, without a hole, with a chip or a stain."""
    if args.folder.exists():
        raise ae.AutoEncoderError(f"{args.folder} exists already: choose another folder")
    rng = np.random.default_rng(0)
    with progress_bar("drawing", total=sum(COUNTS.values())) as bar:
        for name, count in COUNTS.items():
            folder = args.folder / name
            folder.mkdir(parents=True)
            defect = folder.name if folder.name in DEFECTS else None
            for i in range(count):
                draw_plate(rng, defect).save(folder / f"{i:04d}.png")
                bar.update()
    print(f"photographs: {args.folder}")


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.parts", main.__doc__)
    help = "a new folder to write"
    parser.add_argument("folder", type=ae.user_path, metavar="FOLDER", help=help)
    sys.exit(ae.run_command(main, parser))
