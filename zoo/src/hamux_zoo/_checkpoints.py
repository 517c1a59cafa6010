"""The state of a run in its folder: written aside, read back, compared, and only then the one to go on from."""

import errno
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array


class Checkpoints:
    """The last two good states of a run, by step, in orbax's format."""

    def __init__(self, folder: Path):
        self._folder = folder.absolute()  # orbax takes no other
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False, cleanup_tmp_directories=True),
        )

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Keep `state`, a tree of arrays, and `meta`, JSON values.

        Orbax writes both into a folder aside and renames it; what then lies there is read back, and older states go
        when it is the same to the bit. **Raises** OSError when there is no space, or the disk gives back something
        else; the states before are still there.
        """
        sums = _checksum(state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_by_path(state)), meta=ocp.args.JsonSave({**meta, "checksum": int(sums)})
        )
        try:
            self._manager.save(step, args=items, force=True)
            self._read(step, state)
        except Exception as error:
            shutil.rmtree(self._folder / str(step), ignore_errors=True)
            raise OSError(_errno(error), f"the checkpoint of step {step} cannot be written: {error}") from error
        for old in sorted(self._manager.all_steps())[:-2]:
            self._manager.delete(old)

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Step, state and meta of the newest that can be read, laid out as the arrays of `like`; None if there is none.

        **Raises** OSError when there are some and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        problem: Exception | None = None
        for step in steps:
            try:
                state, meta = self._read(step, like)
            except Exception as error:  # whatever a damaged file makes orbax raise; the one before it may be good
                problem = problem or error
                continue
            for damaged in steps[: steps.index(step)]:
                self._manager.delete(damaged)
            return step, state, meta
        if problem:
            raise OSError(errno.EIO, f"of the checkpoints {steps} in {self._folder} none can be read: {problem}")
        return None

    def close(self) -> None:
        self._manager.close()

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        abstract = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for path, leaf in _by_path(like).items()
        }
        read = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        )
        state = jax.tree.unflatten(jax.tree.structure(like), [read.state[path] for path in abstract])
        if int(_checksum(state)) != read.meta.pop("checksum"):
            raise OSError(errno.EIO, f"what was read back differs from what was written, in {self._folder / str(step)}")
        return state, read.meta


def _by_path(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@jax.jit
def _checksum(tree: Any) -> Array:
    """A sum of all bits, each word weighted by its place: exact, and the same however the arrays are cut."""
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
        width = min(leaf.dtype.itemsize, 4)
        words = jax.lax.bitcast_convert_type(leaf, np.dtype(f"uint{8 * width}")).astype(jnp.uint32).ravel()
        places = jnp.arange(words.size, dtype=jnp.uint32)
        total = total * jnp.uint32(31) + jnp.sum(words * (2 * places + 1), dtype=jnp.uint32)
    return total


def _errno(error: BaseException) -> int:
    return errno.ENOSPC if "No space left" in str(error) else getattr(error, "errno", None) or errno.EIO
