"""Multiple-instance learning with Hopfield pooling: fully nested cross-validation.

    python tests/benchmarks/mil.py FOLDER tiger fox elephant

FOLDER holds `tiger_100x100.mat` and the like (Andrews, Tsochantaridis & Hofmann, 2002). Ten outer folds, five
repetitions; for each outer fold on its own, hyperparameters and the number of steps are chosen by five inner folds. All
sides choose among as many configurations, and learn by the same optimiser for at most as many steps: Hopfield pooling,
attention pooling (Ilse, Tomczak & Welling, 2018), mean pooling, and a support vector machine on the means of bags.

Ramsauer et al., "Hopfield Networks is All You Need", 2021, table 2, publish an AUC of 91.3, 64.05 and 94.9. Their
scripts choose one configuration over all folds.

It stops when told to and goes on from `results/mil.json`, cell by cell.
"""

import itertools
import json
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import scipy.io
from _measure import RESULTS, record
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hamux import nn

OUTER, INNER, REPETITIONS = 10, 5, 5
STEPS, EVERY = 120, 10
WIDTH = 32
RATES, DROPOUTS = (3e-3, 1e-3), (0.0, 0.3, 0.6)  # the six configurations
CHOICES = list(itertools.product(RATES, DROPOUTS))


class Bags(eqx.Module):
    """Bags of unequally many instances, side by side: `mask` is False where there is none."""

    items: jax.Array
    mask: jax.Array
    labels: jax.Array

    def part(self, which):
        return jax.tree.map(lambda array: array[which], self)


class HopfieldPooling(eqx.Module):
    pooling: nn.HopfieldPooling

    def __init__(self, key):
        self.pooling = nn.HopfieldPooling(4, WIDTH, key=key)

    def __call__(self, items, mask):
        return self.pooling(items, mask)


class AttentionPooling(eqx.Module):
    score: eqx.nn.MLP

    def __init__(self, key):
        self.score = eqx.nn.MLP(WIDTH, "scalar", WIDTH, 1, jnp.tanh, key=key)

    def __call__(self, items, mask):
        shares = jax.nn.softmax(jnp.where(mask, jax.vmap(self.score)(items), -1e9))
        return shares @ items


class MeanPooling(eqx.Module):
    def __init__(self, key):
        pass

    def __call__(self, items, mask):
        return jnp.sum(jnp.where(mask[:, None], items, 0), axis=0) / jnp.maximum(jnp.sum(mask), 1)


POOLINGS = {"Hopfield pooling": HopfieldPooling, "attention pooling": AttentionPooling, "mean pooling": MeanPooling}


class Classifier(eqx.Module):
    """Instances are embedded, pooled and read."""

    embed: eqx.nn.Linear
    pool: eqx.Module
    read: eqx.nn.Linear

    def __init__(self, pooling, features, key):
        keys = jr.split(key, 3)
        self.embed, self.pool = eqx.nn.Linear(features, WIDTH, key=keys[0]), pooling(keys[1])
        self.read = eqx.nn.Linear(WIDTH, "scalar", key=keys[2])

    def __call__(self, items, mask, dropout, key):
        kept = jr.bernoulli(key, 1 - dropout, (WIDTH,))
        embedded = jnp.where(kept, jax.nn.relu(jax.vmap(self.embed)(items)) / jnp.maximum(1 - dropout, 1e-3), 0)
        return self.read(self.pool(embedded, mask))


def read_bags(path):
    data = scipy.io.loadmat(path)
    features, bags = np.asarray(data["features"].todense(), np.float32), data["bag_ids"].ravel()
    labels = np.asarray(data["labels"].todense()).ravel() > 0
    names, largest = np.unique(bags), np.bincount(bags).max()
    items, mask = np.zeros((len(names), largest, features.shape[1]), np.float32), np.zeros((len(names), largest), bool)
    for i, name in enumerate(names):
        own = features[bags == name]
        items[i, : len(own)], mask[i, : len(own)] = own, True
    return Bags(items, mask, np.array([labels[bags == name][0] for name in names]))


