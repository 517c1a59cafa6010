"""Half precision is for storage: what is summed or compared is carried in float32."""

from typing import Any

import jax.numpy as jnp


def widened(value: Any) -> Any:
    """A float16 or bfloat16 array in float32; all else as it is."""
    return value.astype(jnp.float32) if getattr(value, "dtype", None) in (jnp.float16, jnp.bfloat16) else value


def accumulator(*values: Any) -> jnp.dtype:
    """The dtype in which products of `values` are summed."""
    dtype = jnp.result_type(*values)
    return jnp.dtype(jnp.float32) if dtype in (jnp.float16, jnp.bfloat16) else dtype
