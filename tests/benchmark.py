"""Milliseconds per step of training: this project, and other ways to train the same network.

    pip install -r tests/benchmark-requirements.txt && python tests/benchmark.py

All have the same data, initial weights, order of images, minibatch of 100, and Adam. Each runs in a
process of its own, one after the other, for five rounds. A process trains for two epochs, of which
only the second is timed. A row whose loss differs from this project's by more than a tenth is
marked. The tutorial's cell can be, because its loss is that of the last minibatch, not the mean.
Afterwards, changed graphs are timed by both loops of this project. Takes a quarter of an hour.
"""

import functools
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SIZES = [784, 500, 300, 20, 300, 500, 784]
ROUNDS, STEPS = 5, 550


def weights():
    rs = np.random.RandomState(0)
    for n, m in zip(SIZES, SIZES[1:]):
        for shape in ((n, m), (m,)):
            yield np.float32(0.1 * np.clip(rs.standard_normal(shape), -2, 2))


def order(epoch):
    """The order of autoencoder.shuffled, for the default seed."""
    return np.random.default_rng([0, epoch]).permutation(STEPS * 100)


def images():
    """(55000, 784), float32. Read without TensorFlow, because PyTorch with CUDA crashes beside it."""
    with gzip.open(ROOT / "MNIST_data" / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    return pixels[5000:] * np.float32(1 / 255)


def timed(train_epoch):
    """Trains for epochs 1 and 2. Returns milliseconds per step of the second, mean losses of both."""
    losses = []
    for epoch in (1, 2):
        begin = time.perf_counter()
        losses.append(float(train_epoch(epoch)) / STEPS)
        seconds = time.perf_counter() - begin
    return seconds / STEPS * 1000, losses


def tensorflow(make_loop, change=None):
    """make_loop(ae, sess, g, pixels): a loop as ae.train takes it; change(ae, g): another graph."""
    import autoencoder as ae

    pixels = ae.read_data_sets().train.pixels
    g = ae.build(ae.HParams())
    g = change(ae, g) if change else g
    with ae.start_session(g) as sess:
        with sess.graph.as_default():
            variables = ae.tf.trainable_variables()
        if len(variables) == 2 * (len(SIZES) - 1):
            for variable, value in zip(variables, weights()):
                variable.load(value, sess)
        loop = make_loop(ae, sess, g, pixels)
        return timed(lambda epoch: STEPS * loop(sess, g, pixels, epoch))


def compiled_loop(ae, sess, g, pixels):
    return ae.compile_loop(sess, g, pixels)


def feed_loop(ae, sess, g, pixels):
    return ae.feed_loop


def tutorial_loop(ae, sess, g, pixels):
    """The tutorial's cell, with all 550 minibatches. Its loss is that of the last one."""
    train_X = ae.to_float(pixels)

    def loop(sess, g, pixels, epoch):
        sff_X = train_X[order(epoch)]
        for iteration in range(STEPS):
            batch = sff_X[100 * iteration : 100 * (iteration + 1)]
            sess.run(g.opt, feed_dict={g.X: batch})
        train_loss = sess.run(g.loss, feed_dict={g.X: batch})
        sys.stderr.write("\repoch: %d, loss: %.3f" % (epoch, train_loss))
        sys.stderr.flush()
        return train_loss

    return loop


def third_layer(ae, g):
    return ae.build(ae.HParams(enc_n=(500, 300, 100), dec_n=(100, 300, 500)))


def cross_entropy(ae, g):
    with g.X.graph.as_default():
        wrong = g.X * ae.tf.log(g.G + 1e-6) + (1 - g.X) * ae.tf.log(1 - g.G + 1e-6)
        loss = -ae.tf.reduce_sum(wrong)
        opt, rate = ae.training(loss, g.hp)
        return g._replace(loss=loss, opt=opt, init=ae.tf.global_variables_initializer(), rate=rate)


def rmsprop(ae, g):
    with g.X.graph.as_default():
        opt = ae.tf.train.RMSPropOptimizer(g.rate).minimize(g.loss)
        return g._replace(opt=opt, init=ae.tf.global_variables_initializer())


def keras_fit():
    import keras

    X, activations = images(), ["relu"] * 5 + ["sigmoid"]
    layers = [keras.layers.Dense(n, activation=a) for n, a in zip(SIZES[1:], activations)]
    model = keras.Sequential([keras.Input([784]), *layers])
    model.set_weights(list(weights()))
    model.compile(
        keras.optimizers.Adam(epsilon=1e-8),
        loss=lambda X, G: keras.ops.sum(keras.ops.square(G - X)) / 2,
    )

    def train_epoch(epoch):
        x = X[order(epoch)]
        fitted = model.fit(x, x, batch_size=100, epochs=1, shuffle=False, verbose=0)
        return fitted.history["loss"][0] * STEPS

    return timed(train_epoch)


def jax_scan():
    import jax
    import jax.numpy as jnp

    X, w = jnp.asarray(images()), [jnp.asarray(x) for x in weights()]

    def loss_of(w, X):
        h = X
        for w_k, b_k in zip(w[:-2:2], w[1:-2:2]):
            h = jax.nn.relu(h @ w_k + b_k)
        return ((jax.nn.sigmoid(h @ w[-2] + w[-1]) - X) ** 2).sum() / 2

    @jax.jit
    def train_epoch(state, X, order):
        def step(state, batch):
            t, w, m, v = state
            loss, d = jax.value_and_grad(loss_of)(w, X[batch])
            t = t + 1
            m = [0.9 * m + 0.1 * d for m, d in zip(m, d)]
            v = [0.999 * v + 0.001 * d * d for v, d in zip(v, d)]
            rate = 0.001 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            w = [w - rate * m / (jnp.sqrt(v) + 1e-8) for w, m, v in zip(w, m, v)]
            return (t, w, m, v), loss

        state, losses = jax.lax.scan(step, state, order.reshape(STEPS, 100))
        return state, losses.sum()

    zeros = [jnp.zeros_like(x) for x in w]
    state = jnp.float32(0), w, zeros, zeros

    def run(epoch):
        nonlocal state
        state, total = train_epoch(state, X, jnp.asarray(order(epoch)))
        return total

    return timed(run)


def _torch(compiled):
    import torch

    torch.set_flush_denormal(True)
    X, w = torch.from_numpy(images()), [torch.nn.Parameter(torch.from_numpy(x)) for x in weights()]  # fmt: skip
    adam = torch.optim.Adam(w, eps=1e-8, fused=True)

    def loss_of(X):
        h = X
        for w_k, b_k in zip(w[:-2:2], w[1:-2:2]):
            h = torch.relu(torch.addmm(b_k, h, w_k))
        return ((torch.sigmoid(torch.addmm(w[-1], h, w[-2])) - X) ** 2).sum() / 2

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def train_epoch(epoch):
        rows, total = torch.from_numpy(order(epoch)), 0.0
        for k in range(STEPS):
            loss = loss_of(X[rows[100 * k : 100 * (k + 1)]])
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.detach()
        return total

    return timed(train_epoch)


def torch_eager():
    return _torch(compiled=False)


def torch_compile():
    return _torch(compiled=True)


WAYS = {
    "this project": lambda: tensorflow(compiled_loop),
    "the tutorial's cell": lambda: tensorflow(tutorial_loop),
    "feed_loop": lambda: tensorflow(feed_loop),
    "Keras fit": keras_fit,
    "JAX, jit and scan": jax_scan,
    "PyTorch, eager, fused Adam": torch_eager,
    "PyTorch, torch.compile, fused Adam": torch_compile,
}
CHANGED = {"a third layer": third_layer, "cross entropy": cross_entropy, "RMSProp": rmsprop}
LOOPS = {"compiled": compiled_loop, "feed_loop": feed_loop}
ALL = dict(WAYS)
for graph, change in CHANGED.items():
    for loop, make_loop in LOOPS.items():
        ALL[f"{graph}, {loop}"] = functools.partial(tensorflow, make_loop, change)


def version(package):
    from importlib import metadata

    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} is not installed"


