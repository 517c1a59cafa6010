"""What every architecture's config has in common: typed fields that JSON can hold."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

import msgspec
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The base of every config: a frozen dataclass whose fields are checked against their annotations.

    Subclass it with fields of int, float, bool, str, `Literal`, tuples and unions of these, and of other configs.
    Lists, arrays and NumPy numbers become tuples and plain numbers.

    - `shape`: the shape of one pattern; (height, width, channels) for an image.
    - `classes`: the number of classes, 0 for none.
    - `class_names`: their names in order, or () if they have none.
    - `unfamiliar`: the `Memory.strangeness` above which a pattern counts as unlike what was learned, as
      `hamux_zoo.calibrate` measures it, or None.

    **Raises** ValueError, naming the field, for a value of another type or out of range.
    """

    shape: tuple[int, ...]
    classes: int = 0
    class_names: tuple[str, ...] = ()
    unfamiliar: float | None = None

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for name in (field.name for field in dataclasses.fields(self)):
            value, hint = getattr(self, name), hints[name]
            if isinstance(hint, type) and issubclass(hint, Config) and isinstance(value, hint):
                continue
            try:
                plain = msgspec.convert(_plain(value), hint, strict=True)
            except msgspec.ValidationError:
                raise ValueError(f"{name} is {value!r}; expected {inspect.formatannotation(hint)}") from None
            object.__setattr__(self, name, plain)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape is {self.shape}; expected one whole number of at least 1 for each axis")
        self.check_at_least(0, "classes")
        if self.unfamiliar is not None and not 0 <= self.unfamiliar < np.inf:
            raise ValueError(f"unfamiliar is {self.unfamiliar}; expected a finite number of at least 0, or None")
        if self.class_names and (
            len(self.class_names) != self.classes or len(set(self.class_names)) != len(self.class_names)
        ):
            raise ValueError(
                f"class_names has {len(self.class_names)} names {self.class_names[:5]} for {self.classes} classes; "
                "expected a different name for each class, or none"
            )

    @property
    def low(self) -> float:
        """The smallest value of a pixel."""
        return 0.0

    @property
    def high(self) -> float:
        """The largest value of a pixel."""
        return 1.0

    def for_classes(self, classes: int) -> Self:
        """Returns the config with so many classes, and no names. **Raises** ValueError if there would be none."""
        config = dataclasses.replace(self, classes=classes, class_names=())
        if not config.classes:
            raise ValueError(f"classes is {classes}; a head is for at least one class")
        return config

    def check_at_least(self, least: int, *names: str) -> None:
        """**Raises** ValueError if one of the fields `names`, or a number in it, is smaller than `least`."""
        for name in names:
            value = getattr(self, name)
            if np.min(value, initial=least) < least:
                raise ValueError(f"{name} is {value}; expected whole numbers of at least {least}")


AnyConfig = TypeVar("AnyConfig", bound=Config)


def make_config(kind: type[AnyConfig], values: Mapping[str, object], where: Path | str) -> AnyConfig:
    """Returns a config with the fields `values`; `where` says in errors where they are from.

    **Raises** ValueError for an unknown or a missing field, and for values that the config refuses.
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - fields):
        raise ValueError(f"{where}: unknown config keys {unknown}; {kind.__name__} has {sorted(fields)}")
    try:
        make: Callable[..., AnyConfig] = kind
        return make(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from None


def _plain(value: object) -> object:
    """Lists and arrays as tuples, NumPy numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(_plain(each) for each in value)
    return value
