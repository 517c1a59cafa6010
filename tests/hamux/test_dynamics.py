"""Descent: the steps it takes, the energy it lowers, what it holds, what flows through it, and what it refuses."""

import math
from functools import partial

import equinox as eqx
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from jax.tree_util import Partial
from small_hams import one_layer, states, two_layers

import hamux


def by_hand(ham, xs, steps, dt, tau):
    """The states and energies of a descent, step by step in Python."""
    energy_and_gradient = jax.jit(lambda xs: ham.dEdg(ham.activations(xs), xs, return_energy=True))
    path, energies = [], []
    for _ in range(steps + 1):
        energy, dEdg = energy_and_gradient(xs)
        path.append(xs)
        energies.append(energy)
        xs = {name: x - dt / tau[name] * np.asarray(dEdg[name]) for name, x in xs.items()}
    return jax.tree.map(lambda *xs: np.stack(xs), *path), np.stack(energies)


def assert_trees_agree(found, expected, rtol=1e-10, atol=1e-12):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected)


def example(batch, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[i], batch)


def relax(ham, xs, dt=1.0, max_steps=6, **options):
    return hamux.relax(ham, xs, method=hamux.Backtracking(dt), max_steps=max_steps, **options)


every_method = pytest.mark.parametrize("method", [partial(hamux.descend, steps=6), relax], ids=["descend", "relax"])


def test_descend_takes_the_steps_one_would_take_by_hand():
    ham = two_layers(a=2.0, b=0.5)
    xs = states(ham)
    out = hamux.descend(ham, xs, steps=6, dt=0.2, trajectory=True)
    path, energies = by_hand(ham, xs, 6, 0.2, {"a": 2.0, "b": 0.5})
    assert energies.shape == (7,)
    np.testing.assert_allclose(out.energies, energies, rtol=1e-10)
    assert_trees_agree(out.trajectory, path)
    assert_trees_agree(out.xs, {name: states[-1] for name, states in path.items()})
    further = hamux.descend(ham, out.xs, steps=1, dt=1.0, tau={"a": 1.0, "b": 1.0}).xs
    before, after = ham.activations(out.xs), ham.activations(further)
    residual = max(np.max(np.abs(after[name] - before[name])) for name in after)
    np.testing.assert_allclose(out.residual, residual, rtol=1e-10)
    assert (out.steps, out.converged) == (6, False)


def test_descend_tells_whether_it_has_converged():
    ham = two_layers(strength=0.1)
    out = hamux.descend(ham, states(ham), steps=100, dt=1.0, tol=1e-8)
    assert out.converged
    assert out.residual <= 1e-8


@pytest.mark.parametrize(
    ("method", "scans", "whiles"),
    [
        (partial(hamux.descend, steps=10), 2, 0),
        (partial(hamux.descend, steps=7), 3, 0),
        (partial(hamux.relax, max_steps=7), 0, 1),
    ],
    ids=["descend in 2 × 5", "descend in 3 × 2 + 1", "relax"],
)
def test_each_is_one_compiled_loop(method, scans, whiles):
    ham = two_layers()
    program = str(jax.make_jaxpr(partial(method, ham))(states(ham)))
    assert (program.count("scan["), program.count("while[")) == (scans, whiles)


SOFTMAX = Partial(hamux.lagr_softmax, beta=2.0)
CERTIFIED = {
    "identity, relu": one_layer(hamux.HopfieldSynapse(jr.key(0), 4, 3)),
    "tanh, softmax": one_layer(hamux.HopfieldSynapse(jr.key(0), 4, 3, SOFTMAX), hamux.lagr_tanh),
    "softmax, repu": one_layer(hamux.HopfieldSynapse(jr.key(0), 4, 3, Partial(hamux.lagr_repu, n=3)), SOFTMAX),
    "layernorm, exp": one_layer(hamux.HopfieldSynapse(jr.key(0), 4, 3, hamux.lagr_exp), hamux.lagr_layernorm),
    "distances": one_layer(hamux.KernelSynapse(jr.key(0), 4, 3, beta=2.0), leak=0.0),
}


