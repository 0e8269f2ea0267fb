"""Embeddings equal the textbook way, and do not depend on order, minibatch or padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_geneformer as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm import embed
from scfm.models.geneformer import Geneformer
from scfm.tokenize import vocabulary_sha256
from scfm.tokenized import TokenizedCells


def textbook(model, cells: TokenizedCells, pooling: str, layer: int) -> np.ndarray:
    """The network's own forward, padded, with a mask; one rectangle for all cells."""
    ids, mask = map(torch.from_numpy, cells.padded(range(len(cells))))
    with torch.no_grad():
        states = model.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    hidden = states[model.network.config.num_hidden_layers + layer]
    if pooling == "cls":
        return hidden[:, 0].numpy()
    genes = mask.bool() & ~torch.isin(ids, torch.tensor([2, 3])) if "<cls>" in model.special else mask.bool()
    weights = genes[..., None].float()
    return ((hidden * weights).sum(1) / weights.sum(1)).numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("layer", [0, -1, -2, -3])
@pytest.mark.parametrize(("version", "pooling"), [("V1", "mean"), ("V2", "mean"), ("V2", "cls")])
def test_equals_the_textbook_way(version, pooling, layer):
    model, cells = tiny.model(version), tiny.cells(version)
    got = model.embed(cells, pooling=pooling, layer=layer, dtype="float32", progress=False)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, textbook(model, cells, pooling, layer), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(12)),
    max_tokens=st.sampled_from([1, 20, 45, 100, 10_000]),
    pooling=st.sampled_from(["cls", "mean"]),
)
def test_order_and_minibatches_do_not_matter(order, max_tokens, pooling):
    model, cells = tiny.model(), tiny.cells()
    expected = model.embed(cells, pooling=pooling, dtype="float32", progress=False)
    got = model.embed(cells[np.array(order)], pooling=pooling, dtype="float32", max_tokens=max_tokens, progress=False)
    np.testing.assert_allclose(got, expected[list(order)], atol=1e-5)


def test_equal_lengths_share_a_call():
    model = tiny.model()
    rng = np.random.default_rng(3)
    cells = TokenizedCells.from_lists([[2, *rng.permutation(np.arange(4, 44))[:10], 3] for _ in range(5)])
    for pooling in ("cls", "mean"):
        got = model.embed(cells, pooling=pooling, dtype="float32", progress=False)
        np.testing.assert_allclose(got, textbook(model, cells, pooling, -1), atol=1e-5)


def test_cells_of_one_gene():
    model = tiny.model("V1")
    cells = TokenizedCells.from_lists([[5], [7], [5]])
    got = model.embed(cells, dtype="float32", progress=False)
    np.testing.assert_allclose(got, textbook(model, cells, "mean", -1), atol=1e-5)
    np.testing.assert_array_equal(got[0], got[2])


@pytest.mark.parametrize("amx", [True, False])
def test_bfloat16_agrees_with_float32(amx, monkeypatch):
    monkeypatch.setattr(embed, "_has", lambda feature: amx)  # both ways to attend in bfloat16
    monkeypatch.setattr(embed, "QUERIES_AT_ONCE", 7)  # so that a cell has several blocks, the last one smaller
    model, cells = tiny.model(), tiny.cells()
    for pooling in ("cls", "mean"):
        exact = model.embed(cells, pooling=pooling, dtype="float32", progress=False)
        rough = model.embed(cells, pooling=pooling, dtype="bfloat16", progress=False)
        assert cosines(exact, rough).min() > 0.999
        assert not np.array_equal(exact, rough)
    assert model.network.dtype == torch.float32  # the network itself stays what it was


def test_attention_in_blocks_is_attention(monkeypatch):
    monkeypatch.setattr(embed, "QUERIES_AT_ONCE", 5)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 13, 8, generator=generator) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    with torch.inference_mode():
        torch.testing.assert_close(embed._attention_in_blocks(query, key, value), expected, atol=1e-5, rtol=1e-5)


