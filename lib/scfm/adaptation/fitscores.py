"""Scores of a fit on cells that it was not trained on: overall, per class, per batch, each with an interval."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import calibration
from scfm.adaptation import labels as labelled

if TYPE_CHECKING:
    import pandas as pd

    from scfm.adaptation.fitted import Fitted

N_BOOT = 1000
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


def evaluate(
    fit: Fitted, cells: Any, labels: Any, batches: Sequence[str] | np.ndarray | None = None, name: str = "test"
) -> pd.DataFrame:
    """Score a fit on labelled cells (or genes) it was not trained on.

    The result also goes into the card, where it takes the place of an earlier one of the same ``name``.

    ``labels`` as ``adapt`` takes them, and a missing one leaves its cell out of its column's scores.

    Returns one row per group: column (of labels), group ("all", "class" or "batch"), name, n, metric, value, low, high. Over all:
    accuracy, balanced accuracy, macro-F1 and calibration error; per class: precision, recall, F1; per batch: accuracy and
    balanced accuracy. low and high are a 95 % bootstrap over these cells: they know nothing of other donors or seeds.

    Raises
    ------
    ValueError
        Labels or batches of another length; a column that lacks; a class that the fit has never seen; no label at all.
    """
    import pandas as pd

    if hasattr(cells, "obs"):
        labels, batches = (
            cells.obs[given].to_numpy() if isinstance(given, str) else given for given in (labels, batches)
        )
    found = fit.predict_proba(cells, progress=False)
    if fit.choices.level == "gene":
        vocabulary = fit.model.vocabulary
        wanted = {vocabulary.find(str(g)): c for g, c in labels.items()}
        row_of = {vocabulary.find(g): row for row, g in enumerate(found.index)}
        rows = [row_of[t] for t in wanted if t in row_of]
        truths: dict[str, Any] = {fit.columns[0]: np.array([wanted[t] for t in wanted if t in row_of], object)}
        probabilities = {fit.columns[0]: found.to_numpy()[rows]}
    else:
        probabilities = found if isinstance(found, dict) else {fit.columns[0]: found}
        truths = _by_column(fit, labels)
    parts = []
    for column in fit.columns:
        proba = probabilities[column]
        own = None if batches is None or fit.choices.level == "gene" else np.asarray(batches).astype(str)
        if own is not None and own.shape != (len(proba),):
            raise ValueError(
                f"batches has shape {own.shape} for {len(proba):,} cells; one batch per cell was expected."
            )
        truth, missing = labelled.names_of(truths[column], len(proba), f"labels of {column!r}")
        truth, proba, own = truth[~missing], proba[~missing], None if own is None else own[~missing]
        if len(truth) == 0:
            continue
        strange = sorted(set(truth.tolist()) - set(fit.head.classes[column]))
        if strange:
            raise ValueError(
                f"The fit knows no class {', '.join(map(repr, strange[:3]))}; it knows {', '.join(fit.head.classes[column])}. Cells "
                "of other classes can only be wrong: leave them out, and ask for them as open-set cells."
            )
        parts.append(_scores(truth, proba, fit.head.classes[column], own).assign(column=column))
    if not parts:
        raise ValueError("None of these has a label: there is nothing to score.")
    table = pd.concat(parts, ignore_index=True)
    fit.evaluations = [one for one in fit.evaluations if one["name"] != name]
    fit.evaluations.append({"name": name, "rows": table.to_dict("records")})
    return table


def _by_column(fit: Fitted, labels: Any) -> dict[str, Any]:
    """Column → labels of the cells, from one array or several columns (a dict of arrays, a DataFrame)."""
    if not isinstance(labels, Mapping) and not hasattr(labels, "columns"):
        if len(fit.columns) > 1:
            raise ValueError(
                f"The fit names {', '.join(fit.columns)}; a dict (or DataFrame) of as many columns was expected."
            )
        return {fit.columns[0]: labels}
    given = {str(name): labels[name] for name in labels}
    if lacking := [column for column in fit.columns if column not in given]:
        raise ValueError(f"labels has no column {', '.join(map(repr, lacking))}; it has {', '.join(given)}.")
    return {column: given[column] for column in fit.columns}


def _scores(truth: np.ndarray, proba: np.ndarray, classes: list[str], batches: np.ndarray | None) -> pd.DataFrame:
    import pandas as pd

    rng = np.random.default_rng(0)
    numbers = {name: number for number, name in enumerate(classes)}
    true, answer, sure = np.array([numbers[x] for x in truth]), proba.argmax(1), proba.max(1)
    right = answer == true
    rows: list[tuple] = []

    def add(group: str, name: str, n: int, scores: list[dict[str, float]]) -> None:
        for metric in scores[0]:
            values = np.array([one[metric] for one in scores[1:]])
            low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (np.nan, np.nan)
            rows.append((group, name, n, metric, scores[0][metric], float(low), float(high)))

    tables, overall = [], []
    for draw in range(1 + N_BOOT):  # all cells, then one resample at a time: together they would not fit into memory
        d = rng.integers(0, len(true), len(true)) if draw else np.arange(len(true))
        tables.append(confusion(true[d], answer[d], len(classes)))
        overall.append(
            overall_scores(tables[-1]) | {"calibration_error": calibration.expected_error(sure[d], right[d])}
        )
    add("all", "all", len(truth), overall)
    for k, name in enumerate(classes):
        if (true == k).any():
            add("class", name, int((true == k).sum()), [class_scores(t, k) for t in tables])
    for batch in np.unique(batches) if batches is not None else []:
        rows_of = np.flatnonzero(batches == batch)
        own = itertools.chain([rows_of], (rng.choice(rows_of, len(rows_of)) for _ in range(N_BOOT)))
        scores = [overall_scores(confusion(true[d], answer[d], len(classes))) for d in own]
        add("batch", str(batch), len(rows_of), [{m: s[m] for m in METRICS[:2]} for s in scores])
    return pd.DataFrame(rows, columns=["group", "name", "n", "metric", "value", "low", "high"])


def confusion(true: np.ndarray, answer: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (true class, answered class)."""
    return np.bincount(true * n_classes + answer, minlength=n_classes**2).reshape(n_classes, n_classes)


def overall_scores(table: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy and macro-F1 from a confusion table; means are over the classes that occur."""
    there = table.sum(1) > 0
    right = np.diag(table)
    recall = right[there] / table.sum(1)[there]
    f1 = 2 * right[there] / np.maximum(table.sum(1) + table.sum(0), 1)[there]
    return {
        "accuracy": float(right.sum() / table.sum()),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
    }


def class_scores(table: np.ndarray, k: int) -> dict[str, float]:
    """Precision, recall and F1 of class ``k``; NaN where it was never answered, or does not occur."""
    right, said, there = float(table[k, k]), float(table[:, k].sum()), float(table[k].sum())
    return {
        "precision": right / said if said else float("nan"),
        "recall": right / there if there else float("nan"),
        "f1": 2 * right / (said + there) if said + there else float("nan"),
    }
