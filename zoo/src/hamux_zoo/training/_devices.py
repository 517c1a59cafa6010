"""Where arrays lie: batches are cut over all devices of all processes, parameters are whole on each, or cut as well.

One program serves one device and many (jax's SPMD): the compiler adds the communication that the placement needs.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

# An array of fewer elements costs less to copy than to gather.
SHARD_ABOVE = 2**16
# `jax.set_mesh` of it hides a mesh of the caller's.
NO_MESH = Mesh(np.empty((), object), ())

Tree = TypeVar("Tree")  # of arrays


def join_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several (`jax.distributed`); to be called before anything is computed.

    Under SLURM and Kubernetes jax finds all three arguments itself. When a process dies, the others end within a
    minute.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator, num_processes, process_id, heartbeat_timeout_seconds=20, shutdown_timeout_seconds=20
    )


class Placement(NamedTuple):
    """A mesh of one axis, and whether large parameters are cut over it."""

    mesh: Mesh
    shard_params: bool = False

    @classmethod
    def over_all_devices(cls, batch_size: int, shard_params: bool) -> "Placement":
        """**Raises** ValueError if the devices cannot have equal shares of a batch."""
        count = jax.device_count()
        if batch_size % count:
            raise ValueError(
                f"`batch_size` is {batch_size} for {count} devices, which take equal shares; expected a multiple of "
                f"{count}"
            )
        return cls(jax.make_mesh((count,), ("batch",), axis_types=(AxisType.Auto,)), shard_params)

    def of(self, leaf: Array) -> NamedSharding:
        """Where an array of the training's state lies: cut along its longest axis that divides evenly, or whole."""
        sizes = [size if size % self.mesh.size == 0 else 0 for size in leaf.shape]
        if not self.shard_params or leaf.size < SHARD_ABOVE or not any(sizes):
            return NamedSharding(self.mesh, PartitionSpec())
        axis = int(np.argmax(sizes))
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, "batch"))

    def place(self, tree: Tree) -> Tree:
        """Returns a tree of arrays, which every process has, laid out over the devices."""

        def put(leaf: Array) -> Array:
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, self.of(leaf), lambda index: host[index])

        placed: Tree = jax.tree.map(put, tree)
        return placed

    def share(self, batch_size: int) -> slice:
        """Returns the rows of a batch that this process loads."""
        size = batch_size // jax.process_count()
        return slice(jax.process_index() * size, (jax.process_index() + 1) * size)

    def gather_batch(self, share: Tree) -> Tree:
        """Returns the batch of all processes, cut over the devices, from the share of it that this one has loaded."""
        cut = NamedSharding(self.mesh, PartitionSpec("batch"))
        batch: Tree = jax.tree.map(lambda rows: jax.make_array_from_process_local_data(cut, rows), share)
        return batch


def leads() -> bool:
    """Returns whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def lead(act: Callable[[], None]) -> None:
    """Calls `act` in the first process while the others wait. If it raises, all of them do."""
    problem: Exception | None = None
    if leads():
        try:
            act()
        except Exception as error:
            problem = error
    if in_any_process(problem is not None):
        raise problem or RuntimeError("the first process has failed; its message says why")


def in_any_process(flag: bool) -> bool:
    """Returns whether the flag is set in at least one process."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def to_host(tree: Tree) -> Tree:
    """Returns a tree of arrays, wherever they lie, as NumPy arrays of this process."""

    def fetched(leaf: Array) -> np.ndarray:
        here = leaf.is_fully_addressable or leaf.is_fully_replicated
        return np.asarray(leaf if here else multihost_utils.process_allgather(leaf, tiled=True))

    arrays: Tree = jax.tree.map(fetched, tree)
    return arrays
