"""Loading: names, folders, and everything that is not a model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny_geneformer as tiny
import torch
from safetensors.torch import load_file, save_file

from scfm import load_model
from scfm.genes import VocabularyError
from scfm.models import ModelError, list_models
from scfm.models.geneformer import Geneformer
from scfm.models.geneformer_files import random_network
from scfm.store import hub


@pytest.fixture
def folder(tmp_path):
    """A tiny model as Geneformer.save writes it."""
    return tiny.model().save(tmp_path / "saved")


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- what works -------------------------------------------------------------------------------------


def test_save_and_load_give_the_same_model(folder):
    model, cells = load_model(folder), tiny.cells()
    np.testing.assert_array_equal(
        model.embed(cells, dtype="float32", progress=False), tiny.model().embed(cells, dtype="float32", progress=False)
    )
    assert model.vocabulary == tiny.vocabulary()
    assert model.special == {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}
    assert model.network.config._attn_implementation == "sdpa"
    assert not model.network.training
    assert len(model.sha256) == 64
    assert "3 layers" in repr(model)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["saved"]  # nothing temporary stays


def test_save_does_not_overwrite(folder):
    with pytest.raises(FileExistsError, match="choose a new name"):
        tiny.model().save(folder)


def test_half_precision_files_load_as_float32(folder):
    change_weights(folder, lambda weights: weights.update({k: v.half() for k, v in weights.items()}))
    model = load_model(folder)
    assert model.network.dtype == torch.float32
    exact = tiny.model().embed(tiny.cells(), dtype="float32", progress=False)
    np.testing.assert_allclose(model.embed(tiny.cells(), dtype="float32", progress=False), exact, atol=0.02)


def test_old_files_with_position_ids_and_tied_weights_load(folder):
    def as_older_versions_saved(weights):
        weights["bert.embeddings.position_ids"] = torch.arange(64)[None]
        weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
        weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"].clone()

    change_weights(folder, as_older_versions_saved)
    head = load_model(folder).network.cls.predictions.decoder.weight
    assert torch.equal(head, tiny.model().network.bert.embeddings.word_embeddings.weight)


def test_random_twins(folder):
    twins = [load_model(folder, weights="random", seed=seed) for seed in (0, 0, 1)]
    weights = [twin.network.bert.encoder.layer[0].attention.self.query.weight for twin in twins]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert twins[0].sha256 is None
    assert "random weights, seed 0" in twins[0].name
    assert twins[0].vocabulary == tiny.vocabulary()


def test_making_a_twin_leaves_the_callers_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    random_network(tiny.config(), 0)
    assert torch.equal(torch.rand(1), expected)


def test_medians_of_unknown_genes_are_nan():
    medians = tiny.model().medians(["ENSG00000000002", "nonsense", "ensg00000000003"])
    np.testing.assert_array_equal(medians, [1.2, np.nan, 1.3])


def test_default_pooling():
    assert tiny.model("V1").default_pooling == "mean"
    assert tiny.model("V2").default_pooling == "mean"  # a <cls> alone does not make a V2
    assert (
        Geneformer(tiny.model("V2").network, tiny.vocabulary("V2", name="geneformer-v2"), "x").default_pooling == "cls"
    )


def test_list_models_reads_the_catalogue():
    table = list_models()
    assert {"geneformer-v1-10m", "geneformer-v2-104m", "geneformer-v2-104m-clcancer", "geneformer-v2-316m"} <= set(
        table.index
    )
    assert table.loc["geneformer-v2-316m", "layers"] == 18


def test_counts_go_in_directly():
    """embed(adata) tokenizes with the model's own vocabulary; the first token is the gene highest above its median."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    model = tiny.model()
    genes = list(model.vocabulary.tokens)
    counts = np.zeros((2, len(genes)), np.float32)
    counts[0, [3, 7]] = [2, 9]
    counts[1, [0, 39, 5]] = [4, 4, 1]
    adata = anndata.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame({"n_counts": counts.sum(1)}, index=["a", "b"]),
        var=pd.DataFrame({"ensembl_id": genes, "gene_symbol": genes}, index=genes),
    )
    cells = model.tokenize(adata)
    assert cells[0].tolist() == [2, model.vocabulary.tokens[genes[7]], model.vocabulary.tokens[genes[3]], 3]
    assert cells.vocabulary_name == "tiny"
    expected = model.embed(cells, dtype="float32", progress=False)
    np.testing.assert_array_equal(model.embed(adata, dtype="float32", progress=False), expected)
    assert len(model.tokenize(adata, max_len=3)[1]) == 3
    adata.obs["filter_pass"] = [0, 1]  # row i would no longer be cell i
    assert model.tokenize(adata).cell_ids.tolist() == ["b"]
    for answer in (model.embed, model.masked_loss):
        with pytest.raises(ValueError, match="leaves out 1 of 2 cells"):
            answer(adata)
    adata.obs["filter_pass"] = [1, 1]
    np.testing.assert_array_equal(model.embed(adata, dtype="float32", progress=False), expected)


