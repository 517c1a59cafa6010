"""What decides the result of a training, with the data and the first weights; checked when it is written down."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import optax

from ._augmentation import AUGMENTATIONS
from ._model import ZooModel, named_leaves
from ._tasks import Task, names_of

Selector = Callable[[Any], Any]


def _as_matrices(weights: Any) -> Any:
    """Matrices; an attention's (heads, head_dim, dim), which is one of heads · head_dim rows; a convolution's filters
    (channels_out, channels_in, height, width), one row each."""

    def axes(leaf):
        if leaf.ndim == 4:
            return optax.contrib.MuonDimensionNumbers((1, 2, 3), 0)
        last = leaf.ndim - 1
        return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last) if last in (1, 2) else None

    return jax.tree.map(axes, weights)


# name -> what makes it of a rate and of the decay of the weights, and the rate it has unless told
_OPTIMIZERS: dict[str, tuple[Callable[..., optax.GradientTransformation], float]] = {
    "adamw": (lambda rate, decay: optax.adamw(rate, weight_decay=decay), 1e-3),
    # Orthogonalises the step of a matrix (Jordan et al., 2024); a vector goes by Adam, a hundredth as fast.
    "muon": (
        lambda rate, decay: optax.contrib.muon(
            rate,
            weight_decay=decay,
            ns_steps=4,
            adam_learning_rate=lambda step: 0.01 * rate(step),
            muon_weight_dimension_numbers=_as_matrices,
        ),
        0.02,
    ),
    "sgd": (
        lambda rate, decay: optax.chain(
            optax.trace(0.9), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(rate)
        ),
        0.1,
    ),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The arguments of `finetune` that decide its result, under the same names."""

    task: Task
    steps: int
    batch_size: int
    optimizer: str | optax.GradientTransformation
    learning_rate: float | None
    warmup: int
    weight_decay: float
    clip: float | None
    accumulate: int
    ema: float | None
    precision: Literal["float32", "bf16"]
    trainable: str | Selector
    augment: tuple[str, ...]
    validation: float
    every: int
    seed: int
    overfit_one_batch: bool

    def __post_init__(self):
        for name, least in {"steps": 1, "batch_size": 1, "warmup": 0, "accumulate": 1, "every": 1, "seed": 0}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is {value!r}; it is a whole number of at least {least}")
        for name, high in {"learning_rate": math.inf, "clip": math.inf, "ema": 1}.items():
            value = getattr(self, name)
            if value is not None and not 0 < value < high:
                raise ValueError(f"{name} is {value!r}; it is greater than 0 and less than {high}")
        for name, high in {"validation": 1, "weight_decay": math.inf}.items():
            if not 0 <= getattr(self, name) < high:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is at least 0 and less than {high}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"a batch of {self.batch_size} does not part into {self.accumulate} equal pieces")
        tasks = names_of(self.task)
        known = [*AUGMENTATIONS, *(f"{task}:{name}" for task in tasks for name in AUGMENTATIONS)]
        if unknown := sorted(set(self.augment) - set(known)):
            raise ValueError(
                f"unknown augmentations {unknown}; there are {sorted(AUGMENTATIONS)}, TASK:NAME for one task of {tasks}"
            )
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; it is float32 or bf16")
        if isinstance(self.optimizer, str) and self.optimizer not in _OPTIMIZERS:
            raise ValueError(
                f'unknown optimizer "{self.optimizer}"; there are {sorted(_OPTIMIZERS)}, or give one of optax'
            )
        given = [name for name in ("learning_rate", "weight_decay") if getattr(self, name)]
        if not isinstance(self.optimizer, str) and given:
            raise ValueError(f"{given[0]} is {getattr(self, given[0])}, and optax's optimizer brings its own; give one")

    def settings(self) -> dict[str, Any]:
        """As JSON values; of functions, what they are called."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["learning_rate"] = self.rate
        return json.loads(
            json.dumps(values, default=lambda thing: getattr(thing, "__qualname__", type(thing).__name__))
        )

    @property
    def rate(self) -> float | None:
        """The learning rate at its highest; None for an optimizer that brings its own."""
        if self.learning_rate is not None or not isinstance(self.optimizer, str):
            return self.learning_rate
        return _OPTIMIZERS[self.optimizer][1]

    def transformation(self) -> optax.GradientTransformation:
        """The optimiser, with its schedule and behind the limit on the gradient."""
        optimizer = self.optimizer
        if isinstance(optimizer, str):
            schedule = optax.warmup_cosine_decay_schedule(0.0, self.rate, self.warmup, max(self.steps, self.warmup + 1))
            optimizer = _OPTIMIZERS[optimizer][0](schedule, self.weight_decay)
        return optimizer if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), optimizer)

    def part(self, model: ZooModel) -> tuple[Any, Any]:
        """The weights that are trained and the rest, each in the shape of the model.

        **Raises** ValueError when nothing is selected, naming the parameters that there are.
        """
        names, leaves = zip(*named_leaves(model).items(), strict=True)
        if callable(self.trainable) or self.trainable == "head":
            select = self.trainable if callable(self.trainable) else lambda model: model.head()
            selected = {id(leaf) for leaf in jax.tree.leaves(select(model))}
            chosen = {i for i, leaf in enumerate(leaves) if id(leaf) in selected}
        else:
            begins = "" if self.trainable == "all" else self.trainable
            chosen = {i for i, name in enumerate(names) if f"{name}.".startswith(f"{begins}." if begins else "")}
        if not chosen:
            raise ValueError(f"trainable={self.trainable!r} selects none of the parameters {list(names)}")
        mask = jax.tree.unflatten(jax.tree.structure(model), [i in chosen for i in range(len(leaves))])
        return eqx.partition(model, mask)
