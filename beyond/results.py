"""Repeats the READMEs' tables of results: python -m beyond.results

Trains both recipes with five seeds, and `tuned` with each of its choices taken back. Prints two
tables in Markdown and draws .readme/live_latents.png. Takes about half an hour on two cores.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import autoencoder as ae
from beyond.pca import ACCURACY, compare, knn_accuracy, on_one_line

SEEDS = range(5)
PICTURE = Path(ae.__file__).resolve().parent / ".readme" / "live_latents.png"
# The tutorial's own cells on TensorFlow 1.14, run six times: score, latents that ever fire.
ON_TENSORFLOW_1 = [
    (537.50, 10), (511.95, 12), (535.83, 10), (406.00, 15), (601.51, 10), (393.53, 16),
]  # fmt: skip


def run(hp, data, with_pca):
    """-> compare(...), last validation loss, how often each latent fires for validation images"""
    print(f"training {hp}", file=sys.stderr, flush=True)
    g = ae.build(hp)
    with on_one_line(), ae.start(g) as sess:
        history = ae.train(sess, g, data)
        comparison = compare(sess, g, data) if with_pca else None
        Z = sess.run(g.Z, {g.X: data.validation.images})
    return comparison, history[-1].validation_loss, (Z != 0).mean(axis=0)


def choices_taken_back():
    """{name: HParams}: `tuned`, and `tuned` with one of its choices as the tutorial has it."""
    seed, tuned = ae.RECIPES["seed"], ae.RECIPES["tuned"]
    recipes = {"tuned": tuned}
    for field in dataclasses.fields(ae.HParams):
        value = getattr(seed, field.name)
        if getattr(tuned, field.name) != value:
            changed = dataclasses.replace(tuned, **{field.name: value})
            recipes[f"with --{field.name} {value}"] = changed
    return recipes


def mean_sd(values, digits=1):
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def picture(runs):
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    fires = 100 * np.array([fires for _, _, fires in runs["seed"]])
    image = left.imshow(np.where(fires > 0, fires, np.nan), cmap="viridis_r", vmin=0, vmax=100)
    left.set_facecolor("lightgray")
    left.set(xticks=range(fires.shape[1]), xlabel="latent of recipe seed (gray: dead)")
    left.set(yticks=range(len(fires)), ylabel="seed")
    figure.colorbar(image, ax=left, label="fires for % of validation images", shrink=0.8)
    scores, live = zip(*ON_TENSORFLOW_1)
    right.scatter(live, scores, marker="x", label="TensorFlow 1.14")
    for recipe in ("seed", "tuned"):
        of = [comparison["autoencoder"].evaluation for comparison, _, _ in runs[recipe]]
        right.scatter([e.live for e in of], [e.score for e in of], label=f"recipe {recipe}")
    right.set(xlabel="live latents of 20", ylabel="score", ylim=(0, None), xticks=range(8, 21, 2))
    right.legend(loc="lower left")
    return figure


def main():
    data = ae.read_data_sets()
    recipes = choices_taken_back() | {"seed": ae.RECIPES["seed"]}
    runs = {
        name: [run(dataclasses.replace(hp, seed=s), data, name in ae.RECIPES) for s in SEEDS]
        for name, hp in recipes.items()
    }
    print(f"| | score | live latents, by seed | {ACCURACY} |\n|---|---|---|---|")
    for recipe in ("seed", "tuned"):
        of = [comparison["autoencoder"] for comparison, _, _ in runs[recipe]]
        live = " ".join(str(c.evaluation.live) for c in of)
        accuracy = mean_sd([100 * c.accuracy for c in of], 2)
        score = mean_sd([c.evaluation.score for c in of])
        print(f"| recipe `{recipe}` | {score} | {live} | {accuracy}% |")
    of_pca = runs["seed"][0][0]["PCA"]
    score, live = of_pca.evaluation.score, of_pca.evaluation.live
    print(f"| PCA with {live} components | {score:.1f} | {live} | {of_pca.accuracy:.2%} |")
    pixels = [data.train.images, data.test.images, data.train.labels, data.test.labels]
    print(f"| the 784 pixels themselves | | | {knn_accuracy(*pixels):.2%} |")
    print("\n| recipe | validation loss | live latents, by seed |\n|---|---|---|")
    for name, of in runs.items():
        live = " ".join(str((fires > 0).sum()) for _, _, fires in of)
        print(f"| {name} | {mean_sd([loss for _, loss, _ in of])} | {live} |")
    picture(runs).savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
