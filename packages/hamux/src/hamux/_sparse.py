"""Sparse Lagrangians: like log-sum-exp, but the activation is exactly 0 for all units but a few.

For a convex Ω on a polytope, L(x) = (1/β) max_y [βx·y − Ω(y)], and the y that is found is the activation. The polytope
is the simplex, or holds subsets of k units.

Peters, Niculae & Martins, "Sparse Sequence-to-Sequence Models", 2019, for entmax; Blondel, Martins & Niculae, "Learning
with Fenchel–Young Losses", 2020, for normmax; Santos, Niculae, McNamee & Martins, "Sparse and Structured Hopfield
Networks", 2024, for both in a memory, and for subsets.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import whole
from ._lagrangians import _lagrangian, _positive

Rows = Float[Array, "... units"]


def _checked(name: str, value: float) -> float:
    if not 1 < value < float("inf"):
        raise ValueError(f"{name} is {value}; expected a finite number greater than 1")
    return float(value)


@_lagrangian(
    convex=_positive,
    tokenwise=lambda axis: axis,
    options=("alpha",),
    margin=lambda alpha, beta: 1 / ((_checked("alpha", alpha) - 1) * beta),
)
def lagr_entmax(x: Float[Array, "..."], alpha: float = 1.5, beta: float | Array = 1.0, axis: int = -1) -> Array:
    """L = (1/β) Σ_tokens max_y [βx·y − Ω(y)] with Ω(y) = (Σ yᵅ − 1)/(α(α − 1)); activation g = α-entmax(βx).

    y lies on the simplex along `axis`: g = max((α − 1)βx − τ, 0)^{1/(α − 1)}, with the τ that makes it sum to 1. It is
    sparsemax at α = 2, and softmax in the limit α → 1. Units whose βx is 1/(α − 1) below the largest are exactly 0.
    Convex for β > 0. α > 1 is an option, β a parameter.

    **Raises** ValueError for an α that is not greater than 1.
    """
    alpha = _checked("alpha", alpha)
    return jnp.sum(_conjugate(_entmax(alpha), _entmax_value(alpha), 1, jnp.moveaxis(x, axis, -1), beta))


@_lagrangian(convex=_positive, tokenwise=lambda axis: axis, options=("p",), margin=lambda beta: 1 / beta)
def lagr_normmax(x: Float[Array, "..."], p: float = 2.0, beta: float | Array = 1.0, axis: int = -1) -> Array:
    """L = (1/β) Σ_tokens max_y [βx·y − Ω(y)] with Ω(y) = ‖y‖_p − 1; activation g = p-normmax(βx).

    y lies on the simplex along `axis`: g ∝ max(βx − τ, 0)^{1/(p − 1)}, where Σ max(βx − τ, 0)^{p/(p − 1)} = 1, and then
    L = (τ + 1)/β. Units whose βx is 1 below the largest are exactly 0. Convex for β > 0. p > 1 is an option, β a
    parameter.

    **Raises** ValueError for a p that is not greater than 1.
    """
    p = _checked("p", p)
    return jnp.sum(_conjugate(_normmax(p), _normmax_value(p), 1, jnp.moveaxis(x, axis, -1), beta))


@_lagrangian(convex=_positive, tokenwise=lambda axis: axis, options=("k",))
def lagr_k_subsets(x: Float[Array, "..."], k: int = 2, beta: float | Array = 1.0, axis: int = -1) -> Array:
    """L = (1/β) Σ_tokens max_y [βx·y − Ω(y)] with Ω(y) = (‖y‖² − k)/2; activation g = the y nearest to βx.

    y lies between 0 and 1 and sums to k along `axis`: g = clip(βx − τ, 0, 1). Where the k-th largest βx is 1 or more
    ahead of the next, exactly k units are 1 and all others are 0. With k = 1 it is sparsemax. Convex for β > 0. k is an
    option, β a parameter.

    **Raises** ValueError for a k that is not a whole number of at least 1, or above the number of units.
    """
    units = x.shape[axis]
    if whole("k", k, "at least one unit is active") > units:
        raise ValueError(f"k is {k}, but there are {units} units along axis {axis}")
    return jnp.sum(_conjugate(_k_subsets(int(k)), _k_subsets_value(int(k)), int(k), jnp.moveaxis(x, axis, -1), beta))


Pair = tuple[Any, Any]
Activation = Callable[[Rows], Rows]
Value = Callable[[Rows, Rows], Float[Array, "..."]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _conjugate(activation: Activation, value: Value, k: int, x: Rows, beta: float | Array) -> Float[Array, "..."]:
    """(1/β) Ω*(βx) for y that sum to k."""
    return _at_maximum(activation, value, k, x, beta)[0]


@_conjugate.defjvp
def _conjugate_jvp(activation: Activation, value: Value, k: int, primals: Pair, tangents: Pair) -> Pair:
    """∂/∂x = y and, since L = x·y − Ω(y)/β at its maximum, ∂/∂β = Ω(y)/β²."""
    (x, beta), (dx, dbeta) = primals, tangents
    found, y, cost = _at_maximum(activation, value, k, x, beta)
    return found, jnp.sum(y * dx, axis=-1) + cost / beta**2 * dbeta


def _at_maximum(
    activation: Activation, value: Value, k: int, x: Rows, beta: float | Array
) -> tuple[Array, Rows, Array]:
    """(1/β) Ω*(βx), y and Ω(y). The largest x is taken out before β multiplies; Ω*(θ + c) = Ω*(θ) + kc."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    theta = beta * (x - top)
    y = activation(theta)
    conjugate = value(theta, y)
    return k * top[..., 0] + conjugate / beta, y, jnp.sum(theta * y, axis=-1) - conjugate


