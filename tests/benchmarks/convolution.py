"""Ten steps of descent through a convolution, batch 32: `ConvSynapse`, which multiplies patches by a matrix, and the
same energy by `jax.lax.conv_general_dilated`; in one compiled loop, as in a retrieval, and step by step from Python.

    python tests/benchmarks/convolution.py
"""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _measure import alternate, record

import hamux

STEPS, BATCH, RATE = 10, 32, 0.01
# (height and width, channels in, channels out, filter, stride)
CASES = [(32, 3, 16, 3, 3), (28, 1, 32, 5, 2), (32, 3, 64, 3, 1), (16, 32, 64, 3, 1), (16, 32, 64, 3, 2)]


def by_lax(synapse, g1, g2):
    (made,) = jax.lax.conv_general_dilated(
        g1[None], synapse.W, synapse.windows.strides, "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC")
    )
    return -jnp.sum(made * g2)


def step(energy, synapse, gs):
    forces = jax.vmap(jax.grad(lambda gs: energy(synapse, *gs)))(gs)
    return jax.tree.map(lambda g, force: g - RATE * force, gs, forces)


def in_a_loop(energy, synapse):
    return jax.jit(lambda gs: jax.lax.fori_loop(0, STEPS, lambda _, gs: step(energy, synapse, gs), gs))


def from_python(energy, synapse):
    once = jax.jit(lambda gs: step(energy, synapse, gs))
    return lambda gs: functools.reduce(lambda gs, _: once(gs), range(STEPS), gs)


def run(way, gs):
    return jax.block_until_ready(way(gs))


figures = {}
for case in CASES:
    size, channels_in, channels_out, window, stride = case
    synapse = hamux.ConvSynapse(jr.key(0), channels_out, channels_in, window, stride)
    count = -(-size // stride)
    gs = (
        jr.normal(jr.key(1), (BATCH, size, size, channels_in)),
        jr.normal(jr.key(2), (BATCH, count, count, channels_out)),
    )
    ways = {
        f"{name}, {how.__name__.replace('_', ' ')}": how(energy, synapse)
        for how in (in_a_loop, from_python)
        for name, energy in {"patches": lambda synapse, *gs: synapse(*gs), "lax": by_lax}.items()
    }
    ends = [jax.tree.leaves(way(gs)) for way in ways.values()]
    for end in ends[1:]:
        for found, expected in zip(end, ends[0], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    runs = {name: functools.partial(run, way, gs) for name, way in ways.items()}
    seconds = alternate(runs, rounds=7)
    shape = f"{size}² × {channels_in} → {count}² × {channels_out}, {window}², stride {stride}"
    print(f"{shape:42}", ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items()), flush=True)
    figures[shape] = seconds
record("convolution", figures)
