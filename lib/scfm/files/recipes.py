"""A listed set from the public files that carry it, as its table ``origin`` in data/datasets.toml says.

A recipe reads one or more parts and lays them under one another:

    kind       "matrix"      a matrix of R, dense or sparse
               "seurat"      a Seurat object (3 to 5): a layer of an assay, and its meta.data
               "experiment"  a SummarizedExperiment, SingleCellExperiment or ExpressionSet: an assay, and its table of cells
               "tables"      a table of counts, genes x cells
               "10x"         matrix, barcodes and features as cellranger writes them (``file``: the three)
    file, at   which of ``files``, and what in it, as R would call it (``pbmc@assays$RNA@counts``); without ``at`` its only object
    assay, layer   of Seurat objects and experiments
    cells_in_rows  true for a matrix of cells x genes
    rows       a pattern: rows that match stay, under what it matches (its group, if it has one)
    genes      a table in the order of the rows: which of its columns are ``id`` and ``symbol`` (``columns`` names those of a text
               file without a header)
    select     another matrix, whose columns are the cells to take, in its order
    about      tables about the cells: in their order; or ``by`` a name, that of a row or its ``key`` (``keep``: which of its rows;
               ``unless``: a name that must not be there; ``summary``: new column = [column, "max"] where a cell has many rows)
    largest    a matrix of features x cells: the ``name`` of the largest, its ``value`` and its ``share``
    counts     how whole counts come back: ``was`` "log1p", "log2p1" or "scaled"; the smallest of a cell is one count, or
               a value is that of a cell of ``per`` counts, and ``total`` the column with the true number
    derive     columns that ``keep``, ``names`` and others speak of
    keep       which cells stay, a condition on these columns (``umis``: all counts of the cell)
    measured   what else was measured, a matrix by name (``drop``: a pattern that its names lose)

What stands beside ``parts`` holds for all of them; ``part`` names one. Then, for the whole:

    join       "same" rows in all parts, or the "union" of them, sorted, sums where a name is there twice
    ids        true where rows are Ensembl ids that need symbols; without it they are symbols that need ids
    names      of the cells; a cell whose name was there already is left out
    obs        column = what it holds

:mod:`scfm.files.columns` says what a column can be. Small tables in data/listed hold what no carrier has: ids and symbols that are not
those of data/genes.tsv.gz (``ids.tsv``, ``symbols.tsv.gz``), and labels of a classifier made for the course (``predicted.tsv.gz``, in the
order of the cells).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scfm import genes
from scfm.files.columns import column, truth
from scfm.files.r_objects import Named
from scfm.files.raw_files import KINDS, Files
from scfm.store import cache

if TYPE_CHECKING:
    import anndata

_WAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log1p": np.expm1,
    "log2p1": lambda values: 2.0**values - 1,
    "scaled": lambda values: values,
}


@dataclass
class Part:
    """Cells of one matrix: counts (cell, row), the names of the rows, a row of ``cells`` for each, and what else was measured."""

    counts: sparse.csr_matrix
    rows: list[str]
    symbols: list[str] | None
    cells: pd.DataFrame
    measured: dict[str, Named] = field(default_factory=dict)  # cells x features

    def take(self, which: np.ndarray) -> Part:
        """The cells at these places, or where this is true."""
        which = np.flatnonzero(which) if which.dtype == bool else which
        measured = {name: Named(m.values[which], m.rows, m.columns) for name, m in self.measured.items()}
        return Part(self.counts[which], self.rows, self.symbols, self.cells.iloc[which], measured)


def build(
    name: str, origin: Mapping[str, Any], paths: Mapping[str, Path], frame_of: Callable[[str], pd.DataFrame]
) -> tuple[anndata.AnnData, pd.DataFrame]:
    """Make a listed set from its raw files.

    ``origin``: its table in data/datasets.toml. ``paths``: where its ``files`` lie. ``frame_of``: of another listed set the second
    of what is returned here: all that the recipe knows about each cell.

    Raises
    ------
    KeyError, TypeError, ValueError, OSError
        If the files do not hold what the recipe expects.
    """
    import anndata

    files = Files(paths)
    common = {key: value for key, value in origin.items() if key != "parts"}
    parts = [_part(files, {**common, **own}) for own in origin.get("parts", [{}])]
    whole = _stacked(_on_union(parts) if origin.get("join") == "union" else parts)
    whole.cells.index = pd.Index(column(whole.cells, origin.get("names", "{cell}")))
    whole = whole.take(~whole.cells.index.duplicated())
    frame = _with_predictions(whole.cells, name)
    counts, var = _genes(name, whole, bool(origin.get("ids")))
    obs = pd.DataFrame(
        {what: column(frame, spec, frame_of) for what, spec in origin.get("obs", {}).items()}, index=frame.index
    )
    words = obs.select_dtypes(object).columns
    obs[words] = obs[words].astype("category")
    predicted = [what for what in PREDICTED if what in frame]
    obs = obs.join(frame[predicted]).assign(
        n_counts=np.asarray(counts.sum(axis=1), np.float32).ravel(), n_genes=np.diff(counts.indptr)
    )
    adata = anndata.AnnData(X=counts, obs=obs, var=var)
    for what, measured in whole.measured.items():
        adata.obsm[what] = measured.values.toarray()
        adata.uns[f"{what}_names"] = np.array(measured.columns, dtype=object)
    return adata, frame


def _part(files: Files, spec: dict[str, Any]) -> Part:
    """One part of a recipe: read, joined with what is known of its cells, made counts again, and its cells chosen."""
    named, about, other = KINDS[spec["kind"]](files, spec)
    counts = named.values.T.tocsr()
    frame = pd.DataFrame({"cell": named.columns, "part": spec.get("part", "")})
    if about is not None:
        frame = _beside(frame, about)
    measured = {}
    for what, where in spec.get("measured", {}).items():
        found = other(where)
        if found.columns != named.columns:
            raise ValueError(f"{what} was measured in other cells than the counts")
        shown = [re.sub(where.get("drop", "$^"), "", feature) for feature in found.rows]
        measured[what] = Named(found.values.T.tocsr(), [], shown)
    for where in spec.get("largest", ()):
        frame = _beside(frame, _largest(files.matrix(where), where))
    for where in spec.get("about", ()):
        frame = _beside(frame, _joined(frame, files.table(where), where))
    frame["umis"] = np.asarray(counts.sum(axis=1)).ravel()
    for what, how in spec.get("derive", {}).items():
        frame[what] = column(frame, how)
    kept, rows, symbols = _rows(files, spec, named.rows)
    counts = counts[:, kept]
    if "counts" in spec:
        counts = _whole_counts(counts, frame, **spec["counts"])
    part = Part(counts, rows, symbols, frame, measured)
    if "select" in spec:
        place = pd.Index(named.columns).get_indexer(pd.Index(files.matrix(spec["select"]).columns))
        if (place < 0).any():
            raise ValueError(f"{(place < 0).sum():,} of the cells to select are not there")
        part = part.take(place)
    if "keep" in spec:
        part = part.take(truth(part.cells, spec["keep"]).to_numpy())
    return part


def _rows(files: Files, spec: dict[str, Any], rows: list[str]) -> tuple[list[int], list[str], list[str] | None]:
    """Which rows stay, their names (ids or symbols), and their symbols where a table of the files has both."""
    symbols = None
    if "genes" in spec:
        listed = files.table(spec["genes"])
        if len(listed) != len(rows):
            raise ValueError(f"it has {len(rows):,} rows, and its table of genes {len(listed):,}")
        symbols = [str(word) for word in listed[spec["genes"]["symbol"]]]
        rows = [str(word) for word in listed[spec["genes"]["id"]]] if "id" in spec["genes"] else rows
    found = [re.search(spec.get("rows", ".*"), row) for row in rows]
    kept = [i for i, match in enumerate(found) if match]
    names = [match[match.lastindex or 0] for match in found if match]
    return kept, names, [symbols[i] for i in kept] if symbols else None


def _stacked(parts: list[Part]) -> Part:
    """All parts, their cells under one another and numbered (``n``)."""
    first = parts[0]
    if any(part.rows != first.rows for part in parts):
        raise ValueError("its parts do not have the same genes")
    measured = {
        what: Named(sparse.vstack([part.measured[what].values for part in parts], format="csr"), [], named.columns)
        for what, named in first.measured.items()
    }
    cells = pd.concat([part.cells for part in parts], ignore_index=True)
    counts = sparse.vstack([part.counts for part in parts], format="csr")
    return Part(counts, first.rows, first.symbols, cells.assign(n=range(len(cells))), measured)


def _beside(frame: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """``more`` in the same order beside ``frame``; a column that is there already stays."""
    if len(more) != len(frame):
        raise ValueError(f"there are {len(frame):,} cells, and {len(more):,} in a table about them")
    new = more[[name for name in more if name not in frame]]
    return pd.concat([frame, new.set_axis(frame.index)], axis=1)


def _joined(frame: pd.DataFrame, table: pd.DataFrame, spec: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of ``table`` that belong to the cells of ``frame``, in their order."""
    if "by" not in spec:
        return table
    names = column(frame, spec["by"])
    if "unless" in spec:
        names = names.where(~column(frame, spec["unless"]).isin(table.index), np.nan)
    return table[~table.index.duplicated()].reindex(names)