@functools.cache
def _entmax(alpha: float) -> Activation:
    power = 1 / (alpha - 1)

    def activation(theta: Rows) -> Rows:
        z = (alpha - 1) * theta
        return _power(z - _threshold(power, z), power)

    return activation


@functools.cache
def _entmax_value(alpha: float) -> Value:
    """Ω*(θ) = θ·y − Ω(y)."""
    return lambda theta, y: (
        jnp.sum(theta * y, axis=-1) - (jnp.sum(_power(y, alpha), axis=-1) - 1) / (alpha * (alpha - 1))
    )


@functools.cache
def _normmax(p: float) -> Activation:
    def activation(theta: Rows) -> Rows:
        above = _power(theta - _threshold(p / (p - 1), theta), 1 / (p - 1))
        return above / jnp.sum(above, axis=-1, keepdims=True)

    return activation


@functools.cache
def _normmax_value(p: float) -> Value:
    return lambda theta, y: jnp.sum(theta * y, axis=-1) - jnp.sum(_power(y, p), axis=-1) ** (1 / p) + 1


@functools.cache
def _k_subsets(k: int) -> Activation:
    return lambda theta: jnp.clip(theta - _offset(k, theta), 0, 1)


@functools.cache
def _k_subsets_value(k: int) -> Value:
    return lambda theta, y: jnp.sum(theta * y, axis=-1) - (jnp.sum(y**2, axis=-1) - k) / 2


def _power(x: Rows, power: float) -> Rows:
    """max(x, 0)^power, whose derivative is 0 where x ≤ 0."""
    positive = ~(x <= 0)  # NaN stays NaN
    return jnp.where(positive, jnp.where(positive, x, 1) ** power, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _threshold(power: float, z: Rows) -> Float[Array, "... 1"]:
    """The τ at which Σ max(z − τ, 0)^power = 1.

    The sum is at least 1 at τ = max z − 1. For a power of at least 1 it is convex in τ, and Newton's method rises from
    there to the root without passing it; for a power of 1 it ends there after finitely many steps. For others an
    interval is halved.
    """
    top = jnp.max(z, axis=-1, keepdims=True)
    low, high = top - 1, top - z.shape[-1] ** (-1 / power)
    if power >= 1:

        def better(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            tau, _, count = carry
            above = jnp.maximum(z - tau, 0)
            slope = above ** (power - 1) if power > 1 else (above > 0).astype(z.dtype)
            missing = jnp.sum(slope * above, axis=-1, keepdims=True) - 1
            new = jnp.minimum(tau + missing / (power * jnp.sum(slope, axis=-1, keepdims=True)), high)
            return new, jnp.any(new > tau), count + 1

        found, *_ = jax.lax.while_loop(
            lambda carry: carry[1] & (carry[2] < 200), better, (low, jnp.array(True), jnp.array(0))
        )
        tau: Array = found
        return tau

    def halved(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        enough = jnp.sum(_power(z - middle, power), axis=-1, keepdims=True) >= 1
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    root: Array = jax.lax.fori_loop(0, jnp.finfo(z.dtype).nmant + 4, halved, (low, high))[0]
    return root


@_threshold.defjvp
def _threshold_jvp(power: float, primals: tuple[Rows], tangents: tuple[Rows]) -> Pair:
    (z,), (dz,) = primals, tangents
    tau = _threshold(power, z)
    slope = _power(z - tau, power - 1) if power != 1 else (z > tau).astype(z.dtype)
    return tau, jnp.sum(slope * dz, axis=-1, keepdims=True) / jnp.sum(slope, axis=-1, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _offset(k: int, theta: Rows) -> Float[Array, "... 1"]:
    """The τ at which Σ clip(θ − τ, 0, 1) = k.

    It lies less than 1 below the k-th largest θ. Halving tells which units are strictly between 0 and 1, and they τ.
    """
    high = jax.lax.top_k(theta, k)[0][..., -1:]

    def halved(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        enough = jnp.sum(jnp.clip(theta - middle, 0, 1), axis=-1, keepdims=True) >= k
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    tau: Array = jax.lax.fori_loop(0, jnp.finfo(theta.dtype).nmant + 2, halved, (high - 1, high))[0]
    between = _between(theta, tau)
    count = jnp.sum(between, axis=-1, keepdims=True)
    whole_ones = jnp.sum((theta - tau >= 1).astype(theta.dtype), axis=-1, keepdims=True)
    exact = (jnp.sum(between * theta, axis=-1, keepdims=True) + whole_ones - k) / jnp.maximum(count, 1)
    return jnp.where(count > 0, exact, tau)


@_offset.defjvp
def _offset_jvp(k: int, primals: tuple[Rows], tangents: tuple[Rows]) -> Pair:
    (theta,), (dtheta,) = primals, tangents
    tau = _offset(k, theta)
    between = _between(theta, tau)
    count = jnp.sum(between, axis=-1, keepdims=True)
    return tau, jnp.sum(between * dtheta, axis=-1, keepdims=True) / jnp.maximum(count, 1)


def _between(theta: Rows, tau: Float[Array, "... 1"]) -> Rows:
    return ((theta - tau > 0) & (theta - tau < 1)).astype(theta.dtype)
