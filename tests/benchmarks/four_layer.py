"""100 steps of `descend` on a four-layer HAM beside the same HAM in the field's package `hamux` 0.2.2.

There a jitted step (activations, gradient, update) is called in a Python loop, without the energy, and with the energy
of every step, which `descend` records. It runs in a process of its own, since the two packages share a name. Goal: 3
times faster at batch 1, 1.5 times at batch 32.
"""

import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
from _measure import alternate, record

import hamux

BATCHES = (1, 32)
STEPS, DT = 100, 0.1
REFERENCE = ["uv", "run", "--isolated", "--no-project", "--with", "hamux==0.2.2", "--with", "fastcore", "python"]

keys = iter(jr.split(jr.key(0), 5))
ham = hamux.HAM(
    neurons={
        "image": hamux.Neurons(hamux.lagr_identity, (32, 32, 3)),
        "patch": hamux.Neurons(hamux.lagr_tanh, (11, 11, 16)),
        "memory": hamux.Neurons(hamux.lagr_softmax, 25),
        "label": hamux.Neurons(hamux.lagr_softmax, 10),
    },
    synapses={
        "conv": hamux.ConvSynapse(next(keys), 16, 3, filter_shape=3, window_strides=3),
        "recall": hamux.DenseSynapse(next(keys), 16, 25),
        "classify": hamux.DenseSynapse(next(keys), 25, 10),
    },
    connections=[(("image", "patch"), "conv"), (("patch", "memory"), "recall"), (("memory", "label"), "classify")],
).vectorize()
states = {batch: ham.init_states(batch, key=next(keys)) for batch in BATCHES}


def descend(batch: int) -> hamux.Retrieval:
    return jax.block_until_ready(hamux.descend(ham, states[batch], steps=STEPS, dt=DT))


with tempfile.TemporaryDirectory() as folder:
    problem = Path(folder) / "problem.npz"
    weights = {name: synapse.W for name, synapse in ham.synapses.items()}
    starts = {f"{name}_{batch}": x for batch, xs in states.items() for name, x in xs.items()}
    np.savez(problem, steps=STEPS, dt=DT, **weights, **starts)
    script = Path(__file__).with_name("_four_layer_reference.py")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*REFERENCE, script, problem], **pipes) as reference:

        def ask(what: str, batch: int):
            print(what, batch, file=reference.stdin, flush=True)
            return json.loads(reference.stdout.readline())

        figures = {}
        for batch in BATCHES:
            np.testing.assert_allclose(descend(batch).energies[:, -2], ask("energies", batch), rtol=1e-5)
            sides = {
                "hamux": partial(descend, batch),
                "0.2.2, states": partial(ask, "states", batch),
                "0.2.2, states and energies": partial(ask, "energies", batch),
            }
            seconds = alternate(sides, rounds=30)
            faster = {name: s / seconds["hamux"] for name, s in seconds.items()}
            figures[f"batch {batch}"] = {"seconds": seconds, "hamux is faster than, times": faster}
            for name, s in seconds.items():
                print(f"batch {batch:2} {name:27} {1e3 * s:6.2f} ms {faster[name]:5.2f} x")
record("four_layer", {"steps": STEPS} | figures)
