"""Questions about landscapes whose answers are known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial

import hamux
from hamux import Neurons

PATTERNS = np.random.default_rng(0).choice([-1.0, 1.0], (4, 32))


def memory(beta, patterns=PATTERNS):
    """The modern Hopfield network over ±1 patterns."""
    lagrangian = Partial(hamux.lagr_softmax, beta=beta)
    synapse = hamux.HopfieldSynapse(jr.key(0), patterns.shape[1], 1, lagrangian).store(patterns)
    neurons = {"x": Neurons(hamux.lagr_identity, patterns.shape[1])}
    return hamux.HAM(neurons, {"s": synapse}, [(("x",), "s")])


def flip(key, xs, share):
    """A share of the signs of `x` turned."""
    turned = jr.uniform(key, xs["x"].shape) < share
    return xs | {"x": jnp.where(turned, -xs["x"], xs["x"])}


def noisy(count, seed=0):
    noise = 0.1 * np.random.default_rng(seed).normal(size=(count, *PATTERNS.shape))
    return {"x": jnp.asarray((PATTERNS + noise).reshape(-1, 32))}


def test_each_memory_is_a_fixed_point_at_low_temperature():
    found = hamux.fixed_points(memory(8.0), noisy(3), memories={"x": PATTERNS})
    assert found.converged.all()
    np.testing.assert_array_equal(found.first, [0, 1, 2, 3] * 3)
    np.testing.assert_array_equal(found.memory, [0, 1, 2, 3] * 3)
    assert found.distinct.sum() == 4
    assert not found.spurious.any()
    np.testing.assert_allclose(found.xs["x"][found.distinct], PATTERNS, atol=1e-2)
    ham = memory(8.0)
    xs = {"x": found.xs["x"][5]}
    np.testing.assert_allclose(found.energies[5], ham.energy(ham.activations(xs), xs), rtol=1e-12)


def test_their_mean_is_the_one_spurious_state_at_high_temperature():
    found = hamux.fixed_points(memory(0.01), noisy(1), memories={"x": PATTERNS}, max_steps=5000)
    assert found.distinct.sum() == 1
    assert found.spurious.all()
    np.testing.assert_allclose(found.xs["x"][0], PATTERNS.mean(axis=0), atol=0.1)


def test_what_has_not_converged_is_no_fixed_point():
    found = hamux.fixed_points(memory(0.01), noisy(1), memories={"x": PATTERNS}, max_steps=1)
    assert not found.converged.any()
    assert not found.distinct.any()
    assert not found.spurious.any()


def test_a_start_that_has_not_converged_hides_none_that_has():
    settled = hamux.relax(memory(8.0), {"x": PATTERNS[0]}, tol=1e-9).xs["x"]
    found = hamux.fixed_points(
        memory(8.0), {"x": jnp.stack([settled + 0.05, settled])}, max_steps=1, method=hamux.Explicit(0.1)
    )
    np.testing.assert_array_equal(found.converged, [False, True])
    np.testing.assert_array_equal(found.first, [1, 1])
    np.testing.assert_array_equal(found.distinct, [False, True])


def test_spurious_asks_for_memories():
    with pytest.raises(ValueError, match="give them to fixed_points"):
        hamux.fixed_points(memory(8.0), noisy(1)).spurious  # noqa: B018


def test_the_basin_of_a_memory():
    """All come back from no damage, none from the opposite pattern; in between, fewer the more is damaged."""
    levels = np.array([0.0, 0.1, 0.3, 0.5, 1.0])
    shares = hamux.basin(memory(8.0), {"x": PATTERNS[1]}, flip, levels, key=jr.key(0), copies=50)
    assert shares.shape == (5,)
    assert shares[0] == 1
    assert shares[1] == 1
    assert 0 < shares[3] < 0.9
    assert shares[4] == 0
    assert np.all(np.diff(shares) <= 0)
    again = hamux.basin(memory(8.0), {"x": PATTERNS[1]}, flip, levels, key=jr.key(0), copies=50)
    np.testing.assert_array_equal(shares, again)
    held = hamux.basin(
        memory(8.0), {"x": PATTERNS[1]}, flip, levels, key=jr.key(0), copies=5, clamp={"x": np.ones(32, bool)}
    )
    np.testing.assert_array_equal(held, [1, 0, 0, 0, 0])


def test_energies_on_a_line_and_on_a_plane():
    ham = memory(1.0)
    energy = jax.jit(lambda x: ham.energy(ham.activations({"x": x}), {"x": x}))
    a, b, c = ({"x": jnp.asarray(p)} for p in PATTERNS[:3])
    line = hamux.energy_between(ham, a, b, points=5)
    expected = [energy(PATTERNS[0] + t * (PATTERNS[1] - PATTERNS[0])) for t in np.linspace(0, 1, 5)]
    np.testing.assert_allclose(line, expected, rtol=1e-12)
    assert np.max(line) > max(line[0], line[-1])  # a barrier
    s, t = np.array([-0.5, 0.3]), np.array([0.0, 1.0, 2.0])
    plane = hamux.energy_plane(ham.vectorize(), a, b, c, s, t)
    for i, j in np.ndindex(3, 2):
        point = PATTERNS[0] + s[j] * (PATTERNS[1] - PATTERNS[0]) + t[i] * (PATTERNS[2] - PATTERNS[0])
        np.testing.assert_allclose(plane[i, j], energy(point), rtol=1e-12)
    points = np.stack(
        [
            PATTERNS[0] + u * (PATTERNS[1] - PATTERNS[0]) + v * (PATTERNS[2] - PATTERNS[0])
            for u, v in [(0.2, 3), (-1, 0.5)]
        ]
    )
    np.testing.assert_allclose(hamux.plane_coordinates(a, b, c, {"x": points}), [(0.2, 3), (-1, 0.5)], atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda function: function, eqx.filter_jit], ids=["eager", "jitted"])
def test_of_nothing(wrap):
    """Without starts, memories or levels there is nothing to find; a share of no copies is refused."""
    none, some = {"x": jnp.zeros((0, 32))}, {"x": PATTERNS}
    find = wrap(lambda xs, memories: hamux.fixed_points(memory(8.0), xs, memories=memories))
    found = find(none, some)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(found)} == {0}
    assert found.distinct.sum() == found.spurious.sum() == 0
    np.testing.assert_array_equal(find(some, none).memory, -1)
    assert wrap(lambda: hamux.basin(memory(8.0), {"x": PATTERNS[0]}, flip, [], key=jr.key(0)))().shape == (0,)
    with pytest.raises(ValueError, match="copies is 0; a share needs at least one copy"):
        hamux.basin(memory(8.0), {"x": PATTERNS[0]}, flip, [0.1], key=jr.key(0), copies=0)
    assert hamux.plane_coordinates(*({"x": p} for p in PATTERNS[:3]), none).shape == (0, 2)


def test_states_that_do_not_fit():
    with pytest.raises(ValueError, match='the state of "x" has shape'):
        hamux.energy_between(memory(1.0), {"x": jnp.zeros(3)}, {"x": jnp.zeros(3)})
    with pytest.raises(ValueError, match='the state of "x" has shape'):
        hamux.fixed_points(memory(1.0), {"x": jnp.zeros(32)})
