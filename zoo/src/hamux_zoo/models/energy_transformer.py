"""Energy Transformer: the patches of an image as tokens that descend one energy, of attention and of memories."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange, repeat
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, PRNGKeyArray

import hamux

from .._model import (
    Layout,
    ZooModel,
    check_fields,
    check_head,
    check_mask,
    check_normalisation,
    check_numbers,
    denormalised,
    normalised,
    per_channel,
    unit_rows,
)

Image = Float[Array, "height width channels"]
Mask = Bool[Array, " patches"]
Tokens = Float[Array, "tokens dim"]


@dataclasses.dataclass(frozen=True)
class EnergyTransformerConfig:
    """What an Energy Transformer is made of.

    - `shape`: of an image, (height, width, channels); `mean`, `std`: of its pixels in [0, 1], one a channel or one for
      all, by which they are normalised.
    - `patch`: the side of a patch in pixels, which divides height and width; a token each, and one more, CLS.
    - `dim`: D, of a token. `heads`, `head_dim`: of the attention. `memories`: M, of the Hopfield energy.
    - `steps`, `alpha`: of the descent, x ← x − α ∂E/∂g.
    - `attend_self`: whether a token attends to itself, as in the authors' JAX code; the paper's eq. 3 leaves it out.
    - `classes`: of the head, 0 for none; `pool`: whether it reads the CLS token or the mean of the others.
    - `masked`: the shares of the patches that are hidden in training, of which one is drawn for each image, and with
      which it is measured.

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
    classes: int = 0
    pool: Literal["cls", "mean"] = "cls"
    masked: tuple[float, ...] = (0.5,)

    def __post_init__(self):
        check_fields(self)
        sizes = {name: getattr(self, name) for name in ("patch", "dim", "heads", "head_dim", "memories", "steps")}
        sizes |= dict(zip(("height", "width", "channels"), self.shape, strict=False))
        if wrong := {name: size for name, size in sizes.items() if size < 1}:
            raise ValueError(f"{wrong}: whole numbers of at least 1 are expected")
        if len(self.shape) != 3 or self.shape[0] % self.patch or self.shape[1] % self.patch:
            raise ValueError(
                f"patches of {self.patch} × {self.patch} do not fill images of shape {self.shape}; (height, width, "
                f"channels) are expected, height and width multiples of {self.patch}"
            )
        check_normalisation(self)
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha is {self.alpha}; it is finite and greater than 0")
        if self.classes < 0:
            raise ValueError(f"classes is {self.classes}; it is 0, for none, or a whole number above")
        if not (self.masked and all(0 <= share <= 1 for share in self.masked)):
            raise ValueError(f"masked is {self.masked}; expected shares from 0 to 1, at least one")

    @property
    def grid(self) -> tuple[int, int]:
        """The number of patches from top to bottom and from left to right."""
        return self.shape[0] // self.patch, self.shape[1] // self.patch

    @property
    def patches(self) -> int:
        return math.prod(self.grid)


# The axes of the authors' arrays; `from_published` checks that "pixels" are 3 · patch² and "tokens" 1 + side².
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


