"""Batches that are empty, and batches that are spread over a mesh of two devices."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import hamux

ON_TWO_DEVICES = """
import contextlib
import jax, jax.random as jr, numpy as np, hamux
from jax.sharding import AxisType, NamedSharding, PartitionSpec

mesh = jax.make_mesh((2,), ("batch",))
assert mesh.axis_types == (AxisType.Explicit,)
synapses = {"s": jax.tree.map(lambda W: 60 * W, hamux.DenseSynapse(jr.key(0), 4, 3))}
neurons = {"a": hamux.Neurons(hamux.lagr_tanh, 4), "b": hamux.Neurons(hamux.lagr_tanh, 3)}
ham = hamux.HAM(neurons, synapses, [(("a", "b"), "s")])
start = ham.init_states(4, key=jr.key(1))
spread = jax.device_put(start, NamedSharding(mesh, PartitionSpec("batch")))
mask = np.arange(4) < 2
masks = np.arange(16).reshape(4, 4) % 3 == 0
noisy, random = hamux.Langevin(jr.key(0), 0.1), hamux.GaussSeidel(key=jr.key(0))
ways = {
    "relax": lambda xs: hamux.relax(ham.vectorize(), xs).xs,
    "vmap of relax": lambda xs: jax.vmap(lambda xs: hamux.relax(ham, xs))(xs).xs,
    "anderson": lambda xs: hamux.relax(ham.vectorize(), xs, method=hamux.Anderson(), clamp={"a": mask}).xs,
    "vmap of descend": lambda xs: jax.vmap(lambda xs: hamux.descend(ham, xs, steps=5, method=noisy))(xs).xs,
    "descend": lambda xs: hamux.descend(ham.vectorize(), xs, steps=5, method=random, clamp={"a": masks}).xs,
    "gradient": jax.jit(jax.grad(lambda xs: hamux.relax(ham.vectorize(), xs, clamp={"a": mask}).xs["b"].sum())),
    "states that are not all spread": lambda xs: hamux.relax(ham.vectorize(), {"a": start["a"], "b": xs["b"]}).xs,
    "masks alone": lambda xs: hamux.relax(ham.vectorize(), start, clamp={"a": xs["a"] > 0}).xs,
    "fixed points": lambda xs: hamux.fixed_points(ham, xs, memories=start).first,
}
for name, way in ways.items():
    expected = way(start)
    for context in (contextlib.nullcontext(), jax.set_mesh(mesh)):
        with context:
            found = way(spread)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name), found, expected)
        if name != "fixed points":
            assert found["a"].sharding.spec[0] == "batch", name
print("done")
"""


@pytest.mark.slow
def test_batches_over_an_explicit_mesh():
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ON_TWO_DEVICES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr[-2000:]


@pytest.mark.parametrize(
    "method", [None, hamux.Anderson(), hamux.Langevin(jr.key(0), 1.0)], ids=["default", "anderson", "langevin"]
)
def test_empty_batches(method):
    neurons = {"a": hamux.Neurons(hamux.lagr_tanh, 4), "b": hamux.Neurons(hamux.lagr_tanh, 3)}
    ham = hamux.HAM(neurons, {"s": hamux.DenseSynapse(jr.key(0), 4, 3)}, [(("a", "b"), "s")])
    xs = {"a": jnp.zeros((0, 4)), "b": jnp.zeros((0, 3))}
    together = hamux.relax(ham.vectorize(), xs, method=method, throw=True)
    assert together.energies.shape == (0, 501)
    run = functools.partial(hamux.relax, ham.vectorize(), method=method, throw=True)
    assert jax.jit(run)(xs).energies.shape == (0, 501)
    assert jax.vmap(lambda xs: hamux.relax(ham, xs, method=method))(xs).energies.shape == (0, 501)
    assert hamux.descend(ham.vectorize(), xs, steps=3, method=method).energies.shape == (0, 4)
