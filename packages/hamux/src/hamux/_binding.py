"""How a HAM holds the functions it is made of: as pytrees whose leaves are their parameters, as arrays."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Bound(eqx.Module):
    """A function with parameters, `keywords`, that can be learned, and options that are part of the structure."""

    function: Callable = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    keywords: dict[str, Array]

    def __call__(self, *arguments: Array) -> Array:
        return self.function(*arguments, **dict(self.options), **self.keywords)


def declared(function: Callable, fact: str) -> Any:
    """What a Lagrangian or a synapse declares of itself under the name `fact`, None where it declares nothing."""
    return getattr(function.function if isinstance(function, Bound) else function, fact, None)


def bind(function: Callable, what: str) -> Callable:
    """A Lagrangian or a synapse, called `what` in an error, as a Module whose leaves are arrays alone.

    Of a `Partial` (jax's, Equinox's or functools') floats and arrays become parameters; whole numbers, strings and the
    like (an axis, an integer power) become options. A bare function or a lambda has neither; a Module is kept.

    **Raises** ValueError for a positional argument of a `Partial`, and for a leaf that is no array.
    """
    if isinstance(function, functools.partial | eqx.Partial):
        if function.args:
            raise ValueError(f"{what} has positional arguments {function.args} bound to it; bind them by keyword")
        keywords = dict(sorted(function.keywords.items()))
        is_option = {name: isinstance(value, bool | int | str | tuple | None) for name, value in keywords.items()}
        options = tuple((name, value) for name, value in keywords.items() if is_option[name])
        parameters = {name: value for name, value in keywords.items() if not is_option[name]}
        function = Bound(function.func, options, parameters)
    elif not isinstance(function, eqx.Module):
        function = Bound(function, (), {})

    def as_array(path, leaf):
        if not (eqx.is_array(leaf) or isinstance(leaf, float | np.ndarray | np.generic)):
            raise ValueError(
                f"{what} has a leaf {jax.tree_util.keystr(path)} = {leaf!r} that is no array; "
                "mark that field eqx.field(static=True)"
            )
        return jnp.asarray(leaf)

    return jax.tree_util.tree_map_with_path(as_array, function)
