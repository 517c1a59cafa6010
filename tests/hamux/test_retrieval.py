"""`hamux.certify_retrieval`: what it certifies is so, and what it does not is not."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import hamux

SPARSE = {
    "sparsemax": (partial(hamux.lagr_entmax, alpha=2.0), 1.0),
    "entmax": (partial(hamux.lagr_entmax, alpha=1.5), 2.0),
    "normmax": (partial(hamux.lagr_normmax, p=3.0), 1.0),
}


def memory(patterns, hidden, visible=hamux.lagr_identity, leak=1.0):
    synapse = hamux.HopfieldSynapse(jr.key(0), patterns.shape[1], len(patterns), hidden)
    synapse = eqx.tree_at(lambda synapse: synapse.xi[0], synapse, jnp.asarray(patterns))
    layer = hamux.Neurons(visible, patterns.shape[1], leak=leak)
    return hamux.HAM({"x": layer}, {"memory": synapse}, [(("x",), "memory")])


def step(ham, query):
    return hamux.descend(ham, {"x": jnp.asarray(query)}, steps=1, dt=1.0).xs["x"]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(SPARSE)), st.integers(1, 12), st.integers(1, 6), st.floats(0.2, 20), st.integers(0, 2**20)
)
def test_nothing_certified_is_false_and_the_radius_is_exact(kind, count, dim, beta, seed):
    lagrangian, margin = SPARSE[kind]
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(count, dim))
    ham = memory(patterns, partial(lagrangian, beta=beta))
    found = hamux.certify_retrieval(ham)
    lands = jax.jit(jax.vmap(partial(step, ham)))
    ends = np.asarray(lands(jnp.asarray(patterns)))
    off = np.linalg.norm(ends - patterns, axis=1)
    assert np.all(off[found.exact] < 1e-9)
    assert np.all(off <= found.error + 1e-9)
    assert np.all(off[~found.exact & ~found.undecided] > 0)
    for i in np.flatnonzero(found.exact & np.isfinite(found.radius)):
        towards = rng.normal(size=(20, dim))
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        inside = np.asarray(lands(patterns[i] + 0.999 * found.radius[i] * towards))
        np.testing.assert_allclose(inside, np.tile(patterns[i], (20, 1)), atol=1e-7)
        away = patterns[i] - np.delete(patterns, i, axis=0)
        gaps = (away @ patterns[i] - margin / beta) / np.linalg.norm(away, axis=1)
        worst = -away[np.argmin(gaps)] / np.linalg.norm(away[np.argmin(gaps)])
        beyond = patterns[i] + (1.001 * found.radius[i] + 1e-6) * worst
        assert np.linalg.norm(step(ham, beyond) - patterns[i]) > 0


def test_of_a_softmax_the_error_is_bounded():
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(30, 40))
    found = hamux.certify_retrieval(memory(patterns, partial(hamux.lagr_softmax, beta=2.0)))
    longest = np.linalg.norm(patterns, axis=1).max()
    for i in range(30):
        least = min(patterns[i] @ (patterns[i] - patterns[j]) for j in range(30) if j != i)
        assert found.error[i] == pytest.approx(2 * longest * min(1, 29 * np.exp(-2.0 * least)))
    off = [np.linalg.norm(step(memory(patterns, partial(hamux.lagr_softmax, beta=2.0)), x) - x) for x in patterns]
    assert np.all(off <= found.error)
    assert not found.exact.any()
    assert not found.radius.any()


def test_an_example_by_hand():
    """Two patterns, (2, 0) and (0, 1), sparsemax with β = 1: Δ = 4 and 1, margin 1, both √5 apart."""
    ham = memory(np.array([[2.0, 0.0], [0.0, 1.0]]), partial(hamux.lagr_entmax, alpha=2.0))
    found = hamux.certify_retrieval(ham)
    assert found.exact.tolist() == [True, True]
    np.testing.assert_allclose(found.radius, [3 / 5**0.5, 0.0])
    only_one = hamux.certify_retrieval(ham, [[0.0, 1.0]])
    assert only_one.radius.tolist() == [0.0]
    alone = hamux.certify_retrieval(memory(np.ones((1, 2)), hamux.lagr_softmax))
    assert alone.exact.all()
    assert alone.radius == np.inf


def test_of_the_same_pattern_twice_neither_is_certified():
    patterns = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 9.0]])
    found = hamux.certify_retrieval(memory(patterns, partial(hamux.lagr_entmax, alpha=2.0, beta=5.0)))
    assert found.exact.tolist() == [False, False, True]
    assert found.undecided.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: memory(p, hamux.lagr_relu), "none of lagr_entmax, lagr_normmax and lagr_softmax"),
        (lambda p: memory(p, hamux.lagr_softmax, leak=0.5), "expected one axis, lagr_identity, and a leak of 1"),
        (lambda p: memory(p, hamux.lagr_softmax, hamux.lagr_tanh), "expected one axis, lagr_identity"),
        (
            lambda p: hamux.HAM(
                {"x": hamux.Neurons(hamux.lagr_identity, 3)},
                {"s": hamux.KernelSynapse(jr.key(0), 3, 4)},
                [(("x",), "s")],
            ),
            "the synapse is a KernelSynapse; expected a HopfieldSynapse on one layer",
        ),
        (
            lambda p: hamux.HAM(
                {name: hamux.Neurons(hamux.lagr_identity, 3) for name in "xy"},
                {"s": hamux.HopfieldSynapse(jr.key(0), [3, 3], 4, hamux.lagr_softmax)},
                [(("x", "y"), "s")],
            ),
            r"the HAM has layers \['x', 'y'\] and 1 connections",
        ),
    ],
)
def test_a_memory_of_another_kind_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        hamux.certify_retrieval(make(np.eye(3)))


def test_patterns_that_are_not_stored_are_refused():
    ham = memory(np.eye(3), hamux.lagr_softmax)
    with pytest.raises(ValueError, match="pattern 1 is not one of those that the memory stores"):
        hamux.certify_retrieval(ham, [[0.0, 1, 0], [0.5, 0.5, 0]])
    with pytest.raises(ValueError, match=r"patterns have shape \(2,\); expected \(patterns, 3\)"):
        hamux.certify_retrieval(ham, [1.0, 2.0])
