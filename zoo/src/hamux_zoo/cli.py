"""The command line, `hamux-zoo`. Each command imports what it needs when it runs, so that the others start at once."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="Associative memories with pretrained weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Name = Annotated[str, typer.Argument(help="A bundled model, or a model's folder.")]
Data = Annotated[str, typer.Option(help="A data set: a local folder, or an id on the Hub.")]


@app.command("list")
def list_command() -> None:
    """Show the pretrained models with size, data set and score."""
    from ._hub import WEIGHTS, find_folder, list_pretrained, read_card

    with _errors_as_messages():
        table = Table("name", "size", "data set", "score")
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

    from ._hub import read_card

    with _errors_as_messages():
        console.print(Markdown(read_card(name).text))


@app.command()
def evaluate(name: Name, data: Data) -> None:
    """Measure the numbers of a model's card on a data set's train and test splits."""
    with _errors_as_messages():
        from ._data import load_images
        from ._evaluation import evaluate
        from ._registry import from_pretrained

        measured = evaluate(from_pretrained(name), load_images(data, "train"), load_images(data, "test"))
        console.print(_as_table(measured))


@app.command()
def train(
    architecture: Annotated[str, typer.Argument(help="The model_type of an architecture.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder that the model goes to, as OUT/model.")],
    steps: Annotated[int, typer.Option(help="Training steps, of 500 images each.", min=20)] = 4000,
    seed: Annotated[int, typer.Option(help="Of the first weights, the batches and the damage.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A field of the config, NAME=VALUE with a JSON value; repeatable.")
    ] = None,
    validation: Annotated[int, typer.Option(help="Training images held out, to choose by.", min=0)] = 0,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = False,
) -> None:
    """Train a model from random weights; measure it on the images held out, if any."""
    with _errors_as_messages():
        import jax.random as jr

        from ._data import load_images, split
        from ._evaluation import evaluate
        from ._model import parse_settings
        from ._registry import model_classes
        from ._training import train

        classes = model_classes()
        if architecture not in classes:
            raise ValueError(f'unknown architecture "{architecture}"; there are {sorted(classes)}')
        images = load_images(data, "train")
        fields = {"shape": images.images.shape[1:], "classes": int(images.labels.max()) + 1}
        config = parse_settings(classes[architecture], fields, settings or [])
        learned, held_out = split(images, validation, seed)
        model = classes[architecture](config, key=jr.key(seed))

        def report(done: int, values: dict[str, float]) -> None:
            console.print(
                f"step {done} of {steps}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            )

        model = train(model, learned, steps=steps, seed=seed, flip=flip, report=report)
        model.save_pretrained(out / "model")
        console.print(f"saved: {out / 'model'}", soft_wrap=True)
        if validation:
            console.print(_as_table(evaluate(model, learned, held_out)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder that the picture goes to.")] = Path("hamux-demo"),
    name: Annotated[
        str, typer.Option("--model", help="A bundled model, or a model's folder.")
    ] = "dense-hopfield-mnist",
    samples: Annotated[
        str, typer.Option(help='Images shipped with the package: "mnist" or "fashion-mnist".')
    ] = "mnist",
) -> None:
    """Retrieve corrupted images, handwritten digits, from the bundled memories; needs no network."""
    import matplotlib

    matplotlib.use("agg")
    from . import plots
    from ._data import load_samples
    from ._evaluation import classify, corruptions, retrieve
    from ._registry import from_pretrained

    with _errors_as_messages():
        out.mkdir(parents=True, exist_ok=True)
        model: Any = from_pretrained(name)
        images, labels = load_samples(samples)
        console.print(
            f"{model.config.memories} memories of {name}, {len(images)} test images that they have not seen, "
            "each damaged in three ways and relaxed to a fixed point of the energy:"
        )
        columns = ("error\nbefore", "error\nafter", "accuracy", "steps", "energy\nbefore", "energy\nafter")
        table = Table("corruption", *columns, box=box.SIMPLE_HEAD)
        rows = []
        for example, (name, (cues, known)) in enumerate(corruptions(images).items()):
            result = retrieve(model, cues, known)
            table.add_row(
                name,
                f"{((cues - images) ** 2).mean():.4f}",
                f"{((result.x - images) ** 2).mean():.4f}",
                f"{100 * (classify(model, result.x) == labels).mean():.1f} %",
                f"{sorted(result.steps)[len(labels) // 2]}",
                f"{result.energies[:, 0].mean():.1f}",
                f"{result.energies[:, -1].mean():.1f}",
            )
            shown = model.retrieve(cues[example], known, trajectory=True)
            end = shown.steps + 1
            rows.append(plots.Row(name, images[example], cues[example], shown.trajectory[:end], shown.energies[:end]))
        console.print(table)
        console.print(
            "Errors are mean squares over all pixels in [0, 1]; steps to the fixed point (200 at most) are the median; "
            "accuracy is that of classifying the result."
        )
        path = out / "retrieval.png"
        plots.retrieval_strip(rows).savefig(path, dpi=120)
        console.print(f"Drawn: {path}", soft_wrap=True)


def _as_table(measured: dict[str, float]) -> Table:
    table = Table("measure", "value")
    for measure, value in measured.items():
        table.add_row(measure, f"{value:.4g}")
    return table


@contextlib.contextmanager
def _errors_as_messages() -> Iterator[None]:
    """A wrong argument or file ends the command with its message, not with a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
