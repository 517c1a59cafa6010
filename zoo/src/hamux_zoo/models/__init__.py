"""One file an architecture, and the registry, which finds the memory in each by itself."""

from ._registry import (
    from_pretrained as from_pretrained,
    list_models as list_models,
    model_classes as model_classes,
    push_folder as push_folder,
)
