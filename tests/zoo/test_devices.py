"""Several devices and several processes give what one gives, in the same order of the data."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import hamux_zoo
from hamux_zoo.training._log import Log

SAMPLES = Path(hamux_zoo.__file__).parent / "samples"

SCRIPT = """
import sys
import jax, jax.numpy as jnp, jax.random as jr, numpy as np
from hamux_zoo import DenseHopfield, DenseHopfieldConfig, Recipe, finetune, load_samples
from hamux_zoo.training import _devices, join_processes

workdir, steps, shard, delay, *processes = sys.argv[1:]
if processes:
    join_processes(*[part if ":" in part else int(part) for part in processes])
if shard == "shard":
    _devices.SHARD_ABOVE = 1000

def task(model, batch, *, key):
    if float(delay):
        jax.debug.callback(lambda: __import__("time").sleep(float(delay)))
    noise = jr.normal(key, batch.images.shape)
    scores = jax.vmap(model.classify)(jnp.clip(batch.images + 0.1 * noise, 0, 1))
    error = -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores), batch.labels[:, None], axis=1))
    # An order of the data shows in what they sum to, place by place.
    return error, {"order": jnp.mean(jnp.arange(len(batch.labels)) * jnp.mean(batch.images, axis=(1, 2, 3)))}

model = DenseHopfield(DenseHopfieldConfig(memories=16, classes=10, energy="polynomial", beta=2.0), key=jr.key(1))
recipe = Recipe(task=task, steps=int(steps), every=5, batch_size=16, optimizer="adamw", learning_rate=0.01, ema=0.9,
                augment=["flip", "crop"], accumulate=2)
finetune(model, load_samples("mnist"), recipe, workdir=workdir, shard_params=shard == "shard", quiet=True)
print("done", jax.device_count(), jax.process_count())
"""


# The memory and the images lie on a mesh of the user's, which is set besides.
EXPLICIT = """
import jax, jax.random as jr, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from hamux_zoo import DenseHopfield, DenseHopfieldConfig, Recipe, finetune, load_samples

config = DenseHopfieldConfig(memories=16, classes=10, energy="polynomial", beta=2.0)
model = DenseHopfield(config, key=jr.key(1))
images, labels = load_samples("mnist").take(slice(64))
recipe = Recipe(task={"classify": 1, "reconstruct": 1}, steps=2, batch_size=8)
expected = finetune(model, (images, labels), recipe, quiet=True)
WAYS = {"steps": 3}, {"max_steps": 3, "tol": 1e-9}
recalled = [jax.vmap(lambda x: model.recall(x, **options))(images).x for options in WAYS]

mesh = jax.make_mesh((2,), ("images",))
cut, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["images"], []))
jax.set_mesh(mesh)
images, labels = jax.device_put(images, cut), jax.device_put(labels, cut)
model = jax.device_put(model, whole)
found = finetune(model, (images, labels), recipe, quiet=True)
for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5)
for options, expected in zip(WAYS, recalled, strict=True):
    recall = jax.vmap(lambda x: model.recall(x, **options))
    for batched in (recall, jax.jit(recall)):
        result = batched(images)
        np.testing.assert_allclose(result.x, expected, rtol=1e-4, atol=1e-4)
