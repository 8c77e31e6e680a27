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

Losses are reported per 100 images, the tutorial's minibatch: the sum over all minibatches, times
100, divided by the number of images. So a loss that is a sum over the minibatch, as the tutorial's
is, can be compared between batch sizes. A loss that is a mean is reported unchanged if batch_size
is 100 and the number of images is a multiple of it.

As a script: python autoencoder.py --help. beyond/ has what the tutorial mentions but leaves out:
comparison with PCA, tuning, anomaly detection; and export.
"""

import argparse
import contextlib
import dataclasses
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
from google.protobuf.json_format import MessageToJson
from matplotlib.figure import Figure

# Hides TensorFlow's C++ log, except fatal errors. TF_CPP_MIN_LOG_LEVEL=0 in the environment shows it.
LOG_LEVEL = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def muted_stderr():
    """Silences stderr, for the import of TensorFlow, which logs three lines whatever the level is."""
    try:
        stderr = os.dup(2) if LOG_LEVEL == "3" else None
    except OSError:  # it is closed
        stderr = None
    if stderr is None:
        yield
        return
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


with muted_stderr():
    import tensorflow.compat.v1 as tf
    from tensorboard.plugins import projector
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.summary import session_end_pb, session_start_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

tf.disable_eager_execution()  # graphs and sessions, as in TensorFlow 1
tf.logging.set_verbosity(tf.logging.ERROR)

# Without this flag, the loop of compile_loop (below) copies most of the weights in each step. XLA
# reads it when it first compiles, and aborts if it does not know a flag, as may be in other versions.
if tf.__version__.startswith("2.21."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_copy_insertion_use_region_analysis=true")

DATA_DIR = Path(__file__).resolve().parent / "MNIST_data"
LOGDIR = "logs/AutoEncoder"
REPORTED_IMAGES = 100  # losses are reported per this many images


class AutoEncoderError(Exception):
    """An error that the user can correct. The message says what is wrong, where, and what to do."""


class Diverged(AutoEncoderError):
    """The loss is no longer finite."""


# ---- Hyperparameters -----------------------------------------------------------------------------

# What the hyperparameters that are names can be.
ACTIVATIONS = {"relu": tf.nn.relu, "swish": tf.nn.swish, "linear": tf.identity}
INITIALIZERS = {
    "normal": tf.truncated_normal_initializer(stddev=0.1),
    "he": tf.initializers.he_normal(),
    "glorot": tf.initializers.glorot_normal(),
}
SCHEDULES = ("constant", "linear", "cosine")


def _field(default, help, choices=(), low=0, low_allowed=False):
    """A field of HParams, which is also a command-line flag: one of `choices`; or a number above
    `low`, or `low` itself if it is allowed; or a tuple of such integers. The default determines the
    type."""
    metadata = {"help": help, "choices": tuple(choices), "low": low, "low_allowed": low_allowed}
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
    G_bias: float = _field(0.0, "initial bias of G", low=-math.inf)
    train_n: int = _field(55000, "training images")
    epoch_n: int = _field(10, "passes over the training images")
    batch_size: int = _field(100, "images in a minibatch")
    learning_rate: float = _field(0.001, "Adam's learning rate")
    schedule: str = _field("constant", "of the learning rate", SCHEDULES)
    weight_decay: float = _field(0.0, "AdamW's decay of the weights", low_allowed=True)
    seed: int = _field(0, "for initial weights and order of images", low_allowed=True)

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
    """Returns the value of a field, or of one of its layers, as a Python object. Raises
    AutoEncoderError if it is not allowed."""
    choices, low, low_allowed = (field.metadata[k] for k in ("choices", "low", "low_allowed"))
    if choices:
        expected = " or ".join(choices)
        if value in choices:
            return value
    else:
        is_float = isinstance(field.default, float)
        expected = (
            f"{'a number' if is_float else 'an integer'} {'>=' if low_allowed else '>'} {low}"
        )
        if isinstance(value, numbers.Real if is_float else numbers.Integral):
            if low < value < math.inf or (low_allowed and value == low):
                return float(value) if is_float else int(value)
    raise AutoEncoderError(f"{field.name} must be {expected}, not {value!r}")


RECIPES = {
    "tutorial": HParams(),
    # What beyond/README.md's searches found.
    "tuned": HParams(
        activation="swish",
        Z_activation="linear",
        init="glorot",
        G_bias=-2.0,
        batch_size=50,
        learning_rate=0.0035,
        schedule="linear",
        weight_decay=0.1,
    ),
}


# ---- Input data ----------------------------------------------------------------------------------

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class DataSet:
    """Images and labels, with images, labels, num_examples and next_batch as in TensorFlow 1's
    tutorials. make_data_set checks and converts arrays of your own."""

    def __init__(self, images, labels=None):
        self.images = images  # (n, X_n), float32 in [0, 1]
        self.labels = labels  # (n,), integers; (n, classes), one-hot; or None
        self._rng = np.random.default_rng(0)
        self._next_rows = np.empty(0, int)

    @property
    def num_examples(self):
        return len(self.images)

    def subset(self, rows):
        """Returns a DataSet of some rows, given as a slice, indices or a mask."""
        return DataSet(self.images[rows], None if self.labels is None else self.labels[rows])

    def next_batch(self, batch_size, shuffle=True):
        """Returns the next images (batch_size, X_n) and labels, in a new order in each epoch if
        `shuffle`."""
        n = self.num_examples
        epochs = math.ceil((batch_size - len(self._next_rows)) / n)
        for _ in range(epochs):
            next_epoch = self._rng.permutation(n) if shuffle else np.arange(n)
            self._next_rows = np.append(self._next_rows, next_epoch)
        batch = self.subset(self._next_rows[:batch_size])
        self._next_rows = self._next_rows[batch_size:]
        return batch.images, batch.labels


class DataSets(NamedTuple):
    train: DataSet
    validation: DataSet
    test: DataSet
    path: Path | None = None  # the folder or file that they were read from


def read_data_sets(data_dir=DATA_DIR, one_hot=False, reshape=True, validation_size=None):
    """Reads MNIST, or other images in its format, into .train, .validation and .test.

    It takes the place of input_data.read_data_sets of TensorFlow 1's tutorials, without a download.

    data_dir: a folder of the four IDX files, gzip-compressed or not; or a .npz file with the arrays
    x_train and x_test, and optionally the labels y_train and y_test.
    one_hot: labels as rows of 0 and a 1, instead of integers.
    reshape: images as (n, X_n); False for (n, height, width, 1), which `train` does not take.
    validation_size: how many of the first training images become the validation set; by default a
    twelfth of them, but at most the tutorial's 5,000.
    Raises AutoEncoderError if a file is missing, damaged, or does not fit the others.
    """
    path = Path(data_dir)
    x_train, y_train, x_test, y_test = _read_npz(path) if path.suffix == ".npz" else _read_idx(path)
    train = make_data_set(x_train, y_train, f"{path}: training images")
    test = make_data_set(x_test, y_test, f"{path}: test images")
    if train.images.shape[1] != test.images.shape[1]:
        raise AutoEncoderError(f"{path}: training and test images differ in size")
    n = validation_size
    if n is None:
        n = max(1, min(5000, train.num_examples // 12))
    if not 0 <= n < train.num_examples:
        found = f"{train.num_examples} training images"
        raise AutoEncoderError(f"{path}: validation_size is {n}, but there are {found}")
    if one_hot:
        if any(part.labels is None or part.labels.min() < 0 for part in (train, test)):
            raise AutoEncoderError(f"{path}: one_hot needs labels, y_train and y_test, from 0 on")
        classes = 1 + int(max(train.labels.max(), test.labels.max()))
        train.labels = np.eye(classes)[train.labels]
        test.labels = np.eye(classes)[test.labels]
    if not reshape:
        train.images = as_2d(train.images)[..., np.newaxis]
        test.images = as_2d(test.images)[..., np.newaxis]
    return DataSets(train.subset(slice(n, None)), train.subset(slice(n)), test, path.resolve())


def make_data_set(images, labels, name):
    """Returns a DataSet of images (n, height, width), (n, height, width, 1) or (n, X_n).

    images: integers from 0 to 255, or floats or booleans from 0 to 1. labels: integers, (n,) or
    (n, 1); or None. name: what error messages call the images.
    """
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (2, 3) or images.size == 0:
        raise AutoEncoderError(f"{name} must be (n, height, width) or (n, X_n), not {images.shape}")
    # Only X_n is passed on, from which as_2d could not find another height and width.
    if images.ndim == 3 and images.shape[1] != images.shape[2]:
        raise AutoEncoderError(f"{name} must be square, not {images.shape[1]} x {images.shape[2]}")
    expected = "integers from 0 to 255 or floats from 0 to 1"
    if images.dtype.kind not in "biuf":
        raise AutoEncoderError(f"{name} must be {expected}, not {images.dtype}")
    low, high = images.min(), images.max()
    if not 0 <= low <= high <= (255 if images.dtype.kind in "iu" else 1):
        found = f"{images.dtype} from {low} to {high}"
        raise AutoEncoderError(f"{name} must be {expected}, not {found}")
    if images.dtype.kind in "iu":
        if high == 1:
            raise AutoEncoderError(f"{name} are integers 0 and 1: convert them to booleans")
        # float32(1 / 255) rounds as TensorFlow 1's reader did.
        images = np.multiply(images, np.float32(1 / 255), dtype=np.float32)
    images = images.reshape(len(images), -1).astype(np.float32, copy=False)
    if labels is not None:
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            found = f"{labels.dtype} {labels.shape}"
            raise AutoEncoderError(f"{name}: {len(images)} integer labels expected, not {found}")
    return DataSet(images, labels)


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x_train, x_test = arrays["x_train"], arrays["x_test"]
            return x_train, arrays.get("y_train"), x_test, arrays.get("y_test")
    except Exception as e:  # NumPy raises a dozen kinds for damaged files
        raise AutoEncoderError(f"{path} cannot be read: {e}") from None


def _read_idx(folder):
    arrays = []
    for name in IDX_FILES:
        candidates = [folder / name, folder / f"{name}.gz"]
        found = [path for path in candidates if path.exists()]
        if not found:
            hint = f"MNIST is in {DATA_DIR}; for pictures, see python -m beyond.pictures"
            if folder == DATA_DIR:
                hint = "git checkout MNIST_data"
            raise AutoEncoderError(f"there is neither {folder / name} nor {name}.gz: {hint}")
        arrays.append(read_idx(found[0]))
    return arrays


def read_idx(path):
    """Returns the array in an IDX file of bytes, gzip-compressed or not."""
    open_file = gzip.open if Path(path).suffix == ".gz" else open
    try:
        with open_file(path, "rb") as file:
            magic = file.read(4)  # 0, 0, 8 for bytes, number of dimensions
            if magic[:3] != b"\0\0\x08":
                raise ValueError("not an IDX file of bytes")
            shape = np.frombuffer(file.read(4 * magic[3]), ">u4").tolist()
            return np.frombuffer(file.read(), np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as e:
        raise AutoEncoderError(f"{path} cannot be read: {e}") from None


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


# ---- Model architecture --------------------------------------------------------------------------


class Network(NamedTuple):
    """A network to train: what build returns, or tensors of your own.

    Z, G and loss must need no other feed than X, with any number of images. Any other placeholder
    must be a tf.placeholder_with_default. `training_feed` gives its value in training. For example,
    keep_prob = tf.placeholder_with_default(1.0, []) in dropout and training_feed={keep_prob: 0.5}
    drop units in training only.

    Of hp, `train` uses X_n, epoch_n, batch_size and seed, and train_n if schedule is not "constant".
    The other fields are recorded, and must be the same to resume.
    """

    hp: HParams
    X: tf.Tensor  # (batch, X_n): placeholder of the images
    Z: tf.Tensor  # (batch, Z_n): fetch it to encode, feed it to decode
    G: tf.Tensor  # (batch, X_n)
    loss: tf.Tensor  # (): a sum over the minibatch; for a mean, see the module's docstring
    opt: tf.Operation  # runs one step of the optimizer on the images that are fed
    init: tf.Operation  # initializes all variables, those of the optimizer included
    training_feed: dict = types.MappingProxyType({})  # {placeholder: value}, fed in training only


def inputs(hp):
    """Returns the placeholder of the images. -> X: (batch, X_n)"""
    with tf.name_scope("X"):
        return tf.placeholder(tf.float32, [None, hp.X_n])


def encode(X, hp):
    """X: (batch, X_n) -> Z: (batch, Z_n)"""
    h = X
    with tf.name_scope("Encoder"):
        for i, n in enumerate(hp.enc_n):
            h = layer(h, n, ACTIVATIONS[hp.activation], f"Layer{i + 1:02d}", hp)
    return layer(h, hp.Z_n, ACTIVATIONS[hp.Z_activation], "Z", hp)


def decode(Z, hp):
    """Z: (batch, Z_n) -> G: (batch, X_n)"""
    h = Z
    with tf.name_scope("Decoder"):
        for i, n in enumerate(hp.dec_n):
            h = layer(h, n, ACTIVATIONS[hp.activation], f"Layer{i + 1:02d}", hp)
    return layer(h, hp.X_n, tf.sigmoid, "G", hp, hp.G_bias)


def layer(x, n, activation, scope, hp, bias=0.0):
    """A fully connected layer, activation(x w + b). x: (batch, m) -> (batch, n)

    bias: the initial value of b. The tutorial's initialization is random around it.
    """
    weights = INITIALIZERS[hp.init]
    biases = tf.constant_initializer(bias)
    if hp.init == "normal":
        biases = tf.truncated_normal_initializer(bias, stddev=0.1)
    with tf.name_scope(scope):
        # Resource variables also after tf.disable_v2_behavior(), because compile_loop needs them.
        w = tf.Variable(weights([x.shape[1], n]), name="w", use_resource=True)
        b = tf.Variable(biases([n]), name="b", use_resource=True)
        return activation(tf.matmul(x, w) + b)


def l2_loss(G, X):
    """G, X: (batch, X_n) -> sum over batch and pixels of (G - X)^2 / 2: ()"""
    with tf.name_scope("loss"):
        return tf.nn.l2_loss(G - X)


def training(loss, hp):
    """Returns the operation that runs one step of Adam, or of AdamW if hp.weight_decay is not 0.

    Call it once per tf.Graph: AdamW decays the weights of all networks in the graph, and a learning
    rate that decays depends on the global step of the graph.
    """
    with tf.name_scope("training"):
        rate, step = learning_rate(hp)
        opt = tf.train.AdamOptimizer(rate).minimize(loss, global_step=step)
        if hp.weight_decay:
            # After Adam's update, w is multiplied by 1 - rate * weight_decay. Biases are not.
            weights = [v for v in tf.trainable_variables() if len(v.shape) > 1]
            with tf.control_dependencies([opt]):
                opt = tf.group(*[w.assign_sub(rate * hp.weight_decay * w) for w in weights])
        return opt


def learning_rate(hp):
    """Returns the learning rate and the global step on which it depends, which is None if the rate is
    constant. A rate that decays reaches 0 after the last step of the last epoch."""
    if hp.schedule == "constant":
        return hp.learning_rate, None
    step = tf.train.get_or_create_global_step()
    steps = hp.epoch_n * math.ceil(hp.train_n / hp.batch_size)
    if hp.schedule == "linear":
        rate = tf.train.polynomial_decay(hp.learning_rate, step, steps, end_learning_rate=0.0)
    else:
        rate = tf.train.cosine_decay(hp.learning_rate, step, steps)
    tf.summary.scalar("learning_rate", rate)
    return rate, step


def build(hp):
    """Builds the tutorial's network in a new tf.Graph. Returns it as a Graph."""
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
    sess = tf.Session(graph=net.X.graph, config=session_config())
    sess.run(net.init)
    return sess


