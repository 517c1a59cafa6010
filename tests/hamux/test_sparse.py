"""Sparse Lagrangians at every α and p, their zeros, their derivatives, and memories that they read."""

import functools
from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads
from jax.tree_util import Partial
from test_lagrangians import entmax, normmax

import hamux

ALPHAS = [1.01, 1.25, 1.5, 2.0, 2.5, 4.0]
PS = [1.1, 1.5, 2.0, 5.0]
KINDS = {
    **{f"entmax {a}": (partial(hamux.lagr_entmax, alpha=a), partial(entmax, alpha=a)) for a in ALPHAS},
    **{f"normmax {p}": (partial(hamux.lagr_normmax, p=p), partial(normmax, p=p)) for p in PS},
}
every_kind = pytest.mark.parametrize(("lagrangian", "activation"), KINDS.values(), ids=KINDS)
X = np.random.default_rng(0).normal(size=(4, 7))


@functools.cache
def compiled(lagrangian):
    return jax.jit(jax.vmap(jax.value_and_grad(lambda x, beta: lagrangian(x, beta=beta)), (0, None)))


@every_kind
def test_activations_are_those_of_the_definition(lagrangian, activation):
    for scale in (0.1, 1.0, 30.0, 1e5):
        found = jax.jit(jax.grad(lagrangian))(scale * X)
        np.testing.assert_allclose(found, activation(scale * X), rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(np.sum(found, axis=-1), 1, rtol=1e-12)


@every_kind
@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from([2, 30]), st.floats(0.1, 20))
def test_the_activation_is_the_maximum(lagrangian, activation, seed, units, beta):
    """L lies above each of its tangents, and goes up by c when all of x does."""
    rng = np.random.default_rng(seed)
    x, other = rng.normal(size=(2, units))
    values, slopes = compiled(lagrangian)(np.stack([x, other, x + 3.0]), beta)
    assert values[1] >= values[0] + slopes[0] @ (other - x) - 1e-10
    assert values[2] == pytest.approx(values[0] + 3.0)


@every_kind
def test_derivatives_of_any_order_and_mode(lagrangian, activation):
    x = X[0] / 3
    check_grads(lambda x, beta: lagrangian(x, beta=beta), (x, 1.3), order=2, modes=["fwd", "rev"], rtol=1e-4, atol=1e-5)
    hessian = jax.hessian(lagrangian)(x)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    assert np.linalg.eigvalsh(hessian).min() > -1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_kind
def test_units_far_below_the_largest_are_exactly_zero(lagrangian, activation, dtype):
    margin = 1 / (lagrangian.keywords["alpha"] - 1) if "alpha" in lagrangian.keywords else 1.0
    x = jnp.asarray([0.0, -1.01 * margin, -5 * margin, -1e6], dtype)
    found = jax.grad(lagrangian)(x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, [1, 0, 0, 0])
    near = jax.grad(lagrangian)(jnp.asarray([0.0, -0.5 * margin], dtype))
    assert near[1] > 0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_subsets_are_the_nearest_points(k):
    """y − θ + τ is 0 between 0 and 1, at least 0 where y is 0, and at most 0 where y is 1."""
    for scale in (0.1, 1.0, 30.0, 1e5):
        theta = scale * X
        value, y = map(np.asarray, jax.value_and_grad(partial(hamux.lagr_k_subsets, k=k))(theta))
        np.testing.assert_allclose(value, np.sum(theta * y) - np.sum(np.sum(y**2, axis=-1) - k) / 2)
        np.testing.assert_allclose(y.sum(axis=-1), k, rtol=1e-9)
        for row, x in zip(y, theta, strict=True):
            low, high = np.max((x - row)[row < 1], initial=-np.inf), np.min((x - row)[row > 0], initial=np.inf)
            assert low <= high + 1e-9 * scale


