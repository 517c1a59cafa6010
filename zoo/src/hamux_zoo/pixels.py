"""Pixels: images from pictures, checked and normalised; masks of known pixels; patches.

A mask `known` is boolean and True where a pixel is right and is to be kept.
"""

import io
import os
from typing import IO, TYPE_CHECKING

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Statistics = tuple[float, ...]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"}


def from_picture(
    picture: "Picture | str | os.PathLike[str] | bytes", shape: tuple[int, ...], resampling: str = "LANCZOS"
) -> Float[np.ndarray, "height width channels"]:
    """Returns a picture, its file or a file's bytes as an image of `shape`; see `open_picture` and `fit`."""
    if isinstance(picture, bytes):
        picture = open_picture(io.BytesIO(picture))
    elif isinstance(picture, str | os.PathLike):
        picture = open_picture(picture)
    return np.array(fit(picture, shape, resampling), np.float32).reshape(shape) / 255


def open_picture(file: str | os.PathLike[str] | IO[bytes]) -> "Picture":
    """Returns the picture in a file: upright, with 8 bits a channel, grey or in colour.

    **Raises** ValueError for more bits, and whatever Pillow raises for a file that it cannot read.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as picture:
        if picture.mode not in _EIGHT_BIT:
            raise ValueError(f"mode {picture.mode}; expected 8 bits a channel")
        upright = ImageOps.exif_transpose(picture)
    if upright.mode in _MODES.values():
        return upright
    return upright.convert("L" if upright.mode in ("1", "LA") else "RGB")


def fit(picture: "Picture", shape: tuple[int, ...], resampling: str = "LANCZOS") -> "Picture":
    """Returns the middle of a picture, resized to `shape` by one of Pillow's methods of resampling."""
    from PIL import Image, ImageOps

    height, width, channels = shape
    if channels not in _MODES:
        raise ValueError(f"`shape` has {channels} channels; images from files have one of {sorted(_MODES)}")
    return ImageOps.fit(picture.convert(_MODES[channels]), (width, height), Image.Resampling[resampling])


def check_image(
    x: ArrayLike, shape: tuple[int, ...], known: Bool[Array, "..."] | None = None, low: float = 0.0, high: float = 1.0
) -> Float[Array, "..."]:
    """Returns `x` as an array, after checking its shape, its dtype and its range.

    Pixels that are not `known` may hold anything. Values cannot be checked while jax traces them.

    **Raises** ValueError if `x` has another shape, holds no floats, or holds a known pixel that is NaN or outside of
    [low, high].
    """
    image = x if isinstance(x, jax.Array) else np.asarray(x)
    if image.shape != shape or not jnp.issubdtype(image.dtype, jnp.floating):
        hints = ["divide bytes by 255"] if image.dtype == np.uint8 else []
        hints += ["use jax.vmap for a batch"] if image.ndim == len(shape) + 1 else []
        same_size = len(shape) == 3 and image.ndim in (2, 3) and image.shape[:2] == shape[:2] and image.shape != shape
        hints += [f"it needs {shape[2]} channels along its last axis"] if same_size else []
        raise ValueError(
            f"x has shape {image.shape} and dtype {image.dtype}; expected floats in [{low:g}, {high:g}] of shape "
            f"{shape}" + (f" ({'; '.join(hints)})" if hints else "")
        )
    if not isinstance(image, jax.core.Tracer) and not isinstance(known, jax.core.Tracer):
        values = np.asarray(image, np.float64)[... if known is None else np.asarray(known)]
        if nans := int(np.isnan(values).sum()):
            raise ValueError(
                f"x is NaN in {nans} of {image.size} places; put any number where a pixel is not known, and mask it "
                "with known"
            )
        if values.size and not (low <= values.min() and values.max() <= high):
            raise ValueError(f"x ranges {span(values)}; expected floats in [{low:g}, {high:g}]")
    return jnp.asarray(image)


def span(values: np.ndarray) -> str:
    """Returns "from … to …", with digits enough to tell any two numbers in float32."""
    return f"from {float(values.min()):.9g} to {float(values.max()):.9g}"


