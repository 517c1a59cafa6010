"""Training and fine-tuning: what a user calls."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar, Unpack

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..config import make_config
from ..data import Data, Images, Reading, Source, read, split_off
from ..memory import Classifier, Featured, Memory
from ..models.probed import Probed
from ..pretrained import config_of
from ..progress import Display
from ._devices import NO_MESH, leads
from ._loop import Trainer, one_batch
from ._recipe import Recipe
from ._run import Draw, Run, alone_in
from ._tasks import check_tasks, needs_labels, uses_labels
from ._tune import tune

Model = TypeVar("Model", bound=Memory)


def finetune(
    model: Memory,
    data: Data,
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    *,
    workdir: str | Path | None = None,
    resume: bool = True,
    overwrite: bool = False,
    shard_params: bool = False,
    skip_bad: bool = False,
    label_column: str | None = None,
    class_folder: int = 0,
    refit: bool = True,
    log: str | None = None,
    base_model: str | None = None,
    draw: Draw | None = None,
    quiet: bool = False,
) -> Memory:
    """Returns `model` trained further on `data` by a `Recipe`: the last weights, or their average with `ema`.

    To classify alone, a memory with features begins with the classifier of `probe`, and a `Probed` is trained. It is
    compared to the probe on images that neither has seen, and the better one is returned; what was chosen, and both
    errors, are said. With other tasks beside it the memory's own classes are trained; it gets a new head if the data
    have another number of classes, and the data's class names.

    - `data`: a Hub id, a folder of images (one folder for each class), a `datasets.Dataset`, or arrays, as in
      `load_images`.
    - `workdir`: the run's folder: `model` (the result), `best` (by validation loss), `log.jsonl`, `checkpoints`. The
      same call goes on where a run was stopped, and ends with the same weights. Of a function in the recipe only the
      name is compared. With `resume=False`, and for another run, the folder is refused; `overwrite` empties it of its
      run. Unless the loss is a function, the result is calibrated; see `calibrate`.
    - `shard_params`: cut large parameters over the devices. Batches are always cut over all devices of all processes.
    - `skip_bad`: leave out images that cannot be read. `label_column`, `class_folder`: as in `load_images`.
    - `refit`: fit what no step changes to the data before the first one; see `Memory.refitted`. It is
      left as it is by a probe, and if not "all" is `trainable`.
    - `log`: a tracker that gets the numbers, too: "trackio" or "tensorboard". It needs a `workdir`.
    - `base_model`: the name of what `model` was, on the Hub or bundled, for the card.
    - `draw`: is called after each validation with the run's folder, the log's lines, rows of example pictures, and
      their titles. It needs a `workdir`.
    - `quiet`: show no progress.

    SIGINT (Ctrl-C) and SIGTERM end a run with a `workdir` after the present step and a checkpoint, by
    KeyboardInterrupt; several processes end at the next report. Every process keeps all images, as bytes if they come
    as bytes, and loads its own share of each batch.

    **Raises** ValueError for arguments and data that do not fit, saying what would; FileNotFoundError for data that
    are not there; FloatingPointError if loss or gradient are no longer finite, with the step, the last good checkpoint
    and what to try; and OSError if there is no space for a checkpoint.
    """
    _check_recipe(recipe)
    for name, given in {"log": log, "draw": draw}.items():
        if given is not None and workdir is None:
            raise ValueError(f"`{name}` is for a run that has a folder; give one as `workdir`")
    if (model.config.low, model.config.high) != (0, 1):
        span = f"[{model.config.low:g}, {model.config.high:g}]"
        raise ValueError(f"training takes images in [0, 1], but this {type(model).__name__} holds patterns in {span}")
    check_tasks(recipe.task, model)
    options = Reading(skip_bad=skip_bad, label_column=label_column, class_folder=class_folder)
    source = read(data, shape=model.config.shape, **options).densely_numbered(model.config.classes)
    if {*source.names} == {*model.config.class_names}:
        source = source.numbered_as(model.config.class_names)
    featured = model.memory if isinstance(model, Probed) else model
    if recipe.probe is None and recipe.task == "classify" and isinstance(featured, Featured):
        recipe = dataclasses.replace(recipe, probe=True)
    recipe = recipe.for_model(model, len(source.images.images))
    with (
        Display(recipe.steps or 0, quiet or not leads()) as display,
        jax.set_mesh(NO_MESH),
        contextlib.ExitStack() as stack,
    ):
        for note in source.notes:
            display.say(note)
        open_run = None
        if workdir is not None:
            stack.enter_context(alone_in(Path(workdir), overwrite))
            open_run = partial(
                Run,
                Path(workdir),
                dataset=source.hub_id,
                base_model=base_model,
                resume=resume,
                overwrite=overwrite,
                log=log,
                draw=draw,
            )
        if recipe.probe:
            if not isinstance(featured, Featured):
                raise ValueError(f"`probe` is True, but {type(model).__name__} has no features to begin with")
            memory = jax.tree.map(_as_float32, featured)
            if not source.names and source.classes == model.config.classes:
                source = source._replace(names=model.config.class_names)
            return tune(memory, source, recipe, display=display, open_run=open_run, shard_params=shard_params)
        model = _with_classes_of(source, jax.tree.map(_as_float32, model), recipe, display)
        learned, held_out = _split(source.images, recipe)
        if refit and recipe.trainable == "all" and jax.tree.leaves(model.fitted()):
            model = model.refitted(*_loaded(learned), seed=recipe.seed)
        trainer = Trainer[Memory](recipe, shard_params=shard_params)
        return trainer.fit(model, learned, held_out, display=display, open_run=open_run)


class Options(Reading, total=False):
    """The options of `finetune`, which `train` passes on to it."""

    workdir: str | Path | None
    resume: bool
    overwrite: bool
    shard_params: bool
    log: str | None
    base_model: str | None
    draw: Draw | None
    quiet: bool


def train(
    architecture: type[Model],
    data: Data,
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    *,
    config: Mapping[str, object] | None = None,
    **options: Unpack[Options],
) -> Model:
    """Returns a model with first weights (random, or `prepared` for the data) after `finetune` on `data`.

    `config` holds fields of the architecture's config. `shape` and, if labels are learned, `classes` are those of the
    data unless it says otherwise. Other arguments and errors are those of `finetune`.
    """
    if not (isinstance(architecture, type) and issubclass(architecture, Memory)) or inspect.isabstract(architecture):
        raise ValueError(f"`architecture` is {architecture!r:.60}; expected a class of memories, such as DenseHopfield")
    _check_recipe(recipe)
    if recipe.probe:
        raise ValueError("`probe` is True, but `train` begins with a memory that has learned nothing; use `finetune`")
    if unknown := options.keys() - Options.__annotations__:
        raise TypeError(f"unexpected arguments {sorted(unknown)}; expected some of {sorted(Options.__annotations__)}")
    given = dict(config or {})
    shape = given.get("shape")
    sized = shape if isinstance(shape, list | tuple) else None
    source = read(data, shape=sized, **_reading(**options)).densely_numbered()
    classes = source.classes if uses_labels(recipe.task) else 0
    fields = {"shape": source.images.images.shape[1:], "classes": classes} | given
    make: Callable[..., Model] = architecture
    model = make(make_config(config_of(architecture), fields, "`config`"), key=jr.key(recipe.seed))
    recipe = dataclasses.replace(recipe, probe=False).for_model(model, len(source.images.images))
    learned, _ = _split(source.images, recipe)
    model = model.prepared(*_loaded(learned), seed=recipe.seed)
    trained = finetune(model, source, recipe, refit=False, **options)
    assert isinstance(trained, architecture)
    return trained


def _reading(
    skip_bad: bool = False, label_column: str | None = None, class_folder: int = 0, **others: object
) -> Reading:
    """The options of reading among those of a training."""
    return Reading(skip_bad=skip_bad, label_column=label_column, class_folder=class_folder)


def _check_recipe(recipe: object) -> None:
    if not isinstance(recipe, Recipe):
        raise ValueError(f"`recipe` is {recipe!r}; expected a Recipe, such as Recipe(steps=500)")


def _as_float32(leaf: object) -> object:
    """The leaf off the caller's devices, and no half-precision array."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return leaf
    array = jnp.asarray(np.asarray(leaf))
    half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(jnp.float32) if half else array


