"""From counts to tokens: `rank_encode` as Geneformer does it, `bin_encode` as scGPT does it.

Lesson 02 builds both by hand on one cell; this is the same for many cells, on the sparse matrix as it lies.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np


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
    """Rank-encode the rows of a CSR matrix of counts.

    Per cell: count / n_counts * 10,000 / median of the gene, zeros dropped, the largest value first. Equal values are
    ordered by token id, which depends on neither the order of the columns in the file nor the machine. Each token must
    belong to one column only (`rank_encode` sums the columns of one gene before).

    Args:
        indptr, indices, data: the matrix, (n_cells + 1,), (n_values,), (n_values,).
        n_counts: (n_cells,) total count of the whole cell.
        column_token: (n_columns,) token id of each column's gene, -1 for a column without.
        column_median: (n_columns,) the gene's nonzero median.
        max_len: the most tokens per cell, special tokens included.
        cls, eos: token ids to begin and end each cell with, -1 for none.
    Returns:
        offsets int64 (n_cells + 1,), tokens int32 (n_tokens,); cell i is tokens[offsets[i]:offsets[i + 1]].
    Raises:
        ValueError: a value is negative or not finite, or a cell with counts has n_counts of zero or less.
    Source: Theodoris et al. 2023 (10.1038/s41586-023-06139-9), Geneformer's tokenizer.
    """
    from . import _kernels

    indptr, indices, data = _plain_csr(indptr, indices, data)
    column_token = np.ascontiguousarray(column_token, np.int32)
    column_median = np.ascontiguousarray(column_median, np.float64)
    n_counts = np.ascontiguousarray(n_counts, np.float64)
    n_cells = len(indptr) - 1

    n_genes, _, bad = _census(indptr, indices, data, column_token, n_threads)
    if bad[0] or bad[1]:
        raise ValueError(f"counts must be finite and not negative: {bad[0]:,} are NaN or infinite, {bad[1]:,} negative")
    depthless = np.flatnonzero((n_genes > 0) & ~(n_counts > 0))
    if len(depthless):
        raise ValueError(
            f"n_counts must be positive where a cell has counts; cell {depthless[0]} has n_counts {n_counts[depthless[0]]:g} "
            f"({len(depthless):,} such cells). n_counts is the sum over all genes of the cell."
        )
    n_special = (cls >= 0) + (eos >= 0)
    if max_len <= n_special:
        raise ValueError(f"max_len is {max_len}, of which {n_special} are special tokens: no room for a gene")
    offsets = np.zeros(n_cells + 1, np.int64)
    np.cumsum(np.minimum(n_genes, max_len - n_special) + n_special, out=offsets[1:])
    tokens = np.empty(offsets[-1], np.int32)

    def rank(first: int, last: int) -> None:
        _kernels.rank(
            indptr, indices, data, n_counts, column_token, column_median, first, last, offsets, tokens, cls, eos
        )

    in_threads(rank, n_cells, n_threads)
    return offsets, tokens


def in_threads(work: Callable[[int, int], Any], n_cells: int, n_threads: int | None = None) -> None:
    """Call work(first, last) on blocks of cells, in threads (the compiled kernels release the GIL)."""
    if n_threads is None:
        n_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    block = max(64, -(-n_cells // (4 * n_threads)))  # a few blocks per thread, so that none waits for the other long
    blocks = [(first, min(first + block, n_cells)) for first in range(0, n_cells, block)]
    if n_threads == 1 or len(blocks) <= 1:
        for first, last in blocks:
            work(first, last)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda b: work(*b), blocks))  # list() so that an error in a thread is raised here


def _plain_csr(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same matrix in the few types that the kernels are compiled for (no copy where it has them already)."""
    if data.dtype not in (np.float32, np.float64):
        data = data.astype(np.float64)
    return (
        np.ascontiguousarray(indptr, np.int64),
        np.ascontiguousarray(indices, np.int32),
        np.ascontiguousarray(data),
    )


def _census(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, column_token: np.ndarray, n_threads: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Genes with a token and the sum of counts per cell (n_cells,), and the number of unusable values of each kind (3,)."""
    from . import _kernels

    n_cells = len(indptr) - 1
    n_genes, row_sum = np.zeros(n_cells, np.int64), np.zeros(n_cells)
    bad: list[np.ndarray] = []

    def count(first: int, last: int) -> None:
        bad.append(np.zeros(3, np.int64))
        _kernels.census(indptr, indices, data, column_token, first, last, n_genes, row_sum, bad[-1])

    in_threads(count, n_cells, n_threads)
    return n_genes, row_sum, np.sum(bad, axis=0, dtype=np.int64) if bad else np.zeros(3, np.int64)
