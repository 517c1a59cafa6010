"""The explicit step, of a fixed length or by a schedule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._binding import bind
from .._certificate import Certificate, Setting, certified, relative_smoothness
from .._checks import positive
from .._facts import known
from .._ham import HAM
from ._method import Method, Problem, Step, add

Schedule = Callable[[Int[Array, ""]], "Float[Array, ''] | float"]


class Explicit(Method[Int[Array, ""]]):
    """Takes the explicit step x ← x − (dt/τ) ∂E/∂g.

    This is Euler's step of τ dx/dt = −∂E/∂g, and mirror descent on E with the Lagrangian's mirror map.

    - `dt`: the length of a step, in units of τ's time; or a schedule, a function of the number of steps taken so far,
      as in optax.

    No step raises the energy if E − (c/2)‖g‖² is concave in all g's together and dt/τ ≤ 1/(leak + cℓ), where ℓ is the
    activation's Lipschitz constant. With dt = τ, leak 1 and c = 0 the step is the concave-convex procedure, the update
    of the closed-form Hopfield networks (`hamux.certify`; Yuille & Rangarajan, 2003). Elsewhere any dt may raise the
    energy until it is measured.

    **Raises** ValueError for a `dt` that is not a finite number > 0.
    """

    dt: float | Array | Schedule

    def __init__(self, dt: float | Array | Schedule = 0.1):
        self.dt = bind(dt, "the schedule of dt") if callable(dt) else positive("dt", dt)

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        max_dt, obstacles = relative_smoothness(ham, setting)
        longest = max_dt if isinstance(max_dt, float) else None
        certificate = certified(obstacles, "E is smooth relative to the Lagrangians' conjugates", longest)
        if not certificate:
            return certificate
        if longest is None:
            reason = "the largest dt follows from what is being traced"
        elif callable(self.dt):
            reason = "what the schedule will give is not known beforehand"
        elif isinstance(self.dt, jax.core.Tracer):
            reason = "dt is being traced"
        elif known(self.dt) > longest:
            reason = f"dt is {self.dt}"
        else:
            return certificate
        return Certificate(False, longest, (reason,))

    def init(self, problem: Problem, xs: dict[str, Array]) -> Int[Array, ""]:
        return jnp.zeros((), int)

    def step(self, problem: Problem, xs: dict[str, Array], state: Int[Array, ""]) -> Step[Int[Array, ""]]:
        change = problem.descent(problem.evaluate(xs), at(self.dt, state))
        return Step(add(xs, change), state + 1)


def at(value: float | Array | Schedule, step: Int[Array, ""]) -> Array | float:
    """Returns a number, or the value of a schedule at a step."""
    return value(step) if callable(value) else value
