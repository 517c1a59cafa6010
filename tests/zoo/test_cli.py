"""The installed command, in a process of its own, without a network."""

import dataclasses
import inspect
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.random as jr
import pytest
from PIL import Image

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, Recipe, cli

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


def test_list_takes_a_pattern_and_filters(tmp_path):
    names = [line.split()[1] for line in run("list", "dense*", cwd=tmp_path).stdout.splitlines() if "hopfield" in line]
    assert names == ["dense-hopfield-fashion-mnist", "dense-hopfield-mnist"]
    shown = run("list", "--architecture", "energy-transformer", "--task", "classify", cwd=tmp_path).stdout
    assert "et-small-cifar10-classify" in shown
    assert "dense" not in shown
    assert "et-small-mnist" not in shown
    none = run("list", "nothing*", cwd=tmp_path)
    assert none.returncode == 1
    assert "there are conv-ham" in none.stderr
    assert re.fullmatch(r"hamux-zoo \d+\.\d+\.\d+\n", run("--version", cwd=tmp_path).stdout)


def test_options_of_a_training_are_the_fields_of_a_recipe():
    options = inspect.signature(cli._Training).parameters
    for field in dataclasses.fields(Recipe):
        option = options[field.name]
        unset = {"task": None, "augment": None}.get(field.name, field.default)  # which typer takes as lists
        assert option.default == unset, field.name


def test_messages_name_flags():
    flags = {"workdir": "--out", "overwrite": "--overwrite", "validation": "--validation", "skip_bad": "--skip-bad"}
    message = "take another `workdir`, `overwrite=True`, `skip_bad=True` or `validation=0`; `resume=False` and `x` stay"
    told = "take another --out, --overwrite, --skip-bad or --validation 0; `resume=False` and `x` stay"
    assert cli._with_flags(message, flags) == told


