"""Questions about an energy landscape: its fixed points, their basins, what lies between two states."""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ._dynamics import Clamp, relax
from ._ham import HAM, States, VectorizedHAM
from ._methods import Method
from ._precision import widened


class FixedPoints(eqx.Module):
    """The fixed points that a set of starts comes to; every array has the starts as its leading axis.

    - `xs`, `energies`, `converged`: where each start came to.
    - `first`: the first start that converged to the same fixed point, −1 for none.
    - `memory`: the memory that was reached, by its index, −1 for none of them; when memories were given.
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
        """The starts that came to a fixed point that is no memory.

        **Raises** ValueError when no memories were given.
        """
        if self.memory is None:
            raise ValueError("what is spurious depends on the memories; give them to fixed_points(memories=…)")
        return self.converged & (self.memory < 0)


def fixed_points(
    ham: HAM | VectorizedHAM,
    xs: States,
    *,
    memories: States | None = None,
    within: float = 0.1,
    tol: float = 1e-5,
    max_steps: int = 500,
    method: Method | None = None,
    clamp: Clamp | None = None,
) -> FixedPoints:
    """The fixed points reached from the starts `xs`, which have a leading axis, as have the states `memories`.

    Two states are the same when no activation of theirs differs by more than `within`. The others as in `relax`.
    """
    together = ham.vectorize()
    out = relax(together, xs, tol=tol, max_steps=max_steps, method=method, clamp=clamp)
    gs = together.activations(out.xs)
    memory = None if memories is None else _first_alike(gs, together.activations(memories), within)
    energies = together.energy(gs, out.xs)
    return FixedPoints(out.xs, energies, out.converged, _first_alike(gs, gs, within, out.converged), memory)


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
    method: Method | None = None,
    clamp: Clamp | None = None,
) -> Float[Array, " levels"]:
    """The size of a memory's basin: of its copies corrupted to each level, the share that comes back.

    `corrupt(key, memory, level)` damages the states of one example. A copy has come back when it converges to where the
    memory itself does, no activation off by more than `within`; where it does not, none has. The others as in `relax`.
    """
    levels = jnp.asarray(levels)
    keys = jr.split(key, (len(levels), copies))
    damage = jax.vmap(jax.vmap(corrupt, (0, None, None)), (0, None, 0))
    damaged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), damage(keys, dict(memory), levels))
    starts = {name: jnp.concatenate([jnp.asarray(memory[name])[None], x]) for name, x in damaged.items()}
    found = fixed_points(ham, starts, within=within, tol=tol, max_steps=max_steps, method=method, clamp=clamp)
    return jnp.mean((found.converged & (found.first == 0))[1:].reshape(len(levels), copies), axis=1)


def energy_between(ham: HAM | VectorizedHAM, start: States, end: States, points: int = 101) -> Float[Array, " points"]:
    """The energy at `points` states on the straight line from `start` to `end`, both included."""
    return energy_plane(ham, start, end, end, jnp.linspace(0, 1, points), jnp.zeros(1))[0]


def energy_plane(
    ham: HAM | VectorizedHAM,
    origin: States,
    first: States,
    second: States,
    a: Float[Array, " columns"],
    b: Float[Array, " rows"],
) -> Float[Array, "rows columns"]:
    """The energy at the states origin + a (first − origin) + b (second − origin), for every `b` and every `a`."""
    one = ham.unvectorize()
    one._check_layers("state", origin)

    def energy(b, a):
        xs = {
            name: x + a.astype(x.dtype) * (first[name] - x) + b.astype(x.dtype) * (second[name] - x)
            for name, x in origin.items()
        }
        return one.energy(one.activations(xs), xs)

    return jax.jit(jax.vmap(jax.vmap(energy, (None, 0)), (0, None)))(jnp.asarray(b), jnp.asarray(a))


def plane_coordinates(
    origin: States, first: States, second: States, xs: Mapping[str, Float[Array, "points ..."]]
) -> Float[np.ndarray, "points 2"]:
    """The a and b of `energy_plane` whose states lie nearest to each of `xs`, by least squares."""

    def flat(states, leading):
        return np.concatenate([np.asarray(x).reshape(*leading, -1) for _, x in sorted(states.items())], axis=-1)

    start = flat(origin, ())
    axes = np.stack([flat(first, ()) - start, flat(second, ()) - start], axis=-1)
    points = flat(xs, (len(next(iter(xs.values()))),)) - start
    return np.linalg.lstsq(axes, points.T, rcond=None)[0].T


def _first_alike(
    gs: States, others: States, within: float, counted: Bool[Array, " others"] | bool = True
) -> Int[Array, " count"]:
    """For each of `gs` the index of the first of `others` that is counted and within `within` of it, −1 for none."""

    def find(g):
        gaps = [jnp.abs(widened(others[name]) - widened(g[name])[None]) for name in g]
        near = [jnp.all(gap.reshape(len(gap), -1) <= within, axis=1) for gap in gaps]
        alike = jnp.all(jnp.stack(near), axis=0) & counted
        return jnp.where(jnp.any(alike), jnp.argmax(alike), -1)

    return jax.lax.map(find, dict(gs))
