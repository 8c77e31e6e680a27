"""Screens pictures by a trained network: what it cannot reconstruct is abnormal.

    python -m beyond.screen PICTURES [--logdir logs/AutoEncoder] [--invert] [--center]

Writes screened.png, of the most abnormal pictures, and scores.csv (file, flag, the deciding score, and
all scores by their names) into LOGDIR/screened.
"""

import csv
import math
import sys
from pathlib import Path

import numpy as np
import scipy.stats

import autoencoder as ae
from beyond import anomaly, common
from beyond.baselines import NAMES, make_baselines
from beyond.pca import describe_baselines
from beyond.pictures import add_picture_flags, as_images, read_pictures

NORMAL_FOLDERS = ("good", "normal", "ok", "良品", "正常")  # starts of their names


def read_images(path, data_path, X_n, invert, center, with_masks):
    """Reads pictures for a network of X_n pixels, or its images from a .npy file.

    path: a picture, a folder of pictures, or a .npy file. data_path: of the training images. If
    beyond.pictures made them, the pictures are made likewise, and a flag that it was not given is
    refused. with_masks: see read_pictures.
    Returns images (n, X_n); for each the name of its file, or its index in an array, as text; and the
    names of pictures that cannot be read, have a single grey, or have nothing to center or to align.
    Raises AutoEncoderError if they do not fit the network.
    """
    options = {"invert": invert, "center": center}
    if path.suffix == ".npy":
        ae.require(not (invert or center), "--invert and --center are for pictures, not arrays")
        try:
            array = np.load(path)
        except Exception as e:  # NumPy raises a dozen kinds for damaged files
            raise ae.AutoEncoderError(f"{path} cannot be read: {e}") from None
        images = ae.make_data_set(array, None, str(path)).images
        if images.shape[1] != X_n:
            raise ae.AutoEncoderError(f"{path} has images of {images.shape[1]} pixels, not {X_n}")
        return images, list(map(str, range(len(images)))), []
    if data_path.suffix == ".npz":
        with np.load(data_path) as arrays:
            for name in options.keys() & arrays.keys():
                is_given = options[name]
                options[name] = bool(arrays[name])
                ae.require(options[name] or not is_given, f"{data_path} was made without --{name}")
            if "reference" in arrays:
                options["reference"] = arrays["reference"]
    size = round(X_n**0.5)
    ae.require(size**2 == X_n, f"the network's images are not square: they have {X_n} pixels")
    pictures, files, unread = read_pictures(path, size, **options, with_masks=with_masks)
    return as_images(pictures), list(map(as_text, files)), list(map(as_text, unread))


def as_text(file):
    """Returns a path as text. A name may have bytes that are no characters."""
    return str(file).encode(errors="backslashreplace").decode()


def plot_screened(sess, net, images, detector, titles):
    """Draws images X (n, X_n), their reconstructions G, and where they are abnormal: |G - X|, divided by
    what is usual for the pixel in training images, and by the maximum of the image. detector:
    anomaly.Detector; titles: (n,), text. Returns a Figure."""
    G = sess.run(net.G, {net.X: images})
    D = abs(G - images) / np.sqrt(detector.usual)
    D /= D.max(axis=1, keepdims=True) + 1e-9
    figure = ae.plot_images({"X": images, "G": G, "|G − X|": D}, cmap="gray")
    for axes, title in zip(figure.axes, titles):
        axes.set_title(title, fontsize="x-small", parse_math=False)  # a $ in a name is no formula
    return figure


def print_fit(sess, net, data):
    """Prints the score of the validation images by the network, PCA and the mean picture, with a warning if
    the network reconstructs them badly."""
    validation = data.validation.images
    scores = []
    for images in (data.train.images[: len(validation)], validation):
        G = common.run_batches(sess, net, net.G, images, "reconstructing")
        scores.append(common.tutorial_score(G, images))
    train_score, score = scores
    baselines, mean_score = describe_baselines(data, net.hp.Z_n)
    print(f"validation score: network {score:.1f}, {baselines}")
    is_overfit = score > 3 * train_score
    if is_overfit:
        print(f"its score of training images is only {train_score:.1f}: it is overfitted")
    if score > 0.8 * mean_score:
        hint = "more pictures, fewer epochs, or pictures that are more alike"
        print("the network is hardly better than the mean picture, so do not trust it:")
        print(f"it needs {hint if is_overfit else 'more epochs'}")


