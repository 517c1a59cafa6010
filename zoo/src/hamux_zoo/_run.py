"""The folder of a run: whose it is, its log, its checkpoints, what it made. One process writes, the first."""

import contextlib
import errno
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from ._checkpoints import Checkpoints
from ._data import Images
from ._devices import lead
from ._log import TIMINGS, Log, tracker
from ._model import ZooModel, model_card
from ._steps import State
from ._tasks import examples

_MADE = ("run.json", "log.jsonl", "checkpoints", "best", "model", "curves.png", "samples.png", "tensorboard")
_GO_ON = "make room, and the same call, or command, goes on"
_WAY_OUT = "take another folder, or overwrite it (overwrite=True, --overwrite)"


class Run:
    """A run's folder, opened: `run.json`, `log.jsonl`, `checkpoints`, `best`, `model`, `curves.png`, `samples.png`."""

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        state: State,
        names: tuple[str, ...],
        *,
        datasets: Sequence[str],
        base_model: str | None,
        resume: bool,
        overwrite: bool,
        log: str | None,
    ):
        """Make the folder this run's, or find that it is: `identity`, JSON values, tells it from every other.

        `names` are the classes', `datasets` and `base_model` are for the card, `log` is that of a tracker that gets the
        numbers too.

        **Raises** ValueError when it is another's, naming what differs; OSError when there is no room for checkpoints.
        """
        self.path, self._identity, self._names = path, identity, names
        self._datasets, self._base_model = datasets, base_model
        task = identity["task"]
        self._tasks = [task] if isinstance(task, str) else list(task)
        self._log = Log(path / "log.jsonl")
        self.best = math.inf
        self.last_kept: int | None = None

        def open_folder() -> None:
            start = tracker(log)
            self._claim(identity, resume, overwrite, 3 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            self._track = start(path, identity)

        lead(open_folder)
        self._checkpoints = Checkpoints(path / "checkpoints")

    def restore(self, state: State, loader: Any) -> State:
        """The state of the newest checkpoint, and the loader and the log set back to it; `state` if there is none."""
        if found := self._checkpoints.restore(state):
            self.last_kept, state, meta = found
            self.best = meta["best"]
            loader.set_state(meta["loader"])
        lead(lambda: self._log.rewind(self.last_kept or 0))
        return state

    def keep(self, step: int, state: State, loader: Any) -> None:
        """A checkpoint. **Raises** OSError when it cannot be written."""
        self._checkpoints.save(step, state, {"best": self.best, "loader": loader.get_state()})
        self.last_kept = step

    def report(self, line: dict[str, float]) -> None:
        """Add a line to the log."""
        step, values = int(line["step"]), {name: value for name, value in line.items() if name != "step"}

        def write() -> None:
            self._log.append(line)
            self._track(step, values)

        with self._room(step):
            lead(write)

    def show(self, model: ZooModel, line: dict[str, float], data: Images) -> None:
        """Keep the model if its loss is the lowest so far, and draw the curves and some examples from `data`."""
        loss = line.get("validation_loss", line["loss"])
        improved, self.best = loss < self.best, min(loss, self.best)

        def write() -> None:
            from . import plots

            if improved:
                self._write(model, "best")
            plots.save(plots.training_curves(self._log.lines())[0], self.path / "curves.png")
            pictures = examples(model, data.take(slice(8)), self._tasks, self._names)
            plots.save(plots.image_rows(*pictures)[0][0], self.path / "samples.png")

        with self._room(int(line["step"])):
            lead(write)

    def finish(self, step: int, model: ZooModel) -> Path:
        """Save the result; its folder."""
        with self._room(step):
            lead(lambda: self._write(model, "model"))
        return self.path / "model"

    def _write(self, model: ZooModel, name: str) -> None:
        measured = {key: value for key, value in self._log.lines()[-1].items() if key not in TIMINGS}
        recipe = self._identity if self._base_model is None else {"base model": self._base_model, **self._identity}
        sections = {"Recipe": recipe, "Measured on images held out": measured}
        metrics = {key: value for key, value in measured.items() if key.startswith("validation_")}
        folder, picture = self.path / name, self.path / "samples.png"
        card = model_card(
            self.path.name,
            model,
            sections,
            path=str(folder),
            picture=picture.name if picture.is_file() else None,
            datasets=self._datasets,
            base_model=self._base_model,
            metrics=metrics,
        )
        model.save_pretrained(folder, card=card, class_names=self._names)
        if picture.is_file():
            shutil.copy(picture, folder)

    @contextlib.contextmanager
    def _room(self, step: int) -> Iterator[None]:
        """**Raises** OSError, with the step and the way on, when what is done inside cannot write."""
        try:
            yield
        except OSError as error:
            stands = (
                f"the checkpoint of step {self.last_kept} stands" if self.last_kept else "there is no checkpoint yet"
            )
            problem = f"after step {step} nothing can be written to {self.path}: {error}; {stands}; {_GO_ON}"
            raise OSError(error.errno or errno.EIO, problem) from error

    def _claim(self, identity: dict[str, Any], resume: bool, overwrite: bool, needed: int) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        own = self.path / "run.json"
        if overwrite:
            for name in _MADE:
                made = self.path / name
                shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
        if own.exists():
            found = json.loads(own.read_text(encoding="utf-8"))
            keys = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
            differing = ", ".join(f"{key} was {found.get(key)!r} and is {identity.get(key)!r}" for key in keys)
            if keys or not resume:
                raise ValueError(f"{self.path} holds {f'another run ({differing})' if keys else 'a run'}; {_WAY_OUT}")
            return
        if not overwrite and any(path.suffix != ".aside" for path in self.path.iterdir()):
            raise ValueError(f"{self.path} is not empty and holds no run; {_WAY_OUT}")
        if (free := shutil.disk_usage(self.path).free) < needed:
            room = f"checkpoints take {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free; {_GO_ON}"
            raise OSError(errno.ENOSPC, room, str(self.path))
        aside = own.with_suffix(".aside")
        aside.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        aside.replace(own)
