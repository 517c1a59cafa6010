"""The architectures there are, and the pretrained memory of any of them."""

import fnmatch
import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar, overload

from .. import files
from ..config import make_config
from ..files import CONFIG, Bundled, bundled, find_folder, read_config
from ..memory import Memory
from ..pretrained import config_of, skeleton_of

_Arguments = ParamSpec("_Arguments")
_Commit = TypeVar("_Commit")


def model_classes() -> dict[str, type[Memory]]:
    """Returns the architectures by `model_type`.

    They are the memories with a `model_type` of their own that the modules of this package define, and those that
    other packages name as entry points: `[project.entry-points."hamux_zoo.models"]` with
    `NAME = "package.module:Class"`. An abstract class is not one of them.

    An entry point that cannot be imported is left out with a warning.

    **Raises** ValueError, naming the entry point, for one that is no `Memory`, is abstract, or has no `model_type`, and
    for two architectures with the same `model_type`.
    """
    found: dict[str, type[Memory]] = {}
    for where, kind in [*_own(), *_installed()]:
        if found.setdefault(kind.model_type, kind) is not kind:
            raise ValueError(
                f"{where} and {found[kind.model_type].__name__} both have the model_type "
                f'"{kind.model_type}"; rename or uninstall one of them'
            )
    return found


@overload
def list_models(pattern: str = "*") -> list[str]: ...


@overload
def list_models(
    pattern: str = "*", *, pretrained: Literal[True], model_type: str | None = None, task: str | None = None
) -> list[Bundled]: ...


def list_models(
    pattern: str = "*", *, pretrained: bool = False, model_type: str | None = None, task: str | None = None
) -> list[str] | list[Bundled]:
    """Returns the architectures whose `model_type` matches a pattern, such as "dense*".

    With `pretrained`, returns the bundled memories whose names match, such as "*mnist*", with their sizes and numbers;
    on request those of one architecture (`model_type`) or those that do a task, such as "classify" (`task`).
    """
    kinds = model_classes()
    if not pretrained:
        return sorted(fnmatch.filter(kinds, pattern))

    def tasks(name: str) -> frozenset[str]:
        saved = read_config(find_folder(name))
        kind = kinds[saved["model_type"]]
        return skeleton_of(kind, make_config(config_of(kind), saved["config"], name)).tasks

    return [each for each in bundled(pattern, model_type) if task is None or task in tasks(each.name)]


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Memory:
    """Returns the pretrained memory of a bundled name, a folder or a repo, of the class that its `config.json` names.

    Arguments and errors are those of `Memory.from_pretrained`. **Raises** ValueError also for an unknown `model_type`,
    listing the known ones.
    """
    folder = find_folder(name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    model_type, classes = read_config(folder)["model_type"], model_classes()
    if model_type not in classes:
        raise ValueError(f"{folder / CONFIG}: unknown model_type {model_type!r}; expected one of {sorted(classes)}")
    return classes[model_type].of_folder(folder)


def _if_it_loads(push: Callable[_Arguments, _Commit]) -> Callable[_Arguments, _Commit]:
    @functools.wraps(push)
    def pushed(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Commit:
        given = inspect.signature(push).bind(*arguments, **named).arguments
        from_pretrained(Path(given["folder"]))
        return push(*arguments, **named)

    return pushed


# `files` knows no model, so that it checks the files alone.
push_folder = _if_it_loads(files.push_folder)


def _own() -> Iterator[tuple[str, type[Memory]]]:
    """The architectures that the modules of this package define, and where."""
    for file in pkgutil.iter_modules(sys.modules[__package__].__path__):
        if file.name.startswith("_"):
            continue
        module = importlib.import_module(f".{file.name}", __package__)
        for name, kind in vars(module).items():
            is_memory = isinstance(kind, type) and issubclass(kind, Memory) and kind.__module__ == module.__name__
            if is_memory and "model_type" in vars(kind) and not _missing(kind):
                yield f"{module.__name__}:{name}", kind


def _installed() -> Iterator[tuple[str, type[Memory]]]:
    """The architectures that other packages name as entry points, and where. **Raises** as `model_classes`."""
    for point in importlib.metadata.entry_points(group="hamux_zoo.models"):
        where = f"{point.value}, of the entry point {point.name},"
        try:
            kind = point.load()
        except Exception as error:  # another package may raise anything when it is imported
            warnings.warn(f"{where} cannot be imported: {error}", stacklevel=4)
            continue
        if not (isinstance(kind, type) and issubclass(kind, Memory)):
            raise ValueError(f"{where} is {kind!r}; expected a Memory")
        if missing := _missing(kind):
            raise ValueError(f"{where} is abstract: it lacks {missing}")
        if not isinstance(getattr(kind, "model_type", None), str):
            raise ValueError(f"{where} has no `model_type`; expected a string")
        yield where, kind


def _missing(kind: type[Memory]) -> list[str]:
    """The methods and fields that an abstract class leaves to its subclasses."""
    return sorted(kind.__abstractmethods__ | kind.__abstractvars__ | kind.__abstractclassvars__)
