"""scGPT's objectives: not that they run, but what each of them means."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tiny_scgpt as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.objectives import (
    Weights,
    cls_loss,
    combine,
    dar_loss,
    ecs_loss,
    gep_loss,
    gepc_loss,
    zero_prob_loss,
)

PARTS = {"num_batches": 3, "zero_prob": True, "num_classes": 5, "adversarial": True}


def masked(seed: int = 0, **options):
    """A network in training mode (without dropout), what it reads with a third of the values hidden, targets and mask."""
    network = tiny.network(seed, dropout=0.0, **options).train()
    inputs = tiny.inputs(**options)
    needed = options.get("batch_tokens") or options.get("domain_norm")
    batches = inputs.get("batch_labels") if needed else inputs.pop("batch_labels", None)
    target = inputs["values"].clone()
    target[:, 3] = 0  # some zeros, for the zero-probability losses
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.random(target.shape) < 0.4) & ~inputs["pad_mask"]
    mask[:, 0], mask[:, 3] = False, True
    inputs["values"] = target.masked_fill(mask, -1)
    return network, inputs, target, mask, batches


# --- genes and values -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), as_float=st.booleans())
def test_gep_is_the_mean_squared_error_of_the_masked_positions(seed, as_float):
    rng = np.random.default_rng(seed)
    predicted, target = rng.normal(size=(2, 3, 7)).astype(np.float32)
    mask = rng.random((3, 7)) < 0.5
    mask[0, 0] = True
    given_mask = torch.from_numpy(mask).float() if as_float else torch.from_numpy(mask)
    found = gep_loss(torch.from_numpy(predicted), torch.from_numpy(target), given_mask)
    assert found.item() == pytest.approx(np.mean((predicted[mask] - target[mask]) ** 2), rel=1e-5)
    # the same question, asked of the cell
    assert gepc_loss(torch.from_numpy(predicted), torch.from_numpy(target), given_mask) == found


@pytest.mark.parametrize("loss", [gep_loss, gepc_loss, zero_prob_loss])
def test_only_masked_positions_count(loss):
    torch.manual_seed(0)
    predicted = torch.rand(4, 6, requires_grad=True)
    target = torch.randint(0, 3, (4, 6)).float()
    mask = torch.rand(4, 6) < 0.5
    value = loss(predicted, target, mask)
    value.backward()
    assert torch.equal(predicted.grad != 0, mask)
    elsewhere = torch.where(mask, predicted, torch.rand(4, 6)), torch.where(mask, target, target + 5)
    assert loss(*elsewhere, mask) == value
    nothing = loss(predicted, target, torch.zeros_like(mask))
    assert nothing == 0
    assert torch.isfinite(torch.autograd.grad(nothing, predicted)[0]).all()


def test_gradient_of_gep_and_gepc_enters_at_different_tokens():
    network, inputs, target, mask, _ = masked()
    for name, loss in (("expression", gep_loss), ("gepc", gepc_loss)):
        out = network(**inputs)
        reached = torch.autograd.grad(loss(out[name], target, mask), out.last_hidden_state)[0].abs().sum(-1) > 0
        if name == "expression":  # the state of the very token that was hidden
            assert torch.equal(reached, mask)
        else:  # <cls> and nothing else: the cell embedding has to know
            assert reached[:, 0].all()
            assert not reached[:, 1:].any()


def test_gepc_reaches_the_cell_embedding_and_gep_does_not():
    network, inputs, target, mask, _ = masked()
    out = network(**inputs)
    assert torch.autograd.grad(gepc_loss(out.gepc, target, mask), out.cell_embedding, retain_graph=True)[0].norm() > 0
    unused = torch.autograd.grad(gep_loss(out.expression, target, mask), out.cell_embedding, allow_unused=True)[0]
    assert unused is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_zero_probability_is_a_bernoulli_likelihood(seed):
    rng = np.random.default_rng(seed)
    p = torch.from_numpy(rng.random((3, 8)).astype(np.float32))
    target = torch.from_numpy(rng.integers(0, 3, (3, 8)).astype(np.float32))
    mask = torch.from_numpy(rng.random((3, 8)) < 0.6)
    mask[0, 0] = True
    log_likelihood = torch.distributions.Bernoulli(probs=p).log_prob((target > 0).float())
    expected = -(log_likelihood * mask).sum() / mask.sum()
    torch.testing.assert_close(zero_prob_loss(p, target, mask), expected, rtol=1e-4, atol=1e-6)


def test_zero_probability_is_that_of_not_being_zero_and_a_sure_mistake_is_finite():
    everywhere = torch.ones(1, 1)
    right = zero_prob_loss(torch.tensor([[0.99]]), torch.tensor([[7.0]]), everywhere)
    wrong = zero_prob_loss(torch.tensor([[0.99]]), torch.tensor([[0.0]]), everywhere)
    assert right < 0.02 < 4 < wrong
    sure = zero_prob_loss(torch.tensor([[1.0]]), torch.tensor([[0.0]]), everywhere)
    assert 15 < sure < 17


# --- cells ------------------------------------------------------------------------------------------


def pair_at(cosine: float) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64, requires_grad=True)


def ecs_step(cosine: float, threshold: float) -> float:
    """Change of the cosine of two cells by one small step down the loss."""
    cells = pair_at(cosine)
    ecs_loss(cells, threshold).backward()
    moved = torch.nn.functional.normalize(cells.detach() - 0.01 * cells.grad, dim=1)
    return (moved[0] @ moved[1]).item() - cosine


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_ecs_pulls_above_its_threshold_pushes_below_and_leaves_opposites_alone(threshold):
    assert ecs_step(threshold + 0.1, threshold) > 1e-6
    assert ecs_step(threshold - 0.1, threshold) < -1e-6
    assert ecs_step(0.05, threshold) < -1e-6
    for apart in (-0.05, -0.9):
        assert abs(ecs_step(apart, threshold)) < 1e-9


@settings(max_examples=50, deadline=None)
@given(cosine=st.floats(-0.95, 0.95), threshold=st.floats(0.1, 0.9))
def test_slope_of_ecs_is_twice_the_distance_to_the_threshold(cosine, threshold):
    """By hand: two cells, four entries of the matrix, the diagonal constant: dL/dc = 2 · (-2 (c - β)) / 4 for c > 0."""
    if abs(cosine) < 1e-3:
        return  # the corner of relu
    c = torch.tensor(cosine, requires_grad=True)
    cells = torch.stack([torch.tensor([1.0, 0.0]), torch.stack([c, (1 - c**2).sqrt()])])
    slope = torch.autograd.grad(ecs_loss(cells, threshold), c)[0].item()
    assert slope == pytest.approx(-(cosine - threshold) if cosine > 0 else 0.0, abs=1e-4)


def test_deepest_point_of_ecs_is_a_heap_of_identical_cells():
    """The odd side: below β = 0.5, no arrangement beats all cells in one place; above it, being apart is better."""
    heap, apart = torch.ones(8, 16), torch.eye(8, 16)
    assert ecs_loss(heap, 0.3) < ecs_loss(apart, 0.3)
    assert ecs_loss(heap, 0.8) > ecs_loss(apart, 0.8)
    at_threshold = pair_at(0.3)
    assert ecs_loss(at_threshold, 0.3) > ecs_loss(pair_at(0.4), 0.3)
    assert ecs_loss(at_threshold, 0.3) > ecs_loss(pair_at(0.2), 0.3)


def test_ecs_does_not_look_at_lengths_nor_at_a_cell_and_itself():
    torch.manual_seed(1)
    cells = torch.randn(6, 4)
    torch.testing.assert_close(ecs_loss(cells), ecs_loss(cells * torch.rand(6, 1).add(0.1)))
    assert ecs_loss(cells[:1], 0.3).item() == pytest.approx(1 - 0.3**2)  # only the diagonal, taken as 0
    one = cells[:1].clone().requires_grad_()
    assert torch.autograd.grad(ecs_loss(one), one)[0].abs().max() == 0


def test_reversed_gradient_in_the_encoder_and_not_in_the_discriminator():
    network, inputs, _, _, batches = masked(**PARTS)
    head = network.grad_reverse_discriminator
    out = network(**inputs)
    dar_loss(out.dab, batches).backward()
    got = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    network.zero_grad()
    head.reverse = False  # the same loss without the reversal
    out = network(**inputs)
    dar_loss(out.dab, batches).backward()
    moved = 0
    for name, parameter in network.named_parameters():
        if parameter.grad is None or parameter.grad.abs().max() < 1e-7:
            continue
        sign = 1 if name.startswith("grad_reverse_discriminator") else -1
        torch.testing.assert_close(got[name], sign * parameter.grad, msg=name)
        moved += 1
    assert moved > 20


def test_descending_dar_makes_the_discriminator_better_and_the_encoder_worse():
    for part, better in (("discriminator", True), ("encoder", False)):
        network, inputs, _, _, batches = masked(**PARTS)
        trained = [
            p for n, p in network.named_parameters() if n.startswith("grad_reverse") == (part == "discriminator")
        ]
        before = dar_loss(network(**inputs).dab, batches)
        for p, gradient in zip(trained, torch.autograd.grad(before, trained, allow_unused=True), strict=True):
            if gradient is not None:
                p.data -= 0.01 * gradient
        assert (dar_loss(network(**inputs).dab, batches) < before) == better


def test_dar_and_cls_are_cross_entropies_and_unknown_labels_count_for_nothing():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [5.0, 5.0, 0.0]])
    labels = torch.tensor([0, 2, 1])
    by_hand = -logits.log_softmax(1)[torch.arange(3), labels]
    torch.testing.assert_close(dar_loss(logits, labels), by_hand.mean())
    torch.testing.assert_close(cls_loss(logits, labels), by_hand.mean())
    torch.testing.assert_close(cls_loss(logits, torch.tensor([0, -100, 1])), by_hand[[0, 2]].mean())
    assert cls_loss(logits, torch.full((3,), -100)) == 0


# --- together ---------------------------------------------------------------------------------------


def test_total_is_the_weighted_sum_of_the_named_losses():
    network, inputs, target, mask, batches = masked(**PARTS)
    labels = torch.tensor([0, 4, -100, 2])
    out = network(**inputs)
    weights = Weights(gep=0.5, gepc=2, ecs=10, dar=3, cls=0.7, zero_prob=0.25, threshold=0.6)
    total, found = combine(out, target, mask, batches, labels, weights)
    expected = {
        "GEP": (0.5, gep_loss(out.expression, target, mask)),
        "GEP zeros": (0.25, zero_prob_loss(out.zero_prob, target, mask)),
        "GEPC": (2, gepc_loss(out.gepc, target, mask)),
        "GEPC zeros": (0.25, zero_prob_loss(out.gepc_zero_prob, target, mask)),
        "ECS": (10, ecs_loss(out.cell_embedding, 0.6)),
        "DAR": (3, dar_loss(out.dab, batches)),
        "CLS": (0.7, cls_loss(out.cls, labels)),
    }
    assert list(found) == list(expected)
    for name, (_, loss) in expected.items():
        torch.testing.assert_close(found[name], loss)
    torch.testing.assert_close(total, sum(weight * loss for weight, loss in expected.values()))
    defaults = Weights()
    assert (defaults.gep, defaults.gepc, defaults.ecs, defaults.dar, defaults.cls) == (1, 1, 10, 1, 1)
    assert defaults.threshold == 0.3


def test_values_of_expressed_genes_only_where_the_network_says_so():
    network, inputs, target, mask, _ = masked(zero_prob=True)
    out = network(**inputs)
    _, found = combine(out, target, mask, weights=Weights(dar=0, cls=0), if_expressed=True)
    on = mask & (target > 0)
    assert 0 < on.sum() < mask.sum()
    torch.testing.assert_close(found["GEP"], gep_loss(out.expression, target, on))
    torch.testing.assert_close(found["GEPC"], gepc_loss(out.gepc, target, on))
    torch.testing.assert_close(found["GEP zeros"], zero_prob_loss(out.zero_prob, target, mask))
    torch.testing.assert_close(found["GEPC zeros"], zero_prob_loss(out.gepc_zero_prob, target, mask))


@pytest.mark.parametrize("off", ["gep", "gepc", "ecs", "dar", "cls"])
def test_weight_zero_switches_off(off):
    network, inputs, target, mask, batches = masked(**PARTS)
    labels = torch.tensor([0, 4, 1, 2])
    part = {"gep": "decoder.", "gepc": "mvc_decoder.", "dar": "grad_reverse_discriminator.", "cls": "cls_decoder."}
    total, found = combine(network(**inputs), target, mask, batches, labels, Weights(**{off: 0}))
    assert not any(name.split()[0] == off.upper() for name in found)
    total.backward()
    for name, parameter in network.named_parameters():
        if off in part and name.startswith(part[off]):
            assert parameter.grad is None, name
    only, alone = combine(
        network(**inputs),
        target,
        mask,
        batches,
        labels,
        Weights(**{k: float(k == off) for k in ("gep", "gepc", "ecs", "dar", "cls")}),
    )
    assert {name.split()[0] for name in alone} == {off.upper()}
    torch.testing.assert_close(only, sum(alone.values()))


def test_without_the_twin_decoders_there_is_no_zero_loss():
    network, inputs, target, mask, _ = masked()
    _, found = combine(network(**inputs), target, mask, weights=Weights(dar=0, cls=0))
    assert list(found) == ["GEP", "GEPC", "ECS"]


@pytest.mark.parametrize(
    ("options", "weights", "message"),
    [
        ({"mvc": False}, Weights(dar=0, cls=0), "GEPC.*decoder"),
        ({}, Weights(cls=0), "DAR.*discriminator.*batch_labels"),
        ({}, Weights(dar=0), "CLS.*classifier.*labels"),
        ({}, Weights(0, 0, 0, 0, 0), "nothing to train on"),
    ],
)
def test_an_objective_without_its_part_says_so(options, weights, message):
    network, inputs, target, mask, _ = masked(**options)
    with pytest.raises(ValueError, match=message):
        combine(network(**inputs), target, mask, weights=weights)


def test_importing_scfm_does_not_import_them():
    code = "import sys, scfm; print('scfm.objectives' in sys.modules, 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