def standardised(bags, which):
    """By the instances of some bags."""
    seen = bags.items[which][bags.mask[which]]
    deviation = seen.std(axis=0)
    items = (bags.items - seen.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return Bags(jnp.asarray(np.where(bags.mask[..., None], items, 0)), bags.mask, bags.labels)


@partial(jax.jit, static_argnames=("pooling", "steps"))
def scores_by_steps(pooling, bags, weights, choice, key, steps):
    """Scores of all bags, `(steps // EVERY, bags)`, while a classifier learns from those whose weight is 1."""
    rate, dropout = choice
    key_model, key_steps = jr.split(key)
    model = Classifier(pooling, bags.items.shape[-1], key_model)
    learned, static = eqx.partition(model, eqx.is_inexact_array)
    optimizer = optax.adamw(1.0, weight_decay=0.0)

    def outputs(learned, dropout, key):
        model = eqx.combine(learned, static)
        keys = jr.split(key, len(bags.items))
        return jax.vmap(model, (0, 0, None, 0))(bags.items, bags.mask, dropout, keys)

    def loss(learned, key):
        each = optax.sigmoid_binary_cross_entropy(outputs(learned, dropout, key), bags.labels.astype(jnp.float32))
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(learned))
        return jnp.sum(weights * each) / jnp.sum(weights) + 1e-4 * decay

    def step(carry, key):
        learned, state = carry
        updates, state = optimizer.update(jax.grad(loss)(learned, key), state, learned)
        return (optax.apply_updates(learned, jax.tree.map(lambda u: rate * u, updates)), state), None

    def block(carry, keys):
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, outputs(carry[0], 0.0, keys[0])

    keys = jr.split(key_steps, steps).reshape(steps // EVERY, EVERY)
    return jax.lax.scan(block, (learned, optimizer.init(learned)), keys)[1]


def by_pooling(pooling, bags, train, test, seed):
    bags, key = standardised(bags, train), jr.key(seed)
    folds = list(StratifiedKFold(INNER, shuffle=True, random_state=seed).split(train, bags.labels[train]))
    weights = np.zeros((INNER, len(bags.labels)), np.float32)
    for fold, (fitted, _) in enumerate(folds):
        weights[fold, train[fitted]] = 1

    every_fold = jax.vmap(scores_by_steps, (None, None, 0, None, None, None))
    found = np.zeros((len(CHOICES), STEPS // EVERY))
    for i, choice in enumerate(CHOICES):
        scores = np.asarray(every_fold(pooling, bags, jnp.asarray(weights), jnp.asarray(choice), key, STEPS))
        for fold, (_, left) in enumerate(folds):
            found[i] += [roc_auc_score(bags.labels[train[left]], each[train[left]]) for each in scores[fold]]
    i, step = np.unravel_index(np.argmax(found), found.shape)
    whole = jnp.asarray(np.isin(np.arange(len(bags.labels)), train).astype(np.float32))
    scores = np.asarray(scores_by_steps(pooling, bags, whole, jnp.asarray(CHOICES[i]), key, STEPS))[step]
    return roc_auc_score(bags.labels[test], scores[test])


def by_machine(bags, train, test, seed):
    means = (bags.items * bags.mask[..., None]).sum(axis=1) / bags.mask.sum(axis=1, keepdims=True)
    grid = {"svc__C": [0.1, 1, 10], "svc__gamma": ["scale", 0.01]}
    folds = StratifiedKFold(INNER, shuffle=True, random_state=seed)
    search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, scoring="roc_auc", cv=folds)
    search.fit(means[train], bags.labels[train])
    return roc_auc_score(bags.labels[test], search.decision_function(means[test]))


SIDES = {name: partial(by_pooling, pooling) for name, pooling in POOLINGS.items()} | {"SVM on means": by_machine}

if __name__ == "__main__":
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    repetitions = REPETITIONS
    if names and names[-1].isdigit():
        repetitions = int(names.pop())
    path = RESULTS / "mil.json"
    cells = json.loads(path.read_text())["cells"] if path.exists() else {}
    for name, repetition in itertools.product(names, range(repetitions)):
        bags = read_bags(folder / f"{name}_100x100.mat")
        outer = StratifiedKFold(OUTER, shuffle=True, random_state=repetition).split(bags.labels, bags.labels)
        splits = list(outer)
        for side, auc in SIDES.items():
            cell = f"{name}, {side}, repetition {repetition}"
            if cell not in cells:
                found = [auc(bags, *split, 100 * repetition + i) for i, split in enumerate(splits)]
                cells[cell] = 100 * float(np.mean(found))
                record("mil", {"cells": cells})
            print(f"{cell}: AUC {cells[cell]:.1f}", flush=True)
    for name, side in itertools.product(names, SIDES):
        found = [cells[f"{name}, {side}, repetition {repetition}"] for repetition in range(repetitions)]
        print(f"{name:9} {side:18} {np.mean(found):.1f} ± {np.std(found):.1f}")
