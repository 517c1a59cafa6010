"""The zoo model: a config, a HAM, and their folder of files."""

import dataclasses
import importlib.metadata
import math
import types
import typing
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import hamux

from ._archive import Layout, read_archive
from ._corruptions import hide_part
from ._folder import CONFIG, WEIGHTS, read_config, read_tensors, write_folder
from ._hub import find_folder

FORMAT_VERSION = 1


class RetrievedPattern(eqx.Module):
    """What a retrieval came to: `x`, the pattern at its end, and `scores`, its classes' logits there (of a softmax, or
    each of being +1, as the label's neurons are), None without label neurons; the rest as in `hamux.Retrieval`.

    `trajectory` holds the pattern at the start and after every step, when asked for.
    """

    x: Float[Array, "..."]
    scores: Float[Array, " classes"] | None
    energies: Float[Array, " steps_plus_1"]
    steps: Int[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    trajectory: Float[Array, "steps_plus_1 ..."] | None


class ZooModel(eqx.Module):
    """An architecture of the zoo: a frozen `config`, a `ham` made of hamux parts, and the way in and out of its states.

    A subclass names its `model_type`, annotates `config` with its own frozen dataclass, is made by
    `__init__(self, config, *, key)` and gives `encode`, from an input to the HAM's states, and `decode`, back again.
    Everything takes one example; `jax.vmap` adds a batch.

    To be trained on images its config has a `shape`, (height, width, channels), and `classes`, 0 for none. It can be
    trained to classify if it has `classify(x) -> scores`, with `head` and `with_head`; to reconstruct and to denoise if
    it has `rehearse`:

        rehearse(x, known, *, key) -> images (n, height, width, channels), scores (n, classes) or None

    what a recall shows, and which class, in its last n steps, differentiably, from `x`, whose pixels are right where
    `known` is True, or for None noisy everywhere. All examples of a batch get the same `key`.

    The evaluation and the demo take what there is of `classify`; `retrieve(x, known)`, to a fixed point, with a
    `RetrievedPattern` as its result; and of a model that has `reconstructions(image, mask)`, at the start and after
    each step, for masks of patches `reconstruct(image, mask)`, `energy(image, mask)["total"]`, `pixels(mask)`, and in
    the config `patches`, their number, and `masked`, the shares to measure with.
    """

    model_type: ClassVar[str]
    published: ClassVar[Mapping[str, Layout]] = {}  # archives of others that `from_published` reads, by name
    optimizer: ClassVar[str] = "adamw"
    learning_rate: ClassVar[float] = 1e-3
    config: eqx.AbstractVar[Any]
    ham: eqx.AbstractVar[hamux.HAM]

    @abstractmethod
    def __init__(self, config: Any, *, key: PRNGKeyArray): ...

    @abstractmethod
    def encode(self, x: Array) -> dict[str, Array]: ...

    @abstractmethod
    def decode(self, xs: Mapping[str, Array]) -> Array: ...

    def head(self) -> Any:
        """The parameters that only classification needs. **Raises** ValueError when there are none."""
        raise ValueError(f"{type(self).__name__} has no head")

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """The model with a new head, drawn by `key`, for so many classes."""
        raise ValueError(f"{type(self).__name__} has no head")

    def hide(self, key: PRNGKeyArray) -> Bool[Array, "height width channels"]:
        """A random mask of the pixels that a reconstruction is given: a half or all but a rectangle."""
        return hide_part(key, self.config.shape)

    def with_config(self, **fields: Any) -> Self:
        """The same parameters under a config with other values of some fields.

        **Raises** ValueError for an unknown field, a value that the config refuses, and fields that tell what the
        parameters are for (`shape`, `classes`) or on which their shapes depend.
        """
        if own := sorted({"shape", "classes"} & fields.keys()):
            raise ValueError(
                f"{own} of a model cannot be changed alone: with_head gives it other classes, and another size of "
                "images is for a method of its architecture"
            )
        return self._under(**fields)

    def _under(self, **fields: Any) -> Self:
        """`with_config`, for any fields that fit the parameters."""
        self._check_ham()
        config = make_config(type(self), dataclasses.asdict(self.config) | fields, "config")
        skeleton = eqx.filter_eval_shape(type(self), config, key=jax.eval_shape(lambda: jr.key(0)))
        shapes, own = ({name: leaf.shape for name, leaf in named_leaves(model).items()} for model in (skeleton, self))
        if shapes != own:
            changed = [name for name in {**own, **shapes} if own.get(name) != shapes.get(name)]
            raise ValueError(f"with {fields} the parameters {changed} are of other shapes, or not there")
        return jax.tree.unflatten(jax.tree.structure(skeleton), jax.tree.leaves(self))

    def _check_ham(self) -> None:
        """**Raises** ValueError where the HAM is not one that the config makes: what is only in it would be lost."""
        skeleton = eqx.filter_eval_shape(type(self), self.config, key=jax.eval_shape(lambda: jr.key(0)))
        own, made = (typing.cast(Any, jax.tree.structure(model.ham)) for model in (self, skeleton))
        if own != made:
            raise ValueError(
                f"the HAM of this {type(self).__name__} is not as its config makes it; what was changed there, but for "
                "parameters, would be lost: change the config, or make an architecture of your own"
            )

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """The model of a bundled name or of a folder; its weights are read, never drawn.

        **Raises** FileNotFoundError when there is no such model, and ValueError, naming the file, the key or the
        tensor, what was expected and what was found, when its files are not those of a model of this class.
        """
        folder = find_folder(name)
        saved = read_config(folder)
        path = folder / CONFIG
        if saved.get("model_type") != cls.model_type:
            raise ValueError(f"{path}: model_type is {saved.get('model_type')!r}, {cls.__name__} is {cls.model_type!r}")
        version = saved.get("format_version")
        if type(version) is not int or version < 1:
            raise ValueError(f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}")
        if version > FORMAT_VERSION:
            raise ValueError(f"{path}: format_version is {version}, this one reads {FORMAT_VERSION}; upgrade hamux-zoo")
        config = make_config(cls, saved.get("config"), path)
        skeleton = eqx.filter_eval_shape(cls, config, key=jax.eval_shape(lambda: jr.key(0)))
        named = named_leaves(skeleton)
        tensors = read_tensors(folder, {name: leaf.shape for name, leaf in named.items()})
        for name, leaf in named.items():
            if not jnp.issubdtype(tensors[name].dtype, jnp.floating):
                path = folder / WEIGHTS
                raise ValueError(f'{path}: tensor "{name}" is {tensors[name].dtype}, expected {leaf.dtype}')
        return jax.tree.unflatten(jax.tree.structure(skeleton), [jnp.asarray(tensors[name]) for name in named])

    @classmethod
    def from_published(cls, name: str, path: str | Path) -> Self:
        """The model of a file that others publish, `name` being one of `published`."""
        raise ValueError(f"{cls.__name__} reads no published files")

    @classmethod
    def _published_arrays(cls, name: str, path: str | Path) -> dict[str, np.ndarray]:
        if name not in cls.published:
            raise ValueError(f'unknown file "{name}"; there are {list(cls.published)}')
        return read_archive(path, cls.published[name])

    def save_pretrained(
        self, folder: str | Path, *, card: str | None = None, class_names: Sequence[str] | None = None
    ) -> None:
        """Write `config.json`, `model.safetensors` keyed by tree path, and `README.md`, the model card.

        Without a `card`, one with the folder's name and the config is written. With `class_names`, the classes' in
        their order, labels of other data are understood by name (`hamux-zoo evaluate`). **Raises** ValueError for a
        HAM that is not as the config makes it.
        """
        self._check_ham()
        folder = Path(folder)
        saved = {
            "model_type": self.model_type,
            "format_version": FORMAT_VERSION,
            "hamux_zoo_version": importlib.metadata.version("hamux-zoo"),
            "config": dataclasses.asdict(self.config),
        }
        if class_names:
            saved["class_names"] = list(class_names)
        tensors = {name: np.asarray(leaf) for name, leaf in named_leaves(self).items()}
        write_folder(folder, saved, tensors, card or plain_card(folder.name, self))


def retrieved(model: ZooModel, end: hamux.Retrieval, scores: Array | None, x: Any, known: Any) -> RetrievedPattern:
    """The `end` of a retrieval from `x` as patterns, which are `x` itself where it is `known`; None for nowhere."""

    def shown(xs):
        pattern = model.decode(xs)
        return pattern if known is None else jnp.where(known, jnp.asarray(x, pattern.dtype), pattern)

    path = None if end.trajectory is None else jax.vmap(shown)(end.trajectory)
    return RetrievedPattern(shown(end.xs), scores, end.energies, end.steps, end.residual, end.converged, path)


def named_leaves(model: ZooModel) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def make_config(model: type[ZooModel], values: Any, path: Path | str) -> Any:
    """The config of `model` with the fields `values`; `path`, where they are from, is named by the errors."""
    config_class = typing.get_type_hints(model)["config"]
    if not isinstance(values, dict):
        raise ValueError(
            f'{path}: "config" is {values!r}, expected an object with the fields of {config_class.__name__}'
        )
    hints = typing.get_type_hints(config_class)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise ValueError(f"{path}: unknown config keys {unknown}; {config_class.__name__} has {sorted(hints)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key, value in values.items():
        if not _is_a(value, hints[key]):
            raise ValueError(f"{path}: config key {key!r} is {value!r}, expected {hints[key]}")
    try:
        return config_class(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def check_fields(config: Any) -> None:
    """Lists and arrays become tuples. **Raises** ValueError for a field of a config that is not of its type."""
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is tuple and isinstance(value := getattr(config, name), list | np.ndarray):
            object.__setattr__(config, name, tuple(value))
        if not _is_a(getattr(config, name), hint):
            raise ValueError(f"{name} is {getattr(config, name)!r}, expected {hint}")


def check_normalisation(config: Any) -> None:
    """**Raises** ValueError for a config whose `mean` and `std` are not one number, or one a channel, std above 0."""
    for name in ("mean", "std"):
        values = getattr(config, name)
        if len(values) not in (1, config.shape[2]) or not all(map(math.isfinite, values)):
            raise ValueError(f"{name} is {values}; expected one number, or {config.shape[2]}, one a channel")
    if not min(config.std) > 0:
        raise ValueError(f"std is {config.std}; expected numbers greater than 0")


def per_channel(values: tuple[float, ...], image: Array) -> Float[Array, "..."]:
    """A `mean` or `std`, of the dtype of `image` and of as many axes; the channels are the last."""
    return jnp.asarray(values, image.dtype).reshape((1,) * (image.ndim - 1) + (-1,))


def normalised(config: Any, pixels: Array) -> Array:
    """(p − mean) / std."""
    return (pixels - per_channel(config.mean, pixels)) / per_channel(config.std, pixels)


def denormalised(config: Any, values: Array) -> Array:
    """The pixels p of which `values` are `normalised`."""
    return values * per_channel(config.std, values) + per_channel(config.mean, values)


def unit_rows(synapses: Any, size: int) -> Any:
    """Synapses whose weights hamux has drawn, of standard deviation 0.02, as rows of `size` numbers and of length 1: a
    unit sees g's, numbers around 1, as one."""
    return jax.tree.map(lambda w: w / (0.02 * math.sqrt(size)), synapses)


def check_pattern(x: Any, shape: tuple[int, ...]) -> None:
    """**Raises** ValueError for a pattern that is not of `shape`, not of floats, or holds NaN."""
    if jnp.shape(x) != shape or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(
            f"a pattern of shape {jnp.shape(x)} and dtype {jnp.result_type(x)}; expected floats in [0, 1] of shape "
            f"{shape} (divide bytes by 255; batches by jax.vmap)"
        )
    check_numbers(x)


def check_numbers(x: Any) -> None:
    """**Raises** ValueError for NaN, where it is to be seen: not in what jax traces."""
    if not isinstance(x, jax.core.Tracer) and (count := int(np.isnan(np.asarray(x, float)).sum())):
        raise ValueError(
            f"NaN in {count} of {np.size(x)} places; expected numbers: where a pixel is not known, put any, and mask it"
        )


def check_mask(mask: Any, shape: tuple[int, ...], of: str) -> None:
    """**Raises** ValueError for a mask that is not of `shape`, or not of booleans, True where the pixel is `of`."""
    if jnp.shape(mask) != shape or not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
        raise ValueError(
            f"a mask of shape {jnp.shape(mask)} and dtype {jnp.result_type(mask)}; expected booleans of shape "
            f"{shape}, True where the pixel is {of}"
        )


def check_head(classes: Any) -> None:
    """**Raises** ValueError for a number of classes for which no head can be made."""
    if type(classes) is not int or classes < 1:
        raise ValueError(f"classes is {classes!r}; a head is for one at least")


def only_known(x: Any, known: Any) -> Array:
    """`x` where it is `known`, elsewhere half-way between black and white."""
    return jnp.where(known, x, jnp.asarray(0.5, jnp.result_type(x)))


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a config field's type: int, float, str, bool, Literal, a union or tuple of them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(item, arguments[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is (type(None) if hint is None else hint)


def plain_card(name: str, model: ZooModel) -> str:
    """A model card with the config alone."""
    fields = "\n".join(f"- {key}: {value}" for key, value in dataclasses.asdict(model.config).items())
    return f"---\nlibrary_name: hamux-zoo\ntags:\n- {model.model_type}\n---\n\n# {name}\n\n{fields}\n"
