"""From a name to a folder of files, and from files to a folder. Knows no model.

A model's folder holds `config.json`, `model.safetensors` and `README.md`, the model card. Nothing in it is executed or
unpickled.
"""

import difflib
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

Layout = Mapping[str, tuple[str, ...]]  # key -> the names of its array's axes

_BUNDLED = Path(__file__).parent / "weights"


def list_pretrained() -> list[str]:
    """The names of the bundled pretrained models."""
    return sorted(folder.name for folder in _BUNDLED.iterdir() if (folder / CONFIG).is_file())


def find_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a bundled name, or the folder that `name` is.

    **Raises** FileNotFoundError, with the names that come nearest, when it is neither.
    """
    bundled = list_pretrained()
    if name in bundled:
        return _BUNDLED / name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    near = difflib.get_close_matches(str(name), bundled)
    hint = f"did you mean {' or '.join(near)}?" if near else f"bundled are {', '.join(bundled)}"
    raise FileNotFoundError(f'"{name}" is neither a bundled model nor a folder; {hint}')


class Card(NamedTuple):
    """A model card: what its metadata says of data and scores, and the text beneath."""

    datasets: list[str]
    metrics: list[dict[str, Any]]
    text: str


def read_card(name: str | os.PathLike[str]) -> Card:
    """The model card of a bundled name or a folder. **Raises** FileNotFoundError, or ValueError naming the file."""
    path = _existing(find_folder(name) / CARD)
    match = re.match(r"---\n(.*?)\n---\n(.*)", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    if not match:
        raise ValueError(f"{path} does not begin with metadata between two lines of ---")
    try:
        metadata = yaml.safe_load(match[1])
        results = [result for model in metadata.get("model-index", []) for result in model["results"]]
        metrics = [metric for result in results for metric in result["metrics"]]
        return Card(list(metadata.get("datasets", [])), metrics, match[2])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has metadata that are not a model card's: {error!r}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The object in `config.json`. **Raises** FileNotFoundError, or ValueError naming the file."""
    path = _existing(folder / CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}; expected an object")
    return config


def read_tensors(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors of `model.safetensors`, which must be those of `expected`, shape by shape.

    **Raises** FileNotFoundError, or ValueError naming the file and the tensor, what was expected and what was found.
    """
    path = _existing(folder / WEIGHTS)
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if found.keys() != expected.keys():
                missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
                raise ValueError(f"{path} does not fit its config.json: missing tensors {missing}, unknown {unknown}")
            for name, shape in expected.items():
                if found[name] != tuple(shape):
                    raise ValueError(f'{path}: tensor "{name}" has shape {found[name]}, the config expects {shape}')
            return {name: file.get_tensor(name) for name in expected}
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or corrupt ({path.stat().st_size} bytes): {error}") from None


def read_archive(path: str | Path, layout: Layout) -> dict[str, np.ndarray]:
    """The arrays of a numpy archive, in float32; `layout` names the axes of each, and an axis has one size in all.

    **Raises** FileNotFoundError, or ValueError naming the file, the key, what was expected and what was found.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except Exception as error:  # whatever a broken archive makes numpy and its zip reader raise
        raise ValueError(f"{path} is not an archive of numpy arrays (.npz): {error}") from None
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
    """Of each axis the size that most arrays have, so that the odd one is named; of the arrays that do not agree on the
    axis that most have in common, none has a say."""
    named = [dict(zip(axes, found[key], strict=True)) for key, axes in layout.items() if len(axes) == len(found[key])]
    (common, _), *_ = Counter(axis for axes in layout.values() for axis in set(axes)).most_common(1)
    size = next(iter(Counter(shape[common] for shape in named if common in shape).most_common(1)), (None,))[0]
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for shape in named:
        if shape.get(common, size) == size:
            for axis, length in shape.items():
                counts[axis][length] += 1
    return {axis: count.most_common(1)[0][0] for axis, count in counts.items()}


def write_folder(folder: Path, config: dict[str, Any], tensors: Mapping[str, np.ndarray], card: str) -> None:
    """Write the three files of a model, each aside before it takes the place of one that was there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        aside = Path(name)
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, aside / WEIGHTS)
        (aside / WEIGHTS).chmod((aside / CONFIG).stat().st_mode)  # safetensors leaves them to the owner alone
        (aside / CARD).write_text(card, encoding="utf-8")
        for file in (CONFIG, WEIGHTS, CARD):
            (aside / file).replace(folder / file)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a model's folder holds {CONFIG}, {WEIGHTS} and {CARD}")
    return path
