"""What a model is trained for: the losses of a batch."""

from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..data import Images, augment, blur, gaussian_noise, salt_and_pepper
from ..memory import Classifier, Generator, Memory
from ..pixels import fill_unknown

Image = Float[Array, "height width channels"]
Batch = Float[Array, "count height width channels"]
Known = Bool[Array, "height width channels"]
Metrics = dict[str, Float[Array, ""]]
Measured = tuple[Float[Array, ""], Metrics]
# (model, batch, *, key) -> (loss, metrics): scalars, averages over the batch
Loss = Callable[..., Measured]
Task = str | Mapping[str, float] | Loss

# The weight of a wrong class beside the mean squared error of the pixels, which lie in [0, 1].
LABEL_WEIGHT = 0.02


def weights_of(task: Task) -> dict[str, float]:
    """Returns the weights of the tasks given by name; none for a loss of the user's own.

    **Raises** ValueError for an unknown task, for no task, and for a weight that is not finite and greater than 0.
    """
    if callable(task):
        return {}
    weights = {task: 1.0} if isinstance(task, str) else dict(task)
    if unknown := [name for name in weights if name not in TASKS]:
        raise ValueError(f"`task` has unknown names {unknown}; expected some of {sorted(TASKS)}, or a loss function")
    if not weights:
        raise ValueError(f"`task` is empty; expected some of {sorted(TASKS)}, or a loss function")
    for name, weight in weights.items():
        if not (np.isreal(weight) and 0 < weight < np.inf):
            raise ValueError(f'`task` gives "{name}" the weight {weight!r}; expected a finite number greater than 0')
    return {name: float(weight) for name, weight in weights.items()}


def check_tasks(task: Task, model: Memory) -> None:
    """**Raises** ValueError for a task that the model cannot learn."""
    unfit = [name for name in weights_of(task) if not isinstance(model, _ROLES.get(name, Memory))]
    if unfit:
        others = sorted(name for name in TASKS if isinstance(model, _ROLES.get(name, Memory)))
        raise ValueError(f'`task` is "{unfit[0]}", but {type(model).__name__} does not {unfit[0]}; it learns {others}')


def needs_labels(task: Task) -> bool:
    """Returns whether the task cannot be learned without labels."""
    return not _ROLES.keys().isdisjoint(weights_of(task))


def uses_labels(task: Task) -> bool:
    """Returns whether the labels of the data are learned, or may be."""
    return callable(task) or needs_labels(task)


def loss_of(task: Task, augmentations: Sequence[str] = ()) -> Loss:
    """Returns the loss of a task: the weighted sum of those given by name, or the function given.

    The images are changed by `augmentations` first; an entry "TASK:NAME" is for that task alone.
    """

    def changed(batch: Images, key: PRNGKeyArray, name: str = "") -> Images:
        entries = [entry.rpartition(":") for entry in augmentations]
        names = [augmentation for only, _, augmentation in entries if only in ("", name)]
        images = jax.vmap(lambda key, image: augment(key, image, names))(jr.split(key, len(batch.images)), batch.images)
        return batch._replace(images=images)

    weights = weights_of(task)

    def loss(model: Memory, batch: Images, *, key: PRNGKeyArray) -> Measured:
        if callable(task):
            key_augment, key_task = jr.split(key)
            return task(model, changed(batch, key_augment), key=key_task)
        total, metrics = jnp.zeros((), jnp.float32), Metrics()
        for (name, weight), keys in zip(weights.items(), jr.split(key, (len(weights), 2)), strict=True):
            value, of_task = TASKS[name](model, changed(batch, keys[0], name), key=keys[1])
            total, metrics = total + weight * value, metrics | of_task
        return total, metrics

    return loss


