"""The other side of `four_layer.py`: the same HAM in the field's package `hamux` 0.2.2.

Run by `four_layer.py` in an environment of its own with the path of the weights and states (npz). For every line
`states BATCH` it takes the steps; for `energies BATCH` every step also returns the energy it starts from, and the last
is the answer.
"""

import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import hamux


class TokensToMemory(eqx.Module):
    """The package's LinearSynapse with every token of layer 1 joined to the one of layer 2."""

    W: jax.Array

    def __call__(self, g1, g2):
        return -jnp.einsum("hwc,d,cd->", g1, g2, self.W)


problem = np.load(sys.argv[1])
steps, dt = int(problem["steps"]), float(problem["dt"])
ham = hamux.HAM(
    neurons={
        "image": hamux.NeuronLayer(hamux.lagr_identity, (32, 32, 3)),
        "patch": hamux.NeuronLayer(hamux.lagr_tanh, (11, 11, 16)),
        "memory": hamux.NeuronLayer(hamux.lagr_softmax, (25,)),
        "label": hamux.NeuronLayer(hamux.lagr_softmax, (10,)),
    },
    hypersynapses={
        "conv": hamux.ConvSynapse(jnp.asarray(problem["conv"]), (3, 3), "SAME"),
        "recall": TokensToMemory(jnp.asarray(problem["recall"])),
        "classify": hamux.LinearSynapse(jnp.asarray(problem["classify"])),
    },
    connections=[(("image", "patch"), "conv"), (("patch", "memory"), "recall"), (("memory", "label"), "classify")],
).vectorize()


def jitted_step(return_energy):
    @jax.jit
    def step(xs):
        out = ham.dEdact(ham.activations(xs), xs, return_energy)
        energy, dEdg = out if return_energy else (None, out)
        return {name: x - dt * dEdg[name] for name, x in xs.items()}, energy

    return step


take_step = {"states": jitted_step(False), "energies": jitted_step(True)}
for line in sys.stdin:
    what, batch = line.split()
    xs = {name: jnp.asarray(problem[f"{name}_{batch}"]) for name in ham.neurons}
    for _ in range(steps):
        xs, energy = take_step[what](xs)
    jax.block_until_ready(xs)
    print(json.dumps(None if energy is None else energy.tolist()), flush=True)
