"""What memories are measured by, and the simple guesses that stand beside them."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

import hamux
from hamux_zoo import (
    Config,
    DenseHopfield,
    DenseHopfieldConfig,
    EnergyTransformer,
    EnergyTransformerConfig,
    Memory,
)
from hamux_zoo.data import Images
from hamux_zoo.measure import distinct, evaluate, mean_colour, nearest_image, salted
from hamux_zoo.statistics import Gaussian, linear_prediction


class Still(Memory):
    """A third party's memory without labels, features or memories, which recalls what it is given."""

    model_type = "still"
    config: Config = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config, *, key):
        self.config = config
        neurons = {"image": hamux.Neurons(hamux.lagr_identity, config.shape)}
        synapse = hamux.BiasSynapse(key, config.shape)
        self.ham = hamux.HAM(neurons, {"bias": synapse}, [(("image",), "bias")])

    def start(self, x, known=None, *, label=None, key=None):
        return {"image": x}, {"image": True}

    def decode(self, xs):
        return xs["image"]


def images_of(shape, count=6, low=0.0, high=1.0):
    return np.random.default_rng(0).uniform(low, high, size=(count, *shape))


def test_mean_colour_is_that_of_the_known_pixels():
    image = np.arange(12.0).reshape(1, 2, 2, 3) / 12
    known = np.broadcast_to(np.array([[False, True], [True, False]])[None, :, :, None], image.shape)
    np.testing.assert_allclose(mean_colour(image, known)[0, 0, 0], (image[0, 0, 1] + image[0, 1, 0]) / 2)
    np.testing.assert_array_equal(mean_colour(image, np.zeros_like(known)), 0.5)
    np.testing.assert_array_equal(mean_colour(np.array([[1.0, 2, 4]]), np.array([[True, True, False]])), 1.5)


