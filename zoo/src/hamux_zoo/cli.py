"""The command line, `hamux-zoo`. Each command imports what it needs when it runs, so that the others start at once."""

import csv
import dataclasses
import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
_say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)

Name = Annotated[str, typer.Argument(help="A bundled model, a model's folder, or a repo on the Hub.")]
Repo = Annotated[str, typer.Argument(help="A repo on the Hub, ORG/NAME.")]
Private = Annotated[bool | None, typer.Option(help="Whether a repo that is created now is private.")]
Data = Annotated[str, typer.Option(help="A data set: a local folder, or an id on the Hub.")]
SkipBad = Annotated[bool, typer.Option(help="Leave out images that cannot be read.")]
LabelColumn = Annotated[str | None, typer.Option(help="The column that holds the classes.", show_default="label")]
ClassFolder = Annotated[
    int, typer.Option(help="Which folder on the way to a picture is its class: 0 the first, -1 the last.")
]
Fields = Annotated[
    list[str] | None, typer.Option("--set", help="A field of the config, NAME=VALUE with a JSON value; repeatable.")
]


def _command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command. Its parameter `training`, if it has one, stands for the options of `_Training`.

    A wrong argument or file ends the command with a message, in which options have their flags, and no traceback.
    """

    def register(command: Callable[..., None]) -> Callable[..., None]:
        parameters = dict(inspect.signature(command).parameters)
        training = inspect.signature(_Training).parameters if parameters.pop("training", None) else {}
        parameters |= training
        flags = {
            # Inside of Annotated, typer's first argument is the flag, whatever its name says.
            name: option.default if isinstance(option.default, str) else f"--{name.replace('_', '-')}"
            for name, parameter in parameters.items()
            if isinstance(option := parameter.annotation.__metadata__[0], typer.models.OptionInfo)
        }

        @functools.wraps(command)
        def run(**given: Any) -> None:
            try:
                if training:
                    given["training"] = _Training(**{name: given.pop(name) for name in training})
                command(**given)
            except (ValueError, OSError, FloatingPointError) as error:
                _fail(f"error: {_with_flags(str(error), flags)}", 1, "red")
            except KeyboardInterrupt as stop:
                _fail(str(stop) or "stopped", 130)

        by_name = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters.values()]
        run.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
        return app.command(name)(run)

    return register


def _with_flags(message: str, flags: Mapping[str, str]) -> str:
    """The message with flags in place of names in backticks: --validation 0 for `validation=0`."""

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        return match[0] if name not in flags else flags[name] if value in (None, "True") else f"{flags[name]} {value}"

    return re.sub(r"`(\w+)(?:=([^`]+))?`", flag, message)


def _fail(message: str, code: int, style: str | None = None) -> None:
    Console(stderr=True).print(message, style=style, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code) from None


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"hamux-zoo {version('hamux-zoo')}")
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Associative memories with pretrained weights."""


@_command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Which names, such as '*mnist*'.")] = "*",
    architecture: Annotated[str | None, typer.Option(help="Of one architecture, by its model_type.")] = None,
    task: Annotated[str | None, typer.Option(help="Of those that do a task, such as classify.")] = None,
) -> None:
    """Show the bundled models with size, data set and score."""
    from .files import bundled, list_pretrained

    if task is None:
        found = bundled(pattern, architecture)
    else:
        from .models import list_models

        found = list_models(pattern, pretrained=True, model_type=architecture, task=task)
    table = Table(Column("name", no_wrap=True), "parameters", "size", Column("data set", overflow="fold"), "score")
    for each in found:
        scores = [f"{metric['name']} {metric['value']}" for metric in each.metrics]
        row = [f"{each.parameters:,}", f"{each.nbytes / 1e6:.1f} MB", ", ".join(each.datasets), "\n".join(scores)]
        table.add_row(each.name, *row)
    if not table.rows:
        raise ValueError(f"none of the bundled models is asked for; there are {', '.join(list_pretrained())}")
    console.print(table)


@_command()
def info(name: Name) -> None:
    """Show a model's card."""
    from rich.markdown import Markdown

    from .files import find_folder, read_card

    folder = find_folder(name, weights=False)
    try:
        text = read_card(folder).text
    except FileNotFoundError:
        from .models import from_pretrained

        _say(f"{folder} has no card; this is what its model says of itself.")
        *_, text = from_pretrained(name).card(folder.name).split("---\n", 2)
    console.print(Markdown(text))


