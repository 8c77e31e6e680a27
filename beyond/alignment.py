"""Lays the object in a picture as it lies in the others, and evens out the light.

A part that is photographed by hand is turned, shifted and nearer or farther each time. `align` undoes
that. It finds the object by Otsu's threshold (1979), and its place and size by the moments of its pixels.
Then it turns the picture until the object is most like that of a reference, the median of aligned
pictures, and improves place, size and angle by Gauss-Newton steps (Lucas and Kanade, 1981).
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from PIL import Image

from beyond.common import progress_bar

WORKING_SCALE = 4  # pictures are aligned on images of this many times the size
RADII = 1.9  # half the side of an aligned image, in radii of gyration of the object
ANGLES = np.radians(np.arange(0, 360, 5))
STEPS = 4  # of Gauss-Newton


class Pose(NamedTuple):
    """Where the object lies in a picture."""

    center: np.ndarray  # (x, y), in pixels
    radius: float  # of gyration, in pixels
    angle: float  # in radians
    background: int  # the grey around the object


def make_reference(pictures, size):
    """Returns the median of aligned pictures, with which `align` compares others: (size, size), floats from
    0 to 200. The object is turned as in the first. pictures: Pillow images of mode L, each with an object."""
    reference = placed(pictures[0], find_object(pictures[0]), size)
    for _ in range(2):
        bar = progress_bar("aligning", pictures)
        reference = np.median([align(picture, reference) for picture in bar], axis=0)
    return reference * (200 / reference.max())


def align(picture, reference):
    """Returns a picture with its object in the middle, turned, scaled and lit as in the reference:
    (size, size), floats from 0 to 255. What the picture does not reach is as in the reference.

    picture: Pillow image of mode L; reference: what make_reference returns. Raises ValueError if no
    object is found.
    """
    pose = aligned_pose(picture, reference)
    size = len(reference)
    image = placed(picture, pose, size)
    white = Image.new("L", picture.size, 255)
    is_inside = placed(white, pose._replace(background=0), size) == 255
    plane = light(size)
    of_light = reference[..., None] * plane
    factors = np.linalg.lstsq(of_light[is_inside], image[is_inside])[0]
    evened = (image / np.clip(plane @ factors, 0.1, 10)).clip(0, 255)
    return np.where(is_inside, evened, reference)


def aligned_pose(picture, reference):
    """Returns the Pose in which the object lies as in the reference. See align."""
    size = len(reference)
    pose = find_object(picture)

    def likeness(angle):
        turned = placed(picture, pose._replace(angle=angle), size, detail=1)
        return np.corrcoef(turned.ravel(), reference.ravel())[0, 1]

    pose = pose._replace(angle=max(ANGLES, key=likeness))
    plane = light(size)
    _, x, y = np.moveaxis(plane, -1, 0)
    down, right = np.gradient(reference, y[:, 0], x[0])
    # How the reference changes if it is shifted, enlarged and turned, and its light becomes uneven.
    of_pose = np.stack([right, down, right * x + down * y, down * x - right * y], axis=-1)
    changes = np.concatenate([of_pose, reference[..., None] * plane], axis=-1)
    changes = changes.reshape(size**2, -1)
    for _ in range(STEPS):
        difference = placed(picture, pose, size) - reference
        shift_x, shift_y, growth, turn, *_ = np.linalg.lstsq(changes, difference.ravel())[0]
        shift = rotation(pose.angle) @ [shift_x, shift_y] * RADII * pose.radius
        pose = pose._replace(
            center=pose.center - shift,
            radius=pose.radius * math.exp(-growth),
            angle=pose.angle - turn,
        )
    return pose


def light(size):
    """Returns what a plane of light is made of: 1, and x and y of the pixels of a square, from -1 to 1:
    (size, size, 3)"""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.stack([np.ones_like(x), x, y], axis=-1)


def find_object(picture):
    """Returns the Pose of the object in a Pillow image of mode L, with angle 0. The object is most of what is
    brighter, or of what is darker, than Otsu's threshold, and hardly reaches the edge of the picture.
    Raises ValueError if there is no such object."""
    grey = np.asarray(picture)
    is_bright = grey > otsu_threshold(grey)
    edge = np.ones(grey.shape, bool)
    edge[1:-1, 1:-1] = False
    is_inside = is_bright if is_bright[edge].mean() < 0.5 else ~is_bright
    parts, _ = scipy.ndimage.label(is_inside)
    sizes = np.bincount(parts[is_inside], minlength=2)
    is_object = parts == np.argmax(sizes)
    is_most = sizes.max() > is_inside.sum() / 2
    is_large = sizes.max() > 0.005 * grey.size  # more than a glint
    if not is_most or not is_large or is_object[edge].mean() > 0.1:
        raise ValueError("no object in front of a background is found")
    pixels = np.argwhere(is_object)[:, ::-1]
    radius = math.sqrt(pixels.var(axis=0).sum())
    return Pose(pixels.mean(axis=0), radius, 0, int(np.median(grey[~is_object])))


def otsu_threshold(grey):
    """Returns the threshold that divides greys, bytes, into two classes of the largest variance between."""
    counts = np.bincount(grey.ravel(), minlength=256)
    below = counts.cumsum()[:-1]
    sums = (counts * np.arange(256)).cumsum()
    above = grey.size - below
    difference = sums[:-1] / below.clip(1) - (sums[-1] - sums[:-1]) / above.clip(1)
    return np.argmax(below * above * difference**2)


def rotation(angle):
    """Returns the matrix (2, 2) that turns (x, y)."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def placed(picture, pose, size, detail=WORKING_SCALE):
    """Returns what a picture shows around the pose of its object, turned upright: (size, size), floats.
    detail: the pixels of which each is a mean, in each direction."""
    side = detail * size
    matrix = rotation(pose.angle) * (2 * RADII * pose.radius / side)
    # Pillow measures from the corner of a pixel, and a pose from its middle.
    start = pose.center + 0.5 - matrix @ [side / 2, side / 2]
    coefficients = [*matrix[0], start[0], *matrix[1], start[1]]
    bilinear = Image.Resampling.BILINEAR
    large = picture.transform(
        (side, side), Image.Transform.AFFINE, coefficients, bilinear, fillcolor=pose.background
    )
    return np.asarray(large.reduce(detail), np.float64)
