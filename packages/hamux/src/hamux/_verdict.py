"""What a recall ended in: one memory, a blend of several, no memory at all, or no minimum."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from ._certificate import setting
from ._checks import positive
from ._descent import Retrieval
from ._dynamics import Clamp, as_array
from ._ham import HAM, VectorizedHAM
from ._methods import Problem
from ._precision import widened
from ._synapses import Stored

_Layers = dict[str, Array]

_STEPS = 64  # of Lanczos at most


class Outcome(eqx.Enumeration):
    """What a recall ended in."""

    memory = "a minimum that is one of the stored patterns"
    blend = "a minimum between several of the stored patterns"
    outside = "a place that no stored pattern reaches, where the energy is flat"
    no_minimum = "a saddle or a flat place: the energy does not rise in every direction"
    minimum = "a minimum; the HAM stores no patterns that it could be compared with"


class Verdict(NamedTuple):
    """What a recall ended in; for a vectorised HAM every array has a leading batch axis.

    - `outcome`: one of `Outcome`. `Outcome[verdict.outcome]` is its text.
    - `curvature`: the smallest curvature of E in the metric of the activations, over the units that are not clamped:
      the least (δx·H F' δx)/(δx·H δx), with F = ∂E/∂g, its derivative F' by x, and H = ∂²L/∂x². Layers without a leak
      count by the curvature of E in x itself.
    - `weights`: each stored pattern's share of the force, `(memories,)`; all 0 outside of their reach.
    - `nearest`, `distance`: the stored pattern with the largest share, and how far the activations are from it.

    `weights`, `nearest` and `distance` are None where the HAM stores no patterns.
    """

    outcome: Outcome
    curvature: Float[Array, ""]
    weights: Float[Array, " memories"] | None
    nearest: Int[Array, ""] | None
    distance: Float[Array, ""] | None


_OUTCOME: Any = Outcome  # mypy takes the items of an Enumeration for strings


def verdict(
    ham: HAM | VectorizedHAM,
    out: Retrieval,
    *,
    clamp: Clamp | None = None,
    share: float = 0.9,
    tol: float = 1e-4,
) -> Verdict:
    """Returns what a recall ended in, by the energy around `out.xs` and the patterns that the HAM stores.

    Stored patterns are those of a `HopfieldSynapse` or a `KernelSynapse`, if there is one such synapse, on layers of
    one axis. The curvature is found by at most 64 steps of Lanczos (1950) from a random direction, without forming a
    matrix: in more dimensions it is an upper bound.

    - `clamp`: as it was in the recall.
    - `share`: the share of the force from which on the end counts as one memory.
    - `tol`: a curvature up to this counts as flat.

    **Raises** ValueError for a `share` or a `tol` that is not > 0, and as `relax` for a `clamp` that does not fit.
    """
    positive("share", share)
    positive("tol", tol)
    one, batched = ham.unvectorize(), isinstance(ham, VectorizedHAM)
    masks = {name: as_array(mask) for name, mask in (clamp or {}).items()}
    circumstances = setting(one, None, masks)
    problem = Problem(one, dict(circumstances.tau), {}, circumstances.surely_whole)
    axes = {name: 0 if mask.ndim > len(one.neurons[name].shape) else None for name, mask in masks.items()}
    judge = functools.partial(_judged, problem, share=share, tol=tol)
    found: Verdict = (jax.vmap(judge, in_axes=(0, axes)) if batched else judge)(out.xs, masks)
    return found


@eqx.filter_jit
def _judged(problem: Problem, xs: _Layers, masks: _Layers, share: float, tol: float) -> Verdict:
    problem = Problem(problem.ham, problem.tau, masks, problem.whole)
    curvature = _smallest_curvature(problem, jax.tree.map(widened, xs))
    gs = problem.ham.activations(xs)
    rises = curvature > tol
    stored = _stored(problem.ham)
    if stored is None:
        outcome = _OUTCOME.where(rises, Outcome.minimum, Outcome.no_minimum)
        return Verdict(outcome, curvature, None, None, None)
    synapse, names = stored
    weights = synapse.weights(*(gs[name] for name in names))
    total = jnp.sum(weights)
    weights = weights / jnp.where(total > 0, total, 1)
    nearest = jnp.argmax(weights)
    squares = [jnp.sum((gs[name] - xi[nearest]) ** 2) for name, xi in zip(names, synapse.xi, strict=True)]
    outcome = _OUTCOME.where(weights[nearest] >= share, Outcome.memory, Outcome.blend)
    outcome = _OUTCOME.where(rises, outcome, Outcome.no_minimum)
    outcome = _OUTCOME.where(total > 0, outcome, Outcome.outside)
    return Verdict(outcome, curvature, weights, nearest, jnp.sqrt(functools.reduce(jnp.add, squares)))


def _stored(ham: HAM) -> tuple[Any, tuple[str, ...]] | None:
    """The synapse that stores the patterns, and its layers."""
    found = [(ham.synapses[name], names) for names, name in ham.connections if isinstance(ham.synapses[name], Stored)]
    if len(found) != 1 or any(len(ham.neurons[name].shape) != 1 for name in found[0][1]):
        return None
    return found[0]


def _smallest_curvature(problem: Problem, end: _Layers) -> Float[Array, ""]:
    """The least eigenvalue of F' in the metric H, by the method of Lanczos with full reorthogonalisation."""
    layers = problem.ham.neurons
    start, unravel = ravel_pytree(end)

    def force(x: Array) -> _Layers:
        xs = problem.hold(end, unravel(x))
        gs, pull_back = jax.vjp(problem.ham.activations, xs)
        dEdg = problem.ham.dEdg(gs, xs)
        descended = pull_back(dEdg)[0]
        return problem.free({name: (dEdg if layer.leak else descended)[name] for name, layer in layers.items()})

    _, derivative = jax.linearize(lambda x: ravel_pytree(force(x))[0], start)
    _, metric = jax.linearize(problem.ham.activations, end)

    def weighed(v: Array) -> Array:
        flat = unravel(v)
        shown = metric(flat)
        return ravel_pytree({name: (shown if layer.leak else flat)[name] for name, layer in layers.items()})[0]

    def free(v: Array) -> Array:
        return ravel_pytree(problem.free(unravel(v)))[0]

    def normed(v: Array) -> tuple[Array, Array, Array]:
        Dv = weighed(v)
        size = jnp.sqrt(jnp.maximum(v @ Dv, 0))
        safe = jnp.where(size > 0, size, 1)
        return v / safe, Dv / safe, size

    count = min(_STEPS, start.size)
    v, Dv, size = normed(free(jr.normal(jr.key(0), start.shape, start.dtype)))
    tiny = 100 * jnp.finfo(start.dtype).eps

    def step(i: int, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        basis, duals, T, alive, v, Dv, scale = carry
        basis, duals = basis.at[i].set(jnp.where(alive, v, 0)), duals.at[i].set(jnp.where(alive, Dv, 0))
        w = free(derivative(v))
        scale = jnp.maximum(scale, jnp.sqrt(jnp.maximum(w @ weighed(w), 0)))
        T = T.at[:, i].set(jnp.where(alive, duals @ w, 0))
        w = w - (duals @ w) @ basis
        w = w - (duals @ w) @ basis
        v, Dv, size = normed(w)
        return basis, duals, T, alive & (size > tiny * scale), v, Dv, scale

    zeros = jnp.zeros((count, start.size), start.dtype)
    T = jnp.zeros((count, count), start.dtype)
    nothing = jnp.zeros((), start.dtype)
    basis, _, T, *_ = jax.lax.fori_loop(0, count, step, (zeros, zeros, T, size > 0, v, Dv, nothing))
    used = jnp.any(basis != 0, axis=1)
    # What was not used gets a diagonal beyond all eigenvalues of the rest.
    beyond = 2 * jnp.sum(jnp.abs(T)) + 1
    T = jnp.where(used[:, None] & used[None], jnp.triu(T) + jnp.triu(T, 1).T, beyond * jnp.eye(count, dtype=T.dtype))
    return jnp.where(used.any(), jnp.linalg.eigvalsh(T)[0], jnp.inf)
