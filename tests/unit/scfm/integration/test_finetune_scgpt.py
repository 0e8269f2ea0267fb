"""Fine-tuning of scGPT: what is kept of the base, what is new, what is learned, and what is refused."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import tiny_scgpt as tiny
import torch
from two_batches import ALL, PARTS, QUICK, study_of

import scfm
from scfm.integration import recipe as module
from scfm.integration.recipe import OF_THE_STUDY, finetune, with_parts
from scfm.integration.study import minibatches, prepare
from scfm.models.scgpt import NotAvailableError
from scfm.objectives import Weights


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    return study_of()


@pytest.fixture(scope="module")
def model():
    return tiny.model(dropout=0.1)


@pytest.fixture(scope="module")
def tuned(model, adata):
    """All five objectives at once."""
    return finetune(model, adata, ALL, seed=3, **QUICK | {"epochs": 12})


# --- parts ------------------------------------------------------------------------------------------


def test_weights_of_the_base_are_kept_and_it_answers_as_before():
    base = tiny.network(zero_prob=True, dropout=0.0)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    copy = with_parts(base, seed=1, **PARTS).eval()
    inputs = tiny.inputs()
    with torch.no_grad():
        old, new = base(**inputs), copy(**inputs, batch_labels=torch.tensor([0, 1, 1, 0]))
    for name in ("expression", "zero_prob", "gepc", "gepc_zero_prob", "cell_embedding"):
        torch.testing.assert_close(new[name], old[name], atol=1e-6, rtol=1e-6)
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name]), name
        kept = copy.state_dict()[name]
        assert torch.equal(kept[tuple(slice(n) for n in value.shape)], value), name
    assert new.cls.shape == (4, 3)
    assert new.dab.shape == (4, 2)


def test_new_parts_come_from_the_seed_and_leave_the_callers_draws_alone():
    base = tiny.network()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    same, again, other = (with_parts(base, seed, **PARTS).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    news = [name for name in same if name.startswith(OF_THE_STUDY) and name.endswith("weight") and "norm" not in name]
    drawn = [name for name in news if same[name].dim() == 2]
    assert len(drawn) > 4
    for name in drawn:
        assert torch.equal(same[name], again[name])
        assert not torch.equal(same[name], other[name])


def test_parts_of_an_earlier_study_are_not_taken_over():
    earlier = tiny.network(**PARTS)
    later = with_parts(earlier, seed=0, **PARTS | {"num_batches": 4, "domain_norm": "dsbn"})
    assert later.batch_encoder.embedding.weight.shape == (4, 16)
    assert not torch.equal(later.cls_decoder.out_layer.weight, earlier.cls_decoder.out_layer.weight)
    assert torch.equal(later.decoder.fc[0].weight, earlier.decoder.fc[0].weight)
    plain = with_parts(earlier, num_batches=0, batch_tokens=False, adversarial=False, num_classes=0)
    assert torch.equal(plain.decoder.fc[0].weight, earlier.decoder.fc[0].weight[:, :16])


# --- the study --------------------------------------------------------------------------------------


def test_a_study_holds_zeros_bins_of_the_chosen_genes_and_numbers(model, adata):
    few = adata[:, 5:25].copy()
    labels = np.where(np.arange(few.n_obs) < 10, "unknown", few.obs["cell_type"]).astype(object)
    labels[:5] = [None, "", np.nan, pd.NA, "NaN"]
    study = prepare(model, few, 40, labels)
    assert study.genes == few.var["gene_symbol"].tolist()
    assert study.gene_ids.tolist() == [tiny.CLS, *range(5, 25)]
    counts = few.X.toarray()
    assert ((study.values[:, 1:] == 0) == (counts == 0)).all()
    assert (study.values[:, 0] == model.network.config.pad_value).all()
    one = counts[7]
    edges = np.quantile(one[one > 0], np.linspace(0, 1, 50))  # by hand: quantiles of this cell's own counts
    np.testing.assert_array_equal(study.values[7, 1:][one > 0], np.digitize(one[one > 0], edges))
    assert study.batches == ["batch 0", "batch 1"]
    assert [study.batches[b] for b in study.batch] == few.obs["batch"].tolist()
    assert (study.label[:10] == -100).all()
    assert [study.classes[k] for k in study.label[10:]] == few.obs["cell_type"].tolist()[10:]


def test_minibatches_see_each_cell_once_an_epoch_and_hide_the_share_asked_for(model, adata):
    study = prepare(model, adata, 40)
    stream = minibatches(study, 20, 0.4, seed=1)
    first = [next(stream) for _ in range(3)]
    assert sorted(np.concatenate([cells for _, cells, _ in first])) == list(range(48))
    assert {epoch for epoch, _, _ in first} == {0}
    assert next(stream)[0] == 1
    for _, cells, mask in first:
        assert mask.shape == (len(cells), 41)
        assert not mask[:, 0].any()
        assert (mask.sum(1) == 16).all()
    again = next(minibatches(study, 20, 0.4, seed=1))
    np.testing.assert_array_equal(again[2], first[0][2])
    assert not np.array_equal(next(minibatches(study, 20, 0.4, seed=2))[1], first[0][1])


# --- training ---------------------------------------------------------------------------------------


def test_every_objective_falls_and_the_model_given_stays(model, adata, tuned):
    assert torch.equal(model.network.encoder.embedding.weight, tiny.network(dropout=0.1).encoder.embedding.weight)
    assert not torch.equal(tuned.model.network.encoder.embedding.weight, model.network.encoder.embedding.weight)
    assert list(dict.fromkeys(tuned.history["objective"])) == [
        "GEP", "GEP zeros", "GEPC", "GEPC zeros", "ECS", "DAR", "CLS",
    ]  # fmt: skip
    by_epoch = tuned.history.groupby(["objective", "epoch"])["loss"].mean().unstack()
    for name in ("GEP", "GEPC", "GEP zeros", "GEPC zeros", "CLS"):
        assert by_epoch.loc[name, 11] < 0.95 * by_epoch.loc[name, 0], name
    assert tuned.seconds > 0
    assert not tuned.interrupted
    assert not tuned.model.network.training


def test_the_networks_own_meaning_of_values_is_kept(adata):
    """A network that learned values of expressed genes only goes on so; one that learned zeros too goes on so as well."""
    for flag in (True, False):
        base = tiny.model(dropout=0.0, zero_prob=True, if_expressed=flag)
        done = finetune(base, adata, ["GEP"], batch_tokens=False, domain_norm="none", max_steps=1, **QUICK)
        assert done.model.network.config.if_expressed == flag
        study = done.study
        _, cells, mask = next(minibatches(study, QUICK["minibatch"], 0.4, 0))
        target, hidden = torch.from_numpy(study.values[cells]), torch.from_numpy(mask)
        counted = hidden & (target > 0) if flag else hidden
        network = base.network.train()
        with torch.no_grad():
            out = network(torch.from_numpy(study.gene_ids).expand(len(cells), -1), target.masked_fill(hidden, -1))
        network.eval()
        expected = ((out.expression - target)[counted] ** 2).mean().item()
        found = done.history.query("objective == 'GEP'")["loss"].iloc[0]
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_one_objective_alone_has_only_its_own_parts(model, adata, name):
    done = finetune(model, adata, [name.lower()], max_steps=2, **QUICK)
    assert {o.split()[0] for o in done.history["objective"]} == {name}
    network = done.model.network
    assert (network.grad_reverse_discriminator is not None) == (name == "DAR")
    assert (network.cls_decoder is not None) == (name == "CLS")
    assert network.config.zero_prob == (name in ("GEP", "GEPC"))
    assert done.embed(adata).shape == (48, 16)


def test_ecs_alone_makes_cells_alike(model, adata):
    done = finetune(model, adata, ["ECS"], batch_tokens=False, domain_norm="none", **QUICK)

    def likeness(embedding):
        return (embedding @ embedding.T)[~np.eye(len(embedding), dtype=bool)].mean()

    base = finetune(model, adata, ["ECS"], batch_tokens=False, domain_norm="none", **QUICK | {"learning_rate": 1e-12})
    assert likeness(done.embed(adata)) > likeness(base.embed(adata))


def test_the_seed_decides(model, adata):
    runs = [finetune(model, adata, ALL, seed=seed, max_steps=3, **QUICK) for seed in (1, 1, 2)]
    assert runs[0].history.equals(runs[1].history)
    np.testing.assert_array_equal(runs[0].embed(adata), runs[1].embed(adata))
    assert not np.allclose(runs[0].embed(adata), runs[2].embed(adata))


def test_the_classifier_learns_from_some_labels_what_it_says_of_other_cells(model):
    adata = study_of(96, seed=4)
    known = np.arange(96) < 48
    labels = np.where(known, adata.obs["cell_type"].astype(str), "")
    done = finetune(model, adata, ["CLS"], labels=labels, **QUICK | {"epochs": 25})
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    assert (done.predict(adata)[~known] == truth[~known]).mean() > 0.8
    shuffled = np.where(known, np.random.default_rng(0).permutation(truth), "")
    lost = finetune(model, adata, ["CLS"], labels=shuffled, **QUICK | {"epochs": 25})
    assert (lost.predict(adata)[~known] == truth[~known]).mean() < 0.6


def test_an_interrupt_keeps_what_is_there(model, adata, monkeypatch):
    calls = []
    real = module.losses_of

    def stopped(*given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "losses_of", stopped)
    done = finetune(model, adata, ["GEP"], **QUICK)
    assert done.interrupted
    assert done.history["step"].max() == 2
    assert not torch.equal(done.model.network.decoder.fc[0].weight[:, :16], model.network.decoder.fc[0].weight)
    assert not done.model.network.training


@pytest.mark.parametrize("norm", ["dsbn", "batchnorm"])
def test_normalization_settles_on_cells_with_nothing_hidden(model, adata, norm):
    done = finetune(model, adata, ["GEP"], domain_norm=norm, max_steps=2, **QUICK)
    network, study = done.model.network, done.study
    with torch.no_grad():
        ids = torch.from_numpy(study.gene_ids).expand(48, -1)
        x = network.normalize(
            network.tokens(network.encoder(ids), torch.from_numpy(study.values)), torch.from_numpy(study.batch)
        )
    for cells in [study.batch == 0, study.batch == 1] if norm == "dsbn" else [study.batch >= 0]:
        offset = torch.zeros(16) if norm == "dsbn" else network.bn.bias.detach()  # DSBN has no weights of its own
        scale = torch.ones(16) if norm == "dsbn" else network.bn.weight.detach()
        torch.testing.assert_close(x[cells].mean((0, 1)), offset, atol=1e-4, rtol=0)
        torch.testing.assert_close(x[cells].std((0, 1)), scale, atol=1e-2, rtol=0)


def test_steps_and_learning_rate(model, adata):
    done = finetune(model, adata, ["GEP"], **QUICK | {"epochs": 2})
    assert done.history["step"].max() + 1 == 2 * 3  # 48 cells by 16
    assert done.history["epoch"].max() == 1
    still = finetune(model, adata, ["GEP"], **QUICK | {"epochs": 3, "decay": 1e-9})
    losses = still.history.query("objective == 'GEP'").groupby("epoch")["loss"].mean()
    assert losses[2] == pytest.approx(losses[1], rel=0.1)  # nothing is learned any more after the first epoch


def test_without_a_step_it_is_the_model_on_the_genes_of_the_study(model, adata):
    start = finetune(model, adata, ["GEP"], batch_tokens=False, domain_norm="none", max_steps=0, **QUICK)
    assert start.history.empty
    expected = model.embed(model.tokenize(adata, include_zeros=True), dtype="float32", progress=False)
    np.testing.assert_allclose(start.embed(adata), expected, atol=1e-6)


# --- using it ---------------------------------------------------------------------------------------


def test_embeddings_follow_the_cells_and_not_the_columns(tuned, adata):
    whole = tuned.embed(adata)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    order = np.random.default_rng(0).permutation(48)
    np.testing.assert_allclose(tuned.embed(adata[order]), whole[order], atol=1e-5)
    np.testing.assert_allclose(tuned.embed(adata[:, ::-1].copy()), whole, atol=1e-5)
    other = adata.copy()
    other.obs["batch"] = other.obs["batch"].map({"batch 0": "batch 1", "batch 1": "batch 0"})
    assert not np.allclose(tuned.embed(other), whole, atol=1e-3)  # DSBN goes by each cell's own batch


def test_saved_and_loaded_it_is_the_same(tuned, adata, tmp_path):
    folder = tuned.model.save(tmp_path / "tuned")
    loaded = scfm.load_model(folder)
    number = {name: i for i, name in enumerate(tuned.study.batches)}
    labels = np.asarray([number[b] for b in adata.obs["batch"]])
    cells = loaded.tokenize(adata, include_zeros=True)
    np.testing.assert_array_equal(loaded.embed(cells, labels, dtype="float32", progress=False), tuned.embed(adata))
    assert loaded.network.config.num_classes == 3


def test_cells_that_do_not_belong_to_the_study(tuned, adata):
    with pytest.raises(ValueError, match=r"1 of the 40 genes .* missing, for example GENE0"):
        tuned.embed(adata[:, 1:])
    foreign = adata.copy()
    foreign.obs["batch"] = "batch 7"
    with pytest.raises(ValueError, match="'batch 7' is new"):
        tuned.embed(foreign)


def test_without_parts_for_batches_any_batch_can_be_embedded(model, adata):
    done = finetune(model, adata, ["GEP", "DAR"], batch_tokens=False, domain_norm="none", max_steps=1, **QUICK)
    foreign = adata.copy()
    foreign.obs["batch"] = "batch 7"
    np.testing.assert_array_equal(done.embed(foreign), done.embed(adata))
    with pytest.raises(NotAvailableError, match="classification"):
        done.predict(adata)


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"objectives": ["GEP", "MLM"]}, ValueError, "'MLM' is no objective of scGPT; there are GEP"),
        ({"objectives": []}, ValueError, "No objective"),
        ({"mask_fraction": 0.0}, ValueError, "between 0 and 1"),
        ({"mask_fraction": 1.0}, ValueError, "between 0 and 1"),
        ({"minibatch": 1}, ValueError, "pairs"),
        ({"learning_rate": 0}, ValueError, "learning_rate above 0"),
        ({"n_genes": 64}, ValueError, "at most 63 genes"),
        ({"labels": ["a"] * 47}, ValueError, "47 labels for 48 cells"),
        ({"objectives": ["CLS"], "labels": ["T cell"] * 48}, ValueError, "one class, 'T cell'"),
        ({"objectives": ["CLS"], "labels": ["unknown"] * 48}, ValueError, "none that is known"),
        ({"weights": Weights(gep=0, gepc=0, ecs=0, dar=0)}, ValueError, "nothing to train on"),
    ],
)
def test_what_is_refused(model, adata, change, error, message):
    with pytest.raises(error, match=message):
        finetune(model, adata, **{"objectives": ("GEP", "DAR"), **QUICK, **change})


def test_one_batch_only(model, adata):
    single = adata[(adata.obs["batch"] == "batch 0").to_numpy()].copy()
    with pytest.raises(ValueError, match=r"one batch only .'batch 0'.*DAR, batch_tokens, DSBN"):
        finetune(model, single, **QUICK)
    with pytest.raises(ValueError, match="tell apart for DAR"):
        finetune(model, single, ["DAR"], batch_tokens=False, domain_norm="none", **QUICK)
    done = finetune(model, single, ["GEP"], batch_tokens=False, domain_norm="none", max_steps=1, **QUICK)
    assert done.embed(single).shape[0] == single.n_obs
    partly = adata.copy()
    partly.obs["batch"] = np.where(np.arange(48) < 5, "unknown", partly.obs["batch"].astype(str))
    with pytest.raises(ValueError, match="batch of 5 of 48 cells is not known"):
        finetune(model, partly, **QUICK)


def test_networks_that_cannot_be_fine_tuned(adata):
    without = tiny.model(mvc=False)
    without.network.config.unavailable = {"GEPC": "its weights have no mvc_decoder.*"}
    with pytest.raises(NotAvailableError, match="cannot do GEPC: its weights have no mvc_decoder"):
        finetune(without, adata, **QUICK)
    assert finetune(without, adata, ["GEP"], max_steps=1, **QUICK).history["loss"].notna().all()
    with pytest.raises(ValueError, match="modality or condition tokens"):
        finetune(tiny.model(num_modalities=2), adata, ["GEP"], **QUICK)
    with pytest.raises(TypeError, match="merged first"):
        finetune(object(), adata, ["GEP"], **QUICK)


def test_a_loss_that_is_no_number_stops(adata):
    broken = tiny.model()
    with torch.no_grad():
        broken.network.decoder.fc[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="no number at step 0"):
        finetune(broken, adata, ["GEP"], **QUICK)
