"""Our scGPT against the outputs of the reference implementation (golden files): within 1e-5 where nothing is padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scfm import load_model
from scfm.tokenized import TokenizedCells

# name in the golden file → ours
PLAIN = {
    "mlm_output": "expression",
    "mlm_zero_probs": "zero_prob",
    "mvc_output": "gepc",
    "mvc_zero_probs": "gepc_zero_prob",
    "cell_emb": "cell_embedding",
    "cls_output": "cls",
    "dab_output": "dab",
    "token_emb": "last_hidden_state",
}


def read(folder):
    with np.load(folder / "reference_io.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if file[name].ndim}


def assert_close(got, reference, pad_mask):
    assert got.shape == reference.shape
    if got.shape[:2] == pad_mask.shape:
        got, reference = got[~pad_mask], reference[~pad_mask]
    np.testing.assert_allclose(got.numpy(), reference.numpy(), atol=1e-5, rtol=0)


@pytest.fixture(scope="module", params=["plain", "finetune"])
def golden(request, references):
    folder = references.file(f"scgpt_{request.param}")
    return load_model(folder), read(folder)


def test_every_output(golden):
    model, reference = golden
    with torch.no_grad():
        out = model.network(
            reference["gene_ids"],
            reference["values"],
            reference["pad_mask"],
            batch_labels=reference.get("batch_labels"),
        )
    compared = [theirs for theirs in PLAIN if theirs in reference]
    assert len(compared) >= 4
    for theirs in compared:
        assert_close(out[PLAIN[theirs]], reference[theirs], reference["pad_mask"])
    unexplained = reference.keys() - PLAIN.keys() - {"gene_ids", "values", "pad_mask", "batch_labels"}
    assert not unexplained, "an output of the reference that nothing here is compared with"


def test_padding_is_found_by_its_token(golden):
    model, reference = golden
    assert reference["pad_mask"].any()
    with torch.no_grad():
        out = model.network(reference["gene_ids"], reference["values"], batch_labels=reference.get("batch_labels"))
    assert_close(out.expression, reference["mlm_output"], reference["pad_mask"])


@pytest.mark.parametrize("max_tokens", [1, 8192], ids=["single cells", "minibatches"])
def test_fast_embedding_is_that_of_the_network(golden, max_tokens):
    model, reference = golden
    keep = ~reference["pad_mask"].numpy()
    lists = [row[k].tolist() for row, k in zip(reference["gene_ids"].numpy(), keep, strict=True)]
    values = [row[k].tolist() for row, k in zip(reference["values"].numpy(), keep, strict=True)]
    labels = reference["batch_labels"].numpy() if "batch_labels" in reference else None
    cells = TokenizedCells.from_lists(lists, values)
    with torch.no_grad():  # the reference's task gave <cls> the value 0; the embedding task gives it the padding value
        changed = reference["values"].clone()
        changed[:, 0] = model.network.config.pad_value
        slow = model.network(
            reference["gene_ids"], changed, reference["pad_mask"], batch_labels=reference.get("batch_labels")
        ).cell_embedding
    options = {"dtype": "float32", "max_tokens": max_tokens, "progress": False}
    if (reference["gene_ids"][:, 0] != model.special["<cls>"]).any():  # random genes stand at position 0 of these files
        model.check = lambda _: None
    got = model.embed(cells, labels, normalize=False, **options)
    np.testing.assert_allclose(got, slow.numpy(), atol=1e-5, rtol=0)
    unit = model.embed(cells, labels, **options)
    np.testing.assert_allclose(unit, got / np.linalg.norm(got, axis=1, keepdims=True), atol=1e-6)


@pytest.fixture(scope="module")
def generative(references):
    folder = references.file("scgpt_generative")
    return load_model(folder), read(folder)


@pytest.mark.parametrize("prompted", [False, True], ids=["no prompt", "cell prompt"])
def test_generation(generative, prompted):
    model, reference = generative
    masks = reference["pcpt_pad_mask"], reference["gen_pad_mask"]
    ending = "_given_cell" if prompted else ""
    with torch.no_grad():
        out = model.network.generate_forward(
            reference["pcpt_genes"],
            reference["pcpt_values"],
            reference["gen_genes"],
            pcpt_pad_mask=masks[0],
            gen_pad_mask=masks[1],
            cell_prompt=reference["input_cell_emb"] if prompted else None,
        )
    assert_close(out.perceived, reference["pcpt_preds" + ending], masks[0])
    assert_close(out.generated, reference["gen_preds" + ending], masks[1])
    if not prompted:
        assert_close(out.gepc, reference["mvc_output"], torch.cat(masks, 1))
        assert_close(out.cell_embedding, reference["cell_emb"], torch.cat(masks, 1))


def test_perceived_only(generative):
    model, reference = generative
    mask = reference["pcpt_pad_mask"]
    with torch.no_grad():
        out = model.network.generate_forward(reference["pcpt_genes"], reference["pcpt_values"], pcpt_pad_mask=mask)
    assert out.generated.shape[1] == 0
    assert_close(out.perceived, reference["pcpt_only_preds"], mask)
    assert_close(out.cell_embedding, reference["pcpt_only_cell_emb"], mask)


def test_whole_vocabulary(shared):
    from scfm.genes import SymbolVocabulary

    vocabulary = SymbolVocabulary.load(shared("dictionaries/scgpt/default_census_vocab.json"))
    assert len(vocabulary) == 60_697
    assert vocabulary.special == {"<pad>": 60_694, "<cls>": 60_695, "<eoc>": 60_696}
