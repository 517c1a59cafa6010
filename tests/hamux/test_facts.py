"""What Lagrangians and synapses declare of themselves is so, whatever their parameters are."""

from functools import partial

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.tree_util import Partial
from test_certificate import KEY, SIGMOID, TANH, hopfield

import hamux

STATES = hnp.arrays(float, (2, 3), elements=st.floats(-3, 3))
SIGNED = st.floats(-3, 3)
# Every Lagrangian with its parameters, whatever they are, and with those for which it must be certified.
LAGRANGIANS = {
    "identity": (hamux.lagr_identity, {}),
    "relu": (hamux.lagr_relu, {}),
    "sign": (hamux.lagr_sign, {}),
    "repu": (hamux.lagr_repu, {"n": 1.5}),
    "exp": (hamux.lagr_exp, {"beta": 2.0}),
    "rexp": (hamux.lagr_rexp, {"beta": 2.0}),
    "tanh": (hamux.lagr_tanh, {"beta": 2.0}),
    "sigmoid": (hamux.lagr_sigmoid, {"beta": -2.0, "scale": -1.0}),
    "softmax": (hamux.lagr_softmax, {"beta": 2.0}),
    "entmax": (partial(hamux.lagr_entmax, alpha=1.5), {"beta": 2.0}),
    "normmax": (partial(hamux.lagr_normmax, p=3.0), {"beta": 2.0}),
    "k_subsets": (partial(hamux.lagr_k_subsets, k=2), {"beta": 2.0}),
    "ghostmax": (hamux.lagr_ghostmax, {"beta": 2.0}),
    "layernorm": (hamux.lagr_layernorm, {"gamma": 2.0, "delta": -1.0}),
    "spherical_norm": (hamux.lagr_spherical_norm, {"gamma": 2.0, "eps": 0.1}),
}


def test_every_lagrangian_is_tried():
    assert {f"lagr_{name}" for name in LAGRANGIANS} == {name for name in dir(hamux) if name.startswith("lagr_")}


@pytest.mark.parametrize("name", LAGRANGIANS)
def test_what_a_lagrangian_declares_is_so_for_parameters_of_either_sign(name):
    lagrangian, parameters = LAGRANGIANS[name]

    @jax.jit
    def looked_at(parameters, x, y):
        value = partial(lagrangian, **parameters)
        activation = jax.grad(value)
        chord = (value(x) + value(y)) / 2 - value((x + y) / 2)
        both = jax.vmap(activation)(jnp.stack([x, y, jnp.concatenate([x[:1], y[1:]]), x.at[:, 0].set(y[:, 0])]))
        return chord, jnp.abs(value(x)) + jnp.abs(value(y)), *both

    def check(values, x, y):
        declare = partial(hamux.declared, partial(lagrangian, **values))
        chord, size, g_x, g_y, g_tokens, g_units = looked_at(values, x, y)
        if declare("convex"):
            assert chord >= -1e-13 * (1 + size)
        if declare("lipschitz") is not None:
            assert np.linalg.norm(g_x - g_y) <= declare("lipschitz") * np.linalg.norm(x - y) * (1 + 1e-12)
        if declare("elementwise"):
            np.testing.assert_array_equal(g_units[:, 1:], g_x[:, 1:])
        if declare("tokenwise") is not None:
            assert declare("tokenwise") == -1
            np.testing.assert_allclose(g_tokens[0], g_x[0], rtol=1e-14, atol=1e-14)

    @given(st.fixed_dictionaries(dict.fromkeys(parameters, SIGNED)), STATES, STATES)
    def at_any(values, x, y):
        check(values, x, y)

    @given(STATES, STATES)
    def at_these(x, y):
        check(parameters, x, y)

    assert hamux.declared(partial(lagrangian, **parameters), "convex")
    at_any()
    at_these()


@pytest.mark.parametrize("name", ["exp", "rexp", "tanh", "sigmoid", "softmax", "entmax", "normmax", "ghostmax"])
def test_nothing_is_certified_for_a_beta_whose_inverse_overflows(name):
    lagrangian, parameters = LAGRANGIANS[name]
    for beta in (5e-324, 1e-310, 1e-40):
        assert not hamux.declared(
            partial(lagrangian, **parameters | {"beta": np.sign(parameters["beta"]) * beta}), "convex"
        )


