"""Methods of descent: the steps that they take, what they promise, and the HAMs that they refuse."""

import itertools
import math
import re
import sys
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from small_hams import assert_states_agree, bilinear, states

import hamux
from hamux import Neurons

KEY = jr.key(0)


def quadratic(size=6, tau=1.0):
    """E = ½ x·(1 − ξᵀξ) x − b·x on an identity layer: a linear problem, its matrix and its b."""
    neurons = {"x": Neurons(hamux.lagr_identity, size, tau=tau)}
    synapses = {"s": hamux.HopfieldSynapse(KEY, size, 4, hamux.lagr_identity), "b": hamux.BiasSynapse(KEY, size)}
    ham = hamux.HAM(neurons, synapses, [(("x",), "s"), (("x",), "b")])
    ham = jax.tree.map(lambda leaf: 12 * leaf, ham)
    xi = ham.synapses["s"].xi[0]
    return ham, np.eye(size) - np.asarray(xi.T @ xi), np.asarray(ham.synapses["b"].b)


def spins(lagrangian=hamux.lagr_sign, degree=3, size=6):
    synapse = hamux.HopfieldSynapse(KEY, size, 3, Partial(hamux.lagr_repu, n=degree))
    ham = hamux.HAM({"x": Neurons(lagrangian, size)}, {"s": synapse}, [(("x",), "s")])
    return jax.tree.map(lambda leaf: 100 * leaf, ham)


