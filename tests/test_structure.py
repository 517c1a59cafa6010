"""The house's rules that no other tool holds: who may import whom, what lies at the top, what no file may say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "packages/hamux/src/hamux"
ZOO = ROOT / "zoo/src/hamux_zoo"
METHODS = ["explicit", "backtracking", "gauss_seidel", "momentum", "anderson", "langevin", "asynchronous", "ode"]
CORE_ORDER = [
    *[
        "_binding",
        "_checks",
        "_precision",
        "_lagrangians",
        "_neurons",
        "_synapses",
        "_convolutions",
        "_ham",
        "_certificate",
        "_methods._method",
    ],
    *[f"_methods._{name}" for name in METHODS],
    *["_methods", "_adjoints", "_dynamics", "_landscape", "__init__"],
]
ARCHITECTURES = [f"models.{path.stem}" for path in (ZOO / "models").glob("[!_]*.py")]
GENERAL = ["_data", "_augmentation", "plots", "_evaluation", "_tasks", "_log", "_recipe", "_steps", "_devices"]
GENERAL += ["_loader", "_checkpoints", "_run", "_progress", "_training", "_demo", "app"]
FILES = ["_archive", "_folder", "_hub", "_card"]
ZOO_ORDER = [*FILES, "_corruptions", "_model", *ARCHITECTURES, "models", "_registry", *GENERAL, "cli", "__init__"]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def imported(path: Path, package: Path) -> set[str]:
    """The packages that a file imports, and the modules of its own by their dotted name."""
    found = set()
    folder = path.relative_to(package).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) + 1 - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join([*above, name]) for name in names}
    return found


def module_name(path: Path, package: Path) -> str:
    relative = path.relative_to(package).with_suffix("")
    return ".".join(part for part in relative.parts if part != "__init__") or "__init__"


@pytest.mark.parametrize(("package", "order"), [(CORE, CORE_ORDER), (ZOO, ZOO_ORDER)], ids=["hamux", "hamux_zoo"])
def test_imports_go_downward(package, order):
    for path in package.rglob("*.py"):
        name = module_name(path, package)
        above = set(order[order.index(name) :])
        assert not imported(path, package) & above, f"{path} imports what stands above it"


def test_core_knows_no_zoo_and_an_architecture_only_the_model():
    assert not any("hamux_zoo" in imported(path, CORE) for path in CORE.rglob("*.py"))
    for path in (ZOO / "models").glob("[!_]*.py"):
        assert imported(path, ZOO) & set(ZOO_ORDER) <= {"_model"}
    for name in GENERAL:
        path = ZOO / f"{name}.py"
        assert not path.exists() or "models" not in {module.split(".")[0] for module in imported(path, ZOO)}


def test_top_level():
    usual = {"LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".gitignore", ".pre-commit-config.yaml", ".ci"}
    house = {"packages", "zoo", "notebooks", "tests", "pyproject.toml", "uv.lock", "README.md", "mkdocs.yml"}
    assert {path.relative_to(ROOT).parts[0] for path in tracked_files()} == house | usual


def test_no_file_names_a_package_index_or_is_too_large():
    host = re.compile(rb"pypi\.(org|io)|python" + rb"hosted\.org")
    for path in tracked_files():
        if path.name != "uv.lock":  # the committed form is checked below
            assert not host.search(path.read_bytes()), path
        assert path.stat().st_size < 50e6, path


def test_committed_lock_names_no_address(tmp_path):
    lock = subprocess.run(["git", "show", ":uv.lock"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not lock:
        pytest.skip("not a git checkout")
    (tmp_path / "uv.lock").write_text(lock)
    check = [sys.executable, ROOT / ".ci/pin-lock", "--check", tmp_path / "uv.lock"]
    assert subprocess.run(check, check=False).returncode == 0
    (tmp_path / "uv.lock").write_text(lock + 'sdist = { url = "https://example.org/a.tar.gz" }\n')
    assert subprocess.run(check, check=False, capture_output=True).returncode == 1
