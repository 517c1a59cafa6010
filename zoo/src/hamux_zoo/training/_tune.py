"""Fine-tuning a memory to classify, beginning with the probe."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Int

from ..data import Images, Source, augment
from ..memory import Featured
from ..models.probed import Probed
from ..progress import Display
from ._loop import OpenRun, Trainer, one_batch
from ._probe import Labels, balanced_error, features_of, fit_head, labels_of
from ._recipe import Recipe

Which: TypeAlias = Int[np.ndarray, " some"]
# Images to fit to, and those left out.
Split: TypeAlias = tuple[Which, Which]

_DESCRIBED = 10_000  # images at most have their features computed for the first classifier
_CROSS_VALIDATED = 2000  # images at most
_FOLDS = 3
_MAYBE_HARMLESS = ("warp", "crop", "flip")
_JUDGED = 500  # images show whether an augmentation harms
_UNEQUAL = 1.5  # times the images of the smallest class: from there on, small classes are shown more often


def tune(
    memory: Featured,
    source: Source,
    recipe: Recipe,
    *,
    display: Display,
    open_run: OpenRun | None = None,
    shard_params: bool = False,
) -> Probed:
    """Returns the memory with the classifier of `probe`, or both trained from there on if that errs less.

    Errors are those on images left out, as the mean over classes. Where none can be left out, the probe is kept. With
    `validation=0` nothing is compared, and the trained one is returned. **Raises** as `finetune`.
    """
    labels, notes = labels_of(source)
    images, everything = source.images, np.arange(len(labels))
    described = np.sort(np.random.default_rng(recipe.seed).permutation(everything)[:_DESCRIBED])
    rows = features_of(memory, images.part(described))

    def probed(which: Which) -> Probed:
        among = np.isin(described, which)
        head = fit_head(rows[among], labels[described[among]], source.classes)
        return Probed.of(memory, head.weight, head.bias, source.names)

    def shown(which: Which) -> Images:
        part = images.part(which[_evened(labels[which])])
        return one_batch(part, recipe) if recipe.overfit_one_batch else part

    def errs_less(trained: Sequence[Probed]) -> bool:
        """Whether models that were trained from the probes err less on the images left out, and says so."""
        truth = np.concatenate([labels[left] for _, left in splits])
        (of_probes, _), (of_trained, _) = (
            balanced_error(np.concatenate(list(map(_found, models, lefts))), truth) for models in (probes, trained)
        )
        kept = "fine-tuned memory" if of_trained < of_probes else "probe"
        display.say(
            f"error on images left out, as the mean over classes: {of_probes:.1f} % of the probe, {of_trained:.1f} % "
            f"fine-tuned; the {kept} is kept"
        )
        return of_trained < of_probes

    splits = _splits(labels, recipe)
    probes, lefts = [probed(fitted) for fitted, _ in splits], [images.part(left) for _, left in splits]
    if recipe.augment is None:
        recipe = dataclasses.replace(recipe, augment=_harmless(probes, lefts, recipe.seed))
    changes = f"augmented by {', '.join(recipe.augment or ())}" if recipe.augment else "not augmented"
    for note in (*notes, f"{len(labels)} images of {source.classes} classes: {recipe.steps} steps, {changes}"):
        display.say(note)
    trainer = Trainer[Probed](recipe, shard_params=shard_params)
    if len(splits) == 1:
        ((fitted, _),), (start,), (left,) = splits, probes, lefts
        return trainer.fit(
            start,
            shown(fitted),
            left,
            display=display,
            open_run=open_run,
            choose=lambda trained: trained if errs_less([trained]) else probed(everything),
        )
    start, keeps = probed(everything), recipe.validation == 0
    if splits:
        quiet = Display(recipe.steps or 0, quiet=True)
        keeps = errs_less(
            [
                trainer.fit(each, shown(fitted), None, display=quiet)
                for each, (fitted, _) in zip(probes, splits, strict=True)
            ]
        )
    elif not keeps:
        display.say("there is a class of one image, so that none can be left out to compare: the probe is kept")
    if open_run is None and not keeps:
        return start
    return trainer.fit(
        start,
        shown(everything),
        None,
        display=display,
        open_run=open_run,
        choose=lambda trained: trained if keeps else start,
    )


def _splits(labels: Labels, recipe: Recipe) -> list[Split]:
    """What is left out to compare: nothing, the folds of a cross-validation, or a share.

    **Raises** ValueError for a share that cannot hold an image of each class.
    """
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    counts = np.unique(labels, return_counts=True)[1]
    if recipe.validation == 0 or min(counts) < 2:
        return []
    if recipe.validation is None and len(labels) <= _CROSS_VALIDATED:
        folds = StratifiedKFold(min(_FOLDS, min(counts)), shuffle=True, random_state=recipe.seed)
        return list(folds.split(labels, labels))
    share = 0.1 if recipe.validation is None else recipe.validation
    held_out = round(share * len(labels))
    if not len(counts) <= held_out <= len(labels) - len(counts):
        raise ValueError(
            f"`validation` is {share:.3g}, which holds {held_out} of {len(labels)} images out; expected at least one "
            f"of each of the {len(counts)} classes on both sides"
        )
    return list(StratifiedShuffleSplit(1, test_size=held_out, random_state=recipe.seed).split(labels, labels))


def _harmless(probes: Sequence[Probed], lefts: Sequence[Images], seed: int) -> tuple[str, ...]:
    """The augmentations after which probes know images left out of them as well, within a standard error."""
    lefts = [left.take(slice(_JUDGED // len(lefts))) for left in lefts]

    def wrong(changes: tuple[str, ...]) -> np.ndarray:
        key, found = jr.key(seed), []
        for model, left in zip(probes, lefts, strict=True):
            keys = jr.split(key, len(left.images))
            changed = jax.vmap(lambda key, image: augment(key, image, changes))(keys, left.images)
            found.append(_found(model, Images(np.asarray(changed), None)) != left.labels)
        return np.concatenate(found)

    if not probes:
        return ()
    before, harmless = wrong(()).astype(float), []
    for name in _MAYBE_HARMLESS:
        more = wrong((name,)) - before
        if np.mean(more) <= np.std(more) / len(more) ** 0.5:
            harmless.append(name)
    return tuple(harmless)


def _evened(labels: Labels) -> Which:
    """The images by number, those of small classes repeated until all classes are as large, if they are unequal."""
    counts = np.bincount(labels)
    if max(counts) <= _UNEQUAL * min(counts[counts > 0]):
        return np.arange(len(labels))
    return np.concatenate([np.resize(np.flatnonzero(labels == label), max(counts)) for label in np.unique(labels)])


def _found(model: Probed, images: Images) -> Labels:
    """The class that a model finds for each image."""
    rows = features_of(model.memory, images)
    found: Labels = np.argmax(rows @ np.asarray(model.weight).T + np.asarray(model.bias), axis=1)
    return found
