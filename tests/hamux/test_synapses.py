"""Hypersynapses against explicit loops over small arrays."""

import itertools
import math
import re
from functools import partial

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial

import hamux


def draw(*shapes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in shapes]


@pytest.fixture(scope="module")
def checked(gradients):
    """The energy of a synapse, its gradient by every parameter and every g held against finite differences."""

    def energy(arguments):
        synapse, gs = arguments
        return synapse(*gs)

    def check(synapse, *gs):
        value, *both = gradients(energy, (synapse, gs))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-7), *both)
        return value

    return check


def with_weights(synapse, **weights):
    for name, value in weights.items():
        value = jax.tree.map(jnp.asarray, value)
        synapse = eqx.tree_at(lambda synapse, name=name: getattr(synapse, name), synapse, value)
    return synapse


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda key: hamux.DenseSynapse(key, 3, 4, 5), [(3, 4, 5)]),
        (lambda key: hamux.BiasSynapse(key, 3), [(3,)]),
        (lambda key: hamux.BiasSynapse(key, (3, 4)), [(3, 4)]),
        (lambda key: hamux.ConvSynapse(key, 4, 3, 2), [(4, 3, 2, 2)]),
        (lambda key: hamux.ConvSynapse(key, 4, 3, (2, 5)), [(4, 3, 2, 5)]),
        (lambda key: hamux.HopfieldSynapse(key, 3, 8, Partial(hamux.lagr_repu, n=3)), [(8, 3)]),
        (lambda key: hamux.KernelSynapse(key, (3, 4), 8, "epanechnikov", beta=2.0), [(8, 3), (8, 4), ()]),
        (lambda key: hamux.PlaneSynapse(key, (3, 4), 8, 2), [(8, 3), (8, 4), (2, 8, 3), (2, 8, 4), (8,)]),
        (lambda key: hamux.SubspaceSynapse(key, 5, 3, hamux.BiasSynapse(key, 3)), [(3, 5), (5,), (3,)]),
        (lambda key: hamux.AttentionSynapse(key, 3, 2, 4), [(2, 4, 3), (2, 4, 3)]),
    ],
)
def test_leaves_are_arrays_and_equal_builds_have_equal_structure(make, shapes):
    first, second = (eqx.filter_eval_shape(make, jr.key(seed)) for seed in (0, 1))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(first)] == [(shape, float) for shape in shapes]


@pytest.mark.parametrize(
    "make",
    [
        lambda key: hamux.DenseSynapse(key, 4, 5),
        lambda key: hamux.BiasSynapse(key, (3, 4)),
        lambda key: hamux.ConvSynapse(key, 3, 2, 3),
        lambda key: hamux.HopfieldSynapse(key, (4, 4), 5),
        lambda key: hamux.KernelSynapse(key, (4, 4), 5).xi,
        lambda key: (lambda synapse: (synapse.xi, synapse.b))(hamux.PlaneSynapse(key, (4, 4), 5, 2)),
        lambda key: hamux.AttentionSynapse(key, 5, 2, 3),
    ],
)
def test_weights_are_drawn_from_the_key(make):
    first, again, other = ([np.asarray(leaf) for leaf in jax.tree.leaves(make(jr.key(seed)))] for seed in (0, 0, 1))
    for leaf, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(leaf, same)
    numbers = np.concatenate([leaf.ravel() for leaf in first + other])
    assert len(np.unique(numbers)) == len(numbers)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=str)
def test_dense_is_a_sum_over_every_pair_of_units_and_tokens(leading, checked):
    W, g1, g2 = draw((4, 5), (*leading, 4), (*leading, 5))
    synapse = with_weights(hamux.DenseSynapse(jr.key(0), 4, 5), W=W)
    expected = -sum(
        W[i, j] * g1[(*token, i)] * g2[(*token, j)]
        for token in np.ndindex(leading)
        for i, j in itertools.product(range(4), range(5))
    )
    np.testing.assert_allclose(checked(synapse, g1, g2), expected, rtol=1e-12)


def test_dense_on_three_layers(checked):
    W, g1, g2, g3 = draw((2, 3, 4), 2, 3, 4)
    synapse = with_weights(hamux.DenseSynapse(jr.key(0), 2, 3, 4), W=W)
    expected = -sum(W[i] * g1[i[0]] * g2[i[1]] * g3[i[2]] for i in np.ndindex(2, 3, 4))
    np.testing.assert_allclose(checked(synapse, g1, g2, g3), expected, rtol=1e-12)


