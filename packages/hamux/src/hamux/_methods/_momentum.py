"""The explicit step with momentum."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._checks import positive
from ._method import Method, Point, Problem, Step, add


class Momentum(Method):
    """v ← μ v − (dt/τ) ∂E/∂g, x ← x + v: the heavy ball (Polyak, 1964) with μ = `momentum`.

    It rolls through flat stretches and narrow valleys that the explicit step crosses slowly. The energy may rise on the
    way: nothing is guaranteed.

    **Raises** ValueError for a `dt` that is no finite number > 0, or a `momentum` outside [0, 1).
    """

    dt: float | Array
    momentum: float | Array

    def __init__(self, dt: float | Array = 0.1, momentum: float | Array = 0.9):
        self.dt = positive("dt", dt)
        self.momentum = momentum
        if not isinstance(momentum, jax.core.Tracer) and not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it is at least 0 and less than 1")

    def init(self, problem: Problem, point: Point, example: Int[Array, ""]) -> dict[str, Array]:
        return jax.tree.map(jnp.zeros_like, point.xs)

    def step(self, problem: Problem, point: Point, state: dict[str, Array]) -> Step:
        pull = problem.descent(point, self.dt)
        velocity = {name: (self.momentum * v + pull[name]).astype(v.dtype) for name, v in state.items()}
        return Step(problem.evaluate(add(point.xs, velocity)), velocity)
