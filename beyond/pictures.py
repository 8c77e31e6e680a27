"""Converts a folder of pictures into training images.

    python -m beyond.pictures FOLDER OUTPUT.npz [--size 28] [--align] [--invert] [--center]

OUTPUT.npz is what `python autoencoder.py --data_dir` takes:

| array            | shape           | description                                             |
|------------------|-----------------|---------------------------------------------------------|
| x_train, x_test  | (n, size, size) | grey images, bytes from 0 (black) to 255                |
| y_train, y_test  | (n,)            | labels; only if the pictures are in subfolders          |
| class_names      | (classes,)      | names of the subfolders: that of label i is number i    |
| invert, center   | ()              | booleans: whether --invert and --center were given      |
| reference        | (size, size)    | only if --align was given: see beyond.alignment         |
"""

import collections
import contextlib
import os
import shlex
import sys
import warnings
from pathlib import Path

import numpy as np
import scipy.ndimage
import scipy.sparse.csgraph
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.metrics import pairwise_distances

import autoencoder as ae
from beyond import alignment
from beyond.common import check_output, format_table, new_path, progress_bar
from beyond.pca import describe_baselines

with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()

MIN_PICTURES = 15  # of which 11 are for training, 1 is for validation and 3 are for test
HIDDEN = (".", "@eaDir")  # starts of the names of what programs keep beside pictures
DARK = 64  # of 255: a file of 16 bits that holds data of 12 or 14 is darker
MAX_GROUP = 1 / 15  # of all pictures, as many as those for validation
MASK_NAMES = ("_gt", "_mask")  # ends of names
MASK_FOLDERS = {"ground_truth", "mask", "masks"}
ALIKE = 0.3  # of the median distance of two pictures: those that are nearer are nearly alike
MAX_GROUPED = 5000  # pictures that are compared with each other, which takes seconds


# ---- Reading -------------------------------------------------------------------------------------


def read_pictures(path, size, invert=False, center=False, reference=None, with_masks=False):
    """Reads a picture, or all pictures of a folder and its subfolders, in the order of their paths. Prints
    what is left out, and why, and how many are read of which format.

    size, invert, center, reference: see read_picture; with_masks: see find_files.
    Returns bytes (n, size, size), and two lists of paths in the folder: of the pictures (n,), and of those
    that cannot be read or prepared. Raises AutoEncoderError if there is no picture.
    """
    folder = path if path.is_dir() else path.parent
    images, files, unread, formats = [], [], [], collections.Counter()
    unopened = collections.defaultdict(list)  # {suffix: files that are perhaps no pictures}
    candidates, left_out = find_files(path, with_masks)
    for file in progress_bar("reading", candidates):
        name = file.relative_to(folder)
        try:
            image, format = read_picture(file, size, invert, center, reference)
        except UnidentifiedImageError:
            unopened[file.suffix.lower()].append(name)
        except Exception as e:  # Pillow raises a dozen kinds for damaged files
            unread.append(name)
            left_out.append(f"left out: {name}: {ae.first_line(e)}")
        else:
            images.append(image)
            files.append(name)
            formats[format] += 1
    for suffix, names in unopened.items():
        is_heif = suffix in (".heic", ".heif")
        if is_heif or suffix in Image.registered_extensions():
            unread += names
        hint = " without pip install pillow-heif" if is_heif else ""
        found = f"files {suffix or 'without a suffix'} ({len(names)}), such as {names[0]}"
        left_out.append(f"left out: {found}: Pillow cannot open them{hint}")
    for line in left_out:
        print(line)
    ae.require(images, f"{path} has no picture that can be used")
    by_format = "; ".join(f"{n} {format}" for format, n in formats.most_common())
    print(f"pictures: {len(images)} ({by_format})")
    return np.stack(images), files, unread