def test_a_warm_start_that_was_not_kept(folder):
    for name in (folder, "geneformer-v1-10m"):
        with pytest.raises(ModelError, match="only 'pretrained' and 'random'"):
            load_model(name, weights="start")


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("GF-6L-30M-i2048", "geneformer-v1-10m"),
        ("gf-12L-30M-i2048", "geneformer-v1-10m"),
        ("GF-12L-95M-i4096", "geneformer-v2-104m"),
        ("GF-12L-95M-i4096_CLcancer", "geneformer-v2-104m-clcancer"),
        ("GF-20L-95M-i4096", "geneformer-v2-316m"),
        ("ctheodoris/Geneformer", "geneformer-v2-316m"),
        ("Geneformer", "geneformer-v2-316m"),
        ("geneformer-12L-30M", "geneformer-v1-10m"),
    ],
)
def test_old_names_say_what_replaces_them(old, now):
    with pytest.raises(ModelError, match=f"old name. Load '{now}' instead"):
        load_model(old)


def test_unknown_names_get_the_closest():
    with pytest.raises(ModelError, match="Did you mean 'geneformer-v2-104m'"):
        load_model("geneformer-v2-104")
    with pytest.raises(ModelError, match="Known names: geneformer"):
        load_model("resnet50")


@pytest.mark.parametrize("spelling", ["Geneformer-V1-10M", "geneformer_v1_10m", " geneformer-v1-10m "])
def test_spelling_is_forgiven(spelling, monkeypatch):
    asked = []

    def fetch(repo, revision, name, pin):
        asked.append(name)
        raise hub.HubError("stop here")

    monkeypatch.setattr(hub, "fetch", fetch)
    with pytest.raises(hub.HubError):
        load_model(spelling)
    assert asked == ["Geneformer-V1-10M/config.json"]


def test_wrong_options(folder):
    with pytest.raises(ModelError, match="'pretrained', 'random'"):
        load_model(folder, weights="none")
    with pytest.raises(ModelError, match="give the folder"):
        load_model(folder / "config.json")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="sees no GPU"):
            load_model(folder, device="cuda")
        assert load_model(folder, device="auto").network.device.type == "cpu"


# --- what is refused --------------------------------------------------------------------------------


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle, which can run any code"):
        load_model(folder)


def test_missing_files(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -8])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        load_model(folder)


def test_keys_that_are_missing_or_not_expected_are_listed(folder):
    def change(weights):
        del weights["bert.encoder.layer.1.output.dense.weight"]
        weights["classifier.weight"] = torch.zeros(2, 16)
        weights["bert.embeddings.LayerNorm.bias"] = torch.zeros(17)

    change_weights(folder, change)
    with pytest.raises(ModelError) as error:
        load_model(folder)
    message = str(error.value)
    assert "missing (1): bert.encoder.layer.1.output.dense.weight" in message
    assert "not expected (1): classifier.weight" in message
    assert "bert.embeddings.LayerNorm.bias: (17,) in the file, (16,) by config.json" in message
    assert "fine-tuned" in message


def test_config_of_another_size(folder):
    change_config(folder, num_hidden_layers=4)
    with pytest.raises(ModelError, match=r"missing \(16\)"):
        load_model(folder)


def test_config_that_is_not_ours(folder):
    change_config(folder, position_embedding_type="relative_key")
    with pytest.raises(ModelError, match="'absolute'"):
        load_model(folder)
    change_config(folder, model_type="llama", position_embedding_type="absolute")
    with pytest.raises(ModelError, match="of type 'llama'"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "be')
    with pytest.raises(ModelError, match="not readable JSON"):
        load_model(folder)


def test_weights_and_vocabulary_of_different_models(folder, tmp_path):
    tiny.vocabulary("V1", name="other").save(tmp_path / "other")
    for file in ("vocabulary.tsv.gz", "rank_tokenizer.json"):
        shutil.copy(tmp_path / "other" / file, folder / file)
    with pytest.raises(ModelError, match="44 tokens, the vocabulary other has 42"):
        load_model(folder)


def test_no_vocabulary_and_none_to_recognize(tmp_path):
    folder = tiny.save_in_hub_layout(tmp_path / "bare")
    with pytest.raises(ModelError, match="nothing says which token is which gene"):
        load_model(folder)
    twin = load_model(folder, weights="random")
    with pytest.raises(VocabularyError, match="has no vocabulary"):
        _ = twin.vocabulary
