"""Statements from few draws: intervals that hold what they say, paired verdicts, and the decision computed from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from studies import comparisons, ladder_figure
from studies.comparisons import cheapest, paired, verdicts

COLUMNS = ["model", "method", "dataset", "labels_per_class", "seed", "metric", "value"]


def table(scores: dict[tuple[str, str], dict[int, float]], noise: float = 0.01, seeds: int = 5, dataset: str = "in") -> pd.DataFrame:  # fmt: skip
    """(model, method) → budget → mean; draws share their luck, as they share their cells."""
    rng = np.random.default_rng(3)
    luck = {(b, s): rng.normal(0, 0.1) for b in (5, 30) for s in range(seeds)}
    rows = []
    for (model, method), means in scores.items():
        for budget, mean in means.items():
            for seed in range(seeds):
                value = mean + luck[budget, seed] + rng.normal(0, noise)
                rows.append((model, method, dataset, budget, seed, "balanced_accuracy", value))
                rows.append((model, method, dataset, budget, seed, "cpu_seconds", PRICE[method]))
    return pd.DataFrame(rows, columns=COLUMNS)


PRICE = {"head": 0.3, "lora": 20.0, "partial": 12.0, "full": 18.0, "logistic PCA": 0.01, "logistic HVG": 0.02}
SCORES = {
    ("m", "head"): {5: 0.60, 30: 0.70},
    ("m", "lora"): {5: 0.70, 30: 0.80},
    ("m", "full"): {5: 0.70, 30: 0.90},
    ("none", "logistic PCA"): {5: 0.40, 30: 0.90},
}
WHERE = {"in": True, "out": False}


def test_pairs_see_what_separate_intervals_hide() -> None:
    long = table(SCORES)
    found = paired(long, [("lora", "head"), ("lora", "full"), ("head", "logistic PCA"), ("lora", "nobody")])
    verdict = found.set_index(["ours", "rival", "labels_per_class"])["verdict"]
    assert verdict["lora", "head", 5] == "better"
    assert verdict["lora", "full", 5] == "undecided"
    assert verdict["lora", "full", 30] == "worse"
    assert verdict["head", "logistic PCA", 30] == "worse"
    assert "nobody" not in set(found["rival"])
    lines = comparisons.summary(long[long["metric"] == "balanced_accuracy"]).set_index(["method", "labels_per_class"])
    assert lines.loc[("head", 5), "high"] > lines.loc[("lora", 5), "low"]  # the luck of the draw is wider than the gap
    assert (found["n"] == 5).all()
    wide = comparisons.wide(long, "m", "in").loc[5]
    assert found["p"].iloc[0] == pytest.approx(scipy_stats.ttest_rel(wide["lora"], wide["head"]).pvalue)
    counts = verdicts(found, ("ours", "rival"))
    assert counts.loc[("lora", "head"), ["better", "undecided", "worse"]].tolist() == [2, 0, 0]
    assert counts.loc[("lora", "head"), "by chance"] == pytest.approx(0.1)


def test_equal_scores_are_undecided() -> None:
    long = table({("m", "head"): {5: 0.5}}, noise=0)
    twice = pd.concat([long, long.assign(method="lora")])
    found = paired(twice, [("lora", "head")])
    assert found["verdict"].tolist() == ["undecided"]
    assert found["p"].tolist() == [1.0]


def test_the_cheapest_that_is_not_significantly_worse() -> None:
    long = table(SCORES)
    how = {"covered": WHERE}
    assert cheapest(long, "m", 5, True, ("head", "lora", "full"), **how)["method"] == "full"  # as good as lora, cheaper
    assert cheapest(long, "m", 30, True, ("head", "lora", "full"), **how)["method"] == "full"
    found = cheapest(long, "m", 100, True, ("logistic PCA", "head", "lora", "full"), **how)
    assert found["method"] == "logistic PCA"
    assert found["budget"] == 30
    assert found["draws"] == 5
    two = pd.concat([long, table(SCORES | {("m", "full"): {5: 0.5, 30: 0.9}}, dataset="in too")])
    both = cheapest(two, "m", 5, True, ("head", "lora", "full"), covered={"in": True, "in too": True})
    assert both["method"] == "lora"  # full fails on one of the two sets
    assert both["sets"] == ["in", "in too"]
    with pytest.raises(ValueError, match="no set of this kind"):
        cheapest(long, "m", 5, False, **how)
    with pytest.raises(ValueError, match="no budget of 2 labels or fewer"):
        cheapest(long, "m", 2, True, **how)


def test_where_no_method_is_good_everywhere_the_chart_says_so(monkeypatch) -> None:
    turned = {("m", "head"): {5: 0.9}, ("m", "full"): {5: 0.5}}
    two = pd.concat(
        [
            table({("m", "head"): {5: 0.5}, ("m", "full"): {5: 0.9}}),
            table(turned, dataset="in too"),
        ]
    )
    found = cheapest(two, "m", 5, True, ("head", "full"), covered={"in": True, "in too": True})
    assert found["method"] == comparisons.NO_ONE
    assert np.isnan(found["behind"])
    assert set(found["best"].values()) == {"head", "full"}
    monkeypatch.setattr(comparisons, "COVERED", {"in": True, "in too": True})
    chart = comparisons.decision_chart(two, methods=("head", "full"))
    words = [text.get_text() for text in ladder_figure.chart(chart).texts]
    assert comparisons.NO_ONE in words
    assert "best: full, head" in words


def test_the_figure_has_a_panel_per_model_and_set_and_a_key(monkeypatch) -> None:
    long = pd.concat([table(SCORES), table(SCORES, dataset="out")])
    long = pd.concat([long, long[long["method"] == "head"].assign(method="twin head")])
    monkeypatch.setattr(comparisons, "COVERED", WHERE)
    monkeypatch.setattr(ladder_figure, "COVERED", WHERE)
    panels = ladder_figure.figure(long.iloc[::-1])
    grid = np.asarray(panels, dtype=object).reshape(1, 2)
    assert "in\n" in grid[0, 0].get_title(loc="left")
    assert "NOT in the corpus" in grid[0, 1].get_title(loc="left")
    key = [text.get_text() for text in grid[0, 1].get_legend().get_texts()]
    assert {"head", "lora", "full", "twin (dashed)", "logistic PCA", "chance"} <= set(key)
    assert grid[0, 0].get_legend() is None
    styles = [line.get_linestyle() for line in grid[0, 0].get_lines()]
    assert styles.count("--") == 1
    one = ladder_figure.figure(long[long["seed"] == 0])  # a single draw has no interval, and still a figure
    assert len(np.asarray(one, dtype=object).ravel()) == 2


def test_the_chart_names_a_method_in_each_cell(monkeypatch) -> None:
    monkeypatch.setattr(comparisons, "COVERED", WHERE)
    long = pd.concat([table(SCORES), table({k: {5: v[5]} for k, v in SCORES.items()}, dataset="out")])
    decisions = comparisons.decision_chart(long)
    assert len(decisions) == 3  # the second set has one budget
    ax = ladder_figure.chart(decisions)
    words = [text.get_text() for text in ax.texts]
    assert decisions["method"].iloc[0] in words
    assert any("no set has" in word for word in words)


def test_the_bill_counts_points_over_the_head_and_per_minute_more() -> None:
    found = comparisons.bill(table(SCORES, noise=0))
    head, full = found.loc[("m", "head")], found.loc[("m", "full")]
    assert head["points"] == 0
    assert np.isnan(head["points_per_minute"])
    assert full["points"] == pytest.approx(15)  # 10 points with 5 labels, 20 with 30
    assert full["points_per_minute"] == pytest.approx(15 / ((18 - 0.3) / 60))
    assert np.isnan(found.loc[("none", "logistic PCA"), "points"])


def test_differences_are_drawn_per_model_and_set() -> None:
    compared = paired(table(SCORES), [(r, "logistic PCA") for r in ("head", "lora", "full")])
    ax = ladder_figure.differences(compared)
    assert ax.get_ylabel() == "m\nminus logistic PCA"
    drawn = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    expected = compared[compared["ours"] == "full"].sort_values("labels_per_class")["mean"]
    np.testing.assert_allclose(drawn["full"], expected)


def test_a_run_replaces_its_own_pairs_in_the_stored_table_and_leaves_the_others(tmp_path) -> None:
    def rows(model: str, dataset: str, *values: float) -> pd.DataFrame:
        return pd.DataFrame({"model": model, "dataset": dataset, "value": list(values)})

    path = tmp_path / "results" / "table.parquet"
    first = pd.concat([rows("b", "blood", 0.3, 0.1), rows("a", "islets", 0.5)], ignore_index=True)
    assert comparisons.with_stored(first, path) is first  # nothing stored yet
    comparisons.store(first, path)
    again = rows("b", "blood", 0.9)
    seen = comparisons.with_stored(again, path)
    assert seen.values.tolist() == [["b", "blood", 0.9], ["a", "islets", 0.5]]  # the run's own rows come first
    assert len(pd.read_parquet(path)) == 3, "looking must not write"
    whole = comparisons.store(again, path)
    comparisons.store(rows("b", "islets", 0.7, 0.6), path)
    assert whole.values.tolist() == [["a", "islets", 0.5], ["b", "blood", 0.9]]
    kept = pd.read_parquet(path)
    assert kept["model"].tolist() == list("abbb")
    assert kept["value"].tolist() == [0.5, 0.9, 0.7, 0.6]


def test_gaps_by_metric_and_group_where_an_error_is_better_when_it_is_lower() -> None:
    rows = [
        ("m", method, dataset, seed, metric, value + 0.001 * seed)
        for dataset in ("one", "two")
        for seed in range(20)
        for method, score, error in (("ours", 0.6, 0.2), ("rival", 0.5, 0.3), ("only here", 0.4, 0.2))
        for metric, value in (("accuracy", score), ("error", error))
        if method != "only here" or dataset == "one"
    ]
    table = pd.DataFrame(rows, columns=["model", "method", "dataset", "seed", "metric", "value"])
    pairs = [("ours", "rival"), ("rival", "ours"), ("ours", "only here")]
    found = comparisons.gaps(table, pairs, of=("accuracy", "error"), lower_is_better=("error",))
    verdict = found.set_index(["dataset", "metric", "ours", "rival"])["verdict"]
    assert verdict["two", "accuracy", "ours", "rival"] == "better"
    assert verdict["two", "error", "ours", "rival"] == "better"
    assert verdict["two", "error", "rival", "ours"] == "worse"
    assert verdict["one", "error", "ours", "only here"] == "undecided"  # level in every draw
    assert ("two", "error", "ours", "only here") not in verdict
    assert list(found.columns[:2]) == ["model", "dataset"]
