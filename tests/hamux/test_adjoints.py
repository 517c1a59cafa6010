"""Gradients through a retrieval: unrolled, truncated and implicit, against each other and against differences."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial

import hamux
from hamux import Neurons

KEY = jr.key(3)
SOFTMAX = Partial(hamux.lagr_softmax, beta=2.0)
TANH = Partial(hamux.lagr_tanh, beta=1.2)
HELD = {"a": np.arange(8) < 3}


def one(lagrangian, hidden=SOFTMAX, leak=1.0, size=25.0, shape=8):
    synapses = {"s": hamux.HopfieldSynapse(KEY, 8, 5, hidden), "b": hamux.BiasSynapse(KEY, 8)}
    ham = hamux.HAM({"a": Neurons(lagrangian, shape, leak=leak)}, synapses, [(("a",), "s"), (("a",), "b")])
    return jax.tree.map(lambda leaf: size * leaf if leaf.ndim > 1 else leaf, ham)


def two(first, second):
    synapses = {"s": hamux.DenseSynapse(KEY, 8, 6), "b": hamux.BiasSynapse(KEY, 8)}
    ham = hamux.HAM({"a": Neurons(first, 8), "b": Neurons(second, 6)}, synapses, [(("a", "b"), "s"), (("a",), "b")])
    return jax.tree.map(lambda leaf: 40 * leaf if leaf.ndim else leaf, ham)


# A HAM, and what is clamped.
HAMS = {
    "identity": (one(hamux.lagr_identity), HELD),
    "tanh": (one(TANH), HELD),
    "saturated tanh": (one(Partial(hamux.lagr_tanh, beta=4.0), size=60.0), HELD),
    "relu": (one(hamux.lagr_relu), HELD),
    "layernorm": (one(hamux.lagr_layernorm), {}),
    "layernorm, a token clamped": (one(hamux.lagr_layernorm, shape=(2, 8)), {"a": np.arange(16).reshape(2, 8) < 8}),
    "softmax": (one(SOFTMAX, hamux.lagr_relu), {}),
    "leak 3": (one(SOFTMAX, hamux.lagr_relu, leak=3.0), {}),
    "tanh and softmax": (two(TANH, SOFTMAX), HELD),
    "layernorm and softmax": (two(hamux.lagr_layernorm, SOFTMAX), {}),
}
every_ham = pytest.mark.parametrize(("ham", "clamp"), HAMS.values(), ids=HAMS)


def states(ham, seed=9, bs=None):
    return ham.init_states(bs, key=jr.key(seed))


def loss(retrieve, ham, xs):
    """Of the activations where a retrieval ends, and of the states, that the activations may not show."""
    xs = retrieve(ham, xs).xs
    gs, targets = ham.activations(xs), states(ham, 10)
    return sum(jnp.sum((gs[name] - targets[name]) ** 2) + jnp.sum(jnp.sin(xs[name])) for name in gs)


compiled_once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def gradient(retrieve, ham, xs):
    return compiled_once(jax.grad(partial(loss, retrieve), argnums=(0, 1)))(ham, xs)


def certified(ham):
    return hamux.GaussSeidel() if "b" in ham.neurons else hamux.Explicit(1 / ham.neurons["a"].leak)


def largest(tree):
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


def difference(a, b):
    return largest(jax.tree.map(jnp.subtract, a, b)) / largest(b)


@every_ham
def test_implicit_gradients_are_the_unrolled_ones_at_convergence(ham, clamp):
    xs = states(ham)
    unrolled = gradient(partial(hamux.descend, steps=400, method=certified(ham), clamp=clamp), ham, xs)
    implicit = gradient(partial(hamux.relax, tol=1e-12, max_steps=2000, clamp=clamp), ham, xs)
    assert largest(unrolled) > 0.1
    assert difference(implicit, unrolled) < 1e-4
    if clamp:
        assert largest(unrolled[1]["a"][clamp["a"]]) > 1e-3


def test_implicit_gradients_where_there_is_no_leak():
    """The state of a norm runs off along a flat direction, the activation comes to rest. Against differences."""
    ham = one(hamux.lagr_spherical_norm, leak=0.0)
    target = states(ham, 10)["a"]

    def of_bias(b, x, of_state):
        there = eqx.tree_at(lambda ham: ham.synapses["b"].b, ham, b)
        x = hamux.relax(there, {"a": x}, tol=1e-6).xs["a"]
        return jnp.sum(jnp.sin(x)) if of_state else jnp.sum((there.neurons["a"].g(x) - target) ** 2)

    @jax.jit
    def settled(b):
        there = eqx.tree_at(lambda ham: ham.synapses["b"].b, ham, b)

        def step(x, _):
            x = x - 0.05 * there.dEdg({"a": there.neurons["a"].g(x)}, {"a": x})["a"]
            return 3 * x / jnp.linalg.norm(x), None

        return jax.lax.scan(step, states(ham)["a"], length=10_000)[0]

    b = ham.synapses["b"].b
    steps = 1e-5 * np.eye(8)
    for of_state in (False, True):  # the part of a state that no activation shows, its norm, stays as it is
        loss = partial(of_bias, of_state=of_state)
        differences = [(loss(b + s, settled(b + s)) - loss(b - s, settled(b - s))) / 2e-5 for s in steps]
        assert difference(compiled_once(jax.grad(loss))(b, settled(b)), jnp.stack(differences)) < 1e-4


def test_implicit_gradients_by_a_part_of_the_inputs():
    """By one leaf, by a start that does not matter, and where nothing acts on a layer."""
    ham, _ = HAMS["tanh and softmax"]
    xs = states(ham)
    whole, of_start = gradient(partial(hamux.relax, tol=1e-12), ham, xs)
    assert largest(of_start) == 0

    def of_bias(b):
        return loss(partial(hamux.relax, tol=1e-12), eqx.tree_at(lambda ham: ham.synapses["b"].b, ham, b), xs)

    np.testing.assert_allclose(compiled_once(jax.grad(of_bias))(ham.synapses["b"].b), whole.synapses["b"].b, rtol=1e-9)
    alone = hamux.HAM(ham.neurons, {}, [])
    assert largest(gradient(hamux.relax, alone, xs)) < 1e-12
    one_sided = hamux.HAM(ham.neurons, {"b": ham.synapses["b"]}, [(("a",), "b")])
    by_bias, _ = gradient(hamux.relax, one_sided, xs)
    assert largest(by_bias) > 0.1


def test_binary_neurons_have_no_implicit_gradient():
    neurons = {"a": Neurons(hamux.lagr_sign, 8), "b": Neurons(hamux.lagr_sign, 6)}
    ham = hamux.HAM(neurons, {"s": hamux.DenseSynapse(KEY, 8, 6)}, [(("a", "b"), "s")])
    assert largest(gradient(partial(hamux.relax, method=hamux.Asynchronous()), ham, states(ham))) == 0


@pytest.mark.slow
def test_forward_mode():
    ham, clamp = HAMS["tanh and softmax"]
    xs = states(ham)
    direction = jax.tree.map(lambda leaf: jr.normal(jr.key(5), leaf.shape), ham)
    for retrieve in (
        partial(hamux.relax, tol=1e-10, clamp=clamp),
        partial(hamux.relax, tol=1e-10, clamp=clamp, adjoint=hamux.Implicit(rtol=1e-8)),
        partial(hamux.descend, steps=7, clamp=clamp),
        partial(hamux.descend, steps=7, clamp=clamp, adjoint=hamux.Truncated(3)),
    ):
        of_ham = partial(loss, retrieve)
        _, forward = jax.jit(lambda ham, f=of_ham: jax.jvp(lambda ham: f(ham, xs), (ham,), (direction,)))(ham)
        reverse = gradient(retrieve, ham, xs)[0]
        along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, reverse, direction)))
        np.testing.assert_allclose(forward, along, rtol=1e-6)


def step_by_step(steps, followed, dt=0.3):
    """A descent in Python, through whose last `followed` steps autograd goes."""

    def retrieve(ham, xs):
        given = jax.lax.stop_gradient(ham)
        for i in range(steps):
            one = ham if i >= steps - followed else given
            xs = jax.lax.stop_gradient(xs) if i == steps - followed else xs
            dEdg = one.dEdg(one.activations(xs), xs)
            xs = {name: x - dt * dEdg[name] for name, x in xs.items()}
        return hamux.Retrieval(xs, None, None, None, None, None, None)

    return retrieve


@pytest.mark.parametrize("steps", [1, 2, 7, 9])
def test_unrolled_gradients_are_those_of_the_steps_one_by_one(steps):
    ham, _ = HAMS["tanh and softmax"]
    unrolled = gradient(partial(hamux.descend, steps=steps, dt=0.3), ham, states(ham))
    assert difference(unrolled, gradient(step_by_step(steps, steps + 1), ham, states(ham))) < 1e-12


@pytest.mark.parametrize("followed", [1, 3, 6, 7, 8])
def test_truncated_gradients_are_those_of_the_last_steps(followed):
    ham, _ = HAMS["tanh and softmax"]
    truncated = gradient(partial(hamux.descend, steps=7, dt=0.3, adjoint=hamux.Truncated(followed)), ham, states(ham))
    if followed < 7:
        assert difference(truncated, gradient(step_by_step(7, followed), ham, states(ham))) < 1e-12
        assert largest(truncated[1]) == 0
    else:
        assert difference(truncated, gradient(step_by_step(7, 8), ham, states(ham))) < 1e-12


@pytest.mark.parametrize("method", [hamux.Explicit(1.0), hamux.Backtracking(), hamux.Anderson()])
def test_truncated_gradients_of_relax_come_to_the_implicit_ones(method):
    ham, clamp = HAMS["tanh"]
    xs = states(ham)
    relax = partial(hamux.relax, tol=1e-8, clamp=clamp, max_steps=2000)  # below, Anderson mixes what is rounding error
    implicit = gradient(relax, ham, xs)
    errors = [
        difference(gradient(partial(relax, method=method, adjoint=hamux.Truncated(k)), ham, xs), implicit)
        for k in (1, 3, 100)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3
    np.testing.assert_array_equal(relax(ham, xs, adjoint=hamux.Truncated(5)).xs["a"], relax(ham, xs).xs["a"])


@pytest.mark.parametrize("method", [hamux.Explicit(1.0), hamux.Backtracking(), hamux.Anderson()])
def test_unrolled_gradients_of_relax_are_those_of_its_steps(method):
    ham, clamp = HAMS["tanh"]
    xs = states(ham)
    relax = partial(hamux.relax, method=method, clamp=clamp, tol=1e-4, adjoint=hamux.Unrolled())
    steps = int(relax(ham, xs).steps)
    assert 2 < steps < 100
    if isinstance(method, hamux.Explicit):  # under the others, a step that is not accepted would count
        by_descend = gradient(partial(hamux.descend, steps=steps, method=method, clamp=clamp), ham, xs)
        assert difference(gradient(relax, ham, xs), by_descend) < 1e-10
    implicit = gradient(partial(hamux.relax, method=method, clamp=clamp, tol=1e-12), ham, xs)
    exact = gradient(partial(relax, tol=1e-12), ham, xs)
    assert difference(exact, implicit) < 1e-4


@pytest.mark.parametrize("adjoint", [hamux.Implicit(), hamux.Truncated(3), hamux.Unrolled()], ids=repr)
def test_gradients_of_a_batch_are_those_of_its_examples(adjoint):
    ham, _ = HAMS["tanh and softmax"]
    xs, key = states(ham, bs=3), jr.key(4)
    weights = {name: jr.normal(key, x.shape) for name, x in xs.items()}

    def of_batch(ham, xs):
        out = hamux.relax(ham.vectorize(), xs, clamp=HELD, adjoint=adjoint, tol=1e-8).xs
        return sum(jnp.sum(weights[name] * x) for name, x in out.items())

    def one_by_one(ham, xs):
        return sum(
            jnp.sum(weights[name][i] * x)
            for i in range(3)
            for name, x in hamux.relax(
                ham, {n: x[i] for n, x in xs.items()}, clamp=HELD, adjoint=adjoint, tol=1e-8
            ).xs.items()
        )

    together, apart = (compiled_once(jax.grad(f, argnums=(0, 1)))(ham, xs) for f in (of_batch, one_by_one))
    assert difference(together, apart) < 1e-6


def test_gradients_in_half_precision():
    ham, clamp = HAMS["tanh"]
    half, xs = (jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree) for tree in (ham, states(ham)))

    def of_bias(ham, xs):
        out = hamux.relax(ham, xs, tol=1e-2, clamp=clamp).xs["a"]
        return jnp.sum(out.astype(jnp.float64) ** 2)

    found, exact = jax.grad(of_bias)(half, xs), jax.grad(of_bias)(ham, states(ham))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
    assert difference(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), found), exact) < 0.05


def temporary_bytes(retrieve, ham, xs):
    compiled = jax.jit(jax.grad(partial(loss, retrieve))).lower(ham, xs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_of_gradients():
    """Flat in the number of steps for the implicit ones; at 100 steps unrolled, below a quarter of a plain scan's."""

    def scanned(ham, xs, steps):
        def step(xs, _):
            return {name: x - 0.1 * ham.dEdg(ham.activations(xs), xs)[name] for name, x in xs.items()}, None

        xs, _ = jax.lax.scan(step, xs, length=steps)
        return hamux.Retrieval(xs, None, None, None, None, None, None)

    synapse = hamux.HopfieldSynapse(KEY, 256, 512)
    wide = hamux.HAM({"a": Neurons(hamux.lagr_tanh, (64, 256))}, {"s": synapse}, [(("a",), "s")])
    xs = states(wide)
    plain, unrolled = (
        temporary_bytes(partial(f, steps=100), wide, xs) for f in (scanned, partial(hamux.descend, dt=0.1))
    )
    assert plain > 100 * xs["a"].nbytes
    assert unrolled < plain / 4
    implicit = [temporary_bytes(partial(hamux.relax, max_steps=steps), wide, xs) for steps in (12, 1000)]
    assert implicit[1] - implicit[0] < 2 * 1000 * 8  # the energies' record
    relax = partial(hamux.relax, adjoint=hamux.Unrolled(), max_steps=100)
    record = 101 * xs["a"].nbytes  # is not kept at every checkpoint
    assert temporary_bytes(partial(relax, trajectory=True), wide, xs) - temporary_bytes(relax, wide, xs) < 2 * record


def test_what_is_no_adjoint():
    ham, _ = HAMS["tanh"]
    for adjoint in ("implicit", hamux.Unrolled):
        with pytest.raises(ValueError, match=r"expected hamux.Unrolled\(\), Truncated\(steps\) or Implicit\(\)"):
            hamux.relax(ham, states(ham), adjoint=adjoint)
    with pytest.raises(ValueError, match=r"rtol is -1.0; it must be finite"):
        hamux.Implicit(rtol=-1.0)
    with pytest.raises(ValueError, match=r"steps is 1.5; at least one step has a gradient, as an int"):
        hamux.Truncated(1.5)
    with pytest.raises(ValueError, match="steps is 0; at least one step has a gradient"):
        hamux.Truncated(0)
