"""What a descent computes and what it leaves out, counted while it runs; warm-ups; and what is recorded."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamux


class Tally:
    count = 0

    def add(self):
        self.count += 1


class Counted(eqx.Module):
    """A bilinear synapse that counts its evaluations while the program runs."""

    synapse: hamux.DenseSynapse
    tally: Tally = eqx.field(static=True)
    multilinear = True

    def __call__(self, *gs):
        jax.debug.callback(self.tally.add)
        return self.synapse(*gs)


def two_layers(synapse=None):
    synapse = jax.tree.map(lambda W: 60 * W, hamux.DenseSynapse(jr.key(0), 4, 3)) if synapse is None else synapse
    neurons = {"a": hamux.Neurons(hamux.lagr_tanh, 4), "b": hamux.Neurons(hamux.lagr_tanh, 3)}
    return hamux.HAM(neurons, {"s": synapse}, [(("a", "b"), "s")])


XS = jax.tree.map(np.asarray, two_layers().init_states(key=jr.key(1)))
STEPS = 5
# For each method the evaluations of a step, those before the first, and those that a whole result adds.
METHODS = {
    "explicit": (hamux.Explicit(0.1), 1, 0, 1),
    "momentum": (hamux.Momentum(), 1, 0, 1),
    "langevin": (hamux.Langevin(jr.key(0), 0.1), 1, 0, 1),
    "backtracking": (hamux.Backtracking(), 1, 1, 0),
    "anderson": (hamux.Anderson(), 1, 1, 0),
    "gauss-seidel": (hamux.GaussSeidel(), 2, 0, STEPS + 1),  # one for each layer
}


@pytest.mark.parametrize(("method", "a_step", "before", "added"), METHODS.values(), ids=METHODS)
def test_nothing_is_computed_that_is_not_asked_for_and_nothing_twice(method, a_step, before, added):
    tally = Tally()
    ham = two_layers(Counted(two_layers().synapses["s"], tally))

    def evaluations(**options):
        start = tally.count
        jax.block_until_ready(hamux.descend(ham, XS, method=method, steps=STEPS, **options).xs)
        jax.effects_barrier()
        return tally.count - start

    assert evaluations(energies=False) == a_step * STEPS + before
    assert evaluations() == a_step * STEPS + before + added
    # What a warm-up leads to is evaluated again, now with a gradient.
    assert evaluations(energies=False, warmup=3) == a_step * (STEPS + 3) + 2 * before


def test_without_energies_a_descent_gives_the_states_alone():
    asked, left_out = (hamux.descend(two_layers(), XS, steps=STEPS, trajectory=True, energies=e) for e in (True, False))
    assert (left_out.energies, left_out.residual, left_out.converged, left_out.reason) == (None,) * 4
    assert left_out.steps == STEPS
    equal = partial(np.testing.assert_allclose, rtol=1e-12)
    jax.tree.map(equal, (left_out.xs, left_out.trajectory), (asked.xs, asked.trajectory))


def test_without_energies_relax_leaves_out_their_record():
    asked, left_out = (hamux.relax(two_layers(), XS, energies=energies) for energies in (True, False))
    assert left_out.energies is None
    assert left_out.converged
    jax.tree.map(np.testing.assert_array_equal, eqx.tree_at(lambda out: out.energies, asked, None), left_out)


@pytest.mark.parametrize("method", [hamux.Momentum(), hamux.Anderson(), hamux.Langevin(jr.key(0), 0.3)], ids=type)
def test_a_warmup_comes_before_the_record(method):
    """Whatever the method remembers, and whether the number of steps is traced, differs by example, or is NumPy's."""
    ham = two_layers()
    descend = partial(hamux.descend, ham, XS, method=method, trajectory=True)
    whole, warmed = descend(steps=7), descend(steps=4, warmup=np.int64(3))
    np.testing.assert_allclose(warmed.energies, whole.energies[3:], rtol=1e-12)
    np.testing.assert_allclose(warmed.trajectory["a"], whole.trajectory["a"][3:], rtol=1e-12)
    by_example = jax.jit(jax.vmap(lambda count: hamux.descend(ham, XS, steps=4, warmup=count, method=method).energies))
    np.testing.assert_allclose(by_example(jnp.array([3, 0, 1]))[:2, 0], whole.energies[jnp.array([3, 0])], rtol=1e-12)
    relaxed = hamux.relax(ham, XS, warmup=3, method=method, max_steps=4)
    assert relaxed.energies.shape == (5,)
    np.testing.assert_allclose(relaxed.energies[0], whole.energies[3], rtol=1e-12)


def test_a_warmup_that_is_none():
    for warmup in (-1, 1.5, True, "two", jnp.zeros(2, int), jnp.array(1.5)):
        with pytest.raises(ValueError, match=r"warmup is .*; a number of at least 0 is expected, as an int"):
            hamux.descend(two_layers(), XS, steps=1, warmup=warmup)


def test_numbers_of_numpy_and_lists_are_taken():
    ham, mask = two_layers(), [True, False, True, False]
    lists = {name: x.tolist() for name, x in XS.items()}
    expected = hamux.descend(ham, XS, steps=3, clamp={"a": np.array(mask), "b": True})
    found = hamux.descend(ham, lists, steps=np.int32(3), clamp={"a": mask, "b": np.bool_(True)}, tol=np.float64(1e-5))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert hamux.relax(ham, lists, max_steps=np.int16(2), method=hamux.Anderson(memory=np.int8(2))).steps <= 2


class Halfway(hamux.Method):
    """A method of one's own, that judges where it comes to: half of the explicit step where the whole one rises."""

    evaluates = True

    def init(self, problem, xs):
        return jnp.zeros((), int)

    def step(self, problem, xs, state):
        here = problem.evaluate(xs)
        whole, half = (
            problem.evaluate({name: x + change[name] for name, x in xs.items()})
            for change in (problem.descent(here, 1.0), problem.descent(here, 0.5))
        )
        point = jax.tree.map(lambda a, b: jnp.where(whole.energy < here.energy, a, b), whole, half)
        return hamux.Step(point.xs, state + 1, point=point)


class Forgetful(Halfway):
    def step(self, problem, xs, state):
        return hamux.Step(super().step(problem, xs, state).xs, state)


def test_a_method_of_ones_own_that_evaluates_where_it_comes_to():
    ham = two_layers()
    out = hamux.descend(ham, XS, steps=20, method=Halfway(), clamp={"a": [True, False, False, False]})
    assert out.xs["a"][0] == XS["a"][0]
    assert np.max(np.diff(out.energies)) <= 1e-12
    gs = ham.activations(out.xs)
    np.testing.assert_allclose(out.energies[-1], ham.energy(gs, out.xs), rtol=1e-12)
    assert hamux.relax(ham, XS, method=Halfway()).converged
    with pytest.raises(ValueError, match=r"Forgetful\.evaluates is True, but its step returned no point"):
        hamux.descend(ham, XS, steps=1, method=Forgetful())
