"""An autoencoder for MNIST in the style of TensorFlow 1: build a graph, open a session, run it.

    read_data_sets -> inputs -> encode -> decode -> l2_loss -> training     (together: build)
                   -> start -> train -> evaluate -> plot_reconstruction

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

import argparse
import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import json
import math
import numbers
import os
import re
import shlex
import sys
import tempfile
import time
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

# What TensorFlow says at every start, whatever the machine: notes of level INFO, and that there is
# no CUDA driver (error 303, its library is absent). A driver that is there and fails is not.
START_UP_NOISE = re.compile(rb"I0000 |WARNING: All log messages before|.*UNKNOWN ERROR \(303\)")


@contextlib.contextmanager
def without_start_up_noise():
    """Holds back what is written to file descriptor 2, then passes on all but START_UP_NOISE.

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
                if not START_UP_NOISE.match(line):
                    os.write(2, line)


if __name__ == "__main__" and sys.stderr.isatty():
    print("loading TensorFlow ...", end="", file=sys.stderr, flush=True)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # later INFO lines; warnings and errors stay
with without_start_up_noise():
    import tensorflow.compat.v1 as tf
if __name__ == "__main__" and sys.stderr.isatty():
    print("\r\033[K", end="", file=sys.stderr, flush=True)

if tf.__version__.startswith("2.21."):  # XLA dies of a flag that it does not know
    # Without it, a compiled loop copies most of the weights at each step.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_copy_insertion_use_region_analysis=true")

HERE = Path(__file__).resolve().parent
DATA_DIR = HERE / "MNIST_data"
LOGDIR = HERE / "logs" / "AutoEncoder"


class AutoEncoderError(Exception):
    """What the user can put right; its text says what is wrong, where, and what to do."""


# ---- Hyperparameters -----------------------------------------------------------------------------


