import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree


@pytest.fixture(scope="session")
def gradients():
    """A scalar function of a pytree of float64 arrays: its value, its gradient by jax and by central differences."""

    def compare(function, tree, step=1e-5):
        @jax.jit
        def compiled(tree):
            start, unravel = ravel_pytree(tree)
            steps = step * jnp.stack([jnp.eye(start.size), -jnp.eye(start.size)])
            above, below = jax.vmap(jax.vmap(lambda flat: function(unravel(flat))))(start[None, None] + steps)
            return *jax.value_and_grad(function)(tree), unravel((above - below) / (2 * step))

        return compiled(tree)

    return compare
