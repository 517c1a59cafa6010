"""What a trained memory is: it recalls by descending the energy of its HAM, and is saved, loaded and pushed.

An architecture subclasses `Memory`, and the roles `Classifier`, `Generator`, `Featured` and `Attributed` for what it
can do besides. It says how an image becomes states (`start`), how states become an image (`decode`) and classes
(`scores`), and how it descends (`dynamics`). `recall` and `energy` are written once, here.
"""

import dataclasses
import functools
import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree

import hamux

from .files import make_card
from .pixels import all_but_a_quarter, check_image, check_known, fill_unknown, hide_part, upper_half
from .pretrained import Pretrained

States = dict[str, Float[Array, "..."]]
Clamp = dict[str, Bool[Array, "..."] | bool]
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Rehearsal(NamedTuple):
    """How training recalls.

    - `steps`: the steps that have a gradient, or None for those that `Dynamics` takes.
    - `warmup`: w; w·(m + n) steps without a gradient come before them, with m = `least` and n ≥ 0 drawn with
      probability 2⁻ⁿ⁻¹.
    - `judged`: the number of last steps whose images enter the loss.
    - `classify`: classes are learned from so many steps of a recall that holds the image and from the state before
      them, after w·n steps without a gradient; with 0 they are learned from the scores of `classify`.
    """

    steps: int | None = None
    warmup: int = 0
    least: int = 0
    judged: int = 1
    classify: int = 0


class Dynamics(eqx.Module):
    """How a memory descends unless it is told otherwise, which is how it was trained.

    - `method`: a method of `hamux`; `hamux.Certified()` never raises the energy.
    - `steps`: the number of steps, or None to descend to a fixed point.
    - `tol`, `max_steps`: the residual at which a fixed point counts as reached, and the most steps towards it.
    - `adjoint`: how gradients flow through the steps, or None for the default of `hamux.descend` or `hamux.relax`.
    - `rehearsal`: how training recalls.
    """

    method: hamux.Method[Any] = hamux.Certified()
    steps: int | None = eqx.field(static=True, default=None)
    tol: float = eqx.field(static=True, default=1e-4)
    max_steps: int = eqx.field(static=True, default=200)
    adjoint: hamux.Adjoint | None = None
    rehearsal: Rehearsal = eqx.field(static=True, default=Rehearsal())

    @property
    def trained_steps(self) -> int | None:
        """The number of steps that a recall takes in training, on average; None if it descends to a fixed point."""
        taken = self.steps if self.rehearsal.steps is None else self.rehearsal.steps
        return None if taken is None else taken + self.rehearsal.warmup * (self.rehearsal.least + 1)


class RecalledPath(eqx.Module):
    """A recall at its start and after every step; each array has a leading axis `steps + 1`.

    `x` is not clipped, so that a training loss sees by how much an image overshoots.
    """

    x: Float[Array, "steps_plus_1 ..."]
    scores: Float[Array, "steps_plus_1 classes"] | None
    xs: States


class Recalled(eqx.Module):
    """The end of a recall.

    - `x`: the image, clipped to the range of its pixels, and equal to what was given wherever that is known.
    - `scores`: the logits of the classes at the end, `(classes,)`; None if the memory shows no classes.
    - `xs`: the final states of the HAM's layers.
    - `energies`, `steps`, `residual`, `converged`, `reason`: as in `hamux.Retrieval`. Without energies they are None,
      but for `steps` and, of a descent to a fixed point, the last three.
    - `path`: the recall at every step, if it was asked for.
    """

    x: Float[Array, "..."]
    scores: Float[Array, " classes"] | None
    xs: States
    energies: Float[Array, " steps_plus_1"] | None
    steps: Int[Array, ""]
    residual: Float[Array, ""] | None
    converged: Bool[Array, ""] | None
    reason: hamux.Reason | None
    path: RecalledPath | None


