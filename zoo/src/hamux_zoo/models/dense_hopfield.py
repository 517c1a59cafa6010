"""Dense associative memory: patterns, and their labels, as the minima of one energy."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import hamux
from hamux import KernelSynapse, Neurons

from .._model import RetrievedPattern, ZooModel, check_mask, check_pattern, only_known, retrieved


@dataclasses.dataclass(frozen=True)
class DenseHopfieldConfig:
    """What a dense Hopfield network is made of.

    - `shape`: of one pattern, floats in [0, 1].
    - `memories`: K, the number of stored patterns.
    - `classes`: the number of label neurons, 0 for none.
    - `energy`: "polynomial", "exponential", "log-sum-exp" or "epanechnikov", see `DenseHopfield`.
    - `degree`: n of the polynomial and of the exponential energy; the higher, the more memories and the less blending.
    - `beta`: the inverse temperature it starts from; a parameter of the model. None picks one for the energy.
    """

    shape: tuple[int, ...] = (28, 28, 1)
    memories: int = 1000
    classes: int = 0
    energy: Literal["polynomial", "exponential", "log-sum-exp", "epanechnikov"] = "log-sum-exp"
    degree: float = 3.0
    beta: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        sizes = (*self.shape, self.memories)
        whole = all(isinstance(size, int) for size in (*sizes, self.classes))
        if not (self.shape and whole and min(sizes) > 0 and self.classes >= 0):
            raise ValueError(
                f"shape {self.shape}, memories {self.memories}, classes {self.classes}: whole numbers are expected; "
                "a pattern has pixels, a memory at least one pattern, classes are 0 or more"
            )
        if self.energy not in _BETA:
            raise ValueError(f"energy is {self.energy!r}; it is one of {list(_BETA)}")
        if not self.degree > 1:
            raise ValueError(f"degree is {self.degree}; it is greater than 1")
        if self.beta is not None and not (math.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"beta is {self.beta}; it is finite and greater than 0, or None")

    @property
    def pixels(self) -> int:
        return math.prod(self.shape)


# Enough that a neuron pulled by one memory, half of which is seen, comes to ±0.999; that memories a few pixels apart
# are told apart; that a memory is felt while fewer than a quarter of its pixels are flipped.
_BETA = {
    "polynomial": lambda config: 4.0 * 2.0 ** min(config.degree - 1, 80),
    "exponential": lambda config: 4.0 * math.exp(min(config.degree / 2, 60)),
    "log-sum-exp": lambda config: 1.0,
    "epanechnikov": lambda config: 2 / config.pixels,
}


class DenseHopfield(ZooModel):
    """K memories ξ_μ ∈ [−1, 1]^N of a pattern's N pixels, a pixel p seen as v = 2p − 1, and of its label neurons, ±1.

    A new model's memories are normal numbers from `key`; `store` gives it patterns, `hamux-zoo train` learns them.

    With m_μ = ξ_μ·v/N the overlap and d_μ = ‖v − ξ_μ‖ the distance, labels included, the synapse's energy is

    - polynomial: −(N/n) Σ_μ max(m_μ, 0)ⁿ (Krotov & Hopfield, 2016, eq. 2 and 3);
    - exponential: −(N/n) Σ_μ exp(n (m_μ − 1)); n = N is Demircigil et al., 2017, up to a factor. In float32 a memory
      is felt where n (1 − m_μ) < 87;
    - log-sum-exp: −(1/β) log Σ_μ exp(−β d_μ²/2); Ramsauer et al., 2021, eq. 2, up to a constant when all memories have
      one norm, and unlike it not drawn to the longest one when they have not (`hamux.KernelSynapse`);
    - epanechnikov: −(1/β) log Σ_μ max(1 − β d_μ²/2, 0), felt within √(2/β) (Hoover et al., 2025, eq. 3).

    The neurons of the first two are v = tanh(βx), binary as β → ∞; those of the last two are v = x. Each is a HAM of
    one synapse over one or two layers of neurons, "pixels" and "label".
    """

    model_type: ClassVar[str] = "dense-hopfield"
    optimizer: ClassVar[str] = "muon"
    learning_rate: ClassVar[float] = 1.0
    config: DenseHopfieldConfig = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config: DenseHopfieldConfig, *, key: PRNGKeyArray):
        layers = {"pixels": config.pixels} | ({"label": config.classes} if config.classes else {})
        dims, size = tuple(layers.values()), sum(layers.values())
        beta = float(_BETA[config.energy](config) if config.beta is None else config.beta)
        synapse: Any
        if config.energy in ("polynomial", "exponential"):
            separation = _Polynomial if config.energy == "polynomial" else _Exponential
            synapse = hamux.HopfieldSynapse(key, dims, config.memories, separation(config.degree, size))
            neurons = {n: Neurons(Partial(hamux.lagr_tanh, beta=beta), d) for n, d in layers.items()}
        else:
            kernel: Any = "gaussian" if config.energy == "log-sum-exp" else "epanechnikov"
            synapse = KernelSynapse(key, dims, config.memories, kernel, beta=beta)
            neurons = {n: Neurons(hamux.lagr_identity, d, leak=0.0) for n, d in layers.items()}
        random = (jr.normal(k, (config.memories, d)) for k, d in zip(jr.split(key, len(dims)), dims, strict=True))
        synapse = synapse.store(*random)
        self.config = config
        self.ham = hamux.HAM(neurons, {"memory": synapse}, [(tuple(layers), "memory")])

    @property
    def memories(self) -> Float[Array, "memories ..."]:
        """The stored patterns as pixels; in [0, 1] when stored, anywhere when learned."""
        return (self._synapse.xi[0].reshape(-1, *self.config.shape) + 1) / 2

    @property
    def beta(self) -> Float[Array, ""]:
        """The inverse temperature that it has now."""
        return self._beta_of("pixels")

    def _beta_of(self, layer: str) -> Float[Array, ""]:
        if self.config.energy in ("log-sum-exp", "epanechnikov"):
            return self._synapse.beta
        tanh: Any = self.ham.neurons[layer].lagrangian
        return tanh.keywords["beta"]

    @property
    def _synapse(self) -> Any:
        return self.ham.synapses["memory"]

    def encode(self, x: Float[Array, "..."]) -> dict[str, Float[Array, "..."]]:
        """The states in which the pixels show `x` and the label neurons show nothing.

        **Raises** ValueError when `x` is not of the config's shape, not of floats, or holds NaN.
        """
        check_pattern(x, self.config.shape)
        return _encode(self, jnp.asarray(x))

    def decode(self, xs: Mapping[str, Float[Array, "..."]]) -> Float[Array, "..."]:
        """The pattern that the pixels' activations show."""
        return (_activations(self.ham.neurons["pixels"], xs["pixels"]).reshape(self.config.shape) + 1) / 2

    def energy(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        """The energy of the pattern `x`, label neurons at rest."""
        xs = self.encode(x)
        return self.ham.energy(self.ham.activations(xs), xs)

    def attribution(self, x: Float[Array, "..."]) -> Float[Array, " memories"]:
        """Each memory's share, summing to 1, of the pull on the pattern `x`."""
        gs = self.ham.activations(self.encode(x))
        ((layers, _),) = self.ham.connections
        return self._synapse.attribution(*(gs[layer] for layer in layers))

    def retrieve(
        self,
        x: Float[Array, "..."],
        mask: Bool[Array, "..."] | None = None,
        *,
        tol: float = 1e-4,
        max_steps: int = 200,
        steps: int | None = None,
        dt: float = 1.0,
        trajectory: bool = False,
    ) -> RetrievedPattern:
        """Descend from `x` to the fixed point it recalls.

        `mask` is True where a pixel is known: it is held. What `x` has elsewhere is not looked at; those pixels start
        half-way, at 0.5. Without a mask every pixel starts as it is, and may move.

        The descent is `hamux.relax`, to `tol` or for `max_steps`; with `steps` exactly so many steps `dt` of
        `hamux.descend`, through which gradients flow. **Raises** ValueError when `x` or `mask` do not fit, or hold NaN,
        and for `steps` with the epanechnikov energy, whose slope has no bound: no step of a fixed size goes down there.
        """
        if steps is not None:
            self._check_fixed_steps()
        clamp = None
        start = x
        if mask is not None:
            check_mask(mask, self.config.shape, "known")
            clamp = {"pixels": jnp.ravel(mask)}
            start = only_known(x, mask)
        xs = self.encode(start)
        if steps is None:
            end = hamux.relax(self.ham, xs, tol=tol, max_steps=max_steps, clamp=clamp, trajectory=trajectory)
        else:
            end = hamux.descend(self.ham, xs, steps=steps, dt=dt, tol=tol, clamp=clamp, trajectory=trajectory)
        return retrieved(self, end, self._scores(end.xs), x, mask)

    def watch(
        self, x: Float[Array, "..."], known: Bool[Array, "..."] | None = None, *, steps: int, dt: float = 1.0
    ) -> tuple[Float[Array, "steps_plus_1 ..."], Float[Array, " steps_plus_1"]]:
        """What is shown, and the energy, at the start and after each of `steps` steps of `retrieve`. See `ZooModel`."""
        path: Any = self.retrieve(x, known, steps=steps, dt=dt, trajectory=True)
        return path.trajectory, path.energies

    def classify(self, x: Float[Array, "..."]) -> Float[Array, " classes"]:
        """−β times the synapse's energy of `x` together with each label; the largest is the class.

        They are the logits of the labels in a Boltzmann distribution of this energy at the temperature 1/β.

        The label neurons of a class are one +1 among −1. Krotov & Hopfield, 2016, §4, eq. 9 with the tanh, which keeps
        the order, left off. **Raises** ValueError for a model without label neurons.
        """
        if not self.config.classes:
            raise ValueError("this memory has no label neurons; make it with classes, or store patterns with labels")
        pixels = self.ham.activations(self.encode(x))["pixels"]
        labels = _one_hot_spins(jnp.arange(self.config.classes), self.config.classes).astype(pixels.dtype)
        energies = jax.vmap(lambda label: self._synapse(pixels, label))(labels)
        return -self.beta.astype(energies.dtype) * energies

    def rehearse(
        self, x: Float[Array, "..."], known: Bool[Array, "..."] | None, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "3 ..."], Float[Array, "3 classes"] | None]:
        """What three steps of a recall from `x` show, after 10 n steps without a gradient, n ≥ 0 with chance 2⁻ⁿ⁻¹.

        So the way down and what lies near its end are both learned, at the cost of a few steps. See `ZooModel`.

        **Raises** ValueError for the epanechnikov energy, as `retrieve` does.
        """
        self._check_fixed_steps()
        clamp = None if known is None else {"pixels": jnp.ravel(known)}
        descend = functools.partial(hamux.descend, dt=1.0, clamp=clamp)
        ham, start = jax.lax.stop_gradient((self.ham, self.encode(x)))
        tens = jr.geometric(key, 0.5) - 1
        xs = jax.lax.fori_loop(0, tens, lambda _, xs: descend(ham, xs, steps=10).xs, start)
        path = descend(self.ham, xs, steps=3, trajectory=True).trajectory
        path = jax.tree.map(lambda states: states[1:], path)
        return jax.vmap(self.decode)(path), self._scores(path)

    def _scores(self, xs: Mapping[str, Float[Array, "..."]]) -> Any:
        """2βx of the label's neurons: where these are tanh(βx), the logits of being +1. None without them."""
        return 2 * self._beta_of("label") * xs["label"] if self.config.classes else None

    def _check_fixed_steps(self) -> None:
        if self.config.energy == "epanechnikov":
            raise ValueError("the epanechnikov energy has no step size that always goes down; leave `steps` out")

    def head(self) -> Any:
        """The labels of the memories."""
        if not self.config.classes:
            raise ValueError("this memory has no label neurons")
        return self._synapse.xi[1]

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """The same memories of pixels, with random labels of so many classes."""
        config = dataclasses.replace(self.config, classes=classes)
        labels = jr.normal(key, (config.memories, classes), self._synapse.xi[0].dtype)
        return self._made_of(config, (self._synapse.xi[0], labels))

    def store(self, patterns: Float[Array, "memories ..."], labels: Int[Array, " memories"] | None = None) -> Self:
        """A new model of the same energy and β whose memories are `patterns`, in place of those it had.

        With `labels`, one class an entry, it has label neurons, as many as this one or as they need; without, none.
        **Raises** ValueError when a pattern is not of the config's shape, or labels and patterns are not as many.
        """
        patterns = jnp.asarray(patterns)
        if patterns.ndim == 0 or patterns.shape[1:] != self.config.shape or len(patterns) < 1:
            raise ValueError(f"patterns of shape {patterns.shape}; expected (memories, *{self.config.shape})")
        if not jnp.issubdtype(patterns.dtype, jnp.floating):
            raise ValueError(f"patterns of dtype {patterns.dtype}; expected floats in [0, 1] (divide bytes by 255)")
        xi = [2 * patterns.reshape(len(patterns), -1) - 1]
        classes = 0
        if labels is not None:
            each = np.asarray(labels)
            if each.shape != (len(patterns),) or each.dtype.kind not in "iu" or each.min() < 0:
                raise ValueError(
                    f"labels of shape {each.shape} and dtype {each.dtype} for {len(patterns)} patterns; "
                    "expected one integer ≥ 0 a pattern"
                )
            classes = max(self.config.classes, int(each.max()) + 1)
            xi.append(_one_hot_spins(jnp.asarray(each), classes))
        config = dataclasses.replace(self.config, memories=len(patterns), classes=classes)
        return self._made_of(config, tuple(xi))

    def _made_of(self, config: DenseHopfieldConfig, xi: tuple[Array, ...]) -> Self:
        """A model of these memories and this one's β, without drawing memories that would be replaced."""
        model = eqx.filter_eval_shape(type(self), config, key=jr.key(0))
        model = eqx.tree_at(lambda model: model.ham.synapses["memory"].xi, model, xi)
        return jax.tree.map(lambda leaf: self.beta if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, model)


