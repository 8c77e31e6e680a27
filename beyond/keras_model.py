"""Converts a trained network into a Keras model, for programs that use TensorFlow 2 or Keras.

    python -m beyond.keras_model --logdir logs/AutoEncoder --output digits.keras

    import keras
    autoencoder = keras.saving.load_model("digits.keras")
    encoder = keras.Model(autoencoder.input, autoencoder.get_layer("Z").output)

Does not import autoencoder.py, because that switches eager execution off, which Keras needs.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
stderr = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # TensorFlow logs three lines whatever the level is
try:
    import keras
    import tensorflow as tf
finally:
    os.dup2(stderr, 2)


def keras_model(logdir):
    """Returns the network that was trained in logdir as a keras.Model of Dense layers, from images
    (n, X_n) to G (n, X_n). The layer of the latent variables is called Z.

    Raises FileNotFoundError if there is no network, and ValueError if it is not the tutorial's.
    """
    folder = Path(logdir, "checkpoints")
    path = tf.train.latest_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(f"{logdir} has no trained network: see python autoencoder.py")
    hp = json.loads(Path(folder, "run.json").read_text())
    layers = []  # name in the checkpoint, units, activation
    for part, sizes in (("Encoder", hp["enc_n"]), ("Decoder", hp["dec_n"])):
        for i, n in enumerate(sizes):
            layers.append((f"{part}/Layer{i + 1:02d}", n, hp["activation"]))
    layers.insert(len(hp["enc_n"]), ("Z", hp["Z_n"], hp["Z_activation"]))
    layers.append(("G", hp["X_n"], "sigmoid"))
    checkpoint = tf.train.load_checkpoint(path)
    X = keras.Input([hp["X_n"]], name="X")
    h = X
    for scope, n, activation in layers:
        layer = keras.layers.Dense(n, activation, name=scope.replace("/", "_"))
        h = layer(h)
        if not checkpoint.has_tensor(f"{scope}/w"):
            raise ValueError(f"{path} has no {scope}/w: its graph is not the tutorial's")
        layer.set_weights([checkpoint.get_tensor(f"{scope}/{name}") for name in "wb"])
    return keras.Model(X, h, name="autoencoder")


def main():
    """Writes the network that was trained in --logdir as a Keras model of Dense layers."""
    example = "python -m beyond.keras_model --logdir logs/tuned --output digits.keras"
    parser = argparse.ArgumentParser(
        "python -m beyond.keras_model", description=main.__doc__, epilog=f"example: {example}"
    )
    help = "folder of the run (default: %(default)s)"
    parser.add_argument("--logdir", default="logs/AutoEncoder", metavar="FOLDER", help=help)
    help = "a new file to write, which ends in .keras"
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=help)
    args = parser.parse_args()
    try:
        if args.output.suffix != ".keras":
            raise ValueError(f"{args.output} must end in .keras")
        if args.output.exists():
            raise FileExistsError(f"{args.output} exists already: choose another output")
        args.output.parent.mkdir(parents=True, exist_ok=True)
        keras_model(args.logdir).save(args.output)
    except (OSError, ValueError) as e:
        print(f"{parser.prog}: error: {e}", file=sys.stderr)
        return 2
    print(f"Keras model: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
