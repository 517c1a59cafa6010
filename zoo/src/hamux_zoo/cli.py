"""The command line, `hamux-zoo`. Each command imports what it needs when it runs, so that the others start at once."""

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

app = typer.Typer(
    help="Associative memories with pretrained weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Name = Annotated[str, typer.Argument(help="A bundled model, a model's folder, or a repo on the Hub.")]
Revision = Annotated[str | None, typer.Option(help="Of a repo: a branch, a tag or a commit.", show_default="main")]
Private = Annotated[bool | None, typer.Option(help="Whether a repo made now is shown to its owner alone.")]
Data = Annotated[str, typer.Option(help="A data set: a local folder, or an id on the Hub.")]


@app.command("list")
def list_command() -> None:
    """Show the pretrained models with size, data set and score."""
    from ._card import read_card
    from ._folder import WEIGHTS
    from ._hub import find_folder, list_pretrained

    with _errors_as_messages():
        table = Table(Column("name", no_wrap=True), "size", Column("data set", overflow="fold"), "score")
        for name in list_pretrained():
            card = read_card(name)
            scores = [f"{metric['name']} {metric['value']}" for metric in card.metrics]
            size = (find_folder(name) / WEIGHTS).stat().st_size
            table.add_row(name, f"{size / 1e6:.1f} MB", ", ".join(card.datasets), "\n".join(scores))
        console.print(table)


@app.command()
def info(name: Name) -> None:
    """Show a model's card."""
    from rich.markdown import Markdown

    from ._card import read_card

    with _errors_as_messages():
        console.print(Markdown(read_card(name).text))


@app.command()
def evaluate(
    name: Name,
    data: Data,
    split: Annotated[str, typer.Option(help="The one to measure on.")] = "test",
    skip_bad: Annotated[bool, typer.Option(help="Leave out images that cannot be read.")] = False,
) -> None:
    """Measure the numbers of a model's card on a data set."""
    with _errors_as_messages():
        from ._data import read, splits
        from ._evaluation import evaluate
        from ._folder import read_config
        from ._hub import find_folder
        from ._registry import from_pretrained

        folder = find_folder(name)
        model = from_pretrained(folder)
        others = [other for other in splits(data) if other == "train" != split]
        test, *train = (read(data, each, shape=model.config.shape, skip_bad=skip_bad) for each in (split, *others))
        test = test.numbered_as(read_config(folder).get("class_names", ()))
        for note in test.notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        console.print(_as_table(evaluate(model, *(source.images.take(slice(None)) for source in (test, *train)))))


@dataclasses.dataclass
class _TrainingOptions:
    """What `train` and `finetune` are told; but for the last four the arguments of `hamux_zoo.finetune`."""

    data: Data
    out: Annotated[Path, typer.Option(help="The run's folder; the model goes to OUT/model.")]
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="classify, reconstruct or denoise; several, each as NAME or NAME=WEIGHT.", show_default="classify"
        ),
    ] = None
    steps: Annotated[int, typer.Option(help="Steps of the optimiser.")] = 500
    batch_size: Annotated[int, typer.Option(help="Images a step, on all devices together.")] = 64
    optimizer: Annotated[str | None, typer.Option(help="adamw, muon or sgd.", show_default="the model's")] = None
    learning_rate: Annotated[float | None, typer.Option(help="At its highest.", show_default="the model's")] = None
    warmup: Annotated[int | None, typer.Option(help="Steps until then.", show_default="a tenth, at most 300")] = None
    weight_decay: Annotated[float, typer.Option(help="Decoupled decay of the weights.")] = 0.0
    clip: Annotated[float | None, typer.Option(help="The limit on the gradient's norm.")] = None
    accumulate: Annotated[int, typer.Option(help="The pieces in which a batch is computed.")] = 1
    ema: Annotated[float | None, typer.Option(help="The decay of an average of the weights, which is kept.")] = None
    precision: Annotated[str, typer.Option(help="float32 or bf16.")] = "float32"
    trainable: Annotated[str, typer.Option(help="all, head, or the beginning of parameters' names.")] = "all"
    augment: Annotated[
        list[str] | None, typer.Option(help="crop, flip, colour or warp; several, in order; TASK:NAME for one task.")
    ] = None
    validation: Annotated[float, typer.Option(help="The share of the images held out.")] = 0.1
    every: Annotated[
        int | None, typer.Option(help="Steps between validations and checkpoints.", show_default="a tenth")
    ] = None
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0
    overfit_one_batch: Annotated[bool, typer.Option(help="Train on the first batch alone: can it learn?")] = False
    overwrite: Annotated[bool, typer.Option(help="Empty the folder of the run it holds, and begin anew.")] = False
    skip_bad: Annotated[bool, typer.Option(help="Leave out images that cannot be read.")] = False
    shard_params: Annotated[bool, typer.Option(help="Cut large parameters over the devices.")] = False
    log: Annotated[str | None, typer.Option(help="Report to trackio or tensorboard as well.")] = None
    distributed: Annotated[bool, typer.Option(help="One process of several, started by SLURM or Kubernetes.")] = False
    coordinator: Annotated[str | None, typer.Option(help="HOST:PORT of the first of several processes.")] = None
    num_processes: Annotated[int | None, typer.Option(help="How many there are.")] = None
    process_id: Annotated[int | None, typer.Option(help="Which one this is, from 0.")] = None

    def arguments(self) -> dict[str, Any]:
        """Of `hamux_zoo.finetune`."""
        given = dataclasses.asdict(self)
        for name in ("distributed", "coordinator", "num_processes", "process_id"):
            del given[name]
        return given | {
            "task": _tasks(self.task or ["classify"]),
            "augment": self.augment or (),
            "workdir": given.pop("out"),
        }

    def join(self) -> None:
        """The other processes, if there are any. **Raises** ValueError when they cannot be found."""
        by_hand = [self.coordinator, self.num_processes, self.process_id]
        if any(part is not None for part in by_hand) and None in by_hand:
            raise ValueError("give --coordinator, --num-processes and --process-id together")
        if self.distributed or self.coordinator:
            from ._devices import join_processes

            join_processes(self.coordinator, self.num_processes, self.process_id)


