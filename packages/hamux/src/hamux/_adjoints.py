"""Gradients through a retrieval: through its steps, through the last of them, or at the fixed point itself.

These are the adjoint methods of differential equations and root finding, as in diffrax and optimistix.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._checks import positive, whole
from ._descent import Descent, Record, Retrieval, frozen
from ._facts import holds
from ._methods import Explicit, Problem
from ._methods._method import dot
from ._precision import widened

_Tree = TypeVar("_Tree")
_Layers = dict[str, Array]
_Operator = Callable[[_Layers], _Layers]


class Adjoint(eqx.Module):
    """How gradients flow through a retrieval; given to `descend` and `relax` as `adjoint=`.

    An adjoint of your own runs the descent that it is given, or `descent.frozen()`, the same one without a gradient,
    and gives the result the gradient that it stands for.
    """

    @abc.abstractmethod
    def descend(self, descent: Descent) -> Retrieval:
        """Returns the result of `hamux.descend`."""

    @abc.abstractmethod
    def relax(self, descent: Descent) -> Retrieval:
        """Returns the result of `hamux.relax`."""


class Unrolled(Adjoint):
    """Differentiates through every step; all of the result has a gradient.

    - `every`: reverse mode keeps the states of every `every`-th step, and computes the steps in between again. With 1
      it keeps those of each step, and computes again only what lies within a step. Without it memory grows with √steps,
      for about one more forward pass (Griewank & Walther, 2000); up to three steps are kept whole.

    **Raises** ValueError for `every` < 1.
    """

    every: int | None = eqx.field(static=True)

    def __init__(self, every: int | None = None):
        self.every = None if every is None else int(whole("every", every, "reverse mode keeps every step, or fewer"))

    def descend(self, descent: Descent) -> Retrieval:
        return descent.descend(self.every)

    def relax(self, descent: Descent) -> Retrieval:
        steps = descent.steps
        return descent.relax(2 * math.isqrt(steps) + 1 if self.every is None else -(-steps // self.every))


class Truncated(Adjoint):
    """Differentiates through the last `steps` steps alone, and takes those before as given (Williams & Peng, 1990).

    The bias falls like the error of the descent. Under `relax` all of the last steps would start at the fixed point;
    there gradients flow through `steps` further explicit steps, whatever the method was, of a length at which they
    contract. One step gives the Jacobian-free gradient of Fung et al., 2022, many the implicit one.

    Clamped states and parameters have gradients, under `descend` those of the method too; the start has one only where
    all steps are among the last. Of the result, `xs` has a gradient and, under `descend`, the residual; and all of it
    where all steps are among the last.

    **Raises** ValueError for `steps` < 1, and RuntimeError for a gradient by what has none.
    """

    steps: int = eqx.field(static=True)

    def __init__(self, steps: int):
        self.steps = int(whole("steps", steps, "at least one step has a gradient"))

    def descend(self, descent: Descent) -> Retrieval:
        given = max(descent.steps - self.steps, 0)
        if not given:
            return Unrolled().descend(descent)
        before = descent.frozen()
        progress, records = before.walk(before.begin(), given)
        progress, last = descent.walk(descent.resume(progress), descent.steps - given)
        way_out = f"take the first {given} steps as a warm-up: descend(…, warmup={given}, adjoint=hamux.Unrolled())"
        records = Record(
            _without_gradient(records.energy, descent, f"{self!r} has no gradient by energies; {way_out}"),
            _without_gradient(records.xs, descent, f"{self!r} has no gradient by the trajectory; {way_out}"),
        )
        return descent.finish(progress, jax.tree.map(lambda *parts: jnp.concatenate(parts), records, last))

    def relax(self, descent: Descent) -> Retrieval:
        out = descent.frozen().relax()
        problem, end = _held_if_binary(descent.problem), descent.problem.hold(descent.xs, out.xs)
        rate = contracting_rate(frozen(problem), frozen(end))
        further = dataclasses.replace(
            descent,
            problem=problem,
            method=Explicit(rate),
            xs=end,
            warmup=None,
            steps=self.steps,
            energies=False,
            trajectory=False,
        )
        # The value is that of the end, the gradient that of the further steps.
        xs = jax.tree.map(lambda x, y: x + (y - frozen(y)), out.xs, further.descend().xs)
        return of_states_alone(self, out, xs, descent)


class Implicit(Adjoint):
    """Differentiates at the fixed point, by the implicit function theorem.

    Memory and time do not depend on the steps that led there. With F(x) = ∂E/∂g = leak x + ∂S/∂g the fixed point has
    F(x) = 0, so that dx solves F'(x) dx = −dF over the units that are not clamped. F' is self-adjoint in the metric
    H = ∂²L/∂x², and conjugate gradients in it weigh what the activations show. The flat directions of L (of a softmax,
    a layer norm, a saturated unit) weigh nothing, H is not inverted, and a last step dx ← dx − (F' dx + dF)/leak fills
    in what they hold. On layers without a leak only H F vanishes; there dx solves (H F)' dx = −d(H F), with the Hessian
    of E(g(x), x), and has no part in flat directions. Where only some of the units that share a Lagrangian are clamped,
    F' is not self-adjoint, and the gradient is approximate: take another adjoint there. Bai, Kolter & Koltun, "Deep
    Equilibrium Models", 2019, for the idea.

    Of the result only `xs` has a gradient, by the parameters and by clamped states: that of the fixed point nearby,
    whether or not the retrieval has converged to it.

    - `rtol`: the relative error at which conjugate gradients stop; ε^¾ of the floats without it. They also stop after
      as many steps as there are units, and where a direction is flat to rounding.

    **Raises** ValueError for an `rtol` that is not a finite number > 0, and RuntimeError for a gradient by what has
    none.
    """

    rtol: float | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.rtol is not None:
            positive("rtol", self.rtol)

    def descend(self, descent: Descent) -> Retrieval:
        return self._at_rest(descent.frozen().descend(), descent)

    def relax(self, descent: Descent) -> Retrieval:
        return self._at_rest(descent.frozen().relax(), descent)

    def _at_rest(self, out: Retrieval, descent: Descent) -> Retrieval:
        return of_states_alone(self, out, at_fixed_point(out.xs, descent.problem, descent.xs, self), descent)


def of_states_alone(adjoint: Adjoint, out: Retrieval, xs: dict[str, Array] | None, descent: Descent) -> Retrieval:
    """Returns `out` with `xs`, which has a gradient, and refuses gradients by all else; without `xs` by it, too."""
    only = "gs" if xs is None else "xs"
    way_out = "ham.energy(ham.activations(out.xs), out.xs)"

    def refused(value: _Tree, what: str) -> _Tree:
        message = (
            f"{adjoint!r} has no gradient by {what}, only by {only}; take adjoint=hamux.Unrolled(), or for the energy "
            f"at the end differentiate {way_out}"
        )
        same: _Tree = _without_gradient(value, descent, message)
        return same

    return dataclasses.replace(
        out,
        xs=refused(out.xs, "xs") if xs is None else xs,
        energies=refused(out.energies, "energies"),
        residual=refused(out.residual, "the residual"),
        trajectory=refused(out.trajectory, "the trajectory"),
    )


@eqx.filter_custom_jvp
def _without_gradient(value: _Tree, inputs: PyTree, message: str) -> _Tree:
    """Returns `value`, which depends on `inputs` in a way that is not followed.

    Reverse mode raises RuntimeError with `message` where a gradient comes back to it, forward mode has tangents of NaN.
    """
    return value


def _refused(primals: tuple[_Tree, PyTree, str], tangents: tuple[_Tree, PyTree, None]) -> tuple[_Tree, _Tree]:
    value, _, message = primals
    _, inputs_dot, _ = tangents
    # One number that depends on every tangent there is, at hardly any cost.
    some = [jnp.sum(jnp.ravel(dot)[:1].astype(float)) for dot in jax.tree.leaves(inputs_dot)]
    tangent = functools.reduce(jnp.add, some)
    unknown = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan) * tangent.astype(leaf.dtype), value)
    return value, eqxi.nondifferentiable_backward(unknown, msg=message)


_without_gradient.def_jvp(_refused)


def _held_if_binary(problem: Problem) -> Problem:
    """Returns the problem with all binary layers clamped: they cannot move by a little."""
    layers = problem.ham.neurons
    binary = [name for name, layer in layers.items() if holds(layer.lagrangian, "binary")]
    masks = problem.masks | {name: jnp.ones(layers[name].shape, bool) for name in binary}
    return dataclasses.replace(problem, masks=masks, whole=problem.whole | set(binary))


def contracting_rate(problem: Problem, xs: dict[str, Array]) -> Float[Array, ""]:
    """Returns a dt at which explicit steps near the fixed point `xs` contract.

    They do for dt < 2/λ, with λ the largest eigenvalue of the Jacobian of (1/τ) ∂E/∂g. The dt is 1/λ after eight steps
    of the power method from a random direction: enough, where λ stands out among a million units, to find half of it.
    """
    problem, xs = jax.tree.map(widened, (problem, xs))
    _, pushed = jax.linearize(lambda xs: problem.descent(problem.evaluate(xs), 1.0), xs)

    def power(v: _Layers) -> tuple[_Layers, Float[Array, ""]]:
        v = pushed(v)
        size = jnp.sqrt(dot(v, v))
        return {name: x / jnp.where(size > 0, size, 1).astype(x.dtype) for name, x in v.items()}, size

    keys = dict(zip(xs, jr.split(jr.key(0), len(xs)), strict=True))
    start = problem.free({name: jr.normal(keys[name], x.shape, x.dtype) for name, x in xs.items()})
    _, size = jax.lax.fori_loop(0, 8, lambda _, now: power(now[0]), power(start))
    return jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 1)


@eqx.filter_custom_jvp
def at_fixed_point(
    end: dict[str, Array], problem: Problem, xs: dict[str, Array], adjoint: Implicit
) -> dict[str, Array]:
    """Returns `end`, with the implicit gradient by the problem and by the clamped units of `xs`, the start."""
    return end


def _implicit(
    primals: tuple[_Layers, Problem, _Layers, Implicit], tangents: tuple[PyTree, PyTree, PyTree, PyTree]
) -> tuple[_Layers, _Layers]:
    dtypes = {name: x.dtype for name, x in primals[0].items()}
    there = at_fixed_point(*primals)  # so that a second derivative finds the gradient of the first
    end: _Layers
    problem: Problem
    end, problem, xs, adjoint = jax.tree.map(widened, (there, *primals[1:]))
    _, *inputs_dot, _ = jax.tree.map(widened, tangents)
    layers = problem.ham.neurons
    zeros = jax.tree.map(jnp.zeros_like, end)
    binary = [name for name, layer in layers.items() if holds(layer.lagrangian, "binary") is True]

    def only_free(values: _Layers) -> _Layers:
        """Returns 0 where a unit is clamped, or is binary and cannot move by a little."""
        return problem.free(values | {name: zeros[name] for name in binary})

    def pick(with_leak: _Layers, without: _Layers) -> _Layers:
        return {name: (with_leak if layer.leak else without)[name] for name, layer in layers.items()}

    def equation(free: _Layers, problem: Problem, xs: _Layers) -> _Layers:
        x = problem.hold(xs, free)
        gs, pull_back = jax.vjp(problem.ham.activations, x)
        dEdg = problem.ham.dEdg(gs, x)
        return only_free(pick(dEdg, pull_back(dEdg)[0]))

    gs, metric = jax.linearize(problem.ham.activations, end)
    _, synaptic = jax.linearize(lambda gs: problem.ham.dEdg(gs, end), gs)
    _, jacobian = jax.linearize(lambda free: equation(free, problem, xs), end)

    def weigh(v: _Layers) -> _Layers:
        return only_free(pick(metric(v), v))

    def over_leak(v: _Layers) -> _Layers:
        return only_free({name: v[name] / layer.leak if layer.leak else zeros[name] for name, layer in layers.items()})

    def solve(b: _Layers) -> _Layers:
        v = _conjugate_gradients(jacobian, weigh, b, adjoint.rtol)
        rest = over_leak(_combined(b, -1, jacobian(v)))
        return _combined(v, 1, rest)

    def shown(c: _Layers) -> _Layers:
        """Returns what of c does not lie in the flat directions of L."""
        part: _Layers = metric(_conjugate_gradients(lambda v: metric(metric(v)), lambda v: v, metric(c), adjoint.rtol))
        return part

    def solve_transposed(c: _Layers) -> _Layers:
        # w = c / leak + D y turns F'ᵀ w = c into D F' y = D z, which F' y = z solves.
        w = over_leak(c)
        force = synaptic(w)
        z = pick({name: -x for name, x in force.items()}, _combined(shown(c), -1, metric(force)))
        return _combined(w, 1, weigh(_conjugate_gradients(jacobian, weigh, only_free(z), adjoint.rtol)))

    def filled(dot: Mapping[str, Array | None]) -> _Layers:
        """Returns `dot`, with zeros for what does not depend on the inputs that are differentiated."""
        return {name: zero if (given := dot[name]) is None else given for name, zero in zeros.items()}

    _, force = eqx.filter_jvp(lambda *inputs: equation(end, *inputs), (problem, xs), tuple(inputs_dot))
    # As one vector: jax transposes a solve only where all of the right-hand side depends on the inputs.
    vector, unravel = ravel_pytree(jax.tree.map(jnp.negative, filled(force)))

    def on_vectors(function: _Operator) -> Callable[..., Array]:
        return lambda *arguments: ravel_pytree(function(unravel(arguments[-1])))[0]

    moved = jax.lax.custom_linear_solve(on_vectors(jacobian), vector, on_vectors(solve), on_vectors(solve_transposed))
    end_dot = problem.hold(filled(inputs_dot[1]), unravel(moved))
    return there, {name: x.astype(dtypes[name]) for name, x in end_dot.items()}


at_fixed_point.def_jvp(_implicit)


class _Iterate(NamedTuple):
    """A step of conjugate gradients: solution v, residual r, direction p, D r, D p and r·D r with the metric D, the
    steepest curvature so far, the number of steps, and whether the direction is flat."""

    v: dict[str, Array]
    r: dict[str, Array]
    p: dict[str, Array]
    Dr: dict[str, Array]
    Dp: dict[str, Array]
    size: Float[Array, ""]
    steepest: Float[Array, ""]
    steps: Int[Array, ""]
    flat: Bool[Array, ""]


def _combined(a: _Layers, factor: Float[Array, ""] | int, b: _Layers) -> _Layers:
    """Returns a + factor · b."""
    return {name: a[name] + factor * b[name] for name in a}


def _conjugate_gradients(operator: _Operator, metric: _Operator, b: _Layers, rtol: float | None) -> _Layers:
    """Solves operator(v) = b, where `operator` is self-adjoint and positive in ⟨u, v⟩ = u·metric(v).

    Hestenes & Stiefel, 1952. It stops before it takes a direction that is flat to rounding, or bends down.
    """
    rounding = float(jnp.finfo(jnp.result_type(*b.values())).eps) ** 0.75
    rtol = rounding if rtol is None else rtol
    count = sum(x.size for x in b.values())

    def running(now: _Iterate) -> Bool[Array, ""]:
        return (now.size > rtol**2 * first.size) & (now.steps < count) & ~now.flat

    def step(now: _Iterate) -> _Iterate:
        q = operator(now.p)
        Dq = metric(q)
        curvature, length = dot(now.p, Dq), dot(now.p, now.Dp)
        steepest = jnp.maximum(now.steepest, curvature / length)
        flat = ~(curvature > rounding * steepest * length)
        alpha = jnp.where(flat, 0, now.size / jnp.where(flat, 1, curvature))
        r, Dr = _combined(now.r, -alpha, q), _combined(now.Dr, -alpha, Dq)
        size = dot(r, Dr)
        beta = size / now.size
        p, Dp = _combined(r, beta, now.p), _combined(Dr, beta, now.Dp)
        return _Iterate(_combined(now.v, alpha, now.p), r, p, Dr, Dp, size, steepest, now.steps + 1, flat)

    Db = metric(b)
    zero = jax.tree.map(jnp.zeros_like, b)
    size = dot(b, Db)
    first = _Iterate(zero, b, b, Db, Db, size, jnp.zeros_like(size), jnp.zeros((), int), jnp.array(False))
    end: _Iterate = jax.lax.while_loop(running, step, first)
    return end.v
