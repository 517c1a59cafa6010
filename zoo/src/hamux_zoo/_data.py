"""Images and labels as arrays: from the samples shipped with the package, or from a data set that `datasets` reads."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_SAMPLES = Path(__file__).parent / "samples"


class Images(NamedTuple):
    """Images as floats in [0, 1], channels last, and the class of each."""

    images: Float[np.ndarray, "count height width channels"]
    labels: Int[np.ndarray, " count"]


def load_samples(name: str) -> Images:
    """The images shipped with the package under a name: "mnist" or "fashion-mnist"."""
    path = _SAMPLES / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f'no samples "{name}"; there are {sorted(file.stem for file in _SAMPLES.glob("*.npz"))}'
        )
    with np.load(path, allow_pickle=False) as arrays:
        return Images(_as_floats(arrays["images"]), arrays["labels"].astype(int))


def load_images(data: str | Path, split: str) -> Images:
    """A split of a data set, by its Hub id or its local folder, with a column of images and one of labels.

    **Raises** FileNotFoundError for a folder that is missing, ValueError for a data set without such columns or with
    images of several sizes.
    """
    import datasets

    try:
        table = datasets.load_dataset(str(data), split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f'"{data}" is neither a folder with a data set nor one that the Hub gives: {error}'
        ) from None
    kinds = {name: type(feature) for name, feature in table.features.items()}
    image_columns = [name for name, kind in kinds.items() if kind is datasets.Image]
    label_columns = [name for name, kind in kinds.items() if kind is datasets.ClassLabel]
    if len(image_columns) != 1 or len(label_columns) != 1:
        raise ValueError(f"{data} has columns {list(kinds)}; expected one of images and one of class labels")
    images = [np.asarray(image) for image in table[image_columns[0]]]
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"{data} has images of shapes {sorted(shapes)}; expected one size")
    return Images(_as_floats(np.stack(images)), np.asarray(table[label_columns[0]]))


def split(data: Images, held_out: int, seed: int) -> tuple[Images, Images]:
    """All but `held_out` of the images, and those, drawn by `seed`. **Raises** ValueError when there are too few."""
    if held_out >= len(data.labels):
        raise ValueError(f"{held_out} images to hold out of {len(data.labels)}")
    order = np.random.default_rng(seed).permutation(len(data.labels))
    first, rest = order[:held_out], order[held_out:]
    return Images(data.images[rest], data.labels[rest]), Images(data.images[first], data.labels[first])


def _as_floats(images: np.ndarray) -> np.ndarray:
    images = images.astype(np.float32) / 255
    return images if images.ndim == 4 else images[..., None]
