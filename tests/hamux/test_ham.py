"""The hypergraph: its energy and gradient, what jax sees of it, batches, and its errors."""

import re
import sys
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import hamux


@jax.jit
def build(seed):
    """Four layers; connections of one, two, three and four of them; a shared synapse and a repeated layer."""
    keys = jr.split(jr.key(seed), 5)
    return hamux.HAM(
        neurons={
            "image": hamux.Neurons(Partial(hamux.lagr_tanh, beta=0.7), 4),
            "copy": hamux.Neurons(hamux.lagr_identity, 4, leak=0.5),
            "memory": hamux.Neurons(Partial(hamux.lagr_softmax, beta=2.0), 3),
            "label": hamux.Neurons(hamux.lagr_sigmoid, 2, leak=0.0),
        },
        synapses={
            "bias": hamux.BiasSynapse(keys[0], 4),
            "recall": hamux.DenseSynapse(keys[1], 4, 3),
            "self": hamux.DenseSynapse(keys[2], 4, 4),
            "three": hamux.DenseSynapse(keys[3], 4, 3, 2),
            "four": hamux.DenseSynapse(keys[4], 4, 4, 3, 2),
        },
        connections=[
            (("image",), "bias"),
            (("image", "memory"), "recall"),
            (("copy", "memory"), "recall"),
            (("image", "image"), "self"),
            (("copy", "memory", "label"), "three"),
            (("image", "copy", "memory", "label"), "four"),
        ],
    )


@pytest.fixture(scope="module")
def ham():
    return build(0)


@pytest.fixture(scope="module")
def xs(ham):
    return ham.init_states(key=jr.key(1))


@pytest.fixture(scope="module")
def gs(ham, xs):
    return ham.activations(xs)


def retrieval_energy(ham, xs):
    return ham.energy(ham.activations(xs), xs)


def test_counts(ham):
    for one in (ham, ham.vectorize()):
        assert (one.n_neurons, one.n_synapses, one.n_connections) == (4, 5, 6)
        assert (one.neurons, one.synapses, one.connections) == (ham.neurons, ham.synapses, ham.connections)


def test_neuron_energies_are_those_of_the_layers(ham, gs, xs):
    energies = ham.neuron_energies(gs, xs)
    assert energies.keys() == ham.neurons.keys()
    for name, layer in ham.neurons.items():
        np.testing.assert_allclose(energies[name], layer.energy(gs[name], xs[name]), rtol=1e-12)


def test_connection_energies_are_those_of_the_synapses_in_order(ham, gs):
    image, copy, memory, label = (np.asarray(gs[name]) for name in ("image", "copy", "memory", "label"))
    synapses = ham.synapses
    expected = [
        -image @ synapses["bias"].b,
        -image @ synapses["recall"].W @ memory,
        -copy @ synapses["recall"].W @ memory,
        -image @ synapses["self"].W @ image,
        -np.einsum("i,j,k,ijk", copy, memory, label, synapses["three"].W),
        -np.einsum("i,j,k,l,ijkl", image, copy, memory, label, synapses["four"].W),
    ]
    np.testing.assert_allclose(ham.connection_energies(gs), expected, rtol=1e-10)


def test_the_energy_is_the_sum_of_its_parts(ham, gs, xs):
    tree = ham.energy_tree(gs, xs)
    assert tree.keys() == {"neurons", "connections"}
    assert jax.tree.structure(tree["neurons"]) == jax.tree.structure(ham.neuron_energies(gs, xs))
    np.testing.assert_array_equal(tree["connections"], ham.connection_energies(gs))
    np.testing.assert_allclose(ham.energy(gs, xs), sum(jax.tree.leaves(tree)), rtol=1e-12)


def test_dEdg_is_the_gradient_of_the_energy(ham, gs, xs, gradients):
    _, by_autograd, differences = gradients(lambda gs: ham.energy(gs, xs), gs)
    dEdg = ham.dEdg(gs, xs)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), dEdg, by_autograd)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), dEdg, differences)


def test_dEdg_can_bring_the_energy(ham, gs, xs):
    energy, gradient = ham.dEdg(gs, xs, return_energy=True)
    np.testing.assert_allclose(energy, ham.energy(gs, xs), rtol=1e-12)
    np.testing.assert_array_equal(ravel_pytree(gradient)[0], ravel_pytree(ham.dEdg(gs, xs))[0])


