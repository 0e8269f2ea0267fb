"""Files as other people's tools write them, each from a public bug report: the right matrix, the right genes, or words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scfm import genes
from scfm.datasets import FileFormatError, NotCountsError, load_dataset
from scfm.files import shards
from scfm.files.counts import find_counts
from scfm.files.tokenize_file import open_cells

N_CELLS, N_GENES = 30, 200


@pytest.fixture
def table() -> pd.DataFrame:
    """200 human genes whose symbols lead back to their ids."""
    symbols = genes.symbol_to_ensembl()
    found = genes.gene_table().drop_duplicates("ensembl_id").drop_duplicates("gene_symbol")
    found = found[[symbols[s] == g for s, g in zip(found.gene_symbol, found.ensembl_id, strict=True)]]
    return found.head(N_GENES).reset_index(drop=True)


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (N_CELLS, N_GENES)).astype(np.float32)


@pytest.fixture
def human(table: pd.DataFrame, counts: np.ndarray) -> anndata.AnnData:
    obs = pd.DataFrame({"cell_type": ["a", "b"] * 15}, index=[f"cell{i}" for i in range(N_CELLS)])
    var = pd.DataFrame({"gene_symbol": table.gene_symbol.to_numpy()}, index=table.ensembl_id.to_numpy())
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


def with_layers(human: anndata.AnnData, **layers: np.ndarray) -> anndata.AnnData:
    human.X = sparse.csr_matrix(np.log1p(human.X.toarray()))
    for name, matrix in layers.items():
        human.layers[name] = sparse.csr_matrix(matrix.astype(np.float32))
    return human


@pytest.mark.parametrize(
    ("layers", "taken"),
    [
        (("ambiguous", "matrix", "spliced", "unspliced"), "matrix"),  # velocyto
        (("ambiguous", "spliced", "unspliced"), "spliced"),  # scVelo
        (("ambiguous", "mature", "nascent"), "mature"),  # kb-python
        (("a_binary", "umis"), "umis"),
        (("a_binary", "something"), "something"),
        (("downsampled", "raw_counts"), "raw_counts"),
        (("Counts", "downsampled"), "Counts"),
    ],
)
def test_which_layer_is_the_counts(
    human: anndata.AnnData, counts: np.ndarray, layers: tuple[str, ...], taken: str
) -> None:
    parts = {name: np.minimum(counts, 1) if name == "a_binary" else np.floor(counts / 2) for name in layers}
    found, _, where = find_counts(with_layers(human, **parts | {taken: counts}))
    assert where == f'layers["{taken}"]'
    np.testing.assert_array_equal(found.toarray(), counts)


@pytest.mark.parametrize("layers", [("one", "two"), ("unspliced",)])
def test_layers_that_no_name_tells_apart_are_refused(
    human: anndata.AnnData, counts: np.ndarray, layers: tuple[str, ...]
) -> None:
    with pytest.raises(NotCountsError, match="counts"):
        find_counts(with_layers(human, **{name: counts + k for k, name in enumerate(layers)}))


def test_zeros_and_ones_are_named(human: anndata.AnnData, counts: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    human.X = sparse.csr_matrix(np.minimum(counts, 1))
    find_counts(human)
    assert "0 and 1 only" in caplog.text


@pytest.mark.parametrize("kinds", [("Gene Expression", "Antibody Capture"), ("GEX", "ADT")])
@pytest.mark.parametrize("by", ["ids", "symbols"])
def test_antibodies_are_no_genes(
    human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame, tmp_path: Path, by: str, kinds: tuple[str, str]
) -> None:
    names = ["CD4", "CD19", "PTPRC"]
    var = pd.DataFrame({"feature_types": [kinds[0]] * N_GENES + [kinds[1]] * 3})
    if by == "ids":
        var["gene_ids"] = [*table.ensembl_id, *names]
    var.index = pd.Index([*table.gene_symbol, *(f"{name}-1" if by == "ids" else name for name in names)])
    x = sparse.csr_matrix(np.hstack([counts, np.full((N_CELLS, 3), 400, np.float32)]))
    anndata.AnnData(x, obs=human.obs, var=var).write_h5ad(tmp_path / "cite.h5ad")
    got = load_dataset(tmp_path / "cite.h5ad")
    np.testing.assert_array_equal(got.obs["n_counts"], counts.sum(axis=1))
    assert got.var["ensembl_id"].tolist() == table.ensembl_id.tolist()
    with open_cells(tmp_path / "cite.h5ad", "X") as cells:
        np.testing.assert_array_equal(cells.read(0, N_CELLS)[0].toarray(), counts)
        assert cells.ensembl_ids() == table.ensembl_id.tolist()


@pytest.mark.parametrize("version", ["", ".7", ".12_PAR_Y"])
def test_an_id_is_found_with_its_version(version: str) -> None:
    gene = "ENSG00000141510"
    rank = genes.RankVocabulary("v", {gene: 3}, {gene: 1.5}, {gene: gene}, {gene: "TP53"}, {"<pad>": 0}, 8)
    assert rank.columns([gene + version])[0].tolist() == [3]
    assert rank.token(gene + version) == 3


@pytest.mark.parametrize("prefix", ["GRCh38_", "GRCh38---"])
def test_a_genomes_prefix_is_taken_off_ids_and_symbols(
    human: anndata.AnnData, table: pd.DataFrame, tmp_path: Path, prefix: str
) -> None:
    human.var_names = prefix + human.var_names
    human.var["gene_symbol"] = prefix + human.var["gene_symbol"]
    human.write_h5ad(tmp_path / "a.h5ad")
    got = load_dataset(tmp_path / "a.h5ad")
    assert got.var["ensembl_id"].tolist() == table.ensembl_id.tolist()
    assert got.var["gene_symbol"].tolist() == table.gene_symbol.tolist()


def test_the_files_own_columns_stay(human: anndata.AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    human.obs["louvain"], human.obs["batch"], human.obs["sample"] = "0", "lane1", ["s1", "s2"] * 15
    human.write_h5ad(tmp_path / "a.h5ad")
    got = load_dataset(tmp_path / "a.h5ad", label="louvain", batch="sample")
    assert got.obs["cell_type_in_file"].tolist() == human.obs["cell_type"].tolist()
    assert set(got.obs["batch_in_file"]) == {"lane1"}
    assert "kept as cell_type_in_file" in caplog.text


def r_table(frame: pd.DataFrame) -> str:
    """As R's write.table writes it: spaces, quotes, and a header that lacks the first cell."""
    rows = [" ".join([f'"{name}"', *map(str, row)]) for name, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join([" ".join(f'"{name}"' for name in frame.columns), *rows]) + "\n"


def gene_twice(frame: pd.DataFrame) -> str:
    frame = pd.concat([frame.T, frame.T.iloc[:, [5]] * 0], axis=1)
    return frame.to_csv()


@pytest.mark.parametrize(("name", "write"), [("a.txt", r_table), ("a.csv", gene_twice)])
def test_tables_as_others_write_them(
    human: anndata.AnnData, counts: np.ndarray, tmp_path: Path, name: str, write: Callable[[pd.DataFrame], str]
) -> None:
    frame = pd.DataFrame(counts.T.astype(int), human.var["gene_symbol"].to_numpy(), human.obs_names)
    (tmp_path / name).write_text(write(frame))
    got = load_dataset(tmp_path / name)
    np.testing.assert_array_equal(got.X.toarray(), counts)


@pytest.mark.parametrize("array", ["X/data", "obs/_index"])
def test_a_zarr_that_lost_a_chunk_is_refused(human: anndata.AnnData, tmp_path: Path, array: str) -> None:
    human.write_zarr(tmp_path / "a.zarr")
    chunks = [
        f for f in (tmp_path / "a.zarr" / array).rglob("*") if f.is_file() and not f.name.startswith((".z", "zarr"))
    ]
    chunks[0].unlink()
    with pytest.raises(FileFormatError, match="chunks of " + array):
        load_dataset(tmp_path / "a.zarr")
    with pytest.raises(FileFormatError, match="chunks of " + array), open_cells(tmp_path / "a.zarr", "X"):
        pass


def test_what_only_a_newer_anndata_reads_is_refused_in_words(human: anndata.AnnData, tmp_path: Path) -> None:
    human.uns["x"] = 1
    human.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["uns/x"].attrs["encoding-type"] = file["var/gene_symbol"].attrs["encoding-type"] = "of-the-future"
    with pytest.raises(FileFormatError, match="newer anndata"):
        load_dataset(tmp_path / "a.h5ad")
    with pytest.raises(FileFormatError, match="newer anndata"), open_cells(tmp_path / "a.h5ad", "X"):
        pass


def test_mudata_is_refused_in_words(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5mu", "w") as file:
        for group in ("obs", "var", "mod/rna", "mod/prot"):
            file.create_group(group)
    with pytest.raises(FileFormatError, match="MuData"):
        load_dataset(tmp_path / "a.h5mu")


def test_tables_of_old_anndata_are_refused_in_words_where_parts_are_read(
    human: anndata.AnnData, tmp_path: Path
) -> None:
    human.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["obs"]
        file["obs"] = np.zeros(N_CELLS, dtype=[("index", "S12"), ("n_counts", "f4")])
    with pytest.raises(FileFormatError, match=r"before 0\.7"):
        shards.n_cells(tmp_path / "a.h5ad")


def test_a_missing_filter_pass_is_refused_in_words(human: anndata.AnnData, tmp_path: Path) -> None:
    human.obs["filter_pass"] = pd.array([True, None] * 15, dtype="boolean")
    human.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="filter_pass"):
        load_dataset(tmp_path / "a.h5ad")


def test_one_depth_for_all_cells_and_a_depth_from_a_column_are_said(
    human: anndata.AnnData, counts: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rounded = human.copy()
    rounded.X = np.rint(1e5 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    human.obs["total_counts"] = counts.sum(axis=1) + 100
    for name, adata in (("rounded", rounded), ("total", human)):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        load_dataset(tmp_path / f"{name}.h5ad")
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("sums to about 100,0" in text or "sums to about 99,9" in text for text in warned) == 1
    assert sum("taken from obs['total_counts']" in text for text in warned) == 1
