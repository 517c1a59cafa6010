"""The bundled memories on the samples, and what their cards say."""

import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import typer

from hamux_zoo import (
    ConvHAM,
    DenseHopfield,
    EnergyTransformer,
    from_pretrained,
    list_models,
    list_pretrained,
    load_samples,
)
from hamux_zoo.cli import app
from hamux_zoo.data import gaussian_noise
from hamux_zoo.files import read_card
from hamux_zoo.measure import classes_of, error, mean_colour, recalled, salted, unknown_mse

README = (Path(__file__).parents[2] / "README.md").read_text()
HOPFIELD = {"dense-hopfield-mnist": "mnist", "dense-hopfield-fashion-mnist": "fashion-mnist"}
TRANSFORMERS = {"et-small-cifar10": "cifar10", "et-small-cifar10-classify": "cifar10", "et-small-mnist": "mnist"}
CONVOLUTIONAL = {"conv-ham-cifar10": "cifar10", "conv-ham-fashion-mnist": "fashion-mnist", "conv-ham-mnist": "mnist"}
BUNDLED = HOPFIELD | TRANSFORMERS | CONVOLUTIONAL


@pytest.fixture(scope="module", params=sorted(HOPFIELD))
def memory(request):
    return request.param, from_pretrained(request.param), load_samples(HOPFIELD[request.param])


@pytest.fixture(scope="module", params=sorted(TRANSFORMERS))
def transformer(request):
    with jax.enable_x64(False):
        yield request.param, from_pretrained(request.param), load_samples(TRANSFORMERS[request.param]).part(slice(100))


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) for name in CONVOLUTIONAL if CONVOLUTIONAL[name] != "cifar10"],
)
def convolutional(request):
    with jax.enable_x64(False):
        yield request.param, from_pretrained(request.param), load_samples(CONVOLUTIONAL[request.param])


def score(name, metric):
    return next(m["value"] for m in read_card(name).metrics if m["name"].startswith(metric))


def test_all_are_listed():
    assert list_pretrained() == sorted(BUNDLED)
    assert list_pretrained("dense-*") == sorted(HOPFIELD)
    assert list_pretrained("nothing*") == []


def test_they_are_described_without_being_loaded():
    (digits,) = list_models("dense-*", pretrained=True)[1:]
    leaves = jax.tree.leaves(from_pretrained("dense-hopfield-mnist"))
    assert digits.parameters == sum(leaf.size for leaf in leaves)
    assert digits.nbytes == sum(leaf.nbytes for leaf in leaves)
    assert (digits.model_type, digits.datasets) == ("dense-hopfield", ["ylecun/mnist"])
    assert digits.metrics == read_card("dense-hopfield-mnist").metrics


def test_those_of_an_architecture_and_a_task_are_found():
    def names(*pattern, **options):
        return [each.name for each in list_models(*pattern, pretrained=True, **options)]

    assert names() == sorted(BUNDLED)
    assert names(model_type="energy-transformer") == sorted(TRANSFORMERS)
    assert names("*mnist*", task="generate") == sorted(set(HOPFIELD) | set(CONVOLUTIONAL) - {"conv-ham-cifar10"})
    assert names(model_type="energy-transformer", task="classify") == ["et-small-cifar10-classify"]
    assert names(task="fly") == []
    assert list_models("*ham*") == ["conv-ham"]


def assert_errs_no_more_than_its_card_says(name, error, images):
    expected = score(name, "test error")
    assert error <= expected + 3 * np.sqrt(expected * (100 - expected) / len(images))


def noisy(images, level=0.4):
    keys = jr.split(jr.key(0), len(images))
    return np.asarray(
        jax.vmap(gaussian_noise, (0, 0, None))(keys, jnp.asarray(images), jnp.asarray(level, images.dtype))
    )


def assert_no_recall_goes_up(model, images):
    damaged = [(images, known) for known in model.masks(len(images)).values()]
    for cues, known in [*damaged, (salted(images), None), (noisy(images), None)]:
        energies = recalled(model, cues, known, energies=True).energies
        scale = np.abs(energies).max(axis=1, keepdims=True)
        assert np.all(np.diff(energies) <= 1e-5 * scale)
        assert np.all(energies[:, -1] < energies[:, 0])


def test_classifies_as_well_as_its_card_says(memory):
    name, model, (images, labels) = memory
    assert isinstance(model, DenseHopfield)
    assert_errs_no_more_than_its_card_says(name, error(classes_of(model, images), labels), images)


def test_completes_better_than_the_mean_image(memory):
    _, model, (images, _) = memory
    some, known = images[:100], model.masks(100)["completion"]
    end = recalled(model, some, known)
    assert unknown_mse(end.x, some, known) < 0.75 * unknown_mse(images.mean(axis=0), some, known)
    np.testing.assert_array_equal(end.x[known], some[known])
    assert np.mean(end.converged) > 0.9


def test_a_few_steps_denoise_and_stay_with_the_class(memory):
    name, model, (images, labels) = memory
    denoised = np.asarray(jax.jit(jax.vmap(lambda cue: model.recall(cue, steps=4).x))(noisy(images)))
    assert np.mean((denoised - images) ** 2) < 0.4 * np.mean((noisy(images) - images) ** 2)
    assert error(classes_of(model, denoised), labels) < 2 * score(name, "test error") + 5


