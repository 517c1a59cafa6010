"""Memories that are planes instead of points, and memories that see a layer through its principal components."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._binding import Module
from ._checks import positive, sizes, whole
from ._facts import Number, constant, either, settled
from ._precision import log_sum_exp, softmax, widened
from ._synapses import Readied, Stored, product, random_memories, ready_synapse


class PlaneSynapse(Stored, Readied):
    """E = ½ Σ_tokens (Σ_μ (ε + d_μ²)⁻ᵖ)^(−1/p): a soft minimum, without a temperature, of squared distances to planes.

    d_μ² = o_μ² + Σ_layers min_z ‖g − ξ_μ − Σ_r z_r b_μr‖² adds up the squared distances from the g of each layer to the
    plane through ξ_μ along its `directions` b_μr. With no directions the memory is a point there. The offset o_μ is how
    far the memory lies beyond what any g can reach: one with a large offset recalls only what no other memory fits.
    Every point of a plane is a fixed point of the descent, but for the pull of other memories: what fits a memory is
    recalled with its own place on the plane, and what does not is projected on it. The sum is a power mean (Hardy,
    Littlewood & Pólya, 1934): it scales with the distances. Far from all memories many of them blend, and near one of
    them the others fade. So the descent anneals itself. The larger the `power` p, the fewer memories blend; `epsilon` ε
    is the squared distance below which a memory pulls no harder.

    `xi` holds one matrix `(memories, dim)` for each layer, and `b` one array `(directions, memories, dim)`, of which
    Gram–Schmidt makes the orthonormal directions; `offset` is `(memories,)`, at first 0. `directions` is an int for all
    layers, or one for each. The energy contains ½‖g‖²: join it to layers of `leak=0`, on which every step with dt/τ ≤ 1
    goes down. It is concave in the d_μ², as a power mean is for p > 0, with slopes that sum to at most ½, and each d_μ²
    is quadratic in the g's with a Hessian of at most 2.

    As a clustering this is k-plane (Bradley & Mangasarian, 2000); with squares in place of the power mean and z drawn
    from a Gaussian it is a mixture of factor analysers (Ghahramani & Hinton, 1996).

    **Raises** ValueError for `memories` < 1, `directions` < 0, and a `power` or `epsilon` that is not > 0.
    """

    b: tuple[Float[Array, "directions memories dim"], ...]
    offset: Float[Array, " memories"]
    power: float = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    curvature: ClassVar[float] = 1.0

    def __init__(
        self,
        key: PRNGKeyArray,
        dim: int | Sequence[int],
        memories: int,
        directions: int | Sequence[int] = 0,
        power: float = 12.0,
        epsilon: float = 1.0,
    ):
        key_xi, key_b = jr.split(key)
        self.xi = random_memories(key_xi, dim, memories)
        counts = sizes("directions", directions) * (len(self.xi) if np.ndim(directions) == 0 else 1)
        if len(counts) != len(self.xi):
            raise ValueError(
                f"directions is {directions} for {len(self.xi)} layers; expected one number, or one for each"
            )
        self.b = tuple(
            jr.normal(k, (whole("directions", count, "none or more", least=0), *xi.shape))
            for k, count, xi in zip(jr.split(key_b, len(counts)), counts, self.xi, strict=True)
        )
        self.offset = jnp.zeros(len(self.xi[0]))
        self.power = float(positive("power", power))
        self.epsilon = float(positive("epsilon", epsilon))

    def store(
        self,
        *patterns: Float[ArrayLike, "memories dim"],
        along: Sequence[Float[ArrayLike, "directions memories dim"]] | None = None,
        offset: Float[ArrayLike, " memories"] | None = None,
    ) -> Self:
        """Returns the synapse with the rows of `patterns` as its memories; one array a layer.

        `along` gives their directions, one array `(directions, memories, dim)` a layer, as many as the synapse has.
        Without it the memories are points; a direction that is 0 is none. Without `offset` it is 0.

        **Raises** ValueError, naming the shapes, for arrays that do not fit.
        """
        stored = super().store(*patterns)
        shapes = [(len(b), *xi.shape) for b, xi in zip(self.b, stored.xi, strict=True)]
        given = [jnp.zeros(shape) for shape in shapes] if along is None else [jnp.asarray(each) for each in along]
        if [each.shape for each in given] != shapes:
            raise ValueError(f"along is of shapes {[each.shape for each in given]}; expected {shapes}")
        offset = jnp.zeros(shapes[0][1]) if offset is None else jnp.asarray(offset)
        if offset.shape != shapes[0][1:2]:
            raise ValueError(f"offset is of shape {offset.shape}; expected {shapes[0][1:2]}")
        dtype = stored.xi[0].dtype
        put = tuple(each.astype(dtype) for each in given), offset.astype(dtype)
        placed: Self = eqx.tree_at(lambda synapse: (synapse.b, synapse.offset), stored, put)
        return placed

    def __call__(self, *gs: Float[Array, "... dim"]) -> Float[Array, ""]:
        self._check(gs)
        return self.ready()(*gs)

    def attribution(self, *gs: Float[Array, "... dim"]) -> Float[Array, "... memories"]:
        """Returns each memory's share of the force −∂E/∂g ∝ −Σ_μ (ε + d_μ²)^(−p−1) ∂d_μ²/∂g."""
        self._check(gs)
        return softmax(-self.ready().log_distances(gs), self.power + 1)

    def ready(self) -> "_Planes":
        """Returns the same energy of directions that are orthonormal already, which a descent calls step by step."""
        axes = tuple(_orthonormal(widened(b)) for b in self.b)
        feet = tuple(_foot(widened(xi), each) for xi, each in zip(self.xi, axes, strict=True))
        constant = self.epsilon + widened(self.offset) ** 2
        return _Planes(axes, feet, constant + sum(jnp.sum(foot**2, axis=-1) for foot in feet), self.power, self.epsilon)


