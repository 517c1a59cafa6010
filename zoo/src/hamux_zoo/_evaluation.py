"""The numbers on the model cards, recomputed."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._corruptions import gaussian_noise, salt_and_pepper, upper_half
from ._data import Images

BATCH = 100


def evaluate(model: Any, test: Images, train: Images | None = None) -> dict[str, float]:
    """Classification and completion on a test set, beside what needs no model but the training set.

    - `test_error`: percent of the test images whose label completion is another class; for data with labels.
    - `completion_mse`: mean squared error, over hidden pixels in [0, 1], of completing the lower half of the first
      1,000 test images from the upper half, at the fixed point; `mean_image_mse` is that of the training set's mean
      image, `nearest_image_mse` of the training image nearest by the upper half.
    - `completion_converged`, `completion_steps`: percent that reached the fixed point, and the median of the steps.

    **Raises** ValueError when the data have classes that the model does not know.
    """
    measured = {}
    if test.labels is not None and model.config.classes:
        if test.labels.max() >= model.config.classes:
            raise ValueError(f"labels up to {test.labels.max()}; the model knows {model.config.classes} classes")
        measured["test_error"] = 100 * float(np.mean(classify(model, test.images) != test.labels))
    first = test.images[:1000]
    known = upper_half(first.shape[1:])

    def hidden_mse(images: np.ndarray) -> float:
        return float(np.mean((images - first)[:, ~known] ** 2))

    completed = retrieve(model, first, known)
    measured["completion_mse"] = hidden_mse(completed.x)
    if train is not None:
        measured["mean_image_mse"] = hidden_mse(np.broadcast_to(train.images.mean(axis=0), first.shape))
        nearest = _nearest(first[:, known], train.images[:, known])
        measured["nearest_image_mse"] = hidden_mse(train.images[nearest])
    measured["completion_converged"] = 100 * float(np.mean(completed.converged))
    measured["completion_steps"] = float(np.median(completed.steps))
    return measured


def classify(model: Any, images: np.ndarray) -> np.ndarray:
    """The class of each image by `model.classify`."""
    scores = jax.jit(lambda model, batch: jnp.argmax(jax.vmap(model.classify)(batch), axis=-1))
    return np.concatenate([scores(model, images[i : i + BATCH]) for i in range(0, len(images), BATCH)])


def retrieve(model: Any, images: np.ndarray, known: np.ndarray | None = None) -> Any:
    """`model.retrieve` of each image, all with the same mask; the result's arrays in numpy, images first."""
    batched = jax.jit(lambda model, batch: jax.vmap(lambda image: model.retrieve(image, known))(batch))
    results = [batched(model, images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def corruptions(images: np.ndarray, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """The images damaged in three ways, each with the mask of the pixels that are known to be right, or None."""
    keys = jr.split(jr.key(seed), (2, len(images)))
    known = upper_half(images.shape[1:])
    peppered = jax.vmap(salt_and_pepper, (0, 0, None))(keys[0], jnp.asarray(images), 0.3)
    noisy = jax.vmap(gaussian_noise, (0, 0, None))(keys[1], jnp.asarray(images), 0.4)
    return {
        "lower half missing": (np.where(known, images, 0.5), known),
        "30 % salt, pepper": (np.asarray(peppered), None),
        "Gaussian, σ 0.4": (np.asarray(noisy), None),
    }


def _nearest(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The index of the candidate at the smallest distance to each query."""
    distances = np.sum(candidates**2, axis=1) - 2 * queries @ candidates.T
    return np.argmin(distances, axis=1)
