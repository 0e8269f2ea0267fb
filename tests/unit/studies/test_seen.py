"""Where on the way into a network an answer gets lost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scfm
from studies import gene_families, seen


@pytest.fixture(scope="module")
def adata():
    whole = scfm.load_dataset("pbmc68k")
    kinds = whole.obs["cell_type"].astype(str).to_numpy()
    return whole[np.isin(kinds, ["CD14+ Monocyte", "CD19+ B", "CD56+ NK"])][:90].copy()


@pytest.mark.parametrize("name", ["geneformer-mini", "scgpt-mini"])
def test_views_hold_what_the_model_is_told(adata, name: str) -> None:
    model = scfm.load_model(name)
    found = seen.views(adata, model)
    assert tuple(found) == seen.STEPS
    assert {len(view) for view in found.values()} == {90}
    assert found["all genes"].shape[1] == adata.n_vars
    assert found["genes in the vocabulary"].shape[1] == seen.in_vocabulary(adata, model).sum()
    cells = model.tokenize(adata)
    genes = np.setdiff1d(cells.tokens, list(model.special.values()))
    assert found["tokens of the sentence"].shape[1] == len(genes)
    own = found["tokens of the sentence"][:, 5]
    has = np.array([genes[5] in cells[i] for i in range(90)]) if name == "geneformer-mini" else None
    if has is not None and has.any() and not has.all():
        assert own[has].min() > own[~has].max()  # absent is below every place in the sentence


def test_a_gene_without_a_token_is_no_marker_that_is_seen(adata) -> None:
    model = scfm.load_model("geneformer-mini")
    renamed = adata.copy()
    renamed.var["ensembl_id"] = [f"ENSG9999999{i:04d}" if i % 2 else g for i, g in enumerate(adata.var["ensembl_id"])]
    assert not seen.in_vocabulary(renamed, model)[1::2].any()
    found = seen.markers(renamed, model, 8)
    assert (found.groupby("type").size() == 8).all()
    assert (found.loc[~found["known"], "share"] == 0).all()
    assert found.loc[found["known"], "share"].max() > 0.5


@pytest.mark.parametrize("name", ["geneformer-mini", "scgpt-mini"])
def test_a_gene_has_the_token_that_the_tokenizer_gives_it(adata, name: str) -> None:
    model = scfm.load_model(name)
    renamed = adata.copy()  # ids without the symbols that the course's table gives them
    renamed.var["ensembl_id"] = list(reversed(adata.var["ensembl_id"].tolist()))
    cells, tokens = model.tokenize(renamed), model.column_tokens(renamed)
    special = list(model.special.values())
    for cell in range(0, len(cells), 10):
        expressed = renamed.X[cell].toarray().ravel() > 0
        assert set(np.setdiff1d(cells[cell], special)) <= set(tokens[expressed])
    read = np.isin(tokens, cells.tokens)
    assert (seen.in_vocabulary(renamed, model) >= read).all()
    assert read.sum() > 100


def test_few_genes_are_chosen_on_training_cells_and_constants_never() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(["a", "b"], 40)
    matrix = rng.normal(size=(80, 60)).astype(np.float32)
    noise = {"all genes": matrix.copy()}
    noise["all genes"][:, 20:] = np.float32(0.1)  # constants, whose F value would be rounding error
    table = seen.readable(noise, kinds, 10, 12)
    few = table[table["method"] == seen.FEW]["value"]
    assert 0.4 < few.mean() < 0.6  # chosen on all cells, noise would seem to tell the classes apart
    matrix[:, 7] += 4 * (kinds == "b")
    assert seen.readable({"all genes": matrix}, kinds, 10, 12).query("method == @seen.FEW")["value"].mean() > 0.9


def test_falls_are_paired_differences_along_the_way() -> None:
    heights = dict.fromkeys([*seen.STEPS, seen.FEW], 0.9) | {"embedding": 0.5}
    rows = [("m", k, "d", 10, s, "balanced_accuracy", v + s / 10) for k, v in heights.items() for s in range(4)]
    columns = ["model", "method", "dataset", "labels_per_class", "seed", "metric", "value"]
    found = seen.falls(pd.DataFrame(rows, columns=columns)).set_index("station")
    assert found.loc["embedding", "mean"] == pytest.approx(-0.4)
    assert found.loc["embedding", "high"] == pytest.approx(-0.4)
    assert found.loc["embedding", "before"] == "tokens of the sentence"
    assert found.loc["genes in the vocabulary", "mean"] == 0


def test_the_contest_of_genes_has_its_controls(adata) -> None:
    model, twin = scfm.load_model("geneformer-mini"), scfm.load_model("geneformer-mini", weights="random")
    labels = gene_families.by_symbol(adata.var["gene_symbol"])
    table = gene_families.contest({"pretrained": model, "random twin": twin}, adata[:40].copy(), labels, 64, 10, 6)
    mean = table[table["metric"] == "balanced_accuracy"].groupby("method")["value"].mean()
    assert abs(mean["shuffled labels"] - 0.5) < 0.12
    assert mean["pretrained"] > 0.6
    assert sum(table.attrs["n_genes"].values()) > 60
