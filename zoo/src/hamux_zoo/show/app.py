"""The page of `hamux-zoo app`, on which one watches memories recall; it needs the extra `hamux-zoo[app]`.

A Space of the Hugging Face Hub runs `from hamux_zoo.show.app import make_app` and `make_app().launch()`. The page knows
no architecture: it offers what the memory at hand can do.
"""

import base64
import functools
import io
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import gradio as gr
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
from gradio.utils import get_upload_folder
from jaxtyping import Bool, Float
from PIL import Image

from ..data import gaussian_noise
from ..files import list_pretrained
from ..memory import Attributed, Classifier, Memory
from ..models import from_pretrained
from ..pixels import fill_unknown, from_picture
from ._pictures import from_pictures, picture_shape, samples_for, to_pictures
from .plots import stretched

_UPLOAD_MB = 5
_STEPS = (5, 10, 20, 50)
_SAMPLES = 20
_MEMORIES = 48
_SIDE = 320  # of the canvas, in pixels of the page
_ERASED, _ERASER, _INK, _BLACK = (255, 0, 255), "#ff00ff", "#ffffff", "#000000"
_HIDDEN = {  # from which share of the height and of the width on
    "nothing": (1, 1),
    "the lower half": (0.5, 0),
    "the right half": (0, 0.5),
    "the lower right quarter": (0.5, 0.5),
    "everything": (0, 0),
}
_FREE = "none held"
_FRAMES_PER_SECOND = 12

Picture = Float[np.ndarray, "height width channels"]
Update = dict[str, object]  # what `gr.update` makes


# A session's last recall: the image at its end, and the power of 2 by which β was multiplied.
Shown = tuple[np.ndarray, float]


class Drawn(TypedDict):
    """What gradio's image editor gives: bytes (height, width, 3 or 4), and the strokes on them (height, width, 4)."""

    background: np.ndarray | None
    layers: list[np.ndarray]


def make_app(*names: str) -> gr.Blocks:
    """Returns the page, on which `launch` serves the bundled memories, or those of `names`.

    A name is that of a bundled memory, of a folder, or of a repo on the Hub.

    **Raises** ValueError for a memory whose patterns are no pictures, and as `from_pretrained`.
    """
    for each in names:
        picture_shape(_model(each).config)
    choices = list(names) or list_pretrained()
    page: gr.Blocks
    with gr.Blocks(title="Associative memories", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# Associative memories\nDamage a picture, and watch a memory descend its energy from there. "
            "On the picture magenta erases, white and black draw. Without a pointer, choose below what to erase."
        )
        recalled = gr.State()
        with gr.Row():
            with gr.Column(min_width=300):
                first = "dense-hopfield-mnist" if "dense-hopfield-mnist" in choices else choices[0]
                name = gr.Dropdown(choices, value=first, label="Memory")
                sample = gr.Dropdown(list(range(1, _SAMPLES + 1)), value=1, label="Test picture")
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
                    label = gr.Dropdown([_FREE], value=_FREE, label="Class to hold", min_width=120)
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

        fresh = [drawn, sample, steps, label, beta, recalled, shelf, gallery, weight, status]
        gr.on([page.load, name.change], _begin, [name, sample], fresh)
        sample.input(_given, [name, sample], drawn)
        blank.click(_blank, name, drawn)
        upload.upload(_loaded, [upload, name], drawn, show_progress="hidden")
        given, shown = [name, drawn, hidden, steps, label, beta, noise], [frame, energy, status, recalled]
        go.click(_recall, given, shown, concurrency_limit=8, show_progress="hidden")
        shelf.expand(_memories, name, gallery)
        gallery.select(_weight, [name, recalled], weight)
    page.queue()
    return page


_Wrong = functools.partial(gr.Error, print_exception=False)  # the user's mistake, not the page's


