"""What `hamux-zoo demo` shows: sample images damaged, and what a memory recalls of them at default settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool

from ..data import Images, gaussian_noise
from ..measure import classes_of, error, recalled, salted
from ..memory import Classifier, Memory
from ..pixels import fill_unknown
from ._pictures import Pictures, from_pictures, to_pictures
from .plots import Row, recall_gif, recall_strip, save

_FILMED = 25  # frames at most
SHOWN = ("dense-hopfield-mnist", "et-small-cifar10")
_WORDS = {"completion": "lower half missing", "quarter": "lower right quarter missing"}


class Recall(NamedTuple):
    """The recalls from one kind of damage: averages over all images, and one image of them.

    - `before`, `after`: mean squared error over all pixels in [0, 1].
    - `accuracy`: percentage of the recalled images whose class is right, or None if the memory does not know it.
    - `steps`: the median.
    - `energies`: at the start and at the end.
    """

    damage: str
    before: float
    after: float
    accuracy: float | None
    steps: int
    energies: tuple[float, float]
    row: Row


def recalls(model: Memory, samples: Images) -> Iterator[Recall]:
    """Recalls all samples from each kind of damage; the first kind shows the first sample, and so on."""
    pictures, labels = np.asarray(samples.images), samples.labels
    for i, (damage, cues, known) in enumerate(_damaged(model, pictures)):
        found = recalled(model, from_pictures(cues, model.config), known, energies=True)
        watched = model.recall(from_pictures(cues[i], model.config), None if known is None else known[i], path=True)
        assert found.energies is not None
        assert watched.path is not None
        assert watched.energies is not None
        end = int(watched.steps) + 1
        path = to_pictures(watched.path.x[:end], model.config)
        accuracy = None
        # Samples with other classes than the memory's say nothing of it.
        if isinstance(model, Classifier) and labels is not None and model.config.classes == np.max(labels) + 1:
            accuracy = 100 - error(classes_of(model, np.asarray(found.x)), np.asarray(labels))
        yield Recall(
            damage,
            before=float(np.mean((cues - pictures) ** 2)),
            after=float(np.mean((to_pictures(found.x, model.config) - pictures) ** 2)),
            accuracy=accuracy,
            steps=int(np.median(found.steps)),
            energies=(float(np.mean(found.energies[:, 0])), float(np.mean(found.energies[:, -1]))),
            row=Row(damage, pictures[i], cues[i], path, np.asarray(watched.energies[:end])),
        )


def draw(recalls: list[Recall], strip: Path, film: Path) -> None:
    """Draws all recalls as a strip, and the first steps of the first one as a film."""
    save(recall_strip([recall.row for recall in recalls]), strip)
    row = recalls[0].row
    recall_gif(film, row.trajectory[:_FILMED], row.energies[:_FILMED])


def _damaged(model: Memory, pictures: Pictures) -> Iterator[tuple[str, Pictures, Bool[np.ndarray, "..."] | None]]:
    """Each kind of damage: its name, the damaged pictures, and the mask of the pixels that are known."""
    for name, known in model.masks(len(pictures)).items():
        words = _WORDS.get(name) or re.sub(r"^masked_([\d.]+)$", r"\1 % masked", name)
        shown = jnp.asarray(known.reshape(pictures.shape))
        yield words, np.asarray(fill_unknown(jnp.asarray(pictures), shown)), known
    yield "30 % salt, pepper", salted(pictures), None
    keys = jr.split(jr.key(0), (2, len(pictures)))[1]
    noisy = jax.vmap(gaussian_noise, (0, 0, None))(keys, jnp.asarray(pictures), 0.4)
    yield "Gaussian, σ 0.4", np.asarray(noisy), None