def window(synapse):
    return (synapse, (4, 2), (2, 2))


SYNAPSES = {
    "dense": (hamux.DenseSynapse(KEY, 3, 2), 3, 2),
    "bias": (hamux.BiasSynapse(KEY, 3), 3),
    "convolution": window(hamux.ConvSynapse(KEY, 2, 2, (2,), 2)),
    "mean of a window": window(hamux.PoolSynapse((2,))),
    "largest of a window": window(hamux.PoolSynapse((2,), pool="max", beta=2.0)),
    "attention": (hamux.AttentionSynapse(KEY, 3, 2, 2), (2, 3)),
    "hopfield": (hopfield(3, 2), 3, 2),
    "hopfield, sigmoid": (hopfield(3, 2, lagrangian=SIGMOID), 3, 2),
    "hopfield, repu": (hopfield(3, lagrangian=Partial(hamux.lagr_repu, n=2.5)), 3),
    "memories of a convolution": (hamux.ConvHopfieldSynapse(KEY, 3, 2, (2,), lagrangian=TANH), (4, 2)),
    "gaussian": (hamux.KernelSynapse(KEY, (3, 2), 4, beta=2.0), 3, 2),
    "epanechnikov": (hamux.KernelSynapse(KEY, 3, 4, "epanechnikov", 2.0), 3),
    "planes": (hamux.PlaneSynapse(KEY, (3, 2), 4, 2), 3, 2),
    "gaussian in a subspace": (hamux.SubspaceSynapse(KEY, 3, 2, hamux.KernelSynapse(KEY, 2, 4, beta=2.0)), 3),
    "planes in a subspace": (hamux.SubspaceSynapse(KEY, 3, 2, hamux.PlaneSynapse(KEY, (2, 2), 4, 1)), 3, 2),
    "hopfield in a subspace": (hamux.SubspaceSynapse(KEY, 3, 2, hopfield(2)), 3),
    "epanechnikov in a subspace": (hamux.SubspaceSynapse(KEY, 3, 2, hamux.KernelSynapse(KEY, 2, 4, "epanechnikov")), 3),
}


@pytest.mark.parametrize("name", SYNAPSES)
def test_what_a_synapse_declares_is_so_for_parameters_of_either_sign(name):
    synapse, *shapes = SYNAPSES[name]

    @jax.jit
    def looked_at(synapse, gs, others):
        middle = [(g + h) / 2 for g, h in zip(gs, others, strict=True)]
        square = sum(jnp.sum((g - h) ** 2) for g, h in zip(gs, others, strict=True))
        ends = synapse(*gs), synapse(*others)
        alone = [synapse(*(p if i == j else g for j, g in enumerate(gs))) for i, p in enumerate(middle)]
        moved = [synapse(*(h if i == j else g for j, g in enumerate(gs))) for i, h in enumerate(others)]
        bends = [(ends[0] + there) / 2 - between for there, between in zip(moved, alone, strict=True)]
        return sum(ends) / 2 - synapse(*middle), square, jnp.stack(bends), sum(map(jnp.abs, (*ends, *moved)))

    @given(st.integers(0, 2**32 - 1), SIGNED.filter(lambda beta: abs(beta) > 0.01))
    def check(seed, number):
        draw = np.random.default_rng(seed).normal
        drawn = jax.tree.map(lambda leaf: draw(size=leaf.shape) if leaf.ndim else number, synapse)
        chord, square, bends, size = looked_at(drawn, *([draw(size=shape) for shape in shapes] for _ in range(2)))
        curvature = hamux.declared(drawn, "curvature")
        if curvature is not None and curvature < np.inf:
            # Of E − (c/2)‖g‖², which is concave, no chord is above; that of (c/2)‖g‖² is (c/8)‖g − h‖² above.
            assert chord - curvature / 8 * square <= 1e-13 * (1 + size)
        if hamux.declared(drawn, "multilinear"):
            np.testing.assert_allclose(bends, 0, atol=1e-13 * (1 + size))

    check()
