"""Settings of every test: float64, no silent promotion of dtypes or ranks, and quick starts: what XLA compiles mostly
runs a few times only, and Python keeps the bytecode that the next process needs again."""

import os

os.environ["PYTHONDONTWRITEBYTECODE"] = ""
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import hypothesis
import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("steady")
