"""Guesses at an image's unknown pixels that need no memory, only the training images."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Batch = Float[np.ndarray, "count ..."]
Masks = Bool[np.ndarray, "count ..."]


class Gaussian(NamedTuple):
    """The normal distribution with the mean and the covariance of the training images.

    10⁻⁶ is added to the diagonal of the covariance.
    """

    mean: Float[np.ndarray, " numbers"]
    covariance: Float[np.ndarray, "numbers numbers"]

    @classmethod
    def of(cls, train: Batch) -> "Gaussian":
        mean = train.mean(axis=0, dtype=np.float64).ravel()
        covariance = 1e-6 * np.eye(mean.size)
        for part in np.array_split(train.reshape(len(train), -1), 20):
            centred = part - mean.astype(part.dtype)
            covariance += centred.T @ centred / len(train)
        return cls(mean, covariance)


def mean_colour(images: Batch, known: Masks, grey: float = 0.5) -> Batch:
    """Returns each image in the mean colour of its known pixels, or `grey` in a channel where none is known."""
    axes = (1,) if images.ndim == 2 else (1, 2)
    counts = known.sum(axis=axes, keepdims=True)
    sums = np.where(known, images, 0).sum(axis=axes, keepdims=True)
    return np.broadcast_to(np.where(counts, sums / np.maximum(counts, 1), grey), images.shape)


def nearest_image(images: Batch, known: Masks, train: Batch) -> Batch:
    """Returns for each image the training image that is nearest to it by the known pixels."""
    rows = train.reshape(len(train), -1)
    nearest = np.empty(len(images), int)
    for which, mask in _by_mask(known):
        queries, candidates = images[which].reshape(len(which), -1)[:, mask], rows[:, mask]
        nearest[which] = np.argmin(np.sum(candidates**2, axis=1) - 2 * queries @ candidates.T, axis=1)
    return train[nearest]


def linear_prediction(images: Batch, known: Masks, gaussian: Gaussian) -> Batch:
    """Returns each image with its unknown pixels u predicted from the known k as μ_u + Σ_uk Σ_kk⁻¹ (x_k − μ_k).

    This is their mean under the Gaussian with mean μ and covariance Σ, and the best linear predictor.
    """
    mean, covariance = gaussian
    guesses = images.copy()
    for which, mask in _by_mask(known):
        mine = images[which].reshape(len(which), -1)
        weights = np.linalg.solve(covariance[np.ix_(mask, mask)], covariance[np.ix_(mask, ~mask)])
        mine[:, ~mask] = mean[~mask] + (mine[:, mask] - mean[mask]) @ weights
        guesses[which] = mine.reshape(-1, *images.shape[1:])
    return guesses


def _by_mask(known: Masks) -> Iterator[tuple[Int[np.ndarray, " rows"], Bool[np.ndarray, " numbers"]]]:
    """Each mask that occurs, and the rows that have it."""
    masks, of = np.unique(known.reshape(len(known), -1), axis=0, return_inverse=True)
    for i, mask in enumerate(masks):
        yield np.flatnonzero(of == i), mask
