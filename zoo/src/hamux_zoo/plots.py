"""Figures of memories at work. A function draws on matplotlib axes, or makes them, and returns what it drew on."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

# Okabe & Ito, 2008: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


_STEPS = (0, 2, 4, 6, 8, 10, 20, 50, 100, 200, 500, 1000)


def show_image(image: Float[np.ndarray, "height width channels"], ax: Axes | None = None, title: str = "") -> Axes:
    """One image, floats in [0, 1], grey or in colour, without ticks."""
    ax = ax or plt.subplots(figsize=(1.4, 1.4))[1]
    ax.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    return ax


def energy_curves(energies: Sequence[np.ndarray], labels: Sequence[str], ax: Axes | None = None) -> Axes:
    """Energy against the step of the descent, one curve a retrieval; the steps beyond 10 on a logarithmic axis."""
    ax = ax or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    for curve, label, colour in zip(energies, labels, itertools.cycle(COLOURS), strict=False):
        ax.plot(np.arange(len(curve)), curve, color=colour, marker=".", label=label)
    ax.set_xscale("symlog", linthresh=10)
    last = max(map(len, energies)) - 1
    ax.set(xlabel="step", ylabel="energy E", xticks=[step for step in _STEPS if step <= last])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


class Row(NamedTuple):
    """One retrieval: its name, the image, the damaged image, and image and energy at every step, start to end."""

    label: str
    original: Float[np.ndarray, "height width channels"]
    corrupted: Float[np.ndarray, "height width channels"]
    trajectory: Float[np.ndarray, "steps_plus_1 height width channels"]
    energies: Float[np.ndarray, " steps_plus_1"]


def retrieval_strip(rows: Sequence[Row], shown: Sequence[int] = (1, 2, 4)) -> Figure:
    """A row for each retrieval: original, corrupted, the steps `shown`, result; beneath, the energy curves of all."""
    columns = len(shown) + 3
    figure = plt.figure(figsize=(1.3 * columns, 1.35 * len(rows) + 2.2), layout="constrained")
    grid = figure.add_gridspec(len(rows) + 1, columns, height_ratios=[*[1.0] * len(rows), 1.5])
    titles = ["original", "corrupted", *(f"step {step}" for step in shown), "result"]
    for i, row in enumerate(rows):
        steps = [row.trajectory[min(step, len(row.trajectory) - 1)] for step in (*shown, len(row.trajectory))]
        for j, (image, title) in enumerate(zip([row.original, row.corrupted, *steps], titles, strict=True)):
            ax = show_image(image, figure.add_subplot(grid[i, j]), title if i == 0 else "")
            if j == 0:
                ax.set_ylabel(row.label, fontsize=7)
    energy_curves([row.energies for row in rows], [row.label for row in rows], figure.add_subplot(grid[-1, :]))
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
