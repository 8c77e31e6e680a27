"""Converts a folder of pictures into training images.

    python -m beyond.pictures FOLDER OUTPUT.npz [--size 28] [--invert] [--center]

OUTPUT.npz is what `python autoencoder.py --data_dir` takes:

| array            | shape           | description                                             |
|------------------|-----------------|---------------------------------------------------------|
| x_train, x_test  | (n, size, size) | grey images, bytes from 0 (black) to 255                |
| y_train, y_test  | (n,)            | labels; only if the pictures are in subfolders          |
| class_names      | (classes,)      | names of the subfolders: that of label i is number i    |
| size             | ()              | width and height of the images, in pixels               |
| invert, center   | ()              | booleans: whether --invert and --center were given      |
"""

import collections
import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.model_selection import train_test_split

import autoencoder as ae
from beyond.common import format_table, progress_bar
from beyond.pca import describe_baselines

with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()

MIN_PICTURES = 15  # of which 11 are for training, 1 is for validation and 3 are for test
HIDDEN = (".", "@eaDir")  # starts of the names of what programs keep beside pictures


# ---- Reading -------------------------------------------------------------------------------------


class Pictures(NamedTuple):
    images: np.ndarray  # (n, size, size), bytes
    files: list[Path]  # (n,), relative to the folder
    formats: list[str]  # (n,), Pillow's names: PNG, JPEG, ...


def read_pictures(path, size, invert=False, center=False):
    """Reads a picture, or all pictures of a folder and its subfolders, in the order of their paths.

    Files and subfolders that cannot be read are left out. Prints their names and the reasons, and how
    many hidden ones are skipped.
    size, invert, center: see read_picture.
    Returns Pictures. Raises AutoEncoderError if there is none.
    """
    if not path.exists():
        raise ae.AutoEncoderError(f"{path} does not exist")
    folder = path if path.is_dir() else path.parent
    candidates, hidden, errors = find_files(path) if path.is_dir() else ([path], 0, [])
    if hidden:
        print(f"skipped: {hidden} hidden files or folders")
    images, files, formats = [], [], []
    left_out = [f"{Path(e.filename).relative_to(folder)}: {e.strerror}" for e in errors]
    for file in progress_bar("reading", candidates):
        name = file.relative_to(folder)
        try:
            image, format = read_picture(file, size, invert, center)
        except UnidentifiedImageError:
            is_heic = file.suffix.lower() in (".heic", ".heif")
            hint = ", without pip install pillow-heif" if is_heic else ""
            left_out.append(f"{name}: Pillow cannot open it{hint}")
        except Exception as e:  # Pillow raises a dozen kinds for damaged files
            left_out.append(f"{name}: {ae.first_line(e)}")
        else:
            images.append(image)
            files.append(name)
            formats.append(format)
    for line in left_out:
        print(f"left out: {line}")
    if not images:
        raise ae.AutoEncoderError(f"{path} has no picture that can be read")
    return Pictures(np.stack(images), files, formats)


def find_files(folder):
    """Returns the files in a folder and its subfolders, in the order of their paths; the number of
    hidden files and folders, which are skipped; and the OSErrors of folders that cannot be entered."""
    files, hidden, errors = [], 0, []
    for parent, subfolders, names in os.walk(folder, onerror=errors.append):
        shown = [name for name in subfolders if not name.startswith(HIDDEN)]
        shown_names = [name for name in names if not name.startswith(HIDDEN)]
        hidden += len(subfolders + names) - len(shown + shown_names)
        subfolders[:] = shown  # which walk enters next
        # walk does not enter a link to a folder. Such a link is in the list, to be named.
        links = [name for name in shown if Path(parent, name).is_symlink()]
        files += [Path(parent, name) for name in links + shown_names]
    return sorted(files), hidden, errors


def as_images(pictures):
    """Returns pictures (n, size, size), bytes, as images (n, X_n), as read_data_sets does."""
    return pictures.reshape(len(pictures), -1) * np.float32(1 / 255)


