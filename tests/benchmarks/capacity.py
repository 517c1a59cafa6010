"""How often a dense memory recalls exactly, by the degree of its energy: Krotov & Hopfield, 2016, appendix B.

K = 2000 random ±1 patterns of N = 100 spins are stored in E = −Σ_μ max(0, ξ_μ·s)ⁿ. From 500 random starts spins are
flipped one after the other where that strictly lowers E, until a whole sweep changes nothing; counted are the runs that
end exactly on a stored pattern. Expected: 0 %, 0 %, 98 %, 100 %, 100 % for n = 2 … 6, each within 2 points.
"""

import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from _measure import RESULTS, record

import hamux

jax.config.update("jax_enable_x64", True)  # Σ max(0, ξ·s)ⁿ stays a whole number below 2⁵³: comparisons are exact
PATTERNS, SPINS, STARTS = 2000, 100, 500
EXPECTED = {2: 0, 3: 0, 4: 98, 5: 100, 6: 100}


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def settle(memory: hamux.HopfieldSynapse, spins):
    """The spins at rest, and −E of `memory` as the updates have added it up."""
    (xi,) = memory.xi

    def update(i, state):
        spins, overlaps, depth = state
        flipped = overlaps - 2 * spins[i] * xi[:, i]
        flipped_depth = memory.lagrangian(flipped)
        lower = flipped_depth > depth
        spins = spins.at[i].multiply(jnp.where(lower, -1, 1))
        return spins, jnp.where(lower, flipped, overlaps), jnp.maximum(depth, flipped_depth)

    def sweep(carry):
        state, _ = carry
        after = jax.lax.fori_loop(0, SPINS, update, state)
        return after, jnp.any(after[0] != state[0])

    overlaps = xi @ spins
    start = (spins, overlaps, memory.lagrangian(overlaps))
    (spins, _, depth), _ = jax.lax.while_loop(lambda carry: carry[1], sweep, (start, jnp.array(True)))
    return spins, depth


key_patterns, key_starts = jr.split(jr.key(0))
patterns = jr.rademacher(key_patterns, (PATTERNS, SPINS), float)
starts = jr.rademacher(key_starts, (STARTS, SPINS), float)
shares = {}
began = time.perf_counter()
for n in EXPECTED:
    memory = hamux.HopfieldSynapse(jr.key(0), SPINS, 1, partial(hamux.lagr_repu, n=n))
    memory = eqx.tree_at(lambda memory: memory.xi, memory, (patterns,))
    ends, depths = settle(memory, starts)
    np.testing.assert_allclose(jax.vmap(memory)(ends), -depths, rtol=1e-12)
    shares[n] = 100 * float(np.mean(np.any(ends @ patterns.T == SPINS, axis=1)))
    print(f"n = {n}: {shares[n]:5.1f} % recalled exactly, expected {EXPECTED[n]} %")
seconds = time.perf_counter() - began
print(f"{seconds:.0f} s")
record("capacity", {"share recalled exactly, %": shares, "expected, %": EXPECTED, "seconds": seconds})

figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
axes.plot(EXPECTED.keys(), EXPECTED.values(), "kx", label="expected")
axes.plot(shares.keys(), shares.values(), "o-", label="measured")
axes.set(xlabel="degree n of the energy", ylabel="starts that end on a stored pattern (%)", xticks=list(shares))
axes.set_title(f"{PATTERNS} random patterns of {SPINS} spins, {STARTS} random starts", fontsize="medium")
axes.legend()
figure.savefig(RESULTS / "capacity.png", dpi=150)
