"""Memories that are planes, and synapses that see a layer through components."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, strategies as st

import hamux


def planes(dim=(5, 2), memories=4, directions=2, seed=0, size=1.0, **options):
    """Planes whose numbers are all drawn from a normal distribution."""
    synapse = hamux.PlaneSynapse(jr.key(seed), dim, memories, directions, **options)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: size * jnp.asarray(rng.normal(size=leaf.shape)), synapse)


def squared_distances(synapse, *gs):
    """By least squares, plane by plane."""
    found = np.asarray(synapse.offset) ** 2
    for g, xi, b in zip(gs, synapse.xi, synapse.b, strict=True):
        for i, (memory, along) in enumerate(zip(xi, np.swapaxes(b, 0, 1), strict=True)):
            z = np.linalg.lstsq(along.T, g - memory, rcond=None)[0]
            found[i] += np.sum((g - memory - z @ along) ** 2)
    return found


@pytest.mark.parametrize("directions", [0, 1, (3, 0), (2, 1)])
def test_energy_is_half_the_power_mean_of_the_squared_distances(directions):
    synapse = planes(directions=directions, power=3.0, epsilon=0.5)
    gs = [np.random.default_rng(1).normal(size=shape) for shape in ((3, 5), (3, 2))]
    rows = [squared_distances(synapse, *token) for token in zip(*gs, strict=True)]
    expected = sum(0.5 * np.sum((0.5 + row) ** -3.0) ** (-1 / 3) for row in rows)
    np.testing.assert_allclose(jax.jit(lambda *gs: synapse(*gs))(*gs), expected, rtol=1e-12)
    weights = np.array([(0.5 + row) ** -4.0 for row in rows])
    np.testing.assert_allclose(synapse.attribution(*gs), weights / weights.sum(-1, keepdims=True), rtol=1e-10)


def test_force_by_finite_differences():
    synapse = planes()
    g, label = (np.random.default_rng(2).normal(size=n) for n in (5, 2))
    gradient = jax.jit(jax.grad(synapse))(g, label)
    for i, step in enumerate(1e-5 * np.eye(5)):
        slope = (synapse(g + step, label) - synapse(g - step, label)) / 2e-5
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-6, atol=1e-9)


def test_a_far_point_is_projected_on_one_plane_and_stays_where_it_is_on_it():
    synapse = planes((6,), memories=3, directions=2, seed=3, size=3.0, power=20.0, epsilon=1e-3)
    ham = hamux.HAM({"x": hamux.Neurons(hamux.lagr_identity, 6, leak=0.0)}, {"s": synapse}, [(("x",), "s")])
    synapse = eqx.tree_at(lambda synapse: synapse.offset, synapse, jnp.zeros(3))
    along = np.asarray(synapse.b[0][:, 1])
    on_plane = np.asarray(synapse.xi[0][1]) + 0.3 * along[0] - 0.2 * along[1]
    normal = np.linalg.svd(along)[2][-1]
    found = hamux.relax(ham, {"x": jnp.asarray(on_plane + 0.2 * normal)}, tol=1e-10, max_steps=500)
    assert found.converged
    assert np.all(np.diff(found.energies[: int(found.steps) + 1]) <= 1e-12)
    np.testing.assert_allclose(found.xs["x"], on_plane, atol=2e-2)  # others pull a little
    there = hamux.relax(ham, {"x": jnp.asarray(found.xs["x"] + 0.1 * along[0])}, tol=1e-10, max_steps=500)
    assert np.linalg.norm(there.xs["x"] - found.xs["x"]) > 0.05 * np.linalg.norm(along[0])


def test_directions_that_are_zero_or_span_no_plane_are_none():
    points = planes((4,), memories=3, directions=0)
    flat = hamux.PlaneSynapse(jr.key(0), 4, 3, 3).store(*points.xi, offset=points.offset)
    g = np.random.default_rng(1).normal(size=4)
    np.testing.assert_allclose(flat(g), points(g), rtol=1e-12)
    gradient = eqx.filter_grad(lambda synapse: synapse(g))(flat)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    line = np.random.default_rng(2).normal(size=(1, 3, 4))
    once = hamux.PlaneSynapse(jr.key(0), 4, 3, 1).store(*points.xi, along=[line], offset=points.offset)
    twice = hamux.PlaneSynapse(jr.key(0), 4, 3, 3).store(
        *points.xi, along=[np.concatenate([line, -2 * line, 0 * line])], offset=points.offset
    )
    np.testing.assert_allclose(twice(g), once(g), rtol=1e-10)


@given(
    seed=st.integers(0, 2**32 - 1), power=st.floats(0.1, 50), directions=st.integers(0, 3), size=st.floats(0.01, 100)
)
def test_no_step_up_to_one_raises_the_energy(seed, power, directions, size):
    synapse = planes((4,), 5, directions, seed % 1000, size, power=power)
    rng = np.random.default_rng(seed)
    x, dt = jnp.asarray(size * rng.normal(size=4)), rng.uniform(0, 1)
    energy, gradient = jax.value_and_grad(synapse)(x)
    assert synapse(x - dt * gradient) <= energy * (1 + 1e-12) + 1e-12


@pytest.mark.parametrize("along", [None, [np.zeros((1, 3, 4))], [np.zeros((2, 3, 5))], []])
def test_directions_that_do_not_fit_are_refused(along):
    synapse, patterns = hamux.PlaneSynapse(jr.key(0), 4, 5, 2), np.ones((3, 4))
    if along is None:
        np.testing.assert_array_equal(synapse.store(patterns).b[0], np.zeros((2, 3, 4)))
        return
    shapes = [each.shape for each in along]
    with pytest.raises(ValueError, match=re.escape(f"along is of shapes {shapes}; expected [(2, 3, 4)]")):
        synapse.store(patterns, along=along)


def test_an_offset_that_does_not_fit_is_refused():
    synapse = hamux.PlaneSynapse(jr.key(0), 4, 5, 2)
    np.testing.assert_array_equal(synapse.store(np.ones((3, 4)), offset=[1, 2, 3]).offset, [1, 2, 3])
    with pytest.raises(ValueError, match=re.escape("offset is of shape (2,); expected (3,)")):
        synapse.store(np.ones((3, 4)), offset=[1, 2])


def test_an_offset_weakens_a_memory():
    pair = hamux.PlaneSynapse(jr.key(0), 2, 2, 0).store(np.array([[0.0, 0], [1, 0]]))
    weak = pair.store(*pair.xi, offset=[0.0, 1.5])
    assert pair.attribution(np.array([0.6, 0]))[1] > 0.5 > weak.attribution(np.array([0.6, 0]))[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": -1}, "directions is -1; none or more, as an int"),
        ({"directions": 1.5}, "directions is 1.5; an int is expected, or a sequence of them"),
        ({"directions": (1, 2)}, "directions is (1, 2) for 1 layers; expected one number, or one for each"),
        ({"power": 0.0}, "power is 0.0; it must be finite and greater than 0"),
        ({"epsilon": -1.0}, "epsilon is -1.0; it must be finite and greater than 0"),
    ],
)
def test_bad_numbers_of_planes(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hamux.PlaneSynapse(jr.key(0), 4, 3, **options)


def test_subspace_pulls_what_lies_outside_to_the_mean():
    inner = planes((2, 3), directions=0)
    synapse = hamux.SubspaceSynapse(jr.key(1), 5, 2, inner)
    rng = np.random.default_rng(0)
    synapse = eqx.tree_at(lambda synapse: synapse.m, synapse, rng.normal(size=5))
    W, m = np.asarray(synapse.W), np.asarray(synapse.m)
    np.testing.assert_allclose(W @ W.T, np.eye(2), atol=1e-12)
    g, label = rng.normal(size=5), rng.normal(size=3)
    outside = (np.eye(5) - W.T @ W) @ (g - m)
    np.testing.assert_allclose(synapse(g, label), outside @ outside / 2 + inner(W @ (g - m), label), rtol=1e-12)
    np.testing.assert_allclose(synapse.shown(synapse.seen(g)), g - outside, rtol=1e-12)
    by_g = jax.grad(synapse)(g, label)
    np.testing.assert_allclose(by_g, outside + W.T @ jax.grad(inner)(W @ (g - m), label), rtol=1e-10)
    assert synapse.curvature == pytest.approx(1, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0.1, 3))
def test_rows_of_a_subspace_count_by_their_span(seed, size):
    rng = np.random.default_rng(seed)
    inner = planes((2,), directions=1)
    synapse = hamux.SubspaceSynapse(jr.key(0), 4, 2, inner)
    synapse = eqx.tree_at(lambda synapse: synapse.W, synapse, size * rng.normal(size=(2, 4)))
    g = 3 * rng.normal(size=4)
    Q, R = np.linalg.qr(synapse.W.T)
    A = (Q * np.sign(np.diag(R))).T
    outside = g - A.T @ (A @ g)
    np.testing.assert_allclose(synapse(g), outside @ outside / 2 + inner(A @ g), rtol=1e-6)
    np.testing.assert_allclose(synapse.ready()(g), synapse(g), rtol=1e-9)
    assert np.linalg.eigvalsh(jax.hessian(synapse)(g)).max() <= hamux.declared(synapse, "curvature") * (1 + 1e-6)


@pytest.mark.parametrize("components", [0, 6, 2.0])
def test_components_are_from_one_to_the_dim(components):
    with pytest.raises(ValueError, match="components is"):
        hamux.SubspaceSynapse(jr.key(0), 5, components, planes((2,)))


def test_subspace_names_a_layer_that_does_not_fit():
    with pytest.raises(ValueError, match=re.escape("SubspaceSynapse got g of shape (4,); its last axis must be 5")):
        hamux.SubspaceSynapse(jr.key(0), 5, 2, planes((2,)))(np.ones(4))


def test_a_descent_makes_a_synapse_ready_once_and_goes_the_same_way():
    synapse = hamux.SubspaceSynapse(jr.key(0), 6, 4, planes((4, 2), memories=5, directions=(2, 0)))
    neurons = {name: hamux.Neurons(hamux.lagr_identity, dim, leak=0.0) for name, dim in {"x": 6, "y": 2}.items()}
    ham = hamux.HAM(neurons, {"s": synapse}, [(("x", "y"), "s")])
    xs, gs = ham.init_states(key=jr.key(1)), ham.activations(ham.init_states(key=jr.key(1)))
    np.testing.assert_allclose(ham.ready().energy(gs, xs), ham.energy(gs, xs), rtol=1e-12)
    end = hamux.descend(ham, xs, steps=3, dt=0.5)
    for _ in range(3):
        force = ham.dEdg(ham.activations(xs), xs)
        xs = {name: x - 0.5 * force[name] for name, x in xs.items()}
    for name, x in xs.items():
        np.testing.assert_allclose(end.xs[name], x, rtol=1e-10)

    def loss(synapse):
        changed = eqx.tree_at(lambda ham: ham.synapses["s"], ham, synapse)
        return jnp.sum(hamux.descend(changed, ham.init_states(key=jr.key(1)), steps=2, dt=0.5).xs["x"] ** 2)

    by_b = jax.grad(loss)(synapse).synapse.b[0]
    step = 1e-6
    moved = eqx.tree_at(lambda s: s.synapse.b[0], synapse, synapse.synapse.b[0].at[1, 2, 3].add(step))
    np.testing.assert_allclose(by_b[1, 2, 3], (loss(moved) - loss(synapse)) / step, rtol=1e-3)


def test_a_synapse_that_needs_no_work_beforehand_stays_as_it_is():
    bias = hamux.BiasSynapse(jr.key(0), 3)
    ham = hamux.HAM({"x": hamux.Neurons(hamux.lagr_identity, 3)}, {"b": bias}, [(("x",), "b")])
    assert ham.ready() is ham
