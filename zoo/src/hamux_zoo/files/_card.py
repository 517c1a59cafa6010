"""Model cards: metadata in the Hub's terms, and the text below."""

import os
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import yaml

from ._folder import CARD, read_text
from ._hub import find_folder


class Card(NamedTuple):
    """A model card: what its metadata says of data and scores, and the text below."""

    datasets: list[str]
    metrics: list[dict[str, object]]
    text: str


def read_card(name: str | os.PathLike[str]) -> Card:
    """Returns the model card of a bundled name, a folder or a repo on the Hub, of which no weights are fetched.

    **Raises** FileNotFoundError, or ValueError naming the file.
    """
    folder = find_folder(name, weights=False)
    path = folder / CARD
    match = re.match(r"---\n(.*?)\n---\n(.*)", read_text(folder, CARD), flags=re.DOTALL)
    if not match:
        raise ValueError(f"{path} does not begin with metadata between two lines of ---")
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(match[1])):
            raise ValueError("aliases, with which a small file names a large one")
        metadata = yaml.safe_load(match[1])
        results = [result for model in metadata.get("model-index", []) for result in model["results"]]
        metrics = [metric for result in results for metric in result["metrics"]]
        return Card(list(metadata.get("datasets", [])), metrics, match[2])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has metadata that no model card has: {error!r}") from None


def make_card(
    name: str,
    text: str,
    *,
    pipeline_tag: str,
    tags: Sequence[str],
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    metrics: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """Returns a card for a model of this `name`: metadata, a title, and `text`.

    The Hub's own classes write the metadata. It holds the `metrics` as a model-index if the data set is known.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results = [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=datasets[0],
            dataset_name=datasets[0],
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
        if datasets
    ]
    data = ModelCardData(
        library_name="hamux-zoo",
        license="apache-2.0",
        pipeline_tag=pipeline_tag,
        tags=["associative-memory", "hopfield-network", "jax", *tags],
        datasets=list(datasets) or None,
        base_model=base_model,
        model_name=name,
        eval_results=results or None,
    )
    return str(ModelCard(f"---\n{data}\n---\n\n# {name}\n\n{text}"))
