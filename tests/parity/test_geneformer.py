"""Our embeddings and logits against those of the reference implementation (golden files), within 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scfm import load_model
from scfm.tokenized import TokenizedCells


@pytest.fixture(scope="module", params=["v1", "v2"])
def golden(request, references):
    folder = references.file(f"geneformer_tiny_{request.param}")
    with np.load(folder / "reference_io.npz") as file:
        reference = {name: file[name] for name in file.files}
    cells = TokenizedCells(reference["input_ids"], reference["offsets"])
    return load_model(folder), cells, reference


CASES = [("cls", "cls", -1), ("cls", "cls", 0), ("mean", "cell", -1), ("mean", "cell", 0)]


@pytest.mark.parametrize(("pooling", "upstream", "layer"), CASES)
@pytest.mark.parametrize("max_tokens", [1, 8192], ids=["single cells", "minibatches"])
def test_embeddings(golden, pooling, upstream, layer, max_tokens):
    model, cells, reference = golden
    name = f"{upstream}_layer{layer}"
    if pooling == "cls" and "<cls>" not in model.special:
        with pytest.raises(ValueError, match="has no <cls>"):  # V1: upstream has no such embedding either
            model.embed(cells, pooling=pooling, layer=layer)
        assert name not in reference
        return
    got = model.embed(cells, pooling=pooling, layer=layer, dtype="float32", max_tokens=max_tokens, progress=False)
    np.testing.assert_allclose(got, reference[name], atol=1e-5, rtol=0)


def test_bfloat16(golden):
    model, cells, reference = golden
    for name in ("cell_layer-1", "cell_layer0"):
        got = model.embed(cells, pooling="mean", layer=int(name[10:]), dtype="bfloat16", progress=False)
        cosine = (got * reference[name]).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(reference[name], axis=1)
        assert cosine.min() > 0.999


def test_logits(golden):
    model, cells, reference = golden
    with torch.no_grad():
        got = [
            model.network(input_ids=torch.from_numpy(cells[i].astype(np.int64))[None]).logits[0, 3, :5].numpy()
            for i in range(len(cells))
        ]
    np.testing.assert_allclose(np.stack(got), reference["logits_first5"], atol=1e-5, rtol=0)


def test_vocabulary_is_the_published_one(golden):
    model, _, _ = golden
    assert len(model.vocabulary) == model.network.config.vocab_size
    assert model.vocabulary.symbol(model.vocabulary.token("CD3E")) == "CD3E"
    assert model.default_pooling == ("cls" if "<cls>" in model.special else "mean")
