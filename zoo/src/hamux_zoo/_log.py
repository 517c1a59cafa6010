"""The log of a run: a line of JSON a report, curves drawn from it, and trackers that get the same numbers."""

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What depends on the machine's mood; all else in the log is the same for the same run.
TIMINGS = ("images_per_second", "waiting", "seconds")


class Log:
    """`log.jsonl` in a run's folder."""

    def __init__(self, path: Path):
        self._path = path

    def append(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`."""
        kept = "".join(json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step)
        aside = self._path.with_suffix(".aside")
        aside.write_text(kept, encoding="utf-8")
        aside.replace(self._path)

    def lines(self) -> list[dict[str, Any]]:
        """All that was written, but for a last line that a crash has cut off."""
        if not self._path.exists():
            return []
        read = []
        for text in self._path.read_text(encoding="utf-8").splitlines():
            try:
                read.append(json.loads(text))
            except ValueError:
                break
        return read


Tracker = Callable[[int, dict[str, float]], None]
Start = Callable[[Path, dict[str, Any]], Tracker]


def tracker(name: str | None) -> Start:
    """What, from a run's folder and settings, makes that which passes numbers on: to "trackio", to "tensorboard", or,
    for None, nowhere.

    **Raises** ValueError for another name, or for one whose package is not installed.
    """
    if name is None:
        return lambda workdir, settings: lambda step, values: None
    if name not in _TRACKERS:
        raise ValueError(f'unknown log "{name}"; there are {sorted(_TRACKERS)}')
    package, start = _TRACKERS[name]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{error}; install it with: pip install 'hamux-zoo[{name}]'") from None
    return start


def _trackio(workdir: Path, settings: dict[str, Any]) -> Tracker:
    import trackio

    name = "-".join(workdir.absolute().parts[-2:])
    run = trackio.init(project="hamux-zoo", name=name, config=settings, resume="allow")
    return lambda step, values: run.log(values, step=step)


def _tensorboard(workdir: Path, settings: dict[str, Any]) -> Tracker:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(workdir / "tensorboard"))
    writer.add_text("settings", json.dumps(settings, indent=2))

    def track(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return track


_TRACKERS: dict[str, tuple[str, Start]] = {
    "trackio": ("trackio", _trackio),
    "tensorboard": ("tensorboardX", _tensorboard),
}
