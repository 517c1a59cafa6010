"""What a pretrained memory is worth on few pictures of something else, beside what a user would do without it.

    python tests/benchmarks/transfer.py            # measures what is missing of the table, and prints it
    python tests/benchmarks/transfer.py letters    # one row of it

A cell is a data set (a row of `_transfer_data`) and a number of pictures of each class, drawn three times. Each draw is
measured on the same 2,000 other pictures, or on all if there are fewer. No memory has learned the data of its row.
`probe` and `finetune`, by default, take the memory that the probe's cross-validation prefers on the pictures drawn.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from _measure import RESULTS, record
from _plain_network import trained
from _transfer_data import ROWS, drawn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hamux_zoo import Recipe, finetune, from_pretrained, probe, train
from hamux_zoo.data import Images
from hamux_zoo.measure import classes_of, error

DIGITS = ["conv-ham-mnist", "dense-hopfield-mnist", "et-small-mnist"]
CLOTHES = ["conv-ham-fashion-mnist", "dense-hopfield-fashion-mnist"]
MEMORIES = {
    "clothes": DIGITS,
    "digits": CLOTHES,
    "small digits": [*DIGITS, *CLOTHES],
    "photos": ["et-small-cifar10"],
    "tiles": ["et-small-cifar10"],
    "letters": [*DIGITS, *CLOTHES],
}
EACH, DRAWS, TESTED = (5, 20, 100), 3, 2000
BASELINES = ["support vector machine", "logistic regression", "nearest neighbour", "plain network"]

Found = Callable[[np.ndarray], np.ndarray]


def on_pixels(few: Images) -> dict[str, Callable[[], Found]]:
    """What needs no memory: by name, what learns from a few pictures and returns what tells the classes of others."""
    rows, labels = few.images.reshape(len(few.images), -1), np.asarray(few.labels)
    folds = int(min(5, np.bincount(labels).min()))
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    kinds = {
        "support vector machine": GridSearchCV(SVC(), {"C": [1, 10, 100]}, cv=folds),
        "logistic regression": GridSearchCV(logistic, {"logisticregression__C": [1e-4, 1e-3, 1e-2, 0.1]}, cv=folds),
        "nearest neighbour": KNeighborsClassifier(1),
    }

    def flat(kind) -> Callable[[], Found]:
        def learned() -> Found:
            fitted = kind.fit(rows, labels)
            return lambda images: fitted.predict(images.reshape(len(images), -1))

        return learned

    def plain() -> Found:
        network = trained(few, labels.max() + 1, steps=500, batch=64, changes=["crop"], seed=0)
        return lambda images: classes_of(network, images)

    return {name: flat(kind) for name, kind in kinds.items()} | {"plain network": plain}


def measured(row: str, each: int, draw: int) -> dict[str, dict[str, float | str]]:
    """The error in percent and the seconds of each column, and which memory was taken."""
    few, others = drawn(ROWS[row]("train"), each, draw), ROWS[row]("test")
    others = others.take(np.random.default_rng(0).permutation(len(others.labels))[:TESTED])
    figures = {}

    def note(name: str, learn: Callable[[], Found], **more: str) -> None:
        start = time.perf_counter()
        found = learn()
        seconds = time.perf_counter() - start
        figures[name] = {"error": error(found(others.images), others.labels), "seconds": seconds} | more
        print(f"{row}, {each} a class, draw {draw}: {name} {figures[name]['error']:.1f} %, {seconds:.0f} s", flush=True)

    for name, learn in on_pixels(few).items():
        note(name, learn)
    start = time.perf_counter()
    probes = {name: probe(from_pretrained(name), few, seed=draw) for name in MEMORIES[row]}
    tried = time.perf_counter() - start
    name = min(probes, key=lambda name: probes[name].error)
    memory = from_pretrained(name)
    note("probe", lambda: lambda images: classes_of(probes[name].model, images), memory=name)
    figures["probe"]["seconds"] = tried / len(probes)

    def tuned() -> Found:
        model = finetune(memory, few, Recipe(seed=draw), quiet=True)
        return lambda images: classes_of(model, images)

    def from_nothing() -> Found:
        model = train(type(memory), few, Recipe(seed=draw, validation=0), quiet=True)
        return lambda images: classes_of(model, images)

    note("finetune", tuned)
    note("same architecture from nothing", from_nothing)
    return figures


def table(cells: dict[str, dict]) -> str:
    """The mean errors, with their standard deviation over the draws, as rows of Markdown."""
    columns = [*BASELINES, "same architecture from nothing", "probe", "finetune"]
    lines = ["| data | a class | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for row in ROWS:
        for each in EACH:
            draws = [cells[key] for draw in range(DRAWS) if (key := f"{row} {each} {draw}") in cells]
            if not draws:
                continue
            errors = [[draw[name]["error"] for draw in draws] for name in columns]
            texts = [f"{statistics.mean(one):.1f} ± {statistics.pstdev(one):.1f}" for one in errors]
            lines.append(f"| {row} | {each} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


file = RESULTS / "transfer.json"
cells = json.loads(file.read_text())["cells"] if file.exists() else {}
for row in sys.argv[1:] or ROWS:
    for each in EACH:
        for draw in range(DRAWS):
            if (key := f"{row} {each} {draw}") not in cells:
                cells[key] = measured(row, each, draw)
                record("transfer", {"cells": cells})
print(table(cells))
