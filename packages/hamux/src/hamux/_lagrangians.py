"""Lagrangians: scalar functions of a layer's state whose gradient is the layer's activation.

Every `lagr_*` takes a state of any shape and returns one scalar. The element-wise ones sum over all axes. Those that
couple the units of one axis (`softmax`, `ghostmax`, `layernorm`, `spherical_norm`) treat every index of the other axes,
a token, by itself and sum over the tokens. Each declares for which parameters it is convex, see `hamux.certify`.

Krotov & Hopfield, "Large Associative Memory Problem in Neurobiology and Machine Learning", 2021; Hoover et al., "Energy
Transformer", 2023, eq. 2 for the layer norm.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.nn import relu
from jaxtyping import Array, Bool, Float

from ._precision import log_sum_exp, widened

_Lagrangian = TypeVar("_Lagrangian", bound=Callable[..., Float[Array, ""]])


def _lagrangian(**facts: Any) -> Callable[[_Lagrangian], _Lagrangian]:
    """Makes a Lagrangian take half precision in float32, and declare `facts`."""

    def define(function: _Lagrangian) -> _Lagrangian:
        @functools.wraps(function)
        def in_float32(x: Array, *parameters: Any, **keywords: Any) -> Float[Array, ""]:
            return function(widened(x), *map(widened, parameters), **{k: widened(v) for k, v in keywords.items()})

        vars(in_float32).update(facts)
        return cast(_Lagrangian, in_float32)

    return define


# The smallest normal number of float32. The inverse of a β below it overflows.
_TINY = 1.1754944e-38


def _positive(beta: float | Array) -> bool | Bool[Array, ""]:
    return (beta >= _TINY) & (beta < float("inf"))


def _norm_is_convex(gamma: float | Array, eps: float | Array) -> bool | Bool[Array, ""]:
    return (gamma >= 0) & (gamma < float("inf")) & (eps >= 0)


@_lagrangian(convex=True, elementwise=True, lipschitz=1.0, identity=True, analytic=True)
def lagr_identity(x: Float[Array, "..."]) -> Float[Array, ""]:
    """L = ½ Σ x²; activation g = x."""
    return 0.5 * jnp.sum(x**2)


@_lagrangian(convex=lambda n: (n >= 1) & (n < float("inf")), elementwise=True)
def lagr_repu(x: Float[Array, "..."], n: int | float | Array) -> Float[Array, ""]:
    """L = (1/n) Σ max(x, 0)ⁿ; activation g = max(x, 0)ⁿ⁻¹, the rectified power unit. Convex for n ≥ 1.

    An int n is an option, and its power a product; a float is a parameter.

    Krotov & Hopfield, "Dense Associative Memory for Pattern Recognition", 2016, eq. 3.
    """
    positive = ~(x <= 0)  # NaN stays NaN
    # The inner `where` keeps the derivative by n, xⁿ log x, finite where x ≤ 0.
    return jnp.sum(jnp.where(positive, jnp.where(positive, x, 1) ** n, 0)) / n


@_lagrangian(convex=True, elementwise=True, lipschitz=1.0)
def lagr_relu(x: Float[Array, "..."]) -> Float[Array, ""]:
    """L = ½ Σ max(x, 0)²; activation g = max(x, 0)."""
    return jnp.sum(_half_square(x))


@jax.custom_jvp
def _half_square(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """½ max(x, 0)². Its derivative is given for speed, as one array max(x, 0) to keep and multiply."""
    return 0.5 * relu(x) ** 2


_half_square.defjvps(lambda tangent, _, x: relu(x) * tangent)


@_lagrangian(convex=_positive, elementwise=True, analytic=True)
def lagr_exp(x: Float[Array, "..."], beta: float | Array = 1.0) -> Float[Array, ""]:
    """L = (1/β) Σ exp(βx); activation g = exp(βx). Convex for β > 0.

    Overflows to inf where βx > 88.7 in float32 and 709.7 in float64; `lagr_softmax` has the same minima and does not.
    Demircigil et al., "On a Model of Associative Memory with Huge Storage Capacity", 2017.
    """
    return jnp.sum(jnp.exp(beta * x)) / beta


@_lagrangian(convex=_positive, elementwise=True)
def lagr_rexp(x: Float[Array, "..."], beta: float | Array = 1.0) -> Float[Array, ""]:
    """L = Σ exp(β max(x, 0))/β − max(x, 0); activation g = exp(β max(x, 0)) − 1, the rectified exponential.

    Convex for β > 0. Overflows to inf where βx > 88.7 in float32 and 709.7 in float64.
    """
    rectified = jnp.maximum(x, 0)
    return jnp.sum(jnp.exp(beta * rectified) / beta - rectified)


@_lagrangian(convex=_positive, elementwise=True, analytic=True)
def lagr_tanh(x: Float[Array, "..."], beta: float | Array = 1.0) -> Float[Array, ""]:
    """L = (1/β) Σ log cosh(βx); activation g = tanh(βx). Convex for β > 0. Finite for every finite x."""
    # Flat: XLA on a CPU runs an element-wise loop over a shape like (11, 11, 16) several times slower.
    return jnp.sum(_log_cosh(jnp.ravel(x), jnp.asarray(beta, x.dtype)))


@_lagrangian(convex=True, elementwise=True, binary=True)
def lagr_sign(x: Float[Array, "..."]) -> Float[Array, ""]:
    """L = Σ |x|; activation g = sign(x), ±1 and 0 at 0: the binary neuron, tanh's limit β → ∞. Hopfield, 1982."""
    return jnp.sum(jnp.abs(x))


