"""How good is an embedding? Clustering, batch mixing, probes; and how sure are we.

Scores are scib-metrics' (Luecken et al. 2022, 10.1038/s41592-021-01336-8), on the embedding itself, never on a 2-d picture
of it. Every score comes with the draws it was computed on, so that methods are compared draw by draw.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_CLASS = 20
ENOUGH_DRAWS = 15  # for a bootstrap: with fewer its "95 %" intervals are too narrow
LEARNED_SHARE = 0.6  # of a class at most: the others are there to be tested
# what a missing label, batch or donor is as text: the datasets' own word, and what numpy and pandas make of one
NO_LABEL = ("unknown", "", "nan", "NaN", "None", "<NA>")


class TooFewCells(ValueError):
    """Not enough cells, classes or groups to compute a score that means something."""


# --- intervals --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval. Of a single draw the bounds are NaN: nothing is known, so nothing is excluded."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def excludes(self, value: float) -> bool:
        return value < self.low or value > self.high

    def overlaps(self, other: Interval) -> bool:
        return not (self.low > other.high or other.low > self.high)


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95, n_boot: int = 2000, seed: int = 0) -> Interval:
    """Percentile-bootstrap interval of the mean over draws or seeds. ``values``: (draw,) or (draw, cell).

    With cells, whole draws are resampled first and cells within them second: cells of one draw share its training set
    and so are no independent evidence (cluster bootstrap).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise TooFewCells(
            f"An interval needs finite values; got {array.size} of which {np.isnan(array).sum()} are NaN."
        )
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(array), (n_boot, len(array)))
    if array.ndim == 1:
        means = array[rows].mean(axis=1)
    else:
        cells = rng.integers(0, array.shape[1], (n_boot, len(array), array.shape[1]))
        means = np.array([array[r[:, None], c].mean() for r, c in zip(rows, cells, strict=True)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high))


def student(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Student's t interval of the mean of a few draws. ``values``: (draw,), two at least.

    For few draws the bootstrap is the wrong tool: it resamples five numbers as if they were the world, and its "95 %" intervals
    catch the truth some 85 times in 100. Student's t knows how badly five numbers tell their own spread, and widens by 2.8 instead
    of 2 standard errors (Student 1908, 10.1093/biomet/6.1.1).

    Raises
    ------
    TooFewCells
        One value, or values that are not finite: they have no spread to go by.
    """
    from scipy import stats

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise TooFewCells(f"An interval needs two finite values at least; got {array.tolist()}.")
    half = stats.t.ppf((1 + level) / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return Interval(float(array.mean()), float(array.mean() - half), float(array.mean() + half))


def of_draws(values: Sequence[float] | np.ndarray) -> Interval:
    """The interval of the mean over draws that suits their number. ``values``: (draw,).

    The bootstrap from :data:`ENOUGH_DRAWS` on, Student's t for fewer, and NaN bounds for one: a single draw decides nothing.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 1 and np.isfinite(array).all():
        return Interval(float(array[0]), float("nan"), float("nan"))
    return interval(array) if len(array) == 0 or len(array) >= ENOUGH_DRAWS else student(array)


def summary(
    scores: pd.DataFrame, by: Sequence[str] = ("dataset", "method", "metric"), draw: str = "seed"
) -> pd.DataFrame:
    """One row per ``by`` with mean, low, high (:func:`of_draws`) and n draws, from the long table (columns ``by``, ``draw``, ``value``)."""
    import pandas as pd

    rows = []
    for key, part in scores.groupby(list(by), sort=False, observed=True):
        per_draw = part.groupby(draw)["value"].mean()
        found = of_draws(per_draw.to_numpy())
        rows.append((*key, found.mean, found.low, found.high, len(per_draw)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])


def paired_difference(scores: pd.DataFrame, method: str, baseline: str, metric: str, draw: str = "seed") -> Interval:
    """Interval of ``method`` minus ``baseline``, draw by draw: both saw the same cells and the same labels in each.

    Raises
    ------
    KeyError
        One of the two has no such scores.
    ValueError
        A method has several scores in a draw: the table holds several datasets, models, budgets or groups.
    """
    part = scores[scores["metric"] == metric]
    if part[part["method"].isin([method, baseline])].duplicated([draw, "method"]).any():
        raise ValueError(
            f"There are several scores ({metric}) of one method in one draw: choose one dataset, model and number of labels first, or "
            "use over_groups."
        )
    wide = part.pivot_table(index=draw, columns="method", values="value")
    missing = {method, baseline} - set(wide.columns)
    if missing:
        raise KeyError(f"No scores of {', '.join(sorted(missing))}; there are {', '.join(map(str, wide.columns))}.")
    return of_draws((wide[method] - wide[baseline]).dropna().to_numpy())


def over_groups(scores: pd.DataFrame, method: str, metric: str, rival: str | None = None) -> Interval:
    """Mean and interval over groups (donors, technologies, held-out types): groups are resampled first, their draws second.

    With ``rival`` of the difference, draw by draw. A single group gives the interval over its draws.
    """
    own = scores[scores["metric"] == metric]
    wide = own.pivot_table(index=["group", "seed"], columns="method", values="value")
    values = (wide[method] - wide[rival] if rival else wide[method]).dropna()
    table = values.unstack("seed").dropna().to_numpy()  # (group, draw)
    return interval(table) if len(table) > 1 else of_draws(table[0])


# --- clustering and mixing, as scib does ------------------------------------------------------------


def _neighbours(embedding: np.ndarray, k: int) -> Any:
    """Exact k nearest neighbours, the cell itself first: what scib-metrics calls a NeighborsResults."""
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(embedding) - 1)
    distances, indices = NearestNeighbors(n_neighbors=k).fit(embedding).kneighbors()
    own = np.arange(len(embedding))[:, None]
    return NeighborsResults(
        indices=np.hstack([own, indices[:, : k - 1]]), distances=np.hstack([np.zeros(own.shape), distances[:, : k - 1]])
    )


