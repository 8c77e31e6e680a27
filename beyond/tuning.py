"""The tutorial's eight steps, which it describes and leaves out.

    python -m beyond.tuning --help

Train; evaluate on validation images; adjust the hyperparameters; train; evaluate; keep the better
of the two; repeat; and then evaluate the best on the test images, once.

A trial is one of the combinations of a space, {name of a hyperparameter: values}. Trial k is the
same whoever runs it, and leaves all that it finds in a folder of its own, so a search can be stopped
and gone on with, and spread over machines that share a folder.
"""

import dataclasses
import math
import sys
import time
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
FIELDS = {field.name: field for field in dataclasses.fields(ae.HParams)}


class Trial(NamedTuple):
    hp: ae.HParams
    validation_loss: float  # for 100 images, after the last epoch; infinity: training diverged
    live: int  # latent variables that are not 0 for every validation image

    def __str__(self):
        diverged = math.isinf(self.validation_loss)
        return "diverged" if diverged else f"validation loss {self.validation_loss:.3f}"


def tune(data, logdir, trials=20, base=ae.RECIPES["seed"], space=SPACE):
    """Runs the trials 0, 1, ... that have not finished in logdir, at most as many as the space has
    combinations, and evaluates the best on the test images.

    -> {number: Trial}, the best first; and the best one's Evaluation on the test images.
    AutoEncoderError when logdir has trials of another search, or when all trials diverged.
    """
    numbers = range(min(trials, combinations(space)))
    for number in numbers:  # what is wrong with the folder is said now, not hours later
        finished(logdir, number, trial_hparams(number, base, space))
    done, minutes = {}, []
    for number in numbers:
        begin = time.perf_counter()
        print(f"trial {number} ({number + 1} of {len(numbers)}): ", end="")
        done[number] = run_trial(data, logdir, number, base, space)
        minutes.append((time.perf_counter() - begin) / 60)
        best = min(done, key=lambda number: done[number].validation_loss)
        left = math.ceil(np.median(minutes) * (len(numbers) - number - 1))
        left = f"; about {left} min left" if left else ""
        print(f"best so far: trial {best}, {done[best]}{left}", flush=True)
    if math.isinf(done[best].validation_loss):
        raise ae.AutoEncoderError("all trials diverged: try smaller values of learning_rate")
    g = ae.build(done[best].hp)
    with ae.start(g) as sess:
        ae.train(sess, g, data, folder_of(logdir, best), resume=True)
        evaluation = ae.evaluate(sess, g, data.test.pixels)
    return dict(sorted(done.items(), key=lambda item: item[1].validation_loss)), evaluation


def run_trial(data, logdir, number, base=ae.RECIPES["seed"], space=SPACE):
    """Trains on training images with trial_hparams(...), and evaluates on validation images; what
    was stopped goes on, what has finished is not run again. -> Trial"""
    hp = trial_hparams(number, base, space)
    if trial := finished(logdir, number, hp):
        print(f"finished earlier, {trial}")
        return trial
    print(", ".join(f"{name} {getattr(hp, name)}" for name in space))
    g = ae.build(hp)
    with ae.start(g) as sess:
        try:
            last = ae.train(sess, g, data, folder_of(logdir, number), resume=True)[-1]
            return Trial(hp, last.validation_loss, last.live)
        except ae.Diverged as e:
            print(e)
            return Trial(hp, math.inf, 0)


def finished(logdir, number, hp):
    """The Trial of these hyperparameters, if the run in its folder is complete; else None."""
    folder = folder_of(logdir, number)
    if not (folder / ae.CHECKPOINTS / "run.json").exists():
        return None
    kept_hp, kept = ae.read_run(folder)
    if kept_hp != hp:
        raise ae.AutoEncoderError(f"{folder} is of another search: choose another logdir")
    if len(kept["history"]) < hp.epoch_n:
        return None
    last = kept["history"][-1]
    return Trial(hp, last.validation_loss, last.live)


