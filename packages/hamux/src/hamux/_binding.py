"""How a HAM holds the functions that it is made of: as Modules whose leaves are arrays."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray, Array

_PLAIN = (bool, int, str, tuple, types.NoneType, np.bool_, np.integer)


class Module(eqx.Module):
    """An `eqx.Module` whose methods `jax.jit` takes as they are: `jax.jit(ham.energy)`.

    `jax.jit` hashes what it compiles, and arrays have no hash. This one goes by their identity: an equal Module with
    other arrays is another program, and arrays are constants of it. For learning, pass the Module as an argument.

    **Raises** TypeError where jax is tracing the arrays.
    """

    def __hash__(self) -> int:
        leaves, structure = jax.tree.flatten(self)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            raise TypeError(
                f"unhashable: the arrays of this {type(self).__name__} are being traced; pass it to jax.jit as an "
                "argument, or use eqx.filter_jit"
            )
        return hash((*map(id, leaves), structure))


class Code:
    """A function that equals every other function of the same code, defaults, closure and attributes.

    A lambda is a new object each time the line that holds it runs. As the structure of a Module it is still the same
    one: the Module can be saved and compared, and `jax.jit` does not compile it again.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.function(*arguments, **keywords)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and _same(self.function, other.function, ())

    def __hash__(self) -> int:
        if isinstance(self.function, types.FunctionType):
            return hash((self.function.__qualname__, self.function.__code__))
        try:
            return hash(self.function)
        except TypeError:  # an object with arrays, say
            return hash(type(self.function))

    def __repr__(self) -> str:
        return repr(self.function)


def _same(a: Any, b: Any, within: tuple[tuple[int, int], ...]) -> bool:
    """Whether two objects mean the same. `within` are the pairs that are being compared, as functions may be cyclic."""
    pair = id(a), id(b)
    if a is b or pair in within:
        return True
    if type(a) is not type(b) or isinstance(a, jax.core.Tracer):
        return False
    within = (*within, pair)
    if isinstance(a, types.FunctionType):
        return (
            a.__code__ == b.__code__
            and a.__globals__ is b.__globals__
            and _same(_surroundings(a), _surroundings(b), within)
        )
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(_same(x, y, within) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[key], within) for key, value in a.items())
    if isinstance(a, types.CellType):
        return _same(_content(a), _content(b), within)
    if isinstance(a, eqx.Module):
        return _same(jax.tree.structure(a), jax.tree.structure(b), within) and _same(
            jax.tree.leaves(a), jax.tree.leaves(b), within
        )
    if eqx.is_array_like(a) and np.ndim(a):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


def _surroundings(function: types.FunctionType) -> tuple[Any, ...]:
    return function.__defaults__, function.__kwdefaults__, function.__closure__, vars(function)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


class Bound(Module):
    """A function with parameters, `keywords`, that can be learned, and options that are part of the structure."""

    function: Code = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    keywords: dict[str, Array]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments, **dict(self.options), **self.keywords)


def bind(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Returns a Lagrangian or a synapse, called `what` in an error, as a Module whose leaves are arrays.

    What a `Partial` (jax's, Equinox's or functools') binds becomes a parameter or an option. Floats and arrays are
    parameters; strings, tuples and truth values are options. An int is a parameter where the function annotates that
    argument as a float or an array, and an option where it annotates an int, too, or nothing. A list is a parameter
    where a float or an array is annotated, and a tuple, as an option, elsewhere. The numbers of a Module are
    parameters; an int in a field that is annotated as one is an error. Functions in it become structure. A bare
    function or a lambda has neither parameters nor options.

    **Raises** ValueError for a positional argument of a `Partial`, and for a leaf that is no number, array or function.
    """
    if isinstance(function, functools.partial | eqx.Partial):
        if function.args:
            raise ValueError(f"{what} has positional arguments {function.args} bound to it; bind them by keyword")
        options, parameters = _split(function.func, function.keywords)
        function = Bound(Code(function.func), options, parameters)
    elif not isinstance(function, eqx.Module):
        function = Bound(Code(function), (), {})
    module = function

    def as_structure(path: tuple[Any, ...], leaf: Any) -> Any:
        if isinstance(leaf, int | np.integer) and not isinstance(leaf, bool):
            if _field_takes_floats(module, path):
                return jnp.asarray(float(leaf))
        elif eqx.is_array(leaf) or isinstance(leaf, float | np.ndarray | np.generic):
            return jnp.asarray(leaf)
        elif callable(leaf):
            return Bound(Code(leaf), (), {})
        raise ValueError(
            f"{what} has a leaf {jax.tree_util.keystr(path)} = {leaf!r} that is no array; "
            "mark that field eqx.field(static=True)"
        )

    return typing.cast(Callable[..., Any], jax.tree_util.tree_map_with_path(as_structure, function))


def _split(
    function: Callable[..., Any], keywords: Mapping[str, Any]
) -> tuple[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """The options and the parameters among the keywords of a function."""
    annotations = _annotations(function)
    options: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    fixed = getattr(function, "options", ())
    for name, value in sorted(keywords.items()):
        takes_floats = _takes_floats(annotations.get(name))
        if name in fixed:
            options[name] = _plain(value)
        elif takes_floats and isinstance(value, int | np.integer) and not isinstance(value, bool):
            parameters[name] = float(value)
        elif takes_floats and isinstance(value, list):
            parameters[name] = np.asarray(value, float)
        elif takes_floats and eqx.is_array_like(value) and jnp.issubdtype(jnp.result_type(value), jnp.integer):
            parameters[name] = jnp.asarray(value).astype(float)
        elif isinstance(value, (*_PLAIN, list)):
            options[name] = tuple(value) if isinstance(value, list) else _plain(value)
        else:
            parameters[name] = value
    return tuple(options.items()), parameters


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _field_takes_floats(module: Any, path: tuple[Any, ...]) -> bool:
    """Whether a leaf of a Module lies in a field that is not annotated as an int."""
    annotation: Any = None
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            annotation = _annotations(type(module)).get(key.name) if dataclasses.is_dataclass(module) else None
            module = getattr(module, key.name)
        else:
            module = module[getattr(key, "key", getattr(key, "idx", None))]
    return annotation is None or _takes_floats(annotation)


def _annotations(thing: Any) -> dict[str, Any]:
    """What a function's arguments or a class's fields are annotated as; nothing where that cannot be told."""
    try:
        return typing.get_type_hints(inspect.unwrap(thing))
    except (NameError, TypeError, AttributeError, ValueError):
        return {}


def _takes_floats(annotation: Any) -> bool:
    """Whether an annotation, or one of those that it is made of, names floats or arrays of them, and none an int."""
    if parts := typing.get_args(annotation):
        return int not in parts and any(map(_takes_floats, parts))
    if not isinstance(annotation, type):
        return False
    if issubclass(annotation, AbstractArray):
        return not isinstance(annotation.dtypes, tuple) or any("float" in str(dtype) for dtype in annotation.dtypes)
    return issubclass(annotation, float | np.floating | np.ndarray | jax.Array)
