"""Gradients through a retrieval: back through its steps, through the last of them, or at the fixed point itself.

The adjoint methods of differential equations and root finding, as diffrax and optimistix have them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array

from ._methods import Problem


class Unrolled(eqx.Module):
    """Through every step. In reverse mode √steps of them are kept, and what lies between is computed again: memory
    grows with √steps, for about one more forward pass (Griewank & Walther, 2000). All of the result has a gradient.
    """


class Truncated(eqx.Module):
    """Through the last `steps` steps alone, those before being taken as given (Williams & Peng, 1990).

    The bias falls like the error of the descent. Under `relax`, where all of the last steps are taken at the fixed
    point, through `steps` further ones of the method from where it ended; 1 is the Jacobian-free gradient of Fung et
    al., 2022. Clamped states, the parameters and those of the method have gradients; the start has none. Of the result
    of `relax` only `xs` has.

    **Raises** ValueError for `steps` < 1.
    """

    steps: int = eqx.field(static=True)

    def __check_init__(self):
        if self.steps < 1:
            raise ValueError(f"Truncated({self.steps}): at least one step has a gradient")


class _LSMR(lineax.LSMR):
    """LSMR for which to stop at its limit of the condition number is an answer, the regularised one, and no failure."""

    def compute(self, state, vector, options):
        value, result, stats = super().compute(state, vector, options)
        return value, lineax.RESULTS.where(result == lineax.RESULTS.conlim, lineax.RESULTS.successful, result), stats


class Implicit(eqx.Module):
    """At the fixed point, by the implicit function theorem; memory and time do not depend on the steps that led there.

    A fixed point is a minimum of Ê(x) = E(g(x), x), where ∂Ê/∂x = ∂²L/∂x² ∂E/∂g vanishes. So dx solves the symmetric
    system ∂²Ê/∂x² dx = −d(∂Ê/∂x), over the units that are not clamped. It is singular along the flat directions of L
    (of a softmax, a layer norm, a saturated unit), in which the activations do not change: the least-squares solution
    of the least norm is taken, by LSMR (Fong & Saunders, 2011). On layers of leak > 0 one more step, dx ← the tangent
    of x = −(1/leak) ∂S/∂g along dx, gives the states what the activations do not show. Bai, Kolter & Koltun, "Deep
    Equilibrium Models", 2019, for the idea.

    Of the result only `xs` has a gradient, by the parameters and by clamped states: that of the fixed point nearby,
    whether or not the retrieval has `converged` to it.

    - `solver`: another one of lineax, for that system. It raises when it does not come to an end.
    """

    solver: lineax.AbstractLinearSolver | None = eqx.field(static=True, default=None)


Adjoint = Unrolled | Truncated | Implicit


def frozen(tree: Any) -> Any:
    """`tree`, without a gradient."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, tree)


def segmented_scan(step: Callable, carry: Any, steps: int) -> tuple[Any, Any]:
    """`jax.lax.scan` of `steps` steps, in segments of √steps; reverse mode keeps where they begin, and one of them."""

    @functools.partial(jax.checkpoint, static_argnums=1)
    def segment(carry, length):
        return jax.lax.scan(step, carry, length=length)

    length = math.isqrt(steps)
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
    widest = jnp.result_type(float)  # lineax's LSMR takes no other

    def widen(leaf):
        return leaf.astype(widest) if eqx.is_inexact_array(leaf) else leaf

    end, problem, xs, adjoint = jax.tree.map(widen, primals)
    _, *inputs_dot, _ = jax.tree.map(widen, tangents)
    zeros = jax.tree.map(jnp.zeros_like, end)
    solver = adjoint.solver or _LSMR(rtol=float(jnp.finfo(widest).eps) ** 0.75, atol=0.0)

    def slope(free, problem, xs):
        """∂Ê/∂x of the free units."""
        gs, pull_back = jax.vjp(problem.ham.activations, problem.hold(xs, free))
        return problem.hold(zeros, pull_back(problem.ham.dEdg(gs, problem.hold(xs, free)))[0])

    def settled(free, problem, xs):
        """−(1/leak) ∂S/∂g where there is a leak, which at a fixed point is x."""
        xs = problem.hold(xs, free)
        dEdg = problem.ham.dEdg(problem.ham.activations(xs), xs)
        leaks = {name: layer.leak for name, layer in problem.ham.neurons.items()}
        return problem.hold(xs, {name: x - dEdg[name] / leaks[name] if leaks[name] else x for name, x in xs.items()})

    _, hessian = jax.linearize(lambda free: slope(free, problem, xs), end)
    _, force = eqx.filter_jvp(lambda *inputs: slope(end, *inputs), (problem, xs), tuple(inputs_dot))
    operator = lineax.FunctionLinearOperator(hessian, jax.eval_shape(lambda: end), lineax.positive_semidefinite_tag)
    solution = lineax.linear_solve(operator, force, solver).value
    moved = jax.tree.map(jnp.negative, solution)
    _, end_dot = eqx.filter_jvp(settled, (end, problem, xs), (moved, *inputs_dot))
    return primals[0], {name: x.astype(dtypes[name]) for name, x in end_dot.items()}
