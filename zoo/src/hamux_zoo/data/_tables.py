"""Reading data sets: folders, files, the Hub, tables of `datasets`, and arrays."""

import collections
import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypedDict, Unpack, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from ..files import answers
from ..pixels import fit, flatten, open_picture
from ._folders import LABELS, Found, find_pictures
from ._images import Images, from_arrays, whole_number

if TYPE_CHECKING:
    import datasets


class Source(NamedTuple):
    """A split of a data set.

    - `images`: its images and labels.
    - `names`: the classes' names, or () if they have none.
    - `notes`: sentences on how the images were read.
    - `hub_id`: the data set's id, if it is from the Hub.
    """

    images: Images
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hub_id: str | None = None

    @property
    def classes(self) -> int:
        """The number of classes: of the names, or else the largest label plus one; 0 without labels."""
        labels = self.images.labels
        return len(self.names) or (0 if labels is None else int(labels.max()) + 1)

    def check_classes(self) -> None:
        """**Raises** ValueError if the images have no labels, or are all of one class."""
        labels = self.images.labels
        if labels is None:
            raise ValueError(
                "the data have no labels to learn; a folder of images has one folder for each class, at least two, and "
                "no image beside them"
            )
        if len(np.unique(labels)) < 2:
            only = self.names[labels[0]] if self.names else labels[0]
            raise ValueError(f"all images are of one class ({only}); expected two or more")

    def named_by_number(self) -> "Source":
        """Returns the data with each label that occurs as the name of a class, in order, if there are none yet."""
        if self.names or self.images.labels is None:
            return self
        values, numbers = np.unique(self.images.labels, return_inverse=True)
        images = self.images._replace(labels=numbers.astype(np.int32))
        return self._replace(images=images, names=tuple(map(str, values)))

    def densely_numbered(self, known: int = 0) -> "Source":
        """Returns the data `named_by_number` if their labels are sparse, such as 100, 200 and 300.

        They are if they leave out more than half of the numbers, and some are beyond the `known` classes of a model.
        """
        labels = self.images.labels
        sparse = labels is not None and labels.max() >= max(known, 2 * len(np.unique(labels)))
        return self.named_by_number() if sparse else self

    def numbered_as(self, names: Sequence[str]) -> "Source":
        """Returns the data with the labels of a model whose classes are `names`.

        If the model has no names, or has words where the data have numbers, the data stay as they are. **Raises**
        ValueError if the model lacks a class.
        """
        if names and all(name.isdecimal() for name in names):
            self = self.named_by_number()
        if not names or not self.names:
            return self
        if unknown := [name for name in self.names if name not in names]:
            raise ValueError(f"the model does not know the classes {unknown}; it knows {list(names)}")
        labels = np.array([names.index(name) for name in self.names])[self.images.labels]
        return self._replace(images=self.images._replace(labels=labels), names=tuple(names))


class Reading(TypedDict, total=False):
    """The options of `load_images` that say what is used, and as what."""

    skip_bad: bool
    label_column: str | None
    class_folder: int


@runtime_checkable
class _Arraylike(Protocol):
    """What NumPy takes for an array, of whatever library."""

    def __array__(self) -> np.ndarray: ...


Table: TypeAlias = "datasets.Dataset | datasets.IterableDataset"
Tables: TypeAlias = "datasets.DatasetDict | datasets.IterableDatasetDict"
Arrays: TypeAlias = ArrayLike | tuple[ArrayLike, ArrayLike | None]
Data: TypeAlias = "str | os.PathLike[str] | Arrays | Images | Source | Table | Tables"