def test_k_of_the_units_are_one_where_they_are_ahead():
    x = jnp.array([5.0, -3.0, 2.0, 0.9, 3.0])
    gradient = jax.grad(partial(hamux.lagr_k_subsets, k=3, beta=1.0))
    np.testing.assert_array_equal(gradient(x), [1, 0, 1, 0, 1])
    np.testing.assert_array_equal(jax.grad(partial(hamux.lagr_k_subsets, k=5))(x), np.ones(5))
    np.testing.assert_allclose(gradient(jnp.zeros(6)), 0.5)
    sparsemax = jax.grad(partial(hamux.lagr_entmax, alpha=2.0))
    np.testing.assert_allclose(jax.grad(partial(hamux.lagr_k_subsets, k=1))(X), sparsemax(X), atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_derivatives_of_subsets(k):
    def function(x, beta):
        return hamux.lagr_k_subsets(x, k=k, beta=beta)

    check_grads(function, (X[0] / 3, 1.3), order=2, modes=["fwd", "rev"], rtol=1e-4, atol=1e-5)
    assert np.linalg.eigvalsh(jax.hessian(function)(X[0], 0.7)).min() > -1e-12


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_other_sizes_of_subsets_are_refused(k):
    with pytest.raises(ValueError, match=r"k is .*; at least one unit is active, as an int"):
        hamux.lagr_k_subsets(X, k=k)
    with pytest.raises(ValueError, match="k is 8, but there are 7 units along axis -1"):
        hamux.lagr_k_subsets(X, k=8)


def test_a_memory_recalls_the_sum_of_several_patterns():
    patterns = jnp.sign(jr.normal(jr.key(0), (9, 64))) / 8
    lagrangian = Partial(hamux.lagr_k_subsets, k=2, beta=4.0)
    synapse = hamux.HopfieldSynapse(jr.key(1), 64, 9, lagrangian).store(patterns)
    ham = hamux.HAM({"x": hamux.Neurons(hamux.lagr_identity, 64)}, {"memory": synapse}, [(("x",), "memory")])
    both = patterns[2] + patterns[7]
    out = hamux.relax(ham, {"x": both + 0.02 * jr.normal(jr.key(2), (64,))})
    np.testing.assert_array_equal(out.xs["x"], both)
    assert out.converged
    with pytest.raises(ValueError, match="none of lagr_entmax"):
        hamux.certify_retrieval(ham)


def test_equal_scores_share_evenly_and_many_units_work_in_float32():
    for lagrangian, _ in KINDS.values():
        np.testing.assert_allclose(jax.grad(lagrangian)(jnp.zeros(5)), 0.2, rtol=1e-6)
        many = jax.random.normal(jr.key(0), (2, 5000), jnp.float32)
        found = jax.jit(jax.grad(partial(lagrangian, beta=3.0)))(many)
        np.testing.assert_allclose(jnp.sum(found, axis=-1), 1, rtol=1e-4)


def test_softmax_is_the_limit():
    g = jax.grad(partial(hamux.lagr_entmax, alpha=1.0001))(X)
    np.testing.assert_allclose(g, jax.nn.softmax(X), atol=1e-3)


@pytest.mark.parametrize("value", [1.0, 0.5, -2, float("inf"), float("nan")])
def test_other_powers_are_refused(value):
    with pytest.raises(ValueError, match=r"alpha is .*; expected a finite number greater than 1"):
        hamux.lagr_entmax(X, alpha=value)
    with pytest.raises(ValueError, match=r"p is .*; expected a finite number greater than 1"):
        hamux.lagr_normmax(X, p=value)


def test_alpha_is_an_option_and_beta_a_parameter():
    neurons = hamux.Neurons(Partial(hamux.lagr_entmax, alpha=2.0, beta=3), 4)
    assert [float(leaf) for leaf in jax.tree.leaves(neurons.lagrangian)] == [3.0]


def test_a_memory_is_recalled_exactly_in_one_certified_step():
    patterns = jnp.sign(jr.normal(jr.key(0), (6, 64))) / 8
    lagrangian = Partial(hamux.lagr_entmax, alpha=1.5, beta=20.0)
    synapse = hamux.HopfieldSynapse(jr.key(1), 64, 6, lagrangian).store(patterns)
    ham = hamux.HAM({"x": hamux.Neurons(hamux.lagr_identity, 64)}, {"memory": synapse}, [(("x",), "memory")])
    assert hamux.certify(ham, hamux.Explicit(1.0))
    noisy = patterns[2] + 0.02 * jr.normal(jr.key(2), (64,))
    out = hamux.relax(ham, {"x": noisy})
    np.testing.assert_array_equal(out.xs["x"], patterns[2])
    assert out.converged
    assert out.steps <= 2
