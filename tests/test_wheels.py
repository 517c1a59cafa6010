"""Both wheels, built and installed into clean environments outside the checkout, and used there."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command, cwd, **environment):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment or None)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    run("uv", "build", "--wheel", "--all-packages", "--out-dir", folder, cwd=ROOT)
    return {wheel.name.split("-")[0]: wheel for wheel in folder.glob("*.whl")}


def installed(folder: Path, *packages: Path) -> Path:
    run("uv", "venv", "--no-project", folder / "environment", cwd=folder)
    python = folder / "environment/bin/python"
    run("uv", "pip", "install", "--python", python, *packages, cwd=folder)
    return python


def test_the_core_alone(wheels, tmp_path):
    python = installed(tmp_path, wheels["hamux_core"])
    code = """
import hamux, importlib.util, jax.random as jr
synapses = {"w": hamux.DenseSynapse(jr.key(0), 8, 4)}
neurons = {"a": hamux.Neurons(hamux.lagr_tanh, 8), "b": hamux.Neurons(hamux.lagr_softmax, 4)}
ham = hamux.HAM(neurons, synapses, [(("a", "b"), "w")])
print(hamux.relax(ham, ham.init_states(key=jr.key(1))).converged, importlib.util.find_spec("hamux_zoo"))
"""
    assert run(python, "-c", code, cwd=tmp_path).split() == ["True", "None"]


def test_the_zoo_with_its_weights_and_samples(wheels, tmp_path):
    python = installed(tmp_path, wheels["hamux_core"], wheels["hamux_zoo"])
    command = python.with_name("hamux-zoo")
    assert "dense-hopfield-mnist" in run(command, "list", cwd=tmp_path)
    run(command, "demo", cwd=tmp_path, HF_HUB_OFFLINE="1", HOME=str(tmp_path))
    assert (tmp_path / "hamux-demo/dense-hopfield-mnist.png").is_file()
    assert (tmp_path / "hamux-demo/et-small-cifar10.png").is_file()