class EnergyTransformer(ZooModel):
    """The tokens x of an image descend one energy of g = LayerNorm(x), E = E_attention + E_Hopfield:

        E_attention = −(1/β) Σ_h Σ_q log Σ_k exp(β K_hk · Q_hq),  K = W_K g, Q = W_Q g, β = 1/√head_dim
        E_Hopfield  = −½ Σ relu(ξ g)²
        x ← x − α ∂E/∂g

    It is a HAM of one layer, "tokens", (1 + patches, dim), with the Lagrangian of the layer norm (one γ, a vector δ)
    and no leak, and of two synapses, "attention" and "memory". A patch becomes a token by a linear encoder, a hidden
    one by the MASK token; CLS is put before them, and to each its position is added. Out of it, g is decoded linearly
    to patches; a head reads classes from it.

    One image is floats in [0, 1] `(height, width, channels)`; a mask is `(patches,)`, row by row, True where a patch is
    hidden (`DenseHopfield.retrieve` is told what is known instead). Batches by `jax.vmap`, under which, as under
    `jax.jit`, NaN is not looked for.

    Hoover, Liang, Pham, Panda, Strobelt, Chau, Zaki & Krotov, "Energy Transformer", NeurIPS 2023.
    """

    model_type: ClassVar[str] = "energy-transformer"
    published: ClassVar[Mapping[str, Layout]] = {"et-imagenet": _IMAGENET}
    optimizer: ClassVar[str] = "muon"
    learning_rate: ClassVar[float] = 0.02
    config: EnergyTransformerConfig = eqx.field(static=True)
    encoder: eqx.nn.Linear
    decoder: eqx.nn.Linear
    cls_token: Float[Array, " dim"]
    mask_token: Float[Array, " dim"]
    position: Float[Array, "1+patches dim"]
    ham: hamux.HAM
    classifier: eqx.nn.Linear | None

    def __init__(self, config: EnergyTransformerConfig, *, key: PRNGKeyArray):
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
        attention, memory = unit_rows((attention, memory), config.dim)
        layer_norm = Partial(hamux.lagr_layernorm, gamma=jnp.ones(()), delta=jnp.zeros(config.dim))
        self.ham = hamux.HAM(
            neurons={"tokens": hamux.Neurons(layer_norm, (1 + config.patches, config.dim), leak=0.0)},
            synapses={"attention": attention, "memory": memory},
            connections=[(("tokens",), "attention"), (("tokens",), "memory")],
        )
        self.classifier = eqx.nn.Linear(config.dim, config.classes, key=next(keys)) if config.classes else None

    @classmethod
    def from_published(cls, name: str, path: str | Path) -> Self:
        """The model of a file that the authors publish: "et-imagenet", a numpy archive of their ImageNet checkpoint.

        Its arrays, D = dim, N = (image side / patch side)²: `Wk`, `Wq` (heads, head_dim, D), `Xi` (D, memories),
        `Wenc` (patch² · 3, D), `Benc` (D), `Wdec` (D, patch² · 3), `Bdec` (patch² · 3), `LNORM_gamma` (), `LNORM_bias`,
        `CLS_token`, `MASK_token` (D), `POS_embed` (1 + N, D). Their patches are (channel, row, column); here they
        become (row, column, channel), images are normalised by ImageNet's mean and std.

        **Raises** FileNotFoundError, or ValueError naming the file, the key, what was expected and what was found.
        """
        arrays = cls._published_arrays(name, path)
        (heads, head_dim, dim), (_, memories) = arrays["Wk"].shape, arrays["Xi"].shape
        patch, side = math.isqrt(len(arrays["Wenc"]) // 3), math.isqrt(len(arrays["POS_embed"]) - 1)
        for key, (size, form) in {
            "Wenc": (3 * patch**2, "3 · patch²"),
            "POS_embed": (1 + side**2, "1 + side²"),
        }.items():
            if len(arrays[key]) != size or not patch * side:
                raise ValueError(
                    f"{path}: {key} has shape {arrays[key].shape}, expected {form} rows for a whole number"
                )
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

        def parts(model: EnergyTransformer) -> list[Any]:
            linear = [getattr(layer, field) for layer in (model.encoder, model.decoder) for field in ("weight", "bias")]
            layer_norm: Any = model.ham.neurons["tokens"].lagrangian
            norm = layer_norm.keywords
            attention, memory = model._attention, model._memory
            tokens = [model.cls_token, model.mask_token, model.position]
            return [*linear, norm["gamma"], norm["delta"], attention.Wk, attention.Wq, memory.xi[0], *tokens]

        encoder, decoder = channels_last(arrays["Wenc"]).T, channels_last(arrays["Wdec"].T)
        values = [encoder, arrays["Benc"], decoder, channels_last(arrays["Bdec"])]
        values += [arrays[key] for key in ("LNORM_gamma", "LNORM_bias", "Wk", "Wq")] + [arrays["Xi"].T]
        values += [arrays[key] for key in ("CLS_token", "MASK_token", "POS_embed")]
        skeleton = eqx.filter_eval_shape(cls, config, key=jr.key(0))
        return eqx.tree_at(parts, skeleton, [jnp.asarray(value) for value in values])

    @property
    def _attention(self) -> Any:
        return self.ham.synapses["attention"]

    @property
    def _memory(self) -> Any:
        return self.ham.synapses["memory"]

    def encode(self, x: Image, mask: Mask | None = None) -> dict[str, Tokens]:
        """The states in which the tokens are the patches of `x`, those that `mask` hides being MASK tokens.

        **Raises** ValueError, with both shapes, when `x` or `mask` are of another shape than the config says, when `x`
        has no floats or holds NaN, when `mask` has no booleans.
        """
        return {"tokens": _encode(self, self._checked_image(x), self._checked_mask(mask))}

    def decode(self, xs: Mapping[str, Tokens]) -> Image:
        """The image that the tokens' activations show, in [0, 1] but for over- and undershoots."""
        return _decode(self, dict(xs))

    def reconstruct(self, image: Image, mask: Mask) -> Image:
        """The image that is shown after the last step, at known patches too; it may over- and undershoot [0, 1].

        What `image` has where `mask` hides plays no part. `jnp.where(model.pixels(mask), model.reconstruct(image,
        mask), image)` keeps what is known. **Raises** as `encode`.
        """
        return self.decode(_descend(self, self.encode(image, mask))[0])

    def reconstructions(self, image: Image, mask: Mask) -> Float[Array, "steps_plus_1 height width channels"]:
        """What is shown at the start and after each step."""
        return jax.vmap(self.decode)(self._path(image, mask))

    def watch(
        self, x: Image, known: Bool[Array, "height width channels"] | None = None, *, steps: int, dt: float = 1.0
    ) -> tuple[Float[Array, "steps_plus_1 height width channels"], Float[Array, " steps_plus_1"]]:
        """What is shown, and the energy, at the start and after each of `steps` steps. See `ZooModel`."""
        model, mask = self.with_config(steps=steps, alpha=dt * self.config.alpha), self._hidden(known)
        path = model._path(x, mask)
        shown = jax.vmap(self.decode)(path)
        shown = shown if known is None else jnp.where(self.pixels(mask), shown, x)
        return shown, _energies(self, jax.vmap(self.ham.activations)(path)["tokens"])["total"]

    def classify(self, image: Image) -> Float[Array, " classes"]:
        """The head's logits. **Raises** as `encode`, and for a model without a head."""
        head = self.head()
        end, _ = _descend(self, self.encode(image))
        g = self.ham.activations(end)["tokens"]
        return head(g[0] if self.config.pool == "cls" else jnp.mean(g[1:], axis=0))

    def features(self, image: Image, mask: Mask | None = None) -> Float[Array, "steps_plus_1 1+patches dim"]:
        """The tokens' activations g at the start and after each step, CLS first. **Raises** as `encode`."""
        return jax.vmap(self.ham.activations)(self._path(image, mask))["tokens"]

    def energy(self, image: Image, mask: Mask | None = None) -> dict[str, Float[Array, " steps_plus_1"]]:
        """The energy at the start and after each step, in its parts "attention" and "memory", and their sum, "total".

        **Raises** as `encode`.
        """
        return _energies(self, self.features(image, mask))

    def attention(
        self, image: Image, mask: Mask | None = None
    ) -> Float[Array, "steps_plus_1 heads 1+patches 1+patches"]:
        """How much each token, the third axis, attends to each, the fourth, at the start and after each step.

        **Raises** as `encode`.
        """
        return jax.vmap(self._attention.attention)(self.features(image, mask))

    def attribution(self, image: Image, mask: Mask | None = None) -> Float[Array, " memories"]:
        """Each memory's share, summing to 1, of what the memories pull at the tokens after the last step, the mean over
        the tokens. **Raises** as `encode`."""
        g = self.ham.activations(_descend(self, self.encode(image, mask))[0])["tokens"]
        return jnp.mean(self._memory.attribution(g), axis=0)

    def memories(self, which: slice = slice(None)) -> Float[Array, "memories patch patch channels"]:
        """These memories ξ of the Hopfield energy as the patches that they add to an image, decoded as g is but for
        what the decoder and the mean add: differences of pixels in [0, 1] (`plots.memories` draws them)."""
        patches = self._memory.xi[0][which] @ self.decoder.weight.T
        patches = rearrange(patches, "m (h w c) -> m h w c", h=self.config.patch, w=self.config.patch)
        return patches * per_channel(self.config.std, patches)

    def pixels(self, mask: Mask) -> Bool[Array, "height width channels"]:
        """The mask of patches as one of pixels, True where hidden. **Raises** ValueError where it does not fit."""
        return self._to_image(repeat(self._checked_mask(mask), "patch -> patch pixel", pixel=self.decoder.out_features))

    def with_size(self, height: int, width: int) -> Self:
        """The model for images of another size: the patches' positions are interpolated, bicubically.

        **Raises** ValueError when the patches do not fill it.
        """
        shape = (height, width, self.config.shape[2])
        grid = rearrange(self.position[1:], "(row column) dim -> row column dim", row=self.config.grid[0])
        resized = jax.image.resize(grid, (*dataclasses.replace(self.config, shape=shape).grid, grid.shape[-1]), "cubic")
        position = jnp.concatenate([self.position[:1], rearrange(resized, "row column dim -> (row column) dim")])
        return eqx.tree_at(lambda model: model.position, self, position)._under(shape=shape)

    def head(self) -> Any:
        if self.classifier is None:
            raise ValueError("this Energy Transformer has no head; give it one with with_head(classes=…, key=…)")
        return self.classifier

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        check_head(classes)
        head = eqx.nn.Linear(self.config.dim, classes, dtype=self.position.dtype, key=key)
        headed = eqx.tree_at(lambda model: model.classifier, self, head, is_leaf=lambda leaf: leaf is None)
        return headed._under(classes=classes)

    def hide(self, key: PRNGKeyArray) -> Bool[Array, "height width channels"]:
        """A random mask of known pixels: all but a share of the patches, one of `config.masked`."""
        key_share, key_order = jr.split(key)
        count = jnp.round(self.config.patches * jr.choice(key_share, jnp.array(self.config.masked))).astype(int)
        return ~self.pixels(jr.permutation(key_order, self.config.patches) < count)

    def rehearse(
        self, x: Image, known: Bool[Array, "height width channels"] | None, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "1 height width channels"], None]:
        """The reconstruction from the patches that are known in all of their pixels; from all of them for None."""
        return self.reconstruct(x, self._hidden(known))[None], None

    def _hidden(self, known: Bool[Array, "height width channels"] | None) -> Mask:
        """The patches that are not known in all of their pixels."""
        if known is None:
            return jnp.zeros(self.config.patches, bool)
        check_mask(known, self.config.shape, "known")
        return ~jnp.all(self._to_patches(jnp.asarray(known)), axis=-1)

    def _path(self, image: Image, mask: Mask | None) -> dict[str, Float[Array, "steps_plus_1 1+patches dim"]]:
        """The states at the start and after each step."""
        start = self.encode(image, mask)
        return jax.tree.map(lambda x, path: jnp.concatenate([x[None], path]), start, _descend(self, start)[1])

    def _checked_image(self, image: Any) -> Image:
        image = _as_array(image)
        shape, dtype, expected = image.shape, image.dtype, self.config.shape
        floats = jnp.issubdtype(dtype, jnp.floating)
        if shape != expected or not floats:
            ways_out = {
                "divide bytes by 255": not floats,
                "batches by jax.vmap": len(shape) == 4,
                "repeat a grey image along its last axis, cut off an alpha channel": shape[:2] == expected[:2]
                and shape != expected,
                "model.with_size(height, width) is for another size": len(shape) == 3 and shape[:2] != expected[:2],
            }
            raise ValueError(
                f"an image of shape {shape} and dtype {dtype}; expected floats in [0, 1] of shape {expected} "
                f"({'; '.join(way for way, helps in ways_out.items() if helps)})"
            )
        check_numbers(image)
        return jnp.asarray(image).astype(self.position.dtype)

    def _checked_mask(self, mask: Any) -> Mask:
        (rows, columns), patches = self.config.grid, self.config.patches
        mask = jnp.zeros(patches, bool) if mask is None else _as_array(mask)
        if mask.shape != (patches,) or mask.dtype != jnp.bool_:
            raise ValueError(
                f"a mask of shape {mask.shape} and dtype {mask.dtype}; expected booleans of shape "
                f"({patches},), one a patch of the {rows} × {columns}, row by row, True where it is hidden"
            )
        return jnp.asarray(mask)

    def _to_patches(self, image: Array) -> Array:
        side = self.config.patch
        return rearrange(image, "(row h) (column w) c -> (row column) (h w c)", h=side, w=side)

    def _to_image(self, patches: Array) -> Array:
        row, side = self.config.grid[0], self.config.patch
        return rearrange(patches, "(row column) (h w c) -> (row h) (column w) c", row=row, h=side, w=side)


