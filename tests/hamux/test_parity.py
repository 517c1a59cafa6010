"""The field's own package, hamux 0.2.2, gives the same numbers; `parity_reference.py` recorded them."""

import runpy
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial

import hamux

reference = runpy.run_path(str(Path(__file__).with_name("parity_reference.py")))
DRAWS = [reference["draw"](seed) for seed in range(reference["DRAWS"])]


def with_weights(W, make, *arguments):
    """A synapse of one weight array, whose own random weights are never drawn."""
    return jax.tree.map(lambda _: jnp.asarray(W), eqx.filter_eval_shape(make, jr.key(0), *arguments))


def dense(W):
    return with_weights(W, hamux.BiasSynapse, W.shape) if W.ndim == 1 else with_weights(W, hamux.DenseSynapse, *W.shape)


def conv(W):
    return with_weights(W, hamux.ConvSynapse, *W.shape[:2], W.shape[2:], 2)


def build(layers, synapses, connections):
    return hamux.HAM(
        {
            name: hamux.Neurons(Partial(getattr(hamux, f"lagr_{lagrangian}"), **parameters), shape)
            for name, (lagrangian, parameters, shape) in layers.items()
        },
        {name: {"dense": dense, "conv": conv}[kind](W) for name, (kind, W) in synapses.items()},
        connections,
    )


@pytest.fixture(scope="module")
def record():
    with np.load(reference["RECORD"]) as vectors:
        return dict(vectors)


@pytest.fixture(scope="module")
def found():
    """From one program, unoptimised: fifty optimised ones take four times as long to compile."""

    def compute(ham, xs):
        gs = ham.activations(xs)
        energy, dEdg = ham.dEdg(gs, xs, return_energy=True)
        return energy, gs, dEdg

    hams, states = [build(*parts) for *parts, _ in DRAWS], [xs for *_, xs in DRAWS]
    compiled = jax.jit(
        lambda *drawn: list(map(compute, *drawn)), compiler_options={"xla_backend_optimization_level": 0}
    )
    return compiled(hams, states)


@pytest.mark.parametrize("seed", range(len(DRAWS)))
def test_energies_activations_and_gradients_agree(seed, found, record):
    vector = reference["as_vector"](*found[seed])
    np.testing.assert_allclose(vector, record[str(seed)], rtol=1e-10, atol=1e-10)


def test_the_draws_cover_what_the_two_packages_share(record):
    assert len(record) == len(DRAWS)
    lagrangians = {lagrangian for layers, *_ in DRAWS for lagrangian, _, _ in layers.values()}
    shared = {name for name in dir(hamux) if name.startswith("lagr_")}
    shared -= {"lagr_sign", "lagr_entmax", "lagr_normmax", "lagr_k_subsets"}
    assert {f"lagr_{name}" for name in lagrangians} == shared
    assert {len(layers) for layers, *_ in DRAWS} == {1, 2, 3, 4}
    assert {len(shape) for layers, *_ in DRAWS for _, _, shape in layers.values()} == {1, 2, 3}
    connections = [connection for *_, connections, _ in DRAWS for connection in connections]
    assert {len(layers) for layers, _ in connections} == {1, 2, 3}
    assert any(len(set(layers)) < len(layers) for layers, _ in connections)
    assert any(len({synapse for _, synapse in connections}) < len(connections) for *_, connections, _ in DRAWS)
