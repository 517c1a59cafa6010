"""The numbers on the model cards, recomputed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float

from ._corruptions import all_but_a_quarter, gaussian_noise, salt_and_pepper, upper_half
from ._data import Images
from ._model import only_known

BATCH = 100
# The numbers in an image, up to which the covariance of all of them is computed.
LINEAR_UP_TO = 8192


class Gaussian(NamedTuple):
    """The normal distribution of the training images' mean and covariance, to whose diagonal 10⁻⁶ is added."""

    mean: Float[np.ndarray, " numbers"]
    covariance: Float[np.ndarray, "numbers numbers"]


def evaluate(model: Any, test: Images, train: Images | None = None) -> dict[str, float]:
    """What a model can do on a test set, beside what needs no model but the training set.

    - Of one with a head, `test_error`: percent of the test images that are taken for another class; for data with
      labels. `salt_and_pepper_error`: the same with 30 % of their pixels set to black or white.
    - Of one that retrieves, `completion` of the lower half, under "completion", and of the lower right quarter, under
      "quarter", of 1,000 images, and of their labels, `label_completion`; of one that reconstructs from patches,
      `masked_reconstruction`.

    **Raises** ValueError when the data have classes that the model does not know.
    """
    measured = {}
    labels = test.labels if model.config.classes else None
    retrieves, shares = hasattr(model, "retrieve"), []
    if hasattr(model, "reconstructions"):
        shares = [share for share in model.config.masked if round(share * model.config.patches)]
    if labels is not None:
        if labels.max() >= model.config.classes:
            raise ValueError(f"labels up to {labels.max()}; the model knows {model.config.classes} classes")
        measured["test_error"] = error(classify(model, test.images), labels)
        measured["salt_and_pepper_error"] = error(classify(model, peppered(test.images)), labels)
    small = test.images[0].size <= LINEAR_UP_TO
    gaussian = gaussian_of(train.images) if train is not None and small and (retrieves or shares) else None
    if retrieves:
        images = test.images[:1000]
        if labels is not None:
            measured |= label_completion(model, images, labels[:1000])
        for name, mask in {"completion": upper_half, "quarter": all_but_a_quarter}.items():
            measured |= completion(model, images, name, mask(model.config.shape), train, gaussian)
    for share in shares:
        measured |= masked_reconstruction(model, test.images, share, gaussian)
    return measured


