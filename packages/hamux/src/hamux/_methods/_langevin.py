"""The explicit step in a bath of noise."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from .._binding import bind
from .._checks import positive
from ._explicit import Schedule, at
from ._method import Method, Problem, Step, add


class Langevin(Method[tuple[PRNGKeyArray, Int[Array, ""]]]):
    """Takes the explicit step with noise, x ← x − (dt/τ) ∂E/∂g + √(2 T dt/τ) ξ with standard normal ξ.

    The noise acts on the neurons' input, at temperature T.

    - `key`: what ξ is drawn from. The same key gives the same retrieval. In a batch every example draws noise of its
      own, the same under `jax.vmap` and `ham.vectorize()`; see `hamux.Problem.own_key`.
    - `temperature`: in units of the energy; or a schedule, a function of the number of steps taken so far, as in optax.
      One that falls to 0 anneals (Kirkpatrick, Gelatt & Vecchi, 1983).

    On identity layers, whatever their τ, the states come to be distributed as exp(−E/T) when dt is small: overdamped
    Langevin dynamics. On other layers they do not: the noise enters before the activation, and a saturated unit hardly
    feels it. The energy rises and falls. `residual` is that of the step without noise.

    **Raises** ValueError for a `dt` that is not a finite number > 0, or a `temperature` that is not a finite number ≥
    0.
    """

    key: PRNGKeyArray
    temperature: float | Array | Schedule
    dt: float | Array

    def __init__(self, key: PRNGKeyArray, temperature: float | Array | Schedule, dt: float | Array = 0.1):
        self.key = key
        self.dt = positive("dt", dt)
        if callable(temperature):
            temperature = bind(temperature, "the schedule of the temperature")
        elif not isinstance(temperature, jax.core.Tracer) and not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; it must be finite and at least 0")
        self.temperature = temperature

    def init(self, problem: Problem, xs: dict[str, Array]) -> tuple[PRNGKeyArray, Int[Array, ""]]:
        return problem.own_key(self.key, xs), jnp.zeros((), int)

    def step(
        self, problem: Problem, xs: dict[str, Array], state: tuple[PRNGKeyArray, Int[Array, ""]]
    ) -> Step[tuple[PRNGKeyArray, Int[Array, ""]]]:
        key, taken = state
        temperature = jnp.maximum(at(self.temperature, taken), 0)  # a schedule may end at 0 less its rounding
        keys = dict(zip(xs, jr.split(jr.fold_in(key, taken), len(xs)), strict=True))
        noise = {
            name: jnp.sqrt(2 * temperature * self.dt / problem.tau[name]).astype(x.dtype)
            * jr.normal(keys[name], x.shape, x.dtype)
            for name, x in xs.items()
        }
        moved = add(add(xs, problem.descent(problem.evaluate(xs), self.dt)), noise)
        return Step(problem.hold(xs, moved), (key, taken + 1))