def read_picture(path, size, invert=False, center=False):
    """Reads a picture of any format that Pillow opens, as a grey image.

    The first frame of an animation is taken. EXIF's rotation is applied. What is transparent, and
    what is added to make the picture square, becomes black. Without the flags, a grey picture of
    size x size pixels is returned unchanged.

    invert: for dark ink on bright paper; the image is bright on black, as MNIST's are.
    center: frames the ink as MNIST's digits are framed: see center_ink.
    Returns (size, size) bytes, and Pillow's name of the format, with a remark if there are more
    frames. Raises Pillow's exceptions, or ValueError, if the file cannot be read.
    """
    if not path.is_file():  # opening a named pipe would wait for a writer
        raise ValueError("neither a regular file nor a link to one")
    with warnings.catch_warnings():
        # Pillow warns of damaged metadata, for example. Damaged pixels are an exception.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            # A JPEG is decoded at a half, a quarter or an eighth of its size, if that is enough.
            needed = (WORKING_SCALE if center else 4) * size
            picture.draft("L", (needed, needed))
            format = picture.format
            if getattr(picture, "is_animated", False):
                format += ": first of several pages or frames"
            picture.load()
            with contextlib.suppress(Exception):  # of damaged EXIF
                picture = ImageOps.exif_transpose(picture)
            # On white if the image is inverted next, so that what is transparent becomes black.
            # Padding is black because it is added last.
            grey = to_grey(picture, 255 if invert else 0)
    if invert:
        grey = ImageOps.invert(grey)
    if center:
        grey = center_ink(grey, size)
    square = ImageOps.pad(fitted(grey, size), (size, size), color=0)
    return np.asarray(square), format


def fitted(picture, side):
    """Returns a picture fitted into a square, without distortion. ImageOps.contain would make one
    that is much longer than wide 0 pixels wide."""
    longest = max(picture.size)
    width, height = (max(1, round(n / longest * side)) for n in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def to_grey(picture, background):
    """Returns a Pillow image as one of mode L. background: the grey behind what is transparent."""
    if picture.mode == "F":
        raise ValueError("its pixels are floats, of no known range")
    if picture.mode.startswith("I"):  # 16 bits, of which convert("L") would clip all above 255
        pixels = np.asarray(picture)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"its pixels are {pixels.min()} to {pixels.max()}, not 0 to 65535")
        grey = np.round(pixels / 257).astype(np.uint8)  # 65535 / 257 = 255
        if "transparency" in picture.info:
            grey[pixels == picture.info["transparency"]] = background
        return Image.fromarray(grey)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, (background, background, background))
        picture = Image.alpha_composite(paper, picture)
    return picture.convert("L")


# ---- Centering -----------------------------------------------------------------------------------

WORKING_SCALE = 10  # center_ink works on an image of this many times the size
LINE_WIDTH = 0.125  # relative to the longer side of a digit: the median of MNIST's


