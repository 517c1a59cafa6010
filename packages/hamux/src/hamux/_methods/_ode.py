"""The differential equation itself, by a solver of diffrax."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import positive
from .._precision import widened
from ._method import Method, Problem, Step

if TYPE_CHECKING:
    import diffrax


class ODE(Method[tuple[()]]):
    """Solves τ dx/dt = −∂E/∂g over a time `dt` in each step, with `diffrax`, within an error of `rtol`·|x| + `atol`.

    - `solver`: any of diffrax's that estimates its error: `diffrax.Tsit5()`, or `diffrax.Kvaerno5()` for stiff
      equations.
    - `dt`: the time from one point of the record to the next, in units of τ's. In between the solver takes steps of its
      own, each of which costs evaluations of ∂E/∂g. It raises when it needs more than diffrax's limit of them.

    `relax` ends in the steady state. Along the exact solution E never rises, on any HAM:
    dE/dt = −Σ (1/τ) ∂E/∂g·∂²L/∂x²·∂E/∂g. Along the computed one it rises by no more than its error. Kidger, "On Neural
    Differential Equations", 2021.

    **Raises** ImportError without diffrax, which `pip install hamux-core[ode]` installs; ValueError for a `dt` that is
    not a finite number > 0, or a solver that does not estimate its error.
    """

    solver: "diffrax.AbstractSolver[Any]" = eqx.field(static=True)
    controller: "diffrax.PIDController" = eqx.field(static=True)
    dt: float | Array

    def __init__(
        self,
        solver: "diffrax.AbstractSolver[Any]",
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

    def step(self, problem: Problem, xs: dict[str, Array], state: tuple[()]) -> Step[tuple[()]]:
        diffrax = _diffrax()
        wide, start = jax.tree.map(widened, (problem.knowing(None), xs))  # the error of a step is below half precision

        def velocity(t: Array, xs: dict[str, Array], args: None) -> dict[str, Array]:
            change: dict[str, Array] = wide.descent(wide.evaluate(xs), 1.0)
            return change

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
        return Step({name: x[-1].astype(xs[name].dtype) for name, x in flow.ys.items()}, state)


def _diffrax() -> ModuleType:
    try:
        import diffrax
    except ImportError as error:
        raise ImportError("the ODE is solved by diffrax: pip install hamux-core[ode]") from error
    return diffrax