def folder_table(folders, flags, scores):
    """Returns a table, as text, of the pictures in each subfolder: how many there are, what share is
    flagged, and the median score. folders, flags, scores: (n,)"""
    table = [("folder", "pictures", "flagged", "median score")]
    for folder in np.unique(folders):
        rows = folders == folder
        share = f"{flags[rows].mean():.1%}"
        table.append((folder, rows.sum(), share, f"{np.median(scores[rows]):.1f}"))
    return common.format_table(*table)


def print_aurocs(kinds, scores, score):
    """Prints the AUROC of each abnormal subfolder by each score, and whether there is a better one than the
    deciding `score`. kinds: names of folders, or "normal" (n,); scores: {name: (n,)}"""
    found = anomaly.aurocs(scores, kinds)
    names = np.unique(kinds[kinds != "normal"])
    print(f"AUROC\n{anomaly.mean_table([[found]], scores, names)}")
    means = {name: np.mean([found[name, folder] for folder in names]) for name in scores}
    best = max(means, key=means.get)
    if means[best] < 0.75:
        print(f"no score finds them well: the highest mean is that of {best}, {means[best]:.3f}")
        print("(below 0.5: the abnormal pictures have lower scores than the normal ones)")
    elif means[best] > means[score] + 0.005:
        print(f"{best} has the highest mean, {means[best]:.3f}: --score {best} flags by it")


def print_difference(images, validation):
    """Prints why most pictures may be flagged. images: those that are screened, (n, X_n); validation: those
    of the training, (m, X_n)"""
    means = [f"{part.mean():.2f} ± {part.std(axis=1).mean():.2f}" for part in (images, validation)]
    print(f"more than half is flagged. Mean grey and contrast: {means[0]}, in training {means[1]}.")
    print("If these pictures are normal, likely reasons: another part, place or light than in")
    print("training; several shots of each part in training; dark on bright and bright on dark")
    print("(--invert), or not centered (--center)")


def title(name, score, mark):
    """Returns the title of a picture: its folder, its name, both shortened at the front, and its score."""
    parts = [part if len(part) <= 15 else f"…{part[-14:]}" for part in Path(name).parts]
    return "\n".join([*parts[-2:], f"{score:.1f}{mark}"])


def expected_share(k, n):
    """Returns the share of new normal images that exceed the (k + 1)th highest of n, as text: the interval
    from the 5th to the 95th percentile of its distribution, whatever that of the scores is."""
    low, high = scipy.stats.beta.ppf([0.05, 0.95], k + 1, n - k)
    return f"{low:.1%} to {high:.1%}"


