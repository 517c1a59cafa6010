"""Which stored patterns one step recalls exactly, and from how far."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from ._facts import declared
from ._ham import HAM
from ._synapses import HopfieldSynapse

Patterns = Float[np.ndarray, "patterns dim"]


class CertifiedRetrieval(NamedTuple):
    """What is certain of the step x ← Σ_μ L'(ξx)_μ ξ_μ at each pattern x_i.

    - `exact`: whether the step from x_i lands on x_i.
    - `radius`: the step from every q closer to x_i than this lands on x_i; 0 where it is not exact.
    - `error`: a bound of the distance from x_i to where the step from x_i lands.
    - `undecided`: whether x_i may be a fixed point although it is not certified. That takes a mixture of other patterns
      that is x_i, for which another one must be as far along x_i, Δ_i ≤ 0.
    """

    exact: Bool[np.ndarray, " patterns"]
    radius: Float[np.ndarray, " patterns"]
    error: Float[np.ndarray, " patterns"]
    undecided: Bool[np.ndarray, " patterns"]


def certify_retrieval(ham: HAM, patterns: ArrayLike | None = None) -> CertifiedRetrieval:
    """Returns which patterns a memory recalls in one step, exactly.

    The memory is one layer with the identity as its activation and a leak of 1, and a `HopfieldSynapse` with
    `lagr_entmax`, `lagr_normmax` or `lagr_softmax`. The step is that of `hamux.Explicit` with dt = τ. Let the margin m
    be 1/(α − 1) for entmax and 1 for normmax. The step from q lands on x_i if and only if

        q·(x_i − x_j) ≥ m/β for all j ≠ i.

    So x_i is a fixed point if Δ_i = min_j x_i·(x_i − x_j) ≥ m/β, and the radius is min_j (x_i·(x_i − x_j) − m/β) /
    ‖x_i − x_j‖. Below the margin, the step still lands on an x_i that is the right mixture of other patterns. Softmax
    never lands exactly; its error is at most 2M (N − 1) exp(−β Δ_i) for N patterns no longer than M.

    - `patterns`: those of the stored ones to look at, (patterns, dim); all of them by default. Of two that are the same
      neither is certified.

    **Raises** ValueError for a memory of another kind, and for a pattern that is not stored.

    Santos, Niculae, McNamee & Martins, "Sparse and Structured Hopfield Networks", 2024, whose radius (Δ_i − m/β)/(2M)
    is smaller; Ramsauer et al., "Hopfield Networks is All You Need", 2021, for softmax.
    """
    stored, synapse = _stored(ham)
    margin, beta = (declared(synapse.lagrangian, fact) for fact in ("margin", "inverse_temperature"))
    if margin is None and beta is None:
        raise ValueError("the Lagrangian of the memories is none of lagr_entmax, lagr_normmax and lagr_softmax")
    which = np.arange(len(stored)) if patterns is None else _rows_of(stored, np.asarray(patterns, float))
    exact, undecided = np.zeros(len(which), bool), np.zeros(len(which), bool)
    radius, error = np.zeros(len(which)), np.zeros(len(which))
    longest = float(np.linalg.norm(stored, axis=1).max())
    for place, i in enumerate(which):
        others = np.delete(stored, i, axis=0)
        away = stored[i] - others
        ahead = away @ stored[i]
        least = float(np.min(ahead, initial=np.inf))
        if margin is None:
            exact[place] = not len(others)
            error[place] = min(1.0, len(others) * math.exp(min(0.0, -float(beta) * least))) * 2 * longest
        else:
            exact[place] = least >= float(margin)
            error[place] = 0 if exact[place] else 2 * longest
            undecided[place] = not exact[place] and least <= 0
        if exact[place]:
            gaps = np.linalg.norm(away, axis=1)
            radius[place] = np.min((ahead - float(margin or 0)) / gaps, initial=np.inf)
    return CertifiedRetrieval(exact, radius, error, undecided)


def _stored(ham: HAM) -> tuple[Patterns, HopfieldSynapse]:
    """The patterns of a memory of one layer, and their synapse. **Raises** ValueError for another HAM."""
    if len(ham.neurons) != 1 or len(ham.connections) != 1:
        raise ValueError(
            f"the HAM has layers {sorted(ham.neurons)} and {len(ham.connections)} connections; expected one of each"
        )
    ((name, layer),), ((layers, synapse_name),) = ham.neurons.items(), ham.connections
    synapse = ham.synapses[synapse_name]
    if not isinstance(synapse, HopfieldSynapse) or layers != (name,):
        raise ValueError(f"the synapse is a {type(synapse).__name__}; expected a HopfieldSynapse on one layer")
    if layer.leak != 1 or len(layer.shape) != 1 or not declared(layer.lagrangian, "identity"):
        raise ValueError("the layer's activation is not its state; expected one axis, lagr_identity, and a leak of 1")
    return np.asarray(synapse.xi[0], float), synapse


def _rows_of(stored: Patterns, patterns: Patterns) -> Int[np.ndarray, " patterns"]:
    """Which of the stored patterns each one is. **Raises** ValueError for one that is not stored."""
    if patterns.ndim != 2 or patterns.shape[1] != stored.shape[1]:
        raise ValueError(f"patterns have shape {patterns.shape}; expected (patterns, {stored.shape[1]})")
    same = (patterns[:, None] == stored).all(axis=-1)
    if not same.any(axis=1).all():
        raise ValueError(f"pattern {int(np.argmin(same.any(axis=1)))} is not one of those that the memory stores")
    rows: Int[np.ndarray, " patterns"] = np.argmax(same, axis=1)
    return rows
