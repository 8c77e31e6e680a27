"""Tunes the hyperparameters with Optuna, by the eight steps that the tutorial describes but does not
implement: the validation images choose, and the best network is evaluated on the test images, once.

A trial is a training with hyperparameters that Optuna's TPE sampler suggests: at random in the
first ten trials, and then by the results of the earlier ones. Once five trials are complete, later
ones can be pruned, that is, stopped early: after the second or a later epoch, if the lowest validation
loss so far is above the median of the complete trials after as many epochs.
"""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import autoencoder as ae
from beyond.common import load_run, train_with_bar

# The hyperparameters to search. All others have the recipe's values.
SPACE = {
    "activation": CategoricalDistribution(["relu", "swish"]),
    "Z_activation": CategoricalDistribution(["relu", "linear"]),
    "init": CategoricalDistribution(["normal", "he", "glorot"]),
    "centering": CategoricalDistribution(["none", "mean"]),
    "batch_size": CategoricalDistribution([50, 100]),
    "learning_rate": FloatDistribution(5e-4, 1e-2, log=True),
    "schedule": CategoricalDistribution(["constant", "linear", "cosine"]),
    "weight_decay": FloatDistribution(0.01, 0.3, log=True),
}

# A trial whose process was stopped is in another state. It does not count: another replaces it.
FINISHED = [TrialState.COMPLETE, TrialState.PRUNED]


def tune(data, logdir, trials=20, base=ae.RECIPES["tutorial"], space=SPACE):
    """Runs trials until the study in logdir has as many that are complete or pruned.

    data: DataSets; base: HParams, for the hyperparameters that are not in `space`; space: {name of a
    hyperparameter: optuna distribution}.
    Returns the optuna.Study. Raises AutoEncoderError if the space is empty, if the study in logdir
    was made with other images, another `base` or another space, if its journal ends in half a line, or
    if no trial is complete.
    """
    ae.require(space, "there is nothing to search: all hyperparameters are given")
    study = open_study(data, logdir, base, space)
    while len(study.get_trials(states=FINISHED)) < trials:
        trial = study.ask(space)
        print(f"trial {trial.number}: {as_flags(trial.params)}", flush=True)
        try:
            loss = validation_loss(trial, data, trial_dir(logdir, trial), base)
            study.tell(trial, loss)
            best = study.best_trial
            print(f"validation loss: {loss:.3f}; best: trial {best.number}, {best.value:.3f}")
        except (optuna.TrialPruned, ae.Diverged) as e:
            study.tell(trial, state=TrialState.PRUNED)
            print(e)
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise ae.AutoEncoderError("no trial is complete: all diverged, or --trials is too small")
    return study


def open_study(data, logdir, base, space):
    """Returns the optuna.Study that is kept in logdir. Creates it if there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    Path(logdir).mkdir(parents=True, exist_ok=True)
    journal = Path(logdir, "journal.log")
    if journal.exists() and journal.read_bytes()[-1:] not in (b"", b"\n"):
        # A full disk leaves that. Optuna would append the next line to it.
        hint = "if no other process is writing to it, delete that line in an editor"
        raise ae.AutoEncoderError(f"the last line of {journal} is incomplete: {hint}")
    storage = JournalStorage(JournalFileBackend(str(journal)))
    # A search by one process without a stop is the same each time. Processes that join it have no
    # seed, because with the same one they would draw the same trials.
    try:
        study = optuna.create_study(storage=storage, study_name="tuning")
        seed = base.seed % 2**32  # the range of NumPy's RandomState, which the sampler has
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name="tuning")
        seed = None
    study.sampler = optuna.samplers.TPESampler(constant_liar=True, seed=seed)
    study.pruner = optuna.pruners.MedianPruner(n_warmup_steps=2)
    to_json = optuna.distributions.distribution_to_json
    searched = {name: to_json(distribution) for name, distribution in space.items()}
    # Not the path of the images, because they may be moved.
    images = {"images": ae.images_checksum(data)}
    # Through JSON, as the journal: tuples become lists.
    settings = json.loads(json.dumps(dataclasses.asdict(base) | searched | images))
    earlier = study.user_attrs.get("settings", settings)
    changed = [name for name in earlier | settings if earlier.get(name) != settings.get(name)]
    found = f"{logdir} has a search with other {', '.join(changed)}"
    ae.require(not changed, f"{found}: use another logdir")
    study.set_user_attr("settings", settings)
    return study


def validation_loss(trial, data, logdir, base):
    """Trains with the hyperparameters of a trial. Returns the validation loss after the last epoch.
    Raises optuna.TrialPruned if the pruner stops the trial, and Diverged if the loss is not finite."""

    def report(epoch):
        trial.report(epoch.validation_loss, epoch.epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {epoch.epoch}")

    net = ae.build(dataclasses.replace(base, **trial.params))
    with ae.start_session(net) as sess:
        history = train_with_bar(sess, net, data, logdir, report)
    return history[-1].validation_loss


def as_flags(params):
    """Returns hyperparameters {name: value} as flags of autoencoder.py, with four digits."""
    texts = []
    for name, value in params.items():
        text = f"{value:.4g}" if isinstance(value, float) else value
        texts.append(f"--{name} {text}")
    return " ".join(texts)


def trial_dir(logdir, trial):
    return Path(logdir, f"trial-{trial.number:03d}")


def main(args):
    """Searches for better hyperparameters, judged on validation images; then evaluates the best
    trial, and only that, on the test images. Continues a search that was stopped. A hyperparameter
    that is given as a flag is not searched."""
    data = ae.read_data_sets(args.data_dir)
    space = {name: values for name, values in SPACE.items() if name not in args}
    print(f"device: {ae.device()}")
    study = tune(data, args.logdir, args.trials, ae.hparams_from_args(args, data), space)
    pruned = len(study.get_trials(states=[TrialState.PRUNED]))
    print(f"pruned or diverged: {pruned} of {len(study.get_trials(states=FINISHED))} trials")
    best = study.best_trial
    flags = as_flags(best.params)
    print(f"best: trial {best.number}, validation loss {best.value:.3f}, {flags}")
    with load_run(trial_dir(args.logdir, best), args.data_dir) as (sess, net, data):
        evaluation = ae.evaluate(sess, net, data.test.images)
    print(f"trial {best.number} on the test images: {evaluation}")
    logdir = shlex.quote(str(args.logdir))
    print(f"all trials, in the tab HParams: tensorboard --logdir {logdir}")


if __name__ == "__main__":
    example = "python -m beyond.tuning --trials 80"
    parser = ae.Parser("python -m beyond.tuning", main.__doc__, example)
    parser.add_data_dir()
    parser.add_logdir("logs/tuning", "folder of the search")
    ae.add_hparams(parser)
    help = "trials, with those of earlier commands (default: %(default)s)"
    parser.add_argument("--trials", type=int, default=20, metavar="N", help=help)
    sys.exit(ae.run_command(main, parser, hint="; the same command continues"))