@_command()
def evaluate(
    name: Name,
    data: Data,
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "test",
    first: Annotated[int, typer.Option(help="The first image of the split to measure on.", min=0)] = 0,
    recalls: Annotated[int, typer.Option(help="How many of the images to recall.", min=1)] = 1000,
    skip_bad: SkipBad = False,
    label_column: LabelColumn = None,
    class_folder: ClassFolder = 0,
) -> None:
    """Measure the numbers of a model's card on a data set."""
    from .data import Reading, read, splits
    from .measure import evaluate
    from .models import from_pretrained

    model = from_pretrained(name)
    config = model.config
    if len(config.shape) != 3 or (config.low, config.high) != (0, 1):
        raise ValueError(
            f"the model takes patterns of shape {config.shape} from {config.low:g} to {config.high:g}, not pictures "
            "(height, width, channels) from 0 to 1; measure it in Python with hamux_zoo.evaluate"
        )
    others = [other for other in splits(data) if other == "train" != split]
    options = Reading(skip_bad=skip_bad, label_column=label_column, class_folder=class_folder)
    test, *train = (read(data, each, shape=config.shape, **options) for each in (split, *others))
    test = test.numbered_as(config.class_names)
    for note in test.notes:
        _say(note)
    images = test.images
    if first >= len(images.images):
        raise ValueError(f"`first` is {first}; the split has {len(images.images)} images, from 0")
    table = Table("measure", "value")
    part = images.part(slice(first, None))
    for measure, value in evaluate(model, part, *(source.images for source in train), recalls=recalls).items():
        table.add_row(measure, f"{value:.4g}")
    console.print(table)


Pictures = Annotated[list[str], typer.Argument(help="Files, folders, patterns such as '*.png', or a data set's id.")]
Background = Annotated[str, typer.Option(help="The colour below pictures with opacity.")]
Invert = Annotated[bool, typer.Option("--invert", help="Turn bright into dark, for ink on paper.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print a table for machines, of comma-separated values.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each picture.")]
Row = dict[str, object]


