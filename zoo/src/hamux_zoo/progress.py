"""What a training shows while it runs, and how fast it is."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# The numbers of a run that depend on the machine; all others are the same when it is repeated.
TIMINGS = ("images_per_second", "waiting", "seconds")
_UNSAID = ("step", "gradient_norm", *TIMINGS)


class Display(Progress):
    """Shows the number of steps done, the last report and the time left: by a bar on a terminal, by lines elsewhere.

    If it is `quiet`, it shows nothing.
    """

    def __init__(self, steps: int, quiet: bool) -> None:
        console = Console(quiet=quiet)
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(20), TextColumn("{task.fields[numbers]}"))
        on_terminal = console.is_terminal and not quiet
        super().__init__(*columns, TimeRemainingColumn(), console=console, disable=not on_terminal)
        self._task, self._steps = self.add_task("", total=steps, numbers=""), steps

    def step(self, done: int) -> None:
        self.update(self._task, completed=done)

    def report(self, line: Mapping[str, float]) -> None:
        """Shows loss, one metric and the speed on the bar; all numbers after a validation, and if there is no bar."""
        said = {name: f"{name} {value:.4g}" for name, value in line.items() if name not in _UNSAID}
        metrics = [name for name in said if name != "loss" and not name.startswith("validation_")]
        speed = f"{line['images_per_second']:.0f} images/s"
        self.update(self._task, numbers=", ".join([*(said[name] for name in ("loss", *metrics[:1])), speed]))
        if self.disable or "validation_loss" in line:
            self.say(f"step {line['step']:.0f} of {self._steps}: {', '.join([*said.values(), speed])}")

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Clock:
    """Measures speed, and the share of the time spent waiting for images, from `start` to `lap`."""

    def __init__(self) -> None:
        self.start()
        self._first = self._began

    def start(self) -> None:
        self._began, self._waited, self._batches = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Times the wait for one batch."""
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
