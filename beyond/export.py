"""A SavedModel of a trained network, for programs that have TensorFlow but not this project.

The signatures are encode, decode, reconstruct and detect: README.md has their inputs and outputs.
TensorFlow Serving calls detect if no signature is named. README.md says how to prepare a picture.
"""

import sys

import autoencoder as ae
from beyond.anomaly import SCORE, SCORES, add_score_flags, make_detector
from beyond.common import load_run, new_path

tf = ae.tf


def export(sess, net, folder, detector, score=SCORE):
    """Writes the SavedModel into a new folder. detector: a Detector of beyond.anomaly, in the graph
    of net. score: the name of the score by which detect decides.

    Weights stay variables: for constants, TensorFlow has other kernels, which round differently.
    """
    score_tensor = detector.tensors[score]
    with net.X.graph.as_default():
        error = tf.reduce_sum((net.G - net.X) ** 2, axis=1) / 2
        threshold = tf.constant(detector.thresholds[score])
        flag = tf.logical_not(score_tensor <= threshold)  # also if the image has a NaN
        images = {"images": net.X}
        detected = {"score": score_tensor, "flag": flag, "threshold": threshold}
        signature = tf.saved_model.predict_signature_def
        signatures = {
            "encode": signature(images, {"Z": net.Z}),
            "decode": signature({"Z": net.Z}, {"G": net.G}),
            "reconstruct": signature(images, {"G": net.G, "error": error}),
            "detect": signature(images, detected),
            tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature(images, detected),
        }
        saver = tf.train.Saver(ae.variables_of([net.Z, net.G, score_tensor]))
        builder = tf.saved_model.Builder(str(folder))
        tags = [tf.saved_model.SERVING]
        builder.add_meta_graph_and_variables(sess, tags, signatures, saver=saver)
        builder.save()


def main(args):
    """Writes the network that was trained in --logdir as a SavedModel, with the signatures encode,
    decode, reconstruct and detect, for programs that have TensorFlow but not this project."""
    ae.require(not args.output.exists(), f"{args.output} exists already: choose another output")
    ae.require(0 < args.rate < 1, f"--rate must be between 0 and 1, not {args.rate}")
    ae.check_checkpoint_path(args.output)
    with load_run(args.logdir, args.data_dir) as (sess, net, data):
        detector = make_detector(sess, net, data, args.rate)
        with new_path(args.output) as folder:
            export(sess, net, folder, detector, args.score)
    print(f"SavedModel: {args.output}")


if __name__ == "__main__":
    example = "python -m beyond.export --logdir logs/tuned --output logs/digits-model"
    parser = ae.Parser("python -m beyond.export", main.__doc__, example)
    parser.add_data_dir(None, "the run's")
    parser.add_logdir()
    help = "a new folder to write"
    parser.add_argument("--output", type=ae.user_path, required=True, metavar="FOLDER", help=help)
    add_score_flags(parser, SCORES)
    sys.exit(ae.run_command(main, parser))
