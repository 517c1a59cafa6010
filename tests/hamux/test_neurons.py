"""A layer of neurons: its states, its activation and energy, and what jax sees of it."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial

import hamux


class LearnedSoftmax(eqx.Module):
    beta: float | jax.Array
    axis: int = eqx.field(static=True, default=-1)

    def __call__(self, x):
        return hamux.lagr_softmax(x, self.beta, self.axis)


LAYERS = {
    "identity": hamux.Neurons(hamux.lagr_identity, (2, 4)),
    "relu": hamux.Neurons(hamux.lagr_relu, (2, 4)),
    "tanh": hamux.Neurons(Partial(hamux.lagr_tanh, beta=0.7), (2, 4)),
    "softmax": hamux.Neurons(Partial(hamux.lagr_softmax, beta=2.0), (2, 4)),
    "layernorm": hamux.Neurons(Partial(hamux.lagr_layernorm, gamma=1.5, delta=0.1), (2, 4)),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())


def test_an_int_is_a_shape_of_one_axis():
    assert hamux.Neurons(hamux.lagr_identity, 5).shape == (5,)
    assert hamux.Neurons(hamux.lagr_identity, [2, 3]).shape == (2, 3)


def test_a_layer_can_be_made_inside_jit_and_grad():
    def energy(beta):
        layer = hamux.Neurons(Partial(hamux.lagr_softmax, beta=beta), 3)
        x = jnp.array([0.5, -1.0, 2.0])
        return layer.energy(layer.g(x), x)

    difference = (energy(2.0 + 1e-6) - energy(2.0 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.jit(jax.grad(energy))(2.0), difference, rtol=1e-7)


def test_tau_and_leak_are_one_by_default():
    layer = hamux.Neurons(hamux.lagr_identity, 5)
    assert (layer.tau, layer.leak) == (1.0, 1.0)


@pytest.mark.parametrize(("bs", "shape"), [(None, (2, 3)), (0, (0, 2, 3)), (1, (1, 2, 3)), (4, (4, 2, 3))])
def test_init_is_zeros_or_random_with_a_key(bs, shape):
    layer = hamux.Neurons(hamux.lagr_identity, (2, 3))
    np.testing.assert_array_equal(layer.init(bs), np.zeros(shape))
    drawn = layer.init(bs, key=jr.key(0))
    assert drawn.shape == shape
    assert len(np.unique(drawn)) == drawn.size
    np.testing.assert_array_equal(drawn, layer.init(bs, key=jr.key(0)))


@pytest.mark.parametrize(
    ("lagrangian", "parameters"),
    [
        (Partial(hamux.lagr_softmax, beta=2.0), [2.0]),
        (Partial(hamux.lagr_softmax, beta=jnp.array(2.0)), [2.0]),
        (partial(hamux.lagr_softmax, beta=2.0), [2.0]),
        (partial(hamux.lagr_softmax, beta=2.0, axis=0), [2.0]),
        (Partial(hamux.lagr_layernorm, gamma=2.0, delta=np.ones(3)), [np.ones(3), 2.0]),
        (Partial(hamux.lagr_repu, n=3), []),
        (Partial(hamux.lagr_repu, n=3.0), [3.0]),
        (LearnedSoftmax(2.0), [2.0]),
        (LearnedSoftmax(jnp.array(2.0), axis=0), [2.0]),
        (hamux.lagr_softmax, []),
        (lambda x: hamux.lagr_softmax(x, 2.0), []),
    ],
)
def test_parameters_are_leaves_and_all_else_is_structure(lagrangian, parameters):
    layer = hamux.Neurons(lagrangian, (2, 3))
    leaves = jax.tree.leaves(layer)
    assert all(eqx.is_inexact_array(leaf) for leaf in leaves)
    assert len(leaves) == len(parameters)
    for leaf, parameter in zip(leaves, parameters, strict=True):
        np.testing.assert_array_equal(leaf, parameter)
    x = jnp.arange(6.0).reshape(2, 3)
    both = jax.jit(lambda layer, x: (layer.activations(x), jax.grad(lagrangian)(x)))
    np.testing.assert_allclose(*both(layer, x), rtol=1e-12)


@pytest.mark.parametrize(
    "lagrangian",
    [
        lambda: partial(hamux.lagr_softmax, beta=2.0, axis=0),
        lambda: Partial(hamux.lagr_repu, n=3),
        lambda: LearnedSoftmax(2.0, axis=0),
        lambda: hamux.lagr_tanh,
    ],
)
def test_two_equal_builds_share_one_compilation(lagrangian):
    traces = []

    @jax.jit
    def activations(layer, x):
        traces.append(layer)
        return layer.activations(x)

    first, second = (hamux.Neurons(lagrangian(), (2, 3)) for _ in range(2))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert hash(jax.tree.structure(first)) == hash(jax.tree.structure(second))
    for layer in (first, second):
        activations(layer, jnp.ones((2, 3)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (Partial(hamux.lagr_softmax, beta=2), Partial(hamux.lagr_softmax, beta=2.0)),
        (
            partial(hamux.lagr_softmax, beta=np.int64(2), axis=np.int64(0)),
            Partial(hamux.lagr_softmax, beta=2.0, axis=0),
        ),
        (
            eqx.Partial(hamux.lagr_sigmoid, beta=np.float64(2), scale=3),
            Partial(hamux.lagr_sigmoid, beta=2.0, scale=3.0),
        ),
        (
            Partial(hamux.lagr_layernorm, gamma=2, delta=[0.1, 0.2, 0.3]),
            Partial(hamux.lagr_layernorm, gamma=2.0, delta=np.array([0.1, 0.2, 0.3])),
        ),
        (Partial(hamux.lagr_softmax, beta=jnp.asarray(2)), Partial(hamux.lagr_softmax, beta=2.0)),
        (
            Partial(hamux.lagr_layernorm, delta=np.array([1, 2, 3])),
            Partial(hamux.lagr_layernorm, delta=np.array([1.0, 2.0, 3.0])),
        ),
        (LearnedSoftmax(2), LearnedSoftmax(2.0)),
        (LearnedSoftmax(np.int32(2)), LearnedSoftmax(2.0)),
    ],
)
def test_an_int_is_a_parameter_where_a_float_is(given, plain):
    first, second = (hamux.Neurons(lagrangian, (2, 3)) for lagrangian in (given, plain))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for leaf, expected in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert leaf.dtype == expected.dtype == float
        np.testing.assert_array_equal(leaf, expected)


def annotated(x, beta: "float | jax.Array", power: int = 2, axes: tuple[int, ...] = (-1,)):
    return jnp.sum(beta * x**power)


def bare(x, beta, power=2, axes=(-1,)):
    return annotated(x, 1.0 * beta, power, axes)


class Powered(eqx.Module):
    power: int

    def __call__(self, x):
        return jnp.sum(x**self.power)


def test_an_int_is_what_its_annotation_says():
    """A parameter as a float; as an int, or without an annotation, an option; in a Module's field, an error."""
    options = {"power": np.int64(2), "axes": [0, 1]}
    layer = hamux.Neurons(Partial(annotated, beta=3, **options), 3)
    assert layer.lagrangian.options == (("axes", (0, 1)), ("power", 2))
    assert type(layer.lagrangian.options[1][1]) is int
    assert jax.tree.leaves(layer) == [3.0]
    assert jax.tree.leaves(hamux.Neurons(Partial(bare, beta=3, **options), 3)) == []
    assert jax.tree.leaves(hamux.Neurons(Partial(bare, beta=3.0, **options), 3)) == [3.0]
    with pytest.raises(ValueError, match=r"the Lagrangian has a leaf .power = 2 that is no array"):
        hamux.Neurons(Powered(2), 3)


