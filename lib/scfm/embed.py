"""From tokens to embeddings: one vector per cell, or per gene.

The textbook way pads cells to a rectangle, runs the whole masked-LM network and keeps one hidden state. Here the cells of a
minibatch lie end to end instead (no padding, no mask), only the layers that are asked for run (no LM head), and for a
``<cls>`` embedding the last of them computes one position per cell. Nothing is re-implemented: the modules are the network's
own, so what was trained, or adapted by LoRA, is what runs.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import pandas as pd
    from transformers import BertForMaskedLM

Pooling = Literal["cls", "mean", "gene"]
LARGEST_SCORE = 60.0  # e^60 times a million tokens is still far from the largest number of bf16 and fp32
QUERIES_AT_ONCE = 512  # a block of attention scores should stay in the cache of the CPU
TOKENS_PER_MINIBATCH = {"cpu": 8_192, "cuda": 65_536}


class Reads(Protocol):
    """What anybody needs of a model that reads cells; :class:`scfm.models.base.Model` has it."""

    network: Any
    name: str
    sha256: str | None

    @property
    def special(self) -> dict[str, int]:
        """Special token → token id."""

    @property
    def vocabulary(self) -> Any:
        """Gene → token id."""

    @property
    def vocabulary_name(self) -> str:
        """Its name; empty if it is not at hand."""

    @property
    def vocabulary_sha256(self) -> str:
        """Its hash; empty if it is not at hand."""

    def tokenize(self, adata: Any) -> TokenizedCells:
        """Raw counts → tokens."""

    def embed(self, cells: Any, *args: Any, **how: Any) -> Any:
        """Cells → vectors."""


# --- the forward pass -------------------------------------------------------------------------------


def encode(
    embeddings: nn.Module, layers: Sequence[Any], tokens: Tensor, lengths: list[int], first_only: bool
) -> Tensor:
    """Hidden states of cells that lie end to end.

    ``tokens``: (token,) of all cells, the first ``lengths[0]`` are the first cell's. Returns (token, d) after the last of
    ``layers``; with ``first_only`` (cell, d), the hidden state of each cell's first token.
    """
    positions = torch.cat([torch.arange(n, device=tokens.device) for n in lengths])
    starts = torch.tensor([0, *itertools.accumulate(lengths)][:-1], device=tokens.device)
    x = embeddings(input_ids=tokens[None], position_ids=positions[None])[0]  # (token, d)
    for layer in layers[:-1]:
        x = bert_layer(layer, x, x, lengths)
    if layers:
        x = bert_layer(layers[-1], x[starts] if first_only else x, x, lengths)
    elif first_only:
        x = x[starts]
    return x


def bert_layer(layer: Any, asking: Tensor, x: Tensor, lengths: list[int]) -> Tensor:
    """One BERT layer for the positions ``asking`` (all of ``x``, or one per cell), which attend to all of their own cell."""
    own = layer.attention.self
    heads = (own.num_attention_heads, own.attention_head_size)
    query = own.query(asking).unflatten(-1, heads)  # (asking token, head, d / heads)
    key = own.key(x).unflatten(-1, heads)  # (token, head, d / heads)
    value = own.value(x).unflatten(-1, heads)
    one_each = len(asking) == len(lengths) < len(x)
    context = torch.empty_like(query)
    token = cell = 0
    for n, run in itertools.groupby(lengths):  # cells of equal length attend in one call
        n_cells = len(list(run))
        of_x = slice(token, token + n_cells * n)
        of_asking = slice(cell, cell + n_cells) if one_each else of_x
        q, k, v = (t.unflatten(0, (n_cells, -1)).transpose(1, 2) for t in (query[of_asking], key[of_x], value[of_x]))
        context[of_asking] = attention(q, k, v).transpose(1, 2).flatten(0, 1)
        token, cell = token + n_cells * n, cell + n_cells
    attended = layer.attention.output(context.flatten(1), asking)
    return layer.output(layer.intermediate(attended), attended)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q·kᵀ / √d)·v without a mask; all (cell, head, token, d)."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] > 1 and not _has("amx_bf16"):
        if not (torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)):
            return _attention_in_blocks(query, key, value)
        if key.shape[2] <= QUERIES_AT_ONCE:  # in training: fast too, and small enough to be kept for the way back
            return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value)


def _attention_in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # without AMX, SDPA's fused kernel computes bf16 no faster than fp32; two plain bf16 products do, if their scores are
    # written again and again to the same small piece of memory
    out = torch.empty_like(query)
    key = key * query.shape[-1] ** -0.5
    n_heads, n, d = query.shape[1:]
    scratch = query.new_empty(n_heads * min(QUERIES_AT_ONCE, n) * n)
    # a column of ones beside the values sums each row of weights within the second product; and where no score can be
    # large (Cauchy-Schwarz), the softmax needs no maximum: its exponentials stay far from overflow
    with_ones = torch.cat([value, value.new_ones(*value.shape[:-1], 1)], -1)
    plain = query.norm(dim=-1).amax((1, 2)) * key.norm(dim=-1).amax((1, 2)) < LARGEST_SCORE  # (cell,)
    for cell, without_maximum in enumerate(plain.tolist()):
        q, k, v = query[cell].contiguous(), key[cell].contiguous().transpose(-1, -2), with_ones[cell]
        for first in range(0, n, QUERIES_AT_ONCE):
            block = q[:, first : first + QUERIES_AT_ONCE]
            scores = scratch[: n_heads * block.shape[1] * n].view(n_heads, -1, n)  # (head, query, token)
            torch.bmm(block, k, out=scores)
            weights = scores.exp_() if without_maximum else torch.softmax(scores, dim=-1, out=scores)
            sums = torch.bmm(weights, v)  # (head, query, d + 1)
            out[cell, :, first : first + QUERIES_AT_ONCE] = sums[..., :d] / sums[..., d:]
    return out


# --- precision --------------------------------------------------------------------------------------


def _has(feature: str) -> bool:
    return bool(torch.cpu.get_capabilities().get(feature, False))


def choose_dtype(dtype: str, device: torch.device | str = "cpu") -> torch.dtype:
    """``"float32"``, ``"bfloat16"``, or for ``"auto"`` bfloat16 where the hardware computes in it, else float32."""
    if dtype in ("float32", "bfloat16"):
        return getattr(torch, dtype)
    if dtype != "auto":
        raise ValueError(f"dtype is {dtype!r}; it can be 'float32', 'bfloat16' or 'auto'")
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _has("amx_bf16") or _has("avx512_bf16") else torch.float32


def modules_in(network: BertForMaskedLM, n_layers: int, dtype: torch.dtype) -> tuple[nn.Module, list[nn.Module]]:
    """The network's embeddings and its first ``n_layers`` layers, cast once if ``dtype`` is not their own."""
    modules = [network.bert.embeddings, *network.bert.encoder.layer[:n_layers]]
    if network.dtype != dtype:  # one by one, so that two whole copies never exist at the same time
        modules = [copy.deepcopy(module).to(dtype) for module in modules]
    return modules[0], modules[1:]


