"""Hypersynapses: Modules that take the activations of one, two, three or more layers and return a scalar energy.

Any Module with `__call__(self, *gs) -> scalar` is a synapse. Those below take one example, without a batch axis
(`jax.vmap` or `ham.vectorize()` adds one), and raise ValueError, naming both shapes, when the g's do not fit. By
`curvature` and `multilinear` they declare the shape of their energy, see `hamux.certify`. A synapse whose energy asks
for work that does not depend on the g's is a `Readied`.
"""

import functools
import math
import string
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.nn import relu
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._binding import Module, bind
from ._checks import positive, sizes, whole
from ._facts import Number, Truth, either, holds, known, settled
from ._lagrangians import lagr_relu
from ._precision import accumulator, log_sum_exp, softmax, widened


class Readied(Module):
    """A synapse whose energy asks for work that does not depend on the g's, which a descent has it do once."""

    @abstractmethod
    def ready(self) -> Callable[..., Array]:
        """Returns a synapse of the same energy with this work done."""


def ready_synapse(synapse: Callable[..., Array]) -> Callable[..., Array]:
    """Returns a synapse with the work done that does not depend on the g's."""
    return synapse.ready() if isinstance(synapse, Readied) else synapse


class DenseSynapse(Module):
    """E = −Σ W[i, j, …] g1[i] g2[j] …: every unit of each layer with every unit of the others.

    `W` has one axis a layer, `(d1, d2, …)`, the sizes of the layers' last axes. Leading axes (tokens) broadcast against
    each other and are summed. Krotov & Hopfield, 2021, for two layers.
    """

    W: Float[Array, "..."]
    multilinear: ClassVar[bool] = True

    def __init__(self, key: PRNGKeyArray, d1: int, d2: int, *more: int):
        self.W = 0.02 * jr.normal(key, sizes("the sizes of the layers", (d1, d2, *more)))

    def __call__(self, *gs: Float[Array, "..."]) -> Float[Array, ""]:
        if len(gs) != self.W.ndim:
            raise ValueError(f"DenseSynapse of shape {self.W.shape} joins {self.W.ndim} layers, got {len(gs)} g's")
        shapes = [g.shape for g in gs]
        try:
            fits = tuple(shape[-1] for shape in shapes) == self.W.shape
            jnp.broadcast_shapes(*(shape[:-1] for shape in shapes))
        except (IndexError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                f"DenseSynapse of shape {self.W.shape} got g's of shapes {shapes}; their last axes must be "
                f"{self.W.shape}, their leading axes must broadcast"
            )
        units = string.ascii_lowercase[: len(gs)]
        formula = ",".join(f"...{unit}" for unit in units) + f",{units}->..."
        return -jnp.sum(jnp.einsum(formula, *gs, self.W, preferred_element_type=accumulator(*gs, self.W)))


class BiasSynapse(Module):
    """E = −Σ b·g, a constant input to one layer. Leading axes (tokens) that `b` lacks share it."""

    b: Float[Array, "..."]
    curvature: ClassVar[float] = 0.0
    multilinear: ClassVar[bool] = True

    def __init__(self, key: PRNGKeyArray, shape: int | Sequence[int]):
        self.b = 0.02 * jr.normal(key, sizes("shape", shape))

    def __call__(self, g: Float[Array, "..."]) -> Float[Array, ""]:
        leading = g.ndim - self.b.ndim
        if leading < 0 or g.shape[leading:] != self.b.shape:
            raise ValueError(f"BiasSynapse of shape {self.b.shape} got g of shape {g.shape}; its last axes must fit")
        return -jnp.sum(jnp.sum(widened(g), axis=tuple(range(leading))) * widened(self.b))


