"""Times one sweep of a convolutional HAM over a batch of 64 beside its matrix products, of patches that are cut.

A sweep takes each convolution of the blocks once upward and once downward. Components and patterns it takes four times
each way, as often as it takes image and memory.

    python tests/benchmarks/sweep.py conv-ham-mnist
"""

import math
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from _measure import alternate, record

import hamux
from hamux_zoo import from_pretrained

BATCH, SWEEPS = 64, 3

(name,) = sys.argv[1:]
model = from_pretrained(name)
config, method, keys = model.config, model.dynamics().method, iter(jr.split(jr.key(0), 99))
known = jnp.zeros(config.shape, bool).at[: config.shape[0] // 2].set(True)
images = jr.uniform(next(keys), (BATCH, *config.shape))
xs = eqx.filter_jit(jax.vmap(lambda image: model.start(image, known)[0]))(images)


def swept(xs, steps):
    end = hamux.descend(model.ham, xs, steps=steps, method=method, clamp={"image": known}, energies=False)
    return end.xs


def product(places, taps, channels):
    """Inputs of a product upward, and of one downward."""
    shapes = [(BATCH * places, taps), (taps, channels), (BATCH * places, channels)]
    return [jr.normal(next(keys), shape) for shape in shapes]


height, width, below = config.shape
convolutions = []
for channels, kernel in zip(config.channels, config.kernels, strict=True):
    height, width = height // 2, width // 2
    convolutions.append(product(height * width, kernel**2 * below, channels))
    below = channels
parts = product(1, height * width * below, config.parts)
rounds = [product(1, math.prod(config.shape), config.components), product(1, config.components, config.memories)]


def products(convolutions, parts, rounds):
    once = [(patches @ filters, outputs @ filters.T) for patches, filters, outputs in [*convolutions, parts]]
    signs = (1, 2, 3, 4)  # other numbers each time, so that the compiler computes each product
    repeated = [(rows * sign @ matrix, outputs * sign @ matrix.T) for sign in signs for rows, matrix, outputs in rounds]
    return once, repeated


def on(arguments, way):
    compiled = eqx.filter_jit(way)
    return lambda: jax.block_until_ready(compiled(*arguments))


seconds = alternate(
    {
        "one": on((xs,), jax.vmap(lambda xs: swept(xs, 1))),
        "more": on((xs,), jax.vmap(lambda xs: swept(xs, 1 + SWEEPS))),
        "products": on((convolutions, parts, rounds), products),
    },
    rounds=21,
)
sweep = (seconds["more"] - seconds["one"]) / SWEEPS
share = seconds["products"] / sweep
print(f"one sweep {1e3 * sweep:.2f} ms, its products {1e3 * seconds['products']:.2f} ms: {share:.2f} of it")
record("sweep", {"model": name, "seconds a sweep": sweep, "seconds of the products": seconds["products"]})
