"""What is kept of a memory: its config and its parameters, in a folder or on the Hugging Face Hub."""

import dataclasses
import math
import os
import tempfile
import typing
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import ArrayLike, PRNGKeyArray

import hamux

from .config import Config, make_config
from .files import CONFIG, SHARD_SIZE, Layout, find_folder, push_folder, read_config, read_tensors, write_folder

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class Pretrained(hamux.Module):
    """A frozen `config`, and a `ham` and perhaps other parameters that are made of it.

    A subclass sets `model_type`, annotates `config` with its own `Config`, and has an `__init__(self, config, *, key)`.
    """

    model_type: ClassVar[str]
    published: ClassVar[Mapping[str, Layout]] = MappingProxyType({})
    config: eqx.AbstractVar[Config]
    ham: eqx.AbstractVar[hamux.HAM]

    @abstractmethod
    def __init__(self, config: Any, *, key: PRNGKeyArray) -> None: ...

    @abstractmethod
    def card(self, name: str) -> str:
        """Returns a model card that says what this is and how to use it, by its `name` on the Hub or on the disk."""

    @property
    def n_parameters(self) -> int:
        """The number of numbers that training can change."""
        return sum(leaf.size for leaf in named_leaves(self).values())

    def with_config(self, **fields: object) -> Self:
        """Returns the same parameters under a config with other values of some fields.

        **Raises** ValueError for an unknown field, for a value that the config refuses, for `shape` and `classes`,
        which say what the parameters are for, and for fields on which the shapes of parameters depend.
        """
        if own := sorted({"shape", "classes"} & fields.keys()):
            raise ValueError(
                f"{own} cannot be changed by themselves; use with_head for other classes, and the architecture's own "
                "method, if it has one, for another shape"
            )
        return self.under(**fields)

    def with_beta(self, times: float) -> Self:
        """Returns the memory with every learned inverse temperature β multiplied by `times`.

        Above 1 it is colder: single memories decide. Below 1 it is warmer: memories blend.

        **Raises** ValueError for a memory without such a β, and unless `times` is finite and greater than 0.
        """
        if not (math.isfinite(times) and times > 0):
            raise ValueError(f"times is {times}; expected a finite number greater than 0")
        leaves = named_leaves(self)
        betas = {name: times * leaf for name, leaf in leaves.items() if name.endswith(".beta")}
        if not betas:
            raise ValueError(f"no β is a parameter of this {type(self).__name__}")
        return filled(self, leaves | betas)

    def under(self, **fields: object) -> Self:
        """Returns these parameters under a config with any other fields that fit them. For architectures.

        **Raises** ValueError if the parameters have other shapes under that config.
        """
        self.check_ham()
        config = make_config(type(self.config), dataclasses.asdict(self.config) | fields, type(self).__name__)
        skeleton = skeleton_of(type(self), config)
        made, own = ({name: leaf.shape for name, leaf in named_leaves(model).items()} for model in (skeleton, self))
        if made != own:
            wrong = [name for name in {**own, **made} if own.get(name) != made.get(name)]
            found = ", ".join(f"{name} {own.get(name)} instead of {made.get(name)}" for name in wrong[:5])
            raise ValueError(f"the parameters do not fit the config: {found}")
        return filled(skeleton, named_leaves(self))

    def check_ham(self) -> None:
        """**Raises** ValueError if the HAM has parts that the config does not make: they would be lost."""
        made: object = jax.tree.structure(skeleton_of(type(self), self.config).ham)
        if made != jax.tree.structure(self.ham):
            raise ValueError(
                f"the HAM of this {type(self).__name__} is not as its config makes it, and what was changed besides "
                "its parameters would be lost; change the config, or write an architecture of your own"
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
        """Returns the memory of a bundled name, of a folder, or of a repo "organisation/name" on the Hugging Face Hub.

        - `revision`: a branch, a tag or a commit of a repo. Only a model's own files of one commit are fetched.
        - `token`: for a private repo; True takes the stored one, False none.
        - `cache_dir`: the folder that keeps what is fetched.
        - `local_files_only`: take it from there without asking the Hub.

        HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE work as for the Hub's own library.

        **Raises** FileNotFoundError if there is no such model or revision, PermissionError if the Hub refuses the
        token, ConnectionError if it does not answer, and ValueError if the files are not those of a memory of this
        class. Then it names the file, the key or the tensor, what was expected and what was found.
        """
        folder = find_folder(
            name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls.of_folder(folder)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Returns the memory that `save_pretrained` wrote to a folder. **Raises** as `from_pretrained`."""
        skeleton, tensors = _read(cls, folder)
        return filled(skeleton, dict(tensors))

    @classmethod
    def from_published(cls, name: str, path: str | Path) -> Self:
        """Returns the memory in a file that others publish; `name` is one of `published`."""
        raise ValueError(f"{cls.__name__} reads no published files")

    def save_pretrained(self, folder: str | Path, *, card: str | None = None, shard_size: int = SHARD_SIZE) -> None:
        """Writes `config.json`, `model.safetensors` and the model card `README.md` to a folder.

        The files are written aside and read back by the rules of `from_pretrained` before they replace a model that is
        there. A crash leaves the old model or the new one. Parameters may be NaN; they are saved as they are.

        - `card`: the text of the model card. Without it, one is written that says what the memory is and how to use it.
        - `shard_size`: weights of more bytes are cut into shards.

        **Raises** ValueError for parameters or a HAM that do not fit the config, and for whatever could not be read
        again; OSError if the files cannot be written.
        """

        def check(written: Path) -> None:
            skeleton, tensors = _read(type(self), written)
            deque(tensors, maxlen=0)
            if skeleton.config != self.config:
                raise ValueError(f"{self.config} would come back as {skeleton.config}")

        self.check_ham()
        folder = Path(os.path.expanduser(folder))
        write_folder(
            folder,
            self.model_type,
            dataclasses.asdict(self.config),
            named_leaves(self),
            self.card(folder.resolve().name) if card is None else card,
            check=check,
            shard_size=shard_size,
        )

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
    ) -> "CommitInfo":
        """Pushes the memory to the repo `repo_id` on the Hugging Face Hub in one commit, and returns that commit.

        `card` is the text of the model card; without it, a card that is there stays. Other arguments and errors are
        those of `hamux_zoo.push_folder`, which pushes a folder, such as RUN/model, with its own card and pictures.
        """
        with tempfile.TemporaryDirectory() as aside:
            folder = Path(aside)
            self.save_pretrained(folder, card=self.card(repo_id) if card is None else card)
            return push_folder(
                folder,
                repo_id,
                private=private,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
                token=token,
                keep_card=card is None,
            )


AnyPretrained = typing.TypeVar("AnyPretrained", bound=Pretrained)


def _read(kind: type[AnyPretrained], folder: Path) -> tuple[AnyPretrained, Iterator[tuple[str, np.ndarray]]]:
    """The structure of the memory in a folder, and its parameters, which are read one by one."""
    path, saved = folder / CONFIG, read_config(folder)
    if saved["model_type"] != kind.model_type:
        raise ValueError(f"{path}: model_type is {saved['model_type']!r}, {kind.__name__} is {kind.model_type!r}")
    config = make_config(config_of(kind), saved["config"], path)
    try:
        skeleton = skeleton_of(kind, config)
    except Exception as error:  # numbers out of all proportion make jax raise all sorts of errors
        raise ValueError(f"{path}: no {kind.__name__} can be made of this config: {error}") from None
    shapes = {name: leaf.shape for name, leaf in named_leaves(skeleton).items()}
    return skeleton, read_tensors(folder, saved["sha256"], shapes)


def skeleton_of(kind: type[AnyPretrained], config: Config) -> AnyPretrained:
    """Returns the structure of a memory, with shapes in the place of its parameters."""
    make: Callable[..., AnyPretrained] = kind
    skeleton: AnyPretrained = eqx.filter_eval_shape(make, config, key=jax.eval_shape(lambda: jr.key(0)))
    return skeleton


def config_of(kind: type[Pretrained]) -> type[Config]:
    """Returns the class of an architecture's config."""
    found: type[Config] = typing.get_type_hints(kind)["config"]
    return found


def named_leaves(model: Pretrained) -> dict[str, Any]:
    """Returns the parameters by the name that they have in `model.safetensors`.

    Functions, such as the activation of an `eqx.nn.MLP`, are leaves and no parameters: the class makes them.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    arrays = jax.Array | np.ndarray | jax.ShapeDtypeStruct
    return {
        _name_of(path): leaf if isinstance(leaf, arrays) else np.asarray(leaf)
        for path, leaf in leaves
        if not callable(leaf)
    }


def filled(skeleton: AnyPretrained, parameters: Mapping[str, ArrayLike]) -> AnyPretrained:
    """Returns the memory of a structure with `parameters` by the names that they have in `model.safetensors`."""
    memory: AnyPretrained = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if callable(leaf) else jnp.asarray(parameters[_name_of(path)]), skeleton
    )
    return memory


def _name_of(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