def _begin(name: str, sample: int) -> tuple[object, ...]:
    """The first picture of a memory that is chosen, what it offers, and no results."""
    model = _model(name)
    fitting = _samples(name) is not None
    samples = gr.update(interactive=fitting, info=None if fitting else "none of this shape: draw or load one")
    own = model.dynamics().steps
    steps = gr.update(choices=sorted({*_STEPS, own or 10}), value=own or 10)
    label = gr.update(choices=[_FREE, *_classes(model)], value=_FREE, interactive="generate" in model.tasks)
    has_beta = _at_beta(name, 0) is not None
    beta = gr.update(interactive=has_beta, info=None if has_beta else "fixed in this memory", value=0)
    shelf = gr.update(visible=isinstance(model, Attributed), open=False)
    return _given(name, sample), samples, steps, label, beta, None, shelf, [], "", _said("Press Recall.")


def _brush(colour: str) -> gr.Brush:
    return gr.Brush(colors=[_ERASER, _INK, _BLACK], default_color=colour, color_mode="fixed", default_size=24)


def _given(name: str, sample: int) -> Update:
    samples = _samples(name)
    return _blank(name) if samples is None else _on_canvas(samples[sample - 1], _ERASER)


def _blank(name: str) -> Update:
    return _on_canvas(np.zeros(picture_shape(_model(name).config)), _INK)


def _loaded(file: str, name: str) -> Update:
    size = Path(file).stat().st_size
    if size > _UPLOAD_MB * 2**20:
        raise _Wrong(f"{Path(file).name} has {size / 2**20:.1f} MB; at most {_UPLOAD_MB} MB are taken")
    shape = picture_shape(_model(name).config)
    try:
        return _on_canvas(from_picture(file, shape, resampling="BOX").image, _ERASER)
    except Exception as error:  # Pillow's many readers raise anything for a file that is no image
        raise _Wrong(f"{Path(file).name} is not an image that can be read (PNG, JPEG, …)") from error


def _recall(
    name: str, drawn: Drawn, hidden: str, steps: int, label: str, beta: float, noise: float
) -> Iterator[tuple[str, pd.DataFrame, str, Shown]]:
    """Frame after frame: the picture, the energies so far, words that say so, and the image at the end."""
    model = _at_beta(name, beta) or _model(name)
    config = model.config
    picture, known = _read(drawn, picture_shape(config), hidden)
    if noise:
        filled = fill_unknown(jnp.asarray(picture), jnp.asarray(known))
        picture = np.asarray(gaussian_noise(jr.key(0), filled, noise))
    held = None if noise else known.reshape(config.shape)
    number = None if label == _FREE else _classes(model).index(label)
    end = model.recall(from_pictures(picture, config), held, label=number, steps=steps, path=True)
    assert end.path is not None
    image, pictures, energies = np.asarray(end.x), to_pictures(end.path.x, config), np.asarray(end.energies)
    if not np.isfinite(energies).all():
        raise _Wrong("the energy is no longer a number")
    for step in range(steps + 1):
        said = f"Step {step} of {steps}, energy {energies[step]:.4g}"
        if step == steps and isinstance(model, Classifier) and "classify" in model.tasks:
            said += f". It is named: {_classes(model)[int(np.argmax(model.classify(image)))]}"
        curve = pd.DataFrame({"step": range(step + 1), "energy": energies[: step + 1]})
        shown = _picture(pictures[step], f"The picture at step {step}")
        yield shown, curve, _said(said), (image, beta)
        time.sleep(1 / _FRAMES_PER_SECOND)


def _memories(name: str) -> list[tuple[str, str]]:
    return [(_file(image, 64), f"memory {i}") for i, image in enumerate(_shelf(name))]


def _weight(name: str, recalled: Shown | None, event: gr.SelectData) -> str:
    """A memory that was chosen, large, and its share of the pull on what was recalled."""
    said = "Recall a picture to see its share."
    image, beta = recalled or (None, 0)
    model = _at_beta(name, beta) or _model(name)
    if image is not None and isinstance(model, Attributed):
        shares = model.attribution(image, np.ones(model.config.shape, bool))
        said = f"Its share in what was recalled: {float(shares[event.index]):.2%}"
    return _picture(_shelf(name)[event.index], f"Memory {event.index}") + _said(f"Memory {event.index}. {said}")


