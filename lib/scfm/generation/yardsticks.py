"""Are generated cells any good? Six questions, each asked of scGPT, of the simple generators and of real cells alike.

All scores are on bins (``simple_generators.RealCells``), type by type against real cells that no generator saw, and averaged
over the types, so that a rare type counts as much as a frequent one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from scfm.generation.simple_generators import SIMPLE, Generator, RealCells
from scfm.linear import small_fit

if TYPE_CHECKING:
    import pandas as pd

# metric → what it asks, and which value a perfect generator has
METRICS = {
    "profile": ("correlation of the mean cell with the held-out mean", 1.0),
    "specific": ("the same, of what sets the type apart from the mean of all types", 1.0),
    "gene_distance": ("how far each gene's distribution is off, in bins (Wasserstein)", 0.0),
    "energy": ("how far the cells as a whole are off, in bins per gene (energy distance)", 0.0),
    "classifier": ("share read as their type by a classifier of real cells", None),
    "genes_per_cell": ("expressed genes, as a multiple of real cells'", 1.0),
    "diversity": ("distance between cells of a type, as a multiple of real cells'", 1.0),
    "nearest": ("distance to the nearest training cell, as a multiple of new real cells'", 1.0),
    "copies": ("share nearer to a training cell than 95 % of new real cells are", 0.05),
}


def profile_correlation(made: np.ndarray, truth: np.ndarray, center: np.ndarray | None = None) -> float:
    """Pearson correlation of the mean cells of two sets (cell, gene); ``center`` (gene,) is subtracted from both before.

    Without it, any two cell types correlate highly: genes that all cells express dominate. 0 if one does not vary.
    """
    a, b = made.mean(0, dtype=np.float64), truth.mean(0, dtype=np.float64)
    if center is not None:
        a, b = a - center, b - center
    if a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def gene_distance(made: np.ndarray, truth: np.ndarray) -> float:
    """Wasserstein-1 distance between the distributions of each gene's values, mean over genes, in bins.

    made, truth: (cell, gene), of any numbers of cells. As ``scipy.stats.wasserstein_distance`` for each gene, all at once.
    """
    n, m = len(made), len(truth)
    both = np.sort(np.concatenate([made, truth]), axis=0).astype(np.float64)  # (cell, gene)
    order = np.argsort(np.concatenate([made, truth]), axis=0, kind="stable")
    of_made = order < n
    below_made = np.cumsum(of_made, axis=0) / n  # the two distribution functions at each value
    below_truth = np.cumsum(~of_made, axis=0) / m
    return float((np.abs(below_made - below_truth)[:-1] * np.diff(both, axis=0)).sum(0).mean())


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances between cells, (cell of a, cell of b), divided by √genes: in bins per gene."""
    from scipy.spatial.distance import cdist

    return cdist(a.astype(np.float64), b.astype(np.float64)) / np.sqrt(a.shape[1])


def energy_distance(made: np.ndarray, truth: np.ndarray) -> float:
    """``2 E|x - y| - E|x - x'| - E|y - y'|``, x and x' made, y and y' true cells (Székely & Rizzo 2013, 10.1016/j.jspi.2013.03.018).

    It sees how genes go together in a cell, which gene by gene does not. Pairs of a cell with itself are left out, so that
    two samples of the same distribution give 0 on average (a single number may be below it).
    """
    return float(2 * distances(made, truth).mean() - _apart(made) - _apart(truth))


def _apart(cells: np.ndarray) -> float:
    """Mean distance between two different cells."""
    n = len(cells)
    return float(distances(cells, cells).sum() / (n * (n - 1))) if n > 1 else 0.0


