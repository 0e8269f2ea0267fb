"""The recipes of the list on small files of the layout that their carriers have: what they keep, name, add up and leave out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import small_r as r
from scipy import sparse

from scfm.datasets import entries
from scfm.files import recipes
from scfm.files.columns import column
from scfm.files.recipes import build
from scfm.store import cache

SYMBOLS = ["CD3D", "LYZ", "FAM46C", "TENT5C", "NKG7", "notagene"]  # the third and the fourth are one gene
IDS = ["ENSG00000167286", "ENSG00000090382", "ENSG00000183508", "ENSG00000105374"]
COUNTS = np.array([[1, 0, 2, 3, 0, 0], [0, 4, 0, 1, 0, 1], [1, 1, 0, 0, 0, 2]])  # nobody has NKG7
SUMMED = np.array([[1, 0, 5, 0], [0, 4, 1, 1], [1, 1, 0, 2]])
GENES = [*IDS[:3], "notagene"]
X = sparse.csr_matrix(COUNTS, dtype=float)
Make = Callable[..., anndata.AnnData]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write small files under the names that a listed recipe has for them, and follow it; ``predicted``: labels for all cells."""
    stored = recipes._listed

    def of(name: str, predicted: list[str] | None = None, origin: dict | None = None, **files: Any) -> anndata.AnnData:
        own = {"set": name, "cell_type_predicted": predicted or [], "predicted_prob": "0.5"}
        monkeypatch.setattr(
            recipes, "_listed", lambda file: pd.DataFrame(own) if file.startswith("predicted") else stored(file)
        )
        recipe = origin or entries()[name]["origin"]
        paths = {}
        for what, content in zip(recipe["files"], files.values(), strict=True):
            paths[what] = tmp_path / f"{name}_{len(paths)}_{Path(recipe['files'][what]['path']).name}"
            if isinstance(content, dict):
                r.save(paths[what], **content)
            else:
                r.save_rds(paths[what], content)
        frames = {"pbmc_zheng_facs": pd.DataFrame({"barcode": ["b1", "T" * 14], "population": "CD56+ NK"})}
        frames["pbmc_zheng_14k_sub"] = frames["pbmc_zheng_facs"].iloc[:1]
        return build(name, recipe, paths, frames.__getitem__)[0]

    return of


def check(adata: anndata.AnnData, cells: list[str], counts: np.ndarray = SUMMED, genes: list[str] = GENES) -> None:
    assert list(adata.obs_names) == cells
    assert list(adata.var_names) == genes
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert adata.X.dtype == np.float32
    assert list(adata.obs["n_counts"]) == list(counts.sum(1))
    assert list(adata.obs["n_genes"]) == list((counts > 0).sum(1))


def test_rows_of_one_gene_are_one_and_rows_without_counts_none(make: Make) -> None:
    adata = make("pbmc_donorA", ["T", "B", "T"], a={"pbmcA": r.dense(COUNTS.T, SYMBOLS, ["a", "b", "c"])})
    check(adata, ["a", "b", "c"])
    assert adata.var["gene_symbol"].tolist() == ["CD3D", "LYZ", "FAM46C", "notagene"]
    assert adata.var["ensembl_id"].tolist() == [*IDS[:3], ""]
    assert adata.obs["donor"].tolist() == ["frozen_donor_A"] * 3
    assert adata.obs["cell_type_predicted"].tolist() == ["T", "B", "T"]
    assert adata.obs["predicted_prob"].dtype == np.float32


def test_a_set_of_its_own_reading_of_a_symbol(make: Make) -> None:
    """data/listed/ids.tsv: RP11 names and others that the course's table reads differently, for this set only."""
    own = recipes._listed("ids.tsv")
    mine = own[own["set"] == "malt_tumour_rna"].iloc[0]
    counts = {"target.malt.rna.mat": r.dgc(X[:, :1], ["a", "b", "c"], [mine["gene_symbol"]])}
    assert list(make("malt_tumour_rna", a=counts).var_names) == [mine["index"]]
    donor = {"pbmcA": r.dense(COUNTS[:, :1].T, [mine["gene_symbol"]], ["a", "b", "c"])}
    assert list(make("pbmc_donorA", ["T"] * 3, a=donor).var_names) != [mine["index"]]


def test_the_listed_ids_belong_to_this_table_of_genes() -> None:
    digest = cache.sha256(cache.repo_data() / "genes.tsv.gz")
    assert digest == "20da9f1455c3bac746a860b1cfec1f45d515f8a3b4b93185b91a52adef5e34a6", (
        "the recipes read symbols by this table, and data/listed/ids.tsv and symbols.tsv.gz hold what it does not say: with another table "
        "they have to be made anew, so that tests/parity/test_recipes.py passes"
    )


