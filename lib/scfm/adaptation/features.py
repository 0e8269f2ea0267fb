"""What a head reads: one vector per cell (or per token), by the network as it is now, with or without gradients.

:func:`scfm.embed.embed` does the same for a frozen network. Here the same modules run in training too: cells lie end to end
(no padding, no mask), gradients flow, and one path serves training and prediction, so what was trained is what answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfm import embed
from scfm.models.base import Model
from scfm.tokenized import TokenizedCells


def prompted_states(peft_model: Any, cells: TokenizedCells) -> Tensor:
    """Hidden states (token, d) after the last layer, through peft's own forward pass: for prefix and prompt tuning.

    peft puts learned positions before the cell; :meth:`Reader.cut` has made room for them.
    """
    device = peft_model.get_base_model().device
    ids, mask = (torch.from_numpy(a).to(device) for a in cells.padded(np.arange(len(cells))))
    x = peft_model(input_ids=ids, attention_mask=mask).last_hidden_state
    x = x[:, x.shape[1] - ids.shape[1] :]  # the learned positions are no genes: (cell, token, d)
    return x[mask.bool()]


def pool(x: Tensor, cells: TokenizedCells, pooling: str, special: dict[str, int]) -> Tensor:
    """(token, d) → (cell, d): each cell's first token (``"cls"``), or the mean over its genes (``"mean"``)."""
    if pooling == "cls":
        return x[torch.from_numpy(cells.offsets[:-1]).to(x.device)]
    keep = ~np.isin(cells.tokens, list(special.values()))
    kept = cells.count(keep)
    rows = torch.from_numpy(np.repeat(np.arange(len(cells)), kept)).to(x.device)
    sums = x.new_zeros(len(cells), x.shape[1]).index_add(0, rows, x[torch.from_numpy(keep).to(x.device)])
    return sums / torch.from_numpy(kept).to(x.device, x.dtype)[:, None]


class Reader:
    """The way from cells to what the head reads: model, layer, pooling, precision."""

    def __init__(
        self,
        model: Model,
        pooling: str,
        layer: int,
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
        prompted: Any = None,
        n_virtual: int = 0,
    ) -> None:
        self.model, self.pooling, self.layer = model, pooling, layer
        self.dtype, self.checkpointing, self.prompted, self.n_virtual = dtype, checkpointing, prompted, n_virtual

    @property
    def network(self) -> Any:
        """The network that runs."""
        return self.model.network

    @property
    def bf16(self) -> bool:
        """Does it compute under bfloat16 autocast?"""
        return self.dtype == torch.bfloat16

    def cut(self, cells: TokenizedCells) -> TokenizedCells:
        """The cells as the network gets them: room is made for learned positions."""
        if not self.n_virtual:
            return cells
        most = self.network.config.max_position_embeddings - self.n_virtual
        return cells.keep(np.concatenate([np.empty(0, bool), *(np.arange(n) < most for n in cells.lengths)]))

    def __call__(self, cells: TokenizedCells) -> Tensor:
        """float32 (cell, d), or (token, d) for ``pooling="gene"``; with gradients where they are enabled."""
        device, cells = self.network.device, self.cut(cells)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if self.prompted is not None:
                x = prompted_states(self.prompted, cells)
            else:
                x = self.model.hidden_states(cells, self.layer, self.checkpointing)
        x = x.float()
        return x if self.pooling == "gene" else pool(x, cells, self.pooling, self.model.special)

    def minibatches(self, cells: TokenizedCells, max_tokens: int | None, progress: bool, what: str) -> Iterator:
        """Indices and features of one minibatch after the other, without gradients and without dropout."""
        from tqdm.auto import tqdm

        budget = max_tokens or embed.TOKENS_PER_MINIBATCH.get(self.network.device.type, 8_192)
        was_training = self.network.training
        self.network.eval()
        try:
            with tqdm(total=len(cells), desc=what, unit="cell", disable=not progress, delay=1, leave=False) as bar:
                for indices in cells.minibatches(budget):
                    with torch.inference_mode():
                        yield indices, self(cells[indices])
                    bar.update(len(indices))
        finally:
            self.network.train(was_training)

    def all(
        self, cells: TokenizedCells, max_tokens: int | None = None, progress: bool = False, what: str = "embedding"
    ) -> np.ndarray:
        """Features of many cells, float32 (n_cells, d), row i = cell i."""
        out = np.empty((len(cells), self.network.config.hidden_size), np.float32)
        for indices, x in self.minibatches(cells, max_tokens, progress, what):
            out[indices] = x.cpu().numpy()
        return out

    def all_genes(
        self, cells: TokenizedCells, max_tokens: int | None = None, progress: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per gene, the mean over the cells that have it: token ids (gene,), float32 (gene, d), number of cells (gene,)."""
        config = self.network.config
        sums = torch.zeros(config.vocab_size, config.hidden_size, dtype=torch.float64)
        cells = self.cut(cells)
        for indices, x in self.minibatches(cells, max_tokens, progress, "embedding genes"):
            tokens = torch.from_numpy(cells[indices].tokens).to(torch.int64)
            sums.index_add_(0, tokens, x.double().cpu())
        ids, n_cells = np.unique(cells.tokens, return_counts=True)
        genes = ~np.isin(ids, list(self.model.special.values()))
        ids, n_cells = ids[genes], n_cells[genes]
        return ids, (sums.numpy()[ids] / n_cells[:, None]).astype(np.float32), n_cells