def find_files(path, with_masks=False):
    """Returns a file, or the files in a folder and its subfolders, in the order of their paths: a list; and
    lines on what is left out: hidden files and folders, folders that cannot be entered, and masks, unless
    with_masks. Raises AutoEncoderError if there is nothing at the path."""
    ae.require(path.exists(), f"{path} does not exist")
    if path.is_file():
        return [path], []
    files, hidden, errors = [], 0, []
    for parent, subfolders, names in os.walk(path, onerror=errors.append):
        shown = [name for name in subfolders if not name.startswith(HIDDEN)]
        shown_names = [name for name in names if not name.startswith(HIDDEN)]
        hidden += len(subfolders + names) - len(shown + shown_names)
        subfolders[:] = shown  # which walk enters next
        # walk does not enter a link to a folder. Such a link is in the list, to be named.
        links = [name for name in shown if Path(parent, name).is_symlink()]
        files += [Path(parent, name) for name in links + shown_names]
    masks = [] if with_masks else [file for file in files if is_mask(file.relative_to(path))]
    left_out = [f"skipped: hidden files or folders ({hidden})"] if hidden else []
    left_out += [f"left out: {Path(e.filename).relative_to(path)}: {e.strerror}" for e in errors]
    if masks:
        hint = "by their names or folders: --all reads them"
        left_out.append(f"left out: masks ({len(masks)}), {hint}")
    return sorted({*files} - {*masks}), left_out


def is_mask(file):
    """Returns whether a picture is a mask of another, by its path in the folder."""
    folders = {name.lower() for name in file.parts[:-1]}
    return file.stem.lower().endswith(MASK_NAMES) or bool(folders & MASK_FOLDERS)


def as_images(pictures):
    """Returns pictures (n, size, size), bytes, as images (n, X_n), as read_data_sets does."""
    return pictures.reshape(len(pictures), -1) * np.float32(1 / 255)


def read_picture(path, size, invert=False, center=False, reference=None):
    """Reads a picture of any format that Pillow opens, as a grey image.

    What is added to make the picture square becomes black. Without the flags, a grey picture of
    size x size pixels is returned unchanged.

    center: frames the ink as MNIST's digits are framed: see center_ink.
    reference: what the object is aligned with: see beyond.alignment.
    invert, and what is returned besides (size, size) bytes: see read_grey. Raises what it raises, and
    ValueError if all pixels are the same, or if there is nothing to center or to align.
    """
    # A JPEG is decoded at a half, a quarter or an eighth of its size, if that is enough.
    needed = (CENTERING_SCALE if center else alignment.WORKING_SCALE) * size
    grey, format = read_grey(path, needed, invert)
    darkest, brightest = grey.getextrema()
    if darkest == brightest:
        raise ValueError(f"each of its pixels is {darkest}")
    if center:
        grey = center_ink(grey, size)
    if reference is not None:
        aligned = alignment.align(fitted(grey, needed), reference)
        return np.uint8(np.round(aligned)), format
    square = ImageOps.pad(fitted(grey, size), (size, size), color=0)
    return np.asarray(square), format


def read_grey(path, needed, invert):
    """Reads a picture as a Pillow image of mode L.

    The first frame of an animation is taken. EXIF's rotation is applied. What is transparent becomes
    black.
    needed: pixels of the longer side that are enough; invert: for dark ink on bright paper; the image
    is bright on black, as MNIST's are.
    Returns the image, and Pillow's name of the format, with a remark if there are more frames, if
    everything is transparent, or if it is dark. Raises Pillow's exceptions, or ValueError, if the file
    cannot be read.
    """
    if not path.is_file():  # opening a named pipe would wait for a writer
        raise ValueError("neither a regular file nor a link to one")
    with warnings.catch_warnings():
        # Pillow warns of damaged metadata, for example. Damaged pixels are an exception.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            picture.draft("L", (needed, needed))
            format = picture.format
            if getattr(picture, "is_animated", False):
                format += ": first of several pages or frames"
            picture.load()
            with contextlib.suppress(Exception):  # of damaged EXIF
                picture = ImageOps.exif_transpose(picture)
            # On white if the image is inverted next, so that what is transparent becomes black.
            # Padding is black because it is added last.
            grey, remark = to_grey(picture, 255 if invert else 0)
    _, brightest = grey.getextrema()
    if brightest < DARK:
        remark += f": dark, less than {DARK} of 255"
    return ImageOps.invert(grey) if invert else grey, format + remark