def _field(default, help, least=1, most=10**6):
    metadata = {"help": help, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class HParams:
    """The hyperparameters; the defaults are the tutorial's. AutoEncoderError names a wrong one."""

    X_n: int = _field(784, "pixels of an image")
    enc_n: tuple[int, ...] = _field((500, 300), "outputs of each layer of the encoder")
    Z_n: int = _field(20, "latent variables")
    dec_n: tuple[int, ...] = _field((300, 500), "outputs of each layer of the decoder")
    epoch_n: int = _field(10, "how often to go through all training images")
    batch_size: int = _field(100, "images in a minibatch")
    learning_rate: float = _field(0.001, "step size of Adam", most=1e38)
    seed: int = _field(0, "same seed, same machine: same weights, bit for bit", 0, 2**31 - 1)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, limits = getattr(self, field.name), field.metadata
            many, whole = isinstance(field.default, tuple), field.type is not float
            values = value if many and isinstance(value, (list, tuple)) else [value]
            for v in values:
                if whole:
                    right = isinstance(v, numbers.Integral)
                    right = right and limits["least"] <= v <= limits["most"]
                    what = "a whole number from {least} to {most}".format(**limits)
                else:
                    right = isinstance(v, numbers.Real) and 0 < v <= limits["most"]
                    what = "a number above 0, at most {most:g}".format(**limits)
                if not right or isinstance(v, bool):
                    raise AutoEncoderError(f"{field.name} must be {what}, not {v!r}")
            values = tuple(int(v) if whole else float(v) for v in values)
            object.__setattr__(self, field.name, values if many else values[0])


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
    labels: np.ndarray  # (n,) uint8, or (n, 10) float64 when one_hot

    @property
    def images(self):
        """(n, X_n) float32 in [0, 1], made anew each time: a quarter of its memory is in pixels."""
        return scaled(self.pixels)


BYTE = np.float32(1 / 255)  # multiplied by, not divided by 255: the tutorial's own rounding


def scaled(pixels):
    """Bytes as float32 in [0, 1]; floats as they are."""
    return np.multiply(pixels, BYTE, dtype=np.float32) if pixels.dtype == np.uint8 else pixels


class DataSets(NamedTuple):
    train: DataSet
    validation: DataSet
    test: DataSet


def read_data_sets(data_dir=DATA_DIR, one_hot=False, validation_size=5000):
    """Reads MNIST, or four IDX files of the same names, from `data_dir`.

    Answers what tensorflow.examples.tutorials.mnist.input_data.read_data_sets answered: `.train`,
    `.validation` (the first `validation_size` training images) and `.test`, each with `.images` and
    `.labels`. Files may be gzip-compressed or not. A file of MNIST that is missing is fetched from
    MIRRORS. A file that is damaged or does not fit the others is left as it is, and
    AutoEncoderError names it.
    """
    data_dir = Path(data_dir)
    paths = [_find_or_fetch(name, data_dir) for name in MNIST]
    known, test = _read_pair(*paths[:2], one_hot), _read_pair(*paths[2:], one_hot)
    if known.pixels.shape[1] != test.pixels.shape[1]:
        raise AutoEncoderError(f"{paths[0]} and {paths[2]} hold images of different sizes")
    if not 0 < validation_size < len(known.labels):
        raise AutoEncoderError(
            f"validation_size is {validation_size}, but {paths[0]} holds {len(known.labels)} images"
        )
    validation = DataSet(known.pixels[:validation_size], known.labels[:validation_size])
    train = DataSet(known.pixels[validation_size:], known.labels[validation_size:])
    return DataSets(train, validation, test)


def _read_pair(images_path, labels_path, one_hot):
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    n, height, width = images.shape
    if n != len(labels):
        raise AutoEncoderError(
            f"{images_path} holds {n} images, but {labels_path} {len(labels)} labels: "
            f"they do not belong together"
        )
    if height != width:
        raise AutoEncoderError(f"{images_path} holds images of {height} x {width}: not square")
    if one_hot and labels.max() > 9:
        raise AutoEncoderError(f"{labels_path} holds labels above 9: too many for one_hot")
    return DataSet(images.reshape(n, -1), np.eye(10)[labels] if one_hot else labels)


def read_idx(path, dimensions):
    """Reads an IDX file of unsigned bytes, gzip-compressed or not: an array of so many dimensions.

    AutoEncoderError when it is truncated, corrupt, empty or of another kind.
    """
    content = _unpacked(Path(path))
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise AutoEncoderError(
            f"{path} is not an IDX file of {'labels' if dimensions == 1 else 'images'}: "
            f"it begins with {content[:4].hex() or 'nothing'}, not {magic.hex()}"
        )
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if len(content) != header + math.prod(shape):
        raise AutoEncoderError(
            f"{path} is truncated or corrupt: {len(content)} bytes, "
            f"where its header promises {header + math.prod(shape)}"
        )
    if not math.prod(shape):
        raise AutoEncoderError(f"{path} is empty")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _unpacked(path):
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise AutoEncoderError(f"{path} is truncated or corrupt: {e}") from None
    except OSError as e:
        raise AutoEncoderError(f"{path} cannot be read: {e.strerror}") from None


def _is_mnist(content, name):
    return hashlib.sha256(content).hexdigest() == MNIST[name]


def _find(name, data_dir):
    return next((p for p in (data_dir / name, data_dir / f"{name}.gz") if p.exists()), None)


def _find_or_fetch(name, data_dir):
    if data_dir.exists() and not data_dir.is_dir():
        raise AutoEncoderError(f"data_dir {data_dir} is not a folder")
    path = _find(name, data_dir)
    if path:
        return path
    # MNIST's labels beside the images of another data set would be worse than an error.
    for other in MNIST:
        path = _find(other, data_dir)
        if path and not _is_mnist(_unpacked(path), other):
            raise AutoEncoderError(f"{name} is missing from {data_dir}, and {path} is not MNIST's")
    return fetch(name, data_dir)


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


def write_whole(path, content):
    """Writes the bytes `content` to `path`, whole or not at all; makes the folder if need be."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise AutoEncoderError(f"{path} cannot be written: {e.strerror}") from None


# ---- Model architecture --------------------------------------------------------------------------


class Graph(NamedTuple):
    hp: HParams
    X: tf.Tensor  # (batch, X_n): feed images
    Z: tf.Tensor  # (batch, Z_n): feed it to decode, fetch it to encode
    G: tf.Tensor  # (batch, X_n)
    loss: tf.Tensor  # (), of the minibatch that is fed
    opt: tf.Operation  # run it: one step of Adam on the minibatch that is fed
    init: tf.Operation  # run it once: draws weights and biases


def inputs(hp):
    """The images X: (batch, X_n) float32, to be fed."""
    with tf.name_scope("X"):
        return tf.placeholder(tf.float32, [None, hp.X_n])


def variable(shape, name, hp):
    """New weights or biases; their seed is their own, drawn from hp.seed and their name."""
    full_name = f"{tf.get_default_graph().get_name_scope()}/{name}"
    seed = np.random.SeedSequence([hp.seed, *full_name.encode()]).generate_state(1)[0]
    return tf.Variable(tf.truncated_normal(shape, stddev=0.1, seed=int(seed) % 2**31), name=name)


def encode(X, hp, variable=variable):
    """X: (batch, X_n) -> Z: (batch, Z_n)"""
    h = X
    with tf.name_scope("Encoder"):
        for i, n in enumerate(hp.enc_n):
            h = layer(h, n, tf.nn.relu, f"Layer{i + 1:02d}", hp, variable)
    return layer(h, hp.Z_n, tf.nn.relu, "Z", hp, variable)


def decode(Z, hp, variable=variable):
    """Z: (batch, Z_n) -> G: (batch, X_n)"""
    h = Z
    with tf.name_scope("Decoder"):
        for i, n in enumerate(hp.dec_n):
            h = layer(h, n, tf.nn.relu, f"Layer{i + 1:02d}", hp, variable)
    return layer(h, hp.X_n, tf.sigmoid, "G", hp, variable)


def layer(x, n, activation, scope, hp, variable):
    """One layer, activation(x w + b), in its scope. x: (batch, m) -> (batch, n)"""
    with tf.name_scope(scope):
        w = variable([x.shape[1], n], "w", hp)
        b = variable([n], "b", hp)
        return activation(tf.matmul(x, w) + b)


def l2_loss(G, X):
    """How far G is from X: the sum over batch and pixels of (G - X)^2 / 2. -> ()"""
    with tf.name_scope("loss"):
        return tf.nn.l2_loss(G - X)


def training(loss, hp):
    """One step of Adam down the gradient of `loss`, as an operation to run."""
    with tf.name_scope("training"):
        return tf.train.AdamOptimizer(hp.learning_rate).minimize(loss)


def build(hp):
    """The whole graph, in a tf.Graph of its own: build(hp).X.graph."""
    with tf.Graph().as_default():
        X = inputs(hp)
        Z = encode(X, hp)
        G = decode(Z, hp)
        loss = l2_loss(G, X)
        opt = training(loss, hp)
        return Graph(hp, X, Z, G, loss, opt, tf.global_variables_initializer())


# ---- Session -------------------------------------------------------------------------------------


def start(g):
    """Opens a session on the graph, draws its weights, and says which device computes.

    A GPU is used where there is one, and only the memory that is needed of it.
    """
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    with without_start_up_noise():
        sess = tf.Session(graph=g.X.graph, config=config)
        gpus = tf.config.list_physical_devices("GPU")
    sess.run(g.init)
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unnamed")
        print(f"device: GPU, {name}")
    else:
        print(f"device: CPU, {os.cpu_count()} cores")
    return sess


# ---- Training ------------------------------------------------------------------------------------


class Epoch(NamedTuple):
    epoch: int  # 1, 2, ...
    loss: float  # mean over the epoch's minibatches, each before its own update; for 100 images
    validation_loss: float  # after the epoch; for 100 images
    seconds: float


def train(sess, g, data, logdir=None):
    """Trains for epoch_n epochs of shuffled minibatches; answers an Epoch for each.

    data: DataSets, of which `.train` is learnt and `.validation` only watched. With a `logdir`, the
    graph and both losses are written there for TensorBoard. AutoEncoderError when batch_size or X_n
    do not fit the data, or the loss is no longer a number; an earlier run's files are then kept.
    """
    hp, n, validation_images = g.hp, len(data.train.pixels), data.validation.images
    _check(data.train.pixels, hp, np.uint8, np.float32)
    if hp.batch_size > n:
        raise AutoEncoderError(f"batch_size is {hp.batch_size}, but there are {n} training images")
    history, steps = [], compiled_steps(sess, g, data.train.pixels)
    with event_files(logdir, g) as write:
        for epoch in range(1, hp.epoch_n + 1):
            begin = time.perf_counter()
            try:
                loss = train_epoch(sess, g, data.train.pixels, epoch, steps)
                validation_loss = evaluate(sess, g, validation_images).score
                print(f", validation loss: {_finite(validation_loss, hp, epoch):.3f}", end="")
            finally:
                print(flush=True)  # ends the line of progress, whatever happens
            history.append(Epoch(epoch, loss, validation_loss, time.perf_counter() - begin))
            write(history[-1])
    if logdir is not None:
        write_whole(Path(logdir, "hparams.json"), json.dumps(dataclasses.asdict(hp)).encode())
    return history


def train_epoch(sess, g, pixels, epoch, steps=None):
    """Trains once on each image of pixels (n, X_n), in this epoch's order. -> mean loss"""
    hp, n = g.hp, len(pixels)
    steps = steps or compiled_steps(sess, g, pixels)
    order = np.random.default_rng([hp.seed, epoch]).permutation(n)
    live = sys.stdout.isatty() or "ipykernel" in sys.modules  # a file gets a line an epoch
    total, last = 0.0, math.ceil(n / hp.batch_size)
    for first in range(0, last, STEPS_A_CALL):
        total += _finite(steps(order, first, min(first + STEPS_A_CALL, last)), hp, epoch)
        seen = min((first + STEPS_A_CALL) * hp.batch_size, n)
        if live or seen == n:
            print("\repoch: %d, loss: %.3f" % (epoch, 100 * total / seen), end="", flush=True)
    return 100 * total / n


STEPS_A_CALL = 55  # a tenth of the tutorial's epoch: often enough to watch, too rare to cost time


def fed_steps(sess, g, pixels):
    """Training as the tutorial does it, a call of the session for each minibatch.

    -> steps(order, first, last): one step of training on each of the minibatches number `first` to
    `last` - 1 of pixels[order]; answers the sum of their losses, each before its own update.
    """

    def steps(order, first, last):
        total = 0.0
        for k in range(first, last):
            batch = pixels[order[k * g.hp.batch_size : (k + 1) * g.hp.batch_size]]
            total += float(sess.run([g.loss, g.opt], {g.X: scaled(batch)})[0])
        return total

    return steps


def compiled_steps(sess, g, pixels):
    """The same training as fed_steps, compiled by XLA into one program that loops over minibatches.

    It lives outside the tutorial's picture, in the scope `steps`, and reads and writes the same
    variables as g.opt: w, b, and Adam's moments and powers. The images are kept on the device, as
    the bytes that they came as. Where XLA cannot compile, says so and answers fed_steps.
    """
    graph, batch_size = g.X.graph, g.hp.batch_size
    key = f"steps of {pixels.dtype}"
    if not graph.get_collection(key):
        with graph.as_default(), tf.name_scope("steps"):
            graph.add_to_collection(key, _program(g.hp, pixels.dtype))
    (program,) = graph.get_collection(key)
    fed = fed_steps(sess, g, pixels)
    full = len(pixels) // batch_size
    try:
        sess.run(program.load, {program.pixels: pixels})
        order = range(len(pixels))  # of full length: another shape would be compiled again
        sess.run(program.run, {program.order: order, program.first: 0, program.last: 0})
    except tf.errors.OpError:
        print("XLA cannot compile here: training goes on without it, more slowly")
        return fed

    def steps(order, first, last):
        feed = {program.order: order, program.first: first, program.last: min(last, full)}
        total = float(sess.run(program.run, feed)[0])
        return total + fed(order, full, last)  # a last minibatch that is smaller

    return steps


class Program(NamedTuple):
    pixels: tf.Tensor  # (n, X_n): feed it and run `load`, once
    load: tf.Operation
    order: tf.Tensor  # (n,) int32: feed it and `first` and `last`, and run `run`
    first: tf.Tensor
    last: tf.Tensor
    run: list  # total loss, updates


def _program(hp, dtype):
    pixels = tf.placeholder(dtype, [None, hp.X_n])
    kept = tf.Variable(pixels, trainable=False, collections=[], validate_shape=False)
    order, first, last = (tf.placeholder(tf.int32, shape) for shape in ([None], [], []))
    named = {v.op.name: v for v in tf.global_variables()}
    w = tf.trainable_variables()
    m, v = ([named[f"{x.op.name}/{slot}"] for x in w] for slot in ("Adam", "Adam_1"))
    state = [named["training/beta1_power"], named["training/beta2_power"], *w, *m, *v]
    beta1, beta2 = np.float32(0.9), np.float32(0.999)  # 1 - beta2 in float32, as TensorFlow's Adam

    def loop(pixels, order, first, last, *state):
        def step(k, total, power1, power2, *wmv):
            w, m, v = (wmv[i * len(wmv) // 3 : (i + 1) * len(wmv) // 3] for i in range(3))
            X = tf.gather(pixels, tf.slice(order, [k * hp.batch_size], [hp.batch_size]))
            X = tf.cast(X, tf.float32) * BYTE if dtype == np.uint8 else X
            given = iter(w)  # the weights of this step, in place of new variables
            Z = encode(X, hp, lambda *_: next(given))
            loss = l2_loss(decode(Z, hp, lambda *_: next(given)), X)
            rate = hp.learning_rate * tf.sqrt(1 - power2) / (1 - power1)
            d = tf.gradients(loss, w)
            m = [m + (1 - beta1) * (d - m) for m, d in zip(m, d)]
            v = [v + (1 - beta2) * (d * d - v) for v, d in zip(v, d)]
            w = [w - rate * m / (tf.sqrt(v) + 1e-8) for w, m, v in zip(w, m, v)]
            return k + 1, total + loss, power1 * beta1, power2 * beta2, *w, *m, *v

        start = (first, tf.constant(0.0), *state)
        return tf.while_loop(lambda k, *_: k < last, step, start)[1:]

    compiled = tf.function(loop, autograph=False, jit_compile=True)
    total, *after = compiled(kept.read_value(), order, first, last, *state)
    updates = [variable.assign(value) for variable, value in zip(state, after)]
    return Program(pixels, kept.initializer, order, first, last, [total, tf.group(updates)])


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
        raise AutoEncoderError(
            f"the loss is {loss} in epoch {epoch}: "
            f"try a learning_rate smaller than {hp.learning_rate}"
        )
    return loss


@contextlib.contextmanager
def event_files(logdir, g):
    """Writes the graph, and each Epoch that the function it yields is called with, for TensorBoard.

    Both losses have the tag `loss`, in the runs `train` and `validation` of the folder `logdir`, so
    that their curves overlay. A run that is complete deletes the event files of an earlier one; a
    run that fails deletes its own, and so does one that is interrupted if they hide an earlier one.
    """
    if logdir is None:
        yield lambda epoch: None
        return
    runs = [Path(logdir, "train"), Path(logdir, "validation")]
    for run in runs:
        make_folder(run)

    def written(by):
        return [path for run in runs for path in run.glob(f"events.out.tfevents.*{by}.autoencoder")]

    earlier, this_run = written(by=""), f".{time.time_ns()}"
    with g.X.graph.as_default():  # a FileWriter refuses eager execution, today's default
        suffix = f"{this_run}.autoencoder"
        writers = [tf.summary.FileWriter(str(run), filename_suffix=suffix) for run in runs]
    picture = g.X.graph.as_graph_def(add_shapes=True)
    nodes = [node for node in picture.node if not node.name.startswith("steps/")]
    picture = tf.GraphDef(node=nodes, versions=picture.versions).SerializeToString()
    writers[0].add_event(tf.Event(wall_time=time.time(), graph_def=picture))

    def write(epoch):
        for writer, loss in zip(writers, (epoch.loss, epoch.validation_loss)):
            value = tf.Summary.Value(tag="loss", simple_value=loss)
            writer.add_summary(tf.Summary(value=[value]), epoch.epoch)
            writer.flush()

    obsolete = earlier
    try:
        yield write
    except BaseException as e:
        keep = isinstance(e, KeyboardInterrupt) and not earlier
        obsolete = [] if keep else written(by=this_run)
        raise
    finally:
        for writer in writers:
            writer.close()
        for path in obsolete:
            path.unlink(missing_ok=True)


def make_folder(folder):
    """Makes the folder if need be; AutoEncoderError when it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise AutoEncoderError(f"{folder} is not a folder to write to: {e.strerror}") from None


# ---- Evaluation ----------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    score: float  # mean loss of 100 images, the number that the tutorial prints
    per_image: float  # mean over images of the sum over pixels of (G - X)^2 / 2
    per_pixel: float  # mean of (G - X)^2
    live: int  # latent variables that are not 0 for every image
    Z_n: int

    def __str__(self):
        return (
            f"score: {self.score:.3f} ({self.per_image:.3f} per image, {self.per_pixel:.5f} per "
            f"pixel), {self.live} of {self.Z_n} latents live"
        )


def evaluate(sess, g, images):
    """Measures how well the network restores images (n, X_n), a thousand at a time."""
    _check(images, g.hp, np.float32, np.float64)
    total, live = 0.0, np.zeros(g.hp.Z_n, bool)
    for start in range(0, len(images), 1000):
        loss, Z = sess.run([g.loss, g.Z], {g.X: images[start : start + 1000]})
        total += float(loss)
        live |= (Z != 0).any(axis=0)
    per_image = total / len(images)
    per_pixel = 2 * per_image / images.shape[1]
    return Evaluation(100 * per_image, per_image, per_pixel, int(live.sum()), len(live))


def pca(X, n):
    """Principal components of the rows of X (m, k), exact, by the covariance matrix.

    -> mean (k,), components (k, n), the strongest first; codes are (X - mean) @ components.
    """
    X = X.astype(np.float64)
    mean = X.mean(axis=0)
    _, vectors = np.linalg.eigh((X - mean).T @ (X - mean))
    return mean, vectors[:, ::-1][:, :n]


def plot_reconstruction(X, G, labels):
    """Draws X | G for the first image, and the first image of each label above its reconstruction.

    X, G: (n, X_n), images and what was generated from them; labels: (n,) or one-hot. -> Figure
    """
    labels = labels.argmax(axis=1) if labels.ndim == 2 else labels  # one_hot
    firsts = np.unique(labels, return_index=True)[1]
    widths = [4.2, 0.9 * len(firsts)]
    figure = Figure(figsize=(sum(widths), 2.1), layout="constrained")
    pair, rows = figure.subfigures(1, 2, width_ratios=widths, wspace=0.03)
    for axes, title, image in zip(pair.subplots(1, 2), "XG", (X[0], G[0])):
        axes.set_title(title)
        axes.imshow(_square(image))
    _draw_rows(rows, {"X": X[firsts], "G": G[firsts]})
    return figure


def plot_images(**rows):
    """Draws each of the arrays (n, X_n) as a row of n images beside its name. -> Figure"""
    columns = max(len(images) for images in rows.values())
    figure = Figure(figsize=(0.9 * columns + 0.4, 0.95 * len(rows)), layout="constrained")
    _draw_rows(figure, rows)
    return figure


def _draw_rows(figure, rows):
    grid = figure.subplots(len(rows), max(map(len, rows.values())), squeeze=False)
    for (name, images), line in zip(rows.items(), grid):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="large")
        for axes, image in zip(line, images):
            axes.imshow(_square(image), vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])


def _square(image):
    return image.reshape(math.isqrt(image.size), -1)


# ---- Shell ---------------------------------------------------------------------------------------


def train_command(args):
    """Trains the tutorial's autoencoder on MNIST, evaluates it on the test images, draws X | G, and
    writes its graph and losses for TensorBoard."""
    hp = HParams(**{field.name: getattr(args, field.name) for field in dataclasses.fields(HParams)})
    data = read_data_sets(args.data_dir)
    g = build(hp)
    with start(g) as sess:
        train(sess, g, data, args.logdir)
        print(evaluate(sess, g, data.test.images))
        X, labels = data.test.images[:1000], data.test.labels[:1000]  # enough to have each digit
        G = sess.run(g.G, {g.X: X})
    picture = io.BytesIO()
    plot_reconstruction(X, G, labels).savefig(picture, dpi=100)
    write_whole(args.logdir / "reconstruction.png", picture.getvalue())
    print(f"X | G: {_shown(args.logdir / 'reconstruction.png')}")
    print(f"graph and losses: tensorboard --logdir {shlex.quote(_shown(args.logdir))}")


def _shown(path):
    path, here = Path(path).absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise AutoEncoderError(f"{message} (see --help)")


def _parser():
    parser = Parser(prog="autoencoder.py")
    commands = parser.add_subparsers()
    train = commands.add_parser(
        "train",
        prog="autoencoder.py [train]",
        usage="%(prog)s [--flag value ...]",
        description=" ".join(train_command.__doc__.split()),
        epilog="Without flags it is the tutorial's own network, with its own numbers.",
        allow_abbrev=False,
    )
    train.set_defaults(run=train_command)
    flags = train.add_argument_group("hyperparameters")
    for field in dataclasses.fields(HParams):
        several = isinstance(field.default, tuple)
        default = " ".join(map(str, field.default)) if several else field.default
        flags.add_argument(
            f"--{field.name}",
            type=_number,
            nargs="+" if several else None,
            default=field.default,
            metavar="N" if field.type is not float else "X",
            help=f"{field.metadata['help']} (default: {default})",
        )
    folders = train.add_argument_group("folders")
    folders.add_argument(
        "--data_dir",
        type=Path,
        default=DATA_DIR,
        metavar="DIR",
        help="the four IDX files; those of MNIST are fetched if missing (default: MNIST_data)",
    )
    folders.add_argument(
        "--logdir",
        type=Path,
        default=LOGDIR,
        metavar="DIR",
        help="the run's own files; those of an earlier run there are replaced when this one is "
        "complete, other files stay (default: logs/AutoEncoder)",
    )
    return parser, commands.choices


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
        print(f"autoencoder.py: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("autoencoder.py: interrupted", file=sys.stderr)
        return 130
    except OSError as e:  # standard output is full or closed: nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"autoencoder.py: error: {e.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
