"""Repeats the READMEs' tables of results: python -m beyond.results

Trains both recipes with five seeds, and `tuned` with each of its choices undone. Prints two tables
in Markdown and draws .readme/live_latents.png. Takes about half an hour on two cores.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import autoencoder as ae
from beyond.common import one_line_progress
from beyond.pca import ACCURACY, compare, knn_accuracy

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
    with one_line_progress(), ae.start_session(g) as sess:
        history = ae.train(sess, g, data)
        comparison = compare(sess, g, data) if with_pca else None
        Z = sess.run(g.Z, {g.X: data.validation.images})
    return comparison, history[-1].validation_loss, (Z != 0).mean(axis=0)


def ablations():
    """{name: HParams}: `tuned`, and `tuned` with one of its choices as in the tutorial."""
    tutorial = ae.RECIPES["tutorial"]
    tuned = ae.RECIPES["tuned"]
    recipes = {"tuned": tuned}
    for field in dataclasses.fields(ae.HParams):
        value = getattr(tutorial, field.name)
        if getattr(tuned, field.name) != value:
            changed = dataclasses.replace(tuned, **{field.name: value})
            recipes[f"with --{field.name} {value}"] = changed
    return recipes


def mean_sd(values, digits=1):
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def picture(runs):
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    fires = 100 * np.array([fires for _, _, fires in runs["tutorial"]])
    image = left.imshow(np.where(fires > 0, fires, np.nan), cmap="viridis_r", vmin=0, vmax=100)
    left.set_facecolor("lightgray")
    left.set(xticks=range(fires.shape[1]), xlabel="latent of recipe tutorial (gray: dead)")
    left.set(yticks=range(len(fires)), ylabel="seed")
    figure.colorbar(image, ax=left, label="fires for % of validation images", shrink=0.8)
    scores, live = zip(*ON_TENSORFLOW_1)
    right.scatter(live, scores, marker="x", label="TensorFlow 1.14")
    for recipe in ("tutorial", "tuned"):
        found = [comparison["autoencoder"].evaluation for comparison, _, _ in runs[recipe]]
        right.scatter([e.live for e in found], [e.score for e in found], label=f"recipe {recipe}")
    right.set(xlabel="live latents of 20", ylabel="score", ylim=(0, None), xticks=range(8, 21, 2))
    right.legend(loc="lower left")
    return figure


def main():
    data = ae.read_data_sets()
    recipes = ablations() | {"tutorial": ae.RECIPES["tutorial"]}
    runs = {
        name: [run(dataclasses.replace(hp, seed=s), data, name in ae.RECIPES) for s in SEEDS]
        for name, hp in recipes.items()
    }
    print(f"| | score | live latents, by seed | {ACCURACY} |\n|---|---|---|---|")
    for recipe in ("tutorial", "tuned"):
        found = [comparison["autoencoder"] for comparison, _, _ in runs[recipe]]
        live = " ".join(str(c.evaluation.live) for c in found)
        accuracy = mean_sd([100 * c.accuracy for c in found], 2)
        score = mean_sd([c.evaluation.score for c in found])
        print(f"| recipe `{recipe}` | {score} | {live} | {accuracy}% |")
    pca = runs["tutorial"][0][0]["PCA"]
    score, live = pca.evaluation.score, pca.evaluation.live
    print(f"| PCA with {live} components | {score:.1f} | {live} | {pca.accuracy:.2%} |")
    pixels = [data.train.images, data.test.images, data.train.labels, data.test.labels]
    print(f"| the 784 pixels | | | {knn_accuracy(*pixels):.2%} |")
    print("\n| recipe | validation loss | live latents, by seed |\n|---|---|---|")
    for name, found in runs.items():
        live = " ".join(str((fires > 0).sum()) for _, _, fires in found)
        print(f"| {name} | {mean_sd([loss for _, loss, _ in found])} | {live} |")
    picture(runs).savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
