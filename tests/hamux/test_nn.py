"""Hopfield layers for Equinox, by the published equations."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial

import hamux
from hamux import nn

KEY = jr.key(0)
QUERY, PATTERNS = jr.normal(jr.key(1), (3, 8)), jr.normal(jr.key(2), (5, 8))
SPARSE = {
    "entmax": Partial(hamux.lagr_entmax, alpha=1.5),
    "normmax": Partial(hamux.lagr_normmax, p=2.0),
    "subsets": Partial(hamux.lagr_k_subsets, k=2),
}


def softmax(h):
    weights = np.exp(h - h.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def published(layer, query, patterns, beta, steps):
    """Ramsauer et al., 2021, eq. 3 for every step but the last, and eq. 10 for that."""
    pairs = (query, layer.query_proj), (patterns, layer.key_proj), (patterns, layer.value_proj)
    x, k, v = (np.split(rows @ np.asarray(W.weight).T, layer.num_heads, axis=1) for rows, W in pairs)
    heads = []
    for x_h, k_h, v_h in zip(x, k, v, strict=True):
        for _ in range(steps - 1):
            x_h = softmax(beta * x_h @ k_h.T) @ k_h
        heads.append(softmax(beta * x_h @ k_h.T) @ v_h)
    return np.concatenate(heads, axis=1) @ np.asarray(layer.output_proj.weight).T


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_is_the_published_layer(steps):
    layer = nn.Hopfield(2, 8, output_size=6, steps=steps, beta=0.9, key=KEY)
    expected = published(layer, np.asarray(QUERY), np.asarray(PATTERNS), 0.9, steps)
    np.testing.assert_allclose(layer(QUERY, PATTERNS), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), None])
def test_one_step_of_softmax_is_the_attention_of_equinox(shape):
    options = {"key_size": 8, "value_size": 7, "output_size": 6, "qk_size": 5, "vo_size": 3}
    attention = eqx.nn.MultiheadAttention(
        2, 8, **options, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=KEY
    )
    layer = nn.Hopfield(2, 8, **options, use_bias=True, key=jr.key(9))
    projections = ["query_proj", "key_proj", "value_proj", "output_proj"]
    layer = eqx.tree_at(
        lambda layer: [getattr(layer, name) for name in projections],
        layer,
        [getattr(attention, name) for name in projections],
    )
    value = jr.normal(jr.key(3), (5, 7))
    mask = None if shape is None else jr.bernoulli(jr.key(4), 0.6, shape).at[..., 0].set(True)
    full = None if mask is None else jnp.broadcast_to(mask.reshape((1,) * (3 - mask.ndim) + mask.shape), (2, 3, 5))
    np.testing.assert_allclose(layer(QUERY, PATTERNS, value, mask), attention(QUERY, PATTERNS, value, full), rtol=1e-10)


def test_to_a_fixed_point_with_the_implicit_gradient():
    settled, many = (
        nn.Hopfield(2, 8, beta=3.0, steps=steps, tol=1e-12, max_steps=999, key=KEY) for steps in (None, 300)
    )
    np.testing.assert_allclose(settled(QUERY, PATTERNS), many(QUERY, PATTERNS), atol=1e-9)

    def loss(layer):
        return jnp.sum(jnp.sin(layer(QUERY, PATTERNS)))

    found, expected = (jax.tree.leaves(eqx.filter_grad(loss)(layer)) for layer in (settled, many))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", ["entmax", "normmax"])
@pytest.mark.parametrize("steps", [1, 3, None])
def test_sparse_layers_recall_few_patterns(name, steps):
    layer = nn.Hopfield(1, 8, lagrangian=SPARSE[name], beta=30.0, steps=steps, key=KEY)
    identity = eqx.tree_at(
        lambda layer: [
            layer.query_proj.weight,
            layer.key_proj.weight,
            layer.value_proj.weight,
            layer.output_proj.weight,
        ],
        layer,
        [jnp.eye(8)] * 4,
    )
    recalled = identity(PATTERNS[1:2] + 0.01, PATTERNS)
    np.testing.assert_allclose(recalled[0], PATTERNS[1], rtol=1e-12)


@pytest.mark.parametrize("lagrangian", [hamux.lagr_softmax, *SPARSE.values()])
def test_what_a_mask_leaves_out_plays_no_part(lagrangian):
    layer = nn.Hopfield(2, 8, lagrangian=lagrangian, key=KEY)
    seen = jnp.array([True, False, True, True, False])
    inner = layer(QUERY, PATTERNS[seen])
    np.testing.assert_allclose(layer(QUERY, PATTERNS, mask=seen), inner, atol=1e-12)
    gradient = jax.grad(lambda patterns: jnp.sum(layer(QUERY, patterns, mask=seen) ** 2))(PATTERNS)
    np.testing.assert_array_equal(gradient[~seen], 0)
    assert np.abs(gradient[seen]).max() > 1e-3


@pytest.mark.parametrize("lagrangian", [hamux.lagr_softmax, *SPARSE.values()])
@pytest.mark.parametrize("steps", [1, 2, None])
def test_nothing_to_recall_is_zero_and_never_nan(lagrangian, steps):
    layer = nn.Hopfield(2, 8, lagrangian=lagrangian, steps=steps, tol=1e-11, max_steps=500, key=KEY)
    np.testing.assert_array_equal(layer(QUERY, PATTERNS[:0]), 0)
    mask = jnp.ones((3, 5), bool).at[1].set(False)
    out = layer(QUERY, PATTERNS, mask=mask)
    np.testing.assert_array_equal(out[1], 0)
    np.testing.assert_allclose(out[2], layer(QUERY, PATTERNS)[2], atol=1e-9)

    def loss(layer, patterns):
        return jnp.sum(layer(QUERY, patterns, mask=mask) ** 2)

    gradients = jax.tree.leaves(eqx.filter_grad(lambda both: loss(*both))((layer, PATTERNS)))
    assert all(np.isfinite(leaf).all() for leaf in gradients)


def test_beta_is_learned_and_norms_have_parameters():
    layer = nn.Hopfield(2, 8, norms=True, key=KEY)
    gradient = eqx.filter_grad(lambda layer: jnp.sum(layer(QUERY, PATTERNS) ** 2))(layer)
    beta = jax.tree.leaves(gradient.lagrangian)
    assert len(beta) == 1
    assert abs(float(beta[0])) > 1e-6
    assert all(float(jnp.abs(norm.weight).max()) > 0 for norm in gradient.norms)
    scaled = layer(5 * QUERY + 2, 3 * PATTERNS)
    np.testing.assert_allclose(scaled, layer(QUERY, PATTERNS), atol=1e-4)


def test_a_bag_becomes_a_vector_whatever_its_order_and_padding():
    pooling = nn.HopfieldPooling(2, 8, 6, queries=3, key=KEY)
    vector = pooling(PATTERNS)
    assert vector.shape == (18,)
    np.testing.assert_allclose(pooling(PATTERNS[::-1]), vector, rtol=1e-10)
    padded = jnp.concatenate([PATTERNS, jnp.full((4, 8), 7.0)])
    np.testing.assert_allclose(pooling(padded, jnp.arange(9) < 5), vector, rtol=1e-10)
    np.testing.assert_array_equal(pooling(PATTERNS, jnp.zeros(5, bool)), 0)


def test_a_layer_learns_its_patterns():
    layer = nn.HopfieldLayer(2, 8, 12, 4, key=KEY)
    np.testing.assert_allclose(layer(QUERY), layer.hopfield(QUERY, layer.patterns), rtol=1e-12)
    gradient = eqx.filter_grad(lambda layer: jnp.sum(layer(QUERY) ** 2))(layer)
    assert float(jnp.abs(gradient.patterns).max()) > 1e-6


def test_batches_jit_dropout_and_half_precision():
    layer = nn.Hopfield(2, 8, dropout_p=0.5, key=KEY)
    with_key = partial(layer, QUERY, PATTERNS)
    assert not np.allclose(with_key(key=jr.key(5)), with_key(key=jr.key(6)))
    plain = with_key(inference=True)
    batched = jax.jit(jax.vmap(partial(layer, inference=True)))(jnp.stack([QUERY] * 2), jnp.stack([PATTERNS] * 2))
    np.testing.assert_allclose(batched, jnp.stack([plain] * 2), rtol=1e-10)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, layer)
    out = half(QUERY.astype(jnp.bfloat16), PATTERNS.astype(jnp.bfloat16), inference=True)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(float), plain, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; at least one is taken"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"beta": -1.0}, "beta is -1.0; it must be finite and greater than 0"),
        ({"beta": 1.0, "lagrangian": hamux.lagr_relu}, "beta is 1.0, but .* has no β"),
        ({"tol": 0.0}, "tol is 0.0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        nn.Hopfield(**{"num_heads": 2, "query_size": 8, "key": KEY} | options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUERY[0], PATTERNS), r"query has shape \(8,\); expected \(any number, 8\)"),
        ((QUERY, PATTERNS[:, :7]), r"key_ has shape \(5, 7\)"),
        ((QUERY, PATTERNS, PATTERNS[:4]), "5 keys and 4 values"),
        ((QUERY, PATTERNS, None, jnp.ones(4, bool)), r"mask is bool\[4\]; expected booleans of \(2, 3, 5\)"),
        ((QUERY, PATTERNS, None, jnp.ones(5)), r"mask is float64\[5\]"),
    ],
)
def test_arrays_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.Hopfield(2, 8, key=KEY)(*arguments)


def test_more_units_than_the_bag_holds():
    with pytest.raises(ValueError, match="k is 2, but there are 1 units"):
        nn.Hopfield(2, 8, lagrangian=SPARSE["subsets"], key=KEY)(QUERY, PATTERNS[:1])