def test_dense_shares_a_layer_without_tokens_among_all_tokens():
    tokens, label = draw((3, 4), 5)
    synapse = hamux.DenseSynapse(jr.key(0), 4, 5)
    np.testing.assert_allclose(synapse(tokens, label), sum(synapse(token, label) for token in tokens), rtol=1e-12)


@pytest.mark.parametrize("shapes", [[(3,), (5,)], [(4,), ()], [(2, 4), (3, 5)]], ids=str)
def test_dense_names_shapes_that_do_not_fit(shapes):
    message = f"DenseSynapse of shape (4, 5) got g's of shapes {shapes}; their last axes must be (4, 5)"
    with pytest.raises(ValueError, match=re.escape(message)):
        hamux.DenseSynapse(jr.key(0), 4, 5)(*draw(*shapes))


def test_dense_counts_its_layers():
    with pytest.raises(ValueError, match=re.escape("DenseSynapse of shape (4, 5) joins 2 layers, got 3 g's")):
        hamux.DenseSynapse(jr.key(0), 4, 5)(*draw(4, 5, 5))


@pytest.mark.parametrize("shape", [4, (4,), (3, 4), (2, 3, 4)], ids=str)
def test_bias_is_shared_by_the_leading_axes(shape, checked):
    synapse, (g,) = hamux.BiasSynapse(jr.key(0), shape), draw((2, 3, 4))
    np.testing.assert_allclose(checked(synapse, g), -np.sum(np.asarray(synapse.b) * g), rtol=1e-12)


@pytest.mark.parametrize("shape", [(4,), (2, 3)], ids=str)
def test_bias_names_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=re.escape(f"BiasSynapse of shape (3, 4) got g of shape {shape}")):
        hamux.BiasSynapse(jr.key(0), (3, 4))(*draw(shape))


HIDDEN = {
    "relu": (hamux.lagr_relu, lambda h: np.sum(np.maximum(h, 0) ** 2) / 2),
    "repu": (Partial(hamux.lagr_repu, n=3.0), lambda h: np.sum(np.maximum(h, 0) ** 3) / 3),
    "exp": (hamux.lagr_exp, lambda h: np.sum(np.exp(h))),
    "softmax": (Partial(hamux.lagr_softmax, beta=2.0), lambda h: np.log(np.sum(np.exp(2 * h))) / 2),
}


@pytest.mark.parametrize(("lagrangian", "value"), HIDDEN.values(), ids=HIDDEN.keys())
@pytest.mark.parametrize("tokens", [(), (3,)], ids=str)
def test_hopfield_sums_the_lagrangian_of_the_overlaps(lagrangian, value, tokens, checked):
    xi, g = draw((5, 4), (*tokens, 4))
    synapse = with_weights(hamux.HopfieldSynapse(jr.key(0), 4, 5, lagrangian), xi=(xi,))
    expected = -sum(value(np.array([memory @ token for memory in xi])) for token in g.reshape(-1, 4))
    np.testing.assert_allclose(checked(synapse, g), expected, rtol=1e-10)


def test_hopfield_is_a_dense_layer_of_relu_neurons_integrated_out():
    """min over hidden g of −h·g + L*(g) is −L(h), at g = ∂L/∂h."""
    (g,) = draw(4)
    synapse, hidden = hamux.HopfieldSynapse(jr.key(0), 4, 5), hamux.Neurons(hamux.lagr_relu, 5)
    dense = with_weights(hamux.DenseSynapse(jr.key(0), 4, 5), W=synapse.xi[0].T)
    h = synapse.xi[0] @ g
    active = hidden.activations(h)
    np.testing.assert_allclose(synapse(g), dense(g, active) + hidden.energy(active, h), rtol=1e-12)