@functools.cache
def _model(name: str) -> Memory:
    return from_pretrained(name)


@functools.cache
def _at_beta(name: str, power: float) -> Memory | None:
    """The memory with β times 2 to the `power`, or None if its β is fixed."""
    try:
        return _model(name).with_beta(2.0**power)
    except ValueError:
        return None


@functools.cache
def _samples(name: str) -> np.ndarray | None:
    try:
        return np.asarray(samples_for(name, _model(name).config)[1].images)
    except ValueError:
        return None


def _classes(model: Memory) -> list[str]:
    """The names of the classes, or their numbers if they have no names."""
    return list(model.config.class_names) or [str(number) for number in range(model.config.classes)]


@functools.cache
def _shelf(name: str) -> np.ndarray:
    """Some of the memories as pictures, each stretched to its own range."""
    model = _model(name)
    if not isinstance(model, Attributed):
        return np.zeros((0, *picture_shape(model.config)))
    images = np.asarray(model.memories(slice(_MEMORIES)), np.float32)
    return stretched(images if images.ndim == 4 else images.reshape(-1, *picture_shape(model.config)))


def _read(drawn: Drawn, shape: tuple[int, int, int], hidden: str) -> tuple[Picture, Bool[np.ndarray, "..."]]:
    """The picture in the editor, and which of its pixels are known."""
    if not drawn or (background := drawn.get("background")) is None:
        raise _Wrong("there is no picture yet: choose one, draw one or load one")
    picture = Image.fromarray(background).convert("RGBA")
    erased = np.zeros(picture.size[::-1], bool)
    for layer in drawn["layers"]:
        stroke = np.asarray(layer).copy()
        magenta = (stroke[..., 3] > 0) & (np.abs(stroke[..., :3].astype(int) - _ERASED).max(axis=-1) < 100)
        erased |= magenta
        stroke[magenta] = 0
        picture.alpha_composite(Image.fromarray(stroke))
    height, width, _ = shape
    share = from_picture(erased, (height, width, 1), resampling="BOX").image
    known = np.broadcast_to(share < 0.25, shape).copy()
    top, left = _HIDDEN[hidden]
    known[int(top * height) :, int(left * width) :] = False
    return from_picture(picture, shape, resampling="BOX").image, known


def _on_canvas(picture: Picture, brush: str) -> Update:
    canvas: Update = {"background": _file(picture, _SIDE), "layers": [], "composite": None}
    return dict(gr.update(value=canvas, brush=_brush(brush)))


def _file(picture: Picture, side: int) -> str:
    """A picture in a file of its own: gradio writes all arrays to one file, which another session may be reading."""
    file = Path(get_upload_folder(), uuid.uuid4().hex, "picture.png")
    file.parent.mkdir(parents=True)
    Image.fromarray(_enlarged(picture, side)).save(file)
    return str(file)


def _enlarged(picture: Picture, side: int) -> np.ndarray:
    """Bytes (height, width, 3 or 4), every pixel a square."""
    times = max(side // picture.shape[0], 1)
    coloured = picture.repeat(3, axis=-1) if picture.shape[-1] == 1 else picture
    return np.round(255 * coloured.clip(0, 1)).astype(np.uint8).repeat(times, axis=0).repeat(times, axis=1)


def _picture(picture: Picture, said: str) -> str:
    """A picture as a tag, so that frames leave no files, with words for those who do not see it."""
    file = io.BytesIO()
    Image.fromarray(_enlarged(picture, 1)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    style = "width: min(100%, 320px); image-rendering: pixelated"
    return f'<img src="data:image/png;base64,{data}" alt="{said}" style="{style}">'


def _said(text: str) -> str:
    return f'<p role="status" aria-live="polite">{text}</p>'