def test_the_linear_prediction_is_least_squares():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(12, 12))
    train, test = (generator.normal(size=(count, 12)) @ mixing for count in (500, 7))
    known = (generator.uniform(size=(2, 12)) < 0.5)[[0, 1, 1, 0, 1, 0, 0]]  # images share masks
    gaussian = Gaussian.of(train.reshape(-1, 2, 2, 3))
    found = linear_prediction(*(a.reshape(-1, 2, 2, 3) for a in (test, known)), gaussian)
    for image, mask, guess in zip(test, known, found.reshape(-1, 12), strict=True):
        seen = np.concatenate([train[:, mask], np.ones((500, 1))], axis=1)
        weights = np.linalg.lstsq(seen, train[:, ~mask], rcond=None)[0]
        np.testing.assert_allclose(guess[~mask], np.append(image[mask], 1) @ weights, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(guess[mask], image[mask])


def test_the_nearest_image_is_that_by_each_image_s_own_known_pixels():
    train, images = images_of((2, 2, 1), 50), images_of((2, 2, 1), 5)[::-1]
    known = np.random.default_rng(1).uniform(size=images.shape) < 0.5
    distances = np.sum(np.where(known[:, None], images[:, None] - train, 0) ** 2, axis=(2, 3, 4))
    np.testing.assert_array_equal(nearest_image(images, known, train), train[distances.argmin(axis=1)])


def test_every_mask_of_an_energy_transformer_is_measured_beside_every_guess():
    config = EnergyTransformerConfig(
        shape=(8, 8, 1), dim=6, heads=1, head_dim=2, memories=4, steps=2, masked=(0.25, 0.75), classes=2
    )
    model = EnergyTransformer(config, key=jr.key(0))
    images = images_of((8, 8, 1), 130).astype(np.float32)
    labels = np.zeros(130, int)
    measured = evaluate(model, Images(images, labels), Images(images, labels))
    guesses = ("mse", "2x_mse", "10x_mse", "mean_colour_mse", "mean_image_mse", "nearest_image_mse", "linear_mse")
    assert measured.keys() == {"test_error", "salt_and_pepper_error"} | {
        f"masked_{share}_{guess}" for share in (25, 75) for guess in guesses
    }
    known = model.masks(130)["masked_25"]
    for name, steps in {"": 2, "2x_": 4, "10x_": 20}.items():
        ends = jax.vmap(lambda x, known, steps=steps: model.recall(x, known, steps=steps).x)(images, known)
        errors = (np.asarray(ends) - images)[~known]
        np.testing.assert_allclose(measured[f"masked_25_{name}mse"], np.mean(errors**2), rtol=1e-5)
    found = jax.vmap(model.classify)(images).argmax(axis=-1)
    np.testing.assert_allclose(measured["test_error"], 100 * np.mean(found != 0))


def test_one_mask_for_all_is_measured_on_the_first_images_and_masks_that_differ_on_all(monkeypatch):
    counts = []
    measure = "hamux_zoo.measure._evaluation.completion_errors"
    monkeypatch.setattr(measure, lambda model, name, images, *rest: counts.append(len(images)) or {})
    images = images_of((2, 2, 1), 1100)
    evaluate(Still(Config(shape=(2, 2, 1)), key=jr.key(0)), Images(images, None))
    transformer = EnergyTransformerConfig(shape=(2, 2, 1), patch=1, dim=2, heads=1, head_dim=1, memories=1)
    evaluate(EnergyTransformer(transformer, key=jr.key(0)), Images(images, None))
    assert counts == [1000, 1000] + [1100] * len(transformer.masked)
    evaluate(Still(Config(shape=(2, 2, 1)), key=jr.key(0)), Images(images, None), recalls=7)
    assert counts[-2:] == [7, 7]


def test_completions_are_measured_over_unknown_pixels_beside_every_guess():
    images = images_of((4, 6, 1))
    model = DenseHopfield(DenseHopfieldConfig(shape=(4, 6, 1)), key=jr.key(0)).store(images)
    measured = evaluate(model, Images(images, None), Images(images, None))
    names = (
        "mse",
        "1x_mse",
        "2x_mse",
        "10x_mse",
        "mean_colour_mse",
        "mean_image_mse",
        "nearest_image_mse",
        "linear_mse",
        "converged",
        "steps",
    )
    assert measured.keys() == {f"{part}_{name}" for part in ("completion", "quarter") for name in names}
    errors = (images - images.mean(axis=0)) ** 2
    np.testing.assert_allclose(measured["quarter_mean_image_mse"], errors[:, 2:, 3:].mean())
    np.testing.assert_allclose(measured["completion_mean_image_mse"], errors[:, 2:].mean())
    assert measured["quarter_nearest_image_mse"] == 0
    known = model.masks(len(images))["quarter"]
    steps = 10 * model.dynamics().trained_steps
    longer = np.stack([model.recall(x, mask, steps=steps).x for x, mask in zip(images, known, strict=True)])
    np.testing.assert_allclose(measured["quarter_10x_mse"], np.mean((longer - images)[~known] ** 2), rtol=1e-6)
    alone = evaluate(model, Images(images, None))
    assert alone.keys() == {name for name in measured if not name.endswith(("image_mse", "linear_mse"))}
    assert all(alone[name] == measured[name] for name in alone)


def test_labels_are_completed_with_the_image_held_and_from_noise():
    images, labels = images_of((4, 4, 1)), np.array([0, 1, 2, 0, 1, 1])
    model = DenseHopfield(DenseHopfieldConfig(shape=(4, 4, 1)), key=jr.key(0)).store(
        images, np.array([0, 1, 2, 0, 1, 2])
    )
    measured = evaluate(model, Images(images, labels))
    np.testing.assert_allclose([measured["test_error"], measured["label_error"]], 100 / 6)  # the last was stored as 2
    assert measured["label_converged"] == 100
    held = np.ones((4, 4, 1), bool)
    for times in (0, 1, 10):
        at = times * model.dynamics().trained_steps
        shown = [model.recall(image, held, steps=max(at, 1), path=True).path.scores[at] for image in images]
        np.testing.assert_allclose(measured[f"label_{times}x_error"], 100 * np.mean(np.argmax(shown, axis=1) != labels))
    ends = [model.recall(image) for image in salted(images)]
    wrong = [end.scores.argmax() != label for end, label in zip(ends, labels, strict=True)]
    np.testing.assert_allclose(measured["free_error"], 100 * np.mean(wrong))
    assert measured["free_steps"] == np.median([end.steps for end in ends])
    shown = np.array([end.x for end in ends])
    np.testing.assert_allclose(measured["free_mse"], np.mean((shown - images) ** 2))
    assert measured["free_distinct"] == distinct(shown)
    judged = evaluate(model, Images(images, labels), Images(images, labels))
    nearest = np.sum((shown[:, None] - images) ** 2, axis=(2, 3, 4)).argmin(axis=1)
    np.testing.assert_allclose(judged["free_kept"], 100 * np.mean(labels[nearest] == labels))
    assert judged["clean_kept"] == 100


def test_distinct_images_differ_by_more_than_a_twentieth_in_some_pixel_from_all_before():
    one, off = np.zeros((2, 2, 1)), np.zeros((2, 2, 1))
    off[1, 0] = 0.04
    far = 0 * off
    far[0, 1] = 0.06
    assert distinct(np.stack([one, off, far, one, far + off, 1.6 * off])) == 3
    assert distinct(np.zeros((0, 2, 2, 1))) == 0


def test_generated_images_are_judged_by_the_nearest_and_by_their_spread():
    images, labels = images_of((4, 4, 1), 80), np.repeat([0, 1], 40)
    model = DenseHopfield(DenseHopfieldConfig(shape=(4, 4, 1), beta=9.0), key=jr.key(0)).store(images, labels)
    measured = evaluate(model, Images(images, labels), Images(images, labels))
    asked, keys = np.repeat([0, 1], 100), jr.split(jr.key(0), 200)
    made = np.array(jax.vmap(lambda label, key: model.generate(label, key=key).x)(asked, keys))
    nearest = np.sum((made[:, None] - images) ** 2, axis=(2, 3, 4)).argmin(axis=1)
    np.testing.assert_allclose(measured["generated_kept"], 100 * np.mean(labels[nearest] == asked))
    spreads = [made[asked == c].std(axis=0).mean() / images[labels == c].std(axis=0).mean() for c in (0, 1)]
    np.testing.assert_allclose(measured["generated_spread"], np.mean(spreads), rtol=1e-5)


def test_salt_is_white_and_pepper_black_of_whole_pixels():
    images = images_of((4, 4, 1))
    changed = salted(images) != images
    assert 0.15 < changed.mean() < 0.45
    assert set(salted(images)[changed]) == {0, 1}
    colours = np.repeat(images, 3, axis=-1)
    np.testing.assert_array_equal(salted(colours), np.repeat(salted(images), 3, axis=-1))
    wide = salted(4 * images[..., 0] - 1, low=-1, high=3)
    np.testing.assert_allclose(wide, 4 * salted(images)[..., 0] - 1)


@pytest.mark.parametrize("shape", [(12,), (4, 3), (4, 3, 1), (2, 3, 2, 2)])
def test_patterns_of_any_axes_and_range_are_measured(shape):
    images, labels = images_of(shape, low=-2, high=3), np.arange(6) % 2
    config = DenseHopfieldConfig(shape=shape, low=-2, high=3)
    model = DenseHopfield(config, key=jr.key(0)).store(images, labels)
    measured = evaluate(model, Images(images, labels), Images(images, labels))
    assert measured["test_error"] == 0
    assert measured["completion_nearest_image_mse"] == 0
    assert measured["completion_mse"] < measured["completion_mean_image_mse"]
    assert ("quarter_mse" in measured) == (len(shape) == 3)


def test_a_memory_that_can_only_recall_is_measured_by_that():
    images = images_of((2, 2, 1))
    measured = evaluate(Still(Config(shape=(2, 2, 1)), key=jr.key(0)), Images(images, np.zeros(6, int)))
    names = ("mse", "mean_colour_mse", "converged", "steps")
    assert measured.keys() == {f"{part}_{name}" for part in ("completion", "quarter") for name in names}


def test_what_does_not_fit_is_said():
    images = images_of((2, 2, 1))
    model = DenseHopfield(DenseHopfieldConfig(shape=(2, 2, 1)), key=jr.key(0)).store(images, np.arange(6))
    with pytest.raises(ValueError, match=r"test images have shape \(6, 4\) .* in \[0, 1\] of shape \(count, 2, 2, 1\)"):
        evaluate(model, Images(images.reshape(6, 4), None))
    with pytest.raises(ValueError, match=r"the train images have .* from .* to 1.87\d*; .* floats in \[0, 1\]"):
        evaluate(model, Images(images, None), Images(2 * images, None))
    with pytest.raises(ValueError, match="the test images have labels up to 6; the memory knows 6 classes"):
        evaluate(model, Images(images, np.arange(6) + 1))
    with pytest.raises(ValueError, match=r"the test images have shape \(0, 2, 2, 1\)"):
        evaluate(model, Images(images[:0], None))
    with pytest.raises(ValueError, match=r"`recalls` is 0; expected at least 1"):
        evaluate(model, Images(images, None), recalls=0)