def _sign(z: Array) -> Array:
    """1 where the real part is at least 0, and −1 elsewhere: with it, an even function is analytic beside the reals."""
    return jnp.where(jnp.real(z) < 0, -1, 1).astype(z.dtype)


def _at_most(most: float, z: Array) -> Array:
    return jnp.where(jnp.real(z) > most, most, z)


@jax.custom_jvp
def _log_cosh(x: Float[Array, " n"], beta: Float[Array, ""]) -> Float[Array, " n"]:
    """(1/β) log cosh(βx), exact near 0, where |z| + log(1 + exp(−2|z|)) − log 2 cancels, and far from it, where βx
    overflows. Its derivative by x is given for speed."""
    sign = _sign(beta * x)
    a = sign * (beta * x)
    near = jnp.abs(a) < 1
    tail = jnp.where(near, jnp.expm1(-a) ** 2 / (2 * jnp.exp(-a)), jnp.exp(-2 * a))
    far = sign * x - jnp.log(2.0).astype(x.dtype) / beta
    return jnp.log1p(tail) / beta + jnp.where(near, 0, far)


def _log_cosh_by_beta(tangent: Array, value: Array, x: Array, beta: Array) -> Array:
    """(βx tanh(βx) − log cosh(βx)) / β², less what cancels where βx is large."""
    a = _at_most(1e3, _sign(beta * x) * (beta * x))
    e = jnp.exp(-2 * a)
    far = jnp.log(2.0).astype(x.dtype) - jnp.log1p(e) - 2 * a * e / (1 + e)
    return far / beta**2 * tangent


_log_cosh.defjvps(lambda tangent, _, x, beta: jnp.tanh(beta * x) * tangent, _log_cosh_by_beta)


@_lagrangian(convex=lambda beta, scale: (beta * scale >= 0) & (abs(beta) >= _TINY), elementwise=True, analytic=True)
def lagr_sigmoid(x: Float[Array, "..."], beta: float | Array = 1.0, scale: float | Array = 1.0) -> Float[Array, ""]:
    """L = (s/β) Σ log(1 + exp(βx)); activation g = s/(1 + exp(−βx)), with s = `scale`.

    Convex for sβ ≥ 0, β ≠ 0. Finite for every finite x.
    """
    return scale * jnp.sum(_softplus(x, jnp.asarray(beta, x.dtype)))


@jax.custom_jvp
def _softplus(x: Float[Array, "..."], beta: Float[Array, ""]) -> Float[Array, "..."]:
    """(1/β) log(1 + exp(βx)), also where βx overflows."""
    sign = _sign(beta * x)
    top = jnp.where(jnp.real(sign) > 0, x, 0)
    return top + jnp.log1p(jnp.exp(-sign * (beta * x))) / beta


