"""What training images tell without a memory: a normal distribution of them, and their cluster centres."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Batch = Float[np.ndarray, "count ..."]
Masks = Bool[np.ndarray, "count ..."]
Rows = Float[np.ndarray, "count dim"]


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


def centres_by_class(
    rows: Rows, labels: Int[np.ndarray, " count"] | None, memories: int, classes: int, directions: int, seed: int
) -> tuple[Rows, Int[np.ndarray, " memories"], Float[np.ndarray, "directions memories dim"]]:
    """Returns k-means centres, equally many of each class, with their classes and directions of variation.

    The directions of a centre are those along which the images of its class that are nearest to it vary most.
    """
    groups = [rows] if labels is None else [rows[labels == each] for each in range(classes)]
    rng, found = np.random.default_rng(seed), []
    for which, (group, count) in enumerate(zip(groups, _shares(memories, groups), strict=True)):
        centres = _k_means(group, count, rng)
        found.append((centres, np.full(count, which), _directions(group, centres, directions)))
    centres, labels_of, along = zip(*found, strict=True)
    return np.concatenate(centres), np.concatenate(labels_of), np.concatenate(along, axis=1)


def _shares(memories: int, groups: list[Rows]) -> list[int]:
    """How many memories each group gets: none if it is empty, and else as many as the others."""
    filled = [i for i, group in enumerate(groups) if len(group)]
    return [len(np.arange(memories)[filled.index(i) :: len(filled)]) if i in filled else 0 for i in range(len(groups))]


def _k_means(rows: Rows, count: int, rng: np.random.Generator, rounds: int = 10) -> Rows:
    """Lloyd's algorithm from rows drawn at random. A centre that loses all of its rows starts again at one of them."""
    centres = rows[rng.choice(len(rows), count, replace=count > len(rows))]
    for _ in range(rounds if 0 < count < len(rows) else 0):
        nearest = nearest_centres(rows, centres)
        sums, sizes = np.zeros_like(centres), np.bincount(nearest, minlength=count)
        np.add.at(sums, nearest, rows)
        drawn = rows[rng.choice(len(rows), count)]
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None].astype(sums.dtype), drawn)
    return centres


def nearest_centres(rows: Rows, centres: Rows) -> Int[np.ndarray, " count"]:
    """Returns which centre is nearest to each row."""
    return np.concatenate([np.argmin(_distances(part, centres), axis=1) for part in _parts(rows)])


def _directions(rows: Rows, centres: Rows, count: int, neighbours: int = 30) -> Float[np.ndarray, "count centres dim"]:
    along = np.zeros((count, *centres.shape), centres.dtype)
    near = min(len(rows), max(neighbours, 2 * count))
    for i, part in enumerate(_parts(centres, 100) if count and near > 1 else []):
        nearest = rows[np.argpartition(_distances(part, rows), near - 1, axis=1)[:, :near]]
        axes = np.linalg.svd(nearest - nearest.mean(axis=1, keepdims=True), full_matrices=False)[2][:, :count]
        along[: axes.shape[1], 100 * i : 100 * i + len(part)] = axes.swapaxes(0, 1)
    return along


def _parts(rows: Rows, size: int = 5000) -> list[Rows]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _distances(rows: Rows, centres: Rows) -> Float[np.ndarray, "count centres"]:
    """Squared distances, less the squared norms of the rows."""
    distances: Float[np.ndarray, "count centres"] = np.sum(centres**2, axis=1) - 2 * rows @ centres.T
    return distances
