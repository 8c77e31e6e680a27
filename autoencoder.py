"""An autoencoder for MNIST in the style of TensorFlow 1: build a graph, open a session, run it.

    read_data_sets -> inputs -> encode -> decode -> l2_loss -> training     (together: build)
                   -> start -> train -> evaluate -> plot_reconstruction

and what the tutorial asks for and leaves out: compare (with PCA), tune, detect (what is abnormal);
and export, for programs without this module.

| symbol     | shape          | description                                                  |
|------------|----------------|--------------------------------------------------------------|
| X          | (batch, X_n)   | images, float32 in [0, 1]; one row is one image of 28 x 28   |
| Z          | (batch, Z_n)   | latent variables: what is left of an image in Z_n numbers    |
| G          | (batch, X_n)   | images generated from Z, in (0, 1)                           |
| loss       | ()             | sum over batch and pixels of (G - X)^2 / 2                   |
| w, b       | (n, m), (m,)   | weights and biases of a layer, in the scope of that layer    |
| enc_n      |                | outputs of each layer of the encoder: 500, 300               |
| dec_n      |                | outputs of each layer of the decoder: 300, 500               |
| epoch_n    |                | how often training goes through all training images          |
| batch_size |                | images in a minibatch                                        |

Scopes, in the order of the data: X, Encoder/Layer01, Encoder/Layer02, Z, Decoder/Layer01,
Decoder/Layer02, G, loss; and training. The program that makes training fast is in `steps`.

Every loss that is printed, returned or written to TensorBoard is for 100 images, the tutorial's
minibatch, so that it means the same whatever batch_size is.

As a script: python autoencoder.py --help
"""

import signal

if __name__ == "__main__":  # until main(), Ctrl-C just ends the process
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import csv
import dataclasses
import gzip
import hashlib
import http.client
import io
import json
import math
import numbers
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

try:
    import fcntl
except ImportError:  # Windows has none: there nothing keeps two runs out of one folder
    fcntl = None

# What TensorFlow says at every start, whatever the machine: notes of level INFO, and that there is
# no CUDA driver (error 303, its library is absent). A driver that is there and fails is not.
START_UP_NOISE = rb"I0000 |WARNING: All log messages before|.*UNKNOWN ERROR \(303\)"


@contextlib.contextmanager
def without_noise(noise=START_UP_NOISE):
    """Holds back what is written to file descriptor 2, then passes on all lines but `noise`.

    TF_CPP_MIN_LOG_LEVEL does not do it: TensorFlow 2.21 writes these lines before it reads it.
    """
    with tempfile.TemporaryFile() as held_back:
        stderr = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held_back.seek(0)
            for line in held_back:
                if not re.match(noise, line):
                    os.write(2, line)


def note(text):
    """Shows a line on the terminal, if there is one, until the next takes its place."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.stdout = sys.stdout or open(os.devnull, "w")  # None where it is closed
    sys.stderr = sys.stderr or open(os.devnull, "w")
    note("loading TensorFlow ...")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # later INFO lines; warnings and errors stay
with without_noise():
    import tensorflow.compat.v1 as tf
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.plugins import projector
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams import summary as hparams_summary
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    note("")

if tf.__version__.startswith("2.21."):  # XLA dies of a flag that it does not know
    # Without it, a compiled loop copies most of the weights at each step.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_copy_insertion_use_region_analysis=true")

HERE = Path(__file__).resolve().parent
DATA_DIR = HERE / "MNIST_data"
LOGDIR = HERE / "logs" / "AutoEncoder"


class AutoEncoderError(Exception):
    """What the user can put right; its text says what is wrong, where, and what to do."""


class Diverged(AutoEncoderError):
    """The loss is no longer a number."""


# ---- Hyperparameters -----------------------------------------------------------------------------


def _field(default, help, least=1, most=10**6, choices=()):
    metadata = {"help": help, "least": least, "most": most, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class HParams:
    """The hyperparameters; the defaults are the tutorial's. AutoEncoderError names a wrong one."""

    X_n: int = _field(784, "pixels of an image, in the shell those of the data")
    enc_n: tuple[int, ...] = _field((500, 300), "outputs of each layer of the encoder")
    Z_n: int = _field(20, "latent variables")
    dec_n: tuple[int, ...] = _field((300, 500), "outputs of each layer of the decoder")
    activation: str = _field("relu", "of the hidden layers", choices=("relu", "swish"))
    Z_activation: str = _field("relu", "of Z", choices=("relu", "linear"))
    init: str = _field("normal", "how weights are drawn", choices=("normal", "he", "glorot"))
    epoch_n: int = _field(10, "how often to go through all training images")
    batch_size: int = _field(100, "images in a minibatch")
    learning_rate: float = _field(0.001, "step size of Adam", most=1e38)
    schedule: str = _field("constant", "of learning_rate", choices=("constant", "cosine"))
    seed: int = _field(0, "same seed, same machine: same weights, bit for bit", 0, 2**31 - 1)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least, most, choices = (field.metadata[key] for key in ("least", "most", "choices"))
            many = isinstance(field.default, tuple)
            kind = type(field.default[0] if many else field.default)
            if kind is str:
                what, right = " or ".join(choices), lambda v: v in choices
            elif kind is int:
                what = f"a whole number from {least} to {most}"
                right = lambda v: isinstance(v, numbers.Integral) and least <= v <= most
            else:
                what = f"a number above 0, at most {most:g}"
                right = lambda v: isinstance(v, numbers.Real) and 0 < v <= most
            values = value if many and isinstance(value, (list, tuple)) else [value]
            for v in values:
                if isinstance(v, bool) or not right(v):
                    raise AutoEncoderError(f"{field.name} must be {what}, not {v!r}")
            values = tuple(kind(v) for v in values)
            object.__setattr__(self, field.name, values if many else values[0])


RECIPES = {
    "seed": HParams(),
    # The best on validation images of the 40 trials of `python autoencoder.py tune --trials 40`,
    # drawn from the 144 combinations of SPACE: trial 39, validation loss 225.6.
    "tuned": HParams(
        activation="swish",
        Z_activation="linear",
        init="he",
        batch_size=50,
        learning_rate=0.004,
        schedule="cosine",
    ),
}


# ---- Input data ----------------------------------------------------------------------------------

# SHA-256 of each file of MNIST, unpacked.
MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)


class DataSet(NamedTuple):
    pixels: np.ndarray  # (n, X_n) uint8, as in the file; or float32 in [0, 1]
    labels: np.ndarray | None  # (n,) uint8, or (n, 10) float64 when one_hot; None: there are none

    @property
    def images(self):
        """(n, X_n) float32 in [0, 1], made anew each time: a quarter of its memory is in pixels."""
        return scaled(self.pixels)


BYTE = np.float32(1 / 255)  # multiplied by, not divided by 255: the tutorial's own rounding


def scaled(pixels):
    """Bytes as float32 in [0, 1]; floats as they are."""
    return np.multiply(pixels, BYTE, dtype=np.float32) if pixels.dtype == np.uint8 else pixels


def as_bytes(images):
    """Floats in [0, 1] as bytes."""
    return np.uint8(np.round(255 * images))


class DataSets(NamedTuple):
    train: DataSet
    validation: DataSet
    test: DataSet


