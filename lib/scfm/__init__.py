"""Single-cell foundation models, small enough to read.

The data walks through this package in the order of the lessons:

    counts ──► tokens ──► model ──► embedding ──► answer ──► figure
    datasets   tokenize   models    embed         metrics    plots

Everything below is imported at first use, so ``import scfm`` costs milliseconds although torch and scanpy cost seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scfm.inside.version import version

__version__ = version()

_FUNCTIONS = {
    "load_dataset": "scfm.datasets",
    "list_datasets": "scfm.datasets",
    "load_model": "scfm.models",
    "list_models": "scfm.models",
    "adapt": "scfm.adaptation.adapting",
    "load_fit": "scfm.adaptation.loading",
    "generate": "scfm.generation.generating",
    "results": "scfm.store.results",
}
_MODULES = (
    "adaptation",
    "baselines",
    "calibration",
    "datasets",
    "drawings",
    "embed",
    "errors",
    "files",
    "generation",
    "genes",
    "inside",
    "integration",
    "linear",
    "metrics",
    "models",
    "objectives",
    "plots",
    "pretraining",
    "stats",
    "store",
    "tokenize",
    "tokenized",
)

__all__ = [
    "adapt",
    "adaptation",
    "baselines",
    "calibration",
    "datasets",
    "drawings",
    "embed",
    "errors",
    "files",
    "generate",
    "generation",
    "genes",
    "inside",
    "integration",
    "linear",
    "list_datasets",
    "list_models",
    "load_dataset",
    "load_fit",
    "load_model",
    "metrics",
    "models",
    "objectives",
    "plots",
    "pretraining",
    "results",
    "stats",
    "store",
    "tokenize",
    "tokenized",
]

if TYPE_CHECKING:
    from scfm import (
        adaptation,
        baselines,
        calibration,
        datasets,
        drawings,
        embed,
        errors,
        files,
        generation,
        genes,
        inside,
        integration,
        linear,
        metrics,
        models,
        objectives,
        plots,
        pretraining,
        stats,
        store,
        tokenize,
        tokenized,
    )
    from scfm.adaptation.adapting import adapt
    from scfm.adaptation.loading import load_fit
    from scfm.datasets import list_datasets, load_dataset
    from scfm.generation.generating import generate
    from scfm.models import list_models, load_model
    from scfm.store.results import results


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"scfm.{name}")
    raise AttributeError(f"module 'scfm' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
