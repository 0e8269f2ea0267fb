"""Hidden genes: what Geneformer's pretraining asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from scfm import objectives
from scfm.pretraining.questions import Questions
from scfm.tokenized import TokenizedCells, cut_by_budget

if TYPE_CHECKING:
    import anndata

    from scfm.models import Model
    from scfm.models.geneformer import Geneformer

MASKED = 0.15  # share of hidden genes


class Asked(Questions):
    """Masked genes, all behind ``<mask>``; errors are mean cross-entropies (:func:`scfm.objectives.masked_loss`)."""

    unit = "nats per hidden gene"

    def __init__(self, model: Geneformer, adata: anndata.AnnData, max_len: int | None) -> None:
        self.model = model
        self.tokens = model.tokenize(adata, max_len=max_len)
        if not (self.tokens.lengths > 2).any():
            raise ValueError("None of these cells has a gene that the model knows: nothing can be asked about them.")

    def __len__(self) -> int:
        return len(self.tokens)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that the questions depend on."""
        return self.tokens.tokens, self.tokens.offsets

    def error(self, model: Model, seed: int) -> float:
        """Mean cross-entropy of hidden genes, nats."""
        return objectives.masked_loss(model, self.tokens, MASKED, seed).loss

    def guess(self, seed: int) -> float | None:
        """Of gene frequencies, the genes that the cell shows excluded; None where the vocabulary came without them."""
        if self.model.vocabulary.frequencies is None:
            return None
        share = self.model.vocabulary.frequency_of_tokens()
        hidden = objectives.choose_masked(self.tokens, self.model.special, MASKED, seed)
        losses = []
        for start, end in zip(self.tokens.offsets[:-1], self.tokens.offsets[1:], strict=True):
            own, asked = self.tokens.tokens[start:end], hidden[start:end]
            left = share.copy()
            left[own[~asked]] = 0
            losses.append(-np.log(left[own[asked]] / left.sum()))
        return float(np.concatenate(losses).mean())

    def pieces(self, chosen: np.ndarray, rng: np.random.Generator, max_tokens: int) -> list[tuple[Any, int]]:
        """(cells with genes hidden, where (token,), which genes (hidden,)), and how many genes are hidden in each piece."""
        cells = self.tokens[chosen]
        hidden = objectives.choose_masked(cells, self.model.special, MASKED, int(rng.integers(2**31)))
        question = TokenizedCells(np.where(hidden, self.model.special["<mask>"], cells.tokens), cells.offsets)
        pieces: list[tuple[Any, int]] = []
        for piece in cut_by_budget(cells.lengths, max_tokens):
            here = np.concatenate([np.arange(cells.offsets[i], cells.offsets[i + 1]) for i in piece])
            if hidden[here].any():
                truth = cells.tokens[here[hidden[here]]]
                pieces.append(((question[piece], hidden[here], truth), len(truth)))
        return pieces

    def loss(self, model: Model, piece: Any) -> torch.Tensor:
        """Mean cross-entropy of the hidden genes."""
        cells, hidden, truth = piece
        device = model.network.device
        x = model.hidden_states(cells)[torch.from_numpy(hidden).to(device)]  # (hidden, d)
        return F.cross_entropy(model.network.cls(x).float(), torch.from_numpy(truth).to(device, torch.int64))
