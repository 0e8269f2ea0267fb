"""What a generated cell begins with: a cell embedding, some observed genes, or both.

Cui et al. 2024 (10.1038/s41592-024-02201-0): a cell prompt is a cell-type embedding at position 0, a gene prompt a set of
observed genes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.genes import CLS, PAD
from scfm.inside.rows import refuse_filtered
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import pandas as pd

    from scfm.models.scgpt import ScGPT


def mean_prompts(model: ScGPT, cells: Any, labels: Sequence[str] | np.ndarray, **how: Any) -> pd.DataFrame:
    """The mean raw embedding of each type's cells, to be used as cell prompts: DataFrame (type, d), types as its index.

    cells: what ``model.embed`` takes (``how`` goes there too); labels: (cell,). Use cells of a training split only: a prompt
    is a summary of the cells that it is made of.
    """
    import pandas as pd

    names = np.asarray(labels).astype(str)
    embedding = model.embed(cells, normalize=False, **how)
    if len(names) != len(embedding):
        raise ValueError(f"{len(embedding):,} cells but {len(names):,} labels; one label per cell is needed.")
    return pd.DataFrame(embedding, index=pd.Index(names, name="cell_type")).groupby(level=0).mean().astype(np.float32)


def gene_prompt(
    model: ScGPT, genes: Sequence[str], bins: np.ndarray, cell_ids: Sequence[str] | np.ndarray | None = None
) -> TokenizedCells:
    """Observed genes (symbols) with their bins (cell, gene) as cells to be completed; a zero is an observation too."""
    tokens = [model.vocabulary.token(gene) for gene in genes]
    table = np.atleast_2d(np.asarray(bins, np.float32))
    if table.shape[1] != len(tokens):
        raise ValueError(f"{len(tokens):,} genes but {table.shape[1]:,} columns of bins; one for each gene is needed.")
    cls = model.special[CLS]
    return TokenizedCells.from_lists(
        [[cls, *tokens]] * len(table),
        [[0.0, *row] for row in table],
        cell_ids=cell_ids,
        vocabulary_name=model.vocabulary_name,
        pad_id=model.special[PAD],
    )


def keep_genes(cells: TokenizedCells, tokens: Sequence[int] | np.ndarray) -> TokenizedCells:
    """The same cells with only these genes (token ids; ``<cls>`` and what else comes first is always kept), bins unchanged."""
    kept = np.isin(cells.tokens, tokens)
    kept[cells.offsets[:-1][cells.lengths > 0]] = True
    return cells.keep(kept)


def bin_matrix(cells: TokenizedCells, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Bins of these genes (token ids) as a table, float32 (cell, gene); a gene that a cell does not list is 0.

    So the cells must not have been cut to a number of tokens: ``model.tokenize(adata, max_len=len(model.vocabulary))``.
    """
    if cells.values is None:
        raise ValueError("These cells have no values: they were rank-encoded. Use an scGPT's model.tokenize(adata).")
    wanted = np.asarray(tokens)
    column = np.full(max(int(cells.tokens.max(initial=0)), int(wanted.max(initial=0))) + 1, -1)
    column[wanted] = np.arange(len(wanted))
    at = column[cells.tokens]
    table = np.zeros((len(cells), len(wanted)), np.float32)
    table[np.repeat(np.arange(len(cells)), cells.lengths)[at >= 0], at[at >= 0]] = cells.values[at >= 0]
    return table


