"""What a descent says of states and energies that are not finite."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial
from small_hams import one_layer, states, two_layers

import hamux


def cubic():
    """−⅓ Σ max(ξx, 0)³ outgrows ½ Σ x²: the energy has no lower bound."""
    return one_layer(hamux.HopfieldSynapse(jr.key(0), 4, 4, Partial(hamux.lagr_repu, n=3)).store(2 * jnp.eye(4)))


NOT_FINITE = [
    one_layer(hamux.BiasSynapse(jr.key(0), 4), hamux.lagr_tanh),
    one_layer(hamux.HopfieldSynapse(jr.key(0), 4, 3), leak=0.0),
    one_layer(hamux.BiasSynapse(jr.key(0), 4), hamux.lagr_relu, leak=0.0),
]


@pytest.mark.parametrize("ham", NOT_FINITE, ids=["leak", "relu synapse", "relu layer"])
@pytest.mark.parametrize("wrap", [lambda relax: relax, eqx.filter_jit], ids=["eager", "jitted"])
def test_nan_in_an_example_of_a_batch_is_told_by_the_result(ham, wrap):
    xs = {"x": jnp.zeros((3, 4)).at[1, 2].set(jnp.nan)}
    out = wrap(hamux.relax)(ham.vectorize(), xs)
    assert (out.reason == hamux.Reason.not_finite).tolist() == [False, True, False]
    assert not out.converged[1]
    assert out.steps[1] == 0


def test_throw_finds_nan_in_an_example_of_a_batch():
    ham = two_layers().vectorize()
    xs = states(ham, bs=3)
    xs |= {"a": np.where(np.arange(12).reshape(3, 4) == 9, np.nan, xs["a"])}
    message = r"the residual is nan, above 1e-05, after 0 steps of example 2 \(1 of 3 did not\): .*is not finite"
    with pytest.raises(ValueError, match=message):
        hamux.relax(ham, xs, throw=True)
    with pytest.raises(RuntimeError, match="is not finite"):
        eqx.filter_jit(hamux.relax)(ham, xs, throw=True)


def test_throw_names_the_step_at_which_the_energy_stopped_being_finite():
    ham, xs = cubic(), {"x": jnp.ones(4)}
    energies = hamux.descend(ham, xs, steps=20, dt=1.0).energies
    step = int(np.argmin(np.isfinite(energies)))
    assert step > 1
    with pytest.raises(ValueError, match=rf"after {step} steps \(1 of 1 did not\): .*the energy has no lower bound"):
        hamux.relax(ham, xs, throw=True)


def test_under_jit_an_energy_that_is_not_finite_is_told_by_the_result():
    out = jax.jit(hamux.relax)(cubic(), {"x": jnp.ones(4)})
    assert not out.converged
    finite = np.isfinite(out.energies)
    assert not finite[out.steps]
    assert finite[: int(out.steps)].all()
