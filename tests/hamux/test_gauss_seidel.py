"""Gauss–Seidel: the sweeps that it takes, beyond the minimum of a layer and in orders that it draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from small_hams import assert_states_agree, bilinear, states

import hamux

KEY = jr.key(0)


def test_a_sweep_by_hand():
    """Layer by layer in the order that is given, each where its own gradient vanishes, whatever tau."""
    ham = bilinear(leak=2.0, tau=7.0)
    W, xs = np.asarray(ham.synapses["s"].W), states(ham)
    out = hamux.descend(ham, xs, steps=1, method=hamux.GaussSeidel(("b", "a")))
    b = W.T @ np.tanh(xs["a"]) / 2
    assert_states_agree(out.xs, {"a": W @ np.tanh(b) / 2, "b": b})
    out = hamux.descend(ham, xs, steps=1, method=hamux.GaussSeidel())
    a = W @ np.tanh(xs["b"]) / 2
    assert_states_agree(out.xs, {"a": a, "b": W.T @ np.tanh(a) / 2})


def test_it_goes_back_and_part_of_the_way():
    ham = bilinear(leak=2.0)
    W, xs = np.asarray(ham.synapses["s"].W), states(ham)
    out = hamux.descend(ham, xs, steps=1, method=hamux.GaussSeidel(("a", "b", "a"), dt=0.25))
    a = 0.75 * xs["a"] + 0.25 * W @ np.tanh(xs["b"]) / 2
    b = 0.75 * xs["b"] + 0.25 * W.T @ np.tanh(a) / 2
    assert_states_agree(out.xs, {"a": 0.75 * a + 0.25 * W @ np.tanh(b) / 2, "b": b})


def test_beyond_the_minimum():
    """Layers with g = x settle as the linear system W b = a does by successive over-relaxation (Young, 1954)."""
    W = 0.95 * np.linalg.qr(jr.normal(KEY, (4, 4)))[0]
    b = jr.normal(jr.key(1), (4,))
    layers = {name: hamux.Neurons(hamux.lagr_identity, (4,)) for name in "ab"}
    synapses = {"s": hamux.DenseSynapse(KEY, 4, 4), "bias": hamux.BiasSynapse(KEY, (4,))}
    ham = hamux.HAM(layers, synapses, [(("a", "b"), "s"), (("a",), "bias")])
    ham = eqx.tree_at(lambda ham: jax.tree.leaves(ham.synapses), ham, [b, jnp.asarray(W)])
    xs, out = states(ham), {}
    best = 2 / (1 + np.sqrt(1 - 0.95**2))
    for dt in (1.0, {"a": best, "b": best}, {"b": 1.5}):
        method = hamux.GaussSeidel(("a", "b"), dt=dt)
        assert hamux.certify(ham, method)
        out[str(dt)] = hamux.relax(ham, xs, tol=1e-10, max_steps=500, method=method)
        assert np.diff(out[str(dt)].energies).max() < 1e-9
        np.testing.assert_allclose(out[str(dt)].xs["a"], np.linalg.solve(np.eye(4) - W @ W.T, b), atol=1e-7)
    plain, over, _ = out.values()
    assert 5 * over.steps < plain.steps
    once = hamux.descend(ham, xs, steps=1, method=hamux.GaussSeidel(("a", "b"), dt={"b": 1.5})).xs
    a = W @ xs["b"] + b
    assert_states_agree(once, {"a": a, "b": -0.5 * xs["b"] + 1.5 * W.T @ a})


def test_it_goes_to_the_minimum_where_it_would_rise_beyond():
    """A tanh layer that comes from x = 3, where it is flat, and has its minimum at 2, has more energy at 1.1."""
    ham = hamux.HAM({"a": hamux.Neurons(hamux.lagr_tanh, (1,))}, {"s": hamux.BiasSynapse(KEY, (1,))}, [(("a",), "s")])
    ham = eqx.tree_at(lambda ham: ham.synapses["s"], ham, jax.tree.map(lambda _: jnp.array([2.0]), ham.synapses["s"]))

    at = {x: {"a": jnp.array([x])} for x in (3.0, 1.1)}
    energy = {x: float(ham.energy(ham.activations(xs), xs)) for x, xs in at.items()}
    assert energy[1.1] > energy[3.0]
    for dt, end in {1.9: 2.0, 1.2: 1.8}.items():
        method = hamux.GaussSeidel(dt=dt)
        np.testing.assert_allclose(hamux.descend(ham, at[3.0], steps=1, method=method).xs["a"], end)


@pytest.mark.parametrize("key", [None, KEY])
def test_it_moves_nothing_that_is_held_whole(key):
    ham, xs = bilinear(), states(bilinear())
    method = hamux.GaussSeidel(key=key)
    out = hamux.descend(ham, xs, steps=2, method=method, clamp={"a": True, "b": True})
    assert_states_agree(out.xs, xs)
    out = hamux.descend(ham, xs, steps=2, method=method, clamp={"a": np.ones(4, bool)})
    assert_states_agree(out.xs, {"a": xs["a"], "b": np.asarray(ham.synapses["s"].W).T @ np.tanh(xs["a"])})


def test_it_draws_orders_from_its_key():
    ham, xs = bilinear(), states(bilinear())
    sweeps = {
        order: hamux.descend(ham, xs, steps=1, method=hamux.GaussSeidel(tuple(order))).xs for order in ("ab", "ba")
    }
    drawn = []
    for seed in range(8):
        once = hamux.descend(ham, xs, steps=1, method=hamux.GaussSeidel(key=jr.key(seed))).xs
        drawn += [order for order, sweep in sweeps.items() if np.allclose(sweep["a"], once["a"], rtol=1e-10)]
    assert sorted(set(drawn)) == ["ab", "ba"]
    assert len(drawn) == 8


def test_a_sweep_that_leaves_out_a_layer_is_not_certified():
    certificate = hamux.certify(bilinear(), hamux.GaussSeidel(("a",)))
    assert not certificate
    assert certificate.reasons == ("order is ('a',); a sweep takes every layer at least once, ['a', 'b']",)
