"""What a training shows while it runs: a bar on a terminal, a line a report elsewhere; and how fast it is."""

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ._log import TIMINGS

_UNSAID = ("step", "gradient_norm", *TIMINGS)


class Display:
    """Steps done, the numbers of the last report and the time left; nothing at all when `quiet`."""

    def __init__(self, steps: int, quiet: bool):
        self._console = Console(quiet=quiet)
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(20), TextColumn("{task.fields[numbers]}"))
        on_terminal = self._console.is_terminal and not quiet
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, disable=not on_terminal)
        self._task = self._bar.add_task("", total=steps, numbers="")
        self._steps = steps

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self._bar.stop()

    def step(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def report(self, line: dict[str, Any]) -> None:
        """On the bar the loss, one metric and the speed; a whole line for a validation, and where there is no bar."""
        said = {name: f"{name} {value:.4g}" for name, value in line.items() if name not in _UNSAID}
        metrics = [name for name in said if name != "loss" and not name.startswith("validation_")]
        speed = f"{line['images_per_second']:.0f} images/s"
        self._bar.update(self._task, numbers=", ".join([*(said[name] for name in ("loss", *metrics[:1])), speed]))
        if self._bar.disable or "validation_loss" in line:
            self.say(f"step {line['step']} of {self._steps}: {', '.join([*said.values(), speed])}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Clock:
    """Images a second, and the share of the time spent waiting for them, of the steps between `start` and `lap`."""

    def __init__(self):
        self.start()
        self._first = self._began

    def start(self) -> None:
        self._began, self._waited, self._batches = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the next batch."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began
        self._batches += 1

    def lap(self, batch_size: int) -> dict[str, float]:
        passed = time.monotonic() - self._began
        return {
            "images_per_second": self._batches * batch_size / passed,
            "waiting": self._waited / passed,
            "seconds": time.monotonic() - self._first,
        }
