"""Writing a model's folder: whole, readable, or not at all."""

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ._card import read_card
from ._folder import CARD, CONFIG, FLOATS, FORMAT_VERSION, INDEX, READY, finish_save, locked, sha256

if TYPE_CHECKING:
    from jax import Array

SHARD_SIZE = 2 * 10**9  # bytes
_ASIDE = ".saving-"


def write_folder(
    folder: Path,
    model_type: str,
    config: Mapping[str, object],
    tensors: Mapping[str, "Array | np.ndarray"],
    card: str,
    *,
    check: Callable[[Path], object],
    shard_size: int = SHARD_SIZE,
) -> None:
    """Writes a model's files, as `Memory.save_pretrained` does; anything else in the folder stays.

    They are written into a folder aside and read back from there, the card by `read_card` and the rest by `check`. They
    count as soon as that folder is renamed. Shards get the index that other libraries of the Hub expect.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        finish_save(folder)
        for left in folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(left)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder))
        try:
            (aside / CARD).write_text(card, encoding="utf-8")
            saved = {
                "model_type": model_type,
                "format_version": FORMAT_VERSION,
                "hamux_zoo_version": importlib.metadata.version("hamux-zoo"),
                "config": config,
                "sha256": _write_weights(aside, tensors, shard_size),
            }
            _write_json(aside / CONFIG, saved)
            read_card(aside)
            check(aside)
            for path in aside.iterdir():
                if (folder / path.name).is_dir():
                    raise IsADirectoryError(f"{folder / path.name} is a folder; a model has a file of this name")
                with path.open("rb") as written:
                    os.fsync(written.fileno())
            aside.rename(folder / READY)
        except (TypeError, ValueError, RecursionError) as error:
            reason = str(error).replace(f"{aside}{os.sep}", "")
            raise ValueError(f"nothing was saved in {folder}, for it could not be read again: {reason}") from None
        except SafetensorError as error:
            raise OSError(f"nothing was saved in {folder}: {error}") from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        finish_save(folder)


def _write_weights(folder: Path, tensors: Mapping[str, "Array | np.ndarray"], shard_size: int) -> dict[str, str]:
    """Writes the weights, and returns the checksum of each file."""
    from huggingface_hub import split_state_dict_into_shards_factory

    for name, tensor in tensors.items():
        if str(tensor.dtype) not in FLOATS.values():
            raise ValueError(f'tensor "{name}" is {tensor.dtype}; expected one of {", ".join(FLOATS.values())}')
    parts = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_size,
    )
    for file, names in parts.filename_to_tensors.items():
        save_file({name: np.asarray(tensors[name], order="C") for name in names}, folder / file)
        (folder / file).chmod((folder / CARD).stat().st_mode)  # safetensors lets only the owner read them
    if parts.is_sharded:
        _write_json(folder / INDEX, {"metadata": parts.metadata, "weight_map": parts.tensor_to_filename})
    return {file: sha256(folder / file) for file in parts.filename_to_tensors}


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
