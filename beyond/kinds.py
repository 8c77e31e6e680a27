"""Other kinds of autoencoder, made of the functions of autoencoder.py. Each is a function of HParams that
returns a Network, which autoencoder.train and the rest of this folder take. beyond.variants trains them."""

import contextlib
import dataclasses
import math

import autoencoder as ae

tf = ae.tf
NOISE_SD = 0.5  # of denoising
MASKED_SHARE = 0.5  # of masking

# ---- Random numbers ------------------------------------------------------------------------------

# They are a function of hp.seed, the global step, and a number for each use in a graph. So feed_loop
# and the compiled loop draw the same, up to rounding, and a resumed run draws what it would have
# drawn without a stop.


def uniform(shape, hp, use=0):
    """Returns random numbers between 0 and 1, both excluded. Each step draws others."""
    seed = [(hp.seed + (use << 32)) % 2**63, tf.train.get_or_create_global_step()]
    # Integers, because XLA and TensorFlow's own kernels make different floats of the same seed.
    integers = tf.random.stateless_uniform(shape, seed, 0, 2**23, tf.int32, alg="philox")
    return (tf.cast(integers, tf.float32) + 0.5) * 2.0**-23


def normal(shape, hp, use=0):
    """Returns standard normal random numbers. Each step draws others."""
    return tf.math.ndtri(uniform(shape, hp, use))


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


def with_cross_entropy(hp):
    """loss: that of cross_entropy_loss. Vincent, Larochelle, Bengio, Manzagol (2008) have it for pixels
    from 0 to 1."""
    with new_graph(hp):
        X = ae.inputs(hp)
        Z = ae.encode(X, hp)
        G = ae.decode(Z, hp)
        return network(hp, X, Z, G, cross_entropy_loss(G, X))


def cross_entropy_loss(G, X):
    """G: the output of a sigmoid; X: (batch, X_n) -> sum over batch and pixels of
    -X log G - (1 - X) log (1 - G): ()"""
    logits = G.op.inputs[0]
    with tf.name_scope("loss"):
        entropies = tf.nn.sigmoid_cross_entropy_with_logits(labels=X, logits=logits)
        return tf.reduce_sum(entropies, name="cross_entropy")


def denoising(hp, sd=NOISE_SD):
    """G is to be the image X. It is computed from X + sd N(0, I) in training, and from X otherwise.

    loss: sum of (G - X)^2 / 2, as the tutorial's. Vincent, Larochelle, Lajoie, Bengio, Manzagol (2010).
    """

    def add_noise(X, sd):
        return X + sd * normal(tf.shape(X), hp)

    return _with_damage(hp, add_noise, sd)


def masking(hp, share=MASKED_SHARE):
    """As denoising, but in training a share of the pixels is set to 0, as in Vincent, Larochelle, Bengio,
    Manzagol (2008). The others are divided by 1 - share, as in dropout, so that the sums in the first
    layer are about as large as without it."""

    def mask(X, share):
        is_kept = uniform(tf.shape(X), hp) >= share
        return X * tf.cast(is_kept, tf.float32) / (1 - share)

    return _with_damage(hp, mask, share)


def _with_damage(hp, damage, amount):
    """damage: a function of X and an amount, which is 0 except in training."""
    with new_graph(hp):
        X = ae.inputs(hp)
        with tf.name_scope("damage"):
            amount_ph = tf.placeholder_with_default(0.0, [], "amount")
            damaged = damage(X, amount_ph)
        Z = ae.encode(damaged, hp)
        G = ae.decode(Z, hp)
        return network(hp, X, Z, G, ae.l2_loss(G, X), {amount_ph: amount})


