"""Reading a model's folder: `config.json`, the weights, and the model card `README.md`.

It knows no model and never executes or unpickles anything. `config.json` names the files of the weights with their
SHA-256: `model.safetensors` or its shards. Faults are found before the content of a file takes memory.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from safetensors import SafetensorError, safe_open

CONFIG, WEIGHTS, INDEX, CARD = "config.json", "model.safetensors", "model.safetensors.index.json", "README.md"
READY = ".saved"  # the folder of a save whose files are complete and still have to take their places
_JUNK = {".DS_Store", "Thumbs.db", "desktop.ini"}
FORMAT_VERSION = 3
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}

_OF_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_LARGEST_TEXT, _LARGEST_HEADER = 2**20, 2**24  # bytes


class SavedConfig(TypedDict):
    """The object in `config.json`. `sha256` has the checksum of each file of weights, or None to take any file."""

    model_type: str
    format_version: int
    config: dict[str, object]
    sha256: dict[str, str | None]


def is_junk(name: str) -> bool:
    """Whether a file of that name is one that systems put into folders by themselves."""
    return name in _JUNK or name.startswith("._")


def contents(folder: Path) -> list[str]:
    """Returns the names in a folder, without junk."""
    return [path.name for path in folder.iterdir() if not is_junk(path.name)]


def read_config(folder: Path) -> SavedConfig:
    """Returns the object in `config.json`, after finishing a save that was interrupted.

    **Raises** FileNotFoundError, or ValueError naming the file, for anything but strict JSON of this format.
    """
    if (folder / READY).is_dir():
        with locked(folder):
            finish_save(folder)
    text, path = read_text(folder, CONFIG), folder / CONFIG
    try:
        saved = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_unique)
        json.dumps(saved, ensure_ascii=False).encode()  # fails for half a surrogate pair, which no text file can hold
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(saved, dict):
        raise ValueError(f"{path} holds a {type(saved).__name__}; expected an object")
    version = saved.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: format_version is {version!r}; expected {FORMAT_VERSION}")
    if version != FORMAT_VERSION:
        way_out = "use hamux-zoo 0.6, which reads it" if version < FORMAT_VERSION else "upgrade hamux-zoo"
        raise ValueError(f"{path}: format_version is {version}, this one reads {FORMAT_VERSION}; {way_out}")
    for key, kind in {"model_type": str, "config": dict}.items():
        if not isinstance(value := saved.get(key), kind):
            raise ValueError(f"{path}: {key} is {value!r}; expected {'a string' if kind is str else 'an object'}")
    files = saved.get("sha256")
    if not (
        isinstance(files, dict)
        and files
        and all(_OF_WEIGHTS.fullmatch(name) and isinstance(value, str | None) for name, value in files.items())
    ):
        raise ValueError(f"{path}: sha256 is {files!r}; expected a checksum for {WEIGHTS} or for each of its shards")
    return cast(SavedConfig, saved)


def read_text(folder: Path, name: str) -> str:
    """Returns a text file. **Raises** as `existing`, and ValueError for a file that is too large or not UTF-8."""
    path = existing(folder, name)
    if (size := path.stat().st_size) > _LARGEST_TEXT:
        raise ValueError(f"{path} has {size} bytes; at most {_LARGEST_TEXT} are read")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def sizes(folder: Path, names: Iterable[str]) -> tuple[int, int]:
    """Returns how many numbers some files of weights hold, and the bytes that they take, by their headers alone."""
    numbers = nbytes = 0
    for name in names:
        with _opened(existing(folder, name)) as file:
            for tensor in map(file.get_slice, file.keys()):
                count = math.prod(tensor.get_shape())
                numbers, nbytes = numbers + count, nbytes + count * np.dtype(FLOATS[tensor.get_dtype()]).itemsize
    return numbers, nbytes


def read_tensors(
    folder: Path, checksums: Mapping[str, str | None], expected: Mapping[str, tuple[int, ...]] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of the weights one by one, once all files have been checked.

    - `checksums`: `sha256` of `config.json`.
    - `expected`: the shape of each tensor, or None to take any. They may hold any floats, NaN included.

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
                wanted = (expected or {}).get(name, shape)
                if shape != tuple(wanted):
                    raise ValueError(f'{path}: tensor "{name}" has shape {shape}, the config expects {wanted}')
                if dtype not in FLOATS:
                    raise ValueError(f'{path}: tensor "{name[:80]}" is {dtype}; expected one of {", ".join(FLOATS)}')
    if expected is not None and found.keys() != expected.keys():
        missing, unknown = _some(expected.keys() - found.keys()), _some(found.keys() - expected.keys())
        whole = paths[0] if len(paths) == 1 else folder
        raise ValueError(f"{whole} does not fit its {CONFIG}: missing tensors {missing}, unknown {unknown}")
    for path in paths:
        if (checksum := checksums[path.name]) is not None and checksum != (own := sha256(path)):
            raise ValueError(
                f"{path} is not the file that was saved: its SHA-256 is {own}, {CONFIG} says {checksum}. Fetch or save "
                "it again, or write null instead of the checksum to take any file"
            )
    for path in paths:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def is_of_weights(name: str) -> bool:
    """Returns whether a file of this name belongs to a model's weights."""
    return name == INDEX or _OF_WEIGHTS.fullmatch(name) is not None


def existing(folder: Path, name: str) -> Path:
    """Returns the path of a file in a folder.

    **Raises** FileNotFoundError if it is missing, and ValueError for a link out of the folder. A snapshot in the Hub's
    cache may link to anything of its own repo.
    """
    path, home = folder / name, folder.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a model's folder holds {CONFIG}, {WEIGHTS} and {CARD}")
    if home.parent.name == "snapshots" and home.parents[1].name.startswith("models--"):
        home = home.parents[1]
    if not path.resolve().is_relative_to(home):
        raise ValueError(f"{path} is a link out of its folder, and is not followed")
    return path


def finish_save(folder: Path) -> None:
    """Moves the files of a complete save to their places. The folder has to be `locked`."""
    ready = folder / READY
    if ready.is_symlink() or not ready.is_dir():
        return
    if files := sorted(ready.iterdir(), key=lambda file: file.name == CONFIG):
        ours = {CONFIG, INDEX, CARD, *read_config(ready)["sha256"]}
        if strange := [file.name for file in files if file.name not in ours or file.is_symlink() or file.is_dir()]:
            raise ValueError(f"{ready} holds {strange}, which no save has written; look at it, and delete it")
    for file in files:
        file.replace(folder / file.name)
    ready.rmdir()
    wanted = read_config(folder)["sha256"]
    for file in folder.iterdir():
        kept = file.name in wanted or (file.name == INDEX and len(wanted) > 1)
        if is_of_weights(file.name) and not kept and not file.is_dir():
            file.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time change the folder. The lock ends with the process that holds it."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """Opens a file of tensors. **Raises** ValueError if it is none, or if its header does not fit its size."""
    size = path.stat().st_size
    with path.open("rb") as start:
        header = int.from_bytes(start.read(8), "little")
    try:
        if header > _LARGEST_HEADER:
            raise SafetensorError(f"a header of {header} bytes; at most {_LARGEST_HEADER} are read")
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or corrupt ({size} bytes): {error}") from None


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: Iterable[str]) -> str:
    """The first names, each cut to one line."""
    shown = sorted(names)
    return str([name[:80] for name in shown[:5]]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _finite(text: str) -> float:
    """**Raises** ValueError for NaN, for infinity, and for numbers that round to it."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """**Raises** ValueError for a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"the keys {twice} are there more than once")
    return found
