"""The differential equation itself, by a solver of diffrax."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ._explicit import positive
from ._method import Method, Point, Problem, Step

if TYPE_CHECKING:
    import diffrax


class ODE(Method):
    """x ← x(dt), where τ dx/dt = −∂E/∂g from x(0) = x, solved by `diffrax` within `rtol`·|x| + `atol`.

    - `solver`: any of diffrax with an error estimate: `diffrax.Tsit5()`, or for stiff ones `diffrax.Kvaerno5()`.
    - `dt`: the time between two points of the record, in units of τ's; the solver takes steps of its own in between,
      each of which costs evaluations of ∂E/∂g.

    `relax` ends it in the steady state. Along the exact solution E never rises, dE/dt = −Σ (1/τ) ∂E/∂g·∂²L/∂x²·∂E/∂g,
    on any HAM; along the computed one, by no more than its error. Kidger, "On Neural Differential Equations", 2021.

    **Raises** ImportError without diffrax, which `pip install hamux[ode]` brings; ValueError for a `dt` that is no
    finite number > 0.
    """

    solver: "diffrax.AbstractSolver" = eqx.field(static=True)
    controller: "diffrax.PIDController" = eqx.field(static=True)
    dt: float | Array

    def __init__(
        self,
        solver: "diffrax.AbstractSolver",
        dt: float | Array = 1.0,
        *,
        rtol: float = 1e-3,
        atol: float = 1e-6,
    ):
        self.solver = solver
        self.controller = _diffrax().PIDController(rtol=rtol, atol=atol)
        self.dt = positive("dt", dt)

    def step(self, problem: Problem, point: Point, state: tuple[()]) -> Step:
        diffrax = _diffrax()

        def velocity(t, xs, args):
            gs = problem.ham.activations(xs)
            dEdg = problem.ham.dEdg(gs, xs)
            return problem.descent(point._replace(xs=xs, gs=gs, dEdg=dEdg), 1.0)

        # In the dtype of the states: a Python float would be a float64 where jax has them.
        time = jnp.asarray(self.dt, jnp.result_type(*point.xs.values()))
        flow = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            self.solver,
            t0=jnp.zeros_like(time),
            t1=time,
            dt0=None,
            y0=point.xs,
            stepsize_controller=self.controller,
        )
        assert flow.ys is not None
        return Step(problem.evaluate({name: x[-1] for name, x in flow.ys.items()}), state)


def _diffrax():
    try:
        import diffrax
    except ImportError as error:
        raise ImportError("the ODE is solved by diffrax: pip install hamux[ode]") from error
    return diffrax
