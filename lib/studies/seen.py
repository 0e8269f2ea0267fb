"""What of the counts does a model get to see? Where a baseline wins, this says on which step the answer was lost.

    all genes ──► genes in the vocabulary ──► tokens of the sentence ──► the network's embedding

The same logistic regression reads each of them, from the same labels. What it can no longer read on one step, no head and no
fine-tuning on a later one can bring back, except from the weights of the network.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import baselines, metrics, stats
from scfm.linear import linear_head, small_fit
from studies.tables import RECIPE, Growing, weights_of

if TYPE_CHECKING:
    import anndata
    import pandas as pd

    from scfm.models import Model

SHORT = "50 numbers from the tokens"
STEPS = ("all genes", "genes in the vocabulary", "tokens of the sentence", SHORT, "embedding")
WAY = (*STEPS[:3], STEPS[4])
FEW = "the 10 best genes"


def in_vocabulary(adata: anndata.AnnData, model: Model) -> np.ndarray:
    """Which genes of ``adata`` have a token. bool (gene,)."""
    return model.column_tokens(adata) >= 0


def views(adata: anndata.AnnData, model: Model) -> dict[str, np.ndarray]:
    """The cells on each of :data:`STEPS`, the embedding last, (cell, feature) float32; genes and tokens scaled as :func:`baselines.hvg_matrix` does.

    A token's feature is what the sentence says of it: for Geneformer how far in front it stands (1 first, towards 0 last), for
    scGPT its bin; 0 where the sentence does not have it. :data:`SHORT`: the first 50 principal components of the tokens, a
    control: is it the number of dimensions that makes an embedding lose, or how they were chosen?
    """
    from sklearn.decomposition import PCA

    known = in_vocabulary(adata, model)
    cells = model.tokenize(adata)
    rows = np.repeat(np.arange(len(cells)), cells.lengths)
    if cells.values is None:
        place = np.concatenate([np.arange(n) for n in cells.lengths])
        said = 1 - place / np.repeat(cells.lengths, cells.lengths)
    else:
        said = cells.values
    is_gene = ~np.isin(cells.tokens, list(model.special.values()))
    tokens, column = np.unique(cells.tokens[is_gene], return_inverse=True)
    sentence = np.zeros((len(cells), len(tokens)), np.float32)
    sentence[rows[is_gene], column] = said[is_gene]
    deviation = sentence.std(axis=0)
    sentence = np.clip((sentence - sentence.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0), -10, 10)
    how: dict[str, Any] = {"pooling": "mean"} if "mean" in model.poolings else {"normalize": False}
    return {
        "all genes": baselines.hvg_matrix(adata),
        "genes in the vocabulary": baselines.hvg_matrix(adata[:, known].copy()),
        "tokens of the sentence": sentence,
        SHORT: PCA(min(50, len(cells) - 1), svd_solver="randomized", random_state=0).fit_transform(sentence),
        "embedding": model.embed(cells, dtype="float32", progress=False, **how),
    }


def readable(
    seen: dict[str, np.ndarray], kinds: np.ndarray, per_class: int = 10, n_draws: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Balanced accuracy of a linear head on each view, and on :data:`FEW`.

    FEW are the genes that best tell the *training* cells apart (F test), chosen anew in each draw. Long table: method, metric, labels_per_class,
    seed (the draw), value.
    """
    import pandas as pd
    from sklearn.feature_selection import SelectKBest
    from sklearn.metrics import balanced_accuracy_score

    table = metrics.probe(seen, kinds, per_class, n_draws, seed)
    rows = []
    matrix = seen["all genes"]
    for draw, (train, test) in enumerate(metrics.label_draws(kinds, per_class, n_draws, seed)):
        vary = np.flatnonzero(np.ptp(matrix[train], axis=0) > 0)  # the F value of a constant is rounding error
        with small_fit():  # silent about genes that no training cell expresses
            best = SelectKBest(k=min(10, len(vary))).fit(matrix[train][:, vary], kinds[train]).get_support()
            few = matrix[:, vary[best]]
            answer = linear_head(few[train], kinds[train]).predict(few[test])
            score = float(balanced_accuracy_score(kinds[test], answer))
        rows.append((FEW, "balanced_accuracy", per_class, draw, score))
    of_few = pd.DataFrame(rows, columns=table.columns)
    return pd.concat([table[table["metric"] == "balanced_accuracy"], of_few], ignore_index=True)


