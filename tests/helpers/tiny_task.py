"""A task that tiny networks can learn in a second: cells of two types, each with genes of its own among shared ones."""

from __future__ import annotations

import numpy as np
import tiny_geneformer
import tiny_scgpt

from scfm.tokenized import TokenizedCells

MODELS = {"geneformer": tiny_geneformer.model, "scgpt": tiny_scgpt.model}


def cells(kind: str = "geneformer", n_cells: int = 160, seed: int = 0) -> tuple[TokenizedCells, np.ndarray]:
    """Cells for the tiny models and their types, "B" and "T" (3 : 2, in random order)."""
    rng = np.random.default_rng(seed)
    types = np.where(rng.random(n_cells) < 0.6, "B", "T")
    first = 4 if kind == "geneformer" else 0  # gene tokens begin after the special ones
    lists, values = [], []
    for name in types:
        own = np.arange(0, 12) if name == "B" else np.arange(12, 24)
        marked = rng.choice(own, rng.integers(4, 9), replace=False)
        shared = rng.choice(np.arange(24, 40), rng.integers(2, 9), replace=False)
        genes = np.concatenate([marked, shared]) + first
        if kind == "geneformer":
            lists.append([2, *genes.tolist(), 3])
        else:
            lists.append([tiny_scgpt.CLS, *genes.tolist()])
            values.append([0.0, *rng.integers(1, 51, len(genes)).tolist()])
    if kind == "geneformer":
        return TokenizedCells.from_lists(lists), types
    return TokenizedCells.from_lists(lists, values, pad_id=tiny_scgpt.PAD), types


def model(kind: str = "geneformer", **changes):
    return MODELS[kind](**changes)