class Stored(Module):
    """A synapse that stores memories, and has `weights`, that of each memory in the force."""

    xi: tuple[Float[Array, "memories dim"], ...]

    def store(self, *patterns: Float[ArrayLike, "memories dim"]) -> Self:
        """Returns the synapse with the rows of `patterns`, any number of them, as its memories; one array a layer.

        **Raises** ValueError, naming their shapes and those that are expected, for another number of arrays, another
        dim, or arrays of unequally many rows.
        """
        xi = tuple(jnp.asarray(pattern, self.xi[0].dtype) for pattern in patterns)
        shapes = [pattern.shape for pattern in xi]
        rows = next((shape[0] for shape in shapes if shape), 0)
        if rows == 0 or shapes != [(rows, dim) for dim in self._dims]:
            expected = " and ".join(f"(memories, {dim})" for dim in self._dims)
            raise ValueError(f"patterns are of shapes {shapes}; this synapse stores {expected}, one row a memory")
        stored: Self = eqx.tree_at(lambda synapse: synapse.xi, self, xi)
        return stored

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(xi.shape[-1] for xi in self.xi)

    def _check(self, gs: Sequence[Array]) -> None:
        dims = self._dims
        if tuple(g.shape[-1] if g.ndim else None for g in gs) != dims or len({g.shape[:-1] for g in gs}) != 1:
            raise ValueError(
                f"{type(self).__name__} joins {len(dims)} layers of dim {dims}, got {len(gs)} g's of shapes "
                f"{[g.shape for g in gs]}; their last axes must be {dims}, their leading axes the same"
            )


class HopfieldSynapse(Stored):
    """E = −Σ_tokens L(h) with h = Σ_layers g ξᵀ: a dense layer of `memories` hidden neurons, integrated out.

    `xi` holds one matrix `(memories, dim)` for each connected layer; row μ of all of them is one stored memory. `dim`
    is an int for one layer, a sequence for several. `lagrangian`, that of the hidden neurons, selects the memory:
    `lagr_relu` for the Energy Transformer's Hopfield block, `lagr_repu` for the polynomial and `lagr_exp` for the
    exponential dense memory, `lagr_softmax` for the modern Hopfield network. Where L is convex E is concave in the g's
    together, and on layers of leak 1 a descent step with dt/τ ≤ 1 goes down.

    Krotov & Hopfield, 2016, eq. 2; Ramsauer et al., "Hopfield Networks is All You Need", 2021, eq. 2;
    Krotov & Hopfield, 2021; Hoover et al., "Energy Transformer", 2023.
    """

    lagrangian: Callable[..., Array]

    def __init__(
        self,
        key: PRNGKeyArray,
        dim: int | Sequence[int],
        memories: int,
        lagrangian: Callable[..., Array] = lagr_relu,
    ):
        self.xi = random_memories(key, dim, memories)
        self.lagrangian = bind(lagrangian, "the hidden neurons' Lagrangian")

    @property
    def curvature(self) -> Number:
        return either(holds(self.lagrangian, "convex"), 0.0, math.inf)

    @property
    def analytic(self) -> Truth:
        return holds(self.lagrangian, "analytic")

    def __call__(self, *gs: Float[Array, "... dim"]) -> Float[Array, ""]:
        return -self.lagrangian(self._hidden(gs))

    def attribution(self, *gs: Float[Array, "... dim"]) -> Float[Array, "... memories"]:
        """Returns each memory's share of the force −∂E/∂g = Σ_μ L'(h)_μ ξ_μ.

        That is L'(h) over its sum, and 1/memories where the sum is 0.
        """
        return _shares(self.weights(*gs))

    def weights(self, *gs: Float[Array, "... dim"]) -> Float[Array, "... memories"]:
        """Returns L'(h), the weight of each memory in the force; all are 0 where no memory is felt."""
        weights: Array = jax.grad(self.lagrangian)(self._hidden(gs))
        return weights

    def _hidden(self, gs: Sequence[Array]) -> Float[Array, "... memories"]:
        self._check(gs)
        return functools.reduce(jnp.add, [product(g, xi) for g, xi in zip(gs, self.xi, strict=True)])


