"""Scores, draws and intervals: that they mean what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm import metrics, stats


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of 40 cells in 8 dimensions, well apart, and their names."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 6, (3, 8))
    names = np.repeat(["a", "b", "c"], 40)
    return (centers[np.repeat(range(3), 40)] + rng.normal(size=(120, 8))).astype(np.float32), names


def test_a_probe_across_groups_says_which_was_tested_and_is_summed_up_over_groups(blobs) -> None:
    embedding, names = blobs
    groups = np.tile(["d1", "d2", "d3"], 40)
    table = metrics.probe({"clear": embedding, "half": embedding[:, :4]}, names, 5, 9, groups=groups)
    assert table.groupby("group")["seed"].unique().map(list).to_dict() == {key: [0, 1, 2] for key in ("d1", "d2", "d3")}
    assert stats.over_groups(table, "clear", "balanced_accuracy").mean > 0.95
    with pytest.raises(ValueError, match="several scores"):
        stats.paired_difference(table, "clear", "half", "balanced_accuracy")
    assert stats.over_groups(table, "half", "balanced_accuracy", "clear").mean <= 0.01


def test_a_group_that_cannot_be_tested_is_left_out() -> None:
    names = np.repeat(["T", "B", "own"], [40, 40, 20])
    groups = np.r_[np.tile(["d1", "d2"], 40), np.repeat("d3", 20)]  # d3 holds a type that no other has
    embedding = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    table = metrics.probe({"noise": embedding}, names, 5, 6, groups=groups)
    assert set(table["group"]) == {"d1", "d2"}
    alone = np.where(names == "T", "a", "b")
    with pytest.raises(stats.TooFewCells, match="No group can be tested"):
        metrics.probe({"noise": embedding}, np.where(names == "own", "B", names), 5, 4, groups=alone)


def test_clustering_of_clear_types_is_nearly_perfect_and_of_shuffled_ones_is_not(blobs) -> None:
    embedding, names = blobs
    good = metrics.clustering(embedding, names)
    shuffled = metrics.clustering(embedding, np.random.default_rng(0).permutation(names))
    assert good["nmi"] > 0.95
    assert good["ari"] > 0.95
    assert good["asw"] > 0.7
    assert good["avg_bio"] == pytest.approx(np.mean([good["nmi"], good["ari"], good["asw"]]))
    assert shuffled["nmi"] < 0.2
    assert shuffled["asw"] == pytest.approx(0.5, abs=0.05)


def test_mixing_tells_mixed_from_separate_batches(blobs) -> None:
    embedding, names = blobs
    batches = np.tile(["x", "y"], 60)
    apart = embedding + 30.0 * (batches == "y")[:, None]
    mixed, separate = metrics.mixing(embedding, names, batches), metrics.mixing(apart, names, batches)
    assert mixed["ilisi"] > 0.6 > 0.3 > separate["ilisi"]
    assert mixed["graph_connectivity"] > separate["graph_connectivity"]
    with pytest.raises(stats.TooFewCells, match="at least two batches"):
        metrics.mixing(embedding, names, ["x"] * 120)


def test_scores_do_not_depend_on_the_order_of_the_cells(blobs) -> None:
    embedding, names = blobs
    order = np.random.default_rng(3).permutation(len(names))
    assert metrics.clustering(embedding[order], names[order])["asw"] == pytest.approx(
        metrics.clustering(embedding, names)["asw"], abs=1e-5
    )


@pytest.mark.parametrize(
    ("embedding", "labels", "message"),
    [
        (np.zeros((3, 2)), ["a", "b"], "one label per cell"),
        (np.full((2, 2), np.nan), ["a", "b"], "NaN or infinite"),
        (np.zeros((2, 2)), ["a", "a"], "nothing to tell apart"),
    ],
)
def test_unusable_input_is_refused_in_words(embedding, labels, message) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.clustering(embedding, labels)


def test_usable_cells_names_what_it_leaves_out() -> None:
    kept, left_out = metrics.usable_cells(["T"] * 30 + ["rare"] * 3 + ["unknown"] * 40)
    assert kept.tolist() == list(range(30))
    assert left_out == {"rare": 3, "unknown": 40}


def test_a_missing_label_is_no_type_however_it_is_written() -> None:
    missing = [None, "", np.nan, pd.NA, "NaN", "unknown"]
    kept, left_out = metrics.usable_cells(pd.Series([x for x in ["T", *missing] for _ in range(25)], dtype=object))
    assert kept.tolist() == list(range(25))
    assert left_out == dict.fromkeys(["None", "", "nan", "<NA>", "NaN", "unknown"], 25)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(20, 60), min_size=2, max_size=5), per_class=st.integers(2, 80), seed=st.integers(0, 99)
)
def test_label_draws_never_take_over_60_percent_and_never_test_what_they_trained_on(sizes, per_class, seed) -> None:
    names = np.repeat([f"type {i}" for i in range(len(sizes))], sizes)
    for train, test in metrics.label_draws(names, per_class, 3, seed):
        assert len(np.intersect1d(train, test)) == 0
        assert len(train) + len(test) == len(names)
        for i, size in enumerate(sizes):
            taken = (names[train] == f"type {i}").sum()
            assert taken == min(per_class, int(0.6 * size))


def test_label_draws_by_group_keep_the_tested_donor_out_of_training() -> None:
    names, donors = np.tile(["T", "B"], 60), np.repeat(["d1", "d2", "d3"], 40)
    tested = []
    for train, test in metrics.label_draws(names, 5, 6, 0, groups=donors):
        assert set(donors[train]).isdisjoint(donors[test])
        tested += list(set(donors[test]))
    assert sorted(tested) == ["d1", "d1", "d2", "d2", "d3", "d3"]
    with pytest.raises(stats.TooFewCells, match="has one"):
        next(metrics.label_draws(names, 5, 2, 0, groups=["d1"] * 120))


def test_label_draws_by_group_take_a_class_with_one_cell_and_leave_out_one_with_none() -> None:
    names = np.repeat(["T", "rare", "T", "rare", "own"], [40, 2, 40, 10, 10])
    donors = np.repeat(["d1", "d2"], [42, 60])
    (from_d2, on_d1), (from_d1, on_d2) = metrics.label_draws(names, 5, 2, 0, groups=donors)
    assert set(names[from_d2]) == {"T", "rare", "own"}
    assert set(names[on_d1]) == {"T", "rare"}
    assert (names[from_d1] == "rare").sum() == 1
    assert set(names[on_d2]) == {"T", "rare"}  # d1 has no "own": nothing to learn it from


def test_label_draws_say_what_is_too_few() -> None:
    names, donors = np.repeat(["T", "rare"], [500, 3]), np.tile(["d1", "d2", "d3"], 168)[:503]
    with pytest.raises(stats.TooFewCells, match=r"^'rare' has 3 cell.* at least 4 "):
        next(metrics.label_draws(names, 5, 1))
    train, _ = next(metrics.label_draws(np.append(names, "rare"), 5, 1))
    assert np.sum(train >= 500) == 2  # 4 do
    with pytest.raises(ValueError, match=r"per_class is 1.* at least 2 "):
        next(metrics.label_draws(names[:500], 1, 1))
    with pytest.raises(ValueError, match=r"per_class is 0.* at least 1 "):
        next(metrics.label_draws(names, 0, 1, groups=donors))
    train, _ = next(metrics.label_draws(names, 1, 1, groups=donors))
    assert names[train].tolist() == ["T", "rare"]


def test_label_draws_are_the_same_for_the_same_seed() -> None:
    names = np.tile(["T", "B"], 60)
    first, again = (list(metrics.label_draws(names, 5, 3, 7)) for _ in range(2))
    assert all((a[0] == b[0]).all() for a, b in zip(first, again, strict=True))
    assert (first[0][0] != next(iter(metrics.label_draws(names, 5, 1, 8)))[0]).any()


@pytest.mark.parametrize("kind", ["logistic", "knn"])
def test_probe_reads_clear_types_and_falls_to_chance_with_shuffled_labels(blobs, kind) -> None:
    embedding, names = blobs
    embeddings = {"clear": embedding, "noise": np.random.default_rng(0).normal(size=embedding.shape)}
    table = stats.summary(metrics.probe(embeddings, names, 10, 20, kind=kind), by=("method", "metric")).set_index(
        ["method", "metric"]
    )
    assert table.loc[("clear", "accuracy"), "mean"] > 0.95
    assert table.loc[("noise", "balanced_accuracy"), "mean"] == pytest.approx(1 / 3, abs=0.08)
    shuffled = metrics.probe({"clear": embedding}, names, 10, 20, kind=kind, shuffle_labels=True)
    found = stats.interval(shuffled.loc[shuffled["metric"] == "balanced_accuracy", "value"].to_numpy())
    assert found.low - 0.08 < 1 / 3 < found.high + 0.08


def test_cluster_scores_give_every_method_the_same_draws(blobs) -> None:
    embedding, names = blobs
    table = metrics.cluster_scores({"one": embedding, "again": embedding.copy()}, names, n_draws=3)
    wide = table.pivot(index=["metric", "seed"], columns="method", values="value")
    assert np.allclose(wide["one"], wide["again"])
    of_clusters = [f"{score}{which}" for score in ("ari", "avg_bio", "nmi") for which in ("", "_fixed")]
    assert wide.groupby("metric").size().to_dict() == dict.fromkeys(["asw", *of_clusters], 3)
    assert (wide["one"]["nmi"] >= wide["one"]["nmi_fixed"] - 1e-9).all()  # labels chose the resolution of one of them


def test_the_share_of_right_answers_by_cell_is_the_probes_own(blobs) -> None:
    embedding, names = blobs
    half = embedding[:, :2]
    found = metrics.right_by_cell({"half": half}, names, 5, 4)["half"]
    assert found.shape == (len(names),)
    tested = ~np.isnan(found)
    assert ((found[tested] >= 0) & (found[tested] <= 1)).all()
    answers = []
    for train, test in metrics.label_draws(names, 5, 4):
        answers.append((test, metrics.linear_head(half[train], names[train]).predict(half[test]) == names[test]))
    cell = int(answers[0][0][0])
    of_cell = [right[test == cell][0] for test, right in answers if cell in test]
    assert found[cell] == pytest.approx(np.mean(of_cell))
