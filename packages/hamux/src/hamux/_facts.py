"""What the parts of a HAM declare of themselves, before a program runs where that is known, and as it runs elsewhere.

A fact follows from parameters. Where they are there it is a bool or a float of Python; where jax traces them it is an
array, and the program itself decides. The functions below take both, and settle at once what can be settled.
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._binding import Bound

Truth = bool | Bool[Array, ""]
Number = float | Float[Array, ""]


def declared(function: Callable[..., Any], fact: str) -> Any:
    """Returns what a Lagrangian or a synapse declares of itself under the name `fact`, or None.

    A function declares a fact by an attribute: a value, or a function of the parameters that it names, such as
    `lagr_softmax.convex = lambda beta: beta > 0`. A Module does so by a field, a class variable or a property. See
    `hamux.certify` for the facts that count. A part that wraps another passes on its facts by this function.
    """
    if isinstance(function, eqx.Module) and not isinstance(function, Bound | eqx.Partial):
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(function))
        with contextlib.nullcontext() if traced else jax.ensure_compile_time_eval():
            return getattr(function, fact, None)
    bare, given = _parts(function)
    declaration = getattr(bare, fact, None)
    if not callable(declaration):
        return declaration
    defaults = _defaults(bare)
    return declaration(**{name: known(given.get(name, defaults[name])) for name in _defaults(declaration)})


@functools.lru_cache(maxsize=256)
def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a function's arguments, by their names."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _parts(function: Callable[..., Any]) -> tuple[Callable[..., Any], Mapping[str, Any]]:
    """A function, and what is bound to it."""
    if isinstance(function, Bound):
        return function.function.function, dict(function.options) | function.keywords
    if isinstance(function, functools.partial | eqx.Partial):
        return function.func, function.keywords
    return function, {}


def known(value: Any) -> Any:
    """`value`; an array that jax does not trace as one of NumPy, so that what follows from it is known, too."""
    return np.asarray(value) if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer) else value


def settled(truth: Any) -> Truth:
    """Whether something is so, everywhere in an array."""
    return truth.all() if isinstance(truth, jax.core.Tracer) else bool(np.asarray(truth).all())


def holds(function: Callable[..., Any], fact: str) -> Truth:
    """Whether a part declares that it has a property; False where it declares nothing."""
    declaration = declared(function, fact)
    return False if declaration is None else settled(declaration)


def constant(function: Callable[..., Any], fact: str) -> Number:
    """The number that a part declares; inf where it declares none."""
    number = declared(function, fact)
    if number is None:
        return math.inf
    return number.astype(jnp.result_type(float)) if isinstance(number, jax.core.Tracer) else float(number)


def negated(truth: Truth) -> Truth:
    return not truth if isinstance(truth, bool) else ~truth


def all_of(*truths: Truth) -> Truth:
    if any(truth is False for truth in truths):
        return False
    open_ones = [truth for truth in truths if truth is not True]
    return functools.reduce(jnp.logical_and, open_ones) if open_ones else True


def any_of(*truths: Truth) -> Truth:
    return negated(all_of(*map(negated, truths)))


def either(truth: Truth, this: Number, that: Number) -> Number:
    """`this` where something is so, `that` elsewhere."""
    if isinstance(truth, bool):
        return this if truth else that
    return jnp.where(truth, this, that)


def least(numbers: list[Number]) -> Number:
    """The least of some numbers, inf of none."""
    found: Number = math.inf
    for number in numbers:
        found = either(settled(number < found), number, found)
    return found
