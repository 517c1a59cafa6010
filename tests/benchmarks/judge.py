"""Asks a judge what a memory generates: a plain convolutional network that was trained on the training split.

Prints the judge's own test error, and how often it finds in an image the label that the image was generated from.

    python tests/benchmarks/judge.py zalando-datasets/fashion_mnist conv-ham-fashion-mnist dense-hopfield-fashion-mnist
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _measure import record

from hamux_zoo import from_pretrained, load_images
from hamux_zoo.data import augment, batches
from hamux_zoo.measure import classes_of, error

BATCH, STEPS, RATE, EACH = 128, 4000, 3e-3, 100


class Judge(eqx.Module):
    """Three convolutions of 3 × 3, each halved by its largest values, and two layers of neurons."""

    layers: list[eqx.nn.Conv2d]
    hidden: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, shape, classes, key):
        keys = jr.split(key, 5)
        height, width, colours = shape
        sizes = [colours, 32, 64, 128]
        self.layers = [
            eqx.nn.Conv2d(n, m, 3, padding="SAME", key=key) for n, m, key in zip(sizes, sizes[1:], keys, strict=False)
        ]
        self.hidden = eqx.nn.Linear(128 * (height // 8) * (width // 8), 128, key=keys[3])
        self.last = eqx.nn.Linear(128, classes, key=keys[4])

    def classify(self, image):
        x = image.transpose(2, 0, 1) - 0.5
        pool = eqx.nn.MaxPool2d(2, 2)
        for layer in self.layers:
            x = pool(jax.nn.relu(layer(x)))
        return self.last(jax.nn.relu(self.hidden(x.ravel())))


@eqx.filter_jit
def step(judge, state, images, labels, key):
    def loss(judge):
        changed = jax.vmap(lambda key, image: augment(key, image, ["crop", "flip"]))(jr.split(key, BATCH), images)
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(judge.classify)(changed), labels).mean()

    updates, state = optimizer.update(eqx.filter_grad(loss)(judge), state)
    return eqx.apply_updates(judge, updates), state


data, *names = sys.argv[1:]
models = {name: from_pretrained(name) for name in names}
config = models[names[0]].config
train, test = (load_images(data, split, shape=config.shape) for split in ("train", "test"))
judge = Judge(config.shape, config.classes, jr.key(0))
optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
state, loader = optimizer.init(eqx.filter(judge, eqx.is_array)), batches(train, BATCH, 0, slice(None))
for count in range(STEPS):
    images, labels = next(loader)
    judge, state = step(judge, state, jnp.asarray(images), jnp.asarray(labels), jr.fold_in(jr.key(1), count))
own = error(classes_of(judge, np.asarray(test.images)), np.asarray(test.labels))
print(f"the judge's test error: {own:.2f} %")
asked = np.repeat(np.arange(config.classes), EACH)
figures = {"test error": own}
for name, model in models.items():
    generate = eqx.filter_jit(jax.vmap(lambda label, key, model=model: model.generate(label, key=key).x))
    keys = jr.split(jr.key(0), len(asked))
    parts = [slice(i, i + 100) for i in range(0, len(asked), 100)]
    made = np.concatenate([generate(jnp.asarray(asked[part]), keys[part]) for part in parts])
    figures[name] = 100 - error(classes_of(judge, made), asked)
    print(f"{name}: of {len(asked)} generated images it agrees with {figures[name]:.1f} %")
record(f"judge-{data.rsplit('/')[-1]}", figures)
