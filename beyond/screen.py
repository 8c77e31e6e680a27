"""Screens pictures by a trained network: what it cannot reconstruct is abnormal.

    python -m beyond.screen PICTURES [--logdir logs/AutoEncoder] [--invert] [--center]

Writes screened.png, of the most abnormal pictures, and scores.csv (scores, flag, file) into
LOGDIR/screened. If the pictures are in subfolders, prints how abnormal those of each are.
"""

import csv
import sys
import textwrap
from pathlib import Path

import numpy as np

import autoencoder as ae
from beyond import anomaly
from beyond.baselines import NAMES, make_baselines
from beyond.common import format_table, load_run, reconstruction_score, run_batches
from beyond.pca import describe_baselines
from beyond.pictures import add_picture_flags, as_images, read_pictures

NORMAL_FOLDERS = ("good", "normal", "ok")


def read_images(path, data_path, X_n, invert, center):
    """Reads pictures for a network of X_n pixels, or its images from a .npy file.

    path: a picture, a folder of pictures, or a .npy file. data_path: of the training images. If
    beyond.pictures made them, the pictures are made likewise, and a flag that it was not given is
    refused.
    Returns images (n, X_n), and for each the name of its file, or its index in an array, as text.
    Raises AutoEncoderError if they do not fit the network.
    """
    options = {"invert": invert, "center": center}
    if path.suffix == ".npy":
        if any(options.values()):
            raise ae.AutoEncoderError("--invert and --center are for pictures, not for an array")
        try:
            array = np.load(path)
        except (ValueError, EOFError) as e:
            raise ae.AutoEncoderError(f"{path} cannot be read: {e}") from None
        images = ae.make_data_set(array, None, str(path)).images
        if images.shape[1] != X_n:
            raise ae.AutoEncoderError(f"{path} has images of {images.shape[1]} pixels, not {X_n}")
        return images, list(map(str, range(len(images))))
    if data_path.suffix == ".npz":
        with np.load(data_path) as arrays:
            made_with = {name: bool(arrays[name]) for name in options if name in arrays}
        for name, value in made_with.items():
            if options[name] and not value:
                raise ae.AutoEncoderError(f"{data_path} was made without --{name}")
        options |= made_with
    size = round(X_n**0.5)
    if size**2 != X_n:
        raise ae.AutoEncoderError(f"the network's images are not square: they have {X_n} pixels")
    pictures, files, _ = read_pictures(path, size, **options)
    # A name may have bytes that are no characters.
    names = [str(file).encode(errors="backslashreplace").decode() for file in files]
    return as_images(pictures), names


def plot_screened(sess, net, images, detector, titles):
    """Draws images X (n, X_n), their reconstructions G, and where they are abnormal: |G - X|, divided by
    what is usual for the pixel in training images, and by the maximum. detector: anomaly.Detector;
    titles: (n,), text. Returns a Figure."""
    G = sess.run(net.G, {net.X: images})
    D = abs(G - images) / np.sqrt(detector.variance)
    D /= D.max() or 1
    figure = ae.plot_images({"X": images, "G": G, "|G − X|": D}, cmap="gray")
    for axes, title in zip(figure.axes, titles):
        axes.set_title(title, fontsize="x-small", parse_math=False)  # a $ in a name is no formula
    return figure


def print_fit(sess, net, data):
    """Prints how well the network, PCA and the mean picture reconstruct the validation images, with a
    warning if the network does it badly."""
    validation = data.validation.images
    scores = []
    for images in (data.train.images[: len(validation)], validation):
        G = run_batches(sess, net.G, net.X, images, "reconstructing")
        scores.append(reconstruction_score(G, images))
    train_score, score = scores
    baselines, mean_score = describe_baselines(data, net.hp.Z_n)
    print(f"validation score: network {score:.1f}, {baselines}")
    if score > 0.8 * mean_score:
        print("the network is hardly better than the mean picture: train it longer")
    if score > 3 * train_score:
        hint = "it needs more pictures, or fewer epochs"
        print(f"the network has {train_score:.1f} on its training images: {hint}")


def folder_table(folders, flags, scores):
    """Returns a table, as text, of the pictures in each subfolder: how many there are, what share is
    flagged, and the median score. folders, flags, scores: (n,)"""
    table = [("folder", "pictures", "flagged", "median score")]
    for folder in np.unique(folders):
        rows = folders == folder
        share = f"{flags[rows].mean():.1%}"
        table.append((folder, rows.sum(), share, f"{np.median(scores[rows]):.1f}"))
    return format_table(*table)


