"""Percent of a test set that a model, and a plain one, take for another class, with 0, 10, 30 and 50 % of the pixels
set to black or white; the same pixels for both. A ConvHAM of one sweep is a plain CNN of the same parameters.

    python tests/benchmarks/robustness.py ../shared/data/ylecun/mnist conv-ham-mnist runs/plain/model
"""

import sys

from _measure import record

from hamux_zoo import from_pretrained, load_images
from hamux_zoo._evaluation import classify, error, peppered

data, name, plain = sys.argv[1:]
models = {name: from_pretrained(name), "plain": from_pretrained(plain)}
test = load_images(data, "test", shape=models[name].config.shape)
figures = {}
for share in (0.0, 0.1, 0.3, 0.5):
    images = peppered(test.images, share)
    errors = {which: error(classify(model, images), test.labels) for which, model in models.items()}
    print(f"{100 * share:3g} %", ", ".join(f"{which} {percent:.2f} %" for which, percent in errors.items()))
    figures[f"{100 * share:g} %"] = errors
record(f"robustness-{name}", figures)
