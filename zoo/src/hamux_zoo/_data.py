"""Images and labels as arrays: from the samples shipped with the package, a folder, the Hub, `datasets`, or arrays."""

import collections
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Num

_SAMPLES = Path(__file__).parent / "samples"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"}


class Images(NamedTuple):
    """Images, channels last, and the class of each, None where the data have none.

    Images are floats in [0, 1]; while a whole data set waits to be taken from, also bytes, a quarter as large.
    """

    images: Num[np.ndarray, "count height width channels"]
    labels: Int[np.ndarray, " count"] | None

    def take(self, which: np.ndarray | slice) -> "Images":
        """Those of an index or a slice, as floats."""
        images, labels = self.part(which)
        return Images(images.astype(np.float32) / 255 if images.dtype == np.uint8 else images, labels)

    def part(self, which: np.ndarray | slice) -> "Images":
        """Those of an index or a slice, as they are."""
        return Images(self.images[which], None if self.labels is None else self.labels[which])


class Source(NamedTuple):
    """A split of a data set: its images, the classes' names where it has them, notes on how they were read, and its id
    where it is the Hub's."""

    images: Images
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hub_id: str | None = None

    @property
    def classes(self) -> int:
        """The number of classes: of those named, else the largest label and one; 0 without labels."""
        labels = self.images.labels
        return len(self.names) or (0 if labels is None else int(labels.max()) + 1)

    def numbered_as(self, names: Sequence[str]) -> "Source":
        """With the labels of a model whose classes are `names`; as it is where either has no names.

        **Raises** ValueError when the model lacks a class.
        """
        if not names or not self.names:
            return self
        if unknown := [name for name in self.names if name not in names]:
            raise ValueError(f"the model does not know the classes {unknown}; it knows {list(names)}")
        labels = np.array([names.index(name) for name in self.names])[self.images.labels]
        return self._replace(images=self.images._replace(labels=labels), names=tuple(names))


def list_samples() -> list[str]:
    """The names of the images shipped with the package, the shortest first."""
    return sorted((file.stem for file in _SAMPLES.glob("*.npz")), key=lambda name: (len(name), name))


def load_samples(name: str) -> Images:
    """The images shipped with the package under a name: "mnist", "fashion-mnist" or "cifar10"."""
    path = _SAMPLES / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(f'no samples "{name}"; there are {list_samples()}')
    with np.load(path, allow_pickle=False) as arrays:
        return from_arrays(arrays["images"], arrays["labels"].astype(int)).take(slice(None))


def load_images(
    data: Any, split: str = "train", *, shape: tuple[int, ...] | None = None, skip_bad: bool = False
) -> Images:
    """A split of a data set: its Hub id, a folder (of images, one folder a class, or of a data set's files), a
    `datasets.Dataset`, a pair of arrays (images, labels), or images alone.

    Images of files are turned upright, brought to `shape`, (height, width, channels), by cutting the middle out of what
    is too long and by Lanczos resampling, and to grey or colour by the channels; without a `shape` they must be alike.
    Arrays must be of that shape as they are.

    **Raises** FileNotFoundError for a folder that is missing or empty. ValueError, naming the image, for one that
    cannot be read (left out with `skip_bad`); for a data set without a column of images, for images of several sizes or
    modes without a `shape`, for labels that are not classes, for arrays that are not images.
    """
    return read(data, split, shape=shape, skip_bad=skip_bad).images.take(slice(None))


def read(data: Any, split: str = "train", *, shape: tuple[int, ...] | None = None, skip_bad: bool = False) -> Source:
    """As `load_images`, with the names of the classes, and with how many images were resized or left out."""
    sized = isinstance(shape, tuple | list) and len(shape) == 3
    if shape is not None and not (sized and all(type(size) is int and size > 0 for size in shape)):
        raise ValueError(f"shape is {shape}; images have three whole numbers, (height, width, channels)")
    if isinstance(data, Source):
        return data._replace(images=from_arrays(*data.images, shape))
    if isinstance(data, tuple) and len(data) == 2:
        return Source(from_arrays(*data, shape))
    if hasattr(data, "__array__"):
        return Source(from_arrays(data, None, shape))
    name = str(data) if isinstance(data, str | os.PathLike) else "the data set"
    tables = _open(data)
    if split not in tables:
        raise ValueError(f'{name} has no split "{split}"; there are {sorted(tables)}')
    hub_id = data if isinstance(data, str) and not Path(data).expanduser().exists() else None
    return _from_table(tables[split], name, shape, skip_bad)._replace(hub_id=hub_id)


def from_arrays(images: Any, labels: Any, shape: tuple[int, ...] | None = None) -> Images:
    """Bytes or floats in [0, 1], `(count, height, width)` or with channels. **Raises** as `load_images`."""
    images = np.asarray(images)
    floats = images.dtype.kind == "f"
    if images.ndim not in (3, 4) or not images.size or not (floats or images.dtype == np.uint8):
        raise ValueError(
            f"images of shape {images.shape} and dtype {images.dtype}; expected bytes, or floats in [0, 1], of shape "
            "(count, height, width, channels)"
        )
    if floats and not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images from {images.min()} to {images.max()}; expected floats in [0, 1], or bytes")
    images = images if images.ndim == 4 else images[..., None]
    if shape is not None and images.shape[1:] != tuple(shape):
        raise ValueError(
            f"images of shape {images.shape[1:]}; the model takes {tuple(shape)} (files are resized, arrays are not)"
        )
    if labels is None:
        return Images(images, None)
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels of shape {labels.shape} and dtype {labels.dtype} for {len(images)} images; expected one integer "
            "an image"
        )
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected classes 0, 1, 2, …")
    return Images(images, labels.astype(np.int32))


