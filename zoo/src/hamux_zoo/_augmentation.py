"""Random changes of an image that leave it what it shows; drawn from a key, on the device."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray

Image = Float[Array, "height width channels"]


def augment(key: PRNGKeyArray, image: Image, names: Sequence[str]) -> Image:
    """The image after those of `AUGMENTATIONS` that `names` names, in that order; halves are computed in float32."""
    changed = image.astype(jnp.float32) if image.dtype.itemsize < 4 else image
    for name, key_one in zip(names, jr.split(key, max(len(names), 1)), strict=False):
        changed = AUGMENTATIONS[name](key_one, changed)
    return changed.astype(image.dtype)


def crop(key: PRNGKeyArray, image: Image) -> Image:
    """Moved by up to an eighth of the side: a window of the image, whose edges are continued outward."""
    import dm_pix

    margin = max(image.shape[0] // 8, 1), max(image.shape[1] // 8, 1)
    padded = jnp.pad(image, [(margin[0],) * 2, (margin[1],) * 2, (0, 0)], mode="edge")
    return dm_pix.random_crop(key, padded, image.shape)


def flip(key: PRNGKeyArray, image: Image) -> Image:
    """Mirrored, left for right, half of the time."""
    import dm_pix

    return dm_pix.random_flip_left_right(key, image)


def colour(key: PRNGKeyArray, image: Image) -> Image:
    """Brightness moved by up to 0.2, contrast and, in colour, saturation scaled by 0.8 to 1.2; clipped to [0, 1]."""
    import dm_pix

    key_brightness, key_contrast, key_saturation = jr.split(key, 3)
    with jax.numpy_dtype_promotion("standard"):  # dm_pix multiplies by masks
        image = dm_pix.random_brightness(key_brightness, image, 0.2)
        image = dm_pix.random_contrast(key_contrast, image, 0.8, 1.2)
        if image.shape[-1] == 3:
            image = dm_pix.random_saturation(key_saturation, jnp.clip(image, 0, 1), 0.8, 1.2)
    return jnp.clip(image, 0, 1)


def warp(key: PRNGKeyArray, image: Image) -> Image:
    """Turned by up to 4°, stretched by up to 4 %, moved by up to 0.6 pixels and bent by about 0.3, as handwriting is;
    black where it looks beyond the edge."""
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
    return jax.vmap(lambda channel: map_coordinates(channel, where, order=1), in_axes=-1, out_axes=-1)(image)


AUGMENTATIONS: dict[str, Callable[[PRNGKeyArray, Image], Image]] = {
    "crop": crop,
    "flip": flip,
    "colour": colour,
    "warp": warp,
}
