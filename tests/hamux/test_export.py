"""A retrieval exported as StableHLO, for any batch size, and run by a process that knows no hamux."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import Partial

import hamux

WITHOUT_HAMUX = """
import sys
import jax, numpy as np
from jax import export
jax.config.update("jax_enable_x64", True)
retrieve = export.deserialize(open("retrieval.bin", "rb").read())
inputs = np.load("inputs.npz")
for name in inputs:
    image, converged, steps = retrieve.call(inputs[name])
    np.savez(f"{name}.npz", image=image, converged=converged, steps=steps)
assert not {"hamux", "equinox", "lineax"} & set(sys.modules)
"""


def test_with_a_symbolic_batch(tmp_path):
    ham = hamux.HAM(
        {"image": hamux.Neurons(hamux.lagr_tanh, 8), "label": hamux.Neurons(Partial(hamux.lagr_softmax, beta=2.0), 3)},
        {"s": hamux.DenseSynapse(jr.key(0), 8, 3)},
        [(("image", "label"), "s")],
    )
    ham = jax.tree.map(lambda leaf: 50 * leaf if leaf.ndim else leaf, ham)
    known = np.arange(8) < 4

    def retrieve(image):
        xs = {"image": image, "label": jnp.zeros((image.shape[0], 3))}
        out = hamux.relax(ham.vectorize(), xs, clamp={"image": known})
        return ham.vectorize().activations(out.xs)["image"], out.converged, out.steps

    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(retrieve))(jax.ShapeDtypeStruct((batch, 8), jnp.float64))
    assert "stablehlo" in exported.mlir_module()
    (tmp_path / "retrieval.bin").write_bytes(exported.serialize())
    inputs = {f"of_{n}": np.random.default_rng(n).normal(size=(n, 8)) for n in (1, 5)}
    np.savez(tmp_path / "inputs.npz", **inputs)
    subprocess.run([sys.executable, "-c", WITHOUT_HAMUX], cwd=tmp_path, check=True)
    for name, image in inputs.items():
        with np.load(tmp_path / f"{name}.npz") as file:
            there = dict(file)
        expected, converged, steps = retrieve(image)
        np.testing.assert_allclose(there["image"], expected, atol=1e-12)
        np.testing.assert_array_equal(there["converged"], converged)
        np.testing.assert_array_equal(there["steps"], steps)
        assert converged.all()
