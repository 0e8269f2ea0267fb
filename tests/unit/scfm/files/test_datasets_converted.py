"""Sets that are made here from a public deposit: an .RData file that R wrote, tables that R wrote, and what is no such thing."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import small_r
from carrier_server import CarrierServer
from scipy import sparse

from coursekit.workshop import bundle
from scfm import datasets
from scfm.datasets import at_hand, entries, list_datasets, load_dataset
from scfm.errors import DatasetError, DownloadError, FileFormatError
from scfm.files.convert import content_hash
from scfm.store import cache
from scfm.store.carriers import MIRROR, Carrier, blob_sha1
from studies import ablation, sets

RDATA = Path(__file__).parent / "data" / "pbmc_facs_small.RData"
FACS, LINES, KANG = "pbmc_zheng_facs", "lung_celllines_5batch", "kang_ifnb_pbmc"
SYMBOLS = ["GAPDH", "CD79A", "CD19", "HLA-DRA", "LYZ", "S100A9", "CD3D", "CD8A", "GNLY"]
BATCHES = ["sc_celseq2", "sc_dropseq", "sc_celseq2_5cl_p1", "sc_celseq2_5cl_p2", "sc_celseq2_5cl_p3"]


@pytest.fixture
def mirror(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CarrierServer]:
    """A mirror that serves nothing yet."""
    monkeypatch.setenv("NO_PROXY", "*")
    server = CarrierServer({})
    monkeypatch.setenv(MIRROR, server.url)
    yield server
    server.close()


@pytest.fixture
def listed(mirror: CarrierServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a set of the list be made of other files, which the mirror serves, and give the content that is expected of it."""

    def change(name: str, files: dict[str, bytes], content: str) -> None:
        entry = datasets.entries()[name]
        known = {
            what: {**facts, "blob": blob_sha1(files[what]), "bytes": len(files[what])}
            for what, facts in entry["origin"]["files"].items()
        }
        mirror.files |= {Carrier(**facts): files[what] for what, facts in known.items()}
        changed = {**entry, "origin": {**entry["origin"], "files": known, "content": content}}
        everything = {**datasets.entries(), name: changed}
        monkeypatch.setattr(datasets, "entries", lambda: everything)

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


def without_recipe(name: str) -> dict[str, Any]:
    """Its entry, as that of a set whose file lay in a cache folder only."""
    return {key: value for key, value in entries()[name].items() if key != "origin"}


def expected(name: str, adata: anndata.AnnData) -> str:
    return content_hash(adata, entries()[name]["columns"])


def test_a_file_of_r_becomes_the_listed_set(
    mirror: CarrierServer, empty_cache: Path, listed: Callable[..., None]
) -> None:
    cells = sorted_cells()
    listed(FACS, {"pbmc_facs.RData": RDATA.read_bytes()}, expected(FACS, cells))
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

    mirror.files.clear()
    assert list_datasets().loc[FACS, "availability"] == "in cache"
    assert load_dataset(FACS).n_obs == 12  # without the server
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
    what: str, mirror: CarrierServer, empty_cache: Path, listed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"no file of R" if what == "no R file" else RDATA.read_bytes()
    listed(FACS, {"pbmc_facs.RData": content}, "0" * 64)
    if what == "other object":
        monkeypatch.setattr("scfm.files.r_objects.read_r", lambda path: {"something": 1})
    if what == "not there":
        mirror.files.clear()
        with pytest.raises(
            DownloadError,
            match=r"(?s)no such file.*gone for good.*In its place: pbmc68k or pbmc68k-2batch or kang, of the same tissue",
        ):
            load_dataset(FACS)
    else:
        with pytest.raises(FileFormatError, match=r"could not be made from pbmc_facs\.RData.*make doctor") as caught:
            load_dataset(FACS)
        assert ("12 cells and 9 genes" in str(caught.value)) == (what == "other counts")
        assert ("pbmc_facs of pbmc_facs$counts (there is something)" in str(caught.value)) == (what == "other object")
    assert not (empty_cache / "converted").exists()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        (KANG, r"scfm.load_dataset\('kang-2000'\), of the same cells or study"),
        ("pancreas_baron_175", "scib_pancreas, of the same tissue"),
        ("tonsil_bcell_cite", "pbmc68k, which comes with the course"),
    ],
)
def test_a_lost_carrier_says_what_to_take_instead(name: str, instead: str, mirror: CarrierServer) -> None:
    with pytest.raises(
        DownloadError, match=rf"{name} cannot be made(?s:.*)gone for good(?s:.*)In its place: {instead}"
    ):
        load_dataset(name)


