"""Compares the kinds of autoencoder of beyond.kinds. See --help, and README.md for the columns."""

import collections
import dataclasses
import sys
import time

import numpy as np

import autoencoder as ae
from beyond import anomaly, common, pca, variants
from beyond.kinds import KINDS

# {name: (kind, what is changed)}. The two before the last have about as many weights as the last.
ROWS = {
    "plain": ("plain", {}),
    "cross-entropy": ("cross-entropy", {}),
    "variational": ("variational", {}),
    "denoising": ("denoising", {}),
    "masking": ("masking", {}),
    "plain, Z_n 100": ("plain", {"Z_n": 100}),
    "sparse, Z_n 100": ("sparse", {"Z_n": 100}),
    "tied": ("tied", {}),
    "plain, enc_n 45, dec_n 45": ("plain", {"enc_n": 45, "dec_n": 45}),
    "tied, enc_n 90": ("tied", {"enc_n": 90}),
    "convolutional": ("convolutional", {}),
}
FORMATS = {
    "weights": ",.0f",
    "score": ".1f",
    "noisy": ".1f",
    "masked": ".1f",
    "vary": ".1f",
    "accuracy": ".2f",
    "AUROC": ".3f",
    "worst": ".3f",
    "s/epoch": ".2f",
}


def train(sess, net, data):
    """Trains with a bar. Returns the median of the seconds of an epoch, and whether XLA compiled it."""
    loop = ae.compile_loop(sess, net, show=lambda *args, **kwargs: None)
    times = [time.perf_counter()]

    def take_time(epoch):
        times.append(time.perf_counter())

    common.train_with_bar(sess, net, data, loop=loop, on_epoch=take_time)
    return np.median(np.diff(times)), loop is not ae.feed_loop


def evaluate(sess, net, data, abnormal):
    """Returns a trained network's row of the table without its time: {column: number}."""
    train, test = data.train, data.test
    codes = common.encode_images(sess, net, train.images)
    test_codes = common.encode_images(sess, net, test.images)
    accuracy = pca.knn_accuracy(codes, test_codes, train.labels, test.labels)
    images, kinds = anomaly.joined(test.images, abnormal)
    by_score = anomaly.network_aurocs(sess, net, data, images, kinds)
    aurocs = [by_score[anomaly.SCORE, defect] for defect in abnormal]
    return {
        "weights": sum(v.shape.num_elements() for v in net.variables if v.trainable),
        **variants.scores(sess, net, test.images),
        "vary": variants.varying_latents(test_codes),
        "accuracy": 100 * accuracy,
        "AUROC": np.mean(aurocs),
        "worst": min(aurocs),
    }


def main(args):
    """Trains each kind of autoencoder for each seed, and also plain and tied ones with as many latents or
    weights as others have. Prints a table of what they can do. Z is linear by default. Draws what each
    network of the last seed makes of noisy test images, kinds.png in --logdir. beyond/README.md
    explains the columns. Takes nine minutes for each seed on two cores."""
    data = ae.read_data_sets(args.data_dir)
    common.check_labels(data)
    base = ae.hparams_from_args(args, data)
    args.logdir.mkdir(parents=True, exist_ok=True)
    X = data.test.images
    abnormal = anomaly.defects(X)
    firsts = ae.first_of_each(data.test.labels)
    noisy = variants.damaged(X)["noisy"][firsts]
    pictures = {"X": X[firsts], "noisy": noisy}
    print(f"device: {ae.device()}")
    results = collections.defaultdict(list)
    for seed in args.seeds:
        for name, (kind, changes) in ROWS.items():
            net = KINDS[kind](dataclasses.replace(base, seed=seed, **changes))
            with ae.start_session(net) as sess:
                seconds, is_compiled = train(sess, net, data)
                found = evaluate(sess, net, data, abnormal) | {"s/epoch": seconds}
                pictures[name] = ae.run_images(sess, net, net.G, noisy)
            results[name if is_compiled else f"{name}*"].append(found)
            numbers = ", ".join(f"{k} {value:{FORMATS[k]}}" for k, value in found.items())
            print(f"seed {seed}, {name}: {numbers}", flush=True)
    table = [["kind", *FORMATS]]
    for name, of_seeds in results.items():
        row = [name]
        for column, spec in FORMATS.items():
            row.append(common.mean_sd([found[column] for found in of_seeds], spec))
        table.append(row)
    print(common.format_table(*table))
    path = args.logdir / "kinds.png"
    ae.plot_images(pictures).savefig(path, dpi=100)
    print(f"images: {path}")


if __name__ == "__main__":
    example = "python -m beyond.comparison --seed 0 1 2"
    parser = ae.Parser("python -m beyond.comparison", main.__doc__, example)
    parser.add_data_dir()
    parser.add_logdir("logs/comparison", "folder for kinds.png")
    ae.add_hparams(parser, Z_activation="linear")
    common.add_seeds(parser)
    sys.exit(ae.run_command(main, parser))
