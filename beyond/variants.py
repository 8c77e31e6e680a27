"""Other kinds of autoencoder, on the functions of the tutorial's. Each is a function of HParams that returns
a Network, which autoencoder.train and the rest of this folder take.

    python -m beyond.variants --help

| kind          | what it changes                                                                 |
|---------------|---------------------------------------------------------------------------------|
| denoising     | in training, noise is added to the images; G is compared with the images        |
| sparse        | the loss has the absolute values of Z, most of which become small               |
| tied          | the decoder multiplies by the encoder's weights, transposed                     |
| variational   | Z is random, and its distribution is kept near N(0, I), so that new images can  |
|               | be drawn                                                                        |
| convolutional | filters of 3 x 3 pixels take the place of the large matrices                    |
"""

import contextlib
import dataclasses
import math
import shlex
import sys
from pathlib import Path

import numpy as np

import autoencoder as ae

tf = ae.tf

# ---- Random numbers ------------------------------------------------------------------------------

# They depend on hp.seed, the global step and a number for each use in a graph. So feed_loop and the
# compiled loop draw the same, and a resumed run draws what it would have drawn without a stop.


def uniform(shape, hp, use=0):
    """Returns random numbers between 0 and 1, both excluded, which differ from step to step."""
    seed = [hp.seed + (use << 32), tf.train.get_or_create_global_step()]
    # Integers, because XLA makes other floats of the same seed than TensorFlow's own kernels.
    integers = tf.random.stateless_uniform(shape, seed, 0, 2**23, tf.int32, alg="philox")
    return (tf.cast(integers, tf.float32) + 0.5) * 2.0**-23


