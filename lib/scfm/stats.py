"""How sure are we? Means with intervals, paired differences, and what they allow to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


FEWEST_GROUPS = 3  # donors, technologies, sets: with fewer nothing is decided
MARGIN = (
    0.01  # the smallest difference of a share (accuracy, a cluster score) that the course calls a difference: one point
)


class TooFewCells(ValueError):
    """Not enough cells, classes or groups to compute a score that means something."""


Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval. Of a single draw the bounds are NaN: nothing is known, so nothing is excluded."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def verdict(self, margin: float = MARGIN, lower_is_better: bool = False) -> Verdict:
        """What a difference (ours minus a rival's) allows to say: "better", "worse" or "undecided".

        Decided is what lies as a whole beyond ``margin``, the smallest difference worth a word. ``lower_is_better``: it is one of
        errors or costs. NaN bounds decide nothing.
        """
        if self.low > margin:
            return "worse" if lower_is_better else "better"
        if self.high < -margin:
            return "better" if lower_is_better else "worse"
        return "undecided"

    def excludes(self, value: float) -> bool:
        """Does the value lie outside?"""
        return value < self.low or value > self.high

    def overlaps(self, other: Interval) -> bool:
        """Have the two something in common?"""
        return not (self.low > other.high or other.low > self.high)


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Student's t interval of the mean over draws, seeds or groups. ``values``: (n,) of independent ones; NaN bounds for one.

    It covers as it says for few values and for many (Student 1908, 10.1093/biomet/6.1.1), where the bootstrap of few catches the truth
    some 85 times in 100: it resamples five numbers as if they were the world. Values may be as skewed as the course's differences
    between methods and more (skewness 0.7); of values as skewed as waiting times (2) five cover 88 times in 100.

    Raises
    ------
    TooFewCells
        No value, or one that is not finite.
    """
    from scipy import stats

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise TooFewCells(
            f"An interval needs finite values in one row; got {array.size} of which {np.isnan(array).sum()} are NaN."
        )
    mean = float(array.mean())
    if len(array) == 1:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + level) / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half)


def bootstrap(
    values: Sequence[float] | np.ndarray,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    strata: Sequence[str] | np.ndarray | None = None,
) -> Interval:
    """Percentile-bootstrap interval of a mean over many cells. ``values``: (cell,).

    ``strata`` (cell,): cells are resampled within each (a cell type, say), and the mean is that of the strata's means. What then
    varies is *which cells were measured*; :func:`interval` over draws says what varies with which of these cells were labelled.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise TooFewCells(f"A bootstrap needs finite values in one row; got {array.size} in {array.ndim} dimensions.")
    names = np.zeros(len(array)) if strata is None else np.asarray(strata)
    rng = np.random.default_rng(seed)
    own = [array[names == name] for name in np.unique(names)]
    means = np.mean([part[rng.integers(0, len(part), (n_boot, len(part)))].mean(axis=1) for part in own], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([part.mean() for part in own])), float(low), float(high))


NETWORKS = {
    "random twin": 10,
    "warm start": 10,
}  # methods that are several networks, of other seeds; draws take them in turn


def of_networks(per_draw: pd.Series, *methods: str) -> np.ndarray:
    """Values by draw (its number is the index), as independent ones: draws that share a network of :data:`NETWORKS` become their mean."""
    turns = [NETWORKS[method] for method in methods if method in NETWORKS]
    shared = per_draw.groupby(per_draw.index.to_numpy() % max(turns)).mean() if turns else per_draw
    return shared.to_numpy()


def summary(
    scores: pd.DataFrame, by: Sequence[str] = ("dataset", "method", "metric"), draw: str = "seed"
) -> pd.DataFrame:
    """One row per ``by`` with mean, low, high (:func:`interval`) and n draws, from the long table (columns ``by``, ``draw``, ``value``).

    ``n`` counts networks, not draws, for a method that is several of them (:data:`NETWORKS`).
    """
    import pandas as pd

    rows = []
    for key, part in scores.groupby(list(by), sort=False, observed=True):
        method = str(dict(zip(by, key, strict=True)).get("method", ""))
        values = of_networks(part.groupby(draw)["value"].mean(), method)
        found = interval(values)
        rows.append((*key, found.mean, found.low, found.high, len(values)))
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
    return interval(of_networks((wide[method] - wide[baseline]).dropna(), method, baseline))


def of_groups(means: np.ndarray) -> Interval:
    """:func:`interval` of one value per group (n,), where the claim is about groups: donors, technologies, data sets.

    With fewer than :data:`FEWEST_GROUPS` the bounds are NaN: two donors do not say how donors differ, so nothing is decided.
    """
    if len(means) < FEWEST_GROUPS:
        return Interval(float(np.mean(means)), float("nan"), float("nan"))
    return interval(means)


def over_groups(scores: pd.DataFrame, method: str, metric: str, rival: str | None = None) -> Interval:
    """Mean and interval over groups (donors, technologies, held-out types): each group's mean over its draws is one value.

    With ``rival`` of the difference, draw by draw. :func:`of_groups` of these values.
    """
    own = scores[scores["metric"] == metric]
    wide = own.pivot_table(index=["group", "seed"], columns="method", values="value")
    values = (wide[method] - wide[rival] if rival else wide[method]).dropna()
    return of_groups(values.groupby("group").mean().to_numpy())
