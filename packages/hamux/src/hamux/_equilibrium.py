"""Equilibrium propagation: gradients from where nudged recalls come to rest, with nothing differentiated on the way."""

import dataclasses
import functools
from typing import Any, ClassVar, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, PyTree

from ._adjoints import Adjoint, contracting_rate, of_states_alone
from ._binding import Module
from ._checks import positive, whole
from ._descent import Descent, Retrieval, frozen
from ._facts import holds
from ._ham import HAM
from ._methods import Problem
from ._precision import widened

_Layers = dict[str, Array]
_Inputs = tuple[Problem, _Layers]
Kind = Literal["one-sided", "centred", "holomorphic"]

_MANY = 20  # explicit steps, for each step that the method may take


class Equilibrium(Adjoint):
    """Differentiates by relaxing again, nudged towards a smaller loss: equilibrium propagation.

    A retrieval comes to rest at x. A loss of its activations g has the gradient c = ∂loss/∂g there. A nudged HAM has
    the energy E + β c·g, and comes to rest at x(β), beginning from x. With G(β) = ∂(E + β c·g)/∂θ at x(β), the
    gradient of the loss by a parameter θ is dG/dβ at β = 0, and

    - `"one-sided"`: (G(β) − G(0))/β, with an error of order β. One more relaxation.
    - `"centred"`: (G(β) − G(−β))/2β, with an error of order β². Two more relaxations.
    - `"holomorphic"`: Σ_n G(β z_n)/(N β z_n) over the N = `points` roots of unity z_n, with an error of order β^N. N
      more relaxations of complex states, by explicit steps. Lagrangians and synapses have to be analytic near the
      states: see `hamux.certify` for how they declare it.

    Every synapse learns from the activations of its own layers alone, and memory does not depend on the number of
    steps. What is left of the residual enters as tol/β: take a small `tol`.

    Of the result of `relax`, the activations `gs` have a gradient, by parameters and by clamped states; nothing else
    has one. So give the loss `out.gs`. The nudge is c·g in place of the loss itself, which has the same gradient, so
    that what is certified of the HAM stays so.

    **Raises** ValueError for a β that is not a finite number > 0, for another `kind`, for `points` < 2, or for another
    kind, for parts that are not analytic under the holomorphic kind, and under `descend`, whose end is no fixed point;
    RuntimeError for a gradient by what has none.

    Scellier & Bengio, "Equilibrium Propagation", 2017; Laborieux, Ernoult, Scellier, Bengio, Grollier & Querlioz,
    "Scaling Equilibrium Propagation to Deep ConvNets by Drastically Reducing its Gradient Estimator Bias", 2021;
    Laborieux & Zenke, "Holomorphic Equilibrium Propagation Computes Exact Gradients Through Finite Size Oscillations",
    2022.
    """

    beta: float = eqx.field(static=True)
    kind: Kind = eqx.field(static=True)
    points: int = eqx.field(static=True)

    def __init__(self, beta: float, kind: Kind = "centred", points: int | None = None):
        if kind not in get_args(Kind):
            raise ValueError(f"kind is {kind!r}; it is one of {get_args(Kind)}")
        if points is not None and kind != "holomorphic":
            raise ValueError(f'points is {points}, but the kind is "{kind}"; "holomorphic" takes points')
        self.beta = float(positive("beta", beta))
        self.kind = kind
        self.points = whole("points", 2 if points is None else points, "at least two lie on a circle", 2)

    def descend(self, descent: Descent) -> Retrieval:
        raise ValueError("descend takes a number of steps; Equilibrium needs the fixed point that relax comes to")

    def relax(self, descent: Descent) -> Retrieval:
        if self.kind == "holomorphic" and (rough := _not_analytic(descent.problem.ham)):
            raise ValueError(f"no holomorphic gradient: {', '.join(rough)} is not declared analytic")
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
    if adjoint.kind == "holomorphic":
        betas = adjoint.beta * np.exp(2j * np.pi * np.arange(adjoint.points) / adjoint.points)
        slope, weights = _complex_slope, 1 / (adjoint.points * betas)
    else:
        betas = np.array([adjoint.beta, 0.0 if adjoint.kind == "one-sided" else -adjoint.beta])
        slope, weights = _real_slope, np.array([1.0, -1.0]) / (betas[0] - betas[1])
    slopes = jax.lax.map(functools.partial(slope, inputs, end, descent, c), jnp.asarray(betas))
    return jax.tree.map(
        lambda G, was: jnp.real(jnp.tensordot(jnp.asarray(weights, G.dtype), G, 1)).astype(was.dtype),
        slopes,
        eqx.filter(inputs, eqx.is_inexact_array),
    )


