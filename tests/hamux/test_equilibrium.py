"""Learning by energy: equilibrium propagation against the implicit gradient, and contrastive Hebbian learning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from small_hams import bilinear
from test_adjoints import HAMS, difference, states

import hamux

EXACT = {"tol": 1e-13, "max_steps": 5000}


def distance(gs):
    return sum(jnp.sum((g - jnp.cos(jnp.arange(g.size, dtype=g.dtype)).reshape(g.shape)) ** 2) for g in gs.values())


def gradient(ham, xs, clamp, adjoint):
    """By the parameters and by the start, of which clamped units matter."""

    def loss(ham, xs):
        out = hamux.relax(ham, xs, clamp=clamp, adjoint=adjoint, **EXACT)
        return distance(ham.activations(out.xs) if out.gs is None else out.gs)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(ham, xs)


@pytest.mark.parametrize("name", ["tanh", "layernorm and softmax"])
def test_each_kind_meets_the_implicit_gradient_at_its_rate(name):
    ham, clamp = HAMS[name]
    exact = gradient(ham, states(ham), clamp, hamux.Implicit())
    for kind, order in {"one-sided": 1, "centred": 2}.items():
        errors = [
            difference(gradient(ham, states(ham), clamp, hamux.Equilibrium(beta, kind)), exact) for beta in (2e-3, 1e-3)
        ]
        assert errors[-1] < 0.05**order
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", ["saturated tanh", "layernorm, a token clamped"])
def test_points_on_a_circle_meet_it_exponentially(name):
    """At a β at which the centred gradient is off by a tenth of a percent."""
    ham, clamp = HAMS[name]
    exact = gradient(ham, states(ham), clamp, hamux.Implicit())
    errors = {
        points: difference(gradient(ham, states(ham), clamp, hamux.Equilibrium(0.01, "holomorphic", points)), exact)
        for points in (2, 4, 6)
    }
    centred = difference(gradient(ham, states(ham), clamp, hamux.Equilibrium(0.01)), exact)
    assert errors[2] == pytest.approx(centred, rel=1e-3)
    assert errors[2] > 50 * errors[4] > 2500 * errors[6]


ANALYTIC = ["lagr_identity", "lagr_exp", "lagr_tanh", "lagr_sigmoid", "lagr_softmax", "lagr_ghostmax", "lagr_layernorm"]
ANALYTIC += ["lagr_spherical_norm"]


@pytest.mark.parametrize("name", ANALYTIC)
def test_what_is_declared_analytic_is(name):
    """L and its activation at complex states meet the conditions of Cauchy and Riemann."""
    lagrangian = getattr(hamux, name)
    assert hamux.declared(lagrangian, "analytic")
    rng = np.random.default_rng(0)
    for x in (rng.normal(size=5), 3 * rng.normal(size=5)):
        z, v, h = jnp.asarray(x + 0.2j * rng.normal(size=5)), jnp.asarray(rng.normal(size=5) + 0j), 1e-6
        g = jax.grad(lagrangian, holomorphic=True)
        np.testing.assert_allclose(g(jnp.asarray(x + 0j)), jax.grad(lagrangian)(jnp.asarray(x)), atol=1e-12)
        for way in (h, 1j * h):
            slope = (lagrangian(z + way * v) - lagrangian(z - way * v)) / (2 * way)
            np.testing.assert_allclose(slope, jnp.sum(g(z) * v), atol=1e-7)
            bend = (g(z + way * v) - g(z - way * v)) / (2 * way)
            np.testing.assert_allclose(bend, jax.jvp(g, (z,), (v,))[1], atol=1e-7)


def test_every_lagrangian_is_declared_analytic_or_refused():
    names = [name for name in dir(hamux) if name.startswith("lagr_")]
    assert [name for name in names if hamux.declared(getattr(hamux, name), "analytic")] == sorted(ANALYTIC)
    ham = bilinear()
    rough = hamux.HAM(
        {"a": hamux.Neurons(hamux.lagr_relu, 4), "b": ham.neurons["b"]},
        {"s": ham.synapses["s"], "m": hamux.HopfieldSynapse(jr.key(0), 3, 5)},
        [*ham.connections, (("b",), "m")],
    )
    with pytest.raises(ValueError, match='no holomorphic gradient: layer "a", synapse "m" is not declared analytic'):
        hamux.equilibrium_gradient(distance, rough, states(ham), beta=0.1, kind="holomorphic")


def test_a_synapse_learns_from_the_activations_of_its_own_layers():
    """ΔW = −(g_a g_bᵀ at β less that at −β)/2β, with the loss as a nudge of E."""
    ham, xs, beta = bilinear(), states(bilinear()), 0.05
    pull = jax.grad(distance)(ham.activations(hamux.relax(ham, xs, **EXACT).xs))

    class Nudge(hamux.Module):
        c: jax.Array

        def __call__(self, g):
            return jnp.sum(self.c * g)

    def products(beta):
        nudges = {f"to {name}": Nudge(beta * c) for name, c in pull.items()}
        connections = [*ham.connections, *(((name,), f"to {name}") for name in pull)]
        nudged = hamux.HAM(ham.neurons, ham.synapses | nudges, connections)
        gs = ham.activations(hamux.relax(nudged, hamux.relax(ham, xs, **EXACT).xs, **EXACT).xs)
        return np.outer(gs["a"], gs["b"])

    value, found = hamux.equilibrium_gradient(distance, ham, xs, beta=beta, **EXACT)
    np.testing.assert_allclose(found.synapses["s"].W, -(products(beta) - products(-beta)) / (2 * beta), atol=1e-9)
    assert float(value) == pytest.approx(float(distance(ham.activations(hamux.relax(ham, xs, **EXACT).xs))))


def test_a_batch_a_clamp_and_a_certified_method():
    ham = bilinear()
    xs = states(ham, bs=3)
    options = {"clamp": {"a": [True, False, True, False]}, "method": hamux.GaussSeidel(), "beta": 0.01, **EXACT}

    def loss(gs):
        return jnp.sum(jnp.stack([distance({name: g[i] for name, g in gs.items()}) for i in range(3)]))

    value, found = hamux.equilibrium_gradient(loss, ham.vectorize(), xs, **options)
    alone = [hamux.equilibrium_gradient(distance, ham, {n: x[i] for n, x in xs.items()}, **options) for i in range(3)]
    assert float(value) == pytest.approx(float(sum(value for value, _ in alone)))
    total = sum(gradient.synapses["s"].W for _, gradient in alone)
    np.testing.assert_allclose(found.unvectorize().synapses["s"].W, total, rtol=1e-7)


def test_parameters_of_the_loss_and_of_the_lagrangians_learn_too():
    ham, clamp = HAMS["tanh"]
    scale = jnp.array(0.7)

    def loss(both, adjoint):
        ham, scale = both
        out = hamux.relax(ham, states(ham), clamp=clamp, adjoint=adjoint, **EXACT)
        gs = ham.activations(out.xs) if out.gs is None else out.gs
        return jnp.sum((scale * gs["a"] - 0.3) ** 2)

    found, exact = (jax.grad(loss)((ham, scale), adjoint) for adjoint in (hamux.Equilibrium(1e-3), hamux.Implicit()))
    assert difference(found, exact) < 1e-4
    beta = exact[0].neurons["a"].lagrangian
    assert float(jnp.abs(jax.tree.leaves(beta)[0])) > 1e-3


def test_half_precision_has_gradients_of_its_dtype():
    ham, xs = (jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), each) for each in (bilinear(), states(bilinear())))
    _, found = hamux.equilibrium_gradient(distance, ham, xs, beta=0.3, tol=1e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}


def test_what_has_no_gradient_says_so():
    ham, xs = bilinear(), states(bilinear())

    def by(part):
        return jax.grad(lambda ham: jnp.sum(part(hamux.relax(ham, xs, adjoint=hamux.Equilibrium(0.1)))))(ham)

    with pytest.raises(RuntimeError, match="no gradient by xs, only by gs"):
        by(lambda out: out.xs["a"])
    with pytest.raises(RuntimeError, match="no gradient by energies, only by gs"):
        by(lambda out: out.energies)
    with pytest.raises(ValueError, match="Equilibrium needs the fixed point that relax comes to"):
        hamux.descend(ham, xs, steps=3, adjoint=hamux.Equilibrium(0.1))
    assert hamux.relax(ham, xs).gs is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta is 0.0; it must be finite and greater than 0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"kind": "sideways"}, "kind is 'sideways'; it is one of"),
        ({"points": 4}, 'points is 4, but the kind is "centred"'),
        ({"points": 1, "kind": "holomorphic"}, "points is 1; at least two lie on a circle"),
        ({"loss": lambda gs: jnp.array(2.0)}, "the loss does not depend on the activations"),
        ({"loss": lambda gs: jnp.zeros_like(gs["a"]).sum()}, "the loss does not depend on the activations"),
    ],
)
def test_bad_arguments(options, message):
    given = {"loss": distance, "beta": 0.1} | options
    with pytest.raises(ValueError, match=message):
        hamux.equilibrium_gradient(given.pop("loss"), bilinear(), states(bilinear()), **given)


def test_contrastive_learning_compares_what_is_taught_with_what_is_free():
    ham, xs = bilinear(), states(bilinear())
    held, taught = {"a": [True, True, False, False]}, {"b": True}
    found, gradient = hamux.contrastive_gradient(ham, xs, taught, clamp=held, **EXACT)
    free = hamux.relax(ham, xs, clamp=held, **EXACT).xs
    ends = [free, hamux.relax(ham, free | {"b": xs["b"]}, clamp=held | taught, **EXACT).xs]
    gs = [ham.activations(end) for end in ends]
    np.testing.assert_allclose(found, ham.energy(gs[1], ends[1]) - ham.energy(gs[0], ends[0]), rtol=1e-9)
    outer = [np.outer(g["a"], g["b"]) for g in gs]
    np.testing.assert_allclose(gradient.synapses["s"].W, outer[0] - outer[1], atol=1e-9)
    batched = hamux.contrastive_gradient(
        ham.vectorize(), {name: jnp.stack([x, x]) for name, x in xs.items()}, taught, clamp=held, **EXACT
    )
    np.testing.assert_allclose(batched[0], 2 * found)


def test_a_small_network_learns_a_table():
    """The exclusive or of two clamped units, by one unit that reads eight hidden ones."""
    table = jnp.array([[-1.0, -1, -1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    layers = {"in": hamux.Neurons(hamux.lagr_identity, 2), "out": hamux.Neurons(hamux.lagr_tanh, 1)}
    layers["hidden"] = hamux.Neurons(hamux.lagr_tanh, 8)
    synapses = {"up": hamux.DenseSynapse(jr.key(0), 2, 8), "on": hamux.DenseSynapse(jr.key(1), 8, 1)}
    synapses["bias"] = hamux.BiasSynapse(jr.key(2), (8,))
    connections = [(("in", "hidden"), "up"), (("hidden", "out"), "on"), (("hidden",), "bias")]
    ham = jax.tree.map(lambda leaf: 30 * leaf, hamux.HAM(layers, synapses, connections))
    xs = ham.init_states(4) | {"in": table[:, :2]}

    @eqx.filter_jit
    def step(ham):
        def loss(gs):
            return jnp.sum((gs["out"][:, 0] - table[:, 2]) ** 2)

        value, gradient = hamux.equilibrium_gradient(loss, ham.vectorize(), xs, beta=0.1, clamp={"in": True}, tol=1e-6)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, ham, gradient.unvectorize())

    losses = []
    for _ in range(60):
        value, ham = step(ham)
        losses.append(float(value))
    assert losses[-1] < 0.1 < 1 < losses[0]
