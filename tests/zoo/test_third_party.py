"""An architecture in a package of someone else's: found by its entry point, it is saved, pushed, pulled and trained."""

import os
import re
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax.random as jr
import pytest
from hub_server import WRITER

import hamux_zoo
from hamux_zoo import ZooModel, from_pretrained, list_models

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


def test_what_works_with_ours_works_with_theirs(as_installed, hub, tmp_path):
    as_installed()
    assert "ring" in list_models()
    ring = hamux_zoo.Ring(hamux_zoo.RingConfig(), key=jr.key(0))
    assert isinstance(ring, ZooModel)
    ring.save_pretrained(tmp_path / "saved")
    assert eqx.tree_equal(from_pretrained(tmp_path / "saved"), ring)
    ring.push_to_hub("me/ring", token=WRITER)
    assert eqx.tree_equal(from_pretrained("me/ring", cache_dir=tmp_path / "cache"), ring)


def test_what_is_wrong_with_theirs_is_said(as_installed):
    ours = list_models()
    as_installed(name="RingConfig")
    with pytest.raises(ValueError, match=r"ring_memory:RingConfig, of the entry point ring, is .*expected a ZooModel"):
        list_models()
    as_installed(name="Missing")
    with pytest.warns(UserWarning, match="ring_memory:Missing, of the entry point ring, cannot be imported"):
        assert list_models() == ours
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
