"""What decides the result of a training, with the data and the first weights."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ..data import AUGMENTATIONS, whole_number
from ..memory import Memory
from ._tasks import Task, weights_of

# model -> the parts of it that are trained
Selector = Callable[..., PyTree[Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the result of `finetune` and `train`, beside the data and the first weights.

    - `task`: "classify", "reconstruct" (of hidden pixels), "denoise" or "generate" (from the label); several with
      weights, such as `{"classify": 1, "reconstruct": 10}`; or a loss function
      `(model, batch, *, key) -> (loss, metrics)`, which gets `batch.images` and `batch.labels` and returns averages
      over the batch: a scalar, and scalars by name.
    - `probe`: whether to begin with the classifier of `probe`, so that a `Probed` is trained (Kumar et al., 2022). None
      begins so if the task is "classify" and the memory has features. `train` never does.
    - `steps`: the number of steps of the optimiser. None takes 500 or, from a probe, 8 √n for n images, from 50 to
      3,000. `batch_size`: the number of images in each.
    - `optimizer`: "adamw", "muon", "sgd", or one of optax, which brings its own learning rate and weight decay. None
      takes what suits the architecture or, from a probe, adamw, with its `learning_rate`.
    - `learning_rate`: the highest, which is reached after `warmup` steps and falls to 0 along a cosine. None takes what
      suits the optimiser.
    - `warmup`: None takes a tenth of all steps, at most 300.
    - `weight_decay`: λ, decoupled from the gradient. With muon, whose steps are orthogonal, it bounds the spectral norm
      of every matrix by 1/λ (Chen, Li & Liu, 2025).
    - `clip`: the largest norm of the gradient, None for no limit.
    - `accumulate`: the number of pieces in which a batch is computed, one after another, to save memory.
    - `ema`: the decay of an average of the weights, such as 0.999, which is then validated and returned. None keeps no
      average.
    - `precision`: "bf16" computes in bfloat16; weights, optimiser and losses stay in float32.
    - `trainable`: "all", "head", the beginning of parameters' names ("ham.synapses"), or a function that returns parts
      of the model (`lambda model: model.ham.synapses`). Other parameters are frozen and take no optimiser memory. With
      "all", so are those of `model.fitted()`.
    - `augment`: names of "crop", "flip", "colour", "warp", "noise", which change every image at random, in the order
      given; "classify:warp" is for one task alone. None takes none or, from a probe, those of "warp", "crop", "flip"
      after which the probe knows images left out of it as well as before.
    - `validation`: the share of the images that is held out, and on which loss and metrics are measured. None takes a
      tenth or, from a probe on up to 2,000 images, three-fold cross-validation.
    - `every`: the number of steps between validations, at which a checkpoint is written, too. None takes a tenth of all
      steps.
    - `seed`: draws the order of the images, what is held out, augmentation, damage, a new head, and `train`'s weights.
    - `overfit_one_batch`: train on one batch alone, as it is, and hold none out. A loss that does not fall then shows a
      mistake.

    **Raises** ValueError, naming the field, for a value that does not fit.
    """

    task: Task = "classify"
    probe: bool | None = None
    steps: int | None = None
    batch_size: int = 64
    optimizer: str | optax.GradientTransformation | None = None
    learning_rate: float | None = None
    warmup: int | None = None
    weight_decay: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    ema: float | None = None
    precision: Literal["float32", "bf16"] = "float32"
    trainable: str | Selector = "all"
    augment: Sequence[str] | None = None
    validation: float | None = None
    every: int | None = None
    seed: int = 0
    overfit_one_batch: bool = False

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "batch_size": 1, "warmup": 0, "accumulate": 1, "every": 1, "seed": 0}.items():
            if getattr(self, name) is not None or name not in ("steps", "warmup", "every"):
                object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        for name, high in {"learning_rate": math.inf, "clip": math.inf, "ema": 1}.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name), high, above=True))
        for name, high in {"validation": 1, "weight_decay": math.inf}.items():
            if name != "validation" or self.validation is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name), high))
        if self.seed >= 2**32:
            raise ValueError(f"`seed` is {self.seed}; expected a whole number below 2**32")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"`accumulate` is {self.accumulate}, and `batch_size` {self.batch_size}; expected a divisor of it"
            )
        tasks = weights_of(self.task)
        if not callable(self.task):
            object.__setattr__(self, "task", self.task if isinstance(self.task, str) else tasks)
        known = [*AUGMENTATIONS, *(f"{task}:{name}" for task in tasks for name in AUGMENTATIONS)]
        names = tuple([self.augment] if isinstance(self.augment, str) else self.augment or ())
        if self.augment is not None:
            object.__setattr__(self, "augment", names)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"`augment` has unknown names {unknown}; expected some of {sorted(AUGMENTATIONS)}, or TASK:NAME with "
                f"a task of {sorted(tasks)}"
            )
        if self.probe and self.task != "classify":
            raise ValueError(f'`probe` is for the task "classify", but `task` is {self.task!r:.60}')
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"`precision` is {self.precision!r}; expected float32 or bf16")
        if self.optimizer not in OPTIMIZERS and not isinstance(self.optimizer, optax.GradientTransformation | None):
            raise ValueError(
                f"`optimizer` is {self.optimizer!r}; expected one of {sorted(OPTIMIZERS)}, or an optimizer of optax"
            )
        given = [name for name in ("learning_rate", "weight_decay") if getattr(self, name)]
        if given and not isinstance(self.optimizer, str | None):
            raise ValueError(
                f"`{given[0]}` is {getattr(self, given[0])}, but optax's `optimizer` brings its own; leave one out"
            )

    def for_model(self, model: Memory, count: int) -> "Recipe":
        """Returns the recipe for `count` images, with what None and `overfit_one_batch` stand for filled in.

        With `probe`, `augment` and `validation` may still be None.
        """
        optimizer, rate, steps = self.optimizer, self.learning_rate, self.steps
        if optimizer is None:
            optimizer, suiting = _FROM_A_PROBE if self.probe else model.optimizer
            rate = suiting if rate is None else rate
        elif isinstance(optimizer, str) and rate is None:
            rate = OPTIMIZERS[optimizer][1]
        if steps is None:
            steps = int(np.clip(8 * math.sqrt(count), 50, 3000)) if self.probe else 500
        filled = dataclasses.replace(
            self,
            steps=steps,
            optimizer=optimizer,
            learning_rate=rate,
            warmup=min(300, steps // 10) if self.warmup is None else self.warmup,
            every=max(1, steps // 10) if self.every is None else self.every,
        )
        if self.overfit_one_batch:
            return dataclasses.replace(filled, augment=(), validation=0.0)
        if self.probe:
            return filled
        return dataclasses.replace(
            filled, augment=self.augment or (), validation=0.1 if self.validation is None else self.validation
        )

    def settings(self) -> dict[str, object]:
        """Returns the fields as JSON values; for a function, its name."""
        text = json.dumps(vars(self), default=lambda thing: getattr(thing, "__qualname__", type(thing).__name__))
        settings: dict[str, object] = json.loads(text)
        return settings

    def transformation(self) -> optax.GradientTransformation:
        """Returns the optimiser of a recipe `for_model`, with its schedule and the limit on the gradient."""
        optimizer = self.optimizer
        if isinstance(optimizer, str):
            assert self.warmup is not None
            assert self.steps is not None
            schedule = optax.warmup_cosine_decay_schedule(
                0.0, self.learning_rate, self.warmup, max(self.steps, self.warmup + 1)
            )
            optimizer = OPTIMIZERS[optimizer][0](schedule, self.weight_decay)
        return optimizer if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), optimizer)


