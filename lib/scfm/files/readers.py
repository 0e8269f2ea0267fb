"""Any of the usual file kinds in, one AnnData out: cells in the rows, nothing judged yet.

What a file is, is seen by its content where that is possible (HDF5 of three kinds, gzip, zip), by its ending otherwise.
"""

from __future__ import annotations

import csv
import gzip
import logging
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.errors import FileFormatError
from scfm.files.refusals import refuse_holes, refuse_mudata, refuse_newer

if TYPE_CHECKING:
    import anndata

log = logging.getLogger("scfm")

_KINDS = ".h5ad, .h5 of 10x, a matrix.mtx folder of 10x (or its .tar.gz), .loom, .zarr, .csv or .tsv (also .gz)"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TABLES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_ENDINGS_OF_HDF5 = {".h5ad", ".h5", ".hdf5", ".loom"}


def read_any(path: str | Path) -> anndata.AnnData:
    """Read a dataset of any supported kind; ``X`` is cells x genes as stored, names and annotations as in the file.

    Raises
    ------
    FileFormatError
        If the file is damaged, cut off, of a kind that is not read, or not what its ending says.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    with path.open("rb") as file:
        start = file.read(512)
    ending = _ending(path)
    if not start:
        raise FileFormatError(f"{path.name} is empty (0 bytes). Copy or download it again.")
    if start.startswith(_HDF5):
        if ending not in _ENDINGS_OF_HDF5:
            log.warning("%s is an HDF5 file by its content, whatever its ending says; it is read as one.", path.name)
        return _read_hdf5(path)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise FileFormatError(
            f"{path.name} is a web page, not data: the download gave a login or error page. Open the address in a browser."
        )
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return _read_archive(path)
    if ending in _ENDINGS_OF_HDF5:
        looks = (
            "it is gzip-compressed: unpack it (gunzip) first" if start.startswith(b"\x1f\x8b") else "it is no HDF5 file"
        )
        raise FileFormatError(
            f"{path.name} is named {ending}, which is a kind of HDF5 file, but {looks}. If the name is right the file is "
            f"damaged; fetch it again. If not, rename it. Read are: {_KINDS}."
        )
    if ending in _TABLES:
        return _read_table(path, _TABLES[ending])
    if ending == ".mtx":
        return _read_mtx(path)
    if ending == ".zarr" or path.name.endswith(".zarr.zip"):
        raise FileFormatError(f"{path.name} is a file; a .zarr store is a folder. Unpack it first.")
    hint = (
        " Seurat and R objects can be saved as .h5ad with zellkonverter or sceasy."
        if ending in (".rds", ".rda")
        else ""
    )
    raise FileFormatError(
        f"{path.name}: files ending in {ending or '(nothing)'} are not read. Read are: {_KINDS}.{hint}"
    )


def _ending(path: Path) -> str:
    """The ending without that of gzip: ".csv" for both a.csv and a.csv.gz."""
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()


def _make(matrix: Any, cells: Any, genes: Any, obs: dict | None = None, var: dict | None = None) -> anndata.AnnData:
    import anndata
    import pandas as pd

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*names are not unique")  # dealt with, in words, later
        return anndata.AnnData(
            X=matrix,
            obs=pd.DataFrame(obs or {}, index=pd.Index([str(c) for c in cells])),
            var=pd.DataFrame(var or {}, index=pd.Index([str(g) for g in genes])),
        )


def _text(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


# --- HDF5: AnnData, 10x, loom -----------------------------------------------------------------------


def _read_hdf5(path: Path) -> anndata.AnnData:
    import anndata
    import h5py

    try:
        with h5py.File(path) as file:
            keys = set(file)
            if {"matrix", "row_attrs", "col_attrs"} <= keys:
                return _read_loom(file)
            tenx = [
                key for key in keys if isinstance(file[key], h5py.Group) and {"indptr", "barcodes"} <= set(file[key])
            ]
            if tenx:
                return _read_10x_h5(path.name, file, tenx)
            refuse_mudata(path.name, file)
        if not {"obs", "var"} <= keys:
            raise FileFormatError(
                f"{path.name} is HDF5, but neither AnnData (.h5ad) nor 10x (.h5) nor loom; it holds: "
                f"{', '.join(sorted(keys)[:8]) or 'nothing'}."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", anndata.OldFormatWarning)  # a file of any age is read
            warnings.filterwarnings("ignore", "Moving element from")  # so is what lay elsewhere then
            warnings.filterwarnings("ignore", ".*names are not unique")  # dealt with, in words, later
            return anndata.read_h5ad(path)
    except FileFormatError:
        raise
    except Exception as error:
        refuse_newer(path.name, error)
        if not isinstance(error, OSError | RuntimeError | KeyError | ValueError | EOFError):
            raise
        cut = "truncated" in str(error) or "eof" in str(error).lower()
        size = path.stat().st_size
        raise FileFormatError(
            f"{path.name} ({size:,} bytes) {'is cut off: the file is shorter than it says' if cut else 'is damaged'} "
            f"({str(error).splitlines()[0][:160]}). Copy or download it again."
        ) from error


def _read_10x_h5(name: str, file: Any, groups: list[str]) -> anndata.AnnData:
    from scipy import sparse

    if len(groups) > 1:
        raise FileFormatError(
            f"{name} holds several genomes ({', '.join(sorted(groups))}): a mixture of species. Save the human one alone."
        )
    group = file[groups[0]]
    shape = tuple(int(n) for n in group["shape"][:])  # genes x cells, stored by column: so CSR of cells x genes
    matrix = sparse.csr_matrix((group["data"][:], group["indices"][:], group["indptr"][:]), shape=shape[::-1])
    if "features" in group:  # Cell Ranger 3 and later
        features = group["features"]
        var = {"gene_ids": _text(features["id"][:]), "gene_symbol": _text(features["name"][:])}
        if "feature_type" in features:
            var["feature_types"] = _text(features["feature_type"][:])
    else:
        var = {"gene_ids": _text(group["genes"][:]), "gene_symbol": _text(group["gene_names"][:])}
    return _genes_only(_make(matrix, _text(group["barcodes"][:]), var["gene_ids"], var=var))


def _genes_only(adata: anndata.AnnData) -> anndata.AnnData:
    """Leave out what is no gene: antibodies, guides, hashtags, peaks."""
    from scfm.files.counts import gene_columns

    gene = gene_columns(adata.var)
    return adata if gene is None else adata[:, gene].copy()


def _read_loom(file: Any) -> anndata.AnnData:
    from scipy import sparse

    stored = file["matrix"]  # genes x cells, dense on disk
    step = max(1, 50_000_000 // max(stored.shape[1], 1))
    blocks = [sparse.csc_matrix(stored[i : i + step]) for i in range(0, stored.shape[0], step)]
    matrix = sparse.vstack(blocks).T.tocsr() if blocks else sparse.csr_matrix(stored.shape[::-1])

    def columns(group: Any) -> dict[str, Any]:
        flat = {key: group[key][:] for key in group if getattr(group[key], "ndim", 0) == 1}
        return {key: _text(values) if values.dtype.kind in "OSU" else values for key, values in flat.items()}

    var, obs = columns(file["row_attrs"]), columns(file["col_attrs"])
    genes = next(
        (var[key] for key in ("Gene", "var_names", "gene_names", "Accession") if key in var), range(stored.shape[0])
    )
    cells = next((obs[key] for key in ("CellID", "obs_names", "cell_names") if key in obs), range(stored.shape[1]))
    adata = _make(matrix, cells, genes, obs, var)
    for key in file.get("layers", {}):
        adata.layers[key] = sparse.csr_matrix(file["layers"][key][:].T)
    return adata


# --- folders and archives ---------------------------------------------------------------------------


def _read_folder(path: Path) -> anndata.AnnData:
    import anndata

    if (path / ".zgroup").exists() or (path / "zarr.json").exists():
        import zarr

        try:
            root = zarr.open_group(str(path), mode="r")
            refuse_mudata(path.name, root)
            refuse_holes(path.name, root)
            return anndata.read_zarr(path)
        except FileFormatError:
            raise
        except Exception as error:  # zarr stores fail in many ways when chunks or metadata are missing
            raise FileFormatError(
                f"{path.name} is a damaged or incomplete .zarr store ({error}). Copy it again."
            ) from error
    matrices = sorted(path.rglob("*matrix.mtx*"))
    if not matrices:
        raise FileFormatError(
            f"{path} is a folder with neither a .zarr store nor a matrix.mtx(.gz) in it. Name the folder or file that holds "
            f"the counts. Read are: {_KINDS}."
        )
    if len(matrices) > 1:
        raise FileFormatError(
            f"{path} holds several matrices ({', '.join(str(m.relative_to(path)) for m in matrices[:4])}). Name one folder."
        )
    return _read_mtx(matrices[0])


def _read_mtx(matrix_path: Path) -> anndata.AnnData:
    """10x's three files: matrix.mtx, barcodes.tsv, genes.tsv or features.tsv; each may be gzipped and share a prefix.

    A matrix of another name (counts.mtx) has them beside it as counts_barcodes.tsv, counts.barcodes.tsv or barcodes.tsv.
    """
    import pandas as pd
    from scipy import io

    start, called_matrix, _ = matrix_path.name.rpartition("matrix.mtx")
    stem = matrix_path.name.removesuffix(".gz").removesuffix(".mtx")
    prefixes = [start] if called_matrix else [f"{stem}_", f"{stem}.", ""]

    def beside(*names: str) -> Path:
        for name in (prefix + name for prefix in prefixes for name in names):
            for candidate in (matrix_path.with_name(name), matrix_path.with_name(name + ".gz")):
                if candidate.exists():
                    return candidate
        wanted = " or ".join(prefixes[-1] + name for name in names)
        raise FileFormatError(f"Beside {matrix_path.name} there is no {wanted}.")

    barcodes, features = beside("barcodes.tsv"), beside("features.tsv", "genes.tsv")
    try:
        matrix = io.mmread(matrix_path)
        cells = pd.read_csv(barcodes, sep="\t", header=None, dtype=str)[0]
        table = pd.read_csv(features, sep="\t", header=None, dtype=str, keep_default_na=False)
    except (ValueError, OSError, EOFError) as error:
        raise FileFormatError(
            f"{matrix_path.parent.name}: damaged or cut off ({error}). Copy or download it again."
        ) from error
    if matrix.shape != (len(table), len(cells)):
        raise FileFormatError(
            f"{matrix_path.name} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, but there are {len(table):,} genes and "
            f"{len(cells):,} barcodes (genes x cells is expected). The three files do not belong together, or one is cut off."
        )
    var = {"gene_ids": table[0].tolist()}
    if table.shape[1] > 1:
        var["gene_symbol"] = table[1].tolist()
    if table.shape[1] > 2:
        var["feature_types"] = table[2].tolist()
    return _genes_only(_make(matrix.T.tocsr(), cells, var["gene_ids"], var=var))


def _read_archive(path: Path) -> anndata.AnnData:
    """A .tar.gz of 10x: only the three files are unpacked, by their bare names, into a folder that is deleted afterwards."""
    wanted = ("matrix.mtx", "barcodes.tsv", "genes.tsv", "features.tsv")
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    name = Path(member.name).name
                    if not (member.isfile() and name.removesuffix(".gz").endswith(wanted)):
                        continue
                    if (Path(folder) / name).exists():
                        raise FileFormatError(f"{path.name} holds several {name}: unpack it and name one folder.")
                    source = archive.extractfile(member)
                    assert source is not None  # it is a file
                    with source, (Path(folder) / name).open("wb") as target:
                        while block := source.read(1 << 20):
                            target.write(block)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise FileFormatError(f"{path.name} is a damaged or cut off archive ({error}). Fetch it again.") from error
        return _read_folder(Path(folder))


# --- tables -----------------------------------------------------------------------------------------


def _read_table(path: Path, separator: str) -> anndata.AnnData:
    """A table with names in the first row and column. Genes in the rows, as R and GEO write them, are turned round."""
    import pandas as pd
    from scipy import sparse

    from scfm.files.counts import looks_like_genes

    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            first = file.readline()
        if separator not in first:
            separator = next((other for other in ("\t", ",", ";", " ") if other in first), separator)
        table = pd.read_csv(path, sep=separator, index_col=0)
    except (ValueError, OSError, EOFError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path.name} is no readable table ({str(error).splitlines()[0]}).") from error
    header = next(csv.reader([first], delimiter=separator))[-table.shape[1] :]
    if len(header) == table.shape[1]:
        table.columns = pd.Index(header)  # as they are: pandas calls the second TP53 "TP53.1"
    words = [str(name) for name, kind in zip(table.columns, table.dtypes, strict=True) if kind.kind not in "fiub"]
    if words:
        raise FileFormatError(
            f"{path.name} has columns that are no numbers ({', '.join(words[:3])}). Expected: one row per cell, one column "
            "per gene, counts only, cell names in the first column. Keep annotations in another file."
        )
    if looks_like_genes([str(name) for name in table.index]) and not looks_like_genes(
        [str(name) for name in table.columns]
    ):
        log.warning("%s has genes in the rows and cells in the columns; it was turned round.", path.name)
        table = table.T
    return _make(sparse.csr_matrix(table.to_numpy()), table.index, table.columns)