def classify(model: Classifier, batch: Images, *, key: PRNGKeyArray) -> Measured:
    """Returns the cross-entropy of the softmax of `model.classify`, and the accuracy; see `Rehearsal`."""
    steps = model.dynamics().rehearsal.classify
    warmup = _warmup(model, key, least=0)

    def scores_of(image: Image) -> Float[Array, "judged classes"]:
        if not steps:
            return model.classify(image)[None]
        held = np.ones(image.shape, bool)
        path = model.recall(image, held, steps=steps, warmup=warmup, path=True, energies=False).path
        assert path is not None
        assert path.scores is not None
        return path.scores

    scores = jax.vmap(scores_of)(jnp.asarray(batch.images)).astype(jnp.float32)
    labels = jnp.asarray(batch.labels)
    each = jnp.broadcast_to(labels[:, None], scores.shape[:-1])
    loss = optax.softmax_cross_entropy_with_integer_labels(scores, each).mean()
    return loss, {"accuracy": jnp.mean(jnp.argmax(scores[:, -1], axis=-1).astype(labels.dtype) == labels)}


def reconstruct(model: Memory, batch: Images, *, key: PRNGKeyArray) -> Measured:
    """Returns the mean squared error of recalled pixels that `model.hide` has hidden; see `_recall_loss`."""
    return _recall_loss(model, batch, key, _hidden, "reconstruction_mse")


def denoise(model: Memory, batch: Images, *, key: PRNGKeyArray) -> Measured:
    """Returns the mean squared error of all pixels after a recall from a noisy image; see `_recall_loss`."""
    return _recall_loss(model, batch, key, _noisy, "denoising_mse")


def generate(model: Generator, batch: Images, *, key: PRNGKeyArray) -> Measured:
    """Returns the mean squared error of all pixels after a recall from `model.closest`, with the label held; see
    `_recall_loss`."""
    return _recall_loss(model, batch, key, _closest, "generation_mse", labelled=True)


TASKS: dict[str, Loss] = {
    "classify": classify,
    "reconstruct": reconstruct,
    "denoise": denoise,
    "generate": generate,
}
# What a model has to be for a task; these tasks take labels.
_ROLES: dict[str, type] = {"classify": Classifier, "generate": Generator}

# (model, key, image) -> what is given of the image, and the mask of what is known of it, or None
Damage = Callable[[Memory, PRNGKeyArray, Image], tuple[Image, Known | None]]


def _closest(model: Memory, key: PRNGKeyArray, image: Image) -> tuple[Image, Known | None]:
    """The image from which a generation of this one may start; no pixel is known."""
    assert isinstance(model, Generator)
    return jax.lax.stop_gradient(model.closest(image)), None


def _hidden(model: Memory, key: PRNGKeyArray, image: Image) -> tuple[Image, Known | None]:
    """A training mask of the model's hides a part of the image."""
    known = model.hide(key)
    return fill_unknown(image, known), known


def _noisy(model: Memory, key: PRNGKeyArray, image: Image) -> tuple[Image, Known | None]:
    """Salt and pepper, or Gaussian noise, up to a share or a σ of 0.5, or a blur of 0.5 to 2 pixels; no pixel is
    known."""
    key_kind, key_level, key_noise = jr.split(key, 3)
    level = jr.uniform(key_level, maxval=0.5)
    damages = (
        lambda: salt_and_pepper(key_noise, image, level),
        lambda: gaussian_noise(key_noise, image, level),
        lambda: blur(image, 0.5 + 3 * level),
    )
    return jax.lax.switch(jr.randint(key_kind, (), 0, len(damages)), damages), None


def _warmup(model: Memory, key: PRNGKeyArray, least: int) -> Int[Array, ""] | int:
    """The number of steps without a gradient."""
    warmup = model.dynamics().rehearsal.warmup
    return warmup * (least + jr.geometric(key, 0.5) - 1) if warmup else 0


