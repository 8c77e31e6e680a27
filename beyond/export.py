"""A SavedModel of a trained network, for programs that have TensorFlow but not this project.

    python -m beyond.export --help

| signature   | inputs                           | outputs                                              |
|-------------|----------------------------------|------------------------------------------------------|
| encode      | images (n, X_n), float32, 0 to 1 | Z (n, Z_n)                                           |
| decode      | Z (n, Z_n), float32              | G (n, X_n)                                           |
| reconstruct | images                           | G (n, X_n); error (n,), half the squared error       |
| detect      | images                           | score (n,), float32; flag (n,), bool: beyond.anomaly |
"""

import sys

import autoencoder as ae
from beyond.anomaly import detector
from beyond.common import load_run
from beyond.pca import nearest_in_graph

tf = ae.tf


def export(sess, g, folder, normal):
    """Writes the SavedModel into a new folder. normal: a Detector of beyond.anomaly

    Weights stay variables: for constants, TensorFlow has other kernels, which round differently.
    """
    forward = ae.step_graph_def(g, g.Z.op, g.G.op)
    names = {f"{node.name}:0" for node in forward.node}
    with g.X.graph.as_default():
        ae.variable_handles()  # raises AutoEncoderError if there are variables without a handle
        weights = [v for v in tf.global_variables() if v.handle.name in names]
    with tf.Graph().as_default() as graph:
        values = {v.handle.name: sess.run(v) for v in weights}
        handles = {
            name: tf.Variable(value, use_resource=True).handle for name, value in values.items()
        }
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
    with tf.Session(graph=graph, config=ae.session_config()) as export_sess:
        export_sess.run(tf.global_variables_initializer())
        builder = tf.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(export_sess, [tf.saved_model.SERVING], signatures)
        builder.save()


def main(args):
    """Writes the network that was trained in --logdir as a SavedModel, with the signatures encode,
    decode, reconstruct and detect, for programs that have TensorFlow but not this project."""
    if args.output.exists():
        raise ae.AutoEncoderError(f"{args.output} exists already: choose another output")
    with load_run(args.logdir, args.data_dir) as (sess, g, data):
        export(sess, g, args.output, detector(sess, g, data))
    print(f"SavedModel: {args.output}")


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.export", main.__doc__, ae.LOGDIR, data_dir=None)
    parser.add_argument("--output", type=ae.user_path, required=True, help="a new folder to write")
    sys.exit(ae.run_command(main, parser))
