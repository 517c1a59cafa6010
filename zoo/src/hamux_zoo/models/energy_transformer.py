"""Energy Transformer: the patches of an image as tokens that descend one energy, of attention and of memories."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

import hamux

from ..config import Config
from ..files import Layout, read_archive
from ..memory import Attributed, Clamp, Classifier, Dynamics, Featured, States, compiled, unexplained
from ..pixels import check_statistics, denormalise, from_patches, normalise, patchwork, per_channel, to_patches
from ..pretrained import filled, skeleton_of

Image = Float[Array, "height width channels"]
Known = Bool[Array, "height width channels"]
Tokens = Float[Array, "1+patches dim"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergyTransformerConfig(Config):
    """The config of an `EnergyTransformer`.

    - `shape`: of an image, (height, width, channels).
    - `mean`, `std`: of its pixels, by which they are normalised; one number, or one for each channel.
    - `patch`: the side of a patch in pixels; it divides height and width. Each patch is a token; CLS is one more.
    - `dim`: D, the size of a token. `heads`, `head_dim`: of the attention. `memories`: M, of the Hopfield energy.
    - `steps`, `alpha`: the number of steps x ← x − α ∂E/∂g, and their size.
    - `attend_self`: whether a token attends to itself, as in the authors' JAX code; eq. 3 of the paper leaves it out.
    - `classes`: of the head, 0 for none. `pool`: whether the head reads the CLS token or the mean of the others.
    - `masked`: the shares of the patches that are hidden in training, one of which is drawn for each image, and with
      which the model is measured.

    **Raises** ValueError, naming the field, for a value of another type, out of range, or that does not fit the others.
    """

    shape: tuple[int, ...] = (32, 32, 3)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    patch: int = 4
    dim: int = 128
    heads: int = 4
    head_dim: int = 32
    memories: int = 512
    steps: int = 12
    alpha: float = 0.1
    attend_self: bool = True
    pool: Literal["cls", "mean"] = "cls"
    masked: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "patch", "dim", "heads", "head_dim", "memories", "steps")
        if len(self.shape) != 3 or self.shape[0] % self.patch or self.shape[1] % self.patch:
            raise ValueError(
                f"patches of {self.patch} × {self.patch} do not fill images of shape {self.shape}; expected (height, "
                f"width, channels), with height and width multiples of {self.patch}"
            )
        check_statistics(self.mean, self.std, self.shape[2])
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}; expected a finite number greater than 0")
        if not (self.masked and all(0 <= share <= 1 for share in self.masked)):
            raise ValueError(f"masked is {self.masked}; expected at least one share from 0 to 1")

    @property
    def grid(self) -> tuple[int, int]:
        """The number of patches from top to bottom and from left to right."""
        return self.shape[0] // self.patch, self.shape[1] // self.patch

    @property
    def patches(self) -> int:
        return math.prod(self.grid)


# The axes of the authors' arrays; `from_published` checks that "pixels" are 3 · patch² and "tokens" 1 + side², for
# side² patches.
_IMAGENET = {
    "Wk": ("heads", "head_dim", "dim"),
    "Wq": ("heads", "head_dim", "dim"),
    "Xi": ("dim", "memories"),
    "Wenc": ("pixels", "dim"),
    "Benc": ("dim",),
    "Wdec": ("dim", "pixels"),
    "Bdec": ("pixels",),
    "LNORM_gamma": (),
    "LNORM_bias": ("dim",),
    "CLS_token": ("dim",),
    "MASK_token": ("dim",),
    "POS_embed": ("tokens", "dim"),
}


class EnergyTransformer(Classifier, Featured, Attributed):
    """The tokens x of an image descend one energy of g = LayerNorm(x), E = E_attention + E_Hopfield.

        E_attention = −(1/β) Σ_h Σ_q log Σ_k exp(β K_hk · Q_hq),  K = W_K g, Q = W_Q g, β = 1/√head_dim
        E_Hopfield  = −½ Σ relu(ξ g)²
        x ← x − α ∂E/∂g

    The HAM has one layer, "tokens", (1 + patches, dim), with the Lagrangian of the layer norm (one γ, a vector δ) and
    no leak, and two synapses, "attention" and "memory". A linear encoder turns a patch into a token; a patch of which
    any pixel is not known becomes the MASK token. CLS is put before them, and a position is added to each. A linear
    decoder turns g back into patches, and a head reads classes from it.

    Hence scattered unknown pixels hide nearly every patch: hide whole patches. Known pixels come back as they were. A
    recall takes the `steps` that the model was trained with. The energy is not certified to fall for this α; `energies`
    shows that it does.

    Hoover, Liang, Pham, Panda, Strobelt, Chau, Zaki & Krotov, "Energy Transformer", NeurIPS 2023.
    """

    model_type: ClassVar[str] = "energy-transformer"
    published: ClassVar[Mapping[str, Layout]] = {"et-imagenet": _IMAGENET}
    config: EnergyTransformerConfig = eqx.field(static=True)
    encoder: eqx.nn.Linear
    decoder: eqx.nn.Linear
    cls_token: Float[Array, " dim"]
    mask_token: Float[Array, " dim"]
    position: Float[Array, "1+patches dim"]
    ham: hamux.HAM
    classifier: eqx.nn.Linear | None

    def __init__(self, config: EnergyTransformerConfig, *, key: PRNGKeyArray) -> None:
        keys = iter(jr.split(key, 8))
        pixels = config.patch**2 * config.shape[2]
        self.config = config
        self.encoder = eqx.nn.Linear(pixels, config.dim, key=next(keys))
        self.decoder = eqx.nn.Linear(config.dim, pixels, key=next(keys))
        self.cls_token = 0.02 * jr.normal(next(keys), (config.dim,))
        self.mask_token = 0.02 * jr.normal(next(keys), (config.dim,))
        self.position = _smooth_positions(next(keys), config)
        attention = hamux.AttentionSynapse(
            next(keys), config.dim, config.heads, config.head_dim, attend_self=config.attend_self
        )
        memory = hamux.HopfieldSynapse(next(keys), config.dim, config.memories)
        layer_norm = Partial(hamux.lagr_layernorm, gamma=jnp.ones(()), delta=jnp.zeros(config.dim))
        self.ham = hamux.HAM(
            neurons={"tokens": hamux.Neurons(layer_norm, (1 + config.patches, config.dim), leak=0.0)},
            # Rows of length 1 in place of a deviation of 0.02: a unit sees g's, numbers around 1, as one.
            synapses=jax.tree.map(
                lambda w: w / (0.02 * math.sqrt(config.dim)), {"attention": attention, "memory": memory}
            ),
            connections=[(("tokens",), "attention"), (("tokens",), "memory")],
        )
        self.classifier = eqx.nn.Linear(config.dim, config.classes, key=next(keys)) if config.classes else None

    def start(
        self,
        x: Image,
        known: Known | None = None,
        *,
        label: Int[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[States, Clamp]:
        """Returns the tokens of an image; with a `key`, noise as large as the MASK token itself is added to it."""
        config = self.config
        pixels = normalise(x.astype(self.position.dtype), config.mean, config.std)
        tokens = jax.vmap(self.encoder)(to_patches(pixels, config.patch))
        if known is not None:
            hidden = ~jnp.all(to_patches(known, config.patch), axis=-1, keepdims=True)
            mask = jnp.broadcast_to(self.mask_token, tokens.shape)
            if key is not None:
                size = jnp.sqrt(jnp.mean(self.mask_token**2))
                mask = mask + size * jr.normal(key, mask.shape, mask.dtype)
            tokens = jnp.where(hidden, mask, tokens)
        return {"tokens": jnp.concatenate([self.cls_token[None], tokens]) + self.position}, {}

    def decode(self, xs: States) -> Image:
        patches = jax.vmap(self.decoder)(self.ham.activations(xs)["tokens"][1:])
        image = from_patches(patches, self.config.patch, self.config.grid[0])
        return denormalise(image, self.config.mean, self.config.std)

    def scores(self, xs: States) -> Float[Array, " classes"] | None:
        """Returns the head's logits."""
        if self.classifier is None:
            return None
        g = self.ham.activations(xs)["tokens"]
        return self.classifier(g[0] if self.config.pool == "cls" else jnp.mean(g[1:], axis=0))

    @property
    def optimizer(self) -> tuple[str, float]:
        return "muon", 0.02

    def dynamics(self) -> Dynamics:
        step = hamux.Explicit(self.config.alpha)
        return Dynamics(method=step, steps=self.config.steps, adjoint=hamux.Unrolled(every=1))

    def tokens(self, x: ArrayLike | None, known: ArrayLike | None = None) -> Float[Array, "steps_plus_1 1+patches dim"]:
        """Returns the tokens' activations g at the start and after each step, CLS first. **Raises** as `recall`."""
        path = self.recall(x, known, path=True, energies=False).path
        assert path is not None
        return jax.vmap(lambda xs: _activations(self, xs))(path.xs)

    def strangeness(self, x: ArrayLike) -> Float[Array, ""]:
        """Returns the share of an image that two recalls do not explain, each of which hides every second patch.

        **Raises** as `recall`.
        """
        image, _ = self.checked(x)
        known = self._pixels_of(jnp.indices(self.config.grid).sum(axis=0).ravel() % 2 == 0)
        hidden, held = (self.recall(image, mask, energies=False).x for mask in (known, ~known))
        return unexplained(image, jnp.where(known, held, hidden))

    def features(self, x: ArrayLike) -> Float[Array, " features"]:
        """Returns what the patches' tokens are like on the way.

        That is their mean and standard deviation over the image at the start and after each step; and their mean over
        each ninth of the image (each cell of a grid of 3 × 3) at the start, half-way, and at the end. For other
        features take `tokens`. **Raises** as `recall`.
        """
        return _summary(self, self.tokens(x)[:, 1:])

    def attention(
        self, x: ArrayLike | None, known: ArrayLike | None = None
    ) -> Float[Array, "steps_plus_1 heads 1+patches 1+patches"]:
        """Returns how much each token, the third axis, attends to each, the fourth, at the start and after each step.

        **Raises** as `recall`.
        """
        synapse = self.ham.synapses["attention"]
        assert isinstance(synapse, hamux.AttentionSynapse)
        return jax.vmap(synapse.attention)(self.tokens(x, known))

    def attribution(self, x: ArrayLike | None, known: ArrayLike | None = None) -> Float[Array, " memories"]:
        """Returns each memory's share of what the memories pull at the tokens after the last step, on average.

        The shares sum to 1. **Raises** as `recall`.
        """
        return _shares(self, self._end(x, known))

    def _end(self, x: ArrayLike | None, known: ArrayLike | None) -> Tokens:
        """The tokens' activations after the last step."""
        return _activations(self, self.recall(x, known, energies=False).xs)

    def memories(self, which: slice = slice(None)) -> Float[Array, "memories patch patch channels"]:
        """Returns some of the memories ξ of the Hopfield energy as the patches that they add to an image.

        They are decoded as g is, but without the decoder's bias and the mean, and so are differences of pixels.
        `hamux_zoo.show.plots.memories` draws them.
        """
        side = self.config.patch
        patches = rearrange(self._memory.xi[0][which] @ self.decoder.weight.T, "m (h w c) -> m h w c", h=side, w=side)
        return patches * per_channel(self.config.std, patches)

    def masks(self, count: int) -> dict[str, Bool[np.ndarray, "count height width channels"]]:
        """Returns masks that hide the config's shares of the patches, "masked_50" for a half."""
        config = self.config
        shares = [share for share in config.masked if round(share * config.patches)]
        return {f"masked_{100 * share:g}": patchwork(config.shape, config.patch, share, count) for share in shares}

    def hide(self, key: PRNGKeyArray) -> Known:
        """Draws a mask that hides one of the config's shares of the patches."""
        config = self.config
        key_share, key_order = jr.split(key)
        count = jnp.round(config.patches * jr.choice(key_share, jnp.array(config.masked))).astype(int)
        return self._pixels_of(jr.permutation(key_order, config.patches) >= count)

    def with_size(self, height: int, width: int) -> Self:
        """Returns the model for images of another size; the patches' positions are interpolated bicubically.

        **Raises** ValueError if patches do not fill that size.
        """
        shape = (height, width, self.config.shape[2])
        grid = rearrange(self.position[1:], "(row column) dim -> row column dim", row=self.config.grid[0])
        resized = jax.image.resize(grid, (*dataclasses.replace(self.config, shape=shape).grid, grid.shape[-1]), "cubic")
        position = jnp.concatenate([self.position[:1], rearrange(resized, "row column dim -> (row column) dim")])
        moved: Self = eqx.tree_at(lambda model: model.position, self, position)
        return moved.under(shape=shape)

    def head(self) -> eqx.nn.Linear:
        self.check_classes()
        assert self.classifier is not None
        return self.classifier

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        config = self.config.for_classes(classes)
        head = eqx.nn.Linear(config.dim, config.classes, dtype=self.position.dtype, key=key)
        headed: Self = eqx.tree_at(lambda model: model.classifier, self, head, is_leaf=lambda leaf: leaf is None)
        return headed.under(classes=config.classes, class_names=())

    @classmethod
    def from_published(cls, name: str, path: str | Path) -> Self:
        """Returns the model in a file that the authors publish: "et-imagenet", the archive of their ImageNet
        checkpoint.

        Its patches are (channel, row, column); here they become (row, column, channel). Images are normalised by
        ImageNet's mean and std.

        **Raises** FileNotFoundError, or ValueError naming the file, the key, what was expected and what was found.
        """
        if name not in cls.published:
            raise ValueError(f'unknown file "{name}"; expected one of {list(cls.published)}')
        arrays = read_archive(path, cls.published[name])
        (heads, head_dim, dim), (_, memories) = arrays["Wk"].shape, arrays["Xi"].shape
        patch, side = math.isqrt(len(arrays["Wenc"]) // 3), math.isqrt(len(arrays["POS_embed"]) - 1)
        for key, size, form in ("Wenc", 3 * patch**2, "3 · patch²"), ("POS_embed", 1 + side**2, "1 + side²"):
            if len(arrays[key]) != size or not patch * side:
                shape = arrays[key].shape
                raise ValueError(f"{path}: {key} has shape {shape}, expected {form} rows for a whole number")
        config = EnergyTransformerConfig(
            shape=(side * patch, side * patch, 3),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            patch=patch,
            dim=dim,
            heads=heads,
            head_dim=head_dim,
            memories=memories,
        )

        def channels_last(rows: np.ndarray) -> np.ndarray:
            return rearrange(rows, "(c pixel) ... -> (pixel c) ...", c=3)

        parameters = {
            "encoder.weight": channels_last(arrays["Wenc"]).T,
            "encoder.bias": arrays["Benc"],
            "decoder.weight": channels_last(arrays["Wdec"].T),
            "decoder.bias": channels_last(arrays["Bdec"]),
            "cls_token": arrays["CLS_token"],
            "mask_token": arrays["MASK_token"],
            "position": arrays["POS_embed"],
            "ham.neurons.tokens.lagrangian.keywords.gamma": arrays["LNORM_gamma"],
            "ham.neurons.tokens.lagrangian.keywords.delta": arrays["LNORM_bias"],
            "ham.synapses.attention.Wk": arrays["Wk"],
            "ham.synapses.attention.Wq": arrays["Wq"],
            "ham.synapses.memory.xi.0": arrays["Xi"].T,
        }
        return filled(skeleton_of(cls, config), parameters)

    def _pixels_of(self, patches: Bool[Array, " patches"]) -> Known:
        config = self.config
        pixels = jnp.repeat(patches[:, None], config.patch**2 * config.shape[2], axis=1)
        return from_patches(pixels, config.patch, config.grid[0])

    @property
    def _memory(self) -> hamux.HopfieldSynapse:
        memory = self.ham.synapses["memory"]
        assert isinstance(memory, hamux.HopfieldSynapse)
        return memory


@compiled
def _activations(model: EnergyTransformer, xs: States) -> Tokens:
    return model.ham.activations(xs)["tokens"]


@compiled
def _summary(model: EnergyTransformer, tokens: Float[Array, "steps_plus_1 patches dim"]) -> Float[Array, " features"]:
    deviation = jnp.sqrt(jnp.var(tokens, axis=1) + 1e-12)  # has a gradient at 0, too
    last, grid = len(tokens) - 1, model.config.grid
    placed = tokens[jnp.array([0, last // 2, last])].reshape(3, *grid, -1)
    rows, columns = (np.array_split(np.arange(side), min(side, 3)) for side in grid)
    ninths = [jnp.mean(placed[:, row][:, :, column], axis=(1, 2)) for row in rows for column in columns]
    return jnp.concatenate([part.ravel() for part in (jnp.mean(tokens, axis=1), deviation, *ninths)])


@compiled
def _shares(model: EnergyTransformer, tokens: Tokens) -> Float[Array, " memories"]:
    return jnp.mean(model._memory.attribution(tokens), axis=0)


def _smooth_positions(key: PRNGKeyArray, config: EnergyTransformerConfig) -> Float[Array, "1+patches dim"]:
    """Random plane waves over the grid, of wavelengths around ten patches; CLS lies apart.

    Near patches begin alike, so that a head finds neighbours at once. From independent numbers it has to learn that.
    """
    key_waves, key_cls = jr.split(key)
    places = jnp.stack(jnp.mgrid[: config.grid[0], : config.grid[1]], axis=-1).reshape(-1, 2)
    phases = places.astype(float) @ (0.6 * jr.normal(key_waves, (2, -(-config.dim // 2))))
    waves = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1)[:, : config.dim]
    return jnp.concatenate([0.5 * jr.normal(key_cls, (1, config.dim)), math.sqrt(0.5) * waves])
