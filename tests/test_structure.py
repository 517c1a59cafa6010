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
METHODS = [
    "explicit",
    "backtracking",
    "gauss_seidel",
    "certified",
    "momentum",
    "anderson",
    "langevin",
    "asynchronous",
    "ode",
]
CORE_ORDER = [
    *[
        "_binding",
        "_facts",
        "_checks",
        "_precision",
        "_batches",
        "_lagrangians",
        "_sparse",
        "_neurons",
        "_synapses",
        "_convolutions",
        "_planes",
        "_random_features",
        "_ham",
        "_certificate",
        "_methods._method",
    ],
    *[f"_methods._{name}" for name in METHODS],
    *[
        "_methods",
        "_descent",
        "_adjoints",
        "_equilibrium",
        "_dynamics",
        "_learning",
        "_landscape",
        "_retrieval",
        "_verdict",
    ],
    *["nn", "__init__"],
]
FILES = [
    *[f"files.{name}" for name in ("_caches", "_archive", "_folder", "_hub", "_card", "_bundled", "_saving", "_push")],
    "files",
]
ARCHITECTURES = [f"models.{path.stem}" for path in (ZOO / "models").glob("[!_]*.py")]
DATA = ["data._changes", "data._folders", "data._images", "data._tables", "data"]
TRAINING = [
    f"training.{name}" for name in ("_devices", "_checkpoints", "_log", "_tasks", "_recipe", "_steps", "_run", "_probe")
]
TRAINING += ["training._calibrate", "training._loop", "training._tune", "training._finetune", "training"]
MEASURE = ["measure._baselines", "measure._evaluation", "measure"]
SHOW = [*[f"show.{name}" for name in ("_pictures", "plots", "_demo", "app")], "show"]
MODELS = ["models._registry", "models", *ARCHITECTURES]
GENERAL = [*MODELS, *DATA, *TRAINING, *MEASURE, "answers", *SHOW]
ZOO_ORDER = ["pixels", "statistics", *FILES, "progress", "config", "pretrained", "memory", *GENERAL, "cli", "__init__"]


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


def test_core_knows_no_zoo_and_an_architecture_only_what_is_public():
    assert not any("hamux_zoo" in imported(path, CORE) for path in CORE.rglob("*.py"))
    for path in (ZOO / "models").glob("[!_]*.py"):
        assert imported(path, ZOO) & set(ZOO_ORDER) <= {
            "pixels",
            "statistics",
            "files",
            "config",
            "pretrained",
            "memory",
            "models",
        }
    for path in (ZOO / "data").glob("*.py"):
        assert not imported(path, ZOO) & {"memory", *MODELS}


def test_an_architecture_uses_no_private_name_of_another_file():
    for path in (ZOO / "models").glob("[!_]*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        named_tuples = {"_replace", "_asdict"}
        assert {name for name in used - own - named_tuples if re.match("_[^_]", name)} == set(), path


def test_top_level():
    usual = {
        "CITATION.cff",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        ".gitignore",
        ".pre-commit-config.yaml",
        ".ci",
    }
    house = {"packages", "zoo", "notebooks", "tests", "pyproject.toml", "uv.lock", "README.md", "mkdocs.yml"}
    assert {path.relative_to(ROOT).parts[0] for path in tracked_files()} == house | usual | {".ci"}


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
