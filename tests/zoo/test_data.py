"""Images in: shipped samples, data sets from a folder, damage and augmentation."""

import datasets
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from hamux_zoo import load_images, load_samples
from hamux_zoo._corruptions import gaussian_noise, salt_and_pepper, upper_half
from hamux_zoo._data import Images, split
from hamux_zoo._training import augment, damage


def saved(folder, images, **columns):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
    table = {"image": images, "label": list(range(len(images)))} | columns
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize(("name", "label"), [("mnist", 7), ("fashion-mnist", 9)])
def test_samples_are_the_first_of_the_test_split(name, label):
    images, labels = load_samples(name)
    assert images.shape == (300, 28, 28, 1)
    assert labels[0] == label
    assert set(labels) == set(range(10))
    assert images.min() == 0
    assert images.max() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_byte_for_byte(tmp_path, channels, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bytes_ = np.random.default_rng(0).integers(0, 256, (3, 5, 4, channels), dtype=np.uint8)
    images, labels = load_images(saved(tmp_path, [b.squeeze() for b in bytes_]), "train")
    np.testing.assert_array_equal((255 * images).round(), bytes_)
    np.testing.assert_array_equal(labels, [0, 1, 2])


def test_data_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder with a data set"):
        load_images(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r'no samples "cifar10"; there are .*"?mnist'):
        load_samples("cifar10")
    mixed = [np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)]
    with pytest.raises(ValueError, match=r"images of shapes \[\(4, 4\), \(4, 5\)\]; expected one size"):
        load_images(saved(tmp_path, mixed), "train")


def test_split_holds_out_as_many_as_asked():
    data = Images(np.arange(10.0).reshape(10, 1, 1, 1), np.arange(10))
    rest, held_out = split(data, 3, seed=0)
    assert sorted([*rest.labels, *held_out.labels]) == list(range(10))
    assert len(held_out.labels) == 3
    np.testing.assert_array_equal(held_out.images.ravel(), held_out.labels)
    with pytest.raises(ValueError, match="10 images to hold out of 10"):
        split(data, 10, seed=0)


def test_corruptions_do_what_they_say():
    image = jnp.full((100, 100, 1), 0.5)
    peppered = salt_and_pepper(jr.key(0), image, 0.3)
    assert abs(float(jnp.mean(peppered != image)) - 0.3) < 0.02
    assert abs(float(jnp.mean(peppered == 1)) - 0.15) < 0.015
    noisy = gaussian_noise(jr.key(0), image, 0.1)
    assert abs(float(jnp.std(noisy)) - 0.1) < 0.005
    known = upper_half((5, 4, 3))
    assert known.sum() == 2 * 4 * 3
    assert known[:2].all()


def test_damage_is_a_mixture():
    image = jr.uniform(jr.key(1), (28, 28, 1))
    starts, known = map(np.asarray, jax.jit(jax.vmap(lambda key: damage(key, image)))(jr.split(jr.key(0), 2000)))
    free = ~known.any(axis=(1, 2, 3))
    assert abs(float(free.mean()) - 0.5) < 0.05
    np.testing.assert_array_equal(np.where(known, starts, 0), np.where(known, image, 0))
    np.testing.assert_array_equal(starts[~free][~known[~free]], 0.5)
    lower_half_missing = (known == upper_half(image.shape)).all(axis=(1, 2, 3))
    assert abs(float(lower_half_missing.mean()) - 0.5 * 0.75 * 0.6) < 0.04


def test_augmentation_moves_an_image_a_little_and_not_at_all_at_strength_zero():
    image = jnp.zeros((28, 28, 1)).at[10:18, 10:18].set(1.0)
    np.testing.assert_allclose(augment(jr.key(0), image, 0.0, False), image, atol=1e-6)
    moved = np.asarray(jax.vmap(lambda key: augment(key, image, 1.0, False))(jr.split(jr.key(0), 20)))
    assert np.all(np.abs(moved.sum(axis=(1, 2, 3)) - 64) < 24)
    assert np.all(np.abs(moved - np.asarray(image)).max(axis=(1, 2, 3)) > 0.1)
    assert np.all(moved[:, 10 + 3 : 18 - 3, 10 + 3 : 18 - 3] > 0.9)
