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
from beyond import anomaly, baselines
from beyond.common import format_table, load_run, reconstruction_score, run_batches
from beyond.pca import scores_to_beat
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


def plot_screened(sess, net, data, images, titles):
    """Draws images X (n, X_n), their reconstructions G, and where they are abnormal: |G - X|, divided by
    what is usual for the pixel in training images, and by the maximum. titles: (n,), text. Returns a
    Figure."""
    G = sess.run(net.G, {net.X: images})
    D = abs(G - images) / np.sqrt(anomaly.usual_variance(sess, net, data.train))
    D /= D.max() or 1
    figure = ae.plot_images({"X": images, "G": G, "|G − X|": D}, cmap="gray")
    for axes, title in zip(figure.axes, titles):
        axes.set_title(title, fontsize="x-small", parse_math=False)  # a $ in a name is no formula
    return figure


def describe_fit(sess, net, data):
    """Returns, as text, how well the network, PCA and the mean picture reconstruct the validation images;
    and a warning if the network does it badly."""
    pca_score, mean_score = scores_to_beat(data, net.hp.Z_n)
    validation = data.validation.images
    scores = []
    for images in (data.train.images[: len(validation)], validation):
        G = run_batches(sess, net.G, net.X, images, "reconstructing")
        scores.append(reconstruction_score(G, images))
    train_score, score = scores
    others = f"PCA with {net.hp.Z_n} components {pca_score:.1f}, mean picture {mean_score:.1f}"
    lines = [f"validation score: network {score:.1f}, {others}"]
    if score > 0.8 * mean_score:
        lines.append("the network is hardly better than the mean picture: train it longer")
    if score > 3 * train_score:
        hint = "it needs more pictures, or fewer epochs"
        lines.append(f"the network has {train_score:.1f} on its training images: {hint}")
    return "\n".join(lines)


def folder_table(folders, flags, scores):
    """Returns a table, as text, of the pictures in each subfolder: how many there are, what share is
    flagged, and the median score. folders, flags, scores: (n,)"""
    table = [("folder", "pictures", "flagged", "median score")]
    for folder in np.unique(folders):
        rows = folders == folder
        share = f"{flags[rows].mean():.1%}"
        table.append((folder, rows.sum(), share, f"{np.median(scores[rows]):.1f}"))
    return format_table(*table)


def aurocs(folders, is_normal, scores):
    """Returns a table, as text, of the AUROC of each abnormal subfolder against the normal ones; and of each
    score the mean, {name: mean}. folders, is_normal: (n,); scores: {name: (n,)}"""
    names = np.unique(folders[~is_normal])
    rows = {"normal": is_normal} | {name: folders == name for name in names}
    by_folder = {k: {name: values[v] for name, values in scores.items()} for k, v in rows.items()}
    found = anomaly.separations(by_folder)
    means = {score: np.mean([found[score, name] for name in names]) for score in scores}
    return anomaly.mean_table([[found]], scores, names), means


def agreement_table(flags, score):
    """Returns a table, as text, of how many pictures each score flags, and how many of these the deciding
    score flags as well. flags: {name of a score: (n,)}"""
    table = [("score", "flagged", f"by {score}, too")]
    for name, of_name in flags.items():
        table.append((name, of_name.sum(), (of_name & flags[score]).sum()))
    return format_table(*table)


def main(args):
    """Scores PICTURES by how abnormal they are to the network in --logdir, and to plain methods, in standard
    deviations of its validation images. Flags those whose score exceeds that of 95% of these, or of
    another share (--rate). Pictures are made grey and fitted into the size of the network's images."""
    if not 0 < args.rate < 1:
        raise ae.AutoEncoderError(f"--rate must be between 0 and 1, not {args.rate}")
    if not 1 <= args.show <= 50:
        raise ae.AutoEncoderError(f"--show must be from 1 to 50, not {args.show}")
    with load_run(args.logdir, args.data_dir) as (sess, net, data):
        folder = args.output or args.logdir / "screened"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scores.csv").touch()  # fails now if it cannot be written
        images, names = read_images(args.pictures, data.path, net.hp.X_n, args.invert, args.center)
        plain_methods = baselines.make_baselines(data, net.hp.Z_n)
        print(describe_fit(sess, net, data))
        detector = anomaly.make_detector(sess, net, data, args.score, args.rate, plain_methods)
        scores, flags_by = anomaly.detect(sess, net, images, detector)
        deciding, flags = scores[args.score], flags_by[args.score]
        shown = np.argsort(-deciding, kind="stable")[: args.show]
        texts = {name: np.char.mod("%.3f", values) for name, values in scores.items()}
        texts |= {"flag": flags.astype(int).astype(str), "file": names}
        with open(folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([texts, *zip(*texts.values())])
        marks = np.where(flags, " !", "")
        titles = [f"{textwrap.fill(names[i], 14)}\n{deciding[i]:.1f}{marks[i]}" for i in shown]
        figure = plot_screened(sess, net, data, images[shown], titles)
    figure.savefig(folder / "screened.png", dpi=100)
    parts = anomaly.PARTS if args.score in anomaly.SCORES else ()
    columns = list(dict.fromkeys([*parts, args.score, "flag", "file"]))
    print(format_table(columns, *([texts[name][i] for name in columns] for i in shown)))
    paths = map(Path, names)
    folders = np.array([path.parts[0] if path.parent.name else "." for path in paths])
    is_normal = np.isin(np.char.lower(folders), NORMAL_FOLDERS)
    if np.any(folders != "."):
        print(folder_table(folders, flags, deciding))
    if is_normal.any() and not is_normal.all():
        table, means = aurocs(folders, is_normal, scores)
        print(f"AUROC against {' and '.join(np.unique(folders[is_normal]))}\n{table}")
        best = max(means, key=means.get)
        if means[best] > means[args.score] + 0.005:
            print(f"{best} finds these best: --score {best} flags by it")
    else:
        print(agreement_table(flags_by, args.score))
    n = data.validation.num_examples
    above = f"{args.score} above {detector.threshold:.4g}"
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
    choices = (*anomaly.SCORES, *baselines.NAMES)
    help = f"{', '.join(anomaly.SCORES)}, see beyond.anomaly; or {', '.join(baselines.NAMES)}, see "
    help += "beyond.baselines (default: %(default)s)"
    parser.add_argument(
        "--score", choices=choices, default=anomaly.SCORE, metavar="NAME", help=help
    )
    help = "how many of the most abnormal pictures to show (default: %(default)s)"
    parser.add_argument("--show", type=int, default=10, metavar="N", help=help)
    help = "folder to write (default: screened, in the folder of the run)"
    parser.add_argument("--output", type=ae.user_path, metavar="FOLDER", help=help)
    add_picture_flags(parser)
    sys.exit(ae.run_command(main, parser))
