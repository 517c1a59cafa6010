"""Steps that are tried, and shortened until the energy falls."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._certificate import Certificate, Setting
from .._checks import positive
from .._ham import HAM
from ._method import Method, Point, Problem, Step, add, dot

_Tree = TypeVar("_Tree")

SMALLEST_SCALE = 2.0**-20  # of `dt` that is tried


class Backtracking(Method):
    """x ← x − (s/τ) ∂E/∂g with the longest s of dt, dt/2, dt/4, … for which the energy falls.

    It falls when it does so as the slope at the start of the step promises (Armijo, 1966): E⁺ − E ≤ 10⁻⁴ ∂E/∂g·(g⁺ −
    g). Where a fall is too small for the floats, |E⁺ − E| within their rounding, the mean slope over the step, ½ (∂E/∂g
    + ∂E⁺/∂g)·(g⁺ − g), stands in for it (the approximate Wolfe condition of Hager & Zhang, 2005). A try costs one
    evaluation of E and ∂E/∂g; one that fails is a step that is not accepted. s doubles, up to `dt`, after each one that
    is. In a batch every example has an s of its own.

    No step raises the energy of any HAM. Where some units of a token are clamped and share one Lagrangian with others
    (softmax, layer norm), −∂E/∂g need not point downhill; a retrieval may get stuck there.

    **Raises** ValueError for a `dt` that is no finite number > 0.
    """

    dt: float | Array

    def __init__(self, dt: float | Array = 1.0):
        self.dt = positive("dt", dt)

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        return Certificate(True, None, ("a step that raises the energy is not taken",))

    def init(self, problem: Problem, point: Point, example: Int[Array, ""]) -> Float[Array, ""]:
        return jnp.ones((), point.energy.dtype)

    def step(self, problem: Problem, point: Point, state: Float[Array, ""]) -> Step:
        dt = jnp.asarray(self.dt, state.dtype) * state
        tried = problem.evaluate(add(point.xs, problem.descent(point, dt)))
        return accept_or_shorten(point, tried, falls(problem, point, tried), state)


def accept_or_shorten(point: Point, tried: Point, accepted: Bool[Array, ""], scale: Float[Array, ""]) -> Step:
    """The step to `tried`, or to stay and have a shorter scale; the scale is the state that comes with it.

    A shortened step that moves no state is none.
    """
    accepted = accepted & (moves(point, tried) | (scale == 1))
    # Where nothing smaller is left to try, a point that is not finite is taken, so that the record shows it.
    last = scale / 2 < SMALLEST_SCALE
    accepted = accepted | (last & ~jnp.isfinite(tried.energy))
    after = jnp.where(accepted, jnp.minimum(2 * scale, 1), scale / 2)
    return Step(choose(accepted, tried, point), after, accepted, after < SMALLEST_SCALE)


def choose(condition: Bool[Array, ""], this: _Tree, that: _Tree) -> _Tree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, that)


def falls(problem: Problem, before: Point, after: Point) -> Bool[Array, ""]:
    """Whether the energy falls as the slope promises, or, within rounding, the mean slope says so.

    A step uphill that comes out lower has fallen, too.
    """
    change = jax.tree.map(jnp.subtract, *map(problem.ham.activations, (after.xs, before.xs)))
    slope, slope_after = dot(before.dEdg, change), dot(after.dEdg, change)
    fall = after.energy - before.energy
    within_rounding = jnp.abs(fall) <= jnp.minimum(before.rounding, after.rounding)
    enough = 1e-4 * jnp.minimum(slope, 0)
    return (fall <= enough) | (within_rounding & (0.5 * (slope + slope_after) <= enough))


def moves(before: Point, after: Point) -> Bool[Array, ""]:
    return jnp.any(jnp.stack([jnp.any(before.xs[name] != x) for name, x in after.xs.items()]))
