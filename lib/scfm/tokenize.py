"""From counts to tokens: `rank_encode` as Geneformer does it, `bin_encode` as scGPT does it.

Lesson 02 builds both by hand on one cell. This is the same for many cells, on the sparse matrix as it lies. The loops over
a cell's genes are in `inside/kernels.py`, the checks that come before them in `inside/rows.py`; what comes out is a
`TokenizedCells` (`tokenized.py`). `scfm.files.tokenize_file` does it for a file that does not fit into memory.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scfm import genes
from scfm.inside.rows import Census, Csr, check_room, csr, in_threads, passed, plain, shared_columns, take_census
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata

__all__ = ["TokenizedCells", "bin_encode", "bin_rows", "rank_encode", "rank_rows"]

# --- ranks: Geneformer ----------------------------------------------------------------------------


def rank_encode(
    adata: anndata.AnnData,
    version: str | genes.RankVocabulary = "V1",
    max_len: int | None = None,
    n_threads: int | None = None,
) -> TokenizedCells:
    """Rank-encode cells: each becomes its genes, ordered by how much more of each there is than usual for that gene.

    Per cell: count / n_counts * 10,000 / median of the gene; zeros dropped; the largest value first; cut at ``max_len``.
    V2 and our own vocabularies begin with <cls> and end with <eos>. Columns that are the same gene are summed; genes
    outside the vocabulary are dropped. Equal values are ordered by token id, so that neither the order of the file's
    columns nor the machine matters. A cell without any gene of the vocabulary stays, as special tokens only, and is named
    in ``.report["empty_cells"]``. Where ``obs`` has ``filter_pass``, only its cells with 1 are encoded.

    As Geneformer's TranscriptomeTokenizer does it (Theodoris et al. 2023, 10.1038/s41586-023-06139-9).

    Parameters
    ----------
    adata
        Raw counts in X (cell, gene); ``var["ensembl_id"]``; ``obs["n_counts"]``, the total count of the whole cell (without it,
        the sum over the genes in X is taken, with a warning).
    version
        "V1", "V2" or a RankVocabulary.
    max_len
        The most tokens per cell, special tokens included; as the vocabulary says (V1 2048, V2 4096) unless given.
    n_threads
        All cores unless given.

    Raises
    ------
    VocabularyError
        Under 20 % of the genes are in the vocabulary.
    NotCountsError
        X does not hold raw counts.
    ValueError
        ``n_counts`` is zero or less in a cell with counts; ``max_len`` leaves no room for a gene.
    """
    vocabulary = genes.RankVocabulary.published(version) if isinstance(version, str) else version
    matrix = csr(adata)
    found = genes.overlap(adata, vocabulary)
    encoder = RankEncoder.of(vocabulary, adata.var["ensembl_id"], max_len)
    kept = passed(adata.obs)
    n_counts = np.asarray(adata.obs["n_counts"], np.float64) if "n_counts" in adata.obs else None
    if n_counts is None:
        warnings.warn(NO_N_COUNTS, stacklevel=2)
    cell_ids = np.asarray(adata.obs_names, dtype=str)
    if kept is not None:
        matrix, cell_ids = matrix[kept], cell_ids[kept]
        n_counts = None if n_counts is None else n_counts[kept]
    cells = encoder.encode((matrix.indptr, matrix.indices, matrix.data), n_counts, cell_ids, n_threads)
    cells.report["filtered_out"] = 0 if kept is None else int((~kept).sum())
    in_vocabulary = cells.report["counts_in_vocabulary"] / max(cells.report["counts"], 1e-12)
    cells.report["overlap"] = str(replace(found, fraction_counts=in_vocabulary))  # of the cells that passed
    return cells


NO_N_COUNTS = (
    "obs has no n_counts, so the sum over the genes in X stands in for it. That is right only if X has all genes of the "
    "cell: after a selection of genes (highly variable ones, say) put the total of the whole cell into obs['n_counts']."
)


@dataclass(frozen=True)
class RankEncoder:
    """A vocabulary matched to the columns of one dataset: what `rank_encode` and `tokenize_file` share."""

    vocabulary: genes.RankVocabulary
    sha256: str
    column_token: np.ndarray  # int32 (n_columns,), -1: not in the vocabulary
    column_median: np.ndarray  # float64 (n_columns,)
    max_len: int
    cls: int
    eos: int

    @classmethod
    def of(cls, vocabulary: genes.RankVocabulary, ensembl_ids: Iterable[str], max_len: int | None) -> RankEncoder:
        column_token, column_median = vocabulary.columns(ensembl_ids)
        framed = vocabulary.starts_with_cls
        max_len = vocabulary.max_len if max_len is None else max_len
        check_room(max_len, 2 if framed else 0)
        ends = (vocabulary.special[genes.CLS], vocabulary.special[genes.EOS]) if framed else (-1, -1)
        return cls(vocabulary, vocabulary_sha256(vocabulary), column_token, column_median, max_len, *ends)

    def encode(
        self, matrix: Csr, n_counts: np.ndarray | None, cell_ids: np.ndarray, n_threads: int | None = None
    ) -> TokenizedCells:
        matrix = plain(*matrix)
        census = take_census(matrix, self.column_token, n_threads)
        census.refuse_all_but_counts()
        if n_counts is None:
            n_counts = census.row_sum
        offsets, tokens = _rank(
            matrix, n_counts, self.column_token, self.column_median, self.max_len, self.cls, self.eos, n_threads, census
        )
        room = self.max_len - (self.cls >= 0) - (self.eos >= 0)
        report = {
            "n_cells": len(cell_ids),
            "empty_cells": np.asarray(cell_ids)[census.n_genes == 0].tolist(),
            "truncated_cells": int((census.n_genes > room).sum()),
            "counts": float(census.row_sum.sum()),
            "counts_in_vocabulary": float(census.kept_sum.sum()),
        }
        return TokenizedCells(
            tokens,
            offsets,
            None,
            cell_ids,
            self.vocabulary.name,
            self.sha256,
            self.vocabulary.special.get(genes.PAD, 0),
            report,
        )


def rank_rows(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    n_counts: np.ndarray,
    column_token: np.ndarray,
    column_median: np.ndarray,
    max_len: int,
    cls: int = -1,
    eos: int = -1,
    n_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank-encode the rows of a CSR matrix of counts: `rank_encode` for bare arrays.

    Parameters
    ----------
    indptr, indices, data
        The matrix: (n_cells + 1,), (n_values,), (n_values,).
    n_counts
        Total count of the whole cell: (n_cells,).
    column_token
        Token id of each column's gene, -1 for none: (n_columns,). Columns of one gene are summed.
    column_median
        The gene's nonzero median: (n_columns,).
    max_len
        The most tokens per cell, special tokens included.
    cls, eos
        Token ids to begin and end each cell with, -1 for none.

    Returns
    -------
    offsets int64 (n_cells + 1,), tokens int32 (n_tokens,); cell i is ``tokens[offsets[i]:offsets[i + 1]]``.

    Raises
    ------
    NotCountsError
        A value is negative or not finite.
    ValueError
        A cell with counts has ``n_counts`` of zero or less.
    """
    matrix = plain(indptr, indices, data)
    column_token = np.ascontiguousarray(column_token, np.int32)
    census = take_census(matrix, column_token, n_threads)
    census.refuse_impossible()
    return _rank(matrix, n_counts, column_token, column_median, max_len, cls, eos, n_threads, census)