def load_images(
    data: Data,
    split: str = "train",
    *,
    shape: Sequence[int] | None = None,
    skip_bad: bool = False,
    revision: str | None = None,
    label_column: str | None = None,
    class_folder: int = 0,
) -> Images:
    """Returns a split of a data set, its images as floats in [0, 1].

    - `data`: a data set's id on the Hub, a folder (of images with one folder for each class, or of a data set's files),
      a parquet file, a `datasets.Dataset`, a pair of arrays (images, labels), or images alone. Arrays are bytes, or
      floats in [0, 1], (count, height, width) or with channels last. A data set that does not fit into memory is read
      with `stream_images`.
    - `shape`: (height, width, channels). Images from files are turned upright, cropped around their middle, resized by
      Lanczos resampling, and made grey or coloured to fit it. Without it they must all be alike. Arrays must have it.
    - `skip_bad`: leave out images that cannot be read.
    - `revision`: a branch, a tag or a commit on the Hub. For a private data set, set HF_TOKEN.
    - `label_column`: the column that holds the classes, if it is not declared and not called "label", "labels" or
      "class".
    - `class_folder`: which of the folders on the way to a picture is its class. 0 is the first one below the folder, or
      below its split, and −1 the last.

    **Raises** FileNotFoundError if there is no such data set, or an empty one; and ValueError for an image that cannot
    be read, which it names, for a table without one column of images, for images of several sizes without a `shape`,
    for labels that are not classes, for arrays that are not images, and for a `revision` of data not on the Hub.
    """
    options = Reading(skip_bad=skip_bad, label_column=label_column, class_folder=class_folder)
    return read(data, split, shape=shape, revision=revision, **options).images.take(slice(None))


def stream_images(
    data: Data,
    split: str = "train",
    *,
    shape: Sequence[int] | None = None,
    batch_size: int = 64,
    skip_bad: bool = False,
    revision: str | None = None,
    label_column: str | None = None,
    class_folder: int = 0,
) -> Iterator[Images]:
    """Yields the images of `load_images` in batches, of which only one is in memory; the last may be smaller.

    `data` is an id on the Hub, a folder, a parquet file or a `datasets.IterableDataset`. From the Hub, only what is
    looked at is fetched. Other arguments are those of `load_images`.

    **Raises** as `load_images`, for an image when its batch is reached; ValueError for a `batch_size` below 1; and
    ConnectionError if the Hub stops answering.
    """
    size = whole_number("batch_size", batch_size, 1)
    options = Reading(skip_bad=skip_bad, label_column=label_column, class_folder=class_folder)
    return _Pictures(data, split, _checked_shape(shape), revision, streaming=True, **options).stream(size)


def read(
    data: Data,
    split: str = "train",
    *,
    shape: Sequence[int] | None = None,
    revision: str | None = None,
    **options: Unpack[Reading],
) -> Source:
    """Returns what `load_images` does, as bytes if it is stored so, with the classes' names and notes.

    Arguments and errors are those of `load_images`.
    """
    wanted = _checked_shape(shape)
    _hub_id(data, revision)
    if isinstance(data, Source):
        return data._replace(images=from_arrays(data.images.images, data.images.labels, wanted))
    if isinstance(data, list | tuple | _Arraylike) and (column := options.get("label_column")) is not None:
        raise ValueError(f'`label_column` is "{column}", but the data are arrays, which have no columns')
    if isinstance(data, tuple) and len(data) == 2:
        images, labels = data
        names, numbers = _numbered(labels)
        return Source(from_arrays(images, numbers, wanted), names)
    if isinstance(data, list | _Arraylike):
        return Source(from_arrays(data, None, wanted))
    return _Pictures(data, split, wanted, revision, **options).source()


def splits(data: Data) -> list[str]:
    """Returns the names of a data set's splits. **Raises** as `load_images`."""
    found = _pictures_in(data)
    return sorted(_open(data) if found is None else found.files)


def _checked_shape(shape: Sequence[int] | None) -> tuple[int, ...] | None:
    if shape is None:
        return None
    if np.shape(shape) != (3,):
        raise ValueError(f"`shape` is {shape}; expected three whole numbers, (height, width, channels)")
    return tuple(whole_number("shape", size, 1) for size in shape)


def _hub_id(data: Data, revision: str | None) -> str | None:
    """The data set's id if it is on the Hub. **Raises** ValueError for a `revision` of data that are not."""
    hub_id = data if isinstance(data, str) and not Path(data).expanduser().exists() else None
    if revision is not None and hub_id is None:
        raise ValueError(f"{_name_of(data)} is not on the Hub: it has no revision {revision!r}")
    return hub_id


def _name_of(data: Data) -> str:
    return str(data) if isinstance(data, str | os.PathLike) else "the data set"


def _open(data: Data, revision: str | None = None, streaming: bool = False) -> dict[str, Table]:
    """The tables of a data set, by split. **Raises** FileNotFoundError, ValueError."""
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
                f'"{data}" is neither a folder with a data set nor one on the Hub: {error}'
            ) from None
        except (ValueError, datasets.exceptions.DatasetBuildError) as error:
            raise ValueError(f'"{data}" cannot be read: {error.__cause__ or error}') from None
    if isinstance(data, datasets.Dataset | datasets.IterableDataset):
        return {"train": data}
    if not isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise ValueError(f"data of type {type(data).__name__}; expected a folder, a Hub id, a data set, or arrays")
    return dict(data)


