"""What sequencing a cell less does to its encodings: where genes stand, what decides the order, what is cut, what is still alike.

Lesson 02 thins cells and looks; here are the measures. Matrices are counts (cell, gene) in CSR form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from scfm import stats

if TYPE_CHECKING:
    import pandas as pd

    from scfm.genes import RankVocabulary
    from scfm.tokenized import TokenizedCells

QUESTIONS = (  # the columns of what_orders
    "genes with a count of one",
    "order ~ the cell's counts",
    "order ~ the vocabulary's medians",
    "first 20 words that are one molecule",
)


def with_interval(values: Sequence[float] | np.ndarray) -> pd.Series:
    """Mean, low and high (95 %) of values (cell,): for ``groupby(...).apply``."""
    import pandas as pd

    found = stats.interval(values)
    return pd.Series({"mean": found.mean, "low": found.low, "high": found.high})


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the ranks of two lists of numbers; 0 where one of them does not vary."""
    ranks_a, ranks_b = rankdata(a), rankdata(b)
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1]) if len(a) > 2 and np.ptp(ranks_a) and np.ptp(ranks_b) else 0.0


def places(
    matrix: Any, types: np.ndarray, medians: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Where a group of genes stands in a cell's sentence, 0 (first word) to 1 (last), for several ways to order it.

    medians: way → (gene,) by what a count is divided. groups: name → indices of genes. Equal values share the average of their places.
    Columns type, order (the way), group, place: one row per cell, way and group of which the cell has a gene.
    """
    import pandas as pd

    rows = []
    for i in range(matrix.shape[0]):
        genes, counts = matrix[i].indices, matrix[i].data.astype(float)
        own = {name: np.isin(genes, group) for name, group in groups.items()}
        for order, median in medians.items():
            place = (rankdata(-(counts / median[genes])) - 0.5) / len(genes)
            rows += [(types[i], order, name, place[there].mean()) for name, there in own.items() if there.any()]
    return pd.DataFrame(rows, columns=["type", "order", "group", "place"])


def what_orders(matrix: Any, median: np.ndarray, first: int = 20) -> pd.DataFrame:
    """What decides the order of a cell's sentence? One row per cell that has a gene, columns :data:`QUESTIONS`.

    The share of genes with a count of one; Spearman's correlation of the sentence with the counts, and with 1 / median; the share of
    the ``first`` words that rest on one molecule.
    """
    import pandas as pd

    rows = []
    for i in range(matrix.shape[0]):
        genes, counts = matrix[i].indices, matrix[i].data.astype(float)
        if not len(genes):
            continue
        value = counts / median[genes]
        front = np.argsort(-value, kind="stable")[:first]
        by_counts, by_medians = spearman(value, counts), spearman(value, 1 / median[genes])
        rows.append((np.mean(counts == 1), by_counts, by_medians, np.mean(counts[front] == 1)))
    return pd.DataFrame(rows, columns=list(QUESTIONS))


def kept_at(
    cells: TokenizedCells,
    matrix: Any,
    tokens: np.ndarray,
    vocabulary: RankVocabulary,
    everyday: np.ndarray,
    positions: Sequence[int] = (64, 128, 256, 512, 1024, 2048, 4096),
) -> pd.DataFrame:
    """How much of a cell a network with so many positions reads, %: of its genes, its counts, its everyday genes.

    cells: whole sentences, nothing cut. tokens: (gene,) token of each column of ``matrix``. everyday: indices of genes. Lengths of more
    than twice the longest sentence are left out. Columns positions, what, mean, low, high (over cells).
    """
    import pandas as pd

    in_cell = np.repeat(np.arange(len(cells)), cells.lengths)
    is_gene = ~np.isin(cells.tokens, list(vocabulary.special.values()))
    framed = vocabulary.starts_with_cls
    column_of = pd.Series(np.arange(len(tokens)), index=tokens)
    words = pd.DataFrame({"cell": in_cell[is_gene], "gene": column_of[cells.tokens[is_gene]].to_numpy()})
    words["place"] = (np.arange(len(cells.tokens)) - cells.offsets[in_cell])[is_gene] - framed  # 0 = the first gene
    words["count"] = np.asarray(matrix[words["cell"].to_numpy(), words["gene"].to_numpy()]).ravel()
    words["everyday"] = words["gene"].isin(everyday)

    def per_cell(some: pd.DataFrame) -> pd.DataFrame:
        return some.groupby("cell").agg(genes=("gene", "size"), counts=("count", "sum"), everyday=("everyday", "sum"))

    whole, rows = per_cell(words), []
    for length in [n for n in positions if n <= 2 * whole["genes"].max()]:
        stays = per_cell(words[words["place"] < length - 2 * framed])
        for what, name in {"genes": "its genes", "counts": "its counts", "everyday": "its everyday genes"}.items():
            share = with_interval(100 * (stays[what] / whole[what]).dropna().to_numpy())
            rows.append({"positions": length, "what": name, **share})
    return pd.DataFrame(rows)


def drift(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What became of each cell: encoding by encoding, arrays (cell, gene) with 0 where a gene is not said.

    Columns encoding, cell, lost (share of its genes), order (Spearman over the genes of both) and moved (mean change of a shared gene,
    in units of the largest value before; 1 if none is shared).
    """
    import pandas as pd

    rows = []
    for name in before:
        for i, (full, less) in enumerate(zip(before[name], after[name], strict=True)):
            shared = (full > 0) & (less > 0)
            moved = np.abs(full[shared] - less[shared]).mean() / full.max() if shared.any() else 1.0
            rows.append((name, i, 1 - shared.sum() / (full > 0).sum(), spearman(full[shared], less[shared]), moved))
    return pd.DataFrame(rows, columns=["encoding", "cell", "lost", "order", "moved"])
