"""The convolutional HAM: a convolutional network upward, one energy for image and label in all directions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamux
from hamux_zoo import ConvHAM, ConvHAMConfig, Recipe, finetune, load_samples, train
from hamux_zoo.measure import recalled
from hamux_zoo.measure._baselines import mean_colour
from hamux_zoo.measure._evaluation import unknown_mse

FIELDS = {
    "shape": (8, 12, 2),
    "classes": 3,
    "channels": (4, 5),
    "kernels": (4, 3),
    "components": 9,
    "parts": 7,
    "memories": 6,
}
FIELDS |= {"stiffness": 2.0, "loudness": 4.0}
SMALL = ConvHAMConfig(**FIELDS)
KEY = jr.key(0)


def make(**fields):
    return ConvHAM(ConvHAMConfig(**FIELDS | fields), key=KEY)


def noisy(**fields):
    """With parameters, biases too, that matter."""
    noise = iter(jr.split(KEY, 50))
    return jax.tree.map(lambda leaf: leaf + 0.3 * jr.uniform(next(noise), leaf.shape), make(**fields))


@pytest.fixture(scope="module")
def model():
    return noisy()


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(size=SMALL.shape)


@pytest.fixture
def known():
    mask = np.ones(SMALL.shape, bool)
    mask[4:, 6:] = False
    return mask


def convolved(image, synapse, strides, padding):
    filters = jnp.moveaxis(synapse.W, (0, 1), (-1, -2))
    numbers = ("NHWC", "HWIO", "NHWC")
    outputs = jax.lax.conv_general_dilated(image[None], filters, strides, padding, dimension_numbers=numbers)[0]
    return np.asarray(outputs) + np.asarray(synapse.b)


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


@pytest.mark.parametrize(("blocks", "activation"), [("tanh", np.tanh), ("relu", lambda x: np.clip(x, 0, 3))])
def test_it_begins_as_a_convolutional_network(image, blocks, activation):
    """Layers at rest are 0, but for label, memory and prior, which show all of theirs evenly."""
    model = noisy(blocks=blocks)
    parts, prior = model.ham.synapses, model.ham.neurons["prior"].lagrangian.loudness
    beta = float(model.ham.neurons["memory"].lagrangian.keywords["beta"])
    pixels, even = (image - 0.5) / 0.5, np.full(3, SMALL.loudness / 3)
    first = activation(convolved(pixels, parts["conv1"], (2, 2), "SAME"))
    last = activation(convolved(first, parts["conv2"], (2, 2), "SAME"))
    seen = np.tanh(convolved(last, parts["parts"], (1, 1), "VALID")[0, 0] + np.asarray(parts["names"].W) @ even)
    recalled = np.full(6, 1 / 6) @ np.asarray(parts["patterns"].W).reshape(6, 9)
    components = convolved(pixels, parts["components"], (1, 1), "VALID")[0, 0] + recalled
    components = np.clip(components / 2, -300, 300)
    memory = convolved(components[None, None], parts["patterns"], (1, 1), "VALID")[0, 0]
    memory = memory + np.asarray(parts["labels"].W) @ even + np.asarray(parts["kinds"].W).sum(axis=1) * prior / 3
    label = seen @ np.asarray(parts["names"].W) + softmax(beta * memory) @ np.asarray(parts["labels"].W)
    path = model.recall(image, np.ones(SMALL.shape, bool), steps=1, path=True).path
    np.testing.assert_allclose(path.xs["memory"][0, 0, 0], memory, rtol=1e-10)
    np.testing.assert_allclose(path.scores[0], label, rtol=1e-10)


@pytest.mark.parametrize("label", [None, 1])
def test_no_sweep_raises_the_energy(model, image, known, label):
    for mask in (known, None):
        energies = model.recall(image, mask, label=label, max_steps=40).energies
        assert np.all(np.diff(energies) <= 1e-12 * np.abs(energies).max())
        assert energies[-1] < energies[0]


@pytest.mark.parametrize("blocks", ["tanh", "relu"])
def test_its_sweeps_are_certified(blocks):
    model = noisy(blocks=blocks)
    assert hamux.certify(model.ham, model.dynamics().method)


def test_no_sweep_of_rectified_blocks_raises_the_energy(image, known):
    recalled = noisy(blocks="relu").recall(image, known, max_steps=100)
    assert np.all(np.diff(recalled.energies) <= 1e-12 * np.abs(recalled.energies).max())
    assert recalled.converged


def test_memories_vote_as_they_are_told_to():
    images, labels = np.random.default_rng(0).uniform(size=(4, *SMALL.shape)), np.arange(4) % 3
    few, more = (make(votes=votes).prepared(images, labels, seed=0).ham.synapses["labels"].W for votes in (0, 0.5))
    np.testing.assert_array_equal(few, 0)
    assert set(np.unique(more)) == {0, 0.5}


def test_every_layer_is_at_its_minimum_at_the_fixed_point(model, image, known):
    """`hamux.relax` stays where a recall ended, by its own choice of method."""
    recalled = model.recall(image, known, label=2, tol=1e-9, max_steps=5000)
    assert recalled.converged
    clamp = {"image": known, "label": True}
    settled = hamux.relax(model.ham, recalled.xs, tol=1e-9, max_steps=5000, clamp=clamp, throw=True)
    np.testing.assert_allclose(model.decode(settled.xs), model.decode(recalled.xs), atol=1e-7)


def test_unknown_pixels_start_at_their_mean(image, known):
    path = make(mean=(0.2, 0.3), std=(0.3, 0.4)).recall(image, known, steps=2, path=True).path
    np.testing.assert_allclose(path.x[0][~known].reshape(-1, 2), [[0.2, 0.3]] * 24)
    assert not np.allclose(path.x[-1][~known].reshape(-1, 2), [0.2, 0.3])


def with_kinds(model, times=1):
    """The model with two memories of the first class, one of the second, and three of the third; or of none."""
    kinds = times * jnp.asarray([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    return eqx.tree_at(lambda model: model.ham.synapses["kinds"].W, model, kinds)


def test_a_label_holds_its_memories_and_none_holds_any(model, image, known):
    kinds = with_kinds(model)
    for mask in (known, None):
        active = kinds.attribution(image, mask)
        np.testing.assert_allclose(active, with_kinds(model, 0).attribution(image, mask), atol=1e-9)
        for label, own in enumerate([[0, 1], [2], [3, 4, 5]]):
            xs = kinds.recall(image, mask, label=label).xs
            share = kinds.ham.neurons["memory"].activations(xs["memory"]).ravel()
            assert np.sum(share[jnp.array(own)]) == pytest.approx(1, abs=1e-12)


def test_a_generation_begins_at_a_memory_of_its_label(model):
    model = with_kinds(model)
    start = eqx.filter_jit(
        lambda key: model.start(jnp.zeros(SMALL.shape), jnp.zeros(SMALL.shape, bool), label=0, key=key)
    )
    found = {np.asarray(start(key)[0]["image"]).round(6).tobytes() for key in jr.split(KEY, 20)}
    assert len(found) == 2
    assert start(KEY)[1]["label"] is True


def test_the_closest_memory_begins_the_generation_of_an_image(model):
    """The image that a memory calls up is closest to that memory, if the blocks tell it from the others."""
    digits = load_samples("mnist")
    images = np.asarray(digits.images[:40], float)
    labels = np.asarray(digits.labels[:40])
    made = ConvHAM(ConvHAMConfig(memories=10, parts=5), key=KEY).prepared(images, labels, seed=0)
    closest = eqx.filter_jit(made.closest)
    found = np.stack([closest(image) for image in images])
    assert np.mean((found - images) ** 2) < np.mean((found - images[::-1]) ** 2)


def test_prepared_memories_are_centres_of_their_class():
    digits = load_samples("mnist")
    images, right = np.asarray(digits.images, float), np.asarray(digits.labels)
    model = ConvHAM(ConvHAMConfig(memories=60, parts=5), key=KEY).prepared(images, right, seed=0)
    labels = model.ham.synapses["labels"].W
    np.testing.assert_allclose(labels.sum(axis=0), 6 * 0.3)
    starts = jax.jit(jax.vmap(lambda image: model.start(image)[0]["memory"].ravel()))(images)
    found = np.argmax(np.asarray(labels)[np.argmax(starts, axis=1)], axis=1)
    assert np.mean(found == right) > 0.7


def test_prepared_layers_complete_as_a_mixture_of_component_analyses():
    """Tipping & Bishop, 1999: with one memory and the rest of the layers silent, image and components at their minimum
    are the mean of the unknown given the known under the normal distribution of that analysis."""
    rng = np.random.default_rng(0)
    images = np.clip(0.5 + 0.1 * rng.normal(size=(200, 3)) @ rng.normal(size=(3, 24)), 0, 1).reshape(-1, 4, 6, 1)
    fields = {"shape": (4, 6, 1), "components": 3, "memories": 1, "classes": 0, "channels": (2,), "kernels": (2,)}
    prepared = ConvHAM(ConvHAMConfig(**fields, noise=0.3), key=KEY).prepared(images, None, seed=0)
    silent = eqx.tree_at(lambda m: m.ham.synapses["conv1"].W, prepared, replace_fn=jnp.zeros_like)
    known = np.arange(24).reshape(4, 6, 1) < 15
    found = silent.recall(images[0], known, tol=1e-9, max_steps=3000).x.ravel()

    rows, mask = (images.reshape(200, 24) - 0.5) / 0.5, known.ravel()
    mean, covariance = rows.mean(axis=0), np.cov(rows.T, bias=True)
    along = np.linalg.eigh(covariance)[1][:, ::-1][:, :3]
    variances = np.diag(along.T @ covariance @ along)
    assert np.all((variances > 0.3) & (1 - 0.3 / variances < 0.9))
    modelled = 0.3 * np.eye(24) + along @ np.diag(variances - 0.3) @ along.T
    weights = np.linalg.solve(modelled[np.ix_(mask, mask)], modelled[np.ix_(mask, ~mask)])
    expected = 0.5 + 0.5 * (mean[~mask] + (rows[0, mask] - mean[mask]) @ weights)
    np.testing.assert_allclose(found[~mask], np.clip(expected, 0, 1), atol=1e-4)


def test_more_components_than_pixels_stay_unused(image, known):
    prepared = make(components=300).prepared(np.stack([image, image[::-1]]), np.array([0, 1]), seed=0)
    used = np.any(np.asarray(prepared.ham.synapses["components"].W) != 0, axis=(1, 2, 3))
    assert not used[192:].any()
    assert np.isfinite(prepared.recall(image, known, tol=1e-4).x).all()


def test_a_memory_calls_up_an_image(model):
    images = model.memories()
    assert images.shape == (6, *SMALL.shape)
    alone = model.ham.init_states() | {"memory": 1e4 * jnp.eye(6)[2, None, None]}
    end = hamux.relax(model.ham, alone, tol=1e-3, max_steps=200, clamp={"memory": True}, throw=True)
    np.testing.assert_allclose(images[2], model.decode(end.xs), atol=0.05)
    np.testing.assert_allclose(model.memories(slice(2, 3)), images[2:3], rtol=1e-10)


def test_the_energy_in_its_parts(model, image, known):
    tree = model.energy_tree(image, known)
    assert set(tree["neurons"]) == {*("image", "block1", "block2", "components", "parts", "memory", "label", "prior")}
    assert len(tree["connections"]) == 9


def test_a_batch_is_its_examples(model):
    images = np.random.default_rng(1).uniform(size=(2, *SMALL.shape))
    for image, scores in zip(images, jax.vmap(model.classify)(images), strict=True):
        np.testing.assert_allclose(model.classify(image), scores, rtol=1e-8)


def test_a_new_head_leaves_the_rest_and_beta(tmp_path, model, image):
    model = model.with_beta(2.0)
    other = model.with_head(classes=7, key=jr.key(3))
    assert other.classify(image).shape == (7,)
    for name, synapse in model.ham.synapses.items():
        assert eqx.tree_equal(synapse, other.ham.synapses[name]) == (name not in ("names", "labels", "kinds"))
    assert eqx.tree_equal(model.ham.neurons["memory"], other.ham.neurons["memory"])
    other.save_pretrained(tmp_path)
    loaded = ConvHAM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.classify(image), other.classify(image))


def test_without_a_label_it_completes_images(image, known):
    model = make(classes=0)
    assert "label" not in model.ham.neurons
    assert model.recall(image, known, tol=1e-4).converged
    assert model.prepared(image[None], None, seed=0).recall(image, known, tol=1e-4).converged
    assert model.with_head(classes=2, key=KEY).classify(image).shape == (2,)


@pytest.mark.slow
def test_half_precision_stays_near(image, known):
    model = make()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    scores, expected = np.asarray(half.classify(image), float), np.asarray(model.classify(image))
    assert np.abs(scores - expected).max() < 0.05 * np.abs(expected).max()
    recalled = half.recall(image, known, tol=1e-2, max_steps=30)
    assert recalled.xs["image"].dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(recalled.x, float)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": (28, 30, 1)}, "cannot halve images of 28 × 30 evenly; multiples of 4 fit, such as 28 × 32"),
        ({"channels": (8, 8, 8), "kernels": (3, 3, 3), "shape": (28, 28, 1)}, "multiples of 8 fit, such as 32 × 32"),
        ({"shape": (28, 28)}, r"shape is \(28, 28\).*expected \(height, width, channels\)"),
        ({"channels": ()}, "at least one block"),
        ({"channels": (4, 0)}, r"channels is \(4, 0\); expected whole numbers of at least 1"),
        ({"kernels": (3,)}, r"kernels is \(3,\) and channels is \(4, 5\); expected one of each for every block"),
        ({"kernels": (2.5, 3)}, r"kernels is \(2.5, 3\); expected tuple"),
        ({"components": 0}, "components is 0"),
        ({"stiffness": 0.0}, "stiffness is 0.0; expected a finite number greater than 0"),
        ({"memories": 0}, "memories is 0"),
        ({"parts": 0}, "parts is 0"),
        ({"classes": -1}, "classes is -1"),
        ({"beta": -1.0}, "beta is -1.0; expected a finite number greater than 0"),
        ({"loudness": float("inf")}, "loudness is inf"),
        ({"votes": -0.1}, "votes is -0.1; expected a finite number of at least 0"),
        ({"blocks": "sine"}, "blocks is 'sine'; expected"),
        ({"std": 0.0}, "std is 0.0"),
    ],
)  # fmt: skip
def test_a_config_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_training_leaves_the_mixture_as_it_is_unless_it_is_named():
    images, labels = np.random.default_rng(0).uniform(size=(4, *SMALL.shape)), np.arange(4) % 3
    model = make()

    def changed(trainable):
        options = {"optimizer": "adamw", "weight_decay": 0.1, "trainable": trainable, "validation": 0, "probe": False}
        recipe = Recipe(steps=1, batch_size=4, **options)
        trained = finetune(model, (images, labels), recipe, refit=False, quiet=True)
        assert trained.ham.neurons["memory"].lagrangian.keywords == model.ham.neurons["memory"].lagrangian.keywords
        return {name for name, old in model.ham.synapses.items() if not eqx.tree_equal(old, trained.ham.synapses[name])}

    assert changed("all") == {"conv1", "conv2", "parts", "names"}
    assert changed("ham.synapses.patterns") == {"patterns"}
    head = Recipe(steps=1, batch_size=4, trainable="head", validation=0, probe=False)
    tuned = finetune(model, (images, labels), head, quiet=True)
    assert eqx.tree_equal(tuned.fitted()[:3], model.fitted()[:3])


@pytest.mark.slow
def test_it_learns_to_name_to_complete_and_to_generate():
    digits, labels = load_samples("mnist")
    digits, labels = np.asarray(digits[labels < 2], np.float32), labels[labels < 2]
    config = {"channels": (4, 8), "kernels": (4, 4), "parts": 16, "memories": 8}
    tasks = {"classify": 1, "reconstruct": 10, "generate": 10}
    recipe = Recipe(task=tasks, optimizer="adamw", learning_rate=0.005, steps=60, batch_size=16, validation=0)
    learned = train(ConvHAM, (digits, labels), recipe, config=config, quiet=True)
    known = np.ones(digits.shape[1:], bool)
    known[14:, 14:] = False
    hidden = np.broadcast_to(~known, digits.shape)

    def error(model):
        shown = jax.jit(lambda model: jax.vmap(lambda digit: model.recall(digit, known).x)(digits))
        return unknown_mse(np.asarray(shown(model)), digits, ~hidden)

    unprepared = ConvHAM(learned.config, key=KEY)
    assert error(learned) < 0.5 * error(unprepared)
    assert error(learned) < 0.8 * unknown_mse(mean_colour(digits, ~hidden), digits, ~hidden)
    found = jax.jit(lambda model: jnp.argmax(jax.vmap(model.classify)(digits), axis=-1))(learned)
    assert np.mean(np.asarray(found) == labels) > 0.95
    made = learned.generate(1, key=KEY)
    nearest = labels[np.argmin(np.sum((digits - np.asarray(made.x)) ** 2, axis=(1, 2, 3)))]
    assert nearest == 1


def test_refitted_to_images_without_labels_its_memories_have_none():
    images, labels = np.random.default_rng(0).uniform(size=(50, *SMALL.shape)), np.arange(50) % 3
    model = make().prepared(images, labels, seed=0)
    assert jnp.sum(model.refitted(images, labels, seed=0).ham.synapses["kinds"].W) == SMALL.memories
    assert not jnp.any(model.refitted(images, None, seed=0).ham.synapses["kinds"].W)


@pytest.mark.slow
def test_fine_tuned_on_clothes_a_memory_of_digits_completes_clothes():
    clothes = np.asarray(load_samples("fashion-mnist").images, np.float32)
    model = ConvHAM.from_pretrained("conv-ham-mnist")
    known = model.masks(50)["completion"]
    others = clothes[250:]

    def missed(model):
        return unknown_mse(np.asarray(recalled(model, others, known).x), others, known)

    recipe = Recipe(task="reconstruct", steps=1, batch_size=4, validation=0)
    tuned = finetune(model, (clothes[:250], None), recipe, quiet=True)
    assert missed(tuned) < 0.5 * missed(model)
