"""The README's words are true: its code runs as it stands, its commands are those of CI, its table is the cards'."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_each_python_block_runs_by_itself(tmp_path):
    printed = ""
    for code in blocks("python"):
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        printed += run.stdout
    assert "recalled: True, converged: True" in printed
    before, after = map(float, re.search(r"before: (.*), after: (.*)", printed).groups())
    assert after < before
    assert "class 7, label 7" in printed
    assert float(re.search(r"error: ([\d.e-]+)", printed)[1]) < 1e-3
    assert (tmp_path / "runs/my-memory/model.safetensors").is_file()


def test_ci_runs_the_readmes_commands():
    ci = (ROOT / ".ci/run").read_text()
    first, tests = blocks("sh")
    assert first == "pip install uv && uv run hamux-zoo demo\n"
    assert "step uv run hamux-zoo demo" in ci
    assert f"step {tests}" in ci


def test_pictures_are_there():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
