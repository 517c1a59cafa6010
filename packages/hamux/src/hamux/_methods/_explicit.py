"""The explicit step, of a fixed length or by a schedule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._binding import bind
from .._certificate import Certificate, Setting, relative_smoothness
from .._checks import positive
from .._ham import HAM
from ._method import Method, Point, Problem, Step, add

Schedule = Callable[[Int[Array, ""]], "Float[Array, ''] | float"]


class Explicit(Method):
    """x ← x − (dt/τ) ∂E/∂g: Euler's step of τ dx/dt = −∂E/∂g, and mirror descent on E with the Lagrangian's mirror map.

    - `dt`: in units of τ's time; or a schedule, a function of the number of steps taken so far, as optax has them.

    No step raises the energy where that is concave in the g's together, but for (c/2)‖g‖², and dt/τ ≤ 1/(leak + cℓ); at
    dt = τ, with leak 1 and c = 0, the step is the concave-convex procedure, the update of the closed-form Hopfield
    networks (`hamux.certify`; Yuille & Rangarajan, 2003). Elsewhere it may rise, for any dt that one has not measured.

    **Raises** ValueError for a `dt` that is no finite number > 0.
    """

    dt: float | Array | Schedule

    def __init__(self, dt: float | Array | Schedule = 0.1):
        self.dt = bind(dt, "the schedule of dt") if callable(dt) else positive("dt", dt)

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        max_dt, obstacles = relative_smoothness(ham, setting)
        if obstacles:
            return Certificate(False, None, tuple(obstacles))
        if callable(self.dt):
            return Certificate(False, max_dt, ("what the schedule will give is not known beforehand",))
        if isinstance(self.dt, jax.core.Tracer):
            return Certificate(False, max_dt, ("dt is being traced",))
        if self.dt > max_dt:
            return Certificate(False, max_dt, (f"dt is {self.dt}",))
        return Certificate(True, max_dt, ("E is smooth relative to the Lagrangians' conjugates",))

    def init(self, problem: Problem, point: Point, example: Int[Array, ""]) -> Int[Array, ""]:
        return jnp.zeros((), int)

    def step(self, problem: Problem, point: Point, state: Int[Array, ""]) -> Step:
        change = problem.descent(point, at(self.dt, state))
        return Step(problem.evaluate(add(point.xs, change)), state + 1)


def at(value: float | Array | Schedule, step: Int[Array, ""]) -> Array | float:
    """What a number or a schedule is at a step."""
    return value(step) if callable(value) else value
