"""The dense Hopfield network: its energies against the papers' formulas, storing, completing, classifying."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from hamux_zoo import DenseHopfield, DenseHopfieldConfig

SHAPE = (4, 4, 1)
ENERGIES = ["polynomial", "exponential", "log-sum-exp", "epanechnikov"]


def stored(energy, count=5, labels=None, degree=6.0, **options):
    config = DenseHopfieldConfig(shape=SHAPE, energy=energy, degree=degree, **options)
    patterns = np.random.default_rng(0).integers(0, 2, (count, *SHAPE)).astype(float)
    return DenseHopfield(config, key=jr.key(0)).store(patterns, labels), patterns


def test_whole_numbers_are_inverse_temperatures_as_well():
    assert DenseHopfield(DenseHopfieldConfig(shape=SHAPE, energy="polynomial", beta=2), key=jr.key(0)).beta == 2


def papers_energy(energy, xi, v, degree, beta):
    overlaps, distances = xi @ v / v.size, ((xi - v) ** 2).sum(-1)
    own = np.sum(v * np.arctanh(v) + 0.5 * np.log(1 - v**2)) / beta  # x v − L(x) at v = tanh(βx)
    return {
        "polynomial": own - v.size / degree * np.sum(np.maximum(overlaps, 0) ** degree),
        "exponential": own - v.size / degree * np.sum(np.exp(degree * (overlaps - 1))),
        "log-sum-exp": -np.log(np.sum(np.exp(-beta / 2 * distances))) / beta,
        "epanechnikov": -np.log(1e-6 + np.sum(np.maximum(1 - beta / 2 * distances, 0))) / beta,
    }[energy]


@pytest.mark.parametrize("energy", ENERGIES)
def test_energy_is_the_papers(energy):
    beta = 0.05 if energy == "epanechnikov" else 0.7
    model, patterns = stored(energy, beta=beta)
    x = np.random.default_rng(1).uniform(0.1, 0.9, SHAPE)
    xi, v = 2 * patterns.reshape(5, -1) - 1, 2 * x.ravel() - 1
    np.testing.assert_allclose(model.energy(x), papers_energy(energy, xi, v, 6.0, beta), rtol=1e-8)


def test_log_sum_exp_is_ramsauer_up_to_a_constant_when_memories_have_one_norm():
    model, patterns = stored("log-sum-exp", beta=0.7)
    xi = 2 * patterns.reshape(5, -1) - 1

    def ramsauer(x):
        v = 2 * x.ravel() - 1
        return -np.log(np.sum(np.exp(0.7 * xi @ v))) / 0.7 + v @ v / 2

    xs = np.random.default_rng(2).uniform(size=(6, *SHAPE))
    np.testing.assert_allclose(np.ptp([model.energy(x) - ramsauer(x) for x in xs]), 0, atol=1e-8)


@pytest.mark.parametrize("energy", ENERGIES)
def test_a_stored_pattern_is_recalled_from_its_half(energy):
    model, patterns = stored(energy, beta=0.22 if energy == "epanechnikov" else None)
    known = jnp.arange(16).reshape(SHAPE) < 8
    for pattern in patterns:
        result = model.retrieve(jnp.where(known, pattern, jnp.nan), known)
        assert result.converged
        np.testing.assert_allclose(result.x, pattern, atol=0.02)
        np.testing.assert_array_equal(result.x[known], pattern[known])
        np.testing.assert_array_less(np.diff(result.energies), 1e-9)


@pytest.mark.parametrize("energy", ENERGIES)
def test_a_noisy_pattern_goes_to_the_stored_one(energy):
    model, patterns = stored(energy)
    cue = patterns[2] + 0.2 * np.random.default_rng(3).normal(size=SHAPE)
    result = model.retrieve(cue.clip(0, 1), trajectory=True)
    np.testing.assert_allclose(result.x, patterns[2], atol=0.02)
    np.testing.assert_allclose(result.trajectory[0], cue.clip(0, 1), atol=1e-4)
    np.testing.assert_allclose(result.trajectory[-1], result.x)
    assert np.argmax(model.attribution(patterns[2])) == 2


@pytest.mark.parametrize("energy", ENERGIES)
def test_attribution_sums_to_one_even_where_no_memory_is_felt(energy):
    model, patterns = stored(energy)
    for x in (patterns[0], np.full(SHAPE, 0.5), 1 - patterns.mean(0)):
        weights = model.attribution(x)
        assert weights.shape == (5,)
        assert np.all(weights >= 0)
        np.testing.assert_allclose(weights.sum(), 1)


def test_far_from_every_epanechnikov_memory_nothing_moves():
    model, patterns = stored("epanechnikov", count=1, beta=1.0)
    result = model.retrieve(1 - patterns[0])
    assert result.converged
    np.testing.assert_allclose(result.x, 1 - patterns[0])


def test_an_unequal_norm_does_not_swallow_the_others():
    faint, bright = np.full(SHAPE, 0.5), np.ones(SHAPE)
    model = DenseHopfield(DenseHopfieldConfig(shape=SHAPE), key=jr.key(0)).store(jnp.stack([faint, bright]))
    np.testing.assert_allclose(model.retrieve(faint + 0.02).x, faint, atol=1e-3)


@pytest.mark.parametrize("energy", ["polynomial", "exponential", "log-sum-exp"])
def test_stored_labels_are_completed(energy):
    labels = np.array([2, 0, 1, 1, 2])
    model, patterns = stored(energy, labels=labels)
    scores = jax.vmap(model.classify)(patterns)
    assert scores.shape == (5, 3)
    np.testing.assert_array_equal(scores.argmax(-1), labels)


def test_scores_are_energy_differences_between_labels():
    model, patterns = stored("polynomial", labels=np.array([0, 1, 0, 1, 1]))
    xi, zeta = (np.asarray(part) for part in model.ham.synapses["memory"].xi)
    v, size = 0.9999 * (2 * patterns[3].ravel() - 1), 18
    expected = [size / 6 * np.sum(np.maximum((xi @ v + zeta @ spins) / size, 0) ** 6) for spins in ([1, -1], [-1, 1])]
    np.testing.assert_allclose(model.classify(patterns[3]), model.beta * np.array(expected), rtol=1e-10)


def test_gradients_flow_through_a_retrieval_of_given_steps():
    model, patterns = stored("polynomial")
    known = jnp.arange(16).reshape(SHAPE) < 8

    def loss(xi):
        changed = eqx.tree_at(lambda m: m.ham.synapses["memory"].xi, model, (xi,))
        return jnp.sum((changed.retrieve(patterns[0], known, steps=3).x - 0.3) ** 2)

    xi = 0.5 * model.ham.synapses["memory"].xi[0]
    direction = np.random.default_rng(4).normal(size=xi.shape)
    step = 1e-6
    finite = (loss(xi + step * direction) - loss(xi - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(xi) * direction), finite, rtol=1e-5)


def test_one_retrieval_serves_a_batch():
    model, patterns = stored("log-sum-exp")
    cues = 0.8 * patterns + 0.1
    batch = jax.vmap(model.retrieve)(cues)
    for cue, x, steps in zip(cues, batch.x, batch.steps, strict=True):
        alone = model.retrieve(cue)
        assert alone.steps == steps
        np.testing.assert_allclose(alone.x, x, atol=1e-10)


def test_storing_keeps_a_beta_that_was_learned():
    model, patterns = stored("polynomial", labels=np.array([0, 1, 0, 1, 1]))
    learned = eqx.tree_at(lambda m: m.ham.neurons["pixels"].lagrangian.keywords["beta"], model, jnp.array(3.25))
    assert learned.store(patterns).beta == 3.25


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_patterns_of_any_float_dtype_are_retrieved(dtype):
    model, patterns = stored("polynomial")
    result = model.retrieve(patterns[1].astype(dtype), jnp.arange(16).reshape(SHAPE) < 8)
    np.testing.assert_allclose(result.x, patterns[1], atol=0.02)


def test_no_fixed_number_of_steps_is_taken_where_none_is_safe():
    model, patterns = stored("epanechnikov")
    with pytest.raises(ValueError, match="no step size that always goes down; leave `steps` out"):
        model.retrieve(patterns[0], steps=3)


def test_memories_are_the_stored_patterns():
    model, patterns = stored("log-sum-exp")
    np.testing.assert_allclose(model.memories, patterns)
    assert model.config.memories == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": "quadratic"}, "energy is 'quadratic'; it is one of"),
        ({"degree": 1.0}, "degree is 1.0; it is greater than 1"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"memories": 0}, "memories 0"),
        ({"memories": 10.5}, "memories 10.5.*whole numbers"),
        ({"shape": ()}, "a pattern has pixels"),
    ],
)
def test_a_config_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DenseHopfieldConfig(**options)


def test_inputs_that_do_not_fit_are_refused():
    model, patterns = stored("log-sum-exp")
    cue = patterns[0]
    for call, message in [
        (lambda: model.retrieve(cue[..., 0]), r"pattern of shape \(4, 4\).*expected floats.*\(4, 4, 1\).*jax.vmap"),
        (lambda: model.energy(cue.astype(np.uint8)), "divide bytes by 255"),
        (lambda: model.retrieve(cue, cue), r"a mask of shape \(4, 4, 1\) and dtype float64; expected booleans"),
        (lambda: model.retrieve(cue, cue[0] > 0), r"a mask of shape \(4, 1\)"),
        (lambda: model.retrieve(np.where(cue > 0, np.nan, cue)), r"NaN in \d+ of 16 places; expected numbers"),
        (lambda: model.classify(cue), "no label neurons"),
        (lambda: model.store(cue), r"patterns of shape \(4, 4, 1\); expected \(memories, \*\(4, 4, 1\)\)"),
        (lambda: model.store(patterns.astype(int)), "divide bytes by 255"),
        (lambda: model.store(patterns, np.array([0, 1])), r"labels of shape \(2,\).*for 5 patterns"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
