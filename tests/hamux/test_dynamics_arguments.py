"""Arguments that `descend` and `relax` refuse, and what they say of them."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamux


def two_layers():
    neurons = {"a": hamux.Neurons(hamux.lagr_tanh, 4), "b": hamux.Neurons(hamux.lagr_tanh, 3)}
    return hamux.HAM(neurons, {"s": hamux.DenseSynapse(jr.key(0), 4, 3)}, [(("a", "b"), "s")])


def relax(ham, xs, dt=1.0, **options):
    return hamux.relax(ham, xs, method=hamux.Backtracking(dt), **options)


every_method = pytest.mark.parametrize("method", [partial(hamux.descend, steps=6), relax], ids=["descend", "relax"])


@every_method
@pytest.mark.parametrize("dt", [math.nan, math.inf, -math.inf, 0.0, -0.1])
def test_a_dt_out_of_range(method, dt):
    with pytest.raises(ValueError, match=f"dt is {dt}; it must be finite and greater than 0"):
        method(two_layers(), two_layers().init_states(), dt=dt)


@every_method
@pytest.mark.parametrize("tau", [math.nan, math.inf, 0.0, -1.0])
def test_a_tau_out_of_range(method, tau):
    with pytest.raises(ValueError, match=re.escape(f'tau["b"] is {tau}; it must be finite and greater than 0')):
        method(two_layers(), two_layers().init_states(), tau={"b": tau})


@every_method
@pytest.mark.parametrize("tol", [math.nan, 0.0, -1e-5])
def test_a_tol_out_of_range(method, tol):
    with pytest.raises(ValueError, match=f"tol is {tol}; it must be finite and greater than 0"):
        method(two_layers(), two_layers().init_states(), tol=tol)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_too_few_steps(steps):
    ham = two_layers()
    with pytest.raises(ValueError, match=f"^steps is {steps}; at least one step is needed"):
        hamux.descend(ham, ham.init_states(), steps=steps)
    with pytest.raises(ValueError, match=f"^max_steps is {steps}; at least one step is needed"):
        hamux.relax(ham, ham.init_states(), max_steps=steps)


@every_method
@pytest.mark.parametrize("option", ["energies", "trajectory"])
def test_an_option_that_jax_traces(method, option):
    ham = two_layers()
    with pytest.raises(ValueError, match=f"{option} is being traced by jax.*eqx.filter_jit"):
        jax.jit(lambda flag: method(ham, ham.init_states(), **{option: flag}))(True)


def test_a_number_of_steps_that_jax_traces():
    ham = two_layers()
    with pytest.raises(ValueError, match=r"steps is being traced by jax.*eqx.filter_jit"):
        jax.jit(lambda steps: hamux.descend(ham, ham.init_states(), steps=steps))(3)
    with pytest.raises(ValueError, match=r"return_energy is being traced by jax.*eqx.filter_jit"):
        jax.jit(ham.dEdg)(ham.init_states(), ham.init_states(), True)


@every_method
@pytest.mark.parametrize("option", ["tau", "clamp"])
def test_an_option_for_an_unknown_layer(method, option):
    with pytest.raises(ValueError, match=re.escape(f"{option} names ['c']; this HAM has ['a', 'b']")):
        method(two_layers(), two_layers().init_states(), **{option: {"c": 1.0}})


@every_method
@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (np.ones(3, bool), "bool[3]"),
        (np.ones((2, 4), bool), "bool[2, 4]"),
        (np.ones(4), "float64[4]"),
        (np.ones(4, np.int32), "int32[4]"),
    ],
)
def test_a_mask_that_does_not_fit(method, mask, found):
    with pytest.raises(ValueError, match=re.escape(f'clamp["a"] is {found}; expected True or bool[4]')):
        method(two_layers(), two_layers().init_states(), clamp={"a": mask})


@every_method
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("clamp", [None, {"a": True}], ids=["free", "clamped"])
def test_states_with_a_missing_or_an_unknown_layer(method, vectorized, clamp):
    ham = two_layers().vectorize() if vectorized else two_layers()
    xs = ham.init_states(2 if vectorized else None)
    message = 'states for ["b", "c"]: missing ["a"], unknown ["c"]; this HAM has ["a", "b"]'
    with pytest.raises(ValueError, match=re.escape(message)):
        method(ham, {"b": xs["b"], "c": xs["a"]}, clamp=clamp)


@every_method
def test_a_state_of_a_wrong_shape(method):
    ham = two_layers()
    with pytest.raises(ValueError, match=re.escape('the state of "a" has shape (5,), expected (4,)')):
        method(ham, ham.init_states() | {"a": jnp.zeros(5)})
    with pytest.raises(ValueError, match=re.escape('the state of "a" has shape (2, 5), expected (batch, *(4,))')):
        method(ham.vectorize(), ham.init_states(2) | {"a": jnp.zeros((2, 5))})
    with pytest.raises(ValueError, match='the state of "a" is of dtype int64, expected floats'):
        method(ham, ham.init_states() | {"a": jnp.zeros(4, int)})


def test_batches_of_two_sizes():
    ham = two_layers().vectorize()
    with pytest.raises(ValueError, match=r"the states are of batches of \[2, 3\]; one size is expected"):
        hamux.relax(ham, ham.init_states(2) | {"a": jnp.zeros((3, 4))})


def test_a_misspelt_argument():
    ham = two_layers()
    with pytest.raises(TypeError, match="clam"):
        hamux.relax(ham, ham.init_states(), clam={"a": True})
