"""Figures of memories at work.

Each function draws on the matplotlib axes that it is given, or makes some, and returns them.
"""

import collections
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, SupportsFloat, TypedDict

import matplotlib.pyplot as plt
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

import hamux

# Okabe & Ito, 2008: colour-blind readers can tell them apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
Image = Float[np.ndarray, "height width channels"]
Images = Float[np.ndarray, "count height width channels"]
_STEPS = (0, 2, 4, 6, 8, 10, 20, 50, 100, 200, 500, 1000)


def show_image(image: Image, ax: Axes | None = None, title: str = "") -> Axes:
    """Draws one image, floats in [0, 1], grey or in colour, without ticks."""
    ax = ax or plt.subplots(figsize=(1.4, 1.4))[1]
    ax.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    return ax


def energy_curves(energies: Sequence[np.ndarray], labels: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draws energy against the step of the descent, one curve for each recall.

    Beyond 20 steps the axis is logarithmic from step 10 on.
    """
    ax = ax or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    ax.set_prop_cycle(color=COLOURS)
    for curve, label in zip(energies, labels, strict=False):
        ax.plot(curve, marker=".", label=label)
    return _over_steps(ax, max(map(len, energies)) - 1)


def energy_components(components: Mapping[str, Float[np.ndarray, " steps_plus_1"]], ax: Axes | None = None) -> Axes:
    """Draws the parts of the energy, stacked, against the step, and their sum.

    Parts above 0 are stacked upwards and parts below 0 downwards. `jax.vmap(ham.energy_tree)` gives the parts along a
    trajectory.
    """
    ax = ax or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    parts = np.stack([np.asarray(part) for part in components.values()])
    steps = np.arange(parts.shape[1])
    hatches = [i // len(COLOURS) * "//" for i in range(len(parts))]
    for half, labels in ((np.maximum(parts, 0), list(components)), (np.minimum(parts, 0), [])):
        ax.stackplot(steps, half, labels=labels, colors=COLOURS, hatch=hatches, alpha=0.6, linewidth=0)
    ax.plot(steps, parts.sum(axis=0), color="black", label="E")
    return _over_steps(ax, steps[-1])


def _over_steps(ax: Axes, last: int) -> Axes:
    if last > 20:
        ax.set_xscale("symlog", linthresh=10)
    ax.set(xlabel="step", ylabel="energy E", xticks=[step for step in _STEPS if step <= last])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    return _finish(ax)


def _finish(ax: Axes) -> Axes:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def basin_curves(
    levels: Float[np.ndarray, " levels"],
    shares: Mapping[str, Float[np.ndarray, " levels"]],
    ax: Axes | None = None,
    corruption: str = "corruption",
) -> Axes:
    """Draws the share of corrupted copies that come back against the level of corruption, one curve for each memory."""
    ax = ax or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    ax.set_prop_cycle(color=COLOURS)
    for label, share in shares.items():
        ax.plot(levels, share, marker=".", label=label)
    ax.set(xlabel=corruption, ylabel="share that comes back", ylim=(-0.05, 1.05))
    return _finish(ax)


def landscape(
    a: Float[np.ndarray, " columns"],
    b: Float[np.ndarray, " rows"],
    energies: Float[np.ndarray, "rows columns"],
    paths: Sequence[Float[np.ndarray, "points 2"]] = (),
    ax: Axes | None = None,
    labels: tuple[str, str] = ("a", "b"),
) -> Axes:
    """Draws energies over a plane as contours, and paths on it from their starts, ○, to their ends, ●.

    `hamux.energy_plane` gives the energies, and `hamux.plane_coordinates` turns trajectories into paths.
    """
    ax = ax or plt.subplots(figsize=(4.4, 3.6), layout="constrained")[1]
    filled = ax.contourf(a, b, energies, levels=30, cmap="cividis")
    ax.contour(a, b, energies, levels=30, colors="white", linewidths=0.3)
    ax.figure.colorbar(filled, ax=ax, label="energy E")
    for path in paths:
        ax.plot(*path.T, color=COLOURS[1], linewidth=1.2)
        ax.plot(*path[0], marker="o", color=COLOURS[1], markerfacecolor="white", markersize=5)
        ax.plot(*path[-1], marker="o", color=COLOURS[1], markersize=5)
    ax.set(xlabel=labels[0], ylabel=labels[1], xlim=(a[0], a[-1]), ylim=(b[0], b[-1]))
    return ax


def confusions(
    labels: Int[np.ndarray, " count"], found: Int[np.ndarray, " count"], names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draws how often an image of each class, a row, is found to be of each, a column, in percent of the row."""
    count = len(names)
    ax = ax or plt.subplots(figsize=(1.8 + 0.4 * count, 1.2 + 0.4 * count), layout="constrained")[1]
    table = np.bincount(count * np.asarray(labels) + np.asarray(found), minlength=count**2).reshape(count, count)
    shares = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    if count <= 30:
        for row, column in zip(*np.nonzero(table), strict=True):
            share = shares[row, column]
            colour = "black" if share > 50 else "white"
            ax.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    ax.set(xlabel="found", ylabel="class", xticks=range(count), yticks=range(count), yticklabels=names)
    ax.set_xticklabels(names, rotation=90)
    return ax


class Row(NamedTuple):
    """One recall: its name, the image, the damaged image, and image and energy at every step from start to end."""

    label: str
    original: Image
    corrupted: Image
    trajectory: Images
    energies: Float[np.ndarray, " steps_plus_1"]


def recall_strip(rows: Sequence[Row], shown: Sequence[int] = (1, 2, 4, 8, 16), result: bool = True) -> Figure:
    """Draws a row for each recall: original, corrupted, the steps `shown`, and the `result`; below, all energies.

    With the result, steps that no recall takes are left out.
    """
    if result:
        shown = [step for step in shown if step < max(len(row.trajectory) for row in rows)]
    titles = ["original", "corrupted", *(f"step {step}" for step in shown)] + (["result"] if result else [])
    figure = plt.figure(figsize=(1.3 * len(titles), 1.35 * len(rows) + 2.2), layout="constrained")
    grid = figure.add_gridspec(len(rows) + 1, len(titles), height_ratios=[*[1.0] * len(rows), 1.5])
    for i, row in enumerate(rows):
        last = len(row.trajectory) - 1
        steps = [row.trajectory[min(step, last)] for step in ([*shown, last] if result else shown)]
        axes = [figure.add_subplot(grid[i, j]) for j in range(len(titles))]
        image_rows({row.label: [row.original, row.corrupted, *steps]}, titles if i == 0 else None, [axes])
    energy_curves([row.energies for row in rows], [row.label for row in rows], figure.add_subplot(grid[-1, :]))
    return figure


def recall_gif(
    file: str | os.PathLike[str],
    trajectory: Images,
    energies: Float[np.ndarray, " steps_plus_1"],
    frames_per_second: int = 6,
) -> None:
    """Writes a recall as an animated GIF: the image at every step beside the energy so far."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.2), layout="constrained", width_ratios=[1, 1.6])
    show_image(trajectory[0], left)
    (picture,) = left.images
    (curve,) = right.plot(np.arange(len(energies)), energies, color=COLOURS[0], marker=".")
    _over_steps(right, len(energies) - 1)
    title = left.set_title("step 0", fontsize=9)

    def show(step: int) -> list[Artist]:
        picture.set_data(np.clip(trajectory[step], 0, 1).squeeze())
        curve.set_data(np.arange(step + 1), energies[: step + 1])
        title.set_text(f"step {step}")
        return [picture, curve, title]

    # The last frame stays for a second.
    frames = [*range(len(trajectory)), *[len(trajectory) - 1] * frames_per_second]
    FuncAnimation(figure, show, frames).save(os.fspath(file), PillowWriter(fps=frames_per_second))
    plt.close(figure)


def training_curves(lines: Sequence[Mapping[str, float]], axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draws the loss and each metric of a training's log, as trained and as validated, each on axes of its own."""
    metrics = [name for name in lines[-1] if f"validation_{name}" in lines[-1]] or ["loss"]
    if axes is None:
        size = (3.6 * len(metrics), 2.8)
        axes = list(plt.subplots(1, len(metrics), figsize=size, layout="constrained", squeeze=False)[1][0])
    for ax, metric in zip(axes, metrics, strict=True):
        ax.set_prop_cycle(color=COLOURS)
        for name, label in {metric: "training", f"validation_{metric}": "validation"}.items():
            if points := [(line["step"], line[name]) for line in lines if name in line]:
                ax.plot(*zip(*points, strict=True), marker=".", label=label)
        ax.set(xlabel="step", ylabel=metric.replace("_", " "))
        _finish(ax)
    return axes


def image_rows(
    rows: Mapping[str, Images | Sequence[Image]],
    titles: Sequence[str] | None = None,
    axes: Sequence[Sequence[Axes]] | None = None,
) -> Sequence[Sequence[Axes]]:
    """Draws rows of images with a name for each row and a title for each column."""
    columns = min(map(len, rows.values()))
    if axes is None:
        size = (1.3 * columns, 1.4 * len(rows))
        axes = plt.subplots(len(rows), columns, figsize=size, layout="constrained", squeeze=False)[1].tolist()
    for i, (label, images) in enumerate(rows.items()):
        for ax, image, title in zip(axes[i], images, titles or [""] * columns, strict=True):
            show_image(image, ax, title if i == 0 else "")
        axes[i][0].set_ylabel(label, fontsize=7)
    return axes


def save(drawn: Axes | Figure, file: str | os.PathLike[str]) -> None:
    """Writes a figure, or that of some axes, to a file, and closes it; a name such as .svg or .pdf makes vectors."""
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    assert figure is not None
    figure.savefig(os.fspath(file), dpi=120)
    plt.close(figure)


def draw_run(
    path: Path, lines: Sequence[Mapping[str, float]], rows: Mapping[str, Images], titles: Sequence[str]
) -> None:
    """Draws curves.png from the log of a run and samples.png from rows of examples into the run's folder."""
    save(training_curves(lines)[0], path / "curves.png")
    save(image_rows(rows, titles)[0][0], path / "samples.png")


def stretched(images: Images) -> Images:
    """Returns each image with its own range stretched to [0, 1]."""
    low, high = images.min(axis=(1, 2, 3), keepdims=True), images.max(axis=(1, 2, 3), keepdims=True)
    return np.asarray((images - low) / np.maximum(high - low, 1e-12))


def memories(images: Images, columns: int = 16, ax: Axes | None = None) -> Axes:
    """Draws memories side by side on one axes, each stretched to its own range."""
    rows = -(-len(images) // columns)
    margins = [(0, rows * columns - len(images)), (0, 1), (0, 1), (0, 0)]
    padded = np.pad(stretched(images), margins, constant_values=1)
    sheet = rearrange(padded, "(row column) h w c -> (row h) (column w) c", column=columns)
    ax = ax or plt.subplots(figsize=(0.5 * columns, 0.5 * rows), layout="constrained")[1]
    return show_image(sheet, ax)


class EnergyTree(TypedDict):
    """The energy in its parts, as `ham.energy_tree(gs, xs)` gives it."""

    neurons: Mapping[str, SupportsFloat]
    connections: Sequence[SupportsFloat]


def draw(ham: hamux.HAM, energies: EnergyTree | None = None, ax: Axes | None = None) -> Axes:
    """Draws a HAM as its hypergraph, and with `energies` the energy of each part.

    Layers of neurons stand on the left with shape and Lagrangian, those of the first connection at the bottom.
    Hypersynapses stand on the right with a line to each of their layers.
    """
    kinds = ham.kinds()
    layers = list(dict.fromkeys([*(name for names, _ in ham.connections for name in names), *ham.neurons]))
    rows = max(len(layers), len(ham.connections))
    ax = ax or plt.subplots(figsize=(6.4, 0.9 * rows + 0.4), layout="constrained")[1]
    heights = {name: (i + 0.5) * rows / len(layers) for i, name in enumerate(layers)}
    own = [sum(heights[name] for name in names) / len(names) for names, _ in ham.connections]
    places = (np.arange(len(own)) + 0.5) * rows / max(len(own), 1)
    box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "linewidth": 1.4}
    for rank, i in enumerate(sorted(range(len(own)), key=lambda i: (own[i], i))):
        names, synapse = ham.connections[i]
        for name, count in collections.Counter(names).items():
            for bend in 0.25 * (np.arange(count) - (count - 1) / 2):
                line = {"arrowstyle": "-", "color": "0.5", "connectionstyle": f"arc3,rad={bend}"}
                ax.annotate("", (0.0, heights[name]), (1.0, places[rank]), arrowprops=line)
        text = f"{synapse}\n{kinds['synapses'][synapse]}"
        text += f"\nE = {float(energies['connections'][i]):.4g}" if energies else ""
        ax.text(1, places[rank], text, ha="center", va="center", fontsize=8, bbox=box | {"edgecolor": COLOURS[1]})
    for name in layers:
        text = f"{name} {tuple(ham.neurons[name].shape)}\n{kinds['neurons'][name]}"
        text += f"\nE = {float(energies['neurons'][name]):.4g}" if energies else ""
        ax.text(0, heights[name], text, ha="center", va="center", fontsize=8, bbox=box | {"edgecolor": COLOURS[0]})
    ax.set(xlim=(-0.5, 1.5), ylim=(0, rows))
    ax.set_axis_off()
    return ax