@dataclass
class Prompts:
    """What each cell begins with."""

    cells: TokenizedCells  # <cls> and the gene prompt
    embedding: np.ndarray | None  # float32 (cell, d)
    ids: np.ndarray
    keys: np.ndarray  # int64 (cell, 3): two of the id's hash, one that counts cells of the same id

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each cell: (cell,)."""
        return self.cells.lengths

    @classmethod
    def read(cls, model: ScGPT, prompt: Any, cell_prompt: Any = None) -> Prompts:
        """From what ``scfm.generate`` was given; ValueError says what does not fit."""
        if prompt is None or (not isinstance(prompt, TokenizedCells) and not hasattr(prompt, "obs")):
            if prompt is not None and cell_prompt is not None:
                raise ValueError("Two cell prompts were given: prompt should then hold cells with some observed genes.")
            prompt, cell_prompt = None, prompt if prompt is not None else cell_prompt
        if prompt is None and cell_prompt is None:
            raise ValueError("prompt is missing: cell embeddings (cell, d), or cells with some observed genes.")
        names: Any = None
        if hasattr(cell_prompt, "index") and hasattr(cell_prompt, "columns"):  # a DataFrame
            names = np.asarray(cell_prompt.index, dtype=str)
        if prompt is None:
            embedding = _embedding(model, cell_prompt)
            n = len(embedding)
            # a name is the same on every machine and with any number of threads, the last bits of an embedding are not
            ids = [
                hashlib.blake2b(row.tobytes(), digest_size=16).digest() if names is None else str(names[i]).encode()
                for i, row in enumerate(embedding)
            ]
            cells = TokenizedCells.from_lists([[model.special[CLS]]] * n, [[0.0]] * n, pad_id=model.special[PAD])
            names = names if names is not None else np.asarray([f"prompt{i}" for i in range(n)])
            return cls(cells, embedding, names, _keys(ids))
        cells = prompt
        if not isinstance(cells, TokenizedCells):
            refuse_filtered(prompt.obs)
            cells = model.tokenize(prompt, max_len=len(model.vocabulary) + 1, include_zeros=True)
        model.check(cells)
        if len(cells) == 0:
            raise ValueError("The prompt holds no cells.")
        highest = model.network.config.n_bins - 1
        inside = np.ones(len(cells.tokens), bool)
        inside[cells.offsets[:-1]] = False  # <cls>, whose value is replaced anyway
        shown = cells.values[inside]  # type: ignore[index]
        if len(shown) and not (shown.min() >= 0 and shown.max() <= highest):
            raise ValueError(
                f"Values of a gene prompt are bins from 0 to {highest}; from {shown.min():g} to {shown.max():g} were found. "
                "A gene whose value is to be generated does not belong in the prompt but in genes."
            )
        beside = None if cell_prompt is None else _embedding(model, cell_prompt)
        if beside is not None and len(beside) == 1:
            beside = np.repeat(beside, len(cells), 0)
        if beside is not None and len(beside) != len(cells):
            raise ValueError(
                f"{len(cells):,} gene prompts but {len(beside):,} cell prompts; one for each, or one for all, is needed."
            )
        return cls(cells, beside, cells.cell_ids, _keys([str(name).encode() for name in cells.cell_ids]))

    def refuse_known(self, symbols: list[str], asked: np.ndarray) -> None:
        """ValueError if a gene that is asked for (symbols and token ids) is in the prompt of any cell."""
        both = np.isin(asked, self.cells.tokens)
        if both.any():
            raise ValueError(
                f"{both.sum():,} of the genes asked for are in the prompt (for example {symbols[int(both.argmax())]}): what is "
                "known cannot be generated. Leave them out of genes, or out of the prompt (scfm.generation.prompts.keep_genes)."
            )

    def tensors(self, rows: np.ndarray, config: Any, device: Any) -> tuple[Any, Any, Any, Any]:
        """Genes, values, padding and cell prompt of these cells."""
        import torch

        tokens, there = self.cells.padded(rows)
        values = self.cells.padded_values(rows, pad_value=config.pad_value)
        values[:, 0] = config.pad_value  # what <cls> carried in generative pretraining
        genes, padding = torch.from_numpy(tokens).to(device), torch.from_numpy(there == 0).to(device)
        embedding = None if self.embedding is None else torch.from_numpy(self.embedding[rows]).to(device)
        return genes, torch.from_numpy(values).to(device), padding if padding.any() else None, embedding


def _embedding(model: ScGPT, given: Any) -> np.ndarray:
    d = model.network.config.hidden_size
    found = np.atleast_2d(np.ascontiguousarray(given, np.float32))
    if found.ndim != 2 or found.shape[1] != d or len(found) == 0:
        raise ValueError(
            f"A cell prompt has the shape (cell, {d}) for this model; {np.shape(given)} was given. "
            "model.embed(cells, normalize=False) makes such prompts."
        )
    if not np.isfinite(found).all():
        raise ValueError("The cell prompt holds NaN or infinite values.")
    if np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3):
        raise ValueError(
            "These cell prompts have length 1: they are normalized embeddings. The network was trained to read raw ones: "
            "model.embed(cells, normalize=False)."
        )
    return found


def _keys(ids: Sequence[bytes]) -> np.ndarray:
    seen: Counter[bytes] = Counter()
    keys = np.empty((len(ids), 3), np.int64)
    for row, name in enumerate(ids):
        digest = hashlib.blake2b(name, digest_size=8).digest()
        keys[row] = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big"), seen[name]
        seen[name] += 1
    return keys
