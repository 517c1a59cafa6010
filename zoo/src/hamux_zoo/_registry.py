"""Which architectures there are, found in `models/`, and the pretrained model of a name, whichever one it is."""

import importlib
import importlib.metadata
import pkgutil
import typing
import warnings
from pathlib import Path

from . import models
from ._folder import CONFIG, read_config
from ._hub import find_folder
from ._model import ZooModel


def model_classes() -> dict[str, type[ZooModel]]:
    """The architectures by `model_type`: every ZooModel that a module of `models/` defines, and those that other
    packages name as entry points, `[project.entry-points."hamux_zoo.models"]` with `NAME = "package.module:Class"`.

    **Raises** ValueError, naming the entry point, for one that gives no ZooModel, has no `model_type`, or that of
    another. One that cannot be imported is left out, with a warning.
    """
    names = [f"{models.__name__}.{info.name}" for info in pkgutil.iter_modules(models.__path__)]
    modules = [importlib.import_module(name) for name in names]
    own = [value for module in modules for value in vars(module).values() if _is_defined_in(module, value)]
    found = {model.model_type: model for model in own}
    for point in importlib.metadata.entry_points(group="hamux_zoo.models"):
        try:
            model = point.load()
        except Exception as error:  # whatever another's package makes of being imported
            warnings.warn(f"{point.value}, of the entry point {point.name}, cannot be imported: {error}", stacklevel=2)
            continue
        if not (isinstance(model, type) and issubclass(model, ZooModel)):
            raise ValueError(f"{point.value}, of the entry point {point.name}, is {model!r}; expected a ZooModel")
        if not isinstance(getattr(model, "model_type", None), str):
            raise ValueError(f"{point.value}, of the entry point {point.name}, has no `model_type`; expected a string")
        if found.setdefault(model.model_type, model) is not model:
            raise ValueError(
                f"{point.value}, of the entry point {point.name}, and {found[model.model_type].__name__} both have the "
                f'model_type "{model.model_type}"; uninstall one of them'
            )
    return found


def architectures() -> dict[str, type]:
    """The class of every architecture and of its config, by class name."""
    found = model_classes().values()
    configs = [typing.get_type_hints(model)["config"] for model in found]
    return {cls.__name__: cls for cls in [*found, *configs]}


def list_models() -> list[str]:
    """The `model_type`s of all architectures."""
    return sorted(model_classes())


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> ZooModel:
    """The pretrained model of a bundled name, a folder or a repo, of the class that its `config.json` names.

    Arguments and errors are those of `ZooModel.from_pretrained`; ValueError also for an unknown `model_type`, listing
    the known ones.
    """
    folder = find_folder(name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    saved = read_config(folder)
    model_type = saved.get("model_type")
    classes = model_classes()
    if not isinstance(model_type, str) or model_type not in classes:
        raise ValueError(f"{folder / CONFIG}: unknown model_type {model_type!r}; known are {sorted(classes)}")
    return classes[model_type]._of_folder(folder, saved)


def _is_defined_in(module, value) -> bool:
    return isinstance(value, type) and issubclass(value, ZooModel) and value.__module__ == module.__name__