@pytest.mark.parametrize("ham", CERTIFIED.values(), ids=CERTIFIED.keys())
def test_descend_falls_where_the_synapse_is_concave(ham):
    @settings(max_examples=25)
    @given(
        hnp.arrays(float, (3, 4), elements=st.floats(-2, 2)),
        hnp.arrays(float, 4, elements=st.floats(-3, 3)),
        st.floats(0.01, 1),
    )
    def falls(xi, x, dt):
        with_memories = eqx.tree_at(lambda ham: ham.synapses["s"].xi, ham, (jnp.asarray(xi),))
        energies = hamux.descend(with_memories, {"x": jnp.asarray(x)}, steps=8, dt=dt).energies
        assert energies.shape == (9,)
        assert np.max(np.diff(energies)) <= 1e-12 * (1 + np.max(np.abs(energies)))

    falls()


def test_relax_never_rises_where_a_full_step_does():
    ham = two_layers(seed=0)
    xs = states(ham)
    assert np.max(np.diff(hamux.descend(ham, xs, steps=10, dt=1.0).energies)) > 1
    out = hamux.relax(ham, xs)
    assert out.converged
    assert np.max(np.diff(out.energies)) <= 1e-13 * np.max(np.abs(out.energies))


@pytest.mark.parametrize("seed", range(5))
def test_relax_ends_at_a_fixed_point(seed):
    ham = two_layers(seed)
    out = relax(ham, states(ham), 0.7, 500, tol=1e-10)
    assert out.converged
    assert out.residual <= 1e-10
    assert 1 < out.steps < 500
    assert np.max(np.diff(out.energies)) <= 1e-13 * np.max(np.abs(out.energies))
    gs = ham.activations(out.xs)
    once_more = ham.activations(hamux.descend(ham, out.xs, steps=1, dt=0.7).xs)
    assert_trees_agree(once_more, gs, rtol=0, atol=1e-10)
    hessian = {name: 1 - g**2 for name, g in gs.items()}
    for name, gradient in ham.dEdg(gs, out.xs).items():
        np.testing.assert_allclose(hessian[name] * gradient, 0, atol=1e-9)


def test_relax_stops_at_max_steps():
    ham = two_layers()
    out = hamux.relax(ham, states(ham), max_steps=1)
    assert (out.steps, out.converged) == (1, False)
    assert out.energies.shape == (2,)


def test_relax_shortens_a_step_that_overflows():
    """E = eˣ (x − 1 − b) is least at x = b; the first full step would go from −5 to 3195."""
    bias = eqx.tree_at(lambda bias: bias.b, hamux.BiasSynapse(jr.key(0), 1), jnp.array([3.0]))
    ham, x = one_layer(bias, hamux.lagr_exp, 1), np.array([-5.0])
    out = relax(ham, {"x": x}, 400.0, 500, tol=1e-9)
    assert out.converged
    assert np.all(np.diff(out.energies) <= 1e-12)
    np.testing.assert_allclose(out.xs["x"], 3, rtol=1e-6)

    once = relax(ham, {"x": x}, 400.0, 1)
    assert (once.xs["x"] - x) / (400 * (3 - x)) < 0.1
    np.testing.assert_allclose(once.residual, np.abs(np.exp(3) - np.exp(once.xs["x"]))[0], rtol=1e-10)


