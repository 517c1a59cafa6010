"""Dense associative memory: patterns and their labels as the minima of one energy."""

import dataclasses
import math
from typing import ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

import hamux
from hamux import HopfieldSynapse, KernelSynapse, Neurons

from ..config import Config
from ..memory import Attributed, Clamp, Classifier, Dynamics, Featured, Generator, Rehearsal, States, compiled
from ..pixels import span
from ..pretrained import skeleton_of

Energy = Literal["polynomial", "exponential", "log-sum-exp", "epanechnikov"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseHopfieldConfig(Config):
    """The config of a `DenseHopfield`.

    - `shape`: of one pattern, with any number of axes.
    - `memories`: K, the number of stored patterns.
    - `classes`: the number of label neurons, 0 for none.
    - `energy`: "polynomial", "exponential", "log-sum-exp" or "epanechnikov"; see `DenseHopfield`.
    - `degree`: n of the polynomial and of the exponential energy. A higher degree holds more memories and blends less.
    - `beta`: the inverse temperature at the start, a parameter of the model. None picks one that suits the energy.
    - `low`, `high`: the range of a pattern's numbers.

    **Raises** ValueError, naming the field, for a value of another type or out of range.
    """

    shape: tuple[int, ...] = (28, 28, 1)
    memories: int = 1000
    energy: Energy = "log-sum-exp"
    degree: float = 3.0
    beta: float | None = None
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "memories")
        if not 1 < self.degree < math.inf:
            raise ValueError(f"degree is {self.degree}; expected a finite number greater than 1")
        if self.beta is not None and not 0 < self.beta < math.inf:
            raise ValueError(f"beta is {self.beta}; expected a finite number greater than 0, or None")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low is {self.low} and high is {self.high}; expected finite numbers, low below high")

    @property
    def pixels(self) -> int:
        return math.prod(self.shape)

    @property
    def layers(self) -> dict[str, int]:
        """The sizes of the layers of neurons."""
        return {"pixels": self.pixels} | ({"label": self.classes} if self.classes else {})

    @property
    def first_beta(self) -> float:
        """The inverse temperature that a new model has.

        By default a neuron that is pulled by one memory, half of which is seen, comes to ±0.999. With log-sum-exp,
        memories a few pixels apart are told apart. With epanechnikov, a memory is felt while fewer than a quarter of
        its pixels are flipped.
        """
        if self.beta is not None:
            return self.beta
        match self.energy:
            case "polynomial":
                return 4.0 * math.exp2(min(self.degree - 1, 80))
            case "exponential":
                return 4.0 * math.exp(min(self.degree / 2, 60))
            case "log-sum-exp":
                return 1.0
            case "epanechnikov":
                return 2 / self.pixels


