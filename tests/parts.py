"""Draws photographs of a part, good ones and ones with a defect, to measure what beyond.screen finds.

    python tests/parts.py draw logs/part --seed 0
    python -m beyond.pictures logs/part/train logs/part.npz --size 48 --align
    python autoencoder.py --recipe tuned --epoch_n 100 --data_dir logs/part.npz --logdir logs/part-run
    python -m beyond.screen logs/part/test --logdir logs/part-run
    python tests/parts.py locate logs/part --logdir logs/part-run

Each photograph, of 256 x 256 pixels, is turned by up to 10 degrees, larger or smaller by up to 7%, shifted
by up to 10 pixels in each direction, and unevenly lit. A defect is 3 to 10 pixels large, a crack or a scratch
10 to 20 long. `locate` prints how often the brightest place of |G - X| in screened.png lies in the defect, or
one pixel beside it.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import binary_dilation

sys.path.insert(0, str(Path(__file__).parents[1]))
from beyond import alignment, anomaly, common
from beyond.pictures import fitted, read_grey

SIZE = 256
DETAIL = 2  # the part is drawn at twice the size
DEFECTS = ("missing", "chip", "stain", "crack", "scratch")


def draw_part(part, rng, defect=None):
    """Returns a part as a Pillow image, and the mask of its defect. part: 10 numbers from -1 to 1, which
    determine its form."""
    image = Image.new("L", (SIZE * DETAIL,) * 2)
    draw = ImageDraw.Draw(image)

    def disc(x, y, radius, grey, draw=draw):
        box = [x - radius, y - radius, x + radius, y + radius]
        draw.ellipse([DETAIL * value for value in box], grey)

    body = int(rng.normal(150, 4))
    radius = 46 + 4 * part[0]
    disc(80, 128, radius, body)
    bar = (75, 108 + 4 * part[1], 218 + 5 * part[2], 150 + 4 * part[3])
    draw.rectangle([DETAIL * value for value in bar], body)
    teeth = [130 + 5 * part[4], 162 + 5 * part[5], 195 + 5 * part[6]]
    for x in teeth[: -1 if defect == "missing" else None]:
        draw.rectangle([DETAIL * value for value in (x, 145, x + 12, 176)], body)
    disc(80, 128, 30, int(rng.normal(110, 4)))
    disc(80, 128, 18 + 3 * part[7], 0)
    for i in range(6):
        angle = i * math.pi / 3 + part[8]
        disc(80 + 38 * math.cos(angle), 128 + 38 * math.sin(angle), 4, 210)
    disc(205, 130 + 3 * part[9], 5, 60)
    is_part = np.asarray(image) > 0
    mask = Image.new("L", image.size)
    draw_mask = ImageDraw.Draw(mask)
    if defect == "missing":
        box = (teeth[-1], 152, teeth[-1] + 12, 176)
        draw_mask.rectangle([DETAIL * value for value in box], 255)
        return image, mask
    y, x = rng.choice(np.argwhere(is_part)) / DETAIL
    if defect in ("chip", "stain"):
        disc(x, y, rng.uniform(1.5, 5), 255, draw_mask)
    elif defect:
        angle = rng.uniform(0, math.pi)
        along = np.linspace(-0.5, 0.5, 6) * rng.uniform(10, 20)
        xs = x + along * math.cos(angle) + rng.normal(0, 1, 6)
        ys = y + along * math.sin(angle) + rng.normal(0, 1, 6)
        draw_mask.line(
            [DETAIL * value for point in zip(xs, ys) for value in point], 255, 3 * DETAIL
        )
    greys = np.array(image)
    is_defect = np.asarray(mask) * is_part > 0
    if defect and is_defect.sum() < 8 * DETAIL**2:
        return draw_part(part, rng, defect)  # it lies beside the part
    new_greys = {"chip": 0, "stain": 0.45 * greys[is_defect], "crack": 30, "scratch": 240}
    if defect:
        greys[is_defect] = new_greys[defect]
    return Image.fromarray(greys), Image.fromarray(np.uint8(255 * is_defect))


def photograph(rng, *images):
    """Returns Pillow images, turned, scaled and shifted alike."""
    angle = rng.uniform(-10, 10)
    matrix = alignment.rotation(math.radians(angle)) / rng.uniform(0.93, 1.07)
    middle = np.full(2, SIZE * DETAIL / 2)
    start = middle - matrix @ (middle + DETAIL * rng.uniform(-10, 10, 2))
    coefficients = [*matrix[0], start[0], *matrix[1], start[1]]
    kind, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    for image in images:
        yield image.transform(image.size, kind, coefficients, bicubic).reduce(DETAIL)


def light(rng, image):
    """Returns a photograph in uneven light, with noise."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    slope = 0.25 * (x * math.cos(angle) + y * math.sin(angle))
    lit = (np.asarray(image) + 25.0) * rng.uniform(0.88, 1.12) * (1 + slope)
    noisy = lit + rng.normal(0, 3, lit.shape)
    return Image.fromarray(np.uint8(noisy.clip(0, 255))).filter(ImageFilter.GaussianBlur(0.7))


def draw(folder, seed):
    """Draws 600 good pictures for training, and for test 200 good ones and 60 with each defect."""
    rng = np.random.default_rng(seed)
    part = rng.uniform(-1, 1, 10)
    folders = [("train/good", 600, None), ("test/good", 200, None)]
    folders += [(f"test/{defect}", 60, defect) for defect in DEFECTS]
    for name, n, defect in folders:
        (folder / name).mkdir(parents=True)
        (folder / name.replace("test", "masks")).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            image, mask = photograph(rng, *draw_part(part, rng, defect))
            light(rng, image).save(folder / name / f"{i:03}.png")
            if defect:
                mask.save(folder / "masks" / defect / f"{i:03}.png")


def locate(folder, logdir):
    """Prints for each defect in what share of its pictures the map finds it."""
    with common.load_run(logdir) as (sess, net, data):
        with np.load(data.path) as arrays:
            reference = arrays["reference"]
        size = len(reference)
        needed = alignment.WORKING_SCALE * size
        detector = anomaly.make_detector(sess, net, data)
        shares = []
        for defect in DEFECTS:
            found = []
            for path in sorted((folder / "test" / defect).iterdir()):
                picture = fitted(read_grey(path, needed, False)[0], needed)
                mask = fitted(
                    read_grey(folder / "masks" / defect / path.name, needed, False)[0], needed
                )
                X = np.float32(alignment.align(picture, reference).reshape(1, -1) / 255)
                D = abs(sess.run(net.G, {net.X: X}) - X) / np.sqrt(detector.usual)
                pose = alignment.aligned_pose(picture, reference)
                is_defect = alignment.placed(mask, pose._replace(background=0), size) > 0
                found.append(binary_dilation(is_defect, np.ones((3, 3))).ravel()[D.argmax()])
            shares.append(np.mean(found))
            print(f"{defect}: {shares[-1]:.2f}")
    print(f"mean: {np.mean(shares):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["draw", "locate"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logdir", type=Path)
    args = parser.parse_args()
    if args.task == "draw":
        draw(args.folder, args.seed)
    else:
        locate(args.folder, args.logdir)