@pytest.mark.parametrize(
    ("lagrangian", "bias", "start"),
    [(hamux.lagr_tanh, -5.0, 20.0), (hamux.lagr_relu, 5.0, -10.0)],
    ids=["tanh", "relu"],
)
@pytest.mark.parametrize("options", [{"dt": 0.1}, {"dt": 1.0, "tau": {"x": 10.0}}], ids=["dt", "tau"])
def test_a_unit_that_is_flat_on_its_way_is_not_taken_for_converged(lagrangian, bias, start, options):
    synapse = eqx.tree_at(lambda synapse: synapse.b, hamux.BiasSynapse(jr.key(0), 1), jnp.array([bias]))
    ham, xs = one_layer(synapse, lagrangian, 1), {"x": jnp.array([start])}
    assert not hamux.descend(ham, xs, steps=1, **options).converged
    out = relax(ham, xs, max_steps=500, **options)
    assert out.converged
    np.testing.assert_allclose(ham.activations(out.xs)["x"], ham.activations({"x": jnp.array([bias])})["x"], atol=1e-4)


def test_a_slope_without_bound_does_not_let_a_rise_pass():
    """At the rim of an Epanechnikov memory a full step lands thousands of reaches away, where E is flat."""
    synapse = hamux.KernelSynapse(jr.key(0), 2, 1, "epanechnikov").store(jnp.zeros((1, 2)))
    ham = one_layer(synapse, size=2, leak=0.0)
    for reach in (0.9, 0.99, 0.9999):
        out = hamux.relax(ham, {"x": jnp.array([reach * math.sqrt(2), 0.0])})
        assert np.max(np.diff(out.energies)) <= 1e-12
        np.testing.assert_allclose(out.xs["x"], 0, atol=1e-4)


def test_small_activations_do_not_stall_the_search_in_float32():
    neurons = {"a": hamux.Neurons(hamux.lagr_identity, 6), "b": hamux.Neurons(hamux.lagr_tanh, 5)}
    ham = hamux.HAM(neurons, {"s": hamux.DenseSynapse(jr.key(45), 6, 5)}, [(("a", "b"), "s")]).vectorize()
    ham = jax.tree.map(lambda leaf: jnp.float32(10) * leaf.astype(jnp.float32), ham)
    xs = jax.tree.map(lambda x: x.astype(jnp.float32), ham.init_states(8, key=jr.key(1)))
    assert hamux.relax(ham, xs).converged.all()


def test_relax_in_float32_stays_there_and_falls_to_rounding():
    ham = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), two_layers())
    xs = jax.tree.map(lambda x: x.astype(jnp.float32), states(ham))
    out = hamux.relax(ham, xs, tol=1e-5, trajectory=True)
    assert out.converged
    assert {leaf.dtype for leaf in (*out.xs.values(), *out.trajectory.values(), out.energies)} == {jnp.dtype("float32")}
    assert np.max(np.diff(out.energies)) <= 1e-6 * np.max(np.abs(out.energies))


def test_the_trajectory_has_the_states_behind_the_energies():
    ham = two_layers()
    xs = states(ham)
    out = hamux.relax(ham, xs, max_steps=60, trajectory=True)
    assert out.energies.shape == (61,)
    assert {name: states.shape for name, states in out.trajectory.items()} == {"a": (61, 4), "b": (61, 3)}
    batched = ham.vectorize()
    energies = jax.jit(lambda xs: batched.energy(batched.activations(xs), xs))(out.trajectory)
    np.testing.assert_allclose(out.energies, energies, rtol=1e-12)
    assert_trees_agree(example(out.trajectory, 0), xs)
    taken = int(out.steps)
    assert 1 < taken < 60
    for name, path in jax.tree.map(np.asarray, out.trajectory).items():
        np.testing.assert_array_equal(path[taken:], np.broadcast_to(out.xs[name], path[taken:].shape))
        assert not np.array_equal(path[taken], path[taken - 1])


@every_method
def test_without_asking_there_is_no_trajectory(method):
    ham = two_layers()
    assert method(ham, states(ham)).trajectory is None


@every_method
def test_tau_divides_the_step_of_its_layer(method):
    xs = states(two_layers())
    of_the_layers = method(two_layers(a=2.0, b=0.5), xs, dt=0.2)
    given_here = method(two_layers(a=7.0, b=0.5), xs, dt=0.2, tau={"a": 2.0})
    assert_trees_agree(of_the_layers, given_here)
    assert_trees_agree(method(two_layers(), xs, dt=0.4, tau={"a": 2.0, "b": 2.0}), method(two_layers(), xs, dt=0.2))