def _largest(named: Named, spec: Mapping[str, Any]) -> pd.DataFrame:
    """Of each cell the feature with the most counts, how many they are, and their share of all; the first of equals."""
    values = named.values.T.toarray()
    most, total = values.max(axis=1), values.sum(axis=1)
    share = np.divide(most, total, out=np.full(len(total), np.nan), where=total > 0)
    told = {"name": [named.rows[i] for i in values.argmax(axis=1)], "value": most, "share": share}
    return pd.DataFrame({spec[what]: found for what, found in told.items() if what in spec})


def _whole_counts(counts: sparse.csr_matrix, cells: pd.DataFrame, was: str, per: float = 0, total: str = "") -> Any:
    """Undo a logarithm and a scaling by cell: the smallest value of a cell is one count, or its total is known."""
    found = counts.astype(float)
    found.eliminate_zeros()
    found.data = _WAS[was](found.data)
    filled = np.flatnonzero(np.diff(found.indptr))  # cells that have counts
    unit = np.ones(found.shape[0])
    if total:
        unit = per / cells[total].to_numpy(float)
    elif len(filled):
        unit[filled] = np.minimum.reduceat(found.data, found.indptr[filled])
    found.data = np.rint(found.data / np.repeat(unit, np.diff(found.indptr)))
    return found