def check_known(known: ArrayLike, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """Returns a mask of known pixels, broadcast to the `shape` of the image.

    A mask of an image (height, width, channels) may also be (height, width) or (height, width, 1).

    **Raises** ValueError if the mask has another shape or is not boolean.
    """
    mask = known if isinstance(known, jax.Array) else np.asarray(known)
    pixelwise = {shape[:2], (*shape[:2], 1)} if len(shape) == 3 else set()
    if mask.shape not in {shape, *pixelwise} or mask.dtype != np.bool_:
        also = f", {shape[:2]} or {(*shape[:2], 1)}" if len(shape) == 3 else ""
        raise ValueError(
            f"known has shape {mask.shape} and dtype {mask.dtype}; expected booleans of shape {shape}{also}, which are "
            "True where a pixel is known"
        )
    mask = mask[..., None] if mask.ndim < len(shape) else mask
    return jnp.broadcast_to(jnp.asarray(mask), shape)


def fill_unknown(
    x: Float[Array, "..."],
    known: Bool[Array, "..."],
    key: PRNGKeyArray | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Array, "..."]:
    """Returns `x` with its unknown pixels half-way between `low` and `high`, or drawn evenly between them by `key`."""
    if key is None:
        return jnp.where(known, x, jnp.asarray((low + high) / 2, x.dtype))
    return jnp.where(known, x, jr.uniform(key, x.shape, x.dtype, low, high))


def check_statistics(mean: Statistics, std: Statistics, channels: int) -> None:
    """Checks the mean and the standard deviation by which pixels are normalised.

    **Raises** ValueError unless each is one finite number, or one for each channel, and `std` is greater than 0.
    """
    for name, values in {"mean": mean, "std": std}.items():
        if len(values) not in (1, channels) or not np.isfinite(values).all():
            raise ValueError(f"{name} is {values}; expected one number, or {channels}, one for each channel")
    if not min(std) > 0:
        raise ValueError(f"std is {std}; expected numbers greater than 0")


def per_channel(values: Statistics, image: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `values` as an array that broadcasts against `image`, whose last axis holds the channels."""
    return jnp.asarray(values, image.dtype).reshape((1,) * (image.ndim - 1) + (-1,))


def normalise(image: Float[Array, "..."], mean: Statistics, std: Statistics) -> Float[Array, "..."]:
    """Returns (image − mean) / std."""
    return (image - per_channel(mean, image)) / per_channel(std, image)


def denormalise(values: Float[Array, "..."], mean: Statistics, std: Statistics) -> Float[Array, "..."]:
    """Returns the image that `normalise` turns into `values`."""
    return values * per_channel(std, values) + per_channel(mean, values)


def to_patches(image: Array, side: int) -> Array:
    """Cuts an image (height, width, channels) into square patches (patches, side · side · channels), row by row."""
    return rearrange(image, "(row h) (column w) c -> (row column) (h w c)", h=side, w=side)


def from_patches(patches: Array, side: int, rows: int) -> Array:
    """Returns the image that `to_patches` cut into `patches`, with so many rows of them."""
    return rearrange(patches, "(row column) (h w c) -> (row h) (column w) c", row=rows, h=side, w=side)


def upper_half(shape: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    """Returns a mask that hides the second half of an image's first axis, its lower half."""
    rows = np.arange(shape[0]) < shape[0] // 2
    return np.broadcast_to(rows.reshape(-1, *[1] * (len(shape) - 1)), shape)


def all_but_a_quarter(shape: tuple[int, ...]) -> Bool[np.ndarray, "height width channels"]:
    """Returns a mask that hides the lower right quarter of an image."""
    height, width, _ = shape
    rows, columns = np.mgrid[:height, :width]
    return np.broadcast_to(((rows < height // 2) | (columns < width // 2))[..., None], shape)


def patchwork(
    shape: tuple[int, ...], side: int, share: float, count: int
) -> Bool[np.ndarray, "count height width channels"]:
    """Returns `count` masks that each hide a random `share` of the patches; always the same hundred, repeated."""
    rows, columns = shape[0] // side, shape[1] // side
    order = np.random.default_rng(0).permuted(np.tile(np.arange(rows * columns), (100, 1)), axis=1)
    hidden = (order < round(share * rows * columns)).reshape(-1, rows, columns, 1)
    known = np.broadcast_to(~hidden.repeat(side, axis=1).repeat(side, axis=2), (100, *shape))
    return np.resize(known, (count, *shape))


def hide_part(key: PRNGKeyArray, shape: tuple[int, ...]) -> Bool[Array, "height width channels"]:
    """Draws a mask for training.

    With a chance of 3/4 it hides a half of the image: the lower one in 60 % of the cases, else one of the other three.
    Otherwise it hides a rectangle of 0.4 to 0.8 of either side.
    """
    key_kind, key_half, key_place = jr.split(key, 3)
    height, width, _ = shape
    rows, columns = jnp.mgrid[:height, :width]
    halves = jnp.stack([rows < height // 2, rows >= height // 2, columns < width // 2, columns >= width // 2])
    half = halves[jr.choice(key_half, 4, p=jnp.array([0.6, 0.13, 0.14, 0.13]))]
    middle, extent = jr.uniform(key_place, (2, 2, 1, 1))
    inside = jnp.abs(jnp.stack([rows / height, columns / width]) - middle) < 0.2 + 0.2 * extent
    known = jnp.where(jr.bernoulli(key_kind, 0.75), half, ~inside.all(axis=0))
    return jnp.broadcast_to(known[..., None], shape)