def _real_slope(inputs: _Inputs, end: _Layers, descent: Descent, c: _Layers, beta: Float[Array, ""]) -> PyTree:
    """G(β) by the inputs."""
    nudge = {name: beta.astype(pull.dtype) * pull for name, pull in c.items()}
    problem = dataclasses.replace(frozen(inputs[0]), ham=_nudged(frozen(inputs[0].ham), nudge))
    further = dataclasses.replace(descent, problem=problem, xs=end, warmup=None, energies=False, trajectory=False)
    settled = further.relax().xs

    def energy(inputs: _Inputs) -> Float[Array, ""]:
        problem, xs = inputs
        ham, xs = _nudged(problem.ham, nudge), problem.hold(xs, settled)
        return ham.energy(ham.activations(xs), xs)

    return eqx.filter_grad(energy)(inputs)


def _complex_slope(inputs: _Inputs, end: _Layers, descent: Descent, c: _Layers, beta: Complex[Array, ""]) -> PyTree:
    """G(β) by the inputs, for a complex β."""
    wide = jax.tree.map(widened, (inputs, end, c))
    rate = contracting_rate(frozen(wide[0][0]), wide[1])
    dtype = np.result_type(*(x.dtype for x in wide[1].values()), np.complex64)
    numbers, rest = eqx.partition(wide[0], eqx.is_inexact_array)
    numbers, end, c = jax.tree.map(lambda x: x.astype(dtype), (numbers, *wide[1:]))

    def energy(numbers: PyTree, settled: _Layers) -> Complex[Array, ""]:
        problem, xs = eqx.combine(numbers, rest)
        xs = problem.hold(xs, settled)
        gs = _complex_activations(problem.ham, xs)
        own = [
            layer.leak * (jnp.sum(gs[name] * xs[name]) - layer.lagrangian(xs[name]))
            for name, layer in problem.ham.neurons.items()
        ]
        total: Complex[Array, ""] = functools.reduce(jnp.add, own) + _synaptic(problem.ham, c, beta, gs)
        return total

    problem, start = eqx.combine(numbers, rest)

    def force(xs: _Layers) -> _Layers:
        gs = _complex_activations(problem.ham, xs)
        pull = jax.grad(functools.partial(_synaptic, problem.ham, c, beta), holomorphic=True)(gs)
        forces: _Layers = problem.free(
            {name: layer.leak * xs[name] + pull[name] for name, layer in problem.ham.neurons.items()}
        )
        return forces

    def running(now: tuple[_Layers, Array]) -> Bool[Array, ""]:
        xs, count = now
        moved = jax.tree.map(jnp.subtract, xs, force(xs))
        gs, further = _complex_activations(problem.ham, xs), _complex_activations(problem.ham, moved)
        residual = jnp.max(jnp.stack([jnp.max(jnp.abs(gs[name] - further[name])) for name in gs]))
        return (residual > descent.tol) & (count < _MANY * descent.steps)

    def step(now: tuple[_Layers, Array]) -> tuple[_Layers, Array]:
        xs, count = now
        rates = {name: rate.astype(dtype) / jnp.asarray(tau, dtype) for name, tau in problem.tau.items()}
        return {name: xs[name] - rates[name] * dEdg for name, dEdg in force(xs).items()}, count + 1

    settled, _ = jax.lax.while_loop(running, step, (problem.hold(start, end), jnp.zeros((), int)))
    return jax.grad(energy, holomorphic=True)(numbers, settled)


def _synaptic(ham: HAM, c: _Layers, beta: Complex[Array, ""], gs: _Layers) -> Complex[Array, ""]:
    nudges = [beta.astype(g.dtype) * jnp.sum(c[name] * g) for name, g in gs.items()]
    energies = [ham.synapses[synapse](*(gs[name] for name in names)) for names, synapse in ham.connections]
    total: Complex[Array, ""] = functools.reduce(jnp.add, nudges + energies)
    return total


def _complex_activations(ham: HAM, xs: _Layers) -> _Layers:
    return {name: jax.grad(layer.lagrangian, holomorphic=True)(xs[name]) for name, layer in ham.neurons.items()}


def _not_analytic(ham: HAM) -> list[str]:
    """The parts that do not declare to be analytic."""
    layers = [
        f'layer "{name}"' for name, layer in ham.neurons.items() if holds(layer.lagrangian, "analytic") is not True
    ]
    synapses = [
        f'synapse "{name}"'
        for name, synapse in ham.synapses.items()
        if holds(synapse, "multilinear") is not True and holds(synapse, "analytic") is not True
    ]
    return layers + synapses


_activations.def_fwd(_forward)
_activations.def_bwd(_backward)