def print_aurocs(kinds, scores, score):
    """Prints the AUROC of each abnormal subfolder by each score, and whether there is a better one than the
    deciding `score`. kinds: names of folders, or "normal" (n,); scores: {name: (n,)}"""
    found = anomaly.aurocs(scores, kinds)
    names = np.unique(kinds[kinds != "normal"])
    print(f"AUROC\n{anomaly.mean_table([[found]], scores, names)}")
    means = {name: np.mean([found[name, folder] for folder in names]) for name in scores}
    best = max(means, key=means.get)
    if means[best] > means[score] + 0.005:
        print(f"{best} has the highest mean, {means[best]:.3f}: --score {best} flags by it")


def main(args):
    """Scores how abnormal PICTURES are, by the network in --logdir and by baselines, in standard deviations
    of the validation images. Flags those whose score exceeds that of 95% of these, or of another share
    (--rate). Pictures are made grey and fitted into the size of the network's images."""
    if not 0 < args.rate < 1:
        raise ae.AutoEncoderError(f"--rate must be between 0 and 1, not {args.rate}")
    if not 1 <= args.show <= 50:
        raise ae.AutoEncoderError(f"--show must be from 1 to 50, not {args.show}")
    with load_run(args.logdir, args.data_dir) as (sess, net, data):
        folder = args.output or args.logdir / "screened"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scores.csv").touch()  # fails now if it cannot be written
        images, names = read_images(args.pictures, data.path, net.hp.X_n, args.invert, args.center)
        print_fit(sess, net, data)
        baselines = make_baselines(data, net.hp.Z_n)
        detector = anomaly.make_detector(sess, net, data, args.rate, baselines)
        scores, flags_by = anomaly.detect(sess, net, images, detector)
        deciding, flags = scores[args.score], flags_by[args.score]
        shown = np.argsort(-deciding, kind="stable")[: args.show]
        texts = {name: np.char.mod("%.3f", values) for name, values in scores.items()}
        texts |= {"flag": flags.astype(int).astype(str), "file": names}
        with open(folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([texts, *zip(*texts.values())])
        marks = np.where(flags, " !", "")
        titles = [f"{textwrap.fill(names[i], 14)}\n{deciding[i]:.1f}{marks[i]}" for i in shown]
        figure = plot_screened(sess, net, images[shown], detector, titles)
    figure.savefig(folder / "screened.png", dpi=100)
    parts = anomaly.PARTS if args.score in anomaly.SCORES else ()
    columns = list(dict.fromkeys([*parts, args.score, "flag", "file"]))
    print(format_table(columns, *([texts[name][i] for name in columns] for i in shown)))
    paths = map(Path, names)
    folders = np.array([path.parts[0] if path.parent.name else "." for path in paths])
    in_folder = folders != "."
    if in_folder.any():
        print(folder_table(folders, flags, deciding))
    kinds = np.where(np.isin(np.char.lower(folders), NORMAL_FOLDERS), "normal", folders)[in_folder]
    if len(np.unique(kinds)) > 1 and "normal" in kinds:
        in_folders = {name: values[in_folder] for name, values in scores.items()}
        print_aurocs(kinds, in_folders, args.score)
    else:
        rows = [(name, by.sum(), (by & flags).sum()) for name, by in flags_by.items()]
        print(format_table(("score", "flagged", f"by {args.score}, too"), *rows))
    n = data.validation.num_examples
    above = f"{args.score} above {detector.thresholds[args.score]:.4g}"
    print(f"flagged: {flags.sum()} of {len(flags)}, by {above},")
    print(f"which at most {100 * args.rate:.3g}% of {n} validation images of {data.path} exceed")
    if n < 10 / args.rate:
        print(f"{n} validation images are few for that: train on more pictures")
    print(f"picture and scores: screened.png and scores.csv in {folder}")


if __name__ == "__main__":
    example = "python -m beyond.screen photographs --invert --center"
    parser = ae.Parser("python -m beyond.screen", main.__doc__, example)
    parser.add_data_dir(None, "the run's")
    parser.add_logdir()
    help = "picture, folder of pictures, or .npy file of images"
    parser.add_argument("pictures", type=ae.user_path, metavar="PICTURES", help=help)
    help = "share of the validation images above the threshold (default: %(default)s)"
    parser.add_argument("--rate", type=float, default=0.05, metavar="REAL", help=help)
    choices = (*anomaly.SCORES, *NAMES)
    help = f"{', '.join(choices)}: see beyond/README.md (default: %(default)s)"
    parser.add_argument(
        "--score", choices=choices, default=anomaly.SCORE, metavar="NAME", help=help
    )
    help = "how many of the most abnormal pictures to show (default: %(default)s)"
    parser.add_argument("--show", type=int, default=10, metavar="N", help=help)
    help = "folder to write (default: screened, in the folder of the run)"
    parser.add_argument("--output", type=ae.user_path, metavar="FOLDER", help=help)
    add_picture_flags(parser)
    sys.exit(ae.run_command(main, parser))
