"""What recalls end in: memories, blends, flat places, saddles."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from test_adjoints import HAMS, states

import hamux

KEY = jr.key(0)
CORNERS = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])


def memory(synapse, leak, patterns=CORNERS):
    layer = hamux.Neurons(hamux.lagr_identity, 2, leak=leak)
    return hamux.HAM({"x": layer}, {"memory": synapse.store(patterns)}, [(("x",), "memory")])


def softmax(beta):
    return memory(hamux.HopfieldSynapse(KEY, 2, 3, Partial(hamux.lagr_softmax, beta=beta)), 1.0)


def epanechnikov(beta):
    return memory(hamux.KernelSynapse(KEY, 2, 3, "epanechnikov", beta=beta), 0.0)


def judged(ham, x, **options):
    out = hamux.relax(ham, {"x": jnp.asarray(x, float)}, tol=1e-9, max_steps=5000)
    return hamux.verdict(ham, out, **options)


def test_a_memory_and_how_near_it_is():
    found = judged(softmax(6.0), [0.9, 0.1])
    assert found.outcome == hamux.Outcome.memory
    assert int(found.nearest) == 0
    assert float(found.weights[0]) > 0.9
    assert 0 < float(found.distance) < 0.1
    np.testing.assert_allclose(found.weights.sum(), 1)


def test_a_blend_and_its_weights():
    """At a high temperature the only minimum is near the mean of all patterns; in reach of two, it is their mean."""
    found = judged(softmax(0.5), [0.9, 0.1])
    assert found.outcome == hamux.Outcome.blend
    assert np.all(found.weights > 0.2)
    found = judged(epanechnikov(3.0), [0.49, 0.51])
    assert found.outcome == hamux.Outcome.blend
    np.testing.assert_allclose(found.weights, [0.5, 0.5, 0])
    assert float(found.distance) == pytest.approx(np.sqrt(0.5))


def test_outside_of_all_memories():
    found = judged(epanechnikov(3.0), [5.0, 5.0])
    assert found.outcome == hamux.Outcome.outside
    assert float(found.curvature) == 0
    np.testing.assert_array_equal(found.weights, 0)
    assert "flat" in hamux.Outcome[found.outcome]


def test_a_saddle_between_two_memories():
    """By symmetry the descent stays between them."""
    synapse = hamux.HopfieldSynapse(KEY, 2, 2, Partial(hamux.lagr_softmax, beta=9.0))
    found = judged(memory(synapse, 1.0, CORNERS[::2]), [0.0, -3.0])
    assert found.outcome == hamux.Outcome.no_minimum
    assert float(found.curvature) < -1


def test_a_flat_direction_is_no_minimum_and_a_bowl_is_one():
    once = jnp.diag(jnp.array([1.0, 0.5]))
    layers = {name: hamux.Neurons(hamux.lagr_identity, 2) for name in "ab"}
    ham = hamux.HAM(layers, {"s": hamux.DenseSynapse(KEY, 2, 2)}, [(("a", "b"), "s")])
    for W, outcome, curvature in (
        (once, hamux.Outcome.no_minimum, 0.0),
        (0.5 * once, hamux.Outcome.minimum, 0.5),
        (2 * once, hamux.Outcome.no_minimum, -1.0),
    ):
        same = jax.tree.map(lambda _, W=W: W, ham)
        out = hamux.relax(same, same.init_states())
        found = hamux.verdict(same, out)
        assert found.outcome == outcome
        assert float(found.curvature) == pytest.approx(curvature, abs=1e-6)
        assert found.weights is None


@pytest.mark.parametrize("name", ["identity", "tanh", "relu", "leak 3", "tanh and softmax", "layernorm"])
def test_the_curvature_is_the_least_eigenvalue_in_the_metric_of_the_activations(name):
    ham, clamp = HAMS[name]
    out = hamux.relax(ham, states(ham), tol=1e-10, max_steps=3000, clamp=clamp)
    flat, unravel = ravel_pytree(out.xs)
    free = np.concatenate(
        [~np.asarray(clamp.get(layer, np.zeros(x.shape, bool))).ravel() for layer, x in out.xs.items()]
    )

    def force(x):
        xs = unravel(x)
        return ravel_pytree(ham.dEdg(ham.activations(xs), xs))[0]

    H = np.asarray(jax.jacobian(lambda x: ravel_pytree(ham.activations(unravel(x)))[0])(flat))[np.ix_(free, free)]
    HF = H @ np.asarray(jax.jacobian(force)(flat))[np.ix_(free, free)]
    values, vectors = np.linalg.eigh(H)
    shown = vectors[:, values > 1e-9 * values.max()]
    exact = scipy.linalg.eigvalsh(shown.T @ HF @ shown, shown.T @ H @ shown)[0]
    assert float(hamux.verdict(ham, out, clamp=clamp).curvature) == pytest.approx(exact, rel=1e-5, abs=1e-6)


def test_a_batch_with_masks_of_its_own():
    ham = softmax(6.0)
    xs = {"x": jnp.array([[0.9, 0.1], [0.1, 0.9], [0.0, -3.0]])}
    clamp = {"x": jnp.array([[False, True], [False, False], [True, True]])}
    out = hamux.relax(ham.vectorize(), xs, tol=1e-9, clamp=clamp)
    found = hamux.verdict(ham.vectorize(), out, clamp=clamp)
    for i in range(3):
        alone = hamux.verdict(
            ham, hamux.relax(ham, {"x": xs["x"][i]}, tol=1e-9, clamp={"x": clamp["x"][i]}), clamp={"x": clamp["x"][i]}
        )
        assert alone.outcome == jax.tree.map(lambda value, i=i: value[i], found.outcome)
        np.testing.assert_allclose(found.curvature[i], alone.curvature, atol=1e-6)
        np.testing.assert_allclose(found.weights[i], alone.weights, atol=1e-8)
    assert np.isinf(found.curvature[2])


def test_bad_arguments():
    ham = softmax(6.0)
    out = hamux.relax(ham, {"x": CORNERS[0]})
    with pytest.raises(ValueError, match="share is 0"):
        hamux.verdict(ham, out, share=0)
    with pytest.raises(ValueError, match="tol is -1"):
        hamux.verdict(ham, out, tol=-1)
    with pytest.raises(ValueError, match=r"clamp.*y"):
        hamux.verdict(ham, out, clamp={"y": True})
