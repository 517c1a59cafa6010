"""Random changes of an image: augmentations, which leave what it shows, and noise."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray

Image = Float[Array, "height width channels"]


def augment(key: PRNGKeyArray, image: Image, names: Sequence[str]) -> Image:
    """Returns the image after the augmentations `names`, one after another.

    Half-precision images are changed in float32.
    """
    changed = image.astype(jnp.float32) if image.dtype.itemsize < 4 else image
    for name, key_one in zip(names, jr.split(key, max(len(names), 1)), strict=False):
        changed = AUGMENTATIONS[name](key_one, changed)
    return changed.astype(image.dtype)


def crop(key: PRNGKeyArray, image: Image) -> Image:
    """Moves the image by up to an eighth of its side; its edges are continued outward."""
    import dm_pix

    margin = max(image.shape[0] // 8, 1), max(image.shape[1] // 8, 1)
    padded = jnp.pad(image, [(margin[0],) * 2, (margin[1],) * 2, (0, 0)], mode="edge")
    cropped: Image = dm_pix.random_crop(key, padded, image.shape)
    return cropped


def flip(key: PRNGKeyArray, image: Image) -> Image:
    """Mirrors the image left to right, half of the time."""
    return jnp.where(jr.bernoulli(key), image[:, ::-1], image)


def colour(key: PRNGKeyArray, image: Image) -> Image:
    """Moves brightness by up to 0.2 and scales contrast and, of a colour image, saturation by 0.8 to 1.2.

    The result is clipped to [0, 1].
    """
    import dm_pix

    key_brightness, key_contrast, key_saturation = jr.split(key, 3)
    with jax.numpy_dtype_promotion("standard"):  # dm_pix multiplies by masks
        image = dm_pix.random_brightness(key_brightness, image, 0.2)
        image = dm_pix.random_contrast(key_contrast, image, 0.8, 1.2)
        if image.shape[-1] == 3:
            image = dm_pix.random_saturation(key_saturation, jnp.clip(image, 0, 1), 0.8, 1.2)
    return jnp.clip(image, 0, 1)


def warp(key: PRNGKeyArray, image: Image) -> Image:
    """Distorts the image as handwriting varies.

    It is turned by up to 4°, stretched by up to 4 %, moved by up to 0.6 pixels and bent by about 0.3. Whatever comes
    from beyond the edge is black.
    """
    key_turn, key_stretch, key_move, key_bend = jr.split(key, 4)
    height, width, _ = image.shape
    centre = jnp.array([height - 1, width - 1]) / 2
    grid = jnp.mgrid[:height, :width].astype(centre.dtype) - centre[:, None, None]
    angle = jnp.deg2rad(jr.uniform(key_turn, minval=-4, maxval=4))
    stretch = 1 + jr.uniform(key_stretch, (2, 1), minval=-0.04, maxval=0.04)
    turn = stretch * jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    move = centre + jr.uniform(key_move, (2,), minval=-0.6, maxval=0.6)
    bend = 0.3 * jax.image.resize(jr.normal(key_bend, (2, 6, 6)), (2, height, width), "cubic")
    where = (jnp.einsum("ij,jhw->ihw", turn, grid) + move[:, None, None] + bend).astype(image.dtype)
    warped: Image = jax.vmap(lambda channel: map_coordinates(channel, list(where), order=1), -1, -1)(image)
    return warped


def noise(key: PRNGKeyArray, image: Image) -> Image:
    """Sets up to half of the pixels to black or white, half of the time."""
    key_whether, key_share, key_noise = jr.split(key, 3)
    noisy = salt_and_pepper(key_noise, image, jr.uniform(key_share, maxval=0.5))
    return jnp.where(jr.bernoulli(key_whether), noisy, image)


AUGMENTATIONS: dict[str, Callable[[PRNGKeyArray, Image], Image]] = {
    change.__name__: change for change in (crop, flip, colour, warp, noise)
}


def salt_and_pepper(key: PRNGKeyArray, image: Image, share: float | Float[Array, ""]) -> Image:
    """Returns the image with a `share` of its pixels set to black or white, with equal chance."""
    key_where, key_what = jr.split(key)
    one = (*image.shape[:-1], 1)
    hit = jr.uniform(key_where, one) < share
    return jnp.where(hit, jr.bernoulli(key_what, 0.5, one).astype(image.dtype), image)


def gaussian_noise(key: PRNGKeyArray, image: Image, sigma: float | Float[Array, ""]) -> Image:
    """Returns the image plus normal noise of standard deviation `sigma`, clipped to [0, 1]."""
    return jnp.clip(image + sigma * jr.normal(key, image.shape, image.dtype), 0, 1)


def blur(image: Image, sigma: float | Float[Array, ""]) -> Image:
    """Returns the image after a Gaussian filter of standard deviation `sigma`, in pixels, at most 2."""
    import dm_pix

    with jax.numpy_dtype_promotion("standard"):
        blurred: Image = dm_pix.gaussian_blur(image, sigma, kernel_size=9)
    return blurred.astype(image.dtype)
