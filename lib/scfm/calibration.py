"""Does a probability of 0.9 mean right nine times in ten? Reliability, expected calibration error, temperature scaling.

After Guo et al. 2017 (arXiv:1706.04599).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm.linear import softmax

if TYPE_CHECKING:
    import pandas as pd


def reliability(confidence: np.ndarray, right: np.ndarray, n_bins: int = 10) -> pd.DataFrame:
    """Cells in bins of equal width of their confidence: columns confidence (mean), accuracy, cells; empty bins are left out.

    confidence: (cell,) in 0..1, the probability of the given answer. right: bool (cell,).
    """
    import pandas as pd

    confidence, right, number = _binned(confidence, right, n_bins)
    table = pd.DataFrame({"bin": number, "confidence": confidence.astype(np.float64), "accuracy": right, "cells": 1})
    found = table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "cells": "sum"})
    return found.reset_index(drop=True)


def expected_error(confidence: np.ndarray, right: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error: the gap between confidence and accuracy in :func:`reliability`'s bins, averaged over cells."""
    confidence, right, number = _binned(confidence, right, n_bins)
    gap = np.bincount(number, confidence, n_bins) - np.bincount(number, right, n_bins)  # times the cells of the bin
    return float(np.abs(gap).sum() / len(right))


def _binned(confidence: np.ndarray, right: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both as arrays, and the number of each cell's bin."""
    confidence, right = np.asarray(confidence), np.asarray(right, bool)
    if len(confidence) != len(right) or len(right) == 0:
        raise ValueError(f"{len(confidence):,} confidences but {len(right):,} answers; one each per cell was expected.")
    if confidence.min() < 0 or confidence.max() > 1 + 1e-6:
        raise ValueError("confidence holds numbers outside 0..1; give probabilities, softmax(logits), not logits.")
    return confidence, right, np.minimum((confidence * n_bins).astype(int), n_bins - 1)


def log_loss(logits: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> float:
    """Mean of -log(probability of the true class). logits (cell, class), truth int (cell,)."""
    chosen = softmax(logits, temperature)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature, 0.05 to 20, at which these (validation) cells have the lowest log loss."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: log_loss(logits, truth, float(np.exp(log_t))), bounds=np.log([0.05, 20]), method="bounded"
    )
    return float(np.exp(found.x))
