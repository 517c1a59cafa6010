"""The page of `hamux-zoo app`, on which one watches memories recall; with the extra `hamux-zoo[app]`.

As a Space of the Hugging Face Hub it is `from hamux_zoo.app import make_app` and `make_app().launch()`. It knows no
architecture: a model is shown that has `watch`, see `ZooModel`.
"""

import base64
import functools
import io
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
from gradio.utils import get_upload_folder
from PIL import Image, ImageOps

from ._corruptions import gaussian_noise
from ._data import fit
from ._demo import samples_for
from ._folder import read_config
from ._hub import find_folder, list_pretrained
from ._model import only_known
from ._registry import from_pretrained, model_classes
from .plots import stretched

_UPLOAD_MB = 5
_STEPS = (5, 10, 20, 50)
_MEMORIES = 48
_SIDE = 320  # of the canvas, in pixels of the page
_ERASED = (255, 0, 255)
_ERASER, _INK, _BLACK = "#ff00ff", "#ffffff", "#000000"
_HIDDEN = {  # from which share of the height and of the width on
    "nothing": (1, 1),
    "the lower half": (0.5, 0),
    "the right half": (0, 0.5),
    "the lower right quarter": (0.5, 0.5),
}
_FRAMES_PER_SECOND = 12


def make_app() -> gr.Blocks:
    """The page; `launch` serves it."""
    kinds = {name: model_classes()[read_config(find_folder(name))["model_type"]] for name in list_pretrained()}
    names = [name for name, kind in kinds.items() if hasattr(kind, "watch")]
    with gr.Blocks(title="Associative memories", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# Associative memories\nDamage a picture, and watch a memory descend its energy to what it makes of it. "
            "On the picture magenta erases, white and black draw; without a pointer, say below what to erase."
        )
        recalled = gr.State()
        with gr.Row():
            with gr.Column(min_width=300):
                name = gr.Dropdown(names, value="dense-hopfield-mnist", label="Memory")
                sample = gr.Dropdown(list(range(1, 21)), value=1, label="Test picture")
                with gr.Row():
                    blank = gr.Button("Draw your own", size="sm")
                    upload = gr.UploadButton(f"Load a picture, at most {_UPLOAD_MB} MB", size="sm", type="filepath")
                drawn = gr.ImageEditor(
                    label="What it is given",
                    sources=["webcam", "clipboard"],
                    brush=_brush(_ERASER),
                    eraser=gr.Eraser(default_size=24),
                    layers=False,
                    transforms=(),
                    canvas_size=(_SIDE, _SIDE),
                    height=470,
                    buttons=[],
                    elem_id="drawn",
                )
                hidden = gr.Dropdown(list(_HIDDEN), value="the lower half", label="Also erase")
            with gr.Column(min_width=300):
                with gr.Row():
                    steps = gr.Dropdown(list(_STEPS), value=10, label="Steps", min_width=120)
                    dt = gr.Slider(0.1, 1, 1, step=0.1, label="Step size dt, of the memory's own", min_width=120)
                with gr.Row():
                    beta = gr.Slider(-3, 3, 0, step=1, label="Inverse temperature β, times 2 to the", min_width=120)
                    noise = gr.Slider(0, 1, 0, step=0.05, label="Noise (then no pixel is held)", min_width=120)
                go = gr.Button("Recall", variant="primary")
                status = gr.HTML(_said("Loading the memory …"))
                frame = gr.HTML(label="What is recalled")
                energy = gr.LinePlot(x="step", y="energy", label="Energy", height=200, tooltip="all")
        with gr.Accordion("Memories: choose one to see its weight", open=False) as shelf:
            gallery = gr.Gallery(label="Memories", columns=8, height=320, allow_preview=False, buttons=[])
            weight = gr.HTML()

        gr.on([page.load, name.change], _begin, [name, sample], [drawn, beta, recalled, gallery, weight, status])
        sample.input(_given, [name, sample], drawn)
        blank.click(_blank, name, drawn)
        upload.upload(_loaded, [upload, name], drawn, show_progress="hidden")
        go.click(
            _recall,
            [name, drawn, hidden, steps, dt, beta, noise],
            [frame, energy, status, recalled],
            concurrency_limit=8,
            show_progress="hidden",
        )
        shelf.expand(_memories, name, gallery)
        gallery.select(_weight, [name, recalled], weight)
    return page.queue()


_Wrong = functools.partial(gr.Error, print_exception=False)  # what the user is told, which is no fault of the page


def _begin(name: str, sample: int) -> tuple[Any, ...]:
    """The picture of a memory that is chosen, and no results."""
    has_beta = bool(_at_beta(name, 0))
    info = None if has_beta else "fixed in this memory"
    return (
        _given(name, sample),
        gr.update(interactive=has_beta, info=info, value=0),
        None,
        [],
        "",
        _said("Press Recall."),
    )


def _brush(colour: str) -> gr.Brush:
    return gr.Brush(colors=[_ERASER, _INK, _BLACK], default_color=colour, color_mode="fixed", default_size=24)


def _given(name: str, sample: int) -> Any:
    return _on_canvas(samples_for(name, _model(name)).images[sample - 1], _ERASER)


def _blank(name: str) -> Any:
    return _on_canvas(np.zeros(_model(name).config.shape), _INK)


def _loaded(file: str, name: str) -> Any:
    size = Path(file).stat().st_size
    if size > _UPLOAD_MB * 2**20:
        raise _Wrong(f"{Path(file).name} has {size / 2**20:.1f} MB; at most {_UPLOAD_MB} MB are taken")
    try:
        with Image.open(file) as picture:
            return _on_canvas(_fitted(ImageOps.exif_transpose(picture), _model(name).config.shape), _ERASER)
    except Exception as error:  # whatever a file that is no image makes Pillow's many readers raise
        raise _Wrong(f"{Path(file).name} is not an image that can be read (PNG, JPEG, …)") from error


