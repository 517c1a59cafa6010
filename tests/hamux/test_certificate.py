"""Certificates: what is certified never rises, what is not does, and the reason is given."""

import re
from functools import partial

import diffrax
import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from jax.tree_util import Partial

import hamux
from hamux import Neurons

SOFTMAX = Partial(hamux.lagr_softmax, beta=2.0)
TANH = Partial(hamux.lagr_tanh, beta=1.5)
REPU = Partial(hamux.lagr_repu, n=3)
SIGMOID = Partial(hamux.lagr_sigmoid, beta=2.0, scale=1.5)
KEY = jr.key(0)


def hopfield(*dims, memories=3, lagrangian=SOFTMAX):
    return hamux.HopfieldSynapse(KEY, dims, memories, lagrangian)


def ham(synapses, **neurons):
    """Synapses as `((layers), synapse)`."""
    named = {f"s{i}": synapse for i, (_, synapse) in enumerate(synapses)}
    return hamux.HAM(neurons, named, [(layers, f"s{i}") for i, (layers, _) in enumerate(synapses)])


def one(lagrangian, synapse, shape=4, leak=1.0):
    return ham([(("x",), synapse)], x=Neurons(lagrangian, shape, leak=leak))


class Declared(eqx.Module):
    """A synapse of a user's own, concave, and saying so."""

    curvature: float = eqx.field(static=True, default=0.0)

    def __call__(self, g):
        return -jnp.sum(g**2)


# Of each kind that `Explicit` is certified for: the HAM, and the dt that it is certified up to while tau is 1.
CONCAVE = {
    "identity, relu": (one(hamux.lagr_identity, hopfield(4, lagrangian=hamux.lagr_relu)), 1.0),
    "relu, softmax": (one(hamux.lagr_relu, hopfield(4)), 1.0),
    "tanh, softmax": (one(TANH, hopfield(4)), 1.0),
    "sigmoid, relu": (one(SIGMOID, hopfield(4, lagrangian=hamux.lagr_relu)), 1.0),
    "softmax, repu": (one(SOFTMAX, hopfield(4, lagrangian=REPU)), 1.0),
    "ghostmax, sigmoid": (one(hamux.lagr_ghostmax, hopfield(4, lagrangian=SIGMOID)), 1.0),
    "layernorm, exp": (one(hamux.lagr_layernorm, hopfield(4, lagrangian=hamux.lagr_exp)), 1.0),
    "spherical norm, tanh": (one(hamux.lagr_spherical_norm, hopfield(4, lagrangian=TANH)), 1.0),
    "rexp, softmax": (one(hamux.lagr_rexp, hopfield(4)), 1.0),
    "leak 2": (one(TANH, hopfield(4), leak=2.0), 0.5),
    "leak 1/2": (one(SOFTMAX, hopfield(4), leak=0.5), 2.0),
    "leak 0, tokens": (one(hamux.lagr_layernorm, hopfield(4, lagrangian=hamux.lagr_relu), (2, 4), 0.0), np.inf),
    "gaussian": (one(hamux.lagr_identity, hamux.KernelSynapse(KEY, 4, 3, beta=2.0), leak=0.0), 1.0),
    "gaussian, leak 1": (one(hamux.lagr_relu, hamux.KernelSynapse(KEY, 4, 3, beta=2.0)), 0.5),
    "planes": (one(hamux.lagr_identity, hamux.PlaneSynapse(KEY, 4, 3, 2), leak=0.0), 1.0),
    "planes, leak 1": (one(hamux.lagr_relu, hamux.PlaneSynapse(KEY, 4, 3, 1)), 0.5),
    "bias": (one(hamux.lagr_sigmoid, hamux.BiasSynapse(KEY, 4)), 1.0),
    "of one's own": (one(TANH, Declared()), 1.0),
    "two layers at one synapse": (
        ham([(("a", "b"), hopfield(4, 3))], a=Neurons(TANH, 4), b=Neurons(SOFTMAX, 3, leak=4.0)),
        0.25,
    ),
    "one layer twice": (ham([(("a", "a"), hopfield(4, 4)), (("a",), hopfield(4))], a=Neurons(TANH, 4)), 1.0),
}
# And for `GaussSeidel`.
LINEAR_IN_BLOCKS = {
    "tanh, softmax": ham([(("a", "b"), hamux.DenseSynapse(KEY, 4, 3))], a=Neurons(TANH, 4), b=Neurons(SOFTMAX, 3)),
    "three layers at one synapse": ham(
        [(("a", "b", "c"), hamux.DenseSynapse(KEY, 4, 3, 2)), (("a",), hamux.BiasSynapse(KEY, 4))],
        a=Neurons(hamux.lagr_layernorm, 4),
        b=Neurons(TANH, (2, 3), leak=0.5),
        c=Neurons(SIGMOID, 2, leak=2.0),
    ),
    "a chain with a convolution": ham(
        [
            (("image", "patch"), hamux.ConvSynapse(KEY, 3, 1, (2, 2), (2, 2))),
            (("patch", "hidden"), hamux.DenseSynapse(KEY, 3, 2)),
        ],
        image=Neurons(TANH, (4, 4, 1)),
        patch=Neurons(hamux.lagr_spherical_norm, (2, 2, 3)),
        hidden=Neurons(SOFTMAX, 2),
    ),
}


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def descent(seed, size, ham, method, tau):
    """The energies of a retrieval with parameters and states drawn anew, and how large the terms are that they sum."""
    keys = iter(jr.split(jr.key(seed), 20))
    ham = jax.tree.map(lambda leaf: size * jr.normal(next(keys), leaf.shape) if leaf.ndim else leaf, ham)
    xs = jax.tree.map(lambda x: 3 * x, ham.init_states(key=next(keys)))
    out = hamux.descend(ham, xs, steps=6, method=method, tau=tau, trajectory=True)
    gs = jax.vmap(ham.activations)(out.trajectory)
    terms = jax.tree.leaves(
        (jax.vmap(ham.energy_tree)(gs, out.trajectory), jax.tree.map(jnp.multiply, gs, out.trajectory))
    )
    return out.energies, sum(jnp.sum(jnp.max(jnp.abs(term), axis=0)) for term in terms)


