"""On a GPU: the same embeddings as on the CPU, and bfloat16 where it has it."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cells():
    from scfm.tokenized import TokenizedCells

    rng = np.random.default_rng(0)
    lists = [[2, *rng.choice(np.arange(4, 20_275), n, replace=False), 3] for n in rng.integers(300, 2000, 24)]
    return TokenizedCells.from_lists(lists)


@pytest.fixture(scope="module")
def models():
    from scfm import load_model

    return {device: load_model("geneformer-v2-104m", device, weights="random") for device in ("cpu", "cuda")}


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_gpu_equals_cpu(models, cells, pooling):
    some = cells[:3]
    cpu = models["cpu"].embed(some, pooling=pooling, dtype="float32", progress=False)
    gpu = models["cuda"].embed(some, pooling=pooling, dtype="float32", progress=False)
    np.testing.assert_allclose(gpu, cpu, atol=2e-3)  # another order of additions; TF32 is off by default
    assert cosines(cpu, gpu).min() > 0.99999


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_bfloat16_and_minibatches(models, cells, pooling):
    model = models["cuda"]
    exact = model.embed(cells, pooling=pooling, dtype="float32", progress=False)
    rough = model.embed(cells, pooling=pooling, dtype="bfloat16", progress=False)
    assert cosines(exact, rough).min() > 0.999
    alone = model.embed(cells, pooling=pooling, dtype="float32", max_tokens=1, progress=False)
    np.testing.assert_allclose(alone, exact, atol=1e-3)


def test_a_gpu_without_memory_says_what_to_do(models, cells, monkeypatch):
    import torch

    from scfm import embed

    def full(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(embed, "encode", full)
    with pytest.raises(MemoryError, match="smaller max_tokens"):
        models["cuda"].embed(cells, progress=False)


def test_masked_score_and_guesses(models, cells):
    scores = {device: model.masked_loss(cells[:3], seed=1) for device, model in models.items()}
    assert scores["cuda"].loss == pytest.approx(scores["cpu"].loss, abs=1e-3)
    ids, _ = models["cuda"].predict_masked(cells[0], [5])
    assert ids.shape == (1, 10)
