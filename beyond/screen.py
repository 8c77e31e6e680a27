"""Screens pictures by a trained network: what it cannot reconstruct is abnormal.

    python -m beyond.screen PICTURES [--logdir logs/AutoEncoder] [--invert] [--center]

Writes screened.png and scores.csv (index, score, flag, file) into LOGDIR/screened.
"""

import csv
import math
import sys

import numpy as np

import autoencoder as ae
from beyond.anomaly import detect, make_detector
from beyond.common import format_table, load_run
from beyond.pictures import add_picture_flags, as_images, read_pictures

ARRAYS = (".npy", ".npz", ".gz", "idx3-ubyte")  # ends of the names of files that hold an array
HEADER = ("index", "score", "flag", "file")


def read_images(path, X_n, invert, center):
    """Reads pictures, or an array of images, for a network of X_n pixels.

    path: a picture, a folder of pictures, or a .npy, .npz of one array or IDX file.
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


def plot_screened(sess, g, images, scores, flags, order):
    """Draws the ten most abnormal images above their reconstructions, and the ten least abnormal of
    the others. Each has its index, its score and, if it is flagged, a "!" as a title.

    images: (n, X_n); scores, flags: (n,); order: (n,), indices, the most abnormal first.
    Returns a Figure.
    """
    rows = {}
    shown = []
    others = order[10:]
    for which, chosen in (("most", order[:10]), ("least", others[::-1][:10])):
        if len(chosen) > 0:
            X = images[chosen]
            rows[f"{which} abnormal"] = X
            rows[f"{which}: G"] = sess.run(g.G, {g.X: X})
            shown.append(chosen)
    figure = ae.plot_images(**rows)
    grid = np.reshape(figure.axes, (len(rows), -1))
    for axes_row, chosen in zip(grid[::2], shown):
        for axes, i in zip(axes_row, chosen):
            mark = " !" if flags[i] else ""
            axes.set_title(f"{i}\n{scores[i]:.3g}{mark}", fontsize="small")
    return figure


def write_scores(path, scores, flags, files):
    """Writes the columns of HEADER as a CSV file in UTF-8."""
    # The name of a file may have bytes that are no characters.
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for i in range(len(scores)):
            writer.writerow([i, f"{scores[i]:.6g}", int(flags[i]), files[i]])


def main(args):
    """Scores PICTURES by how abnormal they are to the network in --logdir. Flags those whose score
    exceeds that of 95% of its validation images. Pictures are made grey and fitted into the size of
    the network's images."""
    with load_run(args.logdir, args.data_dir) as (sess, g, data):
        images, files = read_images(args.pictures, g.hp.X_n, args.invert, args.center)
        detector = make_detector(sess, g, data)
        scores, flags = detect(sess, g, images, detector)
        order = np.argsort(-scores, kind="stable")
        figure = plot_screened(sess, g, images, scores, flags, order)
    folder = args.logdir / "screened"
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "screened.png", dpi=100)
    write_scores(folder / "scores.csv", scores, flags, files)
    table = [HEADER]
    for i in order[:10]:
        table.append([i, f"{scores[i]:.4g}", "!" if flags[i] else "", files[i]])
    print(format_table(*table))
    print(
        f"flagged (!): {flags.sum()} of {len(flags)}, with a score above {detector.threshold:.4g},"
    )
    n = data.validation.num_examples
    print(f"which at most 5% of the {n} validation images of {data.path} exceed")
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
    add_picture_flags(parser)
    sys.exit(ae.run_command(main, parser))
