"""100 steps of `descend` on a four-layer HAM beside the same HAM in the field's package `hamux` 0.2.2.

There a Python loop calls a jitted step (activations, gradient, update), with the energy of every step or without. It
runs in a process of its own, since the two packages share a name. Goal, the states alone on both sides: 2 times faster
at batch 1, 1.2 times at batch 32.
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


def descend(batch: int, energies: bool) -> hamux.Retrieval:
    return jax.block_until_ready(hamux.descend(ham, states[batch], steps=STEPS, dt=DT, energies=energies))


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
            np.testing.assert_allclose(descend(batch, True).energies[:, -2], ask("energies", batch), rtol=1e-5)
            sides = {
                f"{side}, {what}": run
                for what in ("states", "energies")
                for side, run in {
                    "hamux": partial(descend, batch, what == "energies"),
                    "0.2.2": partial(ask, what, batch),
                }.items()
            }
            seconds = alternate(sides, rounds=30)
            faster = {what: seconds[f"0.2.2, {what}"] / seconds[f"hamux, {what}"] for what in ("states", "energies")}
            figures[f"batch {batch}"] = {"seconds": seconds, "times as fast": faster}
            for name, s in seconds.items():
                print(f"batch {batch:2} {name:15} {1e3 * s:6.2f} ms")
            print(f"batch {batch:2} " + ", ".join(f"{what} {times:.2f} x" for what, times in faster.items()))
record("four_layer", {"steps": STEPS} | figures)