def session_config():
    """Returns a configuration with which a session allocates only the GPU memory that it needs, and
    runs operations without a GPU kernel on the CPU."""
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    return config


def device():
    """Returns a description of the device in use: a GPU if there is one."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unnamed")
    return f"GPU, {name}"


# ---- Training ------------------------------------------------------------------------------------


class Epoch(NamedTuple):
    epoch: int  # 1, 2, ...
    loss: float  # per 100 images; that of each minibatch is computed before its update
    validation_loss: float  # per 100 images, after the epoch
    live: int  # latent variables that are not dead: not 0 for at least one validation image


def train(sess, net, data, logdir=None, resume=False, loop=None, on_epoch=None):
    """Trains for hp.epoch_n epochs, from the weights that the session has. Returns a list of Epoch.

    data: DataSets; the network learns from data.train and is evaluated on data.validation.
    logdir: folder for a checkpoint and TensorBoard summaries after each epoch. Without resume, an
    earlier run there is deleted.
    resume: continue from the last checkpoint in logdir, if there is one. The final weights are the
    same as without the interruption, unless the graph draws random numbers. All hyperparameters must
    be the same, except that epoch_n may be larger if the schedule is constant.
    loop: a function (sess, net, images, epoch) that trains for one epoch and returns the loss per 100
    images. The default is compile_loop(sess, net), which computes the same as feed_loop, and faster. If
    you have changed feed_loop, pass loop=feed_loop.
    on_epoch: a function that is called with each Epoch. An exception that it raises stops training.

    Raises AutoEncoderError if the data or the checkpoint does not match net, and Diverged if the loss
    is not finite.
    """
    check_before_training(net, data, logdir, resume)
    history = restore(sess, net, data, logdir) if resume else []
    if len(history) == net.hp.epoch_n:
        return history
    if not history:
        restart_schedule(sess, net)
    loop = loop or compile_loop(sess, net)
    with recorder(sess, net, data, logdir, history) as record:
        for epoch in range(len(history) + 1, net.hp.epoch_n + 1):
            loss = float(loop(sess, net, data.train.images, epoch))
            validation = evaluate(sess, net, data.validation.images)
            print_epoch(epoch, loss, validation.score)
            if not math.isfinite(loss + validation.score):
                raise Diverged("the loss is not finite: try a smaller learning_rate")
            history.append(Epoch(epoch, loss, validation.score, validation.live))
            record(history)
            if on_epoch:
                on_epoch(history[-1])
    return history


def feed_loop(sess, net, images, epoch):
    """Trains for one epoch with one session call per minibatch, as the tutorial does. Returns the
    loss per 100 images."""
    order = shuffled(net.hp.seed, epoch, len(images))
    total = 0.0
    for start in range(0, len(images), net.hp.batch_size):
        batch = images[order[start : start + net.hp.batch_size]]
        loss, _ = sess.run([net.loss, net.opt], feed_dict={net.X: batch, **net.training_feed})
        total += float(loss)
        print_progress(epoch, total, start + len(batch))
    return REPORTED_IMAGES * total / len(images)


def shuffled(seed, epoch, n):
    """Returns the order of n images in an epoch, a permutation that is the same on every machine."""
    # A generator of its own for each epoch, so that a resumed run shuffles as one without a stop.
    return np.random.default_rng([seed, epoch]).permutation(n)


def check_before_training(net, data, logdir, resume):
    """Raises AutoEncoderError if `train` could not do what it is asked."""
    hp = net.hp
    for name, part in (("training", data.train), ("validation", data.validation)):
        images = part.images
        if images.shape[1:] != (hp.X_n,):
            raise AutoEncoderError(f"X_n is {hp.X_n}, but the {name} images are {images.shape}")
        if images.dtype.kind != "f":
            raise AutoEncoderError(f"{name} images must be floats from 0 to 1, not {images.dtype}")
        if len(images) == 0:
            raise AutoEncoderError(f"there are no {name} images")
    if not net.X.dtype.is_floating:
        raise AutoEncoderError(f"X must be a placeholder of floats, not of {net.X.dtype.name}")
    if hp.schedule != "constant" and hp.train_n != data.train.num_examples:
        found = f"there are {data.train.num_examples} training images"
        raise AutoEncoderError(f"train_n is {hp.train_n}, but {found}: the schedule needs it")
    if resume and not logdir:
        raise AutoEncoderError("resume needs the logdir of the run")
    # TensorFlow's checkpoint functions take these for a pattern.
    special = {"["} if os.sep == "\\" else {"[", "\\"}
    if logdir and special & set(str(logdir)):
        raise AutoEncoderError(f"{logdir}: TensorFlow opens no checkpoints in a path with [ or \\")


def restart_schedule(sess, net):
    """Sets the global step to 0, so that a learning rate that decays starts where it should also in a
    session that has been used for training before."""
    step = tf.train.get_global_step(net.X.graph)
    if net.hp.schedule != "constant" and step is not None:
        sess.run(step.initializer)


def print_progress(epoch, total, seen):
    """Prints the loss of the images seen so far, overwriting the previous output. Prints nothing if
    the output is not a terminal or a notebook."""
    if is_interactive(sys.stdout):
        loss = REPORTED_IMAGES * total / seen
        print(f"\repoch: {epoch}, loss: {loss:<10.3f}", end="", flush=True)


def print_epoch(epoch, loss, validation_loss):
    """Prints the line of an epoch, overwriting what print_progress has printed."""
    start = "\r" if is_interactive(sys.stdout) else ""
    text = f"epoch: {epoch}, loss: {loss:.3f}, validation loss: {validation_loss:.3f}"
    print(start + text, flush=True)


def is_interactive(stream):
    """Returns whether a stream of output is a terminal or a notebook."""
    return "ipykernel" in sys.modules or (hasattr(stream, "isatty") and stream.isatty())


# ---- Evaluation ----------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    score: float  # loss per 100 images, as in Epoch; the tutorial prints this number
    mse: float  # mean of (G - X)^2 over images and pixels, whatever the loss is
    live: int  # latent variables that are not dead: not 0 for at least one image
    Z_n: int

    def __str__(self):
        per_image = self.score / REPORTED_IMAGES
        return (
            f"score: {self.score:.3f} ({per_image:.3f} per image; mean squared error {self.mse:.5f}), "
            f"{self.live} of {self.Z_n} latents live"
        )


def evaluate(sess, net, images):
    """Evaluates the network on images (n, X_n). Returns an Evaluation.

    The minibatches have batch_size images, so that a loss that is a mean is reported as in training.
    """
    loss_sum, error, live = 0.0, 0.0, False
    for start in range(0, len(images), net.hp.batch_size):
        X = images[start : start + net.hp.batch_size]
        loss, Z, G = sess.run([net.loss, net.Z, net.G], {net.X: X})
        loss_sum += float(loss)
        error += float(np.square(G - X).sum())
        live = live | (Z != 0).any(axis=0)
    score = REPORTED_IMAGES * loss_sum / len(images)
    return Evaluation(score, error / images.size, int(live.sum()), live.size)


def plot_reconstruction(X, G, labels):
    """Draws X | G for the first image, and X above G for the first image of each label.

    X, G: (n, X_n), images and their reconstructions; labels: (n,), or None. Returns a Figure.
    """
    firsts = first_of_each(labels)
    widths = [2.1, 2.1, 0.9 * len(X[firsts]) + 0.3]
    figure = Figure(figsize=(sum(widths), 2.1), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=widths)
    plot_images(left, X=X[:1])
    plot_images(middle, G=G[:1])
    plot_images(right, X=X[firsts], G=G[firsts])
    return figure


def plot_images(figure=None, cmap=None, **rows):
    """Draws each array (n, X_n) as a row of n images, with its name, in the colours of a matplotlib
    colormap; by default in matplotlib's own, as the tutorial does. Returns a Figure."""
    columns = max(map(len, rows.values()))
    if figure is None:
        longest_name = max(map(len, rows))
        size = 0.9 * columns + 0.15 * longest_name, 0.95 * len(rows)
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
    """Returns which images to show: the first of each label, at most ten; or the first ten, if there
    are no labels."""
    if labels is None:
        return slice(10)
    return np.unique(as_integers(labels), return_index=True)[1][:10]