# Two programs; operation by operation a first pattern would take a second longer.
_activations = jax.jit(Neurons.activations)


@jax.jit
def _encode(model: DenseHopfield, x: Float[Array, "..."]) -> dict[str, Float[Array, " dim"]]:
    """In the dtype of the memories; a saturated tanh neuron shows 0.9999 of ±1, which half precision rounds to 1."""
    dtype = model._synapse.xi[0].dtype
    wide = dtype if dtype.itemsize >= 4 else jnp.float32
    spins = 2 * jnp.ravel(x).astype(wide) - 1
    if model.config.energy in ("polynomial", "exponential"):
        spins = jnp.arctanh(jnp.clip(spins, -0.9999, 0.9999)) / model.beta.astype(wide)
    rest = {name: state.astype(dtype) for name, state in model.ham.init_states().items()}
    return rest | {"pixels": spins.astype(dtype)}


class _Polynomial(eqx.Module):
    """L(h) = (N/n) Σ max(h/N, 0)ⁿ."""

    degree: float = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(self, h: Float[Array, "..."]) -> Float[Array, ""]:
        whole = int(self.degree) if float(self.degree).is_integer() else self.degree  # then the power is a product
        return self.size * hamux.lagr_repu(h / self.size, whole)


class _Exponential(eqx.Module):
    """L(h) = (N/n) Σ exp(n (h/N − 1))."""

    degree: float = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(self, h: Float[Array, "..."]) -> Float[Array, ""]:
        return self.size * hamux.lagr_exp(h / self.size - 1, self.degree)


def _one_hot_spins(labels: Int[Array, " n"], classes: int) -> Float[Array, "n classes"]:
    return 2 * jax.nn.one_hot(labels, classes) - 1