@pytest.mark.parametrize("tokens", [(), (3,)], ids=str)
def test_hopfield_on_two_layers_adds_up_the_overlaps(tokens, checked):
    pixels, labels = draw((*tokens, 4), (*tokens, 2))
    joint = hamux.HopfieldSynapse(jr.key(0), (4, 2), 5)
    single = with_weights(hamux.HopfieldSynapse(jr.key(0), 6, 5), xi=(jnp.concatenate(joint.xi, axis=-1),))
    np.testing.assert_allclose(
        checked(joint, pixels, labels), single(np.concatenate([pixels, labels], axis=-1)), rtol=1e-12
    )


def test_hopfield_learns_the_parameters_of_its_lagrangian():
    synapse = hamux.HopfieldSynapse(jr.key(0), 4, 5, Partial(hamux.lagr_softmax, beta=2.0))
    gradient = jax.jit(jax.grad(lambda synapse: synapse(*draw(4))))(synapse)
    (by_beta,) = jax.tree.leaves(gradient.lagrangian)
    assert abs(by_beta) > 1e-3


@pytest.mark.parametrize("synapse", [hamux.HopfieldSynapse, hamux.KernelSynapse, hamux.PlaneSynapse])
@pytest.mark.parametrize("shapes", [[(3,), (2,)], [(4,)], [(3, 4), (2,)], [(4,), ()]], ids=str)
def test_memories_name_shapes_that_do_not_fit(synapse, shapes):
    message = f"{synapse.__name__} joins 2 layers of dim (4, 2), got {len(shapes)} g's of shapes {shapes}"
    with pytest.raises(ValueError, match=re.escape(message)):
        synapse(jr.key(0), (4, 2), 5)(*draw(*shapes))


@pytest.mark.parametrize(
    "synapse",
    [
        hamux.HopfieldSynapse(jr.key(0), 4, 5),
        hamux.HopfieldSynapse(jr.key(0), 4, 5, Partial(hamux.lagr_softmax, beta=2.0)),
        hamux.KernelSynapse(jr.key(0), 4, 5, beta=0.7),
        hamux.KernelSynapse(jr.key(0), 4, 5, "epanechnikov", beta=0.1),
        hamux.PlaneSynapse(jr.key(0), 4, 5),
    ],
    ids=["relu", "softmax", "gaussian", "epanechnikov", "points"],
)
def test_attribution_is_each_memorys_share_of_the_force(synapse):
    xi, g = map(np.abs, draw((5, 4), (3, 4)))  # so that every memory is felt
    synapse = with_weights(synapse, xi=(xi,))
    attribution, force = jax.jit(lambda g: (synapse.attribution(g), -jax.grad(synapse)(g)))(g)
    assert np.all(np.asarray(attribution) >= 0)
    np.testing.assert_allclose(np.sum(attribution, axis=-1), np.ones(3), rtol=1e-12)
    toward = attribution @ xi - (0 if isinstance(synapse, hamux.HopfieldSynapse) else g)
    for along, pull in zip(np.asarray(toward), np.asarray(force), strict=True):
        np.testing.assert_allclose(pull, along * (pull @ along) / (along @ along), rtol=1e-10)
        assert pull @ along > 0


@pytest.mark.parametrize(
    "synapse",
    [hamux.HopfieldSynapse(jr.key(0), 4, 5), hamux.KernelSynapse(jr.key(0), 4, 5, "epanechnikov", beta=2.0)],
    ids=["relu", "epanechnikov"],
)
def test_attribution_is_even_where_no_memory_is_felt(synapse):
    synapse = with_weights(synapse, xi=(np.ones((5, 4)),))
    np.testing.assert_array_equal(synapse.attribution(np.full(4, -9.0)), np.full(5, 0.2))


def kernel_energy(g, xi, kernel, beta):
    """Distance by distance, without the expansion of the square."""
    energy = 0.0
    for token in g.reshape(-1, g.shape[-1]):
        distances = [beta / 2 * math.dist(token, memory) ** 2 for memory in xi]
        if kernel == "gaussian":
            energy -= math.log(sum(math.exp(-u) for u in distances)) / beta
        else:
            energy -= math.log(1e-6 + sum(max(1 - u, 0) for u in distances)) / beta
    return energy


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
@pytest.mark.parametrize("tokens", [(), (3,)], ids=str)
def test_kernel_compares_by_distance(kernel, tokens, checked):
    xi, g = draw((5, 4), (*tokens, 4))
    synapse = with_weights(hamux.KernelSynapse(jr.key(0), 4, 5, kernel, beta=0.2), xi=(xi,))
    np.testing.assert_allclose(checked(synapse, g), kernel_energy(g, xi, kernel, 0.2), rtol=1e-10)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_kernel_on_two_layers_adds_up_the_distances(kernel):
    pixels, labels = draw((3, 4), (3, 2))
    joint = hamux.KernelSynapse(jr.key(0), (4, 2), 5, kernel, beta=0.2)
    xi = np.concatenate(joint.xi, axis=-1)
    both = np.concatenate([pixels, labels], axis=-1)
    np.testing.assert_allclose(joint(pixels, labels), kernel_energy(both, xi, kernel, 0.2), rtol=1e-10)


