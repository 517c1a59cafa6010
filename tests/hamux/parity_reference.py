"""Record what the package hamux 0.2.2 computes on randomly drawn HAMs, for `test_parity.py` to compare with.

That package shares our import name, so it runs in an environment of its own, from the root of the repository:

    uv run --isolated --no-project --with hamux==0.2.2 --with fastcore python tests/hamux/parity_reference.py

The draw leaves out where that package is wrong: on several tokens its softmax and ghostmax give no one scalar, its
layernorm and spherical norm count `delta` once for each token too often, and its linear and bias synapses give an
energy for each token. There `delta` is 0 and `Multilinear` below stands in for its synapses.
"""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

RECORD = Path(__file__).with_suffix(".npz")
DRAWS = 50

ELEMENTWISE = {
    "identity": [],
    "relu": [],
    "repu": ["n"],
    "exp": ["beta"],
    "rexp": ["beta"],
    "tanh": ["beta"],
    "sigmoid": ["beta"],
}
ON_VECTORS = ELEMENTWISE | {
    "softmax": ["beta"],
    "ghostmax": [],
    "layernorm": ["gamma", "delta"],
    "spherical_norm": ["gamma", "delta"],
}
ON_TOKENS = ELEMENTWISE | {"layernorm": ["gamma"], "spherical_norm": ["gamma"]}
RANGES = {"n": (2, 4), "beta": (0.5, 2), "gamma": (0.5, 2), "delta": (-0.5, 0.5)}


def draw(seed):
    """Layers as (Lagrangian, its parameters, shape), synapses as (kind, weights), connections, and a state each."""
    random = np.random.RandomState(seed)  # whose numbers numpy promises never to change
    family = ["vectors", "tokens", "images", "vectors", "tokens"][seed % 5]
    if family == "images":
        shapes = {"a": (5, 5, 2), "b": (3, 3, 3)}
    else:
        tokens = () if family == "vectors" else (2,)
        shapes = {name: (*tokens, int(random.choice([3, 5]))) for name in "abcd"[: random.randint(1, 5)]}

    layers = {}
    for name, shape in shapes.items():
        choices = ON_VECTORS if family == "vectors" else ON_TOKENS
        lagrangian = str(random.choice(sorted(choices)))
        layers[name] = (lagrangian, {key: random.uniform(*RANGES[key]) for key in choices[lagrangian]}, shape)

    names = list(layers)
    if family == "images":
        joined = [("a",), ("b", "b"), ("a", "a", "a")]
    else:
        joined = [(names[0],), *pairwise(names), tuple(map(str, random.choice(names, 3)))]

    synapses, connections = {}, []
    for connected in joined:
        sizes = tuple(shapes[name][-1] for name in connected)
        synapse = "dense " + "x".join(map(str, sizes))  # layers of the same sizes share it
        synapses.setdefault(synapse, ("dense", random.standard_normal(sizes)))
        connections.append((connected, synapse))
    if family == "images":
        synapses["conv"] = ("conv", random.standard_normal((3, 2, 3, 3)))
        connections.append((("a", "b"), "conv"))
    return layers, synapses, connections, {name: random.uniform(-2, 2, shape) for name, shape in shapes.items()}


def as_vector(energy, gs, dEdg):
    return np.concatenate([np.ravel(energy), *(np.ravel(values[name]) for values in (gs, dEdg) for name in sorted(gs))])


def record():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import hamux

    jax.config.update("jax_enable_x64", True)

    class Multilinear(eqx.Module):
        W: jax.Array

        def __call__(self, *gs):
            units = "ijk"[: len(gs)]
            return -jnp.einsum(",".join(f"...{unit}" for unit in units) + f",{units}->...", *gs, self.W).sum()

    def synapse(kind, W, on_vectors):
        if kind == "conv":
            return hamux.ConvSynapse(W=W, window_strides=(2, 2), padding="SAME")
        if on_vectors and W.ndim < 3:
            return hamux.BiasSynapse(b=W) if W.ndim == 1 else hamux.LinearSynapse(W=W)
        return Multilinear(W)

    vectors = {}
    for seed in range(DRAWS):
        layers, synapses, connections, xs = draw(seed)
        on_vectors = all(x.ndim == 1 for x in xs.values())
        ham = hamux.HAM(
            neurons={
                name: hamux.NeuronLayer(partial(getattr(hamux, f"lagr_{lagrangian}"), **parameters), shape)
                for name, (lagrangian, parameters, shape) in layers.items()
            },
            hypersynapses={name: synapse(kind, jnp.array(W), on_vectors) for name, (kind, W) in synapses.items()},
            connections=connections,
        )
        xs = {name: jnp.array(x) for name, x in xs.items()}
        gs = ham.activations(xs)
        vectors[str(seed)] = as_vector(ham.energy(gs, xs), gs, ham.dEdact(gs, xs))
    np.savez_compressed(RECORD, **vectors)


if __name__ == "__main__":
    record()
