"""A model's folder on the disk: `config.json`, the weights and `README.md`, the model card.

Knows no model, and executes or unpickles nothing. `config.json` names the files of the weights, with their SHA-256:
`model.safetensors`, or shards of it. Whatever is wrong with the files is said before memory is taken for their content.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

CONFIG, WEIGHTS, INDEX, CARD = "config.json", "model.safetensors", "model.safetensors.index.json", "README.md"
FORMAT_VERSION = 2
SHARD_SIZE = 2 * 10**9  # bytes
FLOATS = ("F16", "BF16", "F32", "F64")

_KEYS = ("model_type", "format_version", "hamux_zoo_version", "config", "class_names", "sha256")
_SHARDS = "model{suffix}.safetensors"
_OF_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_LARGEST_TEXT, _LARGEST_HEADER = 2**20, 2**24  # bytes
_ASIDE, _READY = ".saving-", ".saved"


def read_config(folder: Path) -> dict[str, Any]:
    """The object in `config.json`, in the newest format.

    **Raises** FileNotFoundError, or ValueError naming the file, for what is no object in strict JSON, or of a format
    that is not known.
    """
    _take_over(folder)
    return _config(folder)


def read_text(folder: Path, name: str) -> str:
    """A text in a model's folder. **Raises** as `existing`; ValueError for a file that is too large, or no text."""
    path = existing(folder, name)
    if (size := path.stat().st_size) > _LARGEST_TEXT:
        raise ValueError(f"{path} has {size} bytes; {_LARGEST_TEXT} are the most that are read")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from None


def _config(folder: Path) -> dict[str, Any]:
    text, path = read_text(folder, CONFIG), folder / CONFIG
    try:
        saved = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(saved, dict):
        raise ValueError(f"{path} holds a {type(saved).__name__}; expected an object")
    version = saved.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ValueError(f"{path}: format_version is {version}, this one reads {FORMAT_VERSION}; upgrade hamux-zoo")
    for older in range(version, FORMAT_VERSION):
        saved = _UPGRADES[older](saved)
    files = saved.get("sha256")
    if not isinstance(files, dict) or not files or not all(map(_OF_WEIGHTS.fullmatch, files)):
        raise ValueError(f'{path}: "sha256" is {files!r}, expected a checksum for {WEIGHTS} or for each of its shards')
    return saved


def _with_files(saved: dict[str, Any]) -> dict[str, Any]:
    """From format 1, that had one file of weights and no checksums."""
    return saved | {"format_version": 2, "sha256": {WEIGHTS: None}}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_files}  # from a format to the next