def _rank(
    matrix: Csr,
    n_counts: np.ndarray,
    column_token: np.ndarray,
    column_median: np.ndarray,
    max_len: int,
    cls: int,
    eos: int,
    n_threads: int | None,
    census: Census,
) -> tuple[np.ndarray, np.ndarray]:
    from scfm.inside import kernels

    n_counts = np.ascontiguousarray(n_counts, np.float64)
    column_median = np.ascontiguousarray(column_median, np.float64)
    if len(n_counts) != len(census.n_genes):
        raise ValueError(f"{len(n_counts)} n_counts for {len(census.n_genes)} cells: one for each was expected")
    if not (column_median[column_token >= 0] > 0).all():
        raise ValueError("every gene with a token needs a median above zero")
    depthless = np.flatnonzero((census.n_genes > 0) & ~((n_counts > 0) & np.isfinite(n_counts)))
    if len(depthless):
        raise ValueError(
            f"n_counts must be positive where a cell has counts; cell {depthless[0]} has {n_counts[depthless[0]]:g} "
            f"({len(depthless):,} such cells). n_counts is the cell's total over all genes: recompute it from the raw counts."
        )
    n_special = (cls >= 0) + (eos >= 0)
    check_room(max_len, n_special)
    offsets = np.zeros(len(n_counts) + 1, np.int64)
    np.cumsum(np.minimum(census.n_genes, max_len - n_special) + n_special, out=offsets[1:])
    tokens = np.empty(offsets[-1], np.int32)
    groups, group_token = shared_columns(column_token)

    def rank(first: int, last: int) -> None:
        kernels.rank(*matrix, n_counts, groups, column_median, group_token, first, last, offsets, tokens, cls, eos)

    in_threads(rank, len(n_counts), n_threads)
    return offsets, tokens


