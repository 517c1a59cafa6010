"""Steps that are tried, and shortened until the energy falls."""

from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._certificate import Certificate, Setting
from .._checks import positive
from .._ham import HAM
from ._method import Method, Point, Problem, Step, add, dot

_Tree = TypeVar("_Tree")

SMALLEST_SCALE = 2.0**-20  # the shortest step that is tried, as a share of `dt`


class Backtracking(Method[Float[Array, ""]]):
    """Takes the explicit step x ← x − (s/τ) ∂E/∂g with the longest s of dt, dt/2, dt/4, … for which the energy falls.

    The energy has to fall as the slope at the start of the step promises (Armijo, 1966): E⁺ − E ≤ 10⁻⁴ ∂E/∂g·(g⁺ − g).
    Where |E⁺ − E| is within rounding, the mean slope over the step, ½ (∂E/∂g + ∂E⁺/∂g)·(g⁺ − g), takes the place of
    E⁺ − E (the approximate Wolfe condition of Hager & Zhang, 2005). A try costs one evaluation of E and ∂E/∂g. One that
    fails is a step that is not accepted. After one that is accepted, s doubles, up to `dt`. In a batch every example
    has an s of its own.

    No step raises the energy, on any HAM. Where only some units of a token are clamped and share one Lagrangian with
    the others (softmax, layer norm), −∂E/∂g may not point downhill, and a retrieval may get stuck.

    **Raises** ValueError for a `dt` that is not a finite number > 0.
    """

    evaluates: ClassVar[bool] = True
    dt: float | Array

    def __init__(self, dt: float | Array = 1.0):
        self.dt = positive("dt", dt)

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        return Certificate(True, None, ("a step that raises the energy is not taken",))

    def init(self, problem: Problem, xs: dict[str, Array]) -> Float[Array, ""]:
        return jnp.ones((), problem.evaluate(xs).energy.dtype)

    def step(self, problem: Problem, xs: dict[str, Array], state: Float[Array, ""]) -> Step[Float[Array, ""]]:
        point = problem.evaluate(xs)
        dt = jnp.asarray(self.dt, state.dtype) * state
        tried = problem.evaluate(add(xs, problem.descent(point, dt)))
        return accept_or_shorten(point, tried, falls(problem, point, tried), state)


def accept_or_shorten(
    point: Point, tried: Point, accepted: Bool[Array, ""], scale: Float[Array, ""]
) -> Step[Float[Array, ""]]:
    """Returns the step to `tried`, or none and a shorter scale; the scale is the state that comes with it.

    A shortened step that moves no state does not count.
    """
    accepted = accepted & (moves(point, tried) | (scale == 1))
    # When nothing shorter is left to try, a point that is not finite is taken, so that the record shows it.
    last = scale / 2 < SMALLEST_SCALE
    accepted = accepted | (last & ~jnp.isfinite(tried.energy))
    after = jnp.where(accepted, jnp.minimum(2 * scale, 1), scale / 2)
    taken = choose(accepted, tried, point)
    return Step(taken.xs, after, accepted, after < SMALLEST_SCALE, taken)


def choose(condition: Bool[Array, ""], this: _Tree, that: _Tree) -> _Tree:
    chosen: _Tree = jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, that)
    return chosen


def falls(problem: Problem, before: Point, after: Point) -> Bool[Array, ""]:
    """Whether the energy falls as the slope promises, or, within rounding, as the mean slope says.

    A step that starts uphill and comes out lower has fallen too.
    """
    change = jax.tree.map(jnp.subtract, *map(problem.ham.activations, (after.xs, before.xs)))
    slope, slope_after = dot(before.dEdg, change), dot(after.dEdg, change)
    fall = after.energy - before.energy
    within_rounding = jnp.abs(fall) <= jnp.minimum(before.rounding, after.rounding)
    enough = 1e-4 * jnp.minimum(slope, 0)
    return (fall <= enough) | (within_rounding & (0.5 * (slope + slope_after) <= enough))


def moves(before: Point, after: Point) -> Bool[Array, ""]:
    return jnp.any(jnp.stack([jnp.any(before.xs[name] != x) for name, x in after.xs.items()]))