class KernelSynapse(Stored):
    """E = −(1/β) Σ_tokens log Σ_μ κ(β/2 Σ_layers ‖g − ξ_μ‖²): memories compared by distance, as a kernel density.

    - `"gaussian"`, κ(u) = exp(−u): log-sum-exp. On identity layers of leak 0 the step with dt/τ = 1 is
      x ← Σ_μ softmax(−β/2 d²)_μ ξ_μ, and every step with dt/τ ≤ 1 goes down.
    - `"epanechnikov"`, κ(u) = max(1 − u, 0): log-sum-ReLU. A memory is felt within the distance √(2/β) and recalled
      exactly. Beyond all of them E is flat: 10⁻⁶ is added to the sum, so that E stays finite.

    The energy contains the layer's own ½‖g‖²: join it to layers of `leak=0`. `xi` is as in `HopfieldSynapse`; β > 0 is
    a parameter. Between patterns of one norm the Gaussian is Ramsauer et al., 2021, eq. 2, up to a constant. Between
    others the inner product favours the longest pattern everywhere; the distance does not.

    **Raises** ValueError for another `kernel`, and a β that is not > 0.

    Hoover, Shi, Balasubramanian, Krotov & Ram, "Dense Associative Memory with Epanechnikov Energy", 2025, eq. 3.
    """

    beta: Float[Array, ""]
    kernel: Literal["gaussian", "epanechnikov"] = eqx.field(static=True)

    @property
    def curvature(self) -> Number | None:
        """The Gaussian is ½‖g‖² less a log-sum-exp of linear functions, for every β > 0."""
        return either(settled(known(self.beta) > 0), 1.0, math.inf) if self.kernel == "gaussian" else None

    @property
    def analytic(self) -> bool:
        return self.kernel == "gaussian"

    def __init__(
        self,
        key: PRNGKeyArray,
        dim: int | Sequence[int],
        memories: int,
        kernel: Literal["gaussian", "epanechnikov"] = "gaussian",
        beta: float | Array = 1.0,
    ):
        if kernel not in ("gaussian", "epanechnikov"):
            raise ValueError(f'kernel is {kernel!r}; it is "gaussian" or "epanechnikov"')
        self.xi = random_memories(key, dim, memories)
        self.beta = jnp.asarray(1.0 * positive("beta", beta))
        self.kernel = kernel

    def __call__(self, *gs: Float[Array, "... dim"]) -> Float[Array, ""]:
        distances, beta = self._distances(gs), widened(self.beta)
        if self.kernel == "gaussian":
            return -jnp.sum(log_sum_exp(-distances, beta))
        within_reach: Array = jnp.sum(relu(1 - beta * distances), axis=-1)
        return -jnp.sum(jnp.log(1e-6 + within_reach) / beta)

    def attribution(self, *gs: Float[Array, "... dim"]) -> Float[Array, "... memories"]:
        """Returns each memory's share of the force −∂E/∂g ∝ Σ_μ −κ'(u_μ) (ξ_μ − g).

        That is softmax(−u) for the Gaussian. For the other kernel every memory within reach has an equal share, and
        every memory 1/memories where none is.
        """
        return _shares(self.weights(*gs))

    def weights(self, *gs: Float[Array, "... dim"]) -> Float[Array, "... memories"]:
        """Returns softmax(−u), and 1 for memories within reach of the other kernel, which may be none."""
        distances, beta = self._distances(gs), widened(self.beta)
        if self.kernel == "gaussian":
            return softmax(-distances, beta)
        within_reach: Array = beta * distances < 1
        return within_reach.astype(distances.dtype)

    def _distances(self, gs: Sequence[Array]) -> Float[Array, "... memories"]:
        """½ Σ_layers ‖g − ξ_μ‖²."""
        self._check(gs)
        distances = [_half_square_distances(g, xi) for g, xi in zip(gs, self.xi, strict=True)]
        return functools.reduce(jnp.add, distances)


