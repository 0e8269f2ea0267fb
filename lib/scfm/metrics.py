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
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.linear import linear_head, small_fit, standard
from scfm.stats import TooFewCells

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_CLASS = 20
RESOLUTION = 1.0  # of Leiden's clustering where no label may choose it: scanpy's own default
LEARNED_SHARE = 0.6  # of a class at most: the others are there to be tested
# what a missing label, batch or donor is as text: the datasets' own word, and what numpy and pandas make of one
NO_LABEL = ("unknown", "", "nan", "NaN", "None", "<NA>")


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

    NMI and ARI are of the Leiden clustering at the best of ten resolutions, chosen *with the labels*, as scib and the papers do it
    (Kedzierska et al. 2025, 10.1186/s13059-025-03574-x); ``nmi_fixed``, ``ari_fixed`` and ``avg_bio_fixed`` are of the resolution
    :data:`RESOLUTION`, which no label chose. ASW is rescaled to 0..1 (0.5: no structure).
    """
    names = _checked(embedding, labels)
    with _quiet():
        import scib_metrics

        near = _neighbours(embedding, 15)
        leiden = scib_metrics.nmi_ari_cluster_labels_leiden
        tuned = leiden(near, names, optimize_resolution=True, n_jobs=1, seed=seed)
        fixed = leiden(near, names, optimize_resolution=False, resolution=RESOLUTION, n_jobs=1, seed=seed)
        asw = float(scib_metrics.silhouette_label(np.asarray(embedding, np.float32), names))
    found = {"asw": asw}
    for ending, of_clusters in (("", tuned), ("_fixed", fixed)):
        nmi, ari = float(of_clusters["nmi"]), float(of_clusters["ari"])
        found |= {f"nmi{ending}": nmi, f"ari{ending}": ari, f"avg_bio{ending}": (nmi + ari + asw) / 3}
    return found


def mixing(embedding: np.ndarray, labels: Sequence[str] | np.ndarray, batches: Sequence[str]) -> dict[str, float]:
    """How well batches (donors, technologies) are mixed: iLISI, batch ASW, graph connectivity. All 0..1, 1 = well mixed.

    ``avg_batch`` is the mean of the last two, scGPT's AvgBATCH (Cui et al. 2024, 10.1038/s41592-024-02201-0).
    """
    names, batch_names = _checked(embedding, labels), _batches(batches)
    with _quiet():
        import scib_metrics

        found = {
            "ilisi": ilisi(embedding, batches),
            "asw_batch": float(scib_metrics.silhouette_batch(np.asarray(embedding, np.float32), names, batch_names)),
            "graph_connectivity": float(scib_metrics.graph_connectivity(_neighbours(embedding, 15), names)),
        }
    return found | {"avg_batch": (found["asw_batch"] + found["graph_connectivity"]) / 2}


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
        warnings.simplefilter("ignore", UserWarning)
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
    """``n_draws`` index arrays with ``share`` of the cells of each class, without replacement.

    Duplicates would be each other's nearest neighbours.
    """
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


def of_draw(embedding: np.ndarray | Sequence[np.ndarray], draw: int) -> np.ndarray:
    """The embedding (cell, d) of a draw: of several (networks of other seeds, say) one after the other."""
    return embedding if isinstance(embedding, np.ndarray) else embedding[draw % len(embedding)]


def probe(
    embeddings: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    labels: Sequence[str] | np.ndarray,
    per_class: int = 10,
    n_draws: int = 20,
    seed: int = 0,
    groups: Sequence[str] | np.ndarray | None = None,
    kind: str = "logistic",
    shuffle_labels: bool = False,
    scale: str | None = None,
    strength: float | None = None,
) -> pd.DataFrame:
    """What a simple classifier reads out of each embedding, from few labels; the same draws for all of them.

    Logistic regression (``kind="logistic"``) or the 5 nearest neighbours (``"knn"``), trained on ``per_class`` cells a class
    and tested on cells it did not see (see :func:`label_draws`). ``shuffle_labels`` trains on permuted labels: the control,
    which must fall to chance. Where a method has several embeddings (a list: random networks of other seeds), the draws take them in
    turn.

    Scale and regularization are chosen inside the labelled cells, for each embedding by itself, unless given
    (:func:`scfm.linear.linear_head`; neighbours count features on the common scale).

    Returns a long table: method, metric (accuracy, balanced_accuracy, macro_f1), labels_per_class, seed (the draw), value. With
    ``groups`` (tested in turn) also group, the one tested; seed then counts the draws of this group, for :func:`over_groups`. A group
    that shares fewer than two classes with the others, or none, is left out.

    Raises
    ------
    TooFewCells
        As :func:`label_draws`; or no group can be tested with what the others teach.
    """
    import pandas as pd
    from sklearn.metrics import balanced_accuracy_score, f1_score
    from sklearn.neighbors import KNeighborsClassifier

    if kind not in ("logistic", "knn"):
        raise ValueError(f"kind is {kind!r}; it can be 'logistic' or 'knn'.")
    names = np.asarray(labels).astype(str)
    for method, given in embeddings.items():
        for embedding in [given] if isinstance(given, np.ndarray) else given:
            if len(embedding) != len(names):
                raise ValueError(
                    f"{method}: {len(embedding):,} rows but {len(names):,} labels; one label per cell is needed."
                )
    rows = []
    tested = None if groups is None else np.unique(np.asarray(groups).astype(str))
    for draw, (train, test) in enumerate(label_draws(names, per_class, n_draws, seed, groups)):
        if tested is not None and (len(set(names[train])) < 2 or len(test) == 0):
            continue
        taught = names[train]
        if shuffle_labels:
            taught = np.random.default_rng([seed, draw]).permutation(taught)
        for method in embeddings:
            embedding = of_draw(embeddings[method], draw)
            if kind == "logistic":
                answer = linear_head(embedding[train], taught, scale=scale, strength=strength).predict(embedding[test])
            else:
                center, size = standard(embedding[train], scale or "common")
                neighbours = KNeighborsClassifier(5).fit((embedding[train] - center) / size, taught)
                answer = neighbours.predict((embedding[test] - center) / size)
            with small_fit():
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


def right_by_cell(
    embeddings: Mapping[str, np.ndarray],
    labels: Sequence[str] | np.ndarray,
    per_class: int = 10,
    n_draws: int = 20,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """In which share of :func:`probe`'s draws a cell was read rightly, of those in which it was tested: float (cell,), NaN if never.

    For an interval over *cells* (:func:`scfm.stats.bootstrap` with the types as strata), where a sentence speaks of them: other draws
    of labels from the same cells do not say how other cells would do.
    """
    names = np.asarray(labels).astype(str)
    right = {method: np.zeros(len(names)) for method in embeddings}
    tested = np.zeros(len(names))
    for train, test in label_draws(names, per_class, n_draws, seed):
        tested[test] += 1
        for method, embedding in embeddings.items():
            right[method][test] += linear_head(embedding[train], names[train]).predict(embedding[test]) == names[test]
    return {method: np.divide(n, tested, out=np.full(len(n), np.nan), where=tested > 0) for method, n in right.items()}


def cluster_scores(
    embeddings: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    labels: Sequence[str] | np.ndarray,
    n_draws: int = 20,
    seed: int = 0,
    batches: Sequence[str] | np.ndarray | None = None,
) -> pd.DataFrame:
    """:func:`clustering` (and :func:`mixing` where there are batches) of each embedding on the same subsamples of cells.

    Where a method has several embeddings (a list), the draws take them in turn.

    Returns a long table: method, metric, seed (the draw), value.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    names = np.asarray(labels).astype(str)
    rows = []
    for draw, cells in enumerate(tqdm(list(subsamples(names, n_draws, seed=seed)), desc="clustering", unit="draw")):
        for method in embeddings:
            embedding = of_draw(embeddings[method], draw)
            scores = clustering(embedding[cells], names[cells], seed=draw)
            if batches is not None:
                scores |= mixing(embedding[cells], names[cells], np.asarray(batches)[cells])
            rows += [(method, metric, draw, value) for metric, value in scores.items()]
    return pd.DataFrame(rows, columns=["method", "metric", "seed", "value"])