def write_files(folder, texts, unread, figure):
    """Writes scores.csv and screened.png into a folder. texts: {column: text of each picture (n,)}; unread:
    names of pictures that are not scored."""
    csv_file, png_file = folder / "scores.csv", folder / "screened.png"
    with common.new_path(csv_file) as csv_path, common.new_path(png_file) as png_path:
        # A spreadsheet takes it for UTF-8 if it has a byte order mark.
        with open(csv_path, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([texts, *zip(*texts.values())])
            writer.writerows([name, "not scored"] for name in unread)
        figure.savefig(png_path, dpi=100)


def print_folders(names, scores, flags_by, score):
    """Prints how many pictures in each subfolder are flagged, and how well each score finds those outside the
    normal folders. If there are not both, prints how many pictures each score flags.

    names: of the pictures (n,); scores, flags_by: {name of a score: (n,)}; score: the deciding one.
    Returns whether each picture is in a normal folder (n,)."""
    paths = [Path(name) for name in names]
    folders = np.array([path.parts[0] if path.parent.name else "." for path in paths])
    in_folder = folders != "."
    flags = flags_by[score]
    if in_folder.any():
        print(folder_table(folders, flags, scores[score]))
    normal = [name for name in np.unique(folders) if name.lower().startswith(NORMAL_FOLDERS)]
    is_normal = np.isin(folders, normal)
    kinds = np.where(is_normal, "normal", folders)[in_folder]
    if normal and len(np.unique(kinds)) > 1:
        print(f"normal: {', '.join(normal)}")
        in_folders = {name: values[in_folder] for name, values in scores.items()}
        print_aurocs(kinds, in_folders, score)
    else:
        rows = [(name, by.sum(), (by & flags).sum()) for name, by in flags_by.items()]
        print(common.format_table(("score", "flagged", f"by {score}, too"), *rows))
        print("how well does each find the abnormal ones? Screen subfolders: good, and others")
    return is_normal


def main(args):
    """Scores how abnormal PICTURES are, by the network in --logdir and by baselines, in standard deviations
    of the validation images. Flags those whose score exceeds that of 95% of these; with --rate 0.01, of
    99%. Pictures are made grey and fitted into the size of the network's images."""
    ae.require(0 < args.rate < 1, f"--rate must be between 0 and 1, not {args.rate}")
    ae.require(1 <= args.show <= 50, f"--show must be from 1 to 50, not {args.show}")
    with common.load_run(args.logdir, args.data_dir) as (sess, net, data):
        folder = args.output or args.logdir / "screened"
        common.check_output(folder, args.pictures)
        options = args.invert, args.center, args.all
        images, names, unread = read_images(args.pictures, data.path, net.hp.X_n, *options)
        print_fit(sess, net, data)
        baselines = make_baselines(data, net.hp.Z_n)
        detector = anomaly.make_detector(sess, net, data, args.rate, baselines)
        scores, flags_by = anomaly.detect(sess, net, images, detector)
        deciding, flags = scores[args.score], flags_by[args.score]
        shown = np.argsort(-deciding, kind="stable")[: args.show]
        marks = np.where(flags, " !", "")
        titles = [title(names[i], deciding[i], marks[i]) for i in shown]
        figure = plot_screened(sess, net, images[shown], detector, titles)
    texts = {"file": names, "flag": flags.astype(int).astype(str)}
    for name, values in ({"score": deciding} | scores).items():
        texts[name] = np.char.mod("%.3f", values)
    write_files(folder, texts, unread, figure)
    parts = anomaly.PARTS if args.score in anomaly.SCORES else ()
    columns = list(dict.fromkeys([*parts, args.score, "flag", "file"]))
    print(common.format_table(columns, *([texts[name][i] for name in columns] for i in shown)))
    is_normal = print_folders(names, scores, flags_by, args.score)
    should_be_normal = is_normal if is_normal.any() else np.ones_like(is_normal)
    if flags[should_be_normal].mean() > 0.5:
        print_difference(images[should_be_normal], data.validation.images)
    n = data.validation.num_examples
    k = n - math.ceil(n * (1 - args.rate))  # as np.quantile counts
    share = expected_share(k, n)
    above = f"{args.score} above {detector.thresholds[args.score]:.4g}"
    print(f"flagged: {flags.sum()} of {len(flags)}, by {above},")
    print(f"which {k} of {n} validation images of {data.path} may exceed. So, of new normal")
    print(f"pictures, {share} are flagged, with a probability of 90%, if the validation")
    print("images differ from each other as the new ones do")
    if unread:
        print(f"not scored: {len(unread)}, named in scores.csv: look at them, too")
    print(f"picture and scores: screened.png and scores.csv in {folder}")


if __name__ == "__main__":
    example = "python -m beyond.screen photographs --invert --center"
    parser = ae.Parser("python -m beyond.screen", main.__doc__, example)
    parser.add_data_dir(None, "the run's")
    parser.add_logdir()
    help = "picture, folder of pictures, or .npy file of images"
    parser.add_argument("pictures", type=ae.user_path, metavar="PICTURES", help=help)
    anomaly.add_score_flags(parser, (*anomaly.SCORES, *NAMES))
    help = "how many of the most abnormal pictures to show (default: %(default)s)"
    parser.add_argument("--show", type=int, default=10, metavar="N", help=help)
    help = "folder to write (default: screened, in the folder of the run)"
    parser.add_argument("--output", type=ae.user_path, metavar="FOLDER", help=help)
    add_picture_flags(parser)
    sys.exit(ae.run_command(main, parser))
