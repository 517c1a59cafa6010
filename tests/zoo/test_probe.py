"""`probe`: a linear classifier on frozen features, and the memory that it makes."""

import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from sklearn.linear_model import Ridge
from test_cli import run

from hamux_zoo import (
    DenseHopfieldConfig,
    EnergyTransformer,
    EnergyTransformerConfig,
    Probed,
    ProbedConfig,
    from_pretrained,
    probe,
)
from hamux_zoo.training._probe import balanced_error, fit_head

SHAPE = (8, 8, 1)
MEMORY = EnergyTransformer(
    EnergyTransformerConfig(shape=SHAPE, dim=12, heads=2, head_dim=4, memories=7, steps=2), key=jr.key(0)
)
rng = np.random.default_rng(0)
LABELS = np.arange(60) % 3
PATTERNS = rng.uniform(0, 1, (3, *SHAPE))
IMAGES = np.clip(PATTERNS[LABELS] + 0.1 * rng.normal(size=(60, *SHAPE)), 0, 1).astype(np.float32)


def ridge(rows, labels, alpha):
    """What `probe` describes, by scikit-learn: standardised rows, balanced weights, targets ±1."""
    weights = (len(labels) / (len(np.unique(labels)) * np.bincount(labels)))[labels]
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0) / rows.shape[1] ** 0.5
    whole = np.column_stack([scaled, np.full(len(rows), 3.0)])
    targets = 2.0 * np.eye(labels.max() + 1)[labels] - 1
    fit = [Ridge(alpha=alpha, fit_intercept=False, solver="cholesky").fit(whole, t, weights) for t in targets.T]
    kept = np.arange(len(rows))
    left = [
        np.array([Ridge(alpha=alpha, fit_intercept=False, solver="cholesky")
                  .fit(whole[kept != i], t[kept != i], weights[kept != i]).predict(whole[[i]])[0] for i in kept])
        for t in targets.T
    ]  # fmt: skip
    missed = np.mean(weights[:, None] * (np.stack(left, axis=1) - targets) ** 2)
    return np.stack([each.predict(whole) for each in fit], axis=1), np.stack(left, axis=1), missed


@pytest.mark.parametrize("dim", [4, 40])
def test_the_head_is_a_ridge_regression_whose_penalty_errs_least_on_the_rows_left_out(dim):
    labels = np.array([0] * 6 + [1] * 9 + [2] * 5)
    rows = np.random.default_rng(1).normal(size=(20, dim)) + labels[:, None] * np.linspace(0, 1, dim)
    fits = [ridge(rows, labels, 10.0 ** (power / 2)) for power in range(-8, 7)]
    whole, left, _ = min(fits, key=lambda fit: fit[2])
    head = fit_head(rows, labels, 3)
    sharp = head.left_out[0, 0] / left[0, 0]
    assert sharp > 0
    np.testing.assert_allclose(head.left_out, sharp * left, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(rows @ head.weight.T + head.bias, sharp * whole, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(1, 12), st.integers(0, 99))
def test_a_head_fits_any_sizes_of_classes_and_constant_features(counts, dim, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.random.default_rng(seed).normal(size=(len(labels), dim))
    rows[:, 0] = 3.0
    head = fit_head(rows.astype(np.float32), labels, len(counts) + 1)
    assert head.weight.shape == (len(counts) + 1, dim)
    assert np.isfinite(head.weight).all()
    assert not np.any(head.weight[:, 0])
    assert not np.any(np.argmax(rows @ head.weight.T + head.bias, axis=1) == len(counts))


def test_balanced_errors_count_classes_alike():
    labels, found = np.array([0] * 90 + [1] * 10), np.array([0] * 90 + [1] * 5 + [0] * 5)
    error, (low, high) = balanced_error(found, labels)
    assert error == pytest.approx(25)
    assert low < 25 < high
    alike = balanced_error(np.array([0, 0, 0, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 1]))
    p, n, z = 1 / 6, 6, 1.96  # Wilson's interval of 1 of 6
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert alike[1] == pytest.approx([100 * (middle - half) / (1 + z**2 / n), 100 * (middle + half) / (1 + z**2 / n)])


def test_a_probed_memory_classifies_recalls_and_comes_back(tmp_path):
    probed = probe(MEMORY, (IMAGES, LABELS))
    assert probed.error < 10
    assert probed.interval[0] <= probed.error <= probed.interval[1]
    assert probed.raw_error < 10
    model = probed.model
    assert isinstance(model, Probed)
    assert (
        np.mean([np.argmax(model.classify(image)) == label for image, label in zip(IMAGES, LABELS, strict=True)]) == 1
    )
    np.testing.assert_array_equal(model.recall(IMAGES[0]).x, MEMORY.recall(IMAGES[0]).x)
    np.testing.assert_array_equal(model.features(IMAGES[0]), MEMORY.features(IMAGES[0]))
    assert model.tasks == {"recall", "classify", "features"}
    model.save_pretrained(tmp_path)
    back = from_pretrained(tmp_path)
    assert back.config == model.config
    np.testing.assert_array_equal(back.classify(IMAGES[0]), model.classify(IMAGES[0]))
    assert probe(model, (IMAGES, LABELS)).model.config == model.config  # of the memory itself, not of the probed one
    assert not np.any(model.with_head(classes=4, key=jr.key(0)).classify(IMAGES[0]))


def test_classes_without_an_image_or_with_one_are_said():
    few = np.array([0, 1, 1, 3])
    probed = probe(MEMORY, (IMAGES[:4], few))
    assert "1 classes have no image" in probed.notes[0]
    assert "class of one image" in probed.notes[1]
    assert probed.error is None
    assert [int(np.argmax(probed.model.classify(image))) for image in IMAGES[:4]] == list(few)


@pytest.mark.parametrize(
    ("labels", "message"), [(None, "no labels to learn"), (np.zeros(60, int), "all images are of one class \\(0\\)")]
)
def test_what_cannot_be_classified_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        probe(MEMORY, (IMAGES, labels))


def test_configs_of_memories_are_checked():
    fields = {"memory_type": "energy-transformer", "memory": MEMORY.config, "features": 12}
    assert ProbedConfig(**fields).shape == SHAPE
    for wrong, message in [
        ({"memory_type": "other"}, "memory_type is 'other'; expected one of"),
        ({"memory": {"dims": 3}}, "unknown config keys"),
        ({"memory": DenseHopfieldConfig(shape=SHAPE)}, "expected the config of EnergyTransformer"),
        ({"shape": (4, 4, 1)}, "but the memory's is"),
        ({"features": 0}, "features is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            ProbedConfig(**fields | wrong)


def test_the_command_shows_errors_and_saves_model_and_picture(tmp_path):
    MEMORY.save_pretrained(tmp_path / "memory")
    for i, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        folder = tmp_path / "data" / "abc"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * image.squeeze()).astype(np.uint8)).save(folder / f"{i}.png")
    shown = run("probe", "memory", "--data", "data", "--out", "out", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "memory, features" in shown.stdout
    assert "raw pixels, support vector machine" in shown.stdout
    assert from_pretrained(tmp_path / "out/model").config.class_names == ("a", "b", "c")
    with Image.open(tmp_path / "out/confusions.png") as picture:
        assert picture.size[0] > 100
    again = run("probe", "memory", "--data", "data", "--out", "out", cwd=tmp_path)
    assert again.returncode == 1
    assert "choose another folder with --out" in again.stderr