def test_without_connections_dEdg_is_leak_times_the_state():
    ham = hamux.HAM({"a": hamux.Neurons(hamux.lagr_tanh, 3, leak=0.25)}, {}, [])
    xs = {"a": jnp.array([1.0, -2.0, 3.0])}
    np.testing.assert_array_equal(ham.dEdg(ham.activations(xs), xs)["a"], 0.25 * xs["a"])


def test_leaves_are_arrays_alone(ham):
    assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(ham))


def small(seed):
    softmax = Partial(hamux.lagr_softmax, beta=2.0, axis=-1)
    return hamux.HAM(
        {"image": hamux.Neurons(hamux.lagr_tanh, 4), "memory": hamux.Neurons(softmax, 3)},
        {"recall": hamux.DenseSynapse(jr.key(seed), 4, 3)},
        [(("image", "memory"), "recall")],
    )


def test_equal_builds_have_equal_structure():
    assert jax.tree.structure(small(0)) == jax.tree.structure(small(1))
    assert hash(jax.tree.structure(small(0))) == hash(jax.tree.structure(small(1)))


@pytest.mark.parametrize("vectorized", [False, True])
def test_the_static_part_has_a_hash(vectorized):
    first, second = (eqx.partition(small(seed), eqx.is_array)[1] for seed in (0, 1))
    if vectorized:
        first, second = first.vectorize(), second.vectorize()
    assert not jax.tree.leaves(first)
    assert first == second
    assert hash(first) == hash(second)


def test_equal_builds_share_one_compilation():
    traces = []

    @jax.jit
    def energy(ham, xs):
        traces.append(ham)
        return retrieval_energy(ham, xs)

    xs = small(0).init_states(key=jr.key(0))
    assert energy(small(0), xs) != energy(small(1), xs)
    assert len(traces) == 1


def test_plain_jit_takes_a_ham(ham, xs):
    energy = jax.jit(lambda ham, xs: ham.energy(ham.activations(xs), xs))(ham, xs)
    np.testing.assert_allclose(energy, retrieval_energy(ham, xs), rtol=1e-12)


def test_plain_grad_takes_a_ham(ham, xs, gradients):
    _, by_autograd, differences = gradients(lambda ham: retrieval_energy(ham, xs), ham)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), by_autograd, differences)


