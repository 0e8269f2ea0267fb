"""What is wrong with labels, groups, cells and options is said in a sentence; and how cells are kept aside."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny_geneformer
import tiny_scgpt
import tiny_task
from hypothesis import given, settings
from hypothesis import strategies as st

import scfm
from scfm.adaptation import labels
from scfm.adaptation.choices import Choices
from scfm.adaptation.heads import IGNORE
from scfm.tokenized import TokenizedCells


@pytest.fixture(scope="module")
def model():
    return tiny_task.model()


@pytest.fixture(scope="module")
def cells():
    return tiny_task.cells(n_cells=40)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda y: y[:-1], r"39 entries for 40 cells"),
        (lambda y: np.full(40, "B"), "one class only, 'B'"),
        (lambda y: np.append(y[:-1], "rare"), r"fewer than 2 members: 'rare' \(1\)"),
        (lambda y: np.append(y[:-1].astype(object), None), "1 of 40 labels are missing"),
        (lambda y: pd.Series(y).where(np.arange(40) > 4), "5 of 40 labels are missing"),
        (lambda y: np.append(y[:-1], ""), "1 of 40 labels are missing"),
        (lambda y: np.append(y[:-3], ["unknown"] * 3), "3 of 40 labels are missing"),  # load_dataset's word for it
        (lambda y: np.stack([y, y], 1), r"shape \(40, 2\)"),
        (lambda y: np.arange(40) / 7, "classes, not quantities"),
        (lambda y: {}, "no column"),
        (lambda y: {"type": y, "donor": y[:3]}, r"labels\['donor'\] has 3 entries"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused_in_words(model, cells, wrong, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        scfm.adapt(model, cells[0], wrong(cells[1]), progress=False)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (ValueError, {"method": "loar"}, "Did you mean 'lora'"),
        (TypeError, {"learningrate": 1e-3}, "Did you mean 'learning_rate'"),
        (ValueError, {"rank": 4}, "rank has no effect with method='head'"),
        (ValueError, {"method": "full", "n_layers": 1}, "n_layers has no effect"),
        (ValueError, {"method": "partial", "n_layers": 9}, "only 3 layers are read"),
        (ValueError, {"method": "lora", "rank": 0}, "rank is 0"),
        (ValueError, {"method": "lora", "targets": "atention"}, "targets is 'atention'"),  # codespell:ignore
        (ValueError, {"method": "lora", "layer": -3}, "no layer below it"),
        (ValueError, {"layer": 1}, "layer is 1"),
        (ValueError, {"epochs": 0}, "epochs is 0"),
        (ValueError, {"validation": 1.0}, "validation is 1.0"),
        (ValueError, {"warmup": 500}, "warmup is 500; a share"),
        (ValueError, {"warmup": -3}, "warmup is -3; a share"),
        (ValueError, {"method": "full", "weight_decay": -1}, "weight_decay is -1; a number of at least 0"),
        (ValueError, {"weight_decay": float("inf")}, "weight_decay is inf"),
        (ValueError, {"head": "mlp", "head_dropout": 7}, "head_dropout is 7; a share"),
        (ValueError, {"method": "full", "head_dropout": 0.1}, "head_dropout has no effect with head='linear'"),
        (ValueError, {"method": "lora", "adapter_dropout": 1.0}, "adapter_dropout is 1.0; a share"),
        (ValueError, {"method": "full", "extra": {"bias": "all"}}, "extra has no effect with method='full'"),
        (ValueError, {"learning_rate": float("nan")}, "learning_rate is nan"),
        (ValueError, {"layer_decay": 0.0, "method": "full"}, "layer_decay is 0.0"),
        (ValueError, {"class_weight": "even"}, "class_weight is 'even'"),
        (ValueError, {"class_weight": {"Q": 2}}, "do not exist: Q"),
        (ValueError, {"pooling": "max"}, "pooling is 'max'"),
        (ValueError, {"method": "full", "embeddings": np.zeros((40, 16))}, "embeddings belong to method='head'"),
        (ValueError, {"embeddings": np.zeros((39, 16))}, r"shape \(39, 16\)"),
        (ValueError, {"groups": np.zeros(39)}, r"groups has shape \(39,\)"),
        (ValueError, {"groups": np.zeros(40)}, "one group only"),
        (ValueError, {"method": "lora", "quantize": "4bit"}, "needs an NVIDIA GPU"),
        (ValueError, {"method": "prefix", "layer": -1}, "reads the last layer"),
    ],
)
def test_choices_that_cannot_be_are_refused_in_words(model, cells, kind, given: dict, said: str) -> None:
    with pytest.raises(kind, match=said):
        scfm.adapt(model, *cells, progress=False, **given)


def test_cells_that_the_model_cannot_read_are_refused_in_words(model, cells) -> None:
    few = TokenizedCells.from_lists([[2, 5, 3], [2, 6, 3]], vocabulary_name="another")
    with pytest.raises(ValueError, match="vocabulary 'another'"):
        scfm.adapt(model, few, ["a", "b"])
    with pytest.raises(ValueError, match="no tokens"):
        scfm.adapt(model, TokenizedCells.from_lists([[2, 5, 3], []]), ["a", "b"])
    for pooling in ("mean", "cls"):
        with pytest.raises(ValueError, match="no genes"):
            scfm.adapt(model, TokenizedCells.from_lists([[2, 5, 3], [2, 3]]), ["a", "b"], pooling=pooling)
    empty = TokenizedCells.from_lists([[tiny_scgpt.CLS, 1], [tiny_scgpt.CLS]], [[0, 3], [0]])
    with pytest.raises(ValueError, match="no genes"):
        scfm.adapt(tiny_task.model("scgpt"), empty, ["a", "b"])
    with pytest.raises(ValueError, match="rank-encoded for Geneformer"):
        scfm.adapt(tiny_task.model("scgpt"), *cells)
    batched = tiny_scgpt.model(num_batches=3, domain_norm="dsbn")
    with pytest.raises(ValueError, match="normalizes by batch"):
        scfm.adapt(batched, *tiny_task.cells("scgpt"))
    for method in ("prefix", "prompt"):
        with pytest.raises(ValueError, match="a learned position has no value"):
            scfm.adapt(tiny_task.model("scgpt"), *tiny_task.cells("scgpt"), method=method)
    with pytest.raises(ValueError, match="Wqkv"):
        scfm.adapt(tiny_task.model("scgpt"), *tiny_task.cells("scgpt"), method="lora", targets="qv")


def test_an_adata_may_name_its_columns() -> None:
    adata = scfm.load_dataset("pbmc68k")[:200]
    model = scfm.load_model("geneformer-mini", weights="random")
    with pytest.raises(ValueError, match="no column 'celltype'"):
        scfm.adapt(model, adata, "celltype")
    adata = adata[adata.obs["cell_type"].isin(["Dendritic", "CD19+ B"])]
    fit = scfm.adapt(model, adata, "cell_type", progress=False)
    assert fit.classes == ["CD19+ B", "Dendritic"]
    assert fit.report.data["name"] == "pbmc68k"
    assert fit.report.data["sha256"] == adata.uns["scfm"]["sha256"]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 30), min_size=2, max_size=5),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_a_split_is_disjoint_complete_and_leaves_every_class_to_learn_from(sizes, share, seed) -> None:
    names = np.repeat([f"class {i}" for i in range(len(sizes))], sizes)
    known = labels.of_cells(names, len(names))
    learned, watched, _ = labels.split(known, share, seed)
    assert np.array_equal(np.sort(np.r_[learned, watched]), np.arange(len(names)))
    assert set(names[learned]) == set(names)
    for name, n in zip(sorted(set(names)), sizes, strict=True):
        assert (names[watched] == name).sum() <= max(round(share * n), 0)


@settings(max_examples=60, deadline=None)
@given(n_groups=st.integers(2, 6), share=st.floats(0.05, 0.5), seed=st.integers(0, 99))
def test_a_split_by_donor_keeps_donors_whole(n_groups, share, seed) -> None:
    rng = np.random.default_rng(seed)
    donors = rng.integers(0, n_groups, 200).astype(str)
    donors[:n_groups] = np.arange(n_groups).astype(str)
    names = rng.choice(["B", "T"], 200)
    known = labels.of_cells(names, 200)
    shares = [
        [(names[donors == d] == kind).sum() / (names == kind).sum() for kind in "BT"] for d in sorted(set(donors))
    ]
    if all(max(own) > 0.5 for own in shares):  # then none can be spared
        with pytest.raises(ValueError, match="more than half"):
            labels.split(known, share, seed, donors)
        return
    learned, watched, notes = labels.split(known, share, seed, donors)
    assert set(donors[learned]).isdisjoint(donors[watched])
    assert len(watched) > 0
    assert set(donors[watched]) == set(notes[0].removeprefix("validation cells are those of ").split(", "))


@pytest.mark.parametrize("missing", ["unknown", "", None])
def test_cells_of_an_unknown_donor_are_no_donor_of_their_own(missing: str | None) -> None:
    known = labels.of_cells(np.tile(["B", "T"], 50), 100)
    donors = np.repeat(["d1", "d2", "d3", missing], 25)
    with pytest.raises(ValueError, match="does not say for 25 of 100 cells which donor"):
        labels.split(known, 0.2, 0, donors)
    learned, _, _ = labels.split(known, 0.0, 0, donors)  # nothing is watched, so nothing must be kept apart
    assert len(learned) == 100


def test_an_unknown_label_is_missing_wherever_labels_are_read(model, cells) -> None:
    tokens, types = cells
    sex = np.where(np.arange(40) % 2, "f", "m").astype(object)
    sex[:10] = "unknown"
    fit = scfm.adapt(model, tokens, {"type": types, "sex": sex}, progress=False)
    assert fit.classes == {"type": ["B", "T"], "sex": ["f", "m"]}
    scored = fit.evaluate(tokens, {"type": types, "sex": sex})
    assert scored[scored["group"] == "all"].groupby("column")["n"].first().to_dict() == {"sex": 30, "type": 40}


def test_several_columns_may_have_gaps(model, cells) -> None:
    tokens, types = cells
    sex = np.where(np.arange(40) % 2, "f", "m").astype(object)
    sex[:10] = np.nan
    fit = scfm.adapt(model, tokens, {"type": types, "sex": sex}, "lora", epochs=1, progress=False)
    assert fit.classes == {"type": ["B", "T"], "sex": ["f", "m"]}
    assert any("10 cells have no sex" in note for note in fit.report.notes)
    table = fit.predict(tokens, progress=False)
    assert list(table.columns) == ["type", "sex"]
    assert set(table["sex"]) <= {"f", "m"}
    known = labels.of_cells({"type": types, "sex": sex}, 40)
    assert (known.targets[:10, 1] == IGNORE).all()
    assert (known.targets[:, 0] != IGNORE).all()


def test_validation_cells_may_lack_the_labels_of_a_column(model, cells) -> None:
    tokens, types = cells
    learned, watched, _ = labels.split(labels.of_cells(types, 40), 0.2, 0)
    sex = np.where(np.arange(40) % 2, "f", "m").astype(object)
    sex[np.r_[watched, learned[:3]]] = None
    how = {"method": "lora", "epochs": 1, "validation": 0.2, "progress": False}
    fit = scfm.adapt(model, tokens, {"type": types, "sex": sex}, **how)
    assert fit.report.n_validation == len(watched)
    assert np.isfinite(list(fit.report.curve[-1].values())).all()
    donors = np.where(np.isin(np.arange(40), watched), "1", "2")  # no cell of donor 1 has any label
    fit = scfm.adapt(model, tokens, {"sex": sex}, groups=donors, **how)
    assert fit.report.n_validation == 0
    assert "validation_loss" not in fit.report.curve[-1]
    assert "no validation cells: none of those drawn has a label" in fit.report.notes


def test_genes_are_found_by_id_and_by_symbol() -> None:
    vocabulary = tiny_geneformer.vocabulary()
    present = np.arange(4, 30)
    known, tokens = labels.of_genes(
        {"ENSG00000000000": "a", "GENE1": "b", "GENE2": "a", "GENE3": "b", "GENE39": "a", "NOT1": "b"}, vocabulary, present
    )  # fmt: skip
    assert tokens.tolist() == [4, 5, 6, 7]
    assert known.targets[:, 0].tolist() == [0, 1, 0, 1]
    assert known.notes == ["1 genes occur in none of the cells", "1 genes are not in the vocabulary: NOT1"]
    with pytest.raises(ValueError, match="two different classes"):
        labels.of_genes({"ENSG00000000000": "a", "GENE0": "b"}, vocabulary, present)
    with pytest.raises(ValueError, match="None of the 2 genes is in the vocabulary"):
        labels.of_genes({"Actb": "a", "Gapdh": "b"}, vocabulary, present)
    with pytest.raises(ValueError, match="None of the 2 genes occurs"):
        labels.of_genes({"GENE38": "a", "GENE39": "b"}, vocabulary, present)
    assert tiny_scgpt.VOCABULARY.find("GENE7") == 7
    assert vocabulary.find("<cls>") is None
    assert [tiny_scgpt.VOCABULARY.gene(i) for i in np.array([3, 0])] == ["GENE3", "GENE0"]


def test_every_choice_is_a_choice_of_adapt() -> None:
    assert Choices.from_options(method="lora", rank=4).rank == 4
    assert Choices(head="mlp", head_dropout=0.1, warmup=0, weight_decay=0).head_dropout == 0.1
    assert Choices(method="lora", extra={"bias": "all"}, adapter_dropout=0.1).extra == {"bias": "all"}
    assert Choices(method="full").rate(768) == pytest.approx(Choices(method="full").rate(128) / 6)
    assert Choices(method="full").rate(64) == Choices(method="full").rate(128)
