"""A small HAM, its states, and how states are compared."""

import jax
import jax.random as jr
import numpy as np

import hamux
from hamux import Neurons


def bilinear(seed=0, strength=100.0, **options):
    synapse = hamux.DenseSynapse(jr.key(seed), 4, 3)
    neurons = {"a": Neurons(hamux.lagr_tanh, 4, **options), "b": Neurons(hamux.lagr_tanh, 3, **options)}
    ham = hamux.HAM(neurons, {"s": synapse}, [(("a", "b"), "s")])
    return jax.tree.map(lambda leaf: strength * leaf, ham)


def states(ham, seed=1, bs=None):
    return jax.tree.map(np.asarray, ham.init_states(bs, key=jr.key(seed)))


def assert_states_agree(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, x in found.items():
        np.testing.assert_allclose(x, expected[name], **({"rtol": 1e-10, "atol": 1e-12} | tolerance))
