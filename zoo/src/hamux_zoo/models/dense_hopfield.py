"""Dense associative memory: patterns and their labels as the minima of one energy."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

import hamux
from hamux import HopfieldSynapse, KernelSynapse, Neurons, PlaneSynapse, SubspaceSynapse

from ..config import Config
from ..memory import Attributed, Clamp, Classifier, Dynamics, Featured, Generator, Rehearsal, States, compiled
from ..pixels import span
from ..pretrained import skeleton_of
from ..statistics import Gaussian, centres_by_class, linear_prediction

Numbers = TypeVar("Numbers", Array, np.ndarray)
_NO_DIRECTIONS, _NO_OFFSETS = np.zeros((0, 0, 0)), np.zeros(0)
Energy = Literal["polynomial", "exponential", "log-sum-exp", "epanechnikov", "planes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseHopfieldConfig(Config):
    """The config of a `DenseHopfield`.

    - `shape`: of one pattern, with any number of axes.
    - `memories`: K, the number of stored patterns.
    - `classes`: the number of label neurons, 0 for none.
    - `energy`: "polynomial", "exponential", "log-sum-exp", "epanechnikov" or "planes"; see `DenseHopfield`.
    - `degree`: n of the polynomial and the exponential energy, 3 unless given, and p of planes, 12 unless given. A
      higher degree holds more memories and blends less.
    - `beta`: the inverse temperature at the start, a parameter of the model. None picks one that suits the energy.
      Planes have none.
    - `directions`: of each plane, 0 for points.
    - `components`: the number of principal components through which the memories see the pixels, 0 for the pixels
      themselves. All energies of distances (the last three) can have them.
    - `loudness`: the label neurons show ±`loudness`. It weighs a label against the pixels.
    - `low`, `high`: the range of a pattern's numbers.

    **Raises** ValueError, naming the field, for a value of another type or out of range.
    """

    shape: tuple[int, ...] = (28, 28, 1)
    memories: int = 1000
    energy: Energy = "log-sum-exp"
    degree: float | None = None
    beta: float | None = None
    directions: int = 0
    components: int = 0
    loudness: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "memories")
        self.check_at_least(0, "directions", "components")
        if self.degree is not None and not 1 < self.degree < math.inf:
            raise ValueError(f"degree is {self.degree}; expected a finite number greater than 1, or None")
        if self.beta is not None and not (0 < self.beta < math.inf and self.energy != "planes"):
            raise ValueError(f"beta is {self.beta}; expected None, or a finite number greater than 0; planes have none")
        if not 0 < self.loudness < math.inf:
            raise ValueError(f"loudness is {self.loudness}; expected a finite number greater than 0")
        if self.loudness != 1 and not self.of_distances:
            raise ValueError(f'loudness is {self.loudness}; only an energy of distances has one, not "{self.energy}"')
        if self.directions and self.energy != "planes":
            raise ValueError(f'directions is {self.directions}; only the energy "planes" has them, not "{self.energy}"')
        if self.components and not self.of_distances:
            raise ValueError(f'components is {self.components}; the energy "{self.energy}" takes the pixels, 0')
        if self.components > self.pixels:
            raise ValueError(f"components is {self.components}; a pattern of {self.pixels} pixels has at most as many")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low is {self.low} and high is {self.high}; expected finite numbers, low below high")

    @property
    def pixels(self) -> int:
        return math.prod(self.shape)

    @property
    def of_distances(self) -> bool:
        """Whether the energy compares by distances, and not by overlaps."""
        return self.energy in ("log-sum-exp", "epanechnikov", "planes")

    @property
    def power(self) -> float:
        """The degree, or the one that suits the energy."""
        return self.degree or (12.0 if self.energy == "planes" else 3.0)

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
                return 4.0 * math.exp2(min(self.power - 1, 80))
            case "exponential":
                return 4.0 * math.exp(min(self.power / 2, 60))
            case "log-sum-exp" | "planes":
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
    - epanechnikov: −(1/β) log Σ_μ max(1 − β d_μ²/2, 0), felt within √(2/β) (Hoover et al., 2025, eq. 3);
    - planes: ½ (Σ_μ (1 + d_μ²)⁻ᵖ)^(−1/p), where d_μ is the distance to a plane through ξ_μ. What is recalled keeps its
      own place on the plane (`hamux.PlaneSynapse`).

    The neurons of the first two are v = tanh(βx), binary as β → ∞; those of the others are v = x. The HAM has one
    synapse, "memory", over the layers "pixels" and, with classes, "label". With `components` the memories see the
    pixels through these, and what lies outside of them is pulled to the mean (`hamux.SubspaceSynapse`). A recall
    descends to a fixed point.
    """

    model_type: ClassVar[str] = "dense-hopfield"
    config: DenseHopfieldConfig = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config: DenseHopfieldConfig, *, key: PRNGKeyArray) -> None:
        pixels, *label = config.layers.values()
        dims = (config.components or pixels, *label)
        random = (jr.normal(k, (config.memories, dim)) for k, dim in zip(jr.split(key, len(dims)), dims, strict=True))
        synapse: Callable[..., Array] = eqx.tree_at(lambda each: each.xi, _synapse(config, dims, key), tuple(random))
        if config.components:
            synapse = SubspaceSynapse(key, pixels, config.components, synapse)
        if config.of_distances:
            neurons = {name: Neurons(hamux.lagr_identity, dim, leak=0.0) for name, dim in config.layers.items()}
        else:
            tanh = Partial(hamux.lagr_tanh, beta=config.first_beta)
            neurons = {name: Neurons(tanh, dim) for name, dim in config.layers.items()}
        self.config = config
        self.ham = hamux.HAM(neurons, {"memory": synapse}, [(tuple(neurons), "memory")])

    def start(
        self,
        x: Float[Array, "..."],
        known: Bool[Array, "..."] | None = None,
        *,
        label: Int[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[States, Clamp]:
        """Returns the states that show `x`, with labels at rest unless one is given.

        With `components`, unknown pixels begin around the mean. If nothing is known, an energy of distances with a
        `key` begins around a memory, drawn among those of the label.
        """
        config, dtype = self.config, self._xi[0].dtype
        wide = dtype if dtype.itemsize >= 4 else jnp.float32
        spins, clamp = {"pixels": _spins(jnp.ravel(x).astype(wide), config)}, Clamp()
        if label is not None:
            spins["label"] = config.loudness * _one_hot_spins(label, config.classes).astype(wide)
            clamp["label"] = True
        if known is not None:
            clamp["pixels"] = held = jnp.ravel(known)
            around = jnp.zeros(config.pixels) if self._subspace is None else self._subspace.m
            if key is not None and config.of_distances:
                drawn = self._shown(self._xi[0][self._drawn(key, spins.get("label"))])
                around = jnp.where(jnp.any(held), around, drawn)
            spins["pixels"] += jnp.where(held, 0, around.astype(wide))
        rest = {name: state.astype(dtype) for name, state in self.ham.init_states().items()}
        return rest | {name: self._state_of(name, spin).astype(dtype) for name, spin in spins.items()}, clamp

    def closest(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the memory at the smallest distance."""
        xi = self._shown(self._xi[0])
        spins = _spins(jnp.ravel(x).astype(xi.dtype), self.config)
        return self._as_patterns(xi[jnp.argmin(jnp.sum((xi - spins[None]) ** 2, axis=-1))])

    def _drawn(self, key: PRNGKeyArray, label: Float[Array, " classes"] | None) -> Int[Array, ""]:
        """A memory, drawn by how near its label is, and by its offset."""
        logits = -(self._planes[1] ** 2)
        if label is not None:
            logits -= jnp.sum((self._xi[1] - label.astype(logits.dtype)[None]) ** 2, axis=-1)
        return jr.categorical(key, logits)

    def _state_of(self, layer: str, spins: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """The state that shows `spins`; a saturated tanh neuron shows ±0.9999, since half precision rounds it to 1."""
        if self.config.of_distances:
            return spins
        return jnp.arctanh(jnp.clip(spins, -0.9999, 0.9999)) / self._beta_of(layer).astype(spins.dtype)

    def decode(self, xs: States) -> Float[Array, "..."]:
        return self._as_patterns(self.ham.neurons["pixels"].activations(xs["pixels"]))

    def scores(self, xs: States) -> Float[Array, " classes"] | None:
        """Returns 2βx of the label neurons: where these are tanh(βx), the logits of being +1.

        With planes, whose label neurons show a mean of the memories' labels, the logarithms of the classes' shares.
        """
        if not self.config.classes:
            return None
        if self.config.energy == "planes":
            return jnp.log(jnp.maximum((xs["label"] / self.config.loudness + 1) / 2, 1e-4))
        return 2 * self._beta_of("label") * xs["label"]

    @property
    def optimizer(self) -> tuple[str, float]:
        return ("adamw", 2e-3) if self.config.energy == "planes" else ("muon", 1.0)

    def dynamics(self) -> Dynamics:
        if self.config.energy == "planes":  # one step goes most of the way, so its gradient says most
            return Dynamics(rehearsal=Rehearsal(1, warmup=4))
        return Dynamics(rehearsal=Rehearsal(3, warmup=10, judged=3))

    def classify(self, x: ArrayLike) -> Float[Array, " classes"]:
        """Returns −β times the synapse's energy of `x` together with each label; the largest is the class.

        They are the logits of the labels in a Boltzmann distribution of this energy at the temperature 1/β. With planes
        it is −p log of the energy: the logarithm of the sum of powers. No step is taken. Krotov & Hopfield, 2016, §4,
        eq. 9, without the tanh, which keeps the order.

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
        return self._as_patterns(self._shown(self._xi[0][which]))

    @property
    def beta(self) -> Float[Array, ""] | None:
        """The inverse temperature that the model has now; None of planes."""
        return None if self.config.energy == "planes" else self._beta_of("pixels")

    def head(self) -> Float[Array, "memories classes"]:
        """Returns the labels of the memories. **Raises** ValueError if there are none."""
        self.check_classes()
        return self._xi[1]

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """Returns the same patterns with random labels of so many classes, without class names."""
        config = self.config.for_classes(classes)
        labels = jr.normal(key, (config.memories, config.classes), self._xi[0].dtype)
        return self._of(config, [self._xi[0], labels], *self._planes)

    def prepared(
        self, images: Float[np.ndarray, "count ..."], labels: Int[np.ndarray, " count"] | None, *, seed: int
    ) -> Self:
        """Returns the model with k-means centres of the images as memories, equally many of each class.

        Components are principal ones, and the directions of a plane those along which nearby images vary. Of planes, a
        third are around images of which a half is replaced by its linear prediction from the other half, at an offset:
        a half is completed by what it says of the other, while a whole image is recalled by other memories. A model
        whose energy has no distances keeps its random memories.
        """
        config, model = self.config, self
        if not config.of_distances:
            return self
        rows, given = _spins(images, config), labels if config.classes else None
        seen = rows.reshape(len(rows), -1)
        gaussian = Gaussian.of(rows) if config.components or config.energy == "planes" else None
        if self._subspace is not None and gaussian is not None:
            put = [jnp.asarray(gaussian.mean), jnp.asarray(gaussian.principal_components(config.components))]
            put = [each.astype(self._subspace.W.dtype) for each in put]
            model = eqx.tree_at(lambda model: [model._subspace.m, model._subspace.W], model, put)
        sources = [(seen, config.memories)]
        if config.energy == "planes" and gaussian is not None:
            shares = [math.floor(share * config.memories / 3) for share in _HALVES]
            halves = [_half_predicted(rows, which, gaussian) for which in range(len(shares))]
            sources = [(seen, config.memories - sum(shares)), *zip(halves, shares, strict=True)]
        found = [
            centres_by_class(model._seen_rows(each), given, count, config.classes, config.directions, seed)
            for each, count in sources
        ]
        xi, each, along = zip(*found, strict=True)
        names = _one_hot_spins(jnp.asarray(np.concatenate(each)), config.classes)
        names = jnp.zeros_like(names) if given is None else config.loudness * names
        offset = np.where(np.arange(config.memories) < sources[0][1], 0, _OFFSET)
        planes = np.concatenate(along, axis=1), offset
        memories = [jnp.asarray(np.concatenate(xi)), names][: len(config.layers)]
        return model._of(config, memories, *map(jnp.asarray, planes))

    def _seen_rows(self, rows: Float[np.ndarray, "count pixels"]) -> Float[np.ndarray, "count dim"]:
        return rows if self._subspace is None else np.asarray(self._subspace.seen(jnp.asarray(rows)))

    def store(self, patterns: ArrayLike, labels: ArrayLike | None = None) -> Self:
        """Returns a model of the same energy and temperatures whose memories are `patterns` instead.

        - `patterns`: floats in [low, high] of shape (memories, *shape).
        - `labels`: one class for each. With them the model has label neurons: as many as it had, or as the labels need.
          Without them it has none.

        The class names are kept if the number of classes stays the same.

        **Raises** ValueError for patterns or labels that do not fit.
        """
        rows, classes = self._checked_rows(patterns, labels)
        return self._of(self._with_memories(len(rows[0]), classes), rows)

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
        kept = [self._xi[0], *(_with_classes(each, classes, self.config.loudness) for each in self._xi[1:])]
        both = [jnp.concatenate([old, new.astype(old.dtype)]) for old, new in zip(kept, rows, strict=True)]
        return self._of(self._with_memories(len(both[0]), classes), both, *self._planes)

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
        left = np.flatnonzero(~gone)
        config = self._with_memories(len(left), self.config.classes)
        along, offset = self._planes
        return self._of(config, [each[left] for each in self._xi], along[:, left], offset[left])

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
        spins = _spins(jnp.asarray(wide), config)
        seen = spins if self._subspace is None else self._subspace.seen(spins)
        if labels is None:
            return [seen], 0
        each = np.asarray(labels)
        if each.shape != (len(images),) or each.dtype.kind not in "iu" or each.min() < 0:
            raise ValueError(
                f"labels have shape {each.shape} and dtype {each.dtype} for {len(images)} patterns; expected one whole "
                "number of at least 0 for each"
            )
        classes = max(int(each.max()) + 1, config.classes)
        return [seen, config.loudness * _one_hot_spins(jnp.asarray(each), classes)], classes

    def _with_memories(self, memories: int, classes: int) -> DenseHopfieldConfig:
        names = self.config.class_names if classes == self.config.classes else ()
        return dataclasses.replace(self.config, memories=memories, classes=classes, class_names=names)

    def _of(
        self,
        config: DenseHopfieldConfig,
        rows: Sequence[Array],
        along: Float[ArrayLike, "directions some dim"] = _NO_DIRECTIONS,
        offset: Float[ArrayLike, " some"] = _NO_OFFSETS,
    ) -> Self:
        """A model of these memories, in the present dtype, that keeps all else; a new layer takes the temperature of
        the pixels. Planes after the first, of which directions over the pixels and offsets are given, are points."""
        dtype, model = self._xi[0].dtype, skeleton_of(type(self), config)
        memory = model._memory
        if isinstance(memory, PlaneSynapse):
            first, *others = (each.shape for each in memory.b)
            b = [_padded(along, first), *map(jnp.zeros, others)]
            memory = memory.store(*rows, along=b, offset=_padded(offset, first[1:2]))
        else:
            memory = memory.store(*rows)
        model = eqx.tree_at(lambda model: model._memory, model, memory)
        if not isinstance(memory, PlaneSynapse):
            names = [name if name in self.config.layers else "pixels" for name in config.layers]
            places = list(config.layers)[: 1 if config.of_distances else None]
            betas = [self._beta_of(name) for name in names[: len(places)]]
            model = eqx.tree_at(lambda model: [model._beta_of(name) for name in places], model, betas)
        if self._subspace is not None:
            seen = [self._subspace.m, self._subspace.W]
            model = eqx.tree_at(lambda model: [model._subspace.m, model._subspace.W], model, seen)
        kept: Self = jax.tree.map(lambda leaf: leaf.astype(dtype), model)
        return kept

    @property
    def _subspace(self) -> SubspaceSynapse | None:
        synapse = self.ham.synapses["memory"]
        return synapse if isinstance(synapse, SubspaceSynapse) else None

    @property
    def _memory(self) -> HopfieldSynapse | KernelSynapse | PlaneSynapse:
        memory = self.ham.synapses["memory"] if self._subspace is None else self._subspace.synapse
        assert isinstance(memory, HopfieldSynapse | KernelSynapse | PlaneSynapse)
        return memory

    @property
    def _xi(self) -> tuple[Float[Array, "memories dim"], ...]:
        return self._memory.xi

    @property
    def _planes(self) -> tuple[Float[Array, "directions memories dim"], Float[Array, " memories"]]:
        """The directions of the memories over what they see of the pixels, and their offsets."""
        if isinstance(self._memory, PlaneSynapse):
            return self._memory.b[0], self._memory.offset
        memories, dim = self._xi[0].shape
        return jnp.zeros((0, memories, dim)), jnp.zeros(memories)

    def _seen(self, pixels: Float[Array, " pixels"]) -> Float[Array, " dim"]:
        """What the memories see of the pixels."""
        return pixels if self._subspace is None else self._subspace.seen(pixels)

    def _shown(self, seen: Float[Array, "... dim"]) -> Float[Array, "... pixels"]:
        """The pixels of which the memories see this."""
        return seen if self._subspace is None else self._subspace.shown(seen)

    def _beta_of(self, layer: str) -> Float[Array, ""]:
        if isinstance(self._memory, KernelSynapse):
            return self._memory.beta
        tanh = self.ham.neurons[layer].lagrangian
        assert isinstance(tanh, hamux.Bound)
        return tanh.keywords["beta"]

    def _as_patterns(self, spins: Float[Array, "... pixels"]) -> Float[Array, "..."]:
        low, high = self.config.low, self.config.high
        return low + (high - low) * (spins.reshape(*spins.shape[:-1], *self.config.shape) + 1) / 2


@compiled
def _classified(model: DenseHopfield, x: Float[Array, "..."]) -> Float[Array, " classes"]:
    xs, _ = model.start(x)
    seen = model._seen(model.ham.neurons["pixels"].activations(xs["pixels"]))
    labels = model.config.loudness * _one_hot_spins(jnp.arange(model.config.classes), model.config.classes)
    energies = jax.vmap(lambda label: model._memory(seen, label))(labels.astype(seen.dtype))
    if model.beta is None:
        return -model.config.power * jnp.log(2 * energies)
    return -model.beta.astype(energies.dtype) * energies


@compiled
def _shares_of_image(model: DenseHopfield, x: Float[Array, "..."]) -> Float[Array, " memories"]:
    return _shares(model, model.start(x)[0])


@compiled
def _shares(model: DenseHopfield, xs: States) -> Float[Array, " memories"]:
    gs = model.ham.activations(xs)
    return model._memory.attribution(model._seen(gs["pixels"]), *(gs[name] for name in list(model.config.layers)[1:]))


def _synapse(
    config: DenseHopfieldConfig, dims: tuple[int, ...], key: PRNGKeyArray
) -> HopfieldSynapse | KernelSynapse | PlaneSynapse:
    match config.energy:
        case "polynomial":
            return HopfieldSynapse(key, dims, config.memories, _Polynomial(config.power, sum(dims)))
        case "exponential":
            return HopfieldSynapse(key, dims, config.memories, _Exponential(config.power, sum(dims)))
        case "log-sum-exp":
            return KernelSynapse(key, dims, config.memories, "gaussian", config.first_beta)
        case "epanechnikov":
            return KernelSynapse(key, dims, config.memories, "epanechnikov", config.first_beta)
        case "planes":
            directions = (config.directions, *[0] * (len(dims) - 1))
            return PlaneSynapse(key, dims, config.memories, directions, config.power)


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


# Of the memories of half-predicted images, the shares for the lower, the upper, the right and the left half, about as
# often as `hamux_zoo.pixels.hide_part` hides them.
_HALVES = (0.6, 0.13, 0.14, 0.13)
_OFFSET = 3.0


def _half_predicted(
    rows: Float[np.ndarray, "count ..."], which: int, gaussian: Gaussian
) -> Float[np.ndarray, "count pixels"]:
    """The patterns with one half, by `_HALVES`, replaced by its linear prediction from the other, as rows."""
    first_hidden, axis = which % 2 == 1, min(which // 2, rows.ndim - 2)
    middle = rows.shape[axis + 1] // 2
    hidden = (np.arange(rows.shape[axis + 1]) < middle) == first_hidden
    known = ~hidden.reshape([-1 if place == axis + 1 else 1 for place in range(rows.ndim)])
    predicted = linear_prediction(rows, np.broadcast_to(known, rows.shape), gaussian)
    return predicted.reshape(len(rows), -1).astype(rows.dtype)


def _spins(patterns: Numbers, config: DenseHopfieldConfig) -> Numbers:
    """Numbers from low to high as those from −1 to 1."""
    return 2 * (patterns - config.low) / (config.high - config.low) - 1


def _one_hot_spins(labels: Int[Array, "..."], classes: int) -> Float[Array, "... classes"]:
    return 2 * jax.nn.one_hot(labels, classes) - 1


def _with_classes(
    spins: Float[Array, "memories classes"], classes: int, loudness: float
) -> Float[Array, "memories more"]:
    """Labels beside which further classes are off."""
    return jnp.pad(spins, [(0, 0), (0, classes - spins.shape[1])], constant_values=-loudness)


def _padded(given: ArrayLike, shape: tuple[int, ...]) -> Array:
    """An array that is 0 beyond what is given."""
    return jnp.pad(given, [(0, size - had) for size, had in zip(shape, np.shape(given), strict=True)])
