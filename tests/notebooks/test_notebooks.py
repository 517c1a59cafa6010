"""The notebooks run and hold their outputs; the code and the names on the pages and cards are real."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from execution import executed

import hamux
import hamux_zoo
from hamux_zoo import from_pretrained, load_samples
from hamux_zoo.files import read_card

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "notebooks"
NOTEBOOKS = sorted(PAGES.glob("*.ipynb"))


def cells(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("XLA_FLAGS")  # at the speed that a reader has
    executed(path, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_ran(path):
    text = path.read_text()
    assert path.stat().st_size < 2e6
    assert re.match(r"\d\d-", path.name)
    assert not re.search(r"/(home|root|work|tmp)/|Traceback|\bstderr\b|Warning", text)
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    for cell in code:
        imported = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.ImportFrom)]
        assert not any(re.search(r"(^|\.)_", node.module) for node in imported), "only what is public"


def test_every_public_name_is_in_the_reference():
    shown = re.findall(r"^::: hamux\.(\w+)$", (PAGES / "reference-hamux.md").read_text(), flags=re.MULTILINE)
    public = {name for name, thing in vars(hamux).items() if name[0] != "_" and not inspect.ismodule(thing)}
    assert sorted(shown) == sorted(public)
    shown = re.findall(r"^::: hamux_zoo\.(\w+)$", (PAGES / "reference-hamux-zoo.md").read_text(), flags=re.MULTILINE)
    assert sorted(shown) == sorted({*dir(hamux_zoo), "pixels"})


@pytest.mark.parametrize("name", hamux_zoo.list_pretrained())
def test_the_calls_on_a_card_are_those_of_the_memory(name):
    """They are not run, which would compile each of them: their names and arguments are looked up."""
    lines = re.findall(r"^    (.*)$", read_card(name).text.split("## Measured")[0], flags=re.MULTILINE)
    kind = type(from_pretrained(name))
    assert f"from hamux_zoo import {kind.__name__}" in lines
    calls = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.Call)]
    called = {}
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        if call.func.value.id == "model":
            arguments = dict.fromkeys(keyword.arg for keyword in call.keywords)
            inspect.signature(getattr(kind, call.func.attr)).bind(None, *call.args, **arguments)
            called[call.func.attr] = call
        else:
            assert ast.unparse(call) == f"{kind.__name__}.from_pretrained('{name}')"
    assert called


def test_every_page_is_in_the_navigation():
    listed = re.findall(
        r"[\w-]+\.(?:md|ipynb)", yaml.safe_dump(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    )
    assert sorted(listed) == sorted(path.name for path in PAGES.iterdir() if path.suffix in (".md", ".ipynb"))


def test_the_benchmarks_that_are_named_are_there():
    named = re.findall(r"tests/benchmarks/\w+\.py", (PAGES / "how-the-numbers-were-made.md").read_text())
    assert named
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.slow
def test_the_architecture_of_the_guide_is_one_as_it_stands(tmp_path):
    module, use = re.findall(r"^```python\n(.*?)^```$", (PAGES / "add-an-architecture.md").read_text(), re.M | re.S)
    (tmp_path / "ring_memory.py").write_text(module)
    installed = tmp_path / "ring_memory-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ring-memory\nVersion: 1.0\n")
    (toml,) = re.findall(
        r'^```toml\n\[project\.entry-points\."(.*?)"\]\n(.*?) = "(.*?)"\n```$',
        (PAGES / "add-an-architecture.md").read_text(),
        re.M,
    )
    (installed / "entry_points.txt").write_text(f"[{toml[0]}]\n{toml[1]} = {toml[2]}\n")
    code = f"from ring_memory import Ring, RingConfig\n{use}"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "'ring'" in run.stdout
    lower = load_samples("mnist").images[:, 14:]
    assert float(re.search(r"lower half: ([\d.]+)", run.stdout)[1]) < 0.5 * np.mean((lower - 0.5) ** 2)