class _Planes(Module):
    """Planes by their points nearest to 0, the feet, and orthonormal axes."""

    axes: tuple[Float[Array, "directions memories dim"], ...]
    feet: tuple[Float[Array, "memories dim"], ...]
    constant: Float[Array, " memories"]  # ε + o² + Σ_layers ‖foot‖²
    power: float = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    def __call__(self, *gs: Float[Array, "... dim"]) -> Float[Array, ""]:
        return 0.5 * jnp.sum(jnp.exp(-log_sum_exp(-self.log_distances(gs), self.power)))

    def log_distances(self, gs: Sequence[Array]) -> Float[Array, "... memories"]:
        """log(ε + d_μ²)."""
        parts = [_from_feet(widened(g), *each) for g, *each in zip(gs, self.feet, self.axes, strict=True)]
        total = functools.reduce(jnp.add, parts)
        return jnp.log(jnp.maximum(total + jnp.broadcast_to(self.constant, total.shape), self.epsilon))


class SubspaceSynapse(Readied):
    """E = ½‖(I − AᵀA)(g − m)‖² + E_synapse(A(g − m), …): a synapse that sees one layer through a few components.

    The rows of A, `(components, dim)`, are orthonormal: they are those of `W` after Gram–Schmidt, so that training `W`
    turns the components and does not stretch them. `m` is the mean. With principal components and the mean of the data
    the synapse sees most of what varies, and little of the noise. Whatever of g lies outside of the span of A is pulled
    to the mean. `synapse` gets A(g − m) in place of g, and the g's of the other layers as they are. The energy contains
    the layer's own ½‖g‖² where that of the synapse does: join it to layers of `leak=0`. Its curvature is that of
    `synapse`, or 1 if that is less. If the rows of `W` are linearly dependent, the energy is NaN.

    **Raises** ValueError for `components` that are not from 1 to `dim`.
    """

    W: Float[Array, "components dim"]
    m: Float[Array, " dim"]
    synapse: Callable[..., Float[Array, ""]]

    def __init__(self, key: PRNGKeyArray, dim: int, components: int, synapse: Callable[..., Float[Array, ""]]):
        if not 1 <= whole("components", components, "at least one") <= dim:
            raise ValueError(f"components is {components}; a layer of dim {dim} has from 1 to {dim}")
        self.W = jnp.linalg.qr(jr.normal(key, (dim, components)))[0].T
        self.m = jnp.zeros(dim)
        self.synapse = synapse

    @property
    def curvature(self) -> Number:
        inner = constant(self.synapse, "curvature")
        return either(settled(inner < math.inf), jnp.maximum(1.0, inner), math.inf)

    def ready(self) -> "_Subspace":
        """Returns the same energy with A made, and with its synapse ready."""
        return self._with(ready_synapse(self.synapse))

    def __call__(self, g: Float[Array, "... dim"], *gs: Float[Array, "..."]) -> Float[Array, ""]:
        return self._with(self.synapse)(g, *gs)

    def seen(self, g: Float[Array, "... dim"]) -> Float[Array, "... components"]:
        """Returns A(g − m)."""
        return self._with(self.synapse).seen(g)

    def shown(self, seen: Float[Array, "... components"]) -> Float[Array, "... dim"]:
        """Returns m + Aᵀ·seen, the g that shows these components."""
        subspace = self._with(self.synapse)
        shown: Array = widened(seen) @ subspace.A
        return shown + jnp.broadcast_to(subspace.m, shown.shape)

    def _with(self, synapse: Callable[..., Array]) -> "_Subspace":
        W = widened(self.W)
        # Gram–Schmidt as A = L⁻¹W with WWᵀ = LLᵀ: rows that are orthonormal stay as they are.
        A = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(W @ W.T), W, lower=True)
        return _Subspace(A, widened(self.m), synapse)


