"""A SavedModel of a trained network, for programs that have TensorFlow and not this project.

    python -m beyond.export --help

| signature   | inputs                           | outputs                                              |
|-------------|----------------------------------|------------------------------------------------------|
| encode      | images (n, X_n), float32, 0 to 1 | Z (n, Z_n)                                           |
| decode      | Z (n, Z_n), float32              | G (n, X_n)                                           |
| reconstruct | images                           | G (n, X_n); error (n,), half the squared error       |
| detect      | images                           | score (n,), float32; flag (n,), bool: beyond.anomaly |
"""

import sys
from pathlib import Path

import autoencoder as ae
from beyond.anomaly import detector
from beyond.pca import nearest_in_graph
from beyond.tuning import trained

tf = ae.tf


def export(sess, g, folder, normal):
    """Writes the SavedModel into a new folder. normal: a Detector of beyond.anomaly

    Weights stay variables: TensorFlow has other kernels for constants, and they round otherwise.
    """
    forward = ae.left_open(g, g.Z.op, g.G.op)
    used = {node.name for node in forward.node}
    with g.X.graph.as_default():
        weights = [v for v in tf.global_variables() if v.op.name in used]
    with tf.Graph().as_default() as graph:
        handles = {v.handle.name: tf.Variable(sess.run(v)).handle for v in weights}
        X, Z, G = tf.import_graph_def(forward, handles, [g.X.name, g.Z.name, g.G.name])
        error = tf.reduce_sum((G - X) ** 2, 1) / 2
        codes = tf.constant(normal.codes)
        _, distances = nearest_in_graph(Z, codes, min(5, len(normal.codes)))
        score = error * (1 + tf.reduce_mean(distances, 1))
        images, detected = {"images": X}, {"score": score, "flag": score > normal.threshold}
        signature = tf.saved_model.predict_signature_def
        signatures = {
            "encode": signature(images, {"Z": Z}),
            "decode": signature({"Z": Z}, {"G": G}),
            "reconstruct": signature(images, {"G": G, "error": error}),
            "detect": signature(images, detected),
        }
    with ae.session(graph) as new:
        new.run(tf.global_variables_initializer())
        builder = tf.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(new, [tf.saved_model.SERVING], signatures)
        builder.save()


def main(args):
    """Writes the network that was trained in --logdir as a SavedModel, with the signatures encode,
    decode, reconstruct and detect, for programs that have TensorFlow and not this project."""
    if args.output.exists():
        raise ae.AutoEncoderError(f"{args.output} is there already: choose another output")
    data = ae.read_data_sets(args.data_dir)
    with trained(args.logdir, data) as (sess, g):
        export(sess, g, args.output, detector(sess, g, data))
    print(f"SavedModel: {args.output}")


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.export", main.__doc__, ae.LOGDIR)
    parser.add_argument("--output", type=Path, required=True, help="the folder to write, a new one")
    sys.exit(ae.run(main, parser))