def test_counts_behind_a_logarithm_and_cells_that_are_elsewhere_too(make: Make) -> None:
    cells = ["b1", "b2.1", "b3"]
    per_million = np.log2(COUNTS / COUNTS.sum(1)[:, None] * 1e6 + 1)
    labels = pd.DataFrame({"trueLabel_full": pd.Categorical(["CD56+ NK"] * 3), "trueLabel": ["NK"] * 3}, index=cells)
    eset = r.s4(
        "ExpressionSet",
        assayData=r.environment(exprs=r.dgc(sparse.csr_matrix(per_million.T), SYMBOLS, cells)),
        phenoData=r.s4("AnnotatedDataFrame", data=r.data_frame(labels)),
    )
    adata = make("pbmc_zheng_14k_sub", a={"pbmc14k_expression.eset": eset})
    check(adata, ["p14k_b1", "p14k_b2.1", "p14k_b3"])
    assert adata.obs["in_pbmc_zheng_facs"].tolist() == [True, False, False]
    assert adata.obs["label_short"].tolist() == ["NK"] * 3


def test_a_vector_of_labels_and_two_flags(make: Make) -> None:
    cells = [f"nk{letter * 14}-1" for letter in "TGA"]
    adata = make(
        "pbmc_zheng_mudan_ref",
        a={"referenceCounts": r.dense(COUNTS.T, SYMBOLS, cells)},
        b={"referenceAnnot": r.words(["nk", "bcells", "nk"])},
    )
    check(adata, cells)
    assert adata.obs["cell_type"].tolist() == ["nk", "bcells", "nk"]
    assert adata.obs["in_pbmc_zheng_facs"].tolist() == [True, False, False]
    assert adata.obs["in_pbmc_zheng_14k_sub"].tolist() == [False, False, False]


def test_a_barcode_of_two_runs_has_no_label(make: Make) -> None:
    cells = ["AC-1", "AG-1", "AT-1"]
    labels = r.factor(["B", "NK", "T", "NK"], ["AG-1", "AC-1", "AC-11", "GG-1"])
    adata = make(
        "pbmc4k_4060genes", ["x"] * 3, a={"pbmc_counts": r.dense(COUNTS.T, SYMBOLS, cells)}, b={"idents": labels}
    )
    check(adata, cells)
    assert list(map(str, adata.obs["cell_type"])) == ["nan", "B", "nan"]


def test_a_seurat_object_of_many_batches(make: Make) -> None:
    cells = ["AC-1_1_AC-1", "AG-1", "AT-1_3_AT-1", "GG-1_1_GG-1", "few", "other"]
    many = sparse.vstack([X * 200, X * 200]).tolil()
    many[4] = [400, 99, 0, 0, 0, 0]
    meta = pd.DataFrame(
        {
            "file": [
                f"data/in/{b}/x" for b in ("10x_8K_1", "10x_8K_2", "SRR1_1", "10x_6K_2", "10x_6K_1", "SCP345_580_1")
            ]
        },
        cells,
    )
    labels = r.factor(["T", "NK", "NK", "B", "B"], ["AC-1", "AG-1", "AT-1", "GG-1", "few"])
    adata = make(
        "pbmc_7batch",
        ["x"] * 4,
        a={"pbmc": r.seurat(meta, RNA=r.assay(r.dgc(sparse.csr_matrix(many).T, SYMBOLS, cells)))},
        b={"idents": labels},
    )
    names = ["10x_8K_AC-1_0", "10x_8K_AG-1_1", "SRR1_AT-1_3_AT-1_2", "10x_6K_GG-1_3"]
    check(adata, names, np.vstack([SUMMED, SUMMED[:1]]) * 200)
    assert list(map(str, adata.obs["cell_type"])) == ["T", "NK", "nan", "nan"]
    assert adata.obs["batch"].tolist() == ["10x_8K", "10x_8K", "SRR1", "10x_6K"]


