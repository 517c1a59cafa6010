"""What `hamux-zoo demo` shows: sample images damaged, and what a memory recalls of them at default settings."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

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


COLUMNS = ("damage", "error\nbefore", "error\nafter", "accuracy", "steps", "energy\nbefore", "energy\nafter")


def recalls(model: Memory, samples: Images) -> Iterator[tuple[tuple[str, ...], Row]]:
    """Recalls all samples from each kind of damage.

    Yields the cells of a table with `COLUMNS`, of averages over all samples and the median of the steps, and the recall
    of one sample, which is drawn at random by the seed 0.
    """
    pictures, labels = np.asarray(samples.images), samples.labels
    drawn = np.random.default_rng(0).permutation(len(pictures))
    for i, (damage, cues, known) in zip(drawn, _damaged(model, pictures), strict=False):
        found = recalled(model, from_pictures(cues, model.config), known, energies=True)
        watched = model.recall(from_pictures(cues[i], model.config), None if known is None else known[i], path=True)
        assert found.energies is not None
        assert watched.path is not None
        assert watched.energies is not None
        end = int(watched.steps) + 1
        path = to_pictures(watched.path.x[:end], model.config)
        errors = [np.mean((shown - pictures) ** 2) for shown in (cues, to_pictures(found.x, model.config))]
        accuracy = "–"
        # Samples with other classes than the memory's say nothing of it.
        if isinstance(model, Classifier) and labels is not None and model.config.classes == np.max(labels) + 1:
            accuracy = f"{100 - error(classes_of(model, np.asarray(found.x)), np.asarray(labels)):.1f} %"
        numbers = [f"{each:.4f}" for each in errors] + [accuracy, f"{int(np.median(found.steps))}"]
        energies = [f"{np.mean(found.energies[:, step]):.1f}" for step in (0, -1)]
        yield (damage, *numbers, *energies), Row(damage, pictures[i], cues[i], path, np.asarray(watched.energies[:end]))


def draw(rows: Sequence[Row], strip: Path, film: Path) -> None:
    """Draws all recalls as a strip, and the first steps of the first one as a film."""
    save(recall_strip(rows), strip)
    recall_gif(film, rows[0].trajectory[:_FILMED], rows[0].energies[:_FILMED])


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