def assert_never_rises(energies, terms):
    assert np.isfinite(energies).all()
    assert np.max(np.diff(energies)) <= 1e-14 * terms


@pytest.mark.slow
@settings(max_examples=200)
@given(
    st.sampled_from(list(CONCAVE)), st.integers(0, 2**32 - 1), st.floats(0.01, 2), st.floats(0.01, 1), st.floats(0.1, 9)
)
def test_explicit_steps_never_rise_up_to_the_dt_that_is_certified(name, seed, size, fraction, tau):
    ham, max_dt = CONCAVE[name]
    max_dt = tau * min(max_dt, 100)
    times = {layer: tau * (1 + i) for i, layer in enumerate(ham.neurons)}
    certificate = hamux.certify(ham, hamux.Explicit(fraction * max_dt), tau=times)
    assert certificate
    assert certificate.max_dt >= max_dt
    assert_never_rises(*descent(seed, size, ham, hamux.Explicit(fraction * max_dt), times))


@pytest.mark.slow
@settings(max_examples=100)
@given(
    st.sampled_from(list(LINEAR_IN_BLOCKS)),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 5),
    st.booleans(),
    st.sampled_from([1.0, 0.5, 1.9]),
)
def test_updates_of_blocks_never_rise(name, seed, size, in_random_order, dt):
    ham = LINEAR_IN_BLOCKS[name]
    method = hamux.GaussSeidel(key=jr.key(seed) if in_random_order else None, dt=dt)
    assert hamux.certify(ham, method)
    assert_never_rises(*descent(seed, size, ham, method, None))


@pytest.mark.parametrize(("ham", "max_dt"), CONCAVE.values(), ids=CONCAVE)
def test_the_largest_dt(ham, max_dt):
    """`certify` says it; half of τ halves it; what is clamped whole does not count."""
    assert hamux.certify(ham, hamux.Explicit(1e-3)).max_dt == max_dt
    assert hamux.certify(ham, hamux.Explicit(1e-3), tau=dict.fromkeys(ham.neurons, 0.5)).max_dt == max_dt / 2
    assert hamux.certify(ham, hamux.Explicit(7.0), clamp=dict.fromkeys(ham.neurons, True)).max_dt == np.inf
    if np.isfinite(max_dt):
        beyond = hamux.certify(ham, hamux.Explicit(1.01 * max_dt))
        assert not beyond
        assert beyond.max_dt == max_dt
        assert "dt is" in str(beyond)


