"""The numbers on the model cards, recomputed."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool

from ._corruptions import all_but_a_quarter, gaussian_noise, salt_and_pepper, upper_half
from ._data import Images

BATCH = 100
# The numbers in an image, up to which the covariance of all of them is computed.
LINEAR_UP_TO = 8192


def evaluate(model: Any, test: Images, train: Images | None = None) -> dict[str, float]:
    """What a model can do on a test set, beside what needs no model but the training set.

    - Of one with a head, `test_error`: percent of the test images that are taken for another class; for data with
      labels.
    - Of one that retrieves, `completion` of the lower half, under "completion", and of the lower right quarter, under
      "quarter", of 1,000 images; of one that reconstructs from patches, `masked_reconstruction`.

    **Raises** ValueError when the data have classes that the model does not know.
    """
    measured = {}
    if test.labels is not None and model.config.classes:
        if test.labels.max() >= model.config.classes:
            raise ValueError(f"labels up to {test.labels.max()}; the model knows {model.config.classes} classes")
        measured["test_error"] = 100 * float(np.mean(classify(model, test.images) != test.labels))
    if hasattr(model, "retrieve"):
        for name, mask in {"completion": upper_half, "quarter": all_but_a_quarter}.items():
            measured |= completion(model, test.images[:1000], name, mask(model.config.shape), train)
    if hasattr(model, "reconstructions"):
        for share in model.config.masked:
            if round(share * model.config.patches):
                measured |= masked_reconstruction(model, test.images, share, train)
    return measured


def completion(
    model: Any,
    images: np.ndarray,
    name: str,
    known: Bool[np.ndarray, "height width channels"],
    train: Images | None = None,
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
        if images[0].size <= LINEAR_UP_TO:
            guesses["linear_mse"] = linear_prediction(images, hidden, train.images)
    measured = {f"{name}_{guess}": hidden_mse(x, images, hidden) for guess, x in guesses.items()}
    measured[f"{name}_converged"] = 100 * float(np.mean(completed.converged))
    measured[f"{name}_steps"] = float(np.median(completed.steps))
    return measured


def masked_reconstruction(
    model: Any, images: np.ndarray, share: float, train: Images | None = None
) -> dict[str, float]:
    """Of reconstructing images of which a `share` of the patches is hidden, by `fixed_masks`; at 50 %:

    - `masked_50_mse`: mean squared error over the hidden pixels, in [0, 1];
    - `masked_50_mean_colour_mse`: that of the mean colour of an image's known pixels;
    - `masked_50_linear_mse`: that of the best linear predictor, the mean of a Gaussian with the training set's mean and
      covariance given the known pixels; left out where the covariance would not fit into memory.
    """
    masks = fixed_masks(model.config.patches, share, len(images))
    hidden = np.asarray(jax.vmap(model.pixels)(masks))
    guesses = {"mse": reconstruct(model, images, masks), "mean_colour_mse": mean_colour(images, hidden)}
    if train is not None and images[0].size <= LINEAR_UP_TO:
        guesses["linear_mse"] = linear_prediction(images, hidden, train.images)
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


def linear_prediction(images: np.ndarray, hidden: np.ndarray, train: np.ndarray) -> np.ndarray:
    """μ_h + Σ_hk Σ_kk⁻¹ (x_k − μ_k) of the hidden pixels h by the known k, under the training images' mean μ and
    covariance Σ, to whose diagonal 10⁻⁶ is added."""
    mean = train.mean(axis=0, dtype=np.float64).ravel()
    covariance = 1e-6 * np.eye(mean.size)
    for part in np.array_split(train.reshape(len(train), -1), 20):
        centred = part - mean.astype(part.dtype)
        covariance += centred.T @ centred / len(train)
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