def split_off(data: Images, share: float, seed: int) -> tuple[Images, Images]:
    """All but a `share` of the images, and those, drawn by `seed`. **Raises** ValueError when either is empty."""
    held_out = round(share * len(data.images))
    if not 0 < held_out < len(data.images):
        raise ValueError(
            f"{len(data.images)} images cannot be parted into {share:.3g} held out and the rest; "
            "validation=0 (--validation 0) holds none out"
        )
    order = np.random.default_rng(seed).permutation(len(data.images))
    return data.part(order[held_out:]), data.part(order[:held_out])


def splits(data: Any) -> list[str]:
    """The names of the splits of a data set. **Raises** as `load_images`."""
    return sorted(_open(data))


def _open(data: Any) -> Any:
    """The tables by split. **Raises** FileNotFoundError, ValueError."""
    import datasets

    if isinstance(data, str | os.PathLike):
        try:
            data = datasets.load_dataset(str(data))
        except (FileNotFoundError, ConnectionError) as error:
            if Path(data).is_dir():
                raise FileNotFoundError(f'"{data}" holds no images and no data set') from None
            raise FileNotFoundError(
                f'"{data}" is neither a folder with a data set nor one that the Hub gives: {error}'
            ) from None
    if isinstance(data, datasets.Dataset):
        return {"train": data}
    if not isinstance(data, datasets.DatasetDict):
        raise ValueError(f"data of type {type(data).__name__}; expected a folder, a Hub id, a data set, or arrays")
    return data


def _from_table(table: Any, name: str, shape: tuple[int, ...] | None, skip_bad: bool) -> Source:
    import datasets

    kinds = {name: type(feature) for name, feature in table.features.items()}
    image_columns = [name for name, kind in kinds.items() if kind is datasets.Image]
    label_columns = [name for name, kind in kinds.items() if kind is datasets.ClassLabel]
    if not label_columns and str(getattr(table.features.get("label"), "dtype", "")).startswith("int"):
        label_columns = ["label"]
    if len(image_columns) != 1 or len(label_columns) > 1:
        raise ValueError(f"{name} has columns {list(kinds)}; expected one of images and at most one of class labels")
    images, kept, bad, resized = [], [], [], 0
    seen: collections.Counter[tuple[tuple[int, ...], str]] = collections.Counter()
    for index, stored in enumerate(table.cast_column(image_columns[0], datasets.Image(decode=False))[image_columns[0]]):
        place = (stored or {}).get("path") or f"image {index} of {name}"
        try:
            picture = _decode(stored)
        except Exception as error:  # whatever a broken file makes Pillow's many readers raise
            if not skip_bad:
                raise ValueError(f"{place} cannot be read: {error} (--skip-bad leaves such images out)") from None
            bad.append(place)
            continue
        size, mode = (picture.height, picture.width), picture.mode
        seen[size, mode] += 1
        if shape is not None:
            resized += size != tuple(shape[:2])
            picture = _fit(picture, shape)
        images.append(np.asarray(picture))
        kept.append(index)
    if not images:
        raise ValueError(f"{name} holds no image that can be read")
    if shape is None and len(seen) > 1:
        kinds_seen = ", ".join(f"{count} of {h} × {w} {mode}" for ((h, w), mode), count in seen.most_common(3))
        raise ValueError(
            f"{name} has images of several sizes or modes ({kinds_seen}); say which `shape` they should get "
            "(--set shape=[28,28,1])"
        )
    labels = np.asarray(table[label_columns[0]])[kept] if label_columns else None
    names = tuple(getattr(table.features[label_columns[0]], "names", None) or ()) if label_columns else ()
    if labels is not None and labels.dtype.kind not in "iu":
        raise ValueError(f"{name} has images without a label")
    if labels is not None and names and labels.max() >= len(names):
        raise ValueError(f"{name} has labels from {labels.min()} to {labels.max()} and names for {len(names)} classes")
    notes = []
    if resized:
        notes.append(f"{resized} of {len(images)} images were brought to {shape[0]} × {shape[1]} pixels")  # type: ignore
    if bad:
        shown = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
        notes.append(f"{len(bad)} images cannot be read and were left out: {shown}")
    return Source(from_arrays(np.stack(images), labels), names, tuple(notes))


def _decode(stored: dict[str, Any] | None) -> Any:
    """An upright picture of 8 bits a channel, grey or in colour."""
    from PIL import Image, ImageOps

    if stored is None:
        raise ValueError("it is missing")
    source = stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])
    with Image.open(source) as picture:
        if picture.mode not in _EIGHT_BIT:
            raise ValueError(f"mode {picture.mode}; expected 8 bits a channel")
        upright = ImageOps.exif_transpose(picture)
    return (
        upright if upright.mode in _MODES.values() else upright.convert("L" if upright.mode in ("1", "LA") else "RGB")
    )


def _fit(picture: Any, shape: tuple[int, ...]) -> Any:
    from PIL import Image, ImageOps

    height, width, channels = shape
    if channels not in _MODES:
        raise ValueError(f"images of {channels} channels; files give {sorted(_MODES)}")
    return ImageOps.fit(picture.convert(_MODES[channels]), (width, height), Image.Resampling.LANCZOS)
