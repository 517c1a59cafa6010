"""Colder and warmer memories, and each memory's share of a recall."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from hamux_zoo import (
    ConvHAM,
    ConvHAMConfig,
    DenseHopfield,
    DenseHopfieldConfig,
    EnergyTransformer,
    EnergyTransformerConfig,
)
from hamux_zoo.pretrained import named_leaves

SHAPE = (8, 8, 1)
MODELS = {
    "dense": DenseHopfield(DenseHopfieldConfig(shape=SHAPE, memories=6, classes=3, beta=0.3), key=jr.key(0)),
    "conv": ConvHAM(ConvHAMConfig(shape=SHAPE, channels=(3, 4), kernels=(4, 2), memories=5), key=jr.key(0)),
    "transformer": EnergyTransformer(
        EnergyTransformerConfig(shape=SHAPE, dim=12, heads=2, head_dim=4, memories=7, alpha=0.05), key=jr.key(0)
    ),
}
IMAGE = np.random.default_rng(0).uniform(size=SHAPE)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_every_beta_is_multiplied_and_nothing_else(kind):
    warm, cold = named_leaves(MODELS[kind]), named_leaves(MODELS[kind].with_beta(4.0))
    assert any(name.endswith(".beta") for name in warm)
    for name, leaf in warm.items():
        np.testing.assert_array_equal(cold[name], 4 * leaf if name.endswith(".beta") else leaf)


def test_colder_is_one_memory_and_warmer_a_blend():
    cold, warm = (np.max(MODELS["dense"].with_beta(times).attribution(IMAGE)) for times in (100.0, 1e-4))
    assert cold > 0.99
    np.testing.assert_allclose(warm, 1 / 6, atol=0.01)


def test_a_beta_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="times is 0; expected a finite number greater than 0"):
        MODELS["dense"].with_beta(0)
    with pytest.raises(ValueError, match="no β is a parameter of this EnergyTransformer"):
        MODELS["transformer"].with_beta(2.0)


def test_shares_are_those_of_what_the_memories_do():
    transformer, conv = MODELS["transformer"], MODELS["conv"]
    g = transformer.tokens(IMAGE)[-1]
    pull = jax.nn.relu(g @ transformer.ham.synapses["memory"].xi[0].T)
    np.testing.assert_allclose(transformer.attribution(IMAGE), np.mean(pull / pull.sum(1, keepdims=True), 0))
    shares = conv.attribution(IMAGE)
    assert np.all(shares >= 0)
    np.testing.assert_allclose(jnp.sum(shares), 1)
    silent = eqx.tree_at(lambda model: model.ham.synapses, conv, jax.tree.map(jnp.zeros_like, conv.ham.synapses))
    np.testing.assert_allclose(silent.attribution(IMAGE), 1 / 5)
