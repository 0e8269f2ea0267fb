"""Every set found through SCFM_CACHE, loaded: the course's form, and the very counts of the file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from scfm import genes
from scfm.datasets import entries, list_datasets, load_dataset
from scfm.files.convert import content_hash
from scfm.store import cache

NAMES = sorted(name for name, entry in entries().items() if entry["source"] == "cache")


def test_all_32_are_listed() -> None:
    assert len(NAMES) == 32


@pytest.mark.parametrize("name", NAMES)
def test_form_and_counts(name: str, shared: Callable[[str], Path]) -> None:
    entry = entries()[name]
    path = shared(entry["file"])
    adata = load_dataset(name)
    assert adata.shape == (entry["cells"], entry["genes"])
    assert path.stat().st_size == entry["bytes"]

    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    assert (adata.X.data > 0).all()
    assert (adata.X.data == np.rint(adata.X.data)).all()
    np.testing.assert_array_equal(adata.obs["n_counts"], adata.X.sum(axis=1, dtype=np.float64).A1)

    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    has_id = adata.var["ensembl_id"] != ""
    assert adata.var["ensembl_id"][has_id].str.fullmatch(r"ENSG\d{11}").all()
    assert not adata.var["ensembl_id"][has_id].duplicated().any()
    assert (adata.var["gene_symbol"] != "").all()
    assert adata.uns["scfm"]["gene_report"]["n_unmapped"] == (~has_id).sum()
    assert has_id.mean() > 0.8

    roles = {"label": "cell_type", "batch": "batch", "condition": "condition", "donor": "donor"}
    for role, column in roles.items():
        if role not in entry["columns"]:
            assert column not in adata.obs or role == "donor" or set(adata.obs[column]) == {"unknown"}
            continue
        values = adata.obs[column].astype(str)
        assert not values.isin(["nan", "None", ""]).any()
        assert (values != "unknown").any()
    assert not adata.uns["scfm"]["simulated"]
    assert adata.uns["scfm"]["sha256"] == entry["sha256"]

    stored = anndata.read_h5ad(path)
    np.testing.assert_array_equal(adata.X.indptr, stored.X.indptr)
    assert adata.X.sum() == stored.X.sum()
    assert adata.obs_names.tolist() == stored.obs_names.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_made_from_public_files_has_to_be_the_listed_file(name: str, shared: Callable[[str], Path]) -> None:
    entry = entries()[name]
    found = content_hash(anndata.read_h5ad(shared(entry["file"])), entry["columns"])
    assert found == entry["origin"]["content"]


def test_labels_that_are_missing_are_unknown(shared: Callable[[str], Path]) -> None:
    shared("data/pbmc3k.h5ad")
    assert (load_dataset("pbmc3k").obs["cell_type"] == "unknown").sum() == 62


def test_another_label_can_be_asked_for(shared: Callable[[str], Path]) -> None:
    shared("data/pbmc_3chem.h5ad")
    adata = load_dataset("pbmc_3chem", label="cell_type_predicted")
    assert adata.obs["cell_type"].nunique() == 8
    assert adata.uns["scfm"]["label"] == "cell_type_predicted"


def test_proteins_come_along(shared: Callable[[str], Path]) -> None:
    shared("data/malt_tumour_cite.h5ad")
    adata = load_dataset("malt_tumour_cite")
    assert adata.obsm["protein"].shape == (1000, 17)
    assert len(adata.uns["protein_names"]) == 17


def test_evaluation_sets_are_those_of_the_plan() -> None:
    kept = {name for name in NAMES if entries()[name]["split"] == "evaluation"}
    assert kept == {
        "pbmc_donorA",
        "pbmc_zheng_facs",
        "pbmc_zheng_14k_sub",
        "pbmc_zheng_mudan_ref",
        "kang_ifnb_pbmc",
        "kang_ifnb_muscat_1267genes",
        "lung_celllines_5batch",
        "pancreas_baron_175",
        "perturb_papalexi_299genes",
    }


def test_the_gene_table_is_what_its_script_makes(shared: Callable[[str], Path]) -> None:
    spec = importlib.util.spec_from_file_location("make_genes", cache.repo_data() / "make_genes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pairs = module.count_pairs([shared("data/pbmc3k.h5ad").parents[1]])
    rows = list(genes.gene_table().itertuples(index=False, name=None))
    assert module.ordered(pairs) == rows


def test_a_changed_file_is_refused(
    shared: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shared("data/blastocyst_blakeley.h5ad")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / original.name).write_bytes(original.read_bytes() + b"x")
    monkeypatch.setenv("SCFM_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="changed or damaged"):
        load_dataset("blastocyst_blakeley")
    assert list_datasets().loc["blastocyst_blakeley", "availability"] == "in cache"
    assert list_datasets().loc["pollen_11pop", "availability"] == "download (converted here)"
