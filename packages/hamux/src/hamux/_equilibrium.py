"""Equilibrium propagation: gradients from where nudged recalls come to rest, with nothing differentiated on the way."""

import dataclasses
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._adjoints import Adjoint, of_states_alone
from ._binding import Module
from ._checks import positive
from ._descent import Descent, Retrieval, frozen
from ._ham import HAM
from ._methods import Problem
from ._precision import widened

_Layers = dict[str, Array]
_Inputs = tuple[Problem, _Layers]


class Equilibrium(Adjoint):
    """Differentiates by relaxing again, nudged towards a smaller loss: equilibrium propagation.

    A retrieval comes to rest at x. A loss of its activations g has the gradient c = ∂loss/∂g there. A nudged HAM has
    the energy E + β c·g, and comes to rest at x(β), beginning from x. With G(β) = ∂(E + β c·g)/∂θ at x(β), the
    gradient of the loss by a parameter θ is dG/dβ at β = 0, and

    - `"one-sided"`: (G(β) − G(0))/β, with an error of order β. One more relaxation.
    - `"centred"`: (G(β) − G(−β))/2β, with an error of order β². Two more relaxations.

    Every synapse learns from the activations of its own layers alone, and memory does not depend on the number of
    steps. What is left of the residual enters as tol/β: take a small `tol`.

    Of the result of `relax`, the activations `gs` have a gradient, by parameters and by clamped states; nothing else
    has one. So give the loss `out.gs`. The nudge is c·g in place of the loss itself, which has the same gradient, so
    that what is certified of the HAM stays so.

    **Raises** ValueError for a β that is not a finite number > 0, for another `kind`, and under `descend`, whose end is
    no fixed point; RuntimeError for a gradient by what has none.

    Scellier & Bengio, "Equilibrium Propagation", 2017; Laborieux, Ernoult, Scellier, Bengio, Grollier & Querlioz,
    "Scaling Equilibrium Propagation to Deep ConvNets by Drastically Reducing its Gradient Estimator Bias", 2021.
    """

    beta: float = eqx.field(static=True)
    kind: Literal["one-sided", "centred"] = eqx.field(static=True)

    def __init__(self, beta: float, kind: Literal["one-sided", "centred"] = "centred"):
        if kind not in ("one-sided", "centred"):
            raise ValueError(f'kind is {kind!r}; it is "one-sided" or "centred"')
        self.beta = float(positive("beta", beta))
        self.kind = kind

    def descend(self, descent: Descent) -> Retrieval:
        raise ValueError("descend takes a number of steps; Equilibrium needs the fixed point that relax comes to")

    def relax(self, descent: Descent) -> Retrieval:
        out = descent.frozen().relax()
        gs = _activations((descent.problem, descent.xs), out.xs, descent.frozen(), self)
        return dataclasses.replace(of_states_alone(self, out, None, descent), gs=gs)


class _Nudge(Module):
    """E = Σ c·g."""

    c: Float[Array, "..."]
    curvature: ClassVar[float] = 0.0
    multilinear: ClassVar[bool] = True

    def __call__(self, g: Float[Array, "..."]) -> Float[Array, ""]:
        return jnp.sum(widened(self.c) * widened(g))


def _nudged(ham: HAM, c: _Layers) -> HAM:
    nudges = {f"nudge of {name}": _Nudge(pull) for name, pull in c.items()}
    connections = [((name,), f"nudge of {name}") for name in c]
    return HAM(ham.neurons, ham.synapses | nudges, [*ham.connections, *connections])


@eqx.filter_custom_vjp
def _activations(inputs: _Inputs, end: _Layers, descent: Descent, adjoint: Equilibrium) -> _Layers:
    """Returns the activations at `end`, with a gradient by the problem and by the clamped units of the start."""
    problem, xs = inputs
    return problem.ham.activations(problem.hold(xs, end))


def _forward(
    perturbed: Any, inputs: _Inputs, end: _Layers, descent: Descent, adjoint: Equilibrium
) -> tuple[_Layers, None]:
    return _activations(inputs, end, descent, adjoint), None


def _backward(
    residuals: None,
    gradient: dict[str, Array | None],
    perturbed: Any,
    inputs: _Inputs,
    end: _Layers,
    descent: Descent,
    adjoint: Equilibrium,
) -> PyTree:
    c = {name: jnp.zeros_like(x) if (given := gradient[name]) is None else given for name, x in end.items()}

    def at(beta: Float[Array, ""]) -> PyTree:
        """G(β)."""
        nudge = {name: beta.astype(pull.dtype) * pull for name, pull in c.items()}
        problem = dataclasses.replace(frozen(inputs[0]), ham=_nudged(frozen(inputs[0].ham), nudge))
        further = dataclasses.replace(
            descent, problem=problem, xs=end, warmup=None, energies=False, trajectory=False
        ).relax()

        def energy(inputs: _Inputs) -> Float[Array, ""]:
            problem, xs = inputs
            ham, xs = _nudged(problem.ham, nudge), problem.hold(xs, further.xs)
            return ham.energy(ham.activations(xs), xs)

        return eqx.filter_grad(energy)(inputs)

    beta = jnp.asarray(adjoint.beta, jnp.result_type(float))
    betas = jnp.stack([beta, jnp.zeros_like(beta) if adjoint.kind == "one-sided" else -beta])
    both = jax.lax.map(at, betas)
    return jax.tree.map(lambda G: (G[0] - G[1]) / (betas[0] - betas[1]).astype(G.dtype), both)


_activations.def_fwd(_forward)
_activations.def_bwd(_backward)
