"""Answers of a memory about a person's pictures: their classes, what it recalls of them, and their features."""

import dataclasses
import glob
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias, cast, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from .data import files_below, picture_endings, salt_and_pepper, stream_images
from .memory import Classifier, Featured, Memory, Recalled, strangenesses
from .pixels import AnyPicture, all_but_a_quarter, check_known, from_picture, patchwork, upper_half

Image = Float[np.ndarray, "height width channels"]
Known = Bool[np.ndarray, "height width channels"]
Named = tuple[str, AnyPicture]

_THREADS = 2
_NEGATIVE = "unlike what the memory learned, but familiar with bright and dark exchanged, by `invert`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer about one picture.

    - `source`: where the picture is from. `image`: the picture as the memory took it, floats in [0, 1].
    - `notes`: what was done to make it so, such as "resized to 28 × 28 pixels".
    """

    source: str
    image: Image
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classified(Answer):
    """The class of a picture: its number, its `name`, and its share of the softmax of all `scores`.

    `unfamiliar`: whether the picture is unlike what the memory learned, or None if the memory cannot tell.
    """

    label: int
    name: str
    probability: float
    scores: Float[np.ndarray, " classes"]
    unfamiliar: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completed(Answer):
    """What is recalled of a picture.

    - `given`: the picture from which the recall began; `known`: the pixels that it held, or None.
    - `recalled`: the picture at the end, after so many `steps`, with that `energy`. `converged`: whether it is a fixed
      point, or None after a fixed number of steps.
    - `unfamiliar`: whether the picture, if parts were hidden the completed one, is unlike what the memory learned, or
      None if the memory cannot tell.
    """

    given: Image
    known: Known | None
    recalled: Image
    steps: int
    energy: float
    converged: bool | None
    unfamiliar: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described(Answer):
    """The features of a picture."""

    features: Float[np.ndarray, " dim"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unread:
    """A picture that cannot be read, and why."""

    source: str
    reason: str


Task = Literal["classify", "recall", "features"]
Pictures: TypeAlias = "AnyPicture | Sequence[AnyPicture] | Iterator[AnyPicture]"


@overload
def predict(
    model: Memory,
    pictures: Pictures,
    task: Literal["classify"] = ...,
    *,
    background: str = ...,
    invert: bool = ...,
    batch_size: int = ...,
) -> Iterator[Classified | Unread]: ...
@overload
def predict(
    model: Memory,
    pictures: Pictures,
    task: Literal["recall"],
    *,
    known: ArrayLike | None = ...,
    erase: str | None = ...,
    noise: float = ...,
    steps: int | None = ...,
    background: str = ...,
    invert: bool = ...,
    batch_size: int = ...,
) -> Iterator[Completed | Unread]: ...
@overload
def predict(
    model: Memory,
    pictures: Pictures,
    task: Literal["features"],
    *,
    background: str = ...,
    invert: bool = ...,
    batch_size: int = ...,
) -> Iterator[Described | Unread]: ...
def predict(
    model: Memory,
    pictures: Pictures,
    task: Task = "classify",
    *,
    known: ArrayLike | None = None,
    erase: str | None = None,
    noise: float = 0.0,
    steps: int | None = None,
    background: str = "white",
    invert: bool = False,
    batch_size: int = 64,
) -> Iterator[Answer | Unread]:
    """Yields an answer about each picture, in their order; `Unread` for one that cannot be read.

    - `pictures`: a file, a folder with its subfolders, a pattern such as "photos/*.png", the id of a data set on the
      Hub, a picture of Pillow, the bytes of a file, an array, or several of these. See `hamux_zoo.pixels.from_picture`.
    - `task`: "classify", "recall" or "features".
    - `known`: for "recall", the pixels to hold, as in `Memory.recall`; without it, all pixels may move. `erase`: hold
      all but a part, "lower", "upper", "left", "right", "quarter" (the lower right one) or "patches" (half of them, at
      random). `noise`: set such a share of the pixels to black or white first. `steps`: as in `Memory.recall`.
    - `background`, `invert`: as in `from_picture`.
    - `batch_size`: so many pictures are answered at once.

    **Raises** ValueError for a task that the memory does not do, and for arguments that do not fit; FileNotFoundError
    if there are no such pictures.
    """
    shape = model.config.shape
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or (model.config.low, model.config.high) != (0, 1):
        raise ValueError(f"this {type(model).__name__} takes patterns of shape {shape}, no pictures in [0, 1]")
    if task not in ("classify", "recall", "features") or task not in model.tasks:
        raise ValueError(f"task is {task!r}, but this {type(model).__name__} does {sorted(model.tasks)}")
    if sum([known is not None, erase is not None, bool(noise)]) > 1:
        raise ValueError("known, `erase` and `noise` exclude one another; give one of them")
    if not 0 <= noise <= 1:
        raise ValueError(f"`noise` is {noise}; expected a share from 0 to 1")
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}; expected at least 1")
    mask = None if known is None else np.asarray(check_known(known, shape))
    masks = None if erase is None else erased(erase, shape)
    named = named_pictures(pictures, shape)

    def converted(one: Named) -> Answer | Unread:
        source, picture = one
        try:
            image, notes = from_picture(picture, shape, background=background, invert=invert)
        except Exception as error:  # Pillow's many readers raise anything for a file that they cannot read
            return Unread(source=source, reason=str(error) or type(error).__name__)
        return Answer(source=source, image=image, notes=notes)

    def answers() -> Iterator[Answer | Unread]:
        done = 0
        for batch in read_ahead(converted, named, batch_size):
            read = [each for each in batch if isinstance(each, Answer)]
            answered: Iterator[Answer] = iter(())
            if read:
                # The first batch may be the only one, of any size; later ones are filled to the same size.
                size = batch_size if done else len(read)
                images = np.stack([read[min(i, len(read) - 1)].image for i in range(size)])
                match task:
                    case "classify":
                        answered = _classified(model, read, images)
                    case "recall":
                        held = mask if masks is None else masks[np.arange(done, done + size) % len(masks)]
                        answered = _completed(model, read, images, held, noise, steps, done)
                    case "features":
                        answered = _described(model, read, images)
            done += len(read)
            for each in batch:
                yield each if isinstance(each, Unread) else next(answered)

    return answers()


def named_pictures(pictures: Pictures, shape: tuple[int, ...]) -> Iterator[Named]:
    """Returns pictures, each with a name that says where it is from. **Raises** FileNotFoundError if there are none."""
    if isinstance(pictures, list | tuple | Iterator):
        lists = [
            named_pictures(each, shape) if isinstance(each, str | os.PathLike) else iter([(f"picture {i}", each)])
            for i, each in enumerate(pictures)
        ]
        return itertools.chain.from_iterable(lists)
    if not isinstance(pictures, str | os.PathLike):
        return iter([("picture 0", cast(AnyPicture, pictures))])
    path = Path(pictures).expanduser()
    if path.is_dir():
        found = list(files_below(path))
        endings = picture_endings()
        files = [file for file in found if file.suffix.lower() in endings]
        if not files:
            raise FileNotFoundError(f'"{pictures}" holds no picture among its {len(found)} files')
        return ((str(file), file) for file in files)
    if path.exists():
        return iter([(str(path), path)])
    if any(mark in str(pictures) for mark in "*?["):
        if not (matched := sorted(glob.glob(str(path), recursive=True))):
            raise FileNotFoundError(f'no file matches "{pictures}"')
        return itertools.chain.from_iterable(named_pictures(each, shape) for each in matched)
    if path.suffix or str(pictures).count("/") != 1:
        raise FileNotFoundError(f'there is no "{pictures}"')
    streamed = (image for part in stream_images(str(pictures), "test", shape=shape) for image in part.images)
    return ((f"{pictures} {i}", image) for i, image in enumerate(streamed))


def erased(part: str, shape: tuple[int, ...]) -> Bool[np.ndarray, "masks height width channels"]:
    """Returns masks of known pixels that hide a part of an image: one, or several that differ.

    **Raises** ValueError for an unknown part.
    """
    height, width, _ = shape
    upper, left = upper_half(shape), np.broadcast_to((np.arange(width) < width // 2)[:, None], shape)
    known = {"lower": upper, "upper": ~upper, "left": ~left, "right": left, "quarter": all_but_a_quarter(shape)}
    if part == "patches":
        side = 4 if height % 4 == width % 4 == 0 else math.gcd(height, width)
        return patchwork(shape, side, 0.5, 100)
    if part not in known:
        raise ValueError(f'`erase` is "{part}"; expected one of {[*known, "patches"]}')
    return known[part][None]


def read_ahead(
    convert: Callable[[Named], Answer | Unread], named: Iterator[Named], size: int
) -> Iterator[list[Answer | Unread]]:
    """Converts pictures in batches; the next one is read while one is answered."""
    with ThreadPoolExecutor(_THREADS) as threads:

        def begun() -> list[Future[list[Answer | Unread]]]:
            batch = list(itertools.islice(named, size))
            parts = (batch[i : i + size // _THREADS + 1] for i in range(0, len(batch), size // _THREADS + 1))
            return [threads.submit(lambda part: [convert(one) for one in part], part) for part in parts]

        ahead = begun()
        while ahead:
            now, ahead = ahead, begun()
            yield [each for future in now for each in future.result()]


def _classified(model: Memory, read: list[Answer], images: Float[np.ndarray, "count ..."]) -> Iterator[Classified]:
    assert isinstance(model, Classifier)
    names = model.config.class_names or [str(label) for label in range(model.config.classes)]
    all_scores = np.asarray(_scores(model, jnp.asarray(images)), np.float64)
    for answer, scores, (unfamiliar, notes) in zip(read, all_scores, _told(model, images), strict=False):
        shares = np.exp(scores - scores.max())
        label = int(np.argmax(scores))
        probability = float(shares[label] / shares.sum())
        yield Classified(
            source=answer.source,
            image=answer.image,
            notes=answer.notes + notes,
            label=label,
            name=names[label],
            probability=probability,
            scores=scores,
            unfamiliar=unfamiliar,
        )


def _completed(
    model: Memory,
    read: list[Answer],
    images: Float[np.ndarray, "count ..."],
    held: Bool[np.ndarray, "..."] | None,
    noise: float,
    steps: int | None,
    done: int,
) -> Iterator[Completed]:
    known = None if held is None else np.broadcast_to(held, images.shape)
    given = images if known is None else np.where(known, images, 0.5)
    if noise:
        keys = jr.split(jr.key(0), done + len(images))[done:]
        given = np.asarray(jax.vmap(salt_and_pepper, (0, 0, None))(keys, jnp.asarray(images), noise))
    ends = jax.tree.map(np.asarray, _recalled(model, jnp.asarray(given), known, steps))
    told = _told(model, images if known is None else ends.x)
    for i, (answer, (unfamiliar, notes)) in enumerate(zip(read, told, strict=False)):
        yield Completed(
            source=answer.source,
            image=answer.image,
            notes=answer.notes + notes,
            given=given[i],
            known=None if known is None else known[i],
            recalled=ends.x[i],
            steps=int(ends.steps[i]),
            energy=float(ends.energies[i][-1]),
            converged=None if ends.converged is None else bool(ends.converged[i]),
            unfamiliar=unfamiliar,
        )


def _described(model: Memory, read: list[Answer], images: Float[np.ndarray, "count ..."]) -> Iterator[Described]:
    assert isinstance(model, Featured)
    for answer, features in zip(read, np.asarray(_features(model, jnp.asarray(images))), strict=False):
        yield Described(source=answer.source, image=answer.image, notes=answer.notes, features=features)


def _told(model: Memory, images: Float[np.ndarray, "count ..."]) -> list[tuple[bool | None, tuple[str, ...]]]:
    """Whether each image is unlike what the memory learned, and a note if its negative is not."""
    threshold = model.config.unfamiliar
    if threshold is None:
        return [(None, ())] * len(images)
    unlike = np.asarray(strangenesses(model, jnp.asarray(images))) > threshold
    negative = unlike.any() and np.asarray(strangenesses(model, jnp.asarray(1 - images))) <= threshold
    return [
        (bool(is_unlike), (_NEGATIVE,) if hint else ())
        for is_unlike, hint in zip(unlike, unlike & negative, strict=True)
    ]


@eqx.filter_jit
def _scores(model: Classifier, images: Float[Array, "count ..."]) -> Float[Array, "count classes"]:
    return jax.vmap(model.classify)(images)


@eqx.filter_jit
def _features(model: Featured, images: Float[Array, "count ..."]) -> Float[Array, "count dim"]:
    return jax.vmap(model.features)(images)


@eqx.filter_jit
def _recalled(
    model: Memory, given: Float[Array, "count ..."], known: Bool[np.ndarray, "count ..."] | None, steps: int | None
) -> Recalled:
    def one(image: Float[Array, "..."], mask: Bool[Array, "..."] | None) -> Recalled:
        return dataclasses.replace(model.recall(image, mask, steps=steps), xs={}, path=None)

    return jax.vmap(one)(given, None if known is None else jnp.asarray(known))
