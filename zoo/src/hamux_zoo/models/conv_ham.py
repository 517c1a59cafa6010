"""Convolutional hierarchical associative memory: an image and its label at the two ends of one energy."""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

import hamux

from .._model import (
    RetrievedPattern,
    ZooModel,
    check_fields,
    check_head,
    check_mask,
    check_normalisation,
    check_pattern,
    denormalised,
    normalised,
    only_known,
    retrieved,
    unit_rows,
)

Image = Float[Array, "height width channels"]
Mask = Bool[Array, "height width channels"]
States = dict[str, Float[Array, "..."]]

_LAGRANGIANS: dict[str, Any] = {
    "tanh": hamux.lagr_tanh,
    "relu": hamux.lagr_relu,
    "softmax": hamux.lagr_softmax,
}
_ADJOINTS: dict[str, Any] = {"unrolled": hamux.Unrolled(), "implicit": hamux.Implicit()}


@dataclasses.dataclass(frozen=True)
class ConvHAMConfig:
    """What a convolutional HAM is made of.

    - `shape`: of an image, (height, width, channels); `mean`, `std`: of its pixels in [0, 1], one a channel or one for
      all, by which the neurons of the image show them as v = (p − mean) / std.
    - `classes`: the number of label neurons, 0 for none.
    - `channels`: of each block, one convolution and one pooled layer. `kernel`: the side of a convolution's filters;
      `pool`: of the windows whose average is pooled, which part the image into whole windows at every block.
    - `activation`: of the blocks, "tanh", "softmax" over the channels, or "relu", under which E is bounded below only
      while the filters are small.
    - `memory`: the activation of the `memories` hidden neurons that see the last block and the label.
    - `betas`: the inverse temperatures that blocks, memory and label start from; parameters of the model, where their
      Lagrangian has one (relu has none).
    - `feedback`: γ, by which every block speaks more weakly than the one below, and the memory than the last.
    - `steps`: sweeps over all layers when classifying and training. `dt`: of every layer's update, at most 1; at 1 it
      goes to its minimum.
    - `gradient`: how the training differentiates the sweeps, "unrolled" or "implicit", see `hamux.Unrolled` and
      `hamux.Implicit`.

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
    betas: tuple[float, ...] = (1.0, 1.0, 1.0)
    feedback: float = 0.01
    steps: int = 2
    dt: float = 1.0
    gradient: Literal["unrolled", "implicit"] = "unrolled"

    def __post_init__(self):
        check_fields(self)
        sizes = {name: getattr(self, name) for name in ("kernel", "pool", "memories", "steps")}
        sizes |= {f"{name}[{i}]": size for name in ("shape", "channels") for i, size in enumerate(getattr(self, name))}
        if wrong := {name: size for name, size in sizes.items() if size < 1}:
            raise ValueError(f"{wrong}: whole numbers of at least 1 are expected")
        if self.classes < 0:
            raise ValueError(f"classes is {self.classes}; it is 0, for none, or a whole number above")
        if len(self.shape) != 3 or not self.channels:
            raise ValueError(
                f"shape is {self.shape}, channels {self.channels}; expected (height, width, channels) and one block "
                "at least"
            )
        part = self.pool ** len(self.channels)
        if self.shape[0] % part or self.shape[1] % part:
            fitting = tuple(max(1, round(size / part)) * part for size in self.shape[:2])
            raise ValueError(
                f"{len(self.channels)} blocks that pool {self.pool} × {self.pool} do not part images of "
                f"{self.shape[0]} × {self.shape[1]} into whole windows; multiples of {part} fit, such as "
                f"{fitting[0]} × {fitting[1]}"
            )
        check_normalisation(self)
        if len(self.betas) != 3 or not all(math.isfinite(beta) and beta > 0 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; expected three numbers above 0, of blocks, memory and label")
        if not 0 < self.feedback <= 1:
            raise ValueError(f"feedback is {self.feedback}; it is greater than 0 and at most 1")
        if not 0 < self.dt <= 1:
            raise ValueError(f"dt is {self.dt}; an update goes up to the minimum of its layer, 0 < dt ≤ 1")


class _Scaled(eqx.Module):
    """(s/k) L(kx), whose activation s g(kx) is s times as strong as that of L, at states k times as large."""

    lagrangian: Any = eqx.field(static=True)
    strength: float = eqx.field(static=True)
    gain: float = eqx.field(static=True)
    beta: Float[Array, ""] | None  # the inverse temperature of L, where it has one

    @property
    def elementwise(self) -> bool | None:
        return getattr(self.lagrangian, "elementwise", None)

    @property
    def tokenwise(self) -> bool | None:
        return getattr(self.lagrangian, "tokenwise", None)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        options = {} if self.beta is None else {"beta": self.beta}
        return self.strength / self.gain * self.lagrangian(self.gain * x, **options)


class ConvHAM(ZooModel):
    """Layers of neurons from the image up to its label, each joined to the next by a synapse that both feel:

        E = Σ_l (g_l·x_l − L_l(x_l)) − b·g_image − Σ_i g_conv,i·(W_i ⋆ g_pool,i−1 + b_i) − Σ_i g_pool,i·mean(g_conv,i)
            − g_memory·(W g_pool,n + b) − g_label·(V g_memory),  g_pool,0 = g_image

    "image" (identity), "conv1", "pool1", … (`activation`), "memory" (`memory`), "label" (softmax). E is linear in the
    g of every layer while the others are held, so that `hamux.GaussSeidel`, which takes one layer after another to its
    minimum, never raises it. A sweep upward from states at rest is, at dt = 1, the pass of a convolutional network, to
    which softmax layers at rest add constants; in the sweeps after it every layer hears the one above. What is known is
    held: the image, to classify; some pixels, to complete them; the label, to generate. Max pooling
    (`hamux.PoolSynapse`) is not linear in the layer it pools, and left out.

    The same weights lead up and down, and what comes down must not drown what came up. So the activations of the first
    block are 1/(kernel² √channels) as strong, that what its windows say of a pixel adds up to around 1; those of every
    further block, and of the memory, γ = `feedback` as strong as of the one before. The pooled layers and the label
    make up for it, and take their states as much larger: upward all is as without. Weak feedback: Xie & Seung,
    "Equivalence of Backpropagation and Contrastive Hebbian Learning in a Layered Network", 2003.

    One image is floats in [0, 1] `(height, width, channels)`; batches by `jax.vmap`.

    Krotov, "Hierarchical Associative Memory", 2021.
    """

    model_type: ClassVar[str] = "conv-ham"
    optimizer: ClassVar[str] = "muon"
    learning_rate: ClassVar[float] = 0.02
    config: ConvHAMConfig = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config: ConvHAMConfig, *, key: PRNGKeyArray):
        keys = iter(jr.split(key, len(config.channels) + 3))
        beta, memory_beta, label_beta = config.betas

        def neurons(activation: str, shape: tuple[int, ...], beta: float, strength=1.0, gain=1.0) -> hamux.Neurons:
            inverse_temperature = None if activation == "relu" else jnp.asarray(float(beta))
            return hamux.Neurons(_Scaled(_LAGRANGIANS[activation], strength, gain, inverse_temperature), shape)

        def convolution(channels: int, below: tuple[int, ...], side: int | tuple[int, ...], padding: str) -> Any:
            synapse = hamux.ConvSynapse(next(keys), channels, below[-1], side, padding=padding, use_bias=True)
            return unit_rows(synapse, synapse.W[0].size)

        layers = {"image": hamux.Neurons(hamux.lagr_identity, config.shape)}
        synapses: dict[str, Any] = {"mean": hamux.BiasSynapse(next(keys), config.shape)}
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
            synapses["names"] = unit_rows(names, config.memories)
            layers["label"] = neurons("softmax", (config.classes,), label_beta, gain=1 / strength)
            connections += [(("memory", "label"), "names")]
        self.config = config
        self.ham = hamux.HAM(layers, synapses, connections)

    def encode(self, x: Image) -> States:
        """The states in which the image's neurons show `x` and all others are at rest.

        **Raises** ValueError when `x` is not of the config's shape, not of floats, or holds NaN.
        """
        check_pattern(x, self.config.shape)
        return _encode(self, x)

    def decode(self, xs: Mapping[str, Float[Array, "..."]]) -> Image:
        """The image that its neurons show, in [0, 1] but for over- and undershoots."""
        return denormalised(self.config, xs["image"])

    def classify(self, x: Image) -> Float[Array, " classes"]:
        """The logits of the label's softmax after `steps` sweeps upward with the image held.

        **Raises** ValueError for a model without label neurons, and as `encode`.
        """
        self.head()
        return self._scores(self._upward(x))

    def retrieve(
        self,
        x: Image,
        mask: Mask | None = None,
        *,
        tol: float = 1e-4,
        max_steps: int = 200,
        trajectory: bool = False,
    ) -> RetrievedPattern:
        """Descend from `x` to the fixed point it recalls, by `hamux.relax`.

        `mask` is True where a pixel is known: it is held. What `x` has elsewhere is not looked at; those pixels start
        at 0.5. Without a mask every pixel starts as it is, and may move. All layers above have seen the start in one
        sweep upward; a step is a sweep down and up again. **Raises** ValueError when `x` or `mask` do not fit, or hold
        NaN.
        """
        start, clamp = self._given(x, mask)
        options: dict[str, Any] = {"method": self._sweep(down=True), "clamp": clamp, "trajectory": trajectory}
        end = hamux.relax(self.ham, start, tol=tol, max_steps=max_steps, **options)
        return retrieved(self, end, self._scores(end.xs), x, mask)

    def watch(
        self, x: Image, known: Mask | None = None, *, steps: int, dt: float = 1.0
    ) -> tuple[Float[Array, "steps_plus_1 height width channels"], Float[Array, " steps_plus_1"]]:
        """What is shown and the energy, at the start and after each of `steps` sweeps of `retrieve`, see `ZooModel`."""
        start, clamp = self._given(x, known)
        model = self.with_config(dt=dt * self.config.dt)
        path = model._swept(start, steps, clamp, down=True, trajectory=True)
        shown: Any = retrieved(model, path, None, x, known)
        return shown.trajectory, shown.energies

    def reconstruct(self, image: Image, mask: Mask) -> Image:
        """The image at the fixed point, its pixels held but for those that `mask` hides (True), see `retrieve`."""
        check_mask(mask, self.config.shape, "hidden")
        return self.retrieve(image, ~jnp.asarray(mask)).x

    def generate(
        self, label: int | Int[Array, ""], key: PRNGKeyArray, *, tol: float = 1e-4, max_steps: int = 200
    ) -> Image:
        """The image to which random states, drawn by `key`, descend while the label is held.

        Between label and image lie all blocks, and each hears the one above as weakly as `feedback` says: where that is
        small, the label decides little. **Raises** ValueError for a class that there is not, and for a model without
        label neurons; TypeError for a label that is no whole number.
        """
        self.head()
        if not isinstance(label, jax.core.Tracer) and not 0 <= operator.index(label) < self.config.classes:
            raise ValueError(f"label is {label}; the model knows classes 0 to {self.config.classes - 1}")
        sure = 20 * jax.nn.one_hot(label, self.config.classes, dtype=self._dtype)
        return self._called_up(self._at_rest(key) | {"label": sure}, "label", tol, max_steps)

    def attribution(self, x: Image) -> Float[Array, " memories"]:
        """Each memory's share, summing to 1, of the activity of all of them after `steps` sweeps upward with the image
        held; 0 where none is active. **Raises** as `encode`."""
        activity = jnp.abs(self.ham.activations(self._upward(x))["memory"].ravel())
        return activity / jnp.maximum(jnp.sum(activity), jnp.finfo(activity.dtype).tiny)

    def memories(
        self, which: slice = slice(None), *, tol: float = 1e-4, max_steps: int = 200
    ) -> Float[Array, "memories height width channels"]:
        """Each of these memories as the image that it calls up: all other layers at rest descend while it alone is
        active."""
        return _memories(self, jnp.eye(self.config.memories, dtype=self._dtype)[which, None, None], tol, max_steps)

    def energy_tree(self, x: Image, mask: Mask | None = None) -> PyTree[Float[Array, " steps_plus_1"]]:
        """The energy in its parts, as `hamux.HAM.energy_tree`, at the start and after each of the first `steps` sweeps
        of `retrieve`. **Raises** ValueError when `x` or `mask` do not fit."""
        start, clamp = self._given(x, mask)
        path: Any = self._swept(start, self.config.steps, clamp, down=True, trajectory=True).trajectory
        return _energy_trees(self.ham, path)

    def rehearse(
        self, x: Image, known: Mask | None, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "1 height width channels"], Float[Array, "1 classes"] | None]:
        """What is shown after `steps` sweeps down and up, as `retrieve` makes them. See `ZooModel`."""
        start, clamp = self._given(x, known)
        end = self._swept(start, self.config.steps, clamp, down=True).xs
        scores = self._scores(end)
        return self.decode(end)[None], None if scores is None else scores[None]

    def head(self) -> Any:
        """The synapse between memory and label."""
        if not self.config.classes:
            raise ValueError("this memory has no label neurons; give it some with with_head(classes=…, key=…)")
        return self.ham.synapses["names"]

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """The same layers from the image to the memory, with new label neurons, so many, and random weights to them."""
        check_head(classes)
        self._check_ham()
        fresh = type(self)(dataclasses.replace(self.config, classes=classes), key=key)
        fresh = jax.tree.map(lambda leaf: leaf.astype(self._dtype), fresh)

        def kept(model: ConvHAM) -> list[Any]:
            layers = [model.ham.neurons[name] for name in model.ham.neurons if name != "label"]
            return layers + [model.ham.synapses[name] for name in model.ham.synapses if name != "names"]

        return eqx.tree_at(kept, fresh, kept(self))

    def _scores(self, xs: States) -> Any:
        """The logits of the label's softmax, None without label neurons."""
        if not self.config.classes:
            return None
        label: Any = self.ham.neurons["label"].lagrangian
        return label.gain * (label.beta * xs["label"])

    @property
    def _dtype(self) -> Any:
        bias: Any = self.ham.synapses["mean"]
        return bias.b.dtype

    def _at_rest(self, key: PRNGKeyArray | None = None) -> States:
        """All states 0; with a `key`, normal numbers."""
        return {name: state.astype(self._dtype) for name, state in self.ham.init_states(key=key).items()}

    def _sweep(self, *, down: bool) -> hamux.GaussSeidel:
        """Upward from the image; or downward to it from the label, which has just been updated, and up again."""
        up = list(dict.fromkeys(name for layers, _ in self.ham.connections for name in layers))
        within = up[1 : up.index("memory") + 1]
        return hamux.GaussSeidel([*reversed(within), *up] if down else up, dt=self.config.dt)

    def _swept(self, xs: States, steps: int, clamp: Any, *, down: bool, trajectory: bool = False) -> hamux.Retrieval:
        adjoint, method = _ADJOINTS[self.config.gradient], self._sweep(down=down)
        return hamux.descend(
            self.ham, xs, steps=steps, method=method, clamp=clamp, adjoint=adjoint, trajectory=trajectory
        )

    def _upward(self, x: Image) -> States:
        """The states after `steps` sweeps upward with the image held."""
        return self._swept(self.encode(x), self.config.steps, {"image": True}, down=False).xs

    def _given(self, x: Image, known: Mask | None) -> tuple[States, dict[str, Any] | None]:
        """Where a retrieval from `x` starts, and what it holds."""
        if known is None:
            return _seen(self, self.encode(x)), None
        check_mask(known, self.config.shape, "known")
        return _seen(self, self.encode(only_known(x, known))), {"image": known}

    def _called_up(self, xs: States, layer: str, tol: float, max_steps: int) -> Image:
        """The image to which the states descend while `layer` is held."""
        method = self._sweep(down=True)
        end = hamux.relax(self.ham, xs, tol=tol, max_steps=max_steps, method=method, clamp={layer: True})
        return self.decode(end.xs)


# Four programs; operation by operation a first image would take seconds longer.
@jax.jit
def _encode(model: ConvHAM, x: Image) -> States:
    return model._at_rest() | {"image": normalised(model.config, x).astype(model._dtype)}


@jax.jit
def _seen(model: ConvHAM, xs: States) -> States:
    """The states after one sweep upward from the image, which is held."""
    return hamux.descend(model.ham, xs, steps=1, method=model._sweep(down=False), clamp={"image": True}).xs


@functools.partial(jax.jit, static_argnums=3)
def _memories(
    model: ConvHAM, active: Array, tol: float, max_steps: int
) -> Float[Array, "active height width channels"]:
    def called_up(state):
        return model._called_up(model._at_rest() | {"memory": state}, "memory", tol, max_steps)

    return jax.lax.map(called_up, active, batch_size=64)


@jax.jit
def _energy_trees(ham: hamux.HAM, path: States) -> PyTree[Float[Array, " steps_plus_1"]]:
    return jax.vmap(lambda xs: ham.energy_tree(ham.activations(xs), xs))(path)