def center_ink(grey, size):
    """Frames bright ink on darker paper as MNIST's digits are framed.

    Like NIST's digits, the ink becomes white on black, is fitted into a square of 20/28 of the size
    by an antialiasing filter, and is moved so that its centre of mass is in the middle. Lines that
    are thinner than MNIST's are thickened.
    The paper may be unevenly lit: it is removed by a white top-hat transform, which subtracts the
    morphological opening of the image.

    grey: Pillow image of mode L. Returns one of size x size pixels. Raises ValueError if there is no
    ink.
    """
    large_size = WORKING_SCALE * size
    large = fitted(grey, large_size)
    # A quarter of the image, which is wider than the line of a pen.
    top_hat = scipy.ndimage.white_tophat(np.asarray(large), size=large_size // 4)
    smooth = scipy.ndimage.gaussian_filter(top_hat, sigma=2)
    is_ink = np.pad(smooth > smooth.max() / 2, large_size // 8)  # with room for thicker lines
    if not is_ink.any():
        raise ValueError("no ink to center")
    # In a line of width w, the mean distance to the edge is w / 4, and to the nearest pixel outside
    # half a pixel more.
    distance = scipy.ndimage.distance_transform_edt(is_ink)[is_ink].mean()
    width = 4 * (distance - 0.5)
    length = max(np.ptp(np.nonzero(is_ink), axis=1))
    # So that (width + missing) / (length + missing) is LINE_WIDTH.
    missing = max(0, LINE_WIDTH * length - width) / (1 - LINE_WIDTH)
    is_ink = scipy.ndimage.distance_transform_edt(~is_ink) <= missing / 2
    ink = Image.fromarray(np.uint8(255 * is_ink))
    digit = fitted(ink.crop(ink.getbbox()), round(size * 20 / 28))
    y, x = scipy.ndimage.center_of_mass(np.asarray(digit))
    middle = (size - 1) / 2
    framed = Image.new("L", (size, size))
    framed.paste(digit, (round(middle - x), round(middle - y)))
    return framed


# ---- Command line --------------------------------------------------------------------------------


def labels_of(files, folder):
    """Returns the label of each file (n,), and the names of the labels: the subfolders of `folder`,
    sorted. If no file is in a subfolder, returns None and None."""
    in_subfolder = [len(file.parts) > 1 for file in files]
    if not any(in_subfolder):
        return None, None
    if not all(in_subfolder):
        outside = files[in_subfolder.index(False)]
        hint = "move it into a subfolder, or all pictures out of them"
        raise ae.AutoEncoderError(f"{folder / outside} is in no subfolder, but others are: {hint}")
    folders = [file.parts[0] for file in files]
    names, labels = np.unique(folders, return_inverse=True)
    return labels, names


def add_picture_flags(parser):
    """Adds the flags of read_picture to a parser."""
    help = "for pictures that are dark on bright"
    parser.add_argument("--invert", action="store_true", help=help)
    help = "for photographs of a digit on paper: frames it as in MNIST"
    parser.add_argument("--center", action="store_true", help=help)


def main(args):
    """Converts the pictures in FOLDER into OUTPUT.npz, for `python autoencoder.py --data_dir`. Each
    subfolder is a class. Saves a preview of ten training images beside it, which shows whether --invert
    is needed: networks learn bright ink on black more easily."""
    if args.output.suffix != ".npz":
        raise ae.AutoEncoderError(f"{args.output} must end in .npz")
    preview = args.output.with_suffix(".png")
    for path in (args.output, preview):
        if path.exists():
            raise ae.AutoEncoderError(f"{path} exists already: choose another output")
    if args.folder.resolve() in args.output.resolve().parents:
        hint = "the next run would read its preview: choose an output elsewhere"
        raise ae.AutoEncoderError(f"{args.output} is inside {args.folder}, and {hint}")
    if args.size < 1:
        raise ae.AutoEncoderError(f"--size must be at least 1, not {args.size}")
    images, files, formats = read_pictures(args.folder, args.size, args.invert, args.center)
    if len(images) < MIN_PICTURES:
        found = f"{args.folder} has {len(images)} pictures"
        raise ae.AutoEncoderError(f"{found}, and training needs at least {MIN_PICTURES}")
    labels, names = labels_of(files, args.folder)
    # The split is random, because the order in the folder may have a meaning.
    rows = np.arange(len(images))
    train, test = train_test_split(rows, test_size=0.2, random_state=0)
    arrays = {"x_train": images[train], "x_test": images[test]}
    arrays |= {"size": args.size, "invert": args.invert, "center": args.center}
    if labels is not None:
        arrays |= {"y_train": labels[train], "y_test": labels[test], "class_names": names}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(args.output, **arrays)
    first_images = as_images(arrays["x_train"][:10])
    ae.plot_images({"pictures": first_images}, cmap="gray").savefig(preview, dpi=100)
    counts = collections.Counter(formats).most_common()
    by_format = ", ".join(f"{n} {format}" for format, n in counts)
    print(f"pictures: {len(images)} ({by_format})")
    if labels is not None:
        table = zip(range(len(names)), names, np.bincount(labels))
        print(format_table(["label", "class", "pictures"], *table))
    print(f"{len(train)} training and {len(test)} test images: {args.output}; preview: {preview}")
    epochs = max(10, 1000 // (1 + len(train) // 50))  # 1,000 minibatches of 50
    command = f"python autoencoder.py --recipe tuned --epoch_n {epochs} --data_dir {args.output}"
    print(f"train: {command}")
    baselines, _ = describe_baselines(ae.read_data_sets(args.output), ae.RECIPES["tuned"].Z_n)
    print(f"for comparison with its validation loss: {baselines}")


if __name__ == "__main__":
    example = "python -m beyond.pictures photographs photographs.npz --invert"
    parser = ae.Parser("python -m beyond.pictures", main.__doc__, example)
    help = "folder of pictures, or of a subfolder for each class"
    parser.add_argument("folder", type=ae.user_path, metavar="FOLDER", help=help)
    help = "a new file to write"
    parser.add_argument("output", type=ae.user_path, metavar="OUTPUT.npz", help=help)
    help = "width and height of the images, in pixels (default: %(default)s)"
    parser.add_argument("--size", type=int, default=28, metavar="N", help=help)
    add_picture_flags(parser)
    sys.exit(ae.run_command(main, parser))
