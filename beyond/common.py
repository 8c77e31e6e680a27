"""What the commands of this folder share."""

import contextlib
import math
import sys
import tempfile
import unicodedata
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from tqdm import tqdm

import autoencoder as ae
from beyond.kinds import KINDS

# For Japanese names of files. matplotlib's own font has no Japanese. Those that are installed are used.
JAPANESE_FONTS = {"Noto Sans CJK JP", "IPAGothic", "Hiragino Sans", "Yu Gothic", "MS Gothic"}
matplotlib.rcParams["font.family"] += sorted(JAPANESE_FONTS & {*font_manager.get_font_names()})
warnings.filterwarnings("ignore", "Glyph .* missing")  # it is drawn as a box


def open_network(logdir):
    """Returns the network that was trained in logdir, its ae.Run, and its kind, as in kinds.KINDS.
    Raises AutoEncoderError if there is no network, or if its graph is none of these."""
    run = ae.read_run(logdir)
    ae.require(run, f"{logdir} has no trained network: see python autoencoder.py")
    for kind, make in KINDS.items():
        with contextlib.suppress(ae.AutoEncoderError):  # the kind cannot have these hyperparameters
            net = make(run.hp)
            if run.info["graph"] == ae.graph_checksum(net):
                fed = run.info["training_feed"].items()
                feed = {net.X.graph.get_tensor_by_name(name): value for name, value in fed}
                return net._replace(training_feed=feed), run, kind
    hint = "open it in a script of your own, by autoencoder.restore"
    names = f"{', '.join(KINDS)}, with their default arguments"
    raise ae.AutoEncoderError(f"the graph of {logdir} is none of {names}: {hint}")


@contextlib.contextmanager
def load_run(logdir, data_dir=None):
    """Opens the network that was trained in logdir. Yields session, Network and DataSets.

    data_dir: where its data is now; by default, where it was when the network was trained.
    Raises AutoEncoderError as open_network does, if it was trained on other data, or if its data was
    not read from a file.
    """
    net, run, kind = open_network(logdir)
    data_dir = data_dir or run.info["data_dir"]
    if data_dir is None or not Path(data_dir).exists():
        found = f"{data_dir} does not exist" if data_dir else f"{logdir} was trained on arrays"
        raise ae.AutoEncoderError(f"{found}: pass its data, a folder or .npz, with --data_dir")
    data = ae.read_data_sets(data_dir)
    with ae.start_session(net) as sess:
        epochs = len(ae.restore(sess, net, data, logdir))
        print(f"network: {logdir}, {kind}, trained for {epochs} of {net.hp.epoch_n} epochs")
        yield sess, net, data


@contextlib.contextmanager
def new_path(path):
    """Yields a path to write a file or a folder at, which becomes `path` at the end. If the process is
    killed, or the disk is full, what was at `path` is still there. A killed process leaves a hidden
    folder beside it. Raises AutoEncoderError if it cannot be written."""
    with ae.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            part = Path(folder, path.name)
            yield part
            part.replace(path)


def check_output(output, pictures):
    """Raises AutoEncoderError if an output is inside a folder of pictures."""
    is_inside = output.resolve().is_relative_to(pictures.resolve())
    hint = "its pictures would be read the next time: choose an output elsewhere"
    ae.require(not is_inside, f"{output} is inside {pictures}, and {hint}")


def progress_bar(description, iterable=None, total=None):
    """Returns a tqdm bar, which counts the elements of the iterable, or calls of its `update`. It is
    shown on a terminal or in a notebook, and cleared at its end. If there is an iterable, it appears
    only after one second."""
    # A notebook stores what is written to stderr as an error.
    stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    is_hidden = not ae.is_interactive(stream)
    delay = 0 if iterable is None else 1  # a cleared bar leaves an empty line in a notebook
    return tqdm(
        iterable, description, total, leave=False, file=stream, delay=delay, disable=is_hidden
    )


def train_with_bar(sess, net, data, logdir=None, on_epoch=None, loop=None):
    """Trains as autoencoder.train does, with a bar that counts the epochs in place of its lines.
    Returns a list of Epoch."""
    with progress_bar("training", total=net.hp.epoch_n) as bar:

        def update(epoch):
            bar.update()
            if on_epoch:
                on_epoch(epoch)

        return ae.train(
            sess, net, data, logdir, loop=loop, on_epoch=update, show=lambda *args, **kwargs: None
        )


def run_batches(sess, net, fetches, images, description):
    """Returns what the session computes from images (n, X_n), 1,000 at a time, with a bar.

    fetches: a tensor (batch, ...), or a dict of such. Returns an array (n, ...), or a dict of such.
    """
    batches = ae.run_batches(sess, fetches, net.X, images, 1000)
    bar = progress_bar(description, batches, total=math.ceil(len(images) / 1000))
    return ae.tf.nest.map_structure(
        lambda *parts: np.concatenate(parts), *[result for _, result in bar]
    )


def encode_images(sess, net, images):
    """Returns Z (n, Z_n) of images (n, X_n)."""
    return run_batches(sess, net, net.Z, images, "encoding")


def tutorial_score(G, X):
    """Returns half the squared error of 100 images, the tutorial's score, whatever the loss is.
    G, X: (n, X_n)"""
    squared_error = np.square(G - X).sum(dtype=np.float64)
    return ae.REPORTED_IMAGES * squared_error / 2 / len(X)


def add_seeds(parser):
    """Adds --seed to a parser, with one or more seeds."""
    help = "seeds: a network is trained for each (default: 0)"
    parser.add_argument(
        "--seed", dest="seeds", type=int, nargs="+", default=[0], metavar="N", help=help
    )


def check_labels(data):
    """Raises AutoEncoderError if the training or the test images have no labels."""
    if data.train.labels is None or data.test.labels is None:
        raise ae.AutoEncoderError("the images have no labels, and this needs them")


def mean_sd(values, spec):
    """Returns the mean of values as text, with their standard deviation if they differ."""
    mean = format(np.mean(values), spec)
    if np.ptp(values) == 0:
        return mean
    return f"{mean} ± {format(np.std(values, ddof=1), spec)}"


def format_table(*rows):
    """Returns rows of cells as text, in columns."""

    def width(text):  # on a terminal, on which a Japanese character is twice as wide as others
        return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)

    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [" " * (n - width(cell)) + cell for cell, n in zip(row, widths)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
