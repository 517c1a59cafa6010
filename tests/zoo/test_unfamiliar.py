"""What a memory says of pictures that are unlike what it learned."""

import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image
from test_cli import run

from hamux_zoo import (
    DenseHopfield,
    DenseHopfieldConfig,
    EnergyTransformer,
    EnergyTransformerConfig,
    Probed,
    Recipe,
    calibrate,
    finetune,
    from_pretrained,
    predict,
)
from hamux_zoo.pixels import from_patches

SHAPE = (8, 8, 1)
rng = np.random.default_rng(0)
PATTERNS = (rng.uniform(0, 1, (3, *SHAPE)) > 0.5).astype(np.float32)
LABELS = np.arange(60) % 3
FAMILIAR = np.clip(PATTERNS[LABELS] + 0.05 * rng.normal(size=(60, *SHAPE)), 0, 1).astype(np.float32)
STRANGE = rng.uniform(0, 1, (10, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def in_float32():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def memory():
    empty = DenseHopfield(DenseHopfieldConfig(shape=SHAPE, memories=1, classes=3, beta=20.0), key=jr.key(0))
    return empty.remember(PATTERNS, np.arange(3)).forget(0)


def test_strangeness_is_the_share_of_a_picture_that_its_recall_does_not_explain(memory):
    for image in (FAMILIAR[0], STRANGE[0], np.full(SHAPE, 0.5, np.float32)):
        recalled = np.asarray(memory.recall(image).x)
        expected = np.sum((image - recalled) ** 2) / (np.sum((image - image.mean()) ** 2) + image.size / 1000)
        assert memory.strangeness(image) == pytest.approx(expected, rel=1e-5)


def test_a_transformer_completes_every_second_patch_from_the_others():
    config = EnergyTransformerConfig(shape=SHAPE, dim=12, heads=2, head_dim=4, memories=7, steps=2)
    model = EnergyTransformer(config, key=jr.key(0))
    known = from_patches(jnp.repeat(jnp.array([True, False, False, True])[:, None], 16, axis=1), 4, 2)
    image = STRANGE[0]
    made = np.where(known, model.recall(image, ~known).x, model.recall(image, known).x)
    expected = np.mean((image - made) ** 2) / (np.var(image) + 1e-3)
    assert model.strangeness(image) == pytest.approx(expected, rel=1e-5)
    probed = Probed.of(model, np.zeros((2, len(model.features(image)))), np.zeros(2))
    assert probed.strangeness(image) == model.strangeness(image)


def test_one_in_twenty_of_what_it_knows_is_flagged_and_what_it_does_not_know(memory):
    assert [answer.unfamiliar for answer in predict(memory, list(STRANGE))] == [None] * 10
    model = calibrate(memory, FAMILIAR)
    flagged = [answer.unfamiliar for answer in predict(model, list(FAMILIAR))]
    assert sum(flagged) == 3
    assert all(answer.unfamiliar for answer in predict(model, list(STRANGE)))
    assert all(answer.unfamiliar for answer in predict(model, list(STRANGE), "recall"))
    completed = [answer.unfamiliar for answer in predict(model, list(FAMILIAR[:10]), "recall", erase="quarter")]
    assert sum(completed) <= 1


def test_a_negative_of_what_it_knows_gets_a_hint(memory):
    model = calibrate(memory, FAMILIAR)
    negatives = [1 - answer.image for answer in predict(model, list(FAMILIAR)) if not answer.unfamiliar]
    for answer in predict(model, negatives):
        assert answer.unfamiliar
        assert "with bright and dark exchanged, by `invert`" in answer.notes[-1]
    assert not any(answer.unfamiliar for answer in predict(model, negatives, invert=True))
    assert not any("invert" in note for answer in predict(model, list(STRANGE)) for note in answer.notes)


def test_of_many_pictures_a_thousand_are_measured(memory):
    many = np.concatenate([FAMILIAR[:1].repeat(1990, axis=0), STRANGE])
    assert calibrate(memory, many, seed=1).config.unfamiliar < memory.strangeness(STRANGE[0])


def test_a_run_calibrates_its_result_and_a_loss_of_ones_own_does_not(memory, tmp_path):
    def own(model, batch, *, key):
        return jnp.mean(model.memories() ** 2), {}

    for name, task in {"denoise": "denoise", "own": own}.items():
        recipe = Recipe(task=task, steps=1, batch_size=8, validation=0)
        tuned = finetune(memory, (FAMILIAR, LABELS), recipe, workdir=tmp_path / name, quiet=True)
        assert (tuned.config.unfamiliar is None) is (name == "own")
        assert from_pretrained(tmp_path / name / "model").config == tuned.config


def test_a_threshold_is_a_number_of_at_least_0():
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"unfamiliar is .*; expected a finite number of at least 0"):
            DenseHopfieldConfig(shape=SHAPE, unfamiliar=wrong)


def test_the_commands_calibrate_and_flag(memory, tmp_path):
    memory.save_pretrained(tmp_path / "memory")
    for name, images in {"known": FAMILIAR, "strange": STRANGE}.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images[:20]):
            Image.fromarray((255 * image.squeeze()).astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    made = run("calibrate", "memory", "--data", "known", "--out", "made", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "unlike what it learned is a strangeness above 0." in made.stdout
    told = run("classify", "made", "strange", "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert [json.loads(line)["unfamiliar"] for line in told.stdout.splitlines()] == [True] * 10
    assert "10 of the pictures: unlike what the memory learned" in told.stderr
    (tmp_path / "paper").mkdir()
    Image.fromarray(255 - (255 * PATTERNS[0].squeeze()).astype(np.uint8)).save(tmp_path / "paper" / "0.png")
    assert "exchanged, by --invert" in run("classify", "made", "paper", cwd=tmp_path).stderr
    again = run("calibrate", "memory", "--data", "known", "--out", "made", cwd=tmp_path)
    assert "made is there already and is not empty; choose another folder with --out" in again.stderr
