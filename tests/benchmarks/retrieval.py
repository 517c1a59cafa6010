"""Softmax retrieval, x ← ξᵀ softmax(β ξ x), for 64 queries against 100,000 memories of 784 floats, beside numpy.

- One step of `descend` on a HAM of one layer and a Hopfield synapse, the states alone. Goal: 92 % of the speed of
  numpy's two products.
- The whole result of that step. Its energies and its residual evaluate the end, which takes two more products. Goal:
  46 % of the speed of numpy's two.
- `relax` for ten steps, the whole result, beside the products that it needs: numpy's two for each step and for the
  start. Goal: 85 %.
- The peak memory of a process that takes three steps. Goal: 250 MB above the memories. Beside it stands a process that
  imports jax and adds two numbers, which is the least that any retrieval with jax takes.
"""

import resource
import subprocess
import sys
from functools import partial

import jax
import jax.random as jr
import numpy as np
from _measure import alternate, record

import hamux

MEMORIES, DIM, QUERIES = 100_000, 784, 64
BETA = DIM**-0.5


@jax.jit
def whole_result(ham: hamux.HAM, x):
    return hamux.descend(ham.vectorize(), {"x": x}, steps=1, dt=1.0)


@jax.jit
def states_alone(ham: hamux.HAM, x):
    return hamux.descend(ham.vectorize(), {"x": x}, steps=1, dt=1.0, energies=False).xs["x"]


@jax.jit
def ten_steps(ham: hamux.HAM, x):
    return hamux.relax(ham.vectorize(), {"x": x}, max_steps=10, tol=1e-30)


def with_numpy(xi, x):
    p = np.float32(BETA) * (x @ xi.T)
    p -= p.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    return p @ xi


def problem(memories: int):
    """Returns a HAM of random memories, the memories, and noisy copies of some as queries."""
    key_memories, key_noise = jr.split(jr.key(0))
    # Row by row: drawn at once, random numbers take four times their own memory.
    xi = jax.lax.map(lambda key: jr.normal(key, DIM), jr.split(key_memories, memories))
    synapse = hamux.HopfieldSynapse(jr.key(0), DIM, 1, partial(hamux.lagr_softmax, beta=BETA)).store(xi)
    ham = hamux.HAM({"x": hamux.Neurons(hamux.lagr_identity, DIM)}, {"recall": synapse}, [(("x",), "recall")])
    return ham, xi, xi[:QUERIES] + jr.normal(key_noise, (QUERIES, DIM))


def print_peak_bytes(memories: int) -> None:
    """Takes three steps, or adds two numbers for 0 memories, and prints the most memory that this process ever held."""
    if memories:
        ham, _, x = problem(memories)
    for _ in range(3):
        jax.block_until_ready(states_alone(ham, x) if memories else jax.numpy.ones(()) + 1)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_bytes_of_a_process(memories: int) -> int:
    command = [sys.executable, __file__, str(memories)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    # First, while this process is small: a child's peak starts at its parent's.
    peak, peak_without, peak_of_jax = map(peak_bytes_of_a_process, (MEMORIES, QUERIES, 0))
    ham, xi, x = problem(MEMORIES)
    xi_numpy, x_numpy = np.asarray(xi), np.asarray(x)
    expected = with_numpy(xi_numpy, x_numpy)
    np.testing.assert_allclose(states_alone(ham, x), expected, rtol=1e-4, atol=1e-5)
    sides = {
        "numpy": lambda: with_numpy(xi_numpy, x_numpy),
        "hamux": lambda: jax.block_until_ready(states_alone(ham, x)),
        "hamux, whole result": lambda: jax.block_until_ready(whole_result(ham, x)),
        "relax": lambda: jax.block_until_ready(ten_steps(ham, x)),
    }
    seconds = alternate(sides, rounds=10)
    pairs = dict.fromkeys(sides, 1) | {"relax": 1 + int(np.max(ten_steps(ham, x).steps))}
    speed = {name: pairs[name] * seconds["numpy"] / s for name, s in seconds.items()}
    for name, s in seconds.items():
        print(f"{name:20} {1e3 * s:6.0f} ms {100 * speed[name]:5.0f} % of numpy's speed, {pairs[name]} x two products")
    megabytes = {
        "peak of a process": peak / 1e6,
        "goal": xi.nbytes / 1e6 + 250,
        f"the same process with {QUERIES} memories": peak_without / 1e6,
        "a process that adds two numbers": peak_of_jax / 1e6,
        "memories": xi.nbytes / 1e6,
        "temporary, compiled": states_alone.lower(ham, x).compile().memory_analysis().temp_size_in_bytes / 1e6,
    }
    print("\n".join(f"{what:35} {size:6.0f} MB" for what, size in megabytes.items()))
    record("retrieval", {"seconds": seconds, "share of numpy's speed": speed, "megabytes": megabytes})


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print_peak_bytes(int(sys.argv[1]))
    else:
        main()
