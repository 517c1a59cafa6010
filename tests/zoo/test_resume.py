"""A run that is stopped, killed or damaged goes on to the weights it would have had, bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hamux_zoo.progress import TIMINGS
from hamux_zoo.training._log import Log

# Its own loss, so that it compiles in a moment; with a head, an average, augmentation and validation.
SCRIPT = """
import sys
import jax, jax.numpy as jnp, jax.random as jr
from hamux_zoo import DenseHopfield, DenseHopfieldConfig, Recipe, finetune, load_samples

def pull(model, batch, *, key):
    noise = jr.normal(key, model.memories().shape)
    distance = jnp.square(batch.images[:, None] - (model.memories() + 0.1 * noise)[None])
    loss = jnp.mean(jnp.min(jnp.mean(distance, axis=(2, 3, 4)), axis=1))
    return loss, {"brightness": jnp.mean(batch.images)}

model = DenseHopfield(DenseHopfieldConfig(memories=8, classes=10, energy="polynomial", beta=2.0), key=jr.key(1))
recipe = Recipe(task=pull, steps=int(sys.argv[2]), every=int(sys.argv[3]), batch_size=16, optimizer="adamw",
                learning_rate=0.01, ema=0.9, augment=["crop"])
def draw(path, lines, rows, titles):
    (path / "curves.png").write_bytes(bytes(5000))

finetune(model, load_samples("mnist"), recipe, workdir=sys.argv[1], draw=draw, quiet=True)
print("done")
"""


def start(folder: Path, steps: int, every: int, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, folder, str(steps), str(every)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(part) for part in command], env=os.environ | environment, **pipes)


def finish(folder: Path, steps: int, every: int) -> None:
    process = start(folder, steps, every)
    printed, errors = process.communicate()
    assert printed == "done\n", errors


def made(folder: Path):
    lines = [{k: v for k, v in line.items() if k not in TIMINGS} for line in Log(folder / "log.jsonl").lines()]
    return [(folder / name / "model.safetensors").read_bytes() for name in ("model", "best")], lines


def wait_for_a_line(folder: Path, process: subprocess.Popen, more_than: int) -> None:
    while process.poll() is None and len(Log(folder / "log.jsonl").lines()) <= more_than:
        time.sleep(0.02)


def wait_for_a_save(folder: Path, process: subprocess.Popen) -> None:
    while process.poll() is None and not list(folder.glob("checkpoints/*.orbax-checkpoint-tmp*")):
        time.sleep(0.001)


def kill_again_and_again(folder: Path, times: int, steps: int, every: int) -> int:
    """Kill a run in turn while it steps, while it saves, while it starts; how often there was something to kill."""
    random = np.random.default_rng(0)
    killed = 0
    for turn in range(times):
        process = start(folder, steps, every)
        if turn % 3 == 2:
            time.sleep(random.uniform(0, 8.0))
        else:
            wait_for_a_line(folder, process, len(Log(folder / "log.jsonl").lines()))
            time.sleep(random.uniform(0, 0.5))
        if turn % 3 == 1:
            wait_for_a_save(folder, process)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        if turn % 3 == 1:
            assert list(folder.glob("checkpoints/*.orbax-checkpoint-tmp*")), "not killed in a save"
    return killed


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path):
    finish(tmp_path / "whole", 200, 2)
    assert kill_again_and_again(tmp_path / "killed", 20, 200, 2) == 20
    finish(tmp_path / "killed", 200, 2)
    assert made(tmp_path / "killed") == made(tmp_path / "whole")


@pytest.mark.slow
def test_stopped_by_ctrl_c(tmp_path):
    finish(tmp_path / "whole", 40, 10)
    folder = tmp_path / "stopped"
    process = start(folder, 40, 10)
    wait_for_a_line(folder, process, 0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert "KeyboardInterrupt: stopped after step" in errors
    assert "the same call, or command, goes on from there" in errors
    kept = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    assert 0 < kept < 40
    finish(folder, 40, 10)
    assert made(folder) == made(tmp_path / "whole")


def test_a_line_cut_off_by_a_crash_is_forgotten(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 1.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in log.lines()] == [1, 2, 3]
    log.rewind(2)
    assert (tmp_path / "log.jsonl").read_text() == "".join(
        json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2)
    )


# The disk is full from the second time on that a method of the run is called, in step 4.
FULL_DISK = """
import resource
from hamux_zoo.training._run import Run

calls, method = [], Run.{name}

def on_a_full_disk(*args):
    calls.append(1)
    if len(calls) == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    return method(*args)

Run.{name} = on_a_full_disk
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keep", "the checkpoint of step 4 cannot be written"),
        ("show", r"step 4: .* cannot be written: .*\(the last checkpoint is that of step 2\); free some"),
    ],
)
def test_no_space_left_is_said_with_the_step_and_the_checkpoints_before_stay(tmp_path, name, message):
    command = [sys.executable, "-c", FULL_DISK.format(name=name) + SCRIPT, tmp_path / "run", "4", "2"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert re.search(message, run.stderr)
    assert not (tmp_path / "run/checkpoints/4").exists()
    assert (tmp_path / "run/checkpoints/2").exists()
    finish(tmp_path / "run", 4, 2)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    """Nor does a process that is killed keep the next one out."""
    first = start(tmp_path, 100_000, 100)
    wait_for_a_line(tmp_path, first, more_than=0)
    second = start(tmp_path, 100_000, 100)
    _, errors = second.communicate()
    assert f"ValueError: another process trains in {tmp_path}; wait for it, or take another folder" in errors
    assert first.poll() is None
    first.kill()
    first.communicate()
    third = start(tmp_path, 100_000, 100)
    before = len(Log(tmp_path / "log.jsonl").lines())
    wait_for_a_line(tmp_path, third, more_than=before)
    assert third.poll() is None
    third.kill()
    third.communicate()