def test_info_of_a_folder_without_a_card(tmp_path):
    DenseHopfield(DenseHopfieldConfig(shape=(4,), memories=3), key=jr.key(0)).save_pretrained(tmp_path / "bare")
    (tmp_path / "bare/README.md").unlink()
    shown = run("info", "bare", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "bare has no card; this is what its model says of itself" in shown.stdout
    assert "model = from_pretrained" in shown.stdout


def test_a_memory_of_no_pictures_is_refused_where_pictures_are_asked_for(tmp_path):
    DenseHopfield(DenseHopfieldConfig(shape=(4,), memories=3), key=jr.key(0)).save_pretrained(tmp_path / "row")
    shown = run("evaluate", "row", "--data", CLOTHES, cwd=tmp_path)
    assert "the model takes patterns of shape (4,) from 0 to 1, not pictures" in shown.stderr
    assert "hamux_zoo.evaluate" in shown.stderr
    shown = run("demo", "--model", "row", cwd=tmp_path)
    assert "patterns of shape (4,) cannot be shown as pictures" in shown.stderr


@pytest.mark.slow
def test_demo_of_a_memory_without_labels_or_samples(tmp_path):
    DenseHopfield(DenseHopfieldConfig(shape=(28, 28), memories=3), key=jr.key(0)).save_pretrained(tmp_path / "grey")
    shown = run("demo", "--model", "grey", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"lower half missing\s+[\d.]+\s+[\d.]+\s+–", shown.stdout)
    assert "quarter" not in shown.stdout
    DenseHopfield(DenseHopfieldConfig(shape=(9, 9, 1), memories=3), key=jr.key(0)).save_pretrained(tmp_path / "small")
    shown = run("demo", "--model", "small", cwd=tmp_path)
    assert "this memory takes patterns of shape (9, 9, 1); the samples have the shapes {" in shown.stderr


def test_info_shows_the_card(tmp_path):
    shown = run("info", "dense-hopfield-mnist", cwd=tmp_path)
    assert "hamux-zoo train dense-hopfield" in shown.stdout
    assert "held out" in shown.stdout


@pytest.mark.slow
def test_demo_in_an_empty_folder(tmp_path):
    shown = run("demo", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    rows: dict[str, list] = {}
    for line in shown.stdout.splitlines():
        name, *cells = (cell.strip() for cell in re.split(r" {2,}", line.strip()))
        if len(cells) == 6 and cells[0][0].isdigit():
            numbers = [cell if cell == "–" else float(cell.removesuffix(" %")) for cell in cells]
            rows.setdefault(name, []).append(numbers)
    noise = ["30 % salt, pepper", "Gaussian, σ 0.4"]
    digits, photos = ["lower half missing", "lower right quarter missing"], ["50 % masked"]
    counts = dict.fromkeys(digits + photos, 1) | dict.fromkeys(noise, 2)
    assert {name: len(found) for name, found in rows.items()} == counts
    for before, after, accuracy, steps, energy_before, energy_after in itertools.chain(*rows.values()):
        assert after < before
        assert energy_after < energy_before
        assert (accuracy == "–") == (steps == 12)  # that is the photos' memory
    for name in digits + noise:
        assert rows[name][0][2] > 90
    assert rows["50 % masked"][0][1] < rows["50 % masked"][0][0] / 4
    for picture in ("dense-hopfield-mnist", "et-small-cifar10"):
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
    late = run("evaluate", "b/model", "--data", CLOTHES, "--first", "99999", cwd=tmp_path)
    assert re.search(r"--first is 99999; the split has \d+ images, from 0", late.stderr)
    alone = run("evaluate", "b/model", "--data", CLOTHES / "train", cwd=tmp_path)
    assert f'{CLOTHES / "train"} has no split "test"; there are' in alone.stderr
    shutil.copytree(CLOTHES / "test/dress", tmp_path / "few/dress")
    shutil.copytree(CLOTHES / "test/bag", tmp_path / "few/car")
    few = run("evaluate", "b/model", "--data", "few", "--split", "train", cwd=tmp_path)
    assert "the model does not know the classes ['car']; it knows ['ankle-boot', 'bag'" in few.stderr
    again = run("finetune", "a/model", "--data", CLOTHES, "--out", "b", "--steps", "5", *tasks, cwd=tmp_path)
    assert "b holds another run (steps was 4 and is 5" in again.stderr
    assert again.returncode == 1


ONE_AFTER_ANOTHER = """
import json, os, sys
from typer.testing import CliRunner
from hamux_zoo.cli import app

for line in sys.stdin:
    folder, *arguments = json.loads(line)
    os.chdir(folder)
    ended = CliRunner().invoke(app, arguments)
    print(json.dumps([ended.exit_code, type(ended.exception).__name__, ended.stderr]), flush=True)
"""


@pytest.fixture(scope="module")
def ended():
    """Exit code, exception and errors of a command; one process runs them all, because its start takes seconds."""
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ONE_AFTER_ANOTHER], env=offline, **pipes) as process:

        def end(*arguments, cwd):
            print(json.dumps([str(part) for part in (cwd, *arguments)]), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "dense-hopfield-mnist", "--data", ".", "--out", "o"], '"." holds no images and no data set'),
        (["finetune", "dense-hopfield-mnist", "--data", CLOTHES, "--out", "o", "--task", "classify=x"], "the weight"),
        (["finetune", "dense-hopfield-mnist", "--data", CLOTHES, "--out", "."], "is not empty and holds no run"),
        (["finetune", "dense-hopfield-mnist", "--data", CLOTHES, "--out", "a-file"], "a-file is a file; a run takes a"),
        (
            ["train", "dense-hopfield", "--data", CLOTHES, "--out", "o", "--set", "memories"],
            '--set is "memories"; expected NAME=VALUE',
        ),
        (
            ["train", "dense-hopfield", "--data", CLOTHES, "--out", "o", "--set", "shape=28"],
            "--set: shape is 28; expected tuple[int, ...]",
        ),
        (
            ["train", "dense-hopfield", "--data", CLOTHES, "--out", "o", "--num-processes", "2"],
            "give --coordinator, --num-processes and --process-id together",
        ),
        (["info", "dense-hopfield-mnst"], "did you mean dense-hopfield-mnist"),
        (["evaluate", "dense-hopfield-mnist", "--data", "nowhere"], '"nowhere" is neither a folder with a data set'),
        (["evaluate", "nothing", "--data", "nowhere"], '"nothing" is neither a bundled model nor a folder'),
        (["train", "resnet", "--data", "nowhere", "--out", "o"], 'unknown architecture "resnet"; expected one of'),
        (["demo", "--out", "a-file"], "a-file"),
        (["demo", "--samples", "mnist"], "--samples is for one model; name it with --model"),
        (
            ["demo", "--model", "dense-hopfield-mnist", "--samples", "cifar10"],
            "this memory takes patterns of shape (28, 28, 1); the samples have the shapes {'cifar10': (32, 32, 3)}",
        ),
        (
            ["finetune", "dense-hopfield-mnist", "--data", CLOTHES, "--out", "o", "--set", "memories=3"],
            "ham.synapses.memory.synapse.xi.0 (3600, 100) instead of (3, 100)",
        ),
    ],
)
def test_a_wrong_argument_ends_with_its_message(ended, tmp_path, arguments, message):
    (tmp_path / "a-file").write_text("")
    code, exception, errors = ended(*arguments, cwd=tmp_path)
    assert (code, exception) == (1, "SystemExit")
    assert message in errors


def test_an_error_ends_the_process_without_a_traceback(tmp_path):
    shown = run("info", "dense-hopfield-mnst", cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: ")
    assert "did you mean dense-hopfield-mnist" in shown.stderr
    assert "Traceback" not in shown.stderr