def test_three_lists_of_genes_become_one(make: Make) -> None:
    """Sorted, rows of one symbol summed, what a batch lacks zero; of the first batch the cells of another file, in its order."""
    first = r.dgt(X.T, ["LYZ", "CD3D", "NKG7", "NKG7", "A1BG", "notagene"], ["a", "b", "c"])
    adata = make(
        "pbmc_3chem",
        ["x"] * 4,
        a=first,
        b=r.dgt(X[:2].T, SYMBOLS, ["c", "a"]),
        c=r.dgt(X[:1, :2].T, SYMBOLS[:2], ["a"]),
        d=r.dgt(X[1:2, :2].T, ["LYZ", "LYZ"], ["a"]),
    )
    wanted = {  # NKG7, LYZ, CD3D of each cell; A1BG has no counts
        "3p_v2_c": [0, 1, 1, 2],
        "3p_v2_a": [5, 1, 0, 0],
        "3p_v3_a": [0, 0, 1, 0],
        "5p_a": [0, 4, 0, 0],
    }
    genes = [IDS[0], IDS[1], IDS[3], "notagene"]
    counts = np.array([[cd3d, lyz, nkg7, other] for nkg7, lyz, cd3d, other in wanted.values()])
    check(adata, list(wanted), counts, genes)
    assert adata.obs["batch"].tolist() == ["3p_v2", "3p_v2", "3p_v3", "5p"]


def test_scaled_counts_and_ids_inside_of_names(make: Make) -> None:
    def sample(day: int, rows: list[int], clusters: list[int]) -> dict[str, bytes]:
        scaled = COUNTS[:, rows] * np.array([[0.7], [1.9], [1.0]])
        names = [f"{SYMBOLS[i]}_{IDS[k]}" for k, i in enumerate(rows)]
        listed = pd.DataFrame({"GeneSymbol": [f"{SYMBOLS[i]}.{day}" for i in rows]}, index=list(map(str, rows)))
        return {
            f"dat{day}_counts": r.dense(scaled.T, names, ["1_a", "2_b", "1_c"]),
            f"dat{day}geneInfo": r.data_frame(listed),
            f"dat{day}_clusters": r.ints(clusters),
        }

    adata = make(
        "ipsc_cardio_d2_d5",
        a={"sample1": r.named(**sample(2, [0, 1, 5], [1, 2, 3]))},
        b={"sample2": r.named(**sample(5, [0, 1, 5], [4, 1, 1]))},
    )
    order = np.argsort(IDS[:3])
    counts = np.vstack([COUNTS[:, [0, 1, 5]][:, order]] * 2)
    check(adata, [f"{day}_{c}" for day in ("d2", "d5") for c in ("1_a", "2_b", "1_c")], counts, sorted(IDS[:3]))
    assert adata.var["gene_symbol"].tolist() == [["CD3D.2", "LYZ.2", "notagene.2"][i] for i in order]
    assert adata.obs["cell_type_marker_based"].tolist()[2:4] == ["mesendoderm", "cardiac progenitor (mixed)"]
    assert adata.obs["batch"].tolist() == ["1", "2", "1"] * 2


@pytest.mark.parametrize("old", [False, True])
def test_experiments_of_bioconductor_old_and_new(make: Make, old: bool) -> None:
    about = pd.DataFrame(
        {
            "sample_alias": ["iPS", "2339", "HL60"],
            "sample_accession": ["x", "y", "z"],
            "n.read": [5, 6, 7],
            "mapping.rate": 0.5,
        }
    )
    counts = r.s4("SimpleList", "S4Vectors", listData=r.named(count=r.dgc(X.T)))
    ranges = r.s4("GRangesList", partitioning=r.s4("PartitioningByEnd", NAMES=r.words(SYMBOLS)))
    experiment = r.s4(
        "SummarizedExperiment",
        assays=r.s4("Assays", __xData=r.environment(**{".->data": counts}))
        if old
        else r.s4("SimpleAssays", data=counts),
        colData=r.frame_s4(about, row_names=False),
        **{"NAMES": r.words(SYMBOLS)} if old else {"NAMES": r.symbol("\1NULL\1"), "rowRanges": ranges},
    )
    adata = make("pollen_11pop", a={"pollen": experiment})
    check(adata, ["pollen_000", "pollen_001", "pollen_002"])
    assert adata.obs["cell_type"].tolist() == ["iPSC", "2339 (B-lymphoblastoid line)", "HL60"]
    assert adata.obs["n_reads"].dtype == np.int64
    assert adata.obs["mapping_rate"].tolist() == [0.5] * 3


