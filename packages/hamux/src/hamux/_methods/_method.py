"""What every method of descent is made of: the problem, a point of it, and one step from there to the next."""

import abc
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._certificate import Certificate, Setting, setting
from .._ham import HAM, States, VectorizedHAM
from .._precision import widened


class Point(NamedTuple):
    """States, and what one evaluation of the HAM tells of them; `rounding` is an error that the energy may have."""

    xs: dict[str, Array]
    dEdg: dict[str, Array]
    energy: Float[Array, ""]
    rounding: Float[Array, ""]


class Problem(eqx.Module):
    """One example to descend: the HAM, the time constant of each layer, and where a mask is True, what is held.

    `whole` are the layers that are known to be held whole when jax traces: their updates are no work of the program.
    """

    ham: HAM
    tau: dict[str, Array | float]
    masks: dict[str, Bool[Array, "..."]]
    whole: frozenset[str] = eqx.field(static=True, default=frozenset())

    def evaluate(self, xs: dict[str, Array]) -> Point:
        gs = self.ham.activations(xs)
        tree, dEdg = self.ham._energy_tree_and_dEdg(gs, xs)
        energy = jax.tree.reduce(jnp.add, tree)
        terms = [*jax.tree.leaves(tree), *(jnp.sum(widened(gs[name]) * widened(xs[name])) for name in xs)]
        rounding = 8 * jnp.finfo(energy.dtype).eps * functools.reduce(jnp.add, map(jnp.abs, terms))
        return Point(xs, dEdg, energy, rounding)

    def hold(self, xs: States, moved: States) -> dict[str, Array]:
        """`moved`, but for the units that are held."""
        held = {
            name: xs[name] if name in self.whole else jnp.where(mask, xs[name], moved[name])
            for name, mask in self.masks.items()
        }
        return dict(moved) | held

    def free(self, values: dict[str, Array]) -> dict[str, Array]:
        """`values`, 0 for the units that are held."""
        return self.hold(jax.tree.map(jnp.zeros_like, values), values)

    def descent(self, point: Point, dt: Array | float) -> dict[str, Array]:
        """−(dt/τ) ∂E/∂g, the change of x in an explicit step; 0 where x is held."""
        rates = {name: jnp.asarray(dt / self.tau[name]) for name in point.dEdg}
        change = {name: -rates[name].astype(dEdg.dtype) * dEdg for name, dEdg in point.dEdg.items()}
        return self.free(change)

    def residual(self, point: Point) -> Float[Array, ""]:
        """The largest change of an activation in a step with dt = τ; a shorter one leaves a saturated unit unmoved."""
        moved = {name: x - point.dEdg[name] for name, x in point.xs.items()}
        gs, further = self.ham.activations(point.xs), self.ham.activations(self.hold(point.xs, moved))
        return jnp.max(jnp.stack([jnp.max(jnp.abs(widened(further[name]) - widened(g))) for name, g in gs.items()]))


class Step(NamedTuple):
    """Where a step came to: the next point, or, where none was `accepted`, the one it started from.

    `stuck` says that the method has nothing left to try.
    """

    point: Point
    state: Any
    accepted: Bool[Array, ""] | bool = True
    stuck: Bool[Array, ""] | bool = False


class Method(eqx.Module):
    """A way to go from one point to the next; given to `descend` and `relax` as `method=`.

    A method of one's own gives `step`, and whatever it carries from step to step in `init`.
    """

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        """Whether no step raises the energy, from what the HAM's parts declare of themselves. See `hamux.certify`."""
        return Certificate(False, reasons=(f"{type(self).__name__} does not look at the energy",))

    def check(self, ham: HAM, setting: Setting) -> None:
        """**Raises** ValueError, naming the layer, where the method needs what this HAM lacks."""

    def init(self, problem: Problem, point: Point, example: Int[Array, ""]) -> Any:
        """What is carried from step to step; `example` is the index in the batch, to draw other random numbers by."""
        return ()

    @abc.abstractmethod
    def step(self, problem: Problem, point: Point, state: Any) -> Step:
        """One step, and one evaluation of the point it comes to."""

    def residual(self, problem: Problem, point: Point, state: Any) -> Float[Array, ""]:
        """How far `point` is from a fixed point, in units of the activations."""
        return problem.residual(point)


def certify(
    ham: HAM | VectorizedHAM,
    method: Method,
    *,
    tau: Mapping[str, float] | None = None,
    clamp: Mapping[str, Any] | None = None,
) -> Certificate:
    """Whether `method` is bound never to raise the energy of `ham`, up to which dt, and if not, why.

    It rests on what the parts declare, for whatever parameters they hold in their range (β > 0, γ ≥ 0). Of a synapse:
    `curvature`, a number c for which E − (c/2) Σ‖g‖² is concave in all its g's together, 0 where E is concave;
    `multilinear = True`, where E is linear in each g while the others are held. Of a Lagrangian: `elementwise = True`,
    where it is a sum over units, or `tokenwise = True`, over the tokens along its last axis or its option `axis`;
    `lipschitz`, a constant of its activation; `binary = True`, where that is ±1. A synapse or Lagrangian of one's own
    declares nothing until it is given these as attributes; every Lagrangian is taken to be convex.

    `tau` and `clamp` as in `descend`, with its errors: both bear on the answer. The proofs stand at the head of
    `hamux._certificate`.
    """
    one = ham.unvectorize()
    return method.certify(one, setting(one, tau, clamp))


def add(xs: Mapping[str, Array], change: Mapping[str, Array]) -> dict[str, Array]:
    """xs + change, in the dtype of xs."""
    return {name: (x + change[name]).astype(x.dtype) for name, x in xs.items()}


def dot(a: Mapping[str, Array], b: Mapping[str, Array]) -> Float[Array, ""]:
    return functools.reduce(jnp.add, [jnp.sum(widened(a[name]) * widened(b[name])) for name in a])