def made(scale, *, default=2.0, inner=lambda x: 0.5 * jnp.sum(x**2), declares=None):
    def lagrangian(x, factor=default):
        return jnp.sum(factor * jnp.asarray(scale)) * inner(x)

    if declares is not None:
        lagrangian.convex = declares
    return lagrangian


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (lambda: lambda x: jnp.sum(x**2), None, True),
        (lambda: made(1.0), None, True),
        (lambda: made(np.array([1.0, 2.0, 3.0])), None, True),
        (lambda: made(1.0, inner=made(2.0)), None, True),
        (lambda: made(1.0, declares=lambda: True), None, True),
        (lambda: made(1.0), lambda: made(2.0), False),
        (lambda: made(1.0), lambda: made(1.0, default=3.0), False),
        (lambda: made(1.0, inner=made(2.0)), lambda: made(1.0, inner=made(3.0)), False),
        (lambda: made(1.0), lambda: made(1.0, declares=True), False),
        (lambda: made(np.array([1.0, 2.0])), lambda: made(np.array([1.0, 3.0])), False),
        (lambda: lambda x: jnp.sum(x**2), lambda: lambda x: jnp.sum(x**4), False),
    ],
)
def test_functions_of_the_same_code_are_the_same_structure(first, second, same):
    """What the line that makes a function makes when it runs again."""
    layers = [eqx.filter_eval_shape(hamux.Neurons, make(), 1) for make in (first, second or first)]
    structures = list(map(jax.tree.structure, layers))
    assert (structures[0] == structures[1]) == same
    assert not same or hash(structures[0]) == hash(structures[1])


