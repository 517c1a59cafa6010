"""Training and fine-tuning: one loop for every architecture, on optax, grain, orbax and jax's SPMD.

A run is its recipe, its data and its first weights. With a work folder it can be stopped at any moment and goes on to
the same weights, bit for bit: what a step draws comes from the seed and the step's number, and all else is in the
checkpoint: weights, optimiser, average, the sums of the next report, and the loader's position.
"""

import contextlib
import dataclasses
import json
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from ._data import Images, Source, read, split_off
from ._devices import Placement, in_any_process, leads, to_host
from ._loader import batches
from ._model import ZooModel, make_config, named_leaves
from ._progress import Clock, Display
from ._recipe import Recipe, Selector
from ._run import Run
from ._steps import State, first_state, make_measure, make_step
from ._tasks import Task, loss_of, names_of, uses_labels


def finetune(
    model: ZooModel,
    data: Any,
    *,
    task: Task = "classify",
    steps: int = 500,
    batch_size: int = 64,
    optimizer: str | optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    warmup: int | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    precision: Literal["float32", "bf16"] = "float32",
    trainable: str | Selector = "all",
    augment: Sequence[str] = (),
    validation: float = 0.1,
    every: int | None = None,
    seed: int = 0,
    overfit_one_batch: bool = False,
    workdir: str | Path | None = None,
    resume: bool = True,
    overwrite: bool = False,
    shard_params: bool = False,
    skip_bad: bool = False,
    log: str | None = None,
    base_model: str | None = None,
    quiet: bool = False,
) -> Any:
    """`model` trained further on `data`: the last weights, or their average with `ema`.

    - `data`: a Hub id, a folder of images (one folder a class), a `datasets.Dataset`, or arrays (`load_images`).
    - `task`: "classify", "reconstruct" or "denoise", several with weights, `{"classify": 1, "reconstruct": 10}`, or a
      loss of your own, `(model, batch, *, key) -> (loss, metrics)`, with `batch.images`, `batch.labels` and scalars
      averaged over the batch. To classify, the head gets as many classes as the data have.
    - `steps`, `batch_size`: of the optimiser, and the images of each; a batch may be computed in `accumulate` pieces.
    - `optimizer`: "adamw", "muon", "sgd", or an optax one, which brings its own `learning_rate`; left out, both are
      what suits the architecture. The rate rises over `warmup` steps (a tenth of all, at most 300) and falls to 0 along
      a cosine. `weight_decay` is decoupled; `clip` limits the gradient's norm.
    - `ema`: the decay of an average of the weights, such as 0.999, which is then what is validated and returned.
    - `precision`: "bf16" computes in bfloat16; weights, energies and losses stay float32.
    - `trainable`: "all", "head", the beginning of parameters' names ("ham.synapses"), or a function that selects parts
      of the model (`lambda model: model.ham.synapses`). The rest is frozen and takes no optimiser memory.
    - `augment`: of "crop", "flip", "colour", "warp", by chance anew for every image and step; "classify:warp" for one
      task alone.
    - `validation`: the share of the images held out, on which loss and metrics are measured `every` so many steps (a
      tenth of all), when a checkpoint is written as well.
    - `seed`: of order, augmentation, damage, what is held out, and a new head. `overfit_one_batch` trains on one batch
      alone, as it is: a loss that does not fall then tells of a mistake.
    - `workdir`: the run's folder: `model` (the result) and `best` (by validation loss), `log.jsonl`, `curves.png`,
      `samples.png`, `checkpoints`. The same call goes on where a run of this folder stopped, and ends in the same
      weights (a function given as loss, optimizer or selector is known by its name alone); with `resume=False`, and for
      another run, the folder is refused, with `overwrite` emptied of its run.
    - `shard_params`: cut large parameters over the devices. Batches are always cut over all devices of all processes.
    - `skip_bad`: leave out images that cannot be read. `log`: with a work folder, report to "trackio" or "tensorboard"
      as well. `base_model`: the Hub's or the bundled name of what `model` was, for the card. `quiet`: show nothing.

    SIGINT (Ctrl-C) and SIGTERM end a run with a work folder after the step at hand (of several processes: at the next
    report) and a checkpoint, by KeyboardInterrupt. Every process reads all images and keeps them, as bytes where they
    come as bytes; it loads its own share of each batch.

    **Raises** ValueError for arguments and data that do not fit, saying what would; FileNotFoundError for data that are
    not there; FloatingPointError when loss or gradient stop being finite, with the step, the last good checkpoint and
    what to try; OSError when there is no space for a checkpoint.
    """
    if log is not None and workdir is None:
        raise ValueError(f'log "{log}" is that of a run with a work folder; give one as workdir')
    source = read(data, shape=model.config.shape, skip_bad=skip_bad)
    if optimizer is None:
        optimizer, learning_rate = model.optimizer, model.learning_rate if learning_rate is None else learning_rate
    recipe = Recipe(
        task=task,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        warmup=min(300, steps // 10) if warmup is None else warmup,
        weight_decay=weight_decay,
        clip=clip,
        accumulate=accumulate,
        ema=ema,
        precision=precision,
        trainable=trainable,
        augment=() if overfit_one_batch else tuple(augment),
        validation=0 if overfit_one_batch else validation,
        every=max(1, steps // 10) if every is None else every,
        seed=seed,
        overfit_one_batch=overfit_one_batch,
    )
    with Display(recipe.steps, quiet or not leads()) as display:
        for note in source.notes:
            display.say(note)
        if "classify" in names_of(task):
            model = _with_classes_of(source, model, seed, display)
        model = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype.itemsize < 4 else leaf, model)
        placement = Placement.over_all_devices(recipe.batch_size, shard_params)
        open_run = None
        if workdir is not None:
            datasets = [source.hub_id] if source.hub_id else []
            open_run = partial(Run, Path(workdir), names=source.names, datasets=datasets, base_model=base_model)
            open_run = partial(open_run, resume=resume, overwrite=overwrite, log=log)
        return _fit(model, source, recipe, placement, display, open_run)


def train(architecture: type[ZooModel], data: Any, *, config: dict[str, Any] | None = None, **options: Any) -> Any:
    """A model of random weights trained on `data`, with the options of `finetune`.

    `config` has fields of the architecture's config; `shape` and `classes` are the data's unless it says otherwise,
    the classes where they are a task's. The weights are drawn by `seed`. **Raises** as `finetune`.
    """
    given = dict(config or {})
    source = read(data, shape=given.get("shape"), skip_bad=options.get("skip_bad", False))
    classes = source.classes if uses_labels(options.get("task", "classify")) else 0
    fields = {"shape": source.images.images.shape[1:], "classes": classes} | given
    model = architecture(make_config(architecture, fields, "config"), key=jr.key(options.get("seed", 0)))
    return finetune(model, source, **options)


def _fit(
    model: Any,
    source: Source,
    recipe: Recipe,
    placement: Placement,
    display: Display,
    open_run: Callable[[dict[str, Any], State], Run] | None,
) -> Any:
    learned, held_out = _parted(source.images, recipe)
    weights, frozen = recipe.part(model)
    measure = make_measure(loss_of(recipe.task, model), recipe)
    state = first_state(weights, recipe, measure, frozen, learned.take(np.zeros(recipe.batch_size, int)))
    run = open_run(_identity(model, learned, recipe), state) if open_run else None
    state, frozen = placement.place(state), placement.place(frozen)
    loader = batches(learned, recipe.batch_size, None if recipe.overfit_one_batch else recipe.seed, placement)
    if run:
        state = run.restore(state, loader)
    done = int(state.step)
    if done:
        display.say(f"going on after step {done} of {recipe.steps}")
    step = make_step(make_measure(loss_of(recipe.task, model, recipe.augment), recipe), recipe)
    step = jax.jit(step, donate_argnums=0, out_shardings=jax.tree.map(placement.of, state))
    measure = jax.jit(measure)
    clock = Clock()
    with _stop_signals(run is not None) as stopping:
        while done < recipe.steps:
            with clock.waiting():
                batch = placement.gather_batch(next(loader))
            state = step(state, frozen, batch)
            done += 1
            display.step(done)
            validating = done % recipe.every == 0 or done == recipe.steps
            reporting = validating or done % max(1, recipe.every // 5) == 0
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
                    display.say("the gradient is 0: these images teach the trained parameters nothing")
                if run:
                    run.report(line)
            if run and validating:
                current = eqx.combine(to_host(state.result), to_host(frozen))
                run.show(current, line, held_out or learned)
            if run and (validating or stop):
                run.keep(done, state, loader)
            if stop and done < recipe.steps:
                raise KeyboardInterrupt(
                    f"stopped after step {done} of {recipe.steps}; the same call, or command, goes on from there"
                )
            if reporting:
                clock.start()
    trained = jax.tree.map(jnp.asarray, eqx.combine(to_host(state.result), to_host(frozen)))
    if run:
        display.say(f"saved: {run.finish(done, trained)}")
    return trained


def _parted(images: Images, recipe: Recipe) -> tuple[Images, Images | None]:
    """What is learned and what is held out."""
    if not uses_labels(recipe.task):
        images = images._replace(labels=None)
    if recipe.overfit_one_batch:
        order = np.random.default_rng(recipe.seed).permutation(len(images.images))
        return images.part(np.resize(order, recipe.batch_size)), None
    return split_off(images, recipe.validation, recipe.seed) if recipe.validation else (images, None)


def _with_classes_of(source: Source, model: Any, seed: int, display: Display) -> Any:
    """The model with a head for the data's classes. **Raises** ValueError when there are not two of them."""
    labels = source.images.labels
    if labels is None:
        raise ValueError(
            "the data have no labels to classify by; a folder of images has one folder a class, two of them at least, "
            "and no image beside them"
        )
    if len(np.unique(labels)) < 2:
        only = source.names[labels[0]] if source.names else labels[0]
        raise ValueError(f"all images are of one class ({only}); to classify takes two or more")
    if source.classes == model.config.classes:
        return model
    display.say(f"the head is replaced: it was for {model.config.classes} classes, the data have {source.classes}")
    return model.with_head(classes=source.classes, key=jr.key(seed))


def _identity(model: ZooModel, learned: Images, recipe: Recipe) -> dict[str, Any]:
    """What tells a run from every other, as JSON values."""
    arrays = [*named_leaves(model).values(), *(part for part in learned if part is not None)]
    sums = [zlib.crc32(np.ascontiguousarray(array).data) for array in arrays]
    shape = list(learned.images.shape)
    return {
        "model_type": model.model_type,
        "config": json.loads(json.dumps(dataclasses.asdict(model.config))),
        "images": shape,
        "checksum": zlib.crc32(repr(sums).encode()),
        **recipe.settings(),
    }


def _averages(state: State, placement: Placement) -> tuple[dict[str, float], State]:
    """The metrics' averages since the last report, and the state with their sums at 0."""
    sums = {name: float(value) for name, value in state.sums.items()}
    count = sums.pop("count") or 1.0
    cleared = placement.place({name: np.zeros((), np.float32) for name in state.sums})
    return {name: value / count for name, value in sums.items()}, state._replace(sums=cleared)


def _validated(
    measure: Any, weights: Any, frozen: Any, held_out: Images, recipe: Recipe, placement: Placement
) -> dict[str, float]:
    """Loss and metrics on all images held out, each damaged in the same way every time."""
    totals: dict[str, float] = {}
    count = len(held_out.images)
    for start in range(0, count, recipe.batch_size):
        batch = held_out.take(slice(start, start + recipe.batch_size))
        size = len(batch.images)
        whole = size == recipe.batch_size
        placed = placement.gather_batch(batch.take(placement.share(size))) if whole else placement.copy(batch)
        metrics = measure(weights, frozen, placed, jr.fold_in(jr.key(recipe.seed), start))
        for name, value in metrics.items():
            totals[f"validation_{name}"] = totals.get(f"validation_{name}", 0.0) + float(value) * size / count
    return totals


def _what_to_try(step: int, recipe: Recipe, run: Run | None) -> str:
    good = "no checkpoint yet"
    if run and run.last_kept:
        good = f"the last good checkpoint is that of step {run.last_kept}; the best model is {run.path / 'best'}"
    advice = [] if recipe.rate is None else [f"a learning rate below {recipe.rate:g}"]
    advice += [] if recipe.clip else ["clip=1.0"]
    advice += [f"more than {recipe.warmup} steps of warm-up"]
    advice += ["precision float32"] if recipe.precision == "bf16" else []
    return f"step {step}: the loss or its gradient is not finite ({good}); try, in a new folder, {', '.join(advice)}"


@contextlib.contextmanager
def _stop_signals(enabled: bool) -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come; a second one acts as it usually does."""
    came = threading.Event()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    usual: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        came.set()
        signal.signal(number, usual[number])

    for number in usual:
        signal.signal(number, note)
    try:
        yield came.is_set
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
