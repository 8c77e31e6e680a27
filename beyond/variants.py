"""Trains a kind of autoencoder of beyond.kinds, and a plain one to compare it with: see --help."""

import dataclasses
import shlex
import sys
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

import autoencoder as ae
from beyond import common
from beyond.kinds import KINDS, MASKED_SHARE, NOISE_SD

# ---- Evaluation ----------------------------------------------------------------------------------


def damaged(images):
    """Returns images (n, X_n) with noise, and with pixels set to 0, as in the training of kinds denoising
    and masking: {"noisy" or "masked": (n, X_n)}."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(images.shape, np.float32)
    noisy = images + np.float32(NOISE_SD) * noise
    is_kept = rng.random(images.shape, np.float32) >= MASKED_SHARE
    masked = images * is_kept / np.float32(1 - MASKED_SHARE)
    return {"noisy": noisy, "masked": masked}


def scores(sess, net, images):
    """Reconstructs images (n, X_n), and also noisy and masked ones. Returns the scores of G against the
    images themselves: {"score", "noisy" or "masked": score}."""
    found = {}
    inputs = {"score": images} | damaged(images)
    for name, given in inputs.items():
        G = common.run_batches(sess, net, net.G, given, "evaluating")
        found[name] = common.tutorial_score(G, images)
    return found


def varying_latents(Z):
    """Returns how many latents vary: those with a variance above 0.01 over images. Z: (n, Z_n)

    In a variational autoencoder, a latent that says nothing about the image is nearly the same for all
    images, but hardly ever 0. The limit is that of Burda, Grosse and Salakhutdinov (2015).
    """
    return np.count_nonzero(Z.var(axis=0) > 0.01)


def evidence(sess, net, images):
    """Returns cross entropy and divergence of a variational Network, in nats per image, with Z drawn as in
    training. Their sum is minus the evidence lower bound (ELBO)."""
    names = ("loss/cross_entropy:0", "divergence/sum:0")
    parts = [net.X.graph.get_tensor_by_name(name) for name in names]
    # In one call, because each call would draw the same noise.
    sums = sess.run(parts, {net.X: images, **net.training_feed})
    return np.float64(sums) / len(images)


# ---- Pictures ------------------------------------------------------------------------------------


def draw(sess, net, like=None, n=10):
    """Returns images that the decoder generates from random Z: (n, X_n). Z is drawn from N(0, I), or from
    the normal distribution with the mean and the covariance of `like` (m, Z_n)."""
    rng = np.random.default_rng(0)
    mean = np.zeros(net.hp.Z_n)
    covariance = np.eye(net.hp.Z_n)
    if like is not None:
        mean = like.mean(axis=0)
        covariance = np.atleast_2d(np.cov(like, rowvar=False, ddof=0))
    Z = rng.multivariate_normal(mean, covariance, n)
    return sess.run(net.G, {net.Z: Z})


def single_latents(sess, net, Z, n=10):
    """Returns G of codes in which all latents but one are 0: (n, X_n). The latents are the n with the
    greatest variance over Z (m, Z_n), each with its value that is farthest from 0."""
    latents = np.argsort(-Z.var(axis=0))[:n]
    rows = abs(Z).argmax(axis=0)[latents]
    codes = np.zeros([len(latents), net.hp.Z_n])
    codes[np.arange(len(latents)), latents] = Z[rows, latents]
    return sess.run(net.G, {net.Z: codes})


def picture_rows(sess, net, kind, inputs, test):
    """Returns what shows the purpose of a kind, for a network of it or for a plain one: {name: images}.
    inputs: what G is shown of, {"X", "noisy" or "masked": (n, X_n)}; test: DataSet."""
    rows = {}
    for name, images in inputs.items():
        row = "G" if name == "X" else f"G of {name}"
        rows[row] = ae.run_images(sess, net, net.G, images)
    if kind in ("variational", "sparse"):
        Z = common.encode_images(sess, net, test.images)
    if kind == "variational":
        rows["drawn"] = draw(sess, net)
        rows["drawn like Z"] = draw(sess, net, like=Z)
    if kind == "sparse":
        rows["single latents"] = single_latents(sess, net, Z)
    return rows


def plot_plane(sess, net, test, n=15):
    """Draws the plane of a Z of two numbers: the images that the decoder generates on a grid of n x n points;
    and the Z of the images of `test`, a DataSet, in the colours of their labels. The grid reaches from
    their 1st to their 99th percentile in each direction. Returns a Figure."""
    Z = common.encode_images(sess, net, test.images)
    low, high = np.quantile(Z, [0.01, 0.99], axis=0)
    high = np.maximum(high, low + 1e-3)  # for a latent that does not vary
    x, y = np.linspace(low, high, n).T
    grid = np.stack(np.meshgrid(x, y[::-1]), axis=-1)  # the first row of a picture is at the top
    G = sess.run(net.G, {net.Z: grid.reshape(-1, 2)})
    margin = (high - low) / (n - 1) / 2  # of the images, around the points that they are drawn from
    (left, bottom), (right, top) = low - margin, high + margin
    figure = Figure(figsize=(9, 4), dpi=80, layout="constrained")
    sheet, map_of_Z = figure.subplots(1, 2)
    extent = (left, right, bottom, top)
    sheet.imshow(ae.tiled(G, n), extent=extent, aspect="auto", vmin=0, vmax=1)
    sheet.set(title="G", xlabel="Z[0]", ylabel="Z[1]")
    map_of_Z.set(title="Z of the test images", xlabel="Z[0]", ylabel="Z[1]")
    map_of_Z.set(xlim=(left, right), ylim=(bottom, top))
    if test.labels is None:
        map_of_Z.scatter(*Z.T, s=2)
        return figure
    names, indices = np.unique(ae.as_integers(test.labels), return_inverse=True)
    colours = colormaps["tab10" if len(names) <= 10 else "turbo"].resampled(len(names))
    limits = {"vmin": -0.5, "vmax": len(names) - 0.5}
    points = map_of_Z.scatter(*Z.T, s=2, c=indices, cmap=colours, **limits)
    figure.colorbar(points, ticks=range(len(names)), label="label").ax.set_yticklabels(names)
    return figure


# ---- Command line --------------------------------------------------------------------------------


def evaluate(sess, net, kind, test):
    """Prints what a network can do. test: DataSet"""
    score, noisy, masked = scores(sess, net, test.images).values()
    varying = varying_latents(common.encode_images(sess, net, test.images))
    of_damaged = f"of noisy images {noisy:.1f}, of masked images {masked:.1f}"
    print(f"{kind}: score {score:.1f}, {of_damaged}; {varying} of {net.hp.Z_n} latents vary")
    if kind == "variational":
        cross_entropy, divergence = evidence(sess, net, test.images)
        total = cross_entropy + divergence
        parts = f"cross entropy {cross_entropy:.2f} + divergence {divergence:.2f}"
        print(f"minus the ELBO: {total:.2f} nats per test image = {parts}")
        print("the validation losses above are another number: of the mean of Z, and of 100 images")


def main(args):
    """Trains an autoencoder of another KIND than the tutorial's, and a plain one with the same
    hyperparameters, which is not kept. Z is linear by default, and kind sparse has 100 latents.
    Evaluates both on the test images, also with noise, and with half of the pixels set to 0 and the
    others doubled. Draws what the kind is for, reconstruction.png; and the plane of Z, plane.png, if Z
    has two numbers."""
    data = ae.read_data_sets(args.data_dir)
    hp = ae.hparams_from_args(args, data)
    if args.kind == "sparse" and "Z_n" not in args:
        hp = dataclasses.replace(hp, Z_n=100)
    logdir = args.logdir or Path("logs", args.kind)
    print(f"device: {ae.device()}")
    firsts = ae.first_of_each(data.test.labels)
    inputs = {"X": data.test.images[firsts]}
    if args.kind in ("denoising", "masking"):
        for name, images in damaged(data.test.images).items():
            inputs[name] = images[firsts]
    rows = dict(inputs)
    for kind in dict.fromkeys([args.kind, "plain"]):
        net = KINDS[kind](hp)
        with ae.start_session(net) as sess:
            if kind == args.kind:
                ae.train(sess, net, data, logdir, args.resume)
                evaluation = ae.evaluate(sess, net, data.test.images)
                ae.write_test(sess, net, data.test, evaluation, logdir)
                if hp.Z_n == 2:
                    plot_plane(sess, net, data.test).savefig(logdir / "plane.png", dpi=100)
            else:
                common.train_with_bar(sess, net, data)
            evaluate(sess, net, kind, data.test)
            for name, images in picture_rows(sess, net, args.kind, inputs, data.test).items():
                rows[f"{kind}: {name}"] = images
    path = logdir / "reconstruction.png"
    ae.plot_images(rows).savefig(path, dpi=100)
    print(f"images: {path}")
    if hp.Z_n == 2:
        print(f"plane of Z: {logdir / 'plane.png'}")
    print(f"graph and losses: tensorboard --logdir {shlex.quote(str(logdir))}")


if __name__ == "__main__":
    example = "python -m beyond.variants variational --Z_n 2 --logdir logs/plane"
    parser = ae.Parser("python -m beyond.variants", main.__doc__, example)
    help = f"{' or '.join(KINDS)}: see beyond/kinds.py"
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=help)
    parser.add_data_dir()
    help = "folder of the run (default: logs/KIND)"
    parser.add_argument("--logdir", type=ae.user_path, metavar="FOLDER", help=help)
    ae.add_hparams(parser, Z_activation="linear")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.usage = "%(prog)s KIND [options]"
    sys.exit(ae.run_command(main, parser, hint="; --resume continues after the last whole epoch"))