# --- bins: scGPT ----------------------------------------------------------------------------------


def bin_encode(
    adata: anndata.AnnData,
    vocabulary: genes.SymbolVocabulary,
    n_bins: int | None = 51,
    seed: int | None = None,
    max_len: int | None = None,
    sample_seed: int = 0,
    include_zeros: bool = False,
    normalize: float | None = None,
    log1p: bool = False,
    n_threads: int | None = None,
) -> TokenizedCells:
    """Bin-encode cells: each becomes <cls> and its nonzero genes, each with the quantile bin of its count in this cell.

    Bins run from 1 to n_bins - 1 between the quantiles of the cell's own nonzero counts (of genes in the vocabulary); 0 is
    a zero. Counts are so few that many quantiles coincide: a count that spans several bins gets the highest of them
    (``seed=None``, the deterministic form), or one of them at random as upstream does (``seed``: numpy's legacy generator,
    set again for each cell, so that a cell's bins do not depend on the cells around it).

    As scGPT's Preprocessor and tokenizer do it (Cui et al. 2024, 10.1038/s41592-024-02201-0).

    Parameters
    ----------
    adata
        Raw counts in X (cell, gene); ``var["gene_symbol"]``.
    n_bins
        Number of bins including that of zero; None keeps the values unbinned.
    max_len
        The most tokens per cell with <cls>. Of a longer cell a random sample of genes is kept; it goes by ``sample_seed`` and
        by what the cell holds, not by its row.
    include_zeros
        Keep the genes with a zero count too, all those of the vocabulary.
    normalize, log1p
        Scale each cell to this total (1e4, say), then take log1p. Only unbinned values change: a bin depends on the order of
        the counts alone.

    Raises
    ------
    VocabularyError
        Under 20 % of the genes are in the vocabulary.
    NotCountsError
        X does not hold raw counts.
    """
    import scipy.sparse as sp

    matrix = csr(adata)
    found = genes.overlap(adata, vocabulary)
    column_token = vocabulary.column_tokens(adata.var)
    kept, cell_ids = passed(adata.obs), np.asarray(adata.obs_names, dtype=str)
    if kept is not None:
        matrix, cell_ids = matrix[kept], cell_ids[kept]
    census = take_census(plain(matrix.indptr, matrix.indices, matrix.data), column_token, n_threads)
    census.refuse_all_but_counts()
    groups, group_token = shared_columns(column_token)
    if len(group_token):  # two columns of one symbol: their counts are summed, in the place of the first
        place = np.arange(len(column_token))
        for group in range(len(group_token)):
            place[groups == -2 - group] = np.flatnonzero(groups == -2 - group)[0]
        column_token = np.where(place == np.arange(len(place)), column_token, -1)
        # float32: in the matrix's own type of one byte, say, the sum of two counts would not fit
        onto = sp.csr_matrix((np.ones(len(place), np.float32), place, np.arange(len(place) + 1)))
        onto.resize(len(place), len(place))
        matrix = (matrix @ onto).tocsr()
        matrix.sort_indices()
    cls = vocabulary.special[genes.CLS]
    offsets, tokens, values = bin_rows(
        matrix.indptr, matrix.indices, matrix.data, column_token, n_bins=n_bins, seed=seed, max_len=max_len, cls=cls,
        sample_seed=sample_seed, include_zeros=include_zeros, normalize=normalize, log1p=log1p, n_threads=n_threads,
    )  # fmt: skip
    n_genes = np.full(len(cell_ids), (column_token >= 0).sum()) if include_zeros else census.n_genes
    report = {
        "n_cells": len(cell_ids),
        "filtered_out": 0 if kept is None else int((~kept).sum()),
        "empty_cells": cell_ids[census.n_genes == 0].tolist(),
        "truncated_cells": int((n_genes + 1 > max_len).sum()) if max_len else 0,
        "overlap": str(found),
    }
    pad_id = vocabulary.special[genes.PAD]
    return TokenizedCells(
        tokens, offsets, values, cell_ids, vocabulary.name, vocabulary_sha256(vocabulary), pad_id, report
    )


