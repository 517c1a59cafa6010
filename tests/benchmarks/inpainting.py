"""Completes whole test sets by a bundled Energy Transformer, beside what needs no network.

These are an image's mean colour, the training set's mean image, the nearest training image, the best linear prediction,
and biharmonic inpainting (scikit-image).

    python tests/benchmarks/inpainting.py uoft-cs/cifar10 et-small-cifar10
    python tests/benchmarks/inpainting.py ylecun/mnist et-small-mnist
"""

import sys

import numpy as np
from _measure import record
from skimage.restoration import inpaint_biharmonic

from hamux_zoo import from_pretrained, load_images
from hamux_zoo.measure import completion_errors, unknown_mse
from hamux_zoo.statistics import Gaussian

data, name = sys.argv[1:]
model = from_pretrained(name)
train, test = (load_images(data, split, shape=model.config.shape).images for split in ("train", "test"))
gaussian = Gaussian.of(train)
figures = {}
for mask, known in model.masks(len(test)).items():
    filled = [
        inpaint_biharmonic(image, ~np.ascontiguousarray(where[..., 0]), channel_axis=-1)
        for image, where in zip(test, known, strict=True)
    ]
    figures |= completion_errors(model, mask, test, known, train, gaussian)
    figures |= {f"{mask}_biharmonic_mse": unknown_mse(np.stack(filled), test, known)}
for measure, value in figures.items():
    print(f"{measure:30} {value:.5f}")
record(f"inpainting-{name}", figures)
