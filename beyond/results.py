"""Repeats the tables of both READMEs: python -m beyond.results TABLE

| TABLE                                | what it trains, and where the table is                       |
|--------------------------------------|--------------------------------------------------------------|
| recipes                              | both recipes, seeds 0 to 4; README. Draws                    |
|                                      | .readme/live_latents.png                                     |
| ablation                             | `tuned` with each of its choices undone, seeds 0 to 4        |
| fashion                              | both recipes on Fashion-MNIST, seeds 0 to 4                  |
| photographs                          | `tuned`; test digits that are made to look like photographs. |
|                                      | Draws .readme/screened.png                                   |
| tuning, tuning-2, tuning-3, pca,     | what a command of beyond/README.md trains                    |
| one-normal, one-abnormal, no-digits, |                                                              |
| scale                                |                                                              |
| speed                                | tests/benchmark.py; README                                   |

Run it in a fresh clone: the commands tuning and pca continue what is in their logdir.
"""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

import autoencoder as ae
from beyond.anomaly import detect, make_detector
from beyond.common import one_line_progress
from beyond.pca import ACCURACY, compare, knn_accuracy
from beyond.pictures import read_pictures
from beyond.screen import plot_screened

ROOT = Path(ae.__file__).resolve().parent
FASHION = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist
SEEDS = range(5)
# The tutorial's own cells on TensorFlow 1.14, run six times: score, latents that ever fire.
ON_TENSORFLOW_1 = [
    (537.50, 10), (511.95, 12), (535.83, 10), (406.00, 15), (601.51, 10), (393.53, 16),
]  # fmt: skip


def train(hp, data):
    """Trains without a logdir. Returns the session, the Graph and the history."""
    print(f"training {hp}", file=sys.stderr, flush=True)
    g = ae.build(hp)
    sess = ae.start_session(g)
    with one_line_progress():
        return sess, g, ae.train(sess, g, data)


def mean_sd(values, digits=1):
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


# ---- Recipes -------------------------------------------------------------------------------------


def recipes():
    runs = recipe_table(ae.read_data_sets())
    plot_live_latents(runs).savefig(ROOT / ".readme" / "live_latents.png", dpi=100)


def fashion():
    recipe_table(ae.read_data_sets(FASHION))


def recipe_table(data):
    """Prints the table of both recipes. Returns the Evaluation of each run on the test images, and
    how often each latent fires for validation images: {recipe: [(Evaluation, (Z_n,))]}."""
    print(f"| | score | live latents, by seed | {ACCURACY} |\n|---|---|---|---|")
    runs = {}
    for recipe in ("tutorial", "tuned"):
        runs[recipe], accuracies = [], []
        for seed in SEEDS:
            sess, g, _ = train(dataclasses.replace(ae.RECIPES[recipe], seed=seed), data)
            with sess:
                comparison = compare(sess, g, data)
                Z = sess.run(g.Z, {g.X: data.validation.images})
            found = comparison["autoencoder"]
            runs[recipe].append((found.evaluation, (Z != 0).mean(axis=0)))
            accuracies.append(100 * found.accuracy)
        evaluations = [evaluation for evaluation, _ in runs[recipe]]
        score = mean_sd([evaluation.score for evaluation in evaluations])
        live = " ".join(str(evaluation.live) for evaluation in evaluations)
        print(f"| recipe `{recipe}` | {score} | {live} | {mean_sd(accuracies, 2)}% |", flush=True)
    pca = comparison["PCA"]
    score, live = pca.evaluation.score, pca.evaluation.live
    print(f"| PCA with {live} components | {score:.1f} | {live} | {pca.accuracy:.2%} |")
    train_set, _, test_set, _ = data
    labels = train_set.labels, test_set.labels
    print(f"| the pixels | | | {knn_accuracy(train_set.pixels, test_set.pixels, *labels):.2%} |")
    return runs


