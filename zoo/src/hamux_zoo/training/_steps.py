"""One step of a training: loss, gradient, update. The seed and the step's number decide all that it draws."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from ..data import Images
from ..memory import Classifier, Memory
from ..progress import TIMINGS
from ._recipe import Recipe
from ._tasks import Loss, Measured, Metrics

Arrays: TypeAlias = PyTree[Array]

# The names in a line of the log that a loss's own metrics cannot have.
RESERVED = {"loss", "step", "count", "gradient_norm", *TIMINGS}


class Parts(NamedTuple):
    """A model in three trees of its own shape, each None where another one has a leaf."""

    weights: Arrays  # that are trained
    frozen: Arrays
    static: PyTree  # leaves that are no arrays, such as a function


def part(model: Memory, recipe: Recipe) -> Parts:
    """Returns the model in parts: a parameter is trained if `recipe.trainable` selects it.

    **Raises** ValueError if none is selected, naming the parameters that there are, and for a head of a model that has
    none.
    """
    arrays, static = eqx.partition(model, eqx.is_array)
    # Copied, so that the place of a leaf is known by the leaf, even if one array lies in two places.
    copied = jax.tree.map(jnp.copy, arrays)
    named, structure = jax.tree_util.tree_flatten_with_path(copied)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in named]
    whole: Memory = eqx.combine(copied, static)
    if callable(recipe.trainable) or recipe.trainable == "head":
        if callable(recipe.trainable):
            found = recipe.trainable(whole)
        elif isinstance(whole, Classifier):
            found = whole.head()
        else:
            raise ValueError(f'`trainable` is "head", but {type(model).__name__} does not classify, and has none')
        selected = {id(leaf): leaf for leaf in jax.tree.leaves(found) if not callable(leaf)}
        if strange := selected.keys() - {id(leaf) for leaf in jax.tree.leaves(whole)}:
            raise ValueError(
                f"`trainable` returned {selected[strange.pop()]!r:.60}, which is no parameter of the model as it is; "
                "return parts of the model, such as model.ham.synapses, or a list of them"
            )
        chosen = [id(leaf) in selected for _, leaf in named]
    elif recipe.trainable == "all":
        fitted = {id(leaf) for leaf in jax.tree.leaves(whole.fitted())}
        chosen = [id(leaf) not in fitted for _, leaf in named]
    else:
        chosen = [f"{name}.".startswith(f"{recipe.trainable}.") for name in names]
    chosen = [each and eqx.is_inexact_array(leaf) for each, (_, leaf) in zip(chosen, named, strict=True)]
    if not any(chosen):
        raise ValueError(f"`trainable` is {recipe.trainable!r}, which selects none of the parameters {names}")
    return Parts(*eqx.partition(arrays, jax.tree.unflatten(structure, chosen)), static)


class State(NamedTuple):
    """All that changes from step to step and lies on the devices."""

    weights: Arrays
    optimizer: Arrays
    average: Arrays | None  # of the weights, None without `ema`
    sums: Metrics  # of each step's metrics since the last report
    step: Int[Array, ""]  # the number of steps done
    failed: Int[Array, ""]  # the step whose loss or gradient was not finite, 0 for none; nothing changes after it

    @property
    def result(self) -> Arrays:
        """The weights that a run is for."""
        return self.weights if self.average is None else self.average


Step = Callable[[State, Arrays, Images], State]
Measure = Callable[[Arrays, Arrays, Images, PRNGKeyArray], Metrics]


def first_state(parts: Parts, recipe: Recipe, measure: Measure, batch: Images) -> State:
    """Returns the state before the first step; `batch` gives the shapes from which the loss's metrics follow.

    **Raises** ValueError for a loss that does not return a scalar and scalars by name.
    """
    metrics = jax.eval_shape(measure, parts.weights, parts.frozen, batch, jr.key(0))
    if wrong := [name for name, value in metrics.items() if value.shape]:
        raise ValueError(f"{wrong} of the loss function have shape {metrics[wrong[0]].shape}; expected scalars")
    with jax.numpy_dtype_promotion("standard"):  # optax adds integers to floats
        optimizer = jax.jit(recipe.transformation().init)(parts.weights)
    sums = {name: jnp.zeros((), jnp.float32) for name in [*metrics, "gradient_norm", "count"]}
    average = parts.weights if recipe.ema else None
    return State(parts.weights, optimizer, average, sums, jnp.int32(0), jnp.int32(0))


def make_measure(loss: Loss, recipe: Recipe, static: PyTree) -> Measure:
    """Returns (weights, frozen, batch, key) -> the loss, under "loss", and its metrics."""

    def measure(weights: Arrays, frozen: Arrays, batch: Images, key: PRNGKeyArray) -> Metrics:
        if recipe.precision == "bf16":
            weights, frozen, batch = jax.tree.map(_halved, (weights, frozen, batch))
        measured: object = loss(eqx.combine(weights, frozen, static), batch, key=key)
        if not (isinstance(measured, tuple) and len(measured) == 2 and isinstance(measured[1], dict)):
            raise ValueError(
                f"the loss function returned a {type(measured).__name__}; expected (loss, metrics by name)"
            )
        value, metrics = measured
        if taken := [name for name in metrics if name in RESERVED or name.startswith("validation_")]:
            raise ValueError(f"metrics {taken} need other names; {sorted(RESERVED)} and validation_… are the log's own")
        return {name: jnp.asarray(each).astype(jnp.float32) for name, each in {"loss": value, **metrics}.items()}

    return measure


def make_step(measure: Measure, recipe: Recipe) -> Step:
    """Returns (state, frozen, batch) -> state."""
    optimizer = recipe.transformation()

    def loss(weights: Arrays, frozen: Arrays, batch: Images, key: PRNGKeyArray) -> Measured:
        metrics = measure(weights, frozen, batch, key)
        return metrics["loss"], metrics

    def gradient_of(weights: Arrays, frozen: Arrays, batch: Images, key: PRNGKeyArray) -> tuple[Arrays, Metrics]:
        """Gradient and metrics of a batch, computed piece after piece."""

        def of_piece(piece: tuple[Images, PRNGKeyArray]) -> tuple[Arrays, Metrics]:
            found: tuple[Arrays, Metrics] = jax.grad(loss, has_aux=True)(weights, frozen, *piece)
            return found

        def add(total: Arrays, piece: tuple[Images, PRNGKeyArray]) -> tuple[Arrays, None]:
            return jax.tree.map(jnp.add, total, of_piece(piece)), None

        count = recipe.accumulate
        # Each device gives each piece its share: rows i, i + count, i + 2 count, …
        rows = jax.tree.map(lambda rows: rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1), batch)
        pieces = rows, jr.split(key, count)
        shapes = jax.eval_shape(of_piece, jax.tree.map(lambda rows: rows[0], pieces))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, pieces)
        mean: tuple[Arrays, Metrics] = jax.tree.map(lambda value: value / count, total)
        return mean

    def step(state: State, frozen: Arrays, batch: Images) -> State:
        draws = 0 if recipe.overfit_one_batch else state.step
        gradient, metrics = gradient_of(state.weights, frozen, batch, jr.fold_in(jr.key(recipe.seed), draws))
        with jax.numpy_dtype_promotion("standard"):
            norm = optax.tree.norm(gradient).astype(jnp.float32)
            metrics |= {"gradient_norm": norm, "count": jnp.ones((), jnp.float32)}
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.weights)
            weights = optax.apply_updates(state.weights, updates)
            average = state.average
            if recipe.ema:
                kept = jnp.minimum(recipe.ema, (1 + state.step) / (10 + state.step))
                average = optax.incremental_update(weights, average, 1 - kept)
        sums = jax.tree.map(jnp.add, state.sums, metrics)
        new = State(weights, optimizer_state, average, sums, state.step + 1, state.failed)
        finite = jnp.isfinite(metrics["loss"] + metrics["gradient_norm"])
        good = finite & (state.failed == 0)
        failing = state._replace(failed=jnp.where(state.failed == 0, state.step + 1, state.failed))
        chosen: State = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, failing)
        return chosen

    return step


def _halved(leaf: Array) -> Array:
    return leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf
