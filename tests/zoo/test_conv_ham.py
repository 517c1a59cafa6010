"""The convolutional HAM: a convolutional network upward, one energy for image and label in all directions."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamux
from hamux_zoo import ConvHAM, ConvHAMConfig, Recipe, finetune, load_samples
from hamux_zoo.measure._baselines import mean_colour
from hamux_zoo.measure._evaluation import unknown_mse

SMALL = ConvHAMConfig(shape=(8, 12, 2), classes=3, channels=(4, 5), kernel=3, memories=6, feedback=0.3)
KEY = jr.key(0)


def make(**fields):
    return ConvHAM(ConvHAMConfig(**{**vars(SMALL), **fields}), key=KEY)


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(size=SMALL.shape)


@pytest.fixture
def known():
    mask = np.ones(SMALL.shape, bool)
    mask[4:, 6:] = False
    return mask


def convolved(image, synapse, padding):
    filters = jnp.moveaxis(synapse.W, (0, 1), (-1, -2))
    numbers = ("NHWC", "HWIO", "NHWC")
    outputs = jax.lax.conv_general_dilated(image[None], filters, (1, 1), padding, dimension_numbers=numbers)[0]
    return np.asarray(outputs) + np.asarray(synapse.b)


@pytest.mark.parametrize("feedback", [1.0, 0.3])
def test_one_sweep_from_rest_is_a_convolutional_network(image, feedback):
    model = make(feedback=feedback, steps=1)
    parts = jax.tree.map(lambda leaf: leaf + 0.1, model.ham.synapses)  # biases that matter
    model = eqx.tree_at(lambda model: model.ham.synapses, model, parts)
    g = (image - 0.5) / 0.5
    first = 1 / (9 * 2)  # kernel² √channels
    for i, strength in enumerate([first, first * feedback], 1):
        g = strength * np.tanh(convolved(g, parts[f"conv{i}"], "SAME"))
        height, width, channels = g.shape
        g = np.tanh(g.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3)) / strength)
    even = np.asarray(parts["names"].W).mean(axis=1)  # of a label at rest, which shows all classes evenly
    memory = first * feedback**2 * np.maximum(convolved(g, parts["parts"], "VALID") + even, 0)
    expected = (memory @ np.asarray(parts["names"].W))[0, 0] / (first * feedback**2)
    np.testing.assert_allclose(model.classify(image), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("activation", "memory", "dt"), [("tanh", "softmax", 1.0), ("softmax", "relu", 0.5), ("relu", "tanh", 1.0)]
)
def test_no_sweep_raises_the_energy(image, known, activation, memory, dt):
    model = make(activation=activation, memory=memory, dt=dt, feedback=0.3 if activation == "relu" else 1.0)
    for mask in (known, None):
        energies = model.recall(image, mask, max_steps=40).energies
        assert np.all(np.diff(energies) <= 1e-12 * np.abs(energies).max())
        assert energies[-1] < energies[0]


@pytest.mark.slow
def test_the_energy_falls_on_real_images():
    digits = load_samples("mnist").images[:2].astype(float)
    model = ConvHAM(ConvHAMConfig(channels=(4, 6), memories=8), key=KEY)
    known = np.ones(model.config.shape, bool)
    known[:, :14] = False
    energies = jax.vmap(lambda digit: model.recall(digit, known, max_steps=10).energies)(digits)
    assert np.all(np.diff(energies) <= 1e-12 * np.abs(energies).max())
    assert np.all(energies[:, -1] < energies[:, 0])


@pytest.mark.slow
def test_labels_and_images_complete_each_other_at_the_fixed_points_of_one_ham(model, image, known):
    """`hamux.relax` comes to the same fixed points by its own choice of method, layer by layer in another order."""
    start, _ = model.start(jnp.asarray(image), np.ones(SMALL.shape, bool))
    settled = hamux.relax(model.ham, start, tol=1e-9, clamp={"image": True}, throw=True)
    held = model.recall(image, np.ones(SMALL.shape, bool), tol=1e-9)
    np.testing.assert_allclose(held.scores, 9 * 2 * settled.xs["label"] / SMALL.feedback**2, rtol=1e-5)
    recalled = model.recall(image, known, tol=1e-9, max_steps=5000)
    assert recalled.converged
    xs = settled.xs | {"image": recalled.xs["image"]}
    settled = hamux.relax(model.ham, xs, tol=1e-9, max_steps=5000, clamp={"image": known}, throw=True)
    np.testing.assert_allclose(model.decode(settled.xs), model.decode(recalled.xs), atol=1e-5)


def test_unknown_pixels_start_half_way(model, image, known):
    path = model.recall(image, known, steps=2, path=True).path
    np.testing.assert_allclose(path.x[0][~known], 0.5)
    assert not np.allclose(path.x[-1][~known], 0.5)


def test_a_label_calls_up_an_image(model):
    images = [model.generate(label, key=jr.key(1)).xs["image"] for label in range(3)]
    assert not np.allclose(images[0], images[1])


def test_a_memory_calls_up_an_image(model):
    images = model.memories()
    assert images.shape == (6, *SMALL.shape)
    alone = model.ham.init_states() | {"memory": jnp.eye(6)[2, None, None]}
    down, up = ["memory", "pool2", "conv2", "pool1", "conv1"], ["image", "conv1", "pool1", "conv2", "pool2", "label"]
    sweeps = hamux.GaussSeidel([*down, *up])
    end = hamux.relax(model.ham, alone, tol=1e-4, max_steps=200, method=sweeps, clamp={"memory": True}, throw=True)
    np.testing.assert_allclose(images[2], model.decode(end.xs), rtol=1e-10)
    np.testing.assert_allclose(model.memories(slice(2, 3)), images[2:3], rtol=1e-10)


def test_the_energy_in_its_parts(model, image, known):
    tree = model.energy_tree(image, known)
    assert set(tree["neurons"]) == {"image", "conv1", "pool1", "conv2", "pool2", "memory", "label"}
    assert len(tree["connections"]) == 7


@pytest.mark.slow
def test_both_gradients_are_that_of_the_fixed_point(image):
    model = make(channels=(4,))

    def loss(model):
        scores = model.classify(image)
        return jax.nn.logsumexp(scores) - scores[1]

    unrolled, implicit = (
        jax.flatten_util.ravel_pytree(jax.grad(loss)(model.with_config(steps=240, gradient=name)).ham)[0]
        for name in ("unrolled", "implicit")
    )
    np.testing.assert_allclose(implicit, unrolled, rtol=1e-4, atol=1e-6)


def test_a_batch_is_its_examples(model):
    images = np.random.default_rng(1).uniform(size=(2, *SMALL.shape))
    for image, scores in zip(images, jax.vmap(model.classify)(images), strict=True):
        np.testing.assert_allclose(model.classify(image), scores, rtol=1e-10)


def test_a_new_head_leaves_the_rest_and_the_learned_beta(tmp_path, model, image):
    changed = jax.tree.map(lambda leaf: leaf + 0.01, model)
    other = changed.with_head(classes=7, key=jr.key(3))
    assert other.classify(image).shape == (7,)
    for name, synapse in changed.ham.synapses.items():
        same = name != "names"
        assert eqx.tree_equal(synapse, other.ham.synapses[name]) == same
    assert eqx.tree_equal(changed.ham.neurons["conv1"], other.ham.neurons["conv1"])
    assert other.ham.neurons["label"].lagrangian.beta == changed.ham.neurons["label"].lagrangian.beta == 1.01
    other.save_pretrained(tmp_path)
    loaded = ConvHAM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.classify(image), other.classify(image))


def test_without_a_label_it_completes_images(image, known):
    model = make(classes=0)
    assert "label" not in model.ham.neurons
    assert model.recall(image, known, tol=1e-4).converged
    assert model.with_head(classes=2, key=KEY).classify(image).shape == (2,)


@pytest.mark.slow
def test_half_precision_stays_near(model, image, known):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    scores, expected = np.asarray(half.classify(image), float), np.asarray(model.classify(image))
    assert np.abs(scores - expected).max() < 0.05 * np.abs(expected).max()
    recalled = half.recall(image, known, tol=1e-2, max_steps=30)
    assert recalled.xs["image"].dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(recalled.x, float)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": (28, 30, 1)}, "do not divide images of 28 × 30.*multiples of 4 fit, such as 28 × 32"),
        ({"channels": (8, 8, 8), "shape": (28, 28, 1)}, "multiples of 8 fit, such as 32 × 32"),
        ({"shape": (28, 28)}, r"shape is \(28, 28\).*expected \(height, width, channels\)"),
        ({"channels": ()}, "at least one block"),
        ({"channels": (4, 0)}, r"channels is \(4, 0\); expected whole numbers of at least 1"),
        ({"kernel": 2.5}, "kernel is 2.5; expected int"),
        ({"memories": 0}, "memories is 0"),
        ({"classes": -1}, "classes is -1"),
        ({"activation": "sine"}, "activation is 'sine'; expected Literal"),
        ({"betas": (1.0, 1.0)}, r"betas is \(1.0, 1.0\); expected tuple"),
        ({"feedback": 0.0}, "feedback is 0.0"),
        ({"std": 0.0}, "std is 0.0"),
        ({"dt": 1.5}, "dt is 1.5; an update goes at most to the minimum"),
    ],
)  # fmt: skip
def test_a_config_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_whole_numbers_are_inverse_temperatures_as_well():
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(make(betas=(2, 1, 1))))


@pytest.mark.slow
def test_it_learns_to_name_and_to_complete():
    digits, labels = load_samples("mnist")
    digits, labels = np.asarray(digits[labels < 2], np.float32), labels[labels < 2]
    config = ConvHAMConfig(classes=2, channels=(4, 8), kernel=3, memories=16, steps=3, gradient="implicit")
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), ConvHAM(config, key=KEY))
    known = np.ones(config.shape, bool)
    known[14:, 14:] = False
    hidden = np.broadcast_to(~known, digits.shape)

    def error(model):
        shown = jax.jit(lambda model: jax.vmap(lambda digit: model.recall(digit, known).x)(digits))
        return unknown_mse(np.asarray(shown(model)), digits, ~hidden)

    tasks = {"classify": 1, "reconstruct": 10}
    recipe = Recipe(task=tasks, optimizer="adamw", learning_rate=0.01, steps=60, batch_size=16, validation=0)
    learned = finetune(model, (digits, labels), recipe, quiet=True)
    assert error(learned) < 0.5 * error(model)
    assert error(learned) < 0.8 * unknown_mse(mean_colour(digits, ~hidden), digits, ~hidden)
    found = jax.jit(lambda model: jnp.argmax(jax.vmap(model.classify)(digits), axis=-1))(learned)
    assert np.mean(np.asarray(found) == labels) > 0.95
