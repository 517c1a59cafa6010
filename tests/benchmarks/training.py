"""The training loop on the recipe of `polynomial.py`, on 60,000 images (the samples, repeated).

- Images a second, and the share of a step's time spent waiting for data. Goal: under 5 %.
- The cost of a checkpoint, written, read back and compared, beside a 10-minute run, which keeps ten. Goal: under 3 %.
- Peak memory of the process, and the temporary memory of the compiled step.
- What a step communicates when a batch is cut over 1, 2, 4 and 8 devices, with parameters whole or cut: the bytes that
  each device gets from collectives in the compiled program.
"""

import math
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = "" if sys.argv[1:] else "--xla_force_host_platform_device_count=8"

import jax
import jax.random as jr
import numpy as np
from _measure import record
from jax.sharding import AxisType

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, Recipe, finetune, load_samples
from hamux_zoo.data import Images
from hamux_zoo.training._checkpoints import Checkpoints
from hamux_zoo.training._devices import Placement
from hamux_zoo.training._log import Log
from hamux_zoo.training._steps import first_state, make_measure, make_step, part
from hamux_zoo.training._tasks import loss_of

BATCH, STEPS, EVERY = 256, 60, 20
COLLECTIVE = re.compile(r"= (.*?) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4, "bf16": 2}

model = DenseHopfield(DenseHopfieldConfig(memories=2000, classes=10, energy="polynomial", beta=2.0), key=jr.key(0))
few, labels = load_samples("mnist")
data = Images(np.tile(few, (200, 1, 1, 1)), np.tile(labels, 200))
recipe = Recipe(
    task={"classify": 2.0, "reconstruct": 10.0, "denoise": 10.0},
    steps=STEPS,
    batch_size=BATCH,
    trainable="ham.synapses",
    augment=["classify:warp"],
    ema=0.999,
    validation=0,
    every=EVERY,
)


def compiled_step(devices: int, shard_params: bool):
    """The step's program over so many devices, and its first state there."""
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    placement = Placement(mesh, shard_params)
    made = recipe.for_model(model, len(data.images))
    parts = part(model, made)
    measure = make_measure(loss_of(made.task, made.augment), made, parts.static)
    batch = data.take(slice(BATCH))
    state = placement.place(first_state(parts, made, measure, batch))
    step = jax.jit(make_step(measure, made), donate_argnums=0, out_shardings=jax.tree.map(placement.of, state))
    return step.lower(state, placement.place(parts.frozen), placement.gather_batch(batch)).compile(), state


def communicated(program: str) -> int:
    """Bytes of all results of collectives in a compiled program."""
    total = 0
    for shapes in COLLECTIVE.findall(program):
        for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            total += BYTES[kind] * math.prod(int(size) for size in sizes.split(",") if size)
    return total


if sys.argv[1:]:  # the run that is timed below, in a process of its own and on one device
    finetune(model, data, recipe, workdir=sys.argv[1], quiet=True)
    sys.exit()

print("devices  parameters  bytes communicated a step")
communication = {}
for devices in (1, 2, 4, 8):
    for shard_params in (False, True):
        program, state = compiled_step(devices, shard_params)
        count = communicated(program.as_text())
        communication[f"{devices}, {'cut' if shard_params else 'whole'}"] = count
        print(f"{devices:7}  {'cut' if shard_params else 'whole':10}  {count:,}")
        if devices == 1:
            temporary = program.memory_analysis().temp_size_in_bytes
parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(part(model, recipe).weights))
print(f"the trained parameters have {parameters:,} bytes")

with tempfile.TemporaryDirectory() as folder:
    _, state = compiled_step(1, False)
    checkpoints = Checkpoints(Path(folder) / "checkpoints")
    seconds = []
    for step in range(1, 7):
        began = time.perf_counter()
        checkpoints.save(step, state, {})
        seconds.append(time.perf_counter() - began)
    save = statistics.median(seconds)
    print(f"a checkpoint: {save:.2f} s; ten of them in a 10-minute run: {100 * 10 * save / 600:.1f} %")

    subprocess.run([sys.executable, __file__, f"{folder}/run"], check=True)
    lines = Log(Path(folder) / "run/log.jsonl").lines()[3:]
speed, waiting = (statistics.median(line[name] for line in lines) for name in ("images_per_second", "waiting"))
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(f"{speed:.0f} images/s, {100 * waiting:.1f} % of the time waiting for data")
print(f"peak memory {peak / 1e6:.0f} MB, of which the compiled step's temporaries {temporary / 1e6:.0f} MB")
record(
    "training",
    {
        "images_per_second": speed,
        "waiting_percent": 100 * waiting,
        "seconds_a_checkpoint": save,
        "checkpoints_percent_of_10_minutes": 100 * 10 * save / 600,
        "peak_memory_mb": peak / 1e6,
        "temporary_memory_mb": temporary / 1e6,
        "parameter_bytes": parameters,
        "communicated_bytes_a_step": communication,
    },
)
