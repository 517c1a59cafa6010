"""The explicit step with momentum."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import positive
from ._method import Method, Problem, Step, add


class Momentum(Method[dict[str, Array]]):
    """Takes the explicit step with momentum, v ← μ v − (dt/τ) ∂E/∂g, x ← x + v with μ = `momentum`.

    This is the heavy ball (Polyak, 1964). It rolls through flat stretches and narrow valleys that the explicit step
    crosses slowly. Nothing is guaranteed: the energy may rise on the way.

    **Raises** ValueError for a `dt` that is not a finite number > 0, or a `momentum` outside [0, 1).
    """

    dt: float | Array
    momentum: float | Array

    def __init__(self, dt: float | Array = 0.1, momentum: float | Array = 0.9):
        self.dt = positive("dt", dt)
        self.momentum = momentum
        if not isinstance(momentum, jax.core.Tracer) and not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it is at least 0 and less than 1")

    def init(self, problem: Problem, xs: dict[str, Array]) -> dict[str, Array]:
        return {name: jnp.zeros_like(x) for name, x in xs.items()}

    def step(self, problem: Problem, xs: dict[str, Array], state: dict[str, Array]) -> Step[dict[str, Array]]:
        pull = problem.descent(problem.evaluate(xs), self.dt)
        velocity = {name: (self.momentum * v + pull[name]).astype(v.dtype) for name, v in state.items()}
        return Step(add(xs, velocity), velocity)
