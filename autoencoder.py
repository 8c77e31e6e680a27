"""The autoencoder of the 2019 tutorial 「Tensorflowでオートエンコーダー」, on today's TensorFlow
through tf.compat.v1.

    read_data_sets -> build (inputs -> encode -> decode -> l2_loss -> training)
                   -> start_session -> train -> evaluate -> plot_reconstruction

| symbol | shape        | description                                                |
|--------|--------------|------------------------------------------------------------|
| X      | (batch, X_n) | images, float32 in [0, 1]; a row is an image of 28 x 28    |
| Z      | (batch, Z_n) | latent variables                                           |
| G      | (batch, X_n) | images generated from Z, in (0, 1)                         |
| loss   | ()           | sum over batch and pixels of (G - X)^2 / 2                 |
| w, b   | (n, m), (m,) | weights and biases of a layer                              |

Name scopes, in the order of the data: X, Encoder/Layer01, Encoder/Layer02, Z, Decoder/Layer01,
Decoder/Layer02, G, loss, training. Any part of the graph can be changed: edit these functions, or
put your own tensors into a Network. The functions for training, evaluation and TensorBoard take it.
As a script: python autoencoder.py --help. beyond/ has what the tutorial leaves out.

Losses are reported per 100 images, the tutorial's minibatch: the sum over all minibatches, times
100, divided by the number of images. So a loss that is a sum over the minibatch can be compared
between batch sizes. A loss that is a mean is reported as it is if batch_size is 100 and divides
the number of images.
"""

import argparse
import contextlib
import dataclasses
import faulthandler
import gzip
import io
import json
import math
import numbers
import os
import re
import shlex
import sys
import threading
import time
import types
import zlib
from pathlib import Path
from typing import NamedTuple

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

# Hides TensorFlow's C++ log, except fatal errors. TF_CPP_MIN_LOG_LEVEL=0 in the environment shows it.
LOG_LEVEL = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def muted_stderr():
    """Silences stderr, for the import of TensorFlow, which logs a few lines at any level. If TensorFlow
    aborts the process, as on a processor that it does not support, faulthandler says where."""
    stderr = os.dup(2)
    is_enabled = faulthandler.is_enabled()
    if not is_enabled:
        faulthandler.enable(stderr)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        if not is_enabled:
            faulthandler.disable()
        os.close(stderr)


with muted_stderr() if LOG_LEVEL == "3" else contextlib.nullcontext():
    import tensorflow.compat.v1 as tf
    from tensorboard.plugins.hparams.summary import session_start_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

tf.disable_eager_execution()  # graphs and sessions, as in TensorFlow 1
tf.logging.set_verbosity(tf.logging.ERROR)

# Without this flag, the loop of compile_loop (below) copies most of the weights in each step. XLA
# reads it when it first compiles, and aborts if it does not know a flag, as in other versions.
if tf.__version__.startswith("2.21."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_copy_insertion_use_region_analysis=true")

DATA_DIR = Path(__file__).resolve().parent / "MNIST_data"
REPORTED_IMAGES = 100  # losses are reported per this many images


class AutoEncoderError(Exception):
    """An error that the user can correct. The message says what is wrong, where, and what to do."""


class Diverged(AutoEncoderError):
    """The loss is no longer finite."""


def require(condition, message):
    """Raises AutoEncoderError if a condition does not hold."""
    if not condition:
        raise AutoEncoderError(message)


# ---- Hyperparameters -----------------------------------------------------------------------------

ACTIVATIONS = {"relu": tf.nn.relu, "swish": tf.nn.swish, "linear": tf.identity}
INITIALIZERS = {  # of weights, and of biases
    "normal": (tf.truncated_normal_initializer(stddev=0.1),) * 2,
    "he": (tf.initializers.he_normal(), tf.zeros_initializer()),
    "glorot": (tf.initializers.glorot_normal(), tf.zeros_initializer()),
}
SCHEDULES = ("constant", "linear", "cosine")
CENTERINGS = ("none", "mean")


def _field(default, help, choices=(), low=1):
    """A field of HParams, which is also a command-line flag: one of `choices`; or a finite number not
    below `low`; or a tuple of such integers. The default determines the type."""
    metadata = {"help": help, "choices": tuple(choices), "low": low}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class HParams:
    """Hyperparameters. The defaults are the tutorial's."""

    X_n: int = _field(784, "pixels of an image")
    enc_n: tuple[int, ...] = _field((500, 300), "units of each encoder layer")
    Z_n: int = _field(20, "latent variables")
    dec_n: tuple[int, ...] = _field((300, 500), "units of each decoder layer")
    activation: str = _field("relu", "of the hidden layers", ACTIVATIONS)
    Z_activation: str = _field("relu", "of Z", ACTIVATIONS)
    init: str = _field("normal", "initial weights", INITIALIZERS)
    centering: str = _field("none", "image to subtract from X, and to start G from", CENTERINGS)
    train_n: int = _field(55000, "training images")
    epoch_n: int = _field(10, "passes over the training images")
    batch_size: int = _field(100, "images in a minibatch")
    learning_rate: float = _field(0.001, "Adam's learning rate", low=0)
    schedule: str = _field("constant", "of the learning rate", SCHEDULES)
    weight_decay: float = _field(0.0, "AdamW's decay of the weights", low=0)
    seed: int = _field(0, "for initial weights and order of images", low=0)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple):
                values = value if isinstance(value, (tuple, list)) else [value]
                value = tuple(_checked(field, each) for each in values)
            else:
                value = _checked(field, value)
            object.__setattr__(self, field.name, value)


def _checked(field, value):
    """Returns the value of a field, or of one of its layers, as a Python object, if it is allowed."""
    choices, low = field.metadata["choices"], field.metadata["low"]
    if choices:
        require(value in choices, f"{field.name} must be {' or '.join(choices)}, not {value!r}")
        return value
    is_float = isinstance(field.default, float)
    is_number = isinstance(value, numbers.Real if is_float else numbers.Integral)
    expected = f"{'a number' if is_float else 'an integer'} >= {low}"
    is_valid = is_number and math.isfinite(value) and value >= low
    require(is_valid, f"{field.name} must be {expected}, not {value!r}")
    return float(value) if is_float else int(value)


RECIPES = {
    "tutorial": HParams(),
    # What beyond/README.md's searches found.
    "tuned": HParams(
        activation="swish",
        Z_activation="linear",
        init="glorot",
        centering="mean",
        batch_size=50,
        learning_rate=0.0043,
        schedule="linear",
        weight_decay=0.1,
    ),
}


# ---- Input data ----------------------------------------------------------------------------------

IDX_FILES = [f"{a}-{b}-ubyte" for a in ("train", "t10k") for b in ("images-idx3", "labels-idx1")]
NO_FAKE_DATA = "fake_data is not supported; one_hot and shuffle come after it"


class DataSet:
    """Images and labels. make_data_set checks and converts arrays of your own."""

    def __init__(self, images, labels=None, seed=0):
        self.images = images  # (n, X_n), float32 in [0, 1]
        self.labels = labels  # (n,), integers; (n, classes), one-hot; or None
        self.seed = seed  # of the order of next_batch
        self._epochs_begun = 0
        self._next_rows = np.empty(0, int)

    @property
    def num_examples(self):
        return len(self.images)

    @property
    def epochs_completed(self):
        return max(0, self._epochs_begun - 1)

    def subset(self, rows):
        """Returns a DataSet of some rows: a slice, indices or a mask."""
        labels = None if self.labels is None else self.labels[rows]
        return DataSet(self.images[rows], labels, self.seed)

    def next_batch(self, batch_size, fake_data=False, shuffle=True):
        """Returns the next images (batch_size, X_n) and labels; in each epoch in a new order."""
        require(not fake_data, NO_FAKE_DATA)
        n = self.num_examples
        epochs = math.ceil((batch_size - len(self._next_rows)) / n)
        for _ in range(epochs):
            self._epochs_begun += 1
            order = shuffled(self.seed, self._epochs_begun, n) if shuffle else np.arange(n)
            self._next_rows = np.append(self._next_rows, order)
        batch = self.subset(self._next_rows[:batch_size])
        self._next_rows = self._next_rows[batch_size:]
        return batch.images, batch.labels


