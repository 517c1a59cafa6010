"""A linear classifier on the features of a frozen memory, fitted in closed form."""

import math
from typing import NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..data import Data, Images, Reading, Source, read
from ..memory import Featured, Memory
from ..models.probed import Probed

Rows = Float[np.ndarray, "count dim"]
Labels = Int[np.ndarray, " count"]
Logits = Float[np.ndarray, "count classes"]

_BATCH = 64
_FOLDS = 5
# A class without a picture is never found.
_ABSENT = -30.0


class Head(NamedTuple):
    """A linear classifier, logits = W row + b, and what it is like on rows that it was not fitted to."""

    weight: Float[np.ndarray, "classes dim"]
    bias: Float[np.ndarray, " classes"]
    left_out: Logits  # of each row, by the classifier fitted to all the others


class Probe(NamedTuple):
    """A memory with a linear classifier, and how well it does by cross-validation.

    - `model`: the memory as a `Probed`. Its classifier is fitted to all of the images.
    - `labels`, `found`: the class of each image, and the one that is found by a classifier fitted to other images.
    - `error`: the percent of wrong classes, as the mean over classes. `interval`: the 95 % interval of it, by Wilson.
    - `raw_error`, `raw_interval`: those of a support vector machine on the pixels, on the same images.
    - `notes`: sentences on the data.

    The numbers are None if there is a class of one image, and those of the pixels if there are more than 10,000 images.
    """

    model: Probed
    labels: Labels
    found: Labels | None
    error: float | None
    interval: tuple[float, float] | None
    raw_error: float | None
    raw_interval: tuple[float, float] | None
    notes: tuple[str, ...] = ()


def probe(model: Memory, data: Data, *, seed: int = 0, **options: Unpack[Reading]) -> Probe:
    """Fits a linear classifier to the features of a frozen memory.

    Features are divided by their standard deviations. W and b minimise

        Σ_i w_i |W x_i + b − y_i|² + α |W|²,

    with y = ±1 for each class and weights w that make all classes count alike. α is the one whose classifiers err least
    on the image that is left out of each, in closed form (Allen, 1974, PRESS). W and b are then multiplied by the
    number that makes the cross-entropy of the softmax smallest on the images left out.

    Errors are measured by five-fold cross-validation, in which α is chosen anew in each fold.

    - `data`: images with labels. It, `skip_bad`, `label_column` and `class_folder` are as in `load_images`.
    - `seed`: draws the folds.

    **Raises** ValueError for a memory without features, and for data without labels or of one class.
    """
    source = read(data, shape=model.config.shape, **options).densely_numbered()
    memory = model.memory if isinstance(model, Probed) else model
    if not isinstance(memory, Featured):
        raise ValueError(f"{type(model).__name__} has no features to classify by")
    labels, notes = labels_of(source)
    notes = (*source.notes, *notes)
    rows = features_of(memory, source.images)
    head = fit_head(rows, labels, source.classes)
    probed = Probed.of(memory, head.weight, head.bias, source.names)
    counts = np.bincount(labels)
    if np.min(counts[counts > 0]) < 2:
        note = "there is a class of one image, so that nothing can be left out to measure the error on"
        return Probe(probed, labels, None, None, None, None, None, (*notes, note))
    found, raw = np.empty_like(labels), np.empty_like(labels)
    pixels = source.images.take(slice(None)).images.reshape(len(labels), -1)
    with_raw = len(labels) <= 10_000
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import SVC

    folds = StratifiedKFold(min(_FOLDS, np.min(counts[counts > 0])), shuffle=True, random_state=seed)
    for fitted, left in folds.split(rows, labels):
        part = fit_head(rows[fitted], labels[fitted], source.classes)
        found[left] = np.argmax(rows[left] @ part.weight.T + part.bias, axis=1)
        if with_raw:
            machine = SVC(C=10.0, class_weight="balanced").fit(pixels[fitted], labels[fitted])
            raw[left] = machine.predict(pixels[left])
    error, interval = balanced_error(found, labels)
    raw_error, raw_interval = balanced_error(raw, labels) if with_raw else (None, None)
    return Probe(probed, labels, found, error, interval, raw_error, raw_interval, notes)


