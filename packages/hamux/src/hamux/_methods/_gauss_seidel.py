"""Exact updates of one layer after another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .._certificate import Certificate, Obstacle, Setting, blocks, certified, convexity, stated
from .._ham import HAM
from .._neurons import Neurons
from .._precision import widened
from ._method import Method, Problem, Step

_Values = tuple[dict[str, Array], dict[str, Array]]
_Forces = dict[tuple[int, str], tuple[list[Array], Array]]


class GaussSeidel(Method[Int[Array, ""]]):
    """Updates one layer after another, x_l ← x_l − (dt/leak_l) ∂E/∂g_l, at the newest g's of the others.

    Let S, the energy of the synapses, be linear in g_l, as that of dense, convolution, average pooling and bias
    synapses between different layers is. With dt = 1 the update is x_l ← −(1/leak_l) ∂S/∂g_l, the minimum of E over
    that layer while the others are held: Gauss–Seidel, or block coordinate descent, where every block has a closed
    form. E falls by leak · D(g, g⁺), see `hamux.certify`, whatever τ is. A smaller dt goes part of the way, and E falls
    too. A larger one goes beyond the minimum: successive over-relaxation (Young, 1954), by which layers that pull each
    other slowly, such as pixels and their principal components, take far fewer sweeps. Where that would raise E, the
    layer goes to its minimum. A step is a sweep over all layers. With one hidden layer and dt = 1 it is the alternating
    update of a bidirectional memory (Kosko, 1988).

    - `order`: the layers in the order of a sweep, each at least once; for example up a hierarchy and down again.
      Without it they come in the order of their names.
    - `dt`: of every update, less than 2; or by layer, and 1 for those that are left out.
    - `key`: draws a new order for every sweep. A batch that shares the key shares the order.

    **Raises** ValueError for an `order` beside a `key`, and a `dt` outside (0, 2); and when it is called, for an
    `order` that leaves out a layer, a `dt` of an unknown layer, and a HAM with a layer that is not linear in its block,
    has leak 0, or is clamped in part where units share a Lagrangian.
    """

    order: tuple[str, ...] | None = eqx.field(static=True)
    dt: float | tuple[tuple[str, float], ...] = eqx.field(static=True)
    key: PRNGKeyArray | None

    def __init__(
        self,
        order: Sequence[str] | None = None,
        *,
        dt: float | Mapping[str, float] = 1.0,
        key: PRNGKeyArray | None = None,
    ):
        if order is not None and key is not None:
            raise ValueError("an order was given and a key to draw orders with; give one of them")
        if isinstance(order, str):
            raise ValueError(f"order is {order!r}; it is a sequence of layers")
        self.order = None if order is None else tuple(order)
        self.dt = tuple((name, float(each)) for name, each in dt.items()) if isinstance(dt, Mapping) else float(dt)
        self.key = key
        for each in dict(self.dt).values() if isinstance(self.dt, tuple) else [self.dt]:
            if not 0 < each < 2:
                raise ValueError(f"dt is {dt}; an update lowers E up to twice the way to its minimum, 0 < dt < 2")

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        misfits = [Obstacle(True, reason) for reason in self._misfits(ham)]
        obstacles = misfits + blocks(ham, setting) + convexity(ham, setting)
        return certified(obstacles, "every update lowers the energy of its layer, the others held")

    def prepare(self, ham: HAM, setting: Setting) -> Self:
        if obstacles := stated(blocks(ham, setting)):
            raise ValueError(f"no exact update: {'; '.join(obstacles)}. hamux.Backtracking() takes any HAM")
        if misfits := self._misfits(ham):
            raise ValueError(misfits[0])
        return self

    def _misfits(self, ham: HAM) -> list[str]:
        """Returns what is wrong with the order and the dt's of layers, if anything."""
        layers, misfits = sorted(ham.neurons), []
        if self.order is not None and set(self.order) != set(layers):
            misfits.append(f"order is {self.order}; a sweep takes every layer at least once, {layers}")
        if isinstance(self.dt, tuple) and not dict(self.dt).keys() <= set(layers):
            misfits.append(f"dt is {dict(self.dt)}; the layers are {layers}")
        return misfits

    def init(self, problem: Problem, xs: dict[str, Array]) -> Int[Array, ""]:
        return jnp.zeros((), int)

    def step(self, problem: Problem, xs: dict[str, Array], state: Int[Array, ""]) -> Step[Int[Array, ""]]:
        order = self.order or tuple(problem.ham.neurons)
        values = (xs, problem.ham.activations(xs))
        if self.key is None:
            forces = _Forces()
            for name in order:
                values = self._update(problem, name, forces, values)
        else:
            updates = [lambda now, name=name: self._update(problem, name, {}, now) for name in order]
            drawn = jr.permutation(jr.fold_in(self.key, state), len(order))
            values, _ = jax.lax.scan(lambda now, i: (jax.lax.switch(i, updates, now), None), values, drawn)
        return Step(values[0], state + 1)

    def _update(self, problem: Problem, name: str, forces: _Forces, values: _Values) -> _Values:
        """Updates a layer. `forces` holds those of this sweep, with the g's of which they were made."""
        xs, gs = values
        if name in problem.whole:
            return values
        layer, minimum = problem.ham.neurons[name], jnp.zeros_like(widened(gs[name]))
        for i, (layers, _) in enumerate(problem.ham.connections):
            if name not in layers:
                continue
            others = [gs[other] for other in layers if other != name]
            had, force = forces.get((i, name), ([], None))
            # The force of a synapse that is linear in g_l is the same until the others move. XLA sees that in a sweep,
            # but not in its gradient, where each product that was traced comes back.
            if force is None or any(before is not now for before, now in zip(had, others, strict=True)):
                force = -widened(jax.grad(_energy_of(problem.ham, i, name, gs))(gs[name]))
                forces[i, name] = others, force
            minimum += force / layer.leak
        dt = dict(self.dt).get(name, 1.0) if isinstance(self.dt, tuple) else self.dt

        def moved(dt: float) -> Array:
            start = widened(xs[name])
            way = minimum if dt == 1 else start + dt * (minimum - start)
            return problem.hold(xs, xs | {name: way.astype(xs[name].dtype)})[name]

        x = moved(dt)
        if dt > 1:
            x = jnp.where(_rises(layer, xs[name], x, minimum), moved(1), x)
        return xs | {name: x}, gs | {name: layer.activations(x)}


def _rises(layer: Neurons, x: Array, further: Array, minimum: Array) -> Bool[Array, ""]:
    """Whether E rises, by more than rounding, where a layer with this minimum goes from `x` to `further`."""
    x, further, minimum = jax.lax.stop_gradient((widened(x), widened(further), minimum))
    before, after = layer.activations(x), layer.activations(further)
    linear = layer.leak * jnp.sum((before - after) * minimum)
    terms = jnp.stack([layer.energy(after, further), -layer.energy(before, x), linear])
    return jnp.sum(terms) > 8 * jnp.finfo(terms.dtype).eps * jnp.sum(jnp.abs(terms))


def _energy_of(ham: HAM, connection: int, name: str, gs: dict[str, Array]) -> Callable[[Array], Array]:
    """The energy of a connection as a function of the g of one of its layers."""
    layers, synapse = ham.connections[connection]
    return lambda g: widened(ham.synapses[synapse](*(g if each == name else gs[each] for each in layers)))
