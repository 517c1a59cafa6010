"""A descent as one object: what is descended, and the loops that step it."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._methods import Method, Point, Problem

_Carry = TypeVar("_Carry")
_Record = TypeVar("_Record")
_Tree = TypeVar("_Tree")


class Reason(eqx.Enumeration):
    """Why a retrieval ended and, if it did not converge, what to do."""

    converged = "the residual is at most tol"
    max_steps = (
        "the steps were used up before the residual came down to tol: take more of them, or another method, such as "
        "hamux.Anderson(); if the energies rise or swing, take a smaller dt"
    )
    stuck = (
        "no step, however short, lowers the energy by more than its rounding: take a larger tol or a wider dtype; "
        "units that share one Lagrangian, those of a token, are clamped together or not at all"
    )
    not_finite = (
        "the energy or the residual is not finite: a state or a parameter is not, or a Lagrangian overflowed, or the "
        "energy has no lower bound; take a smaller dt or a bounded activation"
    )


_REASON: Any = Reason  # mypy takes the items of an Enumeration for strings


class Retrieval(eqx.Module):
    """The result of a descent.

    - `xs`: the states at the end.
    - `energies`: the energy at the start and after every step, `(steps + 1,)`. After an early end the last one is
      repeated.
    - `steps`: the number of steps taken, without those that a method tried and did not accept.
    - `residual`: how far `xs` is from a fixed point: the largest change of any activation in one more explicit step
      with dt = τ, whatever the method was.
    - `converged`: whether the residual is at most `tol`. The activations are then at rest; states may still move where
      L is flat.
    - `reason`: why it ended, one of `Reason`. `Reason[out.reason]` is its text.
    - `trajectory`: the states behind `energies`, with a leading axis `steps + 1`, if asked for.
    - `gs`: the activations at the end, under the adjoint `Equilibrium`; else None, `ham.activations(out.xs)` has them.

    Steps of a `warmup` are in none of these. With `energies=False`, `energies` is None, and under `descend` so are
    `residual`, `converged` and `reason`. For a vectorised HAM every array has a leading batch axis.
    """

    xs: dict[str, Array]
    energies: Float[Array, " steps_plus_1"] | None
    steps: Int[Array, ""]
    residual: Float[Array, ""] | None
    converged: Bool[Array, ""] | None
    reason: Reason | None
    trajectory: dict[str, Array] | None
    gs: dict[str, Array] | None = None


class Record(NamedTuple):
    """What is kept of a step, if it was asked for: the energy and the states at its start."""

    energy: Float[Array, ""] | None
    xs: dict[str, Array] | None


class Progress(NamedTuple):
    """How far a descent has come: the states, what the method carries, and the steps accepted so far.

    `point` is the point at `xs`, where it has been evaluated already.
    """

    xs: dict[str, Array]
    state: PyTree[Array]
    taken: Int[Array, ""]
    point: Point | None


class _Relaxing(NamedTuple):
    """A descent to rest; of every leaf of a `Record`, `records` has room for all steps."""

    progress: Progress
    residual: Float[Array, ""]
    stuck: Bool[Array, ""]
    records: list[Array]


class Descent(eqx.Module):
    """One example's descent, as an adjoint gets it: what is descended, and how far.

    - `problem`, `method`, `xs`: what is descended, how, and the states at the start.
    - `warmup`: the number of steps to take first, without a gradient; None for none.
    - `tol`: the residual at which it has converged.
    - `steps`: the number of steps, or the largest number under `relax`.
    - `energies`, `trajectory`: whether they are recorded.

    `descend` and `relax` run it. `begin`, `walk`, `resume` and `finish` are their parts, for an adjoint that treats
    some of the steps in another way.
    """

    problem: Problem
    method: Method[Any]
    xs: dict[str, Array]
    warmup: Int[Array, ""] | None
    tol: float | Array
    steps: int = eqx.field(static=True)
    energies: bool = eqx.field(static=True)
    trajectory: bool = eqx.field(static=True)

    def frozen(self) -> "Descent":
        """Returns the same descent without a gradient."""
        return frozen(self)

    def descend(self, every: int | None = None) -> Retrieval:
        """Takes all steps. Reverse mode keeps the states of every `every`-th one, as `hamux.Unrolled` says."""
        return self.finish(*self.walk(self.begin(), self.steps, every))

    def relax(self, checkpoints: int | None = None) -> Retrieval:
        """Takes steps until the residual is at most `tol`. With `checkpoints`, reverse mode goes through them."""

        def running(loop: _Relaxing) -> Bool[Array, ""]:
            finite = jnp.isfinite(self._point(loop.progress).energy) & jnp.isfinite(loop.residual)
            return finite & (loop.residual > self.tol) & (loop.progress.taken < self.steps) & ~loop.stuck

        def advance(loop: _Relaxing) -> _Relaxing:
            progress, stuck = self._stepped(loop.progress)
            point = self._point(progress)
            # What was not accepted is overwritten by the next step, or at the end.
            index = loop.progress.taken + 1
            now = jax.tree.leaves(self._record(progress.xs, point))
            records = [record.at[index].set(value) for record, value in zip(loop.records, now, strict=True)]
            residual = self.method.residual(self.problem, point, progress.state)
            return _Relaxing(progress._replace(point=point), residual, stuck, records)

        start = self.begin()
        point = self._point(start)
        first = jax.tree.leaves(self._record(start.xs, point))
        room = [jnp.repeat(value[None], self.steps + 1, axis=0) for value in first]
        residual = self.method.residual(self.problem, point, start.state)
        loop = _Relaxing(start._replace(point=point), residual, jnp.array(False), room)
        if checkpoints is None:
            end = jax.lax.while_loop(running, advance, loop)
        else:
            end = eqxi.while_loop(
                running,
                advance,
                loop,
                kind="checkpointed",
                checkpoints=checkpoints,
                buffers=lambda loop: loop.records,  # written once, and not kept at every checkpoint
            )
        progress, point = end.progress, self._point(end.progress)
        last, structure = jax.tree.flatten(self._record(progress.xs, point))
        filled = [_repeat_last(progress.taken, *each) for each in zip(end.records, last, strict=True)]
        records = jax.tree.unflatten(structure, filled)
        reason = self._reason(point, end.residual, end.stuck)
        return Retrieval(
            progress.xs, records.energy, progress.taken, end.residual, end.residual <= self.tol, reason, records.xs
        )

    def begin(self) -> Progress:
        """Returns the start, or where the warm-up leads."""
        point = self.problem.evaluate(self.xs) if self.method.evaluates else None
        state = self.method.init(self.problem.knowing(point), self.xs)
        start = Progress(self.xs, state, jnp.zeros((), int), point)
        if self.warmup is None:
            return start
        given = self.frozen()
        warm = jax.lax.fori_loop(0, self.warmup, lambda _, progress: given._stepped(progress)[0], frozen(start))
        return self.resume(warm._replace(taken=start.taken))

    def walk(self, progress: Progress, steps: int, every: int | None = None) -> tuple[Progress, Record]:
        """Takes `steps` steps. Returns where they lead, and the records of where each starts, `(steps, …)`."""

        def step(progress: Progress, nothing: None) -> tuple[Progress, Record]:
            point = self._point(progress) if self.energies else progress.point
            after, _ = self._stepped(progress._replace(point=point))
            return after, self._record(progress.xs, point)

        return scan_in_segments(step, progress, steps, every)

    def resume(self, progress: Progress) -> Progress:
        """Returns `progress` without the gradient of how it came about; that of the clamped units is kept."""
        progress = frozen(progress)
        xs = self.problem.hold(self.xs, progress.xs)
        return progress._replace(xs=xs, point=self.problem.evaluate(xs) if self.method.evaluates else None)

    def finish(self, end: Progress, records: Record) -> Retrieval:
        """Returns the result, from the end and the records of the steps that led there."""
        residual = converged = reason = None
        point = self._point(end) if self.energies else None
        if point is not None:
            residual = self.method.residual(self.problem, point, end.state)
            converged, reason = residual <= self.tol, self._reason(point, residual, jnp.array(False))
        last = self._record(end.xs, point)
        records = jax.tree.map(lambda record, last: jnp.concatenate([record, last[None]]), records, last)
        return Retrieval(end.xs, records.energy, end.taken, residual, converged, reason, records.xs)

    def _point(self, progress: Progress) -> Point:
        return self.problem.evaluate(progress.xs) if progress.point is None else progress.point

    def _record(self, xs: dict[str, Array], point: Point | None) -> Record:
        energy = point.energy if self.energies and point is not None else None
        return Record(energy, xs if self.trajectory else None)

    def _stepped(self, progress: Progress) -> tuple[Progress, Bool[Array, ""]]:
        """Takes one step. Returns where it leads, and whether the method is stuck there."""
        point = progress.point
        xs = progress.xs if point is None else point.xs  # the very states that the problem knows
        after = self.method.step(self.problem.knowing(point), xs, progress.state)
        if (after.point is not None) != self.method.evaluates:
            raise ValueError(
                f"{type(self.method).__name__}.evaluates is {self.method.evaluates}, but its step returned "
                f"{'no point' if after.point is None else 'a point'}; set the one, or return the other"
            )
        taken = jnp.where(after.accepted, progress.taken + 1, progress.taken)
        return Progress(after.xs, after.state, taken, after.point), jnp.asarray(after.stuck)

    def _reason(self, point: Point, residual: Float[Array, ""], stuck: Bool[Array, ""]) -> Reason:
        reason: Reason = _REASON.where(stuck, Reason.stuck, Reason.max_steps)
        reason = _REASON.where(residual <= self.tol, Reason.converged, reason)
        finite = jnp.isfinite(point.energy) & jnp.isfinite(residual)
        told: Reason = _REASON.where(finite, reason, Reason.not_finite)
        return told


def frozen(tree: _Tree) -> _Tree:
    """Returns `tree` without a gradient."""
    constant: _Tree = jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, tree)
    return constant


def scan_in_segments(
    step: Callable[[_Carry, None], tuple[_Carry, _Record]], carry: _Carry, steps: int, every: int | None = None
) -> tuple[_Carry, _Record]:
    """Runs `jax.lax.scan` of `steps` steps in segments of `every`, or about √steps.

    Reverse mode keeps where the segments begin, and computes one segment after another again. Without `every`, up to
    three steps are all kept, and unrolled: in a loop, XLA runs convolutions on one thread and joins no two steps.
    """
    if every is None and steps <= 3:
        return jax.lax.scan(step, carry, length=steps, unroll=True)
    root = math.isqrt(steps)
    # A length that divides the steps, if there is one.
    length = every or min(range(root, 2 * root), key=lambda length: steps % length)
    count, rest = divmod(steps, min(length, steps))

    @functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
    def segment(carry: _Carry, length: int) -> tuple[_Carry, _Record]:
        return jax.lax.scan(step, carry, length=length, unroll=length == 1)

    carry, records = jax.lax.scan(lambda carry, _: segment(carry, min(length, steps)), carry, length=count)
    records = jax.tree.map(lambda record: record.reshape(-1, *record.shape[2:]), records)
    if rest:
        carry, last = segment(carry, rest)
        records = jax.tree.map(lambda *parts: jnp.concatenate(parts), records, last)
    return carry, records


def _repeat_last(taken: Int[Array, ""], record: Array, last: Array) -> Array:
    """Returns `record`, with `last` in place of all that comes after index `taken`."""
    later = jnp.arange(len(record)).reshape(-1, *[1] * last.ndim) > taken
    return jnp.where(later, last[None], record)