def scaled(ham, size=100.0):
    return jax.tree.map(lambda leaf: size * leaf if leaf.ndim > 1 else leaf, ham)


def attention(seed):
    return scaled(one(hamux.lagr_layernorm, hamux.AttentionSynapse(jr.key(seed), 4, 2, 2), (3, 4)))


def bilinear(seed, lagrangian=TANH):
    neurons = {"a": Neurons(lagrangian, 4), "b": Neurons(TANH, 3)}
    return scaled(ham([(("a", "b"), hamux.DenseSynapse(jr.key(seed), 4, 3))], **neurons))


def layer_norm(seed):
    return scaled(one(hamux.lagr_layernorm, hamux.HopfieldSynapse(jr.key(seed), 4, 3, SOFTMAX)))


def rim():
    """One Epanechnikov memory at 0, reaching to √2."""
    return one(hamux.lagr_identity, hamux.KernelSynapse(KEY, 4, 1, "epanechnikov").store(jnp.zeros((1, 4))), leak=0.0)


HALF = np.array([True, True, False, False])
# What is not certified: a HAM, a method, a clamp, the seed of the states, and why not.
UNCERTIFIED = {
    "two layers at once": (bilinear(0), hamux.Explicit(1.0), {}, 1, 'synapse "s0" on .* declares no curvature'),
    "attention": (attention(23), hamux.Explicit(1.0), {}, 123, "declares no curvature"),
    "epanechnikov": (rim(), hamux.Explicit(1.0), {}, 3, "declares no curvature"),
    "of one's own": (one(TANH, lambda g: jnp.sum(9 * g**4)), hamux.Explicit(1.0), {}, 1, "declares no curvature"),
    "dt too large": (scaled(one(TANH, hopfield(4))), hamux.Explicit(3.0), {}, 1, "dt is 3.0"),
    "a schedule": (scaled(one(TANH, hopfield(4))), hamux.Explicit(lambda step: 3.0), {}, 1, "not known beforehand"),
    "distances and a leak": (
        one(hamux.lagr_identity, hamux.KernelSynapse(KEY, 4, 1)),
        hamux.Explicit(1.5),
        {},
        1,
        "dt is 1.5",
    ),
    "distances and no Lipschitz constant": (
        one(Partial(hamux.lagr_tanh, beta=8.0), hamux.KernelSynapse(KEY, 4, 1)),
        hamux.Explicit(0.5),
        {},
        1,
        "no Lipschitz constant",
    ),
    "a layer norm clamped in part": (
        layer_norm(45),
        hamux.Explicit(1.0),
        {"x": HALF},
        145,
        'layer "x" is clamped in part',
    ),
    "a softmax clamped in part": (
        bilinear(33, SOFTMAX),
        hamux.GaussSeidel(),
        {"a": HALF},
        133,
        'layer "a" is clamped in part',
    ),
    "momentum": (scaled(one(TANH, hopfield(4))), hamux.Momentum(1.0, 0.95), {}, 1, "Momentum does not look"),
    "noise": (scaled(one(TANH, hopfield(4))), hamux.Langevin(KEY, 1.0), {}, 1, "Langevin does not look"),
    "a coarse solver": (bilinear(0), hamux.ODE(diffrax.Heun(), 20.0, rtol=10, atol=10), {}, 1, "ODE does not look"),
}


@pytest.mark.parametrize(("ham", "method", "clamp", "seed", "reason"), UNCERTIFIED.values(), ids=UNCERTIFIED)
def test_what_is_not_certified_rises(ham, method, clamp, seed, reason, monkeypatch):
    certificate = hamux.certify(ham, method, clamp=clamp)
    assert not certificate
    assert re.search(reason, str(certificate))
    monkeypatch.setattr(hamux.GaussSeidel, "prepare", hamux.Method.prepare)  # which would refuse
    xs = ham.init_states(key=jr.key(seed))
    energies = hamux.descend(ham, xs, steps=20, method=method, clamp=clamp).energies
    assert np.nanmax(np.diff(energies)) > 0.1


