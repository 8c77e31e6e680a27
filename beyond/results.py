"""Repeats those tables of the READMEs that no other command prints.

    python -m beyond.results TABLE

| TABLE       | what it trains, and what it draws                                                   |
|-------------|-------------------------------------------------------------------------------------|
| recipes     | both recipes, seeds 0 to 4; .readme/live_latents.png                                |
| ablation    | `tuned` without each of its choices, `tutorial` with each, seeds 0 to 4             |
| fashion     | both recipes on Fashion-MNIST, seeds 0 to 4                                         |
| photographs | `tuned`; test digits that are made to look like photographs; .readme/screened.png   |
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

import autoencoder as ae
from beyond.anomaly import detect, make_detector
from beyond.common import train_with_bar
from beyond.pca import ACCURACY, compare, knn_accuracy
from beyond.pictures import as_images, read_pictures
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
    g = ae.build(hp)
    sess = ae.start_session(g)
    history = train_with_bar(sess, g, data)
    return sess, g, history


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
        runs[recipe] = []
        accuracies = []
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
    images = data.train.images, data.test.images
    labels = data.train.labels, data.test.labels
    print(f"| the pixels | | | {knn_accuracy(*images, *labels):.2%} |")
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
    print("| choice | `tuned` without it | `tutorial` with it |\n|---|---|---|")
    print(f"| none | {losses(tuned, data)} | {losses(tutorial, data)} |", flush=True)
    for field in dataclasses.fields(ae.HParams):
        chosen = {field.name: getattr(tuned, field.name)}
        undone = {field.name: getattr(tutorial, field.name)}
        if chosen != undone:
            without = losses(dataclasses.replace(tuned, **undone), data)
            alone = losses(dataclasses.replace(tutorial, **chosen), data)
            choice = f"`--{field.name} {chosen[field.name]}`"
            print(f"| {choice} | {without} | {alone} |", flush=True)
    # The learning rate of `tuned` was found for one that falls.
    slower = dataclasses.replace(tuned, schedule="constant", learning_rate=0.001)
    print(f"| learning rate and its schedule | {losses(slower, data)} | |")


def losses(hp, data):
    """Returns mean and standard deviation of the validation loss over the seeds, as text."""
    found = []
    for seed in SEEDS:
        sess, _, history = train(dataclasses.replace(hp, seed=seed), data)
        sess.close()
        found.append(history[-1].validation_loss)
    return mean_sd(found)


# ---- Photographs ---------------------------------------------------------------------------------


def photographs():
    data = ae.read_data_sets()
    sess, g, _ = train(ae.RECIPES["tuned"], data)
    rng = np.random.default_rng(0)
    digits = data.test.images[:200]
    with sess, tempfile.TemporaryDirectory() as folder:
        for i, digit in enumerate(ae.as_2d(digits)):
            photograph(digit, rng).save(Path(folder, f"{i:03d}.jpg"), quality=90)
        detector = make_detector(sess, g, data)
        print("| 200 test digits | flagged | median score |\n|---|---|---|")
        images = {"as they are in MNIST": digits}
        for flags in ({}, {"invert": True}, {"center": True}, {"invert": True, "center": True}):
            name = " ".join(f"--{flag}" for flag in flags) or "no flags"
            pictures = read_pictures(Path(folder), 28, **flags)
            images[f"as photographs, {name}"] = as_images(pictures.images)
        for name, X in images.items():
            all_scores, flagged = detect(sess, g, X, detector)
            scores = all_scores[detector.score]
            print(f"| {name} | {flagged.mean():.1%} | {np.median(scores):.1f} |")
        figure = plot_screened(sess, g, X, scores, flagged, pictures.files)
        figure.savefig(ROOT / ".readme" / "screened.png", dpi=100)  # of the last, with both flags


def photograph(digit, rng):
    """Returns a Pillow image that resembles the photograph of a digit (28, 28) on paper: dark on
    bright, turned, at some place, blurred, noisy and unevenly lit."""
    width, height = 400, 300
    side = int(rng.uniform(120, 210))
    ink = Image.fromarray(np.uint8(np.round(255 * digit)))
    ink = ink.resize((side, side), Image.Resampling.BICUBIC)
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
MINUTES = {"recipes": 6, "ablation": 40, "fashion": 6, "photographs": 1}


def main(args):
    """Repeats a table of the READMEs."""
    print(f"{args.table}: about {MINUTES[args.table]} minutes on two cores", flush=True)
    TABLES[args.table]()


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.results", main.__doc__)
    help = f"one of {', '.join(TABLES)}"
    parser.add_argument("table", choices=TABLES, metavar="TABLE", help=help)
    sys.exit(ae.run_command(main, parser))