def test_plain_vmap_takes_a_stack_of_hams(xs):
    hams = [build(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *hams)
    energies = jax.jit(jax.vmap(retrieval_energy, in_axes=(0, None)))(stacked, xs)
    np.testing.assert_allclose(energies, [jax.jit(retrieval_energy)(ham, xs) for ham in hams], rtol=1e-12)


def test_an_empty_batch(ham):
    """Has no examples, by every method, eager and jitted; a batch of None is one example."""
    together = ham.vectorize()
    xs = together.init_states(0, key=jr.key(0))
    assert {name: x.shape for name, x in xs.items()} == {name: (0, *n.shape) for name, n in ham.neurons.items()}
    gs = together.activations(xs)
    for out in (all_methods(together, xs, gs), together.energy_tree(gs, xs), jax.jit(together.energy)(gs, xs)):
        assert {leaf.shape[0] for leaf in jax.tree.leaves(out)} == {0}
    assert hamux.relax(together, xs, max_steps=2).xs["image"].shape == (0, 4)


def test_jit_takes_a_method(ham, xs, gs):
    """Of the HAM, of a batch of them, and of its parts; what it compiled is not taken for another HAM."""
    np.testing.assert_allclose(jax.jit(ham.energy)(gs, xs), ham.energy(gs, xs), rtol=1e-12)
    batch = {name: x[None] for name, x in xs.items()}
    np.testing.assert_allclose(jax.jit(ham.vectorize().activations)(batch)["memory"][0], gs["memory"], rtol=1e-12)
    layer, synapse = ham.neurons["memory"], ham.synapses["recall"]
    np.testing.assert_allclose(jax.jit(layer.activations)(xs["memory"]), gs["memory"], rtol=1e-12)
    assert jax.jit(synapse)(gs["image"], gs["memory"]) == synapse(gs["image"], gs["memory"])
    others = jax.tree.map(lambda leaf: 2 * leaf, ham)
    np.testing.assert_allclose(jax.jit(others.energy)(gs, xs), others.energy(gs, xs), rtol=1e-12)

    with pytest.raises(TypeError, match=r"the arrays of this HAM are being traced; .* or use eqx.filter_jit"):
        jax.jit(lambda ham: jax.jit(ham.energy)(gs, xs))(ham)
    jax.jit(lambda ham: eqx.filter_jit(ham.energy)(gs, xs))(ham)


@pytest.mark.parametrize("vectorized", [False, True])
def test_init_states_are_zeros_or_random_with_a_key(ham, vectorized):
    ham = ham.vectorize() if vectorized else ham
    for bs, leading in [(None, ()), (5, (5,))]:
        for key in (None, jr.key(0)):
            states = ham.init_states(bs, key=key)
            assert {name: x.shape for name, x in states.items()} == {
                name: leading + layer.shape for name, layer in ham.neurons.items()
            }
            values = ravel_pytree(states)[0]
            assert len(np.unique(values)) == (1 if key is None else values.size)
            assert key is not None or not values.any()


@jax.jit
def all_methods(ham, xs, gs):
    return {
        "activations": ham.activations(xs),
        "energy": ham.energy(gs, xs),
        "energy_tree": ham.energy_tree(gs, xs),
        "neuron_energies": ham.neuron_energies(gs, xs),
        "connection_energies": ham.connection_energies(gs),
        "dEdg": ham.dEdg(gs, xs),
        "dEdg with energy": ham.dEdg(gs, xs, return_energy=True),
    }


def test_vectorized_agrees_with_one_example_at_a_time(ham):
    xs, gs = (jax.tree.map(np.asarray, ham.init_states(3, key=jr.key(seed))) for seed in (2, 3))
    together = all_methods(ham.vectorize(), xs, gs)
    for i in range(3):
        ith = jax.tree.map(lambda values, i=i: np.asarray(values)[i], together)
        alone = all_methods(ham, *({name: x[i] for name, x in states.items()} for states in (xs, gs)))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-14), ith, alone)


def test_vectorize_and_unvectorize_undo_each_other(ham):
    batched = ham.vectorize()
    assert isinstance(batched, hamux.VectorizedHAM)
    assert batched.vectorize() is batched
    assert batched.unvectorize() is ham
    assert ham.unvectorize() is ham


class Overlap(eqx.Module):
    """A synapse of one's own, with a parameter given as a Python number."""

    strength: float
    power: int = eqx.field(static=True, default=2)

    def __call__(self, g1, g2):
        return -self.strength * jnp.sum(g1 * g2) ** self.power


def test_a_synapse_of_ones_own_has_its_numbers_learned():
    neurons = {name: hamux.Neurons(hamux.lagr_identity, 3) for name in "ab"}
    ham = hamux.HAM(neurons, {"overlap": Overlap(0.5)}, [(("a", "b"), "overlap")])
    xs = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array([3.0, 2.0, 1.0])}
    np.testing.assert_allclose(ham.connection_energies(xs), [-50])
    np.testing.assert_allclose(jax.grad(retrieval_energy)(ham, xs).synapses["overlap"].strength, -100)


class Deep(eqx.Module):
    """A synapse with a network in it, whose activation is a function among its leaves."""

    network: eqx.nn.MLP
    outer: object = staticmethod(jnp.tanh)
    weights: list[float] = eqx.field(default_factory=lambda: [1, 2.0])

    def __call__(self, g):
        return jnp.sum(self.weights[0] * jnp.asarray(self.outer(self.network(g))))


def test_functions_in_a_module_are_structure(gradients):
    def make():
        network = eqx.nn.MLP(3, "scalar", 4, 1, activation=lambda x: jax.nn.gelu(x), key=jr.key(0))
        return hamux.HAM({"a": hamux.Neurons(hamux.lagr_identity, 3)}, {"deep": Deep(network)}, [(("a",), "deep")])

    ham, again = make(), make()
    assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(ham))
    assert jax.tree.structure(ham) == jax.tree.structure(again)
    xs = {"a": jnp.array([1.0, -2.0, 0.5])}
    np.testing.assert_allclose(jax.jit(retrieval_energy)(ham, xs), retrieval_energy(again, xs), rtol=1e-12)
    _, by_autograd, differences = gradients(lambda ham: retrieval_energy(ham, xs), ham)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9), by_autograd, differences)
    assert hamux.relax(ham, xs, max_steps=5).energies[-1] <= retrieval_energy(ham, xs)


