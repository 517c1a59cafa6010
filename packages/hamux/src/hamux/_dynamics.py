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
    - `residual`: the largest change of any activation in the last step, per step of the full `dt`.
    - `converged`: whether the residual came down to `tol`.
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
    - `tol`: `converged` tells whether the last step changed no activation by more.

    **Raises** ValueError for `steps` < 1, a `dt`, `tau` or `tol` that is no finite number > 0, an unknown layer, or
    states and masks that do not fit.
    """
    return _retrieve(_descend, ham, xs, {"steps": steps}, dt, tau, clamp, tol, trajectory)


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
    """Steps x ← x − (s/τ) ∂E/∂g with s ≤ `dt` until no activation changes by more than `tol`; `energies` never rises.

    The step s starts at `dt`, is halved until the energy falls as the slope at the start of the step promises (Armijo,
    1966: E⁺ − E ≤ 10⁻⁴ ∂E/∂g · (g⁺ − g)), and doubles back to `dt` after each step that does. Where a fall is too small
    for the floats, |E⁺ − E| within their rounding, the mean slope over the step, ½ (∂E/∂g + ∂E⁺/∂g) · (g⁺ − g), stands
    in for it (Hager & Zhang, 2005, eq. 5). Each try costs one evaluation of E and ∂E/∂g; where dt = 1 is certified (see
    `HopfieldSynapse`), no try is lost. One compiled loop; in a batch every example stops for itself.

    `tau`, `clamp`, `trajectory` as in `descend`; at most `max_steps` steps are taken.

    **Raises** ValueError as `descend`, and when the energy stops being finite, naming the step. Under a `jax.jit` or
    `jax.vmap` of the caller's nothing can be raised: there `converged` is False and `energies[steps]` is not finite.
    """
    retrieval = _retrieve(_relax, ham, xs, {"max_steps": max_steps}, dt, tau, clamp, tol, trajectory)
    if not isinstance(retrieval.energies, jax.core.Tracer):
        _raise_if_not_finite(retrieval)
    return retrieval


def _retrieve(method, ham, xs, named_steps, dt, tau, clamp, tol, trajectory) -> Retrieval:
    """Check the arguments, fill in the defaults and run one method."""
    ((steps_name, steps),) = named_steps.items()
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"{steps_name} is {steps!r}; at least one step is needed, as an int")
    one = ham.unvectorize()
    tau = {name: layer.tau for name, layer in one.neurons.items()} | dict(tau or {})
    for name, value in {"dt": dt, "tol": tol, **{f'tau["{layer}"]': value for layer, value in tau.items()}}.items():
        if not isinstance(value, jax.core.Tracer) and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be finite and greater than 0")
    for what, given in {"tau": tau, "clamp": clamp or {}}.items():
        unknown = given.keys() - one.neurons.keys()
        if unknown:
            raise ValueError(f"{what} names {sorted(unknown)}; this HAM has {sorted(one.neurons)}")
    masks = {name: jnp.asarray(mask) for name, mask in (clamp or {}).items()}
    for name, mask in masks.items():
        allowed = {(), one.neurons[name].shape}
        if isinstance(ham, VectorizedHAM) and name in xs:
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


def _step(xs: States, dEdg: States, masks: States, rates: Mapping[str, Array]) -> dict[str, Array]:
    moved = {name: x - rates[name] * dEdg[name] for name, x in xs.items()}
    return {name: jnp.where(masks[name], xs[name], x) if name in masks else x for name, x in moved.items()}


def _largest(values: States) -> Float[Array, ""]:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(value)) for value in values.values()]))


def _dot(a: States, b: States) -> Float[Array, ""]:
    return functools.reduce(jnp.add, [jnp.sum(a[name] * b[name]) for name in a])


def _descend(ham: HAM, xs, masks, rates, tol, steps, trajectory) -> Retrieval:
    def step(carry, _):
        xs, _ = carry
        gs = ham.activations(xs)
        energy, dEdg = ham.dEdg(gs, xs, return_energy=True)
        return (_step(xs, dEdg, masks, rates), gs), (energy, xs if trajectory else None)

    (end, before_last), (energies, path) = jax.lax.scan(step, (xs, ham.activations(xs)), length=steps)
    gs = ham.activations(end)
    residual = _largest({name: gs[name] - before_last[name] for name in gs})
    if trajectory:
        path = {name: jnp.concatenate([path[name], x[None]]) for name, x in end.items()}
    energies = jnp.append(energies, ham.energy(gs, end))
    return Retrieval(end, energies, jnp.asarray(steps), residual, residual <= tol, path)


class _Progress(NamedTuple):
    """What the loop of `_relax` carries: where it stands, what is known there, and the record."""

    xs: dict[str, Array]
    gs: dict[str, Array]
    dEdg: dict[str, Array]
    energy: Array
    steps: Array
    residual: Array
    running: Array
    scale: Array  # the share of the full step to try next: 1, ½, ¼, …


def _relax(ham: HAM, xs, masks, rates, tol, steps, trajectory) -> Retrieval:
    smallest_scale = 2.0**-20

    def evaluate(xs):
        gs = ham.activations(xs)
        tree, dEdg = ham._energy_tree_and_dEdg(gs, xs)
        terms = [*jax.tree.leaves(tree), *(jnp.sum(gs[name] * xs[name]) for name in xs)]
        rounding = 8 * jnp.finfo(terms[0].dtype).eps * sum(map(jnp.abs, terms))
        return gs, dEdg, jax.tree.reduce(jnp.add, tree), rounding

    def attempt(carry):
        now, energies, path = carry
        xs = _step(now.xs, now.dEdg, masks, {name: now.scale * rate for name, rate in rates.items()})
        gs, dEdg, energy, rounding = evaluate(xs)
        change = {name: gs[name] - now.gs[name] for name in gs}
        slope, slope_after = _dot(now.dEdg, change), _dot(dEdg, change)
        falls = energy - now.energy <= 1e-4 * slope
        falls |= (jnp.abs(energy - now.energy) <= rounding) & (0.5 * (slope + slope_after) <= 1e-4 * slope)
        exhausted = now.scale <= smallest_scale
        taken = falls | (exhausted & ~jnp.isfinite(energy))
        residual = _largest(change) / now.scale
        moved = _Progress(
            xs=xs,
            gs=gs,
            dEdg=dEdg,
            energy=energy,
            steps=now.steps + 1,
            residual=residual,
            running=~(residual <= tol) & (now.steps + 1 < steps) & jnp.isfinite(energy),
            scale=jnp.minimum(2 * now.scale, 1),
        )
        stayed = now._replace(residual=residual, running=~(residual <= tol) & ~exhausted, scale=now.scale / 2)
        # A try that is not taken is overwritten by the next one, or by the final state.
        energies = energies.at[now.steps + 1].set(energy)
        path = jax.tree.map(lambda states, x: states.at[now.steps + 1].set(x), path, xs if trajectory else None)
        return jax.tree.map(lambda a, b: jnp.where(taken, a, b), moved, stayed), energies, path

    gs, dEdg, energy, _ = evaluate(xs)
    start = _Progress(
        xs=xs,
        gs=gs,
        dEdg=dEdg,
        energy=energy,
        steps=jnp.zeros((), int),
        residual=jnp.full((), jnp.inf, energy.dtype),
        running=jnp.isfinite(energy),
        scale=jnp.ones((), energy.dtype),
    )
    path = {name: jnp.repeat(x[None], steps + 1, axis=0) for name, x in xs.items()} if trajectory else None
    loop = (start, jnp.full(steps + 1, energy), path)
    end, energies, path = jax.lax.while_loop(lambda carry: carry[0].running, attempt, loop)
    later = jnp.arange(steps + 1) > end.steps

    def repeat_last(record, last):
        return jnp.where(later.reshape(-1, *[1] * last.ndim), last[None], record)

    path = jax.tree.map(repeat_last, path, end.xs if trajectory else None)
    energies = repeat_last(energies, end.energy)
    return Retrieval(end.xs, energies, end.steps, end.residual, end.residual <= tol, path)


def _raise_if_not_finite(retrieval: Retrieval) -> None:
    finite = np.isfinite(np.atleast_2d(retrieval.energies))
    if finite.all():
        return
    example = int(np.argmin(finite.all(axis=-1)))
    step = int(np.argmin(finite[example]))
    where = f"step {step}" if retrieval.energies.ndim == 1 else f"step {step} of example {example}"
    reason = (
        "a state or a parameter is not finite to begin with"
        if step == 0
        else "a Lagrangian overflowed, or the energy has no lower bound; try a smaller dt or a bounded activation"
    )
    raise ValueError(f"the energy is {np.atleast_2d(retrieval.energies)[example, step]} at {where}: {reason}")