def test_epanechnikov_has_its_minima_exactly_at_the_memories():
    beta = 2.0
    xi = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 1]])
    synapse = with_weights(hamux.KernelSynapse(jr.key(0), 3, 3, "epanechnikov", beta), xi=(xi,))
    directions = draw((20, 3))[0]
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    energy = jax.jit(jax.value_and_grad(synapse))
    for memory in xi:
        least, gradient = energy(memory)
        np.testing.assert_allclose(gradient, 0, atol=1e-15)
        assert all(energy(memory + 0.01 * direction)[0] > least for direction in directions)


def test_epanechnikov_is_flat_and_finite_far_away():
    synapse = hamux.KernelSynapse(jr.key(0), 3, 4, "epanechnikov", beta=2.0)
    far = np.full(3, 100.0)
    energy, gradient = jax.jit(jax.value_and_grad(synapse))(far)
    np.testing.assert_allclose(energy, -math.log(1e-6) / 2, rtol=1e-12)
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_gaussian_step_is_the_softmax_of_the_distances():
    xi, g = draw((5, 4), 4)
    synapse = with_weights(hamux.KernelSynapse(jr.key(0), 4, 5, beta=0.7), xi=(xi,))
    weights = np.exp([-0.35 * math.dist(g, memory) ** 2 for memory in xi])
    np.testing.assert_allclose(g - jax.jit(jax.grad(synapse))(g), weights / weights.sum() @ xi, rtol=1e-10)


def test_kernel_knows_two_kernels():
    with pytest.raises(ValueError, match='kernel is \'box\'; it is "gaussian" or "epanechnikov"'):
        hamux.KernelSynapse(jr.key(0), 3, 4, "box")


@pytest.mark.parametrize("beta", [None, 0.9])
def test_attention_is_a_log_sum_over_keys_for_every_head_and_query(beta, checked):
    heads, size, tokens, dim = 2, 3, 4, 5
    Wk, Wq, g = draw((heads, size, dim), (heads, size, dim), (tokens, dim))
    synapse = with_weights(hamux.AttentionSynapse(jr.key(0), dim, heads, size, beta), Wk=Wk, Wq=Wq)
    b = beta or 1 / math.sqrt(size)
    expected = 0.0
    for h, q in itertools.product(range(heads), range(tokens)):
        scores = [b * (Wk[h] @ g[k]) @ (Wq[h] @ g[q]) for k in range(tokens)]
        expected -= math.log(sum(math.exp(score) for score in scores)) / b
    np.testing.assert_allclose(checked(synapse, g), expected, rtol=1e-10)


def test_attention_does_not_know_the_order_of_tokens():
    synapse = with_weights(hamux.AttentionSynapse(jr.key(0), 5, 2, 3), Wk=draw((2, 3, 5))[0])
    (g,), order = draw((4, 5)), np.array([2, 0, 3, 1])
    energy = jax.jit(jax.value_and_grad(synapse))
    np.testing.assert_allclose(energy(g[order])[0], energy(g)[0], rtol=1e-12)
    np.testing.assert_allclose(energy(g[order])[1], np.asarray(energy(g)[1])[order], rtol=1e-10)


@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 4, 5), (0, 5)], ids=str)
def test_attention_names_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=re.escape(f"AttentionSynapse got g of shape {shape}, expected (tokens, 5)")):
        hamux.AttentionSynapse(jr.key(0), 5, 2, 3)(*draw(shape))


