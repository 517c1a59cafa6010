"""Retrieval: descent of the energy, τ dx/dt = −∂E/∂g, for a number of steps or to a fixed point."""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._ham import HAM, States, VectorizedHAM

Clamp = Mapping[str, "Bool[Array, '...'] | bool"]


class Retrieval(eqx.Module):
    """Where a descent came to, and how.

    - `xs`: the final states.
    - `energies`: at the start and after every step, `(steps + 1,)`; after an early stop the last one is repeated.
    - `steps`: the number of steps taken.
    - `residual`: how far `xs` is from a fixed point: the largest change of any activation in one more step with
      dt = τ, whatever steps led there.
    - `converged`: whether the residual is at most `tol`.
    - `trajectory`: the states behind `energies`, with a leading axis `steps + 1`, when asked for.

    From a vectorised HAM every array has a leading batch axis.
    """

    xs: dict[str, Array]
    energies: Float[Array, " steps_plus_1"]
    steps: Int[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    trajectory: dict[str, Array] | None


def descend(
    ham: HAM | VectorizedHAM,
    xs: States,
    *,
    steps: int,
    dt: float | Array = 0.1,
    tau: Mapping[str, float] | None = None,
    clamp: Clamp | None = None,
    tol: float = 1e-5,
    trajectory: bool = False,
) -> Retrieval:
    """`steps` explicit steps x ← x − (dt/τ) ∂E/∂g, in one compiled loop; gradients flow through it.

    - `dt`: the step, in units of τ's time. Where the synapses' energy is concave in all g's together and leak is 1,
      every step with dt/τ ≤ 1 goes down; elsewhere `energies` shows whether it did, and `relax` sees to it.
    - `tau`: time constants by layer, in place of the layers' own.
    - `clamp`: by layer a boolean mask of its shape, or True for all of it; these units never move.
    - `tol`: the residual up to which the end counts as `converged`.

    **Raises** ValueError for `steps` < 1, a `dt`, `tau` or `tol` that is no finite number > 0, an unknown layer, or
    states and masks that do not fit.
    """
    _check_steps("steps", steps)
    return _retrieve(_descend, ham, xs, steps, dt, tau, clamp, tol, trajectory)


def relax(
    ham: HAM | VectorizedHAM,
    xs: States,
    *,
    tol: float = 1e-5,
    max_steps: int = 500,
    dt: float | Array = 1.0,
    tau: Mapping[str, float] | None = None,
    clamp: Clamp | None = None,
    trajectory: bool = False,
) -> Retrieval:
    """Steps x ← x − (s/τ) ∂E/∂g with s ≤ `dt` down to a residual of `tol`; `energies` never rises but by rounding.

    The step s starts at `dt`, is halved until the energy falls as the slope at the start of the step promises (Armijo,
    1966: E⁺ − E ≤ 10⁻⁴ ∂E/∂g · (g⁺ − g)), and doubles back to `dt` after each step that does. Where a fall is too small
    for the floats, |E⁺ − E| within their rounding, the mean slope over the step, ½ (∂E/∂g + ∂E⁺/∂g) · (g⁺ − g), stands
    in for it (the approximate Wolfe condition of Hager & Zhang, 2005). Each try costs one evaluation of E and ∂E/∂g;
    where dt = 1 is certified (see `HopfieldSynapse`), no try is lost. One compiled loop; in a batch every example stops
    for itself. Reverse-mode gradients do not flow through it; they do through `descend`.

    `tau`, `clamp`, `trajectory` as in `descend`; at most `max_steps` steps are taken. In a batch a trajectory costs as
    much as `max_steps` steps, however few are taken.

    **Raises** ValueError as `descend`, and when energy or residual stop being finite, naming the step. Under a
    `jax.jit` or `jax.vmap` of the caller's nothing can be raised: there `converged` is False and `energies[steps]` or
    `residual` is not finite.
    """
    _check_steps("max_steps", max_steps)
    retrieval = _retrieve(_relax, ham, xs, max_steps, dt, tau, clamp, tol, trajectory)
    if not isinstance(retrieval.energies, jax.core.Tracer):
        _raise_if_not_finite(retrieval)
    return retrieval


def _check_steps(name: str, steps: int) -> None:
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"{name} is {steps!r}; at least one step is needed, as an int")