def bin_rows(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    column_token: np.ndarray,
    n_bins: int | None = 51,
    seed: int | None = None,
    max_len: int | None = None,
    cls: int = -1,
    sample_seed: int = 0,
    include_zeros: bool = False,
    normalize: float | None = None,
    log1p: bool = False,
    n_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin-encode the rows of a CSR matrix of counts: `bin_encode` for bare arrays, each column a gene of its own.

    Returns offsets int64 (n_cells + 1,), tokens int32 (n_tokens,), values float32 (n_tokens,); genes in column order.
    """
    from scfm.inside import kernels

    if n_bins is not None and n_bins < 2:
        raise ValueError(f"n_bins is {n_bins}; at least 2 are needed, that of zero and one more")
    for name, number in (("seed", seed), ("sample_seed", sample_seed)):
        if number is not None and not 0 <= number < 2**32:
            raise ValueError(f"{name} must be from 0 to 2**32 - 1, not {number}")
    matrix = plain(indptr, indices, data)
    column_token = np.ascontiguousarray(column_token, np.int32)
    census = take_census(matrix, column_token, n_threads)
    census.refuse_impossible()
    n_genes = np.full(len(census.n_genes), (column_token >= 0).sum()) if include_zeros else census.n_genes
    n_tokens = n_genes + (cls >= 0)
    if max_len is not None:
        check_room(max_len, int(cls >= 0))
        n_tokens = np.minimum(n_tokens, max_len)
    offsets = np.zeros(len(n_tokens) + 1, np.int64)
    np.cumsum(n_tokens, out=offsets[1:])
    tokens, values = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    quantiles = np.linspace(0, 1, n_bins - 1) if n_bins else np.empty(0)
    numpy_seed = -1 if seed is None else seed

    def encode(first: int, last: int) -> None:
        kernels.encode_bins(
            *matrix, column_token, n_genes, quantiles, float(normalize or 0), log1p, include_zeros, cls, numpy_seed,
            sample_seed, first, last, offsets, tokens, values,
        )  # fmt: skip

    in_threads(encode, len(n_tokens), n_threads)
    return offsets, tokens, values


def vocabulary_sha256(vocabulary: genes.RankVocabulary | genes.SymbolVocabulary) -> str:
    """A hash over genes, their other names, tokens and medians: two vocabularies with the same hash encode a cell in the same way."""
    medians: Mapping[str, float] = getattr(vocabulary, "medians", {})
    alternatives: Mapping[str, str] = getattr(vocabulary, "alternatives", {})
    digest = hashlib.sha256()
    for gene, token in sorted([*vocabulary.tokens.items(), *vocabulary.special.items()]):
        digest.update(f"{gene}\t{token}\t{medians.get(gene)!r}\n".encode())
    for name, gene in sorted(alternatives.items()):
        digest.update(f"{name}\t{gene}\n".encode())
    return digest.hexdigest()
