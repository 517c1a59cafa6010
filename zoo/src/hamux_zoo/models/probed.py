"""A memory with a linear classifier on its features."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

import hamux

from ..config import Config, make_config
from ..memory import Clamp, Classifier, Dynamics, Featured, States, compiled
from ..models import model_classes
from ..pretrained import config_of, skeleton_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbedConfig(Config):
    """The config of a `Probed`.

    - `memory_type`: the `model_type` of the memory.
    - `memory`: its config, or the fields of it by name. `shape` is that of the memory.
    - `features`: the number of its features.

    **Raises** ValueError, naming the field, for a value of another type, out of range, or that does not fit the others.
    """

    shape: tuple[int, ...] = ()
    memory_type: str
    memory: Config
    features: int

    def __post_init__(self) -> None:
        kind = _class_of(self.memory_type)
        if isinstance(self.memory, Mapping):
            object.__setattr__(self, "memory", make_config(config_of(kind), self.memory, "memory"))
        if not isinstance(self.memory, config_of(kind)):
            raise ValueError(f"memory is {self.memory!r:.100}; expected the config of {kind.__name__}")
        object.__setattr__(self, "shape", tuple(self.shape) or self.memory.shape)
        super().__post_init__()
        self.check_at_least(1, "features")
        if self.shape != self.memory.shape:
            raise ValueError(f"shape is {self.shape}, but the memory's is {self.memory.shape}")

    @property
    def low(self) -> float:
        return self.memory.low

    @property
    def high(self) -> float:
        return self.memory.high


class Probed(Classifier, Featured):
    """A memory with a linear classifier on its features: classify(x) = W features(x) + b.

    It recalls as the memory does. The classes are its own: those of the memory, if it has any, stay with
    `model.memory`. `hamux_zoo.probe` makes one.
    """

    model_type: ClassVar[str] = "probed"
    config: ProbedConfig = eqx.field(static=True)
    memory: Featured
    weight: Float[Array, "classes features"]
    bias: Float[Array, " classes"]

    def __init__(self, config: ProbedConfig, *, key: PRNGKeyArray) -> None:
        make: Callable[..., Featured] = _class_of(config.memory_type)
        self.config = config
        self.memory = make(config.memory, key=key)
        self.weight = jnp.zeros((config.classes, config.features))
        self.bias = jnp.zeros(config.classes)

    @classmethod
    def of(cls, memory: Featured, weight: ArrayLike, bias: ArrayLike, class_names: tuple[str, ...] = ()) -> Self:
        """Returns the memory with the rows of `weight`, and `bias`, as its classes."""
        weight = jnp.asarray(weight)
        config = ProbedConfig(
            memory_type=memory.model_type,
            memory=memory.config,
            features=weight.shape[1],
            classes=weight.shape[0],
            class_names=class_names,
        )
        parts = [memory, weight, jnp.asarray(bias, weight.dtype)]
        probed: Self = eqx.tree_at(_parts, skeleton_of(cls, config), parts)
        return probed

    @property  # type: ignore[misc]
    def ham(self) -> hamux.HAM:  # type: ignore[override]
        return self.memory.ham

    @property
    def optimizer(self) -> tuple[str, float]:
        return self.memory.optimizer

    def start(
        self,
        x: Float[Array, "..."],
        known: Bool[Array, "..."] | None = None,
        *,
        label: Int[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[States, Clamp]:
        return self.memory.start(x, known, label=label, key=key)

    def decode(self, xs: States) -> Float[Array, "..."]:
        return self.memory.decode(xs)

    def dynamics(self) -> Dynamics:
        """Returns those of the memory, but classes are learned from `classify`."""
        dynamics = self.memory.dynamics()
        return dataclasses.replace(dynamics, rehearsal=dynamics.rehearsal._replace(classify=0))

    def hide(self, key: PRNGKeyArray) -> Bool[Array, "..."]:
        return self.memory.hide(key)

    def masks(self, count: int) -> dict[str, Bool[np.ndarray, "count ..."]]:
        return self.memory.masks(count)

    def strangeness(self, x: ArrayLike) -> Float[Array, ""]:
        return self.memory.strangeness(x)

    def features(self, x: ArrayLike) -> Float[Array, " features"]:
        """Returns the features of the memory. **Raises** as `recall`."""
        return self.memory.features(x)

    def classify(self, x: ArrayLike) -> Float[Array, " classes"]:
        """Returns the logits W features(x) + b; the largest is the class.

        **Raises** ValueError for a memory without classes, and if `x` does not fit.
        """
        self.check_classes()
        return _logits(self, self.features(x))

    def head(self) -> list[Array]:
        """Returns W and b."""
        self.check_classes()
        return [self.weight, self.bias]

    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """Returns the memory with W and b at 0 for so many classes, without class names; the `key` plays no part."""
        config = self.config.for_classes(classes)
        return self.of(self.memory, jnp.zeros((config.classes, config.features), self.weight.dtype), jnp.zeros(classes))


@compiled
def _logits(model: Probed, features: Float[Array, " features"]) -> Float[Array, " classes"]:
    return model.weight @ features.astype(model.weight.dtype) + model.bias


def _parts(model: Probed) -> list[object]:
    return [model.memory, model.weight, model.bias]


def _class_of(model_type: str) -> type[Featured]:
    classes = {name: kind for name, kind in model_classes().items() if issubclass(kind, Featured)}
    if model_type not in classes:
        raise ValueError(f"memory_type is {model_type!r}; expected one of {sorted(classes)}, which have features")
    return classes[model_type]
