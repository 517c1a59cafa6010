"""Answers about a person's pictures, in Python and from the command line."""

import csv
import io
import json

import jax
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_cli import run

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, EnergyTransformer, EnergyTransformerConfig, predict
from hamux_zoo.answers import Classified, Completed, Unread, erased

SHAPE = (8, 8, 1)
rng = np.random.default_rng(0)
MODEL = DenseHopfield(
    DenseHopfieldConfig(shape=SHAPE, memories=6, classes=3, class_names=("ant", "bee", "cat"), beta=0.02), key=jr.key(0)
)
TOKENS = EnergyTransformer(
    EnergyTransformerConfig(shape=SHAPE, dim=12, heads=2, head_dim=4, memories=7, steps=2), key=jr.key(0)
)
IMAGES = rng.integers(0, 256, (7, 8, 8), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "my pictures [1]/a#b"
    pictures.mkdir(parents=True)
    for i, image in enumerate(IMAGES[:5]):
        Image.fromarray(image).save(pictures / f"{i}.png")
    Image.fromarray(IMAGES[5]).resize((20, 20)).convert("RGB").save(pictures.parent / "large.JPG")
    (pictures / "notes.txt").write_text("no picture")
    (pictures / "broken.png").write_bytes(b"no picture either")
    MODEL.save_pretrained(tmp_path / "model")
    return pictures.parent


def classes(answers):
    return [answer.label for answer in answers if isinstance(answer, Classified)]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_answers_are_those_of_the_model_in_order(batch_size):
    expected = [np.asarray(MODEL.classify(image[..., None] / 255)) for image in IMAGES]
    answers = list(predict(MODEL, list(IMAGES), batch_size=batch_size))
    assert [answer.source for answer in answers] == [f"picture {i}" for i in range(7)]
    for answer, scores in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.scores, scores, rtol=1e-5, atol=1e-5)
        assert answer.label == np.argmax(scores)
        assert answer.name == ("ant", "bee", "cat")[answer.label]
        assert answer.probability == pytest.approx(float(jax.nn.softmax(scores)[answer.label]), rel=1e-4)


def test_a_recall_holds_what_is_known_and_damages_what_it_is_told_to():
    image = IMAGES[0]
    (answer,) = predict(MODEL, image, "recall", erase="lower")
    assert isinstance(answer, Completed)
    assert answer.known[:4].all()
    assert not answer.known[4:].any()
    np.testing.assert_array_equal(answer.recalled[:4, :, 0], image[:4].astype(np.float32) / 255)
    expected = MODEL.recall(answer.image, answer.known)
    np.testing.assert_allclose(answer.recalled, expected.x, atol=1e-5)
    assert answer.converged == bool(expected.converged)
    assert answer.energy == pytest.approx(float(expected.energies[-1]), rel=1e-4)
    (masked,) = predict(MODEL, image, "recall", known=answer.known[..., 0])
    np.testing.assert_allclose(masked.recalled, answer.recalled, atol=1e-6)
    noisy = list(predict(MODEL, [image, image], "recall", noise=0.5, steps=3, batch_size=1))
    assert noisy[0].steps == 3
    changed = [np.mean(each.given != each.image) for each in noisy]
    assert all(0.2 < share < 0.8 for share in changed)
    assert not np.array_equal(noisy[0].given, noisy[1].given)
    assert noisy[0].known is None


@pytest.mark.parametrize("part", ["lower", "upper", "left", "right", "quarter", "patches"])
def test_a_half_or_a_quarter_is_erased(part):
    masks = erased(part, (8, 12, 3))
    assert all(np.mean(mask) == (0.75 if part == "quarter" else 0.5) for mask in masks)
    assert len(masks) == (100 if part == "patches" else 1)


def test_features_have_a_row_for_each_picture():
    answers = list(predict(TOKENS, iter(IMAGES), "features"))
    np.testing.assert_allclose(answers[2].features, TOKENS.features(answers[2].image), rtol=1e-4, atol=1e-5)


