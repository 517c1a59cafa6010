"""The bundled Energy Transformers on whole test sets, some of the patches hidden by fixed masks, beside what needs no
network: an image's mean colour, biharmonic inpainting (scikit-image), the best linear predictor.

    python tests/benchmarks/inpainting.py ../shared/data/uoft-cs/cifar10 et-small-cifar10
    python tests/benchmarks/inpainting.py ../shared/data/ylecun/mnist et-small-mnist
"""

import sys

import jax
import numpy as np
from _measure import record
from skimage.restoration import inpaint_biharmonic

from hamux_zoo import from_pretrained, load_images
from hamux_zoo._evaluation import fixed_masks, gaussian_of, hidden_mse, masked_reconstruction

data, name = sys.argv[1:]
model = from_pretrained(name)
train, test = (load_images(data, split, shape=model.config.shape) for split in ("train", "test"))
gaussian = gaussian_of(train.images)
figures = {}
for share in model.config.masked:
    masks = fixed_masks(model.config.patches, share, len(test.images))
    hidden = np.asarray(jax.vmap(model.pixels)(masks))
    filled = [
        inpaint_biharmonic(image, np.ascontiguousarray(where[..., 0]), channel_axis=-1)
        for image, where in zip(test.images, hidden, strict=True)
    ]
    biharmonic = hidden_mse(np.stack(filled), test.images, hidden)
    figures |= masked_reconstruction(model, test.images, share, gaussian)
    figures |= {f"masked_{100 * share:g}_biharmonic_mse": biharmonic}
for measure, value in figures.items():
    print(f"{measure:30} {value:.5f}")
record(f"inpainting-{name}", figures)
