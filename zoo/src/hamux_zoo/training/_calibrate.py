"""From where on a picture is unlike what a memory learned."""

from typing import TypeVar, Unpack

import jax.numpy as jnp
import numpy as np

from ..data import Data, Images, Reading, read
from ..memory import Memory, strangenesses

Model = TypeVar("Model", bound=Memory)

_FAMILIAR = 0.95  # of the images are below
_IMAGES, _BATCH = 1000, 100


def calibrate(model: Model, data: Data, *, seed: int = 0, **options: Unpack[Reading]) -> Model:
    """Returns the memory with `unfamiliar` in its config: the strangeness that 95 % of images it knows do not exceed.

    - `data`: images of the kind that it learned, better ones that were held out. It, `skip_bad`, `label_column` and
      `class_folder` are as in `load_images`. 1,000 are measured, if there are more.
    - `seed`: draws them.

    **Raises** ValueError and FileNotFoundError as `load_images`.
    """
    return calibrated(model, read(data, shape=model.config.shape, **options).images, seed)


def calibrated(model: Model, images: Images, seed: int) -> Model:
    """Does what `calibrate` does, with images that are read."""
    drawn = images.take(np.random.default_rng(seed).permutation(len(images.images))[:_IMAGES]).images
    parts = [drawn[start : start + _BATCH] for start in range(0, len(drawn), _BATCH)]
    found = np.concatenate([strangenesses(model, jnp.asarray(part)) for part in parts])
    return model.with_config(unfamiliar=float(f"{np.quantile(found, _FAMILIAR):.4g}"))
