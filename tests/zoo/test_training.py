"""Training learns, and is the same for the same seed."""

import equinox as eqx
import jax
import jax.random as jr
import pytest

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, _training, load_samples
from hamux_zoo._evaluation import evaluate


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(_training, "BATCH", 100)
    monkeypatch.setattr(_training, "POOL", 32)


def as_float64(data):
    return data._replace(images=data.images.astype(float))


def trained(data, steps, seed=0, report=lambda done, values: None):
    config = DenseHopfieldConfig(memories=50, classes=10, energy="polynomial", beta=2.0)
    model = DenseHopfield(config, key=jr.key(1))
    with jax.numpy_dtype_promotion("standard"):  # optax promotes integers
        return _training.train(model, data, steps=steps, seed=seed, report=report, report_every=20)


def test_losses_fall_classes_are_learned_and_one_seed_gives_one_model():
    reports = []
    data = as_float64(load_samples("mnist"))
    model = trained(data, 40, report=lambda done, values: reports.append((done, values)))
    assert [done for done, _ in reports] == [20, 40]
    for name in ("classify", "reconstruct", "label"):
        assert reports[1][1][name] < reports[0][1][name]
    measured = evaluate(model, data, data)
    assert measured["test_error"] < 20
    assert measured["nearest_image_mse"] == 0
    assert eqx.tree_equal(trained(data, 40), model)