@contextlib.contextmanager
def evaluating(network: nn.Module, cells: TokenizedCells) -> Iterator[None]:
    """Dropout is off inside, and afterwards the network is in the mode it was in; a GPU that is too small is told in words."""
    was_training = network.training
    network.eval()
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"The GPU's memory did not suffice for the longest cells ({cells.lengths.max():,} tokens): give embed a smaller "
            "max_tokens, or close other programs that use the GPU."
        ) from error
    finally:
        network.train(was_training)


# --- many cells -------------------------------------------------------------------------------------


def embed(
    model: Reads,
    cells: TokenizedCells,
    pooling: Pooling = "mean",
    layer: int = -1,
    dtype: str = "auto",
    max_tokens: int | None = None,
    progress: bool = True,
) -> np.ndarray | pd.DataFrame:
    """Embed cells (or genes) with a rank-value model, as Geneformer's ``EmbExtractor`` does, in input order.

    Parameters
    ----------
    pooling
        ``"cls"``: the hidden state of ``<cls>``. ``"mean"``: the mean over the cell's genes, special tokens left out
        (upstream's ``"cell"``). ``"gene"``: per gene, the mean over the cells that have it.
    layer
        Counted as upstream counts: 0 is the last layer, -1 the one before (upstream's default), -n_layers the input.
    dtype
        ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 where the hardware has it. The two agree to a cosine > 0.999.
    max_tokens
        Most tokens in a minibatch; it changes memory and speed, never the result.

    Returns
    -------
    float32 (n_cells, d), row i = cell i; for ``"gene"`` a DataFrame (n_genes, d) indexed by Ensembl id, with the number
    of cells of each gene in ``.attrs["n_cells"]``.

    Raises
    ------
    ValueError
        Unknown pooling or layer; no ``<cls>`` in the vocabulary; tokens of another vocabulary; cells too long or without
        genes.
    """
    network, device = model.network, model.network.device
    n_layers = network.config.num_hidden_layers + layer
    check(model, cells, pooling, layer)
    refuse_without_genes(model, cells)
    width, vocab_size = network.config.hidden_size, network.config.vocab_size
    per_cell = np.empty((len(cells), width), np.float32)
    if pooling == "gene":
        sums = torch.zeros(vocab_size, width, dtype=torch.float64, device=device)

    with evaluating(network, cells):
        embeddings, layers = modules_in(network, n_layers, choose_dtype(dtype, device))
        for indices in _minibatches(cells, max_tokens or TOKENS_PER_MINIBATCH.get(device.type, 8_192), progress):
            part = cells[indices]
            tokens = torch.from_numpy(part.tokens).to(device, torch.int64)
            with torch.inference_mode():
                x = encode(embeddings, layers, tokens, part.lengths.tolist(), first_only=pooling == "cls").float()
                if pooling == "gene":
                    sums.index_add_(0, tokens, x.double())
                    continue
                if pooling == "mean":
                    keep = ~np.isin(part.tokens, list(model.special.values()))
                    kept = part.count(keep).tolist()
                    x = torch.stack([own.mean(0) for own in x[torch.from_numpy(keep).to(device)].split(kept)])
                per_cell[indices] = x.cpu().numpy()  # (cell, d)
    if pooling != "gene":
        return per_cell
    return _gene_table(model, cells.tokens[~np.isin(cells.tokens, list(model.special.values()))], sums)