def _recall(
    name: str, drawn: Any, hidden: str, steps: int, dt: float, beta: float, noise: float
) -> Iterator[tuple[Any, ...]]:
    """Frame after frame, the energy down to there, what is said of it, and the last picture."""
    model = _at_beta(name, beta) or _model(name)
    image, known = _read(drawn, model.config.shape, hidden)
    held: Any = known
    if noise:
        image, held = np.asarray(only_known(gaussian_noise(jr.key(0), jnp.asarray(image), noise), known)), None
    images, energies = (np.asarray(each, np.float32) for each in model.watch(image, held, steps=steps, dt=dt))
    if not np.isfinite(energies).all():
        raise _Wrong("the energy is no longer a number; take smaller steps dt")
    for step in range(steps + 1):
        said = f"Step {step} of {steps}, energy {energies[step]:.4g}"
        if step == steps:
            said += _named(name, images[-1])
        curve = pd.DataFrame({"step": range(step + 1), "energy": energies[: step + 1]})
        yield _picture(images[step], f"The picture at step {step}"), curve, _said(said), images[-1]
        time.sleep(1 / _FRAMES_PER_SECOND)


def _memories(name: str) -> list[tuple[str, str]]:
    return [(_file(image, 64), f"memory {i}") for i, image in enumerate(_shelf(name))]


def _weight(name: str, recalled: np.ndarray | None, event: gr.SelectData) -> str:
    """A memory that was chosen, large, and its share of the pull on what was recalled."""
    of_it = "Recall a picture, and its share in it is told."
    if recalled is not None:
        of_it = f"Its share in what was recalled: {float(_shares(name, recalled)[event.index]):.2%}"
    return _picture(_shelf(name)[event.index], f"Memory {event.index}") + _said(f"Memory {event.index}. {of_it}")


@functools.cache
def _model(name: str) -> Any:
    return from_pretrained(name)


@functools.cache
def _at_beta(name: str, twice: float) -> Any:
    """The model with β times 2 to the `twice`; None where β is fixed."""
    try:
        return _model(name).with_beta(2.0**twice)
    except ValueError:
        return None


@functools.cache
def _shelf(name: str) -> np.ndarray:
    """Some of the model's memories, each stretched to its own range."""
    memories, some = _model(name).memories, slice(_MEMORIES)
    return stretched(np.asarray(memories(some) if callable(memories) else memories[some], np.float32))


def _shares(name: str, image: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(type(_model(name)).attribution)(_model(name), image))


def _named(name: str, image: np.ndarray) -> str:
    """The class of an image, where the model names any."""
    model = _model(name)
    if not getattr(model.config, "classes", 0):
        return ""
    best = int(np.argmax(model.classify(image)))
    names = read_config(find_folder(name)).get("class_names", ())
    return f". It is named: {names[best] if best < len(names) else best}"


def _read(drawn: Any, shape: tuple[int, ...], hidden: str) -> tuple[np.ndarray, np.ndarray]:
    """The image in the editor, and which of its pixels are known."""
    if not drawn or drawn.get("background") is None:
        raise _Wrong("there is no picture yet: choose one, draw one or load one")
    picture = Image.fromarray(drawn["background"]).convert("RGBA")
    erased = np.zeros(picture.size[::-1], bool)
    for layer in drawn["layers"]:
        stroke = np.asarray(layer).copy()
        magenta = (stroke[..., 3] > 0) & (np.abs(stroke[..., :3].astype(int) - _ERASED).max(axis=-1) < 100)
        erased |= magenta
        stroke[magenta] = 0
        picture.alpha_composite(Image.fromarray(stroke))
    height, width, _ = shape
    share = _fitted(Image.fromarray(255 * erased.astype(np.uint8)), (height, width, 1))
    known = np.broadcast_to(share < 0.25, shape).copy()
    top, left = _HIDDEN[hidden]
    known[int(top * height) :, int(left * width) :] = False
    return _fitted(picture, shape), known


def _fitted(picture: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(fit(picture, shape, "BOX"), np.float32).reshape(shape) / 255


def _on_canvas(image: np.ndarray, brush: str) -> Any:
    return gr.update(value={"background": _file(image, _SIDE), "layers": [], "composite": None}, brush=_brush(brush))


def _file(image: np.ndarray, side: int) -> str:
    """An image in a file of its own: gradio writes an array to one file for all, while another session reads it."""
    file = Path(get_upload_folder(), uuid.uuid4().hex, "picture.png")
    file.parent.mkdir(parents=True)
    Image.fromarray(_enlarged(image, side)).save(file)
    return str(file)


def _enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """Bytes (height, width, 3), every pixel a square."""
    times = max(side // image.shape[0], 1)
    coloured = np.broadcast_to(np.clip(image, 0, 1), (*image.shape[:2], 3))
    return np.round(255 * coloured).astype(np.uint8).repeat(times, axis=0).repeat(times, axis=1)


def _picture(image: np.ndarray, said: str) -> str:
    """An image as a tag, so that frames leave no files, with words for those who do not see it."""
    file = io.BytesIO()
    Image.fromarray(_enlarged(image, 1)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    style = "width: min(100%, 320px); image-rendering: pixelated"
    return f'<img src="data:image/png;base64,{data}" alt="{said}" style="{style}">'


def _said(text: str) -> str:
    return f'<p role="status" aria-live="polite">{text}</p>'