def _on_union(parts: list[Part]) -> list[Part]:
    """The same parts on all their rows, sorted; rows of one name are summed, one that a part lacks is zero there."""
    rows = sorted({row for part in parts for row in part.rows})
    place = {row: i for i, row in enumerate(rows)}
    symbol: dict[str, str] = {}
    for part in parts:
        for row, word in zip(part.rows, part.symbols or (), strict=bool(part.symbols)):
            symbol.setdefault(row, word)
    symbols = [symbol[row] for row in rows] if symbol else None
    return [
        Part(
            _summed(part.counts, [place[row] for row in part.rows], len(rows)), rows, symbols, part.cells, part.measured
        )
        for part in parts
    ]


def _summed(counts: sparse.csr_matrix, to: list[int], n: int) -> sparse.csr_matrix:
    """Columns added up: column i of ``counts`` goes to column ``to[i]`` of ``n``."""
    return (counts @ sparse.csr_matrix((np.ones(len(to)), (range(len(to)), to)), shape=(len(to), n))).tocsr()


# --- genes --------------------------------------------------------------------------------------------


def _listed(file: str) -> pd.DataFrame:
    path = cache.repo_data() / "listed" / file
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def _genes(name: str, part: Part, ids: bool) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Counts and table of genes by Ensembl id: rows of one id are summed at the place of the first; those without counts are left out."""
    index, symbols = part.rows, part.symbols
    if symbols is None and ids:
        own = _listed("symbols.tsv.gz")
        known = genes.ensembl_to_symbol() | dict(zip(own["ensembl_id"], own["gene_symbol"], strict=True))
        symbols = [known.get(row, row) for row in part.rows]
    elif symbols is None:
        own = _listed("ids.tsv")
        own = own[own["set"] == name]
        known = genes.symbol_to_ensembl() | dict(zip(own["gene_symbol"], own["index"], strict=True))
        index, symbols = [known.get(row, row) for row in part.rows], part.rows
    place: dict[str, int] = {}
    to = [place.setdefault(word, len(place)) for word in index]
    first = dict(zip(reversed(to), reversed(symbols), strict=True))
    counts = _summed(part.counts, to, len(place))
    kept = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel() > 0)
    words = np.array(list(place), dtype=object)[kept]
    counts = sparse.csr_matrix(counts[:, kept], dtype=np.float32)
    counts.sort_indices()
    id_of = [word if word.startswith("ENSG") else "" for word in words]
    return counts, pd.DataFrame({"ensembl_id": id_of, "gene_symbol": [first[int(i)] for i in kept]}, index=words)


# --- what the course adds -----------------------------------------------------------------------------

PREDICTED = ("cell_type_predicted", "predicted_prob")


def _with_predictions(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """``frame`` and, for the sets that have them, the labels of the course's own classifier, in the order of the cells."""
    own = _listed("predicted.tsv.gz")
    own = own[own["set"] == name]
    if own.empty:
        return frame
    own = own[list(PREDICTED)].astype({"predicted_prob": np.float32})
    return _beside(frame, own)
