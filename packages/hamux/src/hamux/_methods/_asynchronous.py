"""Binary neurons, updated one by one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._binding import declared
from .._certificate import Certificate, Setting
from .._ham import HAM
from ._method import Method, Point, Problem, Step


class _Sweeps(NamedTuple):
    key: PRNGKeyArray | None
    taken: Int[Array, ""]
    flips: Int[Array, ""]  # in the last sweep


class Asynchronous(Method):
    """x_i ← +1 where E(g_i = +1) < E(g_i = −1), −1 where it is greater, for one unit i after another; ties stay.

    The dynamics of Hopfield, 1982, with the energy difference itself in place of the local field, as Krotov & Hopfield,
    2016, §2, ask for an energy that is not quadratic. A step is a sweep over all units of all layers, and costs two
    evaluations of E a unit. It has converged when a sweep flips none; the residual is then 0, before that 2. From
    states of ±1 no step raises the energy of any HAM, and there is always an end.

    - `key`: draws a new order of the units for every sweep, for each example of a vectorised HAM another; without it
      they come in the order in which they are numbered.

    **Raises** ValueError when it is called for a HAM with a layer of real-valued activations that is not clamped whole.
    """

    key: PRNGKeyArray | None = None

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        real = _real_valued(ham, setting)
        reasons = real or ["from states of ±1, every unit takes the sign of lower energy"]
        return Certificate(not real, None, tuple(reasons))

    def check(self, ham: HAM, setting: Setting) -> None:
        real = _real_valued(ham, setting)
        if real:
            raise ValueError(f"no asynchronous update: {'; '.join(real)}. Its Lagrangian would be hamux.lagr_sign")

    def init(self, problem: Problem, point: Point, example: Int[Array, ""]) -> _Sweeps:
        free = ~_held(problem, point)
        key = None if self.key is None else jr.fold_in(self.key, example)
        return _Sweeps(key, jnp.zeros((), int), jnp.sum(free))

    def step(self, problem: Problem, point: Point, state: _Sweeps) -> Step:
        held = _held(problem, point)
        spins, unravel = ravel_pytree(problem.ham.activations(point.xs))

        def energy(spins):
            gs = unravel(spins)
            return sum(problem.ham.connection_energies(gs), jnp.zeros((), point.energy.dtype))

        def update(spins, i):
            up, down = jax.vmap(lambda spin: energy(spins.at[i].set(spin)))(jnp.array([1, -1], spins.dtype))
            settled = jnp.where(spins[i] == 0, 1, spins[i])
            sign = jnp.where(up < down, 1, jnp.where(up > down, -1, settled)).astype(spins.dtype)
            return spins.at[i].set(jnp.where(held[i], spins[i], sign)), None

        units = jnp.arange(spins.size)
        if state.key is not None:
            units = jr.permutation(jr.fold_in(state.key, state.taken), units)
        settled, _ = jax.lax.scan(update, spins, units)
        moved = problem.hold(point.xs, unravel(settled))
        flips = jnp.sum(settled != spins)
        return Step(problem.evaluate(moved), _Sweeps(state.key, state.taken + 1, flips))

    def residual(self, problem: Problem, point: Point, state: _Sweeps) -> Float[Array, ""]:
        return jnp.where(state.flips > 0, 2, 0).astype(point.energy.dtype)


def _held(problem: Problem, point: Point) -> Bool[Array, " units"]:
    none = jnp.array(False)
    return ravel_pytree(
        {name: jnp.broadcast_to(problem.masks.get(name, none), x.shape) for name, x in point.xs.items()}
    )[0]


def _real_valued(ham: HAM, setting: Setting) -> list[str]:
    return [
        f'layer "{name}" has real-valued activations'
        for name, layer in sorted(ham.neurons.items())
        if name not in setting.whole and not declared(layer.lagrangian, "binary")
    ]
