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

Scopes, in the order of the data: X, Encoder/Layer01, Encoder/Layer02, Z, Decoder/Layer01,
Decoder/Layer02, G, loss; and training. What is built is what is trained, saved and shown: change
any part of the graph, and nothing else has to follow, if the loss stays a sum over the images fed.

Every loss that is printed, returned or written to TensorBoard is for 100 images, the tutorial's
minibatch, so that it means the same whatever batch_size is.

As a script: python autoencoder.py --help. What the tutorial asks and leaves out is in beyond/.
"""

import argparse
import contextlib
import dataclasses
import gzip
import io
import json
import math
import os
import re
import shlex
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

# What TensorFlow says at every start: notes of level INFO, and that there is no CUDA driver (303).
START_UP_NOISE = rb"I0000 |WARNING: All log messages before|.*UNKNOWN ERROR \(303\)"
ANYTHING = rb""  # for what is an exception as well


@contextlib.contextmanager
def without_noise(noise=START_UP_NOISE):
    """Holds back file descriptor 2, then passes on all lines but `noise`: TensorFlow 2.21 writes it
    before it reads TF_CPP_MIN_LOG_LEVEL."""
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


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # later INFO lines; warnings and errors stay
with without_noise():
    import tensorflow.compat.v1 as tf
    from tensorboard.plugins import projector
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.summary import session_end_pb, session_start_pb
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.plugins.text.summary_v2 import text_pb
tf.logging.set_verbosity(tf.logging.ERROR)  # as the tutorial does

if tf.__version__.startswith("2.21."):  # XLA dies of a flag that it does not know
    # Without it, a compiled loop copies most of the weights at each step.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_copy_insertion_use_region_analysis=true")

DATA_DIR = Path(__file__).resolve().parent / "MNIST_data"
LOGDIR = "logs/AutoEncoder"  # below where the command runs


class AutoEncoderError(Exception):
    """What the user can put right; its text says what is wrong, where, and what to do."""


class Diverged(AutoEncoderError):
    """The loss is no longer a number."""


# ---- Hyperparameters -----------------------------------------------------------------------------


def _field(default, help, choices=(), least=1):
    metadata = {"help": help, "choices": choices, "least": least}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class HParams:
    """The hyperparameters; the defaults are the tutorial's. AutoEncoderError names a wrong one."""

    X_n: int = _field(784, "pixels of an image, in the shell those of the data")
    enc_n: tuple[int, ...] = _field((500, 300), "outputs of each layer of the encoder")
    Z_n: int = _field(20, "latent variables")
    dec_n: tuple[int, ...] = _field((300, 500), "outputs of each layer of the decoder")
    activation: str = _field("relu", "of the hidden layers", ("relu", "swish"))
    Z_activation: str = _field("relu", "of Z", ("relu", "linear"))
    init: str = _field("normal", "how weights are drawn", ("normal", "he", "glorot"))
    epoch_n: int = _field(10, "how often to go through all training images")
    batch_size: int = _field(100, "images in a minibatch")
    learning_rate: float = _field(0.001, "step size of Adam")
    schedule: str = _field("constant", "of learning_rate", ("constant", "cosine"))
    seed: int = _field(0, "same seed, same machine: same weights, bit for bit", least=0)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, many = getattr(self, field.name), isinstance(field.default, tuple)
            array, least = np.asarray(value), field.metadata["least"]
            if choices := field.metadata["choices"]:
                what, right = " or ".join(choices), value in choices
            elif isinstance(field.default, float):
                what = "a number above 0"
                right = array.ndim == 0 and array.dtype.kind in "iuf" and 0 < value < math.inf
            else:
                what = f"{'whole numbers' if many else 'a whole number'} from {least}"
                right = array.dtype.kind in "iu" and array.ndim == many and (array >= least).all()
            if not right:
                raise AutoEncoderError(f"{field.name} must be {what}, not {value!r}")
            object.__setattr__(self, field.name, type(field.default)(array.tolist()))


