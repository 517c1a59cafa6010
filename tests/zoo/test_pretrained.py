"""The bundled memories on the samples, and what their cards say."""

import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer

from hamux_zoo import ConvHAM, DenseHopfield, EnergyTransformer, from_pretrained, list_pretrained, load_samples
from hamux_zoo._card import read_card
from hamux_zoo._corruptions import all_but_a_quarter
from hamux_zoo._evaluation import (
    classify,
    corruptions,
    error,
    evaluate,
    fixed_masks,
    hidden_mse,
    mean_colour,
    reconstruct,
    retrieve,
)
from hamux_zoo.cli import app

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


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in CONVOLUTIONAL])
def convolutional(request):
    with jax.enable_x64(False):
        yield request.param, from_pretrained(request.param), load_samples(CONVOLUTIONAL[request.param])


def score(name, metric):
    return next(m["value"] for m in read_card(name).metrics if m["name"].startswith(metric))


def mean_colour_of_card(name):
    return float(re.search(r"mean image, mean colour \| [\d.]+, ([\d.]+)", read_card(name).text)[1])


def test_all_are_listed():
    assert list_pretrained() == sorted(BUNDLED)


def assert_errs_no_more_than_its_card_says(name, error, images):
    expected = score(name, "test error")
    assert error <= expected + 3 * np.sqrt(expected * (100 - expected) / len(images))


def test_classifies_as_well_as_its_card_says(memory):
    name, model, (images, labels) = memory
    assert isinstance(model, DenseHopfield)
    assert_errs_no_more_than_its_card_says(name, error(classify(model, images), labels), images)


def test_completes_better_than_the_mean_image(memory):
    _, model, (images, _) = memory
    cues, known = corruptions(images)["lower half missing"]
    result = retrieve(model, cues, known)
    error, of_the_mean = (np.mean((x - images)[:, ~known] ** 2) for x in (result.x, images.mean(axis=0)))
    assert error < 0.75 * of_the_mean
    np.testing.assert_array_equal(result.x[:, known], images[:, known])
    assert np.mean(result.converged) > 0.9


def test_a_few_steps_denoise_and_stay_with_the_class(memory):
    name, model, (images, labels) = memory
    cues, _ = corruptions(images)["Gaussian, σ 0.4"]
    denoised = np.asarray(jax.jit(jax.vmap(lambda cue: model.retrieve(cue, steps=4).x))(cues))
    assert np.mean((denoised - images) ** 2) < 0.4 * np.mean((cues - images) ** 2)
    expected = score(name, "test error")
    assert 100 * np.mean(classify(model, denoised) != labels) < 2 * expected + 5


def assert_retrieval_never_goes_up(model, images):
    for cues, known in corruptions(images).values():
        energies = retrieve(model, cues, known).energies
        scale = np.abs(energies).max(axis=1, keepdims=True)
        assert np.all(np.diff(energies) <= 1e-5 * scale)
        assert np.all(energies[:, -1] < energies[:, 0])


def test_retrieval_never_goes_up(memory):
    _, model, (images, _) = memory
    assert_retrieval_never_goes_up(model, images[:50])


def test_a_transformer_does_what_its_card_says(transformer):
    name, model, samples = transformer
    assert isinstance(model, EnergyTransformer)
    measured = evaluate(model, samples)
    metrics = read_card(name).metrics
    assert [metric["name"] for metric in metrics] == (
        ["test error, %"]
        if name.endswith("classify")
        else [f"error, {100 * share:g} % hidden" for share in model.config.masked]
    )
    for metric in metrics:
        if metric["name"] == "test error, %":
            assert_errs_no_more_than_its_card_says(name, measured["test_error"], samples.images)
        else:
            share = re.search(r"(\d+) % hidden", metric["name"])[1]
            assert measured[f"masked_{share}_mse"] < 1.3 * metric["value"]
            assert measured[f"masked_{share}_mse"] < 0.5 * measured[f"masked_{share}_mean_colour_mse"]


def test_half_precision_reconstructs_as_well(transformer):
    _, model, samples = transformer
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    masks = fixed_masks(model.config.patches, model.config.masked[0], len(samples.images))
    whole, rounded = (np.asarray(reconstruct(each, samples.images, masks), np.float32) for each in (model, half))
    error, of_rounding = (np.mean((one - whole) ** 2) for one in (samples.images, rounded))
    assert of_rounding < 0.01 * error


def test_a_transformers_energy_never_rises(transformer):
    _, model, (images, _) = transformer
    masks = fixed_masks(model.config.patches, model.config.masked[0], len(images))
    energies = jax.jit(jax.vmap(lambda image, mask: model.energy(image, mask)["total"]))(images, masks)
    assert np.all(np.diff(energies) < 0)


def test_a_convolutional_ham_names_and_completes_as_well_as_its_card_says(convolutional):
    name, model, (images, labels) = convolutional
    assert isinstance(model, ConvHAM)
    assert_errs_no_more_than_its_card_says(name, error(classify(model, images), labels), images)
    some, known = images[:50], all_but_a_quarter(model.config.shape)
    hidden = np.broadcast_to(~known, some.shape)
    completed = retrieve(model, some, known)
    mse, of_mean_colour = (hidden_mse(guess, some, hidden) for guess in (completed.x, mean_colour(some, hidden)))
    assert mse < 1.3 * score(name, "quarter")
    assert (mse < of_mean_colour) == (score(name, "quarter") < mean_colour_of_card(name))
    assert np.sum(~completed.converged) <= (name != "conv-ham-mnist")  # 99.5 % of the others' completions converge
    np.testing.assert_array_equal(completed.x[:, known], some[:, known])


def test_a_convolutional_hams_energy_never_rises(convolutional):
    _, model, (images, _) = convolutional
    assert_retrieval_never_goes_up(model, images[:20])


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