class _Subspace(Module):
    """The energy of a `SubspaceSynapse` whose components are orthonormal."""

    A: Float[Array, "components dim"]
    m: Float[Array, " dim"]
    synapse: Callable[..., Float[Array, ""]]

    def __call__(self, g: Float[Array, "... dim"], *gs: Float[Array, "..."]) -> Float[Array, ""]:
        seen = self.seen(g)
        outside = widened(g) - jnp.broadcast_to(self.m, g.shape) - seen @ self.A
        return 0.5 * jnp.sum(outside**2) + self.synapse(seen, *gs)

    def seen(self, g: Float[Array, "... dim"]) -> Float[Array, "... components"]:
        if not g.ndim or g.shape[-1] != len(self.m):
            raise ValueError(f"SubspaceSynapse got g of shape {g.shape}; its last axis must be {len(self.m)}")
        return product(widened(g) - jnp.broadcast_to(self.m, g.shape), self.A)


def _foot(
    xi: Float[Array, "memories dim"], axes: Float[Array, "directions memories dim"]
) -> Float[Array, "memories dim"]:
    foot: Array = xi - jnp.sum(jnp.sum(xi[None] * axes, axis=-1, keepdims=True) * axes, axis=0)
    return foot


def _from_feet(
    g: Float[Array, "... dim"], feet: Float[Array, "memories dim"], axes: Float[Array, "directions memories dim"]
) -> Float[Array, "... memories"]:
    """Squared distances to the planes, less the squared norms of their feet."""
    along = product(g, axes.reshape(-1, g.shape[-1])).reshape(*g.shape[:-1], *axes.shape[:2])
    return jnp.sum(g**2, axis=-1, keepdims=True) - 2 * product(g, feet) - jnp.sum(along**2, axis=-2)


def _orthonormal(b: Float[Array, "directions memories dim"]) -> Float[Array, "directions memories dim"]:
    """The directions of each memory by modified Gram–Schmidt; 0 where one is 0 or lies in the span of others."""
    axes: list[Array] = []
    for direction in b:
        least = 1e-10 * jnp.sum(direction**2, axis=-1, keepdims=True)
        for axis in axes:
            direction = direction - jnp.sum(direction * axis, axis=-1, keepdims=True) * axis
        squared = jnp.sum(direction**2, axis=-1, keepdims=True)
        there = squared > least
        axes.append(jnp.where(there, direction / jnp.sqrt(jnp.where(there, squared, 1)), 0))
    return jnp.stack(axes) if axes else b