def test_what_a_killed_run_left_is_cleared_away(empty_cache: Path, listed: Callable[..., None]) -> None:
    half = empty_cache / "converted" / f".{FACS}.h5ad.0123abcd.part"
    half.parent.mkdir()
    half.write_bytes(b"half")
    listed(FACS, {"pbmc_facs.RData": RDATA.read_bytes()}, expected(FACS, sorted_cells()))
    load_dataset(FACS)
    assert [path.name for path in half.parent.iterdir()] == [f"{FACS}.h5ad"]


def test_a_recipe_looks_into_another_set(mirror: CarrierServer, listed: Callable[..., None], tmp_path: Path) -> None:
    """Which of its cells are in the sorted set too: that set's file is fetched, and read, beside its own."""
    facs = sorted_cells()
    barcodes = [name.split("-")[0] for name in facs.obs_names[:2]]
    labels = pd.DataFrame({"trueLabel_full": [facs.obs["cell_type"].iloc[0]] * 2, "trueLabel": "B"}, index=barcodes)
    counts = np.array([[1, 2], [3, 1]])
    logged = sparse.csr_matrix(np.log2(counts / counts.sum(1)[:, None] * 1e6 + 1).T)
    eset = small_r.s4(
        "ExpressionSet",
        assayData=small_r.environment(exprs=small_r.dgc(logged, ["LYZ", "CD3D"], barcodes)),
        phenoData=small_r.s4("AnnotatedDataFrame", data=small_r.data_frame(labels)),
    )
    small_r.save(tmp_path / "a.rda", **{"pbmc14k_expression.eset": eset})
    wanted = anndata.AnnData(
        X=sparse.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame({"cell_type": list(labels["trueLabel_full"])}, index=[f"p14k_{b}" for b in barcodes]),
        var=pd.DataFrame({"gene_symbol": ["LYZ", "CD3D"]}, index=["ENSG00000090382", "ENSG00000167286"]),
    )
    listed(FACS, {"pbmc_facs.RData": RDATA.read_bytes()}, "0" * 64)
    name = "pbmc_zheng_14k_sub"
    listed(name, {"pbmc14k_expression.eset.rda": (tmp_path / "a.rda").read_bytes()}, expected(name, wanted))
    assert load_dataset(name).obs["in_pbmc_zheng_facs"].tolist() == [True, False]  # the second is another type there
    assert [path.rpartition("/")[2] for path in mirror.paths()] == ["pbmc14k_expression.eset.rda", "pbmc_facs.RData"]