print("done", result.x.sharding.spec[0])
"""


def start(workdir, steps, *processes, devices=1, shard="whole", delay=0.0):
    flags = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", SCRIPT, workdir, steps, shard, delay, *processes]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(part) for part in command], env=flags, **pipes)


def finish(process):
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return printed


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def pair(workdir, steps, **options):
    """Two processes that join over loopback."""
    address = f"127.0.0.1:{free_port()}"
    return [start(workdir, steps, address, 2, index, **options) for index in range(2)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    assert finish(start(folder / "run", 10)).endswith("done 1 1\n")
    return folder / "run"


def assert_same_run(folder, one):
    lines, expected = Log(folder / "log.jsonl").lines(), Log(one / "log.jsonl").lines()
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, other in zip(lines, expected, strict=True):
        for name in {"loss", "order", "gradient_norm", "validation_loss"} & other.keys():
            assert line[name] == pytest.approx(other[name], rel=1e-5), (name, line, other)
    trained, weights = (load_file(run / "model/model.safetensors") for run in (folder, one))
    for name in weights:
        np.testing.assert_allclose(trained[name], weights[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["whole", "shard"])
def test_eight_devices_give_what_one_gives(tmp_path, one, shard):
    assert finish(start(tmp_path / "run", 10, devices=8, shard=shard)).endswith("done 8 1\n")
    assert_same_run(tmp_path / "run", one)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path, one):
    for process in pair(tmp_path / "run", 10, shard="shard"):
        assert finish(process).endswith("done 2 2\n")
    assert_same_run(tmp_path / "run", one)


@pytest.mark.slow
def test_two_processes_of_the_command_give_what_one_gives(tmp_path):
    command = [Path(sys.executable).with_name("hamux-zoo"), "train", "dense-hopfield", "--data", SAMPLES / "clothes"]
    command += ["--set", "memories=16", "--steps", "4", "--batch-size", "16", "--learning-rate", "0.01"]
    address = f"127.0.0.1:{free_port()}"
    several = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    alone = subprocess.Popen([*command, "--out", tmp_path / "one"])
    both = [subprocess.Popen([*command, "--out", tmp_path / "two", *several, str(index)]) for index in range(2)]
    assert [process.wait(300) for process in (alone, *both)] == [0, 0, 0]
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_devices(tmp_path, one):
    """Stopped after five of ten steps: on one device, on eight, on one again."""
    process = start(tmp_path / "run", 10, devices=8, shard="shard", delay=0.2)
    while process.poll() is None and not (tmp_path / "run/checkpoints/5").exists():
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (tmp_path / "run/model").exists()
    finish(start(tmp_path / "run", 10))
    assert_same_run(tmp_path / "run", one)


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_the_other(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not delete")
    first, second = (process.communicate(timeout=300)[1] for process in pair(tmp_path / "mine", 10))
    assert "is not empty and holds no run" in first
    assert "the first process has failed" in second


@pytest.mark.slow
def test_when_a_process_dies_the_other_ends_and_the_run_goes_on(tmp_path, one):
    first, second = pair(tmp_path / "run", 10, delay=0.3)
    while second.poll() is None and not (tmp_path / "run/checkpoints/5").exists():
        time.sleep(0.02)
    second.kill()
    first.communicate(timeout=300)
    assert first.returncode != 0
    second.communicate()
    for process in pair(tmp_path / "run", 10):
        finish(process)
    assert_same_run(tmp_path / "run", one)


def test_more_devices_than_examples_are_refused(tmp_path):
    process = start(tmp_path / "run", 10, devices=32)
    _, errors = process.communicate()
    assert "ValueError: `batch_size` is 16 for 32 devices" in errors
    assert "multiple of 32" in errors


ROLES = """
import contextlib
import jax, jax.random as jr, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import hamux_zoo as zoo

mesh = jax.make_mesh((2,), ("images",))
images = np.random.default_rng(0).random((4, 4, 4, 1), np.float32)
known = np.broadcast_to(np.arange(16).reshape(4, 4, 1) < 8, images.shape)
cut, cut_known = jax.device_put((images, known), NamedSharding(mesh, PartitionSpec("images")))
shape = {"shape": (4, 4, 1), "classes": 2, "memories": 3}
small = {"patch": 2, "dim": 4, "heads": 1, "head_dim": 2, "steps": 2}
models = [
    zoo.DenseHopfield(zoo.DenseHopfieldConfig(**shape), key=jr.key(0)),
    zoo.ConvHAM(zoo.ConvHAMConfig(**shape, channels=(2,), kernels=(4,)), key=jr.key(0)),
    zoo.EnergyTransformer(zoo.EnergyTransformerConfig(**shape, **small), key=jr.key(0)),
]
for model in models:
    for name, way, arguments in [
        ("recall", lambda x, known: model.recall(x, known, steps=2, path=True).path.x, (cut, cut_known)),
        ("energy", model.energy, (cut, cut_known)),
        ("classify", model.classify, (cut,)),
        ("features", model.features, (cut,)),
        ("attribution", lambda x: model.attribution(x), (cut,)),
    ]:
        expected = jax.vmap(way)(*jax.device_get(arguments))
        for context in (contextlib.nullcontext(), jax.set_mesh(mesh)):
            with context:
                found = jax.vmap(way)(*arguments)
            assert found.sharding.spec[0] == "images", name
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, err_msg=f"{model.model_type} {name}")
print("done")
"""


@pytest.mark.slow
def test_every_role_takes_batches_on_an_explicit_mesh():
    two = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": two, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ROLES], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr[-2000:]


@pytest.mark.slow
def test_arrays_on_an_explicit_mesh_are_recalled_and_learned_from():
    flags = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", EXPLICIT], env=flags, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done images\n"