class DenseHopfield(Classifier, Generator, Featured, Attributed):
    """K memories ξ_μ ∈ [−1, 1]^N of a pattern's N pixels and of its label neurons, as the minima of one energy.

    A pixel p becomes v = 2 (p − low) / (high − low) − 1; the label neurons of a class are one +1 among −1. A new
    model's memories are random. `store` gives it patterns, `remember` adds some, and `hamux_zoo.train` learns them.

    With the overlap m_μ = ξ_μ·v/N and the distance d_μ = ‖v − ξ_μ‖, labels included, the energy of the synapse is

    - polynomial: −(N/n) Σ_μ max(m_μ, 0)ⁿ (Krotov & Hopfield, 2016, eq. 2 and 3);
    - exponential: −(N/n) Σ_μ exp(n (m_μ − 1)), which for n = N is Demircigil et al., 2017, up to a factor. In float32 a
      memory is felt where n (1 − m_μ) < 87;
    - log-sum-exp: −(1/β) log Σ_μ exp(−β d_μ²/2), which is Ramsauer et al., 2021, eq. 2, up to a constant when all
      memories have one norm, and is otherwise not drawn to the longest one (`hamux.KernelSynapse`);
    - epanechnikov: −(1/β) log Σ_μ max(1 − β d_μ²/2, 0), felt within √(2/β) (Hoover et al., 2025, eq. 3).

    The neurons of the first two are v = tanh(βx), binary as β → ∞; those of the other two are v = x. The HAM has one
    synapse, "memory", over the layers "pixels" and, with classes, "label". A recall descends to a fixed point.
    """

    model_type: ClassVar[str] = "dense-hopfield"
    optimizer: ClassVar[str] = "muon"
    learning_rate: ClassVar[float] = 1.0
    config: DenseHopfieldConfig = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config: DenseHopfieldConfig, *, key: PRNGKeyArray) -> None:
        dims = tuple(config.layers.values())
        size, beta = sum(dims), config.first_beta
        synapse: HopfieldSynapse | KernelSynapse
        if config.energy in ("polynomial", "exponential"):
            separation = _Polynomial if config.energy == "polynomial" else _Exponential
            synapse = HopfieldSynapse(key, dims, config.memories, separation(config.degree, size))
            neurons = {name: Neurons(Partial(hamux.lagr_tanh, beta=beta), dim) for name, dim in config.layers.items()}
        else:
            kernel: Literal["gaussian", "epanechnikov"] = (
                "gaussian" if config.energy == "log-sum-exp" else "epanechnikov"
            )
            synapse = KernelSynapse(key, dims, config.memories, kernel, beta=beta)
            neurons = {name: Neurons(hamux.lagr_identity, dim, leak=0.0) for name, dim in config.layers.items()}
        random = (jr.normal(k, (config.memories, dim)) for k, dim in zip(jr.split(key, len(dims)), dims, strict=True))
        self.config = config
        self.ham = hamux.HAM(neurons, {"memory": synapse.store(*random)}, [(tuple(neurons), "memory")])

    def start(
        self,
        x: Float[Array, "..."],
        known: Bool[Array, "..."] | None = None,
        *,
        label: Int[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[States, Clamp]:
        config, dtype = self.config, self._xi[0].dtype
        wide = dtype if dtype.itemsize >= 4 else jnp.float32
        spins = {"pixels": 2 * (jnp.ravel(x).astype(wide) - config.low) / (config.high - config.low) - 1}
        clamp: Clamp = {} if known is None else {"pixels": jnp.ravel(known)}
        if label is not None:
            spins["label"] = _one_hot_spins(label, config.classes).astype(wide)
            clamp["label"] = True
        rest = {name: state.astype(dtype) for name, state in self.ham.init_states().items()}
        return rest | {name: self._state_of(name, spin).astype(dtype) for name, spin in spins.items()}, clamp

    def _state_of(self, layer: str, spins: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """The state that shows `spins`; a saturated tanh neuron shows ±0.9999, since half precision rounds it to 1."""
        if self._is_kernel:
            return spins
        return jnp.arctanh(jnp.clip(spins, -0.9999, 0.9999)) / self._beta_of(layer).astype(spins.dtype)

    def decode(self, xs: States) -> Float[Array, "..."]:
        return self._as_patterns(self.ham.neurons["pixels"].activations(xs["pixels"]))

    def scores(self, xs: States) -> Float[Array, " classes"] | None:
        """Returns 2βx of the label neurons: where these are tanh(βx), the logits of being +1."""
        return 2 * self._beta_of("label") * xs["label"] if self.config.classes else None

    def dynamics(self) -> Dynamics:
        return Dynamics(rehearsal=Rehearsal(steps=3, warmup=10, judged=3))

    def classify(self, x: ArrayLike) -> Float[Array, " classes"]:
        """Returns −β times the synapse's energy of `x` together with each label; the largest is the class.

        They are the logits of the labels in a Boltzmann distribution of this energy at the temperature 1/β. No step is
        taken. Krotov & Hopfield, 2016, §4, eq. 9, without the tanh, which keeps the order.

        **Raises** ValueError for a memory without label neurons, and if `x` does not fit.
        """
        self.check_classes()
        image, _ = self.checked(x)
        return _classified(self, image)

    def features(self, x: ArrayLike) -> Float[Array, " memories"]:
        """Returns each memory's share of the pull on `x`. **Raises** as `recall`."""
        image, _ = self.checked(x)
        return _shares_of_image(self, image)

    def attribution(self, x: ArrayLike | None, known: ArrayLike | None = None) -> Float[Array, " memories"]:
        return _shares(self, self.recall(x, known, energies=False).xs)

    def memories(self, which: slice = slice(None)) -> Float[Array, "memories ..."]:
        """Returns some of the stored patterns, in [low, high] if they were stored, anywhere if they were learned."""
        return self._as_patterns(self._xi[0][which])

    @property
    def beta(self) -> Float[Array, ""]:
        """The inverse temperature that the model has now."""
        return self._beta_of("pixels")

    def head(self) -> Float[Array, "memories classes"]:
        """Returns the labels of the memories. **Raises** ValueError if there are none."""
        self.check_classes()
        return self._xi[1]

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """Returns the same patterns with random labels of so many classes, without class names."""
        config = self.config.for_classes(classes)
        return self._of(config, self._xi[0], jr.normal(key, (config.memories, config.classes), self._xi[0].dtype))

    def store(self, patterns: ArrayLike, labels: ArrayLike | None = None) -> Self:
        """Returns a model of the same energy and temperatures whose memories are `patterns` instead.

        - `patterns`: floats in [low, high] of shape (memories, *shape).
        - `labels`: one class for each. With them the model has label neurons: as many as it had, or as the labels need.
          Without them it has none.

        The class names are kept if the number of classes stays the same.

        **Raises** ValueError for patterns or labels that do not fit.
        """
        rows, classes = self._checked_rows(patterns, labels)
        return self._of(self._with_memories(len(rows[0]), classes), *rows)

    def remember(self, patterns: ArrayLike, labels: ArrayLike | None = None) -> Self:
        """Returns the model with `patterns` beside the memories that it has.

        Arguments as in `store`. Labels are needed if the model has label neurons, and refused if it has none. A label
        beyond the classes it knows adds classes.

        **Raises** ValueError for patterns or labels that do not fit.
        """
        if (labels is None) != (not self.config.classes):
            has = f"{self.config.classes} label neurons" if self.config.classes else "no label neurons"
            raise ValueError(f"labels is {'None' if labels is None else 'given'}, and this model has {has}")
        rows, classes = self._checked_rows(patterns, labels)
        kept = [self._xi[0], *(_with_classes(each, classes) for each in self._xi[1:])]
        both = [jnp.concatenate([old, new.astype(old.dtype)]) for old, new in zip(kept, rows, strict=True)]
        return self._of(self._with_memories(len(both[0]), classes), *both)

    def forget(self, which: int | slice | ArrayLike) -> Self:
        """Returns the model without the memories `which`: an index, a slice, a list of indices, or a boolean mask.

        **Raises** IndexError for a memory that is not there, and ValueError for no indices and if none would be left.
        """
        gone = np.zeros(self.config.memories, bool)
        if not isinstance(which, slice):
            which = np.asarray(which)
            if which.size and which.dtype.kind not in "iub":
                raise ValueError(f"which has dtype {which.dtype}; expected whole numbers, or booleans for a mask")
            which = which if which.size else which.astype(int)
        gone[which] = True
        if gone.all():
            raise ValueError(f"all {self.config.memories} memories would be forgotten; a model holds at least one")
        rows = [each[np.flatnonzero(~gone)] for each in self._xi]
        return self._of(self._with_memories(len(rows[0]), self.config.classes), *rows)

    def _checked_rows(self, patterns: ArrayLike, labels: ArrayLike | None) -> tuple[list[Array], int]:
        """The rows of ξ that hold patterns and labels, and the number of classes that the labels need."""
        config, images = self.config, np.asarray(patterns)
        if images.shape[1:] != config.shape or not images.shape or not len(images):
            raise ValueError(f"patterns have shape {images.shape}; expected (memories, {str(config.shape)[1:]}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"patterns have dtype {images.dtype}; expected floats (divide bytes by 255)")
        if not (np.isfinite(images).all() and config.low <= images.min() and images.max() <= config.high):
            raise ValueError(f"patterns range {span(images)}; expected floats in [{config.low:g}, {config.high:g}]")
        wide = images.astype(np.promote_types(images.dtype, np.float32)).reshape(len(images), -1)
        spins = 2 * (jnp.asarray(wide) - config.low) / (config.high - config.low) - 1
        if labels is None:
            return [spins], 0
        each = np.asarray(labels)
        if each.shape != (len(images),) or each.dtype.kind not in "iu" or each.min() < 0:
            raise ValueError(
                f"labels have shape {each.shape} and dtype {each.dtype} for {len(images)} patterns; expected one whole "
                "number of at least 0 for each"
            )
        classes = max(int(each.max()) + 1, config.classes)
        return [spins, _one_hot_spins(jnp.asarray(each), classes)], classes

    def _with_memories(self, memories: int, classes: int) -> DenseHopfieldConfig:
        names = self.config.class_names if classes == self.config.classes else ()
        return dataclasses.replace(self.config, memories=memories, classes=classes, class_names=names)

    def _of(self, config: DenseHopfieldConfig, *xi: Array) -> Self:
        """A model of these memories, in the present dtype, that keeps every temperature; a new layer takes that of the
        pixels."""
        rows = tuple(row.astype(self._xi[0].dtype) for row in xi)
        model: Self = eqx.tree_at(lambda model: model._xi, skeleton_of(type(self), config), rows)
        names = [name if name in self.config.layers else "pixels" for name in config.layers]
        places = names[:1] if self._is_kernel else list(config.layers)
        betas = [self._beta_of(name) for name in names[: len(places)]]
        kept: Self = eqx.tree_at(lambda model: [model._beta_of(name) for name in places], model, betas)
        return kept

    @property
    def _synapse(self) -> HopfieldSynapse | KernelSynapse:
        synapse = self.ham.synapses["memory"]
        assert isinstance(synapse, HopfieldSynapse | KernelSynapse)
        return synapse

    @property
    def _xi(self) -> tuple[Float[Array, "memories dim"], ...]:
        return self._synapse.xi

    @property
    def _is_kernel(self) -> bool:
        return self.config.energy in ("log-sum-exp", "epanechnikov")

    def _beta_of(self, layer: str) -> Float[Array, ""]:
        if isinstance(self._synapse, KernelSynapse):
            return self._synapse.beta
        tanh = self.ham.neurons[layer].lagrangian
        assert isinstance(tanh, hamux.Bound)
        return tanh.keywords["beta"]

    def _as_patterns(self, spins: Float[Array, "... pixels"]) -> Float[Array, "..."]:
        low, high = self.config.low, self.config.high
        return low + (high - low) * (spins.reshape(*spins.shape[:-1], *self.config.shape) + 1) / 2


@compiled
def _classified(model: DenseHopfield, x: Float[Array, "..."]) -> Float[Array, " classes"]:
    xs, _ = model.start(x)
    pixels = model.ham.neurons["pixels"].activations(xs["pixels"])
    labels = _one_hot_spins(jnp.arange(model.config.classes), model.config.classes).astype(pixels.dtype)
    energies = jax.vmap(lambda label: model.ham.synapses["memory"](pixels, label))(labels)
    return -model.beta.astype(energies.dtype) * energies


@compiled
def _shares_of_image(model: DenseHopfield, x: Float[Array, "..."]) -> Float[Array, " memories"]:
    return _shares(model, model.start(x)[0])


@compiled
def _shares(model: DenseHopfield, xs: States) -> Float[Array, " memories"]:
    gs = model.ham.activations(xs)
    return model._synapse.attribution(*(gs[layer] for layer in model.config.layers))


class _Polynomial(eqx.Module):
    """L(h) = (N/n) Σ max(h/N, 0)ⁿ."""

    degree: float = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @property
    def convex(self) -> bool:
        return self.degree >= 1

    def __call__(self, h: Float[Array, "..."]) -> Float[Array, ""]:
        whole = int(self.degree) if self.degree.is_integer() else self.degree  # then the power is a product
        return self.size * hamux.lagr_repu(h / self.size, whole)


class _Exponential(eqx.Module):
    """L(h) = (N/n) Σ exp(n (h/N − 1))."""

    degree: float = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @property
    def convex(self) -> bool:
        return self.degree > 0

    def __call__(self, h: Float[Array, "..."]) -> Float[Array, ""]:
        return self.size * hamux.lagr_exp(h / self.size - 1, self.degree)


def _one_hot_spins(labels: Int[Array, "..."], classes: int) -> Float[Array, "... classes"]:
    return 2 * jax.nn.one_hot(labels, classes) - 1


def _with_classes(spins: Float[Array, "memories classes"], classes: int) -> Float[Array, "memories more"]:
    """Labels beside which further classes are −1."""
    return jnp.pad(spins, [(0, 0), (0, classes - spins.shape[1])], constant_values=-1)