def fitted(picture, side):
    """Returns a picture fitted into a square, without distortion. ImageOps.contain would make one
    that is much longer than wide 0 pixels wide."""
    longest = max(picture.size)
    width, height = (max(1, round(n / longest * side)) for n in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def to_grey(picture, background):
    """Returns a Pillow image as one of mode L, and a remark if its transparency is ignored, because there
    would be nothing left. background: the grey behind what is transparent."""
    remark = ""
    if picture.mode == "F":
        raise ValueError("its pixels are floats, of no known range")
    if picture.mode.startswith("I"):  # 16 bits, of which convert("L") would clip all above 255
        pixels = np.asarray(picture)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"its pixels are {pixels.min()} to {pixels.max()}, not 0 to 65535")
        grey = np.round(pixels / 257).astype(np.uint8)  # 65535 / 257 = 255
        if "transparency" in picture.info:
            grey[pixels == picture.info["transparency"]] = background
        return Image.fromarray(grey), remark
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getbbox():
            paper = Image.new("RGBA", picture.size, (background, background, background))
            picture = Image.alpha_composite(paper, picture)
        else:
            remark = ": transparent everywhere, which is ignored"
    return picture.convert("L"), remark


# ---- Centering -----------------------------------------------------------------------------------

CENTERING_SCALE = 10  # center_ink works on an image of this many times the size
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
    large_size = CENTERING_SCALE * size
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


