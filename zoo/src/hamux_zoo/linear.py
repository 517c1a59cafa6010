"""What a normal distribution of the training images says of an image's unknown pixels, and of its directions."""

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

    def principal_components(self, count: int) -> Float[np.ndarray, "count numbers"]:
        """Returns the orthonormal directions along which the images vary most, the first one the most."""
        components: Float[np.ndarray, "count numbers"] = np.linalg.eigh(self.covariance)[1][:, ::-1][:, :count].T
        return components


def linear_prediction(images: Batch, known: Masks, gaussian: Gaussian) -> Batch:
    """Returns each image with its unknown pixels u predicted from the known k as μ_u + Σ_uk Σ_kk⁻¹ (x_k − μ_k).

    This is their mean under the Gaussian with mean μ and covariance Σ, and the best linear predictor.
    """
    mean, covariance = gaussian
    guesses = images.copy()
    for which, mask in by_mask(known):
        mine = images[which].reshape(len(which), -1)
        weights = np.linalg.solve(covariance[np.ix_(mask, mask)], covariance[np.ix_(mask, ~mask)])
        mine[:, ~mask] = mean[~mask] + (mine[:, mask] - mean[mask]) @ weights
        guesses[which] = mine.reshape(-1, *images.shape[1:])
    return guesses


def by_mask(known: Masks) -> Iterator[tuple[Int[np.ndarray, " rows"], Bool[np.ndarray, " numbers"]]]:
    """Yields each mask that occurs, and the rows that have it."""
    masks, of = np.unique(known.reshape(len(known), -1), axis=0, return_inverse=True)
    for i, mask in enumerate(masks):
        yield np.flatnonzero(of == i), mask
