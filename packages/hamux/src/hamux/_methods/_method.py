"""What every method of descent builds on: the problem, a point of it, and one step."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from .._batches import own_key
from .._certificate import Certificate, Setting, setting
from .._facts import Number
from .._ham import HAM, States, VectorizedHAM
from .._precision import widened

State = TypeVar("State")
"""What a method carries from step to step: a pytree of arrays."""


class Point(NamedTuple):
    """States, and what one evaluation of the HAM tells about them.

    - `dEdg`: ∂E/∂g of every layer.
    - `energy`: E.
    - `rounding`: an error that rounding may have left in the energy.
    """

    xs: dict[str, Array]
    dEdg: dict[str, Array]
    energy: Float[Array, ""]
    rounding: Float[Array, ""]


class Problem(eqx.Module):
    """What one example descends: a HAM, the time constant of each layer, and the units that are clamped.

    - `masks`: by layer a boolean mask, True where a unit is clamped.
    - `whole`: the layers known to be clamped whole while jax traces. The compiled program does not update them.
    - `known`: a point that is evaluated already, if there is one.
    """

    ham: HAM
    tau: dict[str, Array | float]
    masks: dict[str, Bool[Array, "..."]]
    whole: frozenset[str] = eqx.field(static=True, default=frozenset())
    known: Point | None = None

    def knowing(self, point: Point | None) -> "Problem":
        """Returns this problem, with `point` at hand: to evaluate its very states again costs nothing."""
        return dataclasses.replace(self, known=point)

    def evaluate(self, xs: dict[str, Array]) -> Point:
        """Evaluates the energy and its gradient at the states `xs`."""
        if self.known is not None and xs is self.known.xs:
            return self.known
        gs = self.ham.activations(xs)
        tree, dEdg = self.ham._energy_tree_and_dEdg(gs, xs)
        energy = jax.tree.reduce(jnp.add, tree)
        terms = [*jax.tree.leaves(tree), *(jnp.sum(widened(gs[name]) * widened(xs[name])) for name in xs)]
        rounding = 8 * jnp.finfo(energy.dtype).eps * functools.reduce(jnp.add, map(jnp.abs, terms))
        return Point(xs, dEdg, energy, rounding)

    def hold(self, xs: States, moved: States) -> dict[str, Array]:
        """Returns `moved`, with the clamped units as they are in `xs`."""
        held = {
            name: xs[name] if name in self.whole else jnp.where(mask, xs[name], moved[name])
            for name, mask in self.masks.items()
        }
        return dict(moved) | held

    def free(self, values: dict[str, Array]) -> dict[str, Array]:
        """Returns `values`, with 0 for the clamped units."""
        return self.hold(jax.tree.map(jnp.zeros_like, values), values) if self.masks else values

    def descent(self, point: Point, dt: Array | float) -> dict[str, Array]:
        """Returns −(dt/τ) ∂E/∂g, the change of x in an explicit step; it is 0 where x is clamped."""
        rates = {name: jnp.asarray(dt / self.tau[name]) for name in point.dEdg}
        change = {name: -rates[name].astype(dEdg.dtype) * dEdg for name, dEdg in point.dEdg.items()}
        return self.free(change)

    def residual(self, point: Point) -> Float[Array, ""]:
        """Returns the largest change of an activation in an explicit step with dt = τ.

        A shorter step would leave a saturated unit where it is.
        """
        moved = {name: x - point.dEdg[name] for name, x in point.xs.items()}
        gs, further = self.ham.activations(point.xs), self.ham.activations(self.hold(point.xs, moved))
        return jnp.max(jnp.stack([jnp.max(jnp.abs(widened(further[name]) - widened(g))) for name, g in gs.items()]))

    def own_key(self, key: PRNGKeyArray, xs: dict[str, Array]) -> PRNGKeyArray:
        """Returns the key that this example of a batch draws from.

        Where the examples share `key`, it is `jax.random.fold_in(key, index)` with the index in the batch, however the
        batch is made, by `jax.vmap` or by `ham.vectorize()`; nested batches are numbered row by row. A single example
        has index 0, and so has each example that comes with a key of its own.
        """
        return own_key(key, (self, xs))


class Step(NamedTuple, Generic[State]):
    """Where a step came to.

    - `xs`, `state`: the next states, and what the method carries on. Where a step is not accepted, `xs` are the states
      that it started from.
    - `accepted`: whether the step counts.
    - `stuck`: whether the method has nothing left to try.
    - `point`: the point at `xs`, from a method that `evaluates`.
    """

    xs: dict[str, Array]
    state: State
    accepted: Bool[Array, ""] | bool = True
    stuck: Bool[Array, ""] | bool = False
    point: Point | None = None


class Method(eqx.Module, Generic[State]):
    """A way to go from states to the next ones; given to `descend` and `relax` as `method=`.

    A method of your own defines `step`, and `init` if it carries something from step to step. `problem.evaluate(xs)`
    gives the energy and its gradient where a step starts. Nothing is computed twice: where the loop has evaluated these
    states, it comes at no cost, and where nobody asks, it is not evaluated at all.

    - `evaluates`: set it to True for a method that evaluates the states it comes to, to judge them. Its steps then
      return that point, and the next one starts from there.
    """

    evaluates: ClassVar[bool] = False

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        """Returns whether no step raises the energy, from what the HAM's parts declare. See `hamux.certify`."""
        return Certificate(False, reasons=(f"{type(self).__name__} does not look at the energy",))

    def prepare(self, ham: HAM, setting: Setting) -> "Method[Any]":
        """Returns the method that takes the steps on this HAM: itself, but for one that chooses among others.

        **Raises** ValueError, naming the layer, where the method needs what this HAM lacks.
        """
        return self

    def init(self, problem: Problem, xs: dict[str, Array]) -> State:
        """Returns what the first step starts with, beside the states. Draw random numbers by `problem.own_key`."""
        return ()  # type: ignore[return-value]

    @abc.abstractmethod
    def step(self, problem: Problem, xs: dict[str, Array], state: State) -> Step[State]:
        """Takes one step from `xs`."""

    def residual(self, problem: Problem, point: Point, state: State) -> Float[Array, ""]:
        """How far `point` is from a fixed point, in units of the activations."""
        return problem.residual(point)


