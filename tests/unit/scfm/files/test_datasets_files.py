"""A user's own file: every kind that is read gives the same cells, and everything that can be wrong has its own sentence."""

from __future__ import annotations

import gzip
import logging
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

from scfm import genes
from scfm.datasets import (
    ColumnError,
    DatasetError,
    FileFormatError,
    GeneNameError,
    NotCountsError,
    UnknownDatasetError,
    load_dataset,
)

N_CELLS, N_GENES = 30, 40


@pytest.fixture
def counts() -> np.ndarray:
    """Cells x genes; every cell and gene has counts, and totals differ."""
    rng = np.random.default_rng(0)
    return rng.poisson(rng.uniform(0.5, 4, (N_CELLS, 1)) * np.ones(N_GENES)).astype(np.float32) + np.eye(
        N_CELLS, N_GENES, dtype=np.float32
    )


@pytest.fixture
def table() -> pd.DataFrame:
    unique = genes.gene_table().drop_duplicates("ensembl_id").drop_duplicates("gene_symbol")
    return unique.iloc[100 : 100 + N_GENES].reset_index(drop=True)


@pytest.fixture
def human(counts: np.ndarray, table: pd.DataFrame) -> anndata.AnnData:
    return anndata.AnnData(
        X=sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {"cell_type": ["T", "B", "none"] * (N_CELLS // 3), "plate": ["p1", "p2"] * (N_CELLS // 2)},
            index=[f"cell{i}" for i in range(N_CELLS)],
        ),
        var=pd.DataFrame({"gene_symbol": table["gene_symbol"].to_numpy()}, index=table["ensembl_id"].to_numpy()),
    )


@pytest.fixture
def save(tmp_path: Path) -> Callable[[anndata.AnnData], Path]:
    def write(adata: anndata.AnnData) -> Path:
        adata.write_h5ad(tmp_path / "mine.h5ad")
        return tmp_path / "mine.h5ad"

    return write


def tenx_folder(
    folder: Path, counts: np.ndarray, table: pd.DataFrame, zipped: bool, v3: bool, prefix: str = ""
) -> Path:
    folder.mkdir(parents=True)
    with (folder / f"{prefix}matrix.mtx").open("wb") as file:
        io.mmwrite(file, sparse.coo_matrix(counts.T.astype(int)))
    columns = [table["ensembl_id"], table["gene_symbol"]] + (
        [pd.Series("Gene Expression", index=table.index)] if v3 else []
    )
    pd.concat(columns, axis=1).to_csv(
        folder / f"{prefix}{'features' if v3 else 'genes'}.tsv", sep="\t", header=False, index=False
    )
    (folder / f"{prefix}barcodes.tsv").write_text("".join(f"cell{i}\n" for i in range(len(counts))))
    if zipped:
        for path in list(folder.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return folder


# --- what is read -----------------------------------------------------------------------------------


def write_h5ad(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    human.write_h5ad(folder / "a.h5ad")
    return folder / "a.h5ad"


def write_h5ad_dense_int(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    human.X = counts.astype(np.int32)
    return write_h5ad(folder, human, counts, table)


def write_zarr(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    human.write_zarr(folder / "a.zarr")
    return folder / "a.zarr"


def write_10x_v3(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    matrix = sparse.csr_matrix(np.hstack([counts, np.full((N_CELLS, 1), 7)]).astype(np.int32))
    with h5py.File(folder / "a.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = np.array([N_GENES + 1, N_CELLS])
        group["barcodes"] = [f"cell{i}".encode() for i in range(N_CELLS)]
        features = group.create_group("features")
        features["id"] = [*table["ensembl_id"].str.encode("ascii"), b"CD3_antibody"]
        features["name"] = [*table["gene_symbol"].str.encode("ascii"), b"CD3"]
        features["feature_type"] = [b"Gene Expression"] * N_GENES + [b"Antibody Capture"]
    return folder / "a.h5"


def write_10x_v2(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    matrix = sparse.csr_matrix(counts.astype(np.int32))
    with h5py.File(folder / "a.h5", "w") as file:
        group = file.create_group("GRCh38")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = np.array([N_GENES, N_CELLS])
        group["barcodes"] = [f"cell{i}".encode() for i in range(N_CELLS)]
        group["genes"], group["gene_names"] = (
            list(table["ensembl_id"].str.encode("ascii")),
            list(table["gene_symbol"].str.encode("ascii")),
        )
    return folder / "a.h5"


def write_mtx(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    return tenx_folder(folder / "tenx", counts, table, zipped=False, v3=False)


def write_mtx_gz(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    return tenx_folder(folder / "tenx", counts, table, zipped=True, v3=True, prefix="GSM1_")


def write_tar(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    tenx_folder(folder / "filtered" / "hg19", counts, table, zipped=False, v3=False)
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        archive.add(folder / "filtered", "filtered")
    return folder / "a.tar.gz"


def write_loom(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    with h5py.File(folder / "a.loom", "w") as file:
        file["matrix"] = counts.T
        file.create_group("layers")
        file["row_attrs/Gene"] = list(table["gene_symbol"].str.encode("ascii"))
        file["row_attrs/Accession"] = list(table["ensembl_id"].str.encode("ascii"))
        file["col_attrs/CellID"] = [f"cell{i}".encode() for i in range(N_CELLS)]
    return folder / "a.loom"


def write_csv(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    pd.DataFrame(counts.astype(int), human.obs_names, human.var_names).to_csv(folder / "a.csv")
    return folder / "a.csv"


def write_tsv_gz_genes_in_rows(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    pd.DataFrame(counts.T.astype(int), human.var_names, human.obs_names).to_csv(folder / "a.tsv.gz", sep="\t")
    return folder / "a.tsv.gz"


def write_h5ad_named_csv(folder: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame) -> Path:
    return write_h5ad(folder, human, counts, table).rename(folder / "a.csv")


WRITERS = [
    write_h5ad,
    write_h5ad_dense_int,
    write_zarr,
    write_10x_v3,
    write_10x_v2,
    write_mtx,
    write_mtx_gz,
    write_tar,
    write_loom,
    write_csv,
    write_tsv_gz_genes_in_rows,
    write_h5ad_named_csv,
]


@pytest.mark.parametrize("writer", WRITERS)
def test_every_kind_of_file_gives_the_same_cells(
    writer: Callable[..., Path], tmp_path: Path, human: anndata.AnnData, counts: np.ndarray, table: pd.DataFrame
) -> None:
    adata = load_dataset(writer(tmp_path, human, counts, table))
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert adata.X.dtype == np.float32
    assert adata.obs_names.tolist() == [f"cell{i}" for i in range(N_CELLS)]
    assert adata.var["ensembl_id"].tolist() == table["ensembl_id"].tolist()
    assert adata.var["gene_symbol"].tolist() == table["gene_symbol"].tolist()
    np.testing.assert_array_equal(adata.obs["n_counts"], counts.sum(axis=1))
    for column in ("cell_type", "batch", "condition"):
        assert isinstance(adata.obs[column].dtype, pd.CategoricalDtype)
    assert len(adata.uns["scfm"]["sha256"]) == 64
    adata.write_h5ad(tmp_path / "out.h5ad")  # what was loaded can be saved, and loaded again
    np.testing.assert_array_equal(load_dataset(tmp_path / "out.h5ad").X.toarray(), counts)


def test_labels_are_guessed_or_named_and_missing_ones_are_unknown(
    human: anndata.AnnData, save: Callable[..., Path]
) -> None:
    path = save(human)
    adata = load_dataset(path)
    assert set(adata.obs["cell_type"]) == {"T", "B", "unknown"}
    assert set(adata.obs["batch"]) == {"unknown"}
    adata = load_dataset(path, label="plate", batch="plate")
    assert set(adata.obs["cell_type"]) == set(adata.obs["batch"]) == {"p1", "p2"}


# --- where the counts are ---------------------------------------------------------------------------


def logged(counts: np.ndarray) -> np.ndarray:
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


@pytest.mark.parametrize("layer", ["counts", "raw_counts", "my_umis"])
def test_counts_are_found_in_a_layer(
    human: anndata.AnnData, counts: np.ndarray, save: Callable[..., Path], layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    human.layers[layer] = human.X.copy()
    human.X = logged(counts)
    adata = load_dataset(save(human))
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert adata.uns["scfm"]["counts_from"] == f'layers["{layer}"]'
    assert "X holds log-transformed values" in caplog.text


def test_counts_are_found_in_raw_with_all_its_genes(
    human: anndata.AnnData, counts: np.ndarray, save: Callable[..., Path]
) -> None:
    human.raw = human.copy()
    subset = human[:, :10].copy()
    subset.X = logged(counts)[:, :10]
    adata = load_dataset(save(subset))
    np.testing.assert_array_equal(adata.X.toarray(), counts)


def test_counts_of_more_genes_in_raw_win_over_a_gene_subset_in_x(
    human: anndata.AnnData, counts: np.ndarray, save: Callable[..., Path]
) -> None:
    human.raw = human.copy()
    adata = load_dataset(save(human[:, :10].copy()))
    assert adata.shape == counts.shape
    np.testing.assert_array_equal(adata.obs["n_counts"], counts.sum(axis=1))


def test_totals_of_whole_cells_are_kept_when_the_file_has_a_part_of_the_genes(
    human: anndata.AnnData, counts: np.ndarray, save: Callable[..., Path]
) -> None:
    human.obs["n_counts"] = counts.sum(axis=1)
    adata = load_dataset(save(human[:, :10].copy()))
    np.testing.assert_array_equal(adata.obs["n_counts"], counts.sum(axis=1))
    human.obs["n_counts"] = logged(counts).sum(axis=1)  # not totals of counts: not believed
    adata = load_dataset(save(human[:, :10].copy()))
    np.testing.assert_array_equal(adata.obs["n_counts"], counts[:, :10].sum(axis=1))


def scaled(counts: np.ndarray) -> np.ndarray:
    return (counts - counts.mean(axis=0)) / counts.std(axis=0)


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(counts: np.ndarray) -> np.ndarray:
        changed = counts.copy()
        changed[3, 4] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda counts: counts / counts.sum(axis=1, keepdims=True) * 1e4, "every cell sums to about 10,000"),
        (lambda counts: counts * 13.7, "not whole numbers"),
        (logged, "log-transformed values: .* sums to about 10,000"),
        (lambda counts: np.log1p(counts), "small fractions .* log-transformed"),
        (scaled, "negative values .* scaled"),
        (with_value(np.nan), "NaN or infinite"),
        (with_value(np.inf), "NaN or infinite"),
        (with_value(-1), "negative"),
        (lambda counts: counts * 0, "nothing but zeros"),
    ],
    ids=["normalized", "corrected", "log", "log-only", "scaled", "nan", "inf", "one-negative", "zeros"],
)
@pytest.mark.parametrize("as_sparse", [True, False])
def test_what_is_no_counts_is_refused_in_words(
    human: anndata.AnnData,
    counts: np.ndarray,
    save: Callable[..., Path],
    change: Callable[[np.ndarray], np.ndarray],
    words: str,
    as_sparse: bool,
) -> None:
    changed = change(counts)
    human.X = sparse.csr_matrix(changed) if as_sparse else changed
    with pytest.raises(NotCountsError, match=words) as caught:
        load_dataset(save(human))
    assert 'layers["counts"]' in str(caught.value)  # says what to do


# --- genes ------------------------------------------------------------------------------------------


def test_symbols_are_mapped_with_a_report(
    human: anndata.AnnData, table: pd.DataFrame, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    human.var = pd.DataFrame(index=[*table["gene_symbol"][:-1], "NOSUCHGENE"])
    adata = load_dataset(save(human))
    assert adata.var["ensembl_id"].tolist() == [*table["ensembl_id"][:-1], ""]
    report = adata.uns["scfm"]["gene_report"]
    assert (report["n_from_symbols"], report["n_unmapped"]) == (N_GENES - 1, 1)
    assert report["unmapped_examples"].tolist() == ["NOSUCHGENE"]
    assert "39 of 40" in caplog.text
    assert "NOSUCHGENE" in caplog.text
    assert adata.n_vars == N_GENES  # nothing is dropped


def test_old_symbols_and_r_names_are_mapped(human: anndata.AnnData, save: Callable[..., Path]) -> None:
    names = human.var["gene_symbol"].tolist()
    names[:3] = ["AARS", "AARS1", "HLA.A"]
    human.var = pd.DataFrame(index=names)
    adata = load_dataset(save(human))
    assert genes.symbol_to_ensembl()["HLA-A"] in adata.var_names
    assert adata.n_vars == N_GENES - 1  # AARS and AARS1 are one gene
    assert adata.X.sum() == human.X.sum()


def test_version_suffixes_are_removed(
    human: anndata.AnnData, table: pd.DataFrame, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    human.var = pd.DataFrame(index=[f"{gene}.{i}" for i, gene in enumerate(table["ensembl_id"])])
    adata = load_dataset(save(human))
    assert adata.var["ensembl_id"].tolist() == table["ensembl_id"].tolist()
    assert adata.var["gene_symbol"].tolist() == table["gene_symbol"].tolist()
    assert "version suffix was removed from 40" in caplog.text


def test_a_genome_prefix_is_removed(human: anndata.AnnData, table: pd.DataFrame, save: Callable[..., Path]) -> None:
    human.var = pd.DataFrame(index=[f"GRCh38_{symbol}" for symbol in table["gene_symbol"]])
    assert load_dataset(save(human)).var["ensembl_id"].tolist() == table["ensembl_id"].tolist()


def test_duplicated_genes_are_added_up(
    human: anndata.AnnData,
    counts: np.ndarray,
    table: pd.DataFrame,
    save: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = table["ensembl_id"].tolist()
    ids[5] = ids[2]
    human.var = pd.DataFrame({"ensembl_id": ids}, index=[f"g{i}" for i in range(N_GENES)])
    adata = load_dataset(save(human))
    assert adata.n_vars == N_GENES - 1
    np.testing.assert_array_equal(adata[:, ids[2]].X.toarray().ravel(), counts[:, 2] + counts[:, 5])
    np.testing.assert_array_equal(adata.obs["n_counts"], counts.sum(axis=1))
    assert "occur more than once" in caplog.text
    assert adata.uns["scfm"]["gene_report"]["n_duplicates_summed"] == 1


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        (lambda i, symbol: f"ENSMUSG{i:011d}", "mouse"),
        (lambda i, symbol: f"ENSMUSG{i:011d}.4", "mouse"),
        (lambda i, symbol: f"ENSDARG{i:011d}", "zebrafish"),
        (lambda i, symbol: ["Actb", "Gapdh", "Cd3e", "Ms4a1"][i % 4] + (f"l{i}" if i > 3 else ""), "like mouse genes"),
        (lambda i, symbol: f"mm10_{symbol}", "mouse genome's prefix"),
        (lambda i, symbol: str(1000 + i), "None of the 40 gene names"),
        (lambda i, symbol: f"chr1:{i}00-{i}99", "None of the 40 gene names"),
    ],
    ids=["mouse-ids", "mouse-ids-versions", "zebrafish", "mouse-symbols", "mixture", "entrez", "peaks"],
)
def test_genes_of_another_kind_are_refused(
    human: anndata.AnnData,
    table: pd.DataFrame,
    save: Callable[..., Path],
    rename: Callable[[int, str], str],
    words: str,
) -> None:
    human.var = pd.DataFrame(index=[rename(i, symbol) for i, symbol in enumerate(table["gene_symbol"])])
    with pytest.raises(GeneNameError, match=words):
        load_dataset(save(human))


def test_a_transposed_file_is_named_as_such(human: anndata.AnnData, save: Callable[..., Path]) -> None:
    with pytest.raises(GeneNameError, match="transposed"):
        load_dataset(save(human.T))


# --- cells ------------------------------------------------------------------------------------------


def test_empty_cells_are_kept_and_reported(
    human: anndata.AnnData, counts: np.ndarray, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    counts[[3, 8]] = 0
    human.X = sparse.csr_matrix(counts)
    adata = load_dataset(save(human))
    assert adata.n_obs == N_CELLS
    assert adata.obs["n_counts"].iloc[[3, 8]].tolist() == [0, 0]
    assert adata.uns["scfm"]["n_empty_cells"] == 2
    assert "2 cell(s) have no counts" in caplog.text


def test_cells_that_did_not_pass_geneformers_filter_are_left_out_at_once(
    human: anndata.AnnData, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Tokenization would leave them out later, and cells[i] would no longer be the cell of row i."""
    human.obs["filter_pass"] = (np.arange(N_CELLS) % 4 > 0).astype(int)
    adata = load_dataset(save(human))
    assert adata.obs_names.tolist() == human.obs_names[human.obs["filter_pass"] == 1].tolist()
    assert f"{-(-N_CELLS // 4)} of {N_CELLS} cells are left out, since their filter_pass is not 1" in caplog.text
    assert adata.obs["filter_pass"].eq(1).all()
    human.obs["filter_pass"] = 0
    with pytest.raises(DatasetError, match="1 in none of its cells"):
        load_dataset(save(human))
    human.obs["filter_pass"] = "PASS"
    with pytest.raises(ValueError, match="holds other things than numbers"):
        load_dataset(save(human))


def test_duplicated_cell_names_are_made_unique(
    human: anndata.AnnData, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    human.obs_names = ["same", "same", *human.obs_names[2:]]
    adata = load_dataset(save(human))
    assert adata.obs_names.tolist()[:2] == ["same", "same-1"]
    assert "occur more than once" in caplog.text


@pytest.mark.parametrize("rows", [0, N_CELLS])
def test_a_file_without_cells_or_genes(human: anndata.AnnData, save: Callable[..., Path], rows: int) -> None:
    path = save(human[:rows, : 0 if rows else N_GENES].copy())
    with pytest.raises(DatasetError, match="nothing to load"):
        load_dataset(path)


def test_a_missing_column_names_those_that_exist(human: anndata.AnnData, save: Callable[..., Path]) -> None:
    with pytest.raises(ColumnError, match=r"no column 'celltype'.*Did you mean cell_type\?.*cell_type, plate"):
        load_dataset(save(human), label="celltype")
    with pytest.raises(ColumnError, match="to use as batch"):
        load_dataset(save(human), batch="donor")


# --- files ------------------------------------------------------------------------------------------


def cut(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def test_a_truncated_h5ad(human: anndata.AnnData, save: Callable[..., Path]) -> None:
    with pytest.raises(FileFormatError, match="cut off"):
        load_dataset(cut(save(human)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.h5ad", b"PK\x03\x04 something else", "no HDF5 file"),
        ("a.h5ad", b"", "0 bytes"),
        ("a.h5ad", b"<!DOCTYPE html><html>sign in</html>", "web page"),
        ("a.h5ad", gzip.compress(b"x"), "gunzip"),
        ("a.h5", b"CDF nothing", "no HDF5 file"),
        ("a.rds", b"RDX3", "zellkonverter"),
        ("a.xlsx", b"PK", "are not read"),
        ("a.zarr", b"x", "is a folder"),
        ("a.tar.gz", gzip.compress(b"not a tar"), "damaged or cut off archive"),
        ("a.csv.gz", gzip.compress(b"cell,A,B\n" * 100)[:-20], "no readable table"),
        ("a.csv", b"cell,A,B\nc1,1,2\nc2,1,many\n", "no numbers"),
        ("a.csv", b"\xff\xfe\x00\x81", "no readable table"),
    ],
)
def test_files_that_are_not_what_they_seem(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=words):
        load_dataset(tmp_path / name)


def test_hdf5_of_another_kind(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"] = [1.0]
    with pytest.raises(FileFormatError, match="it holds: weights"):
        load_dataset(tmp_path / "a.h5")


def test_10x_folders_that_do_not_fit(tmp_path: Path, counts: np.ndarray, table: pd.DataFrame) -> None:
    folder = tenx_folder(tmp_path / "a", counts, table, zipped=False, v3=False)
    (folder / "barcodes.tsv").write_text("cell0\ncell1\n")
    with pytest.raises(FileFormatError, match="2 barcodes"):
        load_dataset(folder)
    (folder / "barcodes.tsv").unlink()
    with pytest.raises(FileFormatError, match=r"there is no barcodes\.tsv"):
        load_dataset(folder)
    cut(tenx_folder(tmp_path / "b", counts, table, zipped=True, v3=True) / "matrix.mtx.gz")
    with pytest.raises(FileFormatError, match="damaged or cut off"):
        load_dataset(tmp_path / "b")
    with pytest.raises(FileFormatError, match="several matrices"):
        load_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="neither"):
        load_dataset(tmp_path / "empty")


def test_a_named_matrix_is_read_whatever_lies_around_it(
    tmp_path: Path, counts: np.ndarray, table: pd.DataFrame
) -> None:
    folder = tenx_folder(tmp_path / "geo", counts, table, zipped=True, v3=True, prefix="GSM1_")
    for file in tenx_folder(tmp_path / "other", counts[:5], table, zipped=True, v3=True, prefix="GSM2_").iterdir():
        shutil.move(file, folder)
    assert load_dataset(folder / "GSM1_matrix.mtx.gz").n_obs == N_CELLS
    assert load_dataset(folder / "GSM2_matrix.mtx.gz").n_obs == 5
    with pytest.raises(FileFormatError, match="several matrices"):
        load_dataset(folder)

    plain = tenx_folder(tmp_path / "plain", counts, table, zipped=False, v3=False)
    tenx_folder(plain / "filtered", counts[:5], table, zipped=False, v3=False)
    (plain / "matrix.mtx").rename(plain / "counts.mtx")
    assert load_dataset(plain / "counts.mtx").n_obs == N_CELLS  # not filtered/matrix.mtx
    (plain / "barcodes.tsv").rename(plain / "counts_barcodes.tsv")
    assert load_dataset(plain / "counts.mtx").n_obs == N_CELLS
    (plain / "counts_barcodes.tsv").unlink()
    with pytest.raises(FileFormatError, match=r"Beside counts\.mtx there is no barcodes\.tsv"):
        load_dataset(plain / "counts.mtx")


def test_a_damaged_zarr_store(tmp_path: Path, human: anndata.AnnData) -> None:
    human.write_zarr(tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr" / "obs")
    with pytest.raises(FileFormatError, match=r"incomplete \.zarr"):
        load_dataset(tmp_path / "a.zarr")


def test_names_and_paths_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError, match=r"Did you mean .*pbmc68k"):
        load_dataset("pbmc86k")
    with pytest.raises(UnknownDatasetError, match=r"no file .*mine\.h5ad"):
        load_dataset(tmp_path / "mine.h5ad")
    with pytest.raises(UnknownDatasetError, match=r"list_datasets"):
        load_dataset("qqqqqq")


def test_loading_says_nothing_when_nothing_is_unusual(
    human: anndata.AnnData, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    load_dataset(save(human))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