@pytest.mark.parametrize("named", [False, True])
def test_tables_of_r_become_the_listed_set(
    named: bool, mirror: CarrierServer, empty_cache: Path, listed: Callable[..., None]
) -> None:
    """Genes that one batch lacks are zero there; spike-ins, cells that are no good and genes of no cell are left out."""
    rng = np.random.default_rng(0)
    symbols = {
        "ENSG00000005238": "ATOSB",
        "ENSG00000000003": "TSPAN6",
        "ENSG00000090382": "LYZ",
        "ENSG00000999999": "ENSG00000999999",
    }
    genes = list(symbols)  # one symbol of the listed file, two of the course's table, and a gene without one
    files, tables, obs = {}, [], []
    for batch in BATCHES:
        own = [f"c{i}" for i in range(7)]
        has = genes[:-1] if batch == "sc_dropseq" else genes
        table = pd.DataFrame(rng.poisson(2.0, (len(has), len(own))), index=has, columns=own)
        stored = table.copy()
        stored.insert(0, "nobody", 9)  # no word about it
        stored.insert(4, "doublet", 9)
        stored.insert(6, "outlier", 9)
        stored.loc["ENSG00000000011"] = [9 if cell in ("nobody", "doublet", "outlier") else 0 for cell in stored]
        stored.loc["ERCC-00002"] = 100
        about = pd.DataFrame(
            {"cell_line_demuxlet": rng.choice(["H1975", "A549"], 9), "demuxlet_cls": "SNG", "outliers": "FALSE"},
            index=[*own[::-1], "doublet", "outlier"],
        )
        about.loc["doublet", "demuxlet_cls"], about.loc["outlier", "outliers"] = "DBL", "TRUE"
        kept = own
        if "5cl" in batch:
            about.insert(0, "cell_number", [1, 1, 0, 1, 2, 1, 1, 1, 1])
            kept = [cell for cell in own if cell not in ("c4", "c2")]
        for what, frame in (("count", stored), ("metadata", about)):
            text = frame.to_csv()
            files[f"{batch}.{what}.csv.gz"] = gzip.compress((text if named else text[1:]).encode())
        tables.append(table[kept])
        obs.append(
            pd.DataFrame(
                {"cell_type": about.loc[kept, "cell_line_demuxlet"].to_numpy(), "batch": batch},
                index=[f"{batch}_{cell}" for cell in kept],
            )
        )
    whole = pd.concat([table.reindex(sorted(genes), fill_value=0).T for table in tables])
    wanted = anndata.AnnData(
        X=sparse.csr_matrix(whole.to_numpy(np.float32)),
        obs=pd.concat(obs),
        var=pd.DataFrame({"gene_symbol": [symbols[gene] for gene in sorted(genes)]}, index=sorted(genes)),
    )
    listed(LINES, files, expected(LINES, wanted))
    adata = load_dataset(LINES)
    assert (adata.X != wanted.X).nnz == 0
    assert adata.obs_names.tolist() == wanted.obs_names.tolist()
    assert adata.obs["technology"].tolist() == [
        "Drop-seq" if batch == "sc_dropseq" else "CEL-seq2" for batch in wanted.obs["batch"]
    ]
    assert adata.var["gene_symbol"].tolist() == wanted.var["gene_symbol"].tolist()


def test_a_sample_of_a_download_is_always_the_same(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a set is nowhere and has no recipe, its fallback is loaded, and it is said."""
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
        KANG: without_recipe(KANG),
    }
    monkeypatch.setattr(datasets, "entries", lambda: known)
    first, second = load_dataset("kang-2000", seed=1), load_dataset(KANG, seed=2)
    assert "kang-2000 is loaded instead" in caplog.text
    assert first.n_obs == 100
    assert first.obs_names.tolist() == second.obs_names.tolist()
    assert set(first.obs["donor"]) == {"patient_101"}
    rows = whole.obs_names.get_indexer(first.obs_names)
    assert (np.diff(rows) > 0).all()
    assert (whole.X[rows] != first.X).nnz == 0
    assert bundle._dataset_files("kang-2000") == {f"downloads/{path.name}": path}


def test_a_profile_takes_what_can_be_had(
    empty_cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [KANG, "pancreas_baron_175"]
    assert at_hand(both, exact=True) == both  # made when they are loaded
    known = entries() | {
        name: without_recipe(name) for name in (KANG, "pancreas_baron_175", "kang_ifnb_muscat_1267genes")
    }
    monkeypatch.setattr(datasets, "entries", lambda: known)
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
