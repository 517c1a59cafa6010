"""Anderson acceleration, with a safeguard."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .._certificate import Certificate, Setting
from .._checks import positive, whole
from .._ham import HAM
from ._backtracking import accept_or_shorten, choose, falls, moves
from ._method import Method, Point, Problem, Step, add


class _History(NamedTuple):
    """The last changes of x and of f, newest first, with zeros where there is none yet."""

    dx: Float[Array, "memory size"]
    df: Float[Array, "memory size"]
    scale: Float[Array, ""]
    plain: Bool[Array, ""]  # whether the next step is a plain one: without history, or after a proposal was refused


class Anderson(Method[_History]):
    """Takes Anderson's accelerated step, x ← x + f − (ΔX + ΔF) γ with f = −(dt/τ) ∂E/∂g and γ = argmin ‖f − ΔF γ‖².

    ΔX and ΔF hold the last `memory` changes of x and f as columns (Anderson, 1965; Walker & Ni, 2011). Where the
    explicit step is linear in x, as many steps as x has dimensions solve it. A proposal is taken when the energy falls
    as `Backtracking` asks; if not, the next step is one of `Backtracking` from the same point. So no step raises the
    energy, on any HAM, and a proposal that is refused costs one evaluation of E and ∂E/∂g. The retrieval may end in
    another minimum than that of the explicit step.

    **Raises** ValueError for a `dt` that is not a finite number > 0, or a `memory` < 1.
    """

    evaluates: ClassVar[bool] = True
    dt: float | Array
    memory: int = eqx.field(static=True)

    def __init__(self, dt: float | Array = 1.0, memory: int = 5):
        self.dt = positive("dt", dt)
        self.memory = int(whole("memory", memory, "at least one change is remembered"))

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        return Certificate(True, None, ("a step that raises the energy is not taken",))

    def init(self, problem: Problem, xs: dict[str, Array]) -> _History:
        x, _ = self._flat(problem, problem.evaluate(xs))
        none = jnp.zeros((self.memory, x.size), x.dtype)
        return _History(none, none, jnp.ones((), x.dtype), jnp.array(True))

    def step(self, problem: Problem, xs: dict[str, Array], state: _History) -> Step[_History]:
        point = problem.evaluate(xs)
        x, f = self._flat(problem, point)
        flat, unravel = ravel_pytree(xs)
        plain = problem.descent(point, jnp.asarray(self.dt, state.scale.dtype) * state.scale)
        mixed = unravel((f - _correction(state, f)).astype(flat.dtype))
        change = {name: jnp.where(state.plain, plain[name], mixed[name]) for name in plain}
        tried = problem.evaluate(add(xs, change))
        fell = falls(problem, point, tried)
        shortened = accept_or_shorten(point, tried, fell, state.scale)
        accepted = jnp.where(state.plain, shortened.accepted, fell & moves(point, tried))
        x_tried, f_tried = self._flat(problem, tried)
        remembered = _History(
            jnp.concatenate([(x_tried - x)[None], state.dx[:-1]]),
            jnp.concatenate([(f_tried - f)[None], state.df[:-1]]),
            state.scale,
            jnp.array(False),
        )
        after = choose(accepted, remembered, state._replace(plain=jnp.array(True)))
        after = after._replace(scale=jnp.where(state.plain, shortened.state, state.scale))
        taken = choose(accepted, tried, point)
        return Step(taken.xs, after, accepted, state.plain & shortened.stuck, taken)

    def _flat(self, problem: Problem, point: Point) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
        """Returns x and f as vectors, in the dtype of the energy."""
        x, f = ravel_pytree(point.xs)[0], ravel_pytree(problem.descent(point, self.dt))[0]
        return x.astype(point.energy.dtype), f.astype(point.energy.dtype)


def _correction(history: _History, f: Float[Array, " size"]) -> Float[Array, " size"]:
    """Returns (ΔX + ΔF) γ, with γ from the normal equations, regularised by their rounding."""
    gram = history.df @ history.df.T
    noise = jnp.finfo(gram.dtype).eps * jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
    gamma: Array = jnp.linalg.solve(gram + noise * jnp.eye(len(gram), dtype=gram.dtype), history.df @ f)
    return gamma @ (history.dx + history.df)