def normal(x, hp, use=0):
    """Returns standard normal random numbers of the shape of x, (batch, n), by Box and Muller's
    transformation."""
    n = int(x.shape[1])
    u, v = tf.unstack(uniform([2, tf.shape(x)[0], (n + 1) // 2], hp, use))
    radius = tf.sqrt(-2 * tf.log(u))
    angle = 2 * math.pi * v
    return tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1)[:, :n]


# ---- Kinds ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_graph(hp):
    """Makes a new tf.Graph the default, with the seed."""
    with tf.Graph().as_default():
        tf.set_random_seed(hp.seed)
        yield


def network(hp, X, Z, G, loss, training_feed=None):
    """Adds the training of a loss. Returns a Network."""
    opt = ae.training(loss, hp)
    init = tf.global_variables_initializer()
    return ae.Network(hp, X, Z, G, loss, opt, init, training_feed or {})


def denoising(hp, sd=0.5):
    """G is to be the image X, and is computed from X + sd N(0, I) in training, and from X otherwise.

    loss: sum of (G - X)^2 / 2, as the tutorial's. Vincent, Larochelle, Bengio, Manzagol (2008).
    """
    with new_graph(hp):
        X = ae.inputs(hp)
        with tf.name_scope("noise"):
            noise_sd = tf.placeholder_with_default(0.0, [], "sd")
            noisy = X + noise_sd * normal(X, hp)
        Z = ae.encode(noisy, hp)
        G = ae.decode(Z, hp)
        return network(hp, X, Z, G, ae.l2_loss(G, X), {noise_sd: sd})


def sparse(hp, weight=0.05):
    """loss: sum of (G - X)^2 / 2, and weight times the sum of |Z|: (). Goodfellow, Bengio, Courville,
    Deep Learning, section 14.2.1 (2016)."""
    with new_graph(hp):
        X = ae.inputs(hp)
        Z = ae.encode(X, hp)
        G = ae.decode(Z, hp)
        loss = ae.l2_loss(G, X)
        with tf.name_scope("sparsity"):
            loss += weight * tf.reduce_sum(tf.abs(Z))
        return network(hp, X, Z, G, loss)


def tied(hp):
    """A layer of the decoder is activation(h w^T + b), with w of the encoder. hp.dec_n has no effect.

    loss: as the tutorial's. Vincent, Larochelle, Lajoie, Bengio, Manzagol (2010).
    """
    with new_graph(hp):
        X = ae.inputs(hp)
        Z = h = ae.encode(X, hp)
        weights = [v for v in tf.trainable_variables() if len(v.shape) == 2]
        scopes = [f"Decoder/Layer{i + 1:02d}" for i in range(len(hp.enc_n))] + ["G"]
        for w, scope in zip(reversed(weights), scopes):
            activation = tf.sigmoid if scope == "G" else ae.ACTIVATIONS[hp.activation]
            with tf.name_scope(scope):
                b = tf.Variable(tf.zeros([w.shape[0]]), name="b", use_resource=True)
                h = activation(tf.matmul(h, w, transpose_b=True) + b)
        return network(hp, X, Z, h, ae.l2_loss(h, X))


def variational(hp, beta=1.0):
    """Z is drawn from N(mean, sd^2) in training, and is the mean otherwise. mean, sd: (batch, Z_n)

    loss: minus the evidence lower bound (ELBO), the cross entropy of X and G plus beta times the
    Kullback-Leibler divergence sum of (sd^2 + mean^2 - 1 - log sd^2) / 2. Both are sums over the
    minibatch, the pixels and the latents: with a mean over pixels, the divergence would count 784
    times as much, and Z would say nothing about X. Kingma and Welling (2013); beta: Higgins et al.
    (2017).
    """
    with new_graph(hp):
        X = ae.inputs(hp)
        both = ae.encode(X, dataclasses.replace(hp, Z_n=2 * hp.Z_n, Z_activation="linear"))
        with tf.name_scope("sample"):
            mean, log_variance = tf.split(both, 2, axis=1)
            is_random = tf.placeholder_with_default(0.0, [], "is_random")
            Z = mean + is_random * tf.exp(log_variance / 2) * normal(mean, hp)
        G = ae.decode(Z, hp)
        logits = G.op.inputs[0]  # of the sigmoid
        with tf.name_scope("loss"):
            entropies = tf.nn.sigmoid_cross_entropy_with_logits(labels=X, logits=logits)
            cross_entropy = tf.reduce_sum(entropies, name="cross_entropy")
            divergences = (tf.exp(log_variance) + mean**2 - 1 - log_variance) / 2
            divergence = tf.reduce_sum(divergences, name="divergence")
            loss = cross_entropy + beta * divergence
        return network(hp, X, Z, G, loss, {is_random: 1.0})


def convolutional(hp, filters=(16, 32)):
    """Two layers of filters, of 3 x 3 pixels and with strides of 2, to a quarter of the height and width,
    and back. hp.enc_n and hp.dec_n have no effect.

    loss: as the tutorial's. Masci, Meier, Cireşan, Schmidhuber (2011).
    """
    side = math.isqrt(hp.X_n)
    ae.require(
        side**2 == hp.X_n and side % 4 == 0, "convolutional needs a side that is a multiple of 4"
    )
    few, many = filters
    small = [-1, side // 4, side // 4, many]
    activation = ae.ACTIVATIONS[hp.activation]

    def weights(shape):
        return tf.Variable(tf.initializers.glorot_uniform()(shape), name="w", use_resource=True)

    with new_graph(hp):
        X = ae.inputs(hp)
        batch = tf.shape(X)[0]
        h = tf.reshape(X, [-1, side, side, 1])
        with tf.name_scope("Encoder"):
            for n, m in ((1, few), (few, many)):
                h = activation(tf.nn.conv2d(h, weights([3, 3, n, m]), strides=2, padding="SAME"))
            h = tf.reshape(h, [-1, np.prod(small[1:])])
        Z = ae.layer(h, hp.Z_n, ae.ACTIVATIONS[hp.Z_activation], "Z", hp)
        h = ae.layer(Z, np.prod(small[1:]), activation, "Decoder/Layer01", hp)
        h = tf.reshape(h, small)
        with tf.name_scope("Decoder"):
            shape = [batch, side // 2, side // 2, few]
            h = activation(tf.nn.conv2d_transpose(h, weights([3, 3, few, many]), shape, strides=2))
        with tf.name_scope("G"):
            shape = [batch, side, side, 1]
            h = tf.nn.conv2d_transpose(h, weights([3, 3, 1, few]), shape, strides=2)
            G = tf.sigmoid(tf.reshape(h, [-1, hp.X_n]))
        return network(hp, X, Z, G, ae.l2_loss(G, X))


KINDS = {"plain": ae.build, "denoising": denoising, "sparse": sparse, "tied": tied}
KINDS |= {"variational": variational, "convolutional": convolutional}


# ---- Evaluation ----------------------------------------------------------------------------------


def evidence(sess, net, images):
    """Returns cross entropy and divergence of a variational Network, in nats per image, as its loss in
    training has them. Their sum is minus the evidence lower bound."""
    graph = net.X.graph
    parts = [graph.get_tensor_by_name(f"loss/{name}:0") for name in ("cross_entropy", "divergence")]
    batch_size, feed = net.hp.batch_size, net.training_feed
    batches = ae.run_batches(sess, parts, net.X, images, batch_size, feed)
    return np.sum([sums for _, sums in batches], axis=0, dtype=np.float64) / len(images)


def main(args):
    """Trains another KIND of autoencoder than the tutorial's: denoising, sparse, tied, variational or
    convolutional; or plain, the tutorial's own. Z is linear by default. Evaluates it on the test images,
    also with noise of standard deviation 0.5."""
    data = ae.read_data_sets(args.data_dir)
    hp = ae.hparams_from_args(args, data)
    if args.kind == "sparse" and "Z_n" not in args:
        hp = dataclasses.replace(hp, Z_n=100)
    logdir = args.logdir or Path("logs", args.kind)
    net = KINDS[args.kind](hp)
    print(f"device: {ae.device()}")
    with ae.start_session(net) as sess:
        ae.train(sess, net, data, logdir, args.resume)
        X = data.test.images
        evaluation = ae.evaluate(sess, net, X)
        print(evaluation)
        ae.write_test(sess, net, data.test, evaluation, logdir)
        firsts = ae.first_of_each(data.test.labels)
        rows = {"X": X[firsts], "G": ae.run_images(sess, net, net.G, X[firsts])}
        rng = np.random.default_rng(0)
        noisy = X + np.float32(0.5) * rng.standard_normal(X.shape, np.float32)
        G = ae.run_images(sess, net, net.G, noisy)
        score = ae.REPORTED_IMAGES * np.square(G - X).sum(dtype=np.float64) / 2 / len(X)
        print(f"score of noisy images: {score:.3f}")
        rows |= {"noisy": noisy[firsts], "G of noisy": G[firsts]}
        if args.kind == "variational":
            parts = evidence(sess, net, X)
            names = "cross entropy {:.1f}, divergence {:.1f}".format(*parts)
            print(f"minus the ELBO: {sum(parts):.1f} nats per image: {names}")
            varying = np.sum(ae.run_images(sess, net, net.Z, X).var(axis=0) > 0.01)
            print(f"latents whose mean varies: {varying} of {hp.Z_n}")
            drawn = rng.standard_normal([len(X[firsts]), hp.Z_n])
            rows["drawn"] = sess.run(net.G, {net.Z: drawn})
    path = logdir / "reconstruction.png"
    ae.plot_images(rows).savefig(path, dpi=100)
    print(f"images: {path}")
    print(f"graph and losses: tensorboard --logdir {shlex.quote(str(logdir))}")


if __name__ == "__main__":
    example = "python -m beyond.variants variational --Z_n 2 --logdir logs/plane"
    parser = ae.Parser("python -m beyond.variants", main.__doc__, example)
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=" or ".join(KINDS))
    parser.add_data_dir()
    help = "folder of the run (default: logs/KIND)"
    parser.add_argument("--logdir", type=ae.user_path, metavar="FOLDER", help=help)
    ae.add_hparams(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.set_defaults(Z_activation="linear")
    parser.usage = "%(prog)s KIND [options]"
    sys.exit(ae.run_command(main, parser, hint="; --resume continues after the last whole epoch"))