def test_a_token_may_be_kept_from_attending_to_itself(checked):
    Wk, Wq, g = draw((2, 3, 5), (2, 3, 5), (4, 5))
    synapse = with_weights(hamux.AttentionSynapse(jr.key(0), 5, 2, 3, beta=0.7, attend_self=False), Wk=Wk, Wq=Wq)
    expected = 0.0
    for head, query in itertools.product(range(2), range(4)):
        scores = [0.7 * (Wk[head] @ g[key]) @ (Wq[head] @ g[query]) for key in range(4) if key != query]
        expected -= np.log(np.sum(np.exp(scores))) / 0.7
    np.testing.assert_allclose(checked(synapse, g), expected, rtol=1e-12)
    weights = synapse.attention(g)
    np.testing.assert_array_equal(np.diagonal(weights, axis1=1, axis2=2), 0)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="one token, which may not attend to itself"):
        synapse(g[:1])


@pytest.mark.slow
@hypothesis.given(
    tokens=st.integers(2, 12),
    at_once=st.integers(1, 300),
    attend_self=st.booleans(),
    size=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
@hypothesis.settings(max_examples=8)
def test_the_closed_form_in_blocks_is_autograd(tokens, at_once, attend_self, size, seed):
    Wk, Wq, g, direction = draw((2, 3, 5), (2, 3, 5), (tokens, 5), (tokens, 5), seed=seed)
    plain = hamux.AttentionSynapse(jr.key(0), 5, 2, 3, attend_self=attend_self, closed_form=False)
    closed = hamux.AttentionSynapse(jr.key(0), 5, 2, 3, attend_self=attend_self, at_once=at_once)
    plain, closed = (with_weights(synapse, Wk=size * Wk, Wq=Wq) for synapse in (plain, closed))

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # it runs once
    def derivatives(synapse):
        """Energy and gradient; the gradient's own, in reverse by all and forward by g; and gradients of a batch."""

        def along(synapse, g):
            return jnp.vdot(jax.grad(synapse.__call__)(g), direction)

        first = jax.value_and_grad(lambda synapse, g: synapse(g), argnums=(0, 1))(synapse, g)
        second = jax.grad(along, argnums=(0, 1))(synapse, g)
        forward = jax.jvp(jax.grad(synapse.__call__), (g,), (direction,))[1]
        return first, second, forward, jax.vmap(jax.grad(synapse.__call__))(jnp.stack([g, direction]))

    found, expected = (jax.tree.leaves(derivatives(synapse)) for synapse in (closed, plain))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9 * np.abs(other).max())


def test_memory_for_attention_in_blocks_grows_with_the_tokens():
    def temporary_bytes(tokens, **options):
        synapse = hamux.AttentionSynapse(jr.key(0), 8, 2, 4, **options)
        compiled = jax.jit(jax.grad(synapse)).lower(jnp.zeros((tokens, 8))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = (temporary_bytes(tokens, at_once=2**15) for tokens in (512, 2048))
    assert many < 5 * few
    assert many < temporary_bytes(2048, closed_form=False) / 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_once": 0}, "at_once is 0; at least one score is held at a time"),
        ({"beta": 0.0}, "beta is 0.0; it must be finite and greater than 0"),
        ({"heads": 0}, "heads is 0; at least one"),
        ({"head_dim": 2.5}, "head_dim is 2.5; at least one"),
    ],
    ids=str,
)
def test_attention_of_bad_numbers_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hamux.AttentionSynapse(jr.key(0), 5, **({"heads": 2, "head_dim": 3} | options))