class AttentionSynapse(Module):
    """E = −(1/β) Σ_heads Σ_q log Σ_k exp(β K_k · Q_q) with K = W_K g, Q = W_Q g: attention as an energy.

    g is `(tokens, dim)`; `Wk`, `Wq` are `(heads, head_dim, dim)`; `beta` is 1/√head_dim unless given. Every token
    attends to every token, and to itself unless `attend_self` is False. E is not concave in g: no step size is
    certified.

    With P_qk the softmax over k of β K_k · Q_q, ∂E/∂Q_q = −Σ_k P_qk K_k is attention whose values are the keys, and
    ∂E/∂K_k = −Σ_q P_qk Q_q. `jax.grad` uses these closed forms; with `closed_form=False` it differentiates the
    log-sum-exp. The closed forms hold at most `at_once` scores K_k · Q_q of each example, or those of one query, so
    that memory grows with tokens, not with tokens² (`tests/benchmarks/energy_transformer.py`).

    Hoover et al., "Energy Transformer", 2023, eq. 3.

    **Raises** ValueError for `heads`, `head_dim` or `at_once` < 1, a `beta` that is not > 0, a g without tokens, and
    one of a single token that may not attend to itself.
    """

    Wk: Float[Array, "heads head_dim dim"]
    Wq: Float[Array, "heads head_dim dim"]
    beta: float = eqx.field(static=True)
    attend_self: bool = eqx.field(static=True)
    at_once: int = eqx.field(static=True)
    closed_form: bool = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKeyArray,
        dim: int,
        heads: int,
        head_dim: int,
        beta: float | None = None,
        attend_self: bool = True,
        at_once: int = 2**20,
        closed_form: bool = True,
    ):
        given = {"heads": heads, "head_dim": head_dim, "dim": dim}
        shape = tuple(whole(name, number, "at least one") for name, number in given.items())
        key_k, key_q = jr.split(key)
        self.Wk = 0.02 * jr.normal(key_k, shape)
        self.Wq = 0.02 * jr.normal(key_q, shape)
        self.beta = 1 / math.sqrt(head_dim) if beta is None else float(positive("beta", beta))
        self.attend_self = attend_self
        self.at_once = whole("at_once", at_once, "at least one score is held at a time")
        self.closed_form = closed_form

    def __call__(self, g: Float[Array, "tokens dim"]) -> Float[Array, ""]:
        keys, queries = self._keys_and_queries(g)
        if self.closed_form:
            energy: Array = _attention_energy(keys, queries, self.beta, self.attend_self, self.at_once)
            return energy
        return -jnp.sum(log_sum_exp(_scores(keys, queries, self.attend_self), self.beta, axis=-2))

    def attention(self, g: Float[Array, "tokens dim"]) -> Float[Array, "heads tokens tokens"]:
        """Returns P, how much each token (second axis) attends to each (third): softmax over k of β K_k · Q_q."""
        keys, queries = self._keys_and_queries(g)
        return softmax(_scores(keys, queries, self.attend_self), self.beta, axis=-2).swapaxes(-1, -2)

    def _keys_and_queries(self, g: Float[Array, "tokens dim"]) -> Float[Array, "2 heads tokens head_dim"]:
        heads, _, dim = self.Wk.shape
        if g.ndim != 2 or g.shape[-1] != dim or not len(g):
            raise ValueError(f"AttentionSynapse got g of shape {g.shape}, expected (tokens, {dim})")
        if len(g) == 1 and not self.attend_self:
            raise ValueError("AttentionSynapse got one token, which may not attend to itself and has no other")
        both = product(g, jnp.concatenate([self.Wk, self.Wq]).reshape(-1, dim))
        return rearrange(both, "token (two head z) -> two head token z", two=2, head=heads)


def _scores(
    keys: Float[Array, "... tokens head_dim"],
    queries: Float[Array, "... queries head_dim"],
    attend_self: bool,
    first: int | Array = 0,
) -> Float[Array, "... tokens queries"]:
    """K_k · Q_q, −∞ where a query may not attend to its own token. The first query is that of token `first`."""
    scores = keys @ queries.swapaxes(-1, -2)
    if attend_self:
        return scores
    own = jnp.arange(keys.shape[-2])[:, None] == (first + jnp.arange(queries.shape[-2]))[None]
    return jnp.where(jnp.broadcast_to(own, scores.shape), -jnp.inf, scores)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _attention_energy(keys: Array, queries: Array, beta: float, attend_self: bool, at_once: int) -> Float[Array, ""]:
    return _attention(keys, queries, beta, attend_self, at_once)[0]


