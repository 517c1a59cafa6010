"""Percent of a whole test set that models take for another class, with 0, 10, 30 and 50 % of the pixels set to black or
white; the same pixels for all. A ConvHAM of one sweep is a plain CNN of the same parameters.

    hamux-zoo train conv-ham --set steps=1 … --out runs/plain
    python tests/benchmarks/robustness.py ../shared/data/ylecun/mnist conv-ham-mnist runs/plain/model
"""

import sys

from _measure import record

from hamux_zoo import from_pretrained, load_images
from hamux_zoo._evaluation import classify, error, peppered

data, *names = sys.argv[1:]
models = {name: from_pretrained(name) for name in names}
shape = next(iter(models.values())).config.shape
test = load_images(data, "test", shape=shape)
figures = {}
for share in (0.0, 0.1, 0.3, 0.5):
    images = peppered(test.images, share)
    for name, model in models.items():
        figures[f"{name}, {100 * share:g} %"] = error(classify(model, images), test.labels)
        print(f"{name:30} {100 * share:3g} % {figures[f'{name}, {100 * share:g} %']:6.2f} %", flush=True)
record(f"robustness-{names[0]}", figures)
