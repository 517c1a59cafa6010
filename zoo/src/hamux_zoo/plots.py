"""Figures of memories at work. A function draws on matplotlib axes, or makes them, and returns what it drew on."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe & Ito, 2008: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def show_image(image: Float[np.ndarray, "height width channels"], ax: Axes | None = None, title: str = "") -> Axes:
    """One image, floats in [0, 1], grey or in colour, without ticks."""
    ax = ax or plt.subplots(figsize=(1.4, 1.4))[1]
    ax.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    return ax


def energy_curves(energies: Sequence[np.ndarray], labels: Sequence[str], ax: Axes | None = None) -> Axes:
    """Energy against the step of the descent, one curve a retrieval."""
    ax = ax or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    for curve, label, colour in zip(energies, labels, COLOURS, strict=False):
        ax.plot(np.arange(len(curve)), curve, color=colour, marker=".", label=label)
    ax.set(xlabel="step", ylabel="energy E")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def retrieval_strip(
    originals: Sequence[np.ndarray],
    corrupted: Sequence[np.ndarray],
    trajectories: Sequence[Float[np.ndarray, "steps_plus_1 height width channels"]],
    energies: Sequence[np.ndarray],
    labels: Sequence[str],
    shown: Sequence[int] = (1, 2, 4),
) -> Figure:
    """A row for each retrieval: original, corrupted, some steps, result; beneath, the energy curves of all.

    A trajectory starts with the state after 0 steps and ends with the result; `shown` are the steps drawn between.
    """
    rows, columns = len(originals), len(shown) + 3
    figure = plt.figure(figsize=(1.3 * columns, 1.35 * rows + 2.4), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[*[1.0] * rows, 1.7])
    for row, (original, cue, path, label) in enumerate(zip(originals, corrupted, trajectories, labels, strict=True)):
        images = [original, cue, *(path[min(step, len(path) - 1)] for step in shown), path[-1]]
        titles = ["original", "corrupted", *(f"step {step}" for step in shown), "result"]
        for column, (image, title) in enumerate(zip(images, titles, strict=True)):
            ax = show_image(image, figure.add_subplot(grid[row, column]), title if row == 0 else "")
            if column == 0:
                ax.set_ylabel(label, fontsize=8)
    energy_curves(energies, labels, figure.add_subplot(grid[rows, :]))
    return figure


def memories(images: Float[np.ndarray, "count height width channels"], columns: int = 16) -> Axes:
    """Memories side by side on one axes, each stretched to its own range."""
    count, height, width, channels = images.shape
    low, high = images.min(axis=(1, 2, 3), keepdims=True), images.max(axis=(1, 2, 3), keepdims=True)
    images = (images - low) / np.maximum(high - low, 1e-12)
    rows = -(-count // columns)
    padded = np.ones((rows * columns, height + 1, width + 1, channels))
    padded[:count, :-1, :-1] = images
    sheet = padded.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    ax = plt.subplots(figsize=(0.5 * columns, 0.5 * rows), layout="constrained")[1]
    return show_image(sheet.reshape(rows * (height + 1), columns * (width + 1), channels), ax)
