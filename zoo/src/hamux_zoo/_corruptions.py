"""Ways to damage an image; the demo, the evaluation and the training take them from here."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray


def upper_half(shape: tuple[int, ...]) -> Bool[np.ndarray, "height width channels"]:
    """The mask of known pixels of an image whose lower half is missing."""
    height = shape[0]
    return np.broadcast_to((np.arange(height) < height // 2).reshape(-1, 1, 1), shape)


def all_but_a_quarter(shape: tuple[int, ...]) -> Bool[np.ndarray, "height width channels"]:
    """The mask of known pixels of an image whose lower right quarter is missing."""
    height, width, _ = shape
    rows, columns = np.mgrid[:height, :width]
    return np.broadcast_to(((rows < height // 2) | (columns < width // 2))[..., None], shape)


def hide_part(key: PRNGKeyArray, shape: tuple[int, ...]) -> Bool[Array, "height width channels"]:
    """A random mask of known pixels: three times of four a half, the upper one in 0.6 of them; else all but a rectangle
    of 0.4 to 0.8 of either side."""
    key_kind, key_half, key_place = jr.split(key, 3)
    height, width, _ = shape
    rows, columns = jnp.mgrid[:height, :width]
    halves = jnp.stack([rows < height // 2, rows >= height // 2, columns < width // 2, columns >= width // 2])
    half = halves[jr.choice(key_half, 4, p=jnp.array([0.6, 0.13, 0.14, 0.13]))]
    middle, extent = jr.uniform(key_place, (2, 2, 1, 1))
    inside = jnp.abs(jnp.stack([rows / height, columns / width]) - middle) < 0.2 + 0.2 * extent
    known = jnp.where(jr.bernoulli(key_kind, 0.75), half, ~inside.all(axis=0))
    return jnp.broadcast_to(known[..., None], shape)


def salt_and_pepper(
    key: PRNGKeyArray, image: Float[Array, "height width channels"], share: float | Array
) -> Float[Array, "height width channels"]:
    """`share` of the pixels set to black or white, with equal chance."""
    key_where, key_what = jr.split(key)
    one = (*image.shape[:-1], 1)
    hit = jr.uniform(key_where, one) < share
    return jnp.where(hit, jr.bernoulli(key_what, 0.5, one).astype(image.dtype), image)


def gaussian_noise(
    key: PRNGKeyArray, image: Float[Array, "height width channels"], sigma: float | Array
) -> Float[Array, "height width channels"]:
    """Normal noise of standard deviation `sigma` added, then clipped to [0, 1]."""
    return jnp.clip(image + sigma * jr.normal(key, image.shape, image.dtype), 0, 1)
