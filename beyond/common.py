"""What the commands of this folder share."""

import contextlib
import sys
import types
from pathlib import Path

import numpy as np

import autoencoder as ae


@contextlib.contextmanager
def load_run(logdir, data_dir=None):
    """Opens the network that was trained in logdir. Yields session, Graph and DataSets.

    data_dir: where its data is now; by default, where it was when the network was trained.
    Raises AutoEncoderError if there is no network, if it was trained on other data, or if its data
    was not read from a file.
    """
    if ae.tf.train.latest_checkpoint(Path(logdir, "checkpoints")) is None:
        raise ae.AutoEncoderError(f"{logdir} has no trained network: see python autoencoder.py")
    hp, saved = ae.read_run(logdir)
    data_dir = data_dir or saved["data_dir"]
    if data_dir is None:
        raise ae.AutoEncoderError(
            f"{logdir} was trained on arrays: pass them as a .npz, --data_dir"
        )
    data = ae.read_data_sets(data_dir)
    g = ae.build(hp)
    with ae.start_session(g) as sess:
        with contextlib.redirect_stdout(None):  # nothing is resumed
            epochs = len(ae.restore(sess, g, data, logdir, ae.make_saver(g)))
        print(f"network: {logdir}, trained for {epochs} of {hp.epoch_n} epochs")
        yield sess, g, data


def in_batches(rows, description, size=1000):
    """Yields `size` rows at a time. On a terminal, prints how many percent are done."""
    for start in range(0, len(rows), size):
        if sys.stderr.isatty():
            percent = 100 * start // len(rows)
            print(f"\r{description}: {percent}%", end="", file=sys.stderr, flush=True)
        yield rows[start : start + size]
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_line_progress():
    """Shows what is printed inside on one line, and clears it at the end. In a file, shows nothing.

    Only the first 79 characters of a text are shown, because a longer line would wrap.
    """
    stdout = sys.stdout
    is_shown = ae.is_interactive()
    clear_line = f"\r{' ' * 79}\r"
    line = types.SimpleNamespace(
        write=lambda text: is_shown and stdout.write(text[:79].replace("\n", clear_line)),
        flush=stdout.flush,
        isatty=stdout.isatty,
    )
    with contextlib.redirect_stdout(line):
        yield


def encode_images(sess, g, images):
    """Z of images (n, X_n), bytes or floats. -> (n, Z_n)"""
    batches = in_batches(images, "encoding")
    return np.concatenate([sess.run(g.Z, {g.X: ae.to_float(batch)}) for batch in batches])


def check_labels(data):
    if data.train.labels is None or data.test.labels is None:
        raise ae.AutoEncoderError("the images have no labels, and this needs them")


def format_table(*rows):
    """Rows of cells as text, in columns."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(cell.rjust(n) for cell, n in zip(row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