def label_completion(model: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Of the class that is shown at the fixed point:

    - `label_error`, `label_converged`, `label_steps`: with all pixels held, percent of the images taken for another
      class, percent that reached the fixed point, and the median of the steps;
    - `free_…`: the same where 30 % of the pixels are set to black or white, none is held, and the image may mend.
    """
    held = retrieve(model, images, np.ones(images.shape[1:], bool))
    free = retrieve(model, peppered(images))
    return {
        f"{name}_{measure}": value
        for name, result in {"label": held, "free": free}.items()
        for measure, value in {"error": error(result.scores.argmax(axis=-1), labels), **_relaxation(result)}.items()
    }


def completion(
    model: Any,
    images: np.ndarray,
    name: str,
    known: Bool[np.ndarray, "height width channels"],
    train: Images | None = None,
    gaussian: Gaussian | None = None,
) -> dict[str, float]:
    """Of completing images from their `known` pixels, at the fixed point; under `name`:

    - `…_mse`: mean squared error over hidden pixels in [0, 1];
    - `…_mean_image_mse`: that of the training set's mean image; `…_nearest_image_mse` of the training image nearest by
      the known pixels; `…_linear_mse` and `…_mean_colour_mse` as in `masked_reconstruction`;
    - `…_converged`, `…_steps`: percent that reached the fixed point, and the median of the steps.
    """
    hidden = np.broadcast_to(~known, images.shape)
    completed = retrieve(model, images, known)
    guesses = {"mse": completed.x, "mean_colour_mse": mean_colour(images, hidden)}
    if train is not None:
        guesses["mean_image_mse"] = np.broadcast_to(train.images.mean(axis=0), images.shape)
        guesses["nearest_image_mse"] = train.images[_nearest(images[:, known], train.images[:, known])]
    if gaussian is not None:
        guesses["linear_mse"] = linear_prediction(images, hidden, gaussian)
    measures = {guess: hidden_mse(x, images, hidden) for guess, x in guesses.items()} | _relaxation(completed)
    return {f"{name}_{measure}": value for measure, value in measures.items()}


def masked_reconstruction(
    model: Any, images: np.ndarray, share: float, gaussian: Gaussian | None = None
) -> dict[str, float]:
    """Of reconstructing images of which a `share` of the patches is hidden, by `fixed_masks`; at 50 %:

    - `masked_50_mse`: mean squared error over the hidden pixels, in [0, 1];
    - `masked_50_mean_colour_mse`: that of the mean colour of an image's known pixels;
    - `masked_50_linear_mse`: that of the best linear predictor, the mean of the Gaussian given the known pixels; left
      out where its covariance would not fit into memory.
    """
    masks = fixed_masks(model.config.patches, share, len(images))
    hidden = np.asarray(jax.vmap(model.pixels)(masks))
    guesses = {"mse": reconstruct(model, images, masks), "mean_colour_mse": mean_colour(images, hidden)}
    if gaussian is not None:
        guesses["linear_mse"] = linear_prediction(images, hidden, gaussian)
    return {f"masked_{100 * share:g}_{name}": hidden_mse(guess, images, hidden) for name, guess in guesses.items()}


def fixed_masks(patches: int, share: float, images: int) -> Bool[np.ndarray, "images patches"]:
    """One for each image, of a hundred that hide the same number of patches and are drawn once and for all."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(patches), (100, 1)), axis=1)
    return np.resize(order < round(share * patches), (images, patches))


def hidden_mse(guesses: np.ndarray, images: np.ndarray, hidden: np.ndarray) -> float:
    """The mean square of the errors where `hidden`."""
    return float(np.mean((guesses - images)[hidden].astype(np.float64) ** 2))


def mean_colour(images: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Each image in the mean colour of its pixels that are not `hidden`; grey where all are."""
    counts = np.maximum((~hidden).sum(axis=(1, 2), keepdims=True), 1)
    sums = np.where(hidden, 0, images).sum(axis=(1, 2), keepdims=True)
    return np.broadcast_to(np.where(hidden.all(axis=(1, 2), keepdims=True), 0.5, sums / counts), images.shape)


def gaussian_of(train: np.ndarray) -> Gaussian:
    mean = train.mean(axis=0, dtype=np.float64).ravel()
    covariance = 1e-6 * np.eye(mean.size)
    for part in np.array_split(train.reshape(len(train), -1), 20):
        centred = part - mean.astype(part.dtype)
        covariance += centred.T @ centred / len(train)
    return Gaussian(mean, covariance)


def linear_prediction(images: np.ndarray, hidden: np.ndarray, gaussian: Gaussian) -> np.ndarray:
    """μ_h + Σ_hk Σ_kk⁻¹ (x_k − μ_k) of the hidden pixels h by the known k, under mean μ and covariance Σ."""
    mean, covariance = gaussian
    guesses, hidden = images.copy(), hidden.reshape(len(hidden), -1)
    masks, which = np.unique(hidden, axis=0, return_inverse=True)
    for i, mask in enumerate(masks):
        mine = images[which == i].reshape(-1, mask.size)
        weights = np.linalg.solve(covariance[np.ix_(~mask, ~mask)], covariance[np.ix_(~mask, mask)])
        mine[:, mask] = mean[mask] + (mine[:, ~mask] - mean[~mask]) @ weights
        guesses[which == i] = mine.reshape(-1, *images.shape[1:])
    return guesses


def classify(model: Any, images: np.ndarray) -> np.ndarray:
    """The class of each image by `model.classify`."""
    scores = jax.jit(lambda model, batch: jnp.argmax(jax.vmap(model.classify)(batch), axis=-1))
    return np.concatenate([scores(model, images[i : i + BATCH]) for i in range(0, len(images), BATCH)])


def retrieve(model: Any, images: np.ndarray, known: np.ndarray | None = None) -> Any:
    """`model.retrieve` of each image, all with the same mask; the result's arrays in numpy, images first."""
    batched = jax.jit(lambda model, batch: jax.vmap(lambda image: model.retrieve(image, known))(batch))
    results = [batched(model, images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def reconstruct(model: Any, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """`model.reconstruct` of each image with its mask."""
    batched = jax.jit(lambda model, images, masks: jax.vmap(model.reconstruct)(images, masks))
    starts = range(0, len(images), BATCH)
    return np.concatenate([batched(model, images[i : i + BATCH], masks[i : i + BATCH]) for i in starts])


def peppered(images: np.ndarray, share: float = 0.3, seed: int = 0) -> np.ndarray:
    """The images with a `share` of their pixels set to black or white."""
    keys = jr.split(jr.key(seed), (2, len(images)))[0]
    return np.asarray(jax.vmap(salt_and_pepper, (0, 0, None))(keys, jnp.asarray(images), share))


def corruptions(images: np.ndarray, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """The images damaged in three ways, each with the mask of the pixels that are known to be right, or None."""
    known = upper_half(images.shape[1:])
    keys = jr.split(jr.key(seed), (2, len(images)))[1]
    noisy = jax.vmap(gaussian_noise, (0, 0, None))(keys, jnp.asarray(images), 0.4)
    return {
        "lower half missing": (np.asarray(only_known(images, known)), known),
        "30 % salt, pepper": (peppered(images, seed=seed), None),
        "Gaussian, σ 0.4": (np.asarray(noisy), None),
    }


def error(found: np.ndarray, labels: np.ndarray) -> float:
    """Percent of the images that are taken for another class."""
    return 100 * float(np.mean(found != labels))


def _relaxation(retrieved: Any) -> dict[str, float]:
    return {
        "converged": 100 * float(np.mean(retrieved.converged)),
        "steps": float(np.median(retrieved.steps)),
    }


def _nearest(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The index of the candidate at the smallest distance to each query."""
    distances = np.sum(candidates**2, axis=1) - 2 * queries @ candidates.T
    return np.argmin(distances, axis=1)