@pytest.mark.parametrize("kind", [hamux.HopfieldSynapse, hamux.KernelSynapse, hamux.PlaneSynapse])
def test_patterns_are_stored_as_they_are(kind):
    images, labels = draw((5, 3), (5, 4))
    synapse = kind(jr.key(0), (3, 4), 1).store(images, labels)
    np.testing.assert_array_equal(synapse.xi[0], images)
    np.testing.assert_array_equal(synapse.xi[1], labels)
    assert synapse.attribution(images[2], labels[2]).argmax() == 2
    for wrong in ((images,), (images[0], labels[0]), (images, images), (images, labels[:4]), (images[:0], labels[:0])):
        with pytest.raises(ValueError, match=r"patterns are of shapes .*stores \(memories, 3\) and \(memories, 4\)"):
            synapse.store(*wrong)


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: hamux.HopfieldSynapse(jr.key(0), 4, 3, Partial(hamux.lagr_softmax, beta=3e9)), [(4,)]),
        (lambda: hamux.KernelSynapse(jr.key(0), 4, 3, beta=3e9), [(4,)]),
        (lambda: hamux.KernelSynapse(jr.key(0), 4, 3, "epanechnikov", beta=3e9), [(4,)]),
        (lambda: hamux.PlaneSynapse(jr.key(0), 4, 3, 1, power=3e3), [(4,)]),
        (lambda: hamux.PoolSynapse((2,), pool="max", beta=3e9), [(4, 2), (2, 2)]),
        (lambda: hamux.AttentionSynapse(jr.key(0), 4, 2, 3, beta=3e9), [(5, 4)]),
        (lambda: hamux.AttentionSynapse(jr.key(0), 4, 2, 3, beta=3e9, attend_self=False, at_once=7), [(5, 4)]),
        (lambda: hamux.AttentionSynapse(jr.key(0), 4, 2, 3, beta=3e9, closed_form=False), [(5, 4)]),
    ],
    ids=[
        "hopfield",
        "gaussian",
        "epanechnikov",
        "planes",
        "pool",
        "attention",
        "attention in blocks",
        "attention by autograd",
    ],
)
@pytest.mark.parametrize("size", [1.0, 1e3, 1e9, 1e15])
def test_finite_and_the_same_eager_and_jitted_at_extreme_scores(make, shapes, size):
    synapse = jax.tree.map(lambda leaf: (30 * leaf if leaf.ndim else leaf).astype(jnp.float32), make())
    gs = [jnp.asarray(size * g, jnp.float32) for g in draw(*shapes)]
    both = jax.value_and_grad(lambda gs: synapse(*gs))
    value, gradient = jax.jit(both)(gs)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    exact = jax.tree.map(lambda leaf: leaf.astype(float), synapse)(*(g.astype(float) for g in gs))
    scale = size**2 if isinstance(synapse, hamux.KernelSynapse | hamux.PlaneSynapse | hamux.AttentionSynapse) else size
    for found in (value, both(gs)[0]):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, np.array], ids=str)
def test_integers_of_numpy(integer):
    """Wherever an int is taken, and lists of them where several are."""
    i, key = integer, jr.key(0)
    for synapse, plain in [
        (hamux.DenseSynapse(key, i(2), i(3), i(4)), hamux.DenseSynapse(key, 2, 3, 4)),
        (hamux.BiasSynapse(key, i(2)), hamux.BiasSynapse(key, 2)),
        (hamux.BiasSynapse(key, [i(2), 3]), hamux.BiasSynapse(key, (2, 3))),
        (hamux.HopfieldSynapse(key, i(2), i(3)), hamux.HopfieldSynapse(key, 2, 3)),
        (hamux.HopfieldSynapse(key, np.array([2, 3]), i(3)), hamux.HopfieldSynapse(key, (2, 3), 3)),
        (hamux.KernelSynapse(key, [i(2), i(3)], i(3)), hamux.KernelSynapse(key, (2, 3), 3)),
        (hamux.PlaneSynapse(key, [i(2), i(3)], i(3), i(1)), hamux.PlaneSynapse(key, (2, 3), 3, 1)),
        (hamux.AttentionSynapse(key, i(4), i(2), i(2), at_once=i(9)), hamux.AttentionSynapse(key, 4, 2, 2, at_once=9)),
        (
            hamux.ConvSynapse(key, i(4), i(2), i(3), [i(1), 2], [[i(1), 1], (0, i(0))], i(1), i(2)),
            hamux.ConvSynapse(key, 4, 2, 3, (1, 2), ((1, 1), (0, 0)), 1, 2),
        ),
        (hamux.ConvHopfieldSynapse(key, i(4), i(2), i(3)), hamux.ConvHopfieldSynapse(key, 4, 2, 3)),
        (hamux.PoolSynapse(i(2), np.array([1, 2])), hamux.PoolSynapse(2, (1, 2))),
    ]:
        assert jax.tree.structure(synapse) == jax.tree.structure(plain)
        assert repr(jax.tree.structure(synapse)) == repr(jax.tree.structure(plain))
        assert jax.tree.map(jnp.shape, synapse) == jax.tree.map(jnp.shape, plain)
