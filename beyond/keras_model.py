"""Converts a trained network into a Keras model. details.md shows how a program opens it."""

import json
import sys
import zipfile

from scipy.special import logit

import autoencoder as ae
from beyond.common import new_path, open_network

tf = ae.tf
NEW_KEYS = ("quantization_config", "input_axes", "output_axes")  # Keras 3.5 to 3.13 refuse them


def keras_model(logdir):
    """Returns the network that was trained in logdir as a keras.Model of Dense layers, from images
    (n, X_n) to G (n, X_n). The layer of the latent variables is called Z.

    Call tf.enable_v2_behavior() first: Keras needs eager execution, which autoencoder.py switches off.
    Raises AutoEncoderError as open_network does.
    """
    import keras  # not before autoencoder.py, which hides TensorFlow's log

    net, run, kind = open_network(logdir)
    is_dense = kind not in ("tied", "variational", "convolutional")
    ae.require(is_dense, f"{logdir} is {kind}, which does not consist of Dense layers of its own")
    hp = net.hp
    checkpoint = tf.train.load_checkpoint(run.checkpoint)
    X = keras.Input([hp.X_n], name="X")
    h = X
    for i, n in enumerate(hp.enc_n):
        h = keras.layers.Dense(n, hp.activation, name=f"Encoder_Layer{i + 1:02d}")(h)
    h = keras.layers.Dense(hp.Z_n, hp.Z_activation, name="Z")(h)
    for i, n in enumerate(hp.dec_n):
        h = keras.layers.Dense(n, hp.activation, name=f"Decoder_Layer{i + 1:02d}")(h)
    G = keras.layers.Dense(hp.X_n, "sigmoid", name="G")(h)
    model = keras.Model(X, G, name="autoencoder")
    with net.X.graph.as_default():
        weights = tf.trainable_variables()  # w and b of each layer from X to G, as Keras has them
    values = [checkpoint.get_tensor(variable.op.name) for variable in weights]
    if hp.centering == "mean":  # a Dense layer has no place for it but its bias
        mean = checkpoint.get_tensor(ae.MEAN_IMAGE)
        values[1] -= mean @ values[0]
        values[-1] += logit(mean.clip(0.01, 0.99))
    model.set_weights(values)
    return model


def save(model, path):
    """Saves a keras.Model as a .keras file that older versions of Keras 3 open as well: without the keys that
    they do not know, which are empty."""
    complete = path.with_suffix(".complete.keras")
    model.save(complete)
    with zipfile.ZipFile(complete) as archive, zipfile.ZipFile(path, "w") as new_archive:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "config.json":
                content = json.dumps(json.loads(content, object_hook=without_new_keys))
            new_archive.writestr(name, content)


def without_new_keys(config):
    """Returns a dict of Keras's configuration without the empty ones of NEW_KEYS."""
    return {k: value for k, value in config.items() if k not in NEW_KEYS or value is not None}


def main(args):
    """Writes the network that was trained in --logdir as a Keras model of Dense layers."""
    ae.require(args.output.suffix == ".keras", f"{args.output} must end in .keras")
    ae.require(not args.output.exists(), f"{args.output} exists already: choose another output")
    tf.enable_v2_behavior()
    model = keras_model(args.logdir)
    with new_path(args.output) as path:
        save(model, path)
    print(f"Keras model: {args.output}")


if __name__ == "__main__":
    example = "python -m beyond.keras_model --logdir logs/tuned --output logs/digits.keras"
    parser = ae.Parser("python -m beyond.keras_model", main.__doc__, example)
    parser.add_logdir()
    help = "a new file to write, which ends in .keras"
    parser.add_argument("--output", type=ae.user_path, required=True, metavar="FILE", help=help)
    sys.exit(ae.run_command(main, parser))