def read_tensors(
    folder: Path, checksums: Mapping[str, str | None], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of the weights, one after another, which must be those of `expected`, shape by shape, in floats;
    `checksums` are those of the files, as `config.json` has them under "sha256".

    **Raises** FileNotFoundError, or ValueError naming the file and the tensor, what was expected and what was found.
    """
    paths = [existing(folder, name) for name in checksums]
    found: dict[str, Path] = {}
    for path in paths:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                if name in found:
                    raise ValueError(f'{path} and {found[name].name} both hold tensor "{name[:80]}"')
                found[name] = path
                stored = file.get_slice(name)
                shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
                if name in expected and shape != tuple(expected[name]):
                    raise ValueError(f'{path}: tensor "{name}" has shape {shape}, the config expects {expected[name]}')
                if dtype not in FLOATS:
                    raise ValueError(f'{path}: tensor "{name[:80]}" is {dtype}, expected one of {", ".join(FLOATS)}')
    if found.keys() != expected.keys():
        missing, unknown = _some(expected.keys() - found.keys()), _some(found.keys() - expected.keys())
        whole = paths[0] if len(paths) == 1 else folder
        raise ValueError(f"{whole} does not fit its {CONFIG}: missing tensors {missing}, unknown {unknown}")
    for path in paths:
        if (checksum := checksums[path.name]) is not None and checksum != (own := _sha256(path)):
            raise ValueError(
                f"{path} is not the file that was saved: its SHA-256 is {own}, {CONFIG} says {checksum}. Fetch or save "
                "it again; null there, instead of a checksum, takes any file"
            )
    for path in paths:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], card: str, shard_size: int = SHARD_SIZE
) -> None:
    """Write a model's files; what else the folder holds stays. Weights of more than `shard_size` bytes are cut into
    shards, with an index as of other Hub libraries.

    They are written aside, and count from the moment when their own folder gets its name: a crash leaves the old model
    or the new one. **Raises** OSError when they cannot be written; the old model stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _write(folder, config, tensors, card, shard_size)


def _write(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], card: str, shard_size: int
) -> None:
    from huggingface_hub import split_state_dict_into_shards_factory

    _take_over_locked(folder)
    for left in folder.glob(f"{_ASIDE}*"):
        shutil.rmtree(left)
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder))
    try:
        (aside / CARD).write_text(card, encoding="utf-8")
        parts = split_state_dict_into_shards_factory(
            dict(tensors), get_storage_size=_size, filename_pattern=_SHARDS, max_shard_size=shard_size
        )
        for file, names in parts.filename_to_tensors.items():
            save_file({name: np.asarray(tensors[name], order="C") for name in names}, aside / file)
            (aside / file).chmod((aside / CARD).stat().st_mode)  # safetensors leaves them to the owner alone
        if parts.is_sharded:
            index = {"metadata": parts.metadata, "weight_map": parts.tensor_to_filename}
            (aside / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        checksums = {file: _sha256(aside / file) for file in parts.filename_to_tensors}
        saved = {**config, "format_version": FORMAT_VERSION, "sha256": checksums}
        write_config(aside, saved)
        for path in aside.iterdir():
            if (folder / path.name).is_dir():
                raise IsADirectoryError(f"{folder / path.name} is a folder; a model has a file of this name")
            with path.open("rb") as written:
                os.fsync(written.fileno())
        aside.rename(folder / _READY)
    except SafetensorError as error:
        raise OSError(f"no model could be saved in {folder}: {error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _take_over_locked(folder)


def write_config(folder: Path, saved: Mapping[str, Any]) -> None:
    """Write `config.json`, its keys in the same order always."""
    ordered = {key: saved[key] for key in (*_KEYS, *saved) if key in saved}
    (folder / CONFIG).write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def files_of(folder: Path) -> list[str]:
    """The names of the files of a model's folder: config, weights, card, and the pictures beside it."""
    weights = list(read_config(folder)["sha256"])
    others = [name for name in (INDEX, CARD) if (folder / name).is_file() and (name != INDEX or len(weights) > 1)]
    names = [CONFIG, *weights, *others, *sorted(picture.name for picture in folder.glob("*.png"))]
    return [existing(folder, name).name for name in names]


def is_of_weights(name: str) -> bool:
    """Whether a file of this name is one of a model's weights."""
    return name == INDEX or _OF_WEIGHTS.fullmatch(name) is not None


def existing(folder: Path, name: str) -> Path:
    """The path of a file in a folder. **Raises** FileNotFoundError when it is missing, ValueError for a link that leads
    out of the folder, or, of a snapshot in the Hub's cache, out of the repo's part of it."""
    path, home = folder / name, folder.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a model's folder holds {CONFIG}, {WEIGHTS} and {CARD}")
    if home.parent.name == "snapshots" and home.parents[1].name.startswith("models--"):
        home = home.parents[1]
    if not path.resolve().is_relative_to(home):
        raise ValueError(f"{path} is a link out of its folder, and is not followed")
    return path


def _take_over(folder: Path) -> None:
    """Finish a save that has written all its files, and was perhaps cut short then."""
    if (folder / _READY).is_dir():
        with _locked(folder):
            _take_over_locked(folder)


def _take_over_locked(folder: Path) -> None:
    ready = folder / _READY
    if ready.is_symlink() or not ready.is_dir():
        return
    if files := sorted(ready.iterdir(), key=lambda file: file.name == CONFIG):
        ours = {CONFIG, INDEX, CARD, *_config(ready)["sha256"]}
        if strange := [file.name for file in files if file.name not in ours or file.is_symlink() or file.is_dir()]:
            raise ValueError(f"{ready} holds {strange}, which no save has written; look at it, and delete it")
    for file in files:
        file.replace(folder / file.name)
    ready.rmdir()
    wanted = _config(folder)["sha256"]
    for file in folder.iterdir():
        if is_of_weights(file.name) and file.name not in wanted and (file.name != INDEX or len(wanted) == 1):
            file.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time changes the folder; a lock goes with the process that holds it, however that ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file of tensors. **Raises** ValueError when it is none, or its header does not fit it."""
    size = path.stat().st_size
    with path.open("rb") as start:
        header = int.from_bytes(start.read(8), "little")
    try:
        if header > _LARGEST_HEADER:
            raise SafetensorError(f"a header of {header} bytes; {_LARGEST_HEADER} are the most that are read")
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or corrupt ({size} bytes): {error}") from None


def _some(names: Iterable[str]) -> str:
    """The first of the names, each no longer than a line."""
    shown = sorted(names)
    return str([name[:80] for name in shown[:5]]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _size(tensor: np.ndarray) -> int:
    return tensor.nbytes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finite(text: str) -> float:
    """**Raises** ValueError for NaN and infinity, and numbers that are as good as that."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """**Raises** ValueError for a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"the keys {twice} are there more than once")
    return found
