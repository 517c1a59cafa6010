"""The differential equation itself, by a solver of diffrax."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import positive
from .._precision import widened
from ._method import Method, Point, Problem, Step

if TYPE_CHECKING:
    import diffrax


class ODE(Method):
    """x ← x(dt), where τ dx/dt = −∂E/∂g from x(0) = x, solved by `diffrax` within `rtol`·|x| + `atol`.

    - `solver`: any of diffrax with an error estimate: `diffrax.Tsit5()`, or for stiff ones `diffrax.Kvaerno5()`.
    - `dt`: the time between two points of the record, in units of τ's; the solver takes steps of its own in between,
      each of which costs evaluations of ∂E/∂g, and raises where it takes more than diffrax's limit of them.

    `relax` ends it in the steady state. Along the exact solution E never rises, dE/dt = −Σ (1/τ) ∂E/∂g·∂²L/∂x²·∂E/∂g,
    on any HAM; along the computed one, by no more than its error. Kidger, "On Neural Differential Equations", 2021.

    **Raises** ImportError without diffrax, which `pip install hamux[ode]` brings; ValueError for a `dt` that is no
    finite number > 0, or a solver without an error estimate.
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
        diffrax = _diffrax()
        if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(f"the solver is {solver}; one with an error estimate is needed, such as diffrax.Tsit5()")
        self.solver = solver
        self.controller = diffrax.PIDController(rtol=rtol, atol=atol)
        self.dt = positive("dt", dt)

    def step(self, problem: Problem, point: Point, state: tuple[()]) -> Step:
        diffrax = _diffrax()
        wide, start = jax.tree.map(widened, (problem, point.xs))  # the error of a step is below half precision

        def velocity(t, xs, args):
            dEdg = wide.ham.dEdg(wide.ham.activations(xs), xs)
            return wide.descent(point._replace(xs=xs, dEdg=dEdg), 1.0)

        # In the dtype of the states: a Python float would be a float64 where jax has them.
        time = jnp.asarray(self.dt, jnp.result_type(*start.values()))
        flow = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            self.solver,
            t0=jnp.zeros_like(time),
            t1=time,
            dt0=None,
            y0=start,
            stepsize_controller=self.controller,
        )
        assert flow.ys is not None
        end = {name: x[-1].astype(point.xs[name].dtype) for name, x in flow.ys.items()}
        return Step(problem.evaluate(end), state)


def _diffrax():
    try:
        import diffrax
    except ImportError as error:
        raise ImportError("the ODE is solved by diffrax: pip install hamux[ode]") from error
    return diffrax
