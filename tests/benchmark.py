"""Times of training: this project, and other ways to train the same network.

    pip install -r tests/benchmark-requirements.txt && python tests/benchmark.py

All have the same data, initial weights, order of images, minibatch of 100, and Adam. Each runs in a
process of its own, one after the other, for three rounds. A process trains for ten epochs. Two
times are taken: that of a step in the second epoch; and that of all ten epochs, from after the
imports and the reading of the data on, so that it includes building the network and compiling it.
A row whose loss in the second epoch differs from this project's by more than a tenth is marked. The
tutorial's cell can be, because its loss is that of the last minibatch, not the mean. Afterwards,
changed graphs are trained for two epochs by both loops of this project. Takes about 20 minutes.

    python tests/benchmark.py "JAX, jit and scan" 2

runs one of them, for two epochs, and prints its times and losses.
"""

import functools
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SIZES = [784, 500, 300, 20, 300, 500, 784]
ROUNDS = 3
EPOCHS = 10
STEPS = 550  # of an epoch


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
        array = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    return array[5000:] * np.float32(1 / 255)


# ---- Ways to train -------------------------------------------------------------------------------

# Each imports its packages, reads the images, and builds the network. It returns the time after the
# second of these; and a function that trains for an epoch, and returns the sum of the losses of its
# minibatches.


def tensorflow(make_loop, change=None):
    """make_loop(ae, sess, net): a loop as ae.train takes it; change(ae, net): another graph."""
    import autoencoder as ae

    X = ae.read_data_sets().train.images
    begin = time.perf_counter()
    net = ae.build(ae.HParams())
    net = change(ae, net) if change else net
    sess = ae.start_session(net)
    with sess.graph.as_default():
        variables = ae.tf.trainable_variables()
    if len(variables) == 2 * (len(SIZES) - 1):
        for variable, value in zip(variables, weights()):
            variable.load(value, sess)
    loop = make_loop(ae, sess, net)
    return begin, lambda epoch: STEPS * loop(sess, net, X, epoch)


def compiled_loop(ae, sess, net):
    return ae.compile_loop(sess, net)


def feed_loop(ae, sess, net):
    return ae.feed_loop


def tutorial_loop(ae, sess, net):
    """The tutorial's cell, with all 550 minibatches. Its loss is that of the last one."""

    def loop(sess, net, images, epoch):
        sff_X = images[order(epoch)]
        for iteration in range(STEPS):
            batch = sff_X[100 * iteration : 100 * (iteration + 1)]
            sess.run(net.opt, feed_dict={net.X: batch})
        train_loss = sess.run(net.loss, feed_dict={net.X: batch})
        sys.stderr.write("\repoch: %d, loss: %.3f" % (epoch, train_loss))
        sys.stderr.flush()
        return train_loss

    return loop


def third_layer(ae, net):
    return ae.build(ae.HParams(enc_n=(500, 300, 100), dec_n=(100, 300, 500)))


def cross_entropy(ae, net):
    with net.X.graph.as_default():
        wrong = net.X * ae.tf.log(net.G + 1e-6) + (1 - net.X) * ae.tf.log(1 - net.G + 1e-6)
        loss = -ae.tf.reduce_sum(wrong)
        opt = ae.training(loss, net.hp)
        return net._replace(loss=loss, opt=opt, init=ae.tf.global_variables_initializer())


def rmsprop(ae, net):
    with net.X.graph.as_default():
        opt = ae.tf.train.RMSPropOptimizer(0.001).minimize(net.loss)
        return net._replace(opt=opt, init=ae.tf.global_variables_initializer())


def keras_fit(steps_per_execution):
    import keras

    X = images()
    begin = time.perf_counter()
    activations = ["relu"] * 5 + ["sigmoid"]
    layers = [keras.layers.Dense(n, activation=a) for n, a in zip(SIZES[1:], activations)]
    model = keras.Sequential([keras.Input([784]), *layers])
    model.set_weights(list(weights()))
    model.compile(
        keras.optimizers.Adam(epsilon=1e-8),
        loss=lambda X, G: keras.ops.sum(keras.ops.square(G - X)) / 2,
        steps_per_execution=steps_per_execution,
    )

    def train_epoch(epoch):
        x = X[order(epoch)]
        fitted = model.fit(x, x, batch_size=100, epochs=1, shuffle=False, verbose=0)
        return fitted.history["loss"][0] * STEPS

    return begin, train_epoch


def jax_scan():
    import jax
    import jax.numpy as jnp

    pixels = images()
    begin = time.perf_counter()
    X = jnp.asarray(pixels)
    w = [jnp.asarray(x) for x in weights()]

    def loss_of(w, X):
        h = X
        for w_k, b_k in zip(w[:-2:2], w[1:-2:2]):
            h = jax.nn.relu(h @ w_k + b_k)
        G = jax.nn.sigmoid(h @ w[-2] + w[-1])
        return jnp.square(G - X).sum() / 2

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
    state = (jnp.float32(0), w, zeros, zeros)

    def run(epoch):
        nonlocal state
        state, total = train_epoch(state, X, jnp.asarray(order(epoch)))
        return total

    return begin, run


