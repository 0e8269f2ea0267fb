"""The sweep of lesson 05: the ladder's draws and scores, other fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scfm.adaptation.choices import Choices
from studies import ladder, sweep


def test_every_variant_is_a_valid_choice_and_says_its_dtype() -> None:
    shard = sweep.Shard("geneformer-mini", "pbmc68k", 0, 10)
    assert len(set(shard.methods)) == len(shard.methods)
    for method in sweep.variants():
        weights, how = shard.way(method)
        assert (weights == "random") == method.startswith("twin ")
        assert Choices.from_options(**how).dtype == sweep.DTYPE


def test_the_draws_are_the_ladders_and_the_fits_are_shorter(tmp_path: Path, monkeypatch) -> None:
    seen = {}

    def score(self, method, train, test):
        seen[type(self.shard)] = (tuple(train), tuple(test), self.cells().lengths.max())
        return {"balanced_accuracy": 0.5}

    monkeypatch.setattr(ladder.Contestants, "score", score)
    sweeping = sweep.Shard("geneformer-mini", "pbmc68k", 1, 10)
    table = ladder.run(sweeping, tmp_path, methods=["head"])
    ladder.run(ladder.Shard("geneformer-mini", "pbmc68k", 1), tmp_path, budgets=[10], methods=["head"])
    ours, theirs = seen[sweep.Shard], seen[ladder.Shard]
    assert ours[:2] == theirs[:2]
    assert ours[2] == sweep.MAX_LEN < theirs[2]
    assert set(table["labels_per_class"]) == {10}


def test_ranks_cost_in_proportion(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ladder, "TEST_CELLS", 3)
    shard = sweep.Shard("geneformer-mini", "pbmc68k", 0, 5)
    table = ladder.run(shard, tmp_path, steps=1, methods=["head", "lora r=1", "lora r=4"])
    n = table[table["metric"] == "trained_parameters"].set_index("method")["value"]
    assert np.isclose(n["lora r=4"] - n["head"], 4 * (n["lora r=1"] - n["head"]))
