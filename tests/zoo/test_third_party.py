"""An architecture in another package, found by its entry point, does what the bundled ones do."""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hub_server import WRITER

from hamux_zoo import Memory, Recipe, evaluate, finetune, from_pretrained, list_models, load_samples, train
from hamux_zoo.data import Images

ROOT = Path(__file__).parents[2]

RING = (Path(__file__).parent / "ring_memory.py").read_text()
PROJECT = """
[project]
name = "ring-memory"
version = "1.0"
[project.entry-points."hamux_zoo.models"]
ring = "ring_memory:{name}"
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""


@pytest.fixture
def as_installed(tmp_path, monkeypatch):
    """Makes a package look as if an installer had brought it; `name` is what its entry point names."""

    def install(name="Ring", code=RING):
        (tmp_path / "ring_memory.py").write_text(code)
        metadata = tmp_path / "ring_memory-1.0.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ring-memory\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[hamux_zoo.models]\nring = ring_memory:{name}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("ring_memory", None)


@pytest.fixture
def ring(as_installed):
    """The module of the package."""
    as_installed()
    assert "ring" in list_models()
    return sys.modules["ring_memory"]


def test_it_imports_public_names_only_and_is_the_one_of_the_guide():
    tree = ast.parse(RING)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "hamux_zoo" in modules
    assert not [name for name in modules if "._" in name or name.startswith("hamux_zoo.")]
    names = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} - {"__post_init__"}
    assert not [name for name in names | attributes if name.startswith("_")]
    assert f"```python\n{RING}```" in (ROOT / "notebooks/add-an-architecture.md").read_text()


def test_it_comes_back_from_a_folder_and_from_the_hub(ring, hub, pull, tmp_path):
    model = ring.Ring(ring.RingConfig(shape=(4, 4, 1), hidden=3), key=jr.key(0))
    assert isinstance(model, Memory)
    assert model.tasks == {"recall"}
    model.save_pretrained(tmp_path / "saved")
    assert eqx.tree_equal(from_pretrained(tmp_path / "saved"), model)
    model.push_to_hub("me/ring", token=WRITER)
    assert eqx.tree_equal(pull("me/ring"), model)


def test_it_recalls_downhill_and_keeps_what_is_known(ring):
    model = ring.Ring(ring.RingConfig(shape=(4, 4, 1), hidden=3), key=jr.key(0))
    image, known = jr.uniform(jr.key(1), (4, 4, 1)), np.arange(16).reshape(4, 4) < 8
    found = model.recall(image, known, key=jr.key(2))
    assert np.all(np.diff(found.energies) < 1e-6)
    np.testing.assert_array_equal(found.x[known], image[known])
    assert jnp.isfinite(model.recall(None, key=jr.key(3)).x).all()


def test_it_trains_and_is_evaluated(ring):
    images, _ = load_samples("mnist")
    with jax.enable_x64(False):
        model = train(ring.Ring, images, Recipe(task="reconstruct", steps=60), config={"hidden": 32}, quiet=True)
        measured = evaluate(model, load_samples("mnist"))
    assert measured["completion_mse"] < np.mean((images[:, 14:] - images[:, 14:].mean(axis=0)) ** 2)


def test_functions_among_the_leaves_are_no_parameters(ring, tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class EncodedConfig(ring.RingConfig):
        unit: ClassVar[str] = "pixel"  # no field

    class Encoded(ring.Ring):
        model_type: ClassVar[str] = "encoded"
        config: EncodedConfig = eqx.field(static=True)
        encoder: eqx.nn.MLP
        strength: float

        def __init__(self, config, *, key):
            super().__init__(config, key=key)
            self.encoder, self.strength = eqx.nn.MLP(16, 16, 3, 1, key=key), 1.0

        def start(self, x, known=None, *, label=None, key=None):
            xs, clamp = super().start(x, known)
            return xs | {"image": self.strength * self.encoder(xs["image"])}, clamp

    images = np.random.default_rng(0).random((8, 4, 4, 1), np.float32)
    with jax.enable_x64(False):
        model = Encoded(EncodedConfig(shape=(4, 4, 1), hidden=2), key=jr.key(0))
        recipe = Recipe(task="reconstruct", steps=2, batch_size=4)
        model = finetune(model, images, recipe, workdir=tmp_path / "run", quiet=True)
        back = Encoded.from_pretrained(tmp_path / "run/model")
        for same in (back, back.with_config(sweeps=2)):
            np.testing.assert_array_equal(same.recall(images[0], steps=1).x, model.recall(images[0], steps=1).x)
        assert np.isfinite(evaluate(back, Images(images, None))["completion_mse"])
    assert model.n_parameters == sum(np.size(leaf) for leaf in jax.tree.leaves(model) if not callable(leaf))


def test_what_is_wrong_with_theirs_is_said(as_installed):
    ours = list_models()
    as_installed(name="RingConfig")
    with pytest.raises(ValueError, match=r"ring_memory:RingConfig, of the entry point ring, is .*expected a Memory"):
        list_models()
    as_installed(name="Missing")
    with pytest.warns(UserWarning, match="ring_memory:Missing, of the entry point ring, cannot be imported"):
        assert list_models() == ours
    sys.modules.pop("ring_memory")
    as_installed(code=RING.replace("def decode", "def decoded"))
    with pytest.raises(
        ValueError, match=r"ring_memory:Ring, of the entry point ring, is abstract: it lacks \['decode'\]"
    ):
        list_models()
    sys.modules.pop("ring_memory")
    as_installed(code=re.sub('.*= "ring"\n', "", RING))
    with pytest.raises(ValueError, match="ring_memory:Ring, of the entry point ring, has no `model_type`"):
        list_models()
    sys.modules.pop("ring_memory")
    as_installed(code=RING.replace('= "ring"', '= "conv-ham"'))
    with pytest.raises(ValueError, match=r'ring_memory:Ring, of .* and ConvHAM both have the model_type "conv-ham"'):
        list_models()


@pytest.mark.slow
def test_a_package_that_is_installed_is_there_on_the_command_line(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "ring_memory.py").write_text(RING)
    (package / "pyproject.toml").write_text(PROJECT.format(name="Ring"))
    install = ["uv", "pip", "install", "--no-deps", "--target", tmp_path / "site", package]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True)
    train = [Path(sys.executable).with_name("hamux-zoo"), "train", "ring", "--task", "denoise", "--steps", "2"]
    train += ["--data", ROOT / "zoo/src/hamux_zoo/samples/clothes", "--out", "run", "--set", "shape=[2,2,1]"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"model_type": "ring"' in (tmp_path / "run/model/config.json").read_text()


def test_what_it_has_not_is_said_where_it_is_asked_for(ring):
    model = ring.Ring(ring.RingConfig(shape=(4, 4, 1), hidden=3), key=jr.key(0))
    images = np.zeros((20, 4, 4, 1), np.float32)
    recipe = Recipe(task="reconstruct", trainable="head", steps=1, batch_size=2)
    with pytest.raises(ValueError, match='`trainable` is "head", but Ring does not classify, and has none'):
        finetune(model, images, recipe, quiet=True)
    for wrong in (model, Memory, "ring"):
        with pytest.raises(
            ValueError, match=r"(?s)`architecture` is .{5,60}; expected a class of memories, such as Dense"
        ):
            train(wrong, images, recipe, quiet=True)