def test_no_recall_goes_up(memory):
    _, model, (images, _) = memory
    assert_no_recall_goes_up(model, images[:50])


def test_a_transformer_does_what_its_card_says(transformer):
    name, model, samples = transformer
    assert isinstance(model, EnergyTransformer)
    images, metrics, masks = samples.images, read_card(name).metrics, model.masks(len(samples.images))
    assert [metric["name"] for metric in metrics] == (
        ["test error, %"]
        if name.endswith("classify")
        else [f"error, {100 * share:g} % hidden" for share in model.config.masked]
    )
    for metric in metrics:
        if metric["name"] == "test error, %":
            assert_errs_no_more_than_its_card_says(name, error(classes_of(model, images), samples.labels), images)
        else:
            share = re.search(r"(\d+) % hidden", metric["name"])[1]
            known = masks[f"masked_{share}"]
            completed = unknown_mse(np.asarray(recalled(model, images, known).x), images, known)
            assert completed < 1.3 * metric["value"]
            assert completed < 0.5 * unknown_mse(mean_colour(images, known), images, known)


def test_half_precision_recalls_as_well(transformer):
    _, model, samples = transformer
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    known = next(iter(model.masks(len(samples.images)).values()))
    whole, rounded = (np.asarray(recalled(each, samples.images, known).x, np.float32) for each in (model, half))
    assert np.mean((rounded - whole) ** 2) < 0.01 * np.mean((samples.images - whole) ** 2)


def test_a_transformers_energy_never_rises(transformer):
    _, model, (images, _) = transformer
    known = next(iter(model.masks(len(images)).values()))
    assert np.all(np.diff(recalled(model, images, known, energies=True).energies) < 0)


def test_a_convolutional_ham_names_and_completes_as_well_as_its_card_says(convolutional):
    name, model, (images, labels) = convolutional
    assert isinstance(model, ConvHAM)
    assert_errs_no_more_than_its_card_says(name, error(classes_of(model, images), labels), images)
    some, known = images[:50], model.masks(50)["quarter"]
    completed = np.asarray(recalled(model, some, known).x)
    errors = np.mean((completed - some)[~known].reshape(len(some), -1) ** 2, axis=1)
    assert np.mean(errors) - 3 * np.std(errors) / len(some) ** 0.5 < score(name, "completion error of a quarter")
    assert unknown_mse(completed, some, known) < 0.75 * unknown_mse(mean_colour(some, known), some, known)
    np.testing.assert_array_equal(completed[known], some[known])


@pytest.mark.slow
def test_a_convolutional_ham_names_and_completes_photos():
    """Of which a recall takes seconds."""
    with jax.enable_x64(False):
        name = "conv-ham-cifar10"
        model, (images, labels) = from_pretrained(name), load_samples("cifar10").part(slice(40))
        assert_errs_no_more_than_its_card_says(name, error(classes_of(model, images), labels), images)
        some, known = images[:8], model.masks(8)["quarter"]
        completed = np.asarray(recalled(model, some, known).x)
        assert unknown_mse(completed, some, known) < 0.75 * unknown_mse(mean_colour(some, known), some, known)


def test_a_convolutional_ham_generates_images_of_the_label_that_differ(convolutional):
    _, model, (images, labels) = convolutional
    asked = np.repeat(np.arange(10), 4)
    generate = jax.jit(jax.vmap(lambda label, key: model.generate(label, key=key).x))
    made = np.asarray(generate(asked, jax.random.split(jax.random.key(0), len(asked))))
    assert error(classes_of(model, made), asked) < 30
    assert np.std(made[:4], axis=0).mean() > 0.2 * np.std(images[labels == 0], axis=0).mean()


def test_a_convolutional_hams_energy_never_rises(convolutional):
    _, model, (images, _) = convolutional
    assert_no_recall_goes_up(model, images[:20])


def test_the_readmes_table_is_the_cards():
    for name in BUNDLED:
        row = re.search(rf"^\| `{name}` \|(.*)\|$", README, flags=re.MULTILINE)[1]
        for metric in read_card(name).metrics:
            assert str(metric["value"]) in row, (name, metric)


def test_the_commands_on_the_cards_are_taken_by_the_command_line():
    commands = typer.main.get_command(app).commands
    for name in BUNDLED:
        found = re.findall(r"^    hamux-zoo (.*)", read_card(name).text.replace("\\\n", ""), flags=re.MULTILINE)
        used = [shlex.split(line) for line in found]
        commands_used = {command for command, *_ in used}
        assert "evaluate" in commands_used
        assert commands_used & {"train", "finetune"}
        for command, *arguments in used:
            commands[command].make_context(command, arguments)  # ends with an error for an option that is not there


def test_cards_hold_recipe_seed_time_and_hardware():
    for name in BUNDLED:
        text = read_card(name).text
        for part in ("--seed", f"hamux-zoo evaluate {name}", "cores", "held out"):
            assert part in text, (name, part)