def test_a_function_that_calls_itself_can_be_compared():
    def make():
        def power(x, n=2):
            return jnp.sum(x) if n == 0 else jnp.sum(x * power(x, n - 1))

        return power

    first, second = (jax.tree.structure(hamux.Neurons(make(), 3)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("shape", [np.int64(3), np.array(3), [np.int64(2), 3], np.array([2, 3]), (2, np.int32(3))])
def test_a_shape_is_stored_as_plain_ints(shape):
    layer = hamux.Neurons(hamux.lagr_identity, shape)
    assert layer.shape in [(3,), (2, 3)]
    assert {type(size) for size in layer.shape} == {int}


@pytest.mark.parametrize("shape", [2.0, "12", [2, 3.0], None])
def test_a_shape_that_is_not_of_ints(shape):
    with pytest.raises(ValueError, match="an int is expected, or a sequence of them"):
        hamux.Neurons(hamux.lagr_identity, shape)


def test_integer_options_tell_layers_apart():
    rows, columns = (hamux.Neurons(Partial(hamux.lagr_softmax, axis=axis), (2, 3)) for axis in (-1, 0))
    assert jax.tree.structure(rows) != jax.tree.structure(columns)


@every_layer
def test_g_is_short_for_activations_the_gradient_of_the_lagrangian(layer):
    x = jr.normal(jr.key(0), layer.shape)
    g, activations, gradient = jax.jit(lambda x: (layer.g(x), layer.activations(x), jax.grad(layer.lagrangian)(x)))(x)
    np.testing.assert_array_equal(g, activations)
    np.testing.assert_allclose(g, gradient, rtol=1e-12)


@every_layer
@pytest.mark.parametrize("leak", [1.0, 0.3, 0.0])
def test_energy_is_leak_times_the_legendre_transform(layer, leak):
    layer = hamux.Neurons(layer.lagrangian, layer.shape, leak=leak)
    x, g = np.random.default_rng(0).standard_normal((2, *layer.shape))
    both = jax.jit(lambda g, x: (layer.lagrangian(x), *jax.value_and_grad(layer.energy)(g, x)))
    lagrangian, energy, gradient = both(g, x)
    np.testing.assert_allclose(energy, leak * (np.sum(g * x) - lagrangian), rtol=1e-12)
    np.testing.assert_allclose(gradient, leak * x, rtol=1e-12)


@every_layer
def test_energy_at_the_activation_of_the_state_is_the_convex_conjugate(layer):
    """Fenchel and Young: L*(g(x)) ≥ g(x)·y − L(y) for every y, with equality at y = x."""
    ys = np.random.default_rng(0).standard_normal((20, *layer.shape))
    ys[1] = 0
    conjugate, *others = np.asarray(jax.jit(lambda ys: jax.vmap(partial(layer.energy, layer.g(ys[0])))(ys))(ys))
    assert conjugate >= np.max(others) - 1e-12


def test_the_energy_has_a_gradient_by_the_parameters(gradients):
    layer = hamux.Neurons(Partial(hamux.lagr_tanh, beta=0.7), 3)
    x = jnp.array([0.5, -1.0, 2.0])

    _, by_autograd, differences = gradients(lambda layer: layer.energy(layer.g(x), x), layer)
    np.testing.assert_allclose(*jax.tree.leaves((by_autograd, differences)), rtol=1e-7)


@pytest.mark.parametrize("tau", [0, -1.0, math.inf, math.nan])
def test_tau_out_of_range(tau):
    with pytest.raises(ValueError, match=f"tau is {tau}; a time constant is finite and greater than 0"):
        hamux.Neurons(hamux.lagr_identity, 3, tau=tau)


@pytest.mark.parametrize("leak", [-1.0, math.inf, math.nan])
def test_leak_out_of_range(leak):
    with pytest.raises(ValueError, match=f"leak is {leak}; it is finite and at least 0"):
        hamux.Neurons(hamux.lagr_identity, 3, leak=leak)


def test_an_empty_axis():
    with pytest.raises(ValueError, match=r"shape is \(3, 0\); every axis has at least one neuron"):
        hamux.Neurons(hamux.lagr_identity, (3, 0))


def test_a_lagrangian_that_gives_no_scalar():
    with pytest.raises(ValueError, match=r"the Lagrangian gives \(2,\) on a state of shape \(2, 3\); it must give one"):
        hamux.Neurons(lambda x: x.sum(axis=-1), (2, 3))
    with pytest.raises(ValueError, match=r"the Lagrangian gives NoneType on a state of shape \(3,\)"):
        hamux.Neurons(lambda x: None, 3)


def test_a_misspelt_argument():
    with pytest.raises(TypeError, match="lek"):
        hamux.Neurons(hamux.lagr_identity, 3, lek=0.0)
