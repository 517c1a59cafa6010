"""The rows of the transfer table: small tasks of classes, each with pictures to train on and others to test on."""

import string
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import skimage.io
import skimage.transform
import skimage.util
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from hamux_zoo import load_images
from hamux_zoo.data import Images

FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
# Of DejaVu, "Display" is no style of the letters.
LETTERS = {
    "train": sorted(FONTS.glob("DejaVu*[!y].ttf")),
    "test": [
        *sorted(FONTS.glob("STIXGeneral*.ttf")),
        *(FONTS / f"cm{style}10.ttf" for style in ("b", "r", "ss", "tt")),
    ],
}
TILED = ["astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field", "moon"]


def digits(split: str) -> Images:
    return load_images("ylecun/mnist", split)


def clothes(split: str) -> Images:
    return load_images("zalando-datasets/fashion_mnist", split)


def photos(split: str) -> Images:
    return load_images("uoft-cs/cifar10", split)


def small_digits(split: str) -> Images:
    """The 8 × 8 digits of scikit-learn in 28 × 28 pixels; every third is for the test."""
    bunch = load_digits()
    images = np.stack([skimage.transform.resize(image / 16, (28, 28), order=1) for image in bunch.images])
    chosen = (np.arange(len(images)) % 3 == 0) == (split == "test")
    return Images(images[chosen, ..., None].astype(np.float32), bunch.target[chosen])


def letters(split: str) -> Images:
    """Capital letters, white on black, a little turned and moved; the fonts of the test are of other families."""
    rng = np.random.default_rng(0 if split == "train" else 1)
    images, labels = [], []
    for file in LETTERS[split]:
        for label, letter in enumerate(string.ascii_uppercase):
            for _ in range(12):
                font = ImageFont.truetype(file, size=int(rng.integers(20, 25)))
                canvas = Image.new("L", (28, 28))
                place = 14 + rng.uniform(-1, 1, 2)
                ImageDraw.Draw(canvas).text(tuple(place), letter, fill=255, font=font, anchor="mm")
                canvas = canvas.rotate(rng.uniform(-6, 6), resample=Image.Resampling.BILINEAR)
                images.append(np.asarray(canvas, np.float32)[..., None] / 255)
                labels.append(label)
    return Images(np.stack(images), np.array(labels))


def tiles(split: str) -> Images:
    """Tiles of 32 × 32 pixels of ten photographs, each reduced to 256 rows; those of the test are the lower half."""
    images, labels = [], []
    rng = np.random.default_rng(0 if split == "train" else 1)
    for label, name in enumerate(TILED):
        photo = skimage.util.img_as_float32(getattr(skimage.data, name)())
        photo = np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo[..., :3]
        photo = skimage.transform.resize(photo, (256, 256 * photo.shape[1] // photo.shape[0]), anti_aliasing=True)
        half = photo[:128] if split == "train" else photo[128:]
        for _ in range(150):
            row, column = rng.integers(0, half.shape[0] - 31), rng.integers(0, half.shape[1] - 31)
            images.append(half[row : row + 32, column : column + 32].astype(np.float32))
            labels.append(label)
    return Images(np.clip(np.stack(images), 0, 1), np.array(labels))


ROWS = {
    "clothes": clothes,
    "digits": digits,
    "small digits": small_digits,
    "photos": photos,
    "tiles": tiles,
    "letters": letters,
}


def drawn(data: Images, each: int, seed: int) -> Images:
    """So many pictures of each class, or all if there are fewer."""
    rng, labels = np.random.default_rng(seed), np.asarray(data.labels)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:each] for label in np.unique(labels)]
    return data.take(rng.permutation(np.concatenate(chosen)))