def _softplus_by_beta(tangent: Array, value: Array, x: Array, beta: Array) -> Array:
    """(βx σ(βx) − log(1 + exp(βx))) / β², which is even in βx, less what cancels where that is large."""
    a = _at_most(1e3, _sign(beta * x) * (beta * x))
    e = jnp.exp(-a)
    return -(a * e / (1 + e) + jnp.log1p(e)) / beta**2 * tangent


_softplus.defjvps(lambda tangent, _, x, beta: jax.nn.sigmoid(beta * x) * tangent, _softplus_by_beta)


@_lagrangian(convex=_positive, tokenwise=lambda axis: axis, inverse_temperature=lambda beta: beta, analytic=True)
def lagr_softmax(x: Float[Array, "..."], beta: float | Array = 1.0, axis: int = -1) -> Float[Array, ""]:
    """L = (1/β) Σ_tokens log Σ_axis exp(βx); activation g = softmax(βx) along `axis`. Convex for β > 0.

    Flat along the constant vector: states that differ by a constant have the same activation.
    """
    return jnp.sum(log_sum_exp(x, beta, axis=axis))


@_lagrangian(convex=_positive, tokenwise=lambda axis: axis, analytic=True)
def lagr_ghostmax(x: Float[Array, "..."], beta: float | Array = 1.0, axis: int = -1) -> Float[Array, ""]:
    """L = (1/β) Σ_tokens log(1 + Σ_axis exp(βx)); activation g = exp(βx) / (1 + Σ_axis exp(βx)). Convex for β > 0.

    A softmax with one more unit, a ghost, held at 0: it may attend to nothing, and L is strictly convex.
    """
    return jnp.sum(log_sum_exp(x, beta, axis=axis, ghost=True))


@_lagrangian(convex=_norm_is_convex, tokenwise=lambda axis: axis, analytic=True)
def lagr_layernorm(
    x: Float[Array, "..."],
    gamma: float | Array = 1.0,
    delta: float | Array = 0.0,
    axis: int = -1,
    eps: float = 1e-5,
) -> Float[Array, ""]:
    """L = Σ_tokens D γ √(var(x) + ε) + Σ δ·x; activation g = γ (x − mean(x)) / √(var(x) + ε) + δ. Convex for γ ≥ 0.

    Mean and variance are over `axis`, of length D. γ is a scalar (a vector γ has no Lagrangian); δ is a scalar, or a
    vector of the shape of one token when `axis` is the last. Flat along the constant vector.
    Hoover et al., "Energy Transformer", 2023, eq. 2.
    """
    centred = x - jnp.mean(x, axis=axis, keepdims=True)
    scale = jnp.sqrt(jnp.mean(centred**2, axis=axis) + eps)
    return x.shape[axis] * gamma * jnp.sum(scale) + jnp.sum(_per_unit(delta, x) * x)


@_lagrangian(convex=_norm_is_convex, tokenwise=lambda axis: axis, analytic=True)
def lagr_spherical_norm(
    x: Float[Array, "..."],
    gamma: float | Array = 1.0,
    delta: float | Array = 0.0,
    axis: int = -1,
    eps: float = 1e-5,
) -> Float[Array, ""]:
    """L = Σ_tokens γ √(Σ_axis x² + ε) + Σ δ·x; activation g = γ x / √(Σ_axis x² + ε) + δ. Convex for γ ≥ 0.

    γ is a scalar; δ is a scalar, or a vector of the shape of one token when `axis` is the last.
    """
    norm = jnp.sqrt(jnp.sum(x**2, axis=axis) + eps)
    return gamma * jnp.sum(norm) + jnp.sum(_per_unit(delta, x) * x)


def _per_unit(delta: float | Array, x: Array) -> float | Array:
    """`delta` with the leading axes that let it broadcast against every token of `x`."""
    missing = jnp.ndim(x) - jnp.ndim(delta)
    return delta if jnp.ndim(delta) == 0 else jnp.expand_dims(delta, tuple(range(missing)))