METHODS = {
    "explicit": hamux.Explicit(0.1),
    "backtracking": hamux.Backtracking(),
    "gauss-seidel": hamux.GaussSeidel(),
    "random gauss-seidel": hamux.GaussSeidel(key=KEY),
    "over-relaxed gauss-seidel": hamux.GaussSeidel(dt=1.5),
    "momentum": hamux.Momentum(),
    "anderson": hamux.Anderson(),
    "langevin": hamux.Langevin(KEY, 0.0),
    "ode": hamux.ODE(diffrax.Tsit5()),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_method
def test_comes_to_the_fixed_point_and_holds_what_is_clamped(method):
    ham, xs = bilinear(), states(bilinear())
    mask = np.array([True, False, False, True])
    out = hamux.relax(ham, xs, method=method, tol=1e-6, clamp={"a": mask}, throw=True)
    np.testing.assert_array_equal(out.xs["a"][mask], xs["a"][mask])
    gs = ham.activations(out.xs)
    W = np.asarray(ham.synapses["s"].W)
    np.testing.assert_allclose(gs["a"][~mask], np.tanh(W @ gs["b"])[~mask], atol=1e-5)
    np.testing.assert_allclose(gs["b"], np.tanh(W.T @ gs["a"]), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@every_method
def test_in_half_precision(method, dtype):
    """It comes as near to the fixed point as such numbers can tell, in the dtype of the states."""
    ham, xs = (jax.tree.map(lambda x: jnp.asarray(x, dtype), tree) for tree in (bilinear(), states(bilinear())))
    out = hamux.relax(ham, xs, method=method, tol=0.03, throw=True)
    exact = hamux.relax(bilinear(), states(bilinear()), tol=1e-6).xs
    for name, x in out.xs.items():
        assert x.dtype == dtype
        np.testing.assert_allclose(np.tanh(x.astype(float)), np.tanh(exact[name]), atol=0.05)


@every_method
def test_a_batch_is_its_examples_one_by_one(method):
    """Of which one is slow: it takes more than twice the steps of another."""
    ham, xs = bilinear(strength=60.0), states(bilinear(), bs=4)
    settled = hamux.relax(ham, {name: x[2] for name, x in xs.items()}, tol=1e-10).xs
    xs = {name: np.stack([*x[:2], settled[name] * (1 + 1e-4), x[3]]) for name, x in xs.items()}
    together = hamux.relax(ham.vectorize(), xs, method=method, tol=1e-7, max_steps=2000)
    assert together.converged.all()
    assert 2 * np.min(together.steps) < np.max(together.steps)
    for i in range(4):
        alone = hamux.relax(ham, {name: x[i] for name, x in xs.items()}, method=method, tol=1e-7, max_steps=2000)
        # A sum in another order may end a step sooner or later.
        assert abs(int(alone.steps) - int(together.steps[i])) <= 1
        assert_states_agree(alone.xs, {name: x[i] for name, x in together.xs.items()}, atol=1e-5)


@every_method
def test_nothing_to_do_takes_no_step(method):
    ham, xs = bilinear(), states(bilinear())
    out = hamux.relax(ham, xs, method=method, clamp={"a": True, "b": np.ones(3, bool)})
    assert (out.steps, out.residual, out.converged) == (0, 0, True)
    assert out.reason == hamux.Reason.converged
    assert_states_agree(out.xs, xs, rtol=0, atol=0)


def test_explicit_by_a_schedule():
    ham, xs = bilinear(), states(bilinear())
    schedule = optax.linear_schedule(0.5, 0.1, 4)
    by_schedule = hamux.descend(ham, xs, steps=6, method=hamux.Explicit(schedule))
    for dt in (0.5, 0.4, 0.3, 0.2, 0.1, 0.1):
        xs = hamux.descend(ham, xs, steps=1, dt=dt).xs
    assert_states_agree(by_schedule.xs, xs, rtol=1e-6)


def test_momentum_by_hand():
    ham, A, b = quadratic(tau=2.0)
    x, v = states(ham)["x"], np.zeros(6)
    out = hamux.descend(ham, {"x": x}, steps=20, method=hamux.Momentum(0.2, 0.7))
    for _ in range(20):
        v = 0.7 * v - 0.1 * (A @ x - b)
        x = x + v
    np.testing.assert_allclose(out.xs["x"], x, rtol=1e-10)


def test_anderson_solves_a_linear_problem_in_as_many_steps_as_it_has_dimensions():
    ham, A, b = quadratic()
    xs = states(ham)
    out = hamux.relax(ham, xs, method=hamux.Anderson(memory=6), tol=1e-6)
    assert out.steps <= 8
    np.testing.assert_allclose(out.xs["x"], np.linalg.solve(A, b), atol=1e-5)
    assert hamux.relax(ham, xs, tol=1e-6).steps > 3 * out.steps


class Wave(eqx.Module):
    """S = −½ g² + p₀ sin(g + p₁) + p₂ sin(2g + p₃) + g⁴/20: on an identity neuron of leak 1, hills and valleys."""

    p: jax.Array

    def __call__(self, g):
        waves = self.p[0] * jnp.sin(g + self.p[1]) + self.p[2] * jnp.sin(2 * g + self.p[3])
        return jnp.sum(-0.5 * g**2 + waves + 0.05 * g**4)


@pytest.mark.parametrize("method", [hamux.Anderson(0.3, memory=1), hamux.Anderson(0.3), hamux.Backtracking(3.0)])
def test_a_safeguard_lets_no_step_uphill_pass(method):
    """Where a proposal points uphill, as extrapolations across a hill do, it must come out lower all the same."""
    p = jnp.array([3.624775755, 2.936233360, -0.426071270, 0.508984445])
    ham = hamux.HAM({"x": Neurons(hamux.lagr_identity, 1)}, {"s": Wave(p)}, [(("x",), "s")]).vectorize()
    starts = np.concatenate([[[-3.3670971314]], np.random.default_rng(0).uniform(-6, 6, (20_000, 1))])
    out = hamux.relax(ham, {"x": starts}, method=method, max_steps=40)
    assert np.max(np.diff(out.energies, axis=1)) <= 1e-13


def test_a_step_that_moves_nothing_is_none():
    """In bfloat16, near a kink, the steps become shorter than the states can tell."""
    neurons, synapses = {"x": Neurons(hamux.lagr_identity, 2)}, {"s": lambda g: 3 * jnp.sum(jnp.abs(g - 1))}
    ham, xs = hamux.HAM(neurons, synapses, [(("x",), "s")]), {"x": jnp.array([0.3, 2.0], jnp.bfloat16)}
    for method in (hamux.Backtracking(), hamux.Anderson()):
        out = hamux.relax(ham, xs, method=method)
        assert out.reason == hamux.Reason.stuck
        assert out.steps < 50


def test_langevin_at_temperature_0_is_the_explicit_step():
    ham, xs = bilinear(), states(bilinear())
    cold = hamux.descend(ham, xs, steps=5, method=hamux.Langevin(KEY, 0.0, 0.3))
    assert_states_agree(cold.xs, hamux.descend(ham, xs, steps=5, dt=0.3).xs)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_langevin_samples_the_boltzmann_distribution(tau):
    """Of E = ½ x·A x − b·x at T: mean A⁻¹b, covariance T A⁻¹ (1 − dt A/2τ)⁻¹ for steps of dt."""
    ham, A, b = quadratic(3, tau)
    T, dt, count = 0.5, 0.2, 20_000
    method = hamux.Langevin(KEY, T, dt * tau)
    x = np.asarray(hamux.descend(ham.vectorize(), {"x": jnp.zeros((count, 3))}, steps=120, method=method).xs["x"])
    covariance = T * np.linalg.inv(A) @ np.linalg.inv(np.eye(3) - dt * A / 2)
    deviation = np.sqrt(np.diag(covariance))
    assert np.max(np.abs(x.mean(axis=0) - np.linalg.solve(A, b)) / deviation) < 5 / np.sqrt(count)
    difference = (np.cov(x.T) - covariance) / np.outer(deviation, deviation)
    assert np.max(np.abs(difference)) < 5 * np.sqrt(2 / count)


def test_langevin_is_reproducible_and_anneals():
    ham, xs = bilinear(), states(bilinear(), bs=3)
    same = {name: np.broadcast_to(x[0], x.shape) for name, x in xs.items()}
    method = hamux.Langevin(KEY, optax.linear_schedule(1.0, 0.0, 50), 0.2)
    out = hamux.relax(ham.vectorize(), same, method=method, tol=1e-6, max_steps=400)
    again = hamux.relax(ham.vectorize(), same, method=method, tol=1e-6, max_steps=400)
    assert_states_agree(out.xs, again.xs, rtol=0, atol=0)
    assert out.converged.all()
    assert np.min(out.steps) > 50
    assert len({*np.asarray(out.energies)[:, 5].tolist()}) == 3
    other = hamux.relax(ham.vectorize(), same, method=hamux.Langevin(jr.key(1), 1.0), max_steps=5)
    assert not np.allclose(other.energies[:, 5], out.energies[:, 5])


@pytest.mark.parametrize(
    "method", [hamux.Langevin(KEY, 1.0), hamux.Asynchronous(KEY)], ids=["langevin", "asynchronous"]
)
def test_each_example_draws_for_itself_however_the_batch_is_made(method):
    """By `vectorize`, by `jax.vmap` or by several of them; with keys of their own, the examples draw from these."""
    ham = bilinear() if isinstance(method, hamux.Langevin) else spins(size=6)
    same = {name: np.broadcast_to(x, (6, *x.shape)) for name, x in states(ham).items()}

    def alone(xs, method=method):
        return hamux.descend(ham, xs, steps=1, method=method, energies=False).xs

    together = hamux.descend(ham.vectorize(), same, steps=1, method=method, energies=False).xs
    if isinstance(method, hamux.Langevin):
        assert len({np.asarray(x).tobytes() for x in together["a"]}) == 6
    assert_states_agree(jax.vmap(alone)(same), together, rtol=0, atol=0)
    assert_states_agree(jax.jit(jax.vmap(jax.jit(alone)))(same), together, rtol=0, atol=0)
    assert_states_agree(alone({name: x[0] for name, x in same.items()}), {n: x[0] for n, x in together.items()})
    nested = {name: x.reshape(2, 3, *x.shape[1:]) for name, x in same.items()}
    found = jax.vmap(jax.vmap(alone))(nested)
    assert_states_agree({name: x.reshape(6, *x.shape[2:]) for name, x in found.items()}, together, rtol=0, atol=0)
    keys = jr.split(jr.key(5), 6)
    by_key = jax.vmap(lambda xs, key: alone(xs, eqx.tree_at(lambda m: m.key, method, key)))(same, keys)
    for i in range(6):
        one = alone({name: x[i] for name, x in same.items()}, eqx.tree_at(lambda m: m.key, method, keys[i]))
        assert_states_agree(one, {name: x[i] for name, x in by_key.items()}, rtol=0, atol=0)


def test_noise_is_the_same_under_a_gradient_and_within_a_loop():
    ham, xs = bilinear(), states(bilinear(), bs=3)
    method = hamux.Langevin(KEY, 1.0)

    def energies(W):
        there = eqx.tree_at(lambda ham: ham.synapses["s"].W, ham, W)
        return jax.vmap(lambda xs: hamux.descend(there, xs, steps=2, method=method).energies)(xs)

    W = ham.synapses["s"].W
    expected = energies(W)
    np.testing.assert_array_equal(jax.vjp(energies, W)[0], expected)
    looped = jax.lax.fori_loop(0, 2, lambda i, _: energies(W), jnp.zeros_like(expected))
    np.testing.assert_allclose(looped, expected, rtol=1e-12)


@pytest.mark.parametrize("key", [None, KEY], ids=["in order", "in random order"])
@pytest.mark.parametrize("degree", [2, 3])
def test_asynchronous_updates_end_where_no_single_flip_goes_down(key, degree):
    ham = spins(degree=degree)
    starts = np.array(list(itertools.product([-1.0, 1.0], repeat=6)))
    out = hamux.relax(ham.vectorize(), {"x": starts}, method=hamux.Asynchronous(key), throw=True)
    ends = np.asarray(out.xs["x"])
    assert np.max(np.diff(out.energies, axis=1)) <= 1e-12
    assert set(np.unique(ends)) == {-1.0, 1.0}
    assert 1 < len(np.unique(ends, axis=0)) < 32

    def energy(x):
        h = np.asarray(ham.synapses["s"].xi[0]) @ x
        return -np.sum(np.maximum(h, 0) ** degree) / degree

    for end in ends:
        flips = [energy(np.where(np.arange(6) == i, -end, end)) for i in range(6)]
        assert np.min(flips) >= energy(end) - 1e-12


def test_asynchronous_updates_by_hand():
    """Hopfield's: x_i ← sign(Σ_j W_ij x_j) with W symmetric and no diagonal; clamped units stay, ties too."""
    W = np.random.default_rng(0).normal(size=(6, 6))
    W = W + W.T
    W[5] = W[:, 5] = 0
    np.fill_diagonal(W, 0)
    synapse = eqx.tree_at(lambda s: s.W, hamux.DenseSynapse(KEY, 6, 6), jnp.asarray(W))
    ham = hamux.HAM({"x": Neurons(hamux.lagr_sign, 6)}, {"s": synapse}, [(("x", "x"), "s")])
    mask = np.arange(6) == 2
    for seed in range(5):
        x = np.sign(states(ham, seed)["x"])
        expected = x.copy()
        for i in (0, 1, 3, 4):
            expected[i] = np.sign(W[i] @ expected)
        out = hamux.descend(ham, {"x": x}, steps=1, method=hamux.Asynchronous(), clamp={"x": mask})
        np.testing.assert_array_equal(out.xs["x"], expected)


def test_asynchronous_updates_from_zero():
    out = hamux.relax(spins(), {"x": jnp.zeros(6)}, method=hamux.Asynchronous(), throw=True)
    assert set(np.abs(out.xs["x"]).tolist()) == {1.0}
    assert np.max(np.diff(out.energies)) <= 1e-12


def test_the_ode_by_its_solution():
    """τ dx/dt = b − x."""
    synapse = hamux.BiasSynapse(KEY, 3)
    ham = hamux.HAM({"x": Neurons(hamux.lagr_identity, 3, tau=2.0)}, {"b": synapse}, [(("x",), "b")])
    x, b = states(ham)["x"], np.asarray(synapse.b)
    method = hamux.ODE(diffrax.Tsit5(), dt=0.5, rtol=1e-9, atol=1e-9)
    out = hamux.descend(ham, {"x": x}, steps=6, method=method, trajectory=True)
    times = 0.5 * np.arange(7)
    np.testing.assert_allclose(out.trajectory["x"], b + (x - b) * np.exp(-times / 2)[:, None], rtol=1e-7)


def test_the_ode_without_diffrax(monkeypatch):
    solver = diffrax.Tsit5()
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match=re.escape("pip install hamux-core[ode]")):
        hamux.ODE(solver)


def test_a_method_of_ones_own():
    class SignStep(hamux.Method):
        size: float

        def step(self, problem, xs, state):
            dEdg = problem.evaluate(xs).dEdg
            moved = {name: x - self.size * jnp.sign(dEdg[name]) for name, x in xs.items()}
            return hamux.Step(problem.hold(xs, moved), state)

    ham, xs = bilinear(), states(bilinear())
    assert not hamux.certify(ham, SignStep(0.1))
    out = hamux.descend(ham, xs, steps=1, method=SignStep(0.1), clamp={"b": True})
    gradient = ham.dEdg(ham.activations(xs), xs)
    assert_states_agree(out.xs, {"a": xs["a"] - 0.1 * np.sign(gradient["a"]), "b": xs["b"]})


def test_a_step_that_is_not_accepted_counts_and_moves_nothing():
    ham, *_ = quadratic()
    out = hamux.descend(ham, states(ham), steps=8, method=hamux.Backtracking(64.0), trajectory=True)
    still = [np.array_equal(*out.trajectory["x"][i : i + 2]) for i in range(8)]
    assert still[0]
    assert out.steps == 8 - sum(still)
    assert np.max(np.diff(out.energies)) <= 0


def test_the_reason_for_which_it_ended():
    ham, xs = bilinear(strength=60.0), states(bilinear(), bs=2)
    out = hamux.relax(ham.vectorize(), xs, max_steps=2)
    assert np.all(out.reason == hamux.Reason.max_steps)
    assert np.all(hamux.relax(ham.vectorize(), xs).reason == hamux.Reason.converged)
    ham = hamux.HAM({"x": Neurons(hamux.lagr_layernorm, 4)}, {"s": hamux.HopfieldSynapse(KEY, 4, 3)}, [(("x",), "s")])
    ham = jax.tree.map(lambda leaf: 100 * leaf, ham)
    out = hamux.relax(ham, states(ham), tol=1e-8, clamp={"x": np.array([True, True, False, False])})
    assert out.reason == hamux.Reason.stuck
    assert "clamped together" in hamux.Reason[out.reason]


def test_throw_says_where_and_what_to_do():
    ham, xs = bilinear(strength=60.0), states(bilinear(), bs=3)
    settled = hamux.relax(ham, {name: x[0] for name, x in xs.items()}, tol=1e-12).xs
    xs = {name: np.stack([settled[name], *x[1:]]) for name, x in xs.items()}
    message = r"the residual is [\d.e-]+, above 1e-05, after 2 steps of example 1 \(2 of 3 did not\): .*hamux.Anderson"
    with pytest.raises(ValueError, match=message):
        hamux.relax(ham.vectorize(), xs, max_steps=2, throw=True)
    compiled = eqx.filter_jit(partial(hamux.relax, throw=True))
    assert compiled(ham.vectorize(), xs).converged.all()
    with pytest.raises(RuntimeError, match="the steps were used up"):
        compiled(ham.vectorize(), xs, max_steps=2)


def test_methods_refuse_a_ham_that_lacks_what_they_need():
    refused = [
        (
            spins(),
            hamux.GaussSeidel(),
            'layer "x" is not linear in its block: synapse "s" on (\'x\',) does not declare',
        ),
        (bilinear(leak=0.0), hamux.GaussSeidel(), 'layer "a" has leak 0'),
        (
            bilinear(),
            hamux.GaussSeidel(dt={"c": 1.5}),
            "dt is {'c': 1.5}; the layers are ['a', 'b']",
        ),
        (
            bilinear(),
            hamux.GaussSeidel(("a", "c")),
            "order is ('a', 'c'); a sweep takes every layer at least once, ['a', 'b']",
        ),
        (bilinear(), hamux.Asynchronous(), 'layer "a" has real-valued activations; layer "b" has real-valued'),
    ]
    for ham, method, message in refused:
        for retrieve in (partial(hamux.relax, max_steps=2), partial(hamux.descend, steps=2)):
            with pytest.raises(ValueError, match=re.escape(message)):
                retrieve(ham, ham.init_states(), method=method)


def test_layers_clamped_whole_may_lack_it():
    synapse = hamux.DenseSynapse(KEY, 4, 3)
    neurons = {"spin": Neurons(hamux.lagr_sign, 4), "real": Neurons(hamux.lagr_identity, 3)}
    ham = hamux.HAM(neurons, {"s": synapse}, [(("spin", "real"), "s")])
    xs = states(ham)
    out = hamux.relax(ham, xs, method=hamux.Asynchronous(), clamp={"real": True})
    np.testing.assert_array_equal(out.xs["spin"], np.sign(np.asarray(synapse.W) @ xs["real"]))


@pytest.mark.parametrize("dt", [math.nan, math.inf, 0.0, -0.1])
@pytest.mark.parametrize(
    "method",
    [
        hamux.Explicit, hamux.Backtracking, hamux.Momentum, hamux.Anderson,
        partial(hamux.Langevin, KEY, 1.0), partial(hamux.ODE, diffrax.Tsit5()),
    ],
)  # fmt: skip
def test_a_dt_out_of_range(method, dt):
    with pytest.raises(ValueError, match=f"dt is {dt}; it must be finite and greater than 0"):
        method(dt=dt)


def test_options_out_of_range():
    with pytest.raises(ValueError, match=r"momentum is 1.0; it is at least 0 and less than 1"):
        hamux.Momentum(momentum=1.0)
    with pytest.raises(ValueError, match="memory is 0; at least one change is remembered"):
        hamux.Anderson(memory=0)
    with pytest.raises(ValueError, match=r"temperature is -1.0; it must be finite and at least 0"):
        hamux.Langevin(KEY, -1.0)
    with pytest.raises(ValueError, match=r"memory is 2.5; at least one change is remembered, as an int"):
        hamux.Anderson(memory=2.5)
    with pytest.raises(ValueError, match=r"order is 'ab'; it is a sequence of layers"):
        hamux.GaussSeidel("ab")
    for dt in (0.0, 2.0, math.nan, {"a": 1.0, "b": -1.0}):
        with pytest.raises(ValueError, match=re.escape(f"dt is {dt}; an update lowers E up to twice the way")):
            hamux.GaussSeidel(dt=dt)
    with pytest.raises(ValueError, match=r"dt is \[0.1 0.2\]; it must be finite"):
        hamux.Explicit(np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"dt is <function .*; it must be finite"):
        hamux.Momentum(lambda step: 0.1)
    with pytest.raises(ValueError, match=r"one with an error estimate is needed, such as diffrax.Tsit5\(\)"):
        hamux.ODE(diffrax.Euler())
    for method in ("GaussSeidel", hamux.GaussSeidel):
        with pytest.raises(ValueError, match=r"expected one of hamux's methods, such as hamux.Backtracking\(\)"):
            hamux.relax(bilinear(), states(bilinear()), method=method)
    with pytest.raises(ValueError, match=r"an order was given and a key"):
        hamux.GaussSeidel(("a", "b"), key=KEY)
    with pytest.raises(ValueError, match=r"dt is 0.2 and the method is Momentum; give dt to the method"):
        hamux.descend(bilinear(), states(bilinear()), steps=1, dt=0.2, method=hamux.Momentum())