def _retrieve(method, ham, xs, steps, dt, tau, clamp, tol, trajectory) -> Retrieval:
    """Check the arguments, fill in the defaults and run one method."""
    one = ham.unvectorize()
    tau = {name: layer.tau for name, layer in one.neurons.items()} | dict(tau or {})
    for name, value in {"dt": dt, "tol": tol, **{f'tau["{layer}"]': value for layer, value in tau.items()}}.items():
        if not isinstance(value, jax.core.Tracer) and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be finite and greater than 0")
    for what, given in {"tau": tau, "clamp": clamp or {}}.items():
        unknown = given.keys() - one.neurons.keys()
        if unknown:
            raise ValueError(f"{what} names {sorted(unknown)}; this HAM has {sorted(one.neurons)}")
    one._check_layers("state", xs, batched=isinstance(ham, VectorizedHAM))
    masks = {name: jnp.asarray(mask) for name, mask in (clamp or {}).items()}
    for name, mask in masks.items():
        allowed = {(), one.neurons[name].shape}
        if isinstance(ham, VectorizedHAM):
            allowed.add(jnp.shape(xs[name]))
        if mask.dtype != bool or mask.shape not in allowed:
            raise ValueError(
                f'clamp["{name}"] is {mask.dtype}{list(mask.shape)}; '
                f"expected True or bool{list(one.neurons[name].shape)}"
            )
    rates = {name: dt / value for name, value in tau.items()}
    return _run(method, ham, dict(xs), masks, rates, tol, steps, trajectory)


@functools.partial(jax.jit, static_argnames=("method", "steps", "trajectory"))
def _run(method, ham, xs, masks, rates, tol, steps, trajectory) -> Retrieval:
    """One method in one compiled program, example by example for a vectorised HAM."""
    if isinstance(ham, HAM):
        return method(ham, xs, masks, rates, tol, steps, trajectory)
    one = ham.unvectorize()
    mask_axes = {name: 0 if mask.ndim > len(one.neurons[name].shape) else None for name, mask in masks.items()}
    batched = jax.vmap(lambda xs, masks: method(one, xs, masks, rates, tol, steps, trajectory), in_axes=(0, mask_axes))
    return batched(xs, masks)


def _step(xs: States, dEdg: States, masks: States, rates: Mapping[str, Array | float]) -> dict[str, Array]:
    moved = {name: (x - rates[name] * dEdg[name]).astype(x.dtype) for name, x in xs.items()}
    return {name: jnp.where(masks[name], xs[name], x) if name in masks else x for name, x in moved.items()}


def _residual(ham: HAM, xs: States, gs: States, dEdg: States, masks: States) -> Float[Array, ""]:
    """The largest change of an activation in a step with dt = τ. A shorter step would leave a saturated one unmoved."""
    further = ham.activations(_step(xs, dEdg, masks, dict.fromkeys(xs, 1.0)))
    return jnp.max(jnp.stack([jnp.max(jnp.abs(further[name] - gs[name])) for name in gs]))


def _dot(a: States, b: States) -> Float[Array, ""]:
    return functools.reduce(jnp.add, [jnp.sum(a[name] * b[name]) for name in a])


def _descend(ham: HAM, xs, masks, rates, tol, steps, trajectory) -> Retrieval:
    def step(xs, _):
        gs = ham.activations(xs)
        energy, dEdg = ham.dEdg(gs, xs, return_energy=True)
        return _step(xs, dEdg, masks, rates), (energy, xs if trajectory else None)

    end, (energies, path) = jax.lax.scan(step, xs, length=steps)
    gs = ham.activations(end)
    energy, dEdg = ham.dEdg(gs, end, return_energy=True)
    residual = _residual(ham, end, gs, dEdg, masks)
    path = jax.tree.map(lambda states, x: jnp.concatenate([states, x[None]]), path, end if trajectory else None)
    return Retrieval(end, jnp.append(energies, energy), jnp.asarray(steps), residual, residual <= tol, path)


SMALLEST_SCALE = 2.0**-20  # of a step that `_relax` tries