def _with_classes_of(source: Source, model: Model, recipe: Recipe, display: Display) -> Model:
    """The model with a head for the data's classes, and with their names, if the recipe learns labels.

    **Raises** ValueError if a task needs labels and the images are not of two classes or more.
    """
    if needs_labels(recipe.task):
        source.check_classes()
        if source.classes != model.config.classes:
            had = model.config.classes
            if not isinstance(model, Classifier):
                raise ValueError(
                    f"the data have {source.classes} classes, and this {type(model).__name__} {had}; only a Classifier "
                    "gets a new head"
                )
            display.say(f"the head is replaced: it was for {had} classes, the data have {source.classes}")
            model = model.with_head(classes=source.classes, key=jr.key(recipe.seed))
    named = source.names and source.classes == model.config.classes and source.names != model.config.class_names
    return model.with_config(class_names=source.names) if named and uses_labels(recipe.task) else model


def _loaded(images: Images) -> tuple[np.ndarray, np.ndarray | None]:
    """At most 60,000 images and their labels, as arrays."""
    part, labels = images.take(slice(60_000))
    return np.asarray(part), None if labels is None else np.asarray(labels)


def _split(images: Images, recipe: Recipe) -> tuple[Images, Images | None]:
    """The images to learn, and those held out."""
    if not uses_labels(recipe.task):
        images = images._replace(labels=None)
    if recipe.overfit_one_batch:
        return one_batch(images, recipe), None
    return split_off(images, recipe.validation, recipe.seed) if recipe.validation else (images, None)
