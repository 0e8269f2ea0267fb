"""The ladder's shards: one draw for all methods, budgets that keep the 60 % rule, and a table that grows as shards finish."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scfm
from scfm import datasets
from studies import ladder
from studies.ladder import BASELINES, BUDGETS, COLUMNS, Shard
from studies.tables import write


@pytest.fixture
def small(monkeypatch) -> None:
    """Few test cells: a shard in seconds."""
    monkeypatch.setattr(ladder, "TEST_CELLS", 5)


def test_shards_cover_the_grid_once_and_geneformer_comes_before_scgpt() -> None:
    every = ladder.shards()
    n = len(ladder.DATASETS) * ladder.SEEDS
    assert len(every) == len(set(every)) == 3 * n
    assert [s.model for s in every] == [BASELINES] * n + ["geneformer-mini"] * n + ["scgpt-mini"] * n
    own = [s for s in every if s.model == "geneformer-mini"]
    assert {s.dataset for s in own[: len(ladder.DATASETS)]} == set(
        ladder.DATASETS
    )  # a first draw of all sets, then the next
    assert len({s.name for s in every}) == len(every)
    arms = {f"{arm}{rung}" for arm in ("", "twin ", "start ") for rung in ("head", "lora", "full")}
    assert {*arms, "partial"} == set(every[-1].methods)
    assert every[-1].way("start lora") == ("start", {"method": "lora"})
    assert every[-1].way("twin full") == ("random", {"method": "full"})


def test_budgets_that_add_no_label_are_left_out() -> None:
    assert ladder.budgets_of(np.repeat(["a", "b"], [400, 20])) == list(BUDGETS)
    assert ladder.budgets_of(np.repeat(["a", "b"], [35, 35])) == [5, 10, 30]  # 21 cells at most, whatever is asked
    assert ladder.budgets_of(np.repeat(["a", "b"], [20, 20])) == [5, 10, 30]
    assert ladder.budgets_of(np.repeat(["a", "b"], [16, 16])) == [5, 10]


def test_a_draw_takes_no_cell_twice_and_never_over_60_percent_of_a_class() -> None:
    kinds = np.repeat(["a", "b", "c"], [300, 60, 22])
    for budget in BUDGETS:
        for seed in range(3):
            train, test = ladder.draw(kinds, budget, seed)
            assert not set(train) & set(test)
            for kind, n in (("a", 300), ("b", 60), ("c", 22)):
                assert (kinds[train] == kind).sum() == min(budget, int(0.6 * n))
                left = n - (kinds[train] == kind).sum()
                assert (kinds[test] == kind).sum() == min(ladder.TEST_CELLS, left)
            again, same = ladder.draw(kinds, budget, seed)
            assert np.array_equal(train, again)
            assert np.array_equal(test, same)
    assert not np.array_equal(ladder.draw(kinds, 5, 0)[0], ladder.draw(kinds, 5, 1)[0])


def test_all_methods_of_a_draw_see_the_same_cells(small, tmp_path: Path, monkeypatch) -> None:
    seen: dict[str, list] = {}

    def score(self, method, train, test):
        seen.setdefault(method, []).append((tuple(train), tuple(test)))
        return {"balanced_accuracy": 0.5}

    monkeypatch.setattr(ladder.Contestants, "score", score)
    for model in (BASELINES, "geneformer-mini"):
        ladder.run(Shard(model, "pbmc68k", 1), tmp_path)
    assert set(seen) == {*ladder.RUNGS, *ladder.FROM_SCRATCH}
    assert len({tuple(draws) for draws in seen.values()}) == 1
    assert len(seen["head"]) == len(BUDGETS)


def test_a_shard_gives_a_tidy_table_with_costs(small, tmp_path: Path) -> None:
    table = ladder.run(
        Shard("geneformer-mini", "pbmc68k", 0), tmp_path, steps=1, budgets=[5], methods=["head", "twin head", "partial"]
    )
    table = pd.concat([table, ladder.run(Shard(BASELINES, "pbmc68k", 0), tmp_path, budgets=[5])])
    assert list(table.columns) == COLUMNS
    wide = table.pivot_table(index=["model", "method"], columns="metric", values="value")
    assert {"balanced_accuracy", "macro_f1", "accuracy", "trained_parameters", "seconds", "cpu_seconds"} <= set(wide)
    assert wide["balanced_accuracy"].between(0, 1).all()
    assert (wide["n_train"] == 35).all()
    assert (wide["n_test"] == 35).all()
    scores = wide["balanced_accuracy"]
    assert scores[BASELINES, "logistic PCA"] > 0.5  # seven types: chance is 0.14
    assert scores["geneformer-mini", "head"] > 0.5
    classes = 7
    assert wide.loc[("geneformer-mini", "head"), "trained_parameters"] == 129 * classes
    assert wide.loc[("geneformer-mini", "partial"), "trained_parameters"] > 129 * classes
    assert wide.loc[("geneformer-mini", "partial"), "steps"] == 1


def test_a_killed_shard_goes_on_and_other_settings_start_afresh(small, tmp_path: Path, monkeypatch) -> None:
    calls: list[tuple] = []

    def score(self, method, train, test):
        calls.append((method, len(train)))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return {"balanced_accuracy": len(calls) / 10}

    monkeypatch.setattr(ladder.Contestants, "score", score)
    shard = Shard("geneformer-mini", "pbmc68k", 0)
    with pytest.raises(KeyboardInterrupt):
        ladder.run(shard, tmp_path, budgets=[5])
    kept = pd.read_parquet(tmp_path / f"{shard.name}.part.parquet")
    assert len(kept) == 3 * 4  # three methods, each a score and three counts
    table = ladder.run(shard, tmp_path, budgets=[5])
    assert len(calls) == len(ladder.RUNGS) + 1  # only the one that was interrupted ran twice
    assert table.groupby("method").size().eq(4).all()
    calls.clear()
    calls += [("", 0)] * 10
    ladder.run(shard, tmp_path, steps=7, budgets=[5])
    assert len(calls) == 10 + len(ladder.RUNGS)


def test_work_is_shared_by_locks_and_finished_shards_are_kept(tmp_path: Path, monkeypatch) -> None:
    import filelock

    made: list[str] = []

    def run(shard, work, steps):
        made.append(shard.name)
        return pd.DataFrame([[shard.model, "head", shard.dataset, 5, shard.seed, "accuracy", 0.5]], columns=COLUMNS)

    monkeypatch.setattr(ladder, "run", run)
    wanted = ladder.shards(["geneformer-mini"], ["pbmc68k"], 2)
    out, work = tmp_path / "ladder", tmp_path / "work"
    work.mkdir()
    with filelock.FileLock(work / f"{wanted[1].name}.lock"):
        lines = list(ladder.work_through(wanted, out, work))
    assert sum("another process" in line for line in lines) == 1
    assert len(made) == 3
    list(ladder.work_through(wanted, out, work))
    assert len(made) == 4  # only the one that was missing
    assert len(ladder.collect(out)) == 4
    assert list(ladder.collect(out).columns) == COLUMNS


def test_shards_of_other_weights_or_settings_are_refused_too(tmp_path: Path, monkeypatch) -> None:
    shard = Shard("geneformer-mini", "pbmc68k", 0)
    rows = [[shard.model, "lora", shard.dataset, 5, 0, "steps", 80.0]]
    write(pd.DataFrame(rows, columns=COLUMNS), shard.path(tmp_path), {"shard": shard.stamp(80)})
    assert list(ladder.work_through([shard], tmp_path, tmp_path, steps=80)) == []
    with pytest.raises(ValueError, match="steps = 80, and 7 is asked for"):
        list(ladder.work_through([shard], tmp_path, tmp_path, steps=7))
    monkeypatch.setattr(ladder, "weights_of", lambda model: "0" * 12)
    with pytest.raises(ValueError, match=r"weights = .*, and 000000000000 is asked for"):
        list(ladder.work_through([shard], tmp_path, tmp_path, steps=80))


def test_shards_of_other_steps_are_refused_not_taken_as_done(tmp_path: Path, monkeypatch) -> None:
    shard = Shard("geneformer-mini", "pbmc68k", 0)
    rows = [[shard.model, method, shard.dataset, 5, 0, "steps", n] for method, n in (("head", 0.0), ("lora", 80.0))]
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(shard.path(tmp_path))
    monkeypatch.setattr(ladder, "run", lambda *_: pytest.fail("it is there already"))
    assert list(ladder.work_through([shard], tmp_path, tmp_path, steps=80)) == []
    with pytest.raises(ValueError, match=r"80 steps, and 7 are asked for.*--out"):
        list(ladder.work_through([shard], tmp_path, tmp_path, steps=7))
    given = ["--models", "geneformer-mini", "--datasets", "pbmc68k", "--seeds", "1", "--steps", "7"]
    monkeypatch.setattr(sys, "argv", ["ladder", *given, "--out", str(tmp_path), "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit, match="80 steps"):
        ladder.main()


@pytest.mark.parametrize("words", [["--jobs", "4"], ["--jobs=4"]])
def test_a_worker_starts_no_workers(tmp_path: Path, monkeypatch, words: list[str]) -> None:
    started: list[list[str]] = []

    class Worker:
        def __init__(self, command: list[str], env: dict) -> None:
            started.append(command[3:])

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(ladder.subprocess, "Popen", Worker)
    monkeypatch.setattr(ladder, "write", lambda out: None)
    own = ["--models", "--datasets", "--seeds", "1", "--out", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["ladder", *own, *words])
    ladder.main()
    assert len(started) == 4
    monkeypatch.setattr(ladder, "_in_parallel", lambda jobs: pytest.fail("a worker started workers"))
    for command in started:
        monkeypatch.setattr(sys, "argv", ["ladder", *command])
        ladder.main()


def test_an_abbreviated_option_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(ladder, "_in_parallel", lambda jobs: pytest.fail("--job is not --jobs"))
    monkeypatch.setattr(sys, "argv", ["ladder", "--job", "4"])
    with pytest.raises(SystemExit):
        ladder.main()
    assert "--job" in capsys.readouterr().err


def test_a_set_without_all_draws_waits_and_is_named() -> None:
    rows = [[model, "head", name, 5, seed, "accuracy", 0.5] for name in ("whole", "begun") for model in (BASELINES, "mini") for seed in range(3)]  # fmt: skip
    table = pd.DataFrame([r for r in rows if r[:3] + r[4:5] != ["mini", "head", "begun", 2]], columns=COLUMNS)
    found, lines = ladder.complete(table)
    assert set(found["dataset"]) == {"whole"}
    assert len(lines) == 1
    assert "begun" in lines[0]
    assert "mini 2 of 3" in lines[0]
    assert len(ladder.complete(table[table["seed"] == 0])[0]) == 4


def test_what_is_not_here_is_left_out_with_its_reason(monkeypatch) -> None:
    monkeypatch.delenv("SCFM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    kang = {key: value for key, value in datasets.entries()["kang_ifnb_pbmc"].items() if key != "origin"}
    known = datasets.entries() | {"kang_ifnb_pbmc": kang}  # a set without a recipe
    monkeypatch.setattr(datasets, "entries", lambda: known)
    wanted = [
        Shard("geneformer-mini", "pbmc68k", 0),
        Shard("geneformer-mini", "pancreas_baron_175", 0),  # is made when it is loaded
        Shard("geneformer-mini", "kang_ifnb_pbmc", 0),
        Shard("no-such", "pbmc68k", 0),
    ]
    can, missing = ladder.possible(wanted)
    assert can == wanted[:2]
    assert "SCFM_CACHE" in missing["kang_ifnb_pbmc"]
    assert "models.toml" in missing["no-such"]


def test_the_command_writes_table_figure_and_plan(tmp_path: Path, monkeypatch, capsys) -> None:
    def run(shard, work, steps):
        rows = [
            [shard.model, method, shard.dataset, budget, shard.seed, "balanced_accuracy", 0.5 + shard.seed / 10]
            for method in shard.methods
            for budget in BUDGETS
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    monkeypatch.setattr(ladder, "run", run)
    given = ["--models", "geneformer-mini", "--datasets", "pbmc68k", "--seeds", "3", "--out", str(tmp_path / "ladder")]
    given += ["--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["ladder", *given, "--plan"])
    ladder.main()
    assert "geneformer-mini: 0 of 3 shards" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["ladder", *given])
    ladder.main()
    table = pd.read_parquet(tmp_path / "ladder.parquet")
    assert list(table.columns) == COLUMNS
    assert table["seed"].nunique() == 3
    assert (tmp_path / "ladder.png").stat().st_size > 10_000
    named = json.loads((tmp_path / "ladder_left_out.json").read_text())
    assert set(named) == {"pbmc68k"}
    assert all(n < 20 for n in named["pbmc68k"].values())
    assert "CD34+" in named["pbmc68k"]
    assert "3 draws" in capsys.readouterr().out


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make ladder"):
        ladder.collect(tmp_path)


def test_the_stored_table_says_which_types_took_no_part() -> None:
    found = ladder.types_left_out()
    assert set(scfm.results("ladder")["dataset"]) <= set(found)
    assert all(n < 20 for types in found.values() for n in types.values())
