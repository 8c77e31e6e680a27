"""README's results: trains both recipes over five seeds, and tuned with each of its choices undone.

    python tests/results.py

Prints two tables in Markdown and draws .readme/live_latents.png. Takes about half an hour on two cores.
"""

import contextlib
import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import autoencoder as ae  # noqa: E402

SEEDS = range(5)
# The tutorial's own cells on TensorFlow 1.14, run six times: score, latents that ever fire.
ON_TENSORFLOW_1 = [
    (537.50, 10), (511.95, 12), (535.83, 10), (406.00, 15), (601.51, 10), (393.53, 16),
]  # fmt: skip


def run(hp, data, with_pca):
    """-> compare(...), last validation loss, how often each latent fires for validation images"""
    print(f"training {hp}", file=sys.stderr, flush=True)
    g = ae.build(hp)
    with contextlib.redirect_stdout(io.StringIO()), ae.start(g) as sess:
        history = ae.train(sess, g, data)
        comparison = ae.compare(sess, g, data) if with_pca else None
        Z = sess.run(g.Z, {g.X: data.validation.images})
    return comparison, history[-1].validation_loss, (Z != 0).mean(axis=0)


def mean_sd(values, digits=1):
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def row(name, evaluations, accuracies):
    live = " ".join(str(e.live) for e in evaluations)
    score = mean_sd([e.score for e in evaluations])
    return f"| {name} | {score} | {live} | {mean_sd([100 * a for a in accuracies], 2)}% |"


def picture(runs):
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    fires = 100 * np.array([fires for _, _, fires in runs["seed"]])
    image = left.imshow(np.where(fires > 0, fires, np.nan), cmap="viridis_r", vmin=0, vmax=100)
    left.set_facecolor("lightgray")
    left.set(xticks=range(20), yticks=SEEDS, xlabel="latent of recipe seed (gray: dead)", ylabel="seed")  # fmt: skip
    figure.colorbar(image, ax=left, label="fires for % of validation images", shrink=0.8)
    scores, live = zip(*ON_TENSORFLOW_1)
    right.scatter(live, scores, marker="x", label="TensorFlow 1.14")
    for recipe in ("seed", "tuned"):
        of = [comparison["autoencoder"].evaluation for comparison, _, _ in runs[recipe]]
        right.scatter([e.live for e in of], [e.score for e in of], label=f"recipe {recipe}")
    right.set(xlabel="live latents of 20", ylabel="score", ylim=(0, None), xticks=range(8, 21, 2))
    right.legend(loc="lower left")
    figure.savefig(ROOT / ".readme" / "live_latents.png", dpi=100)


def main():
    data = ae.read_data_sets()
    seed, tuned = ae.RECIPES["seed"], ae.RECIPES["tuned"]
    recipes = dict(ae.RECIPES)
    for field in dataclasses.fields(ae.HParams):
        name, default = field.name, getattr(seed, field.name)
        if getattr(tuned, name) != default:
            recipes[f"tuned, but {name} {default}"] = dataclasses.replace(tuned, **{name: default})
    runs = {
        name: [run(dataclasses.replace(hp, seed=s), data, name in ae.RECIPES) for s in SEEDS]
        for name, hp in recipes.items()
    }
    print("| | score | live latents | digits named by 5 nearest codes |\n|---|---|---|---|")
    for recipe in ("seed", "tuned"):
        of = [comparison["autoencoder"] for comparison, _, _ in runs[recipe]]
        print(row(f"recipe {recipe}", [c.evaluation for c in of], [c.accuracy for c in of]))
    pca = runs["seed"][0][0]["PCA"]
    print(f"| PCA | {pca.evaluation.score:.1f} | {pca.evaluation.live} | {pca.accuracy:.2%} |")
    raw = [data.train.images, data.test.images, data.train.labels, data.test.labels]
    print(f"| raw pixels | | | {ae.knn_accuracy(*raw):.2%} |")
    print("\n| recipe | validation loss | live latents |\n|---|---|---|")
    for name in [*list(recipes)[1:], "seed"]:
        loss = mean_sd([loss for _, loss, _ in runs[name]])
        live = " ".join(str(int((fires > 0).sum())) for _, _, fires in runs[name])
        print(f"| {name} | {loss} | {live} |")
    picture(runs)


if __name__ == "__main__":
    main()