class _Point(NamedTuple):
    """A state and what one evaluation tells of it."""

    xs: dict[str, Array]
    gs: dict[str, Array]
    dEdg: dict[str, Array]
    energy: Array
    rounding: Array  # an error that the energy may have
    residual: Array
    finite: Array


def _evaluate(ham: HAM, xs: dict[str, Array], masks: States) -> _Point:
    gs = ham.activations(xs)
    tree, dEdg = ham._energy_tree_and_dEdg(gs, xs)
    energy = jax.tree.reduce(jnp.add, tree)
    terms = [*jax.tree.leaves(tree), *(jnp.sum(gs[name] * xs[name]) for name in xs)]
    rounding = 8 * jnp.finfo(energy.dtype).eps * functools.reduce(jnp.add, map(jnp.abs, terms))
    residual = _residual(ham, xs, gs, dEdg, masks)
    return _Point(xs, gs, dEdg, energy, rounding, residual, jnp.isfinite(energy) & jnp.isfinite(residual))


def _falls(before: _Point, after: _Point) -> Bool[Array, ""]:
    """Whether the energy falls as the slope promises, or, within rounding, the mean slope says so."""
    change = {name: after.gs[name] - before.gs[name] for name in before.gs}
    slope, slope_after = _dot(before.dEdg, change), _dot(after.dEdg, change)
    fall = after.energy - before.energy
    within_rounding = jnp.abs(fall) <= jnp.minimum(before.rounding, after.rounding)
    return (fall <= 1e-4 * slope) | (within_rounding & (0.5 * (slope + slope_after) <= 1e-4 * slope))


def _relax(ham: HAM, xs, masks, rates, tol, steps, trajectory) -> Retrieval:
    def running(carry):
        now, taken, scale, *_ = carry
        return now.finite & (now.residual > tol) & (taken < steps) & (scale >= SMALLEST_SCALE)

    def attempt(carry):
        now, taken, scale, energies, path = carry
        xs = _step(now.xs, now.dEdg, masks, {name: scale * rate for name, rate in rates.items()})
        tried = _evaluate(ham, xs, masks)
        # Where nothing smaller is left to try, a point that is not finite is taken, so that the record shows it.
        accepted = _falls(now, tried) | (~tried.finite & (scale / 2 < SMALLEST_SCALE))
        # A try that is not accepted is overwritten in the record by the next one, or by the end.
        energies = energies.at[taken + 1].set(tried.energy)
        path = jax.tree.map(lambda states, x: states.at[taken + 1].set(x), path, xs if trajectory else None)
        now = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), tried, now)
        return (
            now,
            jnp.where(accepted, taken + 1, taken),
            jnp.where(accepted, jnp.minimum(2 * scale, 1), scale / 2),
            energies,
            path,
        )

    start = _evaluate(ham, xs, masks)
    path = {name: jnp.repeat(x[None], steps + 1, axis=0) for name, x in xs.items()} if trajectory else None
    loop = (start, jnp.zeros((), int), jnp.ones((), start.energy.dtype), jnp.full(steps + 1, start.energy), path)
    end, taken, _, energies, path = jax.lax.while_loop(running, attempt, loop)

    def repeat_last(record, last):
        later = jnp.arange(steps + 1).reshape(-1, *[1] * last.ndim) > taken
        return jnp.where(later, last[None], record)

    path = jax.tree.map(repeat_last, path, end.xs if trajectory else None)
    return Retrieval(end.xs, repeat_last(energies, end.energy), taken, end.residual, end.residual <= tol, path)


def _raise_if_not_finite(retrieval: Retrieval) -> None:
    energies, residuals = np.atleast_2d(retrieval.energies), np.atleast_1d(retrieval.residual)
    fine = np.isfinite(energies).all(axis=-1) & np.isfinite(residuals)
    if fine.all():
        return
    example = int(np.argmin(fine))
    step = int(np.atleast_1d(retrieval.steps)[example])
    where = f"step {step}" if retrieval.energies.ndim == 1 else f"step {step} of example {example}"
    reason = (
        "a state or a parameter is not finite, or a Lagrangian overflows, to begin with"
        if step == 0
        else "a Lagrangian overflowed, or the energy has no lower bound; try a smaller dt or a bounded activation"
    )
    raise ValueError(f"the energy is {energies[example, step]} at {where}, its residual {residuals[example]}: {reason}")
