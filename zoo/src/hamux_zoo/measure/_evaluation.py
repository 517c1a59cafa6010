"""The numbers on the model cards, recomputed."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Int, PRNGKeyArray

from ..data import Images, salt_and_pepper
from ..memory import Classifier, Generator, Memory, Recalled
from ..pixels import span
from ..statistics import Batch, Gaussian, Masks, linear_prediction
from ._baselines import mean_colour, nearest_image

_BATCH = 100
# The numbers in an image up to which the covariance of all of them is computed.
_LINEAR_UP_TO = 8192
# The recalls among which distinct ones are counted.
_COUNTED = 1000
# The images that are generated of each class.
_GENERATED = 100

Labels = Int[np.ndarray, " count"]


def evaluate(model: Memory, test: Images, train: Images | None = None, *, recalls: int = 1000) -> dict[str, float]:
    """Measures what a memory can do on a test set, at default settings, and what simple guesses can do.

    Classes and masks that differ from image to image are measured on all images. Recalls, which take longer, are
    measured on the first `recalls` of them.

    For a memory that classifies, on labelled images, in percent of the images whose class is wrong:

    - `test_error`: of the images as they are; `salt_and_pepper_error`: with 30 % of the pixels black or white.
    - `label_error`, with label neurons: by their `scores` after a recall that holds all of the image; `free_error`:
      after a recall from the noisy image that holds nothing. `label_1x_error`, …: after as many steps as training
      takes, twice and ten times as many; `label_0x_error`: at the start of the recall.
    - `free_mse`: mean squared error of these free recalls. `free_distinct`: how many of the first 1,000 are distinct:
      some pixel is off by more than 0.05 from every one before. `free_kept`: percent of them that keep their class,
      since the nearest of the images in `train` has it; `clean_kept`: the same of the images as they are.
    - `generated_kept`: percent of 100 images generated of each class whose nearest image in `train` is of the class.
      `generated_spread`: the mean deviation of a pixel over the 100 images of a class, divided by that over as many
      test images of the class.

    For each mask of `model.masks`, such as "completion", over the unknown pixels (see `completion_errors`):

    - `completion_mse`: mean squared error of the image recalled from the known pixels. `completion_1x_mse`, `…_2x_mse`
      and `…_10x_mse`: after as many steps as training takes, twice and ten times as many.
    - `completion_mean_colour_mse`, `…_mean_image_mse`, `…_nearest_image_mse`, `…_linear_mse`: that of the guesses. All
      but the first need `train`, and the last needs images of at most 8,192 numbers.

    For a memory that descends to a fixed point, beside each recall:

    - `…_converged`, `…_steps`: percent of the recalls that reached it, and the median of the steps.

    **Raises** ValueError if the images do not have the memory's shape and range, or classes that it does not know, and
    for `recalls` below 1.
    """
    if recalls < 1:
        raise ValueError(f"`recalls` is {recalls}; expected at least 1")
    config, images = model.config, _checked("test", model, test)
    examples = None if train is None else _checked("train", model, train)
    measured: dict[str, float] = {}
    if isinstance(model, Classifier) and "classify" in model.tasks and test.labels is not None:
        labels = np.asarray(test.labels)
        if (last := labels.max()) >= config.classes:
            raise ValueError(f"the test images have labels up to {last}; the memory knows {config.classes} classes")
        noisy = salted(images, low=config.low, high=config.high)
        measured["test_error"] = error(classes_of(model, images), labels)
        measured["salt_and_pepper_error"] = error(classes_of(model, noisy), labels)
        if isinstance(model, Generator):
            clean, right = images[:recalls], labels[:recalls]
            held = np.ones_like(clean, bool)
            for name, start, known in (("label", clean, held), ("free", noisy[:recalls], None)):
                end = recalled(model, start, known)
                assert end.scores is not None
                measured[f"{name}_error"] = error(np.argmax(end.scores, axis=-1), right)
                measured |= _descent(model, name, end)
            for times, (_, scores) in _on_the_way(model, clean, held, {"0x": 0} | _lengths(model)).items():
                assert scores is not None
                measured[f"label_{times}_error"] = error(np.argmax(scores, axis=-1), right)
            free = np.asarray(end.x)
            measured["free_mse"] = float(np.mean((free - clean) ** 2))
            measured["free_distinct"] = distinct(free[:_COUNTED])
            if examples is not None and train is not None and train.labels is not None:
                judge = examples, np.asarray(train.labels)
                measured["free_kept"] = 100 - error(nearest_class(free, *judge), right)
                measured["clean_kept"] = 100 - error(nearest_class(clean, *judge), right)
                measured |= _generated(model, images, labels, *judge)
    gaussian = None if examples is None or examples[0].size > _LINEAR_UP_TO else Gaussian.of(examples)
    for name, known in model.masks(len(images)).items():
        count = len(images) if np.any(known != known[0]) else recalls
        measured |= completion_errors(model, name, images[:count], known[:count], examples, gaussian)
    return measured


def completion_errors(
    model: Memory, name: str, images: Batch, known: Masks, train: Batch | None = None, gaussian: Gaussian | None = None
) -> dict[str, float]:
    """Measures how well unknown pixels are completed, under names that begin with `name`; see `evaluate`."""
    end = recalled(model, images, known)
    grey = (model.config.low + model.config.high) / 2
    guesses = {"": np.asarray(end.x), "mean_colour_": mean_colour(images, known, grey)}
    if train is not None:
        guesses["mean_image_"] = np.broadcast_to(train.mean(axis=0), images.shape)
        guesses["nearest_image_"] = nearest_image(images, known, train)
    if gaussian is not None:
        guesses["linear_"] = linear_prediction(images, known, gaussian)
    errors = {f"{name}_{guess}mse": unknown_mse(x, images, known) for guess, x in guesses.items()}
    for times, (x, _) in _on_the_way(model, images, known, _lengths(model)).items():
        errors[f"{name}_{times}_mse"] = unknown_mse(np.clip(x, model.config.low, model.config.high), images, known)
    return errors | _descent(model, name, end)


def _lengths(model: Memory) -> dict[str, int]:
    """Multiples of the steps that training takes, without those that a recall takes anyway."""
    dynamics = model.dynamics()
    trained = dynamics.trained_steps
    return {} if trained is None else {f"{n}x": n * trained for n in (1, 2, 10) if n * trained != dynamics.steps}


def _parts(rows: np.ndarray) -> list[slice]:
    """The batches in which rows are taken, one after another."""
    return [slice(start, start + _BATCH) for start in range(0, len(rows), _BATCH)]


def _on_the_way(
    model: Memory, images: Batch, known: Masks, lengths: dict[str, int]
) -> dict[str, tuple[Batch, Batch | None]]:
    """The images, not clipped, and the scores that recalls show after so many steps."""
    if not lengths:
        return {}
    found = [_recalled_at(model, images[part], known[part], tuple(lengths.values())) for part in _parts(images)]
    shown, scores = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *found)
    return {times: (shown[i], None if scores is None else scores[i]) for i, times in enumerate(lengths)}


def _generated(model: Generator, images: Batch, labels: Labels, train: Batch, train_labels: Labels) -> dict[str, float]:
    """How images that are generated of each class compare with those that there are."""
    classes = np.unique(labels)
    asked = np.repeat(classes, _GENERATED)
    keys = jr.split(jr.key(0), len(asked))
    made = np.concatenate([_generate(model, asked[part], keys[part]) for part in _parts(asked)])
    real = [images[labels == each][:_GENERATED] for each in classes]
    spreads = [
        float(np.mean(np.std(ours, axis=0)) / np.mean(np.std(theirs, axis=0)))
        for ours, theirs in zip(np.split(made, len(classes)), real, strict=True)
        if np.any(np.std(theirs, axis=0))
    ]
    recognised = 100 - error(nearest_class(made, train, train_labels), asked)
    return {"generated_kept": recognised, "generated_spread": float(np.mean(spreads)) if spreads else float("nan")}


def nearest_class(images: Batch, train: Batch, labels: Labels) -> Labels:
    """Returns the label of the image in `train` that is nearest to each of `images`."""
    rows = train.reshape(len(train), -1)
    norms, found = np.sum(rows**2, axis=1), []
    for part in _parts(images):
        some = np.asarray(images[part]).reshape(-1, rows.shape[1]).astype(rows.dtype)
        found.append(labels[np.argmin(norms - 2 * some @ rows.T, axis=1)])
    return np.concatenate(found)


def distinct(images: Batch) -> int:
    """Returns how many images differ in some pixel by more than 0.05 from every distinct one before them."""
    rows = images.reshape(len(images), math.prod(images.shape[1:]))
    kept = rows[:0]
    for row in rows:
        if np.all(np.max(np.abs(kept - row), axis=1) > 0.05):
            kept = np.concatenate([kept, row[None]])
    return len(kept)


def unknown_mse(guesses: Batch, images: Batch, known: Masks) -> float:
    """Returns the mean squared error over the pixels that are not known."""
    return float(np.mean((guesses - images)[~known].astype(np.float64) ** 2))


def error(found: Int[ArrayLike, " count"], labels: Int[np.ndarray, " count"]) -> float:
    """Returns the percentage of the images whose class is wrong."""
    return 100 * float(np.mean(np.asarray(found) != labels))


def classes_of(model: Classifier, images: Batch) -> Int[np.ndarray, " count"]:
    """Returns the class of each image by `model.classify`."""
    return np.concatenate([_classes(model, images[part]) for part in _parts(images)])


def recalled(model: Memory, images: Batch, known: Masks | None = None, *, energies: bool = False) -> Recalled:
    """Returns `model.recall` of each image, without the states; the arrays are NumPy's and have a leading axis."""
    ends = [
        _recalled(model, images[part], None if known is None else known[part], energies=energies)
        for part in _parts(images)
    ]
    together: Recalled = jax.tree.map(lambda *parts: np.concatenate(parts), *ends)
    return together