@every_method
@pytest.mark.parametrize("mask", [np.array([True, False, True, False]), True], ids=["some", "all"])
def test_clamped_units_never_move_and_free_ones_do(method, mask):
    ham = two_layers()
    xs = states(ham)
    out = method(ham, xs, dt=0.3, clamp={"a": mask}, trajectory=True)
    held = np.broadcast_to(mask, 4)
    moved = np.asarray(out.trajectory["a"]) != xs["a"]
    np.testing.assert_array_equal(moved[1:], np.broadcast_to(~held, moved[1:].shape))
    np.testing.assert_array_equal(out.xs["a"] != xs["a"], ~held)
    assert np.all(out.xs["b"] != xs["b"])


@every_method
def test_in_a_batch_a_mask_holds_for_all_or_for_its_example(method):
    ham = two_layers().vectorize()
    xs = states(ham, bs=3)
    shared = np.array([True, False, True, False])
    own = np.array([[True] * 4, [False] * 4, [True, True, False, False]])
    for mask in (shared, own):
        held = np.broadcast_to(mask, (3, 4))
        np.testing.assert_array_equal(np.asarray(method(ham, xs, clamp={"a": mask}).xs["a"]) == xs["a"], held)


def test_a_stored_pattern_is_completed_from_its_half():
    patterns = np.random.default_rng(0).choice([-1.0, 1.0], (3, 64))
    ham = hamux.HAM(
        neurons={
            "image": hamux.Neurons(hamux.lagr_tanh, (64,)),
            "memory": hamux.Neurons(Partial(hamux.lagr_softmax, beta=2.0), (3,)),
        },
        synapses={"recall": hamux.DenseSynapse(jr.key(0), 64, 3)},
        connections=[(("image", "memory"), "recall")],
    )
    ham = eqx.tree_at(lambda ham: ham.synapses["recall"].W, ham, jnp.asarray(3 * patterns.T))
    known = np.arange(64) < 32
    for pattern in patterns:
        xs = ham.init_states() | {"image": np.where(known, 3 * pattern, 0)}
        out = hamux.relax(ham, xs, tol=1e-5, max_steps=500, clamp={"image": known})
        assert out.converged
        np.testing.assert_allclose(ham.activations(out.xs)["image"], np.tanh(3) * pattern, atol=1e-6)


@jax.jit
def learnable():
    """Every parameter of it is a leaf: Lagrangians' and synapses'."""
    keys = jr.split(jr.key(0), 3)
    ham = hamux.HAM(
        {
            "image": hamux.Neurons(Partial(hamux.lagr_tanh, beta=0.7), 4),
            "hidden": hamux.Neurons(Partial(hamux.lagr_softmax, beta=2.0), 3, leak=0.5),
            "tokens": hamux.Neurons(
                Partial(hamux.lagr_layernorm, gamma=1.5, delta=np.array([0.1, -0.2, 0.3, 0.4])), (2, 4)
            ),
        },
        {
            "dense": hamux.DenseSynapse(keys[0], 4, 3),
            "memories": hamux.HopfieldSynapse(keys[1], 4, 2, Partial(hamux.lagr_sigmoid, beta=1.5, scale=2.0)),
            "attention": hamux.AttentionSynapse(keys[2], 4, 2, 2),
        },
        [
            (("image", "hidden"), "dense"),
            (("tokens",), "memories"),
            (("image",), "memories"),
            (("tokens",), "attention"),
        ],
    )
    return jax.tree.map(lambda leaf: 20 * leaf if leaf.ndim > 1 else leaf, ham)


