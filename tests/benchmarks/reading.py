"""Reading 10,000 small PNG files, beside Pillow alone with as many threads, and one answer from the command line.

Goals: 80 % of the speed of Pillow alone; the first answer about one picture within 3 s.
"""

import os
import subprocess
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from _measure import alternate, record
from PIL import Image

from hamux_zoo import load_samples
from hamux_zoo.answers import named_pictures, read_ahead
from hamux_zoo.pixels import from_picture

COUNT, THREADS = 10_000, 2


def write(folder: Path) -> list[Path]:
    digits = np.asarray(255 * load_samples("mnist").images[..., 0], np.uint8)
    files = [folder / f"{i}.png" for i in range(COUNT)]
    for i, file in enumerate(files):
        Image.fromarray(digits[i % len(digits)]).save(file)
    return files


def pillow(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def alone(files: list[Path]) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        deque(threads.map(pillow, files, chunksize=64), maxlen=0)


def ours(folder: Path) -> None:
    shape = (28, 28, 1)
    deque(read_ahead(lambda one: from_picture(one[1], shape), named_pictures(folder, shape), 64), maxlen=0)


with tempfile.TemporaryDirectory() as place:
    files = write(Path(place))
    seconds = alternate({"Pillow alone": partial(alone, files), "hamux_zoo": partial(ours, Path(place))}, rounds=5)
    command = [Path(sys.executable).with_name("hamux-zoo"), "classify", "dense-hopfield-mnist", files[0]]
    quiet = partial(subprocess.run, stdout=subprocess.DEVNULL, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    first = alternate({"one picture": partial(quiet, command)}, rounds=3)["one picture"]
ratio = seconds["Pillow alone"] / seconds["hamux_zoo"]
print(f"{COUNT} files: {seconds}, {100 * ratio:.0f} % of Pillow's speed; the first answer in {first:.1f} s")
record("reading", {"seconds": seconds, "share of Pillow's speed": ratio, "seconds to the first answer": first})
