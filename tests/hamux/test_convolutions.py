"""Hypersynapses of windows against matrices and windows that are built entry by entry."""

import itertools
import math
import re

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


def value_and_gradient(synapse, *gs):
    once = {"xla_backend_optimization_level": 0}  # it runs once
    return jax.jit(jax.value_and_grad(lambda *gs: synapse(*gs), argnums=(0, 1)), compiler_options=once)(*gs)


def places(size, taps, stride, padding, dilation):
    """Along one axis: of every window the place in the layer of every tap, None beyond the layer."""
    extent = (taps - 1) * dilation + 1
    if padding == "SAME":
        count = math.ceil(size / stride)
        before = max((count - 1) * stride + extent - size, 0) // 2
    else:
        before, after = (0, 0) if padding == "VALID" else padding
        count = (before + size + after - extent) // stride + 1
    starts = [i * stride - before for i in range(count)]
    return [[p if 0 <= (p := start + tap * dilation) < size else None for tap in range(taps)] for start in starts]


def all_places(sizes, shape, strides, padding, dilation):
    """window -> tap -> place, each a tuple of indices; without taps beyond the layer."""
    each = [padding] * len(sizes) if isinstance(padding, str) else padding
    axes = [places(*numbers) for numbers in zip(sizes, shape, strides, each, dilation, strict=True)]
    windows = {}
    for window in itertools.product(*(range(len(axis)) for axis in axes)):
        taps = {
            tap: tuple(axis[i][t] for axis, i, t in zip(axes, window, tap, strict=True))
            for tap in itertools.product(*map(range, shape))
        }
        windows[window] = {tap: place for tap, place in taps.items() if None not in place}
    return windows


def convolution_matrix(W, groups, sizes, windows):
    """(*counts, out, *sizes, in)"""
    out, part, *_ = W.shape
    counts = tuple(np.max(list(windows), axis=0) + 1)
    matrix = np.zeros((*counts, out, *sizes, part * groups))
    for window, taps in windows.items():
        for (tap, place), o, i in itertools.product(taps.items(), range(out), range(part)):
            matrix[(*window, o, *place, o // (out // groups) * part + i)] += W[(o, i, *tap)]
    return matrix


@st.composite
def geometries(draw):
    axes = draw(st.integers(1, 3))
    each = st.tuples(*[st.integers(1, 3)] * axes)
    shape, strides, dilation = draw(each), draw(each), draw(st.tuples(*[st.integers(1, 2)] * axes))
    pairs = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * axes)
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), pairs))
    extents = [(taps - 1) * step + 1 for taps, step in zip(shape, dilation, strict=True)]
    sizes = tuple(extent + draw(st.integers(0, 2)) for extent in extents)
    return sizes, shape, strides, padding, dilation


