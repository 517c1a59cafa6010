"""Settings of every test: float64, no silent promotion of dtypes or ranks, and little time spent on compiling.

Most of the time goes into tracing and compiling programs that run a few times. So XLA compiles them plainly, all
processes of one run share what is compiled, and Python keeps the bytecode for the processes that tests start.
"""

import gc
import os
import tempfile
from pathlib import Path

FIRST = "PYTEST_XDIST_WORKER" not in os.environ  # the other processes inherit the environment of the first

if FIRST:
    _CACHE = tempfile.TemporaryDirectory(prefix="jax-cache-")
    os.environ |= {
        "PYTHONDONTWRITEBYTECODE": "",
        "JAX_COMPILATION_CACHE_DIR": _CACHE.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

import hypothesis  # noqa: E402  (the cache is read when jax is imported)
import jax  # noqa: E402

if FIRST:  # XLA reads its flags at the first computation
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    if jax.__version_info__ < (0, 11, 1):  # later releases refuse the flag
        flags.append("--xla_cpu_use_fusion_emitters=false")  # they take half of the time to compile a program
    os.environ["XLA_FLAGS"] = " ".join(flags)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("steady")

gc.set_threshold(100_000)  # tracing makes millions of small objects; looking through them often takes a tenth of it


def pytest_runtest_teardown(item, nextitem):
    """Lets go of compiled programs before Linux, which allows a process 65,530 maps of memory, ends it."""
    maps = Path("/proc/self/maps")
    if (nextitem is None or nextitem.path != item.path) and maps.exists() and maps.read_text().count("\n") > 45_000:
        jax.clear_caches()
