"""From a table of a few draws to statements: intervals that are honest for five draws, paired tests, verdicts, a decision.

Intervals are Student's t over the draws of labels (:func:`scfm.stats.interval`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import stats
from scfm.stats import interval
from scfm.store import cache

if TYPE_CHECKING:
    import pandas as pd

RUNGS = ("head", "lora", "partial", "full")
ARMS = {"twin ": "random", "start ": "start"}  # of a rung: the same from random weights, or from the warm start
FROM_SCRATCH = ("logistic PCA", "logistic HVG")
BASELINES = "none"  # the model column of what needs no model
NO_ONE = "no single method"  # a decision that cannot be made: the sets ask for different methods
COVERED = {  # is its tissue in the corpus?
    "pbmc_zheng_facs": True,
    "kang_ifnb_pbmc": True,
    "pancreas_baron_175": False,
    "pbmc68k": True,
}


def with_stored(found: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows of ``found``, then those that the table at ``path`` has for other pairs (model, dataset); no file: ``found``."""
    import pandas as pd

    if not path.exists():
        return found
    stored = pd.read_parquet(path)
    own = pd.MultiIndex.from_frame(found[["model", "dataset"]])
    others = stored[~pd.MultiIndex.from_frame(stored[["model", "dataset"]]).isin(own)]
    return pd.concat([part for part in (found, others) if len(part)], ignore_index=True) if len(others) else found


