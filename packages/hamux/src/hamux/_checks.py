"""Checks of numbers."""

import math
import operator
import typing
from collections.abc import Iterable
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Array

_Number = TypeVar("_Number", bound=float | Array)


def positive(name: str, value: _Number) -> _Number:
    """Returns `value` where it is a finite number > 0, or jax is tracing it. **Raises** ValueError otherwise."""
    if not isinstance(value, jax.core.Tracer):
        scalar = isinstance(value, int | float | np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0
        if not (scalar and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be finite and greater than 0")
    return value


def whole(name: str, value: int, at_least: str, least: int = 1) -> int:
    """Returns `value` as a plain int where it is one ≥ `least`. **Raises** ValueError otherwise."""
    untraced(name, value)
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} is {value!r}; {at_least}, as an int")
    return number


def untraced(name: str, value: object) -> None:
    """**Raises** ValueError for a value that jax is tracing."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{name} is being traced by jax, which compiles another program for each; use eqx.filter_jit in place of "
            "jax.jit, or bind it by functools.partial"
        )


def sizes(name: str, value: int | Iterable[int]) -> tuple[int, ...]:
    """Returns an int, or several, as a tuple of plain ones. **Raises** ValueError for what is not made of ints."""
    try:
        numbers = tuple(value) if isinstance(value, Iterable) and np.ndim(np.asarray(value)) else (value,)
        return tuple(map(operator.index, typing.cast(Iterable[int], numbers)))
    except TypeError:
        raise ValueError(f"{name} is {value!r}; an int is expected, or a sequence of them") from None
