"""What a model is trained for: losses of a batch, made of what its architecture offers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ._augmentation import augment
from ._corruptions import gaussian_noise, salt_and_pepper
from ._data import Images
from ._model import ZooModel, only_known

# (model, batch, *, key) -> (loss, metrics): scalars, averages over the batch
Loss = Callable[..., tuple[Array, dict[str, Array]]]
Task = str | Mapping[str, float] | Loss

# What a wrong class weighs beside the mean square of the pixels, which lie in [0, 1].
LABEL_WEIGHT = 0.02


def loss_of(task: Task, model: ZooModel, augmentations: Sequence[str] = ()) -> Loss:
    """The loss of a task's name, the weighted sum of several by name, or the function given; of images changed by
    `augmentations`, an entry "TASK:NAME" for that task alone.

    **Raises** ValueError for an unknown task, and for one that the architecture does not offer.
    """

    def changed(batch: Images, key: PRNGKeyArray, name: str = "") -> Images:
        entries = [entry.rpartition(":") for entry in augmentations]
        names = [augmentation for only, _, augmentation in entries if only in ("", name)]
        each: Any = jax.vmap(lambda key, image: augment(key, image, names))
        return batch._replace(images=each(jr.split(key, len(batch.images)), batch.images))

    if callable(task):

        def own_loss(model: Any, batch: Images, *, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
            key_augment, key_task = jr.split(key)
            return task(model, changed(batch, key_augment), key=key_task)

        return own_loss

    weights = {task: 1.0} if isinstance(task, str) else dict(task)
    for name, weight in weights.items():
        if name not in _TASKS:
            raise ValueError(f'unknown task "{name}"; there are {sorted(_TASKS)}, or give a function as loss')
        if not hasattr(model, _TASKS[name][0]):
            offered = [other for other, (method, _) in _TASKS.items() if hasattr(model, method)]
            raise ValueError(f'{type(model).__name__} is not trained for "{name}"; it is for {sorted(offered)}')
        if not weight > 0:
            raise ValueError(f'task "{name}" has weight {weight}; expected a number > 0')
    if not weights:
        raise ValueError(f"no task; there are {sorted(_TASKS)}")

    def loss(model: Any, batch: Images, *, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
        total, metrics = jnp.zeros((), jnp.float32), dict[str, Array]()
        for (name, weight), keys in zip(weights.items(), jr.split(key, (len(weights), 2)), strict=True):
            value, of_task = _TASKS[name][1](model, changed(batch, keys[0], name), key=keys[1])
            total, metrics = total + weight * value, metrics | of_task
        return total, metrics

    return loss


def names_of(task: Task) -> list[str]:
    """The tasks that are meant by name."""
    return [] if callable(task) else [task] if isinstance(task, str) else list(task)


def uses_labels(task: Task) -> bool:
    """Whether the labels of the data are learned, or may be."""
    return callable(task) or "classify" in names_of(task)


def classify(model: Any, batch: Images, *, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the softmax of `model.classify`'s scores."""
    scores = jax.vmap(model.classify)(batch.images).astype(jnp.float32)
    labels = jnp.asarray(batch.labels)
    loss = optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
    return loss, {"accuracy": jnp.mean(jnp.argmax(scores, axis=-1).astype(labels.dtype) == labels)}