def store(found: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Put ``found`` in place of the older rows of its pairs (model, dataset) in the table at ``path``; returns the whole table.

    Sorted by model and dataset, so that the file does not depend on which piece was computed last.
    """
    table = with_stored(found, path).sort_values(["model", "dataset"], kind="stable", ignore_index=True)
    with cache.atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)
    return table


def summary(scores: pd.DataFrame, by: Sequence[str] = ("model", "dataset", "method", "labels_per_class")) -> pd.DataFrame:  # fmt: skip
    """:func:`scfm.stats.summary` by the columns that tell the ladder's lines apart."""
    return stats.summary(scores, by)


def wide(table: pd.DataFrame, model: str, dataset: str, metric: str = "balanced_accuracy") -> pd.DataFrame:
    """Scores of one model and of what needs no model: rows (labels_per_class, seed), one column per method."""
    part = table[table["model"].isin([model, BASELINES]) & (table["dataset"] == dataset) & (table["metric"] == metric)]
    return part.pivot_table(index=["labels_per_class", "seed"], columns="method", values="value", sort=False)


def paired(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], metric: str = "balanced_accuracy", level: float = 0.95
) -> pd.DataFrame:
    """Each pair of methods (ours, rival) compared draw by draw, for every model, dataset and budget.

    Both have seen the same labels in a draw, so the differences are what counts. Columns: model, dataset, labels_per_class, ours,
    rival, mean, low, high, n, p (two-sided paired t test), verdict ("better", "worse" or "undecided": is 0 inside the interval?).
    """
    import pandas as pd
    from scipy.stats import ttest_1samp

    rows = []
    models = [m for m in dict.fromkeys(table["model"]) if m != BASELINES]
    for model in models:
        for dataset in dict.fromkeys(table["dataset"]):
            scores = wide(table, model, dataset, metric)
            for budget, part in scores.groupby(level=0, sort=True):
                for ours, rival in pairs:
                    if not {ours, rival} <= set(part.columns):
                        continue
                    difference = (part[ours] - part[rival]).dropna().to_numpy()
                    if len(difference) < 2:
                        continue
                    found = interval(difference, level)
                    p = 1.0 if np.ptp(difference) == 0 else float(ttest_1samp(difference, 0).pvalue)
                    rows.append((model, dataset, budget, ours, rival, found.mean, found.low, found.high, len(difference), p, found.verdict()))  # fmt: skip
    columns = ["model", "dataset", "labels_per_class", "ours", "rival", "mean", "low", "high", "n", "p", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdicts(comparisons: pd.DataFrame, by: Sequence[str] = ("model", "dataset", "ours", "rival")) -> pd.DataFrame:
    """How often better, undecided and worse; and how many decided verdicts chance alone would give at 95 %: 5 in 100."""
    counts = comparisons.groupby(list(by), sort=False)["verdict"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=["better", "undecided", "worse"], fill_value=0)
    counts["by chance"] = 0.05 * counts.sum(axis=1)
    return counts


def gaps(
    table: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    of: Sequence[str] = ("balanced_accuracy",),
    by: Sequence[str] = ("model", "dataset"),
    lower_is_better: Sequence[str] = (),
) -> pd.DataFrame:
    """Each pair of methods (ours, rival) compared draw by draw by each metric of ``of``, within each group of rows that share ``by``.

    A group has one score of a method in a draw; a pair of which it lacks a method is left out. ``lower_is_better``: those metrics that
    are errors. Columns: ``by``, metric, ours, rival, mean, low, high (:func:`scfm.stats.paired_difference`), verdict.
    """
    import pandas as pd

    rows = []
    for key, part in table.groupby(list(by), sort=False):
        for metric in of:
            own = part[part["metric"] == metric]
            known = set(own["method"])
            for ours, rival in [pair for pair in pairs if known.issuperset(pair)]:
                gap = stats.paired_difference(own, ours, rival, metric)
                verdict = gap.verdict(lower_is_better=metric in lower_is_better)
                rows.append((*key, metric, ours, rival, gap.mean, gap.low, gap.high, verdict))
    return pd.DataFrame(rows, columns=[*by, "metric", "ours", "rival", "mean", "low", "high", "verdict"])


def across_sets(
    table: pd.DataFrame, model: str, ours: str, rival: str, metric: str = "balanced_accuracy"
) -> tuple[stats.Interval, pd.Series]:
    """``ours`` minus ``rival``, where the claim is about data sets: each set's mean over budgets and draws is one value.

    Returns the interval over sets (:func:`scfm.stats.of_groups`), and the means by set.
    """
    import pandas as pd

    means = {}
    for dataset in dict.fromkeys(table["dataset"]):
        scores = wide(table, model, dataset, metric)
        if {ours, rival} <= set(scores.columns):
            means[dataset] = (scores[ours] - scores[rival]).groupby(level=0).mean().mean()
    found = pd.Series(means, dtype=float)
    return stats.of_groups(found.to_numpy()), found


def arm_of(method: str) -> tuple[str, str]:
    """The weights that a method of the ladder starts from ("pretrained", "random", "start"), and its rung."""
    for prefix, weights in ARMS.items():
        if method.startswith(prefix):
            return weights, method.removeprefix(prefix)
    return "pretrained", method


# --- what it costs --------------------------------------------------------------------------------------


def prices(table: pd.DataFrame) -> pd.DataFrame:
    """Median price of each method per model: trained parameters, cpu seconds of learning, peak memory (MiB), over sets and budgets."""
    columns = ["trained_parameters", "cpu_seconds", "peak_memory_mb"]
    part = table[table["metric"].isin(columns)]
    found = part.pivot_table(index=["model", "method"], columns="metric", values="value", aggfunc="median", sort=False)
    return found.reindex(columns=columns)


def bill(table: pd.DataFrame, metric: str = "balanced_accuracy") -> pd.DataFrame:
    """:func:`prices` beside what they buy: mean score, points over the same model's head, and points per minute of computing more.

    Means are over all sets, budgets and draws; twins are left out. NaN where there is no head to compare with.
    """
    found = prices(table)
    found = found[[not method.startswith(tuple(ARMS)) for _, method in found.index]].copy()
    mean = table[table["metric"] == metric].groupby(["model", "method"])["value"].mean()
    found["score"] = mean.reindex(found.index)
    head = [(model, "head") for model, _ in found.index]
    found["points"] = 100 * (found["score"].to_numpy() - mean.reindex(head).to_numpy())
    minutes = (found["cpu_seconds"].to_numpy() - found["cpu_seconds"].reindex(head).to_numpy()) / 60
    found["points_per_minute"] = found["points"] / np.where(minutes > 0, minutes, np.nan)
    return found


# --- a decision -----------------------------------------------------------------------------------------


def cheapest(
    table: pd.DataFrame,
    model: str,
    labels_per_class: int,
    tissue_in_corpus: bool,
    methods: Sequence[str] = (*FROM_SCRATCH, *RUNGS),
    metric: str = "balanced_accuracy",
    covered: dict[str, bool] | None = None,
) -> dict[str, Any]:
    """The cheapest method that is not significantly worse than the best one, on every set of this kind.

    "Best": the highest mean on a set; "not significantly worse": the 95 % t interval of the paired difference to it reaches 0.
    The price is the median of cpu seconds. The table's nearest budget that is not above ``labels_per_class`` is read.

    Returns ``{"method", "best": {dataset: method}, "behind": mean points lost to the best, "budget", "sets", "draws"}``. Where every
    method is significantly worse than the best one on some set, method is :data:`NO_ONE` and behind NaN. With few draws much is
    "not significantly worse": this is a rule for spending little, and no proof that two methods are equal.

    Raises
    ------
    ValueError
        The table has no set of this kind, or no budget as small.
    """
    covered = COVERED if covered is None else covered
    sets = [d for d in dict.fromkeys(table["dataset"]) if covered.get(d) is tissue_in_corpus]
    budgets = sorted(table.loc[table["dataset"].isin(sets), "labels_per_class"].unique())
    fitting = [b for b in budgets if b <= labels_per_class]
    if not sets or not fitting:
        what = "set of this kind" if not sets else f"budget of {labels_per_class} labels or fewer"
        raise ValueError(f"The table has no {what}; it has budgets {budgets} on {', '.join(sets) or 'no such set'}.")
    price = prices(table)["cpu_seconds"]
    cost = {m: price.get((BASELINES if m in FROM_SCRATCH else model, m), np.inf) for m in methods}
    allowed, draws = set(methods), 0
    best: dict[str, Any] = {}
    lost: dict[str, list[float]] = {}
    for dataset in sets:
        scores = wide(table, model, dataset, metric)
        budget = max(b for b in fitting if b in scores.index.get_level_values(0))
        part = scores.loc[budget].reindex(columns=[m for m in methods if m in scores])
        best[dataset] = part.mean().idxmax()
        draws = len(part)
        for method in part.columns:
            gap = part[best[dataset]] - part[method]
            lost.setdefault(method, []).append(float(gap.mean()))
            if method != best[dataset] and interval(gap).verdict() == "better":
                allowed.discard(method)
        allowed &= set(part.columns)
    chosen = min(allowed, key=lambda m: (cost[m], methods.index(m)), default=NO_ONE)
    return {
        "method": chosen,
        "best": best,
        "behind": float(np.mean(lost[chosen])) if allowed else float("nan"),
        "budget": int(budget),
        "sets": sets,
        "draws": draws,
    }


def decision_chart(table: pd.DataFrame, models: Sequence[str] | None = None, methods: Sequence[str] = (*FROM_SCRATCH, *RUNGS)) -> pd.DataFrame:  # fmt: skip
    """:func:`cheapest` for every model, kind of tissue and budget: columns model, tissue, labels_per_class, method, behind, best."""
    import pandas as pd

    rows = []
    for model in models or [m for m in dict.fromkeys(table["model"]) if m != BASELINES]:
        for known in (True, False):
            sets = [d for d, inside in COVERED.items() if inside is known]
            for budget in sorted(table.loc[table["dataset"].isin(sets), "labels_per_class"].unique()):
                found = cheapest(table, model, int(budget), known, methods)
                tissue = "in the corpus" if known else "not in the corpus"
                best = ", ".join(dict.fromkeys(found["best"].values()))
                rows.append((model, tissue, budget, found["method"], found["behind"], best))
    return pd.DataFrame(rows, columns=["model", "tissue", "labels_per_class", "method", "behind", "best"])
