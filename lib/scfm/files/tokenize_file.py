"""Rank-encode a file of any size: read in chunks, written as shards, taken up again after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import genes
from scfm.errors import FileFormatError, NotCountsError
from scfm.files.refusals import refuse_holes, refuse_newer
from scfm.inside.rows import canonical, cores, passed
from scfm.store import cache
from scfm.tokenize import NO_N_COUNTS, RankEncoder
from scfm.tokenized import read_about

if TYPE_CHECKING:
    import pandas as pd

    from scfm.tokenized import TokenizedCells

log = logging.getLogger("scfm")

MOST_THREADS = 8  # each holds one chunk in memory


def tokenize_file(
    path: str | Path,
    out_folder: str | Path,
    version: str | genes.RankVocabulary = "V1",
    max_len: int | None = None,
    chunk_cells: int = 2048,
    counts_in: str = "X",
    resume: bool = True,
    n_threads: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Rank-encode a backed .h5ad or .zarr into a folder of Parquet shards, as `rank_encode` would, chunk by chunk.

    Memory depends on ``chunk_cells`` and the threads, not on the number of cells. Each shard appears when it is complete;
    after an interruption, the same call goes on with the shards that are missing. ``TokenizedCells.load(out_folder)`` reads
    the result, and so does ``datasets.Dataset.from_parquet`` (its ``part-*.parquet`` files).

    Parameters
    ----------
    path
        AnnData on disk, X in CSR or dense. Genes: ``var["ensembl_id"]``, or what can be mapped to it.
    version, max_len
        As for `rank_encode`.
    counts_in
        Where the raw counts lie: "X", "layers/<name>" or "raw/X".
    resume
        False starts anew, and deletes the shards that are in the folder.
    n_threads
        Chunks that are worked on at the same time; the cores (at most 8) unless given.

    Returns
    -------
    The manifest: input, parameters, shards, and a report (empty cells, truncated cells, overlap).

    Raises
    ------
    FileFormatError
        Not an AnnData file, damaged, or stored by columns.
    NotCountsError, VocabularyError, ValueError
        As `rank_encode`. ValueError also if the folder holds something else, or shards made from another input or with other
        parameters.
    """
    path, out_folder = Path(path), Path(out_folder)
    if chunk_cells < 1:
        raise ValueError(f"chunk_cells is {chunk_cells}; at least 1 is needed")
    vocabulary = genes.RankVocabulary.published(version) if isinstance(version, str) else version
    with open_cells(path, counts_in) as cells:
        encoder = RankEncoder.of(vocabulary, cells.ensembl_ids(), max_len)
        n_mapped = int((encoder.column_token >= 0).sum())
        if n_mapped < genes.LOWEST_OVERLAP * cells.n_genes:
            raise genes.VocabularyError(
                f"Only {n_mapped:,} of {cells.n_genes:,} genes of {path.name} are in the vocabulary {vocabulary.name}; at least "
                f"{genes.LOWEST_OVERLAP:.0%} are needed for its tokens to mean anything. It goes by human Ensembl ids: check "
                "the species and var['ensembl_id']."
            )
        shards = [f"part-{number:05d}.parquet" for number in range(-(-cells.n_cells // chunk_cells))]
        manifest: dict[str, Any] = {
            "format": 1,
            "input": {"name": path.name, "fingerprint": fingerprint(path)},
            "parameters": {
                "vocabulary_name": vocabulary.name,
                "vocabulary_sha256": encoder.sha256,
                "max_len": encoder.max_len,
                "chunk_cells": chunk_cells,
                "counts_in": counts_in,
            },
            "n_cells_in_file": cells.n_cells,
            "shards": shards,
            "complete": False,
            "report": {},
        }
        _claim(out_folder, manifest, resume)
        if cells.n_counts is None:
            warnings.warn(NO_N_COUNTS, stacklevel=2)

        missing = [number for number, name in enumerate(shards) if not (out_folder / name).exists()]
        if len(missing) < len(shards):
            log.info("%s: %d of %d shards are there already", out_folder.name, len(shards) - len(missing), len(shards))

        def work(number: int) -> int:
            first = number * chunk_cells
            last = min(first + chunk_cells, cells.n_cells)
            _encode(cells, encoder, first, last).save(out_folder / shards[number])
            return last - first

        from tqdm.auto import tqdm

        with tqdm(total=cells.n_cells, unit=" cells", desc="tokenize", disable=not progress, smoothing=0) as bar:
            bar.update(cells.n_cells - sum(min(chunk_cells, cells.n_cells - n * chunk_cells) for n in missing))
            for n_done in _in_parallel(work, missing, n_threads or min(cores(), MOST_THREADS)):
                bar.update(n_done)

    manifest["report"] = _summary(
        [read_about(out_folder / name) for name in shards], n_mapped, len(encoder.column_token)
    )
    manifest["complete"] = True
    _write_manifest(out_folder, manifest)
    return manifest


def _encode(cells: CellsOnDisk, encoder: RankEncoder, first: int, last: int) -> TokenizedCells:
    """Read, check and encode the cells first to last of the file."""
    matrix, n_counts, cell_ids = cells.read(first, last)
    kept = cells.passed(first, last)
    if kept is not None:
        matrix = matrix[kept]
        n_counts, cell_ids = None if n_counts is None else n_counts[kept], cell_ids[kept]
    matrix = canonical(matrix)  # files may hold a row's columns in any order
    try:
        out = encoder.encode((matrix.indptr, matrix.indices, matrix.data), n_counts, cell_ids, n_threads=1)
    except (NotCountsError, ValueError) as error:
        raise type(error)(f"{cells.name}, cells {first:,} to {last - 1:,}: {error}") from error
    out.report["filtered_out"] = 0 if kept is None else int((~kept).sum())
    return out


def _in_parallel(work: Any, numbers: list[int], n_threads: int) -> Iterator[Any]:
    """Yield work(number) as they finish; after an error or Ctrl-C no new one is begun, and those under way end well."""
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: set[Future] = set()
        rest = iter(numbers)
        try:
            for number in rest:
                waiting.add(pool.submit(work, number))
                if len(waiting) > n_threads:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in waiting:
                future.cancel()


# --- the folder -----------------------------------------------------------------------------------


def _claim(folder: Path, manifest: dict[str, Any], resume: bool) -> None:
    """Make the folder ours, or go on with it if it was made from the same input with the same parameters."""
    there = folder / "manifest.json"
    if there.exists():
        if resume:
            _refuse_other(folder, json.loads(there.read_text(encoding="utf-8")), manifest)
        else:
            for name in json.loads(there.read_text(encoding="utf-8"))["shards"]:
                (folder / name).unlink(missing_ok=True)
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"{folder} holds other files and no manifest.json; give tokenize_file a new or an empty folder"
        )
    for leftover in folder.glob(".part-*.part"):  # of a process that was killed while writing
        leftover.unlink(missing_ok=True)
    _write_manifest(folder, manifest)


def _refuse_other(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    begin_anew = "Give another folder, or resume=False to start anew here."
    if old.get("format") != new["format"]:
        raise ValueError(f"{folder} was made by another version of scfm. {begin_anew}")
    if old["input"] != new["input"]:
        raise ValueError(
            f"{folder} holds tokens of {old['input']['name']} as it was then; the input has changed since, or is another "
            f"file ({new['input']['name']}). {begin_anew}"
        )
    for name, value in new["parameters"].items():
        if old["parameters"].get(name) != value:
            raise ValueError(
                f"{folder} was made with {name}={old['parameters'].get(name)!r}, now it is {value!r}. {begin_anew}"
            )


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    with cache.atomic_write(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _summary(parts: list[dict[str, Any]], n_mapped: int, n_genes: int) -> dict[str, Any]:
    reports = [part["report"] for part in parts]
    total = {name: sum(report[name] for report in reports) for name in ("n_cells", "filtered_out", "truncated_cells")}
    counts = sum(report["counts"] for report in reports)
    share = sum(report["counts_in_vocabulary"] for report in reports) / max(counts, 1e-12)
    return {
        **total,
        "empty_cells": [cell for report in reports for cell in report["empty_cells"]],
        "overlap": str(genes.Overlap(n_genes=n_genes, n_mapped=n_mapped, fraction_counts=share, missing=())),
    }


def fingerprint(path: Path) -> str:
    """A hash over sizes and times of change of the file (of all files of a .zarr folder): reading a whole one takes minutes."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file.relative_to(path)}\t{state.st_size}\t{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


# --- AnnData on disk, row by row --------------------------------------------------------------------


@contextlib.contextmanager
def open_cells(path: Path, counts_in: str, window: tuple[int, int] | None = None) -> Iterator[CellsOnDisk]:
    """Open a .h5ad or .zarr for reading; with a ``window`` (first, last) only these cells, and only their part of the tables."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        import zarr

        try:
            root = zarr.open_group(str(path), mode="r")
            refuse_holes(path.name, root)
        except FileFormatError:
            raise
        except Exception as error:
            raise FileFormatError(f"{path} is a folder, but not a .zarr that can be read ({error})") from error
        yield CellsOnDisk(root, path.name, counts_in, window)
        return
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileFormatError(
            f"{path} is not a readable .h5ad; it may be cut off or of another kind ({error})"
        ) from error
    with file:
        try:
            cells = CellsOnDisk(file, path.name, counts_in, window)
        except Exception as error:
            refuse_newer(path.name, error)
            raise
        yield cells


class CellsOnDisk:
    """The parts of an AnnData file that ranks need, read by anndata; cells come row by row, never the whole matrix."""

    def __init__(self, root: Any, name: str, counts_in: str, window: tuple[int, int] | None = None) -> None:
        from anndata.io import read_elem, sparse_dataset

        from scfm.files.counts import gene_columns

        self.name = name
        self.places = places = [
            "X",
            *(f"layers/{layer}" for layer in root.get("layers", ())),
            *(["raw/X"] if "raw" in root else []),
        ]
        if counts_in not in root or not {"obs", "var"} <= set(root):
            found = ", ".join(place for place in places if place in root) or "no matrix"
            raise FileFormatError(f"{name} has no {counts_in}, or is no AnnData file. It has {found}; see counts_in.")
        if any(getattr(root[table], "dtype", None) is not None and root[table].dtype.names for table in ("obs", "var")):
            raise FileFormatError(
                f"{name} holds its tables as anndata wrote them before 0.7, which are not read in parts. Convert it once: "
                "anndata.read_h5ad(...).write_h5ad(...)."
            )
        stored = root[counts_in]
        self.matrix = sparse_dataset(stored) if hasattr(stored, "keys") else stored
        if getattr(self.matrix, "format", "csr") == "csc":
            raise FileFormatError(
                f"{counts_in} of {name} is stored by columns (CSC), and cells cannot be read from it one after the other. "
                "Convert it once: adata = anndata.read_h5ad(...); adata.X = adata.X.tocsr(); adata.write_h5ad(...)."
            )
        self.n_cells, self.n_genes = (int(n) for n in self.matrix.shape)
        self.var: pd.DataFrame = read_elem(root["raw/var"] if counts_in.startswith("raw/") else root["var"])
        self.gene = gene_columns(self.var)  # None: all columns are genes
        if self.gene is not None:
            self.var, self.n_genes = self.var[self.gene], int(self.gene.sum())
        self.start, stop = window or (0, self.n_cells)  # what is kept in memory of the table of cells
        obs, own = root["obs"], slice(self.start, stop)
        if hasattr(obs, "dtype") or "__categories" in obs:  # as anndata wrote tables before 0.7: read as a whole
            table = read_elem(obs)
            here = {key: table[key].to_numpy()[own] for key in ("n_counts", "filter_pass") if key in table}
            self.cell_ids = table.index.to_numpy()[own].astype(str)
        else:
            here = {key: _part(obs[key], own) for key in ("n_counts", "filter_pass") if key in obs}
            index = obs.attrs.get("_index", "_index")
            self.cell_ids = _part(obs[index.decode() if isinstance(index, bytes) else index], own).astype(str)
        self.n_counts = np.asarray(here["n_counts"], np.float64) if "n_counts" in here else None
        self.filter_pass = passed(here)

    def ensembl_ids(self) -> list[str]:
        """Ensembl id of each column: var["ensembl_id"], or mapped from what else is there as `load_dataset` does."""
        if "ensembl_id" in self.var:
            return self.var["ensembl_id"].astype(str).tolist()
        return self.genes()["ensembl_id"].tolist()

    def genes(self) -> pd.DataFrame:
        """ensembl_id and gene_symbol of each column, as `load_dataset` names them."""
        from scfm.files.counts import map_genes

        if {"ensembl_id", "gene_symbol"} <= set(self.var):
            return self.var[["ensembl_id", "gene_symbol"]].astype(str)
        return map_genes(self.var.index.astype(str).tolist(), self.var)[0][["ensembl_id", "gene_symbol"]]

    def read(self, first: int, last: int) -> tuple[Any, np.ndarray | None, np.ndarray]:
        """Counts (CSR), n_counts and ids of the cells first to last."""
        import scipy.sparse as sp

        own = slice(first - self.start, last - self.start)
        n_counts = None if self.n_counts is None else self.n_counts[own]
        matrix = sp.csr_matrix(self.matrix[first:last])
        return matrix if self.gene is None else matrix[:, self.gene], n_counts, self.cell_ids[own]

    def passed(self, first: int, last: int) -> np.ndarray | None:
        """Mask of the cells with filter_pass == 1; None where all stay."""
        return None if self.filter_pass is None else self.filter_pass[first - self.start : last - self.start]


def _part(stored: Any, rows: slice) -> np.ndarray:
    """Some rows of a column: of a plain array these alone are read, of another encoding (categories, a mask) the column."""
    from anndata.io import read_elem

    if hasattr(stored, "keys"):
        found = np.asarray(read_elem(stored))[rows]
    else:
        found = stored.asstr()[rows] if hasattr(stored, "asstr") and stored.dtype.kind in "OS" else stored[rows]
    return np.asarray(found, object) if np.asarray(found).dtype.kind in "OUT" else np.asarray(found)
