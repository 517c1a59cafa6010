"""Anderson acceleration, with a safeguard."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from .._certificate import Certificate, Setting
from .._checks import positive, whole
from .._ham import HAM
from ._backtracking import accept_or_shorten, choose, falls, moves
from ._method import Method, Point, Problem, Step, add


class _History(NamedTuple):
    """The last moves of x and of f, newest first, zeros where there is none yet; and what they are measured from."""

    x: Float[Array, " size"]
    f: Float[Array, " size"]
    dx: Float[Array, "memory size"]
    df: Float[Array, "memory size"]
    scale: Float[Array, ""]
    plain: Bool[Array, ""]  # the next step is a plain one: there is no history, or what it proposed was refused


class Anderson(Method):
    """x ← x + f − (ΔX + ΔF) γ with f = −(dt/τ) ∂E/∂g and γ = argmin ‖f − ΔF γ‖² (Anderson, 1965; Walker & Ni, 2011).

    ΔX and ΔF hold the last `memory` changes of x and f as columns: where the explicit step would be linear, so many
    steps solve it. What is proposed is taken when the energy falls as `Backtracking` asks; else the next step is one of
    `Backtracking`, from the same point. So no step raises the energy of any HAM, and one that is refused costs one
    evaluation of E and ∂E/∂g. It may come down in another minimum than the explicit step does.

    **Raises** ValueError for a `dt` that is no finite number > 0, or a `memory` < 1.
    """

    dt: float | Array
    memory: int = eqx.field(static=True)

    def __init__(self, dt: float | Array = 1.0, memory: int = 5):
        self.dt = positive("dt", dt)
        self.memory = whole("memory", memory, "at least one change is remembered")

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        return Certificate(True, None, ("a step that raises the energy is not taken",))

    def init(self, problem: Problem, point: Point, example: Int[Array, ""]) -> _History:
        x, f = self._flat(problem, point)
        none = jnp.zeros((self.memory, x.size), x.dtype)
        return _History(x, f, none, none, jnp.ones((), point.energy.dtype), jnp.array(True))

    def step(self, problem: Problem, point: Point, state: _History) -> Step:
        flat, unravel = ravel_pytree(point.xs)
        plain = problem.descent(point, jnp.asarray(self.dt, state.scale.dtype) * state.scale)
        mixed = unravel((state.f - _correction(state)).astype(flat.dtype))
        change = {name: jnp.where(state.plain, plain[name], mixed[name]) for name in plain}
        tried = problem.evaluate(add(point.xs, change))
        fell = falls(problem, point, tried)
        shortened = accept_or_shorten(point, tried, fell, state.scale)
        accepted = jnp.where(state.plain, shortened.accepted, fell & moves(point, tried))
        x, f = self._flat(problem, tried)
        remembered = _History(
            x,
            f,
            jnp.concatenate([(x - state.x)[None], state.dx[:-1]]),
            jnp.concatenate([(f - state.f)[None], state.df[:-1]]),
            state.scale,
            jnp.array(False),
        )
        after = choose(accepted, remembered, state._replace(plain=jnp.array(True)))
        after = after._replace(scale=jnp.where(state.plain, shortened.state, state.scale))
        return Step(choose(accepted, tried, point), after, accepted, state.plain & shortened.stuck)

    def _flat(self, problem: Problem, point: Point) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
        """x and f as vectors, in the dtype of the energy."""
        x, f = ravel_pytree(point.xs)[0], ravel_pytree(problem.descent(point, self.dt))[0]
        return x.astype(point.energy.dtype), f.astype(point.energy.dtype)


def _correction(history: _History) -> Float[Array, " size"]:
    """(ΔX + ΔF) γ, with γ from the normal equations, regularised by their rounding."""
    gram = history.df @ history.df.T
    noise = jnp.finfo(gram.dtype).eps * jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
    gamma = jnp.linalg.solve(gram + noise * jnp.eye(len(gram), dtype=gram.dtype), history.df @ history.f)
    return gamma @ (history.dx + history.df)
