"""Answers that come near are refused, each with the word that fits it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coursekit import check

ROOT = Path(__file__).parents[4]


def mean_for_median(counts: np.ndarray, n_counts: np.ndarray) -> float:
    return float(np.mean((counts / n_counts * 10_000)[counts > 0]))


def span_of_the_draws(ours: Any, theirs: Any) -> str:
    low, high = np.percentile(np.asarray(ours) - np.asarray(theirs), [2.5, 97.5])
    return "ours" if low > 0 else "theirs" if high < 0 else "undecided"


def over_the_answers(truth: np.ndarray, answer: np.ndarray) -> float:
    return float(
        np.mean([np.mean(answer[truth == kind] == kind) for kind in np.union1d(truth, answer) if kind != "d"][:2])
    )


def biology_above_a_threshold(ilisi: float, avg_bio: float) -> float:
    return avg_bio if ilisi > 0.19 else 0.0


def one_too_small(delta: np.ndarray, share: float) -> int:
    s = np.linalg.svd(delta, compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(s) / s.sum(), share))


@pytest.mark.parametrize(
    ("number", "answer", "said"),
    [
        ("02.1", mean_for_median, "the one in the middle is 20; got 40"),
        ("03.1", span_of_the_draws, "not for the span of the draws"),
        ("03.2", over_the_answers, "Types a, b, c"),
        ("03.3", biology_above_a_threshold, "mixing of 0.6 should score higher than of 0.2"),
        ("05.3", one_too_small, "ranks from 1"),
    ],
)
def test_refused(monkeypatch: pytest.MonkeyPatch, number: str, answer: Callable[..., Any], said: str) -> None:
    monkeypatch.setenv("COURSEKIT_ROOT", str(ROOT))
    result = check.run(number, answer)
    assert not result.passed
    assert said in result.message
