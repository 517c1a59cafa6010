"""Neurons: a layer of dynamical variables, described by its Lagrangian."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._binding import Module, bind
from ._checks import sizes
from ._precision import widened


class Neurons(Module):
    """A layer of neurons with state x, activation g = ∂L/∂x and energy leak · (g·x − L(x)).

    The state lives outside the layer: `init` makes one, every method takes it.

    - `lagrangian`: L, a convex function of a state that returns a scalar. Its parameters can be learned where they are
      bound to it: `jax.tree_util.Partial(lagr_softmax, beta=2.0)`, or an Equinox Module. A bare function has none. Of
      what a `Partial` binds, an int is a parameter where the function annotates that argument as a float or an array,
      and an option, such as an axis, elsewhere.
    - `shape`: of one state, without a batch axis; an int means one axis.
    - `tau`: the time constant of τ dx/dt = −∂E/∂g, in units of time; > 0.
    - `leak`: the weight of the layer's own energy; 1 for a textbook HAM, 0 for a layer that only the synapses move.

    Krotov & Hopfield, 2021; Krotov, "Hierarchical Associative Memory", 2021.

    **Raises** ValueError for a `tau` or `leak` out of range, or a Lagrangian that gives no scalar on `shape`.
    """

    lagrangian: Callable[..., Array]
    shape: tuple[int, ...] = eqx.field(static=True)
    tau: float = eqx.field(static=True)
    leak: float = eqx.field(static=True)

    def __init__(
        self, lagrangian: Callable[..., Array], shape: int | Sequence[int], tau: float = 1.0, leak: float = 1.0
    ):
        self.lagrangian = bind(lagrangian, "the Lagrangian")
        self.shape = sizes("shape", shape)
        self.tau = float(tau)
        self.leak = float(leak)
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise ValueError(f"tau is {tau}; a time constant is finite and greater than 0")
        if not (math.isfinite(self.leak) and self.leak >= 0):
            raise ValueError(f"leak is {leak}; it is finite and at least 0 (1 for a textbook layer, 0 for none)")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"shape is {self.shape}; every axis has at least one neuron")
        value = jax.eval_shape(lambda: self.lagrangian(jnp.zeros(self.shape)))
        if getattr(value, "shape", None) != ():
            found = getattr(value, "shape", type(value).__name__)
            raise ValueError(f"the Lagrangian gives {found} on a state of shape {self.shape}; it must give one scalar")

    def init(self, bs: int | None = None, *, key: PRNGKeyArray | None = None) -> Float[Array, "..."]:
        """Returns a state of `shape`, or of `(bs, *shape)`: zeros, or standard normal numbers from `key`."""
        shape = self.shape if bs is None else (bs, *self.shape)
        return jnp.zeros(shape) if key is None else jr.normal(key, shape)

    def activations(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns g = ∂L/∂x, of the state's shape."""
        g: Array = jax.grad(lambda x: self.lagrangian(widened(x)))(x)
        return g

    def g(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Is short for `activations`."""
        return self.activations(x)

    def energy(self, g: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        """Returns leak · (g·x − L(x)), the Legendre transform of L. Its derivative by g is leak · x."""
        g, x = widened(g), widened(x)
        if self.leak == 0:
            return jnp.zeros((), x.dtype)
        return self.leak * (jnp.sum(g * x) - self.lagrangian(x))