def test_folders_patterns_and_files_are_read_whatever_their_names(folder):
    answers = list(predict(MODEL, folder))
    assert len(answers) == 7
    assert [answer.source for answer in answers if isinstance(answer, Unread)] == [str(folder / "a#b/broken.png")]
    large = next(answer for answer in answers if "large" in answer.source)
    assert large.notes == ("made grey", "resized to 8 × 8 pixels")
    for given in (str(folder / "a#b/0.png"), [folder / "a#b/0.png"], (folder / "a#b/0.png").read_bytes()):
        assert classes(predict(MODEL, given)) == classes(predict(MODEL, IMAGES[0]))
    pattern = str(folder.parent / "my*/a#b/[0-3].png")
    assert classes(predict(MODEL, pattern)) == classes(predict(MODEL, list(IMAGES[:4])))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "generate"}, ValueError, "task is 'generate', but this DenseHopfield does"),
        ({"erase": "middle", "task": "recall"}, ValueError, '`erase` is "middle"; expected one of'),
        ({"erase": "lower", "noise": 0.1, "task": "recall"}, ValueError, "exclude one another"),
        ({"noise": 2.0, "task": "recall"}, ValueError, "`noise` is 2.0; expected a share"),
        ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
        ({"pictures": "missing.png"}, FileNotFoundError, 'there is no "missing.png"'),
        ({"pictures": "missing*.png"}, FileNotFoundError, 'no file matches "missing\\*.png"'),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        predict(MODEL, **{"pictures": IMAGES[0]} | arguments)


def test_a_folder_without_pictures_and_a_memory_of_no_pictures_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="holds no picture among its 1 files"):
        predict(MODEL, tmp_path)
    flat = DenseHopfield(DenseHopfieldConfig(shape=(5,), memories=3, classes=2), key=jr.key(0))
    with pytest.raises(ValueError, match="no pictures in"):
        predict(flat, IMAGES[0])


def test_the_command_classifies_for_people_and_for_machines(folder):
    shown = run("classify", "model", folder.name, cwd=folder.parent)
    assert shown.returncode == 1
    assert "large.JPG" in shown.stdout
    assert "broken.png cannot be read" in shown.stderr
    assert "1 of the pictures: resized to 8 × 8 pixels" in shown.stderr
    good = [str(folder / f"a#b/{i}.png") for i in range(5)]
    expected = [answer.name for answer in predict(MODEL, good)]
    table = run("classify", "model", *good, "--csv", cwd=folder.parent)
    assert table.returncode == 0
    assert [row["class"] for row in csv.DictReader(io.StringIO(table.stdout))] == expected
    lines = run("classify", "model", *good, "--json", cwd=folder.parent).stdout.splitlines()
    assert [json.loads(line)["class"] for line in lines] == expected


def test_the_commands_draw_generate_and_describe(folder):
    one, out = str(folder / "a#b/0.png"), folder.parent / "out"
    Image.fromarray(np.repeat([[255], [0]], 4, axis=0).repeat(8, axis=1).astype(np.uint8)).save(folder / "mask.png")
    shown = run(
        "recall", "model", one, "--known", str(folder / "mask.png"), "--out", "out", "--json", cwd=folder.parent
    )
    assert shown.returncode == 0, shown.stderr
    with Image.open(folder.parent / json.loads(shown.stdout)["picture"]) as picture:
        assert picture.size[0] == 2 * picture.size[1]
    made = run("generate", "model", "--label", "bee", "--count", "3", "--out", "out", cwd=folder.parent)
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.splitlines()) == len(list(out.glob("bee-*.png"))) == 3
    wrong = run("generate", "model", "--label", "dog", cwd=folder.parent)
    assert wrong.returncode == 1
    assert '--label is "dog"; the model knows the classes' in wrong.stderr
    for name in ("rows.parquet", "rows.npz"):
        assert run("features", "model", one, "--out", name, cwd=folder.parent).returncode == 0
    rows = pd.read_parquet(folder.parent / "rows.parquet")
    with np.load(folder.parent / "rows.npz") as arrays:
        np.testing.assert_array_equal(arrays["features"][0], rows["features"][0])
    assert list(rows["source"]) == [one]
