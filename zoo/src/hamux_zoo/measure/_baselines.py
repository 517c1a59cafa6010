"""Guesses at an image's unknown pixels that need no memory, only the training images."""

import numpy as np

from ..statistics import Batch, Masks, by_mask


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
    for which, mask in by_mask(known):
        queries, candidates = images[which].reshape(len(which), -1)[:, mask], rows[:, mask]
        nearest[which] = np.argmin(np.sum(candidates**2, axis=1) - 2 * queries @ candidates.T, axis=1)
    return train[nearest]
