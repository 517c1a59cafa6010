"""Checks of numbers."""

import math

import jax
import numpy as np
from jaxtyping import Array


def positive(name: str, value: float | Array) -> float | Array:
    """`value`, where it is a finite number > 0, or jax is tracing it. **Raises** ValueError otherwise."""
    if not isinstance(value, jax.core.Tracer):
        scalar = isinstance(value, int | float | np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0
        if not (scalar and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be finite and greater than 0")
    return value


def whole(name: str, value: int, at_least: str) -> int:
    """`value`, where it is an int ≥ 1. **Raises** ValueError otherwise."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; {at_least}, as an int")
    return value
