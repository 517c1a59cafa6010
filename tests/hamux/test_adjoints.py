"""Gradients through a retrieval: unrolled, truncated and implicit, against each other and against differences."""

from functools import partial
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
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


class Ended(NamedTuple):
    """Of a retrieval, what `loss` looks at."""

    xs: dict[str, jax.Array]


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
        return Ended(xs)

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


@pytest.mark.slow
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
        return Ended(xs)

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
    with pytest.raises(ValueError, match="every is 0; reverse mode keeps every step, or fewer, as an int"):
        hamux.Unrolled(every=0)
    assert hamux.Truncated(np.int64(2)) == hamux.Truncated(2)


METHODS = {
    "explicit": hamux.Explicit(0.5),
    "backtracking": hamux.Backtracking(),
    "gauss-seidel": hamux.GaussSeidel(),
    "over-relaxed gauss-seidel": hamux.GaussSeidel(dt={"a": 1.5}),
    "momentum": hamux.Momentum(0.3, 0.8),
    "anderson": hamux.Anderson(),
    "langevin": hamux.Langevin(KEY, optax.linear_schedule(0.1, 0.0, 20), 0.5),
    "ode": hamux.ODE(diffrax.Tsit5(), rtol=1e-9, atol=1e-12),
}


def implicit_function(ham, xs, clamp):
    """The gradient of `loss` by the biases at the fixed point `xs`, with the Jacobian of F as a matrix."""
    flat, unravel = ravel_pytree(xs)
    free = np.concatenate([~np.broadcast_to(clamp.get(name, False), x.shape) for name, x in sorted(xs.items())])

    def force(flat, b):
        there = eqx.tree_at(lambda ham: ham.synapses["b"].b, ham, b)
        xs = unravel(flat)
        return ravel_pytree(there.dEdg(there.activations(xs), xs))[0]

    b = ham.synapses["b"].b
    by_x, by_b = jax.jacobian(force, (0, 1))(flat, b)
    moved = jnp.zeros_like(by_b).at[free].set(-jnp.linalg.solve(by_x[free][:, free], by_b[free]))
    return jax.grad(lambda flat: loss(lambda *_: Ended(unravel(flat)), ham, None))(flat) @ moved


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, id=name, marks=() if name in ("anderson", "momentum") else pytest.mark.slow)
        for name, method in METHODS.items()
    ],
)
def test_every_adjoint_comes_to_the_implicit_function_value_whatever_the_method(method):
    """Where units are clamped, at fixed points of three HAMs, drawn at random."""
    ham, clamp = HAMS["tanh and softmax"]
    xs = states(ham)
    hams = jax.vmap(lambda size: jax.tree.map(lambda leaf: size * leaf if leaf.ndim else leaf, ham))(
        jnp.array([0.3, 0.6, 0.8])
    )

    def by_bias(ham, adjoint):
        def of_bias(b):
            there = eqx.tree_at(lambda ham: ham.synapses["b"].b, ham, b)
            relax = partial(hamux.relax, method=method, clamp=clamp, tol=1e-9, max_steps=400, adjoint=adjoint)
            return loss(relax, there, xs)

        return jax.grad(of_bias)(ham.synapses["b"].b)

    @compiled_once
    @jax.vmap
    def found_and_expected(ham):
        end = hamux.relax(ham, xs, clamp=clamp, tol=1e-12, max_steps=2000).xs
        adjoints = [hamux.Implicit(), hamux.Truncated(200)]
        if not isinstance(method, hamux.ODE):  # whose solver would be differentiated
            adjoints.append(hamux.Unrolled())
        return [by_bias(ham, adjoint) for adjoint in adjoints], implicit_function(ham, end, clamp)

    found, expected = found_and_expected(hams)
    assert np.min(np.max(np.abs(expected), axis=1)) > 0.1
    for gradient in found:
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.max(np.abs(expected)))


def test_second_derivatives_of_the_implicit_gradient():
    ham, clamp = HAMS["tanh and softmax"]
    ham = jax.tree.map(lambda leaf: 0.5 * leaf if leaf.ndim else leaf, ham)

    def of_bias(b):
        there = eqx.tree_at(lambda ham: ham.synapses["b"].b, ham, b)
        return loss(partial(hamux.relax, tol=1e-12, clamp=clamp, max_steps=2000), there, states(ham))

    b, v = ham.synapses["b"].b, jr.normal(jr.key(2), (8,))
    gradient = compiled_once(jax.grad(of_bias))
    found = compiled_once(jax.grad(lambda b: jax.grad(of_bias)(b) @ v))(b)
    difference = (gradient(b + 1e-5 * v) - gradient(b - 1e-5 * v)) / 2e-5
    np.testing.assert_allclose(found, difference, atol=1e-6 * np.max(np.abs(difference)))


REFUSED = {
    "implicit": (hamux.Implicit(), ["energies", "residual", "trajectory"], ["energies", "residual", "trajectory"]),
    "truncated": (hamux.Truncated(2), ["energies", "residual", "trajectory"], ["energies", "trajectory"]),
}