def salted(images: Batch, share: float = 0.3, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Batch:
    """Returns the images with a `share` of their pixels set to black, `low`, or white, `high`."""
    keys = jr.split(jr.key(seed), (2, len(images)))[0]
    pixels = images if images.ndim == 4 else images[..., None]
    noisy = jax.vmap(salt_and_pepper, (0, 0, None))(keys, jnp.asarray((pixels - low) / (high - low)), share)
    return np.array(low + (high - low) * noisy).reshape(images.shape)


@eqx.filter_jit
def _classes(model: Classifier, images: ArrayLike) -> Array:
    return jnp.argmax(jax.vmap(model.classify)(jnp.asarray(images)), axis=-1)


@eqx.filter_jit
def _recalled(model: Memory, images: ArrayLike, known: ArrayLike | None, *, energies: bool) -> Recalled:
    def one(image: ArrayLike, known: ArrayLike | None) -> Recalled:
        return dataclasses.replace(model.recall(image, known, energies=energies), xs={})

    return jax.vmap(one)(images, known)


@eqx.filter_jit
def _recalled_at(
    model: Memory, images: ArrayLike, known: ArrayLike, steps: tuple[int, ...]
) -> tuple[Array, Array | None]:
    def one(image: ArrayLike, known: ArrayLike) -> tuple[Array, Array | None]:
        path = model.recall(image, known, steps=max(1, *steps), path=True, energies=False).path
        assert path is not None
        at = np.array(steps)
        return path.x[at], None if path.scores is None else path.scores[at]

    return jax.vmap(one, out_axes=1)(images, known)


@eqx.filter_jit
def _generate(model: Generator, labels: ArrayLike, keys: PRNGKeyArray) -> Array:
    return jax.vmap(lambda label, key: model.generate(label, key=key).x)(jnp.asarray(labels), keys)


def _descent(model: Memory, name: str, end: Recalled) -> dict[str, float]:
    """How the descents to a fixed point ended; nothing of a memory that takes a fixed number of steps."""
    if model.dynamics().steps is not None:
        return {}
    assert end.converged is not None
    converged, steps = 100 * float(np.mean(end.converged)), float(np.median(end.steps))
    return {f"{name}_converged": converged, f"{name}_steps": steps}


def _checked(name: str, model: Memory, given: Images) -> Batch:
    if not isinstance(given, Images):
        raise ValueError(f"the {name} images are a {type(given).__name__}; expected what load_images returns")
    images, config = np.asarray(given.take(slice(None)).images), model.config
    fits = images.shape[1:] == config.shape and len(images) and images.dtype.kind == "f"
    if not fits or not (config.low <= images.min() and images.max() <= config.high):
        found = f" {span(images)}" if images.size else ""
        raise ValueError(
            f"the {name} images have shape {images.shape} and dtype {images.dtype}{found}; the memory takes floats in "
            f"[{config.low:g}, {config.high:g}] of shape (count, {str(config.shape)[1:]}"
        )
    return images