def labels_of(source: Source) -> tuple[Labels, tuple[str, ...]]:
    """Returns the labels of data to classify, and notes on them.

    **Raises** ValueError if there are none, or of one class alone.
    """
    source.check_classes()
    labels = np.asarray(source.images.labels)
    there = np.unique(labels)
    missing = [source.names[i] if source.names else str(i) for i in range(source.classes) if i not in there]
    if not missing:
        return labels, ()
    return labels, (f"{len(missing)} classes have no image and are never found: {', '.join(missing[:10])}",)


def features_of(memory: Featured, images: Images) -> Rows:
    """Returns the features of each image."""
    rows = []
    for start in range(0, len(images.images), _BATCH):
        part = np.asarray(images.take(slice(start, start + _BATCH)).images)
        filled = np.concatenate([part, np.zeros((_BATCH - len(part), *part.shape[1:]), part.dtype)])
        rows.append(np.asarray(_features(memory, jnp.asarray(filled)))[: len(part)])
    return np.concatenate(rows).astype(np.float32)


@eqx.filter_jit
def _features(memory: Featured, images: Float[Array, "count ..."]) -> Float[Array, "count dim"]:
    return jax.vmap(memory.features)(images)


def fit_head(rows: Rows, labels: Labels, classes: int) -> Head:
    """Returns the classifier that `probe` describes."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    there, each = np.unique(labels, return_inverse=True)
    counts = np.bincount(each)
    weights = np.sqrt(len(labels) / (len(there) * counts))[each]  # their squares are w
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(deviation > 1e-6 * (1e-12 + np.abs(mean)), 1 / np.maximum(deviation, 1e-12), 0.0)
    scale /= math.sqrt(np.count_nonzero(scale) or 1)
    # The column of 3s is for b: its penalty is a ninth, which is next to nothing beside n.
    whole = weights[:, None] * np.column_stack([(rows - mean) * scale, np.full(len(rows), 3.0)])
    targets = weights[:, None] * (2.0 * (labels[:, None] == there) - 1)
    u, s, vt = np.linalg.svd(whole, full_matrices=False)
    seen = u.T @ targets

    def left_out(alpha: float) -> Logits:
        shrunk = s**2 / (s**2 + alpha)
        fitted, own = u @ (shrunk[:, None] * seen), (u**2) @ shrunk
        out: Logits = (targets - (targets - fitted) / (1 - own)[:, None]) / weights[:, None]
        return out

    def surprise(logits: Logits) -> float:
        return -float(np.average(log_softmax(logits, axis=1)[np.arange(len(each)), each], weights=weights**2))

    def miss(alpha: float) -> float:
        return float(np.mean((weights[:, None] * left_out(alpha) - targets) ** 2))

    alpha = min((10.0 ** (power / 2) for power in range(-8, 7)), key=miss)
    logits = left_out(alpha)
    sharp = math.exp(minimize_scalar(lambda log: surprise(math.exp(log) * logits), bounds=(-5, 5)).x)
    solved = sharp * (vt.T @ ((s / (s**2 + alpha))[:, None] * seen)).T
    weight, bias = np.zeros((classes, rows.shape[1])), np.full(classes, _ABSENT)
    weight[there] = solved[:, :-1] * scale
    bias[there] = 3.0 * solved[:, -1] - weight[there] @ mean
    all_logits = np.full((len(rows), classes), _ABSENT)
    all_logits[:, there] = sharp * logits
    return Head(weight.astype(np.float32), bias.astype(np.float32), all_logits)


def balanced_error(found: Labels, labels: Labels) -> tuple[float, tuple[float, float]]:
    """Returns the percent of wrong classes, as the mean over classes, and its 95 % interval (Wilson, 1927).

    The interval is that of C² / Σ_c 1/n_c images, for C classes of n_c images: all images if the n_c are alike.
    """
    there, each = np.unique(labels, return_inverse=True)
    counts = np.bincount(each)
    wrong = float(np.mean(np.bincount(each, weights=found != labels) / counts))
    size, z = len(there) ** 2 / float(np.sum(1 / counts)), 1.96
    middle = (wrong + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * math.sqrt(wrong * (1 - wrong) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    return 100 * wrong, (100 * max(0.0, middle - half), 100 * min(1.0, middle + half))
