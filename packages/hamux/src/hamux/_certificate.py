"""Whether a descent is bound to go down: certificates, from what synapses and Lagrangians declare of themselves.

A step of a method moves the states x of the layers, and with them the activations g = ∂L/∂x. Let L* be the convex
conjugate of a layer's Lagrangian L, so that x = ∂L*/∂g, λ its leak, r = dt/τ its rate, S the energy of all synapses and
D(a, b) = L*(a) − L*(b) − x_b·(a − b) ≥ 0 the Bregman divergence of L*. Sums over the layers are left out. Two facts
hold for whatever g⁺ follows on g:

    E = λ L*(g) + S(g),   hence   E⁺ − E = λ D(g⁺, g) + S(g⁺) − S(g) + λ x·(g⁺ − g)               (1)
    (x⁺ − x)·(g⁺ − g) = D(g⁺, g) + D(g, g⁺)                                                      (2)

**All layers at once**, x⁺ = x − r ∂E/∂g, is mirror descent on E with mirror map L (Nemirovski & Yudin, 1983; Beck &
Teboulle, 2003). Let S(g) − (c/2)‖g‖² be concave in all g's together, and the activations Lipschitz with constant ℓ
where c > 0, so that ½‖g⁺ − g‖² ≤ ℓ D(g⁺, g). Then S(g⁺) − S(g) ≤ ∂S/∂g·(g⁺ − g) + cℓ D(g⁺, g), (1) becomes
E⁺ − E ≤ ∂E/∂g·(g⁺ − g) + (λ + cℓ) D(g⁺, g): E is (λ + cℓ)-smooth relative to L* (Bauschke, Bolte & Teboulle, 2017; Lu,
Freund & Nesterov, 2018). With ∂E/∂g = −(x⁺ − x)/r and (2)

    E⁺ − E ≤ −(1/r − λ − cℓ) D(g⁺, g) − (1/r) D(g, g⁺) ≤ 0   for   r ≤ 1/(λ + cℓ).               (3)

At λ = 1, c = 0, r = 1 the step is x⁺ = −∂S/∂g, the concave-convex procedure (Yuille & Rangarajan, 2003): the update
that every closed-form Hopfield network makes.

**One layer after another.** Where S is linear in the g of one layer, a·g with the others held, E is λ L*(g) + a·g. It
is least at x⁺ = −a/λ, and (1) gives E⁺ − E = −λ D(g, g⁺), exactly; on the way there, r < 1/λ, (3) holds with c = 0 for
that layer alone. All layers at once may go up there: the energy of a bilinear synapse is indefinite in both g's
together.

**Clamps.** A unit that is held keeps its x. Its g stays too where L is a sum over units; where the units of a layer
share one L (softmax, layer norm), g moves with the other units, and neither argument holds: such a layer is clamped
whole.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._binding import declared
from ._checks import positive
from ._ham import HAM
from ._neurons import Neurons


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether no step of a method raises the energy of a HAM; true in an `if` when none does.

    - `max_dt`: the largest dt for which that holds, in units of τ's time; inf where any will do, None where there is no
      such dt, or the method has no dt.
    - `reasons`: what it follows from or, one line each, why it does not.
    """

    descends: bool
    max_dt: float | None = None
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.descends

    def __str__(self) -> str:
        dt = "" if self.max_dt is None else f" for dt ≤ {self.max_dt:g}"
        head = f"descent is certified{dt}" if self.descends else f"descent is not certified{dt and f', it is{dt}'}"
        return "\n".join([head, *(f"- {reason}" for reason in self.reasons)])


class Setting(NamedTuple):
    """What of a retrieval bears on its certificate, beside the HAM: the time constants, the layers that are clamped
    whole, and those where only some of the units that share a Lagrangian are."""

    tau: Mapping[str, float]
    whole: frozenset[str]
    split: frozenset[str]


