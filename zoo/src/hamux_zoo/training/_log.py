"""The log of a run: one line of JSON for each report, and the trackers that get the same numbers."""

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path

# A report's numbers by name, and the step that they are of under "step".
Line = dict[str, float]


class Log:
    """The file `log.jsonl` in a run's folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, line: Line) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind(self, step: int) -> None:
        """Deletes the lines after `step`."""
        kept = "".join(json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step)
        aside = self._path.with_suffix(".aside")
        aside.write_text(kept, encoding="utf-8")
        aside.replace(self._path)

    def lines(self) -> list[Line]:
        """Returns all lines, but for a last one that a crash has cut off."""
        if not self._path.exists():
            return []
        read: list[Line] = []
        for text in self._path.read_text(encoding="utf-8").splitlines():
            try:
                read.append(json.loads(text))
            except ValueError:
                break
        return read


Tracker = Callable[[int, dict[str, float]], None]
Start = Callable[[Path, dict[str, object]], Tracker]


def tracker(name: str | None) -> Start:
    """Returns what starts a tracker, "trackio" or "tensorboard", from a run's folder and settings; None is no tracker.

    **Raises** ValueError for another name, and if the tracker's package is not installed.
    """
    if name is None:
        return lambda workdir, settings: lambda step, values: None
    if name not in _TRACKERS:
        raise ValueError(f"`log` is {name!r}; expected one of {sorted(_TRACKERS)}")
    package, start = _TRACKERS[name]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{error}; install it with: pip install 'hamux-zoo[{name}]'") from None
    return start


def _trackio(workdir: Path, settings: dict[str, object]) -> Tracker:
    import trackio

    name = "-".join(workdir.absolute().parts[-2:])
    run = trackio.init(project="hamux-zoo", name=name, config=settings, resume="allow")
    return lambda step, values: run.log(values, step=step)


def _tensorboard(workdir: Path, settings: dict[str, object]) -> Tracker:
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
