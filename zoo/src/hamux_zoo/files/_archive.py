"""The arrays of an archive that others publish, checked against a layout."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Layout = Mapping[str, tuple[str, ...]]  # key -> the names of its array's axes


def read_archive(path: str | Path, layout: Layout) -> dict[str, np.ndarray]:
    """Returns the arrays of a NumPy archive in float32.

    `layout` names the axes of each array. An axis has the same size wherever it occurs.

    **Raises** FileNotFoundError, or ValueError naming the file, the key, what was expected and what was found.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except Exception:  # a broken archive makes NumPy and its zip reader raise anything
        raise ValueError(f"{path} is not an archive of numpy arrays (.npz), or holds pickled objects") from None
    if arrays.keys() != layout.keys():
        missing, extra = sorted(layout.keys() - arrays.keys()), sorted(arrays.keys() - layout.keys())
        raise ValueError(f"{path} does not hold the authors' checkpoint: missing keys {missing}, extra keys {extra}")
    found = {key: np.shape(array) for key, array in arrays.items()}
    sizes = _sizes_of_axes(layout, found)
    for key, axes in layout.items():
        expected, dtype = tuple(sizes.get(axis, axis) for axis in axes), np.asarray(arrays[key]).dtype
        if found[key] != expected or 0 in expected or dtype.kind != "f":
            raise ValueError(
                f"{path}: {key} has shape {found[key]} and dtype {dtype}, expected floats of shape {expected}, "
                f"({', '.join(axes)})"
            )
    with np.errstate(over="ignore"):
        singles = {key: np.asarray(array, np.float32) for key, array in arrays.items()}
    if wrong := [key for key, array in singles.items() if not np.isfinite(array).all()]:
        raise ValueError(f"{path}: {wrong} hold numbers that are not finite, or not in float32")
    return singles


def _sizes_of_axes(layout: Layout, found: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of each axis in most arrays, so that the odd array is the one an error names.

    Arrays that disagree on the most frequent axis are left out of the count.
    """
    named = [dict(zip(axes, found[key], strict=True)) for key, axes in layout.items() if len(axes) == len(found[key])]
    counts = Counter(pair for shape in named for pair in shape.items())
    common, size = max(counts, key=counts.__getitem__, default=("", 0))
    counts = Counter(pair for shape in named if shape.get(common, size) == size for pair in shape.items())
    return dict(pair for pair, _ in reversed(counts.most_common()))
