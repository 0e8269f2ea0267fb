"""The rungs' forgetting in one table: what leaves the network alone loses nothing, and a stopped measurement goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_corpus import adata, model

from scfm.adaptation.replay import Memory
from studies import forgetting, ladder

HOW = {"epochs": 1000, "max_steps": 12, "minibatch": 10, "dtype": "float32"}


def climbed(**more):
    made, cells = model(), adata(80, 1)
    kinds = cells.obs["cell_type"].to_numpy()
    rungs = ("head", "lora", "partial 1", "full", "full, fast", "full, fast + replay")
    train, test = np.arange(40), np.arange(40, 80)
    given = {"held_out": Memory(made, adata(60)), "replay": Memory(made, adata(60, 2)), "rungs": rungs} | more
    return {name: found for name, found, _ in forgetting.climb(made, made.tokenize(cells), kinds, train, test, **given, **HOW)}  # fmt: skip


def test_every_rung_is_asked_the_same_questions_as_the_untouched_network(monkeypatch) -> None:
    monkeypatch.setattr(Memory, "guess", lambda self, seed=0: 10.0)
    found = climbed()
    before = {row["error_before"] for row in found.values()}
    assert len(before) == 1
    assert found["head"]["lost"] == 0
    assert found[forgetting.ADAPTER_OFF]["lost"] == pytest.approx(0, abs=1e-6)
    assert found["lora"]["lost"] != 0
    # a random network has nothing to forget, so only the size of the change has a meaning here
    assert abs(found["full, fast"]["lost"]) > 3 * abs(found["full"]["lost"])
    assert found["full, fast + replay"]["error"] < found["full, fast"]["error"]
    assert found["full"]["lost"] == pytest.approx((found["full"]["error"] - before.pop()) / (10 - found["full"]["error_before"]))  # fmt: skip
    assert found["partial 1"]["trained_parameters"] < found["full"]["trained_parameters"]
    assert "balanced_accuracy" not in found[forgetting.ADAPTER_OFF]  # it answers as the head would; no new fit


def test_without_cells_to_replay_that_rung_is_left_out_and_without_a_guesser_no_share_is_said() -> None:
    found = climbed(replay=None)
    assert "full, fast + replay" not in found
    assert all(np.isnan(row["lost"]) for row in found.values())


def test_what_is_measured_is_kept_and_only_the_rest_is_run(tmp_path: Path, monkeypatch) -> None:
    made = model()
    calls: list[int] = []

    def climb(model, cells, kinds, train, test, held_out, replay, seed, **how):
        calls.append(seed)
        yield "head", {"balanced_accuracy": 0.5, "lost": 0.0}, None

    cells = adata(200, 1)
    monkeypatch.setattr("scfm.models.load_model", lambda name: made)
    monkeypatch.setattr("studies.sets.evaluation_set", lambda name: cells)
    monkeypatch.setattr(forgetting, "of_corpus", lambda model, *n: (adata(20), adata(20, 3)))
    monkeypatch.setattr(forgetting, "climb", climb)
    stored = tmp_path / "table.parquet"
    assert len(list(forgetting.measure(stored, ["tiny"], ["set"], range(3), most=2))) == 2
    assert calls == [0, 1]
    assert len(list(forgetting.measure(stored, ["tiny"], ["set"], range(3)))) == 1
    assert calls == [0, 1, 2]
    table = pd.read_parquet(stored)
    assert list(table.columns) == ladder.COLUMNS
    assert table.groupby("seed").size().tolist() == [2, 2, 2]
    assert list(forgetting.complete(table)["balanced_accuracy"]) == [0.5, 0.5, 0.5]
