"""Images and labels as arrays: from the samples shipped with the package, a folder, the Hub, `datasets`, or arrays."""

import collections
import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Num

from ._hub import answers

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
    data: Any,
    split: str = "train",
    *,
    shape: tuple[int, ...] | None = None,
    skip_bad: bool = False,
    revision: str | None = None,
) -> Images:
    """A split of a data set: its Hub id, a folder (of images, one folder a class, or of a data set's files), a parquet
    file, a `datasets.Dataset`, a pair of arrays (images, labels), or images alone. What does not fit into memory is for
    `stream_images`. `revision` is a branch, a tag or a commit of the Hub's; a private set is shown to HF_TOKEN.

    Images of files are turned upright, brought to `shape`, (height, width, channels), by cutting the middle out of what
    is too long and by Lanczos resampling, and to grey or colour by the channels; without a `shape` they must be alike.
    Arrays must be of that shape as they are.

    **Raises** FileNotFoundError for a folder that is missing or empty. ValueError, naming the image, for one that
    cannot be read (left out with `skip_bad`); for a data set without a column of images, for images of several sizes or
    modes without a `shape`, for labels that are not classes, for arrays that are not images; for a `revision` of what
    is not on the Hub.
    """
    return read(data, split, shape=shape, skip_bad=skip_bad, revision=revision).images.take(slice(None))