@hypothesis.given(geometry=geometries(), groups=st.integers(1, 2), use_bias=st.booleans(), seed=st.integers(0, 2**16))
@hypothesis.settings(max_examples=12)
def test_conv_is_a_matrix_and_what_jax_has(geometry, groups, use_bias, seed):
    sizes, shape, strides, padding, dilation = geometry
    synapse = hamux.ConvSynapse(jr.key(seed), 4, 2, shape, strides, padding, dilation, groups, use_bias)
    matrix = convolution_matrix(np.asarray(synapse.W), groups, sizes, all_places(*geometry))
    axes = len(sizes)
    counts = matrix.shape[:axes]
    g1, g2 = draw((*sizes, 2), (*counts, 4), seed=seed)
    expected = np.tensordot(matrix, g1, axes + 1)
    energy, (into_1, into_2) = value_and_gradient(synapse, g1, g2)
    np.testing.assert_allclose(energy, -np.vdot(g2, expected), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(-into_2, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(-into_1, np.tensordot(g2, matrix, axes + 1), rtol=1e-9, atol=1e-12)
    spatial = "DHW"[-axes:]
    convolved = jax.lax.conv_general_dilated(
        jnp.asarray(g1)[None],
        synapse.W,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{spatial}C", f"OI{spatial}", f"N{spatial}C"),
        feature_group_count=groups,
    )
    np.testing.assert_allclose(convolved[0], expected, rtol=1e-9, atol=1e-12)


@hypothesis.given(geometry=geometries(), beta=st.sampled_from([None, 0.5, 50.0]), seed=st.integers(0, 2**16))
@hypothesis.settings(max_examples=12)
def test_pools_are_the_mean_and_the_smooth_maximum_of_each_window(geometry, beta, seed):
    sizes, shape, strides, padding, _ = geometry
    if not isinstance(padding, str):  # no window may lie in it wholly
        padding = tuple(tuple(min(pad, taps - 1) for pad in pads) for pads, taps in zip(padding, shape, strict=True))
    windows = all_places(sizes, shape, strides, padding, [1] * len(sizes))
    hypothesis.assume(all(windows.values()))
    options = {} if beta is None else {"pool": "max", "beta": beta}
    synapse = hamux.PoolSynapse(shape, strides, padding, **options)
    counts = tuple(np.max(list(windows), axis=0) + 1)
    g1, g2 = draw((*sizes, 2), (*counts, 2), seed=seed)
    pooled, into_1 = np.zeros(g2.shape), np.zeros(g1.shape)
    for window, taps in windows.items():
        values = np.stack([g1[place] for place in taps.values()])
        if beta is None:
            pooled[window], shares = values.mean(axis=0), np.full(values.shape, 1 / len(values))
        else:
            shares = np.exp(beta * (values - values.max(axis=0)))
            pooled[window] = values.max(axis=0) + np.log(shares.sum(axis=0)) / beta
            shares = shares / shares.sum(axis=0)
        for place, share in zip(taps.values(), shares, strict=True):
            into_1[place] += share * g2[window]
    energy, found = value_and_gradient(synapse, g1, g2)
    np.testing.assert_allclose(energy, -np.vdot(pooled, g2), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(-found[1], pooled, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(-found[0], into_1, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "lagrangian", [hamux.lagr_relu, Partial(hamux.lagr_softmax, beta=2.0)], ids=["relu", "softmax"]
)
def test_a_convolutional_memory_is_its_hidden_layer_integrated_out(lagrangian):
    options = {"dilation": 2, "groups": 2, "use_bias": True}
    conv = hamux.ConvSynapse(jr.key(0), 4, 2, 2, 2, **options)
    memory = hamux.ConvHopfieldSynapse(jr.key(0), 4, 2, 2, 2, **options, lagrangian=lagrangian)
    bias, g, zero = *draw(4, (6, 5, 2)), jnp.zeros((3, 3, 4))
    conv, memory = (with_bias(synapse, jnp.asarray(bias)) for synapse in (conv, memory))
    hidden = -jax.grad(conv, argnums=1)(g, zero)  # its input from g, at which it rests
    np.testing.assert_allclose(memory(g), -lagrangian(hidden), rtol=1e-12)
    together = conv(g, jax.grad(lagrangian)(hidden))
    np.testing.assert_allclose(jax.grad(memory)(g), jax.grad(lambda g: conv(g, jax.grad(lagrangian)(hidden)))(g))
    legendre = jnp.vdot(hidden, jax.grad(lagrangian)(hidden)) - lagrangian(hidden)
    np.testing.assert_allclose(together + legendre, memory(g), rtol=1e-10)


def with_bias(synapse, bias):
    return eqx.tree_at(lambda synapse: getattr(synapse, "convolution", synapse).b, synapse, bias)


@pytest.mark.parametrize(
    ("synapse", "shapes"),
    [
        (hamux.ConvSynapse(jr.key(0), 4, 2, (3, 2), 2, dilation=2, groups=2, use_bias=True), [(7, 6, 2), (4, 3, 4)]),
        (hamux.ConvHopfieldSynapse(jr.key(0), 3, 2, 3, lagrangian=Partial(hamux.lagr_softmax, beta=2.0)), [(4, 4, 2)]),
        (hamux.PoolSynapse(2), [(4, 5, 2), (2, 2, 2)]),
        (hamux.PoolSynapse(3, 2, "SAME", "max", beta=3.0), [(5, 4, 2), (3, 2, 2)]),
    ],
    ids=["conv", "conv memory", "average", "max"],
)
def test_the_gradient_by_parameters_and_by_g_is_that_of_finite_differences(synapse, shapes, gradients):
    gs = draw(*shapes)
    _, by_autograd, by_differences = gradients(lambda both: both[0](*both[1]), (synapse, gs))
    for one, other in zip(jax.tree.leaves(by_autograd), jax.tree.leaves(by_differences), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)
        assert np.abs(one).max() > 0


def test_energies_do_not_depend_on_the_batch():
    neurons = {
        "image": hamux.Neurons(hamux.lagr_identity, (6, 6, 2)),
        "parts": hamux.Neurons(hamux.lagr_tanh, (6, 6, 4)),
        "pooled": hamux.Neurons(hamux.lagr_tanh, (3, 3, 4)),
    }
    synapses = {
        "conv": hamux.ConvSynapse(jr.key(0), 4, 2, 3, groups=2, use_bias=True),
        "pool": hamux.PoolSynapse(2, pool="max", beta=2.0),
        "memory": hamux.ConvHopfieldSynapse(jr.key(1), 5, 4, 2),
    }
    connections = [(("image", "parts"), "conv"), (("parts", "pooled"), "pool"), (("pooled",), "memory")]
    ham = hamux.HAM(neurons, synapses, connections)
    xs = ham.vectorize().init_states(3, key=jr.key(2))
    together = hamux.relax(ham.vectorize(), xs)
    assert together.converged.all()
    for i in range(3):
        alone = hamux.relax(ham, jax.tree.map(lambda x, i=i: x[i], xs))
        np.testing.assert_allclose(alone.energies[alone.steps], together.energies[i, together.steps[i]], rtol=1e-10)
        assert np.all(np.diff(together.energies[i]) <= 1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda *windows: hamux.ConvSynapse(jr.key(0), 4, 4, *windows), "ConvSynapse makes"),
        (hamux.PoolSynapse, "PoolSynapse makes"),
    ],
    ids=["conv", "pool"],
)
@pytest.mark.parametrize(("padding", "count"), [("VALID", 3), ("SAME", 4)])
def test_a_ham_is_refused_whose_sizes_the_strides_do_not_make(make, message, padding, count):
    sizes = {"image": (7, 7, 4), "parts": (2, 2, 4)}
    neurons = {name: hamux.Neurons(hamux.lagr_tanh, size) for name, size in sizes.items()}
    message = f"{message} {(count, count, 4)} of g1 (7, 7, 4), got g2 of shape (2, 2, 4)"
    with pytest.raises(ValueError, match=re.escape(message)):
        hamux.HAM(neurons, {"s": make(3, 2, padding)}, [(("image", "parts"), "s")])


def test_a_layer_that_does_not_fit_is_named():
    synapse = hamux.ConvSynapse(jr.key(0), 3, 2, 3, 2)
    for shape in [(7, 6, 3), (7, 6)]:
        with pytest.raises(ValueError, match=re.escape(f"got g1 of shape {shape}, expected (height, width, 2)")):
            synapse(*draw(shape, (4, 3, 3)))
    with pytest.raises(ValueError, match=r"PoolSynapse got g1 of shape \(7, 6\), expected \(height, width, ch"):
        hamux.PoolSynapse(2)(*draw((7, 6), (3, 3)))
    with pytest.raises(ValueError, match=re.escape("a window of extent (5, 5) is larger than its layer, (4, 6)")):
        hamux.ConvSynapse(jr.key(0), 3, 2, 3, padding="VALID", dilation=2)(*draw((4, 6, 2), (1, 4, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "same"}, 'padding is \'same\'; it is "SAME", "VALID" or 2 pairs'),
        ({"padding": ((0, 1),)}, "padding is ((0, 1),)"),
        ({"padding": ((0, -1), (0, 0))}, "padding is ((0, -1), (0, 0))"),
        ({"filter_shape": (2, 2, 2, 2)}, "a window of shape (2, 2, 2, 2); expected one to three spatial axes"),
        ({"filter_shape": 0}, "window is 0; at least 1 along every axis"),
        (
            {"window_strides": (1, 2, 3)},
            "strides is (1, 2, 3) for a window of shape (3, 3); expected one",
        ),
        ({"dilation": 1.5}, "dilation is 1.5; an int is expected, or a sequence of them"),
        ({"groups": 3}, "2 and 4 channels do not divide into 3 equal groups"),
        ({"groups": 0}, "groups is 0; at least one group of channels"),
    ],
    ids=str,
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hamux.ConvSynapse(jr.key(0), 4, 2, **({"filter_shape": 3} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "min"}, "pool is 'min'; it is"),
        ({"pool": "max", "beta": 0.0}, "beta is 0.0; it must be finite"),
        ({"padding": ((0, 0), (2, 0))}, "padding is ((0, 0), (2, 0)); a window of (2, 2) could hold nothing else"),
    ],
    ids=str,
)
def test_bad_pools_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hamux.PoolSynapse(2, **options)


