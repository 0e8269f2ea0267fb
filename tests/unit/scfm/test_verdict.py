"""The one statement of better, worse and undecided."""

from __future__ import annotations

import math

import pytest

from scfm.stats import Interval, interval


@pytest.mark.parametrize(
    ("low", "high", "margin", "higher_is_better", "lower_is_better"),
    [
        (0.01, 0.03, 0.0, "better", "worse"),
        (-0.03, -0.01, 0.0, "worse", "better"),
        (-0.01, 0.03, 0.0, "undecided", "undecided"),
        (0.0, 0.03, 0.0, "undecided", "undecided"),  # zero itself is inside
        (0.005, 0.03, 0.01, "undecided", "undecided"),  # beyond zero, but not beyond what is worth a word
        (0.011, 0.03, 0.01, "better", "worse"),
        (-0.03, -0.011, 0.01, "worse", "better"),
        (math.nan, math.nan, 0.0, "undecided", "undecided"),
    ],
)
def test_decided_is_what_lies_beyond_the_margin_as_a_whole(
    low: float, high: float, margin: float, higher_is_better: str, lower_is_better: str
) -> None:
    found = Interval((low + high) / 2, low, high)
    assert found.verdict(margin) == higher_is_better
    assert found.verdict(margin, lower_is_better=True) == lower_is_better


def test_a_single_draw_decides_nothing() -> None:
    assert interval([0.4]).verdict() == "undecided"
    assert interval([0.4, 0.41, 0.42]).verdict() == "better"
