"""What a generating model has to beat: a type's mean, real cells drawn again, and counts from a negative binomial.

All of them make cells on the scale that scGPT generates on, the bins of a cell, from training cells only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import metrics, stats
from scfm.generation.prompts import bin_matrix
from scfm.inside.rows import refuse_filtered
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata
    import scipy.sparse as sp

    from scfm.models.scgpt import ScGPT

# (cells, training cells as indices, wanted types (cell,), seed) → bins (cell, gene)
Generator = Callable[["RealCells", np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class RealCells:
    """Labelled cells of one study in bins: what generators may learn from, and what judges them.

    bins: float32 (cell, gene), for the genes that are generated and judged; a bin is of the whole cell, not of these genes.
    """

    name: str
    bins: np.ndarray
    labels: np.ndarray  # str (cell,)
    genes: list[str]
    tokens: np.ndarray  # int (gene,) token ids of ``genes``
    rows: np.ndarray  # int (cell,) which cells of the file these are
    cells: TokenizedCells  # each cell's expressed genes, all of them
    counts: sp.csr_matrix  # (cell, column) counts of all columns of the file ...
    column_token: np.ndarray  # ... and their tokens, -1: not in the vocabulary
    n_bins: int

    @classmethod
    def of(
        cls,
        adata: anndata.AnnData,
        model: ScGPT,
        n_genes: int = 500,
        genes: Sequence[str] | None = None,
        label: str = "cell_type",
        smallest: int = 24,
        name: str = "",
    ) -> RealCells:
        """From raw counts with labels in ``obs[label]``; types of fewer than ``smallest`` cells are left out.

        genes: symbols of the model's vocabulary to generate and judge; unless given, the ``n_genes`` most variable that it knows.

        Raises
        ------
        TooFewCells
            No type is large enough.
        """
        import scipy.sparse as sp

        from scfm import baselines

        refuse_filtered(adata.obs)
        kept, _ = metrics.usable_cells(adata.obs[label], smallest)
        if len(kept) == 0:
            raise stats.TooFewCells(f"No type of {name or 'this set'} has {smallest} cells.")
        adata = adata[kept].copy()
        tokens = model.vocabulary.column_tokens(adata.var)
        _, first = np.unique(tokens, return_index=True)
        doubled = np.setdiff1d(np.arange(len(tokens)), first)
        tokens[doubled] = -1  # a second column of a gene (rare) is left out of what the negative binomial simulates
        if genes is None:
            known = np.flatnonzero(tokens >= 0)
            columns = known[baselines.variable_genes(adata[:, known].copy(), n_genes)]
            named = {
                token: symbol for symbol, token in model.vocabulary.tokens.items()
            }  # a file may bear another release's
            genes = [named[token] for token in tokens[columns].tolist()]
        chosen = np.asarray([model.vocabulary.token(gene) for gene in genes])
        cells = model.tokenize(adata, max_len=len(model.vocabulary))
        return cls(
            name,
            bin_matrix(cells, chosen),
            adata.obs[label].astype(str).to_numpy(),
            list(genes),
            chosen,
            kept,
            cells,
            sp.csr_matrix(adata.X),
            tokens,
            model.network.config.n_bins,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def types(self) -> np.ndarray:
        """The cell types, sorted by name."""
        return np.unique(self.labels)

    def split(self, seed: int, most: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices of training cells (half of each type), of those that judge (a quarter) and of fresh ones (the rest).

        most: at most so many of each type to judge by, and fresh; a smaller ``most`` gives some of the same cells.
        """
        rng = np.random.default_rng([seed, 8])
        parts: list[list[np.ndarray]] = [[], [], []]
        for kind in self.types:
            own = rng.permutation(np.flatnonzero(self.labels == kind))
            cuts = [len(own) // 2, len(own) // 2 + len(own) // 4]
            for part, some, at_most in zip(parts, np.split(own, cuts), (None, most, most), strict=True):
                part.append(some[:at_most])
        train, truth, fresh = (np.sort(np.concatenate(part)) for part in parts)
        return train, truth, fresh


def _of_type(cells: RealCells, train: np.ndarray, wanted: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each type: the places where it is wanted, and its training cells."""
    found = []
    for kind in np.unique(wanted):
        own = train[cells.labels[train] == kind]
        if len(own) == 0:
            raise stats.TooFewCells(f"There is no training cell of {str(kind)!r} to generate others from.")
        found.append((np.flatnonzero(wanted == kind), own))
    return found


def type_mean(cells: RealCells, train: np.ndarray, wanted: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every cell of a type is the mean of its training cells. Bins (cell, gene); so are those below."""
    made = np.empty((len(wanted), len(cells.genes)), np.float32)
    for places, own in _of_type(cells, train, wanted):
        made[places] = cells.bins[own].mean(0)
    return made


def bootstrap(cells: RealCells, train: np.ndarray, wanted: np.ndarray, seed: int = 0) -> np.ndarray:
    """Training cells of the type, drawn with replacement: nothing is generated at all."""
    rng = np.random.default_rng([seed, 1])
    made = np.empty((len(wanted), len(cells.genes)), np.float32)
    for places, own in _of_type(cells, train, wanted):
        made[places] = cells.bins[rng.choice(own, len(places))]
    return made


def negative_binomial(cells: RealCells, train: np.ndarray, wanted: np.ndarray, seed: int = 0) -> np.ndarray:
    """Counts from a negative binomial per type and gene, each gene by itself, binned by the rule for real cells.

    Depths are those of the type's training cells; share and dispersion of each gene by the method of moments.
    """
    from scfm import tokenize

    rng = np.random.default_rng([seed, 2])
    made = np.empty((len(wanted), len(cells.genes)), np.float32)
    known = np.flatnonzero(cells.column_token >= 0)
    tokens = cells.column_token[known]
    for places, own in _of_type(cells, train, wanted):
        share, dispersion, depths = fit_negative_binomial(cells.counts[own][:, known].toarray())
        mean = rng.choice(depths, len(places))[:, None] * share  # (cell, column)
        scattered = rng.gamma(1 / dispersion, dispersion, mean.shape)  # mean 1, variance = dispersion
        counts = rng.poisson(mean * np.where(dispersion > 1e-6, scattered, 1.0))
        drawn = _csr(counts)
        offsets, genes, values = tokenize.bin_rows(
            drawn.indptr, drawn.indices, drawn.data, tokens.astype(np.int32), n_bins=cells.n_bins
        )
        made[places] = bin_matrix(TokenizedCells(genes, offsets, values), cells.tokens)
    return made


def fit_negative_binomial(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of all counts (gene,), dispersion (gene,) with variance = mean + dispersion · mean², and depths (cell,)."""
    x = np.asarray(counts, np.float64)
    depths = x.sum(1)
    share = x.sum(0) / max(depths.sum(), 1)
    mean = depths[:, None] * share
    beyond_poisson = ((x - mean) ** 2 - mean).sum(0)
    dispersion = beyond_poisson / np.maximum((mean**2).sum(0), 1e-12)
    return share, np.clip(dispersion, 1e-9, 1e3), depths


def _csr(dense: np.ndarray) -> Any:
    import scipy.sparse as sp

    return sp.csr_matrix(dense.astype(np.float32))


SIMPLE: dict[str, Generator] = {
    "type's mean": type_mean,
    "bootstrap": bootstrap,
    "negative binomial": negative_binomial,
}


# --- scGPT in the same form -------------------------------------------------------------------------


def from_cell_prompts(model: ScGPT, embeddings: np.ndarray, kind: str = "mean", **how: Any) -> Generator:
    """scGPT as a generator: a cell prompt for each wanted cell, from the training cells of its type.

    embeddings: raw ones (cell, d) of the RealCells' cells. kind: ``"mean"``, the type's mean embedding; or ``"cells"``, for each
    wanted cell that of one training cell. As many genes are expected to be expressed as in the training cells of the type
    (``share_on``, if the network gives P(nonzero)). ``how`` goes to ``scfm.generate``.
    """
    import pandas as pd

    from scfm.generation.generating import generate

    if kind not in ("mean", "cells"):
        raise ValueError(f"kind is {kind!r}; it can be 'mean' or 'cells'.")

    def make(cells: RealCells, train: np.ndarray, wanted: np.ndarray, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng([seed, 3])
        groups = _of_type(cells, train, wanted)
        if kind == "cells":
            chosen = [rng.choice(own, len(places)) for places, own in groups]
            prompts = [pd.DataFrame(embeddings[rows], index=[f"cell {row}" for row in rows]) for rows in chosen]
        else:
            prompts = [pd.DataFrame(embeddings[own].mean(0)[None], index=[cells.labels[own[0]]]) for _, own in groups]
        settings: dict[str, Any] = {"seed": seed, "progress": False}
        if kind == "mean" and how.get("sample"):
            settings["n_samples"] = max(len(places) for places, _ in groups)
        if model.network.config.zero_prob:
            on = [float(np.clip((cells.bins[own] > 0).mean(), 0.001, 0.999)) for _, own in groups]
            settings["share_on"] = np.repeat(on, [len(each) for each in prompts])
        # all types in one call: many small ones would cost several times as much
        found = generate(model, pd.concat(prompts), cells.genes, **settings | how)
        made = np.empty((len(wanted), len(cells.genes)), np.float32)
        ends = np.cumsum([len(each) * settings.get("n_samples", 1) for each in prompts])
        for (places, _), values in zip(groups, np.split(found.values, ends[:-1]), strict=True):
            made[places] = values[: len(places)]  # without sampling, one cell stands for all of its type
        return made

    return make