def markers(adata: anndata.AnnData, model: Model, per_type: int = 10) -> pd.DataFrame:
    """The genes that stand out most in each type (highest t value against all other cells), and whether the model has a token.

    To look at, not to train on: all cells and all labels are used. Columns: type, gene, place, known, share (of the type's cells
    whose sentence holds the gene).
    """
    import pandas as pd
    from scipy import stats

    normal = baselines.log_normalize(adata).toarray()
    kinds = adata.obs["cell_type"].astype(str).to_numpy()
    symbols, tokens = adata.var["gene_symbol"].astype(str).to_numpy(), model.column_tokens(adata)
    cells = model.tokenize(adata)
    owner = np.repeat(np.arange(len(cells)), cells.lengths)
    rows = []
    for kind in np.unique(kinds):
        own = kinds == kind
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a gene that does not vary has no t value
            t = np.nan_to_num(stats.ttest_ind(normal[own], normal[~own], equal_var=False).statistic, nan=-np.inf)
        for place, gene in enumerate(np.argsort(-t)[:per_type], 1):
            has = np.unique(owner[cells.tokens == tokens[gene]])  # no cell's, where the gene has no token
            share = float(np.isin(np.flatnonzero(own), has).mean())
            rows.append((kind, symbols[gene], place, bool(tokens[gene] >= 0), share))
    return pd.DataFrame(rows, columns=["type", "gene", "place", "known", "share"])


def falls(table: pd.DataFrame) -> pd.DataFrame:
    """What each station costs, in the paired 95 % interval over the draws: model, dataset, before, station, mean, low, high.

    ``table``: that of :func:`measure`. Negative: the answer gets lost there. :data:`SHORT` and :data:`FEW` are compared with the tokens
    and with all genes: they lie beside the way, not on it.
    """
    import pandas as pd

    pairs = [*itertools.pairwise(WAY), (WAY[2], SHORT), (WAY[0], FEW)]
    rows = [
        (model, dataset, before, station, gap.mean, gap.low, gap.high)
        for (model, dataset), part in table.groupby(["model", "dataset"], sort=False)
        for before, station in pairs
        for gap in [stats.paired_difference(part, station, before, "balanced_accuracy")]
    ]
    return pd.DataFrame(rows, columns=["model", "dataset", "before", "station", "mean", "low", "high"])


def measure(stored: Path, models: Sequence[str], datasets: Sequence[str], per_class: int = 10, n_draws: int = 20, most_cells: int = 80) -> pd.DataFrame:  # fmt: skip
    """Add to ``stored`` what is missing: the long table of :func:`readable` for each model and dataset, in the ladder's columns.

    Of each class at most ``most_cells`` cells, the same for all models. Markers come along as rows ("known markers" and "markers in
    the sentence": shares over the 10 best genes of each type). Returns the whole table.
    """
    import pandas as pd

    from scfm.models import load_model
    from studies import sets

    table = Growing(stored, ("model", "dataset"))
    stamp = {"recipe": RECIPE, "labels_per_class": per_class, "draws": n_draws, "most_cells": most_cells}
    stamps = {model: stamp | {"weights": weights_of(model)} for model in models}
    table.forget_others(lambda key: stamps.get(key[0]))
    for dataset in datasets:
        missing = [model for model in models if not table.has((model, dataset), stamps[model])]
        if not missing:
            continue
        whole = sets.evaluation_set(dataset)
        kinds = whole.obs["cell_type"].astype(str).to_numpy()
        rng = np.random.default_rng(29)
        some = [rng.permutation(np.flatnonzero(kinds == kind))[:most_cells] for kind in np.unique(kinds)]
        adata = whole[np.sort(np.concatenate(some))].copy()
        for name in missing:
            model = load_model(name)
            own = adata.obs["cell_type"].astype(str).to_numpy()
            found = readable(views(adata, model), own, per_class, n_draws)
            best = markers(adata, model).groupby("type")[["known", "share"]].mean().mean()
            of_markers = [
                ("known markers", "share", per_class, 0, float(best["known"])),
                ("markers in the sentence", "share", per_class, 0, float(best["share"])),
            ]
            found = pd.concat([found, pd.DataFrame(of_markers, columns=found.columns)], ignore_index=True)
            table.put((name, dataset), stamps[name], found.assign(model=name, dataset=dataset))
    return table.table