def reader(bins: np.ndarray, labels: np.ndarray) -> object:
    """A classifier of real cells: logistic regression on bins, for reading generated ones."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    scale = FunctionTransformer(lambda x: x / 50)
    with small_fit():
        return make_pipeline(scale, LogisticRegression(max_iter=300, C=0.1, class_weight="balanced")).fit(bins, labels)


def judge(
    made: np.ndarray,
    wanted: np.ndarray,
    cells: RealCells,
    train: np.ndarray,
    truth: np.ndarray,
    classifier: object | None = None,
    to_train: np.ndarray | None = None,
) -> dict[str, float]:
    """All of ``METRICS`` for generated cells.

    Parameters
    ----------
    made, wanted
        Bins (cell, gene) and the type that each was to be (cell,).
    train, truth
        Indices of the training cells, and of the real cells to compare with.
    classifier, to_train
        ``reader(bins of train, labels)`` and the distances (truth,) to the nearest training cell, if already at hand.
    """
    real, kinds = cells.bins[truth], cells.labels[truth]
    reads = reader(cells.bins[train], cells.labels[train]) if classifier is None else classifier
    if to_train is None:
        to_train = distances(real, cells.bins[train]).min(1)
    answer = reads.predict(made)  # type: ignore[attr-defined]
    own_nearest = distances(made, cells.bins[train]).min(1)
    center = np.mean([cells.bins[train][cells.labels[train] == kind].mean(0) for kind in cells.types], axis=0)
    usual = {kind: np.median(to_train[kinds == kind]) for kind in np.unique(kinds)}
    # one threshold for all types, in units of each type's usual distance: the 5 % quantile of a handful is its smallest
    near = np.quantile(to_train / np.array([usual[kind] for kind in kinds]), 0.05)
    rows = []
    for kind in np.unique(wanted):
        mine, theirs = made[wanted == kind], real[kinds == kind]
        rows.append(
            {
                "profile": profile_correlation(mine, theirs),
                "specific": profile_correlation(mine, theirs, center),
                "gene_distance": gene_distance(mine, theirs),
                "energy": energy_distance(mine, theirs),
                "classifier": float((answer[wanted == kind] == kind).mean()),
                "genes_per_cell": float((mine >= 0.5).sum(1).mean() / (theirs >= 0.5).sum(1).mean()),
                "diversity": _apart(mine) / _apart(theirs),
                "nearest": float(np.median(own_nearest[wanted == kind]) / usual[kind]),
                "copies": float((own_nearest[wanted == kind] < near * usual[kind]).mean()),
            }
        )
    return {metric: float(np.mean([row[metric] for row in rows])) for metric in rows[0]}


def compare(
    cells: RealCells,
    generators: Mapping[str, Generator],
    n_draws: int = 20,
    seed: int = 0,
    per_type: int | None = None,
    model: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """Let generators make cells of each type, and judge them, with the simple generators and fresh real cells beside them.

    In each draw the cells are split anew; every generator learns from the same training cells and makes as many cells of each
    type as there are to compare with (``per_type`` at most).

    Returns a long table: model, method, dataset, labels_per_class (0: whole training split), seed (the draw), metric, value.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    rows = []
    for draw in tqdm(range(n_draws), desc="judging", unit="draw", disable=not progress, delay=1, leave=False):
        train, truth, fresh = cells.split(seed + draw, per_type)
        wanted = cells.labels[truth]
        classifier = reader(cells.bins[train], cells.labels[train])
        to_train = distances(cells.bins[truth], cells.bins[train]).min(1)
        made = {name: make(cells, train, wanted, seed + draw) for name, make in {**generators, **SIMPLE}.items()}
        of = dict.fromkeys(made, wanted)
        made["real cells"], of["real cells"] = cells.bins[fresh], cells.labels[fresh]
        for name, some in made.items():
            scores = judge(some, of[name], cells, train, truth, classifier, to_train)
            rows += [(model, name, cells.name, 0, draw, metric, value) for metric, value in scores.items()]
    return pd.DataFrame(rows, columns=["model", "method", "dataset", "labels_per_class", "seed", "metric", "value"])
