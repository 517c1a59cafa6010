"""Binary neurons, updated one by one."""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._certificate import Certificate, Obstacle, Setting, certified, stated
from .._facts import all_of, holds, negated
from .._ham import HAM
from .._precision import widened
from ._method import Method, Point, Problem, Step


class _Sweeps(NamedTuple):
    key: PRNGKeyArray | None
    taken: Int[Array, ""]
    flips: Int[Array, ""]  # of the last sweep


class Asynchronous(Method[_Sweeps]):
    """Updates one binary unit after another: x_i ← +1 if E(g_i = +1) < E(g_i = −1), −1 if it is greater.

    A tie leaves the unit as it is. These are the dynamics of Hopfield, 1982. The energy difference takes the place of
    the local field, as Krotov & Hopfield, 2016, §2, ask for an energy that is not quadratic. A step is a sweep over all
    units of all layers, and costs two evaluations of E for each unit. The retrieval has converged when a sweep flips no
    unit; the residual is then 0, and 2 before. From states of ±1 no step raises the energy, on any HAM, and the
    retrieval always converges.

    - `key`: draws a new order of the units for every sweep, and for every example of a batch; see
      `hamux.Problem.own_key`. Without it the units come in the order in which they are numbered.

    **Raises** ValueError when it is called for a HAM with a layer of real-valued activations that is not clamped whole.
    """

    key: PRNGKeyArray | None = None

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        return certified(_real_valued(ham, setting), "from states of ±1, every unit takes the sign of lower energy")

    def prepare(self, ham: HAM, setting: Setting) -> Self:
        if real := stated(_real_valued(ham, setting)):
            raise ValueError(f"no asynchronous update: {'; '.join(real)}. Its Lagrangian would be hamux.lagr_sign")
        return self

    def init(self, problem: Problem, xs: dict[str, Array]) -> _Sweeps:
        key = None if self.key is None else problem.own_key(self.key, xs)
        return _Sweeps(key, jnp.zeros((), int), jnp.sum(~_held(problem, xs)))

    def step(self, problem: Problem, xs: dict[str, Array], state: _Sweeps) -> Step[_Sweeps]:
        held = _held(problem, xs)
        spins, unravel = ravel_pytree(problem.ham.activations(xs))

        def energy(spins: Float[Array, " units"]) -> Float[Array, ""]:
            return sum(problem.ham.connection_energies(unravel(spins)), start=jnp.zeros((), widened(spins).dtype))

        def update(spins: Float[Array, " units"], i: Int[Array, ""]) -> tuple[Float[Array, " units"], None]:
            up, down = jax.vmap(lambda spin: energy(spins.at[i].set(spin)))(jnp.array([1, -1], spins.dtype))
            settled = jnp.where(spins[i] == 0, 1, spins[i])
            sign = jnp.where(up < down, 1, jnp.where(up > down, -1, settled)).astype(spins.dtype)
            return spins.at[i].set(jnp.where(held[i], spins[i], sign)), None

        units = jnp.arange(spins.size)
        if state.key is not None:
            units = jr.permutation(jr.fold_in(state.key, state.taken), units)
        settled, _ = jax.lax.scan(update, spins, units)
        flips = jnp.sum(settled != spins)
        return Step(problem.hold(xs, unravel(settled)), _Sweeps(state.key, state.taken + 1, flips))

    def residual(self, problem: Problem, point: Point, state: _Sweeps) -> Float[Array, ""]:
        return jnp.where(state.flips > 0, 2, 0).astype(point.energy.dtype)


def _held(problem: Problem, xs: dict[str, Array]) -> Bool[Array, " units"]:
    none = jnp.array(False)
    return ravel_pytree({name: jnp.broadcast_to(problem.masks.get(name, none), x.shape) for name, x in xs.items()})[0]


def _real_valued(ham: HAM, setting: Setting) -> list[Obstacle]:
    real = {
        name: all_of(negated(setting.whole[name]), negated(holds(layer.lagrangian, "binary")))
        for name, layer in sorted(ham.neurons.items())
    }
    return [
        Obstacle(there, f'layer "{name}" has real-valued activations')
        for name, there in real.items()
        if there is not False
    ]
