"""Lagrangians: convex scalar functions of a layer's state whose gradient is the layer's activation.

Every `lagr_*` takes a state of any shape and returns one scalar. Element-wise ones sum over all axes; those that couple
the units of one axis (`softmax`, `ghostmax`, `layernorm`, `spherical_norm`) treat every index of the other axes, a
token, by itself and sum over the tokens. Krotov & Hopfield, "Large Associative Memory Problem in Neurobiology and
Machine Learning", 2021; Hoover et al., "Energy Transformer", 2023, eq. 2 for the layer norm.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.nn import logsumexp, relu, softplus
from jaxtyping import Array, Float

from ._precision import widened

_Function = TypeVar("_Function", bound=Callable)


def _lagrangian(**facts: Any) -> Callable[[_Function], _Function]:
    """A Lagrangian that takes half precision in float32, and has the attributes that `hamux.certify` asks for."""

    def define(function: Any) -> Any:
        @functools.wraps(function)
        def in_float32(x, *parameters, **keywords):
            return function(widened(x), *map(widened, parameters), **{k: widened(v) for k, v in keywords.items()})

        vars(in_float32).update(facts)
        return in_float32

    return define


@_lagrangian(elementwise=True, lipschitz=1.0)
def lagr_identity(x: Float[Array, "..."]) -> Float[Array, ""]:
    """L = ½ Σ x²; activation g = x."""
    return 0.5 * jnp.sum(x**2)


@_lagrangian(elementwise=True)
def lagr_repu(x: Float[Array, "..."], n: float | Array) -> Float[Array, ""]:
    """L = (1/n) Σ max(x, 0)ⁿ; activation g = max(x, 0)ⁿ⁻¹, the rectified power unit. Convex for n ≥ 1.

    Krotov & Hopfield, "Dense Associative Memory for Pattern Recognition", 2016, eq. 3.
    """
    positive = ~(x <= 0)  # NaN stays NaN
    # The inner `where` keeps the derivative by n, xⁿ log x, finite where x ≤ 0.
    return jnp.sum(jnp.where(positive, jnp.where(positive, x, 1) ** n, 0)) / n


@_lagrangian(elementwise=True, lipschitz=1.0)
def lagr_relu(x: Float[Array, "..."]) -> Float[Array, ""]:
    """L = ½ Σ max(x, 0)²; activation g = max(x, 0)."""
    return jnp.sum(_half_square(x))


@jax.custom_jvp
def _half_square(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """½ max(x, 0)²; its derivative is given for speed, as one array max(x, 0) to keep and multiply."""
    return 0.5 * relu(x) ** 2


_half_square.defjvps(lambda tangent, _, x: relu(x) * tangent)


@_lagrangian(elementwise=True)
def lagr_exp(x: Float[Array, "..."], beta: float | Array = 1.0) -> Float[Array, ""]:
    """L = (1/β) Σ exp(βx); activation g = exp(βx).

    Overflows to inf where βx > 88.7 in float32 and 709.7 in float64; `lagr_softmax` has the same minima and does not.
    Demircigil et al., "On a Model of Associative Memory with Huge Storage Capacity", 2017.
    """
    return jnp.sum(jnp.exp(beta * x)) / beta


@_lagrangian(elementwise=True)
def lagr_rexp(x: Float[Array, "..."], beta: float | Array = 1.0) -> Float[Array, ""]:
    """L = Σ exp(β max(x, 0))/β − max(x, 0); activation g = exp(β max(x, 0)) − 1, the rectified exponential.

    Overflows to inf where βx > 88.7 in float32 and 709.7 in float64.
    """
    rectified = jnp.maximum(x, 0)
    return jnp.sum(jnp.exp(beta * rectified) / beta - rectified)


@_lagrangian(elementwise=True)
def lagr_tanh(x: Float[Array, "..."], beta: float | Array = 1.0) -> Float[Array, ""]:
    """L = (1/β) Σ log cosh(βx); activation g = tanh(βx). Finite for every finite βx."""
    # Flat: XLA on a CPU runs an element-wise loop over a shape like (11, 11, 16) several times slower.
    return jnp.sum(_log_cosh(beta * jnp.ravel(x))) / beta


@_lagrangian(elementwise=True, binary=True)
def lagr_sign(x: Float[Array, "..."]) -> Float[Array, ""]:
    """L = Σ |x|; activation g = sign(x), ±1 and 0 at 0: the binary neuron, tanh's limit β → ∞. Hopfield, 1982."""
    return jnp.sum(jnp.abs(x))


