"""Figures and sliders of AutoEncoder.ipynb that would be long in a cell."""

import inspect

import ipywidgets as widgets
import numpy as np
from IPython.core.pylabtools import print_figure
from IPython.display import HTML
from matplotlib.figure import Figure
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sklearn.manifold import TSNE

import autoencoder as ae


def show_source(*functions):
    """Returns the source of functions, to be shown by a notebook, where long lines are wrapped."""
    source = "\n\n".join(inspect.getsource(function) for function in functions)
    style = "white-space: pre-wrap; font-family: monospace"  # also in an exported HTML file
    formatter = HtmlFormatter(noclasses=True, nobackground=True, prestyles=style)
    return HTML(highlight(source, PythonLexer(), formatter))


def plot_Z(Z, labels):
    """Draws Z (n, Z_n) as points in a plane, by t-SNE if Z_n is not 2. labels: (n,). Returns a
    Figure."""
    if Z.shape[1] == 2:
        points, title = Z, "Z"
    else:
        # The default, init="pca", needs Z_n of at least 2.
        points, title = TSNE(init="random", random_state=0).fit_transform(Z), "t-SNE of Z"
    x, y = points.T
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    dots = axes.scatter(x, y, c=labels, s=4, cmap="tab10", vmin=-0.5, vmax=9.5)
    figure.colorbar(dots, ticks=range(10), label="digit")
    axes.set(xticks=[], yticks=[], title=title)
    return figure


def latent_sliders(sess, g, Z, low, high, latents):
    """Returns a slider for each of some latent variables, beside the image that is generated.

    Z: (n, Z_n), to start from, one for each digit; low, high: (Z_n,), ends of the sliders; latents: the
    indices of those that have a slider. The others are 0.
    """
    digit = widgets.Dropdown(options=range(len(Z)), description="digit")
    sliders = {
        i: widgets.FloatSlider(min=low[i], max=high[i], step=0.01, description=f"Z[{i}]")
        for i in latents
    }
    picture = widgets.Image(layout={"align_self": "flex-start"})

    def draw(_=None):
        values = np.zeros((1, Z.shape[1]))
        for i, slider in sliders.items():
            values[0, i] = slider.value
        G = sess.run(g.G, {g.Z: values})
        picture.value = print_figure(ae.plot_images(Figure(figsize=(3, 3)), G=G))  # PNG

    def start_from_digit(_=None):
        for i, slider in sliders.items():
            slider.unobserve_all("value")  # so that the image is drawn once
            slider.value = Z[digit.value, i]
            slider.observe(draw, "value")
        draw()

    digit.observe(start_from_digit, "value")
    start_from_digit()
    return widgets.HBox([widgets.VBox([digit, *sliders.values()]), picture])


def plot_threshold(images, scores, threshold):
    """Draws scores in ascending order, with a threshold, and the images just above and below it.

    images: (n, X_n); scores: (n,). Returns a Figure.
    """
    order = np.argsort(scores)
    first = np.searchsorted(scores[order], threshold, side="right")
    figure = Figure(figsize=(8, 4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[2, 1.6])
    axes = upper.subplots()
    axes.plot(scores[order])
    axes.axhline(threshold, color="gray")
    axes.axvspan(first, len(order), color="tab:red", alpha=0.2)
    axes.set_title(f"{len(order) - first} of {len(order)} images above {threshold:.2f}")
    axes.set_xlabel("images, the most abnormal last")
    axes.set_ylabel("score")
    above = order[first : first + 10]
    below = order[max(first - 10, 0) : first]
    ae.plot_images(lower, above=images[above], below=images[below])
    return figure


def plot_screened_picture(X, G, score, normal_scores, threshold):
    """Draws an image X, its reconstruction G and |G - X|, and its score among those of normal images.

    X, G: (1, X_n); normal_scores: (n,). Returns a Figure.
    """
    figure = Figure(figsize=(9, 2.3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    for part, (name, image) in zip(
        left.subfigures(1, 3), {"X": X, "G": G, "|G − X|": abs(G - X)}.items()
    ):
        ae.plot_images(part, **{name: image})
    axes = right.subplots()
    axes.hist(normal_scores, bins=100)
    axes.axvline(threshold, color="gray", label="threshold")
    axes.axvline(score, color="tab:red", label="this picture")
    axes.set_xlabel("score")
    axes.set_ylabel("validation images")
    axes.legend()
    return figure