def _gene_table(model: Reads, tokens: np.ndarray, sums: Tensor) -> pd.DataFrame:
    import pandas as pd

    ids, n_cells = np.unique(tokens, return_counts=True)
    means = sums.cpu().numpy()[ids] / n_cells[:, None]
    names = pd.Index([model.vocabulary.gene(token) for token in ids], name="ensembl_id")
    table = pd.DataFrame(means.astype(np.float32), index=names)
    table.attrs["n_cells"] = n_cells.tolist()
    return table


def _minibatches(cells: TokenizedCells, max_tokens: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    with tqdm(total=len(cells), desc="embedding", unit="cell", disable=not progress, delay=1, leave=False) as bar:
        for indices in cells.minibatches(max_tokens):
            yield indices
            bar.update(len(indices))


# --- what cannot be embedded ------------------------------------------------------------------------


def check(model: Reads, cells: TokenizedCells, pooling: str = "mean", layer: int = -1) -> None:
    """Refuse cells that this model cannot read, and questions that it cannot answer; raises as :func:`embed` does."""
    config = model.network.config
    if pooling not in ("cls", "mean", "gene"):
        raise ValueError(f"pooling is {pooling!r}; it can be 'cls', 'mean' or 'gene'")
    if not isinstance(layer, int) or not -config.num_hidden_layers <= layer <= 0:
        raise ValueError(
            f"layer is {layer!r}; this model has layers 0 (the last) and -1 (second to last) to "
            f"{-config.num_hidden_layers} (the input embeddings)"
        )
    check_vocabulary(model, cells)
    _refuse(
        cells,
        cells.lengths > config.max_position_embeddings,
        f"more tokens than the model's {config.max_position_embeddings:,} positions",
    )
    _refuse(cells, cells.lengths == 0, "no tokens (no gene of theirs is in the vocabulary)")
    if pooling == "cls":
        if "<cls>" not in model.special:
            raise ValueError("This model's vocabulary has no <cls> token (Geneformer V1 has none): use pooling='mean'.")
        first = cells.tokens[cells.offsets[:-1]]
        _refuse(
            cells, first != model.special["<cls>"], "a first token that is not <cls>, so they have no cls embedding"
        )


def genes_per_cell(model: Reads, cells: TokenizedCells) -> np.ndarray:
    """How many tokens of each cell are genes, not special ones: int (cell,)."""
    is_gene = ~np.isin(cells.tokens, list(model.special.values()))
    return cells.count(is_gene)


def refuse_without_genes(model: Reads, cells: TokenizedCells) -> None:
    """ValueError for cells of special tokens only: all of them would get one vector, as if it said something about them."""
    _refuse(cells, genes_per_cell(model, cells) == 0, "no genes, so there is nothing of theirs to embed")


def check_vocabulary(model: Reads, cells: TokenizedCells) -> None:
    """Refuse cells of another vocabulary, by its name, its hash and its size; what cells or model do not say is not compared."""
    name, known = cells.vocabulary_name, getattr(model, "vocabulary_name", "")
    if name and known and name != known:
        raise ValueError(
            f"These cells were tokenized with the vocabulary {name!r}, this model reads {known!r}: the same token id is "
            "another gene there. Tokenize the counts again with model.tokenize(adata)."
        )
    own = getattr(model, "vocabulary_sha256", "") if cells.vocabulary_sha256 else ""
    if own and cells.vocabulary_sha256 != own:
        raise ValueError(
            f"These cells were tokenized with a vocabulary that has the name of this model's ({known!r}) but not its content: "
            "other genes, other medians, or another order, so the same token id can be another gene. Tokenize the counts again "
            "with model.tokenize(adata)."
        )
    size = model.network.config.vocab_size
    if len(cells.tokens) and not 0 <= cells.tokens.min() <= cells.tokens.max() < size:
        raise ValueError(
            f"Token ids from {cells.tokens.min()} to {cells.tokens.max()} were found, this model has 0 to {size - 1}: the "
            "cells were tokenized with another vocabulary. Use model.tokenize(adata)."
        )


def _refuse(cells: TokenizedCells, bad: np.ndarray, what: str) -> None:
    if bad.any():
        names = ", ".join(cells.cell_ids[bad][:3])
        raise ValueError(
            f"{bad.sum():,} of {len(cells):,} cells have {what}; the first: {names}. Leave them out with cells[keep] "
            "(a mask or indices) and keep the rows of adata in step."
        )
