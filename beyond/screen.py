"""Screens pictures by a trained network: what it cannot reconstruct is abnormal.

    python -m beyond.screen PICTURES [--logdir logs/AutoEncoder] [--invert] [--center]

Writes screened.png and scores.csv (index, scores, flag, file) into LOGDIR/screened. If the pictures
are in subfolders, prints how abnormal those of each subfolder are.
"""

import csv
import math
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import autoencoder as ae
from beyond.anomaly import SCORE, SCORES, detect, make_baselines, make_detector
from beyond.common import format_table, load_run, save_figure
from beyond.pictures import add_picture_flags, as_images, read_pictures

ARRAYS = (".npy", ".npz", ".gz", "idx3-ubyte")  # ends of the names of files that hold an array
NORMAL_FOLDERS = ("good", "normal", "ok")


def flags_of_run(path, invert, center):
    """Returns whether beyond.pictures made the training images in `path` with --invert and --center, so
    that new pictures are made likewise; or, of other training images, the flags.

    Raises AutoEncoderError if a flag is given that was not given to beyond.pictures.
    """
    if path.suffix != ".npz":
        return invert, center
    flags = {"invert": invert, "center": center}
    with np.load(path) as arrays:
        for name, given in flags.items():
            if name in arrays:
                flags[name] = bool(arrays[name])
                if given and not flags[name]:
                    raise ae.AutoEncoderError(f"{path} was made without --{name}")
    return tuple(flags.values())


def read_images(path, X_n, training_path, invert, center):
    """Reads pictures, or an array of images, for a network of X_n pixels.

    path: a picture, a folder of pictures, or a .npy, .npz of one array or IDX file.
    training_path, invert, center: see flags_of_run.
    Returns images (n, X_n), and their files (n,), which are "" for an array.
    Raises AutoEncoderError if they do not fit the network.
    """
    if path.name.endswith(ARRAYS):
        if invert or center:
            raise ae.AutoEncoderError("--invert and --center are for pictures, not for an array")
        images = ae.make_data_set(read_array(path), None, str(path)).images
        if images.shape[1] != X_n:
            raise ae.AutoEncoderError(f"{path} has images of {images.shape[1]} pixels, not {X_n}")
        return images, [""] * len(images)
    invert, center = flags_of_run(training_path, invert, center)
    size = math.isqrt(X_n)
    if size**2 != X_n:
        raise ae.AutoEncoderError(f"the network's images are not square: they have {X_n} pixels")
    pictures, files, _ = read_pictures(path, size, invert, center)
    return as_images(pictures), files


def read_array(path):
    """Returns the array in a .npy, .npz or IDX file."""
    if not path.name.endswith((".npy", ".npz")):
        return ae.read_idx(path)
    try:
        if path.suffix == ".npy":
            return np.load(path)
        with np.load(path) as arrays:
            if len(arrays.files) != 1:
                raise ValueError(f"it has {len(arrays.files)} arrays, not one")
            return arrays[arrays.files[0]]
    except Exception as e:  # NumPy raises a dozen kinds for damaged files
        raise ae.AutoEncoderError(f"{path} cannot be read: {e}") from None


def plot_screened(sess, g, images, scores, flags, files, count=10):
    """Draws the most abnormal images X, their reconstructions G and |G - X|, which shows where an image
    is abnormal; and the least abnormal of the others. Each has the name of its file, or its index, its
    score and, if it is flagged, a "!" as a title. White is 1, but the largest |G - X| in its rows.

    images: (n, X_n); scores, flags, files: (n,); count: of images in a row. Returns a Figure.
    """
    order = np.argsort(-scores, kind="stable")
    rows = {}
    shown = []
    others = order[count:]
    for which, chosen in (("most", order[:count]), ("least", others[::-1][:count])):
        if len(chosen) > 0:
            X = images[chosen]
            G = sess.run(g.G, {g.X: X})
            rows |= {f"{which} abnormal: X": X, f"{which}: G": G, f"{which}: |G − X|": abs(G - X)}
            shown.append(chosen)
    figure = ae.plot_images(**rows)
    grid = np.reshape(figure.axes, (len(rows), -1))
    for axes_row, chosen in zip(grid[::3], shown):
        for axes, i in zip(axes_row, chosen):
            # What fits above an image. A name may have bytes that are no characters.
            name = str(files[i])[-16:].encode(errors="replace").decode() or i
            mark = " !" if flags[i] else ""
            title = axes.set_title(f"{name}\n{scores[i]:.1f}{mark}", fontsize="x-small")
            title.set_parse_math(False)  # a $ in a name is no formula
    largest = max(D.max() for name, D in rows.items() if "|" in name)
    for axes_row, name in zip(grid, rows):
        for axes in axes_row:
            for image in axes.images:
                image.set_cmap("gray")  # as the pictures are to the network
                image.set_clim(0, largest if "|" in name else 1)
    return figure


