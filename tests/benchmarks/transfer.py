"""A pretrained model fine-tuned on Fashion-MNIST from 1,000 labelled images, beside the same model from random weights
with the same budget; both measured on the 10,000 test images.

The learning rate of each side is the one of those listed whose accuracy on a fifth of the 1,000 images, held out, is
highest; with it the side is trained again on all 1,000.

    python tests/benchmarks/transfer.py ../shared/data/zalando-datasets/fashion_mnist dense-hopfield-mnist
    python tests/benchmarks/transfer.py ../shared/data/zalando-datasets/fashion_mnist et-small-cifar10
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
from _measure import record

from hamux_zoo import finetune, from_pretrained, load_images
from hamux_zoo._data import Images
from hamux_zoo._evaluation import evaluate
from hamux_zoo._log import Log

BUDGET = {"steps": 150, "batch_size": 64, "augment": ("flip",), "ema": 0.99, "quiet": True}
# Of each model: learning rates, what else differs of the budget, and fields of the config for both sides.
MODELS: dict[str, tuple[tuple[float, ...], dict[str, Any], dict[str, Any]]] = {
    "dense-hopfield-mnist": (
        (0.1, 0.3, 1.0),
        {"task": {"classify": 1.0, "reconstruct": 10.0}, "trainable": "ham.synapses"},
        {},
    ),
    "et-small-cifar10": ((0.003, 0.01, 0.03), {"task": "classify"}, {"steps": 4, "alpha": 0.3, "pool": "mean"}),
}

data, name = sys.argv[1:]
rates, options, fields = MODELS[name]
options = BUDGET | options
pretrained: Any = from_pretrained(name).with_config(**fields)
train, test = (load_images(data, split, shape=pretrained.config.shape) for split in ("train", "test"))
few = train.take(np.random.default_rng(0).permutation(len(train.labels))[:1000])
sides = {"fine-tuned": pretrained, "from random weights": type(pretrained)(pretrained.config, key=jr.key(0))}


def held_out_accuracy(model: Any, rate: float, few: Images) -> float:
    with tempfile.TemporaryDirectory() as folder:
        finetune(model, few, learning_rate=rate, validation=0.2, workdir=Path(folder) / "run", **options)
        return Log(Path(folder) / "run/log.jsonl").lines()[-1]["validation_accuracy"]


figures = {}
for side, model in sides.items():
    accuracies = {rate: held_out_accuracy(model, rate, few) for rate in rates}
    rate = max(accuracies, key=accuracies.get)
    tuned = finetune(model, few, learning_rate=rate, validation=0, **options)
    measured = evaluate(tuned, test)
    if options["task"] == "classify":
        measured = {"test_error": measured["test_error"]}
    figures[side] = {"learning_rate": rate, "held_out_accuracy": accuracies[rate]} | measured
    numbers = ", ".join(f"{measure} {value:.5g}" for measure, value in figures[side].items())
    print(f"{side}: {numbers}", flush=True)
record(f"transfer-{name}", {"images": 1000, **figures})
