"""An energy landscape: its fixed points, their basins, and what lies between two states."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ._batches import without_explicit_axes
from ._checks import whole
from ._dynamics import Clamp, relax
from ._ham import HAM, States, VectorizedHAM
from ._methods import Method
from ._precision import widened


class FixedPoints(eqx.Module):
    """The fixed points that a set of starts leads to. Every array has the starts as its leading axis.

    - `xs`, `energies`, `converged`: where each start leads.
    - `first`: the first start that converged to the same fixed point, −1 for none.
    - `memory`: the index of the memory that was reached, −1 for none; None when no memories were given.
    """

    xs: dict[str, Array]
    energies: Float[Array, " starts"]
    converged: Bool[Array, " starts"]
    first: Int[Array, " starts"]
    memory: Int[Array, " starts"] | None

    @property
    def distinct(self) -> Bool[Array, " starts"]:
        """One start for each fixed point: `distinct.sum()` is their number, `xs[layer][distinct]` their states."""
        return self.converged & (self.first == jnp.arange(len(self.first)))

    @property
    def spurious(self) -> Bool[Array, " starts"]:
        """The starts that lead to a fixed point which is not a memory.

        **Raises** ValueError when no memories were given.
        """
        if self.memory is None:
            raise ValueError(
                "which fixed points are spurious depends on the memories; give them to fixed_points(memories=…)"
            )
        return self.converged & (self.memory < 0)


def fixed_points(
    ham: HAM | VectorizedHAM,
    xs: States,
    *,
    memories: States | None = None,
    within: float = 0.1,
    tol: float = 1e-5,
    max_steps: int = 500,
    method: Method[Any] | None = None,
    clamp: Clamp | None = None,
) -> FixedPoints:
    """Finds the fixed points that the starts `xs` lead to.

    `xs` and `memories` have a leading axis. Two states are the same when none of their activations differ by more than
    `within`. The other arguments are those of `relax`.
    """
    together = ham.vectorize()
    out = relax(together, xs, tol=tol, max_steps=max_steps, method=method, clamp=clamp)
    assert out.energies is not None
    assert out.converged is not None
    first = _first_alike(together, out.xs, out.xs, within, out.converged)
    memory = None if memories is None else _first_alike(together, out.xs, memories, within)
    return FixedPoints(out.xs, out.energies[:, -1], out.converged, first, memory)


def basin(
    ham: HAM | VectorizedHAM,
    memory: States,
    corrupt: Callable[[PRNGKeyArray, States, Float[Array, ""]], States],
    levels: Float[Array, " levels"],
    *,
    key: PRNGKeyArray,
    copies: int = 100,
    within: float = 0.1,
    tol: float = 1e-5,
    max_steps: int = 500,
    method: Method[Any] | None = None,
    clamp: Clamp | None = None,
) -> Float[Array, " levels"]:
    """Measures the basin of a memory: for each level of damage, the share of its copies that come back.

    `corrupt(key, memory, level)` damages the states of one example. A copy comes back when it converges to where the
    memory itself does, no activation off by more than `within`. Where the memory does not converge, no copy comes back.
    The other arguments are those of `relax`.

    **Raises** ValueError for `copies` < 1.
    """
    copies = int(whole("copies", copies, "a share needs at least one copy"))
    levels = jnp.asarray(levels)
    keys = jr.split(key, (len(levels), copies))
    damage = jax.vmap(jax.vmap(corrupt, (0, None, None)), (0, None, 0))
    damaged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), damage(keys, dict(memory), levels))
    starts = {name: jnp.concatenate([jnp.asarray(memory[name])[None], x]) for name, x in damaged.items()}
    found = fixed_points(ham, starts, within=within, tol=tol, max_steps=max_steps, method=method, clamp=clamp)
    return jnp.mean((found.converged & (found.first == 0))[1:].reshape(len(levels), copies), axis=1)


def energy_between(ham: HAM | VectorizedHAM, start: States, end: States, points: int = 101) -> Float[Array, " points"]:
    """Returns the energy at `points` states on the straight line from `start` to `end`, both included."""
    return energy_plane(ham, start, end, end, jnp.linspace(0, 1, points), jnp.zeros(1))[0]


def energy_plane(
    ham: HAM | VectorizedHAM,
    origin: States,
    first: States,
    second: States,
    a: Float[Array, " columns"],
    b: Float[Array, " rows"],
) -> Float[Array, "rows columns"]:
    """Returns the energy at origin + a (first − origin) + b (second − origin), for every `b` and every `a`."""
    one = ham.unvectorize()
    one._check_layers("state", origin)

    def energy(b: Float[Array, ""], a: Float[Array, ""]) -> Float[Array, ""]:
        xs = {
            name: x + a.astype(x.dtype) * (first[name] - x) + b.astype(x.dtype) * (second[name] - x)
            for name, x in origin.items()
        }
        return one.energy(one.activations(xs), xs)

    plane: Array = jax.jit(jax.vmap(jax.vmap(energy, (None, 0)), (0, None)))(jnp.asarray(b), jnp.asarray(a))
    return plane


def plane_coordinates(
    origin: States, first: States, second: States, xs: Mapping[str, Float[Array, "points ..."]]
) -> Float[np.ndarray, "points 2"]:
    """Returns the a and b of `energy_plane` whose states lie nearest to each of `xs`, by least squares."""

    def flat(states: Mapping[str, Array | np.ndarray]) -> np.ndarray:
        rows = [np.asarray(x).reshape(len(x), math.prod(np.shape(x)[1:])) for _, x in sorted(states.items())]
        return np.concatenate(rows, axis=1)

    ends = ({name: np.asarray(x)[None] for name, x in end.items()} for end in (origin, first, second))
    start, first_end, second_end = map(flat, ends)
    axes = np.concatenate([first_end - start, second_end - start]).T
    points = flat(xs) - start
    coordinates: np.ndarray = np.linalg.lstsq(axes, points.T, rcond=None)[0].T
    return coordinates


def _first_alike(
    ham: VectorizedHAM, xs: States, others: States, within: float, counted: Bool[Array, " others"] | bool = True
) -> Int[Array, " count"]:
    """Returns for each of `xs` the index of the first of `others` that is counted and within `within`, −1 for none."""

    def find_all(
        ham: VectorizedHAM, xs: States, others: States, counted: Bool[Array, " others"]
    ) -> Int[Array, " count"]:
        gs: dict[str, Array] = jax.tree.map(widened, ham.activations(xs))
        candidates: dict[str, Array] = jax.tree.map(widened, ham.activations(others))

        def find(g: dict[str, Array]) -> Array:
            gaps = [jnp.abs(candidates[name] - g[name][None]) for name in g]
            near = [jnp.all(gap <= within, axis=tuple(range(1, gap.ndim))) for gap in gaps]
            alike = jnp.all(jnp.stack(near), axis=0) & counted
            return jnp.where(jnp.any(alike), jnp.argmax(alike), -1)

        starts, choices = (len(next(iter(each.values()))) for each in (gs, candidates))
        return jax.lax.map(find, gs) if starts and choices else jnp.full(starts, -1)

    return without_explicit_axes(find_all, (xs, others))(ham, dict(xs), dict(others), jnp.asarray(counted))
