"""A memory's patterns as pictures, floats in [0, 1] of shape (height, width, channels), and back."""

from pathlib import Path

import numpy as np
from jaxtyping import ArrayLike, Float

from ..config import Config
from ..data import Images, list_samples, load_samples
from ..files import read_card

_CHANNELS = (1, 3, 4)  # grey, colour, and colour with opacity

Pictures = Float[np.ndarray, "... height width channels"]


def picture_shape(config: Config) -> tuple[int, int, int]:
    """Returns the (height, width, channels) of a memory's patterns; those without channels are grey.

    **Raises** ValueError for patterns that are no pictures.
    """
    match config.shape:
        case (height, width):
            return height, width, 1
        case (height, width, channels) if channels in _CHANNELS:
            return height, width, channels
    raise ValueError(
        f"patterns of shape {config.shape} cannot be shown as pictures; expected (height, width) or (height, width, "
        f"channels) with one of {_CHANNELS} channels"
    )


def to_pictures(patterns: ArrayLike, config: Config) -> Pictures:
    """Returns patterns, with any axes before their own, as pictures; numbers outside of their range are clipped."""
    unit = np.array((np.asarray(patterns, np.float32) - config.low) / (config.high - config.low)).clip(0, 1)
    return unit.reshape(*unit.shape[: unit.ndim - len(config.shape)], *picture_shape(config))


def from_pictures(pictures: Pictures, config: Config) -> Float[np.ndarray, "..."]:
    """Returns pictures, with any axes before their own, as patterns of a memory's shape and range."""
    patterns = config.low + (config.high - config.low) * pictures
    return np.asarray(patterns, np.float32).reshape(*pictures.shape[:-3], *config.shape)


def samples_for(name: str | Path, config: Config, samples: str | None = None) -> tuple[str, Images]:
    """Returns the name and the pictures of the samples `samples`, or of those that fit a memory.

    Those of the data sets that the memory's card names come first.

    **Raises** ValueError if none has the shape of the memory's patterns, and FileNotFoundError for an unknown name.
    """
    try:
        learned = [dataset.split("/")[-1].replace("_", "-") for dataset in read_card(name).datasets]
    except (FileNotFoundError, ValueError):  # no card, or one without metadata
        learned = []
    shapes = {}
    for candidate in [samples] if samples else sorted(list_samples(), key=lambda known: known not in learned):
        found = load_samples(candidate)
        shapes[candidate] = found.images.shape[1:]
        if shapes[candidate] == picture_shape(config):
            return candidate, found
    raise ValueError(f"this memory takes patterns of shape {config.shape}; the samples have the shapes {shapes}")