def stream_images(
    data: Any,
    split: str = "train",
    *,
    shape: tuple[int, ...] | None = None,
    batch_size: int = 64,
    skip_bad: bool = False,
    revision: str | None = None,
) -> Iterator[Images]:
    """The images of `load_images`, a batch at a time, for data sets that do not fit: no more than one batch is in
    memory, and from the Hub no more is fetched than is looked at.

    `data` is a Hub id, a folder, a parquet file or a `datasets.IterableDataset`; the last batch may be smaller.
    **Raises** as `load_images`, of an image when it comes to it; ValueError for a `batch_size` below 1; ConnectionError
    when the Hub goes away in the middle.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    _check_shape(shape)
    _hub_id(data, revision)
    name = _name_of(data)
    table = _split_of(_open(data, revision, streaming=True), split, name)
    column, label, names = _columns(table, name)
    pictures = _Pictures(name, shape, skip_bad, _places(data))

    def batches() -> Iterator[Images]:
        with answers("in the middle of", name):
            for rows in _undecoded(table, column).iter(batch_size):
                images = pictures.read(rows[column], rows[label] if label else None, names)
                if images is not None:
                    yield images.take(slice(None))

    return batches()


def read(
    data: Any,
    split: str = "train",
    *,
    shape: tuple[int, ...] | None = None,
    skip_bad: bool = False,
    revision: str | None = None,
) -> Source:
    """As `load_images`, with the names of the classes, and with how many images were resized or left out."""
    _check_shape(shape)
    hub_id = _hub_id(data, revision)
    if isinstance(data, Source):
        return data._replace(images=from_arrays(*data.images, shape))
    if isinstance(data, tuple) and len(data) == 2:
        return Source(from_arrays(*data, shape))
    if hasattr(data, "__array__"):
        return Source(from_arrays(data, None, shape))
    name = _name_of(data)
    table = _split_of(_open(data, revision), split, name)
    return _from_table(table, _Pictures(name, shape, skip_bad, _places(data)), name)._replace(hub_id=hub_id)


def _check_shape(shape: Any) -> None:
    sized = isinstance(shape, tuple | list) and len(shape) == 3
    if shape is not None and not (sized and all(type(size) is int and size > 0 for size in shape)):
        raise ValueError(f"shape is {shape}; images have three whole numbers, (height, width, channels)")


def _hub_id(data: Any, revision: str | None) -> str | None:
    """The id of what is not here. **Raises** ValueError for a `revision` of what is."""
    hub_id = data if isinstance(data, str) and not Path(data).expanduser().exists() else None
    if revision is not None and hub_id is None:
        raise ValueError(f"{_name_of(data)} is not on the Hub: it has no revision {revision!r}")
    return hub_id


def _name_of(data: Any) -> str:
    return str(data) if isinstance(data, str | os.PathLike) else "the data set"


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


def _open(data: Any, revision: str | None = None, streaming: bool = False) -> Any:
    """The tables by split. **Raises** FileNotFoundError, ValueError."""
    import datasets

    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        place = str(path) if path.exists() else str(data)
        where = {"path": "parquet", "data_files": place} if path.is_file() else {"path": place}
        try:
            with contextlib.nullcontext() if path.exists() else answers("of", str(data), revision):
                data = datasets.load_dataset(**where, revision=revision, streaming=streaming)
        except (FileNotFoundError, ConnectionError) as error:
            if path.is_dir():
                raise FileNotFoundError(f'"{data}" holds no images and no data set') from None
            raise FileNotFoundError(
                f'"{data}" is neither a folder with a data set nor one that the Hub gives: {error}'
            ) from None
        except (ValueError, datasets.exceptions.DatasetBuildError) as error:
            raise ValueError(f'"{data}" cannot be read: {error.__cause__ or error}') from None
    if isinstance(data, datasets.Dataset | datasets.IterableDataset):
        return {"train": data}
    if not isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise ValueError(f"data of type {type(data).__name__}; expected a folder, a Hub id, a data set, or arrays")
    return data


def _split_of(tables: Any, split: str, name: str) -> Any:
    if split not in tables:
        raise ValueError(f'{name} has no split "{split}"; there are {sorted(tables)}')
    return tables[split]


class _Columns(NamedTuple):
    image: str
    label: str | None
    names: tuple[str, ...]  # of the classes, where they have names


def _columns(table: Any, name: str) -> _Columns:
    import datasets

    features = table.features or {}
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not labels and str(getattr(features.get("label"), "dtype", "")).startswith("int"):
        labels = ["label"]
    if len(images) != 1 or len(labels) > 1:
        raise ValueError(f"{name} has columns {list(features)}; expected one of images and at most one of class labels")
    if not labels:
        return _Columns(images[0], None, ())
    return _Columns(images[0], labels[0], tuple(getattr(features[labels[0]], "names", None) or ()))


class _Pictures:
    """The pictures that are read of a table, one after another, and what was seen of them."""

    def __init__(self, name: str, shape: tuple[int, ...] | None, skip_bad: bool, places: tuple[str, ...] | None = None):
        self._name, self._shape, self._skip_bad, self._places = name, shape, skip_bad, places
        self._count = self._resized = 0
        self._bad: list[str] = []
        self._seen: collections.Counter[tuple[tuple[int, ...], str]] = collections.Counter()

    def read(self, stored: Iterable[Any], labels: Any, names: tuple[str, ...]) -> Images | None:
        """Those of a part of the table, as bytes, and their labels; None where none can be read."""
        images, kept = [], []
        for index, one in enumerate(stored):
            place = (one or {}).get("path") or f"image {self._count} of {self._name}"
            self._count += 1
            try:
                picture = _decode(one, self._places)
            except ConnectionError:
                raise
            except Exception as error:  # whatever a broken file makes Pillow's many readers raise
                if not self._skip_bad:
                    raise ValueError(f"{place} cannot be read: {error} (--skip-bad leaves such images out)") from None
                self._bad.append(place)
                continue
            size = (picture.height, picture.width)
            self._seen[size, picture.mode] += 1
            if self._shape is not None:
                self._resized += size != tuple(self._shape[:2])
                picture = fit(picture, self._shape)
            elif len(self._seen) > 1:
                continue  # they will be refused, with how many there are of each kind
            images.append(np.asarray(picture))
            kept.append(index)
        if self._shape is None and len(self._seen) > 1:
            kinds = ", ".join(f"{count} of {h} × {w} {mode}" for ((h, w), mode), count in self._seen.most_common(3))
            raise ValueError(
                f"{self._name} has images of several sizes or modes ({kinds}); say which `shape` they should get "
                "(--set shape=[28,28,1])"
            )
        if not images:
            return None
        if labels is not None:
            labels = np.asarray(labels)[kept]
            if labels.dtype.kind not in "iu":
                raise ValueError(f"{self._name} has images without a label")
            if names and labels.max() >= len(names):
                span = f"labels from {labels.min()} to {labels.max()}"
                raise ValueError(f"{self._name} has {span} and names for {len(names)} classes")
        return from_arrays(np.stack(images), labels)

    def notes(self) -> tuple[str, ...]:
        notes, read = [], self._count - len(self._bad)
        if self._resized and self._shape is not None:
            notes.append(f"{self._resized} of {read} images were brought to {self._shape[0]} × {self._shape[1]} pixels")
        if self._bad:
            shown = ", ".join(self._bad[:3]) + (", …" if len(self._bad) > 3 else "")
            notes.append(f"{len(self._bad)} images cannot be read and were left out: {shown}")
        return tuple(notes)


def _undecoded(table: Any, column: str) -> Any:
    import datasets

    if isinstance(table, datasets.IterableDataset):
        return table.decode(False)
    return table.cast_column(column, datasets.Image(decode=False))


def _places(data: Any) -> tuple[str, ...] | None:
    """Where the files may lie that a table names: in the folder that was given, the parts of the caches that hold data
    sets, and, for a stream, the Hub's repo. None, for a table that is in memory, is anywhere."""
    if not isinstance(data, str | os.PathLike):
        return None
    import datasets
    from huggingface_hub import constants

    if (folder := Path(data).expanduser()).is_dir():
        return (os.path.abspath(folder),)
    caches = (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)
    return (*map(os.path.abspath, caches), f"hf://datasets/{data}@")


