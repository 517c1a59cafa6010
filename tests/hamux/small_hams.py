"""Small HAMs, their states, and how states are compared."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

import hamux
from hamux import Neurons


def one_layer(synapse, lagrangian=hamux.lagr_identity, size=4, **options):
    return hamux.HAM({"x": hamux.Neurons(lagrangian, size, **options)}, {"s": synapse}, [(("x",), "s")])


def two_layers(seed=0, strength=2.0, **tau):
    """Two layers and a bilinear synapse: a bipartite memory, whose energy is not concave in both g's together."""
    W = hamux.DenseSynapse(jr.key(seed), 4, 3)
    return hamux.HAM(
        {name: hamux.Neurons(hamux.lagr_tanh, size, tau=tau.get(name, 1.0)) for name, size in [("a", 4), ("b", 3)]},
        {"s": eqx.tree_at(lambda synapse: synapse.W, W, 50 * strength * W.W)},
        [(("a", "b"), "s")],
    )


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
