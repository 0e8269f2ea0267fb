"""How sure are we? Means with intervals, paired differences, and what they allow to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


ENOUGH_DRAWS = 15  # for a bootstrap: with fewer its "95 %" intervals are too narrow


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

    def verdict(self, margin: float = 0.0, lower_is_better: bool = False) -> Verdict:
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
