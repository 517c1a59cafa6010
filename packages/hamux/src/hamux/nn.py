"""Hopfield layers for Equinox: attention as the recall of an associative memory.

They take one example, like the layers of `equinox.nn`; `jax.vmap` adds a batch axis.

Ramsauer et al., "Hopfield Networks is All You Need", 2021.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ._binding import Module, bind
from ._checks import positive, whole
from ._dynamics import relax
from ._ham import HAM
from ._lagrangians import lagr_identity, lagr_softmax
from ._methods import Explicit
from ._neurons import Neurons
from ._precision import accumulator, widened

_NEVER = -1e9  # the score of a pattern that a mask leaves out


class Hopfield(eqx.Module):
    """Associates two sets: each query recalls, of a set of patterns, what is most like it.

    In each head, let x = W_Q query, and k_j = W_K key_j and v_j = W_V value_j for each pattern. A step is
    x ← Σ_j p_j k_j with p = ∂L/∂h and h_j = k_j·x. After `steps` − 1 of them, the head returns Σ_j p_j v_j; W_O takes
    the heads together. With one step and `lagr_softmax` this is `equinox.nn.MultiheadAttention`, whose place it takes.
    A step lowers the energy E(x) = ½‖x‖² − L(h).

    - `num_heads` to `vo_size`, `use_bias`, `dropout_p`, `inference`: as in `equinox.nn.MultiheadAttention`.
    - `lagrangian`: L, that of the scores, such as `lagr_softmax`; `Partial(lagr_entmax, alpha=1.5)` takes few patterns.
    - `beta`: its inverse temperature at the beginning, a parameter; 1/√qk_size by default.
    - `steps`: the number of steps, or None to take them to a fixed point (`tol`, `max_steps`: as in `hamux.relax`),
      which has the implicit gradient.
    - `norms`: whether layer norms with parameters go before W_Q, W_K and W_V.

    **Raises** ValueError for `steps` < 1, and for a `beta` that is not > 0 or that L does not take.

    Ramsauer et al., 2021, eq. 3 for a step and eq. 10 for the layer.
    """

    query_proj: eqx.nn.Linear
    key_proj: eqx.nn.Linear
    value_proj: eqx.nn.Linear
    output_proj: eqx.nn.Linear
    norms: tuple[eqx.nn.LayerNorm, ...]
    lagrangian: Callable[..., Array]
    dropout: eqx.nn.Dropout
    num_heads: int = eqx.field(static=True)
    steps: int | None = eqx.field(static=True)
    tol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        num_heads: int,
        query_size: int,
        key_size: int | None = None,
        value_size: int | None = None,
        output_size: int | None = None,
        qk_size: int | None = None,
        vo_size: int | None = None,
        *,
        use_bias: bool = False,
        lagrangian: Callable[..., Array] = lagr_softmax,
        beta: float | None = None,
        steps: int | None = 1,
        tol: float = 1e-4,
        max_steps: int = 100,
        norms: bool = False,
        dropout_p: float = 0.0,
        inference: bool = False,
        key: PRNGKeyArray,
    ):
        heads, keys = whole("num_heads", num_heads, "there is at least one"), jr.split(key, 4)
        key_size, value_size = key_size or query_size, value_size or key_size or query_size
        output_size, qk_size = output_size or query_size, qk_size or query_size // heads
        vo_size = vo_size or query_size // heads
        self.query_proj = eqx.nn.Linear(query_size, heads * qk_size, use_bias, key=keys[0])
        self.key_proj = eqx.nn.Linear(key_size, heads * qk_size, use_bias, key=keys[1])
        self.value_proj = eqx.nn.Linear(value_size, heads * vo_size, use_bias, key=keys[2])
        self.output_proj = eqx.nn.Linear(heads * vo_size, output_size, use_bias, key=keys[3])
        self.norms = tuple(map(eqx.nn.LayerNorm, (query_size, key_size, value_size))) if norms else ()
        self.lagrangian = _with_beta(lagrangian, beta, 1 / math.sqrt(qk_size))
        self.dropout = eqx.nn.Dropout(dropout_p, inference)
        self.num_heads = heads
        self.steps = None if steps is None else whole("steps", steps, "at least one is taken")
        self.tol, self.max_steps = float(positive("tol", tol)), whole("max_steps", max_steps, "at least one is taken")

    def __call__(
        self,
        query: Float[Array, "queries query_size"],
        key_: Float[Array, "patterns key_size"],
        value: Float[Array, "patterns value_size"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        *,
        key: PRNGKeyArray | None = None,
        inference: bool | None = None,
    ) -> Float[Array, "queries output_size"]:
        """Returns what each query recalls.

        - `value`: that of each pattern; `key_` by default.
        - `mask`: False where a query does not see a pattern: `(patterns,)`, `(queries, patterns)` or
          `(heads, queries, patterns)`. A query that sees none, or an empty set, recalls 0 from each head.
        - `key`: for dropout of the p_j. `inference`: as in `equinox.nn.Dropout`.

        **Raises** ValueError for arrays or a mask of other shapes.
        """
        value = key_ if value is None else value
        queries, patterns = self._checked(query, key_, value)
        seen = _seen(mask, (self.num_heads, queries, patterns))
        projections = (self.query_proj, self.key_proj, self.value_proj)
        x, k, v = (
            rearrange(jax.vmap(project)(each), "n (heads size) -> heads n size", heads=self.num_heads)
            for project, each in zip(projections, self._normed(query, key_, value), strict=True)
        )
        dtype = accumulator(x, k)
        if patterns == 0:
            shares = jnp.zeros((self.num_heads, queries, 0), dtype)
        else:
            shares = jax.vmap(self._association(seen is not None))(x, k, seen)
        shares = self.dropout(shares, key=key, inference=inference)
        recalled = jnp.matmul(shares.astype(v.dtype), v)
        out: Array = jax.vmap(self.output_proj)(rearrange(recalled, "heads n size -> n (heads size)"))
        return out

    def _association(self, masked: bool) -> Callable[..., Array]:
        """The p_j at the last step of one head."""

        def association(x: Array, k: Array, seen: Array | None) -> Array:
            synapse = _Association(k, seen, self.lagrangian)
            if self.steps is None:
                layer = Neurons(lagr_identity, x.shape)
                ham = HAM({"x": layer}, {"patterns": synapse}, [(("x",), "patterns")])
                out = relax(ham, {"x": x}, method=Explicit(1.0), tol=self.tol, max_steps=self.max_steps, energies=False)
                x = out.xs["x"]
            for _ in range((self.steps or 1) - 1):
                x = synapse.shares(x) @ k
            return synapse.shares(x)

        return association

    def _normed(self, *arrays: Array) -> tuple[Array, ...]:
        if not self.norms:
            return arrays
        return tuple(jax.vmap(norm)(each) for norm, each in zip(self.norms, arrays, strict=True))

    def _checked(self, query: Array, key_: Array, value: Array) -> tuple[int, int]:
        """The numbers of queries and of patterns. **Raises** ValueError for arrays of other shapes."""
        projections = {"query": self.query_proj, "key_": self.key_proj, "value": self.value_proj}
        for (name, projection), array in zip(projections.items(), (query, key_, value), strict=True):
            if array.ndim != 2 or array.shape[1] != projection.in_features:
                raise ValueError(f"{name} has shape {array.shape}; expected (any number, {projection.in_features})")
        if len(key_) != len(value):
            raise ValueError(f"there are {len(key_)} keys and {len(value)} values; expected one for each pattern")
        return len(query), len(key_)


class HopfieldPooling(eqx.Module):
    """Makes a bag of any number of items into one vector: queries that are learned recall it from the items.

    - `input_size`: of an item. `output_size`: of what a query recalls; `input_size` by default.
    - `queries`: their number. The vector is what all of them recall, `(queries · output_size,)`.
    - `num_heads` and further options: those of `Hopfield`.

    Ramsauer et al., 2021, "HopfieldPooling".
    """

    query: Float[Array, "queries input_size"]
    hopfield: Hopfield

    def __init__(
        self,
        num_heads: int,
        input_size: int,
        output_size: int | None = None,
        *,
        queries: int = 1,
        key: PRNGKeyArray,
        **options: Any,
    ):
        key_query, key_hopfield = jr.split(key)
        self.query = 0.02 * jr.normal(key_query, (whole("queries", queries, "at least one pools"), input_size))
        self.hopfield = Hopfield(num_heads, input_size, output_size=output_size, key=key_hopfield, **options)

    def __call__(
        self,
        bag: Float[Array, "items input_size"],
        mask: Bool[Array, " items"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
        inference: bool | None = None,
    ) -> Float[Array, " size"]:
        """Returns the bag as a vector. `mask` is False for items to leave out; of none, queries recall 0."""
        return self.hopfield(self.query, bag, mask=mask, key=key, inference=inference).ravel()


class HopfieldLayer(eqx.Module):
    """A memory of patterns that are learned: each query recalls from them.

    - `input_size`: of a query, and of a pattern. `output_size`: of what is recalled; `input_size` by default.
    - `patterns`: their number.
    - `num_heads` and further options: those of `Hopfield`.

    Ramsauer et al., 2021, "HopfieldLayer".
    """

    patterns: Float[Array, "patterns input_size"]
    hopfield: Hopfield

    def __init__(
        self,
        num_heads: int,
        input_size: int,
        patterns: int,
        output_size: int | None = None,
        *,
        key: PRNGKeyArray,
        **options: Any,
    ):
        key_patterns, key_hopfield = jr.split(key)
        shape = (whole("patterns", patterns, "at least one is stored"), input_size)
        self.patterns = jr.normal(key_patterns, shape) / math.sqrt(input_size)
        self.hopfield = Hopfield(num_heads, input_size, output_size=output_size, key=key_hopfield, **options)

    def __call__(
        self,
        query: Float[Array, "queries input_size"],
        *,
        key: PRNGKeyArray | None = None,
        inference: bool | None = None,
    ) -> Float[Array, "queries output_size"]:
        """Returns what each query recalls."""
        return self.hopfield(query, self.patterns, key=key, inference=inference)


class _Association(Module):
    """E = −L(h) with h = g kᵀ, and a score that is out of reach where a pattern is not seen."""

    k: Float[Array, "patterns size"]
    seen: Bool[Array, "queries patterns"] | None
    lagrangian: Callable[..., Array]
    curvature: ClassVar[float] = 0.0

    def __call__(self, g: Float[Array, "queries size"]) -> Float[Array, ""]:
        return -self.lagrangian(self._scores(g))

    def shares(self, g: Float[Array, "queries size"]) -> Float[Array, "queries patterns"]:
        """∂L/∂h, and 0 where a pattern is not seen."""
        shares: Array = jax.grad(self.lagrangian)(self._scores(g))
        return shares if self.seen is None else jnp.where(self.seen, shares, 0)

    def _scores(self, g: Float[Array, "queries size"]) -> Float[Array, "queries patterns"]:
        scores = widened(jnp.matmul(g, self.k.T, preferred_element_type=accumulator(g, self.k)))
        return scores if self.seen is None else jnp.where(self.seen, scores, _NEVER)


def _with_beta(lagrangian: Callable[..., Array], beta: float | None, default: float) -> Callable[..., Array]:
    takes_beta = not isinstance(lagrangian, eqx.Module) and "beta" in inspect.signature(lagrangian).parameters
    if beta is not None and not takes_beta:
        raise ValueError(f"beta is {beta}, but {lagrangian} has no β")
    given = getattr(lagrangian, "keywords", {})
    if takes_beta and (beta is not None or "beta" not in given):
        lagrangian = Partial(lagrangian, beta=jnp.asarray(1.0 * positive("beta", default if beta is None else beta)))
    return bind(lagrangian, "the Lagrangian of the scores")


def _seen(mask: Array | None, shape: tuple[int, int, int]) -> Bool[Array, "heads queries patterns"] | None:
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != bool or not 1 <= mask.ndim <= 3 or mask.shape != shape[3 - mask.ndim :]:
        raise ValueError(f"mask is {mask.dtype}{list(mask.shape)}; expected booleans of {shape}, or its last axes")
    return jnp.broadcast_to(mask.reshape((1,) * (3 - mask.ndim) + mask.shape), shape)