@dataclasses.dataclass(frozen=True)
class DataSets:
    """What read_data_sets returns. It can be unpacked: train, validation, test = data."""

    train: DataSet
    validation: DataSet
    test: DataSet
    path: Path | None = None  # the folder or file that they were read from

    def __iter__(self):
        return iter((self.train, self.validation, self.test))


def read_data_sets(
    train_dir=DATA_DIR,
    fake_data=False,
    one_hot=False,
    dtype=tf.float32,
    reshape=True,
    validation_size=None,
    seed=None,
    source_url=None,
):
    """Reads MNIST, or other images in its format. Returns DataSets. Takes the place of
    input_data.read_data_sets of TensorFlow 1's tutorials, without a download.

    train_dir: a folder of the four IDX files, gzip-compressed or not; or a .npz file with the arrays
    x_train and x_test, and optionally the labels y_train and y_test.
    one_hot: labels as rows of 0 and a 1, instead of integers.
    reshape: images as (n, X_n); False for (n, height, width, 1), which `train` does not take.
    validation_size: how many of the first training images become the validation set; by default a
    twelfth of them, but at most the tutorial's 5,000.
    seed: of the order of next_batch. fake_data and another dtype are refused, source_url is ignored.
    Raises AutoEncoderError if a file is missing, damaged, or does not fit the others.
    """
    require(not fake_data, NO_FAKE_DATA)
    require(tf.as_dtype(dtype) == tf.float32, f"images are read as float32, not as {dtype!r}")
    path = Path(train_dir)
    x_train, y_train, x_test, y_test = _read_npz(path) if path.suffix == ".npz" else _read_idx(path)
    train = make_data_set(x_train, y_train, f"{path}: training images")
    test = make_data_set(x_test, y_test, f"{path}: test images")
    require(len(train.images[0]) == len(test.images[0]), f"{path}: images differ in size")
    train.seed = test.seed = seed or 0
    default = max(1, min(5000, train.num_examples // 12))
    n = default if validation_size is None else validation_size
    found = f"{train.num_examples} training images"
    require(0 <= n < train.num_examples, f"{path}: validation_size is {n}, but there are {found}")
    if one_hot:
        for part in (train, test):
            has_labels = part.labels is not None and part.labels.min() >= 0
            require(has_labels, f"{path}: one_hot needs labels, y_train and y_test, from 0 on")
        classes = 1 + int(max(train.labels.max(), test.labels.max()))
        train.labels = np.eye(classes)[train.labels]
        test.labels = np.eye(classes)[test.labels]
    if not reshape:
        train.images = as_2d(train.images)[..., np.newaxis]
        test.images = as_2d(test.images)[..., np.newaxis]
    return DataSets(train.subset(slice(n, None)), train.subset(slice(n)), test, path.resolve())


def make_data_set(images, labels, name):
    """Returns a DataSet of images (n, height, width), (n, height, width, 1) or (n, X_n): integers from 0
    to 255, or floats or booleans from 0 to 1; and of labels, integers (n,) or (n, 1), or None. name:
    what error messages call the images."""
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    shape, kind = images.shape, images.dtype.kind
    is_valid = images.ndim in (2, 3) and images.size > 0
    require(is_valid, f"{name} must be (n, height, width) or (n, X_n), not {shape}")
    # as_2d sees only X_n, from which it could not find another height and width.
    is_square = images.ndim == 2 or shape[1] == shape[2]
    require(is_square, f"{name} must be square, not {shape[1]} x {shape[-1]}")
    expected = "integers from 0 to 255 or floats from 0 to 1"
    require(kind in "biuf", f"{name} must be {expected}, not {images.dtype}")
    low, high = images.min(), images.max()
    in_range = 0 <= low <= high <= (255 if kind in "iu" else 1)
    require(in_range, f"{name} must be {expected}, not {images.dtype} from {low} to {high}")
    if kind in "iu":
        require(high != 1, f"{name} are only 0 and 1: convert them to booleans")
        # float32(1 / 255) rounds as TensorFlow 1's reader did.
        images = np.multiply(images, np.float32(1 / 255), dtype=np.float32)
    images = images.reshape(len(images), -1).astype(np.float32, copy=False)
    if labels is not None:
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        is_valid = labels.shape == (len(images),) and labels.dtype.kind in "iu"
        found = f"{labels.dtype} {labels.shape}"
        require(is_valid, f"{name}: {len(images)} integer labels expected, not {found}")
    return DataSet(images, labels)


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x_train, x_test = arrays["x_train"], arrays["x_test"]
            return x_train, arrays.get("y_train"), x_test, arrays.get("y_test")
    except Exception as e:  # NumPy raises a dozen kinds for damaged files
        raise AutoEncoderError(f"{path} cannot be read: {e}") from None


def _read_idx(folder):
    hint = f"MNIST is in {DATA_DIR}; for pictures, see python -m beyond.pictures"
    if folder == DATA_DIR:
        hint = "run git checkout MNIST_data"
    arrays = []
    for name in IDX_FILES:
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
        require(found, f"there is neither {folder / name} nor {name}.gz: {hint}")
        open_file = gzip.open if found[0].suffix == ".gz" else open
        try:
            with open_file(found[0], "rb") as file:
                magic = file.read(4)  # 0, 0, 8 for bytes, number of dimensions
                require(magic[:3] == b"\0\0\x08", "not an IDX file of bytes")
                shape = np.frombuffer(file.read(4 * magic[3]), ">u4").tolist()
                arrays.append(np.frombuffer(file.read(), np.uint8).reshape(shape))
        except (AutoEncoderError, OSError, EOFError, ValueError, IndexError, zlib.error) as e:
            raise AutoEncoderError(f"{found[0]} cannot be read: {e}") from None
    return arrays


def as_integers(labels):
    """Returns labels as integers (n,), whether they are one-hot (n, classes) or not."""
    return labels.argmax(axis=1) if labels.ndim == 2 else labels


def as_2d(images):
    """(..., X_n) -> (..., height, width), as square as X_n allows."""
    X_n = images.shape[-1]
    height = math.isqrt(X_n)
    while X_n % height:
        height -= 1
    return images.reshape(*images.shape[:-1], height, -1)


def tiled(images, columns):
    """images: (n, X_n) -> one image, in whose rows `columns` of them stand side by side"""
    images = as_2d(images)
    rows = [np.hstack(images[i : i + columns]) for i in range(0, len(images), columns)]
    return np.vstack(rows)


# ---- Model architecture --------------------------------------------------------------------------

MEAN_IMAGE = "mean_image"  # the variable's name


class Network(NamedTuple):
    """A network to train: what build returns, or tensors of your own.

    `train` runs opt and loss, and feeds only X and `training_feed`. Evaluation runs loss, Z and G, and
    feeds only X. So any other placeholder must be a tf.placeholder_with_default. For example,
    keep_prob = tf.placeholder_with_default(1.0, []) in dropout and training_feed={keep_prob: 0.5} drop
    units in training only. If X, Z or G have a fixed number of images, batch_size must be equal to it,
    and the number of images a multiple of it. check_before_training says what else is needed.

    The network consists of the operations that loss, opt, Z and G need, and their variables. Others in
    the tf.Graph are neither saved nor restored.

    Of hp, `train` uses X_n, epoch_n, batch_size and seed, and train_n if schedule is not "constant".
    The other fields are recorded, and must be the same to resume.
    """

    hp: HParams
    X: tf.Tensor  # (batch, X_n): placeholder of the images
    Z: tf.Tensor  # (batch, Z_n): fetch it to encode, feed it to decode
    G: tf.Tensor  # (batch, X_n)
    loss: tf.Tensor  # (): a sum over the minibatch; for a mean, see the module's docstring
    opt: tf.Operation  # runs one step of the optimizer; also a tensor that does, or a list
    init: tf.Operation  # initializes all variables, those of the optimizer included
    training_feed: dict = types.MappingProxyType({})  # {placeholder: value}, fed in training only

    @property
    def variables(self):
        """Weights, slots of the optimizer, moving averages, global step."""
        return variables_of([self.loss, self.opt, self.Z, self.G])


def inputs(hp):
    """Returns the placeholder of the images. -> X: (batch, X_n)"""
    with tf.name_scope("X"):
        return tf.placeholder(tf.float32, [None, hp.X_n])


def encode(X, hp):
    """X: (batch, X_n) -> Z: (batch, Z_n)"""
    with tf.name_scope("Encoder"):
        h = centered(X, hp)
        for i, n in enumerate(hp.enc_n):
            h = layer(h, n, ACTIVATIONS[hp.activation], f"Layer{i + 1:02d}", hp)
    return layer(h, hp.Z_n, ACTIVATIONS[hp.Z_activation], "Z", hp)


def decode(Z, hp):
    """Z: (batch, Z_n) -> G: (batch, X_n)"""
    h = Z
    with tf.name_scope("Decoder"):
        for i, n in enumerate(hp.dec_n):
            h = layer(h, n, ACTIVATIONS[hp.activation], f"Layer{i + 1:02d}", hp)
    return layer(h, hp.X_n, lambda logits: image_of(logits, hp), "G", hp)


def layer(x, n, activation, scope, hp):
    """A fully connected layer, activation(x w + b). x: (batch, m) -> (batch, n)"""
    initial_w, initial_b = INITIALIZERS[hp.init]
    with tf.name_scope(scope):
        w = tf.Variable(initial_w([x.shape[1], n]), name="w")
        b = tf.Variable(initial_b([n]), name="b")
        return activation(tf.matmul(x, w) + b)


def centered(X, hp):
    """Returns X, or X minus the mean image. X: (batch, X_n)"""
    return X if hp.centering == "none" else X - mean_image(hp)


def image_of(logits, hp):
    """Returns the images of logits (batch, X_n): their sigmoid. With centering, logits of 0 give the mean
    image, clipped to [0.01, 0.99]."""
    if hp.centering == "none":
        return tf.sigmoid(logits)
    mean = tf.clip_by_value(mean_image(hp), 0.01, 0.99)
    return tf.sigmoid(logits + tf.log(mean / (1 - mean)))


def mean_image(hp):
    """Returns the variable that `train` sets to the mean training image: (X_n,). It is not trained. Networks
    in one tf.Graph share it, so they must be trained on the same images."""
    with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
        zeros = tf.zeros_initializer()
        return tf.get_variable(MEAN_IMAGE, [hp.X_n], initializer=zeros, trainable=False)


def l2_loss(G, X):
    """G, X: (batch, X_n) -> sum over batch and pixels of (G - X)^2 / 2: ()"""
    with tf.name_scope("loss"):
        return tf.nn.l2_loss(G - X)


def training(loss, hp):
    """Returns the operation that runs one step of Adam, or of AdamW if hp.weight_decay is not 0, and
    counts it if the graph has a global step. Networks in one tf.Graph share that step."""
    with tf.name_scope("training"):
        rate, step = learning_rate(hp)
        opt = tf.train.AdamOptimizer(rate).minimize(loss, global_step=step)
        if hp.weight_decay:
            # After Adam's update, w is multiplied by 1 - rate * weight_decay. Biases are not.
            weights = [v for v in variables_of([loss]) if v.trainable and len(v.shape) > 1]
            with tf.control_dependencies([opt]):
                opt = tf.group(*[w.assign_sub(rate * hp.weight_decay * w) for w in weights])
        return opt


def learning_rate(hp):
    """Returns the learning rate, and the global step, or None if there is none. A rate that decays makes
    the step and a summary, and is 0 after the last step of the last epoch."""
    if hp.schedule == "constant":
        return hp.learning_rate, tf.train.get_global_step()
    step = tf.train.get_or_create_global_step()
    steps = hp.epoch_n * math.ceil(hp.train_n / hp.batch_size)
    if hp.schedule == "linear":
        rate = tf.train.polynomial_decay(hp.learning_rate, step, steps, end_learning_rate=0.0)
    else:
        rate = tf.train.cosine_decay(hp.learning_rate, step, steps)
    tf.summary.scalar("learning_rate", rate)
    return rate, step


def build(hp):
    """Builds the tutorial's network in a new tf.Graph. Returns its Network."""
    with tf.Graph().as_default():
        tf.set_random_seed(hp.seed)
        X = inputs(hp)
        Z = encode(X, hp)
        G = decode(Z, hp)
        loss = l2_loss(G, X)
        opt = training(loss, hp)
        return Network(hp, X, Z, G, loss, opt, tf.global_variables_initializer())


# ---- Session -------------------------------------------------------------------------------------


def start_session(net):
    """Opens a session on the graph and initializes its variables."""
    # Allocates only the GPU memory that it needs. What has no GPU kernel runs on the CPU.
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    sess = tf.Session(graph=net.X.graph, config=config)
    sess.run(net.init)
    return sess


def device():
    """Returns a description of the device in use: a GPU if there is one."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unnamed")
        return f"GPU, {name}"
    n = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):  # this process may be limited to fewer
        n = len(os.sched_getaffinity(0))
    return f"CPU, {n} core{'' if n == 1 else 's'}"


# ---- Training ------------------------------------------------------------------------------------


def print_line(text, is_progress=False):
    """Prints a line. If `is_progress`, the next text is printed over this one, and nothing is printed
    unless the output is a terminal or a notebook, nor more than five times a second."""
    start = "\r" if is_interactive(sys.stdout) else ""
    if not is_progress:
        print(start + text, flush=True)
    elif start and time.monotonic() > print_line.next_progress:
        print_line.next_progress = time.monotonic() + 0.2
        print(start + text, end="", flush=True)


print_line.next_progress = 0.0  # time.monotonic()


def is_interactive(stream):
    """Returns whether a stream of output is a terminal or a notebook."""
    return "ipykernel" in sys.modules or (hasattr(stream, "isatty") and stream.isatty())


class Epoch(NamedTuple):
    epoch: int  # 1, 2, ...
    loss: float  # per 100 images; that of each minibatch is computed before its update
    validation_loss: float  # per 100 images, after the epoch
    live: int  # latent variables that are not 0 for every validation image


def train(sess, net, data, logdir=None, resume=False, loop=None, on_epoch=None, show=print_line):
    """Trains for hp.epoch_n epochs, from the weights that the session has. Returns a list of Epoch.

    data: DataSets; the network learns from data.train and is evaluated on data.validation.
    logdir: folder for a checkpoint and TensorBoard summaries after each epoch. Without resume, the
    first epoch replaces an earlier run there.
    resume: continue from the last checkpoint in logdir, if there is one. The final weights are the
    same as without the interruption, unless the graph draws random numbers that depend on more than
    a seed and the global step. Graph, images, hyperparameters and training_feed must be as at the start
    of the run, except that epoch_n may be larger if the schedule is constant. What depends on the epoch
    is best set by a loop of your own.
    loop: a function (sess, net, images, epoch, show) that trains for one epoch and returns the loss per
    100 images. The default is compile_loop(sess, net), which computes the same as feed_loop, and
    faster. If you have changed feed_loop, pass loop=feed_loop.
    on_epoch: a function that is called with each Epoch. An exception that it raises stops training.
    show: what is called in place of print_line.
    Raises AutoEncoderError if network, data and checkpoint do not fit together, or the loss is not finite.
    """
    check_before_training(sess, net, data, logdir, resume)
    history = restore(sess, net, data, logdir) if resume else []
    if history:
        show(f"resumed after epoch {len(history)}")
    elif resume:
        show(f"no checkpoint in {logdir}: training starts")
    elif logdir and run_files(logdir):
        show(f"the first epoch will replace the earlier run in {logdir}")
    if len(history) == net.hp.epoch_n:
        return history
    if not history:
        prepare_new_run(sess, net, data)
    loop = loop or compile_loop(sess, net, show)
    with recorder(sess, net, data, logdir, len(history), show) as record:
        for epoch in range(len(history) + 1, net.hp.epoch_n + 1):
            loss = float(loop(sess, net, data.train.images, epoch, show))
            validation_loss, Z = loss_and_Z(sess, net, data.validation.images)
            show(f"epoch: {epoch}, loss: {loss:.3f}, validation loss: {validation_loss:.3f}")
            if not math.isfinite(loss + validation_loss):
                raise Diverged("the loss is not finite: try a smaller learning_rate")
            live = int(Z.any(axis=0).sum())
            history.append(Epoch(epoch, loss, validation_loss, live))
            record(history, Z)
            if on_epoch:
                on_epoch(history[-1])
    return history


def prepare_new_run(sess, net, data):
    """Restarts the schedule, if this session has trained before. Sets the mean image, if there is one."""
    if net.hp.schedule != "constant":
        sess.run(tf.train.get_or_create_global_step(net.X.graph).initializer)
    for variable in net.variables:
        if variable.op.name.split("/")[-1] == MEAN_IMAGE:
            mean = data.train.images.mean(axis=0, dtype=np.float64)
            variable.load(mean.astype(np.float32), sess)


def feed_loop(sess, net, images, epoch, show=print_line):
    """Trains for one epoch with one session call per minibatch, as the tutorial does. Returns the
    loss per 100 images."""
    order = shuffled(net.hp.seed, epoch, len(images))
    total = 0.0
    for start in range(0, len(images), net.hp.batch_size):
        batch = images[order[start : start + net.hp.batch_size]]
        loss, _ = sess.run([net.loss, net.opt], feed_dict={net.X: batch, **net.training_feed})
        total += float(loss)
        so_far = REPORTED_IMAGES * total / (start + len(batch))
        show(f"epoch: {epoch}, loss: {so_far:<10.3f}", is_progress=True)
    return REPORTED_IMAGES * total / len(images)


def shuffled(seed, epoch, n):
    """Returns the order of n images in an epoch, a permutation that is the same on every machine."""
    # A generator of its own for each epoch, so that a resumed run shuffles as one without a stop.
    return np.random.default_rng([seed, epoch]).permutation(n)


# ---- Evaluation ----------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    score: float  # loss per 100 images, as in Epoch; the tutorial prints this number
    mse: float  # mean of (G - X)^2 over images and pixels, whatever the loss is
    live: int  # latent variables that are not 0 for every image
    Z_n: int

    def __str__(self):
        per_image = self.score / REPORTED_IMAGES
        score = f"score: {self.score:.3f} ({per_image:.3f} per image; mean squared error {self.mse:.5f})"
        return f"{score}, {self.live} of {self.Z_n} latents live"


def evaluate(sess, net, images):
    """Evaluates the network on images (n, X_n). Returns an Evaluation."""
    check_last_minibatch(sess, net, images)
    loss_sum, squared_error, live = 0.0, 0.0, False
    fetches = [net.loss, net.Z, net.G]
    for X, (loss, Z, G) in run_batches(sess, fetches, net.X, images, net.hp.batch_size):
        loss_sum += float(loss)
        squared_error += float(np.square(G - X).sum())
        live = live | Z.any(axis=0)
    score = REPORTED_IMAGES * loss_sum / len(images)
    return Evaluation(score, squared_error / images.size, int(live.sum()), live.size)


def loss_and_Z(sess, net, images):
    """Returns the loss per 100 images, and Z (n, Z_n), of images (n, X_n)."""
    # In minibatches of batch_size, so that a loss that is a mean is reported as in training.
    batches = run_batches(sess, [net.loss, net.Z], net.X, images, net.hp.batch_size)
    losses, Z = zip(*[results for _, results in batches])
    return REPORTED_IMAGES * sum(map(float, losses)) / len(images), np.concatenate(Z)


def run_batches(sess, fetches, placeholder, rows, batch_size):
    """Feeds rows to a placeholder, batch_size at a time. Yields each batch and its results."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        yield batch, sess.run(fetches, {placeholder: batch})


def run_images(sess, net, fetches, images):
    """Returns arrays (n, ...), the fetches for images (n, X_n). The last minibatch is filled up."""
    n, batch_size = len(images), net.hp.batch_size
    filled = np.resize(images, (batch_size * math.ceil(n / batch_size), net.hp.X_n))
    results = [result for _, result in run_batches(sess, fetches, net.X, filled, batch_size)]
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts)[:n], *results)