RECIPES = {
    "seed": HParams(),
    # The winner of `python -m beyond.tuning --trials 40`: trial 39, validation loss 225.6.
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

PARTS = {  # Keras's names of the arrays, and MNIST's of the files
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class DataSet(NamedTuple):
    pixels: np.ndarray  # (n, X_n) uint8, as in the file; or floats in [0, 1]
    labels: np.ndarray | None  # (n,) whole numbers

    @property
    def images(self):
        """(n, X_n) float32 in [0, 1], made anew each time: a quarter of its memory is in pixels."""
        return scaled(self.pixels)


class DataSets(NamedTuple):
    train: DataSet
    validation: DataSet
    test: DataSet


BYTE = np.float32(1 / 255)  # multiplied by, not divided by 255: the tutorial's own rounding


def scaled(pixels):
    """Bytes as float32 in [0, 1]; floats as they are."""
    return np.multiply(pixels, BYTE, dtype=np.float32) if pixels.dtype == np.uint8 else pixels


def read_data_sets(data_dir=DATA_DIR):
    """Reads MNIST, or what has its form, as Fashion-MNIST has: a folder of the four IDX files, .gz
    or not; or a .npz of x_train, y_train, x_test and y_test, of which the labels may be absent.

    Answers what the tutorial's input_data.read_data_sets answered: `.train`, `.validation` and
    `.test`, each with `.images` and `.labels`. The first twelfth of the training images, at most the
    tutorial's 5,000, is for validation. AutoEncoderError names a file that is missing, damaged, or
    does not fit the others.
    """
    path = Path(data_dir)
    x_train, y_train, x_test, y_test = _read_npz(path) if path.suffix == ".npz" else _read_idx(path)
    train = data_set(x_train, y_train, f"{path}: training images")
    test = data_set(x_test, y_test, f"{path}: test images")
    if train.pixels.shape[1] != test.pixels.shape[1]:
        raise AutoEncoderError(f"{path}: training and test images are of different sizes")
    n = min(5000, len(train.pixels) // 12)
    if n == 0:
        raise AutoEncoderError(f"{path} must have at least 12 training images")
    return DataSets(part_of(train, slice(n, None)), part_of(train, slice(n)), test)


def data_set(images, labels, what):
    """DataSet of images (n, height, width) or (n, X_n); AutoEncoderErrors call them `what`."""
    images = np.atleast_1d(images)
    n, size = len(images), images.shape[1:]
    pixels = images.reshape(n, math.prod(size))
    right = pixels.size and size in (pixels.shape[1:], squares(pixels).shape[1:])
    if right and pixels.dtype.kind == "f" and 0 <= pixels.min() and pixels.max() <= 1:
        pixels = pixels.astype(np.float32, copy=False)
    elif not right or pixels.dtype != np.uint8:
        asked = "square or (n, X_n), bytes or floats from 0 to 1"
        raise AutoEncoderError(f"{what} must be {asked}, not {images.shape}, {images.dtype}")
    if labels is not None and (np.shape(labels) != (n,) or labels.dtype.kind not in "iu"):
        raise AutoEncoderError(f"{what} are {n}: so many whole numbers must be their labels")
    return DataSet(pixels, labels)


def part_of(data_set, rows):
    """A DataSet of these rows, a slice or a mask (n,)."""
    return DataSet(*(None if array is None else array[rows] for array in data_set))


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] if name[0] == "x" else arrays.get(name) for name in PARTS]
    except Exception as e:  # of a dozen kinds, by what is damaged
        raise AutoEncoderError(f"{path} cannot be read: {e}") from None


def _read_idx(folder):
    arrays = []
    for name in PARTS.values():
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
        if not found:
            mend = ": git checkout MNIST_data" if folder == DATA_DIR else ""
            raise AutoEncoderError(f"there is no {folder / name}, nor .gz{mend}")
        arrays.append(read_idx(found[0]))
    return arrays


def read_idx(path):
    """The array in an IDX file of bytes, gzip-compressed or not. AutoEncoderError if it is none."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            magic = file.read(4)  # 0, 0, 8 for bytes, and the number of dimensions
            if magic[:3] != b"\0\0\x08":
                raise ValueError("it is not an IDX file of bytes")
            shape = np.frombuffer(file.read(4 * magic[-1]), ">u4").tolist()
            return np.frombuffer(file.read(), np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise AutoEncoderError(f"{path} cannot be read: {e}") from None


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


def encode(X, hp):
    """X: (batch, X_n) -> Z: (batch, Z_n)"""
    h = X
    with tf.name_scope("Encoder"):
        for i, n in enumerate(hp.enc_n):
            h = layer(h, n, hp.activation, f"Layer{i + 1:02d}", hp)
    return layer(h, hp.Z_n, hp.Z_activation, "Z", hp)


def decode(Z, hp):
    """Z: (batch, Z_n) -> G: (batch, X_n)"""
    h = Z
    with tf.name_scope("Decoder"):
        for i, n in enumerate(hp.dec_n):
            h = layer(h, n, hp.activation, f"Layer{i + 1:02d}", hp)
    return layer(h, hp.X_n, "sigmoid", "G", hp)


def layer(x, n, activation, scope, hp):
    """One layer, activation(x w + b), in its scope. x: (batch, m) -> (batch, n)"""
    with tf.name_scope(scope):
        w = variable([x.shape[1], n], "w", hp)
        b = variable([n], "b", hp)
        return ACTIVATIONS[activation](tf.matmul(x, w) + b)


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
    """Opens a session on the graph, and draws its weights. It computes on device()."""
    sess = session(g.X.graph)
    sess.run(g.init)
    return sess


def device():
    """What computes, as text: a GPU where there is one."""
    with without_noise():
        gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unnamed")
    return f"GPU, {name}"


def session(graph, as_drawn=False):
    """A session on a graph. It takes of a GPU only the memory that it needs."""
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    # TensorFlow makes one operation of MatMul, add and Relu, unless it runs the graph as drawn.
    config.graph_options.rewrite_options.disable_meta_optimizer = as_drawn
    with without_noise():
        return tf.Session(graph=graph, config=config)


# ---- Training ------------------------------------------------------------------------------------


class Epoch(NamedTuple):
    epoch: int  # 1, 2, ...
    loss: float  # mean over the epoch's minibatches, each before its own update; for 100 images
    validation_loss: float  # after the epoch; for 100 images
    live: int  # latent variables that some validation image moves from 0, after the epoch
    learning_rate: float  # step size of Adam when the epoch began


def train(sess, g, data, logdir=None, resume=False, steps_of=None):
    """Trains for epoch_n epochs of shuffled minibatches; answers an Epoch for each.

    data: DataSets, of which `.train` is learnt and `.validation` only watched. With a `logdir`,
    each epoch leaves a checkpoint there, and what TensorBoard shows; an earlier run's are replaced.
    `resume` goes on from the newest checkpoint there, as if the run had never stopped.

    steps_of: compiled_steps; or fed_steps, the tutorial's own loop, which trains the same, and is
    faster for convolutions on a CPU.

    AutoEncoderError when data or checkpoint do not fit; Diverged when the loss is no number.
    """
    hp, pixels = g.hp, data.train.pixels
    if pixels.shape[1] != hp.X_n:
        raise AutoEncoderError(f"X_n is {hp.X_n}, but the images have {pixels.shape[1]} pixels")
    history = restore(sess, g, data, logdir) if resume and logdir else []
    if history:
        print(f"resumed after epoch {len(history)}")
    if len(history) == hp.epoch_n:
        return history
    if logdir and not history:
        Path(logdir).mkdir(parents=True, exist_ok=True)
        earlier = f"train/events.out.tfevents.*{OURS}", f"{CHECKPOINTS}/epoch-[0-9]*"
        if any(any(Path(logdir).glob(files)) for files in earlier):
            print(f"replacing the run in {logdir}: another logdir would keep it")
    steps, write = (steps_of or compiled_steps)(sess, g, pixels), None
    with contextlib.ExitStack() as events:
        for epoch in range(len(history) + 1, hp.epoch_n + 1):
            loss = train_epoch(sess, g, pixels, epoch, steps)
            validation = evaluate(sess, g, data.validation.pixels)
            print(f", validation loss: {validation.score:.3f}", flush=True)
            if not math.isfinite(loss + validation.score):
                raise Diverged(f"the loss is not finite: try learning_rate < {hp.learning_rate}")
            rate = float(learning_rates(hp, epoch, 1)[0])
            # Not before: a run that is stopped in its first epoch replaces nothing.
            write = write or events.enter_context(event_files(sess, g, data, logdir, history))
            history.append(Epoch(epoch, loss, validation.score, validation.live, rate))
            write(history[-1])
            if logdir:
                save(sess, g, data, logdir, history)
    return history


def train_epoch(sess, g, pixels, epoch, steps):
    """Trains by `steps` on each of pixels (n, X_n) once, in this epoch's order. -> mean loss"""
    hp, n, total = g.hp, len(pixels), 0.0
    order = np.random.default_rng([hp.seed, epoch]).permutation(n)
    rates = learning_rates(hp, epoch, math.ceil(n / hp.batch_size))
    for first in range(0, len(rates), steps_a_call(hp)):
        last = min(first + steps_a_call(hp), len(rates))
        total += steps(order, rates, first, last)
        if watched() or last == len(rates):  # a file gets a line an epoch
            seen = min(last * hp.batch_size, n)
            line = f"epoch: {epoch}, loss: {100 * total / seen:.3f}"
            print("\r" * watched() + line, end="", flush=True)
    return 100 * total / n


def watched():
    """Whether somebody sees what is printed while it is: on a terminal, or in a notebook."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


def fed_steps(sess, g, pixels):
    """The tutorial's own loop, a call of the session for each minibatch of pixels (n, X_n).

    -> steps(order, rates, first, last): trains on the minibatches k = first to last - 1 of
    pixels[order], by rates[k]; answers the sum of their losses, each before its own update.
    """

    def steps(order, rates, first, last):
        total = 0.0
        for k in range(first, last):
            batch = order[k * g.hp.batch_size : (k + 1) * g.hp.batch_size]
            feed = {g.X: scaled(pixels[batch]), g.rate: rates[k]}
            loss, _ = sess.run([g.loss, g.opt], feed)
            total += float(loss)
        return total

    return steps


def steps_a_call(hp):
    """Steps between two looks at the loss: a tenth of the tutorial's epoch, or what 64 MiB hold."""
    return min(55, max(1, 2**26 // (hp.batch_size * hp.X_n)))


def learning_rates(hp, epoch, steps):
    """The step size of Adam in each step of an epoch. -> (steps,) float32"""
    if hp.schedule == "constant":
        return np.full(steps, hp.learning_rate, np.float32)
    done = (epoch - 1 + np.arange(steps) / steps) / hp.epoch_n  # 0 to 1 in all of training
    return np.float32(hp.learning_rate * (1 + np.cos(np.pi * done)) / 2)


# ---- Checkpoints ---------------------------------------------------------------------------------

CHECKPOINTS = "checkpoints"  # a folder of its own: the Projector shows what lies beside event files


def save(sess, g, data, logdir, history):
    """Keeps the state after the last epoch of `history`, beside that of the epoch before.

    Wherever it is killed, no state is taken for another run's: first all other states go; then
    run.json says what run it is; and then TensorFlow's files get their names when whole.
    """
    folder, epoch = Path(logdir, CHECKPOINTS), len(history)
    folder.mkdir(exist_ok=True)
    for path in sorted(folder.glob("epoch-[0-9]*"), reverse=True):  # of a state, .index first
        if epoch == 1 or not path.name.startswith(f"epoch-{epoch - 1}."):
            path.unlink()
    temporary = folder / "run.json.tmp"
    temporary.write_text(json.dumps(_about(g, data) | {"history": history}))
    temporary.replace(folder / "run.json")
    with g.X.graph.as_default(), without_noise(ANYTHING):
        path = str(folder / "epoch")
        _saver(g).save(sess, path, epoch, write_meta_graph=False, write_state=False)


def restore(sess, g, data, logdir):
    """Puts the newest intact state into the session. -> its history, empty if there is none.
    AutoEncoderError names what makes it another run, or when none is intact."""
    folder = Path(logdir, CHECKPOINTS)
    epochs = {int(path.name.split(".")[0][6:]) for path in folder.glob("epoch-[0-9]*")}
    if not epochs:
        return []
    (hp, kept), now = read_run(logdir), _about(g, data)
    if hp.schedule == "constant" and len(kept["history"]) <= g.hp.epoch_n:
        del now["epoch_n"]  # the run may go on for longer than it was to
    differ = [f"{k} {kept.get(k)}, not {now[k]}" for k in now if kept.get(k) != now[k]]
    if hp.schedule == "cosine" and hp.epoch_n != g.hp.epoch_n:
        differ.append("each step of a cosine depends on epoch_n")
    if differ:
        raise AutoEncoderError(f"{logdir} has another run: {'; '.join(differ)}; use another logdir")
    for epoch in sorted(epochs, reverse=True):
        path = folder / f"epoch-{epoch}"
        try:
            with g.X.graph.as_default(), without_noise(ANYTHING):
                _saver(g).restore(sess, str(path))
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
            print(f"{path} is damaged; looking for an earlier one")
        else:
            return kept["history"][:epoch]
    if any(folder.glob("epoch-[0-9]*.index")):
        raise AutoEncoderError(f"no checkpoint in {folder} is intact: to begin anew, do not resume")
    return []


def read_run(logdir):
    """HParams of the run in logdir, and all of its run.json. AutoEncoderError if it is damaged."""
    path = Path(logdir, CHECKPOINTS, "run.json")
    try:
        kept = json.loads(path.read_text())
        kept["history"] = [Epoch(*epoch) for epoch in kept["history"]]
        hp = HParams(**{field.name: kept[field.name] for field in dataclasses.fields(HParams)})
        return hp, kept
    except (OSError, ValueError, TypeError, KeyError, AutoEncoderError) as e:
        raise AutoEncoderError(f"{path} is damaged: {e!r}") from None


def _about(g, data):
    """What makes a run this run, as JSON has it."""
    step = left_open(g, g.loss.op, g.opt)
    nodes = (node.SerializeToString(deterministic=True) for node in step.node)
    pixels = (np.ascontiguousarray(part.pixels) for part in (data.train, data.validation))
    images = zlib.crc32(next(pixels), zlib.crc32(next(pixels), len(data.train.pixels)))
    about = dataclasses.asdict(g.hp) | {"graph": zlib.crc32(b"".join(nodes)), "images": images}
    return json.loads(json.dumps(about))


def _saver(g):
    if not g.X.graph.get_collection("saver"):
        g.X.graph.add_to_collection("saver", tf.train.Saver(max_to_keep=0))
    return g.X.graph.get_collection("saver")[0]


# ---- Evaluation ----------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    score: float  # mean loss of 100 images, the number that the tutorial prints
    per_pixel: float  # mean of (G - X)^2, whatever the loss is
    live: int  # latent variables that some image moves from 0
    Z_n: int

    def __str__(self):
        return (
            f"score: {self.score:.3f} ({self.score / 100:.3f} per image, {self.per_pixel:.5f} per "
            f"pixel), {self.live} of {self.Z_n} latents live"
        )


def evaluate(sess, g, images):
    """Measures how well the network restores images (n, X_n), a thousand at a time."""
    total, error, live = 0.0, 0.0, np.zeros(g.hp.Z_n, bool)
    for start in range(0, len(images), 1000):
        X = scaled(images[start : start + 1000])
        loss, Z, G = sess.run([g.loss, g.Z, g.G], {g.X: X})
        total += float(loss)
        error += float(np.vdot(G - X, G - X))
        live |= (Z != 0).any(axis=0)
    return Evaluation(100 * total / len(images), error / images.size, int(live.sum()), g.hp.Z_n)


def plot_reconstruction(X, G, labels):
    """Draws X | G for the first image, and the first image of each label above its reconstruction.

    X, G: (n, X_n), images and what was generated from them; labels: as first_of_each. -> Figure
    """
    firsts = first_of_each(labels)
    widths = [2.1, 2.1, 0.9 * len(X[firsts]) + 0.3]
    figure = Figure(figsize=(sum(widths), 2.1), layout="constrained")
    first_X, first_G, both = figure.subfigures(1, 3, width_ratios=widths)
    plot_images(first_X, X=X[:1])
    plot_images(first_G, G=G[:1])
    plot_images(both, X=X[firsts], G=G[firsts])
    return figure


def plot_images(figure=None, **rows):
    """Draws each of the arrays (n, X_n) as a row of n images beside its name. -> Figure"""
    columns = max(map(len, rows.values()))
    if figure is None:
        size = 0.9 * columns + 0.15 * max(map(len, rows)), 0.95 * len(rows)
        figure = Figure(figsize=size, dpi=80, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (name, images), line in zip(rows.items(), grid):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="large")
        for axes, image in zip(line, images):
            axes.imshow(squares(image), vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        for axes in line[len(images) :]:
            axes.set_axis_off()
    return figure


def first_of_each(labels):
    """Where the first image of each label is, at most ten; or, of no labels, the first ten."""
    return slice(10) if labels is None else np.unique(labels, return_index=True)[1][:10]


def squares(images):
    """(..., X_n) -> (..., height, width), as square as X_n allows."""
    X_n = images.shape[-1]
    height = next(n for n in range(math.isqrt(X_n), 0, -1) if X_n % n == 0)
    return images.reshape(*images.shape[:-1], height, -1)


# ---- TensorBoard ---------------------------------------------------------------------------------

NOT_SHOWN = ("steps", "save")  # scopes of the graph that are not the tutorial's
OURS = ".autoencoder"  # how the names of this module's event files end


@contextlib.contextmanager
def event_files(sess, g, data, logdir, history):
    """Yields a function that writes an Epoch for TensorBoard, with what the network has become.

    Losses have one tag, so that the runs' curves overlay; TensorBoard opens the first two groups of
    a page, loss and reconstruction. Another scalar is a scalar_pb in `write`: no tf.summary of the
    graph is run. A run without a `history` deletes what an earlier one wrote.
    """
    if logdir is None:
        yield lambda epoch: None
        return
    if not history:
        for run in ("train", "validation", "test", ""):
            for earlier in Path(logdir, run).glob(f"events.out.tfevents.*{OURS}"):
                earlier.unlink()
    with g.X.graph.as_default():
        weights = tf.trainable_variables()
    pixels, labels = data.validation
    few, many = scaled(pixels[first_of_each(labels)]), scaled(pixels[:1000])

    def write(epoch):
        of_training = [
            scalar_pb("loss", epoch.loss),
            scalar_pb("training/learning rate", epoch.learning_rate),
        ]
        for w, value in zip(weights, sess.run(weights)):
            of_training.append(histogram_pb(f"weights/{w.op.name}", value))
        G, Z = sess.run(g.G, {g.X: few}), sess.run(g.Z, {g.X: many})
        both = np.vstack([np.hstack(squares(images)) for images in (few, G)])
        of_watching = [
            scalar_pb("loss", epoch.validation_loss),
            scalar_pb("training/live latents", epoch.live),
            histogram_pb("training/Z", Z),
            image_pb("reconstruction/X above G", both),
        ]
        add(of_train, epoch.epoch, *of_training)
        add(of_validation, epoch.epoch, *of_watching)

    names = Path(logdir, "train"), Path(logdir, "validation"), Path(logdir)
    of_train, of_validation, of_run = (event_file(name, len(history) + 1) for name in names)
    with of_train, of_validation, of_run:
        if not history:
            step = {"tag": "one step of training", "run_metadata": trace(g, data)}
            _write(of_train, graph_def=picture(g.X.graph))
            _write(of_train, tagged_run_metadata=step)
            add(of_run, 0, session_start_pb(dataclasses.asdict(g.hp)), text_pb("run", ran()))
        yield write
        add(of_run, 0, session_end_pb(STATUS_SUCCESS))


def event_file(folder, step=0):
    """A new event file, to be written in a with; what an earlier one has of `step` and later ones,
    TensorBoard then drops."""
    folder.mkdir(exist_ok=True)
    file = tf.io.TFRecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}{OURS}"))
    _write(file, file_version="brain.Event:2")
    _write(file, step, session_log={"status": tf.SessionLog.START})
    return file


def add(file, step, *summaries):
    """Adds summaries of a step to an event file: scalar_pb, histogram_pb, image_pb, text_pb."""
    for summary in summaries:
        # TensorBoard has a class of its own for the same message.
        _write(file, step, summary=tf.Summary.FromString(summary.SerializeToString()))


def _write(file, step=0, **what):
    file.write(tf.Event(wall_time=time.time(), step=step, **what).SerializeToString())
    file.flush()


def image_pb(tag, image):
    """The summary of an image (height, width) of floats in [0, 1]."""
    png = io.BytesIO()
    matplotlib.image.imsave(png, image, cmap="gray", vmin=0, vmax=1, format="png")
    return tf.Summary(value=[{"tag": tag, "image": {"encoded_image_string": png.getvalue()}}])


def picture(graph):
    """What the Graphs tab shows: all of the graph that the user built, serialized."""
    definition = graph.as_graph_def(add_shapes=True)
    nodes = [node for node in definition.node if node.name.split("/")[0] not in NOT_SHOWN]
    return tf.GraphDef(node=nodes, versions=definition.versions).SerializeToString()


def trace(g, data):
    """Time and memory of each operation of one step of training: RunMetadata, serialized."""
    feed = {g.X: scaled(data.train.pixels[: g.hp.batch_size])}
    on_gpu = tf.config.list_physical_devices("GPU")  # without one, a full trace warns of that
    level = tf.RunOptions.FULL_TRACE if on_gpu else tf.RunOptions.SOFTWARE_TRACE
    metadata = tf.RunMetadata()
    with session(g.X.graph, as_drawn=True) as sess:  # of its own: no weights change by this step
        sess.run(g.init)
        sess.run([g.loss, g.opt], feed)  # the first step takes longer than those that follow
        sess.run([g.loss, g.opt], feed, tf.RunOptions(trace_level=level), metadata)
    return metadata.SerializeToString()


def ran():
    """What ran on what, as Markdown."""
    python = f"Python {sys.version.split()[0]}"
    packages = f"{python}, TensorFlow {tf.__version__}, NumPy {np.__version__}"
    return f"`{shlex.join(['python', *sys.argv])}` on {device()}; {packages}"


def write_test(sess, g, test, evaluation, logdir):
    """Adds the run `test`, a DataSet and its Evaluation, to what train() wrote for TensorBoard: its
    loss, and for the Projector Z, label, half the squared error and picture of 10,000 images."""
    folder, (pixels, labels) = Path(logdir, "test"), part_of(test, slice(10000))
    with event_file(folder, g.hp.epoch_n) as file:
        add(file, g.hp.epoch_n, scalar_pb("loss", evaluation.score))
    X = scaled(pixels)
    some = (sess.run([g.Z, g.G], {g.X: X[i : i + 1000]}) for i in range(0, len(X), 1000))
    Z, G = map(np.concatenate, zip(*some))
    name, labels = ("image", range(len(X))) if labels is None else ("label", labels)
    table = np.stack([labels, np.square(G - X, out=G).sum(axis=1) / 2], axis=1)
    np.savetxt(folder / "labels.tsv", table, "%.5g", "\t", header=f"{name}\terror", comments="")
    np.savetxt(folder / "Z.tsv", Z, "%.5g", "\t")
    _, height, width = squares(X).shape
    sheet = 255 - np.uint8(255 * np.pad(X, ((0, 10000 - len(X)), (0, 0))))
    sheet = sheet.reshape(100, 100, height, width).swapaxes(1, 2).reshape(100 * height, 100 * width)
    matplotlib.image.imsave(folder / "thumbnails.png", np.dstack([sheet] * 3))
    config = projector.ProjectorConfig()
    of_Z = config.embeddings.add(tensor_name="Z", tensor_path="Z.tsv", metadata_path="labels.tsv")
    of_Z.sprite.image_path = "thumbnails.png"
    of_Z.sprite.single_image_dim.extend([width, height])
    (folder / "projector_config.pbtxt").write_text(str(config))  # after the files that it names


# ---- Speed ---------------------------------------------------------------------------------------


def compiled_steps(sess, g, pixels):
    """The same training as fed_steps, compiled by XLA into one program that loops over minibatches.

    The program is made of the graph itself, from g.X to g.opt, in the scope `steps`. A call feeds
    it the images of its minibatches, as they are in pixels. Where XLA cannot compile the graph, and
    where it draws random numbers, whose seeds XLA does not heed, says so and answers fed_steps.
    """
    hp, fed, call = g.hp, fed_steps(sess, g, pixels), steps_a_call(g.hp)
    full = len(pixels) // hp.batch_size  # the last minibatch may be smaller
    if full == 0:
        return fed

    def steps(order, rates, first, last):
        chosen = order[first * hp.batch_size : last * hp.batch_size]
        feed = {  # always of the same shape, as another would be compiled again
            of_pixels: pixels[np.resize(chosen, call * hp.batch_size)],
            of_rates: np.resize(rates[first:last], call),
            of_steps: max(0, min(last, full) - first),
        }
        return float(sess.run(total, feed)) + fed(order, rates, max(first, full), last)

    try:
        with g.X.graph.as_default(), tf.name_scope("steps/"), without_noise(ANYTHING):
            of_pixels, of_rates, of_steps, total = _program(g, pixels.dtype)
            steps(np.arange(0), np.zeros(0), 0, 0)  # of no steps: XLA compiles it now, or fails
    except (tf.errors.OpError, ValueError, TypeError, AttributeError) as e:
        why = (str(e).splitlines() or [type(e).__name__])[0]
        print(f"training by the tutorial's loop, as XLA cannot compile this graph: {why:.100}")
        return fed
    return steps


def _program(g, dtype):
    """Step after step, each a copy of the graph from g.X to g.opt, on the graph's own variables.
    -> pixels, rates and number of steps, to be fed; the sum of their losses, to be run"""
    hp, step_of_g = g.hp, left_open(g, g.loss.op, g.opt)
    if any("seed2" in node.attr for node in step_of_g.node):  # which all such operations have
        raise ValueError("it draws random numbers")
    handles = {v.handle.name: v.handle for v in tf.global_variables()}
    used = {f"{node.name}:0" for node in step_of_g.node}
    pixels = tf.placeholder(dtype, [None, hp.X_n])
    rates, steps = tf.placeholder(tf.float32, [None]), tf.placeholder(tf.int32, [])

    def loop(pixels, rates, steps):
        def step(k, total):
            X = tf.slice(pixels, [k * hp.batch_size, 0], [hp.batch_size, hp.X_n])
            X = tf.cast(X, tf.float32) * BYTE if dtype == np.uint8 else X
            given = handles | {g.X.name: X, g.rate.name: rates[k]}
            # Identities, as what is given must be of the loop's own graph.
            given = {name: tf.identity(given[name]) for name in given if name in used}
            loss, opt = tf.import_graph_def(step_of_g, given, [g.loss.name, g.opt.name], name="")
            with tf.control_dependencies([opt]):
                return k + 1, total + loss

        return tf.while_loop(lambda k, total: k < steps, step, (0, 0.0))[1]

    total = tf.function(loop, autograph=False, jit_compile=True)(pixels, rates, steps)
    return pixels, rates, steps, total


def left_open(g, *ends):
    """The part of the graph that leads to operations: a GraphDef, its variables left open."""
    part = tf.graph_util.extract_sub_graph(g.X.graph.as_graph_def(), [op.name for op in ends])
    for node in part.node:
        for name in ("_class", "_gradient_op_type"):  # where to compute; what is numbered anew
            node.attr.pop(name, None)
        if node.op == "VarHandleOp":
            node.CopyFrom(tf.NodeDef(name=node.name, op="Placeholder"))
            node.attr["dtype"].type = tf.resource.as_datatype_enum
    return part


# ---- Shell ---------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def __init__(self, prog, does, logdir):
        super().__init__(prog, description=does, allow_abbrev=False, conflict_handler="resolve")
        self.add_argument("--data_dir", type=Path, default=DATA_DIR, help="(default: MNIST_data)")
        self.add_argument("--logdir", type=Path, default=logdir, help="(default: %(default)s)")

    def error(self, message):
        raise AutoEncoderError(f"{message} (see --help)")


def add_hparams(parser):
    """Adds --recipe and a flag for each hyperparameter but X_n, which is that of the data."""
    group = parser.add_argument_group("hyperparameters")
    what = "the tutorial's, or what tuning found (default: seed)"
    group.add_argument("--recipe", choices=RECIPES, default="seed", help=what)
    for field in dataclasses.fields(HParams)[1:]:
        values = field.default if isinstance(field.default, tuple) else [field.default]
        group.add_argument(
            f"--{field.name}",
            type=type(values[0]),
            nargs="+" if values is field.default else None,
            choices=field.metadata["choices"] or None,
            default=argparse.SUPPRESS,
            help=f"{field.metadata['help']} (default: {' '.join(map(str, values))})",
        )


def hparams(args, data):
    """HParams of the recipe, and in place of its own those that were given as flags."""
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(HParams) if f.name in args}
    return dataclasses.replace(RECIPES[args.recipe], X_n=data.train.pixels.shape[1], **given)


def run(command, parser, again=""):
    """Runs command(args). -> exit status: 0; 2 for an error; 130 for Ctrl-C, with how to go on."""
    try:
        command(parser.parse_args())
        return 0
    except (AutoEncoderError, OSError, tf.errors.OpError) as e:
        reason = re.sub(r"(?s)Graph execution error:.*\nNode: [^\n]*\n", "", str(e)).splitlines()[0]
        print(f"{parser.prog}: error: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted{again}", file=sys.stderr)
        return 130


def main(args):
    """Trains the tutorial's autoencoder on MNIST, evaluates it, draws X | G, fills TensorBoard."""
    data = read_data_sets(args.data_dir)
    g = build(hparams(args, data))
    print(f"device: {device()}")
    with start(g) as sess:
        train(sess, g, data, args.logdir, args.resume)
        evaluation = evaluate(sess, g, data.test.pixels)
        print(evaluation)
        some = part_of(data.test, slice(1000))
        G = sess.run(g.G, {g.X: some.images})
        path = args.logdir / "reconstruction.png"
        plot_reconstruction(some.images, G, some.labels).savefig(path, dpi=100)
        print(f"X | G: {path}")
        write_test(sess, g, data.test, evaluation, args.logdir)
        print(f"graph and losses: tensorboard --logdir {shlex.quote(str(args.logdir))}")


if __name__ == "__main__":
    parser = Parser("autoencoder.py", main.__doc__, LOGDIR)
    add_hparams(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    sys.exit(run(main, parser, again="; --resume goes on after the last whole epoch"))
