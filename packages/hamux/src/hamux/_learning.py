"""Learning by energy, for a training loop of one's own: gradients from where recalls come to rest."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._dynamics import Clamp, relax
from ._equilibrium import Equilibrium, Kind
from ._ham import HAM, States, VectorizedHAM
from ._methods import Method

_HAM = TypeVar("_HAM", HAM, VectorizedHAM)


def equilibrium_gradient(
    loss: Callable[[dict[str, Array]], Float[Array, ""]],
    ham: _HAM,
    xs: States,
    *,
    beta: float,
    kind: Kind = "centred",
    points: int | None = None,
    clamp: Clamp | None = None,
    tol: float = 1e-5,
    max_steps: int = 500,
    method: Method[Any] | None = None,
) -> tuple[Float[Array, ""], _HAM]:
    """Returns the loss of where a relaxation comes to rest, and its gradient by equilibrium propagation, as a HAM.

    - `loss`: a differentiable scalar function of the activations `gs`. Those of a vectorised HAM have a batch axis.
    - `beta`, `kind`, `points`: as in `hamux.Equilibrium`.

    The other arguments are those of `relax`.

    **Raises** ValueError as `Equilibrium` and `relax` do, and for a loss that does not depend on the activations.
    """
    adjoint = Equilibrium(beta, kind, points)
    shapes = jax.eval_shape(ham.activations, dict(xs))
    if not _depends_on_its_argument(loss, shapes):
        raise ValueError("the loss does not depend on the activations: it has no gradient")

    def of(ham: _HAM) -> Float[Array, ""]:
        out = relax(ham, xs, clamp=clamp, tol=tol, max_steps=max_steps, method=method, adjoint=adjoint)
        assert out.gs is not None
        return loss(out.gs)

    value_and_gradient: tuple[Float[Array, ""], _HAM] = eqx.filter_value_and_grad(of)(ham)
    return value_and_gradient


def contrastive_gradient(
    ham: _HAM,
    xs: States,
    targets: Clamp,
    *,
    clamp: Clamp | None = None,
    tol: float = 1e-5,
    max_steps: int = 500,
    method: Method[Any] | None = None,
) -> tuple[Float[Array, ""], _HAM]:
    """Returns E(taught) − E(free) and its gradient, as a HAM: contrastive Hebbian learning.

    The free relaxation holds what `clamp` says. The taught one begins where that came to rest, and holds what `targets`
    says as well. What both hold, and the targets, are as they are in `xs`. For a vectorised HAM the energies are summed
    over the batch.

    The other arguments, and errors, are those of `relax`.

    Movellan, "Contrastive Hebbian Learning in the Continuous Hopfield Model", 1991.
    """
    options: dict[str, Any] = {"tol": tol, "max_steps": max_steps, "method": method, "energies": False}
    free = relax(ham, xs, clamp=clamp, **options).xs
    held = {name: jnp.where(jnp.asarray(mask), xs[name], free[name]) for name, mask in targets.items()}
    taught = relax(ham, free | held, clamp=_both(clamp or {}, targets), **options).xs

    def energy(ham: _HAM, xs: States) -> Float[Array, ""]:
        xs = jax.lax.stop_gradient(xs)
        return jnp.sum(ham.energy(ham.activations(xs), xs))

    difference: tuple[Float[Array, ""], _HAM] = eqx.filter_value_and_grad(
        lambda ham: energy(ham, taught) - energy(ham, free)
    )(ham)
    return difference


def _both(one: Clamp, other: Clamp) -> Clamp:
    """The units that either mask clamps."""
    masks = {name: jnp.asarray(mask) for name, mask in {**other, **one}.items()}
    return masks | {name: jnp.asarray(one[name]) | jnp.asarray(other[name]) for name in one.keys() & other.keys()}


def _depends_on_its_argument(function: Callable[..., Any], argument: Any) -> bool:
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    reached = set(map(id, jaxpr.invars))
    for equation in jaxpr.eqns:
        if any(id(variable) in reached for variable in equation.invars):
            reached |= set(map(id, equation.outvars))
    return any(id(variable) in reached for variable in jaxpr.outvars)