def plot_live_latents(runs):
    """Draws how often each latent of recipe `tutorial` fires, and scores against live latents.
    runs: see recipe_table. Returns a Figure."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    fires = 100 * np.array([fires for _, fires in runs["tutorial"]])
    image = left.imshow(np.where(fires > 0, fires, np.nan), cmap="viridis_r", vmin=0, vmax=100)
    left.set_facecolor("lightgray")
    left.set(xticks=range(fires.shape[1]), xlabel="latent of recipe tutorial (gray: dead)")
    left.set(yticks=range(len(fires)), ylabel="seed")
    figure.colorbar(image, ax=left, label="fires for % of validation images", shrink=0.8)
    scores, live = zip(*ON_TENSORFLOW_1)
    right.scatter(live, scores, marker="x", label="TensorFlow 1.14")
    for recipe, found in runs.items():
        live = [evaluation.live for evaluation, _ in found]
        scores = [evaluation.score for evaluation, _ in found]
        right.scatter(live, scores, label=f"recipe {recipe}")
    right.set(xlabel="live latents of 20", ylabel="score", ylim=(0, None), xticks=range(8, 21, 2))
    right.legend(loc="lower left")
    return figure


# ---- Ablation ------------------------------------------------------------------------------------


def ablation():
    data = ae.read_data_sets()
    tutorial = ae.RECIPES["tutorial"]
    tuned = ae.RECIPES["tuned"]
    hps = {"`tuned`": tuned}
    for field in dataclasses.fields(ae.HParams):
        value = getattr(tutorial, field.name)
        if getattr(tuned, field.name) != value:
            undone = dataclasses.replace(tuned, **{field.name: value})
            hps[f"with `--{field.name} {value}`"] = undone
    hps["`tutorial`"] = tutorial
    print("| recipe | validation loss | live latents of validation images, by seed |")
    print("|---|---|---|")
    for name, hp in hps.items():
        epochs = []
        for seed in SEEDS:
            sess, _, history = train(dataclasses.replace(hp, seed=seed), data)
            sess.close()
            epochs.append(history[-1])
        live = " ".join(str(epoch.live) for epoch in epochs)
        loss = mean_sd([epoch.validation_loss for epoch in epochs])
        print(f"| {name} | {loss} | {live} |", flush=True)


# ---- Photographs ---------------------------------------------------------------------------------


def photographs():
    data = ae.read_data_sets()
    sess, g, _ = train(ae.RECIPES["tuned"], data)
    rng = np.random.default_rng(0)
    digits = data.test.pixels[:200]
    with sess, tempfile.TemporaryDirectory() as folder:
        for i, digit in enumerate(ae.as_2d(digits)):
            photograph(digit, rng).save(Path(folder, f"{i:03d}.jpg"), quality=90)
        detector = make_detector(sess, g, data)
        print("| 200 test digits | flagged | median score |\n|---|---|---|")
        images = {"as they are in MNIST": digits}
        for flags in ({}, {"invert": True}, {"center": True}, {"invert": True, "center": True}):
            name = " ".join(f"--{flag}" for flag in flags) or "no flags"
            pictures = read_pictures(Path(folder), 28, **flags)
            images[f"as photographs, {name}"] = pictures.images.reshape(len(digits), -1)
        for name, pixels in images.items():
            scores, flagged = detect(sess, g, pixels, detector)
            print(f"| {name} | {flagged.mean():.1%} | {np.median(scores):.2g} |")
        figure = plot_screened(sess, g, pixels, scores, flagged, np.argsort(-scores))
        figure.savefig(ROOT / ".readme" / "screened.png", dpi=100)  # of the last, with both flags


def photograph(digit, rng):
    """Returns a Pillow image that resembles the photograph of a digit (28, 28), bytes, on paper:
    dark on bright, turned, at some place, blurred, noisy and unevenly lit."""
    width, height = 400, 300
    side = int(rng.uniform(120, 210))
    ink = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    ink = ink.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True)
    place = rng.integers(width - ink.width + 1), rng.integers(height - ink.height + 1)
    sheet = Image.new("L", (width, height))
    sheet.paste(ink, tuple(map(int, place)))
    share = np.asarray(sheet.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 2)))) / 255
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(20, 80)
    paper = rng.uniform(170, 210) + slope * (np.cos(angle) * x + np.sin(angle) * y)
    grey = paper * (1 - share) + rng.uniform(30, 70) * share
    grey += rng.normal(0, rng.uniform(2, 8), grey.shape)
    return Image.fromarray(np.uint8(np.clip(grey, 0, 255)))


# ---- Command line --------------------------------------------------------------------------------


TABLES = {"recipes": recipes, "ablation": ablation, "fashion": fashion, "photographs": photographs}
BEST_CHOICES = (
    "--activation swish --Z_activation linear --init glorot --batch_size 50 --schedule linear"
)
COMMANDS = {
    "tuning": "-m beyond.tuning --trials 80",
    "tuning-2": f"-m beyond.tuning --trials 40 --logdir logs/tuning-2 {BEST_CHOICES}",
    "tuning-3": (
        f"-m beyond.tuning --trials 20 --logdir logs/tuning-3 {BEST_CHOICES} --weight_decay 0.1"
    ),
    "pca": "-m beyond.pca --recipe tuned",
    "one-normal": "-m beyond.anomaly --recipe tuned --seed 0 1 2",
    "one-abnormal": "-m beyond.anomaly --recipe tuned --seed 0 1 2 --experiment one-abnormal",
    "no-digits": "-m beyond.anomaly --recipe tuned --seed 0 1 2 --experiment no-digits",
    "scale": "-m beyond.scale",
    "speed": "tests/benchmark.py",
}
MINUTES = {
    "recipes": 6, "ablation": 20, "fashion": 6, "photographs": 1, "tuning": 25, "tuning-2": 10,
    "tuning-3": 8, "pca": 5, "one-normal": 4, "one-abnormal": 15, "no-digits": 2, "scale": 6,
    "speed": 10,
}  # fmt: skip


def main(args):
    print(f"{args.table}: about {MINUTES[args.table]} minutes on two cores", flush=True)
    if args.table in TABLES:
        TABLES[args.table]()
    else:
        command = [sys.executable, *COMMANDS[args.table].split()]
        sys.exit(subprocess.run(command, cwd=ROOT).returncode)


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.results", "Repeats a table of the READMEs.")
    parser.add_argument(
        "table", choices=MINUTES, metavar="TABLE", help=f"one of {', '.join(MINUTES)}"
    )
    sys.exit(ae.run_command(main, parser))
