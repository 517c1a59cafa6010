"""Exact updates of one layer after another."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from .._certificate import Certificate, Setting, blocks
from .._ham import HAM
from .._precision import widened
from ._method import Method, Point, Problem, Step


class GaussSeidel(Method):
    """x_l ← x_l − (dt/leak_l) ∂E/∂g_l for one layer l after another, at the newest g's of the others.

    With S, the energy of the synapses, linear in g_l (dense, convolution, average pooling and bias synapses between
    different layers) dt = 1 is x_l ← −(1/leak_l) ∂S/∂g_l, the minimum of E over that layer, the others held:
    Gauss–Seidel, or block coordinate descent, whose every block has a closed form. It falls by leak · D(g, g⁺), see
    `hamux.certify`, whatever τ; a smaller dt goes part of the way and down, too. A step is a sweep over all layers.
    With one hidden layer it is the alternating update of a bidirectional memory (Kosko, 1988).

    - `order`: the layers, in the order of a sweep, each at least once: up and down again a hierarchy, say. By name
      when left out.
    - `dt`: of every update, at most 1.
    - `key`: draws a new order for every sweep.

    **Raises** ValueError when it is called for a HAM with a layer that is not linear in its block, or has leak 0, or is
    clamped in part where units share a Lagrangian; for an `order` that is not made of all its layers, or comes with a
    `key`; and for a `dt` that is not in (0, 1].
    """

    order: tuple[str, ...] | None = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    key: PRNGKeyArray | None

    def __init__(self, order: Sequence[str] | None = None, *, dt: float = 1.0, key: PRNGKeyArray | None = None):
        if order is not None and key is not None:
            raise ValueError("an order was given and a key to draw orders with; give one of them")
        if isinstance(order, str):
            raise ValueError(f"order is {order!r}; it is a sequence of layers")
        if not 0 < dt <= 1:
            raise ValueError(f"dt is {dt}; an update goes up to the minimum of its layer, 0 < dt ≤ 1")
        self.order = None if order is None else tuple(order)
        self.dt = float(dt)
        self.key = key

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        obstacles = self._misordered(ham) + blocks(ham, setting)
        way = "to" if self.dt == 1 else "part of the way to"
        reasons = obstacles or [f"every layer is taken {way} its own minimum, the others held"]
        return Certificate(not obstacles, None, tuple(reasons))

    def check(self, ham: HAM, setting: Setting) -> None:
        obstacles = blocks(ham, setting)
        if obstacles:
            raise ValueError(f"no exact update: {'; '.join(obstacles)}. hamux.Backtracking() takes any HAM")
        if misordered := self._misordered(ham):
            raise ValueError(misordered[0])

    def _misordered(self, ham: HAM) -> list[str]:
        """What is wrong with the order, if anything."""
        if self.order is None or set(self.order) == set(ham.neurons):
            return []
        return [f"order is {self.order}; a sweep takes every layer at least once, {sorted(ham.neurons)}"]

    def init(self, problem: Problem, point: Point, example: Int[Array, ""]) -> Int[Array, ""]:
        return jnp.zeros((), int)

    def step(self, problem: Problem, point: Point, state: Int[Array, ""]) -> Step:
        order = [name for name in self.order or problem.ham.neurons if name not in problem.whole]
        updates = [lambda values, name=name: self._update(problem, values, name) for name in order]
        values = (point.xs, problem.ham.activations(point.xs))
        if self.key is None or not updates:
            for update in updates:
                values = update(values)
        else:
            drawn = jr.permutation(jr.fold_in(self.key, state), len(order))
            values, _ = jax.lax.scan(lambda now, i: (jax.lax.switch(i, updates, now), None), values, drawn)
        return Step(problem.evaluate(values[0]), state + 1)

    def _update(self, problem: Problem, values: tuple[dict[str, Array], dict[str, Array]], name: str):
        xs, gs = values
        layer = problem.ham.neurons[name]

        mine = [(layers, synapse) for layers, synapse in problem.ham.connections if name in layers]

        def synaptic(g):
            now = gs | {name: g}
            return sum(widened(problem.ham.synapses[synapse](*(now[n] for n in layers))) for layers, synapse in mine)

        force = -jax.grad(synaptic)(gs[name]) if mine else jnp.zeros_like(gs[name])
        minimum = force / layer.leak
        moved = minimum if self.dt == 1 else xs[name] + self.dt * (minimum - xs[name])
        xs = problem.hold(xs, xs | {name: moved.astype(xs[name].dtype)})
        return xs, gs | {name: layer.activations(xs[name])}