def find_reference(files, size, invert):
    """Returns what pictures are aligned with: (size, size). It is made of at most 100 of the files. Raises
    AutoEncoderError if no object is found in any."""
    greys = []
    for file in progress_bar("finding objects", files[:: 1 + len(files) // 100]):
        with contextlib.suppress(Exception):  # read_pictures will name it
            needed = alignment.WORKING_SCALE * size
            grey = fitted(read_grey(file, needed, invert)[0], needed)
            alignment.find_object(grey)
            greys.append(grey)
    ae.require(greys, "no picture has an object in front of a background")
    return alignment.make_reference(greys, size)


def without_copies(images, files):
    """Returns images (n, size, size) and their files without those that equal an earlier one. Prints how
    many these are."""
    _, firsts = np.unique(images, axis=0, return_index=True)
    kept = np.sort(firsts)
    if len(kept) < len(images):
        print(f"left out: copies of other pictures ({len(images) - len(kept)})")
    return images[kept], [files[i] for i in kept]


def split(images):
    """Divides images (n, size, size) at random, because the order in the folder may have a meaning. Returns
    the indices of the training images, and of a fifth for test. Groups of nearly_alike follow each other,
    so that at most one is divided between training and test, and one between training and its first
    images, those for validation."""
    groups = nearly_alike(images)
    order = np.random.default_rng(0).permutation(len(images))[groups]
    rows = np.argsort(order, kind="stable")
    n = len(images) // 5
    return rows[:-n], rows[-n:]


def nearly_alike(images):
    """Returns the numbers of groups (n,) of images (n, size, size) that are nearly alike, as several shots of
    one part are. If these were on both sides of a split, all test and validation images would look known."""
    n = len(images)
    if n > MAX_GROUPED:
        print(f"more than {MAX_GROUPED} pictures: shots of one part may be in training and in test")
        return np.arange(n)
    distances = pairwise_distances(as_images(images))
    is_near = distances < ALIKE * np.median(distances)
    _, groups = scipy.sparse.csgraph.connected_components(is_near)
    # A group must not fill the validation images.
    is_large = np.bincount(groups)[groups] > MAX_GROUP * n
    groups = np.where(is_large, n + np.arange(n), groups)
    _, groups, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if counts.max() > 1:
        print(f"{counts[counts > 1].sum()} pictures are nearly like others, and stay with them")
    return groups


def labels_of(files):
    """Returns the label of each file (n,), and the names of the labels: the subfolders of the first level,
    sorted, and "." for files in none. If no file is in a subfolder, returns None and None."""
    folders = [file.parts[0] if len(file.parts) > 1 else "." for file in files]
    names, labels = np.unique(folders, return_inverse=True)
    if names.tolist() == ["."]:
        return None, None
    return labels, names


def add_picture_flags(parser):
    """Adds the flags of read_pictures to a parser."""
    help = "for pictures that are dark on bright"
    parser.add_argument("--invert", action="store_true", help=help)
    help = "for photographs of a digit on paper: frames it as in MNIST"
    parser.add_argument("--center", action="store_true", help=help)
    help = "reads masks, too: names that end in _gt or _mask, and folders ground_truth, mask, masks"
    parser.add_argument("--all", action="store_true", help=help)


def main(args):
    """Converts the pictures in FOLDER into OUTPUT.npz, for `python autoencoder.py --data_dir`. Each
    subfolder is a class. Saves a preview of ten training images beside it, which shows whether --invert
    is needed: networks learn bright ink on black more easily."""
    ae.require(args.output.suffix == ".npz", f"{args.output} must end in .npz")
    preview = args.output.with_suffix(".png")
    for path in (args.output, preview):
        ae.require(not path.exists(), f"{path} exists already: choose another output")
    check_output(args.output, args.folder)
    ae.require(args.size >= 2, f"--size must be at least 2, not {args.size}")
    ae.require(not (args.align and args.center), "--align and --center exclude each other")
    options = {"invert": args.invert, "center": args.center}
    if args.align:
        found, _ = find_files(args.folder, args.all)
        options["reference"] = find_reference(found, args.size, args.invert)
    read, files, unread = read_pictures(args.folder, args.size, **options, with_masks=args.all)
    if len(unread) > len(files) / 10:
        print(
            f"{len(unread)} pictures are left out. Look at the preview: do the flags suit the others?"
        )
    images, files = without_copies(read, files)
    found = f"{args.folder} has {len(images)} pictures"
    ae.require(len(images) >= MIN_PICTURES, f"{found}, and training needs at least {MIN_PICTURES}")
    labels, names = labels_of(files)
    train, test = split(images)
    arrays = options | {"x_train": images[train], "x_test": images[test]}
    if labels is not None:
        arrays |= {"y_train": labels[train], "y_test": labels[test], "class_names": names}
    first_images = as_images(arrays["x_train"][:10])
    with new_path(args.output) as path, new_path(preview) as preview_path:
        np.savez(path, **arrays)
        ae.plot_images({"pictures": first_images}, cmap="gray").savefig(preview_path, dpi=100)
    if labels is not None:
        table = zip(range(len(names)), names, np.bincount(labels))
        print(format_table(["label", "class", "pictures"], *table))
        print("the training takes all of them. For screening, all have to be normal")
    print(f"{len(train)} training and {len(test)} test images: {args.output}; preview: {preview}")
    batches = 1 + len(train) // ae.RECIPES["tuned"].batch_size
    epochs = max(10, 1000 // batches)
    logdir = shlex.quote(f"logs/{args.output.stem}-run")
    paths = f"--data_dir {shlex.quote(str(args.output))} --logdir {logdir}"
    print(f"train: python autoencoder.py --recipe tuned --epoch_n {epochs} {paths}")
    print(f"then screen: python -m beyond.screen PICTURES --logdir {logdir}")
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
    help = "turns, shifts and scales each picture so that its object lies as in the others"
    parser.add_argument("--align", action="store_true", help=help)
    add_picture_flags(parser)
    sys.exit(ae.run_command(main, parser))
