"""From a name to a folder of files, and from files to a folder. Knows no model.

A model's folder holds `config.json`, `model.safetensors` and `README.md`, the model card. Nothing in it is executed or
unpickled.
"""

import difflib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

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
