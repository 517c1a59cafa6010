"""Convolutional hierarchical associative memory: an image and its label at the two ends of one energy."""

import dataclasses
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

from ..config import Config
from ..memory import Attributed, Clamp, Classifier, Dynamics, Featured, Generator, Rehearsal, States, compiled
from ..pixels import check_statistics, denormalise, normalise
from ..statistics import Gaussian, centres_by_class, nearest_centres

Image = Float[Array, "height width channels"]
Known = Bool[Array, "height width channels"]
Synapse = TypeVar("Synapse", bound=eqx.Module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvHAMConfig(Config):
    """The config of a `ConvHAM`.

    - `shape`: of an image, (height, width, channels).
    - `mean`, `std`: of its pixels, by which the neurons of the image show them as v = (p − mean) / std; one number, or
      one for each channel.
    - `classes`: the number of label neurons, 0 for none.
    - `channels`, `kernels`: the filters of each block and their side. Every block halves height and width.
    - `blocks`: their activation, "tanh" or "relu", which is g = x clipped to [0, 3].
    - `components`: the number of directions along which images of one memory vary, as `ConvHAM.prepared` finds them.
    - `noise`: the variance of a pixel beside the components, in units of `std²`. A smaller one makes recalls more exact
      and longer.
    - `parts`: the number of neurons that see the whole last block and the label.
    - `memories`: the number of patterns of the components and the label.
    - `beta`: the inverse temperature of the memories. With 1 their activations are the probabilities of the mixture.
    - `votes`: how much a memory adds to the state of its label.
    - `loudness`: what the activations of the label add up to.
    - `stiffness`: how much an image resists what blocks say: the energy of its neurons is `stiffness`·|v|²/2.

    **Raises** ValueError, naming the field, for a value of another type, out of range, or that does not fit the others.
    """

    shape: tuple[int, ...] = (28, 28, 1)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    classes: int = 10
    channels: tuple[int, ...] = (24, 48)
    kernels: tuple[int, ...] = (6, 4)
    blocks: Literal["tanh", "relu"] = "tanh"
    components: int = 100
    noise: float = 0.2
    parts: int = 256
    memories: int = 500
    beta: float = 1.0
    votes: float = 0.3
    loudness: float = 1.0
    stiffness: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "channels", "kernels", "components", "parts", "memories")
        if len(self.shape) != 3 or not self.channels:
            raise ValueError(
                f"shape is {self.shape} and channels is {self.channels}; expected (height, width, channels) and at "
                "least one block"
            )
        if len(self.kernels) != len(self.channels):
            raise ValueError(
                f"kernels is {self.kernels} and channels is {self.channels}; expected one of each for every block"
            )
        part = 2 ** len(self.channels)
        if self.shape[0] % part or self.shape[1] % part:
            fitting = tuple(max(1, round(size / part)) * part for size in self.shape[:2])
            raise ValueError(
                f"{len(self.channels)} blocks cannot halve images of {self.shape[0]} × {self.shape[1]} evenly; "
                f"multiples of {part} fit, such as {fitting[0]} × {fitting[1]}"
            )
        check_statistics(self.mean, self.std, self.shape[2])
        for name in ("noise", "beta", "loudness", "stiffness"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number greater than 0")
        if not 0 <= self.votes < np.inf:
            raise ValueError(f"votes is {self.votes}; expected a finite number of at least 0")


# The activations of components are their states up to such a number, and bounded by it; those of rectified blocks, too.
_REACH, _REACH_OF_BLOCKS = 300.0, 3.0
# A unit of a softmax that is so far ahead of the others, times its inverse temperature, is the only active one.
_FAR_AHEAD = 40.0
# So far ahead, likewise, a label that is held puts its memories: more than an image of another class does.
_LOUD_PRIOR = 1000.0
# How often a sweep takes image, components and memory before it goes up, since they settle slowly, at little cost.
_ROUNDS = 4
# A mixture has a memory for so many images at most; what it was fitted to before counts as so many images.
_IMAGES_OF_A_MEMORY, _WEIGHT_OF_BEFORE = 10, 1000
# How far layers go, 1 for to their minimum.
_FAR = dict.fromkeys(("image", "components"), 1.8)
_FAR_UP = 1.5


class _Stiff(eqx.Module):
    """L(x) = Λ ℓ(x/Λ), with the activation ℓ'(x/Λ), for a Lagrangian ℓ of one neuron at a time."""

    lagrangian: Callable[..., Float[Array, ""]] = eqx.field(static=True)
    stiffness: float = eqx.field(static=True)
    convex: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        return self.stiffness * self.lagrangian(x / self.stiffness)


class _Loud(eqx.Module):
    """L(x) = s log Σ exp(x): neurons whose activations s softmax(x) add up to s."""

    loudness: float = eqx.field(static=True)
    convex: ClassVar[bool] = True
    tokenwise: ClassVar[bool] = True

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        return self.loudness * hamux.lagr_softmax(x)


class _Clipped(eqx.Module):
    """L(x) = Σ g·(x − g/2) with the activation g = x, clipped to [low, high] (Huber, 1964)."""

    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    convex: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        g = jnp.clip(x, self.low, self.high)
        return jnp.sum(g * (x - g / 2))


class ConvHAM(Classifier, Generator, Featured, Attributed):
    """Layers of neurons from the image up to its label, joined by symmetric synapses at full strength.

        E = Σ_l (g_l·x_l − L_l(x_l)) − b·g_image − Σ_i g_block,i·(W_i ⋆ g_block,i−1 + b_i) − g_parts·(P g_block,n + b_p)
            − g_components·(F g_image + f) − g_memory·(ξ g_components + c) − g_label·(V g_parts + U g_memory)
            − g_memory·(C g_prior),  g_block,0 = g_image

    The layers are "image" and "components" (g = x/Λ with the `stiffness` Λ; components are also bounded), "block1", …
    (tanh, or rectified up to a bound) and "parts" (tanh), "memory" (softmax), "label" and "prior" (softmax, times a
    number). The W_i are convolutions with stride 2. Every synapse is symmetric: what goes up by W comes down by its
    transpose.

    `prepared` makes image, components and memory a mixture of probabilistic principal component analyses: F holds the
    directions in which images vary around cluster centres, ξ the centres, U and C their labels. This part completes and
    generates images; training leaves it as it is. The prior, which is always held, says which classes may be: all
    alike, or the one of a label that is held. Blocks and parts are a convolutional network, which tells classes.

    E is linear in the g of each layer while the others are held, and all activations but the image's are bounded. So E
    has a lower bound, and `hamux.GaussSeidel`, which takes one layer after another to its minimum or beyond it, never
    raises it. A step is a sweep: image, components and memory four times, then the blocks up to the label. A recall
    begins with one sweep upward from layers at rest and descends to a fixed point; its `path` holds both. What is known
    is held: the image to classify it, some pixels to complete the others, the label to generate.

    Krotov, "Hierarchical Associative Memory", 2021. Tipping & Bishop, "Mixtures of Probabilistic Principal Component
    Analysers", 1999.
    """

    model_type: ClassVar[str] = "conv-ham"
    config: ConvHAMConfig = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config: ConvHAMConfig, *, key: PRNGKeyArray) -> None:
        self.config = config
        keys = iter(jr.split(key, len(config.channels) + 6))

        def convolution(
            channels: int, below: tuple[int, ...], side: int | tuple[int, ...], stride: int, padding: str
        ) -> hamux.ConvSynapse:
            synapse = hamux.ConvSynapse(next(keys), channels, below[-1], side, stride, padding, use_bias=True)
            return _of_length(synapse, 1.0, synapse.W[0].size)

        layers = {
            "image": hamux.Neurons(_Stiff(hamux.lagr_identity, config.stiffness), config.shape),
            "components": hamux.Neurons(_Stiff(_Clipped(-_REACH, _REACH), config.stiffness), (1, 1, config.components)),
        }
        synapses: dict[str, Callable[..., Array]] = {"mean": hamux.BiasSynapse(next(keys), config.shape)}
        connections: list[tuple[tuple[str, ...], str]] = [(("image",), "mean")]
        of_blocks = hamux.lagr_tanh if config.blocks == "tanh" else _Clipped(0.0, _REACH_OF_BLOCKS)
        below, size = "image", config.shape
        for i, (channels, kernel) in enumerate(zip(config.channels, config.kernels, strict=True), 1):
            synapses[f"conv{i}"] = convolution(channels, size, kernel, 2, "SAME")
            size = (size[0] // 2, size[1] // 2, channels)
            layers[f"block{i}"] = hamux.Neurons(of_blocks, size)
            connections.append(((below, f"block{i}"), f"conv{i}"))
            below = f"block{i}"
        synapses["parts"] = convolution(config.parts, size, size[:2], 1, "VALID")
        synapses["components"] = convolution(config.components, config.shape, config.shape[:2], 1, "VALID")
        synapses["patterns"] = convolution(config.memories, (1, 1, config.components), 1, 1, "VALID")
        layers["parts"] = hamux.Neurons(hamux.lagr_tanh, (1, 1, config.parts))
        softmax = Partial(hamux.lagr_softmax, beta=jnp.asarray(config.beta / config.stiffness))
        layers["memory"] = hamux.Neurons(softmax, (1, 1, config.memories))
        connections += [((below, "parts"), "parts"), (("image", "components"), "components")]
        connections += [(("components", "memory"), "patterns")]
        if config.classes:
            names = hamux.DenseSynapse(next(keys), config.parts, config.classes)
            synapses["names"] = _of_length(names, 0.3, config.parts)
            unknown = hamux.DenseSynapse(next(keys), config.memories, config.classes)
            synapses["labels"] = synapses["kinds"] = jax.tree.map(jnp.zeros_like, unknown)
            layers["label"] = hamux.Neurons(_Loud(config.loudness), (config.classes,))
            prior = _Loud(_LOUD_PRIOR * config.stiffness / config.beta)
            layers["prior"] = hamux.Neurons(prior, (config.classes,))
            connections += [(("parts", "label"), "names"), (("memory", "label"), "labels")]
            connections += [(("memory", "prior"), "kinds")]
        self.ham = hamux.HAM(layers, synapses, connections)

    def start(
        self,
        x: Image,
        known: Known | None = None,
        *,
        label: Int[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[States, Clamp]:
        """Returns the states after a sweep upward from `x`.

        Unknown pixels are at their mean. With a label and a `key`, they are those of a memory drawn among the label's.
        """
        held = self._with_prior(label)
        if known is None:
            return self._read(x, held), dict.fromkeys(held, True)
        if key is None:
            x = jnp.where(known, x, jnp.asarray(self.config.mean, x.dtype)[None, None])
        elif label is not None:
            (kinds,) = jax.tree.leaves(self.ham.synapses["kinds"])
            drawn = jr.categorical(key, jnp.where(kinds[:, label] > 0, 0.0, -1e3))
            x = jnp.where(known, x, self._called_up(held | self._alone("memory", drawn)))
        return self._read(x, held), {"image": known} | dict.fromkeys(held, True)

    def decode(self, xs: States) -> Image:
        return denormalise(self.ham.neurons["image"].activations(xs["image"]), self.config.mean, self.config.std)

    def scores(self, xs: States) -> Float[Array, " classes"] | None:
        """Returns the logits of the label's softmax."""
        return xs.get("label")

    @property
    def optimizer(self) -> tuple[str, float]:
        return "muon", 0.02

    def dynamics(self) -> Dynamics:
        """A recall sweeps to a fixed point. Training judges two sweeps after five or more without a gradient."""
        order = [*_ROUNDS * ["image", "components", "memory"], *self._blocks, "parts", *self._labels]
        sweep = hamux.GaussSeidel(order, dt=_FAR | dict.fromkeys([*self._blocks, "parts"], _FAR_UP))
        rehearsal = Rehearsal(steps=2, warmup=5, least=1, judged=2, classify=2)
        return Dynamics(method=sweep, tol=1e-3, rehearsal=rehearsal)

    def closest(self, x: Image) -> Image:
        return self._called_up(self._alone("memory", jnp.argmax(self._read(x)["memory"])))

    def prepared(
        self, images: Float[np.ndarray, "count ..."], labels: Int[np.ndarray, " count"] | None, *, seed: int
    ) -> Self:
        """Returns the model with components and memories that suit images.

        The memories are k-means centres of at most 20,000 images, equally many of each class, and one for ten images at
        most; fewer are repeated. Let λ_k be the variances of at most 60,000 images around the nearest centres, along
        the directions u_k, and σ² the `noise`. Then F_k = Λ w_k u_k with w_k² = 1 − σ²/λ_k. A memory holds
        ξ_k = Λ (1 − w_k²) m_k/w_k for a centre m. The image it calls up is m. Directions with w_k² below 0.1 are left
        out.
        """
        return self._with_mixture_of(images, labels, seed)

    def refitted(
        self, images: Float[np.ndarray, "count ..."], labels: Int[np.ndarray, " count"] | None, *, seed: int
    ) -> Self:
        """Returns the model as `prepared` for images, with the variances that it had counted as those of 1,000 more."""
        _, filters, _, *_ = jax.tree.leaves(self._mixture)
        along = np.asarray(filters, float).transpose(0, 2, 3, 1).reshape(len(filters), -1) / self.config.stiffness
        share = np.minimum(np.sum(along**2, axis=1), 0.999)  # below 1 as `prepared` has fitted it
        more = self.config.noise / (1 - share)  # (λ_k − σ²)/w_k²
        covariance = self.config.noise * np.eye(along.shape[1]) + (along.T * more) @ along
        return self._with_mixture_of(images, labels, seed, covariance)

    def _with_mixture_of(
        self,
        images: Float[np.ndarray, "count ..."],
        labels: Int[np.ndarray, " count"] | None,
        seed: int,
        before: Float[np.ndarray, "numbers numbers"] | None = None,
    ) -> Self:
        """The model `prepared` for images, or, with a covariance of images `before`, `refitted`."""
        config = self.config
        drawn, some = np.random.default_rng(seed).permutation(len(images))[:60_000], slice(20_000)
        seen = np.asarray(normalise(jnp.asarray(images[drawn]), config.mean, config.std)).reshape(len(drawn), -1)
        given = labels[drawn][some] if labels is not None and config.classes else None

        count = min(config.memories, max(len(seen) // _IMAGES_OF_A_MEMORY, config.classes, 1))
        centres, classes, _ = centres_by_class(seen[some], given, count, config.classes, 0, seed)
        around = Gaussian.of(seen - centres[nearest_centres(seen, centres)])
        if before is not None:
            both = (len(seen) * around.covariance + _WEIGHT_OF_BEFORE * before) / (len(seen) + _WEIGHT_OF_BEFORE)
            around = around._replace(covariance=both)
        centres, classes = (np.resize(each, (config.memories, *each.shape[1:])) for each in (centres, classes))
        along = around.principal_components(config.components)
        along = np.pad(along, [(0, config.components - len(along)), (0, 0)])
        variances = np.einsum("kd,de,ke->k", along, around.covariance, along)
        share = 1 - config.noise / np.maximum(variances, config.noise)
        used = share > 0.1
        along, share = np.where(used[:, None], along, 0), np.where(used, share, 1)

        own, mean = centres @ along.T, seen.mean(axis=0)
        filters = (np.sqrt(share)[:, None] * along).reshape(-1, *config.shape).transpose(0, 3, 1, 2)
        patterns = (1 - share) / np.sqrt(share) * own
        depths = -0.5 * np.sum((1 - share) * own**2 + patterns**2, axis=1)
        outside = (mean - along.T @ (along @ mean)).reshape(config.shape)
        new = [outside, filters, np.zeros(len(along)), patterns[..., None, None], depths]
        kinds = np.eye(config.classes)[classes] if given is not None else np.zeros((config.memories, config.classes))
        new = [config.stiffness * each for each in new] + [config.votes * kinds, kinds]
        pairs = zip(new, jax.tree.leaves(self._mixture), strict=False)  # without classes there are no labels
        arrays = [jnp.asarray(each, was.dtype) for each, was in pairs]
        model: Self = eqx.tree_at(lambda model: jax.tree.leaves(model._mixture), self, arrays)
        return model

    def fitted(self) -> list[Callable[..., Array]]:
        """Returns the mixture: the mean image, the components, the patterns and their labels, and β."""
        return [*self._mixture, self.ham.neurons["memory"].lagrangian]

    def features(self, x: ArrayLike) -> Float[Array, " dim"]:
        """Returns the last block beside the parts, after the sweep upward with which a recall begins.

        Each is divided by its root mean square. **Raises** as `recall`.
        """
        image, _ = self.checked(x)
        return _features(self, image)

    def attribution(self, x: ArrayLike | None, known: ArrayLike | None = None) -> Float[Array, " memories"]:
        """Returns the activations of the memories at the end of `recall(x, known)`; they sum to 1."""
        xs = self.recall(x, known, energies=False).xs
        return self.ham.neurons["memory"].activations(xs["memory"]).ravel()

    def memories(self, which: slice = slice(None)) -> Float[Array, "memories height width channels"]:
        """Returns the image that each memory calls up: while it alone is active, the other layers descend from rest."""
        images: Array = _at_rest(self, jnp.arange(self.config.memories)[which])
        return images

    def head(self) -> list[Callable[..., Array]]:
        """Returns the synapses of the label."""
        self.check_classes()
        return [self.ham.synapses["names"], self.ham.synapses["labels"]]

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """Returns the same layers up to parts and memories, with so many label neurons and random weights to them."""
        config = self.config.for_classes(classes)
        self.check_ham()

        def kept(model: ConvHAM) -> list[object]:
            synapses = [each for name, each in model.ham.synapses.items() if name not in ("names", "labels", "kinds")]
            return [*synapses, model.ham.neurons["memory"]]

        fresh = jax.tree.map(lambda leaf: leaf.astype(self._dtype), type(self)(config, key=key))
        headed: Self = eqx.tree_at(kept, fresh, kept(self))
        return headed

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.result_type(*jax.tree.leaves(self.ham.synapses["mean"]))

    @property
    def _mixture(self) -> list[Callable[..., Array]]:
        names = ["mean", "components", "patterns", *(["labels", "kinds"] if self.config.classes else [])]
        return [self.ham.synapses[name] for name in names]

    @property
    def _blocks(self) -> list[str]:
        return [f"block{i}" for i in range(1, len(self.config.channels) + 1)]

    @property
    def _labels(self) -> list[str]:
        return ["label", "prior"] if self.config.classes else []

    @property
    def _upward(self) -> list[str]:
        return ["image", *self._blocks, "components", "parts", "memory", *self._labels]

    @property
    def _rest(self) -> States:
        """All layers at rest."""
        return {name: state.astype(self._dtype) for name, state in self.ham.init_states().items()}

    def _alone(self, layer: str, unit: Int[Array, ""]) -> States:
        """The state of a softmax layer of which one unit alone is active."""
        shape = self.ham.neurons[layer].shape
        ahead = _FAR_AHEAD * (self.config.stiffness / self.config.beta if layer == "memory" else 1.0)
        return {layer: ahead * jax.nn.one_hot(unit, shape[-1], dtype=self._dtype).reshape(shape)}

    def _with_prior(self, label: Int[Array, ""] | None) -> States:
        """The states that are always held: without a label those of a prior by which all classes are alike."""
        if label is not None:
            return self._alone("label", label) | self._alone("prior", label)
        return {"prior": jnp.zeros(self.config.classes, self._dtype)} if self.config.classes else {}

    def _swept(self, order: Sequence[str], held: States) -> States:
        """The states after a sweep from layers at rest in which those of `held` keep theirs."""
        method, clamp = hamux.GaussSeidel(order), dict.fromkeys(held, True)
        return hamux.descend(self.ham, self._rest | held, steps=1, method=method, clamp=clamp, energies=False).xs

    def _read(self, x: Image, held: States | None = None) -> States:
        """The states after a sweep upward from an image; without those that are held, of any class."""
        image = self.config.stiffness * normalise(x, self.config.mean, self.config.std).astype(self._dtype)
        return self._swept(self._upward, {"image": image} | (self._with_prior(None) if held is None else held))

    def _called_up(self, held: States) -> Image:
        """The image that a memory calls up by the components, while all other layers rest."""
        rest = self._rest | held
        clamp = {name: name not in ("image", "components") for name in rest}
        order = ["components", "image", *sorted(rest.keys() - {"components", "image"})]
        method = hamux.GaussSeidel(order, dt=_FAR)
        end = hamux.relax(self.ham, rest, tol=1e-2, max_steps=200, method=method, clamp=clamp, energies=False)
        return self.decode(end.xs)


@compiled
def _features(model: ConvHAM, image: Image) -> Float[Array, " dim"]:
    gs = model.ham.activations(model._read(image))
    parts = [gs[model._blocks[-1]].ravel(), gs["parts"].ravel()]
    return jnp.concatenate([part / jnp.sqrt(jnp.mean(part**2) + 1e-12) for part in parts])


@compiled
def _at_rest(model: ConvHAM, which: Int[Array, " some"]) -> Float[Array, "some height width channels"]:
    dynamics, prior = model.dynamics(), model._with_prior(None)
    clamp = {"memory": True} | dict.fromkeys(prior, True)

    def image(memory: Int[Array, ""]) -> Image:
        xs = model._swept(model._upward[::-1], model._alone("memory", memory) | prior)
        end = hamux.relax(
            model.ham, xs, tol=dynamics.tol, max_steps=dynamics.max_steps, method=dynamics.method, clamp=clamp
        )
        return model.decode(end.xs)

    images: Array = jax.lax.map(image, which, batch_size=64)
    return images


def _of_length(synapse: Synapse, length: float, size: int) -> Synapse:
    """The synapse with rows of that length, of `size` numbers, in place of a deviation of 0.02."""
    scaled: Synapse = jax.tree.map(lambda w: w * length / (0.02 * size**0.5), synapse)
    return scaled