def read_data_sets(data_dir=DATA_DIR, one_hot=False, validation_size=None):
    """Reads MNIST, or images of your own, from `data_dir`, which is one of these:

    - a folder of IDX files, gzip-compressed or not, with MNIST's names or EMNIST's; of a folder that
      holds several of EMNIST's sets, the name of one: gzip/emnist-letters
    - a .npz, or a folder of .npy, with Keras's names: x_train, y_train, x_test, y_test
    - what read_images reads, without labels: a .npy, a .npz of one array, a folder of PNGs

    Labels and test images may be absent. Without test images, a seventh of all, at most 10,000, is
    drawn for test, and half as many for validation, always the same. Else the first
    `validation_size` training images are for validation, by default a twelfth, at most 5,000.

    Answers what tensorflow.examples.tutorials.mnist.input_data.read_data_sets answered: `.train`,
    `.validation` and `.test`, each with `.images` and `.labels`. A file of MNIST that is missing is
    fetched from MIRRORS. A file that is damaged or does not fit the others is left as it is, and
    AutoEncoderError names it.
    """
    note(f"reading {data_dir} ...")
    read, names = _read_parts(Path(data_dir))
    note("")
    labelled = any(name in read for name in ("y_train", "y_test"))
    tested = any(name in read for name in ("x_test", "y_test"))
    for name, what in ARRAYS.items():
        if name not in read and (labelled or name[0] == "x") and (tested or "train" in name):
            raise AutoEncoderError(f"{what} are missing from {data_dir}")
    known, test = _data_set(read, names, "train", one_hot), _data_set(read, names, "test", one_hot)
    n = len(known.pixels)
    drawn = 0 if test else min(10_000, n // 7)
    if validation_size is None:
        validation_size = min(5000, n // 12) if test else drawn // 2
        if not validation_size:
            least = 12 if test else 14
            raise AutoEncoderError(
                f"{names['x_train']} holds {n} images: at least {least} are needed"
            )
    if not 0 < validation_size < n - drawn:
        raise AutoEncoderError(
            f"validation_size is {validation_size}, but {names['x_train']} holds {n} images"
        )
    if test is None:
        known = DataSet(*(_drawn_to_the_front(a, drawn + validation_size) for a in known))
        test, known = _part(known, 0, drawn), _part(known, drawn, n)
    elif known.pixels.shape[1] != test.pixels.shape[1]:
        raise AutoEncoderError(
            f"{names['x_train']} and {names['x_test']} hold images of different sizes"
        )
    validation, train = _part(known, 0, validation_size), _part(known, validation_size, n)
    return DataSets(train, validation, test)


def _data_set(read, names, part, one_hot):
    images, labels = read.get(f"x_{part}"), read.get(f"y_{part}")
    if images is not None and labels is not None:
        images_name, labels_name = names[f"x_{part}"], names[f"y_{part}"]
        if len(images) != len(labels):
            raise AutoEncoderError(
                f"{images_name} holds {len(images)} images, but {labels_name} {len(labels)} "
                f"labels: they do not belong together"
            )
        if one_hot and labels.max() > 9:
            raise AutoEncoderError(f"{labels_name} holds labels above 9: too many for one_hot")
        labels = np.eye(10)[labels] if one_hot else labels
    return None if images is None else DataSet(images, labels)


def _part(data_set, first, last):
    return DataSet(*(None if array is None else array[first:last] for array in data_set))


def _drawn_to_the_front(array, k):
    """The array with k drawn rows in front, in place where it can be: it may fill the memory."""
    if array is None:
        return None
    rng = np.random.default_rng(0)  # anew, so that labels are drawn as their images
    drawn = rng.permutation(len(array))[:k]
    array = array if array.flags.writeable else array.copy()
    front, far = np.setdiff1d(np.arange(k), drawn), drawn[drawn >= k]
    array[front], array[far] = array[far], array[front]
    array[:k] = array[:k][rng.permutation(k)]
    return array


# The names of Keras; the files of MNIST have the same order.
ARRAYS = {
    "x_train": "training images",
    "y_train": "training labels",
    "x_test": "test images",
    "y_test": "test labels",
}
IDX_NAME = r"(.*?)(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?"


def _read_parts(path):
    """{name of ARRAYS: images (n, X_n) or labels (n,)}, and {name: where they are, as text}."""
    if paths := _idx_paths(path):
        images = {k: _flat(read_idx(p, 3), p) for k, p in paths.items() if k[0] == "x"}
        return images | {k: read_idx(p, 1) for k, p in paths.items() if k[0] == "y"}, paths
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower() in (".npy", ".npz")]
    if not files:
        if path.is_dir() and not any(p.suffix.lower() == ".png" for p in path.iterdir()):
            raise AutoEncoderError(f"{path} holds no images: no IDX files, no .npy, .npz or .png")
        return {"x_train": read_images(path)[0]}, {"x_train": path}
    read = {name: array for file in files for name, array in _arrays(file).items()}
    if len(read) == 1:
        read, names = {"x_train": read.popitem()[1]}, {"x_train": path}
    else:
        names = {name: f"{path}: {name}" for name in ARRAYS if name in read}
        if "x_train" not in names:
            raise AutoEncoderError(
                f"{path} must hold one array, or x_train, not {', '.join(read) or 'none'}"
            )
    images = {k: _in_range(_flat(read.pop(k), v), v)[0] for k, v in names.items() if k[0] == "x"}
    return images | {k: _labels(read[k], v) for k, v in names.items() if k[0] == "y"}, names


def _idx_paths(path):
    """{name of ARRAYS: path} of the IDX files in a folder; those of MNIST are fetched if missing."""
    folder, sets = path if path.is_dir() else path.parent, {}
    for file in sorted(folder.glob("*-ubyte*")):  # x before x.gz
        if match := re.fullmatch(IDX_NAME, file.name):
            kind, part = "x" if match[3] == "images" else "y", match[2].replace("t10k", "test")
            sets.setdefault(match[1].rstrip("-"), {}).setdefault(f"{kind}_{part}", file)
    if folder == path:
        if len(sets) > 1:
            raise AutoEncoderError(
                f"{path} holds several data sets: name one, as {path / max(sets)}"
            )
        paths = next(iter(sets.values()), {})
    else:
        paths = sets.get(path.name, {})
        if not paths and not path.exists() and path != DATA_DIR:
            others = ", ".join(filter(None, sets))
            raise AutoEncoderError(f"there is no {path}{f', only {others}' if others else ''}")
    if not paths and path != DATA_DIR and not (path.is_dir() and not any(path.iterdir())):
        return {}
    mnist = dict(zip(ARRAYS, MNIST))
    # MNIST's labels beside the images of another data set would be worse than an error.
    if len(paths) < 4 and all(_is_mnist(_unpacked(p), mnist[name]) for name, p in paths.items()):
        return {name: paths.get(name) or fetch(file, path) for name, file in mnist.items()}
    return paths


def read_idx(path, dimensions):
    """Reads an IDX file of unsigned bytes, gzip-compressed or not: an array of so many dimensions.

    AutoEncoderError when it is truncated, corrupt, empty or of another kind.
    """
    content = _unpacked(Path(path))
    magic, header = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    begin = content[:header].tobytes()
    if begin[:4] != magic:
        raise AutoEncoderError(
            f"{path} is not an IDX file of {'labels' if dimensions == 1 else 'images'}: "
            f"it begins with {begin[:4].hex() or 'nothing'}, not {magic.hex()}"
        )
    shape = [int.from_bytes(begin[i : i + 4], "big") for i in range(4, header, 4)]
    if len(content) != header + math.prod(shape):
        raise AutoEncoderError(
            f"{path} is truncated or corrupt: {len(content)} bytes, "
            f"where its header promises {header + math.prod(shape)}"
        )
    if not math.prod(shape):
        raise AutoEncoderError(f"{path} is empty")
    return content[header:].reshape(shape)


def _unpacked(path):
    try:
        content = np.fromfile(path, np.uint8)
        if content[:2].tobytes() != b"\x1f\x8b":
            return content
        return np.frombuffer(gzip.decompress(content), np.uint8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise AutoEncoderError(f"{path} is truncated or corrupt: {e}") from None
    except OSError as e:
        raise AutoEncoderError(f"{path} cannot be read: {e.strerror}") from None


def _is_mnist(content, name):
    return sha256(content) == MNIST[name]


def fetch(name, data_dir):
    """Fetches the file `name` of MNIST into `data_dir`, and answers its path.

    It gets its name only when its content is MNIST's. AutoEncoderError says why each mirror failed.
    """
    reasons = []
    for url in (f"{mirror}{name}.gz" for mirror in MIRRORS):
        try:
            packed = _download(url)
            if not _is_mnist(gzip.decompress(packed), name):
                raise OSError("its content is not MNIST's")
        except (OSError, EOFError, zlib.error, http.client.HTTPException) as e:
            reasons.append(f"{url}: {e}")
        else:
            path = Path(data_dir, f"{name}.gz")
            write_whole(path, packed)
            return path
    raise AutoEncoderError(
        f"{name}.gz is not in {data_dir} and cannot be fetched ({'; '.join(reasons)}): put it there"
    )


def _download(url):
    """The content at `url`, with a progress display on stderr."""
    with urllib.request.urlopen(url, timeout=30) as response:
        content, size = b"", int(response.headers.get("Content-Length", 0))
        while chunk := response.read(1 << 16):
            content += chunk
            done = f"{100 * len(content) // size}%" if size else f"{len(content)} bytes"
            print(f"\rfetching {url}: {done}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if len(content) < size:
        raise OSError(f"ended after {len(content)} of {size} bytes")
    return content


@contextlib.contextmanager
def whole(path):
    """Yields another path, to write a file or a folder to, which becomes `path` at the end, or is
    deleted if there is an error; makes the folder around it if need be."""
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        if target.exists() and not target.is_file():  # a folder, a device
            raise OSError(0, "it is not a file")
        make_folder(target.parent)
        yield temporary
        os.replace(temporary, target)
    except BaseException as e:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
        if isinstance(e, OSError):
            raise AutoEncoderError(f"{path} cannot be written: {_reason(e)}") from None
        raise


def write_whole(path, content):
    """Writes the bytes `content` to `path`, whole or not at all; makes the folder if need be."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def make_folder(folder):
    """Makes the folder if need be; AutoEncoderError when it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise AutoEncoderError(f"{folder} is not a folder to write to: {e.strerror}") from None


def read_images(path, X_n=None):
    """Reads a user's images: (n, X_n), uint8 or float32 in [0, 1]; the names of their files, or
    None if they are all in one; and how they were read, as text.

    path: an IDX file, gzip-compressed or not; .npy or .npz, (n, X_n), (n, height, width) or
    (n, height, width, 1); a PNG, or a folder of them, which are sorted by their names. Without
    X_n, all that are of one size will do. AutoEncoderError names what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        seen = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".")]
        paths = [p for p in seen if p.suffix.lower() == ".png" and not p.name.endswith(PICTURED)]
        if not paths:
            raise AutoEncoderError(f"{path} holds no PNG files")
        others = len(seen) - len(paths)
        how = f"values 0 to 255; other files left out: {others}"
        images = np.empty((len(paths), _read_png(paths[0], X_n).size), np.uint8)
        for i, p in enumerate(paths):
            if i % 1000 == 0:
                note(f"reading {path}: {100 * i // len(paths)}%")
            images[i] = _read_png(p, images.shape[1])
        note("")
        return images, [p.name for p in paths], how if others else "values 0 to 255"
    kind = path.suffix.lower()
    if kind == ".png":
        return _read_png(path, X_n), [path.name], "values 0 to 255"
    if kind not in (".npy", ".npz"):
        return _flat(read_idx(path, 3), path, X_n), None, "values 0 to 255"
    images, values = _in_range(_flat(_one_array(path), path, X_n), path)
    return images, None, f"values {values}"


PICTURED = ".detect.png"  # what detect draws has such a name: no image to read, in a folder


def _one_array(path):
    arrays = _arrays(path)
    if len(arrays) != 1:
        names = ", ".join(arrays)
        raise AutoEncoderError(f"{path} must hold one array, not {len(arrays)}: {names}")
    return arrays.popitem()[1]


def _arrays(path):
    """{name: array} of a .npz; of a .npy, whose name is that of its file."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            return dict(loaded)
    except OSError as e:
        raise AutoEncoderError(f"{path} cannot be read: {e.strerror or e}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError):
        raise AutoEncoderError(f"{path} is not an array of numbers, or damaged") from None


def _read_png(path, X_n):
    try:
        image = matplotlib.image.imread(path, format="png")
    except (OSError, SyntaxError, ValueError) as e:  # Pillow says so of a damaged file
        reason = getattr(e, "strerror", None) or "not a PNG, or damaged"
        raise AutoEncoderError(f"{path} cannot be read: {reason}") from None
    if image.ndim == 3:
        if (image[..., 3:] != 1).any():
            raise AutoEncoderError(f"{path} is transparent: it must be white or grey on black")
        if (image[..., :1] != image[..., :3]).any():
            raise AutoEncoderError(f"{path} is in colour: it must be greyscale")
        image = image[..., 0]
    return as_bytes(_flat(image[None], path, X_n, image.shape))


def _flat(array, path, X_n=None, shape=None):
    """(n, X_n) of (n, X_n), (n, height, width) or (n, height, width, 1)."""
    if X_n and array.shape == squares(np.empty(X_n)).shape != (1, X_n):
        array = array[None]  # a single image
    _, *size = array.shape or (0,)
    size = size[:2] if size[2:] == [1] else size
    pixels = math.prod(size)
    fits = array.size and (len(size) == 1 or tuple(size) == squares(np.empty(pixels)).shape)
    if not fits or X_n not in (None, pixels):
        found = " x ".join(map(str, shape or array.shape)) or "one number"
        wanted = "one square size, greyscale"
        if X_n:
            wanted = " x ".join(map(str, squares(np.empty(X_n)).shape))
        raise AutoEncoderError(f"{path} is {found}: it must hold images of {wanted}")
    return array.reshape(len(array), pixels)


def _in_range(images, path):
    if images.dtype.kind not in "buif":
        raise AutoEncoderError(f"{path} holds {images.dtype}, not numbers")
    least, most = images.min(), images.max()
    if not (least >= 0 and most <= 255):  # NaN as well
        raise AutoEncoderError(
            f"{path} holds values from {least:g} to {most:g}: they must be 0 to 1, or 0 to 255"
        )
    if most <= 1:
        return images.astype(np.float32), "0 to 1"
    if images.dtype.kind == "f":
        return np.float32(images / 255), "0 to 255"
    return images.astype(np.uint8, copy=False), "0 to 255"


def _labels(array, path):
    labels = array.reshape(len(array)) if array.ndim and array.size == len(array) else array
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "ui"
        or not ((0 <= labels) & (labels <= 255)).all()
    ):
        raise AutoEncoderError(f"{path} must hold a whole number from 0 to 255 for each image")
    return labels.astype(np.uint8)


# ---- Model architecture --------------------------------------------------------------------------


class Graph(NamedTuple):
    hp: HParams
    X: tf.Tensor  # (batch, X_n): feed images
    Z: tf.Tensor  # (batch, Z_n): feed it to decode, fetch it to encode
    G: tf.Tensor  # (batch, X_n)
    loss: tf.Tensor  # (), of the minibatch that is fed
    rate: tf.Tensor  # (), step size of the next step: hp.learning_rate unless it is fed
    opt: tf.Operation  # run it: one step of Adam on the minibatch that is fed
    init: tf.Operation  # run it once: draws weights and biases


ACTIVATIONS = {
    "relu": tf.nn.relu,
    "swish": tf.nn.swish,  # x sigmoid(x)
    "linear": tf.identity,
    "sigmoid": tf.sigmoid,
}
# Truncated normal; standard deviation (2 / n)^0.5, or (2 / (n + m))^0.5, of the weights (n, m).
INITS = {"he": tf.initializers.he_normal, "glorot": tf.initializers.glorot_normal}


def inputs(hp):
    """The images X: (batch, X_n) float32, to be fed."""
    with tf.name_scope("X"):
        return tf.placeholder(tf.float32, [None, hp.X_n])


def variable(shape, name, hp):
    """New weights or biases; their seed is their own, drawn from hp.seed and their name."""
    full_name = f"{tf.get_default_graph().get_name_scope()}/{name}"
    seed = int(np.random.SeedSequence([hp.seed, *full_name.encode()]).generate_state(1)[0]) % 2**31
    if hp.init == "normal":
        value = tf.truncated_normal(shape, stddev=0.1, seed=seed)
    elif name == "b":
        value = tf.zeros(shape)
    else:
        value = INITS[hp.init](seed=seed)(shape)
    return tf.Variable(value, name=name)


def encode(X, hp, variable=variable):
    """X: (batch, X_n) -> Z: (batch, Z_n)"""
    h = X
    with tf.name_scope("Encoder"):
        for i, n in enumerate(hp.enc_n):
            h = layer(h, n, hp.activation, f"Layer{i + 1:02d}", hp, variable)
    return layer(h, hp.Z_n, hp.Z_activation, "Z", hp, variable)


def decode(Z, hp, variable=variable):
    """Z: (batch, Z_n) -> G: (batch, X_n)"""
    h = Z
    with tf.name_scope("Decoder"):
        for i, n in enumerate(hp.dec_n):
            h = layer(h, n, hp.activation, f"Layer{i + 1:02d}", hp, variable)
    return layer(h, hp.X_n, "sigmoid", "G", hp, variable)


def layer(x, n, activation, scope, hp, variable):
    """One layer, activation(x w + b), in its scope. x: (batch, m) -> (batch, n)"""
    with tf.name_scope(scope):
        w = variable([x.shape[1], n], "w", hp)
        b = variable([n], "b", hp)
        return ACTIVATIONS[activation](tf.matmul(x, w) + b)


def l2_loss(G, X):
    """How far G is from X: the sum over batch and pixels of (G - X)^2 / 2. -> ()"""
    with tf.name_scope("loss"):
        return tf.nn.l2_loss(G - X)


def training(loss, hp):
    """Adam. -> its step size, (), to be fed; one step down the gradient of `loss`, to be run"""
    with tf.name_scope("training"):
        rate = tf.placeholder_with_default(hp.learning_rate, [], "learning_rate")
        return rate, tf.train.AdamOptimizer(rate).minimize(loss)


def build(hp):
    """The whole graph, in a tf.Graph of its own: build(hp).X.graph."""
    with tf.Graph().as_default():
        X = inputs(hp)
        Z = encode(X, hp)
        G = decode(Z, hp)
        loss = l2_loss(G, X)
        rate, opt = training(loss, hp)
        return Graph(hp, X, Z, G, loss, rate, opt, tf.global_variables_initializer())


# ---- Session -------------------------------------------------------------------------------------


def start(g):
    """Opens a session on the graph, draws its weights, and says which device computes.

    A GPU is used where there is one, and only the memory that is needed of it.
    """
    sess = _session(g.X.graph)
    sess.run(g.init)
    print(f"device: {device()}")
    return sess


def device():
    """The device that computes, as text."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unnamed")
    return f"GPU, {name}"


def _session(graph, as_drawn=False):
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    # TensorFlow makes one operation of MatMul, add and Relu, unless it runs the graph as drawn.
    config.graph_options.rewrite_options.disable_meta_optimizer = as_drawn
    with without_noise():
        return tf.Session(graph=graph, config=config)


def in_thousands(sess, fetches, feed, rows):
    """Yields what sess.run(fetches) answers when the rows (n, m) are fed, a thousand at a time."""
    for i in range(0, len(rows), 1000):
        note(f"{100 * i // len(rows)}%")
        yield sess.run(fetches, {feed: scaled(rows[i : i + 1000])})
    note("")


# ---- Training ------------------------------------------------------------------------------------


class Epoch(NamedTuple):
    epoch: int  # 1, 2, ...
    loss: float  # mean over the epoch's minibatches, each before its own update; for 100 images
    validation_loss: float  # after the epoch; for 100 images
    live: int  # latent variables that are not 0 for every validation image, after the epoch
    learning_rate: float  # step size of Adam when the epoch began
    seconds: float


class Progress(NamedTuple):
    """How far a run has come: complete epochs, and what of the next one has been done."""

    history: tuple[Epoch, ...] = ()
    steps: int = 0  # of the next epoch
    total: float = 0.0  # sum of their losses
    seconds: float = 0.0


def train(sess, g, data, logdir=None, tensorboard=True, resume=None):
    """Trains for epoch_n epochs of shuffled minibatches; answers an Epoch for each.

    data: DataSets, of which `.train` is learnt and `.validation` only watched. With a `logdir`,
    each epoch leaves a checkpoint there, which replaces what an earlier run has left; TensorBoard
    finds what event_files writes. To `resume` a Checkpoint of that folder goes on from there, as if
    the run had never stopped. Ctrl-C leaves a checkpoint before KeyboardInterrupt.

    AutoEncoderError when batch_size or X_n do not fit the data, the checkpoint is of another run,
    another process trains into logdir, or the loss is no longer a number.
    """
    hp, n = g.hp, len(data.train.pixels)
    _check(data.train.pixels, hp, np.uint8, np.float32)
    if hp.batch_size > n:
        raise AutoEncoderError(
            f"batch_size is {hp.batch_size}, but there are {n} training images: choose a smaller one"
        )
    with only_process(logdir):
        earlier = logdir is not None and bool(checkpoint_paths(logdir))
        run = Run(sess, g, data, logdir, resume)
        history, *begun = list(run.progress.history), *run.progress[1:]
        events = event_files(sess, g, data, logdir, tensorboard, run.id, tuple(history))
        try:
            with events as (write, replace_earlier), ctrl_c() as interrupted:

                def checkpoint(*begun):
                    run.save(Progress(tuple(history), *begun))
                    replace_earlier()
                    if interrupted():
                        raise KeyboardInterrupt

                def pause(steps, total):
                    if interrupted():
                        if earlier and not run.newest:  # it is worth more than a part of an epoch
                            raise KeyboardInterrupt
                        checkpoint(steps, total, time.perf_counter() - begin)

                steps = compiled_steps(sess, g, data.train.pixels)
                for epoch in range(len(history) + 1, hp.epoch_n + 1):
                    *done, seconds = begun
                    begin = time.perf_counter() - seconds
                    try:
                        loss = train_epoch(sess, g, data.train.pixels, epoch, steps, done, pause)
                        validation = evaluate(sess, g, data.validation.pixels)
                        score = _finite(validation.score, hp, epoch)
                        print(f", validation loss: {score:.3f}", end="")
                    finally:
                        print(flush=True)  # ends the line of progress, whatever happens
                    rate = float(learning_rates(hp, epoch, 1)[0])
                    seconds = time.perf_counter() - begin
                    history.append(Epoch(epoch, loss, score, validation.live, rate, seconds))
                    write(history[-1])
                    checkpoint()
                    begun = Progress()[1:]
                run.finish(Progress(tuple(history)))
                if interrupted():
                    raise KeyboardInterrupt
        except AutoEncoderError as e:
            raise type(e)(f"{e}{run.last_good()}") from None
        except KeyboardInterrupt:
            kept = [] if run.newest else ["nothing of this run is kept"]
            raise KeyboardInterrupt(*kept) from None
    return history


@contextlib.contextmanager
def ctrl_c():
    """Until the end, the first Ctrl-C only makes the function answer True that this yields."""
    pressed = []

    def press(*_):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)
        note("stopping after this step ...")

    if threading.current_thread() is not threading.main_thread():  # only there can it be caught
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def train_epoch(sess, g, pixels, epoch, steps=None, done=(0, 0.0), pause=lambda *done: None):
    """Trains once on each image of pixels (n, X_n), in this epoch's order. -> mean loss

    done: how many steps of the epoch were done before, and the sum of their losses. `pause` is
    called with these numbers from time to time, and may end it by an exception.
    """
    hp, n = g.hp, len(pixels)
    steps = steps or compiled_steps(sess, g, pixels)
    order = np.random.default_rng([hp.seed, epoch]).permutation(n)
    rates = learning_rates(hp, epoch, math.ceil(n / hp.batch_size))
    live = sys.stdout.isatty() or "ipykernel" in sys.modules  # a file gets a line an epoch
    (begin, total), last, call = done, len(rates), steps_a_call(hp)
    for first in range(begin, last, call):
        loss = steps(order, rates, first, min(first + call, last))
        total += _finite(loss, hp, epoch)
        seen = min((first + call) * hp.batch_size, n)
        if live or seen == n:
            line = "epoch: %d, loss: %.3f" % (epoch, 100 * total / seen)
            print(f"\r{line}" if live else line, end="", flush=True)
        if first + call < last:
            pause(first + call, total)
    return 100 * total / n


def steps_a_call(hp):
    """How many steps a call of the session does: a tenth of the tutorial's epoch, which is often
    enough to watch and too rare to cost time, or fewer where these images would fill 64 MiB."""
    return min(55, max(1, 2**26 // (hp.batch_size * hp.X_n)))


def learning_rates(hp, epoch, steps):
    """The step size of Adam in each step of an epoch. -> (steps,) float32"""
    if hp.schedule == "constant":
        return np.full(steps, hp.learning_rate, np.float32)
    done = (epoch - 1 + np.arange(steps) / steps) / hp.epoch_n  # 0 to 1 in all of training
    return np.float32(hp.learning_rate * (1 + np.cos(np.pi * done)) / 2)


def fed_steps(sess, g, pixels):
    """Training as the tutorial does it, a call of the session for each minibatch.

    -> steps(order, rates, first, last): one step of training, of step size rates[k], on each of the
    minibatches k = `first` to `last` - 1 of pixels[order]; answers the sum of their losses, each
    before its own update.
    """

    def steps(order, rates, first, last):
        total = 0.0
        for k in range(first, last):
            batch = pixels[order[k * g.hp.batch_size : (k + 1) * g.hp.batch_size]]
            feed = {g.X: scaled(batch), g.rate: rates[k]}
            total += float(sess.run([g.loss, g.opt], feed)[0])
        return total

    return steps


def compiled_steps(sess, g, pixels):
    """The same training as fed_steps, compiled by XLA into one program that loops over minibatches.

    It lives outside the tutorial's picture, in the scope `steps`, and reads and writes the same
    variables as g.opt: w, b, and Adam's moments and powers. Each call feeds it the images of its
    minibatches, at most steps_a_call(g.hp) of them, as the bytes that they came as. Where XLA
    cannot compile, says so and answers fed_steps.
    """
    hp, graph = g.hp, g.X.graph
    key = f"steps of {pixels.dtype}"
    if not graph.get_collection(key):
        with graph.as_default(), tf.name_scope("steps"):
            graph.add_to_collection(key, _program(hp, pixels.dtype))
    (program,) = graph.get_collection(key)
    fed = fed_steps(sess, g, pixels)
    full, call = len(pixels) // hp.batch_size, steps_a_call(hp)

    def steps(order, rates, first, last):
        chosen = order[first * hp.batch_size : last * hp.batch_size]
        feed = {  # always of the same shape, as another would be compiled again
            program.pixels: pixels[np.resize(chosen, call * hp.batch_size)],
            program.rates: np.resize(rates[first:last], call),
            program.steps: max(0, min(last, full) - first),
        }
        total = float(sess.run(program.run, feed)[0])
        return total + fed(order, rates, max(first, full), last)  # a last, smaller minibatch

    try:
        steps(np.arange(0), np.zeros(0), 0, 0)
    except tf.errors.OpError:
        print("XLA cannot compile here: training goes on without it, more slowly")
        return fed
    return steps


class Program(NamedTuple):
    pixels: tf.Tensor  # (steps_a_call * batch_size, X_n), in the order of the steps
    rates: tf.Tensor  # (steps_a_call,) float32
    steps: tf.Tensor  # () int32, how many of them to do
    run: list  # total loss, updates: run it, with the three above fed


def _program(hp, dtype):
    pixels = tf.placeholder(dtype, [None, hp.X_n])
    rates, steps = tf.placeholder(tf.float32, [None]), tf.placeholder(tf.int32, [])
    named = {v.op.name: v for v in tf.global_variables()}
    w = tf.trainable_variables()
    m, v = ([named[f"{x.op.name}/{slot}"] for x in w] for slot in ("Adam", "Adam_1"))
    state = [named["training/beta1_power"], named["training/beta2_power"], *w, *m, *v]
    beta1, beta2 = np.float32(0.9), np.float32(0.999)  # 1 - beta2 in float32, as TensorFlow's Adam

    def loop(pixels, rates, steps, *state):
        def step(k, total, power1, power2, *wmv):
            w, m, v = (wmv[i * len(wmv) // 3 : (i + 1) * len(wmv) // 3] for i in range(3))
            X = tf.slice(pixels, [k * hp.batch_size, 0], [hp.batch_size, hp.X_n])
            X = tf.cast(X, tf.float32) * BYTE if dtype == np.uint8 else X
            given = iter(w)  # the weights of this step, in place of new variables
            Z = encode(X, hp, lambda *_: next(given))
            loss = l2_loss(decode(Z, hp, lambda *_: next(given)), X)
            rate = rates[k] * tf.sqrt(1 - power2) / (1 - power1)
            d = tf.gradients(loss, w)
            m = [m + (1 - beta1) * (d - m) for m, d in zip(m, d)]
            v = [v + (1 - beta2) * (d * d - v) for v, d in zip(v, d)]
            w = [w - rate * m / (tf.sqrt(v) + 1e-8) for w, m, v in zip(w, m, v)]
            return k + 1, total + loss, power1 * beta1, power2 * beta2, *w, *m, *v

        start = (tf.constant(0), tf.constant(0.0), *state)
        return tf.while_loop(lambda k, *_: k < steps, step, start)[1:]

    compiled = tf.function(loop, autograph=False, jit_compile=True)
    total, *after = compiled(pixels, rates, steps, *state)
    updates = [variable.assign(value) for variable, value in zip(state, after)]
    return Program(pixels, rates, steps, [total, tf.group(updates)])


def _check(images, hp, *dtypes):
    if not (images.ndim == 2 and len(images) and images.dtype in dtypes):
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise AutoEncoderError(
            f"images must be {names}, (n, X_n), not {images.dtype}, {images.shape}"
        )
    if images.shape[1] != hp.X_n:
        raise AutoEncoderError(f"X_n is {hp.X_n}, but the images have {images.shape[1]} pixels")


def _finite(loss, hp, epoch):
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} in epoch {epoch}: "
            f"try a learning_rate smaller than {hp.learning_rate}"
        )
    return loss


# ---- Checkpoints ---------------------------------------------------------------------------------

# A folder of their own: TensorBoard's Projector would show what it finds beside event files.
CHECKPOINTS = "checkpoints"
CHECKPOINT = "autoencoder.ckpt-"  # then a number: files of tf.train.Saver, and a .json about them


class Checkpoint(NamedTuple):
    path: Path  # what tf.train.load_checkpoint takes
    kind: str  # state: weights and Adam's state; best, final: weights alone, of a complete run
    run: int  # when the run began, in nanoseconds: its name
    hp: HParams
    data: str  # SHA-256 of the training and the validation images
    progress: Progress
    detector: dict  # of a Detector, all but its codes, and the SHA-256 of its file; or empty


def checkpoint_paths(logdir):
    """{number: path} of the checkpoints in a folder, the newest first; intact or not."""
    folder = Path(logdir, CHECKPOINTS)
    names = (path.name.removeprefix(CHECKPOINT) for path in folder.glob(f"{CHECKPOINT}*.*"))
    numbers = {int(name.split(".")[0]) for name in names if name.split(".")[0].isdecimal()}
    return {n: folder / f"{CHECKPOINT}{n}" for n in sorted(numbers, reverse=True)}


def read_checkpoint(path):
    """Checks a checkpoint before TensorFlow opens it. AutoEncoderError when it is not intact."""
    try:
        about = Path(f"{path}.json")
        if about.stat().st_size > 10**7:
            raise ValueError(f"{about.name} is too large")
        written = json.loads(about.read_bytes())
        kept = written["about"]
        if sha256(json.dumps(kept).encode()) != written["sha256"]:
            raise ValueError(f"{about.name} is not what was written")
        if set(kept["hp"]) != {field.name for field in dataclasses.fields(HParams)}:
            raise ValueError(f"{about.name} has not all hyperparameters, or others")
        history = tuple(Epoch(*map(float, epoch)) for epoch in kept["history"])
        history = tuple(e._replace(epoch=int(e.epoch), live=int(e.live)) for e in history)
        steps, total, seconds = kept["begun"]
        progress = Progress(history, int(steps), float(total), float(seconds))
        epochs = len(history) + (steps > 0)
        in_order = [e.epoch for e in history] == list(range(1, len(history) + 1))
        if not (in_order and steps >= 0 and epochs <= kept["hp"]["epoch_n"] and total >= 0):
            raise ValueError(f"{about.name} is not of such a run")
        checkpoint = Checkpoint(
            path,
            kept["kind"],
            int(kept["run"]),
            HParams(**kept["hp"]),
            str(kept["data"]),
            progress,
            dict(kept["detector"]),
        )
        index, values = checkpoint_files(path)
        n = parameters(checkpoint.hp)
        if checkpoint.kind == "state":
            n = 3 * n + 2  # two moments of each, two powers of beta
        if index.stat().st_size > 10**6 or values.stat().st_size != 4 * n:  # float32, nothing else
            raise ValueError(f"{values.name} is not of that network")
        for file in (index, values):
            if sha256(file.read_bytes()) != kept["sha256"][file.name]:
                raise ValueError(f"{file.name} is not what was written")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError,
            RecursionError, AutoEncoderError) as e:  # fmt: skip
        of = f"{Path(e.filename).name}: " if getattr(e, "filename", None) else ""
        raise AutoEncoderError(f"{path} is damaged: {of}{_reason(e)}") from None
    return checkpoint


def newest_checkpoint(logdir, kinds=("state", "final"), otherwise=None):
    """The newest intact Checkpoint in a folder that is of one of the `kinds`, or else `otherwise`,
    or None; says which are damaged."""
    other = None
    for path in checkpoint_paths(logdir).values():
        try:
            checkpoint = read_checkpoint(path)
        except AutoEncoderError as e:
            print(f"{e}; looking for an earlier one")
        else:
            if checkpoint.kind in kinds:
                return checkpoint
            other = other or (checkpoint if checkpoint.kind == otherwise else None)
    return other


def to_resume(logdir, hp, data):
    """The newest intact Checkpoint in a folder if it is of a run with these hyperparameters and
    training images, or None."""
    checkpoint = newest_checkpoint(logdir)
    return checkpoint if checkpoint and not _differ(checkpoint, hp, _sha256_of(data)) else None


def checkpoint_files(path):
    return [path.with_name(f"{path.name}.{end}") for end in ("index", "data-00000-of-00001")]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def parameters(hp):
    """How many weights and biases the network has."""
    sizes = [hp.X_n, *hp.enc_n, hp.Z_n, *hp.dec_n, hp.X_n]
    return sum((n + 1) * m for n, m in zip(sizes, sizes[1:]))


def restore(sess, g, checkpoint):
    """Puts what a Checkpoint holds into the session: weights, and Adam's state if it has that."""
    try:
        kept = tf.train.load_checkpoint(str(checkpoint.path))
        for variable in _variables(g, checkpoint.kind):
            assign = variable.initializer
            sess.run(assign, {assign.inputs[1]: kept.get_tensor(variable.op.name)})
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as e:
        raise AutoEncoderError(f"{checkpoint.path} cannot be read: {_reason(e)}") from None


def _reason(error):
    """Why, in one line: of an exception of TensorFlow's, the line before the operation it names."""
    of_operation = re.search(r"(?:.*; )?(.*)\n\t \[\[\{\{node", str(error))
    text = getattr(error, "strerror", None) or (of_operation or [0, str(error)])[1]
    return (text.splitlines() or [""])[0]


def _variables(g, kind):
    with g.X.graph.as_default():
        return tf.global_variables() if kind == "state" else tf.trainable_variables()


def _saver(g, kind):
    key = f"saver of {kind}"
    if not g.X.graph.get_collection(key):
        with g.X.graph.as_default():
            g.X.graph.add_to_collection(key, tf.train.Saver(_variables(g, kind), max_to_keep=0))
    return g.X.graph.get_collection(key)[0]


class Run:
    """The checkpoints of one run of train(): those of an earlier one go when this has one, and then
    the last two and the best are kept; of a complete run, the weights of the last and the best."""

    def __init__(self, sess, g, data, logdir, checkpoint=None):
        self.sess, self.g, self.logdir = sess, g, logdir and Path(logdir)
        self.id, self.progress = time.time_ns(), Progress()
        self.data = _sha256_of(data) if logdir else ""
        self.newest, self.kept = checkpoint, []  # Checkpoints of this run, the newest last
        if checkpoint:
            _check_same(checkpoint, g.hp, self.data)
            steps = math.ceil(len(data.train.pixels) / g.hp.batch_size)
            if checkpoint.progress.steps >= steps:
                done = f"step {checkpoint.progress.steps} of {steps}"
                raise AutoEncoderError(f"{checkpoint.path} is damaged: {done}")
            restore(sess, g, checkpoint)
            step = f", step {checkpoint.progress.steps}" * (checkpoint.progress.steps > 0)
            print(f"resumed after epoch {len(checkpoint.progress.history)}{step}")
            self.id, self.progress, self.kept = checkpoint.run, checkpoint.progress, [checkpoint]
            for path in checkpoint_paths(logdir).values():
                with contextlib.suppress(AutoEncoderError):
                    older = read_checkpoint(path)
                    if older.run == self.id and path != checkpoint.path:
                        self.kept.insert(0, older)

    def save(self, progress, kind="state", sess=None):
        """Writes a checkpoint; it counts once its .json is there, which comes last."""
        if self.logdir is None:
            return
        number = max(checkpoint_paths(self.logdir), default=0) + 1
        path = self.logdir / CHECKPOINTS / f"{CHECKPOINT}{number}"
        saver = _saver(self.g, kind)
        try:
            if not self.logdir.is_dir():
                raise AutoEncoderError(f"{path} cannot be written: its folder was deleted")
            # What it logs of an error is an exception as well.
            with _writing(path), without_noise(rb""):
                saver.save(sess or self.sess, str(path), write_meta_graph=False, write_state=False)
            checkpoint = Checkpoint(path, kind, self.id, self.g.hp, self.data, progress, {})
            _describe(checkpoint)
        except (OSError, AutoEncoderError) as e:
            _delete(path.parent.glob(f"{path.name}.*"))
            if isinstance(e, AutoEncoderError):
                raise
            raise AutoEncoderError(f"{path} cannot be written: {_reason(e)}") from None
        self.newest = checkpoint
        self.kept.append(checkpoint)
        if kind == "state":
            self._keep(*self.kept[-2:], self._best())

    def finish(self, progress):
        """Leaves the weights of the last epoch, and of the best one if that is another."""
        if self.logdir is None:
            return
        if self.newest.kind != "final":  # else it was stopped between this and the end
            self.save(progress, "final")
        final, best = self.newest, self._best()
        if best.kind != "best" and best.progress.history[-1].epoch < len(progress.history):
            with _session(self.g.X.graph) as sess:
                restore(sess, self.g, best)
                self.save(best.progress, "best", sess)
            best = self.newest
        self.newest = final
        self._keep(final, *([best] if best.kind == "best" else []))

    def _best(self):
        """Of the checkpoints of complete epochs, the one of the least validation loss."""
        complete = [c for c in self.kept if c.progress.history and not c.progress.steps]
        losses = [c.progress.history[-1].validation_loss for c in complete]
        return complete[losses.index(min(losses))] if complete else self.newest

    def _keep(self, *checkpoints):
        self.kept = [checkpoint for checkpoint in self.kept if checkpoint in checkpoints]
        names = [checkpoint.path.name for checkpoint in self.kept]
        state = [f'all_model_checkpoint_paths: "{name}"\n' for name in names]
        state.insert(0, f'model_checkpoint_path: "{self.newest.path.name}"\n')
        folder = self.logdir / CHECKPOINTS
        write_whole(folder / "checkpoint", "".join(state).encode())  # for tf.train
        for path in checkpoint_paths(self.logdir).values():
            if path.name not in names:
                _delete([Path(f"{path}.json"), *folder.glob(f"{path.name}.*")])

    def last_good(self):
        if self.newest is None or not Path(f"{self.newest.path}.json").exists():
            return ""
        return f"; {self.newest.path}, after epoch {len(self.newest.progress.history)}, is kept"


def _describe(checkpoint):
    p, files = checkpoint.progress, checkpoint_files(checkpoint.path)
    about = {
        "kind": checkpoint.kind,
        "run": checkpoint.run,
        "hp": dataclasses.asdict(checkpoint.hp),
        "data": checkpoint.data,
        "history": p.history,
        "begun": [p.steps, p.total, p.seconds],
        "detector": checkpoint.detector,
        "sha256": {file.name: sha256(file.read_bytes()) for file in files},
    }
    content = {"about": about, "sha256": sha256(json.dumps(about).encode())}
    write_whole(f"{checkpoint.path}.json", json.dumps(content).encode())


def _sha256_of(data):
    hashed = hashlib.sha256()
    for array in (data.train.pixels, data.validation.pixels):
        hashed.update(f"{array.dtype} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array))
    return hashed.hexdigest()


OTHER_IMAGES = "other images"


def _differ(checkpoint, hp, data):
    """What of a Checkpoint is not of these hyperparameters and images, in words; data: their
    _sha256_of."""
    kept, now = dataclasses.asdict(checkpoint.hp), dataclasses.asdict(hp)
    differ = [f"{k} {_spaced(kept[k])}, not {_spaced(now[k])}" for k in now if kept[k] != now[k]]
    if checkpoint.data != data:
        differ.append(OTHER_IMAGES)
    return "; ".join(differ)


def _check_same(checkpoint, hp, data):
    if differ := _differ(checkpoint, hp, data):
        change = "give its data_dir" if differ.endswith(OTHER_IMAGES) else "leave that out"
        raise AutoEncoderError(
            f"{checkpoint.path} is of a run with {differ}: {change}, or choose another logdir"
        )


_locked = set()  # folders that this process trains into


@contextlib.contextmanager
def only_process(logdir):
    """Until the end, no other process can train into this folder, if it is one."""
    if logdir is not None:
        make_folder(Path(logdir))
    name = logdir and os.path.realpath(logdir)
    if name is None or fcntl is None or name in _locked:
        yield
        return
    folder = os.open(logdir, os.O_RDONLY)
    try:
        _locked.add(name)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it ends with the process
        except BlockingIOError:
            raise AutoEncoderError(
                f"another process is training into {logdir}: choose another logdir"
            ) from None
        except OSError:  # a file system that has no locks
            pass
        yield
    finally:
        _locked.discard(name)
        os.close(folder)


# ---- Evaluation ----------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    score: float  # mean loss of 100 images, the number that the tutorial prints
    live: int  # latent variables that are not 0 for every image
    X_n: int
    Z_n: int

    @property
    def per_image(self):
        """Mean over images of the sum over pixels of (G - X)^2 / 2."""
        return self.score / 100

    @property
    def per_pixel(self):
        """Mean of (G - X)^2."""
        return 2 * self.per_image / self.X_n

    def __str__(self):
        return (
            f"score: {self.score:.3f} ({self.per_image:.3f} per image, {self.per_pixel:.5f} per "
            f"pixel), {self.live} of {self.Z_n} latents live"
        )


def evaluate(sess, g, images):
    """Measures how well the network restores images (n, X_n), a thousand at a time."""
    _check(images, g.hp, np.uint8, np.float32, np.float64)
    total, live = 0.0, np.zeros(g.hp.Z_n, bool)
    for start in range(0, len(images), 1000):
        loss, Z = sess.run([g.loss, g.Z], {g.X: scaled(images[start : start + 1000])})
        total += float(loss)
        live |= (Z != 0).any(axis=0)
    return Evaluation(100 * total / len(images), int(live.sum()), g.hp.X_n, g.hp.Z_n)


def pca(X, n):
    """Principal components of the rows of X (m, k), exact, by the covariance matrix.

    -> mean (k,), components (k, n), the strongest first; codes are (X - mean) @ components.
    """
    X = X.astype(np.float64)
    mean = X.mean(axis=0)
    _, vectors = np.linalg.eigh((X - mean).T @ (X - mean))
    return mean, vectors[:, ::-1][:, :n]


def _need_labels(data):
    if data.train.labels is None:
        raise AutoEncoderError("the images have no labels, and this needs them")


class Comparison(NamedTuple):
    evaluation: Evaluation
    accuracy: float  # of naming the digits of test images by their codes, see knn_accuracy
    G: np.ndarray  # (n, X_n), the test images restored


def compare(sess, g, data):
    """The trained network against PCA with as many components, fitted on the training images.

    data: DataSets, labels not one-hot. -> {"PCA": Comparison, "autoencoder": Comparison}.
    AutoEncoderError when they have no labels.
    """
    _need_labels(data)
    images, X = data.train.images, data.test.images
    mean, components = pca(images, g.hp.Z_n)
    codes, test_codes = (np.float32((x - mean) @ components) for x in (images, X))
    G = np.float32(test_codes @ components.T + mean)
    score = 50 * np.square(G - X, dtype=np.float64).sum() / len(X)
    live = int((test_codes != 0).any(axis=0).sum())
    Z, test_Z = (sess.run(g.Z, {g.X: x}) for x in (images, X))
    labels = data.train.labels, data.test.labels
    return {
        "PCA": Comparison(
            Evaluation(score, live, *components.shape), knn_accuracy(codes, test_codes, *labels), G
        ),
        "autoencoder": Comparison(
            evaluate(sess, g, X), knn_accuracy(Z, test_Z, *labels), sess.run(g.G, {g.X: X})
        ),
    }


def knn_accuracy(codes, test_codes, labels, test_labels, k=5):
    """How often the majority of the k nearest of `codes` (n, m) has the label of a test code.

    Nearest by Euclidean distance; of labels that are equally frequent, the smallest.
    """
    right = 0
    with nearest_of(codes, k) as nearest:
        for i in range(0, len(test_codes), 500):
            note(f"nearest neighbours: {100 * i // len(test_codes)}%")
            indices, _ = nearest(test_codes[i : i + 500])
            named = [np.bincount(votes).argmax() for votes in labels[indices]]
            right += (named == test_labels[i : i + 500]).sum()
    note("")
    return right / len(test_codes)


@contextlib.contextmanager
def nearest_of(codes, k):
    """Yields a function: other codes (n, m) -> which k of `codes` are nearest to each, by Euclidean
    distance, and the squares of these distances; (n, k) both, the nearest first."""
    with tf.Graph().as_default() as graph:
        given, asked = (tf.placeholder(tf.float32, [None, codes.shape[1]]) for _ in range(2))
        kept = tf.Variable(given, trainable=False, validate_shape=False)
        nearest = nearest_in_graph(asked, kept, min(k, len(codes)))
    with _session(graph) as sess:
        sess.run(kept.initializer, {given: codes})
        yield lambda codes: sess.run(nearest, {asked: codes})


def nearest_in_graph(asked, codes, k):
    """asked: (n, m), codes: (l, m) -> indices (n, k), squares of distances (n, k)"""
    # Negative and halved, so that top_k serves; and rounded, so the distances are taken again.
    nearness = tf.matmul(asked, codes, transpose_b=True) - tf.reduce_sum(codes**2, 1) / 2
    indices = tf.math.top_k(nearness, k).indices
    return indices, tf.reduce_sum((tf.gather(codes, indices) - asked[:, None]) ** 2, 2)


def comparison_table(comparisons, raw_accuracy):
    """The text of a table. comparisons: {Z_n: compare(...)}"""
    head = ["Z_n", "way", "score", "per image", "per pixel", "labels named"]
    rows = [
        [Z_n, way, f"{of.score:.1f}", f"{of.per_image:.3f}", f"{of.per_pixel:.5f}", f"{right:.2%}"]
        for Z_n, ways in sorted(comparisons.items())
        for way, (of, right, _) in ways.items()
    ]
    return _table(head, *rows, ["", "raw pixels", "", "", "", f"{raw_accuracy:.2%}"])


def _table(*rows):
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(cell.rjust(n) for cell, n in zip(row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def plot_reconstruction(X, G, labels):
    """Draws X | G for the first image, and the first image of each label above its reconstruction.

    X, G: (n, X_n), images and what was generated from them; labels: as first_of_each. -> Figure
    """
    firsts = first_of_each(labels)
    widths = [4.2, 0.9 * max(len(X[firsts]), 2)]
    figure = Figure(figsize=(sum(widths), 2.1), layout="constrained")
    pair, rows = figure.subfigures(1, 2, width_ratios=widths, wspace=0.03)
    for axes, title, image in zip(pair.subplots(1, 2), "XG", (X[0], G[0])):
        axes.set_title(title)
        axes.imshow(squares(image))
    _draw_rows(rows, {"X": X[firsts], "G": G[firsts]})
    return figure


def plot_comparison(test, comparisons, raw_accuracy):
    """Draws score and accuracy against Z_n, and how both restore a digit of each kind.

    test: DataSet; comparisons: {Z_n: compare(...)}, of which the largest Z_n up to 20 is shown in
    pictures; raw_accuracy: the knn_accuracy of the images themselves. -> Figure
    """
    figure = Figure(figsize=(9, 5.7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 2.6])
    score, accuracy = top.subplots(1, 2)
    Z_ns = sorted(comparisons)
    for way, marker in (("PCA", "s"), ("autoencoder", "o")):
        chosen = [comparisons[Z_n][way] for Z_n in Z_ns]
        score.plot(Z_ns, [c.evaluation.score for c in chosen], marker=marker, label=way)
        accuracy.plot(Z_ns, [c.accuracy for c in chosen], marker=marker, label=way)
    score.set(ylabel="score: loss of 100 test images", ylim=(0, None))
    accuracy.set(ylabel="labels named by 5 nearest codes")
    accuracy.axhline(raw_accuracy, color="gray", linestyle=":", label="raw pixels")
    for axes in (score, accuracy):
        axes.set(xscale="log", xlabel="Z_n")
        axes.set_xticks(Z_ns, Z_ns)
        axes.minorticks_off()
        axes.legend()
    shown = max([Z_n for Z_n in Z_ns if Z_n <= 20], default=Z_ns[0])
    firsts = first_of_each(test.labels)
    rows = {f"{way} {shown}": c.G[firsts] for way, c in comparisons[shown].items()}
    _draw_rows(bottom, {"X": scaled(test.pixels[firsts]), **rows})
    return figure


def first_of_each(labels):
    """Where the first image of each label is, at most ten; labels: (n,) or one-hot. -> (kinds,), or
    where the first ten images are if labels are None."""
    if labels is None:
        return slice(10)
    return np.unique(_numbered(labels), return_index=True)[1][:10]


def _numbered(labels):
    return labels.argmax(axis=1) if labels.ndim == 2 else labels


def plot_images(titles=None, **rows):
    """Draws each of the arrays (n, X_n) as a row of n images beside its name, and above each image
    its title where there are `titles`, {name: n of them}. -> Figure"""
    columns = max(len(images) for images in rows.values())
    width = 0.9 * columns + 0.15 * max(map(len, rows))
    height = 0.95 * len(rows) + 0.2 * len(titles or ())
    figure = Figure(figsize=(width, height), dpi=80, layout="constrained")
    _draw_rows(figure, rows, titles or {})
    return figure


def _draw_rows(figure, rows, titles={}):
    grid = figure.subplots(len(rows), max(map(len, rows.values())), squeeze=False)
    for (name, images), line in zip(rows.items(), grid):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="large")
        for axes, image in zip(line, images):
            axes.imshow(squares(image), vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        for axes in line[len(images) :]:
            axes.set_axis_off()
        for axes, title in zip(line, titles.get(name, ())):
            axes.set_title(title, fontsize="small")


def squares(images):
    """(..., X_n) -> (..., height, width), as square as X_n allows."""
    X_n = images.shape[-1]
    height = next(n for n in range(math.isqrt(X_n), 0, -1) if X_n % n == 0)
    return images.reshape(*images.shape[:-1], height, -1)


# ---- TensorBoard ---------------------------------------------------------------------------------

PROJECTOR = ("projector_config.pbtxt", "Z.tsv", "labels.tsv", "thumbnails.png")  # in run test
PICTURE = ("X", "Encoder", "Z", "Decoder", "G", "loss", "training", "init")  # scopes of the graph


@contextlib.contextmanager
def event_files(sess, g, data, logdir, wanted, run, history=()):
    """Yields a function that writes an Epoch for TensorBoard, with what the network has become.

    | run        | tab        | what it shows                                                      |
    |------------|------------|--------------------------------------------------------------------|
    | train      | Graphs     | the tutorial's picture; time and memory of one step of training    |
    |            | Scalars    | loss, training/learning rate, training/seconds an epoch            |
    |            | Histograms | w and b of each layer                                              |
    | validation | Scalars    | loss, live latents                                                 |
    |            | Images     | the first of each label, at most ten, above their reconstructions  |
    |            | Histograms | Z of 1,000 images                                                  |
    | test       | Scalars    | loss, after the last epoch; see write_test                         |
    |            | Projector  | Z of 10,000 images, with label, loss and picture; see write_test   |
    | of logdir  | HParams    | a row: the hyperparameters, and the last of each scalar above      |
    |            | Text       | hyperparameters, versions, device, command                         |

    Losses have one tag, `loss`, so that their curves overlay. Yields another function as well,
    which deletes what an earlier run wrote for TensorBoard, whether or not it is `wanted` now; if
    it is never called, that stays, and what this run wrote goes. A run that is resumed after the
    epochs of `history` goes on with what it wrote until then.
    """
    if logdir is None:
        yield (lambda epoch: None), (lambda: None)
        return
    folders = [Path(logdir, run) for run in (("train", "validation", "") if wanted else [""])]
    for folder in folders:
        make_folder(folder)
    own, replaced = _written(logdir, by=f".{run}.*.autoencoder"), []
    for path in own:
        _cut(path, len(history))

    def replace_earlier():
        if not replaced:
            replaced.append(True)
            _delete(_written(logdir, ["test"]))
            _delete_others(logdir, run)

    try:
        with contextlib.ExitStack() as stack:
            if not wanted:
                yield (lambda epoch: None), replace_earlier
            else:
                suffix = f".{run}.{time.time_ns()}.autoencoder"
                writers = [stack.enter_context(_writer(folder, suffix)) for folder in folders]
                earlier = None if own else history
                writer = _epoch_writer(sess, g, data, *writers, earlier)
                yield stack.enter_context(writer), replace_earlier
    finally:
        if not replaced and not own:
            _delete(_written(logdir, by=f".{run}.*.autoencoder"))


def _cut(path, epochs):
    """Takes out of an event file what comes after so many epochs, or is torn."""
    records = RawEventFileLoader(str(path)).Load()
    kept = [record for record in records if tf.Event.FromString(record).step <= epochs]
    temporary = path.with_name("cut.tmp")  # no name that TensorBoard takes for an event file's
    try:
        with _writing(path), tf.io.TFRecordWriter(str(temporary)) as writer:
            for record in kept:
                writer.write(record)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writer(folder, suffix):
    with tf.Graph().as_default():  # a FileWriter refuses eager execution, today's default
        with _writing(folder):
            writer = tf.summary.FileWriter(str(folder), filename_suffix=suffix)
    # A full disk ends the writer's thread, which says so in a log line and a traceback, and again
    # in an exception of flush() and close().
    hook = threading.excepthook

    def of_others(error):
        if error.thread is None or error.thread.name != "EventLoggerThread":
            hook(error)

    threading.excepthook = of_others
    logger, said_twice = tf.get_logger(), lambda record: "EventFileWriter" not in record.msg
    logger.addFilter(said_twice)
    try:
        yield writer
        with _writing(folder):
            writer.close()
    except BaseException:  # of two errors, the first says more
        with contextlib.suppress(tf.errors.OpError, RuntimeError):
            writer.close()
        raise
    finally:
        threading.excepthook = hook
        logger.removeFilter(said_twice)


@contextlib.contextmanager
def _writing(path):
    try:
        yield
    except (tf.errors.OpError, RuntimeError) as e:
        raise AutoEncoderError(f"{path} cannot be written: {_reason(e)}") from None


def _written(logdir, runs=("train", "validation", "test", ""), by=".autoencoder"):
    """What runs of this module, or one of them, wrote for TensorBoard."""
    found = [path for run in runs for path in Path(logdir, run).glob(f"events.out.tfevents.*{by}")]
    if any(path.parent.name == "test" for path in found):
        found += [Path(logdir, "test", name) for name in PROJECTOR]
    return found


def _delete_others(logdir, run):
    """Deletes event files of training runs but this one, which may have been killed in their first
    epoch."""
    runs = "train", "validation", ""
    _delete({*_written(logdir, runs)} - {*_written(logdir, runs, f".{run}.*.autoencoder")})


def _delete(paths):
    for path in paths:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _epoch_writer(sess, g, data, of_train, of_validation, of_run, earlier):
    pixels, labels = data.validation
    few, many = scaled(pixels[first_of_each(labels)]), scaled(pixels[:1000])
    with g.X.graph.as_default():
        weights = tf.trainable_variables()
    with tf.Graph().as_default() as graph:  # of its own, so that the picture is the tutorial's
        Z, *w = (tf.placeholder(tf.float32) for _ in range(1 + len(weights)))
        rows = tf.placeholder(tf.uint8, [1, None, None, 1])
        seen = tf.summary.merge(
            [tf.summary.histogram("Z", Z), tf.summary.image("X_above_G", rows, max_outputs=1)]
        )
        learnt = tf.summary.merge(
            [tf.summary.histogram(v.op.name, value) for v, value in zip(weights, w)]
        )
        text = tf.summary.text("run", tf.constant(description(g.hp)))

    def write_scalars(epoch):
        learning = {
            "loss": epoch.loss,
            "training/learning rate": epoch.learning_rate,
            "training/seconds an epoch": epoch.seconds,
        }
        watching = {"loss": epoch.validation_loss, "live latents": epoch.live}
        for writer, values in ((of_train, learning), (of_validation, watching)):
            with _writing(writer.get_logdir()):
                writer.add_summary(_scalars(values), epoch.epoch)

    with _session(graph) as summarize:
        if earlier is not None:  # else all of this was written before the run was stopped
            definition = g.X.graph.as_graph_def(add_shapes=True)
            nodes = [node for node in definition.node if node.name.split("/")[0] in PICTURE]
            picture = tf.GraphDef(node=nodes, versions=definition.versions).SerializeToString()
            of_train.add_event(tf.Event(wall_time=time.time(), graph_def=picture))
            of_train.add_run_metadata(trace(g, data.train.pixels), "one step of training")
            start_of_session = hparams_summary.session_start_pb(dataclasses.asdict(g.hp))
            of_run.add_summary(start_of_session.SerializeToString())
            of_run.add_summary(summarize.run(text))
            with _writing(of_run.get_logdir()):
                of_run.flush()
            for epoch in earlier:
                write_scalars(epoch)

        def write(epoch):
            values = dict(zip(w, sess.run(weights)))
            values[Z], G = sess.run(g.Z, {g.X: many}), sess.run(g.G, {g.X: few})
            both = np.vstack([np.hstack(squares(images)) for images in (few, G)])
            values[rows] = as_bytes(both)[None, :, :, None]
            of_weights, of_images = summarize.run([learnt, seen], values)
            write_scalars(epoch)
            for writer, summary in ((of_train, of_weights), (of_validation, of_images)):
                with _writing(writer.get_logdir()):
                    writer.add_summary(summary, epoch.epoch)
                    writer.flush()

        yield write
    end_of_session = hparams_summary.session_end_pb(api_pb2.STATUS_SUCCESS)
    of_run.add_summary(end_of_session.SerializeToString())


def _scalars(values):
    return tf.Summary(value=[tf.Summary.Value(tag=k, simple_value=v) for k, v in values.items()])


def trace(g, pixels):
    """RunMetadata of one step of training on the first minibatch of pixels (n, X_n): the time and
    memory of each operation."""
    feed = {g.X: scaled(pixels[: g.hp.batch_size])}
    on_gpu = tf.config.list_physical_devices("GPU")  # without one, a full trace warns of that
    level = tf.RunOptions.FULL_TRACE if on_gpu else tf.RunOptions.SOFTWARE_TRACE
    metadata = tf.RunMetadata()
    with _session(g.X.graph, as_drawn=True) as sess:  # of its own: no weights change by this step
        sess.run(g.init)
        sess.run([g.loss, g.opt], feed)  # the first step takes longer than those that follow
        sess.run([g.loss, g.opt], feed, tf.RunOptions(trace_level=level), metadata)
    return metadata


def description(hp):
    """Command, hyperparameters, device and versions, as a table in Markdown."""
    in_notebook = Path(sys.argv[0]).name == "ipykernel_launcher.py"
    command = "a notebook" if in_notebook else shlex.join(["python", *sys.argv])
    versions = f"Python {platform.python_version()}, TensorFlow {tf.__version__}"
    rows = {name: _spaced(value) for name, value in dataclasses.asdict(hp).items()} | {
        "ran on": f"{device()}; {versions}, NumPy {np.__version__}",
    }
    head = [f"| command | `{command}` |", "|---|---|"]
    return "\n".join([*head, *(f"| {name} | `{value}` |" for name, value in rows.items())])


def write_test(sess, g, test, evaluation, logdir):
    """Adds the run `test` to what train() wrote for TensorBoard: the loss of the test images, and
    for the Projector Z of the first 10,000 of them, with label, loss and picture of each.

    test: DataSet; evaluation: evaluate(...) of its images.
    """
    pixels, labels = _part(test, 0, 10000)
    name, labels = ("image", range(len(pixels))) if labels is None else ("label", _numbered(labels))
    table, losses = io.BytesIO(), []
    for X, Z, G in in_thousands(sess, [g.X, g.Z, g.G], g.X, pixels):
        np.savetxt(table, Z, "%.5g", "\t")
        losses.extend(np.square(G - X).sum(axis=1) / 2)
    lines = [f"{name}\tloss", *(f"{label}\t{loss:.4g}" for label, loss in zip(labels, losses))]
    height, width = squares(pixels).shape[1:]
    config = projector.ProjectorConfig()
    of_Z = config.embeddings.add(tensor_name="Z", tensor_path="Z.tsv", metadata_path="labels.tsv")
    of_Z.sprite.image_path = "thumbnails.png"
    of_Z.sprite.single_image_dim.extend([width, height])
    contents = {
        "Z.tsv": table.getvalue(),
        "labels.tsv": "\n".join(lines).encode(),
        "thumbnails.png": thumbnails(pixels),
        "projector_config.pbtxt": str(config).encode(),  # after the files that it names
    }
    folder, earlier = Path(logdir, "test"), _written(logdir, ["test"])
    for name, content in contents.items():
        write_whole(folder / name, content)
    with _writer(folder, f".{time.time_ns()}.autoencoder") as writer:
        writer.add_summary(_scalars({"loss": evaluation.score}), g.hp.epoch_n)
    _delete(path for path in earlier if path.name not in PROJECTOR)


def thumbnails(images):
    """The images (n, X_n) in rows of one square sheet, dark on light: a PNG, as bytes."""
    images = squares(255 - (images if images.dtype == np.uint8 else as_bytes(images)))
    n, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    sheet = np.pad(images, ((0, columns**2 - n), (0, 0), (0, 0)))
    sheet = sheet.reshape(columns, columns, height, width).swapaxes(1, 2)
    return encode_pngs(sheet.reshape(1, columns * height, columns * width))[0]


def encode_pngs(images):
    """Images (n, height, width), uint8, as greyscale PNGs, n of bytes."""
    with tf.Graph().as_default() as graph:
        pixels = tf.placeholder(tf.uint8, [None, None, None, 1])
        pngs = tf.map_fn(tf.io.encode_png, pixels, fn_output_signature=tf.string)
    with _session(graph) as sess:
        return sess.run(pngs, {pixels: images[..., None]})


# ---- Tuning --------------------------------------------------------------------------------------

SPACE = {
    "activation": ("relu", "swish"),
    "Z_activation": ("relu", "linear"),
    "init": ("normal", "he", "glorot"),
    "batch_size": (50, 100),
    "learning_rate": (0.001, 0.002, 0.004),
    "schedule": ("constant", "cosine"),
}


class Trial(NamedTuple):
    hp: HParams
    validation_loss: float  # for 100 images, after the last epoch; infinity: training diverged
    live: int  # latent variables that are not 0 for every validation image

    def __str__(self):
        diverged = math.isinf(self.validation_loss)
        return "diverged" if diverged else f"validation loss {self.validation_loss:.3f}"


def tune(data, logdir, trials=20, base=RECIPES["seed"], space=SPACE):
    """The tutorial's eight steps: train, evaluate on validation images, change hyperparameters,
    train, evaluate, keep the better, repeat; and then evaluate the best on test images, once.

    The trials that have finished in `logdir`, whoever ran them, are not run again. A `space` of
    fewer combinations than `trials` is tried whole.

    -> {number: Trial}, the best first; and the best one's Evaluation on the test images. For what
    the trials are, and errors, see run_trial; AutoEncoderError too when all of them diverged.
    """
    if not isinstance(trials, numbers.Integral) or trials < 1:
        raise AutoEncoderError(f"trials must be a whole number from 1, not {trials!r}")
    trials = min(trials, math.prod(map(len, _checked(space, base).values())))
    for number in range(trials):  # what is wrong with the folder is said now, not hours later
        finished_trial(logdir, number, base, space)
    done, minutes = {}, []
    for number in range(trials):
        begin = time.perf_counter()
        earlier = finished_trial(logdir, number, base, space)
        print(f"trial {number} ({number + 1} of {trials}): ", end="")
        done[number] = run_trial(data, logdir, number, base, space)
        best = min(done, key=lambda number: done[number].validation_loss)
        line = f"best so far: trial {best}, {done[best]}"
        if not earlier and number + 1 < trials:
            minutes.append((time.perf_counter() - begin) / 60)
            line += f"; about {math.ceil(np.mean(minutes) * (trials - number - 1))} min left"
        print(line, flush=True)
    if math.isinf(done[best].validation_loss):
        raise AutoEncoderError("all trials diverged: try smaller values of learning_rate")
    ranking = dict(sorted(done.items(), key=lambda item: item[1].validation_loss))
    g = build(done[best].hp)
    with start(g) as sess:
        checkpoint = newest_checkpoint(_trial_folder(logdir, best), ["final"])
        if not checkpoint:
            raise AutoEncoderError(
                f"{_trial_folder(logdir, best)} has no intact checkpoint: delete it, and the trial "
                f"is run again"
            )
        restore(sess, g, checkpoint)
        return ranking, evaluate(sess, g, data.test.pixels)


def run_trial(data, logdir, number, base=RECIPES["seed"], space=SPACE):
    """Trains on training images with trial_hparams(...), and evaluates on validation images.

    All of it is in a folder of its own in `logdir`: what train() writes, and trial.json, which
    comes last; if it is there, the trial has finished. One that was stopped is resumed. -> Trial.
    AutoEncoderError when there is no such trial, or the folder holds one of another search.
    """
    trial = finished_trial(logdir, number, base, space)
    if trial:
        print(f"finished earlier, {trial}")
        return trial
    hp, folder = trial_hparams(number, base, space), _trial_folder(logdir, number)
    print(", ".join(f"{name} {_spaced(getattr(hp, name))}" for name in space))
    g = build(hp)
    with start(g) as sess:
        try:
            last = train(sess, g, data, folder, resume=newest_checkpoint(folder))[-1]
            trial = Trial(hp, last.validation_loss, last.live)
        except Diverged as e:
            print(e)
            trial = Trial(hp, math.inf, 0)
    loss = None if math.isinf(trial.validation_loss) else trial.validation_loss  # as JSON has none
    kept = {"hp": dataclasses.asdict(hp), "validation_loss": loss, "live": trial.live}
    write_whole(folder / "trial.json", json.dumps(kept).encode())
    return trial


def finished_trial(logdir, number, base, space):
    """The Trial whose trial.json is in its folder, or None. AutoEncoderError as run_trial."""
    hp, path = trial_hparams(number, base, space), _trial_folder(logdir, number) / "trial.json"
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_bytes())
        loss = math.inf if kept["validation_loss"] is None else float(kept["validation_loss"])
        trial = Trial(HParams(**kept["hp"]), loss, int(kept["live"]))
    except (OSError, ValueError, TypeError, KeyError, AutoEncoderError):
        raise AutoEncoderError(
            f"{path} does not describe a trial: delete it, and the trial is run again"
        ) from None
    for name, value in dataclasses.asdict(hp).items():
        if getattr(trial.hp, name) != value:
            raise AutoEncoderError(
                f"{path} is of another search, with {name} {_spaced(getattr(trial.hp, name))}, not "
                f"{_spaced(value)}: choose another logdir"
            )
    return trial


def tuning_table(trials, space=SPACE):
    """The text of a table. trials: {number: Trial}, the best first"""
    rows = [
        [number, f"{t.validation_loss:.1f}", t.live, *(_spaced(getattr(t.hp, k)) for k in space)]
        for number, t in trials.items()
    ]
    return _table(["trial", "validation loss", "live", *space], *rows)


def trial_hparams(number, base, space):
    """The hyperparameters of trial 0, 1, ...: one of the combinations of `space`, {name: values},
    and those of `base` for all others. Drawn by base.seed, and never the same twice: as many trials
    as there are combinations are a grid search."""
    space = _checked(space, base)
    sizes = [len(values) for values in space.values()]
    if not (isinstance(number, numbers.Integral) and 0 <= number < math.prod(sizes)):
        last = math.prod(sizes) - 1
        raise AutoEncoderError(f"there is no trial {number}, only 0 to {last}: see --vary")
    drawn = np.random.default_rng(base.seed).permutation(math.prod(sizes))[number]
    indices = np.unravel_index(drawn, sizes)
    chosen = {name: values[i] for (name, values), i in zip(space.items(), indices)}
    return dataclasses.replace(base, **chosen)


def _checked(space, base):
    """The space, each value once. AutoEncoderError names what is no hyperparameter or value."""
    names, checked = [field.name for field in dataclasses.fields(HParams)], {}
    for name, values in space.items():
        if name not in names:
            raise AutoEncoderError(f"there is no hyperparameter {name}, only {', '.join(names)}")
        if not values:
            raise AutoEncoderError(f"there are no values of {name} to try")
        valid = (getattr(dataclasses.replace(base, **{name: value}), name) for value in values)
        checked[name] = list(dict.fromkeys(valid))
    return checked


def _trial_folder(logdir, number):
    return Path(logdir, f"trial-{number:03d}")


# ---- Anomaly detection ---------------------------------------------------------------------------

SCORES = ("error", "error x distance")


def anomaly_score(sess, g, images, codes):
    """How abnormal each of the images (n, X_n) is, in two ways: {name of SCORES: (n,)}.

    `error` is the loss of the image alone: what the network cannot restore is abnormal. `error x
    distance` multiplies it with 1 + the mean squared distance of its Z to the 5 nearest of `codes`
    (m, Z_n), the Z of normal images: what is restored from a Z that no normal image has is abnormal
    too; the 1 is for a network whose latents are all dead. A thousand images at a time.
    """
    _check(images, g.hp, np.uint8, np.float32, np.float64)
    errors, factors = [], []
    with nearest_of(codes, 5) as nearest:
        for X, Z, G in in_thousands(sess, [g.X, g.Z, g.G], g.X, images):
            errors.append(np.square(G - X).sum(axis=1) / 2)
            factors.append(1 + nearest(Z)[1].mean(axis=1))
    error = np.concatenate(errors).astype(np.float64)
    return dict(zip(SCORES, (error, error * np.concatenate(factors))))


def normal_codes(sess, g, train):
    """Z of the first 10,000 images of `train` (DataSet), which are as good as all. -> (n, Z_n)"""
    return np.concatenate(list(in_thousands(sess, g.Z, g.X, train.pixels[:10000])))


def fit_threshold(scores, false_positive_rate=0.05):
    """The score that at most this share of the scores of normal validation images (n,) exceeds."""
    if not (isinstance(false_positive_rate, numbers.Real) and 0 < false_positive_rate < 1):
        raise AutoEncoderError(
            f"false_positive_rate must be a number between 0 and 1, not {false_positive_rate!r}"
        )
    if not len(scores) or np.isnan(scores).any():
        raise AutoEncoderError("a threshold needs scores, and none of them NaN")
    return float(np.quantile(scores, 1 - false_positive_rate, method="inverted_cdf"))


class Detector(NamedTuple):
    codes: np.ndarray  # (n, Z_n), of normal images
    threshold: float  # a greater score is abnormal
    false_positive_rate: float  # of validation images, as it was asked for
    measured: float  # of test images, all normal


def detector(sess, g, data, false_positive_rate=0.05):
    """A Detector of what is not like `data` (DataSets); its threshold is of validation images."""
    codes = normal_codes(sess, g, data.train)
    validation, test = (
        anomaly_score(sess, g, part.pixels, codes)["error x distance"]
        for part in (data.validation, data.test)
    )
    threshold = fit_threshold(validation, false_positive_rate)
    return Detector(codes, threshold, false_positive_rate, float((test > threshold).mean()))


def detect(sess, g, images, detector):
    """Which of the images (n, X_n) are abnormal. -> scores (n,), flags (n,)"""
    scores = anomaly_score(sess, g, images, detector.codes)["error x distance"]
    return scores, scores > detector.threshold


def save_detector(detector, logdir):
    """Keeps a Detector with the final checkpoint that train() left in `logdir`, for load_model."""
    checkpoint, content = newest_checkpoint(logdir, ["final"]), io.BytesIO()
    if not checkpoint:
        raise AutoEncoderError(f"there is no complete run in {logdir} to keep a detector with")
    np.savez(content, codes=detector.codes)
    write_whole(Path(logdir, "detector.npz"), content.getvalue())
    kept = detector._asdict() | {"sha256": sha256(content.getvalue())}
    del kept["codes"]
    _describe(checkpoint._replace(detector=kept))


@contextlib.contextmanager
def load_model(logdir, data=None):
    """Yields session, Graph and Detector of the run in `logdir`, the latter None if there is none
    yet, or it is damaged; says if DataSets are not those that it was trained on."""
    checkpoint = newest_checkpoint(logdir, otherwise="best")
    if not checkpoint:
        if checkpoint_paths(logdir):
            raise AutoEncoderError(f"no checkpoint in {logdir} is intact")
        where = "" if Path(logdir) == LOGDIR else f" --logdir {shlex.quote(str(logdir))}"
        raise AutoEncoderError(
            f"there is no trained model in {logdir}: python autoencoder.py --recipe tuned{where} "
            f"makes one"
        )
    g = build(checkpoint.hp)
    with start(g) as sess:
        restore(sess, g, checkpoint)
        if checkpoint.kind == "state":
            epochs = f"{len(checkpoint.progress.history)} of {g.hp.epoch_n} epochs"
            print(f"the run in {_shown(logdir)} is not complete: this is after {epochs}")
        if data and checkpoint.data != _sha256_of(data):
            print(f"the run in {_shown(logdir)} was trained on other images than these")
        yield sess, g, read_detector(checkpoint, logdir)


def read_detector(checkpoint, logdir):
    """The Detector that save_detector kept with a Checkpoint; None if there is none, or it is
    damaged, which is said."""
    about, path = checkpoint.detector, Path(logdir, "detector.npz")
    if not about:
        return None
    try:
        content = path.read_bytes()
        if sha256(content) != about["sha256"]:
            raise ValueError("it is not what was written")
        with np.load(io.BytesIO(content), allow_pickle=False) as kept:
            return Detector(kept["codes"], *(float(about[k]) for k in Detector._fields[1:]))
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as e:
        print(f"{path} is damaged: {_reason(e)}" if path.exists() else f"{path} is missing")
        return None


def auroc(normal, abnormal):
    """The area under the ROC curve: how often a score of `abnormal` (n,) exceeds one of `normal`
    (m,), of all pairs; a tie counts half."""
    normal = np.sort(normal)
    below, not_above = (np.searchsorted(normal, abnormal, side) for side in ("left", "right"))
    return (below + not_above).mean() / 2 / len(normal)


def scores_after_training(normal, hp, *images):
    """Trains on normal images alone, DataSets, and scores each of `images`, (n, X_n)."""
    g = build(hp)
    with contextlib.redirect_stdout(io.StringIO()), start(g) as sess:
        train(sess, g, normal)
        codes = normal_codes(sess, g, normal.train)
        return [anomaly_score(sess, g, part, codes) for part in images]


def one_label(data, hp, is_normal):
    """For each label, trains on its images alone if it `is_normal`, or else on all others.

    Yields its name, and {name of SCORES: (scores of normal, of abnormal test images)}.
    """
    _need_labels(data)
    for label in np.unique(data.train.labels):

        def normal(part):
            return (part.labels == label) == is_normal

        def of(part):
            return DataSet(*(array[normal(part)] for array in part))

        note(f"training on {'label' if is_normal else 'all but'} {label}")
        chosen = data._replace(train=of(data.train), validation=of(data.validation))
        if not len(chosen.validation.pixels):  # of a rare label
            chosen = chosen._replace(validation=chosen.train)
        (scores,) = scores_after_training(chosen, hp, data.test.pixels)
        known = normal(data.test)
        yield f"label {label}", {name: (s[known], s[~known]) for name, s in scores.items()}


def all_labels(data, hp, others):
    """Trains on all images, and scores what is none of them: no_digits, and others (m, X_n).

    others: {what: (m, X_n)}. Yields as one_label does.
    """
    note("training on all images")
    abnormal = no_digits(data.test) | others
    normal, *scores = scores_after_training(data, hp, data.test.pixels, *abnormal.values())
    for what, scores in zip(abnormal, scores):
        yield what, {name: (normal[name], scores[name]) for name in SCORES}


EXPERIMENTS = {
    "one-normal": lambda data, hp, _: one_label(data, hp, True),
    "one-abnormal": lambda data, hp, _: one_label(data, hp, False),
    "no-digits": all_labels,
}


def no_digits(test):
    """Images that are not what those of `test` (DataSet) are: {what: (n, X_n)}."""
    n, X_n = test.pixels.shape
    return {
        "uniform noise": np.random.default_rng(0).integers(0, 256, (1000, X_n), np.uint8),
        "constant grey": np.repeat(np.arange(256, dtype=np.uint8)[:, None], X_n, axis=1),
        "inverted": (255 if test.pixels.dtype == np.uint8 else 1) - test.pixels,
        "turned by 90 degrees": np.rot90(squares(test.pixels), axes=(1, 2)).reshape(n, X_n),
    }


def plot_roc(panels):
    """Draws ROC curves. panels: {title: {label: (scores of normal, of abnormal)}} -> Figure"""
    figure = Figure(figsize=(4.5 * len(panels), 4.2), layout="constrained")
    for axes, (title, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items()
    ):
        for label, scores in curves.items():
            thresholds = np.unique(np.concatenate(scores))[::-1]
            rates = [1 - np.searchsorted(np.sort(s), thresholds, "left") / len(s) for s in scores]
            axes.plot(*np.hstack([[[0], [0]], rates]), label=f"{label}: {auroc(*scores):.3f}", lw=1)
        axes.set(title=title, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(loc="lower right", fontsize="small", title="AUROC")
    return figure


# ---- Export --------------------------------------------------------------------------------------


def export(sess, g, folder, detector=None):
    """Writes a SavedModel, for programs that have TensorFlow and not this module.

    | signature   | inputs                           | outputs                                        |
    |-------------|----------------------------------|------------------------------------------------|
    | encode      | images (n, X_n), float32, 0 to 1 | Z (n, Z_n)                                     |
    | decode      | Z (n, Z_n), float32              | G (n, X_n)                                     |
    | reconstruct | images                           | G (n, X_n); error (n,), the loss of each image |
    | detect      | images                           | score (n,), float32; flag (n,), bool           |

    The last is as the function detect, and only there when a Detector is given.
    AutoEncoderError when the folder cannot be written, or is there already.
    """
    hp = g.hp
    with g.X.graph.as_default():
        weights = sess.run(tf.trainable_variables())
    with tf.Graph().as_default() as graph:
        X = inputs(hp)
        Z = encode(X, hp)
        G = decode(Z, hp)
        values = dict(zip(tf.trainable_variables(), weights))
        with tf.name_scope("error"):
            error = tf.reduce_sum((G - X) ** 2, 1) / 2
        signatures = {
            "encode": ({"images": X}, {"Z": Z}),
            "decode": ({"Z": Z}, {"G": G}),
            "reconstruct": ({"images": X}, {"G": G, "error": error}),
        }
        if detector:
            with tf.name_scope("score"):
                codes = tf.Variable(tf.zeros(detector.codes.shape), name="codes")
                values[codes] = detector.codes
                _, distances = nearest_in_graph(Z, codes, min(5, len(detector.codes)))
                score = error * (1 + tf.reduce_mean(distances, 1))
                flag = score > detector.threshold
            signatures["detect"] = ({"images": X}, {"score": score, "flag": flag})
        saver = tf.train.Saver()
    described = tf.MetaGraphDef().signature_def  # by hand, as its builders log that they are old
    for name, signature in signatures.items():
        described[name].method_name = tf.saved_model.PREDICT_METHOD_NAME
        for infos, tensors in zip((described[name].inputs, described[name].outputs), signature):
            for key, tensor in tensors.items():
                infos[key].name, infos[key].dtype = tensor.name, tensor.dtype.as_datatype_enum
                infos[key].tensor_shape.CopyFrom(tensor.shape.as_proto())
    _new(folder)
    with _session(graph) as new, whole(folder) as temporary, _writing(folder):
        for variable, value in values.items():
            new.run(variable.initializer, {variable.initializer.inputs[1]: value})
        temporary.mkdir()
        builder = tf.saved_model.Builder(str(temporary))
        builder.add_meta_graph_and_variables(
            new, [tf.saved_model.SERVING], dict(described), saver=saver
        )
        builder.save()


def _new(path):
    if os.path.lexists(path):
        raise AutoEncoderError(f"{path} is there already: choose another output")


# ---- Shell ---------------------------------------------------------------------------------------


def train_command(args):
    """Trains the tutorial's autoencoder on MNIST, or on images of your own, evaluates it on the test
    images, draws X | G, and writes its graph and losses for TensorBoard."""
    hp, data = _hparams_and_data(args)
    with only_process(args.logdir):
        checkpoint = newest_checkpoint(args.logdir) if args.resume else None
        if args.resume and not checkpoint:
            torn = checkpoint_paths(args.logdir)  # a first one of which the .json is missing
            if set(torn) - {1} or any(Path(f"{path}.json").exists() for path in torn.values()):
                raise AutoEncoderError(
                    f"no checkpoint in {args.logdir} is intact: to begin anew, leave out --resume"
                )
            print(f"no checkpoint in {_shown(args.logdir)}: starting from the beginning")
        if checkpoint:
            hp = _hparams(args, kept=checkpoint.hp)
            _check_same(checkpoint, hp, _sha256_of(data))
            if read_detector(checkpoint, args.logdir):
                _delete_others(args.logdir, checkpoint.run)
                print(f"the run in {_shown(args.logdir)} is complete: there is nothing to resume")
                return
        g = build(hp)
        with start(g) as sess:
            train(sess, g, data, args.logdir, args.tensorboard, checkpoint)
            evaluation = evaluate(sess, g, data.test.pixels)
            print(evaluation)
            X, labels = _part(data.test, 0, 1000)  # to have each digit
            G = sess.run(g.G, {g.X: scaled(X)})
            picture = plot_reconstruction(scaled(X), G, labels)
            _save(picture, args.logdir / "reconstruction.png", "X | G")
            if args.tensorboard:
                write_test(sess, g, data.test, evaluation, args.logdir)
            save_detector(detector(sess, g, data), args.logdir)  # the last: the run is complete
    if args.tensorboard:
        print(f"graph and losses: tensorboard --logdir {shlex.quote(_shown(args.logdir))}")


def evaluate_command(args):
    """Evaluates the network that was trained in --logdir on the test images, as training does at
    its end."""
    data = _read_data(args)
    with load_model(args.logdir, data) as (sess, g, _):
        print(evaluate(sess, g, data.test.pixels))


def compare_command(args):
    """Trains an autoencoder for each Z_n, and compares it on the test images with PCA of as many
    components: the score, and how many digits the 5 nearest codes of training images name."""
    base, data = _hparams_and_data(args, "Z_n")
    hps = [dataclasses.replace(base, Z_n=Z_n) for Z_n in dict.fromkeys(args.Z_n)]
    _need_labels(data)
    comparisons = {}
    for hp in hps:
        print(f"Z_n: {hp.Z_n}")
        g = build(hp)
        with start(g) as sess:
            folder = args.logdir / f"Z_n={hp.Z_n}"
            train(sess, g, data, folder, resume=to_resume(folder, hp, data))
            comparisons[hp.Z_n] = compare(sess, g, data)
    labels = data.train.labels, data.test.labels
    raw_accuracy = knn_accuracy(data.train.images, data.test.images, *labels)
    print(comparison_table(comparisons, raw_accuracy))
    picture = plot_comparison(data.test, comparisons, raw_accuracy)
    _save(picture, args.logdir / "compare.png", "picture")
    print(f"graphs and losses: tensorboard --logdir {shlex.quote(_shown(args.logdir))}")


def tune_command(args):
    """Searches for better hyperparameters: trains on training images, judges on validation images,
    and evaluates the best trial, and only that, on the test images. A search that was stopped goes
    on where it stopped."""
    space = {}
    for name, *values in args.vary:  # which may name it more than once
        space.setdefault(name, []).extend(map(_numbers, values))
    space = space or SPACE
    base, data = _hparams_and_data(args)
    if args.trial is not None:
        print(f"trial {args.trial}: ", end="")
        trial = run_trial(data, args.logdir, args.trial, base, space)
        print(f"trial {args.trial}: {trial}")
        return
    trials, evaluation = tune(data, args.logdir, args.trials, base, space)
    print(tuning_table(trials, space))
    print(f"trial {next(iter(trials))} on the test images: {evaluation}")
    print(f"table of trials: tensorboard --logdir {shlex.quote(_shown(args.logdir))}")


def anomaly_command(args):
    """Trains on normal images alone, once for each seed, and measures how well the network tells
    abnormal test images from normal ones: by the area under the ROC curve (AUROC), which is how
    often an abnormal image has the greater score."""
    if args.experiment not in EXPERIMENTS:
        names = ", ".join(EXPERIMENTS)
        raise AutoEncoderError(f"there is no experiment {args.experiment}, only {names}")
    if args.other and args.experiment != "no-digits":
        raise AutoEncoderError("--other goes with --experiment no-digits")
    base, data = _hparams_and_data(args, "seed")
    hps = [dataclasses.replace(base, seed=seed) for seed in args.seed]
    others = {f"other: {_shown(path)}": read_images(path, base.X_n)[0] for path in args.other}
    found, panels = {}, {name: {} for name in SCORES}
    for hp in hps:
        for abnormal, scores in EXPERIMENTS[args.experiment](data, hp, others):
            areas = {name: auroc(*scores[name]) for name in SCORES}
            print(
                f"seed {hp.seed}, {abnormal}: AUROC", *(f"{v:.4f} ({k})" for k, v in areas.items())
            )
            found.setdefault(abnormal, []).append(list(areas.values()))
            for name in SCORES:
                panels[name].setdefault(abnormal, scores[name])
    rows = [[what, *(f"{area:.3f}" for area in np.mean(a, axis=0))] for what, a in found.items()]
    print(_table([args.experiment, *SCORES], *rows))
    for name, areas in zip(SCORES, np.mean(list(found.values()), axis=0).T):
        print(f"mean AUROC: {areas.mean():.4f} ({name})")
    _save(plot_roc(panels), args.logdir / f"{args.experiment}.png", "ROC curves")


def detect_command(args):
    """Scores images by how abnormal they are to the network that was trained in --logdir, prints
    the most abnormal, writes all scores as CSV, and draws the most and the least abnormal."""
    output, head = args.output or args.logdir / "scores.csv", ["index", "score", "flag"]
    picture = output.with_name(f"{output.stem}{PICTURED}") if output.name else output
    for path, what, mark in (
        (output, "scores", ",".join(head)),
        (picture, "picture of them", DRAWN),
    ):
        if path.exists() and not (path.is_file() and _in_its_beginning(path, mark)):
            raise AutoEncoderError(f"{path} is there and holds no {what}: choose another output")
    if output.suffix.lower() != ".csv":
        raise AutoEncoderError(f"output must be .csv, not {output}")
    with load_model(args.logdir) as (sess, g, detector):
        if detector is None:
            raise AutoEncoderError(
                f"the run in {args.logdir} has no threshold yet: python autoencoder.py --resume "
                f"--logdir {shlex.quote(str(args.logdir))}, with the run's data_dir, makes one"
            )
        of_seed = dataclasses.asdict(RECIPES["seed"]).items()
        chosen = dict(dataclasses.asdict(g.hp).items() - of_seed)
        chosen = ", ".join(f"{name} {_spaced(value)}" for name, value in sorted(chosen.items()))
        print(f"model: {_shown(args.logdir)}, {chosen or 'the hyperparameters of the tutorial'}")
        images, names = _read_images(args.images, g)
        scores, flags = detect(sess, g, images, detector)
        order = np.argsort(-scores, kind="stable")
        rows, titles = {}, {}
        least = order[10:][:-11:-1]  # none of those that are among the most abnormal
        for name, chosen in (("most abnormal", order[:10]), ("least abnormal", least)):
            if len(chosen):
                X = scaled(images[chosen])
                rows |= {name: X, f"{name}: G": sess.run(g.G, {g.X: X})}
                titles[name] = [f"{i}: {scores[i]:.3g}{' !' if flags[i] else ''}" for i in chosen]

    def row(i, digits):
        return [i, f"{scores[i]:.{digits}g}", f"{flags[i]:d}", *([names[i]] if names else [])]

    head += ["file"] if names else []
    with whole(output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(head)
        table.writerows(row(i, 9) for i in range(len(scores)))
    print(_table(head, *(row(i, 4) for i in order[:10])))
    print(
        f"threshold: {detector.threshold:.4g}, exceeded by at most "
        f"{detector.false_positive_rate:.1%} of the validation images and by "
        f"{detector.measured:.1%} of the test images"
    )
    print(f"flagged: {flags.sum()} of {len(flags)}")
    print(f"scores: {_shown(output)}")
    _save(plot_images(titles, **rows), picture, "picture", {"Title": DRAWN})


DRAWN = "autoencoder.py detect"  # a PNG that says so in its beginning may be drawn again


def encode_command(args):
    """Writes Z of images, by the network that was trained in --logdir, as .npy: float32, (n, Z_n)."""
    _check_output(args.output, ".npy")
    with load_model(args.logdir) as (sess, g, _):
        images, _ = _read_images(args.images, g)
        _write_array(args.output, g.hp.Z_n, in_thousands(sess, g.Z, g.X, images), len(images))
    print(f"Z: {_shown(args.output)}, {len(images)} x {g.hp.Z_n}")


def decode_command(args):
    """Writes the images that the network that was trained in --logdir generates from Z, as .npy or
    PNG."""
    _check_output(args.output, ".npy", ".png", "")
    with load_model(args.logdir) as (sess, g, _):
        Z = _one_array(args.codes)
        if Z.ndim != 2 or Z.shape[1] != g.hp.Z_n or Z.dtype.kind not in "buif" or not len(Z):
            found = f"{Z.dtype}, {' x '.join(map(str, Z.shape))}"
            raise AutoEncoderError(
                f"{args.codes} is {found}: it must hold Z, n x {g.hp.Z_n} numbers"
            )
        with np.errstate(over="ignore"):  # of float64: it is then infinite
            Z = np.float32(Z)
        if not np.isfinite(Z).all():
            raise AutoEncoderError(f"{args.codes} holds values that are not finite")
        _write_images(args.output, g.hp.X_n, in_thousands(sess, g.G, g.Z, Z), len(Z))


def reconstruct_command(args):
    """Writes the images that the network that was trained in --logdir makes of images, as .npy or
    PNG."""
    _check_output(args.output, ".npy", ".png", "")
    with load_model(args.logdir) as (sess, g, _):
        images, names = _read_images(args.images, g)
        _write_images(
            args.output, g.hp.X_n, in_thousands(sess, g.G, g.X, images), len(images), names
        )


def export_command(args):
    """Writes the network that was trained in --logdir as a SavedModel, with the signatures encode,
    decode, reconstruct and detect, for programs that have TensorFlow and not this module."""
    _new(args.output)
    with load_model(args.logdir) as (sess, g, detector):
        export(sess, g, args.output, detector)
    without = "" if detector else ", without detect, as it has no threshold yet"
    print(f"SavedModel: {_shown(args.output)}{without}")


def _check_output(path, *kinds):
    if path.suffix.lower() not in kinds:
        names = " or ".join(kind or "a folder of PNGs" for kind in kinds)
        raise AutoEncoderError(f"output must be {names}, not {path}")
    _new(path)


def _write_array(path, m, parts, n):
    """Writes the parts, n rows of m together, as .npy."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, m)}
    with whole(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.tobytes())


def _write_images(path, X_n, parts, n, names=None):
    """Writes the parts, n images together, to a .npy, a .png of one image, or a folder of PNGs."""
    kind = path.suffix.lower()
    if kind == ".npy":
        _write_array(path, X_n, parts, n)
    elif kind == ".png":
        if n > 1:
            raise AutoEncoderError(f"{path} can hold one image, not {n}: choose a folder or .npy")
        write_whole(path, encode_pngs(squares(as_bytes(next(parts))))[0])
    else:
        names = names or [f"{i:0{len(str(n - 1))}d}.png" for i in range(n)]
        with whole(path) as folder:
            folder.mkdir()
            left = iter(names)
            for part in parts:
                for png in encode_pngs(squares(as_bytes(part))):
                    (folder / next(left)).write_bytes(png)
    print(f"images: {_shown(path)}, {n}")


def _in_its_beginning(path, text):
    with open(path, "rb") as file:
        return text.encode() in file.read(200)


def _read_images(path, g):
    images, names, how = read_images(path, g.hp.X_n)
    print(f"images: {len(images)}, {how}")
    return images, names


def _hparams_and_data(args, *without):
    """Hyperparameters, of which X_n is that of the data unless it was given; and DataSets."""
    hp = _hparams(args, *without)  # what is wrong is said before the data are read
    data = _read_data(args)
    X_n = data.train.pixels.shape[1]
    return hp if hasattr(args, "X_n") else dataclasses.replace(hp, X_n=X_n), data


def _read_data(args):
    data = read_data_sets(args.data_dir)
    if args.data_dir != DATA_DIR:
        counts = tuple(len(part.pixels) for part in data)
        size = " x ".join(map(str, squares(data.test.pixels).shape[1:]))
        print("data: %d training, %d validation, %d test images" % counts, f"of {size}")
    return data


def _hparams(args, *without, kept=RECIPES["seed"]):
    """The recipe, or what is `kept` if none is given, with those hyperparameters that were given as
    flags in place of its own."""
    if args.recipe not in (None, *RECIPES):
        raise AutoEncoderError(f"there is no recipe {args.recipe}, only {', '.join(RECIPES)}")
    names = [field.name for field in dataclasses.fields(HParams) if field.name not in without]
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return dataclasses.replace(RECIPES.get(args.recipe, kept), **given)


def _save(figure, path, what, metadata=None):
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, metadata=metadata)
    write_whole(path, picture.getvalue())
    print(f"{what}: {_shown(path)}")


def _shown(path):
    path, here = Path(path).absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise AutoEncoderError(f"{message} (see --help)")


def _parser():
    parser = Parser(prog="autoencoder.py")
    commands = parser.add_subparsers()
    data_dir = (
        "a folder of IDX files (those of MNIST are fetched if missing), of .npy or of PNGs; a .npz "
        "or .npy (default: MNIST_data)"
    )
    epilog = (
        "Commands, each with its own --help: train, evaluate, compare, tune, anomaly; and of the "
        "network that was trained: detect, encode, decode, reconstruct, export."
    )

    def add(name, run, prog=None, logdir=None, **several):
        """A command with the flags that all have; of the hyperparameters in `several`, it takes
        more than one value."""
        command = commands.add_parser(
            name,
            prog=prog,
            usage="%(prog)s [--flag value ...]",
            description=" ".join(run.__doc__.split()),
            epilog=epilog,
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        flags = command.add_argument_group("hyperparameters")
        recipe = "seed: the tutorial's; tuned: the best that tune has found (default: seed)"
        flags.add_argument("--recipe", metavar="|".join(RECIPES), help=recipe)
        for field in dataclasses.fields(HParams):
            default, tuned = several.get(field.name, field.default), ""
            if getattr(RECIPES["tuned"], field.name) != field.default:
                tuned = f"; tuned: {getattr(RECIPES['tuned'], field.name)}"
            flags.add_argument(
                f"--{field.name}",
                type=_number,
                nargs="+" if isinstance(default, tuple) else None,
                default=several.get(field.name, argparse.SUPPRESS),
                metavar="|".join(field.metadata["choices"]) or ("N", "X")[field.type is float],
                help=f"{field.metadata['help']} (default: {_spaced(default)}{tuned})",
            )
        folders = command.add_argument_group("folders")
        folders.add_argument(
            "--data_dir", type=Path, default=DATA_DIR, metavar="DIR", help=data_dir
        )
        logdir = logdir or LOGDIR.parent / name
        own = (
            "the command's own files; those of an earlier run there are replaced when this one has "
            f"a checkpoint, other files stay (default: logs/{logdir.name})"
        )
        folders.add_argument("--logdir", type=Path, default=logdir, metavar="DIR", help=own)
        return command

    job = add("train", train_command, "autoencoder.py [train]", LOGDIR)
    shown = "whether to write what TensorBoard shows (default: on)"
    again = "go on from the newest checkpoint in --logdir, or begin if there is none"
    job.add_argument("--resume", action="store_true", help=again)
    job.add_argument("--tensorboard", type=_on_or_off, default=True, metavar="on|off", help=shown)
    add("compare", compare_command, Z_n=(2, 5, 10, 20, 40))
    experiment = add("anomaly", anomaly_command, seed=(0,)).add_argument_group("experiment")
    experiment.add_argument(
        "--experiment",
        default="one-normal",
        metavar="|".join(EXPERIMENTS),
        help="what is abnormal: nine digits of ten, one of ten, or what is no digit, such as noise "
        "(default: one-normal)",
    )
    other = "images that are abnormal too, of a kind that detect reads; for no-digits"
    experiment.add_argument(
        "--other", type=Path, nargs="+", default=[], metavar="FILE_OR_FOLDER", help=other
    )

    def use(name, run, takes=None, output=None, required=True):
        """A command that uses the network in --logdir on what it `takes`, and writes an output."""
        description = " ".join(run.__doc__.split())
        command = commands.add_parser(
            name, description=description, epilog=epilog, allow_abbrev=False
        )
        command.set_defaults(run=run)
        if takes:
            argument, metavar, what = takes
            command.add_argument(argument, type=Path, metavar=metavar, help=what)
        trained = "the folder of the run that trained the network (default: logs/AutoEncoder)"
        command.add_argument("--logdir", type=Path, default=LOGDIR, metavar="DIR", help=trained)
        if output:
            command.add_argument(
                "--output", type=Path, required=required, metavar="PATH", help=output
            )
        return command

    what = (
        "an IDX file (.gz or not), .npy or .npz of (n, 784) or (n, 28, 28), a PNG, or a folder of "
        "PNGs; white or grey on black, of the size and place of the images that were trained on"
    )
    images = "images", "FILE_OR_FOLDER", what
    codes = "codes", "FILE", ".npy or .npz of (n, Z_n)"
    to_images = "a .npy, a folder for PNGs, or a .png of one image; it must not be there yet"
    use("evaluate", evaluate_command).add_argument(
        "--data_dir", type=Path, default=DATA_DIR, metavar="DIR", help=data_dir
    )
    scores = (
        "the CSV file to write: index, score, flag, and file for PNGs; the picture goes beside it "
        "(default: scores.csv in --logdir)"
    )
    use("detect", detect_command, images, scores, required=False)
    use("encode", encode_command, images, "the .npy to write; it must not be there yet")
    use("decode", decode_command, codes, to_images)
    use("reconstruct", reconstruct_command, images, to_images)
    use("export", export_command, None, "the folder to write; it must not be there yet")
    search = add("tune", tune_command).add_argument_group("search")
    trials = "how many combinations to try, drawn by the seed (default: 20)"
    search.add_argument("--trials", type=_number, default=20, metavar="N", help=trials)
    trial = "run trial K alone, the first being 0; without it, all trials that have not finished"
    search.add_argument("--trial", type=_number, metavar="K", help=trial)
    vary = (
        "a hyperparameter and the values to try, a list of layers in quotes; may be repeated, and "
        "then replaces all of the default, which is "
    ) + " ".join(f"--vary {name} {_spaced(values)}" for name, values in SPACE.items())
    name = ("NAME", "VALUE")
    search.add_argument("--vary", nargs="+", action="append", default=[], metavar=name, help=vary)
    return parser, commands.choices


def _spaced(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _on_or_off(text):
    if text not in ("on", "off"):
        raise AutoEncoderError(f"tensorboard must be on or off, not {text!r}")
    return text == "on"


def _numbers(text):
    values = tuple(map(_number, text.split()))  # "500 300" is one value of enc_n
    return values[0] if len(values) == 1 else values


def _number(text):
    """An int or a float if it is one; whether it will do, HParams says."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def main(argv=None):
    """Runs a command; answers its exit status: 0, 2 for an AutoEncoderError, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, commands = _parser()
    if not argv or argv[0].startswith("-"):
        argv.insert(0, "train")
    try:
        if argv[0] not in commands:
            raise AutoEncoderError(f"there is no command {argv[0]}, only {', '.join(commands)}")
        args = parser.parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except AutoEncoderError as e:
        sys.stdout.flush()
        print(f"autoencoder.py: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process is ending
        again = "the same command goes on"
        hints = {"train": "add --resume to go on", "tune": again, "compare": again}
        hint = e.args[0] if e.args else hints.get(argv[0])
        print(f"autoencoder.py: interrupted{f': {hint}' if hint else ''}", file=sys.stderr)
        return 130
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        print(f"autoencoder.py: error: {where}{e.strerror}", file=sys.stderr)
        if not where:  # standard output is full or closed: nothing may be flushed to it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
