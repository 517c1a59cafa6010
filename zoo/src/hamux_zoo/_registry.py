"""Which architectures there are, found in `models/`, and the pretrained model of a name, whichever one it is."""

import importlib
import pkgutil
import typing
from pathlib import Path

from . import models
from ._folder import CONFIG, read_config
from ._hub import find_folder
from ._model import ZooModel


def model_classes() -> dict[str, type[ZooModel]]:
    """The architectures by `model_type`: every ZooModel that a module of `models/` defines."""
    names = [f"{models.__name__}.{info.name}" for info in pkgutil.iter_modules(models.__path__)]
    modules = [importlib.import_module(name) for name in names]
    found = [value for module in modules for value in vars(module).values() if _is_defined_in(module, value)]
    return {model.model_type: model for model in found}


def architectures() -> dict[str, type]:
    """The class of every architecture and of its config, by class name."""
    found = model_classes().values()
    configs = [typing.get_type_hints(model)["config"] for model in found]
    return {cls.__name__: cls for cls in [*found, *configs]}


def list_models() -> list[str]:
    """The `model_type`s of all architectures."""
    return sorted(model_classes())


def from_pretrained(name: str | Path) -> ZooModel:
    """The pretrained model of a bundled name or of a folder, of the class that its `config.json` names.

    **Raises** as `ZooModel.from_pretrained`; ValueError for an unknown `model_type`, listing the known ones.
    """
    folder = find_folder(name)
    model_type = read_config(folder).get("model_type")
    classes = model_classes()
    if not isinstance(model_type, str) or model_type not in classes:
        raise ValueError(f"{folder / CONFIG}: unknown model_type {model_type!r}; known are {sorted(classes)}")
    return classes[model_type].from_pretrained(folder)


def _is_defined_in(module, value) -> bool:
    return isinstance(value, type) and issubclass(value, ZooModel) and value.__module__ == module.__name__
