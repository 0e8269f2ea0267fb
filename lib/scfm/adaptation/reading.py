"""How a model reads cells for a head: which layer, which pooling, which precision."""

from __future__ import annotations

import dataclasses

from scfm import embed
from scfm.adaptation.adapters import Adapted
from scfm.adaptation.choices import Choices
from scfm.adaptation.features import Reader
from scfm.models.base import Model
from scfm.tokenized import TokenizedCells


def reader_of(adapted: Adapted, choices: Choices, dtype: str | None = None) -> Reader:
    """The :class:`Reader` that these choices ask for, with the model's own pooling and layer where none are given."""
    return Reader(
        adapted.model,
        "gene" if choices.level == "gene" else choices.pooling or "mean",
        choices.layer or 0,
        embed.choose_dtype(dtype or choices.dtype, adapted.network.device),
        choices.checkpointing,
        adapted.prompted,
        adapted.n_virtual,
    )


def resolve(model: Model, choices: Choices) -> Choices:
    """The choices with the model's own pooling and layer written out."""
    pooling = choices.pooling or model.default_pooling
    layer = choices.layer
    if layer is None:
        layer = model.frozen_layer if choices.method == "head" else 0
    n_layers = len(model.layers())
    if not isinstance(layer, int) or not -n_layers <= layer <= 0:
        raise ValueError(f"layer is {layer!r}; this model has layers 0 (the last) to {-n_layers} (the input).")
    if layer == -n_layers and choices.method not in ("head", "full"):
        raise ValueError(f"layer={layer} reads the input: there is no layer below it for {choices.method} to train.")
    return dataclasses.replace(choices, pooling=pooling, layer=layer)


def check_cells(model: Model, cells: TokenizedCells, choices: Choices) -> None:
    """Refuse cells that this model cannot read, in the words of ``model.embed``."""
    model.check(cells, choices.pooling or "mean", choices.layer or 0)
    embed.refuse_without_genes(model, cells)