def test_a_cell_of_two_files_is_taken_from_the_first(make: Make) -> None:
    def ibex(which: list[int], cells: list[str]) -> dict[str, bytes]:
        meta = pd.DataFrame({"CTaa": [f"aa{i}" for i in which], "CTgene": "g"}, cells)
        protein = sparse.csr_matrix(np.array([[1, 2], [3, 4], [5, 6]]))
        return {
            "ibex_example": r.seurat(
                meta,
                RNA=r.assay(r.dgc(X[which].T, SYMBOLS, cells)),
                ADT=r.assay(r.dgc(protein[which].T, ["CD80.1", "IgG"], cells)),
            )
        }

    recipe = entries()["tonsil_bcell_cite"]["origin"]
    assert [part["file"] for part in recipe["parts"]] == list(reversed(recipe["files"]))  # the later version first
    adata = make("tonsil_bcell_cite", b=ibex([2, 1], ["z", "a"]), a=ibex([0, 1], ["a", "b"]))
    check(adata, ["a", "b", "z"])
    np.testing.assert_array_equal(adata.obsm["protein"], [[1, 2], [3, 4], [5, 6]])
    assert list(adata.uns["protein_names"]) == ["CD80", "IgG"]
    assert adata.obs["CTaa"].tolist() == ["aa0", "aa1", "aa2"]


def test_seurat_5_keeps_names_beside_its_layers(make: Make) -> None:
    cells = ["a", "b", "c"]
    meta = pd.DataFrame({"CTaa": "x", "CTgene": "y"}, cells)
    assays = {"RNA": r.assay5(X.T, SYMBOLS, cells), "ADT": r.assay5(X[:, :2].T, ["p", "q"], cells)}
    adata = make("misc_bcell_cite", a={"ibex_example": r.seurat(meta, **assays)})
    check(adata, cells)
    np.testing.assert_array_equal(adata.obsm["protein"], COUNTS[:, :2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"at": "pbmcB"}, r"pbmcB of pbmcB \(there is pbmcA\)"),
        ({"obs": {"donor": "{nobody}"}}, r"no column 'nobody' \(there is cell, part"),
        ({"about": [{"file": "pbmcA.rda", "at": "few"}]}, "there are 3 cells, and 2 in a table about them"),
        ({"select": {"file": "pbmcA.rda", "at": "other"}}, "1 of the cells to select are not there"),
        ({"genes": {"file": "pbmcA.rda", "at": "few", "symbol": "value"}}, "it has 6 rows, and its table of genes 2"),
        ({"parts": [{}, {"rows": "CD"}]}, "its parts do not have the same genes"),
    ],
)
def test_what_does_not_fit_is_told(make: Make, change: dict[str, Any], words: str) -> None:
    origin = {**entries()["pbmc_donorA"]["origin"], **change}
    counts = {
        "pbmcA": r.dense(COUNTS.T, SYMBOLS, ["a", "b", "c"]),
        "few": r.words(["x", "y"]),
        "other": r.dense(COUNTS[:1].T, SYMBOLS, ["d"]),
    }
    if "at" in change:
        del counts["few"], counts["other"]
    with pytest.raises((KeyError, ValueError), match=words):
        make("pbmc_donorA", origin=origin, a=counts)


def test_columns() -> None:
    frame = pd.DataFrame({"a.b": ["x_1", None, "y_2"], "n": [0, 1, 2], "share": [0.5, 1.0, 1 / 3]}, index=list("pqr"))
    cases: list[tuple[Any, list]] = [
        ("{a.b}-{n:02d}", ["x_1-00", np.nan, "y_2-02"]),
        ("same", ["same"] * 3),
        ("{n}", [0, 1, 2]),
        ({"of": "{a.b}", "match": "_(.)"}, ["1", np.nan, "2"]),
        ({"of": "{a.b}", "match": "x.*", "missing": "no {n}"}, ["x_1", "no 1", "no 2"]),
        ({"of": "{a.b}", "translate": {"x_1": "X"}}, ["X", np.nan, "y_2"]),
        ({"of": "{a.b}", "translate": {"x_1": "X"}, "otherwise": "Y"}, ["X", np.nan, "Y"]),
        ({"of": "{a.b}", "then": "known", "missing": "unknown"}, ["known", "unknown", "known"]),
        ({"of": "{share}", "digits": 3}, [0.5, 1.0, 0.333]),
        ({"test": "share > 0.4 and n < 2"}, [True, True, False]),
        ("{share}%", ["0.5%", "1%", f"{1 / 3}%"]),
    ]
    for spec, values in cases:
        pd.testing.assert_series_equal(
            column(frame, spec), pd.Series(values, index=frame.index), check_names=False, check_dtype=False
        )
    assert column(frame, {"of": "{a.b}", "match": "_(.)", "missing": "7", "as": "int"}).tolist() == [1, 7, 2]