NEURONS = {"image": hamux.Neurons(hamux.lagr_identity, 4), "hidden": hamux.Neurons(hamux.lagr_identity, 3)}
SYNAPSES = {"s": hamux.DenseSynapse(jr.key(0), 4, 3), "bias": hamux.BiasSynapse(jr.key(0), 4)}


def refuse(connections, message, **synapses):
    with pytest.raises(ValueError, match=re.escape(message)):
        hamux.HAM(NEURONS, SYNAPSES | synapses, connections)


def test_an_unknown_layer():
    message = 'connection ("image", "hiden") via "s" names a neuron layer "hiden"; this HAM has ["hidden", "image"]'
    refuse([(("image", "hiden"), "s")], message)


def test_an_unknown_synapse():
    message = 'connection ("image", "hidden") via "t" names a synapse "t"; this HAM has ["bias", "s"]'
    refuse([(("image", "hidden"), "t")], message)


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ((("image", "hidden"), "bias"), 'connection ("image", "hidden") via "bias" gives 2 g\'s to BiasSynapse'),
        (((), "bias"), 'connection () via "bias" gives 0 g\'s to BiasSynapse'),
        ((("image",), "s"), "DenseSynapse of shape (4, 3) joins 2 layers, got 1 g's"),
        ((("image", "hidden", "hidden"), "s"), "DenseSynapse of shape (4, 3) joins 2 layers, got 3 g's"),
    ],
)
def test_a_wrong_number_of_gs(connection, message):
    refuse([connection], message)


def test_shapes_that_do_not_fit():
    message = (
        'connection ("hidden", "image") via "s" does not fit its layers "hidden" (3,), "image" (4,): '
        "DenseSynapse of shape (4, 3) got g's of shapes [(3,), (4,)]; their last axes must be (4, 3)"
    )
    refuse([(("hidden", "image"), "s")], message)


def test_an_energy_that_is_no_scalar():
    class Vector(eqx.Module):
        def __call__(self, g):
            return -g

    message = 'connection ("image") via "v" gives an energy of shape (4,); it must be one scalar'
    refuse([(("image",), "v")], message, v=Vector())


def test_a_synapse_with_a_leaf_that_is_no_array():
    class Padded(eqx.Module):
        padding: str

    message = "synapse \"p\" has a leaf .padding = 'SAME' that is no array; mark that field eqx.field(static=True)"
    refuse([], message, p=Padded("SAME"))


@pytest.mark.parametrize("vectorized", [False, True])
def test_states_with_a_missing_or_an_unknown_layer(vectorized):
    ham = hamux.HAM(NEURONS, SYNAPSES, [(("image", "hidden"), "s")])
    ham = ham.vectorize() if vectorized else ham
    xs = ham.init_states(2 if vectorized else None)
    wrong = {"image": xs["image"], "hiden": xs["hidden"]}
    message = 'states for ["hiden", "image"]: missing ["hidden"], unknown ["hiden"]; this HAM has ["hidden", "image"]'
    with pytest.raises(ValueError, match=re.escape(message)):
        ham.activations(wrong)
    for call in (ham.energy, ham.energy_tree, ham.neuron_energies, ham.dEdg):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(xs, wrong)
        with pytest.raises(ValueError, match=re.escape(message.replace("state", "activation"))):
            call(wrong, xs)
    with pytest.raises(ValueError, match=re.escape(message.replace("state", "activation"))):
        ham.connection_energies(wrong)


def test_a_state_of_a_wrong_shape():
    ham = hamux.HAM(NEURONS, SYNAPSES, [(("image", "hidden"), "s")])
    message = 'the state of "image" has shape (2, 4), expected (4,); for a batch use ham.vectorize() or jax.vmap'
    with pytest.raises(ValueError, match=re.escape(message)):
        ham.activations(ham.init_states() | {"image": jnp.zeros((2, 4))})


