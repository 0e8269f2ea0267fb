"""Loading scGPT: each layout and spelling, and what is refused or done without, in which words."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import tiny_scgpt as tiny
import torch

from scfm import load_model
from scfm.genes import VocabularyError
from scfm.models import ModelError
from scfm.models.scgpt import NotAvailableError


@pytest.fixture
def state():
    return tiny.network(num_classes=1).state_dict()


def same(model, network):
    given = tiny.inputs()
    with torch.no_grad():
        a, b = model.network(**given), network(**given)
    return all(torch.equal(a[key], b[key]) for key in ("expression", "cell_embedding"))


# --- layouts ----------------------------------------------------------------------------------------


def test_a_released_folder(tmp_path, state):
    model = load_model(tiny.save_as_released(tmp_path / "human", state))
    assert model.name == "human"
    assert len(model.sha256) == 64
    assert same(model, tiny.network(num_classes=1))
    assert model.vocabulary.token("GENE7") == 7
    assert model.special == {"<pad>": 40, "<cls>": 41, "<eoc>": 42}
    assert [ability for ability, reason in model.abilities.items() if not reason] == [
        "embedding",
        "GEP",
        "GEPC",
        "generation",
    ]
    assert not model.network.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.network.parameters())


SPELLINGS = {
    "flash-attn 2": lambda key: key,
    "flash-attn 1, wrapped": lambda key: key.replace("self_attn.Wqkv", "self_attn._impl.Wqkv").replace(
        "self_attn.out_proj", "self_attn._impl.out_proj"
    ),
    "torch": lambda key: key.replace("self_attn.Wqkv.weight", "self_attn.in_proj_weight").replace(
        "self_attn.Wqkv.bias", "self_attn.in_proj_bias"
    ),
    "DistributedDataParallel": lambda key: f"module.{key}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_of_the_attention_weights(tmp_path, state, spelling):
    renamed = {SPELLINGS[spelling](key): value for key, value in state.items()}
    assert (renamed.keys() != state.keys()) == (spelling != "flash-attn 2")
    assert same(load_model(tiny.save_as_released(tmp_path / "x", renamed)), tiny.network(num_classes=1))


def test_two_spellings_of_one_weight(tmp_path, state):
    key = "transformer_encoder.layers.0.self_attn.Wqkv.weight"
    state["transformer_encoder.layers.0.self_attn.in_proj_weight"] = state[key] + 1
    with pytest.raises(ModelError, match="twice, under two spellings"):
        load_model(tiny.save_as_released(tmp_path / "x", state))


def test_a_fine_tuned_folder_with_everything(tmp_path):
    options = {k: v for k, v in tiny.EVERYTHING.items() if k != "num_conditions"}
    folder = tiny.save_as_released(
        tmp_path / "tuned",
        tiny.network(**options).state_dict(),
        n_cls=5,
        num_batch_labels=3,
        use_batch_labels=True,
        DSBN=True,
        explicit_zero_prob=True,
        do_dab=True,
    )
    model = load_model(folder)
    assert not any(model.abilities.values())
    given = tiny.inputs(**options)
    with torch.no_grad():
        a, b = model.network(**given), tiny.network(**options)(**given)
    assert set(a) == set(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_our_own_folder(tmp_path, state):
    model = load_model(tiny.save_as_released(tmp_path / "released", state))
    folder = model.save(tmp_path / "ours")
    again = load_model(folder)
    assert again.vocabulary == model.vocabulary
    assert again.abilities == model.abilities
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.network.state_dict().values(), again.network.state_dict().values(), strict=True)
    )
    cells = tiny.cells()
    np.testing.assert_array_equal(model.embed(cells, progress=False), again.embed(cells, progress=False))
    with pytest.raises(FileExistsError, match="not empty"):
        model.save(folder)


def port(folder, drop=()):
    """The layout of tdc/scGPT: its own key prefixes, no GEPC decoder, no flag, no vocabulary."""
    from safetensors.torch import save_file

    prefixes = {"encoder.": "gene_encoder.", "transformer_encoder.": "transformer.", "decoder.": "expr_decoder."}
    state = {}
    for key, value in tiny.network(mvc=False, generative=False).state_dict().items():
        name = next((new + key.removeprefix(old) for old, new in prefixes.items() if key.startswith(old)), key)
        if name not in drop:
            state[SPELLINGS["torch"](name)] = value
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    config = {"model_type": "scgpt", "embsize": 16, "nhead": 2, "nlayers": 2, "d_hid": 24, "vocab_size": 43}
    config |= {"dropout": 0.0, "pad_token_id": 0, "norm_scheme": "post", "cell_emb_style": "cls", "max_seq_len": 64}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_hub_port_embeds_and_says_what_it_cannot_do(tmp_path):
    model = load_model(port(tmp_path / "port"))
    reference = tiny.network(mvc=False, generative=False)
    given = tiny.inputs()
    with torch.no_grad():
        a, b = model.network(**given), reference(**given)
    assert torch.equal(a.expression, b.expression)
    assert a.gepc is None
    for ability, lacks in [("GEPC", "mvc_decoder"), ("generation", "flag_encoder"), ("classification", "cls_decoder")]:
        with pytest.raises(NotAvailableError, match=f"cannot do {ability}: its weights have no {lacks}"):
            model.require(ability)
    with pytest.raises(NotAvailableError, match="flag_encoder"):
        model.network.generate_forward(given["gene_ids"], given["values"], given["gene_ids"])
    with pytest.raises(VocabularyError, match=r"no vocab\.json beside its weights"):
        _ = model.vocabulary
    ours = tiny.ScGPT(reference, tiny.VOCABULARY, "x").embed(tiny.cells(), progress=False)
    np.testing.assert_allclose(model.embed(tiny.cells(), progress=False), ours, atol=1e-6)


def test_the_hub_port_with_a_key_gone(tmp_path):
    folder = port(tmp_path / "port", drop={"value_encoder.norm.bias"})
    with pytest.raises(ModelError, match=r"missing: value_encoder\.norm\.bias \[16\]; without it no embedding, GEP"):
        load_model(folder)


def test_the_listed_port_by_any_name_and_its_random_twin():
    a, b = (load_model(name, weights="random", seed=1) for name in ("tdc/scGPT", "TDC/scgpt"))
    c = load_model("tdc/scGPT", weights="random", seed=2)
    assert a.network.num_parameters() == 50_804_225  # the published size
    assert torch.equal(a.network.decoder.fc[0].weight, b.network.decoder.fc[0].weight)
    assert not torch.equal(a.network.decoder.fc[0].weight, c.network.decoder.fc[0].weight)
    assert "published without it" in a.abilities["GEPC"]
    with pytest.raises(ModelError, match="Load 'tdc/scgpt' instead"):
        load_model("scGPT")


def test_random_twin_of_a_folder(tmp_path, state):
    folder = tiny.save_as_released(tmp_path / "x", state)
    torch.manual_seed(7)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    twin = load_model(folder, weights="random", seed=3)
    assert torch.equal(torch.rand(1), drawn), "the caller's random state must stay as it was"
    assert twin.sha256 is None
    assert twin.network.state_dict().keys() == load_model(folder).network.state_dict().keys()
    assert not same(twin, tiny.network(num_classes=1))
    (folder / "best_model.pt").unlink()
    assert load_model(folder, weights="random", seed=3).network.config.mvc  # by args.json alone
    with pytest.raises(ModelError, match="no warm start"):
        load_model(folder, weights="start")


# --- what is missing --------------------------------------------------------------------------------


def test_a_missing_gepc_decoder_is_done_without(tmp_path, state):
    folder = tiny.save_as_released(
        tmp_path / "x", {key: value for key, value in state.items() if not key.startswith("mvc_decoder.")}
    )
    with pytest.warns(UserWarning, match=r"cannot do GEPC: its weights have no mvc_decoder.*although args\.json says"):
        model = load_model(folder)
    assert same(model, tiny.network(num_classes=1))
    assert "no GEPC" in repr(model)
    with pytest.raises(NotAvailableError, match="although args"):
        model.require("GEPC")
    saved = load_model(model.save(tmp_path / "saved"))  # the reason travels along
    assert saved.abilities == model.abilities


@pytest.mark.parametrize(
    ("key", "disables"),
    [
        ("mvc_decoder.W.weight", "GEPC"),
        ("decoder.fc.4.bias", "GEP, generation"),
        ("transformer_encoder.layers.1.self_attn.Wqkv.bias", "embedding, GEP, GEPC, generation, classification"),
        ("encoder.enc_norm.weight", "embedding, GEP, GEPC, generation, classification"),
        ("cls_decoder.out_layer.bias", "classification"),
    ],
)
def test_a_renamed_key(tmp_path, state, key, disables):
    renamed = key.replace("weight", "weights").replace("bias", "biases")
    state[renamed] = state.pop(key)
    with pytest.raises(ModelError) as error:
        load_model(tiny.save_as_released(tmp_path / "x", state))
    message = str(error.value)
    assert "nothing was loaded" in message
    assert f"missing: {key} {list(state[renamed].shape)}; without it no {disables}" in message
    assert f"the file has {renamed} of the same shape: was it renamed?" in message
    assert f"without a place in the network: {renamed}" in message


def test_a_key_too_many(tmp_path, state):
    state["surprise"] = torch.zeros(2)
    with pytest.raises(ModelError, match=r"without a place in the network: surprise \[2\]"):
        load_model(tiny.save_as_released(tmp_path / "x", state))


def test_another_shape(tmp_path, state):
    with pytest.raises(ModelError, match=r"another shape: .*linear1.* is \[24, 16\] in the file, \[32, 16\]"):
        load_model(tiny.save_as_released(tmp_path / "x", state, d_hid=32))


def test_batch_tokens_promised_but_absent(tmp_path, state):
    folder = tiny.save_as_released(tmp_path / "x", state, use_batch_labels=True, num_batch_labels=2)
    with pytest.raises(ModelError, match=r"missing: batch_encoder"):
        load_model(folder)


def test_an_unused_norm_of_early_versions_is_skipped_as_upstream_does(tmp_path, state):
    state |= {"bn.weight": torch.ones(16), "bn.bias": torch.ones(16), "bn.running_mean": torch.ones(16)}
    assert same(load_model(tiny.save_as_released(tmp_path / "x", state)), tiny.network(num_classes=1))


# --- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [42, 44])
def test_a_vocabulary_of_another_size(tmp_path, state, n):
    with pytest.raises(ModelError, match=rf"have 43 tokens, its vocabulary has {n} .*do not belong together"):
        load_model(tiny.save_as_released(tmp_path / "x", state, vocab_size=n))


def test_a_vocabulary_with_a_gap(tmp_path, state):
    folder = tiny.save_as_released(tmp_path / "x", state)
    tokens = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(tokens | {"GENE0": 99}))
    with pytest.raises(ModelError, match="largest id 99"):
        load_model(folder)


def test_no_vocabulary_still_embeds_tokens(tmp_path, state):
    folder = tiny.save_as_released(tmp_path / "x", state)
    (folder / "vocab.json").unlink()
    model = load_model(folder)
    assert model.embed(tiny.cells(), progress=False).shape == (12, 16)
    with pytest.raises(VocabularyError, match=r"vocab\.json"):
        _ = model.vocabulary
    (folder / "vocab.json").write_text('{"GENE0": 0')
    with pytest.raises(ModelError, match="cut off"):
        load_model(folder)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("how", ["torch.save", "pickle 2", "pickle 4", "among tensors"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, state, how):
    folder = tiny.save_as_released(tmp_path / "x", state)
    proof = str(tmp_path / "was-here")
    if how.startswith("pickle"):
        (folder / "best_model.pt").write_bytes(pickle.dumps(Malicious(proof), protocol=int(how[-1])))
    else:
        torch.save(
            Malicious(proof) if how == "torch.save" else state | {"extra": Malicious(proof)}, folder / "best_model.pt"
        )
    with pytest.raises(ModelError) as error:
        load_model(folder)
    assert "refused and nothing in it was run" in str(error.value)
    if how != "pickle 4":  # torch stops there before it has read the name
        assert "asks to run posix.mkdir" in str(error.value)
    assert not os.path.exists(proof)
    assert pickle.loads(pickle.dumps(Malicious(proof))) is None
    assert os.path.exists(proof), "the trap must be one that works"


def test_damaged_files(tmp_path, state):
    folder = tiny.save_as_released(tmp_path / "x", state)
    whole = (folder / "best_model.pt").read_bytes()
    (folder / "best_model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cut off"):
        load_model(folder)
    (folder / "best_model.pt").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load_model(folder)
    torch.save([1, 2], folder / "best_model.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        load_model(folder)
    torch.save({"model_state_dict": state, "epoch": 3}, folder / "best_model.pt")
    assert same(load_model(folder), tiny.network(num_classes=1))
    (folder / "args.json").write_text("{")
    with pytest.raises(ModelError, match="not readable JSON"):
        load_model(folder)
    (folder / "args.json").unlink()
    with pytest.raises(ModelError, match=r"no args\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"input_emb_style": "category"}, "only 'continuous'"),
        ({"cell_emb_style": "avg-pool"}, "only 'cls'"),
        ({"pre_norm": True}, "post-norm"),
        ({"nlayers": None}, "does not say nlayers"),
    ],
)
def test_kinds_of_scgpt_that_are_not_read(tmp_path, state, args, message):
    with pytest.raises(ModelError, match=message):
        load_model(tiny.save_as_released(tmp_path / "x", state, **args))


def test_provenance_is_announced(tmp_path, state, monkeypatch):
    monkeypatch.setenv("SCFM_PROVENANCE", str(tmp_path / "log"))
    model = load_model(tiny.save_as_released(tmp_path / "x", state))
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line) == {"kind": "model", "name": "x", "sha256": model.sha256}
