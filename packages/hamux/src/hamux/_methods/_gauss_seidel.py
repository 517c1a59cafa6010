"""Exact updates of one layer after another."""

import functools
from collections.abc import Sequence
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from .._certificate import Certificate, Obstacle, Setting, blocks, certified, convexity, stated
from .._ham import HAM
from .._precision import widened
from ._method import Method, Problem, Step


class GaussSeidel(Method[Int[Array, ""]]):
    """Updates one layer after another, x_l ← x_l − (dt/leak_l) ∂E/∂g_l, at the newest g's of the others.

    Let S, the energy of the synapses, be linear in g_l, as that of dense, convolution, average pooling and bias
    synapses between different layers is. With dt = 1 the update is x_l ← −(1/leak_l) ∂S/∂g_l, the minimum of E over
    that layer while the others are held: Gauss–Seidel, or block coordinate descent, where every block has a closed
    form. E falls by leak · D(g, g⁺), see `hamux.certify`, whatever τ is. A smaller dt goes part of the way, and E falls
    too. A step is a sweep over all layers. With one hidden layer it is the alternating update of a bidirectional
    memory (Kosko, 1988).

    - `order`: the layers in the order of a sweep, each at least once; for example up a hierarchy and down again.
      Without it they come in the order of their names.
    - `dt`: of every update, at most 1.
    - `key`: draws a new order for every sweep. A batch that shares the key shares the order.

    **Raises** ValueError for an `order` beside a `key`, and a `dt` outside (0, 1]; and when it is called, for an
    `order` that leaves out a layer, and a HAM with a layer that is not linear in its block, has leak 0, or is clamped
    in part where units share a Lagrangian.
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
        misordered = [Obstacle(True, reason) for reason in self._misordered(ham)]
        obstacles = misordered + blocks(ham, setting) + convexity(ham, setting)
        way = "to" if self.dt == 1 else "part of the way to"
        return certified(obstacles, f"every layer is taken {way} its own minimum, the others held")

    def prepare(self, ham: HAM, setting: Setting) -> Self:
        if obstacles := stated(blocks(ham, setting)):
            raise ValueError(f"no exact update: {'; '.join(obstacles)}. hamux.Backtracking() takes any HAM")
        if misordered := self._misordered(ham):
            raise ValueError(misordered[0])
        return self

    def _misordered(self, ham: HAM) -> list[str]:
        """Returns what is wrong with the order, if anything."""
        if self.order is None or set(self.order) == set(ham.neurons):
            return []
        return [f"order is {self.order}; a sweep takes every layer at least once, {sorted(ham.neurons)}"]

    def init(self, problem: Problem, xs: dict[str, Array]) -> Int[Array, ""]:
        return jnp.zeros((), int)

    def step(self, problem: Problem, xs: dict[str, Array], state: Int[Array, ""]) -> Step[Int[Array, ""]]:
        order = self.order or tuple(problem.ham.neurons)
        updates = [functools.partial(self._update, problem, name) for name in order]
        values = (xs, problem.ham.activations(xs))
        if self.key is None:
            for update in updates:
                values = update(values)
        else:
            drawn = jr.permutation(jr.fold_in(self.key, state), len(order))
            values, _ = jax.lax.scan(lambda now, i: (jax.lax.switch(i, updates, now), None), values, drawn)
        return Step(values[0], state + 1)

    def _update(
        self, problem: Problem, name: str, values: tuple[dict[str, Array], dict[str, Array]]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        xs, gs = values
        if name in problem.whole:
            return values
        layer = problem.ham.neurons[name]
        mine = [(layers, synapse) for layers, synapse in problem.ham.connections if name in layers]

        def synaptic(g: Array) -> Array:
            now = gs | {name: g}
            energies = [widened(problem.ham.synapses[synapse](*(now[n] for n in layers))) for layers, synapse in mine]
            total: Array = functools.reduce(jnp.add, energies)
            return total

        force = -jax.grad(synaptic)(gs[name]) if mine else jnp.zeros_like(gs[name])
        minimum = force / layer.leak
        moved = minimum if self.dt == 1 else xs[name] + self.dt * (minimum - xs[name])
        xs = problem.hold(xs, xs | {name: moved.astype(xs[name].dtype)})
        return xs, gs | {name: layer.activations(xs[name])}
