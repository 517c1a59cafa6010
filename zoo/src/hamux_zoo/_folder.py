"""A model's folder on the disk: `config.json`, `model.safetensors` and `README.md`, the model card. Knows no model, and
executes or unpickles nothing."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def read_config(folder: Path) -> dict[str, Any]:
    """The object in `config.json`. **Raises** FileNotFoundError, or ValueError naming the file."""
    path = existing(folder / CONFIG)
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
    path = existing(folder / WEIGHTS)
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


def existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a model's folder holds {CONFIG}, {WEIGHTS} and {CARD}")
    return path