def test_a_batch_of_states_of_a_wrong_shape():
    ham = hamux.HAM(NEURONS, SYNAPSES, [(("image", "hidden"), "s")]).vectorize()
    with pytest.raises(ValueError, match=re.escape('the state of "image" has shape (2, 3), expected (batch, *(4,))')):
        ham.activations(ham.init_states(2) | {"image": jnp.zeros((2, 3))})


def test_a_misspelt_argument():
    with pytest.raises(TypeError, match="connection"):
        hamux.HAM(NEURONS, SYNAPSES, connection=[])


class PlainDense(eqx.Module):
    """A synapse as one writes it for bbhamux."""

    W: jax.Array

    def __call__(self, g1, g2):
        return -jnp.einsum("...c,...d,cd->...", g1, g2, self.W)


def test_code_for_bbhamux_runs_as_it_stands():
    """The numbers are those of bbhamux 0.2.0 on the same lines."""
    W1, W2 = jnp.sin(jnp.arange(24.0)).reshape(6, 4), jnp.cos(jnp.arange(12.0)).reshape(4, 3)
    ham = hamux.HAM(
        {
            "image": hamux.Neurons(hamux.lagr_identity, (6,)),
            "hidden": hamux.Neurons(lambda x: hamux.lagr_softmax(x, beta=2.0), 4),
            "label": hamux.Neurons(lagrangian=hamux.lagr_sigmoid, shape=(3,)),
        },
        {"encode": PlainDense(W1), "classify": PlainDense(W2)},
        [(["image", "hidden"], "encode"), (["hidden", "label"], "classify")],
    )
    assert (ham.n_neurons, ham.n_synapses, ham.n_connections) == (3, 2, 2)
    assert ham.neurons["image"].init(bs=2).shape == (2, 6)

    @eqx.filter_jit
    def step(ham, xs, dt):
        gs = ham.activations(xs)
        energy, dEdg = ham.dEdg(gs, xs, return_energy=True)
        return energy, jax.tree_util.tree_map(lambda x, gradient: x - dt * gradient, xs, dEdg)

    vham = ham.vectorize()
    xs = vham.init_states(bs=2)
    xs["image"] = jnp.linspace(-1, 1, 12).reshape(2, 6)
    for _ in range(20):
        energies, xs = step(vham, xs, 0.1)
    np.testing.assert_allclose(energies, [-3.7753828011, -3.7838614124], rtol=1e-10)

    one = {name: x[0] for name, x in xs.items()}
    gs = vham.unvectorize().activations(one)
    assert jax.tree_util.tree_reduce(lambda a, b: a + b, ham.energy_tree(gs, one)) == ham.energy(gs, one)

    @eqx.filter_value_and_grad
    def loss(ham, xs):
        return jnp.sum(ham.neurons["label"].g(step(ham, xs, 0.1)[1]["label"]))

    value, gradient = loss(vham.unvectorize(), one)
    updated = eqx.apply_updates(ham, jax.tree_util.tree_map(lambda leaf: -0.1 * leaf, gradient))
    assert loss(updated, one)[0] < value


def test_a_ham_tells_of_itself(monkeypatch):
    layers = {"a": hamux.Neurons(hamux.lagr_tanh, 3), "b": hamux.Neurons(Partial(hamux.lagr_softmax, beta=2.0), (2, 2))}
    synapses = {"w": hamux.DenseSynapse(jr.key(0), 3, 2), "pull": lambda g: -jnp.sum(g)}
    ham = hamux.HAM(layers, synapses, [(("a", "b"), "w"), (("a",), "pull")])
    assert ham.kinds() == {
        "neurons": {"a": "tanh", "b": "softmax"},
        "synapses": {"pull": "<lambda>", "w": "DenseSynapse"},
    }
    memory = {"memory": hamux.HopfieldSynapse(jr.key(0), 3, 2, Partial(hamux.lagr_softmax, beta=2.0))}
    assert hamux.HAM(layers, memory, [(("a",), "memory")]).kinds()["synapses"] == {"memory": "HopfieldSynapse"}
    assert str(ham).splitlines() == [
        "HAM: 2 layers, 2 connections, 7 parameters",
        "  a     (3,)          tanh",
        "  b     (2, 2)        softmax",
        "  w     DenseSynapse  a – b",
        "  pull  <lambda>      a",
    ]
    assert "<div" in ham._repr_html_()
    monkeypatch.setitem(sys.modules, "treescope", None)
    assert ham._repr_html_() is None
