"""One step of a training: loss, gradient, update. What it draws is decided by seed and step alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._data import Images
from ._log import TIMINGS
from ._recipe import Recipe
from ._tasks import Loss

# What a log line holds besides a loss's own metrics.
RESERVED = {"loss", "step", "count", "gradient_norm", *TIMINGS}

Metrics = dict[str, Float[Array, ""]]


class State(NamedTuple):
    """All that changes from step to step and lies on the devices."""

    weights: Any
    optimizer: Any
    average: Any  # of the weights, None without `ema`
    sums: Metrics  # of each step's metrics since the last report
    step: Int[Array, ""]  # those done
    failed: Int[Array, ""]  # the step whose loss or gradient was not finite, 0 for none; nothing changes after it

    @property
    def result(self) -> Any:
        """The weights that a run is for."""
        return self.weights if self.average is None else self.average


Step = Callable[[State, Any, Images], State]
Measure = Callable[[Any, Any, Images, PRNGKeyArray], Metrics]


def first_state(weights: Any, recipe: Recipe, measure: Measure, frozen: Any, batch: Images) -> State:
    """Before the first step; `batch` gives the shapes from which the loss's metrics are known.

    **Raises** ValueError for a loss that does not give a scalar and scalars by name.
    """
    metrics = jax.eval_shape(measure, weights, frozen, batch, jr.key(0))
    if wrong := [name for name, value in metrics.items() if value.shape]:
        raise ValueError(f"{wrong} of the loss function are of shape {metrics[wrong[0]].shape}; expected scalars")
    with jax.numpy_dtype_promotion("standard"):  # optax adds integers to floats
        optimizer = jax.jit(recipe.transformation().init)(weights)
    sums = {name: jnp.zeros((), jnp.float32) for name in [*metrics, "gradient_norm", "count"]}
    return State(weights, optimizer, weights if recipe.ema else None, sums, jnp.int32(0), jnp.int32(0))


def make_measure(loss: Loss, recipe: Recipe) -> Measure:
    """(weights, frozen, batch, key) -> the loss, under "loss", and its metrics."""

    def measure(weights, frozen, batch, key):
        measured = loss(*_cast(recipe, (eqx.combine(weights, frozen), batch)), key=key)
        if not (isinstance(measured, tuple) and len(measured) == 2 and isinstance(measured[1], dict)):
            raise ValueError(f"the loss function gave a {type(measured).__name__}; expected (loss, metrics by name)")
        value, metrics = measured
        if taken := [name for name in metrics if name in RESERVED or name.startswith("validation_")]:
            raise ValueError(
                f"metrics {taken} need other names; the log has {sorted(RESERVED)} and validation_… itself"
            )
        return jax.tree.map(lambda value: jnp.asarray(value).astype(jnp.float32), {"loss": value, **metrics})

    return measure


def make_step(measure: Measure, recipe: Recipe) -> Step:
    """(state, frozen, batch) -> state."""
    optimizer = recipe.transformation()

    def loss(weights, frozen, batch, key):
        metrics = measure(weights, frozen, batch, key)
        return metrics["loss"], metrics

    def gradient_of(weights, frozen, batch, key):
        """Gradient and metrics of a batch, its pieces one after another."""

        def of_piece(piece):
            return jax.grad(loss, has_aux=True)(weights, frozen, *piece)

        def add(total, piece):
            return jax.tree.map(jnp.add, total, of_piece(piece)), None

        count = recipe.accumulate
        # Every device gives each piece its share: rows i, i + count, i + 2 count, …
        pieces = jax.tree.map(lambda rows: rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1), batch)
        pieces = pieces, jr.split(key, count)
        shapes = jax.eval_shape(of_piece, jax.tree.map(lambda rows: rows[0], pieces))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, pieces)
        return jax.tree.map(lambda value: value / count, total)

    def step(state: State, frozen: Any, batch: Images) -> State:
        draws = 0 if recipe.overfit_one_batch else state.step
        gradient, metrics = gradient_of(state.weights, frozen, batch, jr.fold_in(jr.key(recipe.seed), draws))
        norm = optax.tree.norm(gradient).astype(jnp.float32)
        metrics |= {"gradient_norm": norm, "count": jnp.ones((), jnp.float32)}
        with jax.numpy_dtype_promotion("standard"):
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
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, failing)

    return step


def _cast(recipe: Recipe, tree: Any) -> Any:
    """Floats in the precision of the computation."""
    if recipe.precision == "float32":
        return tree
    floats, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), floats), rest)