def clustering(embedding: np.ndarray, labels: Sequence[str] | np.ndarray, seed: int = 0) -> dict[str, float]:
    """NMI, ARI, ASW and their mean AvgBIO of an embedding (cell, d) against known cell types.

    NMI and ARI are of the Leiden clustering at the best of scib's resolutions; ASW is rescaled to 0..1 (0.5: no structure).
    AvgBIO as in Kedzierska et al. 2025 (10.1186/s13059-025-03574-x).
    """
    names = _checked(embedding, labels)
    with _quiet():
        import scib_metrics

        found = scib_metrics.nmi_ari_cluster_labels_leiden(
            _neighbours(embedding, 15), names, optimize_resolution=True, n_jobs=1, seed=seed
        )
        asw = float(scib_metrics.silhouette_label(np.asarray(embedding, np.float32), names))
    nmi, ari = float(found["nmi"]), float(found["ari"])
    return {"nmi": nmi, "ari": ari, "asw": asw, "avg_bio": (nmi + ari + asw) / 3}


def mixing(embedding: np.ndarray, labels: Sequence[str] | np.ndarray, batches: Sequence[str]) -> dict[str, float]:
    """How well batches (donors, technologies) are mixed: iLISI, batch ASW, graph connectivity. All 0..1, 1 = well mixed."""
    names, batch_names = _checked(embedding, labels), _batches(batches)
    with _quiet():
        import scib_metrics

        return {
            "ilisi": ilisi(embedding, batches),
            "asw_batch": float(scib_metrics.silhouette_batch(np.asarray(embedding, np.float32), names, batch_names)),
            "graph_connectivity": float(scib_metrics.graph_connectivity(_neighbours(embedding, 15), names)),
        }


def ilisi(embedding: np.ndarray, batches: Sequence[str] | np.ndarray) -> float:
    """Mixing by neighbourhoods alone: how many batches there are among a cell's 90 nearest, 0 (one) to 1 (all)."""
    names = _batches(batches)
    with _quiet():
        import scib_metrics

        return float(scib_metrics.ilisi_knn(_neighbours(embedding, 90), names))


def _batches(batches: Sequence[str] | np.ndarray) -> np.ndarray:
    names = np.asarray(batches).astype(str)
    if len(set(names)) < 2:
        raise TooFewCells("Batch mixing needs at least two batches; this set has one.")
    return names


