"""Lagrangians against their closed forms, written here in numpy."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import hamux


def log_sum_exp(x):
    top = x.max(axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(x - top), axis=-1)) + top[..., 0]


def softmax(x):
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def with_ghost(x):
    return np.concatenate([x, np.zeros_like(x[..., :1])], axis=-1)


def sigmoid(x):
    return np.where(x > 0, 1 / (1 + np.exp(-np.abs(x))), 1 - 1 / (1 + np.exp(-np.abs(x))))


def centred(x):
    return x - x.mean(axis=-1, keepdims=True)


def deviation(x):
    return np.sqrt((centred(x) ** 2).mean(axis=-1) + 1e-5)


def norm(x):
    return np.sqrt((x**2).sum(axis=-1) + 1e-5)


def rooted(z, power):
    """Σ max(z − τ, 0)^power = 1, by halving an interval; returns max(z − τ, 0)."""
    top = z.max(axis=-1, keepdims=True)
    low, high = top - 1, top
    for _ in range(70):
        middle = (low + high) / 2
        enough = np.sum(np.maximum(z - middle, 0) ** power, axis=-1, keepdims=True) >= 1
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return np.maximum(z - low, 0)


def entmax(x, alpha=1.5):
    return rooted((alpha - 1) * (x - x.max(axis=-1, keepdims=True)), 1 / (alpha - 1)) ** (1 / (alpha - 1))


def normmax(x, p=3.0):
    above = rooted(x - x.max(axis=-1, keepdims=True), p / (p - 1)) ** (1 / (p - 1))
    return above / above.sum(axis=-1, keepdims=True)


def k_subsets(x, k=1):
    """The y in [0, 1] that sum to k and are nearest to x, by halving an interval."""
    low, high = x.min(axis=-1, keepdims=True) - 1, x.max(axis=-1, keepdims=True)
    for _ in range(100):
        middle = (low + high) / 2
        enough = np.sum(np.clip(x - middle, 0, 1), axis=-1, keepdims=True) >= k
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return np.clip(x - low, 0, 1)


@dataclass
class Case:
    """A Lagrangian, its value and its activation in closed form, and the largest states to try it on."""

    lagrangian: Any
    value: Any
    activation: Any
    parameters: dict[str, float] = field(default_factory=dict)
    largest: float = 1e4


CASES = {
    "identity": Case(hamux.lagr_identity, lambda x: np.sum(x**2) / 2, lambda x: x),
    "repu": Case(
        hamux.lagr_repu,
        lambda x, n: np.sum(np.maximum(x, 0) ** n) / n,
        lambda x, n: np.maximum(x, 0) ** (n - 1),
        {"n": 3.5},
    ),
    "relu": Case(hamux.lagr_relu, lambda x: np.sum(np.maximum(x, 0) ** 2) / 2, lambda x: np.maximum(x, 0)),
    "exp": Case(
        hamux.lagr_exp,
        lambda x, beta: np.sum(np.exp(beta * x)) / beta,
        lambda x, beta: np.exp(beta * x),
        {"beta": 1.3},
        largest=500,
    ),
    "rexp": Case(
        hamux.lagr_rexp,
        lambda x, beta: np.sum(np.exp(beta * np.maximum(x, 0)) / beta - np.maximum(x, 0)),
        lambda x, beta: np.expm1(beta * np.maximum(x, 0)),
        {"beta": 1.3},
        largest=500,
    ),
    "tanh": Case(
        hamux.lagr_tanh,
        lambda x, beta: np.sum(np.abs(beta * x) + np.log1p(np.exp(-2 * np.abs(beta * x))) - np.log(2)) / beta,
        lambda x, beta: np.tanh(beta * x),
        {"beta": 0.7},
    ),
    "sigmoid": Case(
        hamux.lagr_sigmoid,
        lambda x, beta, scale: scale / beta * np.sum(np.maximum(beta * x, 0) + np.log1p(np.exp(-np.abs(beta * x)))),
        lambda x, beta, scale: scale * sigmoid(beta * x),
        {"beta": 0.7, "scale": 1.9},
    ),
    "sign": Case(hamux.lagr_sign, lambda x: np.sum(np.abs(x)), np.sign),
    "softmax": Case(
        hamux.lagr_softmax,
        lambda x, beta: np.sum(log_sum_exp(beta * x)) / beta,
        lambda x, beta: softmax(beta * x),
        {"beta": 2.3},
    ),
    "ghostmax": Case(
        hamux.lagr_ghostmax,
        lambda x, beta: np.sum(log_sum_exp(with_ghost(beta * x))) / beta,
        lambda x, beta: softmax(with_ghost(beta * x))[..., :-1],
        {"beta": 2.3},
    ),
    "entmax": Case(
        partial(hamux.lagr_entmax, alpha=1.5),
        lambda x, beta: np.sum(x * entmax(beta * x)) - np.sum(np.sum(entmax(beta * x) ** 1.5, -1) - 1) / 0.75 / beta,
        lambda x, beta: entmax(beta * x),
        {"beta": 0.7},
    ),
    "normmax": Case(
        partial(hamux.lagr_normmax, p=3.0),
        lambda x, beta: (
            np.sum(x * normmax(beta * x)) - np.sum(np.sum(normmax(beta * x) ** 3, -1) ** (1 / 3) - 1) / beta
        ),
        lambda x, beta: normmax(beta * x),
        {"beta": 0.7},
    ),
    "k_subsets": Case(
        partial(hamux.lagr_k_subsets, k=1),
        lambda x, beta: np.sum(x * k_subsets(beta * x)) - np.sum(np.sum(k_subsets(beta * x) ** 2, -1) - 1) / 2 / beta,
        lambda x, beta: k_subsets(beta * x),
        {"beta": 0.7},
    ),
    "layernorm": Case(
        hamux.lagr_layernorm,
        lambda x, gamma, delta: gamma * x.shape[-1] * np.sum(deviation(x)) + delta * np.sum(x),
        lambda x, gamma, delta: gamma * centred(x) / deviation(x)[..., None] + delta,
        {"gamma": 1.7, "delta": 0.3},
    ),
    "spherical_norm": Case(
        hamux.lagr_spherical_norm,
        lambda x, gamma, delta: gamma * np.sum(norm(x)) + delta * np.sum(x),
        lambda x, gamma, delta: gamma * x / norm(x)[..., None] + delta,
        {"gamma": 1.7, "delta": 0.3},
    ),
}
OVER_TOKENS = ["softmax", "ghostmax", "entmax", "normmax", "k_subsets", "layernorm", "spherical_norm"]

every_lagrangian = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def states(shape, size=1.0, seed=0):
    return size * np.random.default_rng(seed).uniform(-1, 1, shape)


def test_every_lagrangian_of_the_package_is_tested():
    assert {f"lagr_{name}" for name in CASES} == {name for name in dir(hamux) if name.startswith("lagr_")}


@every_lagrangian
def test_value_and_activation_are_the_closed_forms(case):
    """On one, two and three axes, at small and at large states."""
    lagrangian = partial(case.lagrangian, **case.parameters)
    compiled = jax.jit(lambda xs: [jax.value_and_grad(lagrangian)(x) for x in xs])
    for size in (2.0, case.largest):
        xs = [states(shape, size) for shape in [(7,), (3, 5), (2, 3, 4)]]
        for x, (value, activation) in zip(xs, compiled(xs), strict=True):
            np.testing.assert_allclose(value, case.value(x, **case.parameters), rtol=1e-10)
            np.testing.assert_allclose(activation, case.activation(x, **case.parameters), rtol=1e-10, atol=1e-12)


@every_lagrangian
@pytest.mark.parametrize("shape", [(1,), (4, 1), (1, 2, 1, 3)], ids=str)
def test_a_scalar_on_any_shape(case, shape):
    assert jax.eval_shape(partial(case.lagrangian, **case.parameters), states(shape)).shape == ()


@every_lagrangian
def test_tokens_are_independent_and_summed(case):
    lagrangian = partial(case.lagrangian, **case.parameters)
    together, by_token = jax.jit(lambda x: (lagrangian(x), [lagrangian(token) for token in x.reshape(6, 4)]))(
        states((2, 3, 4), 2.0)
    )
    np.testing.assert_allclose(together, np.sum(by_token), rtol=1e-12)


@pytest.mark.parametrize("name", OVER_TOKENS)
def test_the_axis_can_be_chosen(name):
    case, x = CASES[name], states((3, 5), 2.0)
    along_columns = partial(case.lagrangian, **case.parameters, axis=0)
    value, activation = jax.jit(jax.value_and_grad(along_columns))(x)
    np.testing.assert_allclose(value, case.value(x.T, **case.parameters), rtol=1e-10)
    np.testing.assert_allclose(activation, case.activation(x.T, **case.parameters).T, rtol=1e-10)


@pytest.mark.parametrize("lagrangian", [hamux.lagr_layernorm, hamux.lagr_spherical_norm])
@pytest.mark.parametrize("delta", [0.3, np.array([0.1, -0.2, 0.3, 0.4])], ids=["scalar", "vector"])
def test_delta_counts_once_for_each_token(lagrangian, delta):
    x = states((3, 4), 2.0)
    value_and_activation = jax.jit(jax.value_and_grad(lagrangian))
    shifted, plain = value_and_activation(x, delta=delta), value_and_activation(x)
    np.testing.assert_allclose(shifted[0] - plain[0], np.sum(delta * x), rtol=1e-12)
    np.testing.assert_allclose(shifted[1] - plain[1], np.broadcast_to(delta, x.shape), rtol=1e-12)


@every_lagrangian
def test_convex(case):
    lagrangian = jax.jit(partial(case.lagrangian, **case.parameters))
    points = hnp.arrays(float, (2, 3), elements=st.floats(-20, 20))

    @given(points, points, st.floats(0, 1))
    def below_every_chord(x, y, t):
        at_x, at_y = lagrangian(x), lagrangian(y)
        assert lagrangian(t * x + (1 - t) * y) <= t * at_x + (1 - t) * at_y + 1e-12 * (1 + abs(at_x) + abs(at_y))

    below_every_chord()


@pytest.mark.parametrize(
    ("lagrangian", "values", "activations"),
    [
        (hamux.lagr_tanh, [1e4 - np.log(2), 1e4 - np.log(2)], [-1, 1]),
        (hamux.lagr_sigmoid, [0, 1e4], [0, 1]),
    ],
)
def test_finite_and_right_at_1e4_in_float32(lagrangian, values, activations):
    for x, value, activation in zip([-1e4, 1e4], values, activations, strict=True):
        found = jax.jit(jax.value_and_grad(lagrangian))(jnp.array([x], jnp.float32))
        assert all(part.dtype == jnp.float32 for part in found)
        np.testing.assert_allclose(found[0], value, rtol=1e-6)
        np.testing.assert_array_equal(found[1], [activation])


STEADY = {
    "softmax": (hamux.lagr_softmax, log_sum_exp),
    "ghostmax": (hamux.lagr_ghostmax, lambda x: log_sum_exp(with_ghost(x))),
    "tanh": (hamux.lagr_tanh, lambda x: np.sum(np.logaddexp(x, -x) - np.log(2))),
    "sigmoid": (hamux.lagr_sigmoid, lambda x: np.sum(np.logaddexp(x, 0))),
    "sign": (hamux.lagr_sign, lambda x: np.sum(np.abs(x))),
}


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_finite_and_the_same_eager_and_jitted_at_extreme_scores(name, dtype):
    """βx up to 10³⁰ and beyond what the dtype holds, of either sign of β."""
    lagrangian, exact = STEADY[name]
    jitted = jax.jit(jax.value_and_grad(lagrangian, argnums=(0, 1) if name != "sign" else 0))
    wide = np.float64 if dtype == jnp.float64 else np.float32
    draw = np.random.default_rng(0)
    for size in (1.0, 130.0, 6e4, 1e9, 1e20, 1e30):
        for beta in (1.0, -1.0, 0.3, 1e3, -2e7, 1e8, 3e9, 1e15):
            x = jnp.asarray((size * draw.uniform(-1, 1, 5)).astype(wide)).astype(dtype)
            if not np.isfinite(x.astype(float)).all():
                continue
            options = {} if name == "sign" else {"beta": jnp.asarray(beta, wide)}
            value, gradient = jitted(x, *options.values())
            assert np.isfinite(value)
            assert all(np.isfinite(part.astype(float)).all() for part in jax.tree.leaves(gradient))
            states, inverse = np.asarray(x, np.longdouble), np.longdouble(np.asarray(options.get("beta", 1), wide))
            bound = 20 * float(jnp.finfo(wide).eps) * float(np.max(np.abs(states)) + 1 / abs(inverse))
            np.testing.assert_allclose(value, float(exact(inverse * states) / inverse), rtol=0, atol=bound)
            np.testing.assert_allclose(lagrangian(x, **options), value, rtol=0, atol=bound)


@pytest.mark.parametrize("lagrangian", [hamux.lagr_exp, hamux.lagr_rexp])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_exponentials_overflow_where_documented(lagrangian, dtype, beta):
    limit = float(np.log(np.finfo(dtype).max))
    assert str(np.floor(limit * 10) / 10) in lagrangian.__doc__
    assert np.isfinite(lagrangian(np.array([(limit - 1e-3) / beta], dtype), beta=beta))
    assert lagrangian(np.array([(limit + 1e-3) / beta], dtype), beta=beta) == np.inf


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.parameters])
def test_derivatives_by_the_parameters_are_finite_differences(name):
    case, x = CASES[name], states((3, 4), 2.0)
    x[0, 0] = 0

    def value_and_activation(parameters):
        return jax.value_and_grad(case.lagrangian)(x, **parameters)

    @jax.jit
    def compare(parameters, up, down):
        difference = jax.tree.map(lambda a, b: (a - b) / 2e-6, *map(value_and_activation, (up, down)))
        return jax.jacrev(value_and_activation)(parameters), difference

    for key, parameter in case.parameters.items():
        up, down = (case.parameters | {key: parameter + step} for step in (1e-6, -1e-6))
        for derivative, difference in zip(*compare(case.parameters, up, down), strict=True):
            np.testing.assert_allclose(derivative[key], difference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("lagrangian", [hamux.lagr_layernorm, hamux.lagr_spherical_norm])
def test_derivative_by_a_vector_delta_is_the_sum_of_the_states(lagrangian):
    x, delta = states((3, 4)), jnp.array([0.1, -0.2, 0.3, 0.4])
    np.testing.assert_allclose(jax.jit(jax.grad(lagrangian, argnums=2))(x, 1.7, delta), x.sum(axis=0), rtol=1e-12)


def test_derivative_of_repu_by_its_degree_ignores_negative_states():
    x, n = jnp.array([-2.0, 0.0, 3.0]), 2.5
    by_hand = 3**n * np.log(3) / n - 3**n / n**2
    np.testing.assert_allclose(jax.grad(hamux.lagr_repu, argnums=1)(x, n), by_hand, rtol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "layernorm"])
def test_flat_along_the_constant_vector(name):
    activation, x = jax.jit(jax.grad(CASES[name].lagrangian)), states((2, 5))
    np.testing.assert_allclose(activation(x + 3.0), activation(x), rtol=1e-10)


def test_no_private_module_of_jax_is_used():
    sources = list(Path(hamux.__file__).parent.rglob("*.py"))
    assert sources
    assert not [source.name for source in sources if "jax._src" in source.read_text()]