def certify(
    ham: HAM | VectorizedHAM,
    method: Method[Any],
    *,
    tau: Mapping[str, Number] | None = None,
    clamp: Mapping[str, ArrayLike] | None = None,
) -> Certificate:
    """Returns whether no step of `method` raises the energy of `ham`, up to which dt, and what stands in the way.

    The answer rests on what the parts declare of themselves, and on the parameters that they have now. A part declares
    a fact by an attribute: a function by a value or by a function of the parameters that it names, such as
    `lagr_softmax.convex = lambda beta: beta > 0`; a Module by a field, a class variable or a property.

    - A Lagrangian: `convex`, whether it is. `elementwise`, whether it is a sum over units. `tokenwise`, the axis or
      axes along which units share it, True for the last one; tokens along the others are summed. `lipschitz`, a
      constant of its activation. `binary`, whether its activation is ±1. `analytic`, whether its formula holds for
      complex states near real ones, as the holomorphic `hamux.Equilibrium` asks.
    - A synapse: `multilinear`, whether E is linear in each g while the others are held. `curvature`, a number c for
      which E − (c/2) Σ‖g‖² is concave in all its g's together: 0 where E is concave, inf where there is no such c.
      `analytic`, as for a Lagrangian; what is multilinear is analytic.

    What is not declared is not certified. Where jax traces a parameter, a mask or a time constant that bears on the
    answer, the reason says so; `hamux.Certified` decides there as the program runs. `tau` and `clamp` are as in
    `descend`, with its errors. The proofs stand at the head of `hamux._certificate`.
    """
    one = ham.unvectorize()
    return method.certify(one, setting(one, tau, clamp).at_worst())


def add(xs: Mapping[str, Array], change: Mapping[str, Array]) -> dict[str, Array]:
    """xs + change, in the dtype of xs."""
    return {name: (x + change[name]).astype(x.dtype) for name, x in xs.items()}


def dot(a: Mapping[str, Array], b: Mapping[str, Array]) -> Float[Array, ""]:
    return functools.reduce(jnp.add, [jnp.sum(widened(a[name]) * widened(b[name])) for name in a])