def _checked(embedding: np.ndarray, labels: Sequence[str] | np.ndarray) -> np.ndarray:
    names = np.asarray(labels).astype(str)
    if len(names) != len(embedding):
        raise ValueError(
            f"{len(embedding):,} rows of the embedding but {len(names):,} labels; one label per cell is needed."
        )
    if not np.isfinite(embedding).all():
        raise ValueError("The embedding holds NaN or infinite values; no score can be computed from it.")
    if len(set(names)) < 2:
        raise TooFewCells("All cells have the same label; there is nothing to tell apart.")
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """scib-metrics' import talks about missing accelerators, its clustering about its progress; neither is a result."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# --- draws ------------------------------------------------------------------------------------------


def usable_cells(
    labels: Sequence[str] | np.ndarray, smallest: int = SMALLEST_CLASS
) -> tuple[np.ndarray, dict[str, int]]:
    """Indices of the cells with a known label in a class of at least ``smallest`` cells; and the classes left out."""
    names = np.asarray(labels).astype(str)
    classes, counts = np.unique(names, return_counts=True)
    left_out = {str(c): int(n) for c, n in zip(classes, counts, strict=True) if n < smallest or c in NO_LABEL}
    return np.flatnonzero(~np.isin(names, list(left_out))), left_out


def subsamples(
    labels: Sequence[str] | np.ndarray, n_draws: int = 20, share: float = 0.8, seed: int = 0
) -> Iterator[np.ndarray]:
    """``n_draws`` index arrays with ``share`` of the cells of each class, without replacement (duplicates would be each
    other's nearest neighbours)."""
    names = np.asarray(labels).astype(str)
    for draw in range(n_draws):
        rng = np.random.default_rng([seed, draw])
        yield np.sort(
            np.concatenate(
                [
                    rng.choice(own, max(2, round(share * len(own))), replace=False)
                    for own in (np.flatnonzero(names == c) for c in np.unique(names))
                ]
            )
        )


def label_draws(
    labels: Sequence[str] | np.ndarray,
    per_class: int,
    n_draws: int = 20,
    seed: int = 0,
    groups: Sequence[str] | np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws of few labelled cells to train on, and the cells to test on. Indices (train, test), ``n_draws`` times.

    A class gives ``per_class`` cells but never over 60 % of those it has to train on, and without groups 2 at least. With ``groups`` (donors, batches)
    each draw keeps the groups of training and test apart: one group in turn is tested, labels come from the others. There a
    class may have a single cell to learn from; one that has none is neither learned nor tested in this draw.

    Raises
    ------
    ValueError
        ``per_class`` is less than 2 without groups, less than 1 with them.
    TooFewCells
        Without groups, if a class has fewer than 2 cells to learn from; with them, if there is only one.
    """
    fewest = 2 if groups is None else 1
    if per_class < fewest:
        raise ValueError(f"per_class is {per_class}; a class needs at least {fewest} labelled cell(s) to be learned.")
    names = np.asarray(labels).astype(str)
    classes = np.unique(names)
    group_of = None if groups is None else np.asarray(groups).astype(str)
    group_names = None if group_of is None else np.unique(group_of)
    if group_names is not None and len(group_names) < 2:
        raise TooFewCells("A split by donor or batch needs at least two of them; this set has one.")
    for draw in range(n_draws):
        rng = np.random.default_rng([seed, per_class, draw])
        pool = np.arange(len(names))
        if group_of is not None and group_names is not None:
            tested = group_of == group_names[draw % len(group_names)]
            pool = pool[~tested]
        train = []
        for c in classes:
            own = pool[names[pool] == c]
            n = min(per_class, int(LEARNED_SHARE * len(own)))
            if n < fewest and group_of is None:
                raise TooFewCells(
                    f"{str(c)!r} has {len(own)} cell(s); at least {math.ceil(fewest / LEARNED_SHARE)} are needed to learn from "
                    f"{fewest} and test on others. usable_cells leaves such classes out."
                )
            train.append(rng.choice(own, n, replace=False))
        chosen = np.concatenate(train)
        if group_of is None:
            test = np.setdiff1d(pool, chosen)
        else:
            # a class that the training groups do not have cannot be learned, so it is not tested
            test = np.flatnonzero(tested & np.isin(names, np.unique(names[chosen])))
        yield chosen, test


# --- probes -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_fit() -> Iterator[None]:
    """For a small classifier of scikit-learn: no word about convergence, since one that has not quite converged is still a
    classifier, and one thread of BLAS: on a few hundred rows a second one costs more than it brings (twice the time).
    """
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore")
        yield


def probe(
    embeddings: Mapping[str, np.ndarray],
    labels: Sequence[str] | np.ndarray,
    per_class: int = 10,
    n_draws: int = 20,
    seed: int = 0,
    groups: Sequence[str] | np.ndarray | None = None,
    kind: str = "logistic",
    shuffle_labels: bool = False,
    scale: str = "common",
) -> pd.DataFrame:
    """What a simple classifier reads out of each embedding, from few labels; the same draws for all of them.

    Logistic regression (``kind="logistic"``) or the 5 nearest neighbours (``"knn"``), trained on ``per_class`` cells a class
    and tested on cells it did not see (see :func:`label_draws`). ``shuffle_labels`` trains on permuted labels: the control,
    which must fall to chance.

    Features are centered and divided by one number for all (``scale="common"``), both learned from the training cells. The
    usual alternative, each feature by its own deviation (``"each"``), blows the last principal components up to the size of
    the first and so weakens PCA. This default was chosen after both had been compared on pbmc68k, pbmc_zheng_facs and
    pancreas_baron_175, so on these sets it is no choice made in advance; lesson 03 shows both.

    Returns a long table: method, metric (accuracy, balanced_accuracy, macro_f1), labels_per_class, seed (the draw), value. With
    ``groups`` (tested in turn) also group, the one tested; seed then counts the draws of this group, for :func:`over_groups`. A group
    that shares fewer than two classes with the others, or none, is left out.

    Raises
    ------
    TooFewCells
        As :func:`label_draws`; or no group can be tested with what the others teach.
    """
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, f1_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    if scale not in ("common", "each"):
        raise ValueError(f"scale is {scale!r}; it can be 'common' or 'each'.")
    if kind not in ("logistic", "knn"):
        raise ValueError(f"kind is {kind!r}; it can be 'logistic' or 'knn'.")
    names = np.asarray(labels).astype(str)
    for method, embedding in embeddings.items():
        if len(embedding) != len(names):
            raise ValueError(
                f"{method}: {len(embedding):,} rows but {len(names):,} labels; one label per cell is needed."
            )
    rows = []
    tested = None if groups is None else np.unique(np.asarray(groups).astype(str))
    for draw, (train, test) in enumerate(label_draws(names, per_class, n_draws, seed, groups)):
        if tested is not None and (len(set(names[train])) < 2 or len(test) == 0):
            continue
        given = names[train]
        if shuffle_labels:
            given = np.random.default_rng([seed, draw]).permutation(given)
        for method, embedding in embeddings.items():
            model = LogisticRegression(max_iter=500) if kind == "logistic" else KNeighborsClassifier(5)
            scaler = StandardScaler(with_std=scale == "each").fit(embedding[train])
            scaled = scaler.transform(embedding)
            if scale == "common":
                scaled = scaled / max(float(np.sqrt(np.mean(scaled[train] ** 2))), 1e-12)
            with small_fit():
                answer = model.fit(scaled[train], given).predict(scaled[test])
                scores = {
                    "accuracy": float(np.mean(answer == names[test])),
                    "balanced_accuracy": float(balanced_accuracy_score(names[test], answer)),
                    "macro_f1": float(f1_score(names[test], answer, average="macro", labels=np.unique(names[test]))),
                }
            rows += [(method, metric, per_class, draw, value) for metric, value in scores.items()]
    table = pd.DataFrame(rows, columns=["method", "metric", "labels_per_class", "seed", "value"])
    if tested is not None:
        if table.empty:
            raise TooFewCells("No group can be tested: the cell types of each are unknown to the others.")
        table.insert(0, "group", tested[table["seed"] % len(tested)])
        table["seed"] //= len(tested)
    return table


def cluster_scores(
    embeddings: Mapping[str, np.ndarray],
    labels: Sequence[str] | np.ndarray,
    n_draws: int = 20,
    seed: int = 0,
    batches: Sequence[str] | np.ndarray | None = None,
) -> pd.DataFrame:
    """:func:`clustering` (and :func:`mixing` where there are batches) of each embedding on the same subsamples of cells.

    Returns a long table: method, metric, seed (the draw), value.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    names = np.asarray(labels).astype(str)
    rows = []
    for draw, cells in enumerate(tqdm(list(subsamples(names, n_draws, seed=seed)), desc="clustering", unit="draw")):
        for method, embedding in embeddings.items():
            scores = clustering(embedding[cells], names[cells], seed=draw)
            if batches is not None:
                scores |= mixing(embedding[cells], names[cells], np.asarray(batches)[cells])
            rows += [(method, metric, draw, value) for metric, value in scores.items()]
    return pd.DataFrame(rows, columns=["method", "metric", "seed", "value"])
