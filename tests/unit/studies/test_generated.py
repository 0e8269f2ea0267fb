"""Statements about completed and generated cells: paired, in percent of an error, the best one by name."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import scfm
from scfm.generation.simple_generators import RealCells
from studies import generated


def completed(errors: dict[tuple[str, int, str, bool, str], float], dataset: str = "blood") -> pd.DataFrame:
    """(method, steps, confidence, exact, feed) → squared error, in 20 draws that are harder and harder for all."""
    rows = [
        ("mini", *about, dataset, seed, metric, value * (1 + seed))
        for about, error in errors.items()
        for seed in range(20)
        for metric, value in (("squared_error", error), ("tokens", 7.0))
    ]
    columns = ["model", "method", "steps", "confidence", "exact", "feed", "dataset", "seed", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


TABLE = completed(
    {
        ("gene mean", 0, "", True, ""): 2.0,
        ("K = 1, zero_prob", 1, "zero_prob", True, "expected"): 1.0,
        ("K = 1, dropout", 1, "dropout", True, "expected"): 1.0,
        ("K = 4, zero_prob", 4, "zero_prob", True, "expected"): 0.9,
        ("K = 4, random", 4, "random", True, "expected"): 1.2,
        ("K = 4, zero_prob, off or on fed back", 4, "zero_prob", True, "likely"): 1.1,
    }
)


def test_an_error_relative_to_the_gene_means_has_one_row_for_one_step() -> None:
    found = generated.relative_errors(TABLE).groupby("method")["value"].agg(["mean", "size"])
    assert found.loc["K = 1"].tolist() == [0.5, 20]
    assert found.loc["gene mean", "mean"] == 1
    assert "K = 1, dropout" not in found.index


def test_steps_against_one_step_are_paired_and_less_error_is_better() -> None:
    found = generated.against_one_step(TABLE).set_index(["confidence", "feed"])
    assert found.loc[("zero_prob", "expected"), ["mean", "low", "high"]].tolist() == pytest.approx([-10] * 3)
    assert found["verdict"].to_dict() == {
        ("zero_prob", "expected"): "better",
        ("random", "expected"): "worse",
        ("zero_prob", "likely"): "worse",
    }


def test_an_order_against_a_random_one() -> None:
    found = generated.against_random_order(TABLE)
    assert found["confidence"].tolist() == ["zero_prob"]  # what feeds back something else asks another question
    assert found["mean"].iloc[0] == pytest.approx(100 * (0.9 / 1.2 - 1))


def test_a_calibrated_guesser_is_off_by_nothing() -> None:
    said = np.repeat([[0.2, 0.8]], 50, axis=0)
    truth = np.stack([np.arange(50) % 5 == 0, np.arange(50) % 5 != 0], axis=1).astype(float)
    questions = [SimpleNamespace(truth=truth)] * 2
    guessers = {
        "right": lambda q: SimpleNamespace(nonzero=said),
        "turned round": lambda q: SimpleNamespace(nonzero=1 - said),
    }
    lines, off_by = generated.calibration(guessers, questions)  # type: ignore[arg-type]
    assert off_by == pytest.approx({"right": 0.0, "turned round": 0.6})
    assert set(lines["guesser"]) == set(guessers)
    with pytest.raises(ValueError, match=r"no P\(nonzero\)"):
        generated.calibration({"mute": lambda q: SimpleNamespace(nonzero=None)}, questions)  # type: ignore[arg-type, dict-item]


def test_our_best_method_is_chosen_for_each_metric() -> None:
    scores = {"scGPT, one": (0.5, 0.1), "scGPT, other": (0.7, 0.3), "type's mean": (0.6, 0.2)}
    rows = [
        ("mini", "blood", method, seed, metric, value + 0.001 * seed)
        for method, values in scores.items()
        for seed in range(20)
        for metric, value in zip(("specific", "energy"), values, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["model", "dataset", "method", "seed", "metric", "value"])
    found = generated.best_against(table, "scGPT", ["type's mean"], ("specific", "energy"), ("energy",))
    assert found["ours"].tolist() == ["scGPT, other", "scGPT, one"]
    assert found["verdict"].tolist() == ["better", "better"]


def test_true_genes_help_ridge_regression() -> None:
    model = scfm.load_model("scgpt-mini")
    adata = scfm.load_dataset("pbmc68k")[:300].copy()
    cells = RealCells.of(adata, model, n_genes=120, name="pbmc68k")
    found = generated.of_true_genes(model, cells, [5, 60], n_draws=1, n_cells=2, n_train=2)
    assert set(found["method"]) == {generated.ZERO_SHOT, generated.WITH_MEANS, generated.CORPUS, generated.RIDGE}
    error = found.groupby(["method", "observed"])["value"].mean()
    assert error[generated.RIDGE, 60] < error[generated.RIDGE, 5]
