"""Guessers of hidden genes: each simple one does what lesson 01 says, and all are asked the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import scfm
from scfm.tokenized import TokenizedCells
from studies import gene_guessers
from studies.gene_guessers import RULES


def test_a_score_counts_the_guesses_that_were_likelier() -> None:
    log_p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]).log()
    found = gene_guessers.score(log_p, torch.tensor([0, 0]))
    assert found["loss"] == pytest.approx(-np.log([0.5, 0.1]).mean(), abs=1e-6)
    assert (found["top 1"], found["top 10"]) == (0.5, 1.0)


def test_what_was_told_is_possible_again_in_sum() -> None:
    log_p = torch.tensor([[0.5, 0.3, 0.2]]).log()
    known = gene_guessers.told(log_p, torch.tensor([[False, True, True]])).exp()
    assert known.tolist()[0] == pytest.approx([0.0, 0.6, 0.4])


def test_similar_cells_have_the_gene_that_a_cell_like_this_has() -> None:
    others = np.zeros((40, 6), np.float32)
    others[:20, [0, 1]] = 1  # one kind of cell has genes 0 and 1, the other 3 and 4; gene 5 is in no cell
    others[20:, [3, 4]] = 1
    guess = gene_guessers.similar_cells(np.array([[1, 0, 0, 0, 0, 0]], np.float32), others, k=10)
    assert guess.argmax() in (0, 1)
    assert guess[0, 1] > 0.9 > 0.3 > guess[0, 4] > guess[0, 5] > 0


class Vocabulary(SimpleNamespace):
    """Tokens 1 to 5 have the keys 1 to 5; token 0 is no gene."""

    tokens: ClassVar = {f"g{i}": i for i in range(1, 6)}
    medians: ClassVar = {f"g{i}": np.exp(-i) for i in range(1, 6)}

    def __len__(self) -> int:
        return 6


def place(cells: TokenizedCells) -> gene_guessers.PlaceInLine:
    return gene_guessers.PlaceInLine(Vocabulary(), [0], cells)  # type: ignore[arg-type]


def test_a_gap_lies_above_the_largest_key_to_its_right() -> None:
    sentence = np.array([5, 3, 4, 1, 2])
    guesser = place(TokenizedCells.from_lists([sentence.tolist()] * 3))
    assert guesser.floors(sentence, np.ones(5, bool)) == pytest.approx([4, 4, 2, 2, 1])  # the last: the smallest key
    assert guesser.floors(sentence, np.array([True, True, False, True, True])) == pytest.approx([3, 2, 2, 2, 1])
    assert guesser.above.sum() == 15  # every gene of every cell is counted once


def test_the_place_of_a_gap_tells_which_genes_fit() -> None:
    cells = TokenizedCells.from_lists([[5, 4, 3, 2, 1]] * 10)
    guesser = place(cells)
    hidden = np.zeros(5, bool)
    hidden[1] = True  # between 5 and 3 stood 4
    fits = guesser.fit(cells[[0]], hidden, np.array([0]))
    assert fits.shape == (1, 6)
    assert fits[0, 1:].argmax() + 1 == 4


def test_a_gene_counted_once_is_a_ceiling_for_all_behind_it() -> None:
    """Values: 5 counted once; 1 counted so often that it stands second; then 3, 2: each larger than all to its right but 1."""
    sentence = np.array([0, 5, 1, 3, 2])  # the first is <cls>
    both = two_sided([sentence.tolist()] * 3)
    floors, ceilings = both.window(sentence, np.ones(5, bool))
    assert floors[1:] == pytest.approx([3, 3, 2, 1])
    assert ceilings[2:] == pytest.approx([5, 5, 3])
    assert ceilings[1] > 5  # nothing to its left bounds the first
    hidden_3 = np.array([True, True, True, False, True])
    floors, ceilings = both.window(sentence, hidden_3)
    assert (floors[3], ceilings[3]) == pytest.approx((2, 5))


def two_sided(cells: list[list[int]]) -> gene_guessers.BothSides:
    frequency = np.array([0.0, 0.2, 0.2, 0.2, 0.2, 0.2])
    tokens = TokenizedCells.from_lists(cells)
    return gene_guessers.BothSides(place(tokens), tokens, frequency, 0.3, seed=0)


def test_both_sides_leave_what_stands_between_them() -> None:
    cells = [[5, 4, 3, 2, 1]] * 60
    both = two_sided(cells)
    part = TokenizedCells.from_lists(cells[:1])
    hidden = np.array([False, False, True, False, False])  # between 4 and 2 stood 3
    floor, ceiling = both.fit(part, hidden)
    assert floor.shape == ceiling.shape == (1, 6)
    assert (floor + ceiling)[0, 1:].argmax() + 1 == 3
    assert both.fits.shape[:2] == (2, 8)


def test_what_is_common_is_not_taken_for_what_is_telling() -> None:
    """Where true genes lie no differently from all genes that could stand there, a distance tells nothing."""
    rng = np.random.default_rng(0)
    both = two_sided([[0, *rng.permutation(np.arange(1, 6)).tolist()] for _ in range(3000)])
    seen = np.abs(both.fits[0]) > 0  # bins that occurred
    assert np.abs(both.fits[0][seen]).mean() < 0.5


def test_tuned_weights_trust_the_guesser_that_knows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 200)
    knows = np.where(np.arange(5) == truth[:, None], 0.0, -1.0)
    noise = rng.normal(size=(200, 5))
    weights, loss = gene_guessers.tuned_weights((knows, noise), np.ones((200, 5), bool), truth)
    assert weights[0] > 3
    assert abs(weights[1]) < 0.5
    assert loss < 0.1 < np.log(5)


def test_too_few_cells_to_learn_from_are_refused() -> None:
    model = scfm.load_model("geneformer-mini")
    cells = model.tokenize(scfm.load_dataset("pbmc68k")[:60].copy())
    on_panel = np.ones(len(model.vocabulary), bool)
    with pytest.raises(gene_guessers.TooFewCells, match="leave 20 of 60"):
        gene_guessers.contest(model, {}, cells, on_panel, n_draws=4, cells_per_draw=10)


def test_shuffled_words_are_the_same_words_and_the_answers_come_back() -> None:
    part = TokenizedCells.from_lists([[0, 7, 8, 9], [0, 5, 6]])
    hidden = np.array([False, True, False, True, False, False, True])
    mixed, there, back = gene_guessers.shuffle_words(part, hidden, [0], np.random.default_rng(0))
    for i in range(2):
        assert mixed[i][0] == 0
        assert sorted(mixed[i]) == sorted(part[i])
    assert mixed.tokens[there][back].tolist() == part.tokens[hidden].tolist()


@pytest.fixture(scope="module")
def played() -> tuple[pd.DataFrame, dict[str, float], float]:
    adata = scfm.load_dataset("pbmc68k")[:60].copy()
    model = scfm.load_model("geneformer-mini")
    cells = model.tokenize(adata)
    on_panel = np.zeros(len(model.vocabulary), bool)
    on_panel[cells.tokens] = True
    twin = scfm.load_model("geneformer-mini", weights="random").network
    networks = {"pretrained": model.network, "random twin": twin}
    results, seconds = gene_guessers.contest(model, networks, cells, on_panel, n_draws=2, cells_per_draw=5)
    first = cells[np.random.default_rng(0).permutation(60)[:5]]
    return results, seconds, model.masked_loss(first, 0.15, 0).loss


def test_all_are_asked_the_same_and_the_network_as_the_library_asks_it(played) -> None:
    results, seconds, loss = played
    assert not results.duplicated(["guesser", "told", "seed", "metric"]).any()
    with_rules = {"similar cells", "similar cells + place", "similar cells + both sides", "the same, tuned"}
    assert set(results[results["told"] == RULES[0]]["guesser"]) == set(results["guesser"]) - with_rules
    own = results[(results["guesser"] == "pretrained") & (results["told"] == RULES[0]) & (results["metric"] == "loss")]
    assert own["value"].iloc[0] == pytest.approx(loss, abs=1e-4)
    assert set(seconds) == {"pretrained", "random twin", "similar cells", "place in line", "both sides"}
    assert min(seconds.values()) > 0


def test_who_is_told_more_guesses_no_worse(played) -> None:
    losses = played[0][played[0]["metric"] == "loss"].pivot_table(index="guesser", columns="told", values="value")
    both = losses.dropna()
    assert (both[RULES[1]] <= both[RULES[0]]).all()
    assert (both[RULES[2]] <= both[RULES[1]]).all()


def test_a_verdict_needs_an_interval_on_one_side(played) -> None:
    found = gene_guessers.verdicts(played[0]).set_index(["told", "rival"])
    first = found.loc[(RULES[0], "random twin")]
    assert first["high"] < 0  # a lower loss
    assert first["verdict"] == "better"
    assert (RULES[0], "similar cells") not in found.index
    turned = gene_guessers.verdicts(played[0], ours="random twin").set_index(["told", "rival"])
    assert turned.loc[(RULES[0], "pretrained"), "verdict"] == "worse"
