"""An atlas in shards: a file of any size becomes an embedding, a window of cells at a time, in processes that know one window only.

    tokenize_shard   cells first..last of the file → a Parquet file of tokens        no GPU needed
    embed_shard      that file → a Parquet file with one vector per cell             a GPU helps
    gather           all of these → one .h5ad, row i = cell i of the file            reads one shard after the other

Memory depends on the size of a shard, never on the number of cells. Each step writes its file whole or not at all, so whatever
runs them (``make atlas`` does so through Snakemake) can go on after any interruption.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.errors import FileFormatError, NotCountsError
from scfm.files.counts import NOTHING, judge
from scfm.files.tokenize_file import CellsOnDisk, open_cells
from scfm.inside.meter import peak_memory
from scfm.store import cache
from scfm.tokenized import TokenizedCells, read_about

if TYPE_CHECKING:
    import pandas as pd

    from scfm.embed import Reads

CHUNK_CELLS = 2_048  # read and encoded at a time, within a shard
ROWS_PER_CHUNK = 4_096  # of the gathered matrix on disk
ABOUT = b"scfm"


def n_cells(path: str | Path, counts_in: str = "X") -> int:
    """The number of cells of an AnnData on disk, after a look at the first.

    Raises
    ------
    NotCountsError
        The first cells hold no raw counts there; the message names where the file does have some.
    """
    verdict, cells = _first_cells(Path(path), counts_in)
    if verdict not in ("counts", NOTHING):
        others = [place for place in cells.places if place != counts_in and _holds_counts(Path(path), place)]
        advice = (
            f"Raw counts are in {', '.join(others)}: name it (--counts-in {others[0]})." if others else "No place does."
        )
        raise NotCountsError(f"{cells.name}: {counts_in} holds {verdict}, and no raw counts. {advice}")
    return cells.n_cells


def _holds_counts(path: Path, place: str) -> bool:
    try:
        return _first_cells(path, place)[0] == "counts"
    except FileFormatError:  # one that cannot be read in parts is none to name
        return False


def _first_cells(path: Path, counts_in: str, n: int = 200) -> tuple[str, CellsOnDisk]:
    """What the first cells hold in this place, in words, and the file."""
    import scipy.sparse as sp

    with open_cells(path, counts_in, window=(0, 0)) as cells:
        return judge(sp.csr_matrix(cells.matrix[: min(n, cells.n_cells)])), cells


def windows(total: int, cells_per_shard: int) -> list[tuple[int, int]]:
    """(first, last) of each shard; all but the last of the same size."""
    if cells_per_shard < 1:
        raise ValueError(f"cells_per_shard is {cells_per_shard}; at least 1 is needed.")
    return [(first, min(first + cells_per_shard, total)) for first in range(0, total, cells_per_shard)]


def tokenize_shard(
    model: Reads, path: str | Path, out: str | Path, first: int, last: int, counts_in: str = "X"
) -> dict[str, Any]:
    """Tokenize the cells first to last (not included) of a file for ``model``, into a Parquet file (`TokenizedCells.save`).

    Every model of `load_model` will do: it is asked for its own ``tokenize``, some thousand cells at a time. Returns the shard's
    report. Raises as `tokenize_file` does for files, and as ``model.tokenize`` for what they hold.
    """
    start, path = time.monotonic(), Path(path)
    with open_cells(path, counts_in, window=(first, last)) as cells:
        if not 0 <= first < last <= cells.n_cells:
            raise ValueError(f"There are no cells {first:,} to {last - 1:,} in {path.name}; it has {cells.n_cells:,}.")
        genes = cells.genes()
        with warnings.catch_warnings():
            warnings.filterwarnings("once" if first == 0 else "ignore", message=".*n_counts.*")
            parts = [
                model.tokenize(_anndata(cells, genes, begin, end))
                for begin, end in ((b + first, e + first) for b, e in windows(last - first, CHUNK_CELLS))
            ]
    whole = join(parts)
    whole.report |= {"first": first, "seconds": time.monotonic() - start, "peak_memory": peak_memory()}
    whole.save(out)
    return whole.report


def _anndata(cells: CellsOnDisk, genes: pd.DataFrame, first: int, last: int) -> Any:
    """The cells first to last as AnnData, with what tokenization needs and nothing else."""
    import anndata
    import pandas as pd

    matrix, n_counts, cell_ids = cells.read(first, last)
    obs = pd.DataFrame({} if n_counts is None else {"n_counts": n_counts}, index=pd.Index(cell_ids.astype(object)))
    return anndata.AnnData(
        matrix.astype(np.float32), obs=obs, var=genes.set_axis(pd.RangeIndex(len(genes)).astype(str))
    )


def join(parts: Sequence[TokenizedCells]) -> TokenizedCells:
    """Cells of several TokenizedCells of one vocabulary behind one another; the counts in their reports are added up."""
    offsets = np.concatenate([[0], *(part.lengths for part in parts)]).cumsum()
    values = None if parts[0].values is None else np.concatenate([part.values for part in parts])
    report: dict[str, Any] = {}
    for part in parts:
        for name, value in part.report.items():
            if isinstance(value, int | float | list):
                report[name] = report[name] + value if name in report else value
    return TokenizedCells(
        np.concatenate([part.tokens for part in parts]),
        offsets,
        values,
        np.concatenate([part.cell_ids for part in parts]),
        parts[0].vocabulary_name,
        parts[0].vocabulary_sha256,
        parts[0].pad_id,
        report,
    )


def embed_shard(
    model: Reads,
    tokens: str | Path,
    out: str | Path,
    dtype: str = "auto",
    max_tokens: int | None = None,
    progress: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Embed a shard of tokens into a Parquet file: columns cell_id and embedding, float32 (d,) each.

    A cell without any gene of the vocabulary has no embedding: its row is NaN, and it is counted in the report. ``how`` goes to
    ``model.embed`` (pooling, layer). Returns the shard's report; raises as ``model.embed``.
    """
    from scfm.embed import choose_dtype, genes_per_cell

    start = time.monotonic()
    cells = TokenizedCells.load(tokens)
    full = np.flatnonzero(genes_per_cell(model, cells))
    found = (
        model.embed(cells[full], dtype=dtype, max_tokens=max_tokens, progress=progress, **how) if len(full) else None
    )
    d = model.network.config.hidden_size if found is None else found.shape[1]
    rows = np.full((len(cells), d), np.nan, np.float32)
    if found is not None:
        rows[full] = found
    report = {
        "first": cells.report.get("first", 0),
        "n_cells": len(cells),
        "n_tokens": int(cells.lengths.sum()),
        "empty_cells": len(cells) - len(full),
        "model": model.name,
        "model_sha256": model.sha256,
        "how": {name: value for name, value in how.items() if value is not None},
        # what "auto" came to on this machine: on another one it may come to something else
        "dtype": str(choose_dtype(dtype, model.network.device)).removeprefix("torch."),
        "tokenize_seconds": cells.report.get("seconds"),
        "tokenize_peak_memory": cells.report.get("peak_memory"),
    }
    report |= {"seconds": time.monotonic() - start, "peak_memory": peak_memory()}
    _save(rows, cells.cell_ids, report, Path(out))
    return report


