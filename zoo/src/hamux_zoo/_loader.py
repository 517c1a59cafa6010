"""Batches of arrays in an order that the seed alone decides, for one process or several; resumable to the batch."""

from typing import Any

import grain

from ._data import Images
from ._devices import Placement


def batches(data: Images, batch_size: int, seed: int | None, placement: Placement) -> Any:
    """An endless iterator of batches: the images in an order drawn anew for each pass, batches run over its end.

    Without a `seed` always in the order they have. It has grain's `get_state` and `set_state`. Each process gathers its
    own rows of every batch, some batches ahead.
    """
    rows = placement.share(batch_size)
    order = grain.MapDataset.range(len(data.images))
    if seed is not None:
        order = order.seed(seed).shuffle()
    gathered = order.repeat(None).batch(batch_size).map(lambda which: data.take(which[rows]))
    return iter(gathered.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