def plot_reconstruction(X, G, labels):
    """Draws X | G for the first image, and X above G for the first image of each label. Returns a Figure.
    X, G: (n, X_n), images and their reconstructions; labels: (n,), or None."""
    firsts = first_of_each(labels)
    widths = [2.1, 2.1, 0.9 * len(X[firsts]) + 0.3]
    figure = Figure(figsize=(sum(widths), 2.1), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=widths)
    plot_images({"X": X[:1]}, left)
    plot_images({"G": G[:1]}, middle)
    plot_images({"X": X[firsts], "G": G[firsts]}, right)
    return figure


def plot_images(rows, figure=None, cmap=None):
    """Draws rows, {name: images (n, X_n)}, in the colours of a matplotlib colormap; by default in
    matplotlib's own, as the tutorial does. Returns a Figure."""
    columns = max(map(len, rows.values()))
    if figure is None:
        size = 0.9 * columns + 0.15 * max(map(len, rows)), 0.95 * len(rows)
        figure = Figure(figsize=size, dpi=80, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (name, images), axes_row in zip(rows.items(), grid):
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="large")
        for axes, image in zip(axes_row, images):
            axes.imshow(as_2d(image), cmap, vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        for axes in axes_row[len(images) :]:
            axes.set_axis_off()
    return figure


def first_of_each(labels):
    """Returns which images to show: the first of each label, if there are labels, and at most ten."""
    if labels is None:
        return slice(10)
    return np.unique(as_integers(labels), return_index=True)[1][:10]


# ---- Not in the tutorial, from here on: what a graph needs, and checks ---------------------------


def ancestors(fetches):
    """Returns the operations that tensors or operations need, and these themselves, as a set."""
    found = set()
    to_visit = [getattr(fetch, "op", fetch) for fetch in tf.nest.flatten(fetches)]
    while to_visit:
        op = to_visit.pop()
        if op not in found:
            found.add(op)
            to_visit += [tensor.op for tensor in op.inputs] + op.control_inputs
    return found


def variables_of(fetches):
    """Returns the variables that tensors or operations need, in the order in which they were made."""
    operations = ancestors(fetches)
    graph = next(iter(operations)).graph
    variables = graph.get_collection("variables") + graph.get_collection("local_variables")
    return [variable for variable in variables if variable.op in operations]


def check_before_training(sess, net, data, logdir, resume):
    """Raises AutoEncoderError if `train` could not do what it is asked, as far as can be seen."""
    hp, X, n = net.hp, net.X, data.train.num_examples
    require(not X.graph.finalized, "the graph is finalized: use tf.Session, not a MonitoredSession")
    is_valid = X.op.type.startswith("Placeholder") and X.dtype.is_floating
    require(is_valid, f"X must be a placeholder of floats, not {X.name}, {X.dtype.name}")
    is_valid = X.shape.is_compatible_with([None, hp.X_n])
    require(is_valid, f"X must be (batch, {hp.X_n}), not {X.shape}: use tf.reshape after it")
    for fetch in tf.nest.flatten(net.opt):
        is_valid = isinstance(getattr(fetch, "op", fetch), tf.Operation)
        require(is_valid, f"opt must be what minimize returns, not {fetch}")
    for name in ("loss", "opt", "Z", "G"):
        needed = ancestors(getattr(net, name))
        require(X.op in needed, f"{name} does not depend on X, {X.name}")
        others = {op.name for op in needed - {X.op} if op.type == "Placeholder"}
        found = f"the placeholder {min(others, default=None)}, but `train` feeds only X"
        hint = "use X (targets = X), or tf.placeholder_with_default; or tf.reset_default_graph()"
        require(not others, f"{name} needs {found}, {X.op.name}: {hint}")
    for key in net.training_feed:
        is_valid = tf.is_tensor(key) and key.op.type == "PlaceholderWithDefault"
        name = getattr(key, "name", key)
        require(is_valid, f"{name} in training_feed must be a tf.placeholder_with_default")
    with X.graph.as_default(), tf.name_scope("check/"):
        names = sess.run(tf.report_uninitialized_variables(net.variables))
    hint = "make init after opt, and for local variables by tf.local_variables_initializer()"
    require(not names.size, f"init does not initialize {b', '.join(names[:3]).decode()}: {hint}")
    for name, part in (("training", data.train), ("validation", data.validation)):
        shape, dtype = part.images.shape, part.images.dtype
        require(shape[1:] == (hp.X_n,), f"X_n is {hp.X_n}, but the {name} images are {shape}")
        require(dtype.kind == "f", f"{name} images must be floats from 0 to 1, not {dtype}")
        require(shape[0] > 0, f"there are no {name} images")
        loss = check_last_minibatch(sess, net, part.images)
        hint = "is there a log or a division of 0?"
        require(math.isfinite(loss), f"loss ({net.loss.name}) is {loss} before training: {hint}")
    has_train_n = hp.schedule == "constant" or hp.train_n == n
    require(has_train_n, f"the schedule needs train_n: it is {hp.train_n}, not {n}")
    require(logdir or not resume, "resume needs the logdir of the run")
    check_checkpoint_path(logdir)


def check_checkpoint_path(path):
    """Raises AutoEncoderError if TensorFlow would read the path of a checkpoint as a pattern."""
    special = ({"[", "\\"} - {os.sep}) & set(str(path))
    require(not special, f"{path}: TensorFlow opens no checkpoints in a path with [ or \\")


def check_last_minibatch(sess, net, images):
    """Returns the loss of the last minibatch of images. Raises AutoEncoderError if it cannot be run, or has
    other shapes."""
    last = images[-(len(images) % net.hp.batch_size or net.hp.batch_size) :]
    try:
        loss, Z, G = sess.run([net.loss, net.Z, net.G], {net.X: last})
    except (tf.errors.OpError, ValueError) as e:
        hint = f"if it takes a fixed number of images, batch_size must be that and divide {len(images)}"
        raise AutoEncoderError(f"a minibatch cannot be run: {first_line(e)}; {hint}") from e
    require(np.shape(loss) == (), f"loss ({net.loss.name}) must be a scalar, not {np.shape(loss)}")
    is_valid = np.ndim(Z) == 2 and len(Z) == len(last)
    require(is_valid, f"Z ({net.Z.name}) must be (batch, n), not {np.shape(Z)}")
    require(np.shape(G) == last.shape, f"G ({net.G.name}) must be {last.shape}, not {np.shape(G)}")
    return loss


# ---- Compiled loop -------------------------------------------------------------------------------


def compile_loop(sess, net, show=print_line):
    """Returns a function that computes the same as feed_loop, compiled by XLA.

    A session call for each minibatch costs time. The compiled loop makes up to 55 steps per call.
    For that, _loop_graph copies the training step, from X to loss and opt, into the body of a
    tf.while_loop, on the same variables. Only rounding differs.
    Returns feed_loop itself, and shows why, if XLA cannot compile the graph or would compute something
    else; or if the graph has convolutions, which XLA makes slow on a CPU.
    """
    batch_size = net.hp.batch_size
    # A tenth of the tutorial's epoch, to show progress. At most 2^25 pixels, which a call copies.
    steps_per_call = min(55, max(1, 2**25 // (batch_size * net.hp.X_n)))

    def call(images, steps):  # by what _loop_graph returns, below
        feed = {feed_phs[tensor]: value for tensor, value in net.training_feed.items()}
        return float(sess.run(loss_sum, {images_ph: images, steps_ph: steps, **feed}))

    try:
        # The final / enters the same scope also the second time, instead of compiled_1.
        with net.X.graph.as_default(), tf.name_scope("compiled/"):
            images_ph, steps_ph, feed_phs, loss_sum = _loop_graph(net)
        show("compiling", is_progress=True)
        # XLA compiles in the first call, or fails.
        call(np.zeros((steps_per_call * batch_size, net.hp.X_n), np.float32), steps=0)
    except Exception as e:  # TensorFlow raises many kinds
        # XLA puts the name of an operation that it does not have into several lines of its own.
        reason = re.sub(r" when trying to compile .*_JIT: (\w+).*", r": \1", first_line(e))
        show(f"training with feed_loop, without XLA: {reason:.200}")
        return feed_loop

    def compiled_loop(_sess, _net, images, epoch, show=print_line):
        order = shuffled(net.hp.seed, epoch, len(images))
        total = 0.0
        full = len(images) // batch_size  # the last minibatch may be smaller
        for first in range(0, full, steps_per_call):
            last = min(first + steps_per_call, full)
            rows = order[first * batch_size : last * batch_size]
            # np.resize repeats rows to a constant length: XLA would compile again for another.
            rows = np.resize(rows, steps_per_call * batch_size)
            total += call(images[rows], steps=last - first)
            so_far = REPORTED_IMAGES * total / (last * batch_size)
            show(f"epoch: {epoch}, loss: {so_far:<10.3f}", is_progress=True)
        rest = images[order[full * batch_size :]]
        if len(rest):
            loss, _ = sess.run([net.loss, net.opt], {net.X: rest, **net.training_feed})
            total += float(loss)
        return REPORTED_IMAGES * total / len(images)

    return compiled_loop


# XLA leaves out the first two, and draws other random floats. Those after ?! draw none.
DIFFERENT_IN_XLA = re.compile("Assert|CheckNumerics|Stateless(?!.*(Int|Get|If|Case|While)).*")


def _loop_graph(net):
    """Adds a loop over minibatches to the graph. Returns the placeholders of the images, of the number
    of steps, and of what training_feed feeds, as a dict; and the sum of the losses."""
    hp, step_def = net.hp, subgraph([net.loss, net.opt], [net.X, *net.training_feed])
    nodes = [*step_def.node]
    for function in step_def.library.function:
        nodes += function.node_def
    for node in nodes:
        # All operations whose seed is an attribute have seed2. XLA ignores it.
        is_different = "seed2" in node.attr or DIFFERENT_IN_XLA.fullmatch(node.op)
        require(not is_different, f"it leaves out or changes the operation {node.op}")
        is_slow = "Conv" in node.op and not tf.config.list_physical_devices("GPU")
        require(not is_slow, "its convolutions are slow on a CPU")
    names = {f"{name}:0" for node in step_def.node for name in node.input}
    variables = variable_handles(net.variables)
    images_ph = tf.placeholder(tf.float32, [None, hp.X_n])
    steps_ph = tf.placeholder(tf.int32, [])
    feed_phs = {t: tf.placeholder(t.dtype, np.shape(v)) for t, v in net.training_feed.items()}
    outputs = [net.loss.name]
    outputs += [getattr(fetch, "op", fetch).name for fetch in tf.nest.flatten(net.opt)]

    def loop(images, steps, feed):
        def step(k, total):
            X = tf.slice(images, [k * hp.batch_size, 0], [hp.batch_size, hp.X_n])
            fed = variables | feed | {net.X.name: tf.cast(X, net.X.dtype)}
            # tf.identity makes a tensor of the loop's own graph.
            input_map = {name: tf.identity(value) for name, value in fed.items() if name in names}
            loss, *opt = tf.import_graph_def(step_def, input_map, outputs, name="")
            with tf.control_dependencies(opt):
                return k + 1, total + loss

        return tf.while_loop(lambda k, total: k < steps, step, (0, 0.0))[1]

    compiled = tf.function(loop, autograph=False, jit_compile=True)
    total = compiled(images_ph, steps_ph, {t.name: ph for t, ph in feed_phs.items()})
    return images_ph, steps_ph, feed_phs, total


def variable_handles(variables):
    """Returns the resource handles of variables, by name, in the same order."""
    has_handles = all(hasattr(variable, "handle") for variable in variables)
    require(has_handles, "call tf.enable_resource_variables() before the graph is built")
    return {variable.handle.name: variable.handle for variable in variables}


def subgraph(fetches, fed):
    """Returns the GraphDef of what tensors or operations need, without variables and what is fed."""
    operations = ancestors(fetches) - {tensor.op for tensor in fed}
    names = {op.name for op in operations if op.type != "VarHandleOp"}
    graph_def = next(iter(operations)).graph.as_graph_def()
    nodes = [node for node in graph_def.node if node.name in names]
    for node in nodes:
        node.attr.pop("_class", None)  # it may name operations that are not in this part
        node.attr.pop("_lower_using_switch_merge", None)  # XLA compiles tf.cond only without it
    return tf.GraphDef(node=nodes, versions=graph_def.versions, library=graph_def.library)


# ---- Checkpoints ---------------------------------------------------------------------------------

# What a run leaves in its logdir. The first is deleted first: without it there is no run. TensorFlow
# leaves .tempstate if it is killed. Its file named checkpoint stays: it may name another Saver's.
EVENTS = "events.*.autoencoder"
RUN_FILES = ["checkpoints/run.json", "checkpoints/epoch-[0-9]*.index"]
RUN_FILES += ["checkpoints/epoch-[0-9]*.data-?????-of-?????", "checkpoints/epoch-[0-9]*.tempstate*"]
RUN_FILES += [EVENTS, f"train/{EVENTS}", f"validation/{EVENTS}", f"test/{EVENTS}"]
RUN_FILES += "test/Z.tsv test/labels.tsv test/thumbnails.png test/projector_config.pbtxt".split()


def run_files(logdir):
    """Returns the files that a run has left in logdir."""
    return [path for pattern in RUN_FILES for path in Path(logdir).glob(pattern)]


@contextlib.contextmanager
def recorder(sess, net, data, logdir, epochs, show=print_line):
    """Yields record(history, Z), which writes the last epoch's summaries and a checkpoint, if there is a
    logdir. Z: of the validation images. epochs: those before. If 0, an earlier run is replaced."""
    if not logdir:
        yield lambda history, Z: None
        return
    weights = {v.op.name: v for v in net.variables if v.trainable}
    fetches = {"weights": weights, "own": own_summaries(net)}
    try:  # now, rather than after an epoch
        sess.run(fetches["own"], {net.X: data.validation.images[: net.hp.batch_size]})
    except tf.errors.OpError as e:
        raise AutoEncoderError(f"a tf.summary cannot be run: {first_line(e)}") from e
    folder = Path(logdir, "checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    run_info = fingerprint(net, data) | {"data_dir": str(data.path) if data.path else None}
    with net.X.graph.as_default():
        saver = tf.train.Saver(net.variables, max_to_keep=1, save_relative_paths=True)
    if epochs:  # the next checkpoint replaces the one that was restored
        saver.recover_last_checkpoints([str(folder / f"epoch-{epochs}")])
    writers = {}

    def record(history, Z):
        # What may fail comes before an earlier run is deleted.
        summaries = epoch_summaries(sess, net, data, fetches, history[-1], Z)
        is_first_call = not writers
        if is_first_call:
            earlier_run = [] if epochs else run_files(logdir)
            for path in earlier_run:
                path.unlink()
            writers.update(open_writers(net, data, logdir, epochs))
        for name, of_writer in summaries.items():
            add(writers[name], history[-1].epoch, *of_writer)
        save(sess, saver, run_info, history, folder)
        if is_first_call:
            trace_step(sess, net, data.train.images, writers["train"], show)
            saver.restore(sess, saver.last_checkpoints[-1])

    try:
        yield record
    finally:
        for writer in writers.values():
            writer.close()


def save(sess, saver, run_info, history, folder):
    """Saves a checkpoint of the last epoch in `history`, and then deletes the one before."""
    # run.json comes first. If the process is killed then, `read_run` leaves its last epoch out.
    temporary = folder / "run.json.tmp"
    with writing(folder):
        temporary.write_text(json.dumps(run_info | {"history": history}))
        temporary.replace(folder / "run.json")
        saver.save(sess, str(folder / "epoch"), len(history), write_meta_graph=False)


@contextlib.contextmanager
def writing(folder):
    """Turns what is raised if a file cannot be written, as on a full disk, into AutoEncoderError, which
    names the folder."""
    try:
        yield
    except (OSError, tf.errors.OpError, RuntimeError) as e:  # FileWriter raises the last
        raise AutoEncoderError(f"{folder} cannot be written: {first_line(e)}") from e


def restore(sess, net, data, logdir):
    """Loads the last checkpoint into the session. Returns its history, or [] if there is none. Raises
    AutoEncoderError if it cannot be read or belongs to another run."""
    run = read_run(logdir)
    if run is None:
        return []
    saved, current = run.info, fingerprint(net, data)
    changed = [name for name in current if saved[name] != current[name]]
    if run.hp.schedule == "constant" and len(run.history) <= net.hp.epoch_n:
        changed = [name for name in changed if name != "epoch_n"]  # a run may be made longer
    differences = []
    for name in changed:
        values = f" ({saved[name]}, not {current[name]})"
        differences.append(name if name in ("graph", "images") else name + values)
    hint = "use the same, or another logdir"
    if changed == ["graph"]:
        hint += "; in a notebook, call tf.reset_default_graph() before it is built again"
    require(not changed, f"the run in {logdir} has another {', '.join(differences)}: {hint}")
    try:
        with net.X.graph.as_default():
            tf.train.Saver(net.variables).restore(sess, run.checkpoint)
    except (tf.errors.OpError, ValueError) as e:
        last = read_run(logdir)
        if last and last.checkpoint != run.checkpoint:  # a training has replaced it meanwhile
            return restore(sess, net, data, logdir)
        raise AutoEncoderError(f"{run.checkpoint} cannot be read: {first_line(e)}") from e
    return run.history


class Run(NamedTuple):
    hp: HParams
    history: list  # of Epoch
    info: dict  # what run.json has
    checkpoint: str  # the path that tf.train.Saver takes


def read_run(logdir):
    """Returns the Run in logdir, or None if there is no checkpoint."""
    path = Path(logdir, "checkpoints", "run.json")
    if not path.exists():
        return None
    try:
        info = json.loads(path.read_text())
        hp = HParams(**{field.name: info[field.name] for field in dataclasses.fields(HParams)})
        history = [Epoch(*epoch) for epoch in info["history"]]
    except KeyError as e:
        raise AutoEncoderError(f"{path} has no {e}: another version wrote it") from None
    except (ValueError, TypeError, AutoEncoderError) as e:
        raise AutoEncoderError(f"{path} is damaged: {e}") from None
    require("training_feed" in info, f"{path} has no training_feed: another version wrote it")
    for epoch in (len(history), len(history) - 1):  # see save
        checkpoint = path.with_name(f"epoch-{epoch}")
        if checkpoint.with_suffix(".index").exists():
            return Run(hp, history[:epoch], info, str(checkpoint))
    return None


def fingerprint(net, data):
    """Returns what distinguishes a run: hyperparameters, training_feed, checksums of graph and images."""
    feed = {tensor.name: np.asarray(value).tolist() for tensor, value in net.training_feed.items()}
    others = {"training_feed": feed, "graph": graph_checksum(net), "images": images_checksum(data)}
    # Through JSON, so that it can be compared with what was read: tuples become lists.
    return json.loads(json.dumps(dataclasses.asdict(net.hp) | others))


def graph_checksum(net):
    """Returns a checksum of the operations of a network. The bodies of functions do not count."""
    checksum = 0
    operations = ancestors([net.loss, net.opt, net.Z, net.G])
    for op in sorted(operations, key=lambda op: op.name):
        node = op.node_def
        node.ClearField("device")
        for name, attr in [*node.attr.items()]:
            # These have numbers that depend on what the process has built before.
            if name in ("_gradient_op_type", "token") or attr.HasField("func") or attr.list.func:
                del node.attr[name]
        checksum = zlib.crc32(node.SerializeToString(deterministic=True), checksum)
    return checksum


def images_checksum(data):
    """Returns a checksum of the training and validation images."""
    checksum = 0
    for part in (data.train, data.validation):
        checksum = zlib.crc32(str(part.images.shape).encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(part.images), checksum)
    return checksum


# ---- TensorBoard ---------------------------------------------------------------------------------

# The module's summaries are made of NumPy arrays. So a graph of your own needs no tf.summary
# operations. Those that it has are written as well.
# One tag, so that the curves of `train` and `validation` overlay; not that of a graph's own summary.
LOSS_TAG = f"loss of {REPORTED_IMAGES} images"
HIDDEN_SCOPES = re.compile(r"(check|compiled|save)(_\d+)?/")  # left out of the Graphs tab


def open_writers(net, data, logdir, epochs):
    """Opens event files, and writes graph and hyperparameters. Returns {name: FileWriter}."""
    writers = {k: summary_writer(Path(logdir, k), epochs + 1) for k in ("train", "validation")}
    # After a resume, TensorBoard would show the old hyperparameters, but epoch_n may have changed.
    for path in Path(logdir).glob(EVENTS):
        path.unlink()
    with summary_writer(logdir, 0) as writer:
        start = session_start_pb(dataclasses.asdict(net.hp))
        add(writer, 0, start, text_pb("run", about_run(data)))
    graph_def = net.X.graph.as_graph_def(add_shapes=True)
    nodes = [node for node in graph_def.node if not HIDDEN_SCOPES.match(node.name)]
    writers["train"].add_graph(tf.GraphDef(node=nodes, versions=graph_def.versions))
    return writers


def epoch_summaries(sess, net, data, fetches, epoch, Z):
    """Returns the summaries of an Epoch: {name of the writer: [tf.Summary]}. fetches: see recorder. Z: of
    the validation images. The graph's own summaries are those of the first minibatch of them."""
    found = sess.run(fetches, {net.X: data.validation.images[: net.hp.batch_size]})
    examples = data.validation.subset(first_of_each(data.validation.labels)).images
    G = run_images(sess, net, net.G, examples)
    pairs = tiled(np.concatenate([examples, G]), columns=len(examples))
    return {
        "train": [
            scalar_summary(LOSS_TAG, epoch.loss),
            *[histogram_summary(f"weights/{name}", w) for name, w in found["weights"].items()],
        ],
        "validation": [
            scalar_summary(LOSS_TAG, epoch.validation_loss),
            scalar_summary("training/live latents", epoch.live),
            histogram_summary("training/Z", Z),
            image_summary("reconstruction/X above G", pairs),
            *map(tf.Summary.FromString, found["own"]),
        ],
    }


def own_summaries(net):
    """Returns the tf.summary operations that need X and the network's variables alone, and change none."""
    others = "Placeholder|VarHandleOp|VariableV2|IteratorV2|.*(Assign|Apply|Scatter).*"
    is_other = re.compile(others).fullmatch
    known = {net.X.op, *[variable.op for variable in net.variables]}
    summaries = net.X.graph.get_collection(tf.GraphKeys.SUMMARIES)
    return [s for s in summaries if not any(is_other(op.type) for op in ancestors(s) - known)]


def trace_step(sess, net, images, writer, show):
    """Runs two steps of training, which change the variables. Writes time and memory of each operation
    in the second one, for TensorBoard's Graphs tab. If tracing fails, shows why."""
    feed = {net.X: images[: net.hp.batch_size], **net.training_feed}
    metadata = tf.RunMetadata()
    options = tf.RunOptions(trace_level=tf.RunOptions.SOFTWARE_TRACE)
    try:
        sess.run([net.loss, net.opt], feed)  # the first step takes longer than the others
        sess.run([net.loss, net.opt], feed, options, metadata)
        writer.add_run_metadata(metadata, "one step of training")
    except Exception as e:  # whatever it is, training goes on
        show(f"no times of operations for TensorBoard: {first_line(e)}")


def summary_writer(folder, step):
    """Returns a tf.summary.FileWriter. TensorBoard discards what earlier files have from `step` on."""
    suffix = f".{time.time_ns()}.autoencoder"  # TensorFlow's own timestamp has only seconds
    with writing(folder):
        writer = tf.summary.FileWriter(str(folder), filename_suffix=suffix)
    writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)
    return writer


def add(writer, step, *summaries):
    """Writes the summaries of a step to the event file."""
    with writing(writer.get_logdir()):
        for summary in summaries:
            # Serialized, because TensorBoard's class of summaries is not TensorFlow's.
            writer.add_summary(summary.SerializeToString(), step)
        writer.flush()


def scalar_summary(tag, value):
    """Returns the summary of a number, in the form of TensorFlow 1's tf.summary.scalar."""
    return tf.Summary(value=[{"tag": tag, "simple_value": value}])


def histogram_summary(tag, values):
    """Returns the summary of an array of numbers, in 30 bins. Those that are not finite are left out."""
    # float64, because float32 may lack 30 edges between the smallest and the largest.
    values = np.float64(values[np.isfinite(values)])
    counts, edges = np.histogram(values, 30)
    sums = {"num": values.size, "sum": values.sum(), "sum_squares": np.square(values).sum()}
    histogram = {"min": edges[0], "max": edges[-1], "bucket_limit": edges[1:], "bucket": counts}
    return tf.Summary(value=[{"tag": tag, "histo": histogram | sums}])


def image_summary(tag, image):
    """Returns the summary of an image (height, width) in [0, 1]."""
    png = io.BytesIO()
    matplotlib.image.imsave(png, image, cmap="gray", vmin=0, vmax=1, format="png")
    return tf.Summary(value=[{"tag": tag, "image": {"encoded_image_string": png.getvalue()}}])


def about_run(data):
    """Returns command, device, versions and data, as a list in Markdown."""
    command = f"`{shlex.join(['python', *sys.argv])}`"
    if "ipykernel" in sys.modules:
        command = "cells of a notebook"
    return f"""\
- command: {command}
- device: {device()}
- versions: Python {sys.version.split()[0]}, TensorFlow {tf.__version__}, NumPy {np.__version__}
- data: {data.path or "arrays"}, {data.train.num_examples} training images"""


def write_test(sess, net, test, evaluation, logdir):
    """Writes the loss in `evaluation` to logdir/test; and up to 10,000 images of `test`, a DataSet, for
    TensorBoard's Projector."""
    folder = Path(logdir, "test")
    with summary_writer(folder, net.hp.epoch_n) as writer:
        add(writer, net.hp.epoch_n, scalar_summary(LOSS_TAG, evaluation.score))
    # Browsers take pictures of at most 8192 x 8192 pixels.
    most = min(100, 8192 // max(as_2d(test.images).shape[1:]))
    X = test.images[: most**2]
    Z, G = run_images(sess, net, [net.Z, net.G], X)
    errors = np.square(G - X).sum(axis=1) / 2
    name = "image" if test.labels is None else "label"
    labels = np.arange(len(X)) if test.labels is None else as_integers(test.labels)[: len(X)]
    table = np.stack([labels, errors], axis=1)
    header = f"{name}\terror"
    np.savetxt(folder / "labels.tsv", table, ["%d", "%.5g"], "\t", header=header, comments="")
    np.savetxt(folder / "Z.tsv", Z, "%.5g", "\t")
    columns = math.ceil(math.sqrt(len(X)))
    filled = np.zeros((columns**2, net.hp.X_n), np.float32)
    filled[: len(X)] = X
    black_on_white = 1 - tiled(filled, columns)
    matplotlib.image.imsave(folder / "thumbnails.png", black_on_white, cmap="gray", vmin=0, vmax=1)
    height, width = as_2d(X).shape[1:]
    image_size = f"single_image_dim: {width} single_image_dim: {height}"
    (folder / "projector_config.pbtxt").write_text(
        'embeddings { tensor_name: "Z" tensor_path: "Z.tsv" metadata_path: "labels.tsv"\n'
        f'sprite {{ image_path: "thumbnails.png" {image_size} }} }}\n'
    )


# ---- Command line --------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser for this script and those of beyond/. Its errors are AutoEncoderErrors."""

    def __init__(self, prog, description, example=None):
        epilog = example and f"example: {example}"
        # resolve: beyond/ defines some flags of hyperparameters anew.
        super().__init__(prog, description=description, epilog=epilog, conflict_handler="resolve")

    def add_data_dir(self, default=DATA_DIR, shown="MNIST_data"):
        help = f"folder of IDX files, or .npz (default: {shown})"
        self.add_argument("--data_dir", type=user_path, default=default, metavar="PATH", help=help)

    def add_logdir(self, default="logs/AutoEncoder", help="folder of the run"):
        help += " (default: %(default)s)"
        self.add_argument("--logdir", type=user_path, default=default, metavar="FOLDER", help=help)

    def error(self, message):
        raise AutoEncoderError(f"{message} (see --help)")


def user_path(text):
    """Returns a path of the command line, with ~ expanded, as shells do not in --logdir=~/runs."""
    if not text or "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path of this machine")
    return Path(os.path.expanduser(text))  # an unknown ~user stays


def add_hparams(parser, **defaults):
    """Adds --recipe, and a flag for each hyperparameter that the data does not determine. defaults: those
    that differ from the recipe's."""
    parser.usage = "%(prog)s [options]"  # the list of all flags would be long
    fields = [f for f in dataclasses.fields(HParams) if f.name not in ("X_n", "train_n")]
    tuned = RECIPES["tuned"]
    changes = [field for field in fields if getattr(tuned, field.name) != field.default]
    flags = " ".join(f"--{field.name} {getattr(tuned, field.name)}" for field in changes)
    group = parser.add_argument_group("hyperparameters", f"Recipe tuned is: {flags}")
    help = f"{' or '.join(RECIPES)} (default: tutorial)"
    group.add_argument("--recipe", choices=RECIPES, default="tutorial", metavar="NAME", help=help)
    for field in fields:
        is_list = isinstance(field.default, tuple)
        default = defaults.get(field.name, field.default)
        values = default if is_list else [default]
        choices = field.metadata["choices"]
        description = field.metadata["help"] + (f": {' or '.join(choices)}" if choices else "")
        group.add_argument(
            f"--{field.name}",
            type=type(values[0]),
            nargs="+" if is_list else None,
            choices=choices or None,
            default=defaults.get(field.name, argparse.SUPPRESS),
            metavar={int: "N", float: "REAL", str: "NAME"}[type(values[0])],
            help=f"{description} (default: {' '.join(map(str, values))})",
        )


def hparams_from_args(args, data):
    """Returns the HParams of the recipe, overridden by the flags that were given."""
    given = {name: value for name, value in vars(args).items() if hasattr(HParams, name)}
    train_n, X_n = data.train.images.shape
    return dataclasses.replace(RECIPES[args.recipe], X_n=X_n, train_n=train_n, **given)


def run_command(command, parser, hint=""):
    """Runs command(args). Returns the exit status: 0; 1 if whatever reads the output has ended; 2 after
    an error that the user can correct, whose text is printed on one line; 130 after Ctrl-C, with the
    hint."""
    sys.stdout.reconfigure(errors="backslashreplace")  # for characters that it cannot print
    # If the disk is full, tf.summary.FileWriter raises an error, and its thread prints it as well.
    tf.logging.set_verbosity(tf.logging.FATAL)
    threading.excepthook = lambda args: None
    try:
        command(parser.parse_args())
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # as in `| head`
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())  # Python flushes stdout once more when it exits
        return 1
    except (AutoEncoderError, OSError) as e:
        print(f"{parser.prog}: error: {first_line(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted{hint}", file=sys.stderr)
        return 130


def first_line(error):
    """Returns the first line of an exception's message, or its type if it has none."""
    # A session's error begins with "Graph execution error". Its __context__ has the cause.
    cause = error.__context__ if isinstance(error, tf.errors.OpError) else None
    cause = cause or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]


def main(args):
    """Trains the tutorial's autoencoder on MNIST, evaluates it, and draws images X beside their
    reconstructions G."""
    data = read_data_sets(args.data_dir)
    net = build(hparams_from_args(args, data))
    print(f"device: {device()}")
    with start_session(net) as sess:
        train(sess, net, data, args.logdir, args.resume)
        evaluation = evaluate(sess, net, data.test.images)
        print(evaluation)
        write_test(sess, net, data.test, evaluation, args.logdir)
        examples = data.test.subset(slice(1000))
        G = run_images(sess, net, net.G, examples.images)
        path = args.logdir / "reconstruction.png"
        plot_reconstruction(examples.images, G, examples.labels).savefig(path, dpi=100)
        print(f"images X and reconstructions G: {path}")
        print(f"graph and losses: tensorboard --logdir {shlex.quote(str(args.logdir))}")


if __name__ == "__main__":
    example = "python autoencoder.py --recipe tuned --logdir logs/tuned"
    parser = Parser("autoencoder.py", main.__doc__, example)
    parser.add_data_dir()
    parser.add_logdir()
    add_hparams(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    sys.exit(run_command(main, parser, hint="; --resume continues after the last whole epoch"))