def sparse(hp, weight=0.05):
    """loss: sum of (G - X)^2 / 2, plus weight times the sum of |Z|: (). Goodfellow, Bengio, Courville,
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
    """A layer of the decoder is activation(h w^T + b), where w belongs to the layer of the encoder that it
    mirrors. hp.dec_n has no effect.

    loss: as the tutorial's. Vincent, Larochelle, Lajoie, Bengio, Manzagol (2010).
    """
    with new_graph(hp):
        X = ae.inputs(hp)
        Z = ae.encode(X, hp)
        weights = [v for v in tf.trainable_variables() if len(v.shape) == 2]
        h = Z
        for i, w in enumerate(reversed(weights[1:])):
            h = tied_layer(h, w, ae.ACTIVATIONS[hp.activation], f"Decoder/Layer{i + 1:02d}")
        G = tied_layer(h, weights[0], lambda logits: ae.image_of(logits, hp), "G")
        return network(hp, X, Z, G, ae.l2_loss(G, X))


def tied_layer(x, w, activation, scope):
    """x: (batch, m), w: (n, m) -> (batch, n)"""
    with tf.name_scope(scope):
        b = tf.Variable(tf.zeros([w.shape[0]]), name="b")
        return activation(tf.matmul(x, w, transpose_b=True) + b)


def variational(hp, beta=1.0):
    """Z is drawn from N(mean, sd^2) in training, and is the mean otherwise. mean, sd: (batch, Z_n).
    hp.Z_activation has no effect.

    loss: the cross entropy of X and G, plus beta times the Kullback-Leibler divergence of that
    distribution from N(0, I), sum of (sd^2 + mean^2 - 1 - log sd^2) / 2. With beta = 1, this is minus
    the evidence lower bound (ELBO). Both are sums: over the minibatch, and over pixels or latents.
    With a mean over the pixels, the divergence would count X_n times as much, and Z would say nothing
    about X. Kingma and Welling (2013); beta: Higgins et al. (2017).
    """
    with new_graph(hp):
        X = ae.inputs(hp)
        two = dataclasses.replace(hp, Z_n=2 * hp.Z_n, Z_activation="linear")
        mean_and_log_variance = ae.encode(X, two)
        with tf.name_scope("sample"):
            mean, log_variance = tf.split(mean_and_log_variance, 2, axis=1)
            noise_scale = tf.placeholder_with_default(0.0, [], "noise_scale")
            noise = normal(tf.shape(mean), hp)
            Z = mean + noise_scale * tf.exp(log_variance / 2) * noise
        G = ae.decode(Z, hp)
        loss = cross_entropy_loss(G, X)
        with tf.name_scope("divergence"):
            divergences = (tf.exp(log_variance) + mean**2 - 1 - log_variance) / 2
            loss += beta * tf.reduce_sum(divergences, name="sum")
        return network(hp, X, Z, G, loss, {noise_scale: 1.0})


def convolutional(hp, filters=(16, 32)):
    """Two layers of 3 x 3 convolutions with strides of 2, to a quarter of the height and width, and back.
    The images must be square. filters: how many the first and the second layer have. They have no
    biases, and are initialized by Glorot's uniform distribution. hp.enc_n and hp.dec_n have no effect.

    loss: as the tutorial's. Masci, Meier, Cireşan, Schmidhuber (2011), who have max-pooling in place
    of strides.
    """
    side = math.isqrt(hp.X_n)
    ae.require(side**2 == hp.X_n, f"kind convolutional needs square images, not {hp.X_n} pixels")
    half = math.ceil(side / 2)
    quarter = math.ceil(half / 2)
    few, many = filters
    units = quarter * quarter * many
    activation = ae.ACTIVATIONS[hp.activation]

    def weights(shape):
        initial = tf.initializers.glorot_uniform()(shape)
        return tf.Variable(initial, name="w")

    with new_graph(hp):
        X = ae.inputs(hp)
        with tf.name_scope("Encoder"):
            h = tf.reshape(ae.centered(X, hp), [-1, side, side, 1])
            for n, m in ((1, few), (few, many)):
                h = tf.nn.conv2d(h, weights([3, 3, n, m]), strides=2, padding="SAME")
                h = activation(h)
            h = tf.reshape(h, [-1, units])
        Z = ae.layer(h, hp.Z_n, ae.ACTIVATIONS[hp.Z_activation], "Z", hp)
        h = ae.layer(Z, units, activation, "Decoder/Layer01", hp)
        with tf.name_scope("Decoder"):
            h = tf.reshape(h, [-1, quarter, quarter, many])
            batch = tf.shape(h)[0]  # not that of X: Z may be fed instead
            shape = [batch, half, half, few]
            h = tf.nn.conv2d_transpose(h, weights([3, 3, few, many]), shape, strides=2)
            h = activation(h)
        with tf.name_scope("G"):
            shape = [batch, side, side, 1]
            h = tf.nn.conv2d_transpose(h, weights([3, 3, 1, few]), shape, strides=2)
            G = ae.image_of(tf.reshape(h, [-1, hp.X_n]), hp)
        return network(hp, X, Z, G, ae.l2_loss(G, X))


KINDS = {
    "plain": ae.build,
    "cross-entropy": with_cross_entropy,
    "denoising": denoising,
    "masking": masking,
    "sparse": sparse,
    "tied": tied,
    "variational": variational,
    "convolutional": convolutional,
}