def _takes_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose `**options` typer fills with the fields of `_TrainingOptions`."""
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [*own, *inspect.signature(_TrainingOptions).parameters.values()]
    command.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])  # type: ignore
    return command


@app.command()
@_takes_training_options
def finetune(
    name: Name,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A field of the config, NAME=VALUE, that leaves the parameters' shapes; repeatable."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Train a pretrained model further on your own data. The same command goes on where a run was stopped."""
    with _errors_as_messages():
        given = _TrainingOptions(**options)
        given.join()
        from ._hub import find_folder
        from ._registry import from_pretrained
        from ._training import finetune

        folder = find_folder(name)
        base_model = None if folder == Path(name).expanduser() else name
        model = from_pretrained(folder).with_config(**_settings(settings or []))
        finetune(model, base_model=base_model, **given.arguments())


@app.command()
@_takes_training_options
def train(
    architecture: Annotated[str, typer.Argument(help="The model_type of an architecture.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A field of the config, NAME=VALUE with a JSON value; repeatable.")
    ] = None,
    **options: Any,
) -> None:
    """Train a model from random weights. The same command goes on where a run was stopped."""
    with _errors_as_messages():
        given = _TrainingOptions(**options)
        given.join()
        from ._registry import model_classes
        from ._training import train

        classes = model_classes()
        if architecture not in classes:
            raise ValueError(f'unknown architecture "{architecture}"; there are {sorted(classes)}')
        train(classes[architecture], config=_settings(settings or []), **given.arguments())


@app.command("import")
def import_command(
    name: Annotated[str, typer.Argument(help="Which published file it is, such as et-imagenet.")],
    path: Annotated[Path, typer.Argument(help="The file.")],
    out: Annotated[Path | None, typer.Option(help="The model's folder.", show_default="NAME")] = None,
) -> None:
    """Turn a checkpoint that the authors of a model publish into a model's folder."""
    with _errors_as_messages():
        from ._registry import model_classes

        readers = {file: model for model in model_classes().values() for file in model.published}
        if name not in readers:
            raise ValueError(f'unknown file "{name}"; there are {sorted(readers)}')
        folder = out or Path(name)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is there already, and not empty; take another folder with --out")
        model = readers[name].from_published(name, path)
        model.save_pretrained(folder)
        console.print(f"saved: {folder}", soft_wrap=True, highlight=False)


@app.command()
def pull(repo: Annotated[str, typer.Argument(help="A repo on the Hub, ORG/NAME.")], revision: Revision = None) -> None:
    """Fetch a model from the Hugging Face Hub; from then on it is there without a network."""
    with _errors_as_messages():
        from ._hub import find_folder
        from ._registry import from_pretrained

        folder = find_folder(repo, revision=revision)
        if folder.parent.name != "snapshots":
            raise ValueError(f'"{repo}" is here already: {folder}')
        model = from_pretrained(folder)
        console.print(f"{type(model).__name__}, commit {folder.name}: {folder}", soft_wrap=True, highlight=False)


