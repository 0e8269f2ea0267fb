"""From scGPT's tokens to cell embeddings, without padding: the cells of a minibatch lie end to end.

As in ``scfm.embed``: no mask is needed, no decoder runs, and of the last layer only the ``<cls>`` position of each cell is
computed. The modules are the network's own, so what was fine-tuned, or adapted by LoRA, is what runs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.embed import TOKENS_PER_MINIBATCH, attention, choose_dtype, evaluating
from scfm.tokenized import TokenizedCells


def input_tokens(network: Any, genes: Tensor, values: Tensor, labels: Tensor | None) -> Tensor:
    """Gene + value (+ "not perturbed") of each token, normalized by its cell's batch: (token, d)."""
    if network.training:  # its dropout is drawn for each token; tokens of one bin must not share a draw
        coded = network.value_encoder(values)
    else:  # bins are few: the value network runs once for each of them
        distinct, place = values.unique(return_inverse=True)
        coded = network.value_encoder(distinct)[place]
    x = network.encoder(genes) + coded
    if network.pert_encoder is not None:
        x = x + network.pert_encoder.weight[0]
    return network.normalize(x, labels)


def encode(layers: Sequence[Any], x: Tensor, lengths: list[int]) -> Tensor:
    """Hidden states of ``<cls>``, (cell, d), from the input tokens (token, d) of cells that lie end to end."""
    starts = torch.tensor([0, *itertools.accumulate(lengths)][:-1], device=x.device)
    for layer in layers[:-1]:
        x = layer_of(layer, x, x, lengths)
    return layer_of(layers[-1], x[starts], x, lengths)


def layer_of(layer: Any, asking: Tensor, x: Tensor, lengths: list[int]) -> Tensor:
    """One layer for the positions ``asking`` (all of ``x``, or one per cell), which attend to all of their own cell."""
    own = layer.self_attn
    one_each = len(asking) == len(lengths) < len(x)
    if one_each and type(own.Wqkv) is nn.Linear:
        d = x.shape[-1]
        query = F.linear(asking, own.Wqkv.weight[:d], own.Wqkv.bias[:d])
        key, value = F.linear(x, own.Wqkv.weight[d:], own.Wqkv.bias[d:]).chunk(2, -1)
    else:
        query, key, value = own.Wqkv(x).chunk(3, -1)
        if one_each:
            query = query[torch.tensor([0, *itertools.accumulate(lengths)][:-1], device=x.device)]
    context = torch.empty_like(asking)
    token = cell = 0
    for n, run in itertools.groupby(lengths):  # cells of equal length attend in one call
        n_cells = len(list(run))
        of_x = slice(token, token + n_cells * n)
        of_asking = slice(cell, cell + n_cells) if one_each else of_x
        q, k, v = (
            t.unflatten(-1, (own.n_heads, -1)).unflatten(0, (n_cells, -1)).transpose(1, 2)
            for t in (query[of_asking], key[of_x], value[of_x])
        )  # (cell, head, token, d / heads)
        context[of_asking] = attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)
        token, cell = token + n_cells * n, cell + n_cells
    return layer.finish(asking, own.out_proj(context))


def embed(
    network: Any,
    cells: TokenizedCells,
    batch_labels: np.ndarray | None = None,
    normalize: bool = True,
    dtype: str = "auto",
    max_tokens: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Embed cells as upstream's ``embed_data`` does (``<cls>`` carries the padding value), in input order.

    Returns float32 (n_cells, d), each row of length one unless ``normalize`` is False. Parameters as in ``ScGPT.embed``.
    """
    from tqdm.auto import tqdm

    device = network.device
    labels = None if batch_labels is None else torch.as_tensor(np.asarray(batch_labels), dtype=torch.int64)
    network.check_batches(labels, len(cells))
    out = np.empty((len(cells), network.config.hidden_size), np.float32)
    kind = choose_dtype(dtype, device)
    with evaluating(network, cells):  # dropout off, BatchNorm by its running statistics
        layers = list(network.transformer_encoder.layers)
        if network.dtype != kind:  # embeddings and norms of the input stay as they are: they cost nothing
            layers = [copy.deepcopy(layer).to(kind) for layer in layers]
        with tqdm(total=len(cells), desc="embedding", unit="cell", disable=not progress, delay=1, leave=False) as bar:
            for indices in cells.minibatches(max_tokens or TOKENS_PER_MINIBATCH.get(device.type, 8_192)):
                part = cells[indices]
                values = part.values.copy()
                values[part.offsets[:-1]] = network.config.pad_value  # upstream's embedding task does so
                genes = torch.from_numpy(part.tokens).to(device, torch.int64)
                per_token = None
                if labels is not None:
                    per_token = labels[indices].repeat_interleave(torch.from_numpy(part.lengths)).to(device)
                with torch.inference_mode():
                    x = input_tokens(network, genes, torch.from_numpy(values).to(device), per_token)
                    cell = encode(layers, x.to(kind), part.lengths.tolist()).float()  # (cell, d)
                    out[indices] = (F.normalize(cell, dim=1) if normalize else cell).cpu().numpy()
                bar.update(len(indices))
    return out
