"""Training learns, and is the same for the same seed."""

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, load_samples
from hamux_zoo._evaluation import classify, evaluate
from hamux_zoo._training import train


def as_float64(data):
    return data._replace(images=data.images.astype(float))


def trained(data, steps, seed=0, report=lambda done, values: None):
    config = DenseHopfieldConfig(memories=50, classes=10, energy="polynomial", beta=2.0)
    return train(DenseHopfield(config, key=jr.key(1)), data, steps=steps, seed=seed, report=report, report_every=20)


def test_learns_to_classify_and_to_complete():
    reports = []
    data = as_float64(load_samples("mnist"))
    model = trained(data, 40, report=lambda done, values: reports.append((done, values)))
    assert [done for done, _ in reports] == [20, 40]
    for name in ("classify", "reconstruct", "label"):
        assert reports[1][1][name] < reports[0][1][name]
    assert np.mean(classify(model, data.images) == data.labels) > 0.8
    measured = evaluate(model, data, data)
    assert measured["completion_mse"] < measured["mean_image_mse"]
    assert measured["nearest_image_mse"] == pytest.approx(0, abs=1e-6)


def test_one_seed_gives_one_model():
    data = as_float64(load_samples("mnist"))
    assert eqx.tree_equal(trained(data, 20), trained(data, 20))
    assert not eqx.tree_equal(trained(data, 20), trained(data, 20, seed=1))
