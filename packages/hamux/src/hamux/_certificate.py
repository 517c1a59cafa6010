"""Proofs that the energy never rises, from what Lagrangians and synapses declare of themselves.

A step of a method moves the states x of the layers, and with them the activations g = ∂L/∂x. Let every Lagrangian L be
convex and L* its convex conjugate, so that x = ∂L*/∂g. Let λ be a layer's leak, r = dt/τ its rate, S the energy of all
synapses and D(a, b) = L*(a) − L*(b) − x_b·(a − b) ≥ 0 the Bregman divergence of L*. Sums over the layers are left out.
Two facts hold for whatever g⁺ follows on g:

    E = λ L*(g) + S(g),   hence   E⁺ − E = λ D(g⁺, g) + S(g⁺) − S(g) + λ x·(g⁺ − g)               (1)
    (x⁺ − x)·(g⁺ − g) = D(g⁺, g) + D(g, g⁺)                                                      (2)

**All layers at once**, x⁺ = x − r ∂E/∂g, is mirror descent on E with mirror map L (Nemirovski & Yudin, 1983; Beck &
Teboulle, 2003). Let S(g) − (c/2)‖g‖² be concave in all g's together, and the activations Lipschitz with constant ℓ
where c > 0, so that ½‖g⁺ − g‖² ≤ ℓ D(g⁺, g). Then S(g⁺) − S(g) ≤ ∂S/∂g·(g⁺ − g) + cℓ D(g⁺, g), and (1) becomes
E⁺ − E ≤ ∂E/∂g·(g⁺ − g) + (λ + cℓ) D(g⁺, g): E is (λ + cℓ)-smooth relative to L* (Bauschke, Bolte & Teboulle, 2017; Lu,
Freund & Nesterov, 2018). With ∂E/∂g = −(x⁺ − x)/r and (2)

    E⁺ − E ≤ −(1/r − λ − cℓ) D(g⁺, g) − (1/r) D(g, g⁺) ≤ 0   for   r ≤ 1/(λ + cℓ).               (3)

At λ = 1, c = 0, r = 1 the step is x⁺ = −∂S/∂g, the concave-convex procedure (Yuille & Rangarajan, 2003): the update
that every closed-form Hopfield network makes.

**One layer after another.** Where S is linear in the g of one layer, a·g with the others held, E is λ L*(g) + a·g. It
is least at x⁺ = −a/λ, and (1) gives E⁺ − E = −λ D(g, g⁺), exactly; on the way there, r < 1/λ, (3) holds with c = 0 for
that layer alone. Beyond it, r < 2/λ, E falls if g = x; for other layers `GaussSeidel` looks at the energy and goes to
x⁺ where it would rise. All layers at once may go up there: the energy of a bilinear synapse is indefinite in both g's
together.

**Clamps.** A unit that is held keeps its x. It keeps its g, too, where L is a sum over units. Where the units of a
layer share one L (softmax, layer norm), g moves with the other units, and neither argument holds: of such units all are
clamped, or none.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool

from ._checks import positive
from ._facts import Number, Truth, all_of, any_of, constant, declared, either, holds, least, negated, settled
from ._ham import HAM
from ._neurons import Neurons


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether no step of a method raises the energy of a HAM. It is true in an `if` when none does.

    - `max_dt`: the largest dt for which that holds, in units of τ's time; inf where any dt will do, None where there is
      no such dt, where it is being traced, or where the method has no dt.
    - `reasons`: why it holds or, one line each, what stands in the way.
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


class Obstacle(NamedTuple):
    """What stands in the way of a certificate: for sure where `there` is True, or as an array tells when it runs."""

    there: Truth
    reason: str


def certified(obstacles: list[Obstacle], because: str, max_dt: float | None = None) -> Certificate:
    """The certificate of a method in whose way stand these obstacles."""
    if obstacles:
        return Certificate(False, None, tuple(obstacle.reason for obstacle in obstacles))
    return Certificate(True, max_dt, (because,))


def clear(obstacles: list[Obstacle]) -> Truth:
    """Whether none of the obstacles is there."""
    return negated(any_of(*(obstacle.there for obstacle in obstacles)))


def stated(obstacles: list[Obstacle]) -> list[str]:
    """The obstacles that are known to be there."""
    return [obstacle.reason for obstacle in obstacles if obstacle.there is True]


class Setting(NamedTuple):
    """What of a retrieval bears on its certificate, beside the HAM.

    - `tau`: the layers' time constants.
    - `whole`: whether a layer is clamped whole.
    - `split`: whether, of units that share a Lagrangian, some are clamped and some are not.
    """

    tau: Mapping[str, Number]
    whole: Mapping[str, Truth]
    split: Mapping[str, Truth]

    @property
    def surely_whole(self) -> frozenset[str]:
        """The layers that are known to be clamped whole."""
        return frozenset(name for name, whole in self.whole.items() if whole is True)

    def at_worst(self) -> "Setting":
        """The setting in which the layers of which it is not known are not clamped whole: nothing descends the more."""
        return self._replace(whole={name: whole is True for name, whole in self.whole.items()})


def setting(ham: HAM, tau: Mapping[str, Number] | None, clamp: Mapping[str, ArrayLike] | None) -> Setting:
    """Returns the setting that `tau` and `clamp` make.

    **Raises** ValueError for an unknown layer, a time constant that is not > 0, and a mask that does not fit.
    """
    tau, clamp = dict(tau or {}), dict(clamp or {})
    for what, given in (("tau", tau), ("clamp", clamp)):
        unknown = given.keys() - ham.neurons.keys()
        if unknown:
            raise ValueError(f"{what} names {sorted(unknown)}; this HAM has {sorted(ham.neurons)}")
    for name, time in tau.items():
        positive(f'tau["{name}"]', time)
    whole: dict[str, Truth] = dict.fromkeys(ham.neurons, False)
    split: dict[str, Truth] = dict.fromkeys(ham.neurons, False)
    for name, held in clamp.items():
        mask = held if isinstance(held, jax.core.Tracer) else np.asarray(held)
        expected = ham.neurons[name].shape
        leading = mask.ndim - len(expected)  # a mask for each example of a batch has one axis more
        if mask.dtype != bool or (mask.ndim and (leading not in (0, 1) or mask.shape[leading:] != expected)):
            raise ValueError(
                f'clamp["{name}"] is {mask.dtype}{list(mask.shape)}; expected True or bool{list(expected)}'
            )
        whole[name], split[name] = settled(mask), _splits(ham.neurons[name], mask)
    times = {name: layer.tau for name, layer in ham.neurons.items()} | tau
    return Setting(times, whole, split)


def _splits(layer: Neurons, mask: Bool[np.ndarray, "..."] | Array) -> Truth:
    """Whether a mask holds some of the units that share a Lagrangian, and not the others."""
    if holds(layer.lagrangian, "elementwise") is True or mask.ndim == 0:
        return False
    rank = len(layer.shape)
    tokenwise = declared(layer.lagrangian, "tokenwise")
    if tokenwise is None or tokenwise is False:
        axes = list(range(rank))
    else:
        axes = np.atleast_1d(-1 if tokenwise is True else tokenwise).tolist()
    shared = tuple(axis % rank - rank for axis in axes)  # a mask of a batch has one axis more, at the front
    return negated(settled(mask.all(shared) == mask.any(shared)))


def relative_smoothness(ham: HAM, setting: Setting) -> tuple[Number, list[Obstacle]]:
    """Returns the largest dt of (3), and what stands in its way."""
    free = {name: negated(whole) for name, whole in setting.whole.items()}
    curvature: dict[str, Number] = dict.fromkeys(ham.neurons, 0.0)
    obstacles = convexity(ham, setting) + coupled_clamps(setting)
    for layers, key in ham.connections:
        synapse = ham.synapses[key]
        linear = all_of(holds(synapse, "multilinear"), _at_most_one([free[name] for name in layers]))
        c = either(linear, 0.0, constant(synapse, "curvature"))
        unbounded = negated(settled(c < math.inf))
        there = all_of(unbounded, any_of(*(free[name] for name in layers)))
        if there is not False:
            undeclared = declared(synapse, "curvature") is None
            why = " declares no curvature: " if undeclared else f": {_values(synapse)}"
            obstacles.append(Obstacle(there, f'synapse "{key}" on {layers}{why}its energy need not be concave'))
        for name in layers:
            curvature[name] += either(unbounded, 0.0, c)
    longest = []
    for name, layer in ham.neurons.items():
        curved, lipschitz = settled(curvature[name] > 0), constant(layer.lagrangian, "lipschitz")
        unbounded = negated(settled(lipschitz < math.inf))
        there = all_of(free[name], curved, unbounded)
        if there is not False:
            which = "a curved synapse asks" if there is True else "a synapse may ask"
            lacks = "declares no Lipschitz constant of its activation"
            obstacles.append(Obstacle(there, f'layer "{name}" {lacks}, which {which} for'))
        smoothness = layer.leak + either(any_of(unbounded, negated(curved)), 0.0, curvature[name] * lipschitz)
        bounded = settled(smoothness > 0)
        dt = either(bounded, setting.tau[name] / either(bounded, smoothness, 1.0), math.inf)
        longest.append(either(free[name], dt, math.inf))
    return least(longest), obstacles


def _at_most_one(truths: list[Truth]) -> Truth:
    """Whether all but one, whichever it is, do not hold."""
    return any_of(*(all_of(*map(negated, truths[:i] + truths[i + 1 :])) for i in range(len(truths))))


def blocks(ham: HAM, setting: Setting) -> list[Obstacle]:
    """What stands in the way of exact updates of one layer after another, but for Lagrangians that are not convex."""
    obstacles = []
    for name, whole in sorted(setting.whole.items()):
        if whole is True:
            continue
        if ham.neurons[name].leak == 0:
            reason = f'layer "{name}" has leak 0: an energy linear in its block has no minimum'
            obstacles.append(Obstacle(negated(whole), reason))
        for layers, synapse in ham.connections:
            if name not in layers:
                continue
            curved = negated(holds(ham.synapses[synapse], "multilinear"))
            if curved is not False:
                reason = f'synapse "{synapse}" on {layers} does not declare itself multilinear'
            elif layers.count(name) > 1:
                curved, reason = True, f'it stands {layers.count(name)} times at synapse "{synapse}"'
            else:
                continue
            reason = f'layer "{name}" is not linear in its block: {reason}'
            obstacles.append(Obstacle(all_of(negated(whole), curved), reason))
    return obstacles + coupled_clamps(setting)


def convexity(ham: HAM, setting: Setting) -> list[Obstacle]:
    """The layers that move and whose Lagrangians are not convex."""
    obstacles = []
    for name, layer in ham.neurons.items():
        there = all_of(negated(setting.whole[name]), negated(holds(layer.lagrangian, "convex")))
        if there is False:
            continue
        if declared(layer.lagrangian, "convex") is None:
            reason = "its Lagrangian does not declare itself convex"
        else:
            is_not = "is not" if there is True else "need not be"
            reason = f"{_values(layer.lagrangian)}its Lagrangian {is_not} convex"
        obstacles.append(Obstacle(there, f'layer "{name}": {reason}'))
    return obstacles


def coupled_clamps(setting: Setting) -> list[Obstacle]:
    """The layers of which units are held whose activations move with others that are not."""
    return [
        Obstacle(
            split,
            f'layer "{name}" is clamped in part, where units share one Lagrangian'
            if split is True
            else f'the clamp of layer "{name}" is being traced, and units share one Lagrangian',
        )
        for name, split in sorted(setting.split.items())
        if split is not False
    ]


def _values(part: Callable[..., Any]) -> str:
    """The scalar parameters of a part, as the beginning of a sentence."""
    scalars = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(part) if jnp.ndim(leaf) == 0]
    return "".join(
        f"{jax.tree_util.keystr(path[-1:], simple=True)} is "
        f"{'being traced' if isinstance(leaf, jax.core.Tracer) else leaf}, "
        for path, leaf in scalars
    )