def test_auto_takes_bfloat16_only_where_the_cpu_has_it(monkeypatch):
    for features, expected in [
        ({}, torch.float32),
        ({"avx512_f": True, "avx2": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features)
        assert embed.choose_dtype("auto", "cpu") is expected
    assert embed.choose_dtype("float32") is torch.float32
    with pytest.raises(ValueError, match="'float32', 'bfloat16' or 'auto'"):
        embed.choose_dtype("float16")


def test_only_the_layers_asked_for_run():
    model, cells = tiny.model(), tiny.cells(n_cells=3)
    ran = []
    for number, layer in enumerate(model.network.bert.encoder.layer):
        layer.output.register_forward_hook(lambda *_, number=number: ran.append(number))
    model.network.cls.register_forward_hook(lambda *_: ran.append("head"))
    model.embed(cells, pooling="mean", layer=-1, dtype="float32", progress=False)
    assert ran == [0, 1]


def test_a_cls_embedding_computes_one_position_in_its_last_layer():
    model, cells = tiny.model(), tiny.cells(n_cells=4)
    rows = []
    model.network.bert.encoder.layer[1].output.register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    model.embed(cells, pooling="cls", layer=-1, dtype="float32", progress=False)
    assert sum(rows) == 4


def test_genes_are_averaged_over_the_cells_that_have_them():
    model, cells = tiny.model(), tiny.cells()
    table = model.embed(cells, pooling="gene", dtype="float32", progress=False)
    ids, mask = map(torch.from_numpy, cells.padded(range(len(cells))))
    with torch.no_grad():
        hidden = model.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
    assert table.shape == (len(set(cells.tokens.tolist()) - {2, 3}), 16)
    assert table.index.name == "ensembl_id"
    for token in (4, 20, 43):
        where = ids == token
        row = table.loc[model.vocabulary.gene(token)]
        np.testing.assert_allclose(row, hidden[where].mean(0).numpy(), atol=1e-5)
        assert table.attrs["n_cells"][table.index.get_loc(model.vocabulary.gene(token))] == int(where.sum())


def test_dropout_is_off_and_the_mode_is_given_back():
    model, cells = tiny.model(), tiny.cells()
    expected = model.embed(cells, dtype="float32", progress=False)
    model.network.train()
    np.testing.assert_array_equal(model.embed(cells, dtype="float32", progress=False), expected)
    assert model.network.training


def test_other_forms_of_cells():
    model, cells = tiny.model("V1"), tiny.cells("V1", n_cells=4)
    expected = model.embed(cells, dtype="float32", progress=False)
    rectangle = cells.padded(range(4))[0]
    for form in (rectangle, [cells[i] for i in range(4)], [cells[i].tolist() for i in range(4)]):
        np.testing.assert_allclose(model.embed(form, dtype="float32", progress=False), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed(cells[2], dtype="float32", progress=False)[0], expected[2], atol=1e-6)


def test_what_is_refused():
    v1, v2, cells = tiny.model("V1"), tiny.model("V2"), tiny.cells("V2")
    with pytest.raises(ValueError, match="use pooling='mean'"):
        v1.embed(tiny.cells("V1"), pooling="cls")
    with pytest.raises(ValueError, match="'cls', 'mean' or 'gene'"):
        v2.embed(cells, pooling="cell")
    for layer in (1, -4, 0.5):
        with pytest.raises(ValueError, match=r"0 \(the last\)"):
            v2.embed(cells, layer=layer)
    with pytest.raises(ValueError, match="tokenized with another vocabulary"):
        v2.embed(TokenizedCells.from_lists([[2, 44, 3]]))
    with pytest.raises(ValueError, match=r"'geneformer-v1'.*'tiny'"):
        v2.embed(tiny.cells("V2", vocabulary_name="geneformer-v1"))
    with pytest.raises(ValueError, match="64 positions"):
        v1.embed(TokenizedCells.from_lists([[5] * 65]))
    with pytest.raises(ValueError, match="1 of 2 cells have no tokens"):
        v1.embed(TokenizedCells.from_lists([[5], []]))
    for pooling in ("mean", "cls", "gene"):
        with pytest.raises(ValueError, match="1 of 2 cells have no genes"):
            v2.embed(TokenizedCells.from_lists([[2, 3], [2, 5, 3]]), pooling=pooling)
    with pytest.raises(ValueError, match="first token that is not <cls>"):
        v2.embed(TokenizedCells.from_lists([[5, 6]]), pooling="cls")
    with pytest.raises(ValueError, match="whole numbers"):
        v2.embed([[0.5, 1.0]])


def test_a_vocabulary_of_the_same_name_with_other_genes_is_refused():
    model, cells = tiny.model("V2"), tiny.cells("V2", vocabulary_name="tiny")
    cells.vocabulary_sha256 = vocabulary_sha256(model.vocabulary)
    assert model.embed(cells, progress=False).shape == (12, 16)
    genes = list(model.vocabulary.tokens)
    turned = dict(zip(genes, reversed(model.vocabulary.tokens.values()), strict=True))
    other = Geneformer(model.network, replace(model.vocabulary, tokens=turned), "tiny")
    with pytest.raises(ValueError, match=r"the name of this model's .'tiny'. but not its content"):
        other.embed(cells, progress=False)


def test_no_cells_give_no_rows():
    assert tiny.model().embed(TokenizedCells.from_lists([]), progress=False).shape == (0, 16)


def test_large_scores_take_the_softmax_with_a_maximum():
    """Without a maximum their exponentials would overflow; the two ways agree where both are safe."""
    query, key, value = torch.randn(3, 2, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    for factor in (1.0, 30.0, 3000.0):
        large = factor * query
        expected = torch.nn.functional.scaled_dot_product_attention(large, key, value)
        torch.testing.assert_close(embed._attention_in_blocks(large, key, value), expected, atol=1e-5, rtol=1e-4)
