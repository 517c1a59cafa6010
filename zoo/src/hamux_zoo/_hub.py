"""From a name to a folder of files."""

import difflib
import os
from pathlib import Path

from ._folder import CONFIG

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
