"""The zoo model: a config, a HAM, and their folder of files."""

import dataclasses
import importlib.metadata
import inspect
import math
import tempfile
import types
import typing
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import hamux

from ._archive import Layout, read_archive
from ._card import make_card
from ._corruptions import hide_part
from ._folder import CONFIG, SHARD_SIZE, read_config, read_tensors, write_folder
from ._hub import find_folder, push_folder


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

    To be watched in `hamux-zoo app` it has `memories`, its weights as images (an array, or a function of a slice of
    them), `attribution(x)`, each one's share, and

        watch(x, known=None, *, steps, dt=1.0) -> images (steps + 1, height, width, channels), energies (steps + 1,)

    what a recall from `x` shows, of steps `dt` times as large as the model's own, pixels that are `known` held.

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

    def with_beta(self, times: float) -> Self:
        """The model with every inverse temperature β that is a parameter, multiplied: colder above 1, where single
        memories and parts decide, warmer below, where they blend.

        **Raises** ValueError for a model without such, and for `times` that is not finite and greater than 0.
        """
        if not (math.isfinite(times) and times > 0):
            raise ValueError(f"times is {times}; expected a finite number greater than 0")
        if not any(name.endswith(".beta") for name in named_leaves(self)):
            raise ValueError(f"no β is a parameter of this {type(self).__name__}")
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: times * leaf if jax.tree_util.keystr(path[-1:], simple=True) == "beta" else leaf, self
        )

    def _under(self, **fields: Any) -> Self:
        """`with_config`, for any fields that fit the parameters."""
        self._check_ham()
        config = make_config(type(self), dataclasses.asdict(self.config) | fields, "config")
        skeleton = _skeleton(type(self), config)
        shapes, own = ({name: leaf.shape for name, leaf in named_leaves(model).items()} for model in (skeleton, self))
        if shapes != own:
            changed = [name for name in {**own, **shapes} if own.get(name) != shapes.get(name)]
            raise ValueError(f"with {fields} the parameters {changed} are of other shapes, or not there")
        return jax.tree.unflatten(jax.tree.structure(skeleton), jax.tree.leaves(self))

    def _check_ham(self) -> None:
        """**Raises** ValueError where the HAM is not one that the config makes: what is only in it would be lost."""
        skeleton = _skeleton(type(self), self.config)
        own, made = (typing.cast(Any, jax.tree.structure(model.ham)) for model in (self, skeleton))
        if own != made:
            raise ValueError(
                f"the HAM of this {type(self).__name__} is not as its config makes it; what was changed there, but for "
                "parameters, would be lost: change the config, or make an architecture of your own"
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """The model of a bundled name, of a folder, or of a repo "organisation/name" of the Hugging Face Hub, as
        `find_folder` finds it; its weights are read, never drawn.

        - `revision`: of a repo, a branch, a tag or a commit; one commit is fetched, of a model's files alone.
        - `token`: for a private repo; True for the one that was stored, False for none. `cache_dir`: where to keep what
          is fetched. `local_files_only`: take it from there, without asking the Hub. HF_TOKEN, HF_HOME, HF_ENDPOINT
          and HF_HUB_OFFLINE mean what they do for the Hub's own library.

        **Raises** FileNotFoundError when there is no such model or revision, PermissionError when the Hub refuses the
        token, ConnectionError when it does not answer, and ValueError, naming the file, the key or the tensor, what was
        expected and what was found, when the files are not those of a model of this class.
        """
        folder = find_folder(
            name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls._of_folder(folder, read_config(folder))

    @classmethod
    def _of_folder(cls, folder: Path, saved: Mapping[str, Any]) -> Self:
        """The model of a folder whose `config.json` holds `saved`."""
        path = folder / CONFIG
        if saved.get("model_type") != cls.model_type:
            raise ValueError(f"{path}: model_type is {saved.get('model_type')!r}, {cls.__name__} is {cls.model_type!r}")
        config = make_config(cls, saved.get("config"), path)
        try:
            skeleton = _skeleton(cls, config)
        except Exception as error:  # whatever numbers out of all proportion make jax raise
            raise ValueError(f"{path}: no {cls.__name__} can be made of this config: {error}") from None
        named = named_leaves(skeleton)
        tensors = read_tensors(folder, saved["sha256"], {name: leaf.shape for name, leaf in named.items()})
        leaves = {name: jnp.asarray(tensor) for name, tensor in tensors}
        return jax.tree.unflatten(jax.tree.structure(skeleton), [leaves[name] for name in named])

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
        self,
        folder: str | Path,
        *,
        card: str | None = None,
        class_names: Sequence[str] | None = None,
        shard_size: int = SHARD_SIZE,
    ) -> None:
        """Write `config.json`, `model.safetensors` keyed by tree path, and `README.md`, the model card; a crash leaves
        the model that was there, or this one.

        Without a `card`, one is written that says what it is and how to use it. With `class_names`, the classes' in
        their order, labels of other data are understood by name (`hamux-zoo evaluate`). Weights of more than
        `shard_size` bytes are cut into shards. **Raises** ValueError for a HAM that is not as the config makes it;
        OSError when there is no room.
        """
        self._check_ham()
        folder = Path(folder)
        saved = {
            "model_type": self.model_type,
            "hamux_zoo_version": importlib.metadata.version("hamux-zoo"),
            "config": dataclasses.asdict(self.config),
        }
        if class_names:
            saved["class_names"] = list(class_names)
        tensors = {name: np.asarray(leaf) for name, leaf in named_leaves(self).items()}
        write_folder(folder, saved, tensors, card or model_card(folder.name, self), shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload model",
        create_pr: bool = False,
        token: str | bool | None = None,
        card: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Any:
        """Save the model to the repo `repo_id` of the Hugging Face Hub, in one commit; none, where it is there already.
        The commit, a `huggingface_hub.CommitInfo`.

        - `private`: whether a repo that is made now is shown to its owner alone. `revision`: the branch, made where
          there is none. `create_pr`: as a pull request.
        - `card` and `class_names` as in `save_pretrained`; without a `card` what is there stays, the card and the
          classes' names.

        `hamux_zoo.push_folder` and `hamux-zoo push` bring a folder, such as RUN/model, with its own card and pictures.

        **Raises** PermissionError when the Hub refuses the token, ConnectionError when it does not answer, and
        ValueError when another has pushed at the same time, or the repo's name or the card are not as the Hub wants.
        """
        with tempfile.TemporaryDirectory() as aside:
            folder = Path(aside)
            self.save_pretrained(folder, card=card or model_card(repo_id, self), class_names=class_names)
            return push_folder(
                folder,
                repo_id,
                private=private,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
                token=token,
                keep=card is None,
            )


def retrieved(model: ZooModel, end: hamux.Retrieval, scores: Array | None, x: Any, known: Any) -> RetrievedPattern:
    """The `end` of a retrieval from `x` as patterns, which are `x` itself where it is `known`; None for nowhere."""

    def shown(xs):
        pattern = model.decode(xs)
        return pattern if known is None else jnp.where(known, jnp.asarray(x, pattern.dtype), pattern)

    path = None if end.trajectory is None else jax.vmap(shown)(end.trajectory)
    return RetrievedPattern(shown(end.xs), scores, end.energies, end.steps, end.residual, end.converged, path)


def _skeleton(model: Callable[..., Any], config: Any) -> Any:
    """A model's structure, with shapes in the place of parameters."""
    return eqx.filter_eval_shape(model, config, key=jax.eval_shape(lambda: jr.key(0)))


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


def model_card(
    name: str,
    model: ZooModel,
    sections: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    *,
    path: str | None = None,
    picture: str | None = None,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    metrics: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """A card that says what the model is and how to use it, from `path` or by its name, with a table for each of
    `sections`."""
    kind, config = type(model), model.config
    about = (inspect.getdoc(kind) or kind.__name__).split("\n\n")[0].replace("\n", " ").rstrip(".:")
    uses = [f"from hamux_zoo import {kind.__name__}", "", f'model = {kind.__name__}.from_pretrained("{path or name}")']
    if getattr(config, "classes", 0) and hasattr(model, "classify"):
        uses.append(f"scores = model.classify(image)  # ({config.classes},), the largest is the class")
    if hasattr(model, "retrieve"):
        uses.append("recalled = model.retrieve(image, known).x  # True in known where a pixel is right")
    if "reconstructions" in dir(kind):
        uses.append("completed = model.reconstruct(image, hidden)  # True in hidden where a patch is to be made up")
    text = f"{about}.\n\n" + (f"![Examples]({picture})\n\n" if picture else "")
    text += "".join(f"    {line}".rstrip() + "\n" for line in uses)
    for title, values in {"Config": dataclasses.asdict(config), **sections}.items():
        rows = "".join(f"| {key} | {value} |\n" for key, value in values.items())
        text += f"\n## {title}\n\n| | |\n|---|---|\n{rows}"
    known = "what is measured above" if sections else "nothing: no measurement is recorded"
    text += f"\n## Limits\n\nOf what it does on other data than its own is known {known}.\n"
    tag = "image-classification" if getattr(config, "classes", 0) else "image-to-image"
    return make_card(
        name,
        text,
        pipeline_tag=tag,
        tags=[model.model_type],
        datasets=datasets,
        base_model=base_model,
        metrics=metrics,
    )
