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
        result = model.recall(jnp.where(known, pattern, jnp.nan), known)
        assert result.converged
        np.testing.assert_allclose(result.x, pattern, atol=0.02)
        np.testing.assert_array_equal(result.x[known], pattern[known])
        np.testing.assert_array_less(np.diff(result.energies), 1e-9)


@pytest.mark.parametrize("energy", ENERGIES)
def test_a_noisy_pattern_goes_to_the_stored_one(energy):
    model, patterns = stored(energy)
    cue = patterns[2] + 0.2 * np.random.default_rng(3).normal(size=SHAPE)
    result = model.recall(cue.clip(0, 1), path=True)
    np.testing.assert_allclose(result.x, patterns[2], atol=0.02)
    np.testing.assert_allclose(result.path.x[0], cue.clip(0, 1), atol=1e-4)
    np.testing.assert_allclose(result.path.x[-1].clip(0, 1), result.x)
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
    result = model.recall(1 - patterns[0])
    assert result.converged
    np.testing.assert_allclose(result.x, 1 - patterns[0])


def test_an_unequal_norm_does_not_swallow_the_others():
    faint, bright = np.full(SHAPE, 0.5), np.ones(SHAPE)
    model = DenseHopfield(DenseHopfieldConfig(shape=SHAPE), key=jr.key(0)).store(jnp.stack([faint, bright]))
    np.testing.assert_allclose(model.recall(faint + 0.02).x, faint, atol=1e-3)


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
        return jnp.sum((changed.recall(patterns[0], known, steps=3).x - 0.3) ** 2)

    xi = 0.5 * model.ham.synapses["memory"].xi[0]
    direction = np.random.default_rng(4).normal(size=xi.shape)
    step = 1e-6
    finite = (loss(xi + step * direction) - loss(xi - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(xi) * direction), finite, rtol=1e-5)


def test_one_retrieval_serves_a_batch():
    model, patterns = stored("log-sum-exp")
    cues = 0.8 * patterns + 0.1
    batch = jax.vmap(model.recall)(cues)
    for cue, x, steps in zip(cues, batch.x, batch.steps, strict=True):
        alone = model.recall(cue)
        assert alone.steps == steps
        np.testing.assert_allclose(alone.x, x, atol=1e-10)


def test_what_changes_the_memories_keeps_every_learned_beta():
    model, patterns = stored("polynomial", labels=np.array([0, 1, 0, 1, 1]))

    def betas(model):
        return [neurons.lagrangian.keywords["beta"] for neurons in model.ham.neurons.values()]

    learned = eqx.tree_at(betas, model, [jnp.array(1.5), jnp.array(3.25)])  # of the label and of the pixels
    for changed in (
        learned.store(patterns[:2], np.array([0, 1])),
        learned.remember(patterns[:1], [1]),
        learned.forget(0),
        learned.with_head(classes=4, key=jr.key(1)),
    ):
        assert betas(changed) == [1.5, 3.25]
    assert betas(learned.store(patterns)) == [3.25]
    kernel, _ = stored("log-sum-exp")
    learned = eqx.tree_at(lambda m: m.ham.synapses["memory"].beta, kernel, jnp.array(0.7))
    assert learned.store(patterns[:3], [0, 1, 1]).beta == learned.with_head(classes=2, key=jr.key(1)).beta == 0.7


