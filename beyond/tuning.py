"""The tutorial's eight steps, which it describes and leaves out.

    python -m beyond.tuning --help

Train; evaluate on validation images; adjust the hyperparameters; train; evaluate; keep the better
of the two; repeat; and then evaluate the best on the test images, once.

A trial is one of the combinations of a space, {name of a hyperparameter: values}. Trial k is the
same whoever runs it, and leaves all that it finds in a folder of its own, so a search can be stopped
and gone on with, and spread over machines that share a folder.
"""

import contextlib
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import autoencoder as ae
from beyond.pca import table

SPACE = {
    "activation": ("relu", "swish"),
    "Z_activation": ("relu", "linear"),
    "init": ("normal", "he", "glorot"),
    "batch_size": (50, 100),
    "learning_rate": (0.001, 0.002, 0.004),
    "schedule": ("constant", "cosine"),
}


class Trial(NamedTuple):
    hp: ae.HParams
    validation_loss: float  # for 100 images, after the last epoch; infinity: training diverged
    live: int  # latent variables that some validation image moves from 0


def tune(data, logdir, trials=20, base=ae.RECIPES["seed"], space=SPACE):
    """Runs trial 0, 1, ..., at most as many as the space has combinations; those that have finished
    in logdir are only read. Then evaluates the best on the test images.

    -> {number: Trial}, the best first; and the best one's Evaluation on the test images.
    AutoEncoderError when logdir has trials of another search, or when all trials diverged.
    """
    if trials < 1:
        raise ae.AutoEncoderError(f"--trials must be a whole number from 1, not {trials}")
    numbers, done = range(min(trials, combinations(space))), {}
    for number in numbers:
        trial_hparams(number, base, space)  # a wrong value is said now, not hours later
    for number in numbers:
        done[number] = run_trial(data, logdir, number, base, space)
        done = dict(sorted(done.items(), key=lambda item: item[1].validation_loss))
        best, (_, loss, _) = next(iter(done.items()))
        print(
            f"{len(done)} of {len(numbers)}, best so far: trial {best}, validation loss {loss:.3f}"
        )
    if math.isinf(loss):
        raise ae.AutoEncoderError("all trials diverged: try smaller values of learning_rate")
    with trained(folder_of(logdir, best), data) as (sess, g):
        evaluation = ae.evaluate(sess, g, data.test.pixels)
    return done, evaluation


def run_trial(data, logdir, number, base=ae.RECIPES["seed"], space=SPACE):
    """Trains on training images with trial_hparams(...), and evaluates on validation images; what
    was stopped goes on, what has finished is not run again. -> Trial"""
    hp = trial_hparams(number, base, space)
    print(f"trial {number}: {', '.join(f'{name} {getattr(hp, name)}' for name in space)}")
    g = ae.build(hp)
    with ae.start(g) as sess:
        try:
            last = ae.train(sess, g, data, folder_of(logdir, number), resume=True)[-1]
            return Trial(hp, last.validation_loss, last.live)
        except ae.Diverged as e:
            print(e)
            return Trial(hp, math.inf, 0)


def trial_hparams(number, base, space):
    """The hyperparameters of trial 0, 1, ...: one of the combinations of the space, and those of
    `base` for all others. Drawn by base.seed, and never the same twice: as many trials as there are
    combinations are a grid search."""
    n = combinations(space)
    if not 0 <= number < n:
        raise ae.AutoEncoderError(f"there is no trial {number}, only 0 to {n - 1}")
    drawn = np.random.default_rng(base.seed).permutation(n)[number]
    indices = np.unravel_index(drawn, [len(values) for values in space.values()])
    chosen = {name: values[i] for (name, values), i in zip(space.items(), indices)}
    return dataclasses.replace(base, **chosen)


def combinations(space):
    """How many the space has, {name of a hyperparameter: values}; AutoEncoderError if it is none."""
    names = {field.name for field in dataclasses.fields(ae.HParams)[1:]}
    right = isinstance(space, dict) and space.keys() <= names
    if not right or not all(isinstance(v, (list, tuple)) and v for v in space.values()):
        raise ae.AutoEncoderError(f"a space is hyperparameters and lists of values, not {space}")
    return math.prod(map(len, space.values()))


def folder_of(logdir, number):
    return Path(logdir, f"trial-{number:03d}")


@contextlib.contextmanager
def trained(logdir, data):
    """Yields session and Graph of the run in logdir, which was trained on `data`."""
    if not any((logdir / ae.CHECKPOINTS).glob("epoch-*.index")):
        raise ae.AutoEncoderError(f"{logdir} has no trained network: see python autoencoder.py")
    hp, _ = ae.read_run(logdir)
    g = ae.build(hp)
    with ae.start(g) as sess:
        epochs = len(ae.restore(sess, g, data, logdir))
        print(f"network: {logdir}, trained for {epochs} of {hp.epoch_n} epochs")
        yield sess, g


def tuning_table(trials, space=SPACE):
    """The text of a table. trials: {number: Trial}, the best first"""
    rows = [
        [number, f"{t.validation_loss:.1f}", t.live, *(getattr(t.hp, name) for name in space)]
        for number, t in trials.items()
    ]
    return table(["trial", "validation loss", "live", *space], *rows)


def main(args):
    """Searches for better hyperparameters, judged on validation images; then evaluates the best
    trial, and only that, on the test images. A search that was stopped goes on where it stopped."""
    data = ae.read_data_sets(args.data_dir)
    base, space = ae.hparams(args, data), args.space
    print(f"device: {ae.device()}")
    if args.trial is not None:
        run_trial(data, args.logdir, args.trial, base, space)
        return
    trials, evaluation = tune(data, args.logdir, args.trials, base, space)
    print(tuning_table(trials, space))
    print(f"trial {next(iter(trials))} on the test images: {evaluation}")
    print(f"all trials: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.tuning", main.__doc__, "logs/tuning")
    ae.add_hparams(parser)
    group = parser.add_argument_group("search")
    group.add_argument("--trials", type=int, default=20, metavar="N", help="how many (default: 20)")
    group.add_argument("--trial", type=int, metavar="K", help="run trial K alone: 0, 1, ...")
    values = "the values to try, as JSON (default: %(default)s)"
    group.add_argument("--space", type=json.loads, default=json.dumps(SPACE), help=values)
    sys.exit(ae.run(main, parser, again="; the same command goes on"))
