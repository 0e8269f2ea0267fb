"""Intervals: that they cover as they say, and decide nothing where nothing is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from scfm import stats

WORLDS = 4000


def test_interval_of_a_constant_is_the_constant() -> None:
    found = stats.interval([0.25] * 20)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.03, 5)
    low, high = scipy_stats.t.interval(0.95, 4, loc=values.mean(), scale=scipy_stats.sem(values))
    found = stats.interval(values)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert stats.interval(values, level=0.5).high < found.high


# the differences between methods in data/results have a skewness of about 0.4; this gamma has 0.7
@pytest.mark.parametrize("world", ["normal", "skewed"])
@pytest.mark.parametrize("n", [5, 10, 20])
def test_intervals_cover_the_truth_as_often_as_they_say(n: int, world: str) -> None:
    rng = np.random.default_rng([n, len(world)])
    drawn = rng.normal(0, 1, (WORLDS, n)) if world == "normal" else rng.gamma(8, 1, (WORLDS, n)) - 8
    covered = np.mean([not stats.interval(values).excludes(0.0) for values in drawn])
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize("n_groups", [3, 4, 8])
@pytest.mark.parametrize(("between", "within"), [(1.0, 1.0), (1.0, 0.3), (0.3, 1.0)])
def test_intervals_over_groups_cover_too(n_groups: int, between: float, within: float) -> None:
    """Groups that differ, with draws that differ: the interval is of the mean over groups, as a new donor would move it."""
    rng = np.random.default_rng([n_groups, int(10 * between), int(10 * within)])
    index = pd.MultiIndex.from_product([range(n_groups), range(10)], names=["group", "seed"])
    hits = []
    for _ in range(400):
        values = rng.normal(0, between, (n_groups, 1)) + rng.normal(0, within, (n_groups, 10))
        table = index.to_frame(index=False).assign(method="ours", metric="score", value=values.ravel())
        hits.append(not stats.over_groups(table, "ours", "score").excludes(0.0))
    assert 0.925 < np.mean(hits) < 0.98


@pytest.mark.parametrize("n_groups", [1, 2])
def test_two_groups_decide_nothing(n_groups: int) -> None:
    index = pd.MultiIndex.from_product([range(n_groups), range(20)], names=["group", "seed"])
    table = index.to_frame(index=False).assign(method="ours", metric="score", value=0.9)
    found = stats.over_groups(table, "ours", "score")
    assert found.mean == pytest.approx(0.9)
    assert np.isnan([found.low, found.high]).all()
    assert found.verdict() == "undecided"


def test_one_value_decides_nothing_and_none_is_refused() -> None:
    one = stats.interval([0.5])
    assert one.mean == 0.5
    assert np.isnan([one.low, one.high]).all()
    assert not one.excludes(0.0)
    assert one.overlaps(stats.Interval(0.9, 0.8, 1.0))
    with pytest.raises(stats.TooFewCells):
        stats.interval([])
    with pytest.raises(stats.TooFewCells, match="1 are NaN"):
        stats.interval([0.1, np.nan])
    with pytest.raises(stats.TooFewCells):
        stats.interval(np.zeros((3, 4)))


def test_the_bootstrap_is_for_many_cells_and_keeps_the_share_of_each_type() -> None:
    rng = np.random.default_rng(1)
    few = rng.normal(0, 1, (300, 5))
    assert np.mean([not stats.bootstrap(values, n_boot=300).excludes(0.0) for values in few]) < 0.9
    kinds = np.repeat(["frequent", "rare"], [900, 100])
    right = np.where(kinds == "rare", rng.random(1000) < 0.2, rng.random(1000) < 0.9).astype(float)
    found = stats.bootstrap(right, strata=kinds)
    assert found.mean == pytest.approx((right[kinds == "rare"].mean() + right[kinds == "frequent"].mean()) / 2)
    assert 0.02 < found.high - found.mean < 0.06  # the rare type's 100 cells decide the width
    alike = stats.bootstrap(rng.normal(0, 1, 400), n_boot=500)
    by_t = stats.interval(rng.normal(0, 1, 400))
    assert alike.high - alike.low == pytest.approx(by_t.high - by_t.low, rel=0.2)


def test_paired_difference_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.1, 20)
    rows = [("m", s, "acc", v + 0.02) for s, v in enumerate(base)] + [("pca", s, "acc", v) for s, v in enumerate(base)]
    scores = pd.DataFrame(rows, columns=["method", "seed", "metric", "value"])
    assert stats.interval(base).overlaps(stats.interval(base + 0.02))
    assert stats.paired_difference(scores, "m", "pca", "acc").low > 0
    with pytest.raises(KeyError, match="No scores of scvi"):
        stats.paired_difference(scores, "m", "scvi", "acc")


def test_a_difference_is_of_one_dataset_at_a_time() -> None:
    rows = [(m, s, d, "acc", s + 0.1) for m in ("ours", "pca") for s in range(20) for d in ("blood", "islets")]
    scores = pd.DataFrame(rows, columns=["method", "seed", "dataset", "metric", "value"])
    with pytest.raises(ValueError, match="several scores"):
        stats.paired_difference(scores, "ours", "pca", "acc")
    assert stats.paired_difference(scores[scores["dataset"] == "blood"], "ours", "pca", "acc").mean == 0
