"""`dense-hopfield-mnist` fine-tuned on Fashion-MNIST from 1,000 labelled images, beside the same model from random
weights with the same budget; both measured on the 10,000 test images.

The learning rate of each side is the one of three whose accuracy on a fifth of the 1,000 images, held out, is highest;
with it the side is trained again on all 1,000.

    python tests/benchmarks/transfer.py ../shared/data/zalando-datasets/fashion_mnist
"""

import sys
import tempfile
from pathlib import Path

import jax.random as jr
import numpy as np
from _measure import record

from hamux_zoo import DenseHopfield, finetune, load_images
from hamux_zoo._data import Images
from hamux_zoo._evaluation import evaluate
from hamux_zoo._log import Log

BUDGET = {"steps": 150, "batch_size": 64, "augment": ("flip",), "ema": 0.99, "trainable": "ham.synapses", "quiet": True}
TASK = {"classify": 1.0, "reconstruct": 10.0}
RATES = (0.1, 0.3, 1.0)

train, test = (load_images(sys.argv[1], split) for split in ("train", "test"))
few = train.take(np.random.default_rng(0).permutation(len(train.labels))[:1000])
pretrained = DenseHopfield.from_pretrained("dense-hopfield-mnist")
sides = {"fine-tuned": pretrained, "from random weights": DenseHopfield(pretrained.config, key=jr.key(0))}


def held_out_accuracy(model: DenseHopfield, rate: float, few: Images) -> float:
    with tempfile.TemporaryDirectory() as folder:
        finetune(model, few, task=TASK, learning_rate=rate, validation=0.2, workdir=Path(folder) / "run", **BUDGET)
        return Log(Path(folder) / "run/log.jsonl").lines()[-1]["validation_accuracy"]


print(f"{'':20}  rate  held-out accuracy, %  test error, %  completion MSE")
figures = {}
for name, model in sides.items():
    accuracies = {rate: held_out_accuracy(model, rate, few) for rate in RATES}
    rate = max(accuracies, key=accuracies.get)
    measured = evaluate(finetune(model, few, task=TASK, learning_rate=rate, validation=0, **BUDGET), test)
    figures[name] = {"learning_rate": rate, "held_out_accuracy": accuracies[rate]} | measured
    print(
        f"{name:20}  {rate:4}  {100 * accuracies[rate]:20.1f}  {measured['test_error']:13.2f}  "
        f"{measured['completion_mse']:14.5f}"
    )
record("transfer", {"images": 1000, **figures})
