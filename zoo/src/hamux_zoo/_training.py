"""Training of a memory that classifies, completes and denoises: one set of weights, one energy, three losses.

Classification goes by the energies of the labels (Krotov & Hopfield, 2016, §4). For completion and denoising a pool of
damaged images is relaxed a few steps further in every training step, from where it stands; what it shows then is
compared with the undamaged image. Some of the pool starts afresh in each step, so that it holds short and long
relaxations, and the fixed points are trained without being waited for (persistent chains: Tieleman, 2008).
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import hamux

from ._corruptions import gaussian_noise, salt_and_pepper
from ._data import Images

BATCH, POOL, RELAX_STEPS = 500, 256, 3


class Pool(NamedTuple):
    """Damaged images on their way back: states, which pixels are known, and what should come out."""

    xs: dict[str, Float[Array, "pool ..."]]
    known: Bool[Array, "pool height width channels"]
    images: Float[Array, "pool height width channels"]
    labels: Int[Array, " pool"]


def train(
    model: Any,
    data: Images,
    *,
    steps: int,
    seed: int,
    flip: bool = False,
    report: Callable[[int, dict[str, float]], None],
    report_every: int = 250,
) -> Any:
    """The model with the memories that `steps` steps of Muon (Jordan et al., 2024) find, averaged over the last ones.

    `model` has a layer "pixels", a layer "label" and one Hopfield synapse, "memory", over both. `flip` mirrors half of
    the images. `report` gets the number of steps done, the losses averaged since the last report and the seconds.
    """
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    weights, assemble = _coordinates(model, data.images)

    def rate(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0, peak, min(300, steps // 5), steps, 0.003 * peak)

    optimizer = optax.partition(
        {"muon": optax.contrib.muon(rate(1.0), ns_steps=4), "adam": optax.adam(rate(0.1), b2=0.99)},
        {name: "muon" if name == "across" else "adam" for name in weights},
    )

    def loss(weights, key, batch_images, batch_labels, pool: Pool):
        model = assemble(weights)
        seen = jax.vmap(lambda key, image: augment(key, image, 1.0, flip))(jr.split(key, BATCH), batch_images)
        scores = jax.vmap(model.classify)(seen) * jnp.exp(weights["log_temperature"])
        classify = optax.softmax_cross_entropy_with_integer_labels(scores, batch_labels).mean()
        xs, reconstruct, label = jax.vmap(lambda *slot: _continue(model, Pool(*slot)))(*pool)
        losses = {"classify": classify, "reconstruct": reconstruct.mean(), "label": label.mean()}
        return classify + 20 * losses["reconstruct"] + 0.4 * losses["label"], (pool._replace(xs=xs), losses)

    @jax.jit
    def step(weights, average, state, pool, key, done):
        key_batch, key_loss, key_fresh, key_replace = jr.split(key, 4)
        batch = jr.randint(key_batch, (BATCH,), 0, len(images))
        gradient, (pool, losses) = jax.grad(loss, has_aux=True)(weights, key_loss, images[batch], labels[batch], pool)
        updates, state = optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
        average = optax.incremental_update(weights, average, jnp.maximum(0.001, 9 / (done + 10)))
        model = assemble(weights)
        fresh = _start(model, key_fresh, images[batch[:POOL]], labels[batch[:POOL]], flip)
        return weights, average, state, _replace_some(key_replace, pool, fresh), losses

    key_first, key_pool, key_steps = jr.split(jr.key(seed), 3)
    first = jr.randint(key_first, (POOL,), 0, len(images))
    pool = _start(model, key_pool, images[first], labels[first], flip)
    average, state = weights, optimizer.init(weights)
    since: list[dict[str, Array]] = []
    began = time.monotonic()
    for done in range(1, steps + 1):
        weights, average, state, pool, losses = step(weights, average, state, pool, jr.fold_in(key_steps, done), done)
        since.append(losses)
        if done % report_every == 0 or done == steps:
            means = {name: float(np.mean([losses[name] for losses in since])) for name in losses}
            report(done, means | {"seconds": time.monotonic() - began})
            since = []
    return assemble(average)


def _coordinates(model: Any, images: np.ndarray) -> tuple[dict[str, Array], Callable[[dict[str, Array]], Any]]:
    """The weights to learn, and the model that they make.

    A memory is cut in two: its part along the mean image, which all images share, and the part across. Learned with one
    rate the first holds up the second (2.5 % instead of 1.5 % test error after as many steps).
    """
    mean = 2 * images.mean(axis=0).ravel() - 1
    mean = jnp.asarray(mean / np.linalg.norm(mean))
    across, labels = model.ham.synapses["memory"].xi
    weights = {
        "across": across,
        "along": across @ mean / 5,
        "labels": labels,
        "log_temperature": jnp.zeros(()),
    }

    def assemble(weights):
        across = weights["across"]
        pixels = across + jnp.outer(5 * weights["along"] - across @ mean, mean)
        return eqx.tree_at(lambda model: model.ham.synapses["memory"].xi, model, (pixels, weights["labels"]))

    return weights, assemble


def _start(model: Any, key: PRNGKeyArray, images: Array, labels: Array, flip: bool) -> Pool:
    def one(key, image):
        key_augment, key_damage = jr.split(key)
        image = augment(key_augment, image, 0.3, flip)
        start, known = damage(key_damage, image)
        return model.encode(start), known, image

    xs, known, targets = jax.vmap(one)(jr.split(key, len(images)), images)
    return Pool(xs, known, targets, labels)


def _continue(model: Any, slot: Pool) -> tuple[dict[str, Array], Float[Array, ""], Float[Array, ""]]:
    """Some more steps of one relaxation: the states it comes to, and how far the free pixels and the label are off.

    For the label that is L(x) − s·x with its spins s, the Fenchel-Young loss of its Lagrangian up to a constant
    (Blondel, Martins & Niculae, 2020); it pulls as hard on a neuron that is saturated at the wrong end.
    """
    clamp = {"pixels": slot.known.ravel()}
    end = hamux.descend(model.ham, slot.xs, steps=RELAX_STEPS, dt=1.0, clamp=clamp, trajectory=True)
    path: Any = jax.tree.map(lambda states: states[1:], end.trajectory)
    shown = jax.vmap(model.decode)(path)
    spins = 2 * jax.nn.one_hot(slot.labels, model.config.classes) - 1
    own = jax.vmap(model.ham.neurons["label"].lagrangian)(path["label"])
    later_counts_more = jnp.arange(1.0, RELAX_STEPS + 1) / (RELAX_STEPS * (RELAX_STEPS + 1) / 2)
    errors = jnp.mean((shown - slot.images[None]) ** 2, axis=(1, 2, 3), where=~slot.known[None])
    surprise = own - path["label"] @ spins
    weight = jnp.where(jnp.any(slot.known), 1.0, 1.5) * later_counts_more
    return end.xs, jnp.sum(weight * errors), jnp.sum(weight * surprise)


def _replace_some(key: PRNGKeyArray, pool: Pool, fresh: Pool) -> Pool:
    """Half of the slots start afresh every other step, the others every 25 steps, on average."""
    chance = jnp.where(jnp.arange(POOL) % 2 == 0, 0.5, 0.04)
    again = jr.uniform(key, (POOL,)) < chance
    return jax.tree.map(lambda new, old: jnp.where(again.reshape(-1, *[1] * (new.ndim - 1)), new, old), fresh, pool)


def damage(key: PRNGKeyArray, image: Float[Array, "height width channels"]):
    """An image to start from and the mask of its known pixels: half of the time noisy and nowhere known, else with a
    half or a rectangle missing; the lower half most often."""
    key_kind, key_noise, key_level, key_which, key_place, key_side = jr.split(key, 6)
    height, width, _ = image.shape
    rows, columns = jnp.mgrid[:height, :width]
    level = jr.uniform(key_level, maxval=0.5)
    noisy = jnp.where(
        jr.bernoulli(key_which), salt_and_pepper(key_noise, image, level), gaussian_noise(key_noise, image, level)
    )
    middle, extent = jr.uniform(key_place, (2, 2))
    middle, extent = middle[:, None, None], extent[:, None, None]
    inside = jnp.abs(jnp.stack([rows / height, columns / width]) - middle) < 0.2 + 0.2 * extent
    halves = jnp.stack([rows < height // 2, rows >= height // 2, columns < width // 2, columns >= width // 2])
    half = halves[jr.choice(key_side, 4, p=jnp.array([0.6, 0.13, 0.14, 0.13]))]
    kind = jr.uniform(key_kind)
    known = jnp.where(kind < 0.125, ~inside.all(axis=0), half)[..., None] & (kind < 0.5)
    known = jnp.broadcast_to(known, image.shape)
    return jnp.where(kind < 0.5, jnp.where(known, image, 0.5), noisy), known


def augment(key: PRNGKeyArray, image: Float[Array, "height width channels"], strength: float, flip: bool):
    """The image turned by up to 10°, stretched by up to 10 %, moved by up to 1.5 pixels and bent by about 0.8, times
    `strength`; mirrored half of the time with `flip`."""
    key_turn, key_stretch, key_move, key_bend, key_flip = jr.split(key, 5)
    height, width, _ = image.shape
    centre = jnp.array([height - 1, width - 1]) / 2
    grid = jnp.mgrid[:height, :width].astype(centre.dtype) - centre[:, None, None]
    angle = strength * jnp.deg2rad(jr.uniform(key_turn, minval=-10, maxval=10))
    stretch = 1 + strength * jr.uniform(key_stretch, (2, 1), minval=-0.1, maxval=0.1)
    turn = stretch * jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    move = centre + strength * jr.uniform(key_move, (2,), minval=-1.5, maxval=1.5)
    bend = 0.8 * strength * jax.image.resize(jr.normal(key_bend, (2, 6, 6)), (2, height, width), "cubic")
    where = jnp.einsum("ij,jhw->ihw", turn, grid) + move[:, None, None] + bend
    image = jnp.where(flip & jr.bernoulli(key_flip), image[:, ::-1], image)
    return jax.vmap(lambda channel: map_coordinates(channel, where, order=1), in_axes=-1, out_axes=-1)(image)