def _as_array(value: Any) -> Array | np.ndarray:
    """Lists, pictures and the like as arrays."""
    return value if isinstance(value, jax.Array) else np.asarray(value)


# Four programs; operation by operation, with a loop that is compiled for each call, a first image would take seconds.
@jax.jit
def _encode(model: EnergyTransformer, image: Image, hidden: Mask) -> Tokens:
    normal = normalised(model.config, image)
    # What is hidden takes no part in a gradient either, be it NaN.
    patches = jnp.where(hidden[:, None], 0, model._to_patches(normal))
    tokens = jnp.where(hidden[:, None], model.mask_token[None], jax.vmap(model.encoder)(patches))
    return jnp.concatenate([model.cls_token[None], tokens]) + model.position


@jax.jit
def _descend(
    model: EnergyTransformer, start: dict[str, Tokens]
) -> tuple[dict[str, Tokens], dict[str, Float[Array, "steps 1+patches dim"]]]:
    """The states at the end, and after each step: those of `hamux.descend`, which evaluates the end once more.

    Reverse mode keeps them and computes what lies within a step again, which is faster than to keep it.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(xs, _):
        dEdg = model.ham.dEdg(model.ham.activations(xs), xs)["tokens"]
        after = xs["tokens"] - jnp.asarray(model.config.alpha, dEdg.dtype) * dEdg
        after = {"tokens": after.astype(xs["tokens"].dtype)}
        return after, after

    return jax.lax.scan(step, start, length=model.config.steps)


@jax.jit
def _energies(
    model: EnergyTransformer, g: Float[Array, "steps_plus_1 1+patches dim"]
) -> dict[str, Float[Array, " steps_plus_1"]]:
    parts = jax.lax.map(lambda g: {"attention": model._attention(g), "memory": model._memory(g)}, g)
    return parts | {"total": parts["attention"] + parts["memory"]}


@jax.jit
def _decode(model: EnergyTransformer, xs: dict[str, Tokens]) -> Image:
    g = model.ham.activations(xs)["tokens"]
    return denormalised(model.config, model._to_image(jax.vmap(model.decoder)(g[1:])))


def _smooth_positions(key: PRNGKeyArray, config: EnergyTransformerConfig) -> Float[Array, "1+patches dim"]:
    """Random plane waves over the grid, of wavelengths around ten patches: near patches begin alike, so that a head
    finds neighbours at once, which it has to learn from independent numbers. CLS lies apart."""
    key_waves, key_cls = jr.split(key)
    places = jnp.stack(jnp.mgrid[: config.grid[0], : config.grid[1]], axis=-1).reshape(-1, 2)
    phases = places.astype(float) @ (0.6 * jr.normal(key_waves, (2, -(-config.dim // 2))))
    waves = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1)[:, : config.dim]
    return jnp.concatenate([0.5 * jr.normal(key_cls, (1, config.dim)), math.sqrt(0.5) * waves])