def _save(rows: np.ndarray, cell_ids: np.ndarray, report: dict[str, Any], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    table = pa.table({"cell_id": pa.array(cell_ids.tolist(), pa.string()), "embedding": vectors})
    with cache.atomic_write(path) as temporary:
        pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(report)}), temporary, compression="lz4")


def load_shard(path: str | Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Vectors float32 (n_cells, d), cell ids and report of a shard that `embed_shard` wrote."""
    import pyarrow.parquet as pq

    report = read_about(Path(path))
    if "model" not in report:
        raise ValueError(f"{path} holds tokens, not an embedding: it was not written by embed_shard.")
    table = pq.read_table(path).combine_chunks()
    vectors = table["embedding"].combine_chunks()
    d = vectors.type.list_size
    return vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, d), table["cell_id"].to_numpy(), report


def gather(shards: Sequence[str | Path], out: str | Path, source: str | Path | None = None) -> dict[str, Any]:
    """Put embedded shards together into one .h5ad: X float32 (n_cells, d), obs as in ``source`` (else the ids), uns["scfm"].

    One shard is in memory at a time. Returns the sums of the shards' reports.

    Raises
    ------
    ValueError
        Shards overlap, leave gaps, or were made by different models, in different ways or in different precisions.
    FileFormatError
        ``source`` does not have as many cells.
    """
    import h5py

    start = time.monotonic()
    reports = [read_about(Path(path)) for path in shards]
    order = np.argsort([report["first"] for report in reports])
    total = int(sum(report["n_cells"] for report in reports))
    place = 0
    for k in order:
        if reports[k]["first"] != place:
            raise ValueError(f"Cells {place:,} to {reports[k]['first'] - 1:,} are in no shard, or some are in two.")
        place += reports[k]["n_cells"]
    made = {json.dumps([report[name] for name in ("model", "model_sha256", "how")]) for report in reports}
    if len(made) != 1:
        raise ValueError("The shards were made by different models or in different ways; they are not one embedding.")
    dtypes = sorted({str(report.get("dtype")) for report in reports})
    if len(dtypes) != 1:
        raise ValueError(
            f'Some shards were computed in {", others in ".join(dtypes)}: dtype "auto" came to something else on another machine. '
            "Delete these shards, or begin again with a stated dtype (float32 or bfloat16)."
        )
    summary = {
        "model": reports[0]["model"],
        "model_sha256": reports[0]["model_sha256"] or "",
        "how": json.dumps(reports[0]["how"]),
        "dtype": dtypes[0],
        "n_cells": total,
        "n_shards": len(reports),
        "n_tokens": int(sum(report["n_tokens"] for report in reports)),
        "empty_cells": int(sum(report["empty_cells"] for report in reports)),
    }
    d = load_shard(shards[order[0]])[0].shape[1]
    with cache.atomic_write(out) as temporary:
        _skeleton(temporary, d, summary)
        with h5py.File(temporary, "r+") as file:
            rows = file.create_dataset("X", (total, d), "f4", chunks=(min(ROWS_PER_CHUNK, max(total, 1)), d))
            rows.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            names = file["obs"].create_dataset("_index", (total,), h5py.string_dtype())
            names.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
            place = 0
            for k in order:
                vectors, cell_ids, _ = load_shard(shards[k])
                rows[place : place + len(vectors)] = vectors
                names[place : place + len(vectors)] = cell_ids
                place += len(vectors)
            if source is not None:
                _copy_obs(Path(source), file, total)
    peaks = [m for report in reports for m in (report["peak_memory"], report.get("tokenize_peak_memory")) if m]
    return summary | {
        "shard_seconds": math.fsum(report["seconds"] + (report.get("tokenize_seconds") or 0) for report in reports),
        "gather_seconds": time.monotonic() - start,
        "peak_memory": max([*peaks, peak_memory()]),
    }


def _skeleton(path: Path, d: int, summary: dict[str, Any]) -> None:
    """An .h5ad without cells, written by anndata itself; X and the index are filled in afterwards, piece by piece."""
    import anndata
    import h5py
    import pandas as pd

    var = pd.DataFrame(index=[f"dimension {k}" for k in range(d)])
    anndata.AnnData(np.zeros((0, d), np.float32), var=var, uns={"scfm": summary}).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        del file["obs"][file["obs"].attrs["_index"]]
        file["obs"].attrs["_index"] = "_index"


def _copy_obs(source: Path, file: Any, total: int) -> None:
    """The obs of the cells' own file, copied as it is stored (a .zarr's stays there: ids only)."""
    import h5py
    from anndata.io import read_elem

    if source.is_dir():
        return
    with h5py.File(source, "r") as theirs:
        obs = theirs["obs"]
        index = obs.attrs.get("_index", "_index")
        n_cells = len(read_elem(obs[index]))  # a nullable string is two arrays in a group
        if n_cells != total:
            raise FileFormatError(f"{source.name} has {n_cells:,} cells, the shards have {total:,}.")
        del file["obs"]
        theirs.copy(obs, file, "obs")
