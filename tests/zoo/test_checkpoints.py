"""Checkpoints: the last two are kept, a damaged one is passed over, and what is read is what was written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hamux_zoo.training._checkpoints import Checkpoints


def state_of(step):
    leaves = {"halves": jnp.full((3, 5), step, jnp.bfloat16), "none": None, "flag": jnp.asarray(step % 2 == 0)}
    return {"weights": jnp.arange(1000.0) * step, "step": jnp.int32(step), "empty": jnp.zeros((0, 4)), **leaves}


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept")
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), {"note": f"after {step}"})
    checkpoints.close()
    return tmp_path / "kept"


def damage(folder):
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(bytes(len(content)))


def assert_restored(folder, step):
    found, state, meta = Checkpoints(folder).restore(state_of(0))
    assert (found, meta) == (step, {"note": f"after {step}"})
    assert jax.tree.structure(state) == jax.tree.structure(state_of(step))
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(state_of(step)), strict=True):
        assert leaf.dtype == expected.dtype
        np.testing.assert_array_equal(leaf, expected)


def test_the_newest_of_the_last_two_is_restored(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
    assert_restored(folder, 3)


def test_a_damaged_one_is_removed_and_the_one_before_it_taken(folder):
    damage(folder / "3")
    assert_restored(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["2"]


def test_bits_that_changed_are_noticed(folder, monkeypatch):
    """Whatever the file format lets pass: the sum over all bits is another."""
    other = Checkpoints(folder)
    read = other._manager.restore

    def flipped(step, args):
        items = read(step, args=args)
        if step == 3:
            weights = np.array(items.state["weights"])
            weights.view(np.uint32)[700] ^= 1
            items.state["weights"] = jnp.asarray(weights)
        return items

    monkeypatch.setattr(other._manager, "restore", flipped)
    assert other.restore(state_of(0))[0] == 2


def test_when_none_can_be_read_it_is_an_error_not_a_new_beginning(folder):
    damage(folder / "2")
    damage(folder / "3")
    with pytest.raises(OSError, match=r"none of the checkpoints \[3, 2\] .* can be read"):
        Checkpoints(folder).restore(state_of(0))


def test_none_is_kept_before_the_first(tmp_path):
    assert Checkpoints(tmp_path / "kept").restore(state_of(0)) is None
