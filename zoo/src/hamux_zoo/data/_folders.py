"""Folders of pictures: which files are used, of which split and class, and which are left out."""

import collections
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..files import is_junk

# What a folder at the top may be called, in any case, to be a split.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
# The columns that may hold the class of an image, if none is declared to do so.
LABELS = ("label", "labels", "class")
_TABLES = {"metadata.csv", "metadata.jsonl"}
_ADVICE = {
    ".heic": "not readable here; pip install pillow-heif",
    ".heif": "not readable here; pip install pillow-heif",
    ".svg": "drawn by lines; export them as .png",
}


class Found(NamedTuple):
    """The pictures of a folder.

    - `files`: by split. `classes`: the name of each one's class, or None if they have no classes.
    - `left_out`: files that are not used, and why.
    """

    files: Mapping[str, list[Path]]
    classes: Mapping[str, list[str]] | None
    left_out: list[tuple[Path, str]]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in the order of their names."""
        return tuple(sorted({name for each in self.classes.values() for name in each})) if self.classes else ()

    def notes(self, split: str) -> list[str]:
        """Sentences on what was found of a split, and on what is left out of the folder."""
        files, said = self.files[split], []
        if self.classes:
            counts = collections.Counter(self.classes[split])
            shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())[:10])
            more = ", …" if len(counts) > 10 else ""
            said.append(f"{len(files)} pictures in {len(counts)} classes ({shown}{more})")
        else:
            said.append(f"{len(files)} pictures without classes")
        if self.left_out:
            reasons = collections.Counter(reason for _, reason in self.left_out)
            why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            said.append(f"{len(self.left_out)} files left out: {why}")
        return said


def find_pictures(folder: Path, label_column: str | None = None, class_folder: int = 0) -> Found | None:
    """Returns the pictures in a folder and its subfolders, or None if there is none.

    Links are followed, except into a folder that they are in.

    | what lies in the folder | splits | class of a picture |
    |---|---|---|
    | folders that are all named as splits, such as "train" and "Testing" | each of them | as below, within it |
    | a single folder, and no picture beside it | as within it | as within it |
    | other folders, whatever their names | "train" | the first folder on the way to it, or that of `class_folder` |
    | pictures alone | "train" | none |

    A picture that lies beside folders of classes has no class, and is left out. Where a `metadata.csv` or
    `metadata.jsonl` has the columns file_name and "label", "labels" or "class", or else `label_column`, these are the
    classes, and a picture that it does not name is left out.
    """
    columns = LABELS if label_column is None else (label_column,)
    files, left_out, tables = list[Path](), list[tuple[Path, str]](), list[Path]()
    for file in files_below(folder):
        ending = file.suffix.lower()
        if is_junk(file.name):
            continue
        if not file.exists():
            left_out.append((file, "a link to nothing"))
        elif ending in picture_endings():
            files.append(file)
        elif file.name in _TABLES:
            tables.append(file)
        else:
            left_out.append((file, f"{ending or 'without an ending'} ({_ADVICE.get(ending, 'no picture')})"))
    if not files:
        return None
    ways = _without_single_folders({file: file.relative_to(folder).parts for file in files})
    tops = {way[0] for way in ways.values() if len(way) > 1}
    of = dict.fromkeys(files, "train")
    if tops and all(top.lower() in SPLITS for top in tops):
        of = {file: SPLITS[way[0].lower()] for file, way in ways.items() if len(way) > 1}
        left_out += [(file, "beside the splits") for file in files if file not in of]
        ways = _without_single_folders({file: ways[file][1:] for file in of})
    told = {file: name for table in tables for file, name in _told(table, columns).items()}
    if not told:
        left_out += [(table, f"{table.name} (without file_name and one of {', '.join(columns)})") for table in tables]
    if label_column is not None and not told:
        raise ValueError(
            f'{folder} has no metadata.csv or metadata.jsonl with the columns file_name and "{label_column}"'
        )
    classes: dict[Path, str] | None = None
    if told:
        classes = {file: told[file.absolute()] for file in of if file.absolute() in told}
        left_out += [(file, f"not named in {tables[0].name}") for file in of if file not in classes]
    elif any(len(ways[file]) > 1 for file in of):
        depth = class_folder + 1 if class_folder >= 0 else -class_folder
        classes = {file: ways[file][:-1][class_folder] for file in of if len(ways[file]) > depth}
        reasons = {1: "beside the folders of classes"}
        without = [file for file in of if file not in classes]
        left_out += [(file, reasons.get(len(ways[file]), "in too few folders to have a class")) for file in without]
        if not classes:
            raise ValueError(f"`class_folder` is {class_folder}, and no picture in {folder} lies in so many folders")
    used = list(of if classes is None else classes)
    grouped = {split: [file for file in used if of[file] == split] for split in sorted({of[file] for file in used})}
    if classes is None:
        return Found(grouped, None, left_out)
    return Found(grouped, {split: [classes[file] for file in some] for split, some in grouped.items()}, left_out)


def _told(table: Path, columns: Sequence[str]) -> dict[Path, str]:
    """The class of each file that a table names. **Raises** ValueError, naming the table, if it cannot be read."""
    import pandas as pd

    try:
        rows = pd.read_csv(table, dtype=str) if table.suffix == ".csv" else pd.read_json(table, lines=True, dtype=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{table} cannot be read: {error}") from None
    label = next((column for column in columns if column in rows), None)
    if "file_name" not in rows or label is None:
        return {}
    folder = table.absolute().parent
    named = zip(rows["file_name"], rows[label], strict=True)
    return {Path(os.path.normpath(folder / str(name))): str(value) for name, value in named}


def _without_single_folders(parts: Mapping[Path, tuple[str, ...]]) -> dict[Path, tuple[str, ...]]:
    """The ways to files without the folders at their beginning that all of them have, if another folder follows."""
    ways = dict(parts)
    while len({way[0] for way in ways.values()}) == 1 and all(len(way) > 2 for way in ways.values()):
        ways = {file: way[1:] for file, way in ways.items()}
    return ways


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yields the files below a folder, in the order of their names.

    Links are followed, except into one of the folders `above`, where the way to it began.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from files_below(Path(entry), (*above, here))
        elif entry.is_file() or entry.is_symlink():
            yield Path(entry)


@functools.cache
def picture_endings() -> frozenset[str]:
    """Returns the endings of the files that Pillow reads."""
    from PIL import Image

    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)
