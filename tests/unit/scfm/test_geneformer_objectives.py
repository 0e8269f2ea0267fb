"""Masked genes: the score equals the network's own loss, at the masked positions and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_geneformer as tiny
import torch

from scfm.objectives import choose_masked, masked_loss


def test_masked_loss_is_the_networks_own():
    model, cells = tiny.model(), tiny.cells()
    score = model.masked_loss(cells, mask_fraction=0.3, seed=1)
    hidden = choose_masked(cells, model.special, 0.3, 1)
    ids, mask = map(torch.from_numpy, cells.padded(range(len(cells))))
    labels = torch.full_like(ids, -100)
    flat = mask.bool()
    labels[flat] = torch.where(torch.from_numpy(hidden), ids[flat], -100)
    ids[flat] = torch.where(torch.from_numpy(hidden), 1, ids[flat])
    with torch.no_grad():
        out = model.network(input_ids=ids, attention_mask=mask, labels=labels)
    assert score.loss == pytest.approx(out.loss.item(), abs=1e-5)
    asked = labels != -100
    guesses = out.logits[asked]
    assert score.accuracy == pytest.approx((guesses.argmax(-1) == labels[asked]).float().mean().item())
    assert score.n_masked == int(asked.sum()) == len(score.losses) == len(score.tokens) == len(score.cells)
    np.testing.assert_array_equal(score.tokens, cells.tokens[hidden])


def test_masked_loss_does_not_depend_on_minibatches():
    model, cells = tiny.model(), tiny.cells()
    scores = [masked_loss(model, cells, 0.2, 0, max_tokens=n) for n in (1, 50, 10_000)]
    for score in scores[1:]:
        np.testing.assert_allclose(score.losses, scores[0].losses, atol=1e-5)
        assert score.accuracy == scores[0].accuracy


def test_special_tokens_are_never_masked_and_the_seed_decides():
    model, cells = tiny.model(), tiny.cells(n_cells=50)
    hidden = choose_masked(cells, model.special, 0.5, 0)
    assert not np.isin(cells.tokens[hidden], [0, 1, 2, 3]).any()
    genes = ~np.isin(cells.tokens, [2, 3])
    assert 0.4 < hidden.sum() / genes.sum() < 0.6
    np.testing.assert_array_equal(hidden, choose_masked(cells, model.special, 0.5, 0))
    assert not np.array_equal(hidden, choose_masked(cells, model.special, 0.5, 1))


def test_impossible_fractions():
    model, cells = tiny.model(), tiny.cells(n_cells=1)
    for fraction in (0, 1, 1.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            model.masked_loss(cells, fraction)
    with pytest.raises(ValueError, match="No gene was masked"):
        model.masked_loss(cells, 1e-9)


def test_predict_masked_hides_what_it_asks_for():
    model, cells = tiny.model(), tiny.cells()
    cell = cells[0].copy()
    ids, probabilities = model.predict_masked(cell, [1, 3], top=5)
    np.testing.assert_array_equal(cell, cells[0])  # the caller's tokens are untouched
    asked = torch.from_numpy(cell.astype(np.int64))[None]
    asked[0, [1, 3]] = 1
    with torch.no_grad():
        expected = model.network(input_ids=asked).logits[0, [1, 3]].softmax(-1).topk(5)
    np.testing.assert_array_equal(ids, expected.indices.numpy())
    np.testing.assert_allclose(probabilities, expected.values.numpy(), atol=1e-6)
    other = cell.copy()
    other[[1, 3]] = [40, 41]  # the hidden tokens cannot leak into the guess
    np.testing.assert_array_equal(model.predict_masked(other, [1, 3], top=5)[0], ids)


def test_predict_masked_outside_the_cell():
    model = tiny.model()
    for positions in ([], [-1], [4]):
        with pytest.raises(IndexError, match="between 0 and 3"):
            model.predict_masked([2, 5, 6, 3], positions)
