"""Convolutional hierarchical associative memory: an image and its label at the two ends of one energy."""

import dataclasses
import math
from collections.abc import Callable
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
from ..memory import Attributed, Clamp, Classifier, Dynamics, Featured, Generator, States, compiled
from ..pixels import check_statistics, denormalise, normalise

Image = Float[Array, "height width channels"]
Known = Bool[Array, "height width channels"]
Synapse = TypeVar("Synapse", bound=eqx.Module)

_LAGRANGIANS = {"tanh": hamux.lagr_tanh, "relu": hamux.lagr_relu, "softmax": hamux.lagr_softmax}
_ADJOINTS: dict[str, hamux.Adjoint] = {"unrolled": hamux.Unrolled(), "implicit": hamux.Implicit()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvHAMConfig(Config):
    """The config of a `ConvHAM`.

    - `shape`: of an image, (height, width, channels).
    - `mean`, `std`: of its pixels, by which the neurons of the image show them as v = (p − mean) / std; one number, or
      one for each channel.
    - `classes`: the number of label neurons, 0 for none.
    - `channels`: of each block, which is one convolution and one pooled layer.
    - `kernel`: the side of the filters. `pool`: the side of the windows that are averaged; whole windows fill the image
      at every block.
    - `activation`: of the blocks: "tanh", "softmax" over the channels, or "relu". With "relu" the energy is bounded
      below only while the filters are small.
    - `memory`: the activation of the `memories` hidden neurons that see the last block and the label.
    - `betas`: the inverse temperatures of blocks, memory and label at the start. They are parameters of the model where
      the Lagrangian has one; relu has none.
    - `feedback`: γ, the factor by which each block speaks more softly than the one below, and the memory than the last.
    - `steps`: the number of sweeps over all layers, in a recall, in classification and in training.
    - `dt`: of every layer's update, at most 1, at which it goes to its minimum.
    - `gradient`: how training differentiates the sweeps: `hamux.Unrolled` or `hamux.Implicit`.

    **Raises** ValueError, naming the field, for a value of another type, out of range, or that does not fit the others.
    """

    shape: tuple[int, ...] = (28, 28, 1)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    classes: int = 10
    channels: tuple[int, ...] = (16, 32)
    kernel: int = 5
    pool: int = 2
    activation: Literal["tanh", "softmax", "relu"] = "tanh"
    memory: Literal["relu", "softmax", "tanh"] = "relu"
    memories: int = 256
    betas: tuple[float, float, float] = (1.0, 1.0, 1.0)
    feedback: float = 0.01
    steps: int = 2
    dt: float = 1.0
    gradient: Literal["unrolled", "implicit"] = "unrolled"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "channels", "kernel", "pool", "memories", "steps")
        if len(self.shape) != 3 or not self.channels:
            raise ValueError(
                f"shape is {self.shape} and channels is {self.channels}; expected (height, width, channels) and at "
                "least one block"
            )
        part = self.pool ** len(self.channels)
        if self.shape[0] % part or self.shape[1] % part:
            fitting = tuple(max(1, round(size / part)) * part for size in self.shape[:2])
            raise ValueError(
                f"{len(self.channels)} blocks that pool {self.pool} × {self.pool} do not divide images of "
                f"{self.shape[0]} × {self.shape[1]} into whole windows; multiples of {part} fit, such as "
                f"{fitting[0]} × {fitting[1]}"
            )
        check_statistics(self.mean, self.std, self.shape[2])
        if not (np.isfinite(self.betas).all() and min(self.betas) > 0):
            raise ValueError(f"betas is {self.betas}; expected three finite numbers greater than 0")
        if not 0 < self.feedback <= 1:
            raise ValueError(f"feedback is {self.feedback}; expected a number greater than 0 and at most 1")
        if not 0 < self.dt <= 1:
            raise ValueError(f"dt is {self.dt}; an update goes at most to the minimum of its layer, 0 < dt ≤ 1")


