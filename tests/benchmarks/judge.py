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
from _measure import record
from _plain_network import trained

from hamux_zoo import from_pretrained, load_images
from hamux_zoo.measure import classes_of, error

EACH = 100  # generated images of a class

data, *names = sys.argv[1:]
models = {name: from_pretrained(name) for name in names}
config = models[names[0]].config
train, test = (load_images(data, split, shape=config.shape) for split in ("train", "test"))
judge = trained(train, config.classes, steps=4000, batch=128, changes=["crop", "flip"], seed=0)
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