@pytest.mark.parametrize("energy", ENERGIES)
def test_what_is_remembered_is_recalled_and_what_is_forgotten_is_not(energy):
    model, patterns = stored(energy, labels=np.array([0, 1, 2, 1, 0]), class_names=("a", "b", "c"), classes=3)
    new = 1 - patterns[0]
    more = model.remember(new[None], [3])
    assert (more.config.memories, more.config.classes, more.config.class_names) == (6, 4, ())
    np.testing.assert_allclose(more.memories(), [*patterns, new])
    np.testing.assert_array_equal(more.head()[:5, 3], -1)
    np.testing.assert_allclose(more.recall(0.8 * new + 0.1).x, new, atol=0.02)
    assert np.argmax(more.classify(new)) == 3
    known_class = model.remember(new[None], np.array([2]))
    assert known_class.config.class_names == ("a", "b", "c")
    fewer = more.forget([0, 5])
    np.testing.assert_allclose(fewer.memories(), patterns[1:])
    for which in (slice(1, 4), np.array([1, 2, 3]), [1, 2, 3], np.array([False, True, True, True, False])):
        np.testing.assert_allclose(model.forget(which).memories(), patterns[[0, 4]])
    np.testing.assert_allclose(model.forget(-1).memories(), patterns[:4])
    with pytest.raises(ValueError, match="all 5 memories would be forgotten; a model holds at least one"):
        model.forget(slice(None))
    with pytest.raises(IndexError):
        model.forget(5)
    assert model.forget([]).config.memories == 5
    with pytest.raises(ValueError, match=r"which has dtype float64; expected whole numbers, or booleans for a mask"):
        model.forget([0.5])
    with pytest.raises(ValueError, match="labels is None, and this model has 3 label neurons"):
        model.remember(new[None])
    with pytest.raises(ValueError, match="labels is given, and this model has no label neurons"):
        model.store(patterns).remember(new[None], [0])


def test_patterns_may_have_any_number_of_axes_and_any_range():
    generator = np.random.default_rng(0)
    for shape in ((6,), (3, 4), (2, 3, 2, 2)):
        patterns = generator.uniform(-5, 3, (4, *shape))
        config = DenseHopfieldConfig(shape=shape, low=-5.0, high=3.0, beta=20.0)
        model = DenseHopfield(config, key=jr.key(0)).store(patterns)
        np.testing.assert_allclose(model.memories(), patterns)
        known = np.zeros(shape, bool)
        known[: shape[0] // 2 + 1] = True
        out = model.recall(np.where(known, patterns[2], np.nan), known)
        np.testing.assert_allclose(out.x, patterns[2], atol=1e-3)
        np.testing.assert_allclose(model.recall(None, steps=1, path=True).path.x[0], -1)
        with pytest.raises(ValueError, match=r"x ranges from .* to 9; expected floats in \[-5, 3\]"):
            model.recall(np.full(shape, 9.0))
        assert model.masks(2)["completion"].shape == (2, *shape)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_patterns_of_any_float_dtype_are_retrieved(dtype):
    model, patterns = stored("polynomial")
    result = model.recall(patterns[1].astype(dtype), jnp.arange(16).reshape(SHAPE) < 8)
    np.testing.assert_allclose(result.x, patterns[1], atol=0.02)


@pytest.mark.parametrize("energy", ENERGIES)
def test_any_number_of_steps_goes_down(energy):
    model, patterns = stored(energy)
    for known in (None, np.arange(16).reshape(SHAPE) < 8):
        energies = model.recall(0.7 * patterns[0] + 0.15, known, steps=6).energies
        assert np.all(np.diff(energies) <= 1e-12)
        assert energies[-1] < energies[0]


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("own", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("given", [jnp.bfloat16, np.float16, np.float32, np.float64])
def test_what_is_stored_takes_the_dtype_of_the_model(energy, own, given):
    model = jax.tree.map(lambda leaf: leaf.astype(own), stored(energy, labels=np.array([0, 1, 2, 1, 0]))[0])
    patterns = np.linspace(0, 1, 32).reshape(2, *SHAPE).astype(given)
    for changed in (model.store(patterns, [1, 0]), model.remember(patterns, [1, 0]), model.forget([1, 2])):
        assert {leaf.dtype for leaf in jax.tree.leaves(changed)} == {jnp.dtype(own)}
        assert jnp.isfinite(changed.recall(patterns[0], steps=2).x).all()
    exact = model.store(patterns, [1, 0]).memories().astype(float)
    np.testing.assert_allclose(exact, patterns.astype(float), atol=4 * float(jnp.finfo(own).eps))


@pytest.mark.parametrize("none", [[], (), np.array([], int), jnp.array([]), slice(0, 0), np.zeros(5, bool)])
def test_to_forget_none_changes_nothing(none):
    model, _ = stored("log-sum-exp")
    assert eqx.tree_equal(model.forget(none), model)


def test_memories_are_the_stored_patterns():
    model, patterns = stored("log-sum-exp")
    np.testing.assert_allclose(model.memories(), patterns)
    assert model.config.memories == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": "quadratic"}, "energy is 'quadratic'; expected Literal"),
        ({"degree": 1.0}, "degree is 1.0; expected a finite number greater than 1"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"beta": float("inf")}, "beta is inf"),
        ({"memories": 0}, "memories is 0; expected whole numbers of at least 1"),
        ({"memories": 10.5}, "memories is 10.5; expected int"),
        ({"shape": ()}, r"shape is \(\); expected one whole number"),
        ({"low": 1.0}, "low is 1.0 and high is 1.0; expected finite numbers, low below high"),
    ],
)
def test_a_config_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DenseHopfieldConfig(**options)