def _numbered(labels: object) -> tuple[tuple[str, ...], object]:
    """The names of classes that are given by name, and numbers in their place; other labels as they are."""
    values = list(labels) if isinstance(labels, list | tuple | np.ndarray) and np.ndim(labels) == 1 else []
    if not values or not all(isinstance(value, str) for value in values):
        return (), labels
    names, numbers = np.unique(values, return_inverse=True)
    return tuple(map(str, names)), numbers


def _with_numbers(table: Table, column: str, name: str) -> "datasets.Dataset":
    """The table with numbers in place of the classes' names in a column."""
    import datasets

    if isinstance(table, datasets.IterableDataset):
        raise ValueError(f'{name} has classes by name in the column "{column}", which a stream cannot number')
    return table.class_encode_column(column)


def _pictures_in(data: Data, label_column: str | None = None, class_folder: int = 0) -> Found | None:
    """The pictures in a local folder, if it is one and holds any."""
    path = Path(data).expanduser() if isinstance(data, str | os.PathLike) else None
    return find_pictures(path, label_column, class_folder) if path is not None and path.is_dir() else None


def _tables_of(found: Found, streaming: bool) -> dict[str, Table]:
    """The pictures of a folder as tables, by split."""
    import datasets

    features: dict[str, object] = {"image": datasets.Image(decode=False)}
    features |= {"label": datasets.ClassLabel(names=list(found.names))} if found.classes else {}
    tables: dict[str, Table] = {}
    for split, files in found.files.items():
        columns: dict[str, list[Any]] = {"image": [{"bytes": None, "path": str(file)} for file in files]}
        columns |= {"label": list(found.classes[split])} if found.classes else {}
        table = datasets.Dataset.from_dict(columns, datasets.Features(features))
        tables[split] = table.to_iterable_dataset() if streaming else table
    return tables


class _Stored(TypedDict):
    """An image of a table, before it is decoded."""

    bytes: bytes | None
    path: str | None


