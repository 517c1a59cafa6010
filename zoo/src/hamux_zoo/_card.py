"""Model cards: what their metadata say of data and scores, and the text beneath."""

import os
import re
from typing import Any, NamedTuple

import yaml

from ._folder import CARD, existing
from ._hub import find_folder


class Card(NamedTuple):
    """A model card: what its metadata says of data and scores, and the text beneath."""

    datasets: list[str]
    metrics: list[dict[str, Any]]
    text: str


def read_card(name: str | os.PathLike[str]) -> Card:
    """The model card of a bundled name or a folder. **Raises** FileNotFoundError, or ValueError naming the file."""
    path = existing(find_folder(name) / CARD)
    match = re.match(r"---\n(.*?)\n---\n(.*)", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    if not match:
        raise ValueError(f"{path} does not begin with metadata between two lines of ---")
    try:
        metadata = yaml.safe_load(match[1])
        results = [result for model in metadata.get("model-index", []) for result in model["results"]]
        metrics = [metric for result in results for metric in result["metrics"]]
        return Card(list(metadata.get("datasets", [])), metrics, match[2])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has metadata that are not a model card's: {error!r}") from None
