"""The listed sets: the bundled one, the simulated batch, downloads end to end, the Census, the list and its cards."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import io, sparse

import scfm
from scfm import datasets, genes
from scfm.datasets import DatasetError, DownloadError, entries, list_datasets, load_dataset, simulate_batch
from scfm.store import cache


@pytest.fixture(scope="module")
def pbmc68k() -> anndata.AnnData:
    return load_dataset("pbmc68k")


# --- pbmc68k ----------------------------------------------------------------------------------------


def test_pbmc68k_is_whole_counts_of_700_cells(pbmc68k: anndata.AnnData) -> None:
    assert pbmc68k.shape == (700, 765)
    assert sparse.isspmatrix_csr(pbmc68k.X)
    assert pbmc68k.X.dtype == np.float32
    assert (pbmc68k.X.data == np.rint(pbmc68k.X.data)).all()
    assert pbmc68k.X.data.min() == 1
    assert pbmc68k.obs["cell_type"].nunique() == 10
    assert set(pbmc68k.obs["batch"]) == set(pbmc68k.obs["condition"]) == {"unknown"}


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning", "ignore:Moving element from:FutureWarning")  # of 2019
def test_pbmc68k_gives_back_what_scanpy_stored(pbmc68k: anndata.AnnData) -> None:
    spec = importlib.util.find_spec("scanpy")
    assert spec is not None
    stored = anndata.read_h5ad(Path(str(spec.origin)).parent / "datasets" / "10x_pbmc68k_reduced.h5ad")
    np.testing.assert_array_equal(pbmc68k.obs["n_counts"], stored.obs["n_counts"])  # of the whole cell
    assert (pbmc68k.obs["n_counts"] > pbmc68k.X.sum(axis=1).A1).all()
    forward = np.log1p(pbmc68k.X.toarray() / pbmc68k.obs["n_counts"].to_numpy()[:, None] * 1e4)
    assert np.abs(forward - stored.raw.X.toarray()).max() < 0.0007  # stored to three decimals


def test_pbmc68k_genes_have_ids(pbmc68k: anndata.AnnData) -> None:
    assert pbmc68k.var["gene_symbol"][pbmc68k.var["ensembl_id"] == ""].tolist() == ["TMBIM4-1"]
    assert pbmc68k.var_names.is_unique
    assert pbmc68k[:, "ENSG00000156738"].var["gene_symbol"].tolist() == ["MS4A1"]


def test_another_scanpy_file_that_is_no_counts_is_refused(tmp_path: Path, pbmc68k: anndata.AnnData) -> None:
    changed = pbmc68k.copy()
    changed.obs["bulk_labels"] = "a"
    changed.X.data *= 0.37
    changed.raw = changed
    changed.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(DatasetError, match="could not be recovered"):
        datasets._recover_pbmc68k(tmp_path / "other.h5ad")


def test_neither_scanpy_nor_torch_is_imported() -> None:
    import subprocess

    code = "import scfm, sys; scfm.load_dataset('pbmc68k'); print('scanpy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_is_loaded_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCFM_PROVENANCE", str(tmp_path / "log"))
    load_dataset("pbmc68k-2batch")
    line = json.loads((tmp_path / "log").read_text())
    assert line == {"kind": "dataset", "name": "pbmc68k-2batch", "sha256": entries()["pbmc68k"]["sha256"]}


# --- the simulated batch ----------------------------------------------------------------------------


def test_the_second_batch_is_named_simulated_everywhere() -> None:
    adata = load_dataset("pbmc68k-2batch")
    assert adata.obs["batch"].cat.categories.tolist() == ["original", "simulated"]
    assert adata.uns["scfm"]["simulated"] is True
    assert "simulated" in adata.uns["scfm"]["title"]
    assert adata.uns["scfm"]["name"] == "pbmc68k-2batch"
    by_type = pd.crosstab(adata.obs["cell_type"], adata.obs["batch"])
    assert (abs(by_type["original"] - by_type["simulated"]) <= 1).all()


def test_the_effect_is_what_is_documented(pbmc68k: anndata.AnnData) -> None:
    adata = simulate_batch(pbmc68k, seed=0, depth=0.5, spread=0.0, dropout=0.0)
    second = (adata.obs["batch"] == "simulated").to_numpy()
    np.testing.assert_array_equal(adata.X[~second].toarray(), pbmc68k.X[~second].toarray())
    kept = adata.X[second].sum() / pbmc68k.X[second].sum()
    assert kept == pytest.approx(0.5, abs=0.01)
    assert adata.obs["n_counts"][second].sum() / pbmc68k.obs["n_counts"][second].sum() == pytest.approx(0.5, abs=0.01)

    # efficiency: with spread, genes keep different shares; without, all the same up to sampling
    def spread_of_genes(changed: anndata.AnnData) -> float:
        before = pbmc68k.X[second].sum(axis=0).A1
        common = before > 300
        return float((changed.X[second].sum(axis=0).A1[common] / before[common]).std())

    assert spread_of_genes(simulate_batch(pbmc68k, seed=0, dropout=0.0)) > 3 * spread_of_genes(adata)
    with_dropout = simulate_batch(pbmc68k, seed=0, spread=0.0, dropout=0.3)
    lost = 1 - with_dropout.X[second].nnz / adata.X[second].nnz
    assert 0.1 < lost < 0.3  # ones are lost with 0.3, larger counts more rarely


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.floats(0.05, 1.0), dropout=st.floats(0.0, 0.9))
def test_simulated_counts_are_counts_and_only_losses(seed: int, depth: float, dropout: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = sparse.csr_matrix(rng.poisson(1.0, (21, 13)).astype(np.float32))
    adata = anndata.AnnData(
        matrix,
        obs=pd.DataFrame(
            {
                "cell_type": rng.choice(["a", "b", "c"], 21),
                "n_counts": matrix.sum(axis=1).A1 + rng.integers(0, 50, 21),
                "batch": "unknown",
            },
            index=[str(i) for i in range(21)],
        ),
        uns={"scfm": {"name": "x", "title": "x"}},
    )
    first, again = simulate_batch(adata, seed, depth, 0.5, dropout), simulate_batch(adata, seed, depth, 0.5, dropout)
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())
    assert first.obs["batch"].tolist() == again.obs["batch"].tolist()
    values = first.X.toarray()
    assert (values == np.rint(values)).all()
    assert (values >= 0).all()
    assert (values <= matrix.toarray()).all()
    assert (first.obs["n_counts"] <= adata.obs["n_counts"]).all()
    assert (first.obs["n_counts"] >= values.sum(axis=1)).all()
    assert (first.X.data > 0).all()
    assert adata.obs["batch"].tolist() == ["unknown"] * 21  # the input is left alone


# --- the list ---------------------------------------------------------------------------------------


def test_the_list_says_what_is_at_hand(empty_cache: Path) -> None:
    table = list_datasets()
    assert len(table) == len(entries()) == 43
    assert table.loc["pbmc68k", "availability"] == "bundled"
    assert table.loc["kang", "availability"] == "download"
    assert table.loc["pbmc_3chem", "availability"] == "download (converted here)"
    (empty_cache / "downloads").mkdir()
    (empty_cache / "downloads" / entries()["kang"]["file"]).write_bytes(b"x")
    assert list_datasets().loc["kang", "availability"] == "in cache"


@pytest.mark.parametrize("name", list(entries()))
def test_every_entry_is_complete(name: str) -> None:
    entry = entries()[name]
    for field in ("title", "source", "organism", "tissue", "counts", "split", "licence", "citation"):
        assert entry[field]
    assert set(entry["columns"]) <= {"label", "batch", "condition", "donor"}
    assert entry["counts"] in ("UMI", "reads")
    assert entry["split"] in ("evaluation", "corpus")
    assert re.fullmatch(r"[0-9a-f]{64}", entry.get("sha256", "0" * 64))
    assert re.fullmatch(r"[0-9a-f]{32}", entry.get("md5", "0" * 32))
    assert re.fullmatch(r"10\.\d{4,5}/\S+", entry.get("doi", "10.1000/x"))
    if entry["source"] == "download":
        assert all(url.startswith("https://") for url in entry["urls"])
    if entry["source"] in ("bundled", "cache"):
        assert entry["sha256"]
        assert entry["bytes"]
    if "origin" in entry:  # every raw file of its recipe
        origin = entry["origin"]
        assert re.fullmatch(r"[0-9a-f]{64}", origin["content"])
        for facts in origin["files"].values():
            assert re.fullmatch(r"[0-9a-f]{40}", facts["blob"])
            assert re.fullmatch(r"[0-9a-f]{40}", facts["commit"])  # a commit, not a branch
            assert 0 < facts["bytes"] < 5_000_000
        assert set(re.findall(r"'file': '([^']+)'", str(origin))) <= set(origin["files"])


def test_the_cards_are_those_of_the_list() -> None:
    spec = importlib.util.spec_from_file_location("make_cards", cache.repo_data() / "make_cards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = cache.repo_data() / "cards"
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    assert on_disk == module.cards(), "run: python data/make_cards.py"


def test_the_gene_table_is_small_and_unambiguous() -> None:
    path = cache.repo_data() / "genes.tsv.gz"
    assert path.stat().st_size < 1_000_000
    assert path.read_bytes()[4:8] == b"\0\0\0\0"  # no time in the gzip header
    table = genes.gene_table()
    assert not table.duplicated().any()
    assert table["ensembl_id"].str.fullmatch(r"ENSG\d{11}").all()
    assert (table["gene_symbol"] != "").all()
    known = genes.symbol_to_ensembl()
    assert known["GAPDH"] == "ENSG00000111640"
    assert known["TENT5C"] == known["FAM46C"]  # a new symbol and its old one


def test_sets_are_joined_by_a_plus_that_a_files_own_name_may_have_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CD4+_cells.h5ad").touch()
    full = str(tmp_path / "CD4+_cells.h5ad")
    cases = {
        "kang": ["kang"],
        "kang+pbmc68k": ["kang", "pbmc68k"],
        "CD4+_cells.h5ad": ["CD4+_cells.h5ad"],
        f"{full}+kang+CD4+_cells.h5ad": [full, "kang", "CD4+_cells.h5ad"],
        "+".join(["long"] * 100): ["long"] * 100,  # longer than any file's name may be
    }
    for names, split in cases.items():
        assert datasets.split_names(names) == split
    assert datasets.split_names("CD4+_cells.h5ad", tmp_path / "elsewhere") == ["CD4", "_cells.h5ad"]


def test_a_set_that_needs_scfm_cache_says_so(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, "pbmc_3chem", without="origin")
    assert list_datasets().loc["pbmc_3chem", "availability"].startswith("not here")
    with pytest.raises(DatasetError, match=r"SCFM_CACHE.*kang is one.*of your own") as caught:
        load_dataset("pbmc_3chem")
    assert entries()["pbmc_3chem"]["citation"] in str(caught.value)
    assert entries()["kang"]["source"] == "download"


@pytest.mark.parametrize("page", ["README.md", "site/setup.md"])
def test_the_pages_name_every_set_that_is_downloaded(page: str) -> None:
    text = (cache.repo_data().parent / page).read_text()
    assert f"{sum('origin' in entry for entry in entries().values())} sets" in text
    for name, entry in entries().items():
        if entry["source"] in ("download", "census", "subset"):
            assert f"`{name}`" in text, f"{page} does not name {name}"
    for name in re.findall(r"dataset=(\w+)[ \"`]", text):  # what the examples name works on a fresh clone
        assert entries()[name]["source"] in ("bundled", "download") or "origin" in entries()[name], name


# --- downloads, end to end --------------------------------------------------------------------------


def served(monkeypatch: pytest.MonkeyPatch, name: str, without: str = "", **changes: Any) -> None:
    """Let the list point to the local server, or lose a field."""
    before = datasets.entries()
    entry = {key: value for key, value in {**before[name], **changes}.items() if key != without}
    monkeypatch.setattr(datasets, "entries", lambda: {**before, name: entry})


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_kang_comes_by_download(
    site: tuple[Path, str], empty_cache: Path, monkeypatch: pytest.MonkeyPatch, pbmc68k: anndata.AnnData
) -> None:
    folder, url = site
    cells = pbmc68k[:50].copy()
    cells.obs = pd.DataFrame(
        {"cell_type": "B", "label": ["ctrl", "stim"] * 25, "replicate": "patient_101"}, index=cells.obs_names
    )
    cells.X = cells.X.tocsc()
    cells.write_h5ad(folder / "kang.h5ad")
    served(monkeypatch, "kang", urls=[f"{url}/missing", f"{url}/kang.h5ad"], sha256=sha(folder / "kang.h5ad"))
    adata = load_dataset("kang")
    assert adata.obs["condition"].value_counts().to_dict() == {"ctrl": 25, "stim": 25}
    assert set(adata.obs["donor"]) == {"patient_101"}
    assert (empty_cache / "downloads" / "kang_2018.h5ad").exists()
    shutil.rmtree(folder)
    assert load_dataset("kang").n_obs == 50  # from the cache, without the server

    served(monkeypatch, "kang", urls=[], sha256="0" * 64)
    with pytest.raises(DownloadError, match="is not the file that was published"):
        load_dataset("kang")


def tenx_archive(path: Path, adata: anndata.AnnData) -> None:
    inside = path.parent / "filtered_matrices_mex" / "hg19"
    inside.mkdir(parents=True)
    with (inside / "matrix.mtx").open("wb") as file:
        io.mmwrite(file, adata.X.T.tocoo().astype(int))
    adata.var[["ensembl_id", "gene_symbol"]].to_csv(inside / "genes.tsv", sep="\t", header=False, index=False)
    (inside / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(inside.parent, inside.parent.name)


def test_zheng68k_joins_its_labels_by_barcode(
    site: tuple[Path, str], empty_cache: Path, monkeypatch: pytest.MonkeyPatch, pbmc68k: anndata.AnnData
) -> None:
    folder, url = site
    cells = pbmc68k[:40]
    tenx_archive(folder / "a.tar.gz", cells)
    labels = pd.DataFrame({"TSNE.1": 0, "barcodes": cells.obs_names, "celltype": cells.obs["cell_type"].astype(str)})
    labels.iloc[5:][::-1].to_csv(folder / "labels.tsv", sep="\t", index=False)  # other order, five missing
    entry = entries()["zheng68k"]
    where = {**entry["labels"], "urls": [f"{url}/labels.tsv"], "sha256": sha(folder / "labels.tsv")}
    served(monkeypatch, "zheng68k", urls=[f"{url}/a.tar.gz"], sha256=sha(folder / "a.tar.gz"), labels=where)
    adata = load_dataset("zheng68k")
    expected = ["unknown"] * 5 + cells.obs["cell_type"].astype(str).tolist()[5:]
    assert adata.obs["cell_type"].tolist() == expected
    assert adata.X.sum() == cells.X.sum()


def test_pbmc3k_falls_back_to_the_download_and_says_so(
    site: tuple[Path, str],
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    pbmc68k: anndata.AnnData,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, url = site
    cells = pbmc68k[:40]
    tenx_archive(folder / "a.tar.gz", cells)
    processed = cells[::2].copy()
    processed.obs = pd.DataFrame({"louvain": pd.Categorical(["CD4 T cells"] * 20)}, index=processed.obs_names)
    processed.write_h5ad(folder / "processed.h5ad")
    where = {
        **entries()["pbmc3k-10x"]["labels"],
        "urls": [f"{url}/processed.h5ad"],
        "sha256": sha(folder / "processed.h5ad"),
    }
    served(monkeypatch, "pbmc3k", without="origin")
    served(monkeypatch, "pbmc3k-10x", urls=[f"{url}/a.tar.gz"], sha256=sha(folder / "a.tar.gz"), labels=where)
    adata = load_dataset("pbmc3k")
    assert adata.uns["scfm"]["name"] == "pbmc3k-10x"
    assert "pbmc3k-10x is loaded instead" in caplog.text
    assert adata.obs["cell_type"].value_counts().to_dict() == {"CD4 T cells": 20, "unknown": 20}


def test_scib_batches_without_counts_are_left_out_by_name(
    site: tuple[Path, str],
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    pbmc68k: anndata.AnnData,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, url = site
    cells = pbmc68k[:60].copy()
    cells.obs = pd.DataFrame({"celltype": "beta", "tech": ["indrop", "celseq", "smarter"] * 20}, index=cells.obs_names)
    values = cells.X.toarray().astype(np.float64)
    celseq, smarter = (cells.obs["tech"] == "celseq").to_numpy(), (cells.obs["tech"] == "smarter").to_numpy()
    values[celseq] = -4096 * np.log1p(-values[celseq] / 4096)  # corrected for collisions of barcodes
    values[smarter] *= 3.7
    cells.layers["counts"] = values
    cells.X = np.log1p(values)
    cells.write_h5ad(folder / "p.h5ad")
    md5 = hashlib.md5((folder / "p.h5ad").read_bytes()).hexdigest()
    served(monkeypatch, "scib_pancreas", urls=[f"{url}/p.h5ad"], md5=md5)
    adata = load_dataset("scib_pancreas")
    assert set(adata.obs["batch"]) == {"indrop", "celseq"}
    assert "smarter (20 cells) is left out" in caplog.text
    before = pbmc68k[:60].X.toarray()
    indrop = (cells.obs["tech"] == "indrop").to_numpy()
    np.testing.assert_array_equal(adata[adata.obs["batch"] == "indrop"].X.toarray(), before[indrop])


def test_the_census_slice(empty_cache: Path, monkeypatch: pytest.MonkeyPatch, pbmc68k: anndata.AnnData) -> None:
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    with pytest.raises(DatasetError, match="pip install cellxgene-census"):
        load_dataset("census_lung")

    asked: dict[str, Any] = {}

    class Census:
        def __enter__(self) -> str:
            return "census"

        def __exit__(self, *_: object) -> None:
            pass

    def get_anndata(census: str, organism: str, obs_coords: list[int], **columns: Any) -> anndata.AnnData:
        asked["drawn"] = obs_coords
        cells = pbmc68k[np.asarray(obs_coords)].copy()
        cells.obs = pd.DataFrame(
            {"cell_type": "b", "dataset_id": "d1", "donor_id": "x", "disease": "normal"},
            index=[str(i) for i in range(len(cells))],
        )
        cells.var = pd.DataFrame(
            {"feature_id": cells.var["ensembl_id"].to_numpy(), "feature_name": cells.var["gene_symbol"].to_numpy()},
            index=[str(i) for i in range(cells.n_vars)],
        )
        del cells.uns["scfm"]
        return cells

    fake = types.SimpleNamespace(
        open_soma=lambda census_version: asked.update(version=census_version) or Census(),
        get_obs=lambda census, organism, value_filter, column_names: pd.DataFrame({"soma_joinid": np.arange(700)}),
        get_anndata=get_anndata,
    )
    monkeypatch.setitem(sys.modules, "cellxgene_census", fake)
    served(monkeypatch, "census_lung", cells=100)
    adata = load_dataset("census_lung")
    assert adata.n_obs == 100
    assert asked["version"] == "2025-11-08"
    assert asked["drawn"] == sorted(set(asked["drawn"]))
    assert set(adata.obs["batch"]) == {"d1"}
    assert (empty_cache / "downloads" / "lock.json").exists()  # no published hash: recorded

    fake.get_anndata = lambda *_, **__: pytest.fail("the slice is in the cache and should not be drawn again")
    assert load_dataset("census_lung").n_obs == 100
    fake.get_anndata = get_anndata
    assert (load_dataset("census_lung", seed=1).X != adata.X).nnz > 0
    path = empty_cache / "downloads" / entries()["census_lung"]["file"]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DownloadError, match="recorded at its first download"):
        load_dataset("census_lung")


def test_the_package_offers_the_two_functions() -> None:
    assert scfm.load_dataset is load_dataset
    assert scfm.list_datasets is list_datasets
