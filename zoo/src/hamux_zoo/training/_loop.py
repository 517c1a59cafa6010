"""The loop of training: one for every architecture, on optax, grain, orbax and jax's SPMD.

A run is its recipe, its data and its first weights. With a folder it can be stopped at any moment, and goes on to the
same weights, bit for bit: the seed and a step's number decide what the step draws, and everything else is in the
checkpoint: weights, optimiser, average, the sums of the next report, and the loader's position.
"""

import contextlib
import dataclasses
import json
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Generic, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..data import Images, batches
from ..memory import Memory
from ..pretrained import named_leaves
from ..progress import Clock, Display
from ._calibrate import calibrated
from ._devices import Placement, in_any_process, to_host
from ._log import Line
from ._recipe import Recipe
from ._run import Run
from ._steps import Arrays, Measure, State, Step, first_state, make_measure, make_step, part
from ._tasks import examples, loss_of

Model = TypeVar("Model", bound=Memory)
# What tells a run from every other, and its first state -> the run.
OpenRun: TypeAlias = Callable[[dict[str, object], State], Run]


class Trainer(Generic[Model]):
    """Trains models of one kind by a recipe `for_model`. The first one compiles the step for all."""

    def __init__(self, recipe: Recipe, *, shard_params: bool = False) -> None:
        """**Raises** ValueError if the devices cannot have equal shares of a batch."""
        self.recipe = recipe
        self._placement = Placement.over_all_devices(recipe.batch_size, shard_params)
        self._programs: tuple[Step, Measure] | None = None

    def fit(
        self,
        model: Model,
        learned: Images,
        held_out: Images | None,
        *,
        display: Display,
        open_run: OpenRun | None = None,
        choose: Callable[[Model], Model] = lambda trained: trained,
    ) -> Model:
        """Returns `model` trained on the images `learned`, or what `choose` makes of it.

        `open_run` makes the run's folder from what tells it from every other, and its first state. **Raises** as
        `finetune`.
        """
        recipe, placement = self.recipe, self._placement
        parts = part(model, recipe)
        plain = make_measure(loss_of(recipe.task), recipe, parts.static)
        state = first_state(parts, recipe, plain, learned.take(np.zeros(recipe.batch_size, int)))
        run = None if open_run is None else open_run(_identity(model, learned, recipe), state)
        state, frozen = placement.place(state), placement.place(parts.frozen)
        order_seed = None if recipe.overfit_one_batch else recipe.seed
        loader = batches(learned, recipe.batch_size, order_seed, placement.share(recipe.batch_size))
        if run:
            state = run.restore(state, loader)
        done, steps, every = int(state.step), recipe.steps, recipe.every
        assert steps
        assert every
        if done:
            display.say(f"going on after step {done} of {steps}")
        if self._programs is None:
            augmented = make_measure(loss_of(recipe.task, recipe.augment or ()), recipe, parts.static)
            layout = jax.tree.map(placement.of, state)
            program = jax.jit(make_step(augmented, recipe), donate_argnums=0, out_shardings=layout)
            self._programs = program, jax.jit(plain)
        step, measure = self._programs
        clock = Clock()
        with _stop_signals(run is not None) as stopping:
            while done < steps:
                with clock.waiting():
                    batch = placement.gather_batch(next(loader))
                state = step(state, frozen, batch)
                done += 1
                display.step(done)
                validating = done % every == 0 or done == steps
                reporting = validating or done % max(1, every // 5) == 0
                # Several processes stop after the same step: they ask one another, though not after every one.
                stop = stopping() if jax.process_count() == 1 else reporting and in_any_process(stopping())
                if (reporting or stop) and (failed := int(state.failed)):
                    raise FloatingPointError(_what_to_try(failed, recipe, run))
                if reporting:
                    averages, state = _averages(state, placement)
                    line = {"step": done, **averages, **clock.lap(recipe.batch_size)}
                    if validating and held_out:
                        line |= _validated(measure, state.result, frozen, held_out, recipe, placement)
                    display.report(line)
                    if line["gradient_norm"] == 0:
                        display.say("the gradient is 0: the trained parameters learn nothing from these images")
                    if run:
                        run.report(line)
                if run and validating:
                    current = eqx.combine(to_host(state.result), to_host(frozen), parts.static)
                    shown = (held_out or learned).take(slice(8))
                    run.show(current, line, partial(examples, current, shown, recipe.task))
                if run and (validating or stop):
                    run.keep(done, state, loader)
                if stop and done < steps:
                    raise KeyboardInterrupt(
                        f"stopped after step {done} of {steps}; the same call, or command, goes on from there"
                    )
                if reporting:
                    clock.start()
        arrays = to_host(state.result), to_host(frozen)
        chosen = choose(eqx.combine(*jax.tree.map(jnp.asarray, arrays), parts.static))
        if run:
            if not callable(recipe.task):
                chosen = calibrated(chosen, held_out or learned, recipe.seed)
            display.say(f"saved: {run.finish(done, chosen)}")
        return chosen


def one_batch(images: Images, recipe: Recipe) -> Images:
    """Returns the batch of `overfit_one_batch`."""
    order = np.random.default_rng(recipe.seed).permutation(len(images.images))
    return images.part(np.resize(order, recipe.batch_size))


def _identity(model: Memory, learned: Images, recipe: Recipe) -> dict[str, object]:
    """What tells a run from every other, as JSON values."""
    arrays = [*named_leaves(model).values(), *(part for part in learned if part is not None)]
    sums = [zlib.crc32(np.ascontiguousarray(array).data) for array in arrays if eqx.is_array_like(array)]
    return {
        "model_type": model.model_type,
        "config": json.loads(json.dumps(dataclasses.asdict(model.config))),
        "images": list(learned.images.shape),
        "checksum": zlib.crc32(repr(sums).encode()),
        **recipe.settings(),
    }


def _averages(state: State, placement: Placement) -> tuple[Line, State]:
    """The metrics' averages since the last report, and the state with their sums set to 0."""
    sums = {name: float(value) for name, value in state.sums.items()}
    count = sums.pop("count") or 1.0
    cleared = placement.place({name: jnp.zeros((), jnp.float32) for name in state.sums})
    return {name: value / count for name, value in sums.items()}, state._replace(sums=cleared)


def _validated(
    measure: Measure, weights: Arrays, frozen: Arrays, held_out: Images, recipe: Recipe, placement: Placement
) -> Line:
    """Loss and metrics on all images held out, each damaged in the same way every time."""
    totals: Line = {}
    count = len(held_out.images)
    for start in range(0, count, recipe.batch_size):
        batch = held_out.take(slice(start, start + recipe.batch_size))
        size = len(batch.images)
        if size == recipe.batch_size:
            placed = placement.gather_batch(batch.take(placement.share(size)))
        else:
            placed = placement._replace(shard_params=False).place(batch)
        metrics = measure(weights, frozen, placed, jr.fold_in(jr.key(recipe.seed), start))
        for name, value in metrics.items():
            totals[f"validation_{name}"] = totals.get(f"validation_{name}", 0.0) + float(value) * size / count
    return totals


def _what_to_try(step: int, recipe: Recipe, run: Run | None) -> str:
    good = "no checkpoint yet"
    if run and run.last_kept:
        good = f"the last good checkpoint is that of step {run.last_kept}; the best model is {run.path / 'best'}"
    advice = [] if recipe.learning_rate is None else [f"a `learning_rate` below {recipe.learning_rate:g}"]
    advice += [] if recipe.clip else ["`clip=1.0`"]
    advice += [f"a `warmup` of more than {recipe.warmup} steps"]
    advice += ["`precision=float32`"] if recipe.precision == "bf16" else []
    return f"step {step}: the loss or its gradient is not finite ({good}); try, in a new folder, {', '.join(advice)}"


@contextlib.contextmanager
def _stop_signals(enabled: bool) -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come; a second one acts as it usually does."""
    came = threading.Event()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, note)
    try:
        yield came.is_set
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