# ---- Below: what the tutorial does not have ------------------------------------------------------

# A faster loop, checkpoints, more of TensorBoard, and a command line.

# ---- Compiled loop -------------------------------------------------------------------------------


def compile_loop(sess, net):
    """Returns a function that computes the same as feed_loop, compiled by XLA.

    A session call for each minibatch costs time. The compiled loop makes up to 55 steps per call.
    For that, _loop_graph copies the training step, from net.X to net.loss and net.opt, into the body of a
    tf.while_loop, on the same variables. Only rounding differs.

    Returns feed_loop itself, and prints why, if XLA cannot compile the graph; if the graph draws
    random numbers, whose seeds XLA ignores; or if it has convolutions, which XLA makes slow on a CPU.
    """
    batch_size = net.hp.batch_size
    # A tenth of the tutorial's epoch, because progress is printed between calls. At most 2^25
    # pixels, because a call copies its images.
    steps_per_call = min(55, max(1, 2**25 // (batch_size * net.hp.X_n)))

    def call(sess, images, steps):
        feed = {feed_phs[tensor]: value for tensor, value in net.training_feed.items()}
        return float(sess.run(loss_sum, {images_ph: images, steps_ph: steps, **feed}))

    try:
        # A name that ends in / is this scope itself, also the second time, and not compiled_1.
        with net.X.graph.as_default(), tf.name_scope("compiled/"):
            images_ph, steps_ph, feed_phs, loss_sum = _loop_graph(net)
        # XLA compiles in the first call, or fails.
        call(sess, np.zeros((steps_per_call * batch_size, net.hp.X_n), np.float32), steps=0)
    except (AutoEncoderError, tf.errors.OpError, ValueError, TypeError) as e:
        print(f"training with feed_loop, without XLA: {first_line(e):.200}")
        return feed_loop

    def compiled_loop(sess, _, images, epoch):
        order = shuffled(net.hp.seed, epoch, len(images))
        total = 0.0
        full = len(images) // batch_size  # the last minibatch may be smaller
        for first in range(0, full, steps_per_call):
            last = min(first + steps_per_call, full)
            rows = order[first * batch_size : last * batch_size]
            # np.resize repeats rows to a constant length: XLA would compile again for another.
            rows = np.resize(rows, steps_per_call * batch_size)
            total += call(sess, images[rows], steps=last - first)
            print_progress(epoch, total, last * batch_size)
        rest = images[order[full * batch_size :]]
        if len(rest):
            loss, _ = sess.run([net.loss, net.opt], {net.X: rest, **net.training_feed})
            total += float(loss)
            print_progress(epoch, total, len(images))
        return REPORTED_IMAGES * total / len(images)

    return compiled_loop


def _loop_graph(net):
    """Adds a loop over minibatches to the graph. Returns the placeholders of the images, of the number
    of steps, and of what training_feed feeds, as a dict; and the sum of the losses."""
    hp, step_def = net.hp, subgraph(net, net.loss.op, net.opt)
    nodes = [*step_def.node]
    for function in step_def.library.function:
        nodes.extend(function.node_def)
    if any("seed2" in node.attr for node in nodes):  # an attribute of all random operations
        raise ValueError("the graph draws random numbers")
    if any("Conv" in node.op for node in nodes) and not tf.config.list_physical_devices("GPU"):
        raise ValueError("its convolutions are slow on a CPU")
    names = {f"{node.name}:0" for node in step_def.node}
    variables = variable_handles()
    images_ph = tf.placeholder(tf.float32, [None, hp.X_n])
    steps_ph = tf.placeholder(tf.int32, [])
    feed_phs = {t: tf.placeholder(t.dtype, np.shape(v)) for t, v in net.training_feed.items()}

    def loop(images, steps, feed):
        def step(k, total):
            X = tf.slice(images, [k * hp.batch_size, 0], [hp.batch_size, hp.X_n])
            inputs = variables | feed | {net.X.name: tf.cast(X, net.X.dtype)}
            # tf.identity makes a tensor of the loop's own graph.
            inputs = {name: tf.identity(value) for name, value in inputs.items() if name in names}
            loss, opt = tf.import_graph_def(
                step_def, inputs, [net.loss.name, net.opt.name], name=""
            )
            with tf.control_dependencies([opt]):
                return k + 1, total + loss

        return tf.while_loop(lambda k, total: k < steps, step, (0, 0.0))[1]

    compiled = tf.function(loop, autograph=False, jit_compile=True)
    total = compiled(images_ph, steps_ph, {t.name: ph for t, ph in feed_phs.items()})
    return images_ph, steps_ph, feed_phs, total


def variable_handles():
    """Returns the resource handles of the default graph's variables, by name."""
    variables = tf.global_variables()
    if not all(hasattr(v, "handle") for v in variables):
        raise AutoEncoderError("call tf.enable_resource_variables() before the graph is built")
    return {v.handle.name: v.handle for v in variables}


def subgraph(net, *operations):
    """Returns the GraphDef that operations of the graph need, with placeholders for its variables."""
    names = [op.name for op in operations]
    part = tf.graph_util.extract_sub_graph(net.X.graph.as_graph_def(), names)
    for node in part.node:
        node.attr.pop("_class", None)  # it may name operations that are not in this part
        if node.op == "VarHandleOp":
            node.CopyFrom(tf.NodeDef(name=node.name, op="Placeholder"))
            node.attr["dtype"].type = tf.resource.as_datatype_enum
    return part


# ---- Checkpoints ---------------------------------------------------------------------------------

# What a run leaves in its logdir. The first names the next to TensorFlow.
EVENTS = "events.*.autoencoder"
RUN_FILES = (
    "checkpoints/checkpoint",
    "checkpoints/epoch-[0-9]*.index",
    "checkpoints/epoch-[0-9]*.data-*",
    "checkpoints/run.json",
    EVENTS,
    f"train/{EVENTS}",
    f"validation/{EVENTS}",
    f"test/{EVENTS}",
    "test/Z.tsv",
    "test/labels.tsv",
    "test/thumbnails.png",
    "test/projector_config.pbtxt",
)


@contextlib.contextmanager
def recorder(sess, net, data, logdir, history):
    """Opens the files of a run. Yields a function that, given the history, writes the summaries of its
    last epoch and saves a checkpoint. Without logdir, that function does nothing.

    With an empty history, an earlier run in logdir is deleted.
    """
    if not logdir:
        yield lambda history: None
        return
    run_info = fingerprint(net, data) | {"data_dir": str(data.path) if data.path else None}
    with net.X.graph.as_default():
        saver = tf.train.Saver(max_to_keep=1, save_relative_paths=True)
    # An operation that fails does so now, before an earlier run is deleted.
    sess.run([net.loss, net.Z, net.G, graph_summaries(net)], {net.X: data.validation.images[:1000]})
    checkpoint_dir(logdir).mkdir(parents=True, exist_ok=True)
    if history:  # the next checkpoint replaces the one that was restored
        saver.recover_last_checkpoints([tf.train.latest_checkpoint(checkpoint_dir(logdir))])
    else:
        delete_run(logdir)
    with summary_writers(sess, net, data, logdir, epochs=len(history)) as write_summaries:

        def record(history):
            write_summaries(history[-1])
            save(sess, saver, run_info, history, logdir)

        yield record


def checkpoint_dir(logdir):
    """Returns the folder of a run's checkpoints."""
    return Path(logdir, "checkpoints")


def delete_run(logdir):
    """Deletes what an earlier run has left in logdir, and nothing else."""
    paths = [path for pattern in RUN_FILES for path in Path(logdir).glob(pattern)]
    if paths:
        print(f"replacing the earlier run in {logdir}")
    for path in paths:
        path.unlink()


def save(sess, saver, run_info, history, logdir):
    """Saves a checkpoint of the last epoch in `history`, and then deletes the one before.

    run.json is written first, and each file under a temporary name. So if the process is killed,
    run.json may be one epoch ahead of the checkpoint. Then `restore` leaves that epoch out.
    """
    folder = checkpoint_dir(logdir)
    temporary = folder / "run.json.tmp"
    temporary.write_text(json.dumps(run_info | {"history": history}))
    temporary.replace(folder / "run.json")
    with writing(folder):
        prefix = str(folder / "epoch")
        saver.save(sess, prefix, global_step=len(history), write_meta_graph=False)


@contextlib.contextmanager
def writing(folder):
    """Turns what TensorFlow raises if it cannot write, as on a full disk, into AutoEncoderError."""
    try:
        yield
    except (tf.errors.OpError, RuntimeError) as e:  # FileWriter raises the latter
        raise AutoEncoderError(f"{folder} cannot be written: {first_line(e)}") from e


def restore(sess, net, data, logdir):
    """Loads the last checkpoint into the session. Returns its history, or [] if there is none.

    Raises AutoEncoderError if it cannot be read or belongs to another run.
    """
    path = tf.train.latest_checkpoint(checkpoint_dir(logdir))
    if path is None:
        print(f"no checkpoint in {logdir}: training starts")
        return []
    epoch = int(path.rsplit("-", 1)[1])
    saved_hp, saved = read_run(logdir)
    current = fingerprint(net, data)
    changed = [name for name in current if saved.get(name) != current[name]]
    if saved_hp.schedule == "constant" and epoch <= net.hp.epoch_n:
        changed = [name for name in changed if name != "epoch_n"]  # a run may be made longer
    if changed:
        differences = []
        for name in changed:
            is_checksum = name in ("graph", "images")
            values = "" if is_checksum else f" ({saved.get(name)}, not {current[name]})"
            differences.append(f"{name}{values}")
        hint = "use the same, or another logdir"
        if changed == ["graph"]:
            hint += "; in a notebook, call tf.reset_default_graph() before it is built again"
        raise AutoEncoderError(f"the run in {logdir} has another {', '.join(differences)}: {hint}")
    try:
        with net.X.graph.as_default():
            tf.train.Saver().restore(sess, path)
    except (tf.errors.OpError, ValueError) as e:
        reason = first_line(e)
        raise AutoEncoderError(f"{path} cannot be read: {reason}: start without resume") from e
    print(f"resumed after epoch {epoch}")
    return saved["history"][:epoch]  # see save


def read_run(logdir):
    """Reads run.json. Returns the HParams of the run, and the contents of the file as a dict."""
    path = checkpoint_dir(logdir) / "run.json"
    try:
        saved = json.loads(path.read_text())
        hp = HParams(**{field.name: saved[field.name] for field in dataclasses.fields(HParams)})
        saved["history"] = [Epoch(*epoch) for epoch in saved["history"]]
        return hp, saved
    except KeyError as e:
        raise AutoEncoderError(f"{path} has no {e}: another version wrote it") from None
    except (ValueError, TypeError, AutoEncoderError) as e:
        raise AutoEncoderError(f"{path} is damaged: {e}") from None


def fingerprint(net, data):
    """Returns a dict of what distinguishes a run from others: its hyperparameters, and checksums of
    its graph and images."""
    checksums = {"graph": graph_checksum(net), "images": images_checksum(data)}
    # Through JSON, so that it can be compared with what was read: tuples become lists.
    return json.loads(json.dumps(dataclasses.asdict(net.hp) | checksums))


def graph_checksum(net):
    """Returns a checksum of the operations of a training step."""
    step = subgraph(net, net.loss.op, net.opt)
    for node in step.node:
        # TensorFlow numbers gradients and Python functions by what the process has built before.
        node.attr.pop("_gradient_op_type", None)
        node.attr.pop("token", None)
    text = MessageToJson(tf.GraphDef(node=step.node), sort_keys=True)
    # Other functions as well. Their bodies do not count.
    functions = (function.signature.name for function in step.library.function)
    for name in sorted(functions, key=len, reverse=True):
        text = text.replace(name, "function")
    return zlib.crc32(text.encode())


def images_checksum(data):
    """Returns a checksum of the training and validation images."""
    checksum = 0
    for part in (data.train, data.validation):
        checksum = zlib.crc32(str(part.images.shape).encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(part.images), checksum)
    return checksum


# ---- TensorBoard ---------------------------------------------------------------------------------

# The module's summaries are made of NumPy arrays, so that a graph of your own needs no tf.summary
# operations. Those that it has are written as well.

# One tag, so that the curves of `train` and `validation` overlay; not that of a graph's own summary.
LOSS_TAG = f"loss of {REPORTED_IMAGES} images"
HIDDEN_SCOPES = re.compile(r"(compiled|save)(_\d+)?/")  # left out of the Graphs tab


@contextlib.contextmanager
def summary_writers(sess, net, data, logdir, epochs):
    """Opens the event files of a run that has been trained for some epochs. Yields a function that
    writes the summaries of an Epoch. The graph's own are those of the first 1,000 validation images,
    as Z is."""
    step = epochs + 1 if epochs else None
    train_writer = summary_writer(Path(logdir, "train"), step)
    validation_writer = summary_writer(Path(logdir, "validation"), step)
    # TensorBoard keeps the first hyperparameters that it finds, but epoch_n may have changed.
    for path in Path(logdir).glob(EVENTS):
        path.unlink()
    run_writer = summary_writer(logdir)
    add_graph(train_writer, net, data)
    add(
        run_writer, 0, session_start_pb(dataclasses.asdict(net.hp)), text_pb("run", about_run(data))
    )
    with net.X.graph.as_default():
        weights = tf.trainable_variables()
    first_images = data.validation.images[:1000]
    examples = data.validation.subset(first_of_each(data.validation.labels)).images

    def write_summaries(epoch):
        fetches = [net.Z, weights, graph_summaries(net)]
        Z, values, own = sess.run(fetches, {net.X: first_images})
        G = sess.run(net.G, {net.X: examples})
        rows = [np.hstack(as_2d(examples)), np.hstack(as_2d(G))]
        add(
            train_writer,
            epoch.epoch,
            scalar_summary(LOSS_TAG, epoch.loss),
            *[histogram_summary(f"weights/{w.op.name}", v) for w, v in zip(weights, values)],
        )
        add(
            validation_writer,
            epoch.epoch,
            scalar_summary(LOSS_TAG, epoch.validation_loss),
            scalar_summary("training/live latents", epoch.live),
            histogram_summary("training/Z", Z),
            image_summary("reconstruction/X above G", np.vstack(rows)),
            *map(tf.Summary.FromString, own),
        )

    with train_writer, validation_writer, run_writer:
        yield write_summaries
        add(run_writer, 0, session_end_pb(STATUS_SUCCESS))


def graph_summaries(net):
    """Returns the tf.summary operations of the graph."""
    return net.X.graph.get_collection(tf.GraphKeys.SUMMARIES)


def summary_writer(folder, step=None):
    """Returns a tf.summary.FileWriter. If a step is given, TensorBoard discards what earlier files in
    the folder have from that step on."""
    suffix = f".{time.time_ns()}.autoencoder"  # TensorFlow's own timestamp has only seconds
    with writing(folder):
        writer = tf.summary.FileWriter(str(folder), filename_suffix=suffix)
    if step is not None:
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
    """Returns the summary of an array of numbers, in 30 bins."""
    values = np.float64(values)  # float32 may have no 30 edges between the smallest and the largest
    counts, edges = np.histogram(values, 30)
    histogram = {
        "min": edges[0],
        "max": edges[-1],
        "num": values.size,
        "sum": values.sum(),
        "sum_squares": np.square(values).sum(),
        "bucket_limit": edges[1:],
        "bucket": counts,
    }
    return tf.Summary(value=[{"tag": tag, "histo": histogram}])


def image_summary(tag, image):
    """Returns the summary of an image (height, width) in [0, 1]."""
    png = io.BytesIO()
    matplotlib.image.imsave(png, image, cmap="gray", vmin=0, vmax=1, format="png")
    return tf.Summary(value=[{"tag": tag, "image": {"encoded_image_string": png.getvalue()}}])


def add_graph(writer, net, data):
    """Writes the graph, and the compute time and memory of each operation in one step of training,
    by which TensorBoard's Graphs tab can colour it."""
    graph_def = net.X.graph.as_graph_def(add_shapes=True)
    nodes = [node for node in graph_def.node if not HIDDEN_SCOPES.match(node.name)]
    writer.add_graph(tf.GraphDef(node=nodes, versions=graph_def.versions))
    feed = {net.X: data.train.images[: net.hp.batch_size], **net.training_feed}
    # FULL_TRACE warns if there is no GPU.
    has_gpu = tf.config.list_physical_devices("GPU")
    level = tf.RunOptions.FULL_TRACE if has_gpu else tf.RunOptions.SOFTWARE_TRACE
    metadata = tf.RunMetadata()
    config = session_config()
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # no operation is fused
    # A session of its own, so that the weights of the run stay as they are.
    with tf.Session(graph=net.X.graph, config=config) as sess:
        sess.run(net.init)
        sess.run([net.loss, net.opt], feed)  # the first step takes longer than the others
        sess.run([net.loss, net.opt], feed, tf.RunOptions(trace_level=level), metadata)
    writer.add_run_metadata(metadata, "one step of training")


def about_run(data):
    """Returns command, device, versions and data, as a list in Markdown."""
    command = f"`{shlex.join(['python', *sys.argv])}`"
    if "ipykernel" in sys.modules:
        command = "cells of a notebook"
    source = f"`{data.path}`" if data.path else "arrays"
    python = f"Python {sys.version.split()[0]}"
    sizes = (
        f"{data.train.num_examples} training and {data.validation.num_examples} validation images"
    )
    lines = {
        "command": command,
        "device": device(),
        "versions": f"{python}, TensorFlow {tf.__version__}, NumPy {np.__version__}",
        "data": f"{source}, {sizes} of {data.train.images.shape[1]} pixels",
    }
    return "\n".join(f"- {name}: {text}" for name, text in lines.items())


def write_test(sess, net, test, evaluation, logdir):
    """Writes to logdir/test the loss of the test images, and up to 10,000 of them for the Projector.

    test: DataSet; evaluation: its Evaluation.
    """
    folder = Path(logdir, "test")
    with summary_writer(folder, net.hp.epoch_n) as writer:
        add(writer, net.hp.epoch_n, scalar_summary(LOSS_TAG, evaluation.score))
    # Browsers take pictures of at most 8192 x 8192 pixels.
    columns = min(100, 8192 // max(as_2d(test.images).shape[1:]))
    X = test.images[: columns**2]
    Z_batches, errors = [], []
    for start in range(0, len(X), 1000):
        batch = X[start : start + 1000]
        Z, G = sess.run([net.Z, net.G], {net.X: batch})
        Z_batches.append(Z)
        errors.append(np.square(G - batch).sum(axis=1) / 2)
    if test.labels is None:
        name, column = "image", np.arange(len(X))
    else:
        name, column = "label", as_integers(test.labels)[: len(X)]
    table = np.stack([column, np.concatenate(errors)], axis=1)
    header = f"{name}\terror"
    np.savetxt(folder / "labels.tsv", table, ["%d", "%.5g"], "\t", header=header, comments="")
    np.savetxt(folder / "Z.tsv", np.concatenate(Z_batches), "%.5g", "\t")
    sheet, image_size = thumbnails(X)
    matplotlib.image.imsave(folder / "thumbnails.png", sheet)
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="Z", tensor_path="Z.tsv", metadata_path="labels.tsv"
    )
    embedding.sprite.image_path = "thumbnails.png"
    embedding.sprite.single_image_dim.extend(image_size)
    projector.visualize_embeddings(str(folder), config)


def thumbnails(X):
    """Returns a square sheet of images (n, X_n), black on white; and an image's (width, height)."""
    images = as_2d(X)
    n, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    sheet = np.zeros((columns**2, height, width), np.uint8)
    sheet[:n] = 255 * images
    sheet = sheet.reshape(columns, columns, height, width).swapaxes(1, 2)
    sheet = sheet.reshape(columns * height, columns * width)
    return np.dstack([255 - sheet] * 3), (width, height)


# ---- Command line --------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser for this script and those of beyond/. Its errors are AutoEncoderErrors."""

    def __init__(self, prog, description, example=None):
        super().__init__(
            prog,
            description=description,
            epilog=example and f"example: {example}",
            conflict_handler="resolve",  # beyond/ defines some flags of hyperparameters anew
        )

    def add_data_dir(self, default=DATA_DIR):
        """Adds --data_dir. default: None for the data of a run."""
        shown = "the run's" if default is None else "MNIST_data"
        help = f"folder of IDX files, or .npz (default: {shown})"
        self.add_argument("--data_dir", type=user_path, default=default, metavar="PATH", help=help)

    def add_logdir(self, default=LOGDIR):
        """Adds --logdir."""
        help = "folder of the run, or of the runs (default: %(default)s)"
        self.add_argument("--logdir", type=user_path, default=default, metavar="FOLDER", help=help)

    def error(self, message):
        raise AutoEncoderError(f"{message} (see --help)")


def user_path(text):
    """Returns a path of the command line, with ~ expanded, as shells do not in --logdir=~/runs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not in UTF-8") from None
    return Path(text).expanduser()


def add_hparams(parser):
    """Adds --recipe, and a flag for each hyperparameter that the data does not determine."""
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
        values = field.default if is_list else [field.default]
        choices = field.metadata["choices"]
        description = field.metadata["help"] + (f": {' or '.join(choices)}" if choices else "")
        group.add_argument(
            f"--{field.name}",
            type=type(values[0]),
            nargs="+" if is_list else None,
            choices=choices or None,
            default=argparse.SUPPRESS,
            metavar={int: "N", float: "REAL", str: "NAME"}[type(values[0])],
            help=f"{description} (default: {' '.join(map(str, values))})",
        )


def hparams_from_args(args, data):
    """Returns the HParams of the recipe, overridden by the flags that were given."""
    names = [field.name for field in dataclasses.fields(HParams)]
    given = {name: getattr(args, name) for name in names if name in args}
    train_n, X_n = data.train.images.shape
    return dataclasses.replace(RECIPES[args.recipe], X_n=X_n, train_n=train_n, **given)


def run_command(command, parser, hint=""):
    """Runs command(args). Returns the exit status: 0; 2 after an error that the user can correct,
    whose text is printed on one line; 130 after Ctrl-C, with the hint."""
    with contextlib.suppress(AttributeError):  # it is closed, or not a file
        sys.stdout.reconfigure(errors="backslashreplace")  # of characters that it cannot print
    # The thread of tf.summary.FileWriter logs an error and prints a traceback if the disk is full.
    # FileWriter raises the same error here.
    tf.logging.set_verbosity(tf.logging.FATAL)
    threading.excepthook = lambda args: None
    try:
        command(parser.parse_args())
        return 0
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
        G = sess.run(net.G, {net.X: examples.images})
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
