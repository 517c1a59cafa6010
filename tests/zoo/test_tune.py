"""Fine-tuning to classify begins with the probe, and ends no worse on images that were left out."""

import equinox as eqx
import jax
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
    Probed,
    Recipe,
    finetune,
    from_pretrained,
    probe,
    train,
)
from hamux_zoo.training._tune import _evened

SHAPE = (8, 8, 1)
CONFIG = EnergyTransformerConfig(shape=SHAPE, dim=12, heads=2, head_dim=4, memories=7, steps=2)
QUICK = {"steps": 3, "batch_size": 8, "optimizer": "adamw"}


@pytest.fixture(scope="module", autouse=True)
def in_float32():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def memory():
    return EnergyTransformer(CONFIG, key=jr.key(0))


def pictures(count, noise=0.3, mirrored=False):
    """Three patterns, alike from left to right, with noise, in turn; or one that is not, and its mirror image."""
    rng = np.random.default_rng(0)
    sided = rng.uniform(0, 1, (3, *SHAPE))
    patterns = (sided + sided[:, :, ::-1]) / 2
    if mirrored:
        patterns = np.stack([sided[0], sided[0][:, ::-1]])
    labels = np.arange(count) % len(patterns)
    noisy = patterns[labels] + noise * rng.normal(size=(count, *SHAPE))
    return np.clip(noisy, 0, 1).astype(np.float32), labels


def errors(model, images, labels):
    return np.mean(np.argmax(jax.vmap(model.classify)(images), axis=1) != labels)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (EnergyTransformer, CONFIG),
        (DenseHopfield, DenseHopfieldConfig(shape=SHAPE, classes=4, memories=9)),
        (ConvHAM, ConvHAMConfig(shape=SHAPE, components=3, parts=4, memories=5)),
    ],
)
def test_every_architecture_trains_from_the_probe(kind, config):
    memory = kind(config, key=jr.key(0))
    data = pictures(60, noise=2.0)
    trained = finetune(memory, data, Recipe(**QUICK, validation=0), quiet=True)
    assert isinstance(trained, Probed)
    assert not np.array_equal(trained.weight, probe(memory, data).model.weight)
    assert not eqx.tree_equal(trained.memory, memory)


def test_what_errs_more_than_the_probe_is_not_kept(memory, capsys):
    data = pictures(60)
    ruined = finetune(memory, data, Recipe(**QUICK, learning_rate=30.0))
    assert eqx.tree_equal(ruined, probe(memory, data).model)
    said = capsys.readouterr().out
    assert "60 images of 3 classes: 3 steps" in said
    assert "the probe is kept" in said


def test_what_errs_less_than_the_probe_is_kept(memory, capsys):
    blind = eqx.tree_at(lambda m: m.encoder.weight, memory, 1e-4 * memory.encoder.weight)
    images, labels = pictures(90)
    recipe = Recipe(steps=60, batch_size=30, optimizer="adamw", learning_rate=0.02, augment=())
    tuned = finetune(blind, (images, labels), recipe)
    assert isinstance(tuned, Probed)
    assert "the fine-tuned memory is kept" in capsys.readouterr().out
    assert errors(tuned, images, labels) < errors(probe(blind, (images, labels)).model, images, labels)
    assert not eqx.tree_equal(tuned.memory, blind)


@pytest.mark.parametrize("validation", [None, 0.2])
def test_a_run_says_saves_and_returns_one_model(memory, tmp_path, validation):
    recipe = Recipe(**QUICK, validation=validation)
    tuned = finetune(memory, pictures(60), recipe, workdir=tmp_path / "run", quiet=True)
    assert eqx.tree_equal(from_pretrained(tmp_path / "run/model"), tuned)
    assert eqx.tree_equal(finetune(memory, pictures(60), recipe, workdir=tmp_path / "run", quiet=True), tuned)


def test_augmentations_that_change_classes_are_not_taken(memory, capsys):
    for mirrored in (False, True):
        finetune(memory, pictures(60, noise=0.1, mirrored=mirrored), Recipe(**QUICK))
        assert ("flip" in capsys.readouterr().out) is not mirrored


def test_without_images_left_out_nothing_is_compared(memory, capsys):
    data = pictures(60)
    tuned = finetune(memory, data, Recipe(**QUICK, validation=0))
    assert "left out" not in capsys.readouterr().out
    assert not eqx.tree_equal(tuned, probe(memory, data).model)
    learned = finetune(memory, data, Recipe(**QUICK, overfit_one_batch=True), quiet=True)
    assert not eqx.tree_equal(learned, tuned)


def test_a_class_of_one_image_keeps_the_probe(memory, capsys):
    images, _ = pictures(5)
    labels = np.array([0, 0, 1, 1, 2])
    tuned = finetune(memory, (images, labels), Recipe(**QUICK))
    assert "there is a class of one image" in capsys.readouterr().out
    assert eqx.tree_equal(tuned, probe(memory, (images, labels)).model)


def test_small_classes_are_shown_as_often_as_large_ones():
    labels = np.array([1] * 7 + [3] * 3)
    shown = _evened(labels)
    assert np.bincount(labels[shown]).tolist() == [0, 7, 0, 7]
    assert set(shown) == set(range(10))
    assert _evened(np.array([0, 0, 0, 1, 1])).tolist() == [0, 1, 2, 3, 4]


def test_a_probed_memory_is_tuned_further_and_the_head_alone(memory):
    data = pictures(60)
    first = finetune(memory, data, Recipe(**QUICK, validation=0), quiet=True)
    again = finetune(first, data, Recipe(**QUICK, validation=0, trainable="head"), quiet=True)
    assert eqx.tree_equal(again.memory, first.memory)
    assert not eqx.tree_equal(again.weight, probe(first, data).model.weight)


def test_what_does_not_fit_is_refused(memory, tmp_path):
    with pytest.raises(
        ValueError, match=r"`validation` is 0.02, which holds 1 of 60 images out; expected at least one"
    ):
        finetune(memory, pictures(60), Recipe(validation=0.02), quiet=True)
    with pytest.raises(ValueError, match="`probe` is for the task \"classify\", but `task` is 'reconstruct'"):
        Recipe(task="reconstruct", probe=True)
    with pytest.raises(ValueError, match="begins with a memory that has learned nothing"):
        train(EnergyTransformer, pictures(60), Recipe(probe=True))
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        finetune(memory, pictures(60), workdir=tmp_path, quiet=True)
