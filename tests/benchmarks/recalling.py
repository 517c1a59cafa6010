"""What a pretrained memory is worth for recalling a few pictures of something else, beside starting from nothing.

    python tests/benchmarks/recalling.py            # measures what is missing of the table, and prints it
    python tests/benchmarks/recalling.py letters    # one row of it

Each memory learns 20 pictures of each class of a data set that it has not seen (a row of `_transfer_data`), for two
tasks: to complete them and to denoise them. It is measured on 500 other pictures of which a part is missing (the lower
half, or half of the patches of a transformer), or 30 % of the pixels are black or white. Beside it, the same
architecture learns from nothing, by the same recipe and for as many steps, and the memory as it was learns nothing.
Errors are mean squared errors, medians of three draws.
"""

import dataclasses
import json
import statistics
import sys
import time

import numpy as np
from _measure import RESULTS, record
from _transfer_data import ROWS, drawn

from hamux_zoo import Recipe, finetune, from_pretrained, train
from hamux_zoo.data import Images
from hamux_zoo.measure import recalled, salted, unknown_mse
from hamux_zoo.memory import Memory

MEMORIES = {
    "letters": ["dense-hopfield-mnist", "conv-ham-mnist", "et-small-mnist"],
    "clothes": ["dense-hopfield-mnist", "conv-ham-mnist", "et-small-mnist"],
    "tiles": ["conv-ham-cifar10", "et-small-cifar10"],
}
EACH, DRAWS, TESTED, STEPS = 20, 3, 500, 300


def errors(model: Memory, task: str, images: np.ndarray) -> float:
    """The mean squared error of recalls of damaged images."""
    if task == "denoise":
        return float(np.mean((np.asarray(recalled(model, salted(images), None).x) - images) ** 2))
    known = next(iter(model.masks(len(images)).values()))
    return unknown_mse(np.asarray(recalled(model, images, known).x), images, known)


def measured(name: str, task: str, few: Images, others: np.ndarray, seed: int) -> dict[str, float]:
    """The error of the memory as it is, fine-tuned, and trained from nothing, and the seconds of each."""
    memory, recipe = from_pretrained(name), Recipe(task=task, steps=STEPS, seed=seed)
    fields = dataclasses.asdict(memory.config)
    for own in ("classes", "class_names", "unfamiliar"):
        del fields[own]
    figures = {}
    ways = {
        "as it is": lambda: memory,
        "fine-tuned": lambda: finetune(memory, few, recipe, quiet=True),
        "from nothing": lambda: train(type(memory), few, recipe, config=fields, quiet=True),
    }
    for way, learn in ways.items():
        start = time.perf_counter()
        model = learn()
        figures[f"{way}, seconds"] = time.perf_counter() - start
        figures[way] = errors(model, task, others)
    return figures


file = RESULTS / "recalling.json"
cells = json.loads(file.read_text())["cells"] if file.exists() else {}
for row in sys.argv[1:] or MEMORIES:
    learned, others = ROWS[row]("train"), ROWS[row]("test")
    others = others.take(np.random.default_rng(0).permutation(len(others.labels))[:TESTED]).images
    for name in MEMORIES[row]:
        for task in ("reconstruct", "denoise"):
            for seed in range(DRAWS):
                if (key := f"{row}, {name}, {task}, {seed}") not in cells:
                    cells[key] = measured(name, task, drawn(learned, EACH, seed), others, seed)
                    record("recalling", {"cells": cells})
                    print(key, cells[key], flush=True)

print("| data | memory | task | as it is | from nothing | fine-tuned |\n|---|---|---|---|---|---|")
for row, names in MEMORIES.items():
    for name in names:
        for task in ("reconstruct", "denoise"):
            draws = [cells[key] for seed in range(DRAWS) if (key := f"{row}, {name}, {task}, {seed}") in cells]
            if draws:
                middle = [
                    statistics.median(draw[way] for draw in draws) for way in ("as it is", "from nothing", "fine-tuned")
                ]
                print(f"| {row} | {name} | {task} | " + " | ".join(f"{error:.4f}" for error in middle) + " |")