# What is good already is changed little.
_FROM_A_PROBE = ("adamw", 3e-4)


def _number(name: str, value: object, high: float, above: bool = False) -> float:
    number = np.asarray(value)
    if number.shape or number.dtype.kind not in "iuf" or not 0 <= number < high or (above and number == 0):
        least = "greater than 0" if above else "of at least 0"
        raise ValueError(f"`{name}` is {value!r}; expected a number {least} and less than {high}")
    return float(number)


def _as_matrices(weights: PyTree[Array]) -> PyTree[optax.contrib.MuonDimensionNumbers | None]:
    """Matrices; an attention's (heads, head_dim, dim), which is one of heads · head_dim rows; a convolution's filters
    (channels_out, channels_in, height, width), one row each."""

    def axes(leaf: Array) -> optax.contrib.MuonDimensionNumbers | None:
        if leaf.ndim == 4:
            return optax.contrib.MuonDimensionNumbers((1, 2, 3), 0)
        last = leaf.ndim - 1
        return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last) if last in (1, 2) else None

    return jax.tree.map(axes, weights)


# By name: what makes the optimiser of a schedule and of the decay of the weights, and its usual highest rate.
OPTIMIZERS: dict[str, tuple[Callable[[optax.Schedule, float], optax.GradientTransformation], float]] = {
    "adamw": (lambda rate, decay: optax.adamw(rate, weight_decay=decay), 1e-3),
    # Makes the step of a matrix orthogonal (Jordan et al., 2024). A vector goes by Adam, at a hundredth of the rate.
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
