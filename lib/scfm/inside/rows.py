"""What every encoding does first: take the matrix as it lies, refuse what is not counts, share the cells among threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.errors import NotCountsError

if TYPE_CHECKING:
    import anndata
    import scipy.sparse as sp

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]  # indptr (n_cells + 1,), indices (n_values,), data (n_values,)


def csr(adata: anndata.AnnData) -> sp.csr_matrix:
    """The counts of adata as a canonical CSR matrix; a copy only where they are not."""
    import scipy.sparse as sp

    if adata.X is None:
        raise NotCountsError("adata.X is empty; put the raw counts there (they may be in adata.layers or adata.raw)")
    if adata.isbacked:
        raise NotCountsError("this AnnData is backed by its file; scfm.files.tokenize_file reads such a file in chunks")
    matrix = adata.X if isinstance(adata.X, sp.csr_matrix | sp.csr_array) else sp.csr_matrix(adata.X)
    return canonical(matrix)


def canonical(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The matrix with each row's columns in order and none twice; a copy only where they are not."""
    if matrix.has_canonical_format:
        return matrix
    # one byte would not hold the sum of two entries
    matrix = matrix.astype(np.float64 if matrix.dtype.itemsize < 4 else matrix.dtype)
    matrix.sum_duplicates()
    return matrix


def passed(obs: Mapping[str, Any]) -> np.ndarray | None:
    """Mask of the cells with filter_pass == 1, None where there is no such column."""
    if "filter_pass" not in obs:
        return None
    try:
        return np.asarray(obs["filter_pass"]).astype(float) == 1
    except (TypeError, ValueError) as error:  # TypeError: a missing value of pandas
        raise ValueError(
            f"obs['filter_pass'] holds other things than numbers ({error}). It is Geneformer's column: 1 for a cell to keep, 0 for "
            "one to leave out. Give yours another name."
        ) from error


def refuse_filtered(obs: Mapping[str, Any]) -> None:
    """ValueError where tokenization would leave cells out, for whom row i has to stay cell i."""
    kept = passed(obs)
    if kept is not None and not kept.all():
        raise ValueError(
            f"obs['filter_pass'] leaves out {(~kept).sum():,} of {len(kept):,} cells, so the rows that come back would not be the "
            "rows of adata. Drop these cells first: adata = adata[adata.obs['filter_pass'] == 1].copy()."
        )


def plain(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> Csr:
    """The same matrix in the few types that the kernels are compiled for (no copy where it has them already)."""
    if data.dtype not in (np.float32, np.float64):
        data = data.astype(np.float64)
    return np.ascontiguousarray(indptr, np.int64), np.ascontiguousarray(indices, np.int32), np.ascontiguousarray(data)


@dataclass(frozen=True)
class Census:
    """What one pass over a matrix says about it."""

    n_genes: np.ndarray  # int64 (n_cells,) nonzero genes that have a token
    row_sum: np.ndarray  # float64 (n_cells,) all counts
    kept_sum: np.ndarray  # float64 (n_cells,) counts of genes that have a token
    not_finite: int
    negative: int
    fractional: int
    unsorted: int

    def refuse_impossible(self) -> None:
        """NotCountsError for values that no count can have, and for rows whose columns do not increase."""
        if self.not_finite or self.negative:
            raise NotCountsError(
                f"counts are finite and not negative, but {self.not_finite:,} values are NaN or infinite and "
                f"{self.negative:,} negative. Negative values come from scaling: the raw counts are needed."
            )
        if self.unsorted:
            raise NotCountsError("the columns of a CSR row must increase: call sum_duplicates() on the matrix first")

    def refuse_all_but_counts(self) -> None:
        """NotCountsError for all that is not a whole number, too."""
        self.refuse_impossible()
        if self.fractional:
            raise NotCountsError(
                f"{self.fractional:,} values are not whole numbers, so this looks normalized or log-transformed. Ranks and "
                "bins are made from raw counts: look in adata.layers['counts'] or adata.raw.X. Estimated counts (Salmon, "
                "RSEM, ambient-corrected) can be rounded first: adata.X.data = adata.X.data.round()."
            )


def take_census(matrix: Csr, column_token: np.ndarray, n_threads: int | None) -> Census:
    """One pass over the matrix; ``column_token`` (column,) is each column's token, -1 for none."""
    from scfm.inside import kernels

    groups, group_token = shared_columns(column_token)
    n_cells = len(matrix[0]) - 1
    n_genes, row_sum, kept_sum = np.zeros(n_cells, np.int64), np.zeros(n_cells), np.zeros(n_cells)
    bad: list[np.ndarray] = []

    def count(first: int, last: int) -> None:
        mine = np.zeros(4, np.int64)
        kernels.census(*matrix, groups, len(group_token), first, last, n_genes, row_sum, kept_sum, mine)
        bad.append(mine)

    in_threads(count, n_cells, n_threads)
    return Census(n_genes, row_sum, kept_sum, *np.sum(bad, axis=0, dtype=int).tolist() if bad else (0, 0, 0, 0))


def shared_columns(column_token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mark the columns that share a token with another: -2 - group in their place, and the token of each group."""
    column_token = np.ascontiguousarray(column_token, np.int32)
    known = column_token >= 0
    n_columns = np.bincount(column_token[known])
    group_token = np.flatnonzero(n_columns > 1).astype(np.int32)
    if len(group_token) == 0:
        return column_token, group_token
    shared = known & (n_columns[column_token] > 1)
    column_token = column_token.copy()
    column_token[shared] = -2 - np.searchsorted(group_token, column_token[shared])
    return column_token, group_token


def check_room(max_len: int, n_special: int) -> None:
    """ValueError if a cell of ``max_len`` tokens has no place for a gene."""
    if max_len <= n_special:
        raise ValueError(f"max_len is {max_len}, of which special tokens take {n_special}: there is no room for a gene")


def cores() -> int:
    """The cores this process may use (on a shared machine fewer than there are)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[int, int], None], n_cells: int, n_threads: int | None) -> None:
    """Call work(first, last) on blocks of cells, in threads (the compiled kernels release the GIL)."""
    n_threads = cores() if n_threads is None else n_threads
    if n_threads < 1:
        raise ValueError(f"n_threads is {n_threads}; at least 1 is needed")
    block = max(64, -(-n_cells // (4 * n_threads)))  # a few blocks per thread, so that none waits long for another
    blocks = [(first, min(first + block, n_cells)) for first in range(0, n_cells, block)]
    if n_threads == 1 or len(blocks) <= 1:
        for first, last in blocks:
            work(first, last)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda ends: work(*ends), blocks))  # list(): an error in a thread is raised here
