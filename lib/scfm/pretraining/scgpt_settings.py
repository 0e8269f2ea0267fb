"""All that decides the result of a pretraining of scGPT's kind."""

from __future__ import annotations

from dataclasses import dataclass

from scfm.pretraining.training import Schedule


@dataclass(frozen=True)
class Settings(Schedule):
    """All that decides the result of a pretraining run."""

    name: str = "scgpt-mini"
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 512
    max_len: int = 256  # tokens of a cell, <cls> included
    min_cells: int = 200  # a gene seen in fewer training cells gets no token
    n_bins: int = 51
    zero_weight: float = 1.0  # of the zero-probability losses beside GEP's and GEPC's squared errors
    steps: int = 4400
    slope_to: int = 6000
    cooldown: int = 1000
    dropout: float = 0.05  # not in the attention: that would send SDPA down its slow path
    warmup: int = 200
    warm_start: bool = True  # gene embeddings from an SVD of gene presence
    panel_share: float = 0.0  # the model sees a random part of each cell's genes anyway
