"""The bundled memories, and what tells one from another."""

from typing import NamedTuple

from ._card import read_card
from ._folder import read_config, sizes
from ._hub import find_folder, list_pretrained


class Bundled(NamedTuple):
    """What is known of a bundled memory without loading it.

    - `name`: by which `from_pretrained` loads it.
    - `model_type`: that of its architecture.
    - `parameters`, `nbytes`: how many numbers it has, and the bytes that they take in its files.
    - `datasets`: the data sets it learned from.
    - `metrics`: the numbers on its card, each with its `name`, `type` and `value`.
    """

    name: str
    model_type: str
    parameters: int
    nbytes: int
    datasets: list[str]
    metrics: list[dict[str, object]]


def bundled(pattern: str = "*", model_type: str | None = None) -> list[Bundled]:
    """Returns the bundled memories whose names match, of one architecture or of any."""
    found = []
    for name in list_pretrained(pattern):
        folder = find_folder(name)
        saved = read_config(folder)
        if model_type in (None, saved["model_type"]):
            card = read_card(folder)
            parameters, nbytes = sizes(folder, saved["sha256"])
            found.append(Bundled(name, saved["model_type"], parameters, nbytes, card.datasets, card.metrics))
    return found
