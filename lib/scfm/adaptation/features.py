"""What a head reads: one vector per cell (or per token), by the network as it is now, with or without gradients.

:func:`scfm.embed.embed` does the same for a frozen network. Here the same modules run in training too: cells lie end to end
(no padding, no mask), gradients flow, and one path serves training and prediction, so what was trained is what answers.
Attention dropout is left out: it would send attention down its slow path, and the dropout of the hidden layers stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scfm import embed
from scfm.models import scgpt_embed
from scfm.tokenized import TokenizedCells

# --- the two architectures under one set of names -------------------------------------------------------


def kind_of(network: Any) -> str:
    """``"geneformer"`` or ``"scgpt"``: by what the network has."""
    if hasattr(network, "bert"):
        return "geneformer"
    if hasattr(network, "transformer_encoder"):
        return "scgpt"
    raise TypeError(
        f"{type(network).__name__} is neither Geneformer's BertForMaskedLM nor an ScGPTModel; scfm.adapt knows these two. "
        "Load a model with scfm.load_model."
    )


def layers_of(network: Any) -> list[nn.Module]:
    """The transformer layers, from the input to the output."""
    return list(network.bert.encoder.layer if kind_of(network) == "geneformer" else network.transformer_encoder.layers)


def input_modules(network: Any) -> list[nn.Module]:
    """What turns tokens (and values) into vectors, before the first layer."""
    if kind_of(network) == "geneformer":
        return [network.bert.embeddings]
    found = [network.encoder, network.value_encoder, network.pert_encoder, network.dsbn, network.bn]
    return [module for module in found if module is not None]


# --- forward --------------------------------------------------------------------------------------------


def hidden_states(network: Any, cells: TokenizedCells, layer: int = 0, checkpointing: bool = False) -> Tensor:
    """Hidden states (token, d) of cells that lie end to end, after ``layer`` (0 the last, -1 the one before, ...).

    ``checkpointing``: keep no activations within a layer, compute them again on the way back: less memory, a third more time.
    """
    device, lengths = network.device, cells.lengths.tolist()
    tokens = torch.from_numpy(cells.tokens).to(device, torch.int64)
    run: Any
    if kind_of(network) == "geneformer":
        positions = torch.cat([torch.arange(n, device=device) for n in lengths])
        x = network.bert.embeddings(input_ids=tokens[None], position_ids=positions[None])[0]  # (token, d)
        run = embed._layer
    else:
        assert cells.values is not None
        values = cells.values.copy()
        values[cells.offsets[:-1]] = network.config.pad_value  # <cls> as in ScGPT.embed
        x = scgpt_embed.input_tokens(network, tokens, torch.from_numpy(values).to(device), None)
        run = scgpt_embed._layer
    layers = layers_of(network)
    for one in layers[: len(layers) + layer]:
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(run, one, x, x, lengths, use_reentrant=False)
        else:
            x = run(one, x, x, lengths)
    return x


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
    kept = np.add.reduceat(np.append(keep, False), cells.offsets[:-1], dtype=np.int64)
    rows = torch.from_numpy(np.repeat(np.arange(len(cells)), kept)).to(x.device)
    sums = x.new_zeros(len(cells), x.shape[1]).index_add(0, rows, x[torch.from_numpy(keep).to(x.device)])
    return sums / torch.from_numpy(kept).to(x.device, x.dtype)[:, None]


class Reader:
    """The way from cells to what the head reads: network, layer, pooling, precision."""

    def __init__(
        self,
        network: Any,
        special: dict[str, int],
        pooling: str,
        layer: int,
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
        prompted: Any = None,
        n_virtual: int = 0,
    ) -> None:
        self.network, self.special, self.pooling, self.layer = network, special, pooling, layer
        self.dtype, self.checkpointing, self.prompted, self.n_virtual = dtype, checkpointing, prompted, n_virtual

    @property
    def bf16(self) -> bool:
        """Does it compute under bfloat16 autocast?"""
        return self.dtype == torch.bfloat16

    def cut(self, cells: TokenizedCells) -> TokenizedCells:
        """The cells as the network gets them: room is made for learned positions."""
        if not self.n_virtual:
            return cells
        most = self.network.config.max_position_embeddings - self.n_virtual
        keep = np.concatenate([np.empty(0, bool), *(np.arange(n) < most for n in cells.lengths)])
        offsets = np.concatenate([[0], np.cumsum(np.minimum(cells.lengths, most))])
        return TokenizedCells(
            cells.tokens[keep], offsets, None, cells.cell_ids, cells.vocabulary_name, pad_id=cells.pad_id
        )

    def __call__(self, cells: TokenizedCells) -> Tensor:
        """float32 (cell, d), or (token, d) for ``pooling="gene"``; with gradients where they are enabled."""
        device, cells = self.network.device, self.cut(cells)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if self.prompted is not None:
                x = prompted_states(self.prompted, cells)
            else:
                x = hidden_states(self.network, cells, self.layer, self.checkpointing)
        x = x.float()
        return x if self.pooling == "gene" else pool(x, cells, self.pooling, self.special)

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
        genes = ~np.isin(ids, list(self.special.values()))
        ids, n_cells = ids[genes], n_cells[genes]
        return ids, (sums.numpy()[ids] / n_cells[:, None]).astype(np.float32), n_cells


def cut_by_budget(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Positions 0..n-1, the longest first, in runs of at most ``max_tokens`` tokens together; one cell at least in each."""
    order = np.argsort(-lengths, kind="stable")
    runs: list[list[int]] = [[]]
    filled = 0
    for i, n in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if runs[-1] and filled + n > max_tokens:
            runs.append([])
            filled = 0
        runs[-1].append(i)
        filled += n
    return [np.array(run) for run in runs if run]