@pytest.mark.parametrize("pool", ["average", "max"])
def test_the_energy_of_a_layer_beyond_all_memory_has_a_shape(pool):
    sizes = [jax.ShapeDtypeStruct((side, side, 3), "float32") for side in (2**20, 2**19)]
    assert jax.eval_shape(hamux.PoolSynapse(3, 2, "SAME", pool), *sizes).shape == ()


def test_the_four_layer_ham_of_the_fields_readme_relaxes_and_goes_down():
    layers = {"image": (32, 32, 3), "patch": (11, 11, 16), "label": (10,), "memory": (25,)}
    softmaxes = {"label": hamux.lagr_softmax, "memory": hamux.lagr_softmax}
    lagrangians = {"image": hamux.lagr_identity, "patch": hamux.lagr_tanh} | softmaxes
    synapses = {
        "conv": hamux.ConvSynapse(jr.key(0), 16, 3, filter_shape=(3, 3), window_strides=(3, 3)),
        "names": hamux.DenseSynapse(jr.key(1), 10, 25),
        "parts": hamux.DenseSynapse(jr.key(2), 16, 25),
    }
    ham = hamux.HAM(
        {name: hamux.Neurons(lagrangians[name], shape) for name, shape in layers.items()},
        jax.tree.map(lambda w: 10 * w, synapses),
        [(("image", "patch"), "conv"), (("label", "memory"), "names"), (("patch", "memory"), "parts")],
    )
    end = hamux.relax(ham, ham.init_states(key=jr.key(3)), max_steps=2000)
    assert end.converged
    path = end.energies[: end.steps + 1]
    assert path[-1] < path[0]
    assert np.all(np.diff(path) <= 1e-12 * np.abs(path[1:]))