def _rehearsed(
    model: Memory, given: Image, known: Known | None, label: Int[Array, ""] | None, warmup: Int[Array, ""] | int
) -> tuple[Float[Array, "judged height width channels"], Float[Array, "judged classes"] | None]:
    """Images and scores after the steps of a rehearsal that are judged, later ones last."""
    rehearsal = model.dynamics().rehearsal
    path = rehearsal.judged > 1
    end = model.recall(given, known, label=label, steps=rehearsal.steps, warmup=warmup, path=path, energies=False)
    if end.path is None:  # decoded again, since `end.x` is clipped and would have no gradient where it overshoots
        shown, scores = model.decode(end.xs)[None], None if end.scores is None else end.scores[None]
    else:
        last = slice(-rehearsal.judged, None)
        shown, scores = end.path.x[last], None if end.path.scores is None else end.path.scores[last]
    return shown, scores


def _recall_loss(
    model: Memory, batch: Images, key: PRNGKeyArray, damage: Damage, metric: str, labelled: bool = False
) -> Measured:
    """The mean squared error of a recall, over the pixels that are not known, after the last steps of a rehearsal.

    Of several steps that are judged, later ones weigh more. If the memory shows classes and the batch has labels, their
    cross-entropy is added, times `LABEL_WEIGHT`, so that a recalled image stays in its class. If they are `labelled`,
    the recalls hold the labels instead. See `Rehearsal`.
    """
    key_damage, key_warmup = jr.split(key)
    warmup = _warmup(model, key_warmup, model.dynamics().rehearsal.least)

    def one(key: PRNGKeyArray, image: Image, label: Int[Array, ""] | None) -> Float[Array, "2 judged"]:
        given, known = damage(model, key, image)
        shown, scores = _rehearsed(model, given, known, label if labelled else None, warmup)
        asked = jnp.ones(image.shape, bool) if known is None else ~known
        errors = jnp.square(shown.astype(jnp.float32) - image.astype(jnp.float32)[None])
        errors = jnp.sum(errors, axis=(1, 2, 3), where=asked[None]) / jnp.maximum(jnp.sum(asked), 1).astype(jnp.float32)
        surprise = jnp.zeros_like(errors)
        if label is not None and scores is not None and not labelled:
            labels = jnp.broadcast_to(label, errors.shape)
            surprise = optax.softmax_cross_entropy_with_integer_labels(scores.astype(jnp.float32), labels)
        return jnp.stack([errors, surprise])

    keys = jr.split(key_damage, len(batch.images))
    images, labels = jax.tree.map(jnp.asarray, batch)
    errors, surprise = jnp.mean(jax.vmap(one)(keys, images, labels), axis=0)
    loss = jnp.average(errors + LABEL_WEIGHT * surprise, weights=jnp.arange(1, len(errors) + 1, dtype=errors.dtype))
    return loss, {metric: errors[-1]}


def examples(model: Memory, data: Images, task: Task) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns rows of pictures by name, and a title for each column.

    The rows are the images and, for each task, what is given of them and what a recall makes of it. The titles are the
    class that the model finds and, in brackets, the right one.
    """
    tasks, images = weights_of(task), jnp.asarray(data.images)
    rows = {"image": images}
    for name, damage in {"reconstruct": _hidden, "denoise": _noisy}.items():
        if name in tasks:
            rows[f"{name}: given"], rows[f"{name}: recalled"] = _recalled(model, images, damage)
    titles = [""] * len(images)
    if isinstance(model, Classifier) and "classify" in tasks and data.labels is not None:
        names = model.config.class_names or [str(label) for label in range(model.config.classes)]
        found = np.asarray(jnp.argmax(_classified(model, images), axis=-1))
        titles = [f"{names[each]}\n({names[right]})" for each, right in zip(found, data.labels, strict=True)]
    return {name: np.asarray(row) for name, row in rows.items()}, titles


@eqx.filter_jit
def _recalled(model: Memory, images: Batch, damage: Damage) -> tuple[Batch, Batch]:
    def one(key: PRNGKeyArray, image: Image) -> tuple[Image, Image]:
        given, known = damage(model, key, image)
        return given, model.recall(given, known, energies=False).x

    return jax.vmap(one)(jr.split(jr.key(1), len(images)), images)


@eqx.filter_jit
def _classified(model: Classifier, images: Batch) -> Float[Array, "count classes"]:
    return jax.vmap(model.classify)(images)
