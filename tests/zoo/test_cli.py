"""The installed command, in a process of its own, without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hamux_zoo._card import read_card

COMMAND = Path(sys.executable).with_name("hamux-zoo")
CLOTHES = Path(__file__).parents[2] / "zoo/src/hamux_zoo/samples/clothes"


def run(*arguments, cwd, **environment):
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | environment
    return subprocess.run([COMMAND, *arguments], cwd=cwd, env=offline, capture_output=True, text=True, check=False)


def test_help_names_every_command(tmp_path):
    shown = run("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert all(
        re.search(rf"\b{name}\b", shown.stdout)
        for name in ("app", "demo", "evaluate", "finetune", "import", "info", "list", "train")
    )


def test_help_and_list_import_nothing_heavy(tmp_path):
    code = "import sys; from hamux_zoo.cli import list_command; list_command(); print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"'jax'", "'datasets'", "'matplotlib'", "'huggingface_hub'", "'optax'", "'grain'", "'orbax'"} & set(
        re.findall(r"'\w+'", shown.stdout)
    )


def test_list_shows_size_data_and_score(tmp_path):
    shown = run("list", cwd=tmp_path)
    assert re.search(r"dense-hopfield-mnist\s.*\d MB.*ylecun/mnist.*test error.*%", shown.stdout)
    assert re.search(r"dense-hopfield-fashion-mnist\s.*\d MB.*zalando-datasets/fashion_mnist", shown.stdout)


def test_info_shows_the_card(tmp_path):
    shown = run("info", "dense-hopfield-mnist", cwd=tmp_path)
    assert "hamux-zoo train dense-hopfield" in shown.stdout
    assert "held out" in shown.stdout


@pytest.mark.slow
def test_demo_in_an_empty_folder(tmp_path):
    shown = run("demo", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    rows = {}
    for line in shown.stdout.splitlines():
        name, *cells = (cell.strip() for cell in re.split(r" {2,}", line.strip()))
        if len(cells) == 6 and cells[0][0].isdigit():
            rows[name] = [cell if cell == "–" else float(cell.removesuffix(" %")) for cell in cells]
    photos = "50 % of patches hidden"
    assert set(rows) == {"lower half missing", "30 % salt, pepper", "Gaussian, σ 0.4", photos}
    card = read_card("dense-hopfield-mnist").text
    for name, (before, after, accuracy, steps, energy_before, energy_after) in rows.items():
        assert after < before
        if name == photos:
            assert (accuracy, steps) == ("–", 12)
            assert after < before / 4
        else:
            assert accuracy > 90 if name == "lower half missing" else f"{accuracy} %" in card
        assert steps >= 1
        assert energy_after < energy_before
    for picture in ("retrieval", "reconstruction"):
        with Image.open(tmp_path / f"hamux-demo/{picture}.png") as drawn:
            assert drawn.width > 800
            assert len(drawn.getcolors(2**24)) > 100
        with Image.open(tmp_path / f"hamux-demo/{picture}.gif") as film:
            assert film.n_frames > 5
        assert all(f"hamux-demo/{picture}.{kind}" in shown.stdout for kind in ("png", "gif"))


@pytest.mark.slow
def test_train_finetune_and_evaluate_on_a_folder_of_pictures(tmp_path):
    small = ("--set", "memories=20", "--set", "energy=polynomial", "--set", "beta=2.0", "--batch-size", "20")
    trained = run("train", "dense-hopfield", "--data", CLOTHES, "--out", "a", "--steps", "30", *small, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "step 30 of 30: accuracy" in trained.stdout
    assert trained.stdout.endswith("saved: a/model\n")
    tasks = (
        "--task",
        "classify",
        "--task",
        "reconstruct=10",
        "--augment",
        "flip",
        "--trainable",
        "head",
        "--seed",
        "1",
    )
    tuned = run("finetune", "a/model", "--data", CLOTHES, "--out", "b", "--steps", "4", *tasks, cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    settings = json.loads((tmp_path / "b/run.json").read_text())
    assert settings["task"] == {"classify": 1.0, "reconstruct": 10.0}
    assert (settings["augment"], settings["trainable"], settings["seed"]) == (["flip"], "head", 1)
    measured = run("evaluate", "b/model", "--data", CLOTHES, cwd=tmp_path)
    assert re.search(r"test_error\s.*\d", measured.stdout)
    assert re.search(r"nearest_image_mse\s.*\d", measured.stdout)
    alone = run("evaluate", "b/model", "--data", CLOTHES / "train", cwd=tmp_path)
    assert f'{CLOTHES / "train"} has no split "test"; there are' in alone.stderr
    shutil.copytree(CLOTHES / "test/dress", tmp_path / "few/dress")
    shutil.copytree(CLOTHES / "test/bag", tmp_path / "few/car")
    few = run("evaluate", "b/model", "--data", "few", "--split", "train", cwd=tmp_path)
    assert "the model does not know the classes ['car']; it knows ['ankle-boot', 'bag'" in few.stderr
    again = run("finetune", "a/model", "--data", CLOTHES, "--out", "b", "--steps", "5", *tasks, cwd=tmp_path)
    assert "b holds another run (steps was 4 and is 5" in again.stderr
    assert again.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "dense-hopfield-mnist", "--data", ".", "--out", "o"], '"." holds no images and no data set'),
        (["finetune", "dense-hopfield-mnist", "--data", CLOTHES, "--out", "o", "--task", "classify=x"], "the weight"),
        (["finetune", "dense-hopfield-mnist", "--data", CLOTHES, "--out", "."], "is not empty and holds no run"),
        (
            ["train", "dense-hopfield", "--data", CLOTHES, "--out", "o", "--set", "memories"],
            "not of the form NAME=VALUE",
        ),
        (["train", "dense-hopfield", "--data", CLOTHES, "--out", "o", "--set", "shape=28"], "images have three"),
        (
            ["train", "dense-hopfield", "--data", CLOTHES, "--out", "o", "--num-processes", "2"],
            "give --coordinator, --num-processes and --process-id together",
        ),
        (["info", "dense-hopfield-mnst"], "did you mean dense-hopfield-mnist"),
        (["evaluate", "dense-hopfield-mnist", "--data", "nowhere"], '"nowhere" is neither a folder with a data set'),
        (["evaluate", "nothing", "--data", "nowhere"], '"nothing" is neither a bundled model nor a folder'),
        (["train", "resnet", "--data", "nowhere", "--out", "o"], 'unknown architecture "resnet"; there are'),
        (["demo", "--out", "a-file"], "a-file"),
        (["demo", "--samples", "mnist"], "--samples are those of one model; name it with --model"),
        (
            ["demo", "--model", "dense-hopfield-mnist", "--samples", "cifar10"],
            "the model takes images of shape (28, 28, 1)",
        ),
        (
            ["finetune", "dense-hopfield-mnist", "--data", CLOTHES, "--out", "o", "--set", "memories=3"],
            "are of other shapes",
        ),
    ],
)
def test_a_wrong_argument_ends_with_its_message(tmp_path, arguments, message):
    (tmp_path / "a-file").write_text("")
    shown = run(*arguments, cwd=tmp_path)
    assert shown.returncode == 1
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr
