"""How often a dense memory recalls exactly, by the degree of its energy: Krotov & Hopfield, 2016, appendix B.

K = 2000 random ±1 patterns of N = 100 spins are stored in E = −Σ_μ max(0, ξ_μ·s)ⁿ. From 500 random starts spins are
flipped one after the other where that strictly lowers E, until a whole sweep changes nothing; counted are the runs that
end exactly on a stored pattern. Expected: 0 %, 0 %, 98 %, 100 %, 100 % for n = 2 … 6, each within 2 points.
"""

import time
from functools import partial

import jax
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from _measure import RESULTS, record

import hamux

jax.config.update("jax_enable_x64", True)  # Σ max(0, ξ·s)ⁿ stays a whole number below 2⁵³: comparisons are exact
PATTERNS, SPINS, STARTS = 2000, 100, 500
EXPECTED = {2: 0, 3: 0, 4: 98, 5: 100, 6: 100}

key_patterns, key_starts = jr.split(jr.key(0))
patterns = jr.rademacher(key_patterns, (PATTERNS, SPINS), float)
starts = jr.rademacher(key_starts, (STARTS, SPINS), float)
shares = {}
began = time.perf_counter()
for n in EXPECTED:
    memory = hamux.HopfieldSynapse(jr.key(0), SPINS, 1, partial(hamux.lagr_repu, n=n)).store(patterns)
    ham = hamux.HAM({"spins": hamux.Neurons(hamux.lagr_sign, SPINS)}, {"memory": memory}, [(("spins",), "memory")])
    out = hamux.relax(ham.vectorize(), {"spins": starts}, method=hamux.Asynchronous(), throw=True)
    shares[n] = 100 * float(np.mean(np.any(out.xs["spins"] @ patterns.T == SPINS, axis=1)))
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