@pytest.mark.parametrize(("adjoint", "under_relax", "under_descend"), REFUSED.values(), ids=REFUSED)
def test_gradients_that_do_not_exist_are_refused(adjoint, under_relax, under_descend):
    """In reverse mode; in forward mode they are NaN, for what is not asked for is computed there too."""
    ham, clamp = HAMS["tanh"]
    xs = states(ham)
    for run, names in (
        (partial(hamux.relax, max_steps=30), under_relax),
        (partial(hamux.descend, steps=5), under_descend),
    ):
        retrieve = partial(run, adjoint=adjoint, clamp=clamp, trajectory=True)
        for name in names:

            def of_ham(ham, retrieve=retrieve, name=name):
                return sum(jnp.sum(jnp.ravel(leaf)[-1]) for leaf in jax.tree.leaves(getattr(retrieve(ham, xs), name)))

            with pytest.raises(RuntimeError, match=rf"{type(adjoint).__name__}.* has no gradient by .*{name}"):
                jax.grad(of_ham)(ham)
        forward = jax.jvp(lambda ham, f=retrieve: f(ham, xs), (ham,), (ham,))[1]
        assert np.isfinite(forward.xs["a"]).all()
        assert np.isnan(forward.energies).any()
        assert np.isnan(forward.trajectory["a"]).any()


def test_what_has_no_gradient_may_be_computed():
    """Where it is handed on by jax's transformations, and not used, nothing is refused and nothing changes."""
    ham, clamp = HAMS["tanh"]
    batch = states(ham, bs=2)
    relax = partial(hamux.relax, max_steps=30, clamp=clamp)
    ways = {
        "vmap": lambda ham: jax.vmap(lambda xs: relax(ham, xs))(batch),
        "vectorize": lambda ham: relax(ham.vectorize(), batch),
        "map": lambda ham: jax.lax.map(lambda xs: relax(ham, xs), batch),
        "checkpoint": lambda ham: jax.vmap(jax.checkpoint(lambda xs: relax(ham, xs)))(batch),
        "cond": lambda ham: jax.lax.cond(
            jnp.sum(batch["a"]) < 1e9, lambda: relax(ham.vectorize(), batch), lambda: relax(ham.vectorize(), batch)
        ),
    }
    gradients = [
        compiled_once(jax.grad(lambda ham, way=way: jnp.sum(way(ham).xs["a"] ** 2)))(ham) for way in ways.values()
    ]
    for found in gradients[1:]:
        assert difference(found, gradients[0]) < 1e-6


def test_unrolled_gradients_are_the_same_whatever_is_kept():
    ham, clamp = HAMS["tanh"]
    for run, kept in (
        (partial(hamux.descend, steps=7, clamp=clamp), [1, 3, np.int64(20)]),
        (partial(hamux.relax, max_steps=7, clamp=clamp), [1]),
    ):
        expected = gradient(partial(run, adjoint=hamux.Unrolled()), ham, states(ham))
        for every in kept:
            found = gradient(partial(run, adjoint=hamux.Unrolled(every)), ham, states(ham))
            assert difference(found, expected) < 1e-12


@pytest.mark.parametrize("method", [hamux.Explicit(0.3), hamux.Backtracking(0.3)], ids=["explicit", "backtracking"])
def test_a_warmup_has_no_gradient(method):
    """So that it makes of a descent what truncation makes of it, and its number may be traced."""
    ham, clamp = HAMS["tanh"]
    warmed = partial(hamux.descend, steps=3, warmup=4, method=method, clamp=clamp)
    truncated = partial(hamux.descend, steps=7, method=method, clamp=clamp, adjoint=hamux.Truncated(3))
    found, expected = (gradient(f, ham, states(ham)) for f in (warmed, truncated))
    assert difference(found, expected) < 1e-12
    assert largest(expected) > 0.1

    def of_count(ham, count):
        return loss(partial(hamux.descend, steps=3, warmup=count, method=method, clamp=clamp), ham, states(ham))

    traced = compiled_once(jax.vmap(jax.grad(of_count), in_axes=(None, 0)))(ham, jnp.array([4, 0]))
    assert difference(jax.tree.map(lambda leaf: leaf[0], traced), expected[0]) < 1e-10


class JacobianFree(hamux.Adjoint):
    """The gradient of one step at the end, as a third party writes it."""

    dt: float

    def descend(self, descent):
        return self.through_one_step(descent.frozen().descend(), descent)

    def relax(self, descent):
        return self.through_one_step(descent.frozen().relax(), descent)

    def through_one_step(self, out, descent):
        end = descent.problem.hold(descent.xs, out.xs)
        step = descent.problem.descent(descent.problem.evaluate(end), self.dt)
        return eqx.tree_at(lambda out: out.xs, out, {name: x + step[name] for name, x in end.items()})


def test_an_adjoint_of_ones_own():
    ham, clamp = HAMS["identity"]
    relax = partial(hamux.relax, tol=1e-12, max_steps=2000, clamp=clamp)
    found = gradient(partial(relax, adjoint=JacobianFree(1.0)), ham, states(ham))
    end = relax(ham, states(ham)).xs
    one_step = partial(hamux.descend, steps=1, dt=1.0, clamp=clamp)
    by_ham = gradient(lambda ham, xs: one_step(ham, jax.lax.stop_gradient(end) | xs), ham, {})[0]
    assert largest(by_ham) > 0.1
    assert difference(found[0], by_ham) < 1e-10