def picture_table(chosen, scores, flags, files):
    """Returns a table, as text, of the pictures with the chosen indices.

    scores: {name: (n,)}; flags, files: (n,)
    """
    table = [("index", *scores, "flag", "file")]
    for i in chosen:
        columns = [f"{values[i]:.1f}" for values in scores.values()]
        table.append((i, *columns, "!" if flags[i] else "", files[i]))
    return format_table(*table)


def folders_of(files):
    """Returns the subfolder of each file (n,), or "" if it is in none."""
    all_parts = [Path(file).parts for file in files]
    return np.array([parts[0] if len(parts) > 1 else "" for parts in all_parts])


def folder_table(folders, flags, scores, baselines):
    """Returns a table, as text, of the pictures in each subfolder: how many there are, what share is
    flagged, and the median score. If a subfolder is called good, normal or ok, also the AUROC of each
    other one against it, by the score and by baselines.

    folders, flags, scores: (n,); baselines: {name: (n,)}
    """
    normal = np.isin(np.char.lower(folders), NORMAL_FOLDERS)
    by_name = {"AUROC": scores} | baselines if normal.any() else {}
    table = [("folder", "pictures", "flagged", "median score", *by_name)]
    for folder in np.unique(folders):
        rows = folders == folder
        both = normal | rows
        areas = [""] * len(by_name)
        if not normal[rows].any():
            for i, values in enumerate(by_name.values()):
                areas[i] = f"{roc_auc_score(rows[both], values[both]):.3f}"
        share = f"{flags[rows].mean():.1%}"
        table.append((folder, rows.sum(), share, f"{np.median(scores[rows]):.2f}", *areas))
    return format_table(*table)


def write_scores(path, scores, flags, files):
    """Writes index, scores, flag and file of each picture as a CSV file in UTF-8.

    scores: {name: (n,)}; flags, files: (n,)
    """
    # The name of a file may have bytes that are no characters.
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", *scores, "flag", "file"])
        for i, row in enumerate(zip(*scores.values())):
            writer.writerow([i, *map("{:.4f}".format, row), int(flags[i]), files[i]])


def main(args):
    """Scores PICTURES by how abnormal they are to the network in --logdir, in standard deviations of its
    validation images. Flags those whose score exceeds that of 95% of these, or of another share
    (--rate). Pictures are made grey and fitted into the size of the network's images."""
    if not 0 < args.rate < 1:
        raise ae.AutoEncoderError(f"--rate must be between 0 and 1, not {args.rate}")
    if args.show < 1:
        raise ae.AutoEncoderError(f"--show must be at least 1, not {args.show}")
    with load_run(args.logdir, args.data_dir) as (sess, g, data):
        folder = args.output or args.logdir / "screened"
        folder.mkdir(parents=True, exist_ok=True)
        images, files = read_images(args.pictures, g.hp.X_n, data.path, args.invert, args.center)
        detector = make_detector(sess, g, data, args.score, args.rate)
        all_scores, flags = detect(sess, g, images, detector)
        scores = all_scores[args.score]
        figure = plot_screened(sess, g, images, scores, flags, files, args.show)
    save_figure(figure, folder / "screened.png")
    write_scores(folder / "scores.csv", all_scores, flags, files)
    order = np.argsort(-scores, kind="stable")
    print(picture_table(order[: args.show], all_scores, flags, files))
    folders = folders_of(files)
    if any(folders):
        baselines = make_baselines(data.train, g.hp.Z_n)
        by_baselines = {f"by {name}": baseline(images) for name, baseline in baselines.items()}
        print(folder_table(folders, flags, scores, by_baselines))
    n = data.validation.num_examples
    print(
        f"flagged (!): {flags.sum()} of {len(flags)}, by {args.score} above {detector.threshold:.4g},"
    )
    print(
        f"which at most {100 * args.rate:.3g}% of the {n} validation images of {data.path} exceed"
    )
    if n < 10 / args.rate:
        print(f"{n} validation images are few for that: train on more pictures")
    print(f"picture and scores: screened.png and scores.csv in {folder}")


if __name__ == "__main__":
    parser = ae.Parser(
        "python -m beyond.screen",
        main.__doc__,
        ae.LOGDIR,
        data_dir=None,
        example="python -m beyond.screen photographs --invert --center",
    )
    help = "picture, folder of pictures, .npy, .npz or IDX file"
    parser.add_argument("pictures", type=ae.user_path, metavar="PICTURES", help=help)
    help = "share of the validation images above the threshold (default: %(default)s)"
    parser.add_argument("--rate", type=float, default=0.05, metavar="REAL", help=help)
    help = f"{', '.join(SCORES)}: see beyond.anomaly (default: %(default)s)"
    parser.add_argument("--score", choices=SCORES, default=SCORE, metavar="NAME", help=help)
    help = "how many pictures to show in a row (default: %(default)s)"
    parser.add_argument("--show", type=int, default=10, metavar="N", help=help)
    help = "folder to write (default: screened, in the folder of the run)"
    parser.add_argument("--output", type=ae.user_path, metavar="FOLDER", help=help)
    add_picture_flags(parser)
    sys.exit(ae.run_command(main, parser))
