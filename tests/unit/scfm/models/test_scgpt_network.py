"""scGPT's network: its parts, its masks, saving, LoRA, embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_scgpt as tiny
import torch

from scfm.models import scgpt_embed
from scfm.models.scgpt import LORA_TARGETS, NotAvailableError, ScGPTModel
from scfm.models.scgpt_layers import reverse_gradient

# --- outputs and options ----------------------------------------------------------------------------


def answers(network, given):
    with torch.no_grad():
        return {name: value for name, value in network(**given).items() if value is not None}


def test_a_part_answers_if_and_only_if_the_config_has_it():
    plain = answers(tiny.network(mvc=False, generative=False), tiny.inputs())
    assert set(plain) == {"expression", "cell_embedding", "last_hidden_state"}
    out = answers(tiny.network(**tiny.EVERYTHING), tiny.inputs(**tiny.EVERYTHING))
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "expression": (4, 12),
        "zero_prob": (4, 12),
        "gepc": (4, 12),
        "gepc_zero_prob": (4, 12),
        "cell_embedding": (4, 16),
        "cls": (4, 5),
        "dab": (4, 3),
        "last_hidden_state": (4, 12, 16),
    }
    assert ((out["zero_prob"] > 0) & (out["zero_prob"] < 1)).all()


@pytest.mark.parametrize(
    ("name", "unmoved"),
    [
        ("values", ()),
        ("conditions", ()),
        ("batch_labels", ()),
        ("modalities", ("cell_embedding", "last_hidden_state", "cls", "dab")),  # read by the decoders only
    ],
)
def test_what_each_input_reaches(name, unmoved):
    network, given = tiny.network(**tiny.EVERYTHING), tiny.inputs(**tiny.EVERYTHING)
    before = answers(network, given)
    limit = {"values": 50, "conditions": 3, "batch_labels": 3, "modalities": 2}[name]
    after = answers(network, given | {name: (given[name] + 1) % limit})
    for output in before:
        assert torch.equal(before[output], after[output]) == (output in unmoved), output


def test_batch_tokens_alone_reach_only_the_decoders():
    options = {"num_batches": 3, "batch_tokens": True}
    network, given = tiny.network(**options), tiny.inputs(**options)
    before, after = answers(network, given), answers(network, given | {"batch_labels": (given["batch_labels"] + 1) % 3})
    assert torch.equal(before["cell_embedding"], after["cell_embedding"])
    assert not torch.allclose(before["expression"], after["expression"])
    assert not torch.allclose(before["gepc"], after["gepc"])


def test_dsbn_normalizes_each_batch_by_its_own_statistics():
    options = {"num_batches": 3, "domain_norm": "dsbn"}
    network, given = tiny.network(**options), tiny.inputs(**options)
    mixed = answers(network, given)["last_hidden_state"]
    for i in range(4):  # a cell alone gives what it gives among cells of other batches
        alone = answers(network, {name: value[i : i + 1] for name, value in given.items()})["last_hidden_state"]
        keep = ~given["pad_mask"][i]
        torch.testing.assert_close(alone[0, keep], mixed[i, keep], atol=1e-5, rtol=0)
    bn = network.dsbn.bns[1]
    assert bn.eps == 6.1e-5
    assert not bn.affine
    network.train()
    before = [bn.running_mean.clone() for bn in network.dsbn.bns]
    network(**given | {"batch_labels": torch.ones(4, dtype=torch.int64)})
    assert [torch.equal(b, bn.running_mean) for b, bn in zip(before, network.dsbn.bns, strict=True)] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, {"batch_labels": torch.zeros(4, dtype=torch.int64)}, "neither batch tokens nor DSBN"),
        ({"num_batches": 2, "domain_norm": "dsbn"}, {"batch_labels": None}, "give batch_labels"),
        ({"num_batches": 2, "batch_tokens": True}, {"batch_labels": torch.full((4,), 2)}, "from 0 to 1"),
        ({"num_batches": 2, "batch_tokens": True}, {"batch_labels": torch.zeros(3, dtype=torch.int64)}, "one per cell"),
        ({"num_conditions": 3}, {"conditions": None}, "give conditions"),
        ({"num_modalities": 2}, {"modalities": None}, "modalities"),
        ({}, {"conditions": torch.zeros(4, 12, dtype=torch.int64)}, "no condition tokens"),
    ],
)
def test_inputs_that_do_not_fit(options, change, message):
    with pytest.raises(ValueError, match=message):
        tiny.network(**options)(**tiny.inputs(**options) | change)


def test_configs_that_cannot_be():
    for options, message in [
        ({"domain_norm": "layer"}, "it can be"),
        ({"batch_tokens": True}, "num_batches"),
        ({"num_attention_heads": 3}, "do not divide"),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny.network(**options)


def test_labels_give_the_cross_entropy():
    network, given = tiny.network(num_classes=5), tiny.inputs()
    labels = torch.tensor([0, 4, 2, 2])
    out = network(**given, labels=labels)
    by_hand = -out.cls.log_softmax(1)[torch.arange(4), labels].mean()
    torch.testing.assert_close(out.loss, by_hand)
    with pytest.raises(NotAvailableError, match="classification"):
        tiny.network()(**given, labels=labels)


def test_gradient_is_reversed_in_the_encoder_only():
    x = torch.randn(3, 4, requires_grad=True)
    (reverse_gradient(x, 0.5) * 3).sum().backward()
    assert torch.equal(x.grad, torch.full((3, 4), -1.5))
    options = {"num_batches": 3, "adversarial": True}
    network, given = tiny.network(**options), tiny.inputs()
    truth = torch.tensor([0, 1, 2, 0])
    gradients = []
    for reverse in (True, False):
        network.grad_reverse_discriminator.reverse = reverse
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(**given).dab, truth).backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        sign = 1 if name.startswith("grad_reverse_discriminator") else -1
        torch.testing.assert_close(gradient, sign * gradients[1][name])
    assert any(g.abs().max() > 0 for name, g in gradients[0].items() if name.startswith("encoder"))


# --- who sees whom ----------------------------------------------------------------------------------


def halves(n_pcpt: int = 7, n_gen: int = 5):
    given = tiny.inputs()
    genes, values = given["gene_ids"], given["values"]
    genes[0, -2:] = torch.tensor([1, 2])  # no padding here, but one perceived gene of cell 0 is padded below
    mask = torch.zeros(4, n_pcpt, dtype=torch.bool)
    mask[0, 6] = True
    return {"pcpt_genes": genes[:, :n_pcpt], "pcpt_values": values[:, :n_pcpt], "gen_genes": genes[:, n_pcpt:]}, mask


def moved(network, given, mask, name, position, value, **options):
    """Which perceived and which generated outputs (of any cell) move when one input is changed."""
    changed = {key: tensor.clone() for key, tensor in given.items()}
    changed[name][:, position] = value
    with torch.no_grad():
        a = network.generate_forward(**given, pcpt_pad_mask=mask, **options)
        b = network.generate_forward(**changed, pcpt_pad_mask=mask, **options)
    where = {}
    for half in ("perceived", "generated"):
        where[half] = {int(i) for i in ((a[half] - b[half]).abs() > 0).any(0).nonzero()}
    return where


def test_a_generated_gene_sees_the_perceived_and_itself():
    network = tiny.network()
    given, mask = halves()
    for position in range(5):
        seen_by = moved(network, given, mask, "gen_genes", position, 39)
        assert seen_by == {"perceived": set(), "generated": {position}}
    for position in range(6):
        seen_by = moved(network, given, mask, "pcpt_values", position, 49.0)
        assert seen_by == {"perceived": set(range(7)), "generated": set(range(5))}


def test_padded_perceived_genes_are_seen_by_nobody_else():
    network = tiny.network()
    given, mask = halves()
    one = {key: tensor[:1] for key, tensor in given.items()}  # in cell 0, position 6 is padding
    assert moved(network, one, mask[:1], "pcpt_values", 6, 49.0) == {"perceived": {6}, "generated": set()}


def test_generated_attention_is_the_masked_attention_written_out():
    network = tiny.network()
    attention = network.transformer_encoder.layers[0].self_attn
    x, y = torch.randn(2, 6, 16), torch.randn(2, 4, 16)
    visible = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    visible[1, ..., 4:] = False
    _, k, v = attention.project(x)
    own = attention.project(y)
    allowed = torch.cat([visible[:, 0].expand(-1, 4, -1), torch.eye(4, dtype=torch.bool).expand(2, -1, -1)], -1)
    by_hand = torch.nn.functional.scaled_dot_product_attention(
        own[0], torch.cat([k, own[1]], 2), torch.cat([v, own[2]], 2), attn_mask=allowed[:, None]
    )
    torch.testing.assert_close(attention.generate(own, k, v, visible), by_hand.transpose(1, 2).flatten(2))


def test_gradients_say_the_same_as_perturbations():
    network = tiny.network()
    given, mask = halves()
    values = given["pcpt_values"].requires_grad_(True)
    out = network.generate_forward(**given, pcpt_pad_mask=mask)
    (gradient,) = torch.autograd.grad(out.generated[0, 2], values)
    assert (gradient[0, :6] != 0).all()
    assert gradient[0, 6] == 0  # padded
    assert (gradient[1:] == 0).all()  # other cells


def test_a_cell_prompt_stands_in_the_place_of_cls():
    network = tiny.network()
    given, mask = halves()
    prompt = torch.randn(4, 16, requires_grad=True)
    out = network.generate_forward(**given, pcpt_pad_mask=mask, cell_prompt=prompt)
    (gradient,) = torch.autograd.grad(out.generated.sum(), prompt)
    assert (gradient.abs().sum(1) > 0).all()
    assert moved(network, given, mask, "pcpt_values", 0, 49.0, cell_prompt=prompt) == {
        "perceived": set(),
        "generated": set(),
    }


def test_perceived_genes_do_not_care_whether_others_are_generated():
    network = tiny.network(**tiny.EVERYTHING)
    given, mask = halves()
    labels, modalities = torch.tensor([0, 1, 2, 1]), torch.ones(4, 12, dtype=torch.int64)
    both = {"batch_labels": labels, "pcpt_pad_mask": mask, "pcpt_modalities": modalities[:, :7]}
    both |= {"pcpt_conditions": modalities[:, :7]}
    with torch.no_grad():
        whole = network.generate_forward(
            **given, **both, gen_modalities=modalities[:, 7:], gen_conditions=modalities[:, 7:]
        )
        alone = network.generate_forward(given["pcpt_genes"], given["pcpt_values"], **both)
        plain = network(
            given["pcpt_genes"], given["pcpt_values"], mask, labels, modalities[:, :7], modalities[:, :7]
        )  # and perceiving alone is the ordinary forward pass
    torch.testing.assert_close(whole.perceived, alone.perceived)
    torch.testing.assert_close(plain.expression, alone.perceived)
    torch.testing.assert_close(plain.gepc, alone.gepc)
    assert whole.gepc.shape == (4, 12)
    assert whole.generated_zero_prob.shape == (4, 5)


def test_generation_without_the_flag_embedding_says_so():
    given, _ = halves()
    with pytest.raises(NotAvailableError, match="cannot do generation"):
        tiny.network(generative=False).generate_forward(**given)


def test_padding_changes_nothing():
    network, given = tiny.network(), tiny.inputs()
    whole = answers(network, given)
    cut = {name: value[:1, :-2] for name, value in given.items()}
    np.testing.assert_allclose(answers(network, cut)["expression"], whole["expression"][:1, :-2], atol=1e-6)


# --- saving, LoRA -----------------------------------------------------------------------------------


def test_saving_and_loading_is_bit_identical(tmp_path):
    network = tiny.network(**tiny.EVERYTHING)
    network.config.unavailable = {"embedding of plants": "never seen one"}
    network.save_pretrained(tmp_path)
    again = ScGPTModel.from_pretrained(tmp_path)
    assert not again.training
    assert again.config.unavailable == network.config.unavailable
    ours, theirs = network.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    given = tiny.inputs(**tiny.EVERYTHING)
    a, b = answers(network, given), answers(again, given)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_lora_saves_reloads_and_merges_to_the_same_outputs(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    given = tiny.inputs()
    before = answers(tiny.network(), given)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=LORA_TARGETS, init_lora_weights=False)
    torch.manual_seed(0)
    adapted = get_peft_model(tiny.network(), settings).eval()
    names = {name.split(".lora_")[0].split(".")[-1] for name, _ in adapted.named_parameters() if "lora_" in name}
    assert names == {"Wqkv", "out_proj", "linear1", "linear2"}
    assert not any("value_encoder" in name for name, _ in adapted.named_parameters() if "lora_" in name)
    after = answers(adapted, given)
    assert not torch.allclose(before["expression"], after["expression"], atol=1e-3)
    adapted.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(tiny.network(), tmp_path).eval()
    merged = adapted.merge_and_unload()
    assert isinstance(merged, ScGPTModel)
    for other in (reloaded, merged):
        got = answers(other, given)
        for key in after:
            torch.testing.assert_close(got[key], after[key], atol=1e-5, rtol=0)
    embedded = [
        tiny.ScGPT(network, tiny.VOCABULARY, "x").embed(tiny.cells(), progress=False, dtype="float32")
        for network in (reloaded, merged)
    ]
    np.testing.assert_allclose(*embedded, atol=1e-5)  # the fast path runs the adapter too
    plain = tiny.model().embed(tiny.cells(), progress=False, dtype="float32")
    assert np.abs(embedded[0] - plain).max() > 1e-2


def test_a_step_of_the_trainer(tmp_path):
    from transformers import Trainer, TrainingArguments

    network = tiny.network(num_classes=5)
    given = tiny.inputs()
    rows = [{"gene_ids": given["gene_ids"][i], "values": given["values"][i], "labels": i} for i in range(4)]
    arguments = TrainingArguments(
        tmp_path, max_steps=2, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    before = network.encoder.embedding.weight.detach().clone()
    result = Trainer(network, arguments, train_dataset=rows).train()
    assert np.isfinite(result.training_loss)
    assert not torch.equal(before, network.encoder.embedding.weight)


# --- embeddings -------------------------------------------------------------------------------------


def test_embeddings_do_not_depend_on_minibatches_or_order():
    model, cells = tiny.model(), tiny.cells()
    options = {"progress": False, "dtype": "float32"}
    whole = model.embed(cells, **options)
    assert whole.shape == (12, 16)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    for max_tokens in (1, 30, 100):
        np.testing.assert_allclose(model.embed(cells, max_tokens=max_tokens, **options), whole, atol=1e-5)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(model.embed(cells[order], **options), whole[order], atol=1e-5)


def test_genes_have_no_order():
    model, cells = tiny.model(), tiny.cells()
    shuffled = []
    for i in range(len(cells)):
        start, n = cells.offsets[i], cells.lengths[i]
        shuffled.append(np.concatenate([[start], start + 1 + np.random.default_rng(i).permutation(n - 1)]))
    where = np.concatenate(shuffled)
    other = tiny.TokenizedCells(cells.tokens[where], cells.offsets, cells.values[where])
    assert not np.array_equal(other.tokens, cells.tokens)
    np.testing.assert_allclose(
        model.embed(other, progress=False, dtype="float32"),
        model.embed(cells, progress=False, dtype="float32"),
        atol=1e-5,
    )


@pytest.mark.parametrize("options", [{}, {"num_batches": 3, "domain_norm": "dsbn"}, {"num_conditions": 3}])
def test_the_fast_embedding_is_that_of_the_network(options):
    model, cells = tiny.model(**options), tiny.cells()
    labels = np.arange(12) % 3 if options.get("num_batches") else None
    got = model.embed(cells, labels, normalize=False, dtype="float32", progress=False)
    for i in range(len(cells)):
        tokens = torch.from_numpy(cells[i].astype(np.int64))[None]
        values = torch.from_numpy(cells.values[cells.offsets[i] : cells.offsets[i + 1]].copy())[None]
        values[0, 0] = -2
        given = {"gene_ids": tokens, "values": values}
        if labels is not None:
            given["batch_labels"] = torch.tensor([labels[i]])
        if options.get("num_conditions"):
            given["conditions"] = torch.zeros_like(tokens)
        np.testing.assert_allclose(got[i], answers(model.network, given)["cell_embedding"][0], atol=1e-5)


def test_tokens_of_one_bin_share_no_dropout_in_training():
    net = tiny.network(dropout=0.3)
    genes, values = torch.full((40,), 7), torch.full((40,), 3.0)  # 40 tokens that differ in nothing
    plain = net.encoder(genes) + net.value_encoder(values)
    torch.testing.assert_close(scgpt_embed.input_tokens(net, genes, values, None), net.normalize(plain, None))
    net.train()
    masks = []
    hook = net.value_encoder.dropout.register_forward_hook(lambda _, given, out: masks.append(out == 0))
    scgpt_embed.input_tokens(net, genes, values, None)
    hook.remove()
    assert len(masks[0]) == 40  # a draw for each token ...
    assert len(masks[0].unique(dim=0)) > 30  # ... of its own


def test_bfloat16_agrees_and_leaves_the_network_alone():
    model, cells = tiny.model(), tiny.cells()
    model.network.train()
    a = model.embed(cells, dtype="float32", progress=False)
    b = model.embed(cells, dtype="bfloat16", progress=False)
    assert (a * b).sum(1).min() > 0.999
    assert model.network.training
    assert model.network.dtype == torch.float32


def test_cells_that_cannot_be_embedded():
    model, cells = tiny.model(), tiny.cells()
    without = tiny.TokenizedCells(cells.tokens, cells.offsets)
    other = tiny.TokenizedCells(cells.tokens, cells.offsets, cells.values, vocabulary_name="another")
    changed = tiny.TokenizedCells(
        cells.tokens, cells.offsets, cells.values, vocabulary_name="tiny", vocabulary_sha256="0" * 64
    )
    beyond = tiny.TokenizedCells.from_lists([[tiny.CLS, 99]], [[0, 3]])
    no_cls = tiny.TokenizedCells.from_lists([[tiny.CLS, 1], [3, 1], []], [[0, 3], [2, 3], []])
    for wrong, message in [
        (without, "no values"),
        (other, "'another'"),
        (changed, "'tiny'. but not its content"),
        (beyond, "this model has 0 to 42"),
        (no_cls, "2 of 3 cells do not begin with <cls>"),
        (tiny.TokenizedCells.from_lists([[tiny.CLS, 1], [tiny.CLS]], [[0, 3], [0]]), "1 of 2 cells have no genes"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.embed(wrong, progress=False)
    with pytest.raises(TypeError, match="TokenizedCells"):
        model.embed([[1, 2]])


def test_counts_in_embeddings_out():
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    counts = np.random.default_rng(0).poisson(1.5, (5, tiny.N_GENES)).astype(np.float32)
    names = list(tiny.VOCABULARY.tokens)
    adata = ad.AnnData(sp.csr_matrix(counts), var=pd.DataFrame({"gene_symbol": names}, index=names))
    model = tiny.model()
    cells = model.tokenize(adata, max_len=20)
    assert cells.lengths.max() == 20
    assert cells.tokens[0] == tiny.CLS
    assert cells.values[0] == 0  # in the tokens; the embedding task writes -2 there
    again = model.tokenize(adata, max_len=20)
    assert np.array_equal(cells.tokens, again.tokens)
    assert np.array_equal(cells.values, again.values)
    np.testing.assert_allclose(
        model.embed(model.tokenize(adata), progress=False), model.embed(adata, progress=False), atol=1e-6
    )
    assert cells.values[0] == 0, "embed must not write into the caller's cells"
