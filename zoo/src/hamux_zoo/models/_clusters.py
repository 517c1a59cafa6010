"""First memories that lie where the data do: cluster centres, and the directions around them."""

import numpy as np
from jaxtyping import Float, Int

Rows = Float[np.ndarray, "count dim"]


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
        nearest = np.concatenate([np.argmin(_distances(part, centres), axis=1) for part in _parts(rows)])
        sums, sizes = np.zeros_like(centres), np.bincount(nearest, minlength=count)
        np.add.at(sums, nearest, rows)
        drawn = rows[rng.choice(len(rows), count)]
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None].astype(sums.dtype), drawn)
    return centres


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