def pytorch(compiled):
    import torch

    torch.set_flush_denormal(True)
    X = torch.from_numpy(images())
    begin = time.perf_counter()
    w = [torch.nn.Parameter(torch.from_numpy(x)) for x in weights()]
    adam = torch.optim.Adam(w, eps=1e-8, fused=True)

    def loss_of(X):
        h = X
        for w_k, b_k in zip(w[:-2:2], w[1:-2:2]):
            h = torch.relu(torch.addmm(b_k, h, w_k))
        G = torch.sigmoid(torch.addmm(w[-1], h, w[-2]))
        return torch.square(G - X).sum() / 2

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def train_epoch(epoch):
        rows = torch.from_numpy(order(epoch))
        total = 0.0
        for k in range(STEPS):
            loss = loss_of(X[rows[100 * k : 100 * (k + 1)]])
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.detach()
        return total

    return begin, train_epoch


WAYS = {
    "this project": functools.partial(tensorflow, compiled_loop),
    "the tutorial's cell": functools.partial(tensorflow, tutorial_loop),
    "feed_loop": functools.partial(tensorflow, feed_loop),
    "Keras fit": functools.partial(keras_fit, steps_per_execution=1),
    "Keras fit, steps_per_execution=55": functools.partial(keras_fit, steps_per_execution=55),
    "JAX, jit and scan": jax_scan,
    "PyTorch, eager, fused Adam": functools.partial(pytorch, compiled=False),
    "PyTorch, torch.compile, fused Adam": functools.partial(pytorch, compiled=True),
}
CHANGED = {"a third layer": third_layer, "cross entropy": cross_entropy, "RMSProp": rmsprop}
LOOPS = {"compiled": compiled_loop, "feed_loop": feed_loop}
ALL = dict(WAYS)
for graph, change in CHANGED.items():
    for loop, make_loop in LOOPS.items():
        ALL[f"{graph}, {loop}"] = functools.partial(tensorflow, make_loop, change)


# ---- Times ---------------------------------------------------------------------------------------


def measure(name, epochs):
    """Trains for some epochs in this process. Returns milliseconds per step of the second, seconds of
    all, and the mean loss of each."""
    begin, train_epoch = ALL[name]()
    losses = []
    ends = []
    for epoch in range(1, epochs + 1):
        losses.append(float(train_epoch(epoch)) / STEPS)
        ends.append(time.perf_counter())
    step_ms = 1000 * (ends[1] - ends[0]) / STEPS
    return {"step_ms": step_ms, "seconds": ends[-1] - begin, "losses": losses}


def measure_in_process(name, epochs):
    """Returns the same, measured in a process of its own; or the last line of its error, as text."""
    command = [sys.executable, __file__, name, str(epochs)]
    with tempfile.TemporaryDirectory() as cache:  # empty, so that each process has to compile
        env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        run = subprocess.run(command, capture_output=True, text=True, env=env)
    if run.returncode:
        error = run.stderr.strip() or f"exit status {run.returncode}"
        return error.splitlines()[-1]
    return json.loads(run.stdout.split("RESULT ")[1])


def version(package):
    from importlib import metadata

    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} is not installed"


def processor():
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if "model name" in line:
                return line.split(":")[1].strip()
    return platform.processor()


def main():
    if len(sys.argv) > 1:
        name, epochs = sys.argv[1:]
        print("RESULT", json.dumps(measure(name, int(epochs))))
        return
    print(f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    print(", ".join(map(version, ("tensorflow", "keras", "numpy", "jax", "torch"))))
    results = {name: [] for name in ALL}
    missing = {}
    for round_ in range(1, ROUNDS + 1):
        for name in ALL:
            if name in missing:
                continue
            progress = f"\rround {round_} of {ROUNDS}: {name:40}"
            print(progress, end="", file=sys.stderr, flush=True)
            result = measure_in_process(name, EPOCHS if name in WAYS else 2)
            if isinstance(result, str):
                missing[name] = result
            else:
                results[name].append(result)
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    print_ways(results, missing)
    print_changed(results)


def print_ways(results, missing):
    reference = results["this project"]
    print(f"\n| | ms per step: median (min to max) | relative | s for {EPOCHS} epochs | loss |")
    print("|---|---|---|---|---|")
    for name in WAYS:
        if name in missing:
            print(f"| {name} | did not run: {missing[name]} | | | |")
            continue
        relative = median(results[name], "step_ms") / median(reference, "step_ms")
        loss = results[name][-1]["losses"][1]
        differs = abs(loss / reference[-1]["losses"][1] - 1) > 0.1
        cells = [
            name,
            spread(results[name], "step_ms"),
            f"{relative:.2f}",
            spread(results[name], "seconds"),
            f"{loss:.0f}{' (differs)' if differs else ''}",
        ]
        print(f"| {' | '.join(cells)} |")


def print_changed(results):
    print("\n| graph | compiled: ms per step | feed_loop | compiled / feed_loop |")
    print("|---|---|---|---|")
    for graph in CHANGED:
        compiled, feed = [results[f"{graph}, {loop}"] for loop in LOOPS]
        ratio = median(compiled, "step_ms") / median(feed, "step_ms")
        cells = [graph, spread(compiled, "step_ms"), spread(feed, "step_ms"), f"{ratio:.2f}"]
        print(f"| {' | '.join(cells)} |")


def median(results, key):
    return statistics.median(result[key] for result in results)


def spread(results, key):
    figures = [result[key] for result in results]
    return f"{median(results, key):.2f} ({min(figures):.2f} to {max(figures):.2f})"


if __name__ == "__main__":
    main()
