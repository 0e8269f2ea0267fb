"""The ladder's rungs: what is trained and what is not, what comes out, and that it does not depend on what it should not."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_task
import torch

import scfm
from scfm.adapters import digest
from scfm.features import layers_of

KINDS = ("geneformer", "scgpt")
RUNGS = ("head", "lora", "partial", "full")
FAST = {"epochs": 8, "learning_rate": 1e-3, "minibatch": 10, "dtype": "float32", "progress": False}


def options(method: str, **more) -> dict:
    return FAST | ({"n_layers": 2} if method == "partial" else {}) | more


def state(network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", RUNGS)
def test_each_rung_learns_and_leaves_the_base_as_it_was(kind: str, method: str) -> None:
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind)
    flags = [p.requires_grad for p in model.network.parameters()]
    before, mark = state(model.network), digest(model.network)
    pooling = "mean" if kind == "geneformer" else "cls"  # the <cls> of a random BERT hears little of the genes
    fit = scfm.adapt(model, cells, types, method, pooling=pooling, **options(method))
    after = model.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert digest(model.network) == mark
    assert [p.requires_grad for p in model.network.parameters()] == flags
    new, truth = tiny_task.cells(kind, seed=1)
    share = np.mean(fit.predict(new, progress=False) == truth)
    assert share > 0.75, share  # four standard deviations above the larger class
    proba = fit.predict_proba(new, progress=False)
    assert proba.shape == (160, 2)
    assert fit.classes == ["B", "T"]
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_head_and_lora_share_the_frozen_weights_and_full_does_not(kind: str) -> None:
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind)
    base = {p.data_ptr() for p in model.network.parameters()}
    for method, trained_apart in (("head", False), ("lora", False), ("full", True)):
        fit = scfm.adapt(model, cells, types, method, **options(method, epochs=1))
        layer = layers_of(fit.network)[0]
        own = {p.data_ptr() for name, p in layer.named_parameters() if "lora" not in name}
        assert own.isdisjoint(base) == trained_apart