def trial_hparams(number, base, space):
    """The hyperparameters of trial 0, 1, ...: one of the combinations of the space, and those of
    `base` for all others. Drawn by base.seed, and never the same twice: as many trials as there are
    combinations are a grid search."""
    n = combinations(space)
    if not 0 <= number < n:
        raise ae.AutoEncoderError(f"there is no trial {number}, only 0 to {n - 1}: see --vary")
    drawn = np.random.default_rng(base.seed).permutation(n)[number]
    indices = np.unravel_index(drawn, [len(values) for values in space.values()])
    chosen = {name: values[i] for (name, values), i in zip(space.items(), indices)}
    return dataclasses.replace(base, **chosen)


def combinations(space):
    return math.prod(map(len, space.values()))


def folder_of(logdir, number):
    return logdir / f"trial-{number:03d}"


def tuning_table(trials, space=SPACE):
    """The text of a table. trials: {number: Trial}, the best first"""
    rows = [
        [number, f"{t.validation_loss:.1f}", t.live, *(getattr(t.hp, name) for name in space)]
        for number, t in trials.items()
    ]
    return table(["trial", "validation loss", "live", *space], *rows)


# ---- Shell ---------------------------------------------------------------------------------------


def space_of(vary, base):
    """{name: values}, each value once, of the words of each --vary."""
    space = {}
    for name, *texts in vary:
        if name not in FIELDS:
            raise ae.AutoEncoderError(f"--vary: there is no {name}, only {', '.join(FIELDS)}")
        hps = [dataclasses.replace(base, **{name: _value(name, text)}) for text in texts]
        space[name] = tuple(dict.fromkeys(getattr(hp, name) for hp in hps))
        if not texts:
            raise ae.AutoEncoderError(f"--vary {name}: there are no values to try")
    return space


def _value(name, text):
    default = FIELDS[name].default
    try:
        if isinstance(default, tuple):
            return tuple(map(int, text.split()))
        return type(default)(text)
    except ValueError:
        return text  # HParams says that it is none


def main(args):
    """Searches for better hyperparameters: trains on training images, judges on validation images,
    and evaluates the best trial, and only that, on the test images. A search that was stopped goes
    on where it stopped."""
    data = ae.read_data_sets(args.data_dir)
    base = ae.hparams(args, data)
    space = space_of(args.vary, base) or SPACE
    if args.trials < 1:
        raise ae.AutoEncoderError(f"--trials must be a whole number from 1, not {args.trials}")
    if args.trial is not None:
        trial_hparams(args.trial, base, space)  # says if there is no such trial
        print(f"device: {ae.device()}\ntrial {args.trial}: ", end="")
        trial = run_trial(data, args.logdir, args.trial, base, space)
        print(f"trial {args.trial}: {trial}")
        return
    print(f"device: {ae.device()}")
    trials, evaluation = tune(data, args.logdir, args.trials, base, space)
    print(tuning_table(trials, space))
    print(f"trial {next(iter(trials))} on the test images: {evaluation}")
    print(f"all trials: tensorboard --logdir {ae.shown(args.logdir)}")


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.tuning", main.__doc__, ae.LOGDIR.parent / "tuning")
    ae.add_hparams(parser)
    group = parser.add_argument_group("search")
    how_many = "how many combinations to try, drawn by the seed (default: 20)"
    group.add_argument("--trials", type=int, default=20, metavar="N", help=how_many)
    alone = "run trial K alone, the first being 0"
    group.add_argument("--trial", type=int, metavar="K", help=alone)
    group.add_argument(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a hyperparameter and the values to try, a list of layers in quotes; may be repeated, "
        "and then replaces all of the default, which is "
        + " ".join(f"--vary {k} {' '.join(map(str, values))}" for k, values in SPACE.items()),
    )
    sys.exit(ae.run(main, parser, again="; the same command goes on"))
