"""The contract that every architecture keeps, ours and another package's: recall, energy, roles and config."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from ring_memory import Ring, RingConfig

from hamux_zoo import (
    Attributed,
    Classifier,
    ConvHAM,
    ConvHAMConfig,
    DenseHopfield,
    DenseHopfieldConfig,
    EnergyTransformer,
    EnergyTransformerConfig,
    Featured,
    Generator,
    Probed,
    ProbedConfig,
    Recalled,
)
from hamux_zoo.models import model_classes

SHAPE = (8, 8, 2)
KEY = jr.key(0)
NAMES = ("ant", "bee", "cat")
CONFIGS = {
    "dense": (DenseHopfield, DenseHopfieldConfig(shape=SHAPE, memories=6, classes=3, class_names=NAMES, beta=0.02)),
    "polynomial": (DenseHopfield, DenseHopfieldConfig(shape=SHAPE, memories=6, classes=3, energy="polynomial")),
    "conv": (
        ConvHAM,
        ConvHAMConfig(shape=SHAPE, classes=3, class_names=NAMES, channels=(3,), kernels=(4,), parts=4, memories=5),
    ),
    "transformer": (
        EnergyTransformer,
        EnergyTransformerConfig(
            shape=SHAPE, classes=3, class_names=NAMES, dim=12, heads=2, head_dim=4, memories=7, alpha=0.05, steps=4
        ),
    ),
    "ring": (Ring, RingConfig(shape=SHAPE)),
}
CONFIGS["probed"] = (
    Probed,
    ProbedConfig(
        memory_type="energy-transformer",
        memory=CONFIGS["transformer"][1],
        features=(2 * 5 + 3 * 4) * 12,  # two moments at five steps, and four places at three
        classes=3,
        class_names=NAMES,
    ),
)
MODELS = {name: kind(config, key=KEY) for name, (kind, config) in CONFIGS.items()}
LABELLED = ["dense", "polynomial", "conv"]
IMAGE = np.random.default_rng(0).uniform(0.1, 0.9, SHAPE)
KNOWN = np.zeros(SHAPE, bool)
KNOWN[:4] = True  # whole patches, in all channels
ALL, NONE = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture(params=LABELLED)
def labelled(request):
    return MODELS[request.param]


def same(one, other, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12), one, other)


def test_every_architecture_is_under_test():
    assert {type(model) for model in MODELS.values()} >= set(model_classes().values())


def test_what_is_known_comes_back_and_the_rest_moves(model):
    out = model.recall(IMAGE, KNOWN, steps=3, path=True)
    assert isinstance(out, Recalled)
    assert out.x.shape == SHAPE
    np.testing.assert_array_equal(out.x[KNOWN], IMAGE[KNOWN])
    assert out.path.x.shape == (4, *SHAPE)
    np.testing.assert_array_equal(out.path.x[:, KNOWN], np.broadcast_to(IMAGE[KNOWN], (4, KNOWN.sum())))
    assert not np.allclose(out.path.x[0][~KNOWN], out.path.x[-1][~KNOWN], atol=1e-6)
    np.testing.assert_allclose(out.x, np.clip(out.path.x[-1], 0, 1))
    assert out.x.min() >= 0
    assert out.x.max() <= 1


def test_masks_of_a_pixel_hold_for_its_channels(model):
    whole = model.recall(IMAGE, KNOWN)
    same(model.recall(IMAGE, KNOWN[..., 0]), whole)
    same(model.recall(IMAGE, KNOWN[..., :1]), whole)
    same(model.recall(IMAGE.tolist(), KNOWN.tolist()), whole)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -7.0, 0.3])
def test_what_is_not_known_plays_no_part(model, junk):
    same(model.recall(np.where(KNOWN, IMAGE, junk), KNOWN), model.recall(IMAGE, KNOWN))
    np.testing.assert_array_equal(model.energy(np.where(KNOWN, IMAGE, junk), KNOWN), model.energy(IMAGE, KNOWN))


def test_what_is_not_known_has_no_gradient_even_if_it_is_nan(model):
    def loss(model, x):
        return jnp.sum(model.recall(x, KNOWN, steps=2, path=True).path.x[-1] ** 2)

    of_model, of_x = eqx.filter_grad(lambda both: loss(*both))((model, jnp.where(KNOWN, IMAGE, jnp.nan)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_model))
    np.testing.assert_array_equal(of_x[~KNOWN], 0)
    assert np.any(of_x[KNOWN] != 0)


def test_without_anything_known_the_image_plays_no_part(model):
    neutral = model.recall(None)
    same(model.recall(IMAGE, NONE), neutral)
    same(model.recall(None, NONE), neutral)
    np.testing.assert_array_equal(model.energy(None), model.energy(np.full(SHAPE, np.nan), NONE))


def test_a_key_draws_the_start(model):
    one, again, other = (model.recall(None, key=jr.key(seed), path=True, steps=1) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.path.x, again.path.x)
    assert not np.allclose(one.path.x[0], other.path.x[0])
    part = model.recall(IMAGE, KNOWN, key=KEY, steps=1)
    np.testing.assert_array_equal(part.x[KNOWN], IMAGE[KNOWN])


def test_all_known_is_held_and_nothing_held_may_move(model):
    np.testing.assert_array_equal(model.recall(IMAGE, ALL).x, IMAGE)
    free = model.recall(IMAGE, path=True, steps=2).path
    assert not np.allclose(free.x[-1], IMAGE, atol=1e-6)


def test_energies_are_those_of_the_run(model):
    out = model.recall(IMAGE, KNOWN, steps=4, path=True)
    assert out.energies.shape == (5,)
    np.testing.assert_allclose(out.energies[0], model.energy(IMAGE, KNOWN), rtol=1e-9)
    ends = [model.ham.energy(model.ham.activations(xs), xs) for xs in (out.xs,)]
    np.testing.assert_allclose(out.energies[-1], ends[0], rtol=1e-9)
    assert np.all(np.diff(out.energies) <= 1e-9 * np.abs(out.energies).max())
    total = sum(jax.tree.leaves(model.energy_tree(IMAGE, KNOWN)))
    np.testing.assert_allclose(total, model.energy(IMAGE, KNOWN), rtol=1e-9)


def test_what_is_not_asked_for_is_none(model):
    out = model.recall(IMAGE, KNOWN, steps=2, energies=False)
    assert out.energies is out.residual is out.converged is out.reason is out.path is None
    same(out.x, model.recall(IMAGE, KNOWN, steps=2).x)
    rested = model.recall(IMAGE, KNOWN, max_steps=3, energies=False)
    assert rested.energies is None
    assert rested.residual.shape == rested.converged.shape == ()


def test_it_recalls_as_it_was_trained_unless_it_is_told(model):
    steps = model.dynamics().steps
    out = model.recall(IMAGE, KNOWN)
    if steps is None:
        assert out.converged == (out.residual <= model.dynamics().tol)
    else:
        assert out.steps == steps
        same(model.recall(IMAGE, KNOWN, steps=np.int64(steps)), out)
    assert model.recall(IMAGE, KNOWN, tol=1e-12, max_steps=np.int32(2)).steps <= 2
    with pytest.raises(ValueError, match=r"steps is 3 beside tol 0\.1 and max_steps None; give steps"):
        model.recall(IMAGE, KNOWN, steps=3, tol=0.1)


def test_a_warmup_comes_first_and_has_no_gradient(model):
    def shown(model, warmup):
        return model.recall(IMAGE, KNOWN, steps=2, warmup=warmup, path=True).path.x

    whole = model.recall(IMAGE, KNOWN, steps=5, path=True).path.x
    same(jax.jit(shown)(model, 3), whole[3:], rtol=1e-7)

    def of_start(x):
        return jnp.sum(model.recall(x, KNOWN, steps=1, warmup=2, path=True).path.x[-1][~KNOWN])

    def of_part(part, x):
        return jnp.sum(model.recall(x, KNOWN, steps=1, warmup=2, path=True).xs[next(iter(model.ham.neurons))] * part)

    assert np.isfinite(jax.grad(of_start)(jnp.asarray(IMAGE))).all()
    assert np.isfinite(jax.grad(of_part)(1.0, jnp.asarray(IMAGE)))


def test_alone_batched_and_jitted_alike(model):
    images = np.random.default_rng(1).uniform(0.1, 0.9, (3, *SHAPE))
    batched = jax.jit(lambda model, x: jax.vmap(lambda x: model.recall(x, KNOWN, max_steps=4))(x))(model, images)
    for i, x in enumerate(images):
        alone = model.recall(x, KNOWN, max_steps=4)
        same(jax.tree.map(lambda leaf: leaf[i], batched), alone, rtol=1e-6)  # noqa: B023
    masks = np.stack([KNOWN, NONE, ALL])
    by_mask = jax.vmap(lambda x, known: model.recall(x, known, steps=1))(images, masks).x
    for x, known, found in zip(images, masks, by_mask, strict=True):
        np.testing.assert_array_equal(found[known], x[known])


def test_a_bound_method_is_jitted(model):
    alone = model.recall(IMAGE, KNOWN, max_steps=3)
    same(jax.jit(model.recall, static_argnames="max_steps")(IMAGE, KNOWN, max_steps=3), alone, rtol=1e-6)


def test_a_label_is_held(labelled):
    for label in (0, np.int64(2)):
        out = labelled.recall(None, label=label, key=KEY)
        assert np.argmax(out.scores) == label
    same(labelled.generate(1, key=KEY), labelled.recall(None, label=1, key=KEY))
    drawn = jax.vmap(lambda label: labelled.generate(label, key=KEY).scores)(jnp.arange(3))
    np.testing.assert_array_equal(np.argmax(drawn, axis=1), np.arange(3))


def test_a_label_that_is_not_there_is_refused(model):
    if "generate" not in model.tasks:
        with pytest.raises(ValueError, match=f"label is 1, but this {type(model).__name__} has no label neurons"):
            model.recall(IMAGE, KNOWN, label=1)
        return
    for label in (3, -1, np.int64(7)):
        with pytest.raises(ValueError, match=rf"label is {label}; this memory knows the classes 0 to 2"):
            model.generate(label, key=KEY)
    for label in (1.0, [0, 1], "ant"):
        with pytest.raises(ValueError, match="expected one class as a whole number"):
            model.generate(label, key=KEY)


def test_tasks_say_what_this_one_can_do(model):
    roles = {"classify": Classifier, "generate": Generator, "features": Featured, "attribution": Attributed}
    assert model.tasks == {"recall"} | {task for task, role in roles.items() if isinstance(model, role)}
    bare = type(model)(dataclasses.replace(model.config, classes=0, class_names=()), key=KEY)
    assert bare.tasks == model.tasks - {"classify", "generate"}
    assert bare.recall(IMAGE, KNOWN).scores is None
    if isinstance(bare, Classifier):
        for use in (lambda: bare.classify(IMAGE), bare.head):
            with pytest.raises(ValueError, match=r"has no classes; give it some with with_head\(classes=…, key=…\)"):
                use()
        headed = bare.with_head(classes=np.int64(2), key=KEY)
        assert headed.classify(IMAGE).shape == (2,)
        with pytest.raises(ValueError, match="classes is 0; a head is for at least one class"):
            bare.with_head(classes=0, key=KEY)


@pytest.mark.parametrize("name", ["dense", "polynomial", "conv", "transformer"])
def test_features_attribution_and_memories_have_one_form(name):
    model = MODELS[name]
    features = model.features(IMAGE)
    assert features.ndim == 1
    assert np.isfinite(features).all()
    for shares in (model.attribution(IMAGE), model.attribution(IMAGE, KNOWN), model.attribution(None)):
        assert shares.shape == (model.config.memories,)
        np.testing.assert_allclose(shares.sum(), 1)
    memories = model.memories()
    assert len(memories) == model.config.memories
    np.testing.assert_allclose(model.memories(slice(1, 3)), memories[1:3], rtol=1e-9)
    assert model.n_parameters == sum(leaf.size for leaf in jax.tree.leaves(model))
    if model.config.classes:
        assert model.classify(IMAGE).shape == (3,)


@pytest.mark.parametrize("name", ["dense", "conv", "transformer"])
def test_class_names_stay_until_the_classes_change(tmp_path, name):
    model = MODELS[name]
    field = {"dense": {"degree": 4.0}, "conv": {"loudness": 5.0}, "transformer": {"steps": 2}}[name]
    assert model.with_config(**field).config.class_names == NAMES
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).config.class_names == NAMES
    assert model.with_head(classes=3, key=KEY).config.class_names == ()
    assert model.with_config(class_names=("x", "y", "z")).config.class_names == ("x", "y", "z")
    with pytest.raises(ValueError, match=r"class_names has 1 names \('x',\) for 3 classes"):
        model.with_config(class_names=("x",))


def test_masks_and_draws_of_a_training_are_of_the_images_shape(model):
    for masks in model.masks(5).values():
        assert masks.shape == (5, *SHAPE)
        assert masks.dtype == bool
        assert 0 < masks.mean() < 1
    assert model.hide(KEY).shape == SHAPE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": IMAGE[..., 0]}, r"x has shape \(8, 8\) and dtype float64; expected floats in \[0, 1\] of shape \(8, 8"),
        ({"x": IMAGE[..., :1]}, r"2 channels along its last axis"),
        ({"x": IMAGE[None]}, r"use jax.vmap for a batch"),
        ({"x": (255 * IMAGE).astype(np.uint8)}, "dtype uint8; .*divide bytes by 255"),
        ({"x": IMAGE.astype(int)}, "dtype int64"),
        ({"x": 255 * IMAGE}, r"x ranges from 2\d\.\d+ to 2\d\d\.\d+; expected floats in \[0, 1\]"),
        ({"x": IMAGE - 0.5}, r"x ranges from -0\.\d+ to 0\.\d+"),
        ({"x": np.full_like(IMAGE, 1.0000001, np.float32)}, r"x ranges from 1\.00000012 to 1\.00000012"),
        ({"x": np.where(IMAGE > 0.5, np.inf, IMAGE)}, r"x ranges from 0\.\d+ to inf"),
        ({"x": np.full(SHAPE, np.nan)}, "x is NaN in 128 of 128 places; put any number where a pixel is not known"),
        ({"x": np.where(KNOWN, np.nan, IMAGE), "known": KNOWN}, "x is NaN in 64 of 128 places"),
        ({"known": KNOWN[:4]}, r"known has shape \(4, 8, 2\) and dtype bool; expected .* \(8, 8, 2\), \(8, 8\) or "),
        ({"known": KNOWN.astype(float)}, r"known has shape \(8, 8, 2\) and dtype float64; expected booleans"),
        ({"x": None, "known": KNOWN}, "x is None, but known is True for some pixels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(model, given, message):
    given = {"x": IMAGE, "known": None} | given
    with pytest.raises(ValueError, match=message):
        model.recall(**given)
    with pytest.raises(ValueError, match=message):
        model.energy(**given)


@pytest.mark.parametrize("flag", ["path", "energies"])
def test_a_flag_that_jax_traces_is_refused(flag):
    with pytest.raises(ValueError, match=f"{flag} is being traced by jax; use eqx.filter_jit"):
        jax.jit(MODELS["ring"].recall)(IMAGE, **{flag: True})