@_command()
def classify(
    name: Name,
    pictures: Pictures,
    background: Background = "white",
    invert: Invert = False,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """Tell the class of pictures."""
    from .answers import Classified, predict

    def row(answer: Any) -> Row:
        assert isinstance(answer, Classified)
        found: Row = {"class": answer.name, "probability": round(answer.probability, 4)}
        return found if answer.unfamiliar is None else found | {"unfamiliar": answer.unfamiliar}

    answers = predict(_loaded(name), pictures, "classify", background=background, invert=invert)
    _answer(answers, row, as_csv, as_json)


@_command()
def recall(
    name: Name,
    pictures: Pictures,
    known: Annotated[Path | None, typer.Option(help="A picture that is white where a pixel is known.")] = None,
    erase: Annotated[
        str | None, typer.Option(help="The part to fill: lower, upper, left, right, quarter or patches.")
    ] = None,
    noise: Annotated[float, typer.Option(help="The share of the pixels to make black or white first.")] = 0.0,
    steps: Annotated[int | None, typer.Option(help="So many steps.", show_default="as the model was trained")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for pictures of what is given and recalled.")] = None,
    background: Background = "white",
    invert: Invert = False,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """Recall pictures: remove noise from them, or fill what is erased."""
    from .answers import Completed, predict
    from .pixels import from_picture

    model = _loaded(name)
    mask = None if known is None else from_picture(known, (*model.config.shape[:2], 1)).image > 0.5

    def row(answer: Any) -> Row:
        assert isinstance(answer, Completed)
        found: Row = {"steps": answer.steps, "energy": round(answer.energy, 4), "converged": answer.converged}
        if answer.unfamiliar is not None:
            found["unfamiliar"] = answer.unfamiliar
        if out is not None:
            found["picture"] = str(_drawn(out, answer.source, [answer.given, answer.recalled]))
        return found

    answers = predict(
        model,
        pictures,
        "recall",
        known=mask,
        erase=erase,
        noise=noise,
        steps=steps,
        background=background,
        invert=invert,
    )
    _answer(answers, row, as_csv, as_json)


@_command()
def generate(
    name: Name,
    label: Annotated[str, typer.Option(help="The class, by its name or number.")],
    out: Annotated[Path, typer.Option(help="The folder for the pictures.")] = Path("generated"),
    count: Annotated[int, typer.Option(help="The number of pictures.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0,
) -> None:
    """Make up pictures of a class."""
    import jax
    import numpy as np

    from .memory import Generator

    model = _loaded(name)
    if not isinstance(model, Generator) or "generate" not in model.tasks:
        raise ValueError(f"{name} cannot generate; it does {sorted(model.tasks)}")
    names = model.config.class_names or tuple(str(number) for number in range(model.config.classes))
    if label not in names and not (label.isdecimal() and int(label) < len(names)):
        raise ValueError(f'`label` is "{label}"; the model knows the classes {list(names)}')
    number = names.index(label) if label in names else int(label)
    keys = jax.random.split(jax.random.key(seed), count)
    generated = jax.jit(jax.vmap(lambda key: model.generate(number, key=key).x))(keys)
    for i, image in enumerate(np.asarray(generated)):
        print(_drawn(out, f"{label}-{i}", [image]))


@_command()
def features(
    name: Name,
    pictures: Pictures,
    out: Annotated[Path, typer.Option(help="The table to write, .parquet or .npz.")],
    background: Background = "white",
    invert: Invert = False,
) -> None:
    """Write the features of pictures to a table, one row for each."""
    import numpy as np

    from .answers import Described, predict

    if out.suffix not in (".parquet", ".npz"):
        raise ValueError(f"`out` is {out}; expected a name that ends in .parquet or .npz")
    sources, rows = [], []

    def row(answer: Any) -> Row:
        assert isinstance(answer, Described)
        sources.append(answer.source)
        rows.append(answer.features)
        return {"features": len(answer.features)}

    try:
        _answer(predict(_loaded(name), pictures, "features", background=background, invert=invert), row, False, False)
    finally:
        if rows and out.suffix == ".npz":
            np.savez(out, source=np.array(sources), features=np.stack(rows))
        elif rows:
            import pandas as pd

            pd.DataFrame({"source": sources, "features": rows}).to_parquet(out)


def _loaded(name: str) -> Any:
    from .models import from_pretrained

    return from_pretrained(name)


def _answer(answers: Iterator[Any], row: Callable[[Any], Row], as_csv: bool, as_json: bool) -> None:
    """Prints a row for each answer, and how the pictures were changed; ends with 1 if one could not be read."""
    from collections import Counter

    from rich.progress import track

    from .answers import Unread

    if as_csv and as_json:
        raise ValueError("`as_csv` and `as_json` exclude one another")
    errors = Console(stderr=True)
    rows, notes, unread = list[Row](), Counter[str](), list[Unread]()
    writer: csv.DictWriter[str] | None = None
    for answer in track(answers, "pictures", console=errors, transient=True, disable=not errors.is_terminal):
        if isinstance(answer, Unread):
            unread.append(answer)
            continue
        notes.update(answer.notes)
        found = {"source": answer.source, **row(answer)}
        if found.get("unfamiliar"):
            notes["unlike what the memory learned"] += 1
        if as_json:
            print(json.dumps(found, ensure_ascii=False))
        elif as_csv:
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(found), lineterminator="\n")
                writer.writeheader()
            writer.writerow(found)
        else:
            rows.append(found)
    if rows:
        table = Table(*(Column(name, overflow="fold") for name in rows[0]))
        for found in rows:
            table.add_row(*(str(value) for value in found.values()))
        console.print(table)
    said = [f"{times} of the pictures: {note}" for note, times in notes.items()]
    for line in [*said, *(f"{each.source} cannot be read: {each.reason}" for each in unread)]:
        errors.print(_with_flags(line, {"invert": "--invert"}), markup=False, highlight=False, soft_wrap=True)
    if unread:
        raise typer.Exit(1)


def _drawn(folder: Path, name: str, images: Sequence[Any]) -> Path:
    """Writes images side by side, enlarged, to a file in a folder that is named after `name`."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-")
    file = folder / f"{plain}.png"
    side = np.concatenate([np.pad(image, [(1, 1), (1, 1), (0, 0)], constant_values=0.5) for image in images], axis=1)
    times = max(1, 256 // side.shape[0])
    large = np.round(255 * side.repeat(times, axis=0).repeat(times, axis=1)).astype(np.uint8)
    Image.fromarray(large.squeeze()).save(file)
    return file


@dataclasses.dataclass(kw_only=True)
class _Training:
    """The options of `train` and `finetune`; a test compares those of `hamux_zoo.Recipe` with its fields."""

    data: Data
    workdir: Annotated[Path, typer.Option("--out", help="The run's folder; the model goes to OUT/model.")]
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="classify, reconstruct, denoise or generate; several, each as NAME or NAME=WEIGHT.",
            show_default="classify",
        ),
    ] = None
    probe: Annotated[
        bool | None,
        typer.Option(help="Begin with the classifier of `hamux-zoo probe`.", show_default="to classify alone"),
    ] = None
    steps: Annotated[
        int | None, typer.Option(help="Steps of the optimiser.", show_default="500; from a probe by the data")
    ] = None
    batch_size: Annotated[int, typer.Option(help="Images in a step, on all devices together.")] = 64
    optimizer: Annotated[str | None, typer.Option(help="adamw, muon or sgd.", show_default="the model's")] = None
    learning_rate: Annotated[float | None, typer.Option(help="The highest.", show_default="the model's")] = None
    warmup: Annotated[int | None, typer.Option(help="Steps until then.", show_default="a tenth, at most 300")] = None
    weight_decay: Annotated[float, typer.Option(help="Decoupled decay of the weights.")] = 0.0
    clip: Annotated[float | None, typer.Option(help="The largest norm of the gradient.")] = None
    accumulate: Annotated[int, typer.Option(help="The number of pieces in which a batch is computed.")] = 1
    ema: Annotated[float | None, typer.Option(help="The decay of an average of the weights, which is kept.")] = None
    precision: Annotated[str, typer.Option(help="float32 or bf16.")] = "float32"
    trainable: Annotated[str, typer.Option(help="all, head, or the beginning of parameters' names.")] = "all"
    augment: Annotated[
        list[str] | None,
        typer.Option(help="crop, flip, colour, warp or noise; several, in order; TASK:NAME for one task."),
    ] = None
    validation: Annotated[
        float | None,
        typer.Option(help="The share of the images that is held out.", show_default="0.1; from a probe by the data"),
    ] = None
    every: Annotated[
        int | None, typer.Option(help="Steps between validations and checkpoints.", show_default="a tenth")
    ] = None
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0
    overfit_one_batch: Annotated[bool, typer.Option(help="Train on the first batch alone: can it learn?")] = False
    overwrite: Annotated[bool, typer.Option(help="Empty the folder of the run that it holds, and start again.")] = False
    skip_bad: SkipBad = False
    label_column: LabelColumn = None
    class_folder: ClassFolder = 0
    shard_params: Annotated[bool, typer.Option(help="Cut large parameters over the devices.")] = False
    log: Annotated[str | None, typer.Option(help="Also report to trackio or tensorboard.")] = None
    distributed: Annotated[bool, typer.Option(help="One process of several, started by SLURM or Kubernetes.")] = False
    coordinator: Annotated[str | None, typer.Option(help="HOST:PORT of the first of several processes.")] = None
    num_processes: Annotated[int | None, typer.Option(help="The number of processes.")] = None
    process_id: Annotated[int | None, typer.Option(help="Which one this is, from 0.")] = None

    def arguments(self) -> dict[str, Any]:
        """Joins the other processes, if there are any, and returns the arguments of `finetune` and `train`."""
        from .training import Recipe, join_processes

        given = dataclasses.asdict(self) | {"task": _tasks(self.task), "augment": self.augment or None}
        distributed, *by_hand = (given.pop(n) for n in ("distributed", "coordinator", "num_processes", "process_id"))
        if by_hand != [None] * 3 and None in by_hand:
            raise ValueError("give `coordinator`, `num_processes` and `process_id` together")
        if distributed or self.coordinator:
            join_processes(*by_hand)
        from .show import draw_run

        recipe = Recipe(**{field.name: given.pop(field.name) for field in dataclasses.fields(Recipe)})
        return given | {"recipe": recipe, "draw": draw_run}


@_command()
def finetune(name: Name, training: _Training, config: Fields = None) -> None:
    """Train a pretrained model further on your own data. The same command continues a run that was stopped."""
    arguments = training.arguments()
    from .files import find_folder
    from .models import from_pretrained
    from .training import finetune

    folder = find_folder(name)
    base_model = None if folder == Path(name).expanduser() else name
    finetune(from_pretrained(folder).with_config(**_fields(config)), base_model=base_model, **arguments)


@_command()
def probe(
    name: Name,
    data: Data,
    out: Annotated[Path | None, typer.Option(help="The folder for the model and a picture of its confusions.")] = None,
    skip_bad: SkipBad = False,
    label_column: LabelColumn = None,
    class_folder: ClassFolder = 0,
    seed: Annotated[int, typer.Option(help="Of the folds of the cross-validation.")] = 0,
) -> None:
    """Fit a linear classifier on your own data to a model's features, in seconds, and measure it."""
    from .data import Reading
    from .models import from_pretrained
    from .training import probe

    if out is not None:
        _check_free(out)
    options = Reading(skip_bad=skip_bad, label_column=label_column, class_folder=class_folder)
    probed = probe(from_pretrained(name), data, seed=seed, **options)
    for note in probed.notes:
        _say(note)
    if probed.error is not None:
        table = Table("cross-validated", "error", "95 % interval", title=f"{len(probed.labels)} images")
        sides = {
            f"{name}, features": (probed.error, probed.interval),
            "raw pixels, support vector machine": (probed.raw_error, probed.raw_interval),
        }
        for side, (error, interval) in sides.items():
            if error is not None and interval is not None:
                table.add_row(side, f"{error:.1f} %", f"{interval[0]:.1f} to {interval[1]:.1f} %")
        console.print(table)
    if out is None:
        return
    probed.model.save_pretrained(out / "model")
    _say(f"saved: {out / 'model'}")
    if probed.found is not None:
        import matplotlib

        matplotlib.use("agg")
        from .show import plots

        config = probed.model.config
        names = config.class_names or [str(label) for label in range(config.classes)]
        plots.save(plots.confusions(probed.labels, probed.found, names), out / "confusions.png")
        _say(f"drawn: {out / 'confusions.png'}")


@_command()
def calibrate(
    name: Name,
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder for the model.")],
    skip_bad: SkipBad = False,
    label_column: LabelColumn = None,
    class_folder: ClassFolder = 0,
    seed: Annotated[int, typer.Option(help="Of the images that are drawn.")] = 0,
) -> None:
    """Measure on pictures that a memory knows from where on one is unlike them; `classify` and `recall` then say so."""
    from .data import Reading
    from .models import from_pretrained
    from .training import calibrate

    _check_free(out)
    options = Reading(skip_bad=skip_bad, label_column=label_column, class_folder=class_folder)
    model = calibrate(from_pretrained(name), data, seed=seed, **options)
    model.save_pretrained(out)
    _say(f"unlike what it learned is a strangeness above {model.config.unfamiliar:g}\nsaved: {out}")


@_command()
def train(
    architecture: Annotated[str, typer.Argument(help="The model_type of an architecture.")],
    training: _Training,
    config: Fields = None,
) -> None:
    """Train a new model. The same command continues a run that was stopped."""
    arguments = training.arguments()
    from .models import model_classes
    from .training import train

    classes = model_classes()
    if architecture not in classes:
        raise ValueError(f'unknown architecture "{architecture}"; expected one of {sorted(classes)}')
    train(classes[architecture], config=_fields(config), **arguments)


@_command("import")
def import_command(
    name: Annotated[str, typer.Argument(help="Which published file it is, such as et-imagenet.")],
    path: Annotated[Path, typer.Argument(help="The file.")],
    out: Annotated[Path | None, typer.Option(help="The model's folder.", show_default="NAME")] = None,
) -> None:
    """Turn a checkpoint that the authors of a model publish into a model's folder."""
    from .models import model_classes

    readers = {file: model for model in model_classes().values() for file in model.published}
    if name not in readers:
        raise ValueError(f'unknown file "{name}"; expected one of {sorted(readers)}')
    folder = out or Path(name)
    _check_free(folder)
    readers[name].from_published(name, path).save_pretrained(folder)
    _say(f"saved: {folder}")


@_command()
def pull(
    repo: Repo,
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit.", show_default="main")] = None,
) -> None:
    """Fetch a model from the Hugging Face Hub; from then on it needs no network."""
    from .files import find_folder
    from .models import from_pretrained

    folder = find_folder(repo, revision=revision)
    if folder.parent.name != "snapshots":
        raise ValueError(f'"{repo}" is here already: {folder}')
    model = from_pretrained(folder)
    _say(f"{type(model).__name__}, commit {folder.name}: {folder}")


@_command()
def push(
    name: Annotated[str, typer.Argument(help="A model's folder, such as RUN/model, or a bundled model.")],
    repo: Repo,
    revision: Annotated[str | None, typer.Option(help="The branch.", show_default="main")] = None,
    message: Annotated[str, typer.Option(help="The commit's message.")] = "Upload model",
    private: Private = None,
    create_pr: Annotated[bool, typer.Option(help="Push as a pull request.")] = False,
) -> None:
    """Push a model, with its card and pictures, to the Hugging Face Hub in one commit; creates the repo if need be."""
    from .files import find_folder
    from .models import push_folder

    folder = find_folder(name)
    commit = push_folder(folder, repo, private=private, revision=revision, commit_message=message, create_pr=create_pr)
    _say(f"pushed: {commit.pr_url or commit.commit_url}")


@_command()
def publish(namespace: Annotated[str, typer.Option(help="The user or organisation.")], private: Private = None) -> None:
    """Push all bundled models to the Hugging Face Hub, each to NAMESPACE/NAME."""
    from .files import find_folder, list_pretrained
    from .models import push_folder

    for name in list_pretrained():
        commit = push_folder(find_folder(name), f"{namespace}/{name}", private=private)
        _say(f"{name}: {commit.commit_url}")


@_command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder for the pictures.")] = Path("hamux-demo"),
    name: Annotated[
        str | None, typer.Option("--model", help="A bundled model, a folder, or a repo.", show_default="two bundled")
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="mnist, fashion-mnist or cifar10.", show_default="those that fit the model")
    ] = None,
) -> None:
    """Recall damaged digits and photos from the bundled memories; needs no network."""
    import matplotlib

    matplotlib.use("agg")
    from .models import from_pretrained
    from .show import COLUMNS, SHOWN, draw, recalls, samples_for

    if samples and not name:
        raise ValueError("`samples` is for one model; name it with `name`")
    out.mkdir(parents=True, exist_ok=True)
    for each in [name] if name else SHOWN:
        model = from_pretrained(each)
        chosen, images = samples_for(each, model.config, samples)
        title = f"{each} recalls {len(images.images)} damaged test images of {chosen}"
        table = Table(*COLUMNS, box=box.SIMPLE_HEAD, title=title, title_justify="left")
        rows = []
        for cells, row in recalls(model, images):
            table.add_row(*cells)
            rows.append(row)
        console.print(table)
        strip, film = (out / f"{Path(each).name}.{kind}" for kind in ("png", "gif"))
        draw(rows, strip, film)
        _say(f"Drawn: {strip}\nDrawn: {film}")
    _say(
        "Errors are mean squares over all pixels in [0, 1]. Accuracy is the share of the recalled images whose class "
        "is right. Steps are the median of all recalls."
    )


@_command("app")
def app_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Bundled models, models' folders, or repos on the Hub.", show_default="all bundled"),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to serve; 0.0.0.0 shows the page to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port of the page.")] = 7860,
) -> None:
    """Serve a web page on which one watches memories recall."""
    try:
        from .show.app import make_app
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; the page needs the extra: pip install 'hamux-zoo[app]'") from None
    page = make_app(*names or ())
    try:
        page.launch(server_name=host, server_port=port, show_error=True, footer_links=[])
    except OSError:
        raise OSError(f"nothing can be served at {host}, port {port}; give another `port` or `host`") from None


def _check_free(folder: Path) -> None:
    from .files import contents

    if folder.exists() and (not folder.is_dir() or contents(folder)):
        raise ValueError(f"{folder} is there already and is not empty; choose another folder with `out`")


def _tasks(texts: list[str] | None) -> str | dict[str, float]:
    """One task's name, or the weights of several."""
    texts = texts or ["classify"]
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    weights = {}
    for name, equals, weight in (text.partition("=") for text in texts):
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f'`task` "{name}" has the weight "{weight}"; expected NAME or NAME=NUMBER') from None
    return weights


def _fields(texts: list[str] | None) -> dict[str, object]:
    """Fields of a config from NAME=VALUE, with a JSON value or plain text."""
    values = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f'`config` is "{text}"; expected NAME=VALUE')
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values
