"""Memories that share one vector of random features."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamux

KEY = jr.key(0)


def patterns(count=12, dim=8, seed=1):
    return jr.normal(jr.key(seed), (count, dim)) / dim**0.5


def joined(synapse):
    layer = hamux.Neurons(hamux.lagr_identity, synapse.S.shape[1], leak=0.0)
    return hamux.HAM({"x": layer}, {"memory": synapse}, [(("x",), "memory")])


def test_the_energy_by_its_formula():
    synapse = hamux.RandomFeatureSynapse(KEY, 8, 50, beta=2.0, eps=0.3).remember(patterns())
    x = patterns(seed=2)
    S, b = np.asarray(synapse.S), np.asarray(synapse.b)
    angle_x, angle_xi = (np.sqrt(2.0) * np.asarray(rows) @ S.T + b for rows in (x, patterns()))
    kernel = np.mean(np.cos(angle_x[:, None] - angle_xi), axis=-1)
    expected = -np.sum(np.log(np.maximum(kernel.sum(axis=1), 0.3))) / 2
    assert float(synapse(x)) == pytest.approx(expected)
    assert float(sum(synapse(row) for row in x)) == pytest.approx(expected)


def test_the_error_falls_as_one_over_the_root_of_the_features():
    """At the memories, beside the exact kernel, over 40 draws of S and b."""
    xi = patterns()
    exact = jax.vmap(hamux.KernelSynapse(KEY, 8, 12, beta=3.0).store(xi))(xi)

    def error(features):
        draws = [hamux.RandomFeatureSynapse(key, 8, features, beta=3.0).remember(xi) for key in jr.split(KEY, 40)]
        return np.sqrt(np.mean([(jax.vmap(draw)(xi) - exact) ** 2 for draw in draws]))

    assert error(4000) < 0.01
    assert 3 < error(250) / error(4000) < 5


def test_it_forgets_what_it_is_told_to_and_never_grows():
    synapse = hamux.RandomFeatureSynapse(KEY, 8, 60)
    few = synapse.remember(patterns())
    more = few.remember(patterns(9000, seed=3)).forget(patterns(9000, seed=3))
    np.testing.assert_allclose(more.T, few.T, atol=1e-9)
    np.testing.assert_allclose(few.forget(patterns()).T, 0, atol=1e-12)
    assert jax.tree.map(jnp.shape, few) == jax.tree.map(jnp.shape, synapse)


def test_a_stored_pattern_is_recalled_as_by_the_kernel():
    xi = jnp.sign(jr.normal(jr.key(4), (4, 32))) / 32**0.5
    synapse = hamux.RandomFeatureSynapse(KEY, 32, 3000, beta=10.0).remember(xi)
    noisy = xi[1] + 0.03 * jr.normal(jr.key(5), (32,))
    out = hamux.relax(joined(synapse), {"x": noisy}, tol=1e-4)
    assert out.converged
    assert np.diff(out.energies).max() <= 1e-9
    np.testing.assert_allclose(out.xs["x"], xi[1], atol=0.05)
    assert np.linalg.norm(out.xs["x"] - xi[1]) < 0.5 * np.linalg.norm(noisy - xi[1])


def test_it_is_flat_where_it_is_clipped_and_says_that_it_rests():
    synapse = hamux.RandomFeatureSynapse(KEY, 8, 200, eps=0.2)
    far = {"x": 100 * jnp.ones(8)}
    for stored in (synapse, synapse.remember(patterns(1))):
        assert float(stored(far["x"])) == pytest.approx(-np.log(0.2))
        out = hamux.relax(joined(stored), far)
        assert out.converged
        assert (out.steps, out.residual) == (0, 0)
        np.testing.assert_array_equal(out.xs["x"], far["x"])


def test_gradients(gradients):
    synapse = hamux.RandomFeatureSynapse(KEY, 8, 20).remember(patterns())
    _, found, expected = gradients(lambda both: both[0](both[1]), (synapse, patterns(3, seed=6)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, expected)


def test_half_precision_is_summed_in_float32():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), hamux.RandomFeatureSynapse(KEY, 8, 200))
    half = half.remember(patterns())
    assert half.T.dtype == jnp.bfloat16
    assert half(patterns().astype(jnp.bfloat16)).dtype == jnp.float32
    exact = jax.tree.map(lambda leaf: leaf.astype(float), half)
    x = patterns()[0].astype(jnp.bfloat16)
    assert float(half(x)) == pytest.approx(float(exact(x.astype(float))), abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features is 0; at least one is drawn"),
        ({"features": 2.5}, "features is 2.5"),
        ({"dim": 0}, "dim is 0"),
        ({"beta": 0.0}, "beta is 0.0; it must be finite and greater than 0"),
        ({"eps": -1.0}, "eps is -1.0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        hamux.RandomFeatureSynapse(KEY, **{"dim": 8, "features": 20} | options)


def test_shapes_that_do_not_fit():
    synapse = hamux.RandomFeatureSynapse(KEY, 8, 20)
    with pytest.raises(ValueError, match=r"of dim 8 got g of shape \(7,\)"):
        synapse(jnp.zeros(7))
    for wrong in (jnp.zeros(8), jnp.zeros((3, 7))):
        with pytest.raises(ValueError, match=r"expected \(patterns, 8\)"):
            synapse.remember(wrong)