@pytest.mark.parametrize("method", [hamux.Backtracking(), hamux.Anderson()], ids=["backtracking", "anderson"])
@pytest.mark.parametrize("name", [name for name in UNCERTIFIED if "clamped" not in name])
def test_a_safeguard_goes_down_where_nothing_is_certified(name, method):
    ham, _, _, seed, _ = UNCERTIFIED[name]
    assert hamux.certify(ham, method)
    out = hamux.relax(ham, ham.init_states(key=jr.key(seed)), method=method, max_steps=50)
    assert out.steps > 0
    assert np.max(np.diff(out.energies)) <= 1e-13 * (1 + np.max(np.abs(out.energies)))


DEFAULTS = {
    "concave": (CONCAVE["leak 2"][0], None, hamux.Explicit(0.5)),
    "any dt": (CONCAVE["leak 0, tokens"][0], None, hamux.Explicit(1.0)),
    "linear in blocks": (bilinear(0), None, hamux.GaussSeidel()),
    "half of a softmax clamped": (bilinear(33, SOFTMAX), {"a": HALF}, hamux.Backtracking()),
    "half of a tanh clamped": (bilinear(0), {"a": HALF}, hamux.GaussSeidel()),
    "attention": (attention(23), None, hamux.Backtracking()),
    "epanechnikov": (rim(), None, hamux.Backtracking()),
}


@pytest.mark.parametrize(("ham", "clamp", "method"), DEFAULTS.values(), ids=DEFAULTS)
def test_relax_takes_the_method_that_is_certified(ham, clamp, method):
    xs = ham.init_states(key=jr.key(3))
    by_default = hamux.relax(ham, xs, clamp=clamp, max_steps=20)
    np.testing.assert_array_equal(
        by_default.energies, hamux.relax(ham, xs, clamp=clamp, max_steps=20, method=method).energies
    )
    assert np.max(np.diff(by_default.energies)) <= 1e-13 * (1 + np.max(np.abs(by_default.energies)))


def of_ones_own(x):
    return jnp.sum(x**2)


of_ones_own.convex = True


def tokens(lagrangian):
    return one(lagrangian, hopfield(4), (2, 4))


@pytest.mark.parametrize(
    ("ham", "mask", "certified"),
    [
        (tokens(hamux.lagr_layernorm), np.array([[True] * 4, [False] * 4]), True),
        (tokens(hamux.lagr_layernorm), np.array([[True] * 4, [True] + [False] * 3]), False),
        (tokens(Partial(hamux.lagr_softmax, axis=0)), np.array([[True, False, True, False]] * 2), True),
        (tokens(Partial(hamux.lagr_softmax, axis=0)), np.array([[True] * 4, [False] * 4]), False),
        (tokens(Partial(hamux.lagr_softmax, axis=(0, 1))), np.array([[True] * 4, [False] * 4]), False),
        (tokens(Partial(hamux.lagr_softmax, axis=None)), np.array([[True] * 4, [False] * 4]), False),
        (tokens(TANH), np.array([[True] * 4, [True] + [False] * 3]), True),
        (tokens(of_ones_own), np.array([[True] * 4, [False] * 4]), False),
        (tokens(of_ones_own), True, True),
        (tokens(of_ones_own), False, True),
    ],
    ids=[
        "token",
        "part of a token",
        "token of axis 0",
        "across axis 0",
        "both axes",
        "all axes",
        "elementwise",
        "of one's own",
        "whole",
        "none",
    ],
)
def test_units_that_share_a_lagrangian_are_clamped_together(ham, mask, certified):
    assert bool(hamux.certify(ham, hamux.Explicit(0.1), clamp={"x": mask})) == certified
    if np.ndim(mask):
        in_a_batch = np.stack([mask, np.ones_like(mask)])
        assert bool(hamux.certify(ham.vectorize(), hamux.Explicit(0.1), clamp={"x": in_a_batch})) == certified
    certify = jax.jit(lambda mask: jnp.array(bool(hamux.certify(ham, hamux.Explicit(0.1), clamp={"x": mask}))))
    elementwise = hamux.declared(ham.neurons["x"].lagrangian, "elementwise") is True
    assert certify(jnp.asarray(mask)) == (np.ndim(mask) == 0 or elementwise)


