"""The study of scale: which runs there are, that a run is resumed and measured, and that what is there is kept."""

from __future__ import annotations

from dataclasses import replace

from scfm.pretraining import corpus, geneformer_mini
from studies import scale
from studies.scale import Run


def test_the_runs_are_a_spread_of_seeds_and_a_grid_of_sizes_and_shares() -> None:
    made = scale.runs()
    assert len(set(made)) == len(made) == 3 + 2 * 3 - 1
    assert [run.seed for run in made if run.size == "mini" and run.share == 1.0] == [0, 1, 2]
    assert {(run.size, run.share) for run in made} == {(s, p) for s in scale.SIZES for p in scale.SHARES}
    small = Run("small", 1 / 16, 0).settings()
    assert (small.hidden, small.layers, small.share_of_cells, small.steps) == (64, 2, 0.0625, scale.STEPS)
    assert Run("mini", 1.0, 2).settings() == replace(
        geneformer_mini.Settings(), name="scale-mini-1-2", steps=scale.STEPS, seed=2
    )


def test_a_run_is_trained_measured_and_kept(tmp_path, monkeypatch) -> None:
    tiny = {
        "hidden": 16,
        "layers": 1,
        "heads": 2,
        "feed_forward": 32,
        "min_cells": 30,
        "max_len": 40,
        "minibatch": 8,
        "pool": 5,
    }
    monkeypatch.setattr(scale, "SIZES", {"mini": tiny})
    monkeypatch.setattr(scale, "SHARES", (0.25, 1.0))
    monkeypatch.setattr(scale, "SEEDS", (0,))
    monkeypatch.setattr(scale, "DATASETS", ())
    monkeypatch.setattr(scale.measured, "__defaults__", ((), 2))
    blood = corpus.read_corpus(["pbmc68k"])
    out = tmp_path / "scale.parquet"
    said = list(scale.work_through(blood, out, tmp_path / "work", steps=6))
    assert said == [f"{run.name}: done" for run in scale.runs()]
    table = scale.Growing(out, ("model",)).table
    assert set(table["model"]) == {run.name for run in scale.runs()}
    assert (table["metric"] == scale.LOSS).all()
    assert table["value"].between(2, 12).all()
    assert list(scale.work_through(blood, out, tmp_path / "work", steps=6)) == []  # nothing is made twice