@jax.custom_jvp
def _log_cosh(z: Float[Array, " n"]) -> Float[Array, " n"]:
    """log cosh z, exact near 0, where |z| + log(1 + exp(−2|z|)) − log 2 cancels, and far from it; its derivative is
    given for speed."""
    a = jnp.abs(z)
    near = a < 1
    tail = jnp.where(near, jnp.expm1(-a) ** 2 / (2 * jnp.exp(-a)), jnp.exp(-2 * a))
    return jnp.log1p(tail) + jnp.where(near, 0, a - jnp.log(2.0).astype(z.dtype))


_log_cosh.defjvps(lambda tangent, _, z: jnp.tanh(z) * tangent)


@_lagrangian(elementwise=True)
def lagr_sigmoid(x: Float[Array, "..."], beta: float | Array = 1.0, scale: float | Array = 1.0) -> Float[Array, ""]:
    """L = (s/β) Σ log(1 + exp(βx)); activation g = s/(1 + exp(−βx)), with s = `scale`. Finite for every finite βx."""
    return jnp.sum(softplus(beta * x)) * (scale / beta)


@_lagrangian(tokenwise=True)
def lagr_softmax(x: Float[Array, "..."], beta: float | Array = 1.0, axis: int = -1) -> Float[Array, ""]:
    """L = (1/β) Σ_tokens log Σ_axis exp(βx); activation g = softmax(βx) along `axis`.

    Flat along the constant vector: states that differ by a constant have the same activation.
    """
    return jnp.sum(logsumexp(beta * x, axis=axis)) / beta


@_lagrangian(tokenwise=True)
def lagr_ghostmax(x: Float[Array, "..."], beta: float | Array = 1.0, axis: int = -1) -> Float[Array, ""]:
    """L = (1/β) Σ_tokens log(1 + Σ_axis exp(βx)); activation g = exp(βx) / (1 + Σ_axis exp(βx)).

    A softmax with one more unit, a ghost, held at 0: it may attend to nothing, and L is strictly convex.
    """
    return jnp.sum(softplus(logsumexp(beta * x, axis=axis))) / beta


@_lagrangian(tokenwise=True)
def lagr_layernorm(
    x: Float[Array, "..."],
    gamma: float | Array = 1.0,
    delta: float | Array = 0.0,
    axis: int = -1,
    eps: float = 1e-5,
) -> Float[Array, ""]:
    """L = Σ_tokens D γ √(var(x) + ε) + Σ δ·x; activation g = γ (x − mean(x)) / √(var(x) + ε) + δ.

    Mean and variance are over `axis`, of length D. γ is a scalar ≥ 0 (a vector γ has no Lagrangian); δ is a scalar, or
    a vector of the shape of one token when `axis` is the last. Flat along the constant vector.
    Hoover et al., "Energy Transformer", 2023, eq. 2.
    """
    scale = jnp.sqrt(jnp.var(x, axis=axis) + eps)
    return x.shape[axis] * gamma * jnp.sum(scale) + jnp.sum(_per_unit(delta, x) * x)


@_lagrangian(tokenwise=True)
def lagr_spherical_norm(
    x: Float[Array, "..."],
    gamma: float | Array = 1.0,
    delta: float | Array = 0.0,
    axis: int = -1,
    eps: float = 1e-5,
) -> Float[Array, ""]:
    """L = Σ_tokens γ √(Σ_axis x² + ε) + Σ δ·x; activation g = γ x / √(Σ_axis x² + ε) + δ.

    γ is a scalar ≥ 0; δ is a scalar, or a vector of the shape of one token when `axis` is the last.
    """
    norm = jnp.sqrt(jnp.sum(x**2, axis=axis) + eps)
    return gamma * jnp.sum(norm) + jnp.sum(_per_unit(delta, x) * x)


def _per_unit(delta: float | Array, x: Array) -> float | Array:
    """`delta` with the leading axes that let it broadcast against every token of `x`."""
    missing = jnp.ndim(x) - jnp.ndim(delta)
    return delta if jnp.ndim(delta) == 0 else jnp.expand_dims(delta, tuple(range(missing)))
