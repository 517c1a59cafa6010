"""Associative memories with pretrained weights, built from hamux.

Everything is imported when it is first asked for, so that the command line starts at once. The architectures are those
of `models/`, the class of each and of its config under their names.
"""

from typing import Any

_PUBLIC = {
    "ZooModel": "_model",
    "finetune": "_training",
    "from_pretrained": "_registry",
    "list_models": "_registry",
    "list_pretrained": "_hub",
    "load_images": "_data",
    "load_samples": "_data",
    "push_folder": "_hub",
    "stream_images": "_data",
    "train": "_training",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    if name[0].isupper():
        from ._registry import architectures

        if name in architectures():
            return architectures()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from ._registry import architectures

    return sorted([*_PUBLIC, *architectures()])
