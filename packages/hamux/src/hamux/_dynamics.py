"""Retrieval: descent of the energy, τ dx/dt = −∂E/∂g, for a number of steps or to a fixed point."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int

from ._adjoints import Adjoint, Implicit, Unrolled
from ._batches import without_explicit_axes
from ._certificate import setting
from ._checks import positive, untraced, whole
from ._descent import Descent, Reason, Retrieval
from ._ham import HAM, States, VectorizedHAM
from ._methods import Certified, Explicit, Method, Problem

Clamp = Mapping[str, "Bool[Array, '...'] | Sequence[Any] | bool"]

_UNROLLED, _IMPLICIT = Unrolled(), Implicit()
_REASON: Any = Reason  # mypy takes the items of an Enumeration for strings


def descend(
    ham: HAM | VectorizedHAM,
    xs: States,
    *,
    steps: int,
    dt: float | Array | None = None,
    method: Method[Any] | None = None,
    tau: Mapping[str, float] | None = None,
    clamp: Clamp | None = None,
    tol: float = 1e-5,
    warmup: int | Int[Array, ""] = 0,
    adjoint: Adjoint = _UNROLLED,
    energies: bool = True,
    trajectory: bool = False,
) -> Retrieval:
    """Takes `steps` steps of a method, in one compiled loop.

    A step that the method does not accept counts, and moves nothing.

    - `dt`: of the explicit step x ← x − (dt/τ) ∂E/∂g, in units of τ's time; 0.1 when left out. `certify` says up to
      which dt the energy falls. Beyond it `energies` shows whether it did, and `relax` sees to it.
    - `method`: another method in place of `dt`: `Explicit(dt)` with a schedule, `Momentum`, `Langevin`, ….
    - `tau`: time constants by layer, in place of the layers' own.
    - `clamp`: by layer a boolean mask of its shape, or True for all of it. These units never move.
    - `tol`: the residual up to which the end counts as `converged`.
    - `warmup`: so many steps of the method come first, without a gradient. The number may be traced by jax.
    - `adjoint`: how gradients flow: `Unrolled()`, `Truncated(steps)`, `Implicit()` or one of your own.
    - `energies`: whether to compute the energies and, of the end, the residual. Without them a step costs what its
      method needs, one ∂E/∂g if it is explicit, and nothing is evaluated after the last one.
    - `trajectory`: whether to record the states.

    **Raises** ValueError for `steps` < 1, a `warmup` < 0, a `dt`, `tau` or `tol` that is not a finite number > 0, a
    `dt` beside a `method`, an unknown layer, states or masks that do not fit, and a HAM that lacks what the method
    needs.
    """
    steps = int(whole("steps", steps, "at least one step is needed"))
    if method is None:
        method = Explicit(0.1 if dt is None else dt)
    elif dt is not None:
        raise ValueError(f"dt is {dt} and the method is {type(method).__name__}; give dt to the method")
    return _retrieve("descend", ham, xs, steps, method, tau, clamp, tol, warmup, adjoint, energies, trajectory)


def relax(
    ham: HAM | VectorizedHAM,
    xs: States,
    *,
    tol: float = 1e-5,
    max_steps: int = 500,
    method: Method[Any] | None = None,
    tau: Mapping[str, float] | None = None,
    clamp: Clamp | None = None,
    warmup: int | Int[Array, ""] = 0,
    adjoint: Adjoint = _IMPLICIT,
    energies: bool = True,
    trajectory: bool = False,
    throw: bool = False,
) -> Retrieval:
    """Takes steps of a method until the residual is at most `tol`, at most `max_steps`, in one compiled loop.

    Without a `method` it takes `Certified()`, under which the energy never rises by more than rounding, whatever the
    HAM. In a batch every example stops for itself. A trajectory costs as much memory as `max_steps` steps, and a batch
    as much time as its slowest example.

    - `energies`: whether to record them. They are computed all the same.
    - `throw`: whether it is an error not to converge. Without it nothing is raised for what the states come to, be they
      NaN: `converged` and `reason` tell.

    The other arguments are those of `descend`.

    **Raises** ValueError as `descend` does; and with `throw`, when an example does not converge, with its reason and
    what to do. Under `jax.jit` and `jax.vmap` that is a RuntimeError, raised when the program runs.
    """
    max_steps = int(whole("max_steps", max_steps, "at least one step is needed"))
    retrieval = _retrieve("relax", ham, xs, max_steps, method, tau, clamp, tol, warmup, adjoint, energies, trajectory)
    return _checked(retrieval, tol) if throw else retrieval


def _retrieve(
    kind: Literal["descend", "relax"],
    ham: HAM | VectorizedHAM,
    xs: States,
    steps: int,
    method: Method[Any] | None,
    tau: Mapping[str, float] | None,
    clamp: Clamp | None,
    tol: float,
    warmup: int | Int[Array, ""],
    adjoint: Adjoint,
    energies: bool,
    trajectory: bool,
) -> Retrieval:
    """Checks the arguments, fills in the defaults and runs one program."""
    one, batched = ham.unvectorize(), isinstance(ham, VectorizedHAM)
    positive("tol", tol)
    untraced("energies", energies)
    untraced("trajectory", trajectory)
    if not isinstance(method, Method | None):
        raise ValueError(f"method is {method!r}; expected one of hamux's methods, such as hamux.Backtracking()")
    if not isinstance(adjoint, Adjoint):
        raise ValueError(f"adjoint is {adjoint!r}; expected hamux.Unrolled(), Truncated(steps) or Implicit()")
    states = {name: as_array(x) for name, x in xs.items()}
    one._check_layers("state", states, batched=batched)
    masks = {name: as_array(mask) for name, mask in (clamp or {}).items()}
    circumstances = setting(one, tau, masks)
    for name, mask in masks.items():
        shape = one.neurons[name].shape
        if mask.ndim > len(shape) and not (batched and mask.shape == states[name].shape):
            raise ValueError(f'clamp["{name}"] is bool{list(mask.shape)}; expected True or bool{list(shape)}')
    method = (Certified() if method is None else method).prepare(one, circumstances)
    problem = Problem(one, dict(circumstances.tau), masks, circumstances.surely_whole)
    descent = Descent(problem, method, states, _as_count(warmup), tol, steps, bool(energies), bool(trajectory))
    retrieval: Retrieval = _run(kind, adjoint, descent, batched)
    return retrieval


def as_array(values: ArrayLike | Sequence[Any]) -> Array:
    """Returns lists, booleans and the like as arrays of NumPy, which jax takes like its own, and arrays as they are."""
    return values if isinstance(values, jax.Array) else cast(Array, np.asarray(values))


def _as_count(warmup: int | Int[Array, ""]) -> Int[Array, ""] | None:
    """Returns the number of steps as an array that is traced, None for 0. **Raises** ValueError for what is none."""
    if isinstance(warmup, jax.core.Tracer):
        if warmup.shape != () or not jnp.issubdtype(warmup.dtype, jnp.integer):
            raise ValueError(f"warmup is {warmup.dtype}{list(warmup.shape)}; expected an int ≥ 0")
        return warmup
    count = whole("warmup", cast(int, warmup), "a number of at least 0 is expected", 0)
    return jnp.asarray(count) if count else None


@functools.partial(jax.jit, static_argnames=("kind", "batched"))
def _run(kind: Literal["descend", "relax"], adjoint: Adjoint, descent: Descent, batched: bool) -> Retrieval:
    """Runs one compiled program, example by example for a batch."""
    run = {"descend": adjoint.descend, "relax": adjoint.relax}[kind]

    def alone(descent: Descent, xs: dict[str, Array], masks: dict[str, Bool[Array, "..."]]) -> Retrieval:
        problem = dataclasses.replace(descent.problem, ham=descent.problem.ham.ready(), masks=masks)
        return run(dataclasses.replace(descent, problem=problem, xs=xs))

    layers, masks = descent.problem.ham.neurons, descent.problem.masks
    mask_axes = {name: 0 if mask.ndim > len(layers[name].shape) else None for name, mask in masks.items()}
    program = jax.vmap(alone, in_axes=(None, 0, mask_axes)) if batched else alone
    return without_explicit_axes(program, (descent.xs, masks), leading=batched)(descent, descent.xs, masks)


def _checked(retrieval: Retrieval, tol: float) -> Retrieval:
    """Returns `retrieval` where it has converged. **Raises** ValueError where it has not, RuntimeError under jit."""
    assert retrieval.residual is not None
    assert retrieval.converged is not None
    if not retrieval.converged.size:
        return retrieval
    if isinstance(retrieval.converged, jax.core.Tracer):
        reason: Any = retrieval.reason
        checked: Retrieval = reason.error_if(retrieval, ~retrieval.converged)
        return checked
    converged = np.atleast_1d(retrieval.converged)
    if converged.all():
        return retrieval
    i = int(np.argmin(converged))
    residual, steps = np.atleast_1d(retrieval.residual)[i], np.atleast_1d(retrieval.steps)[i]
    reason = _REASON[jax.tree.map(lambda value: jnp.atleast_1d(value)[i], retrieval.reason)]
    of_example = f" of example {i}" if np.ndim(retrieval.converged) else ""
    raise ValueError(
        f"relax did not converge: the residual is {residual:.3g}, above {tol:g}, after {steps} steps{of_example} "
        f"({(~converged).sum()} of {len(converged)} did not): {reason}"
    )
