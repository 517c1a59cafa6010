"""Compares how often two models take noisy test images for another class.

Of each image 0, 10, 30 and 50 % of the pixels become black or white, the same ones for both models. A ConvHAM of one
sweep is a plain convolutional network with the same parameters.

    python tests/benchmarks/robustness.py ylecun/mnist conv-ham-mnist runs/plain/model
"""

import sys

from _measure import record

from hamux_zoo import from_pretrained, load_images
from hamux_zoo.measure import classes_of, error, salted

data, name, plain = sys.argv[1:]
models = {name: from_pretrained(name), "plain": from_pretrained(plain)}
test = load_images(data, "test", shape=models[name].config.shape)
figures = {}
for share in (0.0, 0.1, 0.3, 0.5):
    images = salted(test.images, share)
    errors = {which: error(classes_of(model, images), test.labels) for which, model in models.items()}
    print(f"{100 * share:3g} %", ", ".join(f"{which} {percent:.2f} %" for which, percent in errors.items()))
    figures[f"{100 * share:g} %"] = errors
record(f"robustness-{name}", figures)
