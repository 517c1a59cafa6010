"""The README's words are true: its code runs as it stands, its commands are those of CI, its table is the cards'."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hamux

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_each_python_block_runs_by_itself(tmp_path):
    printed = ""
    for code in blocks("python"):
        if "push_to_hub" in code:  # against a Hub in tests/zoo/test_hub.py
            continue
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        printed += run.stdout
    assert "recalled: True, converged: True" in printed
    before, after = map(float, re.search(r"before: (.*), after: (.*)", printed).groups())
    assert after < before
    assert "class 7, label 7" in printed
    assert re.findall(r"(\w+) at most \d+ steps, converged: True", printed) == [
        "NoneType",
        "Explicit",
        "Anderson",
        "ODE",
    ]
    assert printed.index("descent is not certified") < printed.index("descent is certified")
    assert float(re.search(r"gradient: ([\d.e-]+)", printed)[1]) > 0
    assert float(re.search(r"error: ([\d.e-]+)", printed)[1]) < 1e-3
    assert float(re.search(r"error of the hidden pixels: ([\d.]+)", printed)[1]) < 0.02
    energies = re.search(r"energy at every step: \[([^\]]*)\]", printed)[1].split()
    assert len(energies) == 13
    assert all(float(after) < float(before) for before, after in itertools.pairwise(energies))
    assert "features: (10176,)" in printed
    assert (tmp_path / "runs/my-memory/model.safetensors").is_file()
    assert (tmp_path / "runs/fashion/model/model.safetensors").is_file()


def test_the_methods_are_all_there_and_their_evaluations_are_those_measured():
    table = re.search(r"^\| method \|.*?\n\n", README, flags=re.MULTILINE | re.DOTALL)[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.strip().splitlines()[2:]]
    methods = {
        name for name, thing in vars(hamux).items() if isinstance(thing, type) and issubclass(thing, hamux.Method)
    }
    assert {row[0].strip("`").split("(")[0] for row in rows} == methods - {"Method"}
    measured = json.loads((ROOT / "tests/benchmarks/results/dynamics.json").read_text())["evaluations"]
    for name, _, _, evaluations in rows:
        if evaluations != "–":
            assert f"{measured[name.strip('`')]['evaluations']:.0f}" == evaluations


def test_ci_runs_the_readmes_commands():
    ci = (ROOT / ".ci/run").read_text()
    first, tests, _ = blocks("sh")
    assert first == "pip install uv && uv run hamux-zoo demo\n"
    assert "step uv run hamux-zoo demo" in ci
    assert f"step {tests}" in ci


@pytest.mark.slow
def test_the_fine_tuning_example_runs_and_learns(tmp_path):
    *_, commands = blocks("sh")
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "COLUMNS": "200"}
    printed = []
    for command in commands.replace("\\\n", "").strip().splitlines():
        name, *arguments = command.removeprefix("uv run ").replace("runs/", f"{tmp_path}/runs/").split()
        executable = Path(sys.executable).with_name(name)
        run = subprocess.run(
            [executable, *arguments], cwd=ROOT, env=offline, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        printed.append(run.stdout)
    error = float(re.search(r"test_error\D+([\d.]+)", printed[1])[1])
    assert error < 50  # of ten classes


def test_pictures_are_there():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