def test_a_synapse_is_linear_in_what_is_not_clamped():
    mixed = ham(
        [(("a",), hopfield(4)), (("a", "b"), hamux.DenseSynapse(KEY, 4, 3))], a=Neurons(TANH, 4), b=Neurons(TANH, 3)
    )
    assert not hamux.certify(mixed, hamux.Explicit(1.0))
    assert hamux.certify(mixed, hamux.Explicit(1.0), clamp={"b": True}).max_dt == 1


def test_what_a_certificate_is_asked_for_is_checked():
    for options, message in [
        ({"clamp": {"z": True}}, "clamp names ['z']; this HAM has ['a', 'b']"),
        ({"tau": {"a": -1.0}}, 'tau["a"] is -1.0; it must be finite and greater than 0'),
        ({"clamp": {"a": np.ones(3, bool)}}, 'clamp["a"] is bool[3]; expected True or bool[4]'),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            hamux.certify(bilinear(0), hamux.GaussSeidel(), **options)
    with pytest.raises(ValueError, match=r"beta is -1.0; it must be finite and greater than 0"):
        hamux.KernelSynapse(KEY, 4, 3, beta=-1.0)

    @jax.jit
    def traced(dt):
        certificate = hamux.certify(CONCAVE["leak 2"][0], hamux.Explicit(dt))
        assert (certificate.descends, certificate.max_dt) == (False, 0.5)
        return dt

    traced(0.1)


def test_a_certificate_reads_as_text():
    assert str(hamux.certify(CONCAVE["leak 2"][0], hamux.Explicit(0.1))).startswith("descent is certified for dt ≤ 0.5")
    text = str(hamux.certify(bilinear(0), hamux.Explicit(0.1)))
    assert text.startswith("descent is not certified\n- synapse")


def hopfield_layer(lagrangian, **parameters):
    return one(Partial(lagrangian, **parameters), hopfield(4), leak=0.5)


# HAMs of which every scalar parameter is drawn: some draws are certified, others are not.
DRAWN = {
    "softmax": hopfield_layer(hamux.lagr_softmax, beta=1.0),
    "sigmoid": hopfield_layer(hamux.lagr_sigmoid, beta=1.0, scale=1.0),
    "layernorm": hopfield_layer(hamux.lagr_layernorm, gamma=1.0),
    "repu": hopfield_layer(hamux.lagr_repu, n=2.0),
    "gaussian": one(hamux.lagr_identity, hamux.KernelSynapse(KEY, 4, 3), leak=0.0),
    "epanechnikov": one(hamux.lagr_identity, hamux.KernelSynapse(KEY, 4, 3, "epanechnikov"), leak=0.0),
    "gaussian in a subspace": one(
        hamux.lagr_identity, hamux.SubspaceSynapse(KEY, 4, 2, hamux.KernelSynapse(KEY, 2, 3)), leak=0.0
    ),
    "blocks": bilinear(0, SOFTMAX),
    "a pool": ham(
        [(("a", "b"), hamux.PoolSynapse((2,), pool="max"))], a=Neurons(TANH, (4, 2)), b=Neurons(SOFTMAX, (2, 2))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_the_default_never_rises_and_is_the_same_eager_and_jitted(name):
    shape = DRAWN[name]
    jitted = jax.jit(partial(hamux.relax, max_steps=12))
    by_steps = jax.jit(partial(hamux.descend, steps=12, method=hamux.Certified()))

    @settings(max_examples=25)
    @given(st.integers(0, 2**32 - 1))
    def check(seed):
        draw = np.random.default_rng(seed)
        sign = draw.choice([-1, 1])
        ham = jax.tree.map(lambda leaf: jnp.asarray((1 if leaf.ndim else sign) * draw.normal(size=leaf.shape)), shape)
        xs = {name: jnp.asarray(draw.normal(size=x.shape)) for name, x in ham.init_states().items()}
        if name == "repu" and ham.neurons["x"].lagrangian.keywords["n"] < 1:
            xs = {name: 1 + abs(x) for name, x in xs.items()}  # 0 to a negative power is not finite
        eager = hamux.relax(ham, xs, max_steps=12)
        for out in (eager, jitted(ham, xs), by_steps(ham, xs)):
            finite = out.energies[np.isfinite(out.energies)]
            assert np.max(np.diff(finite), initial=0) <= 1e-13 * (1 + np.max(np.abs(finite)))
        alike = jitted(ham, xs)
        assert (eager.steps, eager.reason) == (alike.steps, alike.reason)
        np.testing.assert_allclose(eager.energies, alike.energies, rtol=1e-9, atol=1e-11)

    check()


def test_a_certificate_names_the_parameter_that_stands_in_the_way():
    negative = one(Partial(hamux.lagr_tanh, beta=-1.0), hopfield(4, lagrangian=Partial(hamux.lagr_softmax, beta=-2.0)))
    text = str(hamux.certify(negative, hamux.Explicit(0.1)))
    assert 'layer "x": beta is -1.0, its Lagrangian is not convex' in text
    assert "synapse \"s0\" on ('x',): beta is -2.0, its energy need not be concave" in text
    assert hamux.certify(negative, hamux.Explicit(0.1), clamp={"x": True})
    assert 'layer "x": gamma is -0.5' in str(
        hamux.certify(one(Partial(hamux.lagr_layernorm, gamma=-0.5), hopfield(4)), hamux.GaussSeidel())
    )
    assert "does not declare itself convex" in str(hamux.certify(tokens(lambda x: jnp.sum(x**2)), hamux.Explicit(0.1)))

    def certify(ham):
        return jnp.array([bool(hamux.certify(ham, method)) for method in (hamux.Explicit(0.1), hamux.Certified())])

    np.testing.assert_array_equal(jax.jit(certify)(negative), [False, True])
    reasons = []
    jax.jit(lambda ham: reasons.extend(hamux.certify(ham, hamux.Explicit(0.1)).reasons))(negative)
    assert reasons[0] == 'layer "x": beta is being traced, its Lagrangian need not be convex'


def test_what_is_closed_over_is_known_within_jit():
    """Parameters that are there decide there, too, those of a Module of one's own included."""

    class Soft(eqx.Module):
        beta: float

        @property
        def convex(self):
            return self.beta > 0

        def __call__(self, x):
            return hamux.lagr_softmax(x, self.beta)

    ham = one(Soft(2.0), hopfield(4))
    certified = []
    jax.jit(lambda x: certified.append(hamux.certify(ham, hamux.Explicit(1.0))) or x)(1.0)
    assert certified == [hamux.certify(ham, hamux.Explicit(1.0))]
    assert certified[0]
    assert not hamux.certify(one(Soft(-2.0), hopfield(4)), hamux.Explicit(1.0))


@pytest.mark.parametrize("held", ["all", "none", "half"])
@pytest.mark.parametrize("lagrangian", [TANH, SOFTMAX], ids=["tanh", "softmax"])
def test_a_clamp_is_the_same_however_it_is_given(held, lagrangian):
    ham = bilinear(3, lagrangian)
    mask = {"all": np.ones(4, bool), "none": np.zeros(4, bool), "half": HALF}[held]
    xs = ham.init_states(key=jr.key(5))
    run = partial(hamux.relax, ham, xs, max_steps=20)
    expected = run(clamp={"a": mask})
    given = [jnp.asarray(mask), list(mask)] + ([bool(mask[0])] if held != "half" else [])
    for out in [*(run(clamp={"a": clamp}) for clamp in given), jax.jit(lambda mask: run(clamp={"a": mask}))(mask)]:
        assert (out.steps, out.reason) == (expected.steps, expected.reason)
        np.testing.assert_allclose(out.energies, expected.energies, rtol=1e-12, atol=1e-12)


def test_the_choice_between_methods_stays_a_branch_under_vmap():
    ham = DRAWN["softmax"]
    batch = ham.init_states(3, key=KEY)
    text = str(jax.make_jaxpr(lambda ham: jax.vmap(partial(hamux.relax, ham, max_steps=5))(batch))(ham))
    assert "cond[" in text
    hams = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), ham)
    xs = {"x": batch["x"][0]}
    together = jax.vmap(lambda ham: hamux.relax(ham, xs, max_steps=5).energies)(hams)
    for i in range(2):
        alone = hamux.relax(jax.tree.map(lambda leaf, i=i: leaf[i], hams), xs, max_steps=5).energies
        np.testing.assert_allclose(together[i], alone, rtol=1e-12)
