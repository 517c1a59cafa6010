"""The folder of a run: which run it holds, its log, its checkpoints, its models. The first process alone writes."""

import contextlib
import errno
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import jax
import numpy as np

from ..data import Loader
from ..files import contents
from ..memory import Memory
from ._checkpoints import Checkpoints
from ._devices import lead
from ._log import Line, Log, tracker
from ._steps import State

# Of run.json and the checkpoints. hamux-zoo 0.6 wrote none.
FORMAT = 2
# What a run writes into its folders, by pattern.
_OF_A_MODEL = r"config\.json|README\.md|samples\.png|.*\.safetensors.*"
_WRITTEN = {
    "checkpoints": r"\d+(\..*)?",
    "best": _OF_A_MODEL,
    "model": _OF_A_MODEL,
    "tensorboard": r"events\.out\.tfevents.*",
}
_MADE = ("run.json", "log.jsonl", *_WRITTEN, "curves.png", "samples.png")
_LOCK = ".lock"
_GO_ON = "free some, and the same call goes on from there"
_WAY_OUT = "take another folder, or empty it of its run by `overwrite=True`"


def _clear(path: Path) -> None:
    """Removes a file, a link, or what a run has written into a folder; with that the folder, if it is then empty."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for each in path.iterdir():
        if re.fullmatch(_WRITTEN.get(path.name, "(?!)"), each.name):
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            else:
                each.unlink()
    if not any(path.iterdir()):
        path.rmdir()


# Rows of pictures by name, and a title for each column.
Examples = tuple[dict[str, np.ndarray], list[str]]


# (path, lines of the log, rows of pictures, titles): draws `curves.png` and `samples.png` into a run's folder.
Draw = Callable[[Path, list[Line], dict[str, np.ndarray], list[str]], None]


@contextlib.contextmanager
def alone_in(path: Path, overwrite: bool) -> Iterator[None]:
    """Makes the folder of a run, and keeps other processes from training in it. The lock of a process ends with it.

    **Raises** ValueError if another one trains there, and if the folder holds what no run has written.
    """
    lock = filelock.FileLock(path / _LOCK)

    def claim() -> None:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; a run takes a folder")
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"another process trains in {path}; wait for it, or take another folder") from None
        _check_holds_a_run_or_nothing(path, overwrite)

    try:
        lead(claim)
        yield
    finally:
        lock.release()


def _check_holds_a_run_or_nothing(path: Path, overwrite: bool) -> None:
    if (path / "run.json").exists():
        return
    made = [path / name for name in _MADE if (path / name).exists()]
    if overwrite and made:
        raise ValueError(f"{made[0]} is there, which no run has written; take another folder")
    others = [name for name in contents(path) if not name.endswith(".aside") and name != _LOCK]
    if others and not overwrite:
        raise ValueError(f"{path} is not empty and holds no run; {_WAY_OUT}")


class Run:
    """A run's folder: `run.json`, `log.jsonl`, `checkpoints`, `best`, `model`, and what `draw` makes."""

    def __init__(
        self,
        path: Path,
        identity: dict[str, object],
        state: State,
        *,
        dataset: str | None,
        base_model: str | None,
        resume: bool,
        overwrite: bool,
        log: str | None,
        draw: Draw | None,
    ) -> None:
        """Makes the folder that of a run, or checks that it is; `identity` tells the run from every other.

        **Raises** ValueError if the folder holds something else, saying what differs, and OSError if there is no space
        for checkpoints of `state`.
        """
        self.path, self._identity = path, {"format": FORMAT, **identity}
        self._dataset, self._base_model, self._draw = dataset, base_model, draw
        self._log = Log(path / "log.jsonl")
        self.best = math.inf
        self.last_kept: int | None = None

        def open_folder() -> None:
            start = tracker(log)
            self._claim(resume, overwrite, 3 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            self._track = start(path, identity)

        lead(open_folder)
        self._checkpoints = Checkpoints(path / "checkpoints")

    def restore(self, state: State, loader: Loader) -> State:
        """Returns the state of the newest checkpoint, or `state` if there is none; sets loader and log back to it."""
        if found := self._checkpoints.restore(state):
            self.last_kept, state, meta = found
            self.best = meta["best"]
            loader.set_state(meta["loader"])
        lead(lambda: self._log.rewind(self.last_kept or 0))
        return state

    def keep(self, step: int, state: State, loader: Loader) -> None:
        """Writes a checkpoint. **Raises** OSError if it cannot be written."""
        self._checkpoints.save(step, state, {"best": self.best, "loader": loader.get_state()})
        self.last_kept = step

    def report(self, line: Line) -> None:
        """Adds a line to the log."""
        step, values = int(line["step"]), {name: value for name, value in line.items() if name != "step"}

        def write() -> None:
            self._log.append(line)
            self._track(step, values)

        self._lead(step, write)

    def show(self, model: Memory, line: Line, examples: Callable[[], Examples]) -> None:
        """Saves the model if its loss is the lowest so far, and draws."""
        loss = line.get("validation_loss", line["loss"])
        improved, self.best = loss < self.best, min(loss, self.best)

        def write() -> None:
            if self._draw is not None:
                self._draw(self.path, self._log.lines(), *examples())
            if improved:
                self._write(model, "best")

        self._lead(int(line["step"]), write)

    def finish(self, step: int, model: Memory) -> Path:
        """Saves the result and returns its folder."""
        self._lead(step, lambda: self._write(model, "model"))
        return self.path / "model"

    def _write(self, model: Memory, name: str) -> None:
        validated = {key: value for key, value in self._log.lines()[-1].items() if key.startswith("validation_")}
        base = {"base model": self._base_model} if self._base_model else {}
        folder, picture = self.path / name, self.path / "samples.png"
        card = model.card(
            self.path.name,
            {"Recipe": base | self._identity} | ({"Measured on images held out": validated} if validated else {}),
            path=str(folder),
            picture=picture.name if picture.is_file() else None,
            datasets=[self._dataset] if self._dataset else [],
            base_model=self._base_model,
            metrics=validated,
        )
        model.save_pretrained(folder, card=card)
        if picture.is_file():
            shutil.copy(picture, folder)

    def _lead(self, step: int, write: Callable[[], None]) -> None:
        """Lets the first process write. **Raises** OSError, with the step and the way on, if it cannot."""
        try:
            lead(write)
        except OSError as error:
            good = f"the last checkpoint is that of step {self.last_kept}" if self.last_kept else "no checkpoint yet"
            problem = f"step {step}: {self.path} cannot be written: {error} ({good}); {_GO_ON}"
            raise OSError(error.errno or errno.EIO, problem) from error

    def _claim(self, resume: bool, overwrite: bool, needed: int) -> None:
        own = self.path / "run.json"
        if overwrite:
            for path in (self.path / name for name in _MADE if (self.path / name).exists()):
                _clear(path)
        if own.exists():
            found = json.loads(own.read_text(encoding="utf-8"))
            if (version := found.get("format")) != FORMAT:
                reader = "hamux-zoo 0.6 reads it" if version is None else "a newer hamux-zoo reads it"
                raise ValueError(
                    f"{self.path} holds a run of format {version}, expected {FORMAT} ({reader}); {_WAY_OUT}"
                )
            keys = [key for key in {**found, **self._identity} if found.get(key) != self._identity.get(key)]
            differing = ", ".join(f"{key} was {found.get(key)!r} and is {self._identity.get(key)!r}" for key in keys)
            if keys or not resume:
                raise ValueError(f"{self.path} holds {f'another run ({differing})' if keys else 'a run'}; {_WAY_OUT}")
            return
        if (free := shutil.disk_usage(self.path).free) < needed:
            room = f"checkpoints take {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free; {_GO_ON}"
            raise OSError(errno.ENOSPC, room, str(self.path))
        aside = own.with_suffix(".aside")
        aside.write_text(json.dumps(self._identity, indent=2) + "\n", encoding="utf-8")
        aside.replace(own)
