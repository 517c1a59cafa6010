"""A plain convolutional network, which knows no memories, to compare them with and to ask about them."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from hamux_zoo.data import Images, augment, batches

RATE = 3e-3


class PlainNetwork(eqx.Module):
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


def trained(train: Images, classes: int, *, steps: int, batch: int, changes: Sequence[str], seed: int) -> PlainNetwork:
    """Returns a network after so many steps of Adam on the cross-entropy of images that `changes` augment."""
    network = PlainNetwork(train.images.shape[1:], classes, jr.key(seed))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    @eqx.filter_jit
    def step(network, state, images, labels, key):
        def loss(network):
            changed = jax.vmap(lambda key, image: augment(key, image, changes))(jr.split(key, batch), images)
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(network.classify)(changed), labels).mean()

        updates, state = optimizer.update(eqx.filter_grad(loss)(network), state)
        return eqx.apply_updates(network, updates), state

    state, loader = optimizer.init(eqx.filter(network, eqx.is_array)), batches(train, batch, seed, slice(None))
    for count in range(steps):
        images, labels = next(loader)
        key = jr.fold_in(jr.key(seed + 1), count)
        network, state = step(network, state, jnp.asarray(images), jnp.asarray(labels), key)
    return network
