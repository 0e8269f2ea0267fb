"""Listed sets that nobody serves as .h5ad: fetched from the public deposit that carries them, and converted to the same counts.

An entry of data/datasets.toml with a table ``origin`` can be made this way where no folder of SCFM_CACHE holds its file:

    recipe    which function below reads the deposit
    urls      where its files are, with {file} in the place of their names; tried in order
    files     their names
    content   the hash that :func:`content_hash` gives of the listed file

What a recipe makes is used only if its hash is that of the listed file: the same cells in the same order, the same genes, labels and
counts. So a lesson gives the same numbers with either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.errors import FileFormatError
from scfm.store import cache
from scfm.store.download import fetch

if TYPE_CHECKING:
    import anndata
    import pandas as pd

Recipe = Callable[[str, Sequence[Path]], "anndata.AnnData"]


def converted(name: str, entry: dict[str, Any], downloads: Path, folder: Path) -> anndata.AnnData:
    """Read the set from ``folder``/``name``.h5ad; if it is not there, fetch its files into ``downloads`` and make it first.

    Raises
    ------
    DownloadError
        If a file could not be fetched.
    FileFormatError
        If the deposit does not hold what the recipe expects, or gives other cells, genes, labels or counts than the listed set.
    """
    from scfm.files.readers import read_any

    path, origin = folder / f"{name}.h5ad", entry["origin"]
    if path.exists():
        adata = read_any(path)
        if content_hash(adata, entry["columns"]) == origin["content"]:
            return adata
        raise FileFormatError(f"{path} was changed or damaged since it was made: delete it and it is made again.")
    files = [
        fetch(file, [url.format(file=file) for url in origin["urls"]], downloads, record=False)
        for file in origin["files"]
    ]
    try:
        adata = RECIPES[origin["recipe"]](name, files)
    except Exception as error:  # a file of another kind breaks a reader in any way
        raise FileFormatError(_other(name, files, f"{type(error).__name__}: {error}")) from error
    if content_hash(adata, entry["columns"]) != origin["content"]:
        raise FileFormatError(_other(name, files, f"{adata.n_obs:,} cells and {adata.n_vars:,} genes came of it"))
    with cache.atomic_write(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
    return adata


def _other(name: str, files: Sequence[Path], why: str) -> str:
    return (
        f"{name} could not be made from {', '.join(file.name for file in files)} in {files[0].parent}: they do not hold the cells, "
        f"genes, labels and counts of the listed set ({why}). Delete them to have them fetched again, or take another set "
        "(scfm.list_datasets() shows them; kang is downloaded as it is)."
    )


def content_hash(adata: anndata.AnnData, columns: dict[str, str]) -> str:
    """SHA-256 of what a lesson sees of a set: names of cells and genes, the labels in ``columns``, the counts; in order."""
    from scipy import sparse

    digest = hashlib.sha256()
    for words in (
        adata.obs_names,
        adata.var_names,
        adata.var["gene_symbol"],
        *(adata.obs[columns[role]] for role in sorted(columns)),
    ):
        digest.update("\n".join(map(str, words)).encode() + b"\0")
    matrix = sparse.csr_matrix(adata.X)
    matrix.sort_indices()
    matrix.eliminate_zeros()
    for values, kind in ((matrix.indptr, "<i8"), (matrix.indices, "<i4"), (matrix.data, "<f4")):
        digest.update(np.ascontiguousarray(values, dtype=kind).tobytes())
    return digest.hexdigest()


def _fasttopics(name: str, files: Sequence[Path]) -> anndata.AnnData:
    """``pbmc_facs`` of the R package fastTopics: a list with sparse counts of training and test cells, their samples and genes."""
    import anndata
    import pandas as pd
    from scipy import sparse

    content = _rdata(files[0])["pbmc_facs"]
    samples = pd.concat([content["samples"], content["samples_test"]])
    genes = content["genes"]
    parts = [_sparse(content[key]) for key in ("counts", "counts_test")]
    cells = [cell for part in parts for cell in part[1]]
    ids = _ids(genes)
    obs = pd.DataFrame(
        {
            "cell_type": samples["celltype"].astype(str).to_numpy(),
            "cell_type_broad": samples["subpop"].astype(str).to_numpy(),
            "population_batch": [cell.rpartition("-")[2] for cell in cells],
            "split": np.repeat(["train", "test"], [len(part[1]) for part in parts]),
        },
        index=cells,
    )
    var = pd.DataFrame({"ensembl_id": ids, "gene_symbol": genes["symbol"].astype(str).to_numpy()}, index=ids)
    return anndata.AnnData(X=sparse.vstack([part[0] for part in parts], format="csr"), obs=obs, var=var)


def _ids(genes: pd.DataFrame) -> list[str]:
    """The column that holds Ensembl ids, whatever its name."""
    for column in genes:
        words = genes[column].astype(str)
        if words.str.startswith("ENSG").all():
            return words.tolist()
    raise ValueError(f"none of the columns {', '.join(map(str, genes))} of its genes holds Ensembl ids")


def _mixology(name: str, files: Sequence[Path]) -> anndata.AnnData:
    """Tables of the repository sc_mixology, genes x cells, one per batch.

    data/listed/ says which cells are taken and of which line they are, and the symbols that are not those of data/genes.tsv.gz.
    """
    import anndata
    import pandas as pd
    from scipy import sparse

    from scfm.genes import ensembl_to_symbol

    cells, own_symbols = (
        pd.read_csv(cache.repo_data() / "listed" / f"{name}.{what}.tsv", sep="\t", index_col=0, keep_default_na=False)
        for what in ("cells", "genes")
    )
    tables = []
    for file in files:
        batch = file.name.partition(".")[0]
        table = pd.read_csv(file)
        if table.columns[0].startswith("Unnamed"):  # R writes a name over the genes or leaves it out
            table = table.set_index(table.columns[0])
        table.columns = [f"{batch}_{cell}" for cell in table.columns]
        tables.append(table.loc[table.index.str.startswith("ENSG"), table.columns.isin(cells.index)])  # no spike-ins
    genes = sorted(set().union(*(table.index[(table > 0).any(axis=1)] for table in tables)))
    blocks = [sparse.csr_matrix(table.reindex(genes, fill_value=0).to_numpy(np.float32).T) for table in tables]
    found = pd.Index([cell for table in tables for cell in table.columns])
    obs = cells.loc[found].assign(
        batch=np.repeat([f.name.partition(".")[0] for f in files], [b.shape[0] for b in blocks])
    )
    obs["technology"] = np.where(obs["batch"] == "sc_dropseq", "Drop-seq", "CEL-seq2")
    symbol_of = ensembl_to_symbol() | own_symbols["gene_symbol"].to_dict()
    var = pd.DataFrame({"ensembl_id": genes, "gene_symbol": [symbol_of.get(gene, gene) for gene in genes]}, index=genes)
    adata = anndata.AnnData(X=sparse.vstack(blocks, format="csr"), obs=obs, var=var)
    return adata[cells.index].copy()


RECIPES: dict[str, Recipe] = {"fasttopics": _fasttopics, "mixology": _mixology}


def _rdata(path: Path) -> dict[str, Any]:
    """The objects of an .RData file by name; those of classes that the package rdata does not know stay plain."""
    import warnings

    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of a package that is not R's own is no fault of the file
        return rdata.read_rda(path)


def _sparse(matrix: Any) -> tuple[Any, list[str]]:
    """A dgCMatrix of R's package Matrix → CSR float32, and the names of its rows."""
    from scipy import sparse

    shape = tuple(int(n) for n in matrix.Dim)
    values = sparse.csc_matrix((np.asarray(matrix.x, np.float32), matrix.i, matrix.p), shape=shape)
    rows = matrix.Dimnames[0]
    return values.tocsr(), [] if rows is None else list(map(str, rows))
