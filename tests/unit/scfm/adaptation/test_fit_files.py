"""A fit on disk: it comes back, it belongs to one base, and peft and transformers read it without us."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiny_task
import torch

import scfm
from scfm import calibration
from scfm.adaptation import fitscores, quantize
from scfm.adaptation.adapters import digest
from scfm.adaptation.modelcard import card

KINDS = ("geneformer", "scgpt")
FAST = {"epochs": 1, "learning_rate": 1e-3, "minibatch": 10, "dtype": "float32", "progress": False}


def fitted(kind: str, method: str, **more):
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind, 40)
    return model, cells, scfm.adapt(model, cells, types, method, **FAST, **more)


def proba(fit, cells):
    return fit.predict_proba(cells, progress=False)


METHODS = ["head", "lora", "dora", "ia3", "ln", "vera", "prefix", "prompt", "partial", "full"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_comes_back_as_it_was(kind: str, method: str, tmp_path: Path) -> None:
    if kind == "scgpt" and method in ("prefix", "prompt"):
        return  # refused in words: test_adapt_labels
    model, cells, fit = fitted(kind, method)
    fit.evaluate(cells, tiny_task.cells(kind, 40)[1])
    folder = fit.save(tmp_path / "fit")
    again = scfm.load_fit(folder, model)
    np.testing.assert_array_equal(proba(again, cells), proba(fit, cells))
    assert again.choices == fit.choices
    assert again.report.curve == fit.report.curve
    assert again.report.trained_parameters == fit.report.trained_parameters
    assert again.evaluations == fit.evaluations
    assert again.card() == fit.card() == (folder / "README.md").read_text()
    content = json.loads((folder / "fit.json").read_text())
    assert content["base"] == {"name": "tiny", "sha256": None, "weights": digest(model.network), "kind": kind}
    assert {p.name for p in tmp_path.iterdir()} == {"fit"}  # nothing half-written stays
    assert str(tmp_path) not in "".join(p.read_text() for p in folder.iterdir() if p.suffix in (".json", ".md"))
    if method in ("partial", "full"):  # the folder holds the network: no base is needed
        alone = scfm.load_fit(folder)
        np.testing.assert_array_equal(proba(alone, cells), proba(fit, cells))
        assert again.model is model
        assert alone.model.name == alone.adapted.name == fit.adapted.name == f"tiny + {method}"  # no base is there
        assert repr(alone) == repr(fit)
        assert alone.card() == fit.card()


def test_trained_weights_do_not_go_by_the_hash_of_the_bases_file() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=40)
    model.sha256 = "of the base"
    for method, sha256 in (("head", "of the base"), ("lora", None), ("full", None)):
        fit = scfm.adapt(model, cells, types, method, **FAST)
        assert (fit.model.sha256, fit.adapted.sha256) == ("of the base", sha256)
        assert fit.base["sha256"] == "of the base"


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    model, cells, fit = fitted(
        "geneformer", "head", class_weight={np.str_("B"): np.int64(2), "T": np.float32(0.5)}, head_rate=np.float32(0.5)
    )
    again = scfm.load_fit(fit.save(tmp_path / "fit"), model)
    assert again.choices == fit.choices
    assert again.choices.class_weight == {"B": 2.0, "T": 0.5}
    np.testing.assert_array_equal(proba(again, cells), proba(fit, cells))


@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_a_wrong_base_is_refused(method: str, tmp_path: Path) -> None:
    _, cells, fit = fitted("geneformer", method)
    folder = fit.save(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"belongs to 'tiny' \(weights [0-9a-f]{12}.*refused"):
        scfm.load_fit(folder, tiny_task.model(seed=1))
    nearly = tiny_task.model()
    with torch.no_grad():
        nearly.network.bert.encoder.layer[2].output.dense.bias[3] += 1e-6
    with pytest.raises(ValueError, match="refused"):
        scfm.load_fit(folder, nearly)
    right = scfm.load_fit(folder, tiny_task.model())
    np.testing.assert_array_equal(proba(right, cells), proba(fit, cells))


def test_a_base_that_no_name_loads_is_asked_for(tmp_path: Path) -> None:
    _, _, fit = fitted("geneformer", "lora")
    with pytest.raises(ValueError, match=r"Give it: scfm.load_fit\(folder, model="):
        scfm.load_fit(fit.save(tmp_path / "fit"))


def test_the_base_of_a_twin_is_made_again_from_its_name(tmp_path: Path) -> None:
    adata = scfm.load_dataset("pbmc68k")[:30]
    for weights, seed in (("pretrained", 0), ("random", 3), ("start", 1)):
        model = scfm.load_model("geneformer-mini", weights=weights, seed=seed)
        cells = model.tokenize(adata, max_len=40)
        fit = scfm.adapt(model, cells, ["a", "b"] * 15, "head", **{k: v for k, v in FAST.items() if k != "epochs"})
        again = scfm.load_fit(fit.save(tmp_path / weights))
        assert again.model.name == model.name
        np.testing.assert_array_equal(proba(again, cells), proba(fit, cells))


def test_damage_is_named(tmp_path: Path) -> None:
    model, _, fit = fitted("geneformer", "lora")
    folder = fit.save(tmp_path / "fit")
    with pytest.raises(FileExistsError, match="not empty"):
        fit.save(folder)
    (tmp_path / "empty").mkdir()
    assert fit.save(tmp_path / "empty").joinpath("fit.json").exists()
    with pytest.raises(FileNotFoundError, match=r"no fit\.json"):
        scfm.load_fit(tmp_path)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"abcd")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is not the file"):
        scfm.load_fit(folder, model)
    weights.unlink()
    with pytest.raises(ValueError, match="lacks adapter_model"):
        scfm.load_fit(folder, model)
    weights.write_bytes(whole)
    text = (folder / "fit.json").read_text()
    (folder / "fit.json").write_text(text[:100])
    with pytest.raises(ValueError, match="may be cut off"):
        scfm.load_fit(folder, model)
    (folder / "fit.json").write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="format 99"):
        scfm.load_fit(folder, model)


# --- without us -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_plain_peft_reads_an_adapter(kind: str, method: str, tmp_path: Path) -> None:
    import peft

    model, cells, fit = fitted(kind, method)
    folder = fit.save(tmp_path / "fit")
    base = tiny_task.model(kind)
    base.network = peft.PeftModel.from_pretrained(base.network, str(folder)).get_base_model()
    how = {"progress": False, "dtype": "float32"} | ({"normalize": False} if kind == "scgpt" else {"layer": 0})
    np.testing.assert_allclose(base.embed(cells, **how), fit.embed(cells, progress=False), atol=1e-5)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    assert np.abs(base.embed(cells, **how) - model.embed(cells, **how)).max() > 1e-4


def test_plain_peft_reads_a_prefix(tmp_path: Path) -> None:
    import peft

    for method in ("prefix", "prompt"):
        _, cells, fit = fitted("geneformer", method)
        folder = fit.save(tmp_path / method)
        whole = peft.PeftModel.from_pretrained(tiny_task.model().network.bert, str(folder)).eval()
        ids, mask = (torch.from_numpy(a) for a in cells.padded(np.arange(40)))
        with torch.inference_mode():
            x = whole(input_ids=ids, attention_mask=mask).last_hidden_state[:, -ids.shape[1] :]
        genes = (ids > 3)[..., None]
        expected = ((x * genes).sum(1) / genes.sum(1)).numpy()
        np.testing.assert_allclose(fit.embed(cells, progress=False), expected, atol=1e-5)


def test_plain_transformers_reads_a_full_geneformer(tmp_path: Path) -> None:
    import transformers

    _, cells, fit = fitted("geneformer", "full")
    folder = fit.save(tmp_path / "fit")
    encoder = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    assert type(encoder).__name__ == "BertModel"
    ids, mask = (torch.from_numpy(a) for a in cells.padded(np.arange(40)))
    with torch.inference_mode():
        x = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    genes = (ids > 3)[..., None]
    np.testing.assert_allclose(fit.embed(cells, progress=False), ((x * genes).sum(1) / genes.sum(1)).numpy(), atol=1e-5)
    again = scfm.load_model(folder)  # and so do we, as a model to go on from
    assert digest(again.network) == digest(fit.network)


def test_plain_scgpt_reads_a_full_scgpt(tmp_path: Path) -> None:
    from scfm.models.scgpt import ScGPTModel

    _, _, fit = fitted("scgpt", "full")
    network = ScGPTModel.from_pretrained(fit.save(tmp_path / "fit")).eval()
    assert digest(network) == digest(fit.network)
    assert digest(scfm.load_model(tmp_path / "fit").network) == digest(fit.network)


@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_a_cls_classifier_is_berts_own(method: str, tmp_path: Path) -> None:
    import transformers

    _, cells, fit = fitted("geneformer", method, pooling="cls", layer=0, head="mlp")
    fit.to_transformers().save_pretrained(tmp_path / "plain")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    assert type(plain).__name__ == "BertForSequenceClassification"
    assert plain.config.id2label == {0: "B", 1: "T"}
    ids, mask = (torch.from_numpy(a) for a in cells.padded(np.arange(40)))
    with torch.inference_mode():
        logits = plain(input_ids=ids, attention_mask=mask).logits
    np.testing.assert_allclose(proba(fit, cells), logits.softmax(1).numpy(), atol=1e-5)


def test_a_gene_classifier_is_berts_own() -> None:
    model, (cells, _) = tiny_task.model(), tiny_task.cells(n_cells=40)
    classes = {f"GENE{i}": "marker" if i < 24 else "shared" for i in range(40)}
    fit = scfm.adapt(model, cells, classes, "full", level="gene", **FAST)
    plain = fit.to_transformers()
    assert type(plain).__name__ == "BertForTokenClassification"
    ids = torch.from_numpy(cells[0].astype(np.int64))[None]
    with torch.inference_mode():
        logits = plain(input_ids=ids).logits[0]
        ours = fit.head(fit._reader()(cells[[0]]))[0]
    torch.testing.assert_close(logits, ours, rtol=1e-4, atol=1e-5)


def test_a_linear_scgpt_classifier_is_the_networks_own_decoder() -> None:
    _, cells, fit = fitted("scgpt", "full")
    plain = fit.to_transformers()
    values = cells.padded_values(np.arange(40))
    values[:, 0] = plain.config.pad_value  # <cls> as in ScGPT.embed
    with torch.inference_mode():
        logits = plain(torch.from_numpy(cells.padded(np.arange(40))[0]), torch.from_numpy(values)).cls
    np.testing.assert_allclose(proba(fit, cells), logits.softmax(1).numpy(), atol=1e-5)


def test_a_head_that_transformers_does_not_know_says_so() -> None:
    _, _, fit = fitted("geneformer", "full", pooling="mean")
    with pytest.raises(ValueError, match="pooling='mean', head='linear'"):
        fit.to_transformers()
    _, _, fit = fitted("geneformer", "lora", layer=-1)
    with pytest.raises(ValueError, match="last layer"):
        fit.to_transformers()


# --- the card -----------------------------------------------------------------------------------------------

SECTIONS = (
    "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data", "Quantitative analyses",
    "Hardware and cost", "Ethical considerations", "Caveats and recommendations", "How to use",
)  # fmt: skip


def test_the_card_has_every_section_filled_from_the_run() -> None:
    import yaml

    model, (cells, types) = tiny_task.model(), tiny_task.cells()
    data = {"name": "tiny cells", "title": "made for tests", "licence": "CC0", "tissue": "blood", "organism": "human"}
    fit = scfm.adapt(model, cells, types, "lora", rank=3, data=data, **FAST)
    new, truth = tiny_task.cells(seed=1)
    donors = np.array(["donor 1", "donor 2"])[np.arange(160) % 2]
    table = fit.evaluate(new, truth, donors, name="new cells")
    text = fit.card(developers="A. Person", caveats="Too small to use.")
    head, body = text.split("---\n", 2)[1:]
    meta = yaml.safe_load(head)
    assert meta["library_name"] == "peft"
    assert meta["base_model"] == "tiny"
    assert {"lora", "single-cell", "geneformer"} <= set(meta["tags"])
    places = [body.index(f"\n## {section}\n") for section in SECTIONS]
    assert places == sorted(places)
    parts = [part.strip() for part in body.split("\n## ")[1:]]
    assert all(len(part.split("\n", 1)[1].strip()) > 30 for part in parts)
    assert "not available" not in text.lower()
    assert "more information needed" not in text.lower()
    for said in (
        "A. Person", "Too small to use.", "tiny cells", "CC0", digest(model.network), "rank = 3", "new cells", "donor 1",
        f"{fit.report.trained_parameters:,}", "MiB", "validation loss", "AMD" if "AMD" in fit.report.machine else "torch",
    ):  # fmt: skip
        assert said in text, said
    for row in table.itertuples():
        if row.metric in ("accuracy", "recall"):
            assert f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" in text
    with pytest.raises(TypeError, match="'author'"):
        card(fit, author="me")


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    model, (cells, types) = tiny_task.model(), tiny_task.cells()
    fit = scfm.adapt(model, cells, types, "head", **{k: v for k, v in FAST.items() if k != "learning_rate"})
    new, truth = tiny_task.cells(seed=1)
    said = fit.predict(new, progress=False)
    table = fit.evaluate(new, truth, batches=np.arange(160) % 2)
    value = table.set_index(["group", "name", "metric"])["value"]
    assert value["all", "all", "accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert value["all", "all", "balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, said))
    assert value["all", "all", "macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(truth, said, labels=["B", "T"])
    for k, name in enumerate("BT"):
        assert value["class", name, "precision"] == pytest.approx(precision[k])
        assert value["class", name, "recall"] == pytest.approx(recall[k])
        assert value["class", name, "f1"] == pytest.approx(f1[k])
    half = np.arange(160) % 2 == 1
    assert value["batch", "1", "accuracy"] == pytest.approx(metrics.accuracy_score(truth[half], said[half]))
    assert (table["low"] <= table["value"] + 1e-9).all()
    assert (table["value"] <= table["high"] + 1e-9).all()
    with pytest.raises(ValueError, match="knows no class 'NK'"):
        fit.evaluate(new, np.append(truth[:-1], "NK"))


def test_intervals_are_those_of_all_resamples_without_holding_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitscores, "N_BOOT", 200)
    rng = np.random.default_rng(4)
    true = rng.integers(0, 3, 20_000)
    proba = np.where(true[:, None] == np.arange(3), 0.5, 0.25) + rng.normal(0, 0.2, (20_000, 3)).clip(-0.25, 0.5)
    proba = (proba / proba.sum(1, keepdims=True)).astype(np.float32)
    tracemalloc.start()
    table = fitscores._scores(np.array(list("ABC"))[true], proba, list("ABC"), None).set_index("metric")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 20_000 * 8 / 2  # an index for each cell and resample would be twice that

    rng = np.random.default_rng(0)
    draws = [rng.integers(0, 20_000, 20_000) for _ in range(200)]
    right, sure = proba.argmax(1) == true, proba.max(1)
    for metric, values in (
        ("accuracy", [right[d].mean() for d in draws]),
        ("calibration_error", [calibration.expected_error(sure[d], right[d]) for d in draws]),
    ):
        assert table.loc[metric, ["low", "high"]].tolist() == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_scores_of_several_columns_leave_out_missing_labels_and_replace_old_ones() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=40)
    sex = np.where(np.arange(40) % 2, "f", "m").astype(object)
    sex[:10] = None
    fit = scfm.adapt(model, cells, {"type": types, "sex": sex}, "head", dtype="float32", progress=False)
    donors = np.arange(40) % 4
    table = fit.evaluate(cells, {"sex": sex, "type": types}, donors)
    n = table[table["metric"] == "accuracy"].set_index(["column", "name"])["n"]
    assert (n["type", "all"], n["sex", "all"], n["type", "3"], n["sex", "3"]) == (40, 30, 10, 8)
    said = fit.predict(cells, progress=False)["sex"].to_numpy()[10:]
    of_sex = table[(table["column"] == "sex") & (table["group"] == "all")].set_index("metric")["value"]
    assert of_sex["accuracy"] == pytest.approx(np.mean(said == sex[10:]))
    fit.evaluate(cells, {"sex": sex, "type": types}, name="another")
    fit.evaluate(cells, {"sex": np.full(40, None), "type": types})
    assert [one["name"] for one in fit.evaluations] == ["another", "test"]
    assert fit.card().count("### test, ") == 1
    for wrong, said in (
        ({"labels": {"sex": sex, "type": types}, "batches": donors[:-1]}, r"batches has shape \(39,\) for 40 cells"),
        ({"labels": {"sex": sex, "type": types[:-1]}}, "39 entries for 40 cells"),
        ({"labels": {"sex": sex}}, "no column 'type'; it has sex"),
        ({"labels": types}, "The fit names type, sex"),
        ({"labels": {"sex": [None] * 40, "type": [""] * 40}}, "nothing to score"),
    ):
        with pytest.raises(ValueError, match=said):
            fit.evaluate(cells, **wrong)


def test_a_quantized_base_needs_a_gpu_and_says_so() -> None:
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU.*leave quantize out"):
        quantize.quantized(tiny_task.model(), "4bit")
