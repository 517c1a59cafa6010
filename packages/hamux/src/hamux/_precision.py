"""Arithmetic that keeps its digits: half precision is carried in float32, and sums of exponentials do not overflow."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def widened(value: Any) -> Any:
    """Returns a float16 or bfloat16 array in float32, and all else as it is."""
    return value.astype(jnp.float32) if getattr(value, "dtype", None) in (jnp.float16, jnp.bfloat16) else value


def accumulator(*values: Any) -> jnp.dtype:
    """Returns the dtype in which products of `values` are summed."""
    dtype = jnp.result_type(*values)
    return jnp.dtype(jnp.float32) if dtype in (jnp.float16, jnp.bfloat16) else dtype


def log_sum_exp(
    x: Float[Array, "..."],
    beta: float | Float[Array, ""],
    axis: int | tuple[int, ...] | None = -1,
    where: Bool[Array, "..."] | None = None,
    ghost: bool = False,
) -> Float[Array, "..."]:
    """(1/β) log Σ_axis exp(βx) over the x where `where` is True; with a `ghost` one more x, which is 0.

    The largest x is taken out before β multiplies. Taken out of βx, as a `logsumexp` does, it leaves a rounding error
    of |βx| ε in the exponent where the compiler fuses product and difference, which overflows for |βx| ε > 88.
    """
    top = _largest(x, beta, axis, where, ghost)
    total = jnp.sum(jnp.exp(beta * (x - top)), axis=axis, where=where, keepdims=True)
    if ghost:
        total = total + jnp.exp(-beta * top)
    return jnp.squeeze(top + jnp.log(total) / beta, axis)


def softmax(x: Float[Array, "..."], beta: float | Float[Array, ""], axis: int = -1) -> Float[Array, "..."]:
    """exp(βx) / Σ_axis exp(βx), the gradient of `log_sum_exp`."""
    weights = jnp.exp(beta * (x - _largest(x, beta, axis)))
    return weights / jnp.sum(weights, axis=axis, keepdims=True)


def _largest(
    x: Float[Array, "..."],
    beta: float | Float[Array, ""],
    axis: int | tuple[int, ...] | None,
    where: Bool[Array, "..."] | None = None,
    ghost: bool = False,
) -> Float[Array, "..."]:
    """The real part of the x of the largest βx, without a gradient; 0 where it is not finite."""
    real = jnp.real(jax.lax.stop_gradient(x))
    sign = jnp.where(jnp.real(beta) < 0, -1, 1).astype(real.dtype)
    top = jnp.max(sign * real, axis=axis, where=where, initial=-jnp.inf, keepdims=True)
    top = sign * (jnp.maximum(top, 0) if ghost else top)
    return jnp.where(jnp.isfinite(top), top, 0).astype(x.dtype)
