"""Where arrays lie: a mesh over all devices of all processes, batches cut over it, parameters whole or cut.

One program for one device and for many (jax's SPMD): the compiler adds the communication that the placement needs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Below this many elements an array costs less to copy than to gather.
SHARD_ABOVE = 2**16


def join_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Make this process one of several (`jax.distributed`); before anything is computed.

    Under SLURM and Kubernetes jax finds all three by itself. A process that dies ends the others within a minute.
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
        """**Raises** ValueError when the devices cannot have equal shares of a batch."""
        devices = jax.devices()
        if batch_size % len(devices):
            raise ValueError(
                f"a batch of {batch_size} examples for {len(devices)} devices: each takes an equal share, at least "
                f"one; take a batch size that is a multiple of {len(devices)}"
            )
        return cls(jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,)), shard_params)

    @property
    def whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def of(self, leaf: Any) -> NamedSharding:
        """Where an array of the training's state lies: cut along its longest axis that parts evenly, or whole."""
        sizes = [size if size % self.mesh.size == 0 else 0 for size in leaf.shape]
        if not self.shard_params or leaf.size < SHARD_ABOVE or not any(sizes):
            return self.whole
        axis = int(np.argmax(sizes))
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, "batch"))

    def place(self, tree: Any) -> Any:
        """A tree of arrays that every process has, laid out over the devices."""
        return jax.tree.map(lambda leaf: _put(leaf, self.of(leaf)), tree)

    def share(self, batch_size: int) -> slice:
        """The rows of a batch that this process loads."""
        size = batch_size // jax.process_count()
        return slice(jax.process_index() * size, (jax.process_index() + 1) * size)

    def gather_batch(self, share: Any) -> Any:
        """The batch of all processes, cut over the devices, from what this one has loaded of it."""
        cut = NamedSharding(self.mesh, PartitionSpec("batch"))
        return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(cut, rows), share)

    def copy(self, tree: Any) -> Any:
        """A tree of arrays that every process has, whole on each device."""
        return jax.tree.map(lambda leaf: _put(leaf, self.whole), tree)


def leads() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def lead(act: Callable[[], None]) -> None:
    """Do in the first process what it does for all, the others waiting. **Raises** in all of them if it fails."""
    problem: Exception | None = None
    if leads():
        try:
            act()
        except Exception as error:
            problem = error
    if in_any_process(problem is not None):
        raise problem or RuntimeError("the first process has failed; its message says why")


def in_any_process(flag: bool) -> bool:
    """Whether it is so in one of them at least."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def to_host(tree: Any) -> Any:
    """A tree of arrays, wherever they lie, as numpy arrays of this process."""
    return jax.tree.map(
        lambda leaf: np.asarray(
            leaf
            if leaf.is_fully_addressable or leaf.is_fully_replicated
            else multihost_utils.process_allgather(leaf, tiled=True)
        ),
        tree,
    )


def _put(leaf: Any, where: NamedSharding) -> jax.Array:
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, where, lambda index: host[index])
