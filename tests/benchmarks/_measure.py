"""What the benchmarks share: sides timed in turn, and figures recorded in `results/`."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side. They take turns, so that all meet the same machine, and in a turn the second call
    counts: the first finds the other side's data in the caches and its threads still spinning.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            run()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def record(name: str, figures: dict) -> None:
    """Write `results/NAME.json`, the figures beside what they were measured with."""
    machine = {"python": platform.python_version(), "jax": version("jax"), "cores": os.cpu_count()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(machine | figures, indent=2) + "\n")
