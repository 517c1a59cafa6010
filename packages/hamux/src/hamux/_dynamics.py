"""Retrieval: descent of the energy, τ dx/dt = −∂E/∂g, for a number of steps or to a fixed point."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._adjoints import Adjoint, Implicit, Truncated, Unrolled, at_fixed_point, frozen, segmented_scan
from ._certificate import Setting, blocks, relative_smoothness, setting
from ._checks import positive, whole
from ._ham import HAM, States, VectorizedHAM
from ._methods import Backtracking, Explicit, GaussSeidel, Method, Point, Problem

Clamp = Mapping[str, "Bool[Array, '...'] | bool"]

_UNROLLED, _IMPLICIT = Unrolled(), Implicit()


class Reason(eqx.Enumeration):
    """Why a retrieval ended, and if it did not converge, the way out."""

    converged = "the residual is at most tol"
    max_steps = (
        "the steps were used up before the residual came down to tol: take more of them, or another method, such as "
        "hamux.Anderson(); where the energies rise or swing, a smaller dt"
    )
    stuck = (
        "no step, however short, lowers the energy by more than its rounding: take a larger tol or a wider dtype; "
        "units that share one Lagrangian, those of a token, are clamped together or not at all"
    )
    not_finite = (
        "the energy or the residual is not finite: a state or a parameter is not, or a Lagrangian overflowed, or the "
        "energy has no lower bound; take a smaller dt or a bounded activation"
    )


_REASON: Any = Reason  # what Enumeration makes of its items, mypy takes for strings


class Retrieval(eqx.Module):
    """Where a descent came to, and how.

    - `xs`: the final states.
    - `energies`: at the start and after every step, `(steps + 1,)`; after an early stop the last one is repeated.
    - `steps`: the number of steps taken; those that a method tried and did not accept are left out.
    - `residual`: how far `xs` is from a fixed point: the largest change of any activation in one more explicit step
      with dt = τ, whatever steps led there.
    - `converged`: whether the residual is at most `tol`: the activations rest, states may move where L is flat.
    - `reason`: why it ended, one of `Reason`; `Reason[out.reason]` is its text.
    - `trajectory`: the states behind `energies`, with a leading axis `steps + 1`, when asked for.

    From a vectorised HAM every array has a leading batch axis.
    """

    xs: dict[str, Array]
    energies: Float[Array, " steps_plus_1"]
    steps: Int[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    reason: Reason
    trajectory: dict[str, Array] | None


def descend(
    ham: HAM | VectorizedHAM,
    xs: States,
    *,
    steps: int,
    dt: float | Array | None = None,
    method: Method | None = None,
    tau: Mapping[str, float] | None = None,
    clamp: Clamp | None = None,
    tol: float = 1e-5,
    adjoint: Adjoint = _UNROLLED,
    trajectory: bool = False,
) -> Retrieval:
    """`steps` steps of a method in one compiled loop; a step that the method does not accept counts, and moves nothing.

    - `dt`: of the explicit step x ← x − (dt/τ) ∂E/∂g, in units of τ's time; 0.1 when left out. `certify` says up to
      which dt it goes down; elsewhere `energies` shows whether it did, and `relax` sees to it.
    - `method`: another one, `Explicit(dt)` with a schedule, `Momentum`, `Langevin`, …, in place of `dt`.
    - `tau`: time constants by layer, in place of the layers' own.
    - `clamp`: by layer a boolean mask of its shape, or True for all of it; these units never move.
    - `tol`: the residual up to which the end counts as `converged`.
    - `adjoint`: how gradients flow: `Unrolled()`, `Truncated(steps)` or `Implicit()`.

    **Raises** ValueError for `steps` < 1, a `dt`, `tau` or `tol` that is no finite number > 0, a `dt` beside a
    `method`, an unknown layer, states and masks that do not fit, or a HAM that lacks what the method needs.
    """
    whole("steps", steps, "at least one step is needed")
    if method is None:
        method = Explicit(0.1 if dt is None else dt)
    elif dt is not None:
        raise ValueError(f"dt is {dt} and the method is {type(method).__name__}; give dt to the method")
    return _retrieve(_descend, ham, xs, steps, method, tau, clamp, tol, adjoint, trajectory)


def relax(
    ham: HAM | VectorizedHAM,
    xs: States,
    *,
    tol: float = 1e-5,
    max_steps: int = 500,
    method: Method | None = None,
    tau: Mapping[str, float] | None = None,
    clamp: Clamp | None = None,
    adjoint: Adjoint = _IMPLICIT,
    trajectory: bool = False,
    throw: bool = False,
) -> Retrieval:
    """Steps of a method down to a residual of `tol`, at most `max_steps`, in one compiled loop.

    Without a `method` it takes one under which `energies` never rises but by rounding, whatever the HAM: `Explicit`
    with the largest dt that `certify` certifies, or else, where that certifies it, `GaussSeidel`, or else
    `Backtracking`. In a batch every example stops for itself. A trajectory, and what a batch computes, costs as much as
    `max_steps` steps and as the slowest example.

    `tau`, `clamp`, `adjoint`, `trajectory` as in `descend`. With `throw`, not to converge is an error.

    **Raises** ValueError as `descend`; when energy or residual stop being finite, naming the step; and with `throw`,
    when an example does not converge, with its reason and the way out. Under a `jax.jit` or `jax.vmap` of the caller's
    `throw` raises when the program runs, and without it `reason` alone tells.
    """
    whole("max_steps", max_steps, "at least one step is needed")
    retrieval = _retrieve(_relax, ham, xs, max_steps, method, tau, clamp, tol, adjoint, trajectory)
    if not isinstance(retrieval.energies, jax.core.Tracer):
        _raise_if_failed(retrieval, tol, throw)
    elif throw:
        return retrieval.reason.error_if(retrieval, ~retrieval.converged)
    return retrieval


def _retrieve(walk, ham, xs, steps, method, tau, clamp, tol, adjoint, trajectory) -> Retrieval:
    """Check the arguments, fill in the defaults and run one program."""
    one, batched = ham.unvectorize(), isinstance(ham, VectorizedHAM)
    positive("tol", tol)
    if not isinstance(method, Method | None):
        raise ValueError(f"method is {method!r}; expected one of hamux's methods, such as hamux.Backtracking()")
    if not isinstance(adjoint, Adjoint):
        raise ValueError(f"adjoint is {adjoint!r}; expected hamux.Unrolled(), Truncated(steps) or Implicit()")
    one._check_layers("state", xs, batched=batched)
    circumstances = setting(one, tau, clamp)
    masks = {name: jnp.asarray(mask) for name, mask in (clamp or {}).items()}
    for name, mask in masks.items():
        shape = one.neurons[name].shape
        if mask.ndim > len(shape) and not (batched and mask.shape == jnp.shape(xs[name])):
            raise ValueError(f'clamp["{name}"] is bool{list(mask.shape)}; expected True or bool{list(shape)}')
    method = _certified(one, circumstances) if method is None else method
    method.check(one, circumstances)
    return _run(
        walk, ham, dict(xs), masks, circumstances.tau, circumstances.whole, method, tol, adjoint, steps, trajectory
    )


def _certified(ham: HAM, setting: Setting) -> Method:
    """A method that goes down on this HAM."""
    if not any(isinstance(time, jax.core.Tracer) for time in setting.tau.values()):
        max_dt, obstacles = relative_smoothness(ham, setting)
        if not obstacles:
            return Explicit(max_dt if math.isfinite(max_dt) else min(setting.tau.values()))
    return Backtracking() if blocks(ham, setting) else GaussSeidel()


@functools.partial(jax.jit, static_argnames=("walk", "whole", "adjoint", "steps", "trajectory"))
def _run(walk, ham, xs, masks, tau, whole, method, tol, adjoint, steps, trajectory) -> Retrieval:
    """One compiled program, example by example for a vectorised HAM."""
    one = ham.unvectorize()

    def alone(xs, masks, example):
        return walk(Problem(one, tau, masks, whole), method, xs, example, tol, adjoint, steps, trajectory)

    if isinstance(ham, HAM):
        return alone(xs, masks, jnp.zeros((), int))
    mask_axes = {name: 0 if mask.ndim > len(one.neurons[name].shape) else None for name, mask in masks.items()}
    (batch, *_), *_ = (x.shape for x in xs.values())
    return jax.vmap(alone, in_axes=(0, mask_axes, 0))(xs, masks, jnp.arange(batch))


def _begin(problem: Problem, method: Method, xs: dict[str, Array], example: Int[Array, ""]) -> tuple[Point, Any]:
    point = problem.evaluate(xs)
    return point, method.init(problem, point, example)


def _descend(problem, method, xs, example, tol, adjoint, steps, trajectory) -> Retrieval:
    def walk(problem, method, carry, steps):
        def step(carry, _):
            point, state, taken = carry
            after = method.step(problem, point, state)
            record = after.point.energy, after.point.xs if trajectory else None
            return (after.point, after.state, jnp.where(after.accepted, taken + 1, taken)), record

        return segmented_scan(step, carry, steps)

    kept = adjoint.steps if isinstance(adjoint, Truncated) else 0 if isinstance(adjoint, Implicit) else steps
    given = max(steps - kept, 0)  # the steps without a gradient
    within, by, first = frozen((problem, method, xs)) if given else (problem, method, xs)
    start = *_begin(within, by, first, example), jnp.zeros((), int)
    carry, record = walk(within, by, start, given or steps)
    records = [record]
    if 0 < given < steps:
        point, state, taken = frozen(carry)
        carry = problem.evaluate(problem.hold(xs, point.xs)), state, taken
        carry, record = walk(problem, method, carry, steps - given)
        records.append(record)
    point, state, taken = carry
    at_start = start[0].energy[None], jax.tree.map(lambda x: x[None], xs) if trajectory else None
    energies, path = jax.tree.map(lambda *parts: jnp.concatenate(parts), at_start, *records)
    residual = method.residual(problem, point, state)
    if isinstance(adjoint, Implicit):
        point = point._replace(xs=at_fixed_point(point.xs, problem, xs, adjoint))
    return _result(point, energies, taken, residual, tol, jnp.array(False), path)


class _Loop(NamedTuple):
    point: Point
    state: Any
    taken: Int[Array, ""]
    residual: Float[Array, ""]
    stuck: Bool[Array, ""]
    energies: Float[Array, " steps_plus_1"]
    path: dict[str, Array] | None


def _relax(problem, method, xs, example, tol, adjoint, steps, trajectory) -> Retrieval:
    unrolled = isinstance(adjoint, Unrolled)
    within, by, start = (problem, method, xs) if unrolled else frozen((problem, method, xs))

    def running(loop):
        finite = jnp.isfinite(loop.point.energy) & jnp.isfinite(loop.residual)
        return finite & (loop.residual > tol) & (loop.taken < steps) & ~loop.stuck

    def advance(loop):
        point, state, accepted, stuck = by.step(within, loop.point, loop.state)
        # What is not accepted is overwritten in the record by the next step, or by the end.
        energies = loop.energies.at[loop.taken + 1].set(point.energy)
        path = loop.path and {name: x.at[loop.taken + 1].set(point.xs[name]) for name, x in loop.path.items()}
        residual = by.residual(within, point, state)
        return _Loop(
            point, state, jnp.where(accepted, loop.taken + 1, loop.taken), residual, jnp.asarray(stuck), energies, path
        )

    point, state = _begin(within, by, start, example)
    path = {name: jnp.repeat(x[None], steps + 1, axis=0) for name, x in start.items()} if trajectory else None
    residual = by.residual(within, point, state)
    loop = _Loop(point, state, jnp.zeros((), int), residual, jnp.array(False), jnp.full(steps + 1, point.energy), path)
    if unrolled:

        def records(loop):  # are written once, and not kept at every checkpoint
            return [loop.energies, *(loop.path[name] for name in path or ())]

        checkpoints = 2 * math.isqrt(steps) + 1
        loop = eqxi.while_loop(running, advance, loop, kind="checkpointed", checkpoints=checkpoints, buffers=records)
    else:
        loop = jax.lax.while_loop(running, advance, loop)

    def repeat_last(record, last):
        later = jnp.arange(steps + 1).reshape(-1, *[1] * last.ndim) > loop.taken
        return jnp.where(later, last[None], record)

    end = loop.point
    energies, path = jax.tree.map(repeat_last, (loop.energies, loop.path), (end.energy, end.xs if trajectory else None))
    if isinstance(adjoint, Implicit):
        end = end._replace(xs=at_fixed_point(end.xs, problem, xs, adjoint))
    elif isinstance(adjoint, Truncated):
        again = _descend(problem, method, problem.hold(xs, end.xs), example, tol, Unrolled(), adjoint.steps, False).xs
        # The value is that of the end, the gradient that of the further steps.
        end = end._replace(xs=jax.tree.map(lambda x, y: x + (y - frozen(y)), end.xs, again))
    return _result(end, energies, loop.taken, loop.residual, tol, loop.stuck, path)


def _result(point, energies, taken, residual, tol, stuck, path) -> Retrieval:
    converged = residual <= tol
    finite = jnp.isfinite(point.energy) & jnp.isfinite(residual)
    reason = _REASON.where(stuck, Reason.stuck, Reason.max_steps)
    reason = _REASON.where(finite, _REASON.where(converged, Reason.converged, reason), Reason.not_finite)
    return Retrieval(point.xs, energies, taken, residual, converged, reason, path)


def _raise_if_failed(retrieval: Retrieval, tol: float, throw: bool) -> None:
    energies, residuals = np.atleast_2d(retrieval.energies), np.atleast_1d(retrieval.residual)
    steps = np.atleast_1d(retrieval.steps)
    finite = np.isfinite(energies).all(axis=-1) & np.isfinite(residuals)
    if not finite.all():
        i = int(np.argmin(finite))
        start = "a state or a parameter is not finite, or a Lagrangian overflows, to begin with"
        later = "a Lagrangian overflowed, or the energy has no lower bound; try a smaller dt or a bounded activation"
        raise ValueError(
            f"the energy is {energies[i, steps[i]]} at step {steps[i]}{_of_example(retrieval, i)}, its residual "
            f"{residuals[i]}: {later if steps[i] else start}"
        )
    converged = np.atleast_1d(retrieval.converged)
    if throw and not converged.all():
        i = int(np.argmin(converged))
        raise ValueError(
            f"relax did not converge: the residual is {residuals[i]:.3g}, above {tol:g}, after {steps[i]} steps"
            f"{_of_example(retrieval, i)} ({(~converged).sum()} of {len(converged)} did not): "
            f"{_REASON[jax.tree.map(lambda value: jnp.atleast_1d(value)[i], retrieval.reason)]}"
        )


def _of_example(retrieval: Retrieval, i: int) -> str:
    return f" of example {i}" if retrieval.energies.ndim > 1 else ""
