"""Images and labels in memory: checked, split, and cut into batches."""

from pathlib import Path
from typing import NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from ..pixels import span

_SAMPLES = Path(__file__).parents[1] / "samples"


class Images(NamedTuple):
    """Images, channels last, and the class of each, or None if they have no classes.

    Images are floats in [0, 1]. A whole data set may also be kept as bytes, which take a quarter of the memory.
    """

    images: Num[np.ndarray | Array, "count height width channels"]
    labels: Int[np.ndarray | Array, " count"] | None

    def take(self, which: np.ndarray | slice) -> "Images":
        """Returns some of the images, as floats."""
        images, labels = self.part(which)
        return Images(images.astype(np.float32) / 255 if images.dtype == np.uint8 else images, labels)

    def part(self, which: np.ndarray | slice) -> "Images":
        """Returns some of the images, as they are stored."""
        return Images(self.images[which], None if self.labels is None else self.labels[which])


class Loader(Protocol):
    """An endless iterator of batches, such as grain's, that can go on from where another one was."""

    def __next__(self) -> Images: ...
    def get_state(self) -> dict[str, object]: ...
    def set_state(self, state: dict[str, object]) -> None: ...


def list_samples() -> list[str]:
    """Returns the names of the images shipped with the package, the shortest name first."""
    return sorted((file.stem for file in _SAMPLES.glob("*.npz")), key=lambda name: (len(name), name))


def load_samples(name: str) -> Images:
    """Returns the images shipped with the package under a name: "mnist", "fashion-mnist" or "cifar10".

    **Raises** FileNotFoundError for another name.
    """
    path = _SAMPLES / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(f'no samples "{name}"; there are {list_samples()}')
    with np.load(path, allow_pickle=False) as arrays:
        return from_arrays(arrays["images"], arrays["labels"].astype(int)).take(slice(None))


def from_arrays(images: object, labels: object, shape: tuple[int, ...] | None = None) -> Images:
    """Returns arrays, or nested lists, as `Images`. **Raises** ValueError as `load_images`."""
    pixels = _array("images", images)
    if jnp.issubdtype(pixels.dtype, jnp.floating) and pixels.dtype.itemsize < 4:
        pixels = pixels.astype(np.float32)
    floats = pixels.dtype.kind == "f"
    if pixels.ndim not in (3, 4) or not pixels.size or not (floats or pixels.dtype == np.uint8):
        whole = pixels.dtype.kind in "iu" and pixels.dtype != np.uint8
        raise ValueError(
            f"images have shape {pixels.shape} and dtype {pixels.dtype}; expected bytes, or floats in [0, 1], of shape "
            "(count, height, width, channels)" + (" (whole numbers from 0 to 255 as uint8)" if whole else "")
        )
    if floats and (nans := int(np.isnan(pixels).sum())):
        raise ValueError(f"images are NaN in {nans} of {pixels.size} places; expected floats in [0, 1]")
    if floats and not 0 <= pixels.min() <= pixels.max() <= 1:
        raise ValueError(f"images range {span(pixels)}; expected floats in [0, 1], or bytes (uint8)")
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    if shape is not None and pixels.shape[1:] != shape:
        raise ValueError(
            f"images have shape {pixels.shape[1:]}; the model takes {shape} (files are resized, arrays are not)"
        )
    if labels is None:
        return Images(pixels, None)
    classes = _array("labels", labels)
    if classes.shape != (len(pixels),) or classes.dtype.kind not in "iu":
        raise ValueError(
            f"labels have shape {classes.shape} and dtype {classes.dtype} for {len(pixels)} images; expected one whole "
            "number for each image"
        )
    if classes.min() < 0 or classes.max() > np.iinfo(np.int32).max:
        raise ValueError(f"labels range from {classes.min()} to {classes.max()}; expected classes 0, 1, 2, …")
    return Images(pixels, classes.astype(np.int32))


def split_off(data: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Splits off a random `share` of the images: returns the rest, and those.

    **Raises** ValueError if either is empty.
    """
    held_out = round(share * len(data.images))
    if not 0 < held_out < len(data.images):
        raise ValueError(
            f"`validation` is {share:.3g}, which leaves no images to train on or none to hold out of "
            f"{len(data.images)}; `validation=0` holds none out"
        )
    order = np.random.default_rng(seed).permutation(len(data.images))
    return data.part(order[held_out:]), data.part(order[:held_out])


def batches(data: Images, batch_size: int, seed: int | None, rows: slice) -> Loader:
    """Returns an endless iterator of batches, whose order the seed alone decides.

    Each pass goes through the images in a new order, or always in their own if there is no `seed`. A batch may run over
    the end of a pass. Only `rows` of each batch are gathered, those of this process, some batches ahead.
    """
    import grain

    order = grain.MapDataset.range(len(data.images))
    if seed is not None:
        order = order.seed(seed).shuffle()
    gathered = order.repeat(None).batch(batch_size).map(lambda which: data.take(which[rows]))
    loader: Loader = iter(gathered.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
    return loader


def whole_number(name: str, value: object, least: int) -> int:
    """Returns `value`, an integer of Python, NumPy or jax, as Python's.

    **Raises** ValueError, with the `name` of the argument, if it is none or below `least`.
    """
    number = np.asarray(value)
    if number.shape or number.dtype.kind not in "iu" or number < least:
        raise ValueError(f"`{name}` is {value!r}; expected a whole number of at least {least}")
    return int(number)


def _array(name: str, values: object) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:  # of lists that are not alike
        raise ValueError(f"{name} cannot be made an array: {error}") from None