@app.command()
def push(
    name: Annotated[str, typer.Argument(help="A model's folder, such as RUN/model, or a bundled model.")],
    repo: Annotated[str, typer.Argument(help="A repo on the Hub, ORG/NAME; made where there is none.")],
    revision: Annotated[str | None, typer.Option(help="The branch.", show_default="main")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload model",
    private: Private = None,
    create_pr: Annotated[bool, typer.Option(help="As a pull request.")] = False,
) -> None:
    """Bring a model, with its card and pictures, to the Hugging Face Hub, in one commit."""
    with _errors_as_messages():
        from ._hub import find_folder, push_folder
        from ._registry import from_pretrained

        folder = find_folder(name)
        from_pretrained(folder)
        options: dict[str, Any] = {"revision": revision, "commit_message": message, "create_pr": create_pr}
        commit = push_folder(folder, repo, private=private, **options)
        console.print(f"pushed: {commit.pr_url or commit.commit_url}", soft_wrap=True, highlight=False)


@app.command()
def publish(namespace: Annotated[str, typer.Option(help="The user or organisation.")], private: Private = None) -> None:
    """Bring all bundled models to the Hugging Face Hub, each to NAMESPACE/NAME."""
    with _errors_as_messages():
        from ._hub import find_folder, list_pretrained, push_folder

        for name in list_pretrained():
            commit = push_folder(find_folder(name), f"{namespace}/{name}", private=private)
            console.print(f"{name}: {commit.commit_url}", soft_wrap=True, highlight=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder that the pictures go to.")] = Path("hamux-demo"),
    name: Annotated[
        str | None,
        typer.Option("--model", help="A bundled model, or a model's folder.", show_default="one of each architecture"),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            help="Images shipped with the package for this model: mnist, fashion-mnist or cifar10.",
            show_default="those of its data set, or the first of its shape",
        ),
    ] = None,
) -> None:
    """Recall damaged images, digits and photos, from the bundled memories; needs no network."""
    import matplotlib

    matplotlib.use("agg")
    from ._demo import SHOWN, draw, film, recalls, samples_for
    from ._registry import from_pretrained

    with _errors_as_messages():
        if samples and not name:
            raise ValueError("--samples are those of one model; name it with --model")
        out.mkdir(parents=True, exist_ok=True)
        columns = ("error\nbefore", "error\nafter", "accuracy", "steps", "energy\nbefore", "energy\nafter")
        table = Table("corruption", *columns, box=box.SIMPLE_HEAD)
        drawn = []
        for model_name in [name] if name else SHOWN:
            model: Any = from_pretrained(model_name)
            images = samples_for(model_name, model, samples)
            console.print(
                f"{model.config.memories} memories of {model_name}, {len(images.images)} test images that they have "
                "not seen."
            )
            for kind, found in recalls(model, images).items():
                for recall in found:
                    table.add_row(
                        recall.damage,
                        f"{recall.before:.4f}",
                        f"{recall.after:.4f}",
                        "–" if recall.accuracy is None else f"{100 * recall.accuracy:.1f} %",
                        f"{recall.steps}",
                        *(f"{energy:.1f}" for energy in recall.energies),
                    )
                drawn += [out / f"{kind}.png", out / f"{kind}.gif"]
                draw(kind, found).savefig(drawn[-2], dpi=120)
                film(found, drawn[-1])
        console.print(table)
        console.print(
            "Errors are mean squares over all pixels in [0, 1]; accuracy is that of classifying the result; steps are "
            "those to a fixed point (the median, 200 at most), or for patches all that the model takes."
        )
        for path in drawn:
            console.print(f"Drawn: {path}", soft_wrap=True)


def _tasks(names: list[str]) -> str | dict[str, float]:
    """One task's name, or the weights of several. **Raises** ValueError for a weight that is no number."""
    if len(names) == 1 and "=" not in names[0]:
        return names[0]
    weights = {}
    for name, equals, weight in (text.partition("=") for text in names):
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f'task "{name}" has the weight "{weight}"; expected NAME or NAME=NUMBER') from None
    return weights


def _settings(texts: list[str]) -> dict[str, Any]:
    """From "NAME=VALUE" with a JSON value, or plain text. **Raises** ValueError naming what is of another form."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f'setting "{text}" is not of the form NAME=VALUE')
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _as_table(measured: dict[str, float]) -> Table:
    table = Table("measure", "value")
    for measure, value in measured.items():
        table.add_row(measure, f"{value:.4g}")
    return table


@app.command("app")
def app_command(
    host: Annotated[str, typer.Option(help="Where to serve; 0.0.0.0 shows the page to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 7860,
) -> None:
    """Serve a web page on which one watches memories recall."""
    with _errors_as_messages():
        try:
            from .app import make_app
        except ModuleNotFoundError as error:
            raise ValueError(f"{error}; the page needs the extra: pip install 'hamux-zoo[app]'") from None
        make_app().launch(server_name=host, server_port=port, show_error=True, footer_links=[])


@contextlib.contextmanager
def _errors_as_messages() -> Iterator[None]:
    """A wrong argument or file ends the command with its message, not with a traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as stop:
        Console(stderr=True).print(str(stop) or "stopped", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