def reconstruct(model: Any, batch: Images, *, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
    """Mean squared error of the hidden pixels in the last steps of `model.rehearse`; see `_recall`."""
    return _recall(model, batch, key, hidden, "reconstruction_mse")


def denoise(model: Any, batch: Images, *, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
    """The same over all pixels, from an image in noise."""
    return _recall(model, batch, key, noisy, "denoising_mse")


def _recall(model: Any, batch: Images, key: PRNGKeyArray, damage: Any, metric: str) -> tuple[Array, dict[str, Array]]:
    """The later steps count more. Where the recall shows classes too, and the batch has labels, their cross-entropy is
    added, times `LABEL_WEIGHT`: an image that is recalled should stay of its class."""
    key_damage, key_recall = jr.split(key)

    def one(key, image, label):
        start, known = damage(model, key, image)
        shown, scores = model.rehearse(start, known, key=key_recall)
        asked = jnp.ones(image.shape, bool) if known is None else ~known
        errors = jnp.square(shown.astype(jnp.float32) - image.astype(jnp.float32)[None])
        errors = jnp.sum(errors, axis=(1, 2, 3), where=asked[None]) / jnp.maximum(jnp.sum(asked), 1).astype(jnp.float32)
        surprise = jnp.zeros_like(errors)
        if label is not None and scores is not None:
            labels = jnp.broadcast_to(label, errors.shape)
            surprise = optax.softmax_cross_entropy_with_integer_labels(scores.astype(jnp.float32), labels)
        return errors, surprise

    each = jax.vmap(one)(jr.split(key_damage, len(batch.images)), batch.images, batch.labels)
    errors, surprise = jax.tree.map(lambda rows: jnp.mean(rows, axis=0), each)
    loss = jnp.average(errors + LABEL_WEIGHT * surprise, weights=jnp.arange(1, len(errors) + 1, dtype=errors.dtype))
    return loss, {metric: errors[-1]}


def hidden(
    model: Any, key: PRNGKeyArray, image: Float[Array, "height width channels"]
) -> tuple[Float[Array, "height width channels"], Bool[Array, "height width channels"]]:
    """The image with 0.5 where `model.hide` hides it, and the mask of what is known."""
    known = model.hide(key)
    return only_known(image, known), known


def noisy(
    model: Any, key: PRNGKeyArray, image: Float[Array, "height width channels"]
) -> tuple[Float[Array, "height width channels"], None]:
    """The image under salt and pepper or under Gaussian noise, up to a share or a σ of 0.5; no pixel is known."""
    key_kind, key_level, key_noise = jr.split(key, 3)
    level = jr.uniform(key_level, maxval=0.5)
    damaged = jnp.where(
        jr.bernoulli(key_kind), salt_and_pepper(key_noise, image, level), gaussian_noise(key_noise, image, level)
    )
    return damaged, None


def examples(
    model: Any, data: Images, tasks: Sequence[str], names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rows of pictures for people: images, how they are damaged, and what is recalled of them; and a title for each
    column: the class that the model gives, and in brackets the right one."""
    rows = {"image": data.images}
    for task, damage in {"reconstruct": hidden, "denoise": noisy}.items():
        if task in tasks:
            rows[f"{task}: given"], rows[f"{task}: recalled"] = _recalled(model, data.images, damage)
    titles = [""] * len(data.images)
    if "classify" in tasks and data.labels is not None:
        pairs = zip(_found(model, data.images), data.labels, strict=True)
        titles = [f"{_name(found, names)}\n({_name(right, names)})" for found, right in pairs]
    return {label: np.asarray(row) for label, row in rows.items()}, titles


@functools.partial(jax.jit, static_argnums=2)
def _recalled(model: Any, images: Array, damage: Any) -> tuple[Array, Array]:
    def one(key, image):
        start, known = damage(model, key, image)
        shown = model.rehearse(start, known, key=jr.key(0))[0][-1]
        return start, shown if known is None else jnp.where(known, image, shown)

    return jax.vmap(one)(jr.split(jr.key(1), len(images)), images)


@jax.jit
def _found(model: Any, images: Array) -> Array:
    return jnp.argmax(jax.vmap(model.classify)(images), axis=-1)


def _name(label: Any, names: tuple[str, ...]) -> str:
    return names[label] if label < len(names) else str(label)


_TASKS: dict[str, tuple[str, Loss]] = {
    "classify": ("classify", classify),
    "reconstruct": ("rehearse", reconstruct),
    "denoise": ("rehearse", denoise),
}
