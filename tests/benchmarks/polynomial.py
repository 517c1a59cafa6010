"""Trains a dense associative memory with the polynomial energy of Krotov & Hopfield, 2016, and measures it.

Their memories, trained on unchanged digits, have a test error of 1.44 % to 1.80 %. The training takes 45 minutes on two
cores. With a second argument, a model's folder, that model is measured instead.

    python tests/benchmarks/polynomial.py ylecun/mnist
"""

import sys

from _measure import record

from hamux_zoo import DenseHopfield, Recipe, evaluate, from_pretrained, load_images, train

RECIPE = Recipe(
    task={"classify": 2, "reconstruct": 10, "denoise": 10},
    augment=("classify:warp",),
    trainable="ham.synapses",
    ema=0.999,
    batch_size=256,
    steps=5000,
    validation=0,
)
CONFIG = {"memories": 2000, "energy": "polynomial", "beta": 2.0}

data, *trained = sys.argv[1:]
digits, test = (load_images(data, split, shape=(28, 28, 1)) for split in ("train", "test"))
model = from_pretrained(*trained) if trained else train(DenseHopfield, digits, RECIPE, config=CONFIG)
measured = evaluate(model, test, digits)
for name, value in measured.items():
    print(f"{name}: {value:.5g}")
record("polynomial", measured)
