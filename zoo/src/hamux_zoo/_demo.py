"""What `hamux-zoo demo` shows: sample images damaged, and what the bundled memories make of them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from ._card import read_card
from ._data import Images, list_samples, load_samples
from ._evaluation import classify, corruptions, fixed_masks, retrieve
from .plots import Row, retrieval_gif, retrieval_strip

_FILMED = 25  # frames at most
SHOWN = ("dense-hopfield-mnist", "et-small-cifar10")


class Recall(NamedTuple):
    """Of one kind of damage: averages over all images, energies at start and end, and some of the images.

    Errors are mean squares over all pixels; `steps` is the median; `accuracy`, of classifying what is recalled, is None
    where that is not asked.
    """

    damage: str
    before: float
    after: float
    accuracy: float | None
    steps: int
    energies: tuple[float, float]
    rows: list[Row]


def samples_for(name: str | os.PathLike[str], model: Any, samples: str | None = None) -> Images:
    """The samples of a name, or of the model's shape, its own data set's first. **Raises** ValueError for none."""
    try:
        learned = [dataset.split("/")[-1].replace("_", "-") for dataset in read_card(name).datasets]
    except (FileNotFoundError, ValueError):  # no card, or one without metadata
        learned = []
    shapes = {}
    for candidate in [samples] if samples else sorted(list_samples(), key=lambda known: known not in learned):
        images = load_samples(candidate)
        shapes[candidate] = images.images.shape[1:]
        if shapes[candidate] == model.config.shape:
            return images
    raise ValueError(f"the model takes images of shape {model.config.shape}; samples are of shapes {shapes}")


def recalls(model: Any, samples: Images) -> dict[str, list[Recall]]:
    """All that the model can show of the samples: "retrieval" to a fixed point, "reconstruction" from some patches."""
    shows = {"retrieval": ("retrieve", _retrievals), "reconstruction": ("reconstructions", _reconstructions)}
    return {kind: list(show(model, samples)) for kind, (method, show) in shows.items() if hasattr(model, method)}


def draw(kind: str, recalls: list[Recall]) -> Figure:
    """The rows of all recalls of a kind in one figure."""
    rows = [row for recall in recalls for row in recall.rows]
    if kind == "retrieval":
        return retrieval_strip(rows)
    steps = len(rows[0].trajectory) - 1
    return retrieval_strip(rows, shown=[*(step for step in (0, 1, 3, 6) if step < steps), steps], result=False)


def film(recalls: list[Recall], file: Path) -> None:
    """The first recall of a kind, its first steps, as a GIF."""
    row = recalls[0].rows[0]
    retrieval_gif(file, row.trajectory[:_FILMED], row.energies[:_FILMED])


def _retrievals(model: Any, samples: Images) -> Iterator[Recall]:
    images, labels = samples
    for example, (damage, (cues, known)) in enumerate(corruptions(images).items()):
        result = retrieve(model, cues, known)
        shown = model.retrieve(cues[example], known, trajectory=True)
        end = shown.steps + 1
        yield Recall(
            damage,
            before=float(np.mean((cues - images) ** 2)),
            after=float(np.mean((result.x - images) ** 2)),
            accuracy=float(np.mean(classify(model, result.x) == labels)),
            steps=int(sorted(result.steps)[len(images) // 2]),
            energies=(float(result.energies[:, 0].mean()), float(result.energies[:, -1].mean())),
            rows=[Row(damage, images[example], cues[example], shown.trajectory[:end], shown.energies[:end])],
        )


def _reconstructions(model: Any, samples: Images) -> Iterator[Recall]:
    images = samples.images
    for share in model.config.masked:
        masks = fixed_masks(model.config.patches, share, len(images))
        known = ~np.asarray(jax.vmap(model.pixels)(masks))
        cues = np.where(known, images, 0.5)
        paths, energies = (np.asarray(each) for each in _watched(model, cues, known))
        yield Recall(
            f"{100 * share:.0f} % of patches hidden",
            before=float(np.mean((cues - images) ** 2)),
            after=float(np.mean((paths[:, -1] - images) ** 2)),
            accuracy=None,
            steps=model.config.steps,
            energies=(float(energies[:, 0].mean()), float(energies[:, -1].mean())),
            rows=[Row(f"image {i}, {100 * share:.0f} %", images[i], cues[i], paths[i], energies[i]) for i in range(4)],
        )


@jax.jit
def _watched(model: Any, images: Array, known: Array) -> tuple[Array, Array]:
    """What is shown at the start and after each step, and the energies."""
    return jax.vmap(lambda image, known: model.watch(image, known, steps=model.config.steps))(images, known)