def main():
    if len(sys.argv) > 1:
        print("RESULT", json.dumps(ALL[sys.argv[1]]()))
        return
    info = Path("/proc/cpuinfo")
    model = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line] if info.exists() else [platform.processor()]  # fmt: skip
    print(f"{model[0]}, {os.cpu_count()} cores; Python {platform.python_version()}")
    print(", ".join(map(version, ("tensorflow", "keras", "numpy", "jax", "torch"))))
    times, losses, missing = {}, {}, {}
    for round_ in range(ROUNDS):
        for name in (name for name in ALL if name not in missing):
            print(
                f"\rround {round_ + 1} of {ROUNDS}: {name:40}", end="", file=sys.stderr, flush=True
            )
            run = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True)
            if run.returncode:
                error = run.stderr.strip() or f"exit status {run.returncode}"
                missing[name] = error.splitlines()[-1]
                continue
            figure, losses[name] = json.loads(run.stdout.split("RESULT ")[1])
            times.setdefault(name, []).append(figure)
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    print("\n| | ms per step: median (min to max) | relative to this project | loss |")
    print("|---|---|---|---|")
    reference = statistics.median(times["this project"])
    for name in WAYS:
        if name in missing:
            print(f"| {name} | did not run: {missing[name]} | | |")
            continue
        median, loss = statistics.median(times[name]), losses[name][1]
        off = abs(loss / losses["this project"][1] - 1) > 0.1
        note = f"{loss:.0f}{' (differs)' if off else ''}"
        print(f"| {name} | {spread(times[name])} | {median / reference:.2f} | {note} |")
    print("\n| graph | compiled: ms per step | feed_loop | compiled / feed_loop |")
    print("|---|---|---|---|")
    for graph in CHANGED:
        both = [times[f"{graph}, {loop}"] for loop in LOOPS]
        ratio = statistics.median(both[0]) / statistics.median(both[1])
        print(f"| {graph} | {spread(both[0])} | {spread(both[1])} | {ratio:.2f} |")


def spread(figures):
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"


if __name__ == "__main__":
    main()