class _Scaled(eqx.Module):
    """(s/k) L(kx): its activation s g(kx) is s times as strong as that of L, at states that are k times as large."""

    lagrangian: Callable[..., Float[Array, ""]] = eqx.field(static=True)
    strength: float = eqx.field(static=True)
    gain: float = eqx.field(static=True)
    beta: Float[Array, ""] | None  # the inverse temperature of L, if it has one

    @property
    def convex(self) -> object:
        return hamux.declared(self._unscaled, "convex")

    @property
    def elementwise(self) -> object:
        return hamux.declared(self._unscaled, "elementwise")

    @property
    def tokenwise(self) -> object:
        return hamux.declared(self._unscaled, "tokenwise")

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        scaled: Array = self.strength / self.gain * self._unscaled(self.gain * x)
        return scaled

    @property
    def _unscaled(self) -> Partial:
        return Partial(self.lagrangian) if self.beta is None else Partial(self.lagrangian, beta=self.beta)


class ConvHAM(Classifier, Generator, Featured, Attributed):
    """Layers of neurons from the image up to its label, each joined to the next by a synapse that both feel.

        E = Σ_l (g_l·x_l − L_l(x_l)) − b·g_image − Σ_i g_conv,i·(W_i ⋆ g_pool,i−1 + b_i) − Σ_i g_pool,i·mean(g_conv,i)
            − g_memory·(W g_pool,n + b) − g_label·(V g_memory),  g_pool,0 = g_image

    The layers are "image" (identity), "conv1", "pool1", … (`activation`), "memory" (`memory`) and "label" (softmax). E
    is linear in the g of each layer while the others are held. So `hamux.GaussSeidel`, which takes one layer after
    another to its minimum, never raises it. At dt = 1 a sweep upward from states at rest is the pass of a convolutional
    network, to which softmax layers at rest add constants. In later sweeps each layer hears the one above. What is
    known is held: the image to classify it, some pixels to complete them, the label to generate. Max pooling
    (`hamux.PoolSynapse`) is not linear in the layer it pools, and is left out.

    The same weights lead up and down, and what comes down must not drown what came up. So the activations of the first
    block are 1/(kernel² √channels) as strong: what its windows say of a pixel adds up to around 1. Those of each
    further block, and of the memory, are γ = `feedback` as strong as those of the one before. The pooled layers and the
    label make up for it and take their states as much larger, so that the way up is as without. Weak feedback: Xie &
    Seung, "Equivalence of Backpropagation and Contrastive Hebbian Learning in a Layered Network", 2003.

    Krotov, "Hierarchical Associative Memory", 2021.
    """

    model_type: ClassVar[str] = "conv-ham"
    config: ConvHAMConfig = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config: ConvHAMConfig, *, key: PRNGKeyArray) -> None:
        keys = iter(jr.split(key, len(config.channels) + 3))
        beta, memory_beta, label_beta = config.betas

        def neurons(
            activation: str, shape: tuple[int, ...], beta: float, strength: float = 1.0, gain: float = 1.0
        ) -> hamux.Neurons:
            inverse_temperature = None if activation == "relu" else jnp.asarray(beta)
            return hamux.Neurons(_Scaled(_LAGRANGIANS[activation], strength, gain, inverse_temperature), shape)

        def convolution(
            channels: int, below: tuple[int, ...], side: int | tuple[int, ...], padding: str
        ) -> hamux.ConvSynapse:
            synapse = hamux.ConvSynapse(next(keys), channels, below[-1], side, padding=padding, use_bias=True)
            return _unit_rows(synapse, synapse.W[0].size)

        layers = {"image": hamux.Neurons(hamux.lagr_identity, config.shape)}
        synapses: dict[str, Callable[..., Array]] = {"mean": hamux.BiasSynapse(next(keys), config.shape)}
        connections: list[tuple[tuple[str, ...], str]] = [(("image",), "mean")]
        below, size, strength = "image", config.shape, 1 / (config.kernel**2 * math.sqrt(config.channels[0]))
        for i, channels in enumerate(config.channels, 1):
            conv, pool = f"conv{i}", f"pool{i}"
            pooled = (size[0] // config.pool, size[1] // config.pool, channels)
            synapses[conv] = convolution(channels, size, config.kernel, "SAME")
            synapses[pool] = hamux.PoolSynapse(config.pool)
            layers[conv] = neurons(config.activation, (*size[:2], channels), beta, strength)
            layers[pool] = neurons(config.activation, pooled, beta, gain=1 / strength)
            connections += [((below, conv), conv), ((conv, pool), pool)]
            below, size, strength = pool, pooled, strength * config.feedback
        synapses["parts"] = convolution(config.memories, size, size[:2], "VALID")
        layers["memory"] = neurons(config.memory, (1, 1, config.memories), memory_beta, strength)
        connections += [((below, "memory"), "parts")]
        if config.classes:
            names = hamux.DenseSynapse(next(keys), config.memories, config.classes)
            synapses["names"] = _unit_rows(names, config.memories)
            layers["label"] = neurons("softmax", (config.classes,), label_beta, gain=1 / strength)
            connections += [(("memory", "label"), "names")]
        self.config = config
        self.ham = hamux.HAM(layers, synapses, connections)

    def start(
        self,
        x: Image,
        known: Known | None = None,
        *,
        label: Int[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[States, Clamp]:
        """Returns the states after one sweep upward, from layers at rest or, with a `key`, from normal numbers."""
        clamp: Clamp = {} if known is None else {"image": known}
        xs = self._rest(key) | self._showing(x)
        if label is not None:
            xs |= {"label": 20 * jax.nn.one_hot(label, self.config.classes, dtype=self._dtype)}
            clamp |= {"label": True}
        return self._swept(xs, 1, up=True, clamp=clamp | {"image": True}), clamp

    def decode(self, xs: States) -> Image:
        return denormalise(xs["image"], self.config.mean, self.config.std)

    def scores(self, xs: States) -> Float[Array, " classes"] | None:
        """Returns the logits of the label's softmax."""
        if not self.config.classes:
            return None
        label = self._lagrangian("label")
        assert label.beta is not None
        return label.gain * (label.beta * xs["label"])

    @property
    def optimizer(self) -> tuple[str, float]:
        return "muon", 0.02

    def dynamics(self) -> Dynamics:
        """A recall takes `steps` sweeps, each down from the label and up again."""
        return Dynamics(method=self._sweep(), steps=self.config.steps, adjoint=_ADJOINTS[self.config.gradient])

    def closest(self, x: Image) -> Image:
        """Returns the image that the most active memory calls up."""
        active = jnp.argmax(_shares(self, self._seen(x)))
        images: Array = _called_up(
            self, jax.nn.one_hot(active, self.config.memories, dtype=self._dtype)[None, None, None]
        )
        return images[0]

    def classify(self, x: ArrayLike) -> Float[Array, " classes"]:
        """Returns the logits of the label's softmax after `steps` sweeps upward that hold the image.

        **Raises** ValueError for a memory without label neurons, and if `x` does not fit.
        """
        self.check_classes()
        scores = self.scores(self._seen(x))
        assert scores is not None
        return scores

    def features(self, x: ArrayLike) -> Float[Array, " dim"]:
        """Returns the last pooled layer beside the memory layer after `steps` sweeps upward that hold the image.

        Each is divided by its root mean square. **Raises** as `recall`.
        """
        return _features(self, self._seen(x))

    def attribution(self, x: ArrayLike | None, known: ArrayLike | None = None) -> Float[Array, " memories"]:
        """Returns each memory's share of the activity of all of them; 0 if none is active."""
        return _shares(self, self.recall(x, known, energies=False).xs)

    def memories(self, which: slice = slice(None)) -> Float[Array, "memories height width channels"]:
        """Returns the image that each memory calls up: while it alone is active, the other layers descend from rest."""
        images: Array = _called_up(self, jnp.eye(self.config.memories, dtype=self._dtype)[which, None, None])
        return images

    def head(self) -> Callable[..., Array]:
        """Returns the synapse between memory and label."""
        self.check_classes()
        return self.ham.synapses["names"]

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """Returns the same layers up to the memory, with so many label neurons and random weights to them."""
        config = self.config.for_classes(classes)
        self.check_ham()

        def kept(model: ConvHAM) -> list[object]:
            layers = [layer for name, layer in model.ham.neurons.items() if name != "label"]
            label = [model._lagrangian("label").beta] if self.config.classes else []
            return [*layers, *label, *(each for name, each in model.ham.synapses.items() if name != "names")]

        fresh = jax.tree.map(lambda leaf: leaf.astype(self._dtype), type(self)(config, key=key))
        headed: Self = eqx.tree_at(kept, fresh, kept(self))
        return headed

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.result_type(*jax.tree.leaves(self.ham.synapses["mean"]))

    def _lagrangian(self, layer: str) -> _Scaled:
        found = self.ham.neurons[layer].lagrangian
        assert isinstance(found, _Scaled)
        return found

    def _rest(self, key: PRNGKeyArray | None = None) -> States:
        """All states 0 or, with a `key`, normal numbers."""
        return {name: state.astype(self._dtype) for name, state in self.ham.init_states(key=key).items()}

    def _showing(self, x: Image) -> States:
        """The image's neurons as they show `x`."""
        return {"image": normalise(x, self.config.mean, self.config.std).astype(self._dtype)}

    def _sweep(self, *, up: bool = False) -> hamux.GaussSeidel:
        """Upward from the image; or down to it from the label, which has just been updated, and up again."""
        order = list(dict.fromkeys(name for layers, _ in self.ham.connections for name in layers))
        within = order[1 : order.index("memory") + 1]
        return hamux.GaussSeidel(order if up else [*reversed(within), *order], dt=self.config.dt)

    def _swept(self, xs: States, steps: int, *, up: bool = False, clamp: Clamp) -> States:
        adjoint, method = _ADJOINTS[self.config.gradient], self._sweep(up=up)
        end = hamux.descend(self.ham, xs, steps=steps, method=method, clamp=clamp, adjoint=adjoint, energies=False)
        return end.xs

    def _seen(self, x: ArrayLike) -> States:
        """The states after `steps` sweeps upward that hold the image."""
        image, _ = self.checked(x)
        xs: States = _seen(self, image)
        return xs


@compiled
def _seen(model: ConvHAM, x: Image) -> States:
    return model._swept(model._rest() | model._showing(x), model.config.steps, up=True, clamp={"image": True})


@compiled
def _features(model: ConvHAM, xs: States) -> Float[Array, " dim"]:
    gs = model.ham.activations(xs)
    parts = [gs[f"pool{len(model.config.channels)}"].ravel(), gs["memory"].ravel()]
    return jnp.concatenate([part / jnp.sqrt(jnp.mean(part**2) + 1e-12) for part in parts])


@compiled
def _shares(model: ConvHAM, xs: States) -> Float[Array, " memories"]:
    activity = jnp.abs(model.ham.neurons["memory"].activations(xs["memory"]).ravel())
    return activity / jnp.maximum(jnp.sum(activity), jnp.finfo(activity.dtype).tiny)


@compiled
def _called_up(
    model: ConvHAM, active: Float[Array, "active 1 1 memories"]
) -> Float[Array, "active height width channels"]:
    def image(state: Float[Array, "1 1 memories"]) -> Image:
        xs, method = model._rest() | {"memory": state}, model._sweep()
        return model.decode(
            hamux.relax(model.ham, xs, tol=1e-4, max_steps=200, method=method, clamp={"memory": True}).xs
        )

    images: Array = jax.lax.map(image, active, batch_size=64)
    return images


def _unit_rows(synapse: Synapse, size: int) -> Synapse:
    """The synapse with rows of length 1, of `size` numbers, in place of a deviation of 0.02."""
    scaled: Synapse = jax.tree.map(lambda w: w / (0.02 * size**0.5), synapse)
    return scaled
