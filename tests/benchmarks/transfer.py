"""Fine-tunes a pretrained model on 1,000 labelled images of Fashion-MNIST, and the same model from random weights.

Both have the same budget and are measured on the 10,000 test images. Each takes, of the learning rates listed, the one
with the highest accuracy on a fifth of the 1,000 images, which is held out. With that rate it is trained again on all.

    python tests/benchmarks/transfer.py zalando-datasets/fashion_mnist dense-hopfield-mnist
    python tests/benchmarks/transfer.py zalando-datasets/fashion_mnist et-small-cifar10
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import jax.random as jr
import numpy as np
from _measure import record

from hamux_zoo import Memory, Recipe, evaluate, finetune, from_pretrained, load_images

BUDGET = Recipe(steps=150, batch_size=64, augment=("flip",), ema=0.99)
BOTH = {"classify": 1.0, "reconstruct": 10.0}
# For each model: learning rates, its recipe, and fields of the config for both sides.
MODELS: dict[str, tuple[tuple[float, ...], Recipe, dict[str, object]]] = {
    "dense-hopfield-mnist": (
        (0.001, 0.003, 0.01),
        dataclasses.replace(BUDGET, task=BOTH),
        {},
    ),
    "et-small-cifar10": ((0.003, 0.01, 0.03), BUDGET, {"steps": 4, "alpha": 0.3, "pool": "mean"}),
}

data, name = sys.argv[1:]
rates, recipe, fields = MODELS[name]
pretrained = from_pretrained(name).with_config(**fields)
train, test = (load_images(data, split, shape=pretrained.config.shape) for split in ("train", "test"))
few = train.take(np.random.default_rng(0).permutation(len(train.labels))[:1000])
sides = {"fine-tuned": pretrained, "from random weights": type(pretrained)(pretrained.config, key=jr.key(0))}


def held_out_accuracy(model: Memory, rate: float) -> float:
    trial = dataclasses.replace(recipe, learning_rate=rate, validation=0.2)
    with tempfile.TemporaryDirectory() as folder:
        finetune(model, few, trial, workdir=Path(folder) / "run", quiet=True)
        *_, last = (Path(folder) / "run/log.jsonl").read_text().splitlines()
    return json.loads(last)["validation_accuracy"]


figures = {}
for side, model in sides.items():
    accuracies = {rate: held_out_accuracy(model, rate) for rate in rates}
    rate = max(accuracies, key=accuracies.get)
    tuned = finetune(model, few, dataclasses.replace(recipe, learning_rate=rate, validation=0), quiet=True)
    measured = evaluate(tuned, test)
    if recipe.task == "classify":
        measured = {"test_error": measured["test_error"]}
    figures[side] = {"learning_rate": rate, "held_out_accuracy": accuracies[rate]} | measured
    numbers = ", ".join(f"{measure} {value:.5g}" for measure, value in figures[side].items())
    print(f"{side}: {numbers}", flush=True)
record(f"transfer-{name}", {"images": 1000, **figures})
