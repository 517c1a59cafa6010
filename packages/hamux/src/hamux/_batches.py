"""Batches, as `jax.vmap` makes them, and meshes that they are spread over."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

_Result = TypeVar("_Result")


def own_key(key: PRNGKeyArray, example: PyTree[Array]) -> PRNGKeyArray:
    """Returns `key` with the index of `example` in its batch folded in, 0 where each example has its own key."""
    return jr.fold_in(key, _index(_nothing(jr.key_data(key)), _nothing(example)))


def without_explicit_axes(
    function: Callable[..., _Result], given: PyTree, *, leading: bool = False
) -> Callable[..., _Result]:
    """Returns `function`, whose compiler may choose how to spread the work over the mesh that arrays in `given` lie on.

    Where the axes of a mesh are explicit, as those of `jax.make_mesh` are, jax asks how each ambiguous product or
    reshape is to be spread, and does not batch a loop that carries an array made within it, such as a counter. The
    results are spread along their first axis as the arrays are where that is their batch, `leading`.
    """
    shardings = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(given) if eqx.is_array(leaf)]
    shardings = [sharding for sharding in shardings if sharding.mesh.explicit_axes]
    if not shardings:
        return function
    # Some arrays may be whole on every device.
    sharding = max(shardings, key=lambda sharding: any(axis is not None for axis in sharding.spec[:leading]))
    out_sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[:leading]))

    def spread(*arguments: Any) -> _Result:
        arrays, others = eqx.partition(arguments, eqx.is_array)
        rest: PyTree = None

        def of_arrays(arrays: PyTree[Array]) -> PyTree[Array]:
            nonlocal rest
            made, rest = eqx.partition(function(*eqx.combine(arrays, others)), eqx.is_array)
            return made

        made = jax.sharding.auto_axes(of_arrays, axes=sharding.mesh.explicit_axes, out_sharding=out_sharding)(arrays)
        result: _Result = eqx.combine(made, rest)
        return result

    return spread


def _nothing(tree: PyTree[Array]) -> Int[Array, ""]:
    """Returns 0, under `jax.vmap`, with a batch axis where a leaf of it has one."""
    return functools.reduce(jnp.add, [jnp.sum(jnp.ravel(leaf)[:0], dtype=jnp.int32) for leaf in jax.tree.leaves(tree)])


@jax.custom_batching.custom_vmap
def _index(key: Int[Array, ""], example: Int[Array, ""]) -> Int[Array, ""]:
    """Returns the index of an example in its batch, told from which of the two has a batch axis; both are 0.

    Nested batches are numbered row by row. An axis along which the key varies does not count.
    """
    return key + example


@_index.def_vmap
def _(
    size: int, batched: list[bool], key: Int[Array, "*size"], example: Int[Array, "*size"]
) -> tuple[Int[Array, "*size"], bool]:
    # The sums are 0 as well, and left with the axes of the batches around this one.
    outer = _index(*(jnp.sum(each, axis=0, dtype=each.dtype) if each.ndim else each for each in (key, example)))
    if batched[0]:
        return outer, False
    return outer * size + jnp.arange(size, dtype=outer.dtype) + example, True