def setting(ham: HAM, tau: Mapping[str, float] | None, clamp: Mapping[str, Any] | None) -> Setting:
    """The setting that `tau` and `clamp` make; of a mask that jax is tracing the worst is assumed.

    **Raises** ValueError for an unknown layer, a time constant that is none, and a mask that does not fit.
    """
    tau, clamp = dict(tau or {}), dict(clamp or {})
    for what, given in {"tau": tau, "clamp": clamp}.items():
        unknown = given.keys() - ham.neurons.keys()
        if unknown:
            raise ValueError(f"{what} names {sorted(unknown)}; this HAM has {sorted(ham.neurons)}")
    for name, time in tau.items():
        positive(f'tau["{name}"]', time)
    known = {}
    for name, mask in clamp.items():
        dtype, shape, expected = jnp.result_type(mask), jnp.shape(mask), ham.neurons[name].shape
        leading = len(shape) - len(expected)  # a mask for each example of a batch has one axis more
        if not jnp.issubdtype(dtype, jnp.bool_) or (shape and (leading not in (0, 1) or shape[leading:] != expected)):
            raise ValueError(f'clamp["{name}"] is {dtype}{list(shape)}; expected True or bool{list(expected)}')
        if not isinstance(mask, jax.core.Tracer):
            known[name] = np.asarray(mask)
    whole = {name for name, mask in known.items() if mask.all()}
    none = {name for name, mask in known.items() if not mask.any()}
    split = {
        name
        for name in clamp.keys() - whole - none
        if not declared(ham.neurons[name].lagrangian, "elementwise")
        and not (name in known and _holds_tokens(ham.neurons[name], known[name]))
    }
    times = {name: layer.tau for name, layer in ham.neurons.items()} | tau
    return Setting(times, frozenset(whole), frozenset(split))


def _holds_tokens(layer: Neurons, mask: np.ndarray) -> bool:
    """Whether a mask holds all units of a token or none, and what units share is a token."""
    if not declared(layer.lagrangian, "tokenwise"):
        return False
    rank = len(layer.shape)
    axis = dict(getattr(layer.lagrangian, "options", ())).get("axis", -1)
    axes = range(rank) if axis is None else np.atleast_1d(axis)
    shared = tuple(int(a) % rank - rank for a in axes)  # a mask of a batch has one axis more, at the front
    return bool((mask.all(shared) == mask.any(shared)).all())


def relative_smoothness(ham: HAM, setting: Setting) -> tuple[float, list[str]]:
    """The largest dt of (3), or what stands in its way."""
    curvature = dict.fromkeys(ham.neurons, 0.0)
    obstacles = []
    for layers, synapse in ham.connections:
        c = declared(ham.synapses[synapse], "curvature")
        moving = [name for name in layers if name not in setting.whole]
        if len(moving) < 2 and declared(ham.synapses[synapse], "multilinear"):
            c = 0.0  # linear in what moves
        if c is None and moving:
            obstacles.append(f'synapse "{synapse}" on {layers} declares no curvature: its energy need not be concave')
        for name in layers:
            curvature[name] += c or 0.0
    rates = []
    for name in sorted(ham.neurons.keys() - setting.whole):
        layer, lipschitz = ham.neurons[name], 0.0
        if curvature[name] > 0:
            declaration = declared(layer.lagrangian, "lipschitz")
            if declaration is None:
                obstacles.append(
                    f'layer "{name}" declares no Lipschitz constant of its activation, which a synapse of curvature '
                    f"{curvature[name]:g} asks for"
                )
            lipschitz = declaration or 0.0
        smoothness = layer.leak + curvature[name] * lipschitz
        rates.append(setting.tau[name] / smoothness if smoothness > 0 else math.inf)
    return min(rates, default=math.inf), obstacles + coupled_clamps(setting)


def blocks(ham: HAM, setting: Setting) -> list[str]:
    """What stands in the way of exact updates of one layer after another."""
    obstacles = []
    for name in sorted(ham.neurons.keys() - setting.whole):
        if ham.neurons[name].leak == 0:
            obstacles.append(f'layer "{name}" has leak 0: an energy linear in its block has no minimum')
        for layers, synapse in ham.connections:
            if name in layers and not declared(ham.synapses[synapse], "multilinear"):
                obstacles.append(
                    f'layer "{name}" is not linear in its block: synapse "{synapse}" on {layers} does not declare '
                    "itself multilinear"
                )
            elif layers.count(name) > 1:
                obstacles.append(
                    f'layer "{name}" is not linear in its block: it stands {layers.count(name)} times at synapse '
                    f'"{synapse}"'
                )
    return obstacles + coupled_clamps(setting)


def coupled_clamps(setting: Setting) -> list[str]:
    """The layers of which units are held whose activations move with others that are not."""
    return [
        f'layer "{name}" is clamped in part, where units share one Lagrangian, or by a mask that jax traces: clamp all '
        "of a token, or none, by a NumPy mask or True"
        for name in sorted(setting.split)
    ]