def _from_table(table: Any, pictures: _Pictures, name: str) -> Source:
    column, label, names = _columns(table, name)
    images = pictures.read(_undecoded(table, column)[column], table[label] if label else None, names)
    if images is None:
        raise ValueError(f"{name} holds no image that can be read")
    return Source(images, names, pictures.notes())


def _content(stored: dict[str, Any] | None, places: tuple[str, ...] | None) -> io.BytesIO:
    """The bytes of an image, which are in the table, or in a file that lies in one of the `places`."""
    import fsspec

    if stored is None:
        raise ValueError("it is missing")
    if stored["bytes"] is not None:
        return io.BytesIO(stored["bytes"])
    path = stored["path"]
    *_, whole = path.split("::")  # of a file in an archive, the archive
    remote = "://" in whole
    place = whole if remote else os.path.abspath(whole)
    inside = places is None or any(place.startswith(p if remote else os.path.join(p, "")) for p in places)
    if not inside:
        raise ValueError("it lies outside of the data set")
    with answers("of", path) if remote else contextlib.nullcontext(), fsspec.open(path, "rb") as file:
        return io.BytesIO(file.read())


def _decode(stored: dict[str, Any] | None, places: tuple[str, ...] | None) -> Any:
    """An upright picture of 8 bits a channel, grey or in colour."""
    from PIL import Image, ImageOps

    with Image.open(_content(stored, places)) as picture:
        if picture.mode not in _EIGHT_BIT:
            raise ValueError(f"mode {picture.mode}; expected 8 bits a channel")
        upright = ImageOps.exif_transpose(picture)
    return (
        upright if upright.mode in _MODES.values() else upright.convert("L" if upright.mode in ("1", "LA") else "RGB")
    )


def fit(picture: Any, shape: tuple[int, ...], resampling: str = "LANCZOS") -> Any:
    """The middle of a PIL image as one of `shape`, scaled by that of Pillow's ways."""
    from PIL import Image, ImageOps

    height, width, channels = shape
    if channels not in _MODES:
        raise ValueError(f"images of {channels} channels; files give {sorted(_MODES)}")
    return ImageOps.fit(picture.convert(_MODES[channels]), (width, height), Image.Resampling[resampling])