def test_gradients_flow_through_descend_into_every_parameter(gradients):
    ham = learnable()
    xs, targets = states(ham, seed=1), states(ham, seed=2)

    def loss(ham):
        gs = ham.activations(hamux.descend(ham, xs, steps=5, dt=0.2).xs)
        return sum(jnp.sum((gs[name] - targets[name]) ** 2) for name in gs)

    _, by_autograd, differences = gradients(loss, ham)
    assert_trees_agree(by_autograd, differences, rtol=1e-5, atol=1e-8)
    for leaf in jax.tree.leaves(by_autograd):
        assert np.max(np.abs(leaf)) > 1e-4


def test_gradients_flow_through_descend_into_the_start_and_the_step(gradients):
    ham = two_layers()

    def loss(start):
        xs, dt = start
        return jnp.sum(ham.activations(hamux.descend(ham, xs, steps=5, dt=dt).xs)["a"])

    _, by_autograd, differences = gradients(loss, (states(ham), jnp.array(0.2)))
    assert_trees_agree(by_autograd, differences, rtol=1e-6, atol=1e-8)


def test_a_layer_without_leak_is_moved_by_its_synapses_alone():
    tokens = hamux.Neurons(hamux.lagr_layernorm, (3, 4), leak=0.0)
    synapses = {
        "attention": hamux.AttentionSynapse(jr.key(0), 4, 2, 3),
        "memories": hamux.HopfieldSynapse(jr.key(1), 4, 5),
    }
    ham = hamux.HAM({"tokens": tokens}, synapses, [(("tokens",), "attention"), (("tokens",), "memories")])
    ham = jax.tree.map(lambda leaf: 10 * leaf, ham)
    xs = states(ham)

    def synaptic(g):
        return ham.synapses["attention"](g) + ham.synapses["memories"](g)

    energy_and_gradient = jax.jit(lambda x: jax.value_and_grad(synaptic)(tokens.activations(x)))
    x, energies = xs["tokens"], []
    for _ in range(4):
        energy, gradient = energy_and_gradient(x)
        energies.append(energy)
        x = x - 0.1 * np.asarray(gradient)
    out = hamux.descend(ham, xs, steps=4, dt=0.1)
    np.testing.assert_allclose(np.asarray(out.energies)[:4], energies, rtol=1e-10)
    np.testing.assert_allclose(out.xs["tokens"], x, rtol=1e-10)
    assert np.all(np.diff(out.energies) < 0)


@every_method
def test_in_a_batch_each_example_has_the_result_it_has_alone(method):
    ham = two_layers()
    xs = states(ham, bs=3)
    together = method(ham.vectorize(), xs)
    for i in range(3):
        assert_trees_agree(example(together, i), method(ham, example(xs, i)))


def test_in_a_batch_each_example_stops_for_itself():
    ham = two_layers()
    xs = states(ham, bs=4)
    settled = hamux.relax(ham, example(xs, 0), tol=1e-9).xs
    xs = {name: np.concatenate([settled[name][None], x[1:]]) for name, x in xs.items()}
    out = hamux.relax(ham.vectorize(), xs, tol=1e-6)
    assert out.converged.all()
    assert out.steps[0] == 0
    assert len(set(out.steps.tolist())) > 2
    alone = [hamux.relax(ham, example(xs, i), tol=1e-6).steps for i in range(4)]
    np.testing.assert_array_equal(out.steps, alone)


@every_method
def test_under_the_callers_jit_and_vmap(method):
    ham = two_layers()
    xs = states(ham, bs=3)
    known = jnp.array([True, False, True, False])
    batched = method(ham.vectorize(), xs, dt=1.0, clamp={"a": known})
    assert_trees_agree(jax.vmap(lambda xs: method(ham, xs, dt=1.0, clamp={"a": known}))(xs), batched)
    jitted = jax.jit(lambda ham, xs, known, dt: method(ham, xs, dt=dt, clamp={"a": known}))
    assert_trees_agree(jitted(ham, example(xs, 0), known, 1.0), example(batched, 0))
