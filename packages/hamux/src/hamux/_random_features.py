"""A memory whose size does not grow with what it stores: one vector of random features."""

from typing import Self

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._binding import Module
from ._checks import positive, whole
from ._precision import widened
from ._synapses import product

_ROWS = 4096  # patterns have their features computed at a time


class RandomFeatureSynapse(Module):
    """E = −(1/β) Σ_tokens log max(φ(g)·T, ε) with T = Σ_μ φ(ξ_μ): memories that share one vector.

    φ(x) = Y^{−1/2} [cos(√β S x + b), sin(√β S x + b)] has 2Y numbers, with S normal and b uniform on [0, 2π). In
    expectation φ(x)·φ(ξ) = exp(−β/2 ‖x − ξ‖²), so that E is the energy of a Gaussian `KernelSynapse` up to an error
    that falls as Y^{−1/2} (Rahimi & Recht, 2007). As there, the energy contains the layer's own ½‖g‖²: join it to
    layers of `leak=0`.

    Far from all memories the sum is lost in that error. Where it is below ε, E is clipped and flat: its gradient is 0,
    and `relax` reports a fixed point where it stands. Half of space is like that, and all of it before anything is
    stored. No step size is certified.

    `S` is `(Y, dim)`, `b` `(Y,)` and `T` `(2Y,)`. β and ε are fixed when it is made, since T depends on β.

    **Raises** ValueError for `features` < 1, and a `beta` or an `eps` that is not > 0.

    Hoover, Chau, Strobelt, Ram & Krotov, "Dense Associative Memory Through the Lens of Random Features", 2024.
    """

    S: Float[Array, "features dim"]
    b: Float[Array, " features"]
    T: Float[Array, " twice_features"]
    beta: float = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, key: PRNGKeyArray, dim: int, features: int, beta: float = 1.0, eps: float = 1e-6):
        features = whole("features", features, "at least one is drawn")
        key_s, key_b = jr.split(key)
        self.S = jr.normal(key_s, (features, whole("dim", dim, "a layer has at least one unit")))
        self.b = jr.uniform(key_b, (features,), maxval=2 * jnp.pi)
        self.T = jnp.zeros(2 * features)
        self.beta, self.eps = float(positive("beta", beta)), float(positive("eps", eps))

    def __call__(self, g: Float[Array, "... dim"]) -> Float[Array, ""]:
        if not g.ndim or g.shape[-1] != self.S.shape[1]:
            raise ValueError(f"RandomFeatureSynapse of dim {self.S.shape[1]} got g of shape {g.shape}")
        similarity: Array = jnp.maximum(self.features(g) @ widened(self.T), self.eps)
        energies: Array = -jnp.log(similarity) / self.beta
        return jnp.sum(energies)

    def features(self, x: Float[Array, "... dim"]) -> Float[Array, "... twice_features"]:
        """Returns φ(x)."""
        angles = self.beta**0.5 * product(x, self.S)
        angles += jnp.broadcast_to(widened(self.b), angles.shape)
        both: Array = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1) / len(self.b) ** 0.5
        return both

    def remember(self, patterns: Float[ArrayLike, "patterns dim"]) -> Self:
        """Returns the synapse with patterns added to its memories: T + Σ φ(ξ).

        **Raises** ValueError for patterns of another dim.
        """
        return self._with(self._total(patterns))

    def forget(self, patterns: Float[ArrayLike, "patterns dim"]) -> Self:
        """Returns the synapse without patterns that it remembers: T − Σ φ(ξ). It cannot tell which those are.

        **Raises** ValueError for patterns of another dim.
        """
        return self._with(-self._total(patterns))

    def _with(self, more: Float[Array, " twice_features"]) -> Self:
        changed: Self = eqx.tree_at(lambda synapse: synapse.T, self, self.T + more.astype(self.T.dtype))
        return changed

    def _total(self, patterns: Float[ArrayLike, "patterns dim"]) -> Float[Array, " twice_features"]:
        rows = jnp.asarray(patterns, self.S.dtype)
        if rows.ndim != 2 or rows.shape[1] != self.S.shape[1]:
            raise ValueError(f"patterns have shape {rows.shape}; expected (patterns, {self.S.shape[1]})")
        total = jnp.zeros_like(widened(self.T))
        for start in range(0, len(rows), _ROWS):
            total += jnp.sum(self.features(rows[start : start + _ROWS]), axis=0)
        return total
