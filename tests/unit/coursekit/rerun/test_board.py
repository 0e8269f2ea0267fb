"""From scores to the leaderboard: what is refused, what is paired, what the tests decide, what the page says."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from itertools import product
from operator import mul
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coursekit.course import CourseError
from coursekit.lesson import scores
from coursekit.lesson.recording import record
from coursekit.rerun import board, boardpage

ROLES = {"model": "model", "pca": "baseline", "mean": "baseline", "twin": "twin"}
LEVELS = {"model": 0.8, "pca": 0.7, "mean": 0.5, "twin": 0.6}


def long_table(dataset: str = "blood", levels: dict[str, float] = LEVELS, n: int = 20, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    draws = rng.normal(0, 0.05, n)  # a hard draw is hard for everyone
    rows = [
        ("m", method, dataset, 10, draw, "accuracy", level + draws[draw] + rng.normal(0, 0.01))
        for method, level in levels.items()
        for draw in range(n)
    ]
    return pd.DataFrame(rows, columns=list(scores.COLUMNS))


def run_folder(at: Path, table: pd.DataFrame | None, seed: int = 0, **parameters: object) -> Path:
    at.mkdir(parents=True)
    card = {
        "card": 1, "lesson": "03_zero", "status": "passed", "seconds": 60.0 + seed, "peak_memory_bytes": 2**30,
        "parameters": {"dataset": "blood", "model": "m", "seed": seed, **parameters},
        "results": {"n": {"value": 3}, "acc": {"value": {"pca": 0.5, "none": "NaN"}}, "name": {"value": "x"}},
        "device": {"cpu": "one", "gpus": []}, "grid": {"key": at.name},
    }  # fmt: skip
    (at / "card.json").write_text(json.dumps(card))
    if table is not None:
        table.to_parquet(at / scores.FILE)
    return at


def tidy_of(tmp_path: Path, *tables: pd.DataFrame) -> pd.DataFrame:
    formed = [scores.in_form(table, ROLES, ["accuracy"]) for table in tables]
    return board.gather([run_folder(tmp_path / f"r{n}", table, seed=n) for n, table in enumerate(formed)])


# --- what a lesson hands over -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (lambda t: t.drop(columns="seed"), {}, "no column seed"),
        (lambda t: t.assign(method="new"), {}, "no role for new"),
        (lambda t: t, {"roles": ROLES | {"pca": "rival"}}, "no role is called rival"),
        (lambda t: t, {"key": ["f1"]}, "no metric f1"),
        (lambda t: t, {"key": []}, "key names no metric"),
        (lambda t: t.assign(value=np.nan), {}, "is nan; a score is a finite number"),
        (lambda t: pd.concat([t, t]), {}, "comes twice"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(change, more, words) -> None:
    arguments = {"roles": ROLES, "key": ["accuracy"]} | more
    with pytest.raises(ValueError, match=words):
        scores.in_form(change(long_table()), **arguments)


def test_scores_go_into_the_runs_file_only_within_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(scores.PLACE, raising=False)
    record.scores(long_table(), ROLES, ["accuracy"])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(scores.PLACE, str(tmp_path / "scores.parquet"))
    cost = pd.DataFrame({"dataset": ["blood"], "method": ["pca"], "cells": [100], "seconds": [0.2]})
    record.scores(long_table(), ROLES, ["accuracy"], cost=cost)
    record.scores(long_table("lung"), ROLES, ["accuracy"])
    kept = pd.read_parquet(tmp_path / "scores.parquet")
    assert kept["dataset"].value_counts().to_dict() == {"blood": 80, "lung": 80}
    told = kept[kept["ms_per_cell"].notna()]
    assert set(zip(told["dataset"], told["method"], told["ms_per_cell"], strict=True)) == {("blood", "pca", 2.0)}
    with pytest.raises(ValueError, match="recorded before"):
        record.scores(long_table(), ROLES, ["accuracy"])

    def half(self: pd.DataFrame, path: Path, **_: object) -> None:
        Path(path).write_text("PAR1")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    with pytest.raises(OSError, match="no space left"):
        record.scores(long_table("skin"), ROLES, ["accuracy"])
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


# --- gathering --------------------------------------------------------------------------------------------


def test_the_order_of_the_runs_leaves_no_trace(tmp_path: Path) -> None:
    formed = scores.in_form(long_table(), ROLES, ["accuracy"])
    folders = [run_folder(tmp_path / f"r{n}", formed, seed=n) for n in range(3)]
    one, other = board.gather(folders), board.gather(folders[::-1])
    pd.testing.assert_frame_equal(one, other)
    assert list(one.columns) == list(board.TIDY)
    assert len(one) == 3 * 80


def test_a_lesson_without_scores_gives_its_numbers_but_no_comparison(tmp_path: Path) -> None:
    table = board.gather([run_folder(tmp_path / "r", None)])
    assert table[["metric", "method", "value"]].to_numpy().tolist()[-1] == ["n", "", 3.0]
    assert set(table["metric"]) == {"n", "acc"}  # a name is no number
    assert len(board.compare(table)) == 0


def test_settings_and_own_files_are_told_apart(tmp_path: Path) -> None:
    formed = [
        scores.in_form(long_table(name), ROLES, ["accuracy"]) for name in ("/a/x/mine.h5ad", "/a/y/mine.h5ad", "blood")
    ]
    folders = [run_folder(tmp_path / f"r{n}", t, n_draws=n) for n, t in enumerate(formed)]
    table = board.gather(folders)
    assert set(table["dataset"]) == {"x/mine.h5ad", "y/mine.h5ad", "blood"}
    assert set(table["setting"]) == {"n_draws 0", "n_draws 1", "n_draws 2"}
    alone = board.gather([folders[0]])
    assert set(alone["dataset"]) == {"mine.h5ad"}
    assert set(alone["setting"]) == {""}


# --- comparing --------------------------------------------------------------------------------------------


def test_the_model_meets_the_strongest_baseline_and_losses_stay(tmp_path: Path) -> None:
    won = long_table("won")
    lost = long_table("lost", LEVELS | {"mean": 0.9})
    even = long_table("even", LEVELS | {"pca": 0.8})
    table = board.compare(tidy_of(tmp_path, pd.concat([won, lost, even])))
    best = table[table["strongest"]].set_index("dataset")
    assert best["rival"].to_dict() == {"won": "pca", "lost": "mean", "even": "pca"}
    assert best["verdict"].to_dict() == {"won": "better", "lost": "worse", "even": "undecided"}
    assert best.loc["won", "gain"] == pytest.approx(0.1, abs=0.01)
    assert best.loc["won", "high"] - best.loc["won", "low"] < 0.02  # paired: the hard draws cancel
    assert len(table) == 9  # twin and weaker baseline too


def test_what_so_few_draws_cannot_show_is_said(tmp_path: Path) -> None:
    few = board.compare(tidy_of(tmp_path / "few", long_table(n=5, levels=LEVELS | {"model": 0.99})))
    assert set(few["verdict"]) == {"undecided"}  # 5 draws: p is 1/16 at the least
    assert few["too_few_draws"].all()
    assert "undecided: too few draws" in boardpage.page(few, tidy_of(tmp_path / "again", long_table(n=5)), "")
    enough = board.compare(tidy_of(tmp_path / "enough", long_table(n=20, levels=LEVELS | {"model": 0.99})))
    assert set(enough["verdict"]) == {"better"}
    assert not enough["too_few_draws"].any()
    assert board.least_p(5) == board.sign_flips(np.full(5, 0.3))
    assert board.least_p(20) == board.sign_flips(np.full(20, 0.3))


def test_lower_can_be_better(tmp_path: Path) -> None:
    formed = scores.in_form(long_table(), ROLES, ["accuracy"], lower_is_better=["accuracy"])
    table = board.compare(board.gather([run_folder(tmp_path / "r", formed)]))
    best = table[table["strongest"]].iloc[0]
    assert (best["rival"], best["verdict"]) == ("mean", "worse")
    assert best["gain"] < 0


def test_seeds_that_disagree_widen_the_interval(tmp_path: Path) -> None:
    same = board.compare(tidy_of(tmp_path / "a", *(long_table(seed=s) for s in range(4))))
    moved = [long_table(seed=s, levels=LEVELS | {"model": 0.8 + 0.05 * (-1) ** s}) for s in range(4)]
    apart = board.compare(tidy_of(tmp_path / "b", *moved))
    width = [float((t[t["strongest"]]["high"] - t[t["strongest"]]["low"]).iloc[0]) for t in (same, apart)]
    assert width[1] > 4 * width[0]
    assert same["n_seeds"].unique().tolist() == [4]
    assert same["n_draws"].unique().tolist() == [80]


def exactly(values: list[float], slack: Fraction = Fraction(0)) -> float:
    """The share of all tosses of signs whose mean is as far from 0, in fractions; ``slack`` (of the largest) is a tie."""
    parts = [Fraction(value) for value in values]
    least = abs(sum(parts)) - slack * max(map(abs, parts)) * len(parts)
    sums = [abs(sum(map(mul, signs, parts))) for signs in product((-1, 1), repeat=len(parts))]
    return sum(one >= least for one in sums) / len(sums)


# Sums near 0, where scipy's permutation test takes its own rounding for a difference and says 0.96875.
NEAR_ZERO = [0, 0, -0.7890625, -0.421875, 0.99999, 0.0625, 0.1015625, 0.046875]


@example([1e-254, 1e-254])
@example(NEAR_ZERO)
@example([0.1, 0.2, -0.3])
@given(
    st.lists(
        st.floats(-1, 1, allow_subnormal=False) | st.integers(-20, 20).map(lambda n: n / 10), min_size=2, max_size=9
    )
)
@settings(max_examples=40)
def test_sign_flips_are_those_of_exact_fractions(values: list[float]) -> None:
    # ours calls a tie what differs by less than 1e-12 of the largest: between half and double of that it may do either
    least, most = (exactly(values, Fraction(n, 10**12)) for n in (Fraction(1, 2), 2))
    assert least <= board.sign_flips(np.array(values)) <= most


@pytest.mark.parametrize("values", [NEAR_ZERO, [0.25, -0.5, 0.75, 1.0], [1e-254, 1e-254]])
def test_sign_flips_without_any_slack(values: list[float]) -> None:
    assert board.sign_flips(np.array(values)) == exactly(values)


def test_random_tosses_agree_with_all_of_them() -> None:
    differences = np.random.default_rng(3).normal(0.3, 1, 13)
    exact = board.sign_flips(differences)
    many = np.random.default_rng(0).choice([-1.0, 1.0], (board.N_FLIPS, 13)) @ differences / 13
    assert exact == pytest.approx((np.abs(many) >= abs(differences.mean())).mean(), abs=0.02)
    assert board.sign_flips(np.full(20, 0.1)) == pytest.approx(1 / (1 + board.N_FLIPS), rel=3)


def test_holm_against_its_definition() -> None:
    assert board.holm(np.array([0.01, 0.04, 0.03, 0.5])).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert board.holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_few_datasets_get_no_test(tmp_path: Path) -> None:
    tables = [long_table(f"set{n}", seed=n) for n in range(6)]
    few = board.over_datasets(board.compare(tidy_of(tmp_path / "a", pd.concat(tables[:5]))))
    many = board.over_datasets(board.compare(tidy_of(tmp_path / "b", pd.concat(tables))))
    assert few["p"].isna().all()
    assert few["better"].tolist() == [5]
    assert many["p"].tolist() == pytest.approx([2 / 2**6])  # the smallest that six datasets can give
    assert many["low"].iloc[0] > 0


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    tidy = tidy_of(tmp_path, pd.concat([long_table("won"), long_table("lost_set", LEVELS | {"pca": 0.9})]))
    page = boardpage.publish(tmp_path, tidy)
    text = page.read_text()
    assert "accuracy: better in 1, worse in 1 of 2 comparisons" in text
    assert "no: worse" in text
    assert "lost\\_set" in text
    assert "below six of them no signed-rank test" in text
    assert (page.parent / "leaderboard.png").read_bytes()[:4] == b"\x89PNG"
    alt = text.split("![")[1].split("]")[0]
    assert "lost set, 10 labels, accuracy: m, model worse" in alt
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / boardpage.STORED), tidy)
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| 03")}
    assert len(widths) == 3  # three tables with the lesson first, each of one width


def test_a_page_of_twins_alone_has_no_figure(tmp_path: Path) -> None:
    table = long_table(levels={"model": 0.8, "twin": 0.6})
    before = boardpage.publish(tmp_path, tidy_of(tmp_path / "a", long_table()))
    assert "leaderboard.png" in before.read_text()
    page = boardpage.publish(tmp_path, tidy_of(tmp_path / "b", table))
    assert "No lesson of these grids has a baseline" in page.read_text()
    assert "twin (twin)" in page.read_text()
    assert "leaderboard.png" not in page.read_text()
    assert not (page.parent / "leaderboard.png").exists()


def test_a_model_has_one_colour_on_the_whole_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scfm import plots

    first, second = (long_table().assign(model=name) for name in ("one", "two"))
    tables = [pd.concat([first, second]), second.assign(metric="f1")]
    formed = [scores.in_form(t, ROLES, list(set(t["metric"]))) for t in tables]
    tidy = board.gather([run_folder(tmp_path / f"r{n}", table) for n, table in enumerate(formed)])
    drawn, real = [], plots.intervals
    monkeypatch.setattr(plots, "intervals", lambda *a, **k: drawn.append(real(*a, **k)) or drawn[-1])
    boardpage.draw(board.compare(tidy), tmp_path / "figure.png")
    assert len(drawn) == 2
    dots = [[line.get_color() for line in ax.lines if len(line.get_xdata()) == 1] for ax in drawn]
    assert dots == [[plots.PALETTE[0], plots.PALETTE[1]], [plots.PALETTE[1]]]
    legends = [ax.get_legend() for ax in drawn]
    assert legends[0] is None
    lines = {line.get_label(): line.get_color() for line in legends[1].get_lines()}
    assert lines == {"one, model": plots.PALETTE[0], "two, model": plots.PALETTE[1]}


def test_no_results_no_board(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="No grid has been run yet"):
        board.results_of(tmp_path)
    with pytest.raises(CourseError, match="The grid big has no results yet"):
        board.results_of(tmp_path, ["big"])


def grid_of(root: Path, name: str, when: int, *tables: pd.DataFrame, **parameters: object) -> None:
    """A grid that has been run: its runs (a seed each) in the store, its results beside the plan."""
    formed = [scores.in_form(table, ROLES, ["accuracy"]) for table in tables]
    store = root / "runs" / "grid" / "store" / "03_zero"
    folders = [run_folder(store / f"{name}{n}", table, seed=n, **parameters) for n, table in enumerate(formed)]
    path = board.write_table(board.gather(folders), root / "runs" / "grid" / name / "results.parquet")
    os.utime(path, (1000 + when, 1000 + when))


def test_the_later_grid_counts_as_a_whole(tmp_path: Path) -> None:
    grid_of(tmp_path, "new", 2, long_table(seed=1, n=6))
    grid_of(tmp_path, "old", 1, long_table(seed=0, n=20))
    both = board.results_of(tmp_path)
    assert len(both) == 24  # no draw of the old run fills up the new one
    assert set(both["run"]) == {"new0"}
    assert set(board.results_of(tmp_path, ["old"])["run"]) == {"old0"}


def test_grids_of_other_parameters_are_not_mixed(tmp_path: Path) -> None:
    """All runs of a grid have its profile: only beside another grid does it tell them apart."""
    won, lost = LEVELS | {"model": 0.9}, LEVELS | {"model": 0.3}
    grid_of(tmp_path, "a", 1, long_table(levels=won), profile="cpu", n_draws=20)
    grid_of(tmp_path, "b", 2, long_table(levels=lost, n=6), profile="quick", n_draws=6)
    table = board.compare(board.results_of(tmp_path))
    best = table[table["strongest"]].set_index("setting")
    assert best["n_draws"].to_dict() == {"profile cpu, n_draws 20": 20, "profile quick, n_draws 6": 6}
    assert best["gain"].round(1).to_dict() == {"profile cpu, n_draws 20": 0.2, "profile quick, n_draws 6": -0.4}
    alone = board.results_of(tmp_path, ["a"])
    assert set(alone["setting"]) == {""}


def test_another_label_of_the_same_set_is_another_question(tmp_path: Path) -> None:
    formed = scores.in_form(long_table(), ROLES, ["accuracy"])
    folders = [run_folder(tmp_path / f"r{n}", formed, label=label) for n, label in enumerate(("type", "donor"))]
    folders.append(run_folder(tmp_path / "other", formed, dataset="lung", label="class"))
    table = board.gather(folders).drop_duplicates("run").set_index("run")
    assert table["setting"].to_dict() == {"r0": "label type", "r1": "label donor", "other": ""}


def test_runs_that_are_gone_are_named(tmp_path: Path) -> None:
    grid_of(tmp_path, "a", 1, long_table(), long_table(seed=1))
    shutil.rmtree(tmp_path / "runs" / "grid" / "store" / "03_zero" / "a1")
    with pytest.raises(CourseError, match="1 of the grid a's 2 runs are gone"):
        board.results_of(tmp_path)
