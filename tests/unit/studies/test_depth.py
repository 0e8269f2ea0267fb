"""What thinning does to encodings, on cells small enough to count by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from scfm.tokenized import TokenizedCells
from studies import depth

COUNTS = sp.csr_matrix(np.array([[4, 2, 1, 0], [1, 1, 0, 6]], np.float32))


def test_ranks_that_do_not_vary_are_correlated_with_nothing() -> None:
    assert depth.spearman(np.array([1, 2, 3, 9]), np.array([1, 4, 5, 6])) == pytest.approx(1)
    assert depth.spearman(np.array([1, 1, 1]), np.array([1, 2, 3])) == 0
    assert depth.spearman(np.array([1, 2]), np.array([2, 1])) == 0


def test_places_of_a_group_and_equal_counts_share_theirs() -> None:
    ways = {"by count": np.ones(4), "by surprise": np.array([4.0, 1, 0.1, 1])}
    found = depth.places(COUNTS, np.array(["a", "b"]), ways, {"g": np.array([0, 1]), "nowhere": np.array([], int)})
    place = found.set_index(["type", "order"])["place"]
    assert place["a", "by count"] == pytest.approx((0.5 + 1.5) / 2 / 3)  # first and second of three words
    assert place["a", "by surprise"] == pytest.approx((2.5 + 1.5) / 2 / 3)  # 1, 2, 10: last and second
    assert place["b", "by count"] == pytest.approx(2 / 3)  # both share second and third place
    assert set(found["group"]) == {"g"}


def test_what_decides_the_order() -> None:
    found = depth.what_orders(sp.vstack([COUNTS, sp.csr_matrix((1, 4))]).tocsr(), np.array([1.0, 2, 4, 8]), first=1)
    assert len(found) == 2  # the empty cell asks nothing
    ones, by_counts, by_medians, front = found.iloc[0]
    assert (ones, front) == (pytest.approx(1 / 3), 0)
    assert by_counts == pytest.approx(1)  # 4, 1, 1/4 as 4, 2, 1
    assert by_medians == pytest.approx(1)


def test_a_network_reads_the_first_words_only() -> None:
    vocabulary = SimpleNamespace(special={"<cls>": 8, "<eos>": 9}, starts_with_cls=True)
    cells = TokenizedCells.from_lists([[8, 0, 1, 2, 9], [8, 3, 0, 1, 9]])
    tokens = np.arange(4)
    found = depth.kept_at(cells, COUNTS, tokens, vocabulary, np.array([1]), positions=(3, 4, 5, 99))  # type: ignore[arg-type]
    kept = found.set_index(["positions", "what"])["mean"]
    assert set(found["positions"]) == {3, 4, 5}  # 99 is more than twice any sentence
    assert kept[3, "its genes"] == pytest.approx(100 / 3)
    assert kept[3, "its counts"] == pytest.approx(100 * np.mean([4 / 7, 6 / 8]))
    assert kept[4, "its everyday genes"] == pytest.approx(100 * np.mean([1, 0]))
    assert (kept[5] == 100).all()


def test_drift_of_a_cell_is_measured_on_the_genes_of_both() -> None:
    full = {"bins": np.array([[4.0, 3, 2, 1], [1, 0, 0, 0]])}
    less = {"bins": np.array([[4.0, 2, 2, 0], [0, 1, 0, 0]])}
    first, second = depth.drift(full, less).itertuples()
    assert (first.lost, first.moved) == (pytest.approx(0.25), pytest.approx(1 / 3 / 4))
    assert 0 < first.order < 1
    assert (second.lost, second.order, second.moved) == (1, 0, 1)  # nothing is shared
