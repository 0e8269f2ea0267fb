"""Sets that are made here from a public deposit: an .RData file that R wrote, tables that R wrote, and what is no such thing."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from coursekit.workshop import bundle
from scfm import datasets
from scfm.datasets import at_hand, entries, list_datasets, load_dataset
from scfm.errors import DatasetError, DownloadError, FileFormatError
from scfm.files.convert import content_hash
from scfm.store import cache
from studies import ablation, sets

RDATA = Path(__file__).parent / "data" / "pbmc_facs_small.RData"
FACS, LINES = "pbmc_zheng_facs", "lung_celllines_5batch"
SYMBOLS = ["GAPDH", "CD79A", "CD19", "HLA-DRA", "LYZ", "S100A9", "CD3D", "CD8A", "GNLY"]
BATCHES = ["sc_celseq2", "sc_dropseq", "sc_celseq2_5cl_p1", "sc_celseq2_5cl_p2", "sc_celseq2_5cl_p3"]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a set of the list come from the local server, with the content that is expected of it."""

    def change(name: str, url: str, content: str) -> None:
        entry = entries()[name]
        changed = {**entry, "origin": {**entry["origin"], "urls": [url], "content": content}}
        known = {**entries(), name: changed}
        monkeypatch.setattr(datasets, "entries", lambda: known)

    return change


def sorted_cells() -> anndata.AnnData:
    """What pbmc_facs_small.R put into its file."""
    names = ["AAAC", "AAAG", "AAAT", "AACA", "AACC", "AACG", "AACT", "AAGA", "AAGC", "AAGG", "AAGT", "AATA"]
    population = ["b_cells", "cd56_nk", "cytotoxic_t"] * 4
    numbers = [111640, 105369, 177455, 204287, 90382, 163220, 167286, 153563, 115523]
    cell, gene = np.arange(1, 13)[:, None], np.arange(1, 10)[None]
    types = {"b_cells": "CD19+ B", "cd56_nk": "CD56+ NK", "cytotoxic_t": "CD8+ Cytotoxic T"}
    return anndata.AnnData(
        X=sparse.csr_matrix(((cell * 7 + gene * 5) % 4) * ((cell + gene) % 3 > 0), dtype=np.float32),
        obs=pd.DataFrame(
            {"cell_type": [types[p] for p in population], "population_batch": population},
            index=[f"ACGTACGTAC{name}-1-{p}" for name, p in zip(names, population, strict=True)],
        ),
        var=pd.DataFrame({"gene_symbol": SYMBOLS}, index=[f"ENSG{n:011d}" for n in numbers]),
    )


def expected(name: str, adata: anndata.AnnData) -> str:
    return content_hash(adata, entries()[name]["columns"])


def test_a_file_of_r_becomes_the_listed_set(
    site: tuple[Path, str], empty_cache: Path, listed: Callable[..., None]
) -> None:
    folder, url = site[0], f"{site[1]}/{{file}}"
    (folder / "pbmc_facs.RData").write_bytes(RDATA.read_bytes())
    cells = sorted_cells()
    listed(FACS, url, expected(FACS, cells))
    assert list_datasets().loc[FACS, "availability"] == "download (converted here)"
    adata = load_dataset(FACS)
    assert (adata.X != cells.X).nnz == 0
    assert adata.obs_names.tolist() == cells.obs_names.tolist()
    assert adata.obs["cell_type"].tolist() == cells.obs["cell_type"].tolist()
    assert adata.obs["batch"].tolist() == cells.obs["population_batch"].tolist()
    assert adata.obs["split"].tolist() == ["train"] * 10 + ["test"] * 2
    assert adata.var["ensembl_id"].tolist() == cells.var_names.tolist()
    assert adata.var["gene_symbol"].tolist() == SYMBOLS
    assert adata.uns["scfm"]["sha256"] == entries()[FACS]["sha256"]

    (folder / "pbmc_facs.RData").unlink()
    assert load_dataset(FACS).n_obs == 12  # from the cache, without the server
    made = empty_cache / "converted" / f"{FACS}.h5ad"
    assert list(made.parent.iterdir()) == [made]
    assert bundle._dataset_files(FACS) == {f"converted/{FACS}.h5ad": made}

    changed = anndata.read_h5ad(made)
    changed.X.data[0] += 1
    changed.write_h5ad(made)
    with pytest.raises(FileFormatError, match="changed or damaged since it was made: delete it"):
        load_dataset(FACS)