class _Pictures:
    """The pictures of a split's table, and what was met while they were read."""

    def __init__(
        self,
        data: Data,
        split: str,
        shape: tuple[int, ...] | None,
        revision: str | None,
        *,
        streaming: bool = False,
        skip_bad: bool = False,
        label_column: str | None = None,
        class_folder: int = 0,
    ) -> None:
        import datasets

        self._name, self._shape, self._skip_bad, self._places = _name_of(data), shape, skip_bad, _places(data)
        self._hub_id = _hub_id(data, revision)
        found = _pictures_in(data, label_column, class_folder)
        self._found = found.notes(split) if found is not None and split in found.files else []
        tables = _open(data, revision, streaming) if found is None else _tables_of(found, streaming)
        self._count = 0
        self._changed: collections.Counter[str] = collections.Counter()
        self._bad: list[str] = []
        self._seen: collections.Counter[tuple[tuple[int, int], str]] = collections.Counter()
        if split not in tables:
            raise ValueError(f'{self._name} has no split "{split}"; there are {sorted(tables)}')
        features = tables[split].features or {}
        images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
        labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        if found is None and label_column is not None:
            labels = [label_column] if isinstance(features.get(label_column), datasets.ClassLabel) else []
        if not labels:
            columns = LABELS if label_column is None else (label_column,)
            kinds = {column: str(getattr(features.get(column), "dtype", "")) for column in columns}
            labels = [
                column for column, kind in kinds.items() if kind.startswith(("int", "uint", "string", "large_string"))
            ][:1]
            if not labels and label_column is not None:
                raise ValueError(
                    f'{self._name} has columns {list(features)}; expected whole numbers or names in "{label_column}"'
                )
            if labels and kinds[labels[0]].endswith("string"):
                tables[split] = _with_numbers(tables[split], labels[0], self._name)
                features = tables[split].features
        if len(images) != 1 or len(labels) > 1:
            raise ValueError(
                f"{self._name} has columns {list(features)}; expected one of images and at most one of class labels"
            )
        self._image, self._label = images[0], labels[0] if labels else None
        self._names: tuple[str, ...] = tuple(getattr(features.get(self._label), "names", None) or ())
        if isinstance(tables[split], datasets.IterableDataset):
            self._table = tables[split].decode(False)
        else:
            self._table = tables[split].cast_column(self._image, datasets.Image(decode=False))

    def source(self) -> Source:
        """Returns all of them."""
        if (images := self._read(self._table)) is None:
            raise ValueError(f"{self._name} holds no image that can be read")
        return Source(images, self._names, self._notes(), self._hub_id)

    def stream(self, batch_size: int) -> Iterator[Images]:
        """Yields them in batches."""
        with answers("in the middle of", self._name):
            for rows in self._table.iter(batch_size):
                if (images := self._read(rows)) is not None:
                    yield images.take(slice(None))

    def _read(self, rows: "Table | Mapping[str, Any]") -> Images | None:
        """The table, or a part of it, as bytes; None if none of its pictures can be read."""
        images, kept = [], []
        one: _Stored | None
        for index, one in enumerate(rows[self._image]):
            place = (one and one["path"]) or f"image {self._count} of {self._name}"
            self._count += 1
            try:
                picture, notes = open_picture(_content(one, self._places))
            except ConnectionError:
                raise
            except Exception as error:  # whatever a broken file makes Pillow's many readers raise
                if not self._skip_bad:
                    hint = "`skip_bad=True` leaves such images out"
                    raise ValueError(f"{place} cannot be read: {error} ({hint})") from None
                self._bad.append(place)
                continue
            if self._shape is not None:
                picture, more = fit(picture, self._shape)
            else:
                picture, more = flatten(picture) if picture.mode == "LA" else (picture, [])
                self._seen[(picture.height, picture.width), picture.mode] += 1
                if len(self._seen) > 1:
                    continue  # the images are refused below, after all kinds are counted
            self._changed.update([*notes, *more])
            images.append(np.asarray(picture))
            kept.append(index)
        if self._shape is None and len(self._seen) > 1:
            kinds = ", ".join(f"{count} of {h} × {w} {mode}" for ((h, w), mode), count in self._seen.most_common(3))
            raise ValueError(
                f"{self._name} has images of several sizes or modes ({kinds}); give the `shape` that they should get, "
                "such as [28,28,1]"
            )
        if not images:
            return None
        if self._label is None:
            return from_arrays(np.stack(images), None)
        classes = np.asarray(rows[self._label])[kept]
        if classes.dtype.kind not in "iu":
            raise ValueError(f"{self._name} has images without a label")
        if self._names and classes.max() >= len(self._names):
            span = f"labels from {classes.min()} to {classes.max()}"
            raise ValueError(f"{self._name} has {span}, but names for {len(self._names)} classes")
        return from_arrays(np.stack(images), classes)

    def _notes(self) -> tuple[str, ...]:
        notes, read = list(self._found), self._count - len(self._bad)
        notes += [f"{count} of {read} images were {change}" for change, count in self._changed.items()]
        if self._bad:
            shown = ", ".join(self._bad[:3]) + (", …" if len(self._bad) > 3 else "")
            notes.append(f"{len(self._bad)} images cannot be read and were left out: {shown}")
        return tuple(notes)


def _places(data: Data) -> tuple[str, ...] | None:
    """Where the files that a table names may lie; None allows any place, for a table in memory.

    They are the folder that was given, the caches that hold data sets and, for a stream, the repo on the Hub.
    """
    if not isinstance(data, str | os.PathLike):
        return None
    import datasets
    from huggingface_hub import constants

    if (folder := Path(data).expanduser()).is_dir():
        return (os.path.abspath(folder),)
    caches = (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)
    return (*map(os.path.abspath, caches), f"hf://datasets/{data}@")


def _content(stored: _Stored | None, places: tuple[str, ...] | None) -> io.BytesIO:
    """The bytes of an image, which are in the table or in a file that lies in one of the `places`."""
    import fsspec

    if stored is None:
        raise ValueError("it is missing")
    if stored["bytes"] is not None:
        return io.BytesIO(stored["bytes"])
    path = stored["path"] or ""
    *_, whole = path.split("::")  # of a file in an archive, the archive
    remote = "://" in whole
    place = whole if remote else os.path.abspath(whole)
    inside = places is None or any(place.startswith(p if remote else os.path.join(p, "")) for p in places)
    if not inside:
        raise ValueError("it lies outside of the data set")
    with answers("of", path) if remote else contextlib.nullcontext(), fsspec.open(path, "rb") as file:
        return io.BytesIO(file.read())
