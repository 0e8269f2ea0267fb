"""Single-cell foundation models, small enough to read.

The data walks through this package in the order of the lessons:

    counts ──► tokens ──► model ──► embedding ──► answer ──► figure
    datasets   tokenize   models    embed         metrics    plots

Everything below is imported at first use, so ``import scfm`` costs milliseconds although torch and scanpy cost seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_FUNCTIONS = {
    "load_dataset": "scfm.datasets",
    "list_datasets": "scfm.datasets",
    "load_model": "scfm.models",
}
_MODULES = (
    "adapt",  # also callable: the room of its function
    "baselines",
    "cache",
    "datasets",
    "drawings",
    "embed",
    "generate",  # also callable: the room of its function
    "genes",
    "metrics",
    "models",
    "plots",
    "pretrain",
    "tokenize",
)

__all__ = [
    "adapt",
    "baselines",
    "cache",
    "datasets",
    "drawings",
    "embed",
    "generate",
    "genes",
    "list_datasets",
    "load_dataset",
    "load_model",
    "metrics",
    "models",
    "plots",
    "pretrain",
    "tokenize",
]

if TYPE_CHECKING:
    from scfm import baselines, cache, datasets, drawings, embed, genes, metrics, models, plots, pretrain, tokenize
    from scfm.adapt import adapt
    from scfm.datasets import list_datasets, load_dataset
    from scfm.generate import generate
    from scfm.models import load_model


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"scfm.{name}")
    raise AttributeError(f"module 'scfm' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