def test_numbers_and_lists_of_numpy_are_plain_in_a_config():
    config = DenseHopfieldConfig(shape=[np.int64(4), 4], memories=np.int32(3), beta=np.float32(2), degree=4)
    assert config == DenseHopfieldConfig(shape=(4, 4), memories=3, beta=2.0, degree=4.0)
    assert type(config.memories) is int
    assert type(config.degree) is float


def test_inputs_that_do_not_fit_are_refused():
    model, patterns = stored("log-sum-exp")
    for call, message in [
        (lambda: model.classify(patterns[0]), "this DenseHopfield has no classes"),
        (lambda: model.store(patterns[0]), r"patterns have shape \(4, 4, 1\); expected \(memories, 4, 4, 1\)"),
        (lambda: model.store(patterns[:0]), r"patterns have shape \(0, 4, 4, 1\)"),
        (lambda: model.store(0.5), r"patterns have shape \(\)"),
        (lambda: model.store(patterns.astype(int)), "divide bytes by 255"),
        (lambda: model.store(3 * patterns), r"patterns range from 0 to 3; expected floats in \[0, 1\]"),
        (lambda: model.store(np.full_like(patterns, np.nan)), "patterns range from nan to nan"),
        (lambda: model.store(patterns, np.array([0, 1])), r"labels have shape \(2,\).*for 5 patterns"),
        (lambda: model.store(patterns, np.full(5, -1)), "whole number of at least 0 for each"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def of_planes(memories=24, seed=0, **options):
    """A memory of planes, prepared for pictures of two classes: bars at random places, upright and lying."""
    options = {"directions": 2, "components": 8, "loudness": 2.0} | options
    config = DenseHopfieldConfig(shape=(6, 6, 1), energy="planes", memories=memories, classes=2, **options)
    places = np.random.default_rng(seed).integers(0, 6, 120)
    images = 0.05 + 0.9 * np.eye(6)[places][:, :, None, None] * np.ones((1, 1, 6, 1))
    labels = np.arange(120) % 2
    images[labels == 1] = images[labels == 1].swapaxes(1, 2)
    images += 0.02 * np.random.default_rng(seed + 1).normal(size=images.shape)
    images = images.clip(0, 1)
    return DenseHopfield(config, key=jr.key(0)).prepared(images, labels, seed=0), images, labels


def test_prepared_planes_see_principal_components_and_lie_where_the_images_do():
    model, images, labels = of_planes()
    spins = 2 * images.reshape(120, -1) - 1
    synapse = model.ham.synapses["memory"]
    np.testing.assert_allclose(synapse.m, spins.mean(axis=0), atol=1e-6)
    variances = np.linalg.svd(spins - spins.mean(axis=0))[1][:8] ** 2
    np.testing.assert_allclose(np.sum(synapse.seen(spins) ** 2, axis=0), variances, rtol=1e-4)
    assert np.bincount(np.argmax(model.head(), axis=-1)).min() >= 10
    np.testing.assert_array_equal(np.abs(model.head()), 2.0)
    nearest = ((np.asarray(model.memories())[:, None] - images) ** 2).mean((2, 3, 4)).min(axis=1)
    assert np.median(nearest[:16]) < 0.005  # the others are around half-predicted images
    assert (
        np.mean([model.classify(image).argmax() == label for image, label in zip(images, labels, strict=True)]) > 0.95
    )


def test_planes_recall_what_they_are_prepared_for_and_never_rise():
    model, images, _ = of_planes(memories=60, directions=1)
    known = np.broadcast_to(np.arange(36).reshape(6, 6, 1) < 18, (20, 6, 6, 1))
    rng = np.random.default_rng(5)
    hit = rng.uniform(size=(20, 6, 6, 1)) < 0.1
    noisy = np.where(hit, rng.integers(0, 2, hit.shape), images[:20]).astype(float)
    free = jax.jit(jax.vmap(model.recall))(noisy)
    completed = jax.jit(jax.vmap(model.recall))(images[:20], known)
    for end in (free, completed):
        for energies, steps in zip(np.asarray(end.energies), np.asarray(end.steps), strict=True):
            assert np.all(np.diff(energies[: steps + 1]) <= 1e-9)
    assert np.mean((free.x - images[:20]) ** 2) < 0.7 * np.mean((noisy - images[:20]) ** 2)


def test_what_is_not_known_begins_around_the_mean():
    model, images, _ = of_planes()
    known, grey = np.arange(36) < 18, jnp.full((6, 6, 1), 0.5)
    xs, _ = model.start(jnp.where(known.reshape(6, 6, 1), images[0], grey), jnp.asarray(known.reshape(6, 6, 1)))
    np.testing.assert_allclose(xs["pixels"][known], (2 * images[0].ravel() - 1)[known], atol=1e-12)
    np.testing.assert_allclose(xs["pixels"][~known], model.ham.synapses["memory"].m[~known], atol=1e-12)


@pytest.mark.parametrize("label", [None, 0, 1])
def test_generation_begins_around_memories_of_the_label(label):
    model, _, _ = of_planes()
    grey, nothing = jnp.full((6, 6, 1), 0.5), jnp.zeros((6, 6, 1), bool)
    begin = jax.jit(lambda key: model.start(grey, nothing, label=label, key=key)[0]["pixels"])
    memories = 2 * np.asarray(model.memories()).reshape(24, 36) - 1
    gaps = np.stack([np.abs(memories - np.asarray(begin(key))).max(axis=1) for key in jr.split(jr.key(0), 60)])
    assert gaps.min(axis=1).max() < 1e-9
    drawn = gaps.argmin(axis=1)
    assert len(set(drawn)) > 5
    np.testing.assert_array_equal(model.ham.synapses["memory"].synapse.offset[drawn], 0)
    if label is not None:
        np.testing.assert_array_equal(np.argmax(model.head(), axis=-1)[drawn], label)


def test_what_planes_store_remember_and_forget_keeps_components_and_directions():
    model, images, labels = of_planes()
    along = np.asarray(model.ham.synapses["memory"].synapse.b[0])
    more = model.remember(images[:3], labels[:3])
    assert more.config.memories == 27
    b = np.asarray(more.ham.synapses["memory"].synapse.b[0])
    np.testing.assert_array_equal(b[:, :24], along)
    np.testing.assert_array_equal(b[:, 24:], 0)
    less = more.forget(slice(1, None, 2))
    np.testing.assert_array_equal(less.ham.synapses["memory"].synapse.b[0], b[:, ::2])
    np.testing.assert_allclose(less.memories(), more.memories()[::2], atol=1e-12)
    new = less.store(images[:5], labels[:5])
    np.testing.assert_array_equal(new.ham.synapses["memory"].W, model.ham.synapses["memory"].W)
    np.testing.assert_array_equal(new.ham.synapses["memory"].synapse.b[0], 0)
    headed = less.with_head(classes=4, key=jr.key(2))
    np.testing.assert_array_equal(headed.ham.synapses["memory"].synapse.b[0], b[:, ::2])
    np.testing.assert_array_equal(headed.memories(), less.memories())


def test_classes_by_planes_are_powers_of_their_energy_and_labels_their_shares():
    model, images, _ = of_planes()
    memory, spins = model.ham.synapses["memory"], 2 * images[0].ravel() - 1
    energies = [memory.synapse(memory.seen(spins), label) for label in 2 * np.eye(2) * 2 - 2]
    np.testing.assert_allclose(model.classify(images[0]), -12 * np.log(2 * np.array(energies)), rtol=1e-6)
    end = model.recall(images[0])
    np.testing.assert_allclose(end.scores, np.log(np.maximum((end.xs["label"] / 2 + 1) / 2, 1e-4)), rtol=1e-6)


def test_planes_are_saved_and_come_back(tmp_path):
    model, images, _ = of_planes()
    model.save_pretrained(tmp_path / "planes")
    back = DenseHopfield.from_pretrained(tmp_path / "planes")
    assert back.config == model.config
    np.testing.assert_allclose(back.recall(images[0]).x, model.recall(images[0]).x, atol=1e-6)


@pytest.mark.parametrize("classes", [0, 3])
def test_memories_prepared_without_labels_have_none(classes):
    config = DenseHopfieldConfig(shape=SHAPE, memories=4, classes=classes, energy="planes", directions=1)
    images = np.random.default_rng(0).uniform(size=(9, *SHAPE))
    model = DenseHopfield(config, key=jr.key(0)).prepared(images, None, seed=0)
    assert model.memories().shape == (4, *SHAPE)
    if classes:
        np.testing.assert_array_equal(model.head(), np.zeros((4, 3)))


def test_an_energy_of_overlaps_keeps_its_random_memories():
    model = DenseHopfield(DenseHopfieldConfig(shape=SHAPE, energy="polynomial", memories=3), key=jr.key(0))
    assert model.prepared(np.ones((5, *SHAPE)), None, seed=0) is model


def test_prepared_points_are_images_where_there_are_fewer_than_memories():
    config = DenseHopfieldConfig(shape=SHAPE, memories=8, classes=3)
    images = np.random.default_rng(0).uniform(size=(5, *SHAPE))
    model = DenseHopfield(config, key=jr.key(0)).prepared(images, np.array([0, 0, 0, 2, 2]), seed=0)
    names = np.argmax(model.head(), axis=-1)
    assert np.bincount(names, minlength=3).tolist() == [4, 0, 4]
    for memory, name in zip(np.asarray(model.memories()), names, strict=True):
        assert np.abs(images[:3] - memory if name == 0 else images[3:] - memory).max((1, 2, 3)).min() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"energy": "planes", "beta": 1.0},
            "beta is 1.0; expected None, or a finite number greater than 0",
        ),
        ({"directions": 2}, 'directions is 2; only the energy "planes" has them, not "log-sum-exp"'),
        ({"energy": "polynomial", "components": 3}, 'components is 3; the energy "polynomial" takes the pixels, 0'),
        ({"components": 17}, "components is 17; a pattern of 16 pixels has at most as many"),
        ({"components": -1}, "components is -1"),
        ({"loudness": 0.0}, "loudness is 0.0; expected a finite number greater than 0"),
        ({"energy": "exponential", "loudness": 2.0}, "loudness is 2.0; only an energy of distances has one"),
        ({"degree": 1.0}, "degree is 1.0; expected a finite number greater than 1, or None"),
    ],
)
def test_configs_of_planes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        DenseHopfieldConfig(shape=SHAPE, **options)
