"""From the corpus to masked minibatches: augment, rank, group by length, hide 15 % of the genes.

Every draw comes from (seed, number of the pool), so the same minibatches come out whenever a run was interrupted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import genes, tokenize
from scfm.pretraining.corpus import SPECIAL, Corpus
from scfm.pretraining.training import Schedule, pools_of_cells

if TYPE_CHECKING:
    import scipy.sparse as sp


def augment(counts: sp.csr_matrix, settings: Schedule, rng: np.random.Generator) -> sp.csr_matrix:
    """Thin the counts of some cells (as if sequenced less deeply) and keep a random gene panel of some others."""
    counts = counts.copy()
    n_cells, n_genes = np.diff(counts.indptr), counts.shape[1]
    keep = np.where(rng.random(len(n_cells)) < settings.thin_share, rng.uniform(0.2, 1.0, len(n_cells)), 1.0)
    counts.data = rng.binomial(counts.data.astype(np.int64), np.repeat(keep, n_cells)).astype(np.float32)
    # one panel for all cells of a pool that get one: a panel is a property of an experiment, not of a cell
    panel = rng.random(n_genes) < np.exp(rng.uniform(np.log(0.05), 0.0))
    gets_panel = np.repeat(rng.random(len(n_cells)) < settings.panel_share, n_cells)
    counts.data[gets_panel & ~panel[counts.indices]] = 0
    counts.eliminate_zeros()
    return counts


def ranked(counts: sp.csr_matrix, n_counts: np.ndarray, columns: tuple, max_len: int) -> list[np.ndarray]:
    """The cells' gene tokens, highest surprise first, without special tokens. ``columns``: tokens and medians by column."""
    offsets, tokens = tokenize.rank_rows(
        counts.indptr, counts.indices, counts.data, n_counts, columns[0], columns[1], max_len - 2
    )
    return [tokens[start:end] for start, end in itertools.pairwise(offsets)]


def length_grouped(cells: list[np.ndarray], size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Minibatches (size, token) of cells of similar length, framed by <cls> and <eos>, in random order.

    Each is cut to its shortest cell: no padding, so no attention mask, and of its cells only last-ranked genes are lost. What is
    left over after the last whole minibatch, up to ``size`` - 1 of the longest cells, is left out; so are minibatches whose
    shortest cell has fewer than 8 genes. No minibatch at all may be left.
    """
    order = np.argsort([len(cell) for cell in cells], kind="stable")
    groups = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    minibatches = []
    for group in groups:
        length = len(cells[group[0]])
        if length < 8:  # too little left of these cells to guess from
            continue
        tokens = np.full((size, length + 2), SPECIAL[genes.CLS], dtype=np.int64)
        tokens[:, 1:-1] = [cells[i][:length] for i in group]
        tokens[:, -1] = SPECIAL[genes.EOS]
        minibatches.append(tokens)
    rng.shuffle(minibatches)
    return minibatches


def stream(corpus: Corpus, train: np.ndarray, columns: tuple, settings: Any, pool: int) -> Iterator[list[np.ndarray]]:
    """Pools of minibatches without end, beginning with number ``pool``: the same ones whenever the run was interrupted."""
    for cells, rng in pools_of_cells(train, settings, pool):
        counts = augment(corpus.counts[cells], settings, rng)
        yield length_grouped(ranked(counts, corpus.n_counts[cells], columns, settings.max_len), settings.minibatch, rng)


def mask_tokens(
    tokens: np.ndarray, n_vocabulary: int, fraction: float, rng: np.random.Generator, bert: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Choose ``fraction`` of each cell's genes to be guessed. Returns the input (cell, token) and the positions (cell, k).

    ``bert``: as in BERT, 80 % of them become <mask>, 10 % another gene, 10 % stay; otherwise all become <mask>.
    """
    k = max(1, round(fraction * (tokens.shape[1] - 2)))
    # k positions per cell without repeats, never the frame
    positions = 1 + np.argsort(rng.random((len(tokens), tokens.shape[1] - 2)), axis=1)[:, :k]
    shown = np.full(positions.shape, SPECIAL[genes.MASK])
    if bert:
        draw = rng.random(positions.shape)
        other = rng.integers(len(SPECIAL), n_vocabulary, positions.shape)
        shown = np.where(draw < 0.8, shown, np.where(draw < 0.9, other, np.take_along_axis(tokens, positions, axis=1)))
    masked = tokens.copy()
    np.put_along_axis(masked, positions, shown, axis=1)
    return masked, positions
