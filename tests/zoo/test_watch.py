"""What the app shows of every architecture: a recall step by step, colder and warmer, and each memory's share."""

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
from hamux_zoo._model import named_leaves

SHAPE = (8, 8, 1)
MODELS = {
    "dense": DenseHopfield(DenseHopfieldConfig(shape=SHAPE, memories=6, classes=3, beta=0.3), key=jr.key(0)),
    "conv": ConvHAM(ConvHAMConfig(shape=SHAPE, channels=(3, 4), kernel=3, memories=5, feedback=0.3), key=jr.key(0)),
    "transformer": EnergyTransformer(
        EnergyTransformerConfig(shape=SHAPE, dim=12, heads=2, head_dim=4, memories=7, alpha=0.05), key=jr.key(0)
    ),
}
IMAGE = np.random.default_rng(0).uniform(size=SHAPE)
KNOWN = np.arange(8)[:, None, None] < np.full(SHAPE, 4)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.mark.parametrize("dt", [1.0, 0.5])
def test_a_recall_is_watched_down_to_its_last_step(model, dt):
    images, energies = model.watch(IMAGE, KNOWN, steps=6, dt=dt)
    assert images.shape == (7, *SHAPE)
    assert energies.shape == (7,)
    assert energies[-1] < energies[0]
    assert np.all(np.diff(energies) <= 1e-12)
    np.testing.assert_allclose(images[:, KNOWN], np.broadcast_to(IMAGE[KNOWN], (7, KNOWN.sum())), rtol=1e-12)
    assert not np.allclose(images[0][~KNOWN], images[-1][~KNOWN], atol=1e-3)


def test_what_is_not_known_plays_no_part(model):
    other = np.where(KNOWN, IMAGE, 1 - IMAGE)
    for one, two in zip(model.watch(IMAGE, KNOWN, steps=2), model.watch(other, KNOWN, steps=2), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)


def test_a_smaller_step_goes_less_far(model):
    one, part = (model.watch(IMAGE, steps=1, dt=dt)[0] for dt in (1.0, 0.1))
    moved, moved_less = (np.linalg.norm(images[1] - images[0]) for images in (one, part))
    assert 0 < moved_less < 0.5 * moved


def test_a_recall_watched_is_a_retrieval():
    images, energies = MODELS["dense"].watch(IMAGE, KNOWN, steps=4)
    end = MODELS["dense"].retrieve(IMAGE, KNOWN, steps=4)
    np.testing.assert_array_equal(images[-1], end.x)
    np.testing.assert_array_equal(energies, end.energies)


def test_a_recall_watched_is_a_reconstruction():
    model = MODELS["transformer"]
    hidden = model.pixels(mask := np.array([False, False, True, True]))
    images, _ = model.watch(IMAGE, KNOWN, steps=model.config.steps)
    np.testing.assert_allclose(images[-1][hidden], model.reconstruct(IMAGE, mask)[hidden], rtol=1e-12)


def test_a_mask_that_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match=r"a mask of shape \(8, 8\) and dtype bool; expected booleans of shape \(8, 8"):
        model.watch(IMAGE, KNOWN[..., 0], steps=1)


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


def test_a_beta_that_is_none_is_refused():
    with pytest.raises(ValueError, match="times is 0; expected a finite number greater than 0"):
        MODELS["dense"].with_beta(0)
    with pytest.raises(ValueError, match="no β is a parameter of this EnergyTransformer"):
        MODELS["transformer"].with_beta(2.0)


def test_shares_are_those_of_what_the_memories_do():
    transformer, conv = MODELS["transformer"], MODELS["conv"]
    g = transformer.features(IMAGE)[-1]
    pull = jax.nn.relu(g @ transformer.ham.synapses["memory"].xi[0].T)
    np.testing.assert_allclose(transformer.attribution(IMAGE), np.mean(pull / pull.sum(1, keepdims=True), 0))
    shares = conv.attribution(IMAGE)
    assert np.all(shares >= 0)
    np.testing.assert_allclose(jnp.sum(shares), 1)
    silent = eqx.tree_at(lambda model: model.ham.synapses, conv, jax.tree.map(jnp.zeros_like, conv.ham.synapses))
    np.testing.assert_array_equal(silent.attribution(IMAGE), 0)
