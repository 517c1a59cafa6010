"""What masked reconstructions are measured by, and the predictions that they are held beside."""

import jax
import jax.random as jr
import numpy as np

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, EnergyTransformer, EnergyTransformerConfig
from hamux_zoo._data import Images
from hamux_zoo._evaluation import evaluate, fixed_masks, gaussian_of, linear_prediction, mean_colour, peppered


def test_masks_are_fixed_and_hide_the_share():
    masks = fixed_masks(49, 0.75, 130)
    np.testing.assert_array_equal(masks.sum(axis=1), 37)
    np.testing.assert_array_equal(masks[:7], fixed_masks(49, 0.75, 7))
    assert len(masks) == 130
    assert len(np.unique(masks, axis=0)) == 100
    assert not fixed_masks(9, 0.0, 1).any()
    assert fixed_masks(9, 1.0, 1).all()


def test_mean_colour_is_that_of_the_known_pixels():
    image = np.arange(12.0).reshape(1, 2, 2, 3) / 12
    hidden = np.broadcast_to(np.array([[True, False], [False, True]])[None, :, :, None], image.shape)
    np.testing.assert_allclose(mean_colour(image, hidden)[0, 0, 0], (image[0, 0, 1] + image[0, 1, 0]) / 2)
    np.testing.assert_array_equal(mean_colour(image, np.ones_like(hidden)), 0.5)


def test_the_linear_prediction_is_least_squares():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(12, 12))
    train, test = (generator.normal(size=(count, 12)) @ mixing for count in (500, 7))
    hidden = (generator.uniform(size=(2, 12)) < 0.5)[[0, 1, 1, 0, 1, 0, 0]]  # images share masks
    gaussian = gaussian_of(train.reshape(-1, 2, 2, 3))
    found = linear_prediction(*(a.reshape(-1, 2, 2, 3) for a in (test, hidden)), gaussian)
    for image, mask, guess in zip(test, hidden, found.reshape(-1, 12), strict=True):
        known = np.concatenate([train[:, ~mask], np.ones((500, 1))], axis=1)
        weights = np.linalg.lstsq(known, train[:, mask], rcond=None)[0]
        np.testing.assert_allclose(guess[mask], np.append(image[~mask], 1) @ weights, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(guess[~mask], image[~mask])


def test_reconstruction_is_measured_over_hidden_pixels_for_every_share():
    config = EnergyTransformerConfig(
        shape=(8, 8, 1), dim=6, heads=1, head_dim=2, memories=4, steps=2, masked=(0.25, 0.75), classes=2
    )
    model = EnergyTransformer(config, key=jr.key(0))
    images = np.random.default_rng(0).uniform(size=(130, 8, 8, 1)).astype(np.float32)
    labels = np.zeros(130, int)
    measured = evaluate(model, Images(images, labels), Images(images, labels))
    assert measured.keys() == {"test_error", "salt_and_pepper_error"} | {
        f"masked_{share}_{name}" for share in (25, 75) for name in ("mse", "mean_colour_mse", "linear_mse")
    }
    masks = fixed_masks(4, 0.25, 130)
    errors = np.asarray(jax.vmap(model.reconstruct)(images, masks)) - images
    expected = np.mean(errors[np.asarray(jax.vmap(model.pixels)(masks))] ** 2)
    np.testing.assert_allclose(measured["masked_25_mse"], expected, rtol=1e-5)
    found = jax.vmap(model.classify)(images).argmax(axis=-1)
    np.testing.assert_allclose(measured["test_error"], 100 * np.mean(found != 0))


def test_completions_are_measured_over_hidden_pixels_beside_every_baseline():
    images = np.random.default_rng(0).uniform(size=(6, 4, 6, 1))
    model = DenseHopfield(DenseHopfieldConfig(shape=(4, 6, 1)), key=jr.key(0)).store(images)
    measured = evaluate(model, Images(images, None), Images(images, None))
    names = ("mse", "mean_colour_mse", "mean_image_mse", "nearest_image_mse", "linear_mse", "converged", "steps")
    assert measured.keys() == {f"{part}_{name}" for part in ("completion", "quarter") for name in names}
    errors = (images - images.mean(axis=0)) ** 2
    np.testing.assert_allclose(measured["quarter_mean_image_mse"], errors[:, 2:, 3:].mean())
    np.testing.assert_allclose(measured["completion_mean_image_mse"], errors[:, 2:].mean())
    assert measured["quarter_nearest_image_mse"] == 0


def test_labels_are_completed_with_the_image_held_and_from_noise():
    images = np.random.default_rng(0).uniform(size=(6, 4, 4, 1))
    labels = np.array([0, 1, 2, 0, 1, 1])
    model = DenseHopfield(DenseHopfieldConfig(shape=(4, 4, 1)), key=jr.key(0)).store(
        images, np.array([0, 1, 2, 0, 1, 2])
    )
    measured = evaluate(model, Images(images, labels))
    np.testing.assert_allclose([measured["test_error"], measured["label_error"]], 100 / 6)  # the last was stored as 2
    assert measured["label_converged"] == 100
    changed = peppered(images) != images
    assert 0.15 < changed.mean() < 0.45
    assert set(peppered(images)[changed]) == {0, 1}
    colours = np.repeat(images, 3, axis=-1)
    np.testing.assert_array_equal(peppered(colours), np.repeat(peppered(images), 3, axis=-1))  # whole pixels
    ends = [model.retrieve(image) for image in peppered(images)]
    wrong = [end.scores.argmax() != label for end, label in zip(ends, labels, strict=True)]
    np.testing.assert_allclose(measured["free_error"], 100 * np.mean(wrong))
    assert measured["free_steps"] == np.median([end.steps for end in ends])