@pytest.mark.parametrize("what", ["other counts", "no R file", "other object", "not there"])
def test_another_deposit_is_refused_and_nothing_is_kept(
    what: str, site: tuple[Path, str], empty_cache: Path, listed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = site[0], f"{site[1]}/{{file}}"
    if what != "not there":
        (folder / "pbmc_facs.RData").write_bytes(b"no file of R" if what == "no R file" else RDATA.read_bytes())
    listed(FACS, url, "0" * 64)
    if what == "other object":
        monkeypatch.setattr("rdata.read_rda", lambda path: {"something": 1})
    if what == "not there":
        with pytest.raises(DownloadError, match="no such file"):
            load_dataset(FACS)
    else:
        with pytest.raises(FileFormatError, match=r"could not be made from pbmc_facs\.RData.*kang") as caught:
            load_dataset(FACS)
        assert ("12 cells and 9 genes" in str(caught.value)) == (what == "other counts")
    assert not (empty_cache / "converted").exists()
    assert not (empty_cache / "downloads" / "lock.json").exists()  # a wrong file's hash must not refuse the right one


@pytest.mark.parametrize("named", [False, True])
def test_tables_of_r_become_the_listed_set(
    named: bool, site: tuple[Path, str], empty_cache: Path, listed: Callable[..., None]
) -> None:
    """Genes that one batch lacks are zero there; spike-ins, cells that are not listed and genes of no cell are left out."""
    folder, url = site[0], f"{site[1]}/{{file}}"
    cells = pd.read_csv(cache.repo_data() / "listed" / f"{LINES}.cells.tsv", sep="\t", index_col=0)
    batch_of = np.array([max((b for b in BATCHES if cell.startswith(f"{b}_")), key=len) for cell in cells.index])
    rng = np.random.default_rng(0)
    symbols = {
        "ENSG00000005238": "ATOSB",
        "ENSG00000000003": "TSPAN6",
        "ENSG00000090382": "LYZ",
        "ENSG00000999999": "ENSG00000999999",
    }
    genes = list(symbols)  # one symbol of the listed file, two of the course's table, and a gene without one
    tables = []
    for batch in BATCHES:
        own = cells.index[batch_of == batch]
        has = genes[:-1] if batch == "sc_dropseq" else genes
        table = pd.DataFrame(rng.poisson(1.0, (len(has), len(own))), index=has, columns=own)
        tables.append(table)
        stored = table.rename(columns=lambda cell, batch=batch: cell.removeprefix(f"{batch}_"))
        stored.insert(0, "nobody", 9)
        stored.loc["ENSG00000000011"] = [9] + [0] * len(own)
        stored.loc["ERCC-00002"] = 100
        text = stored.to_csv()
        (folder / f"{batch}.count.csv.gz").write_bytes(gzip.compress((text if named else text[1:]).encode()))
    whole = pd.concat([table.reindex(sorted(genes), fill_value=0).T for table in tables]).loc[cells.index]
    wanted = anndata.AnnData(
        X=sparse.csr_matrix(whole.to_numpy(np.float32)),
        obs=cells.assign(batch=batch_of),
        var=pd.DataFrame({"gene_symbol": [symbols[gene] for gene in sorted(genes)]}, index=sorted(genes)),
    )
    listed(LINES, url, expected(LINES, wanted))
    adata = load_dataset(LINES)
    assert (adata.X != wanted.X).nnz == 0
    assert adata.obs_names.tolist() == cells.index.tolist()
    assert adata.obs["cell_type"].tolist() == cells["cell_type"].tolist()
    assert adata.obs["batch"].tolist() == batch_of.tolist()
    assert adata.var["gene_symbol"].tolist() == [symbols[gene] for gene in sorted(genes)]


def test_a_sample_of_a_download_is_always_the_same(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """kang_ifnb_pbmc cannot be downloaded: where it is not, cells of the same study are loaded, and it is said."""
    whole = load_dataset("pbmc68k")
    whole.obs = pd.DataFrame(
        {"cell_type": "B", "label": ["ctrl", "stim"] * 350, "replicate": "patient_101"}, index=whole.obs_names
    )
    (empty_cache / "downloads").mkdir()
    path = empty_cache / "downloads" / entries()["kang"]["file"]
    whole.write_h5ad(path)
    known = {
        **entries(),
        "kang": {**entries()["kang"], "sha256": cache.sha256(path)},
        "kang-2000": {**entries()["kang-2000"], "cells": 100},
    }
    monkeypatch.setattr(datasets, "entries", lambda: known)
    first, second = load_dataset("kang-2000", seed=1), load_dataset("kang_ifnb_pbmc", seed=2)
    assert "kang-2000 is loaded instead" in caplog.text
    assert first.n_obs == 100
    assert first.obs_names.tolist() == second.obs_names.tolist()
    assert set(first.obs["donor"]) == {"patient_101"}
    rows = whole.obs_names.get_indexer(first.obs_names)
    assert (np.diff(rows) > 0).all()
    assert (whole.X[rows] != first.X).nnz == 0
    assert bundle._dataset_files("kang-2000") == {f"downloads/{path.name}": path}


def test_a_profile_takes_what_can_be_had(empty_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [FACS, "kang_ifnb_pbmc", LINES, "pancreas_baron_175", "pbmc68k-2batch"]
    assert at_hand(names) == [FACS, "kang-2000", LINES, "pbmc68k-2batch"]
    assert "kang-2000 is taken instead" in caplog.text
    assert "pancreas_baron_175 is left out" in caplog.text
    assert at_hand([*names, "mine.h5ad"], exact=True) == [FACS, LINES, "pbmc68k-2batch", "mine.h5ad"]
    with pytest.raises(DatasetError, match="None of these sets can be loaded: pancreas_baron_175"):
        at_hand(names[3:4])
    with pytest.raises(DatasetError, match="None of these sets can be loaded: kang_ifnb_pbmc"):
        sets.evaluation_set("kang_ifnb_pbmc")  # kang-2000 under this name would be another set's result
    assert ablation.study_at_hand("pbmc68k-2batch") == "pbmc68k-2batch"
    assert ablation.study_at_hand("kang_ifnb_2cond") == "lung_celllines_2tech"
    assert "kang_ifnb_2cond cannot be had here" in caplog.text
