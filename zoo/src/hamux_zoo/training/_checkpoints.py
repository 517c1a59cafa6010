"""The checkpoints of a run. A new one counts only after it is read back and is the same to the bit."""

import errno
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree, UInt32

Tree = TypeVar("Tree")  # of arrays


class Checkpoints:
    """The last two good states of a run, by step, in orbax's format."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # orbax takes no relative path
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False, cleanup_tmp_directories=True),
        )

    def save(self, step: int, state: PyTree[Array], meta: dict[str, object]) -> None:
        """Writes `state`, and `meta`, which are JSON values.

        Orbax writes both to a temporary folder and renames it. They are read back, and if they are the same to the bit,
        checkpoints before the last two are deleted. **Raises** OSError if there is no space, or if the disk returns
        something else; then the checkpoints before are still there.
        """
        sums = _checksum(state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_saved(state)), meta=ocp.args.JsonSave({**meta, "checksum": int(sums)})
        )
        try:
            self._manager.save(step, args=items, force=True)
            self._read(step, state)
        except Exception as error:
            shutil.rmtree(self._folder / str(step), ignore_errors=True)
            number = errno.ENOSPC if "No space left" in str(error) else getattr(error, "errno", None) or errno.EIO
            raise OSError(number, f"the checkpoint of step {step} cannot be written: {error}") from error
        for old in sorted(self._manager.all_steps())[:-2]:
            self._manager.delete(old)

    def restore(self, like: Tree) -> tuple[int, Tree, dict[str, Any]] | None:
        """Returns step, state and meta of the newest checkpoint that can be read; None if there is no checkpoint.

        The arrays are laid out as those of `like`. **Raises** OSError if there are checkpoints and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        problem: Exception | None = None
        for step in steps:
            try:
                state, meta = self._read(step, like)
            except Exception as error:  # a damaged file makes orbax raise anything; the checkpoint before may be good
                problem = problem or error
                continue
            for damaged in steps[: steps.index(step)]:
                self._manager.delete(damaged)
            return step, state, meta
        if problem:
            raise OSError(errno.EIO, f"none of the checkpoints {steps} in {self._folder} can be read: {problem}")
        return None

    def close(self) -> None:
        self._manager.close()

    def _read(self, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        abstract = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for path, leaf in _saved(like).items()
        }
        read = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        )
        leaves = [read.state.get(path, leaf) for path, leaf in _by_path(like).items()]
        state: Tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
        if int(_checksum(state)) != read.meta.pop("checksum"):
            raise OSError(errno.EIO, f"{self._folder / str(step)} does not hold what was written")
        return state, read.meta


def _by_path(tree: PyTree[Array]) -> dict[str, Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _saved(tree: PyTree[Array]) -> dict[str, Array]:
    """The leaves by path, without empty ones, which orbax refuses."""
    return {path: leaf for path, leaf in _by_path(tree).items() if leaf.size}


@jax.jit
def _checksum(tree: PyTree[Array]) -> UInt32[Array, ""]:
    """A sum of all bits, each word weighted by its place. It is exact, so it is the same however the arrays are cut."""
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
        width = min(leaf.dtype.itemsize, 4)
        words = jax.lax.bitcast_convert_type(leaf, np.dtype(f"uint{8 * width}")).astype(jnp.uint32).ravel()
        places = jnp.arange(words.size, dtype=jnp.uint32)
        total = total * jnp.uint32(31) + jnp.sum(words * (2 * places + 1), dtype=jnp.uint32)
    return total
