"""The tutorial's eight steps, which it describes and leaves out.

    python -m beyond.tuning --help

Train; evaluate on validation images; adjust the hyperparameters; train; evaluate; keep the better
of the two; repeat; and then evaluate the best on the test images, once.

A trial is one combination of the values in a space, {name of a hyperparameter: values}. Trial k has
the same hyperparameters in every process, and writes its results into a folder of its own. So a
search can be stopped and continued, and shared out over machines that share the folder.
"""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import autoencoder as ae
from beyond.common import format_table

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
    live: int  # latent variables that are not 0 for every validation image


def tune(data, logdir, trials=20, base=ae.RECIPES["tutorial"], space=SPACE):
    """Runs trial 0, 1, ..., at most as many as the space has combinations. Those that are complete
    in logdir are read, and not run again. Then evaluates the best trial on the test images.

    -> {number: Trial}, the best first; and the best one's Evaluation on the test images.
    Raises AutoEncoderError if logdir has trials of another search, or if all trials diverged.
    """
    if trials < 1:
        raise ae.AutoEncoderError(f"--trials must be an integer of at least 1, not {trials}")
    numbers = range(min(trials, combinations(space)))
    for number in numbers:
        trial_hparams(number, base, space)  # checks all values before the first training
    finished = {}
    for number in numbers:
        finished[number] = run_trial(data, logdir, number, base, space)
        finished = dict(sorted(finished.items(), key=lambda item: item[1].validation_loss))
        best, (_, loss, _) = next(iter(finished.items()))
        count = f"{len(finished)} of {len(numbers)}"
        print(f"{count}, best so far: trial {best}, validation loss {loss:.3f}")
    if math.isinf(loss):
        raise ae.AutoEncoderError("all trials diverged: try smaller values of learning_rate")
    g = ae.build(finished[best].hp)
    with ae.start_session(g) as sess:
        ae.train(sess, g, data, trial_dir(logdir, best), resume=True)  # complete: it is only read
        evaluation = ae.evaluate(sess, g, data.test.pixels)
    return finished, evaluation


def run_trial(data, logdir, number, base=ae.RECIPES["tutorial"], space=SPACE):
    """Trains with trial_hparams(number, ...) and evaluates on the validation images. -> Trial

    A trial that was stopped is continued. A complete one is not run again.
    """
    hp = trial_hparams(number, base, space)
    print(f"trial {number}: {', '.join(f'{name} {getattr(hp, name)}' for name in space)}")
    g = ae.build(hp)
    with ae.start_session(g) as sess:
        try:
            last = ae.train(sess, g, data, trial_dir(logdir, number), resume=True)[-1]
            return Trial(hp, last.validation_loss, last.live)
        except ae.Diverged as e:
            print(e)
            return Trial(hp, math.inf, 0)


def trial_hparams(number, base, space):
    """The hyperparameters of trial 0, 1, ...: a combination of values of the space, and `base` for
    the rest. The combinations are in an order that base.seed determines, and none occurs twice: as
    many trials as there are combinations are a grid search."""
    n = combinations(space)
    if not 0 <= number < n:
        raise ae.AutoEncoderError(f"there is no trial {number}, only 0 to {n - 1}")
    combination = np.random.default_rng(base.seed).permutation(n)[number]
    indices = np.unravel_index(combination, [len(values) for values in space.values()])
    chosen = {name: values[i] for (name, values), i in zip(space.items(), indices)}
    return dataclasses.replace(base, **chosen)


def combinations(space):
    """The number of combinations in a space. Raises AutoEncoderError if it is not a space."""
    names = {field.name for field in dataclasses.fields(ae.HParams)} - {"X_n"}
    ok = isinstance(space, dict) and space.keys() <= names
    if not ok or not all(isinstance(v, (list, tuple)) and v for v in space.values()):
        expected = "a space has names of hyperparameters and lists of values"
        raise ae.AutoEncoderError(f"{expected}, not {space}")
    return math.prod(map(len, space.values()))


def trial_dir(logdir, number):
    return Path(logdir, f"trial-{number:03d}")


def tuning_table(trials, space=SPACE):
    """A table, as text. trials: {number: Trial}, the best first"""
    rows = [
        [number, f"{t.validation_loss:.1f}", t.live, *(getattr(t.hp, name) for name in space)]
        for number, t in trials.items()
    ]
    return format_table(["trial", "validation loss", "live", *space], *rows)


def main(args):
    """Searches for better hyperparameters, judged on validation images; then evaluates the best
    trial, and only that, on the test images. Continues a search that was stopped."""
    data = ae.read_data_sets(args.data_dir)
    base, space = ae.hparams_from_args(args, data), args.space
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
    help = "the values to try, as JSON (default: %(default)s)"
    group.add_argument("--space", type=json.loads, default=json.dumps(SPACE), help=help)
    sys.exit(ae.run_command(main, parser, hint="; the same command continues"))
