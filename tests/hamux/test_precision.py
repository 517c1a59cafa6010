"""Half precision: what is stored in it, and the sums that are not."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial

import hamux
from hamux import Neurons

HALVES = [jnp.bfloat16, jnp.float16]
TANH, SOFTMAX = Partial(hamux.lagr_tanh, beta=1.5), Partial(hamux.lagr_softmax, beta=2.0)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def everything():
    """A HAM with every synapse."""
    keys = iter(jr.split(jr.key(0), 8))
    neurons = {
        "image": Neurons(hamux.lagr_identity, (6, 6, 2)),
        "patch": Neurons(hamux.lagr_spherical_norm, (3, 3, 4)),
        "tokens": Neurons(hamux.lagr_layernorm, (5, 8), leak=0.0),
        "label": Neurons(SOFTMAX, 16),
    }
    synapses = {
        "conv": hamux.ConvSynapse(next(keys), 4, 2, (2, 2), (2, 2)),
        "attention": hamux.AttentionSynapse(next(keys), 8, 2, 4),
        "memories": hamux.HopfieldSynapse(next(keys), 8, 20, hamux.lagr_exp),
        "kernel": hamux.KernelSynapse(next(keys), 16, 10),
        "bias": hamux.BiasSynapse(next(keys), 16),
        "dense": hamux.DenseSynapse(next(keys), 4, 16),
    }
    connections = [
        (("image", "patch"), "conv"),
        (("tokens",), "attention"),
        (("tokens",), "memories"),
        (("label",), "kernel"),
        (("label",), "bias"),
        (("patch", "label"), "dense"),
    ]
    ham = hamux.HAM(neurons, synapses, connections)
    return jax.tree.map(lambda leaf: 10 * leaf if leaf.ndim > 1 else leaf, ham)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_term_of_the_energy_is_summed_in_float32(dtype):
    """It is that of the same numbers in float64; states, activations and gradients stay half as wide."""
    ham = cast(everything(), dtype)
    xs = cast(ham.init_states(key=jr.key(1)), dtype)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def evaluate(ham, gs, xs):
        return ham.energy_tree(gs, xs), ham.dEdg(gs, xs, return_energy=True)

    gs = ham.activations(xs)
    tree, (energy, gradient) = evaluate(ham, gs, xs)
    exact, (_, precise) = evaluate(*cast((ham, gs, xs), float))
    for found, expected in zip(jax.tree.leaves(tree), jax.tree.leaves(exact), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert energy.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((gs, gradient))} == {jnp.dtype(dtype)}
    for name, x in precise.items():
        np.testing.assert_allclose(gradient[name].astype(float), x, rtol=0.02, atol=0.02 * np.max(np.abs(x)))


def test_float64_stays_float64():
    ham = cast(everything(), float)
    xs = ham.init_states(key=jr.key(1))
    out = hamux.relax(ham, xs, max_steps=3)
    assert {leaf.dtype for leaf in jax.tree.leaves((out.xs, out.energies, out.residual))} == {jnp.dtype(float)}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("method", [None, hamux.Explicit(0.1), hamux.Backtracking(), hamux.Anderson()], ids=repr)
def test_a_descent_rises_by_no_more_than_its_rounding(dtype, method):
    """That of float32: half precision itself tells energies around −40 apart by 1/4 and 1/32."""
    synapse = hamux.HopfieldSynapse(jr.key(0), 256, 40, hamux.lagr_relu)
    ham = hamux.HAM({"x": Neurons(TANH, 256)}, {"s": synapse}, [(("x",), "s")])
    ham = cast(jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim > 1 else leaf, ham), dtype)
    xs = cast(ham.init_states(4, key=jr.key(1)), dtype)
    out = hamux.relax(ham.vectorize(), xs, method=method, tol=0.02, max_steps=100)
    assert out.energies.dtype == jnp.float32
    assert out.xs["x"].dtype == dtype
    assert np.mean(out.energies[:, -1]) < -30
    assert np.max(np.diff(out.energies, axis=1)) <= 1e-6 * np.max(np.abs(out.energies))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "lagrangian", [hamux.lagr_layernorm, hamux.lagr_spherical_norm, hamux.lagr_softmax, hamux.lagr_tanh]
)
def test_norms_and_log_sum_exps_of_large_states(dtype, lagrangian):
    """The sum of squares of 512 numbers of 300 is beyond float16."""
    x = jnp.linspace(-300, 300, 512).astype(dtype)
    value, activation = jax.value_and_grad(lagrangian)(x)
    exact, exact_activation = jax.value_and_grad(lagrangian)(x.astype(float))
    assert (value.dtype, activation.dtype) == (jnp.float32, dtype)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    np.testing.assert_allclose(activation.astype(float), exact_activation, rtol=0.01, atol=0.01)