@_attention_energy.defjvp
def _(
    beta: float, attend_self: bool, at_once: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    (keys, queries), (keys_dot, queries_dot) = primals, tangents
    energy, pull_keys, pull_queries = _attention(keys, queries, beta, attend_self, at_once)
    return energy, -jnp.sum(pull_keys * keys_dot) - jnp.sum(pull_queries * queries_dot)


def _attention(
    keys: Float[Array, "heads tokens head_dim"],
    queries: Float[Array, "heads tokens head_dim"],
    beta: float,
    attend_self: bool,
    at_once: int,
) -> tuple[Float[Array, ""], Float[Array, "heads tokens head_dim"], Float[Array, "heads tokens head_dim"]]:
    """The energy, −∂E/∂keys and −∂E/∂queries.

    All heads are computed together where that is at most `at_once` scores, else one head and one block of its queries
    after another. Each softmax is whole, and nothing is computed twice.
    """
    heads, tokens, _ = keys.shape

    def of_block(keys: Array, queries: Array, first: int | Array) -> tuple[Array, Array, Array]:
        scores = _scores(keys, queries, attend_self, first)
        top = jax.lax.stop_gradient(jnp.max(scores, axis=0, keepdims=True))
        weights = jnp.exp(beta * (scores - top))  # in this order, see `log_sum_exp`
        total = jnp.sum(weights, axis=0, keepdims=True)
        # One exponential for each score. The few arrays that go in and come out are normalised, not the scores.
        energy = -jnp.sum(top + jnp.log(total) / beta)
        return energy, weights @ (queries / total.T), (keys.T @ weights / total).T

    def of_head(block: int, keys: Array, queries: Array) -> tuple[Array, Array, Array]:
        count, rest = divmod(tokens, block)

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def add(total: tuple[Array, Array], at: tuple[Array, int | Array]) -> tuple[tuple[Array, Array], Array]:
            energy, pull_keys, pull_queries = of_block(keys, *at)
            return (total[0] + energy, total[1] + pull_keys), pull_queries

        total = jnp.zeros((), keys.dtype), jnp.zeros_like(keys)
        blocks = rearrange(queries[: count * block], "(block q) z -> block q z", q=block)
        total, pulls = jax.lax.scan(add, total, (blocks, block * jnp.arange(count)))
        pulls = rearrange(pulls, "block q z -> (block q) z")
        if rest:
            total, last = add(total, (queries[count * block :], count * block))
            pulls = jnp.concatenate([pulls, last])
        return total[0], total[1], pulls

    if heads * tokens**2 <= at_once:
        energies, *pulls = jax.vmap(functools.partial(of_block, first=0))(keys, queries)
    else:
        block = min(tokens, max(1, at_once // tokens))
        energies, *pulls = jax.lax.map(lambda head: of_head(block, *head), (keys, queries))
    pull_keys, pull_queries = pulls
    return jnp.sum(energies), pull_keys, pull_queries


def random_memories(key: PRNGKeyArray, dim: int | Sequence[int], memories: int) -> tuple[Array, ...]:
    dims, memories = sizes("dim", dim), whole("memories", memories, "at least one is stored")
    return tuple(0.02 * jr.normal(k, (memories, d)) for k, d in zip(jr.split(key, len(dims)), dims, strict=True))


def _shares(weights: Float[Array, "... memories"]) -> Float[Array, "... memories"]:
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 1 / weights.shape[-1])


def _half_square_distances(
    g: Float[Array, "... dim"], xi: Float[Array, "memories dim"]
) -> Float[Array, "... memories"]:
    """½‖g − ξ_μ‖², expanded so that the work is one matrix product."""
    norms = jnp.sum(widened(xi) ** 2, axis=-1).reshape((1,) * (g.ndim - 1) + (-1,))
    return 0.5 * (jnp.sum(widened(g) ** 2, axis=-1, keepdims=True) + norms) - product(g, xi)


def product(g: Float[Array, "... dim"], rows: Float[Array, "n dim"]) -> Float[Array, "... n"]:
    """g · row of every row."""
    return jnp.matmul(g, rows.T, preferred_element_type=accumulator(g, rows))
