"""Pixels: images from pictures, checked and normalised; masks of known pixels; patches.

A mask `known` is boolean and True where a pixel is right and is to be kept.
"""

import io
import os
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Statistics = tuple[float, ...]

# What a person may have of a picture: itself, its file, the file's bytes, or an array.
AnyPicture: TypeAlias = "Picture | str | os.PathLike[str] | bytes | IO[bytes] | ArrayLike"

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Converted(NamedTuple):
    """An image made of a picture, and what was done to it: words that go after "it was", such as "resized"."""

    image: Float[np.ndarray, "height width channels"]
    notes: tuple[str, ...]


def from_picture(
    picture: AnyPicture,
    shape: tuple[int, ...],
    *,
    background: str = "white",
    invert: bool = False,
    resampling: str = "LANCZOS",
) -> Converted:
    """Returns a picture as an image of `shape`, floats in [0, 1], and says what it did.

    - `picture`: a path, a file's bytes, a picture of Pillow, or an array (height, width) or (height, width, channels).
      An array of floats in [0, 1] of that shape stays as it is; others are turned into 8 bits a channel. See
      `open_picture` and `fit`.
    - `invert`: turn bright into dark.

    **Raises** as `open_picture` and `fit`.
    """
    array, notes = _array_of(picture), list[str]()
    image: Float[np.ndarray, "height width channels"]
    if array is not None and array.dtype.kind == "f" and array.shape == shape:
        _check_floats(array)
        image = np.asarray(array, np.float32)
    else:
        opened, notes = open_picture(picture)
        fitted, more = fit(opened, shape, background=background, resampling=resampling)
        image, notes = np.asarray(fitted).reshape(shape) / np.float32(255), [*notes, *more]
    if invert:
        image = np.concatenate([1 - image[..., :3], image[..., 3:]], axis=-1)
    return Converted(image, tuple(notes))


def open_picture(picture: AnyPicture) -> tuple["Picture", list[str]]:
    """Returns a picture upright, with 8 bits a channel, grey or in colour, with its opacity if it has any; and notes.

    Whole numbers are divided by the most that their type holds; a file of floats by its own range, which is noted. Of a
    file with several pictures it is the first.

    **Raises** ValueError for what cannot be a picture: an array of another shape, of floats outside of [0, 1] or below
    0; and whatever Pillow raises for a file that it cannot read.
    """
    from PIL import Image, ImageOps

    if isinstance(picture, Image.Image):
        return _eight_bits(ImageOps.exif_transpose(picture))
    if (array := _array_of(picture)) is not None:
        return Image.fromarray(_bytes_of(array)), []
    file: Any = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    with Image.open(file) as opened:
        count = getattr(opened, "n_frames", 1)
        ImageOps.exif_transpose(opened, in_place=True)
        upright, notes = _eight_bits(opened)
        upright.load()
        if count > 1:
            notes = [f"taken as the first of {count} pictures in its file", *notes]
    return upright, notes


def fit(
    picture: "Picture", shape: tuple[int, ...], *, background: str = "white", resampling: str = "LANCZOS"
) -> tuple["Picture", list[str]]:
    """Returns the middle of a picture, resized to `shape` by one of Pillow's methods of resampling; and notes.

    A picture with opacity is laid over the `background`, unless `shape` has four channels. Where that would leave one
    colour alone, as of white ink, it is laid over black.

    **Raises** ValueError for a number of channels other than 1, 3 and 4, and a `background` that is no colour.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    if channels not in _MODES:
        raise ValueError(f"`shape` has {channels} channels; images from files have one of {sorted(_MODES)}")
    notes = list[str]()
    if channels != 4 and picture.mode in ("LA", "RGBA"):
        picture, notes = flatten(picture, background)
    mode = _MODES[channels]
    if picture.mode != mode:
        if {picture.mode, mode} == {"L", "RGB"}:
            notes.append("made grey" if mode == "L" else "made of three equal channels")
        picture = picture.convert(mode)
    if picture.size != (width, height):
        notes.append(f"resized to {height} × {width} pixels")
        picture = ImageOps.fit(picture, (width, height), Image.Resampling[resampling])
    return picture, notes


def flatten(picture: "Picture", background: str = "white") -> tuple["Picture", list[str]]:
    """Returns a picture with opacity laid over a `background`; see `fit`."""
    from PIL import Image

    def over(colour: str) -> "Picture":
        laid = Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture.convert("RGBA"))
        return laid.convert("L" if picture.mode == "LA" else "RGB")

    laid, opacity = over(background), picture.getchannel("A").getextrema()
    if opacity == (255, 255):
        return laid, []
    if opacity[1] and _one_colour(laid) and not _one_colour(black := over("black")):
        return black, [f"laid over black, since over {background} it would be of one colour"]
    return laid, [f"laid over {background}"]


def _one_colour(picture: "Picture") -> bool:
    extrema = np.reshape(picture.getextrema(), (-1, 2))
    return bool(np.all(extrema[:, 0] == extrema[:, 1]))


def _eight_bits(picture: "Picture") -> tuple["Picture", list[str]]:
    from PIL import Image

    mode = picture.mode
    if mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in picture.info:
        return picture, []
    if mode == "F":
        values = np.asarray(picture, np.float64)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        unit = np.nan_to_num((values - low) / ((high - low) or 1.0), posinf=1.0, neginf=0.0)
        scaled = Image.fromarray(np.round(255 * unit.clip(0, 1)).astype(np.uint8))
        return scaled, [f"scaled from its own range, {low:.4g} to {high:.4g}"]
    if mode.startswith("I"):
        values = np.asarray(picture)
        if values.size and values.min() < 0:
            raise ValueError(f"pixels go down to {values.min()}; expected whole numbers of at least 0")
        deep = mode == "I" and values.max(initial=0) > np.iinfo(np.uint16).max
        return Image.fromarray(_bytes_of(values.astype(np.int32 if deep else np.uint16))), []
    if mode in ("1", "L"):
        return picture.convert("LA" if "transparency" in picture.info else "L"), []
    opaque = "transparency" not in picture.info and mode not in ("PA", "La", "RGBa")
    return picture.convert("RGB" if opaque else "RGBA"), []


def _array_of(picture: object) -> np.ndarray | None:
    """The array that was given for a picture, if it was one."""
    from PIL import Image

    if isinstance(picture, Image.Image | io.IOBase | str | os.PathLike | bytes):
        return None
    return np.asarray(picture)


def _bytes_of(array: np.ndarray) -> np.ndarray:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or not array.size:
        raise ValueError(
            f"an array of shape {array.shape} is no picture; expected (height, width) or (height, width, channels), "
            "with 1 or 3 channels, and perhaps one more for the opacity"
        )
    array = array[..., 0] if array.ndim == 3 and channels == 1 else array
    if array.dtype.kind == "f":
        _check_floats(array)
        return np.round(255 * array.astype(np.float64)).astype(np.uint8)
    if array.dtype == bool:
        return 255 * array.astype(np.uint8)
    if array.dtype.kind not in "iu" or array.min() < 0:
        from_to = f" from {array.min()} to {array.max()}" if array.dtype.kind in "iu" else ""
        raise ValueError(
            f"an array of {array.dtype}{from_to} is no picture; expected whole numbers of at least 0, or floats "
            "in [0, 1]"
        )
    most = np.iinfo(array.dtype).max
    return array if most == 255 else np.round(255 * (array / most)).astype(np.uint8)


def _check_floats(array: np.ndarray) -> None:
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"an array that ranges {span(array)} is no picture; expected floats in [0, 1]")


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
