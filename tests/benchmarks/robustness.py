"""Compares a convolutional HAM with a plain network that was trained for the same tasks in the same time.

The plain network has the filters of the HAM upward, and as many of its own downward: it tells the class of an image,
and completes it, in one pass. Of each test image 0, 10, 30 and 50 % of the pixels become black or white, the same ones
for both. The arguments after the names are the number of minutes and the augmentations of the HAM's recipe.

    python tests/benchmarks/robustness.py ylecun/mnist conv-ham-mnist 12 warp noise
"""

import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _measure import record

from hamux_zoo import from_pretrained, load_images
from hamux_zoo.data import augment, batches
from hamux_zoo.measure import classes_of, error, salted
from hamux_zoo.pixels import normalise

BATCH, RATE, COMPLETION = 32, 2e-3, 13.0


class Plain(eqx.Module):
    """A convolutional network from the image and the mask of its known pixels to the class, and back to the image."""

    up: list[eqx.nn.Conv2d]
    parts: eqx.nn.Linear
    label: eqx.nn.Linear
    back: eqx.nn.Linear
    down: list[eqx.nn.ConvTranspose2d]
    config: object = eqx.field(static=True)

    def __init__(self, config, key):
        keys = iter(jr.split(key, 20))
        height, width, colours = config.shape
        sides = [colours + 1, *config.channels]
        layers = list(zip(sides, config.channels, config.kernels, strict=False))
        self.up = [eqx.nn.Conv2d(n, m, k, 2, "SAME", key=next(keys)) for n, m, k in layers]
        size = height * width * config.channels[-1] // 4 ** len(layers)
        self.parts = eqx.nn.Linear(size, config.parts, key=next(keys))
        self.label = eqx.nn.Linear(config.parts, config.classes, key=next(keys))
        self.back = eqx.nn.Linear(config.parts, size, key=next(keys))
        outs = [colours, *config.channels]
        layers = list(zip(config.channels, outs, config.kernels, strict=False))[::-1]
        self.down = [eqx.nn.ConvTranspose2d(n, m, k, 2, padding="SAME", key=next(keys)) for n, m, k in layers]
        self.config = config

    def __call__(self, image, known):
        shown = normalise(image, self.config.mean, self.config.std)
        x = jnp.concatenate([shown, known[..., :1].astype(shown.dtype)], axis=-1).transpose(2, 0, 1)
        for conv in self.up:
            x = jnp.tanh(conv(x))
        parts = jnp.tanh(self.parts(x.ravel()))
        x = jnp.tanh(self.back(parts).reshape(x.shape) + x)
        for conv in self.down[:-1]:
            x = jnp.tanh(conv(x))
        return self.label(parts), self.down[-1](x).transpose(1, 2, 0)

    def classify(self, image):
        return self(image, jnp.ones(image.shape, bool))[0]


def loss(network, memory, images, labels, key, names):
    """The tasks of the HAM: to classify, with the same augmentations, and to complete."""
    keys = jr.split(key, (2, len(images)))
    changed = jax.vmap(lambda key, image: augment(key, image, names))(keys[0], images)
    total = optax.softmax_cross_entropy_with_integer_labels(jax.vmap(network.classify)(changed), labels).mean()
    known = jax.vmap(memory.hide)(keys[1])
    _, shown = jax.vmap(network)(jnp.where(known, images, 0.5), known)
    square = (memory.config.std[0] * (shown - normalise(images, memory.config.mean, memory.config.std))) ** 2
    return total + COMPLETION * jnp.sum(square * ~known) / jnp.sum(~known)


data, name, minutes, *augmentations = sys.argv[1:]
memory = from_pretrained(name)
train = load_images(data, "train", shape=memory.config.shape)
test = load_images(data, "test", shape=memory.config.shape).take(slice(5000, None))
network = Plain(memory.config, jr.key(0))
optimizer = optax.adamw(optax.schedules.warmup_constant_schedule(0.0, RATE, 100))


@eqx.filter_jit
def step(network, state, images, labels, key):
    value, gradient = eqx.filter_value_and_grad(loss)(network, memory, images, labels, key, augmentations)
    updates, state = optimizer.update(gradient, state, eqx.filter(network, eqx.is_array))
    return eqx.apply_updates(network, updates), state, value


state, steps, end = optimizer.init(eqx.filter(network, eqx.is_array)), 0, time.monotonic() + 60 * float(minutes)
loader = batches(train, BATCH, 0, slice(None))
while time.monotonic() < end:
    images, labels = next(loader)
    network, state, value = step(network, state, jnp.asarray(images), jnp.asarray(labels), jr.fold_in(jr.key(1), steps))
    steps += 1
    if steps % 1000 == 0:
        print(f"step {steps}: loss {value:.3f}", flush=True)
figures = {"minutes": float(minutes), "steps": steps}
for share in (0.0, 0.1, 0.3, 0.5):
    images = salted(np.asarray(test.images), share)
    errors = {
        which: error(classes_of(model, images), test.labels)
        for which, model in {name: memory, "plain": network}.items()
    }
    print(f"{100 * share:3g} %", ", ".join(f"{which} {percent:.2f} %" for which, percent in errors.items()))
    figures[f"{100 * share:g} %"] = errors
record(f"robustness-{name}", figures)
