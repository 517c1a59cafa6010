"""Gradients through a retrieval: back through its steps, through the last of them, or at the fixed point itself.

The adjoint methods of differential equations and root finding, as diffrax and optimistix have them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ._binding import declared
from ._checks import positive, whole
from ._methods import Problem
from ._methods._method import dot
from ._precision import widened


class Unrolled(eqx.Module):
    """Through every step. In reverse mode √steps of them are kept, and what lies between is computed again: memory
    grows with √steps, for about one more forward pass (Griewank & Walther, 2000); up to three are all kept. All of the
    result has a gradient.
    """


class Truncated(eqx.Module):
    """Through the last `steps` steps alone, those before being taken as given (Williams & Peng, 1990).

    The bias falls like the error of the descent. Under `relax`, where all of the last steps are taken at the fixed
    point, through `steps` further ones of the method, begun anew from where it ended; 1 is the Jacobian-free gradient
    of Fung et al., 2022. Clamped states, the parameters and those of the method have gradients; the start has one only
    where all steps are among the last. Of the result of `relax` only `xs` has a gradient.

    **Raises** ValueError for `steps` < 1.
    """

    steps: int = eqx.field(static=True)

    def __check_init__(self):
        whole("steps", self.steps, "at least one step has a gradient")


class Implicit(eqx.Module):
    """At the fixed point, by the implicit function theorem; memory and time do not depend on the steps that led there.

    With F(x) = ∂E/∂g = leak x + ∂S/∂g the fixed point has F(x) = 0, so that dx solves F'(x) dx = −dF over the units
    that are not clamped. F' is self-adjoint in the metric H = ∂²L/∂x²: conjugate gradients in it weigh what the
    activations show. The flat directions of L (of a softmax, a layer norm, a saturated unit) weigh nothing, H is not
    inverted, and a last step dx ← dx − (F' dx + dF)/leak fills in what they hold. On layers without a leak only H F
    vanishes; there dx solves (H F)' dx = −d(H F), the Hessian of E(g(x), x), and has no part in flat directions. Where
    only some of the units that share a Lagrangian are clamped, F' is not self-adjoint, and the gradient is approximate:
    take another adjoint there. Bai, Kolter & Koltun, "Deep Equilibrium Models", 2019, for the idea.

    Of the result only `xs` has a gradient, once, by the parameters and by clamped states: that of the fixed point
    nearby, whether or not the retrieval has `converged` to it.

    - `rtol`: the relative error at which conjugate gradients stop; ε^¾ of the floats when left out. They stop, too,
      after as many steps as there are units, and where a direction is flat to rounding.
    """

    rtol: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.rtol is not None:
            positive("rtol", self.rtol)


Adjoint = Unrolled | Truncated | Implicit


def frozen(tree: Any) -> Any:
    """`tree`, without a gradient."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, tree)


def segmented_scan(step: Callable, carry: Any, steps: int) -> tuple[Any, Any]:
    """`jax.lax.scan` of `steps` steps, in segments of √steps; reverse mode keeps where they begin, and one of them.

    Up to three steps, whose segments would be of one, are all kept, and unrolled: in a loop XLA runs convolutions on
    one thread and joins no two steps.
    """
    root = math.isqrt(steps)
    if root == 1:
        return jax.lax.scan(step, carry, length=steps, unroll=True)

    @functools.partial(jax.checkpoint, static_argnums=1)
    def segment(carry, length):
        return jax.lax.scan(step, carry, length=length)

    length = min(range(root, 2 * root), key=lambda length: steps % length)  # one that divides, where there is one
    count, rest = divmod(steps, length)
    carry, records = jax.lax.scan(lambda carry, _: segment(carry, length), carry, length=count)
    records = jax.tree.map(lambda record: record.reshape(-1, *record.shape[2:]), records)
    if rest:
        carry, last = segment(carry, rest)
        records = jax.tree.map(lambda *parts: jnp.concatenate(parts), records, last)
    return carry, records


@eqx.filter_custom_jvp
def at_fixed_point(
    end: dict[str, Array], problem: Problem, xs: dict[str, Array], adjoint: Implicit
) -> dict[str, Array]:
    """`end`, with the implicit gradient by the problem and by the clamped among the states `xs` it began from."""
    return end


@at_fixed_point.def_jvp
def _(primals, tangents):
    dtypes = {name: x.dtype for name, x in primals[0].items()}
    end, problem, xs, adjoint = jax.tree.map(widened, primals)
    _, *inputs_dot, _ = jax.tree.map(widened, tangents)
    layers = problem.ham.neurons
    zeros = jax.tree.map(jnp.zeros_like, end)
    binary = [name for name, layer in layers.items() if declared(layer.lagrangian, "binary")]

    def only_free(values):
        """0 where a unit is held, or is binary and cannot move by a little."""
        return problem.free(values | {name: zeros[name] for name in binary})

    def pick(with_leak, without):
        return {name: (with_leak if layer.leak else without)[name] for name, layer in layers.items()}

    def equation(free, problem, xs):
        x = problem.hold(xs, free)
        gs, pull_back = jax.vjp(problem.ham.activations, x)
        dEdg = problem.ham.dEdg(gs, x)
        return only_free(pick(dEdg, pull_back(dEdg)[0]))

    gs, metric = jax.linearize(problem.ham.activations, end)
    _, synaptic = jax.linearize(lambda gs: problem.ham.dEdg(gs, end), gs)
    _, jacobian = jax.linearize(lambda free: equation(free, problem, xs), end)

    def weigh(v):
        return only_free(pick(metric(v), v))

    def over_leak(v):
        return only_free({name: v[name] / layer.leak if layer.leak else zeros[name] for name, layer in layers.items()})

    def solve(b):
        v = _conjugate_gradients(jacobian, weigh, b, adjoint.rtol)
        return jax.tree.map(jnp.add, v, over_leak(jax.tree.map(jnp.subtract, b, jacobian(v))))

    def shown(c):
        """What of c does not lie in the flat directions of L."""
        return metric(_conjugate_gradients(lambda v: metric(metric(v)), lambda v: v, metric(c), adjoint.rtol))

    def solve_transposed(c):
        # w = c / leak + D y turns F'ᵀ w = c into D F' y = D z, which F' y = z solves.
        w = over_leak(c)
        force = synaptic(w)
        z = pick(jax.tree.map(jnp.negative, force), jax.tree.map(jnp.subtract, shown(c), metric(force)))
        return jax.tree.map(jnp.add, w, weigh(_conjugate_gradients(jacobian, weigh, only_free(z), adjoint.rtol)))

    def filled(dot):
        """With zeros for what does not depend on the inputs that are differentiated."""
        return {name: zero if dot[name] is None else dot[name] for name, zero in zeros.items()}

    _, force = eqx.filter_jvp(lambda *inputs: equation(end, *inputs), (problem, xs), tuple(inputs_dot))
    # As one vector: jax transposes a solve only where all of the right-hand side depends on the inputs.
    vector, unravel = ravel_pytree(jax.tree.map(jnp.negative, filled(force)))

    def on_vectors(function):
        return lambda *arguments: ravel_pytree(function(unravel(arguments[-1])))[0]

    moved = jax.lax.custom_linear_solve(on_vectors(jacobian), vector, on_vectors(solve), on_vectors(solve_transposed))
    end_dot = problem.hold(filled(inputs_dot[1]), unravel(moved))
    return primals[0], {name: x.astype(dtypes[name]) for name, x in end_dot.items()}


class _Iterate(NamedTuple):
    """Of conjugate gradients: solution, residual r, direction p, D r, D p, r·D r, the steepest curvature met, steps."""

    v: dict[str, Array]
    r: dict[str, Array]
    p: dict[str, Array]
    Dr: dict[str, Array]
    Dp: dict[str, Array]
    size: Float[Array, ""]
    steepest: Float[Array, ""]
    steps: Int[Array, ""]
    flat: Bool[Array, ""]


def _conjugate_gradients(operator: Callable, metric: Callable, b: dict[str, Array], rtol: float | None):
    """v with operator(v) = b, where `operator` is self-adjoint and positive in ⟨u, v⟩ = u·metric(v).

    Hestenes & Stiefel, 1952. It ends in a direction that is flat to rounding, or bends down, before it is taken.
    """
    rounding = float(jnp.finfo(jnp.result_type(*b.values())).eps) ** 0.75
    rtol = rounding if rtol is None else rtol
    count = sum(x.size for x in b.values())

    def combine(a, factor, b):
        return {name: a[name] + factor * b[name] for name in a}

    def running(now):
        return (now.size > rtol**2 * first.size) & (now.steps < count) & ~now.flat

    def step(now):
        q = operator(now.p)
        Dq = metric(q)
        curvature, length = dot(now.p, Dq), dot(now.p, now.Dp)
        steepest = jnp.maximum(now.steepest, curvature / length)
        flat = ~(curvature > rounding * steepest * length)
        alpha = jnp.where(flat, 0, now.size / jnp.where(flat, 1, curvature))
        r, Dr = combine(now.r, -alpha, q), combine(now.Dr, -alpha, Dq)
        size = dot(r, Dr)
        beta = size / now.size
        p, Dp = combine(r, beta, now.p), combine(Dr, beta, now.Dp)
        return _Iterate(combine(now.v, alpha, now.p), r, p, Dr, Dp, size, steepest, now.steps + 1, flat)

    Db = metric(b)
    zero = jax.tree.map(jnp.zeros_like, b)
    size = dot(b, Db)
    first = _Iterate(zero, b, b, Db, Db, size, jnp.zeros_like(size), jnp.zeros((), int), jnp.array(False))
    return jax.lax.while_loop(running, step, first).v