class Memory(Pretrained):
    """A trained associative memory: a config, a HAM, and the ways from an image to its states and back.

    All methods take one example; use `jax.vmap` for a batch.
    """

    @abstractmethod
    def start(
        self,
        x: Float[Array, "..."],
        known: Bool[Array, "..."] | None = None,
        *,
        label: Int[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[States, Clamp]:
        """Returns the states from which a recall descends, and which of their units are held.

        - `x`: an array of the config's shape. Unknown pixels are already half-way between black and white or, with a
          `key`, random.
        - `known`: a mask of the same shape, or None if nothing is held.
        - `label`: a class whose neurons are to be held, or None. Only a `Generator` is given one.
        - `key`: draws whatever else begins at random, if given.
        """

    @abstractmethod
    def decode(self, xs: States) -> Float[Array, "..."]:
        """Returns the image that states show."""

    def scores(self, xs: States) -> Float[Array, " classes"] | None:
        """Returns the logits of the classes that states show, or None if they show none."""
        return None

    def dynamics(self) -> Dynamics:
        """Returns how this memory descends by default: with `hamux.Certified()`, to a fixed point."""
        return Dynamics()

    @property
    def optimizer(self) -> tuple[str, float]:
        """The optimiser that suits the memory, one of those of a `Recipe`, and its highest learning rate."""
        return "adamw", 1e-3

    def fitted(self) -> PyTree[Array]:
        """Returns the parameters that `prepared` fits and no step of training changes; by default none."""
        return ()

    def refitted(
        self, images: Float[np.ndarray, "count ..."], labels: Int[np.ndarray, " count"] | None, *, seed: int
    ) -> Self:
        """Returns the memory with the parameters of `fitted` made to suit other images, too; by default itself.

        `hamux_zoo.finetune` calls it before the first step.
        """
        return self

    def hide(self, key: PRNGKeyArray) -> Bool[Array, "height width channels"]:
        """Draws a mask of known pixels for training."""
        return hide_part(key, self.config.shape)

    def prepared(
        self, images: Float[np.ndarray, "count ..."], labels: Int[np.ndarray, " count"] | None, *, seed: int
    ) -> Self:
        """Returns the memory with first weights that suit the images to learn; by default itself.

        `hamux_zoo.train` calls it before the first step.
        """
        return self

    def masks(self, count: int) -> dict[str, Bool[np.ndarray, "count ..."]]:
        """Returns the masks of known pixels by which this memory is measured and shown: by name, `count` of each."""
        shape = self.config.shape
        found = {"completion": upper_half(shape)} | ({"quarter": all_but_a_quarter(shape)} if len(shape) == 3 else {})
        return {name: np.broadcast_to(known, (count, *shape)) for name, known in found.items()}

    @property
    def tasks(self) -> frozenset[str]:
        """What this memory can do, such as "recall" and "classify"."""
        return frozenset({"recall"})

    def recall(
        self,
        x: ArrayLike | None,
        known: ArrayLike | None = None,
        *,
        label: int | Int[ArrayLike, ""] | None = None,
        key: PRNGKeyArray | None = None,
        steps: int | None = None,
        tol: float | None = None,
        max_steps: int | None = None,
        warmup: int | Int[Array, ""] = 0,
        path: bool = False,
        energies: bool = True,
        adjoint: hamux.Adjoint | None = None,
    ) -> Recalled:
        """Descends the energy from `x` and returns what the memory recalls.

        - `x`: an image of the config's shape, floats in [0, 1]. What it holds where it is not known plays no part, even
          if that is NaN.
        - `known`: True where a pixel is right; it is held. A mask (height, width) or (height, width, 1) holds for all
          channels. With None nothing is held: every pixel starts as given and may move, which removes noise. If
          nothing is known, `x` plays no part and may be None; None for both means this.
        - `label`: a class to hold, for a memory with label neurons.
        - `key`: draws the unknown pixels at random. Without it they start half-way between black and white.
        - `steps`: take exactly so many steps. Or `tol` and `max_steps`: descend until the residual is at most `tol`,
          but no more than `max_steps`. Without any of them the memory descends as it was trained to.
        - `warmup`: take so many steps first, through which no gradient flows. It may be traced.
        - `path`: also return image, scores and states at every step. `energies`: also return the energies.
        - `adjoint`: how gradients flow, such as `hamux.Implicit()`.

        `jax.vmap`, `jax.jit` and `jax.grad` go through it; values cannot be checked under them.

        **Raises** ValueError if `x`, `known` or `label` does not fit, if the memory cannot hold a `label`, and for
        `steps` beside `tol` or `max_steps`.
        """
        if steps is not None and (tol is not None or max_steps is not None):
            raise ValueError(
                f"steps is {steps} beside tol {tol} and max_steps {max_steps}; give steps for a fixed number of steps, "
                "or the others to descend to a fixed point"
            )
        for name, flag in {"path": path, "energies": energies}.items():
            if isinstance(flag, jax.core.Tracer):
                raise ValueError(f"{name} is being traced by jax; use eqx.filter_jit in place of jax.jit")
        image, mask = self.checked(x, known)
        states, clamp = _start(self, image, mask, _checked_label(self, label), key)
        dynamics = self.dynamics()
        adjoint = dynamics.adjoint if adjoint is None else adjoint
        if steps is None and tol is None and max_steps is None:
            steps = dynamics.steps
        tol = dynamics.tol if tol is None else tol
        if steps is not None:
            run = functools.partial(hamux.descend, steps=steps, tol=tol, adjoint=adjoint or hamux.Unrolled())
        else:
            most = dynamics.max_steps if max_steps is None else max_steps
            run = functools.partial(hamux.relax, max_steps=most, tol=tol, adjoint=adjoint or hamux.Implicit())
        end = run(
            self.ham, states, method=dynamics.method, clamp=clamp, warmup=warmup, trajectory=path, energies=energies
        )
        return _recalled(self, end, image, mask)

    def energy(self, x: ArrayLike | None, known: ArrayLike | None = None) -> Float[Array, ""]:
        """Returns the energy from which `recall(x, known)` descends. **Raises** as `recall`."""
        return jax.tree.reduce(jnp.add, self.energy_tree(x, known))

    def energy_tree(self, x: ArrayLike | None, known: ArrayLike | None = None) -> PyTree[Float[Array, ""]]:
        """Returns the parts of that energy, as `hamux.HAM.energy_tree`. **Raises** as `recall`."""
        return _energy_tree(self, *self.checked(x, known))

    def strangeness(self, x: ArrayLike) -> Float[Array, ""]:
        """Returns how unlike what the memory holds a pattern is: the share of it that its recall does not explain.

            |x − r|² / (|x − mean(x)|² + n/1000),  r = recall(x).x, for n pixels

        Above `config.unfamiliar` it is unlike what the memory learned. **Raises** as `recall`.
        """
        image, _ = self.checked(x)
        return unexplained(image, self.recall(image, energies=False).x)

    def checked(
        self, x: ArrayLike | None, known: ArrayLike | None = None
    ) -> tuple[Float[Array, "..."], Bool[Array, "..."] | None]:
        """Returns what `start` takes of `x` and `known`. For architectures. **Raises** as `recall`."""
        config = self.config
        mask = None if known is None else check_known(known, config.shape)
        if x is None:
            if mask is not None and not isinstance(mask, jax.core.Tracer) and mask.any():
                raise ValueError("x is None, but known is True for some pixels; expected an image that holds them")
            return jnp.full(config.shape, (config.low + config.high) / 2), jnp.zeros(config.shape, bool)
        image = check_image(x, config.shape, mask, config.low, config.high)
        return (image, None) if mask is None else (fill_unknown(image, mask, None, config.low, config.high), mask)

    def card(
        self,
        name: str,
        sections: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
        *,
        path: str | None = None,
        picture: str | None = None,
        datasets: Sequence[str] = (),
        base_model: str | None = None,
        metrics: Mapping[str, float] = MappingProxyType({}),
    ) -> str:
        """Returns a card that says what a memory is and how to use it, with a table for each of `sections`.

        `path` is what the card gives to `from_pretrained`; without it that is `name`.
        """
        kind, config = type(self), self.config
        about = (inspect.getdoc(kind) or kind.__name__).split("\n\n")[0].replace("\n", " ").rstrip(".:")
        uses = ["from hamux_zoo import from_pretrained", "", f'model = from_pretrained("{path or name}")']
        uses += ["recalled = model.recall(image, known).x  # known is True where a pixel is right"]
        if "classify" in self.tasks:
            uses.append(f"scores = model.classify(image)  # ({config.classes},), the largest is the class")
        if "generate" in self.tasks:
            uses.append("image = model.generate(label, key=key).x")
        text = f"{about}.\n\n" + (f"![Examples]({picture})\n\n" if picture else "")
        text += "".join(f"    {line}".rstrip() + "\n" for line in uses)
        for title, values in {"Config": dataclasses.asdict(config), **sections}.items():
            rows = "".join(f"| {key} | {value} |\n" for key, value in values.items())
            text += f"\n## {title}\n\n| | |\n|---|---|\n{rows}"
        measured = "only what is measured above" if sections else "nothing, since it was not measured"
        text += f"\n## Limits\n\nAbout other data than its own we know {measured}.\n"
        tag = "image-classification" if "classify" in self.tasks else "image-to-image"
        return make_card(
            name,
            text,
            pipeline_tag=tag,
            tags=[self.model_type],
            datasets=datasets,
            base_model=base_model,
            metrics=metrics,
        )


class Classifier(Memory):
    """A memory that tells the class of an image, if its config has classes."""

    @property
    def tasks(self) -> frozenset[str]:
        return super().tasks | ({"classify"} if self.config.classes else set())

    def classify(self, x: ArrayLike) -> Float[Array, " classes"]:
        """Returns the logits of the classes: the `scores` of a recall that holds all of `x`; the largest is the class.

        **Raises** ValueError for a memory without classes, and if `x` does not fit.
        """
        self.check_classes()
        scores = self.recall(x, np.ones(self.config.shape, bool), energies=False).scores
        assert scores is not None
        return scores

    def check_classes(self) -> None:
        """**Raises** ValueError for a memory without classes."""
        if not self.config.classes:
            raise ValueError(
                f"this {type(self).__name__} has no classes; give it some with with_head(classes=…, key=…)"
            )

    @abstractmethod
    def head(self) -> PyTree[Array]:
        """Returns the parameters that only classification needs. **Raises** ValueError if there are none."""

    @abstractmethod
    def with_head(self, *, classes: int, key: PRNGKeyArray) -> Self:
        """Returns the memory with new parameters for so many classes, drawn by `key`, and without class names."""


class Generator(Memory):
    """A memory that makes up images of a class, if its config has classes."""

    @property
    def tasks(self) -> frozenset[str]:
        return super().tasks | ({"generate"} if self.config.classes else set())

    def generate(self, label: int | Int[ArrayLike, ""], *, key: PRNGKeyArray) -> Recalled:
        """Returns `recall(None, label=label, key=key)`: from a random start to an image of the class.

        **Raises** as `recall`.
        """
        return self.recall(None, label=label, key=key)

    @abstractmethod
    def closest(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns an image from which a generation of the class of `x` may start, the one that is most like `x`.

        Training learns to generate `x` from it.
        """


class Featured(Memory):
    """A memory that describes an image by one vector."""

    @property
    def tasks(self) -> frozenset[str]:
        return super().tasks | {"features"}

    @abstractmethod
    def features(self, x: ArrayLike) -> Float[Array, " dim"]:
        """Returns one vector that describes `x`. **Raises** as `recall`."""


class Attributed(Memory):
    """A memory that tells which of its memories a recall is made of."""

    @property
    def tasks(self) -> frozenset[str]:
        return super().tasks | {"attribution"}

    @abstractmethod
    def attribution(self, x: ArrayLike | None, known: ArrayLike | None = None) -> Float[Array, " memories"]:
        """Returns each memory's share, at the end of `recall(x, known)`; the shares sum to 1. **Raises** as
        `recall`."""

    @abstractmethod
    def memories(self, which: slice = slice(None)) -> Float[Array, "memories ..."]:
        """Returns some of the memories as images."""


def unexplained(x: Float[Array, "..."], r: Float[Array, "..."]) -> Float[Array, ""]:
    """Returns the share of a pattern that a recall `r` does not explain; see `Memory.strangeness`."""
    x = x.astype(r.dtype)
    return jnp.mean(jnp.square(x - r)) / (jnp.var(x) + 1e-3)


@eqx.filter_jit
def strangenesses(model: Memory, images: Float[Array, "count ..."]) -> Float[Array, " count"]:
    """Returns the strangeness of each of several patterns."""
    return jax.vmap(model.strangeness)(images)


def compiled(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Returns a function of a memory and arrays as one program. It takes batches on a mesh with explicit axes, too.

    Without it, operation by operation, a first image takes seconds.
    """

    @eqx.filter_jit
    @functools.wraps(function)
    def program(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        return hamux.without_explicit_axes(function, (arguments, keywords))(*arguments, **keywords)

    run: Callable[_Arguments, _Result] = program
    return run


def _checked_label(model: Memory, label: int | Int[ArrayLike, ""] | None) -> Int[Array, ""] | None:
    if label is None:
        return None
    if "generate" not in model.tasks:
        raise ValueError(f"label is {label}, but this {type(model).__name__} has no label neurons to hold")
    which = label if isinstance(label, jax.Array) else np.asarray(label)
    if which.shape != () or not jnp.issubdtype(which.dtype, jnp.integer):
        raise ValueError(f"label is {label!r}; expected one class as a whole number")
    if not isinstance(which, jax.core.Tracer) and not 0 <= int(which) < model.config.classes:
        raise ValueError(f"label is {label}; this memory knows the classes 0 to {model.config.classes - 1}")
    return jnp.asarray(which)


@compiled
def _start(
    model: Memory,
    x: Float[Array, "..."],
    known: Bool[Array, "..."] | None,
    label: Int[Array, ""] | None,
    key: PRNGKeyArray | None,
) -> tuple[States, Clamp]:
    if key is not None and known is not None:
        key_pixels, key = jr.split(key)
        x = fill_unknown(x, known, key_pixels, model.config.low, model.config.high)
    return model.start(x, known, label=label, key=key)


@compiled
def _energy_tree(model: Memory, x: Float[Array, "..."], known: Bool[Array, "..."] | None) -> PyTree[Float[Array, ""]]:
    xs, _ = model.start(x, known)
    return model.ham.energy_tree(model.ham.activations(xs), xs)


@compiled
def _recalled(
    model: Memory, end: hamux.Retrieval, x: Float[Array, "..."], known: Bool[Array, "..."] | None
) -> Recalled:
    def kept(image: Float[Array, "..."]) -> Float[Array, "..."]:
        return image if known is None else jnp.where(known, x.astype(image.dtype), image)

    path = None
    if (states := end.trajectory) is not None:
        images = jax.vmap(lambda xs: kept(model.decode(xs)))(states)
        path = RecalledPath(images, jax.vmap(model.scores)(states), states)
    return Recalled(
        x=kept(jnp.clip(model.decode(end.xs), model.config.low, model.config.high)),
        scores=model.scores(end.xs),
        xs=end.xs,
        energies=end.energies,
        steps=end.steps,
        residual=end.residual,
        converged=end.converged,
        reason=end.reason,
        path=path,
    )
