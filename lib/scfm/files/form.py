"""A file's content into the course's form (see :mod:`scfm.datasets`): checked, named, and nothing lost without a word."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.errors import ColumnError, DatasetError, GeneNameError, NotCountsError
from scfm.files import counts
from scfm.inside.rows import passed
from scfm.metrics import NO_LABEL

if TYPE_CHECKING:
    import anndata
    import pandas as pd

log = logging.getLogger("scfm")

UNKNOWN = "unknown"
_MISSING = {*(word.lower() for word in NO_LABEL), "na", "n/a"}  # in a file, also what people write
# columns of a user's file that are taken without being named
_GUESSES = {
    "label": ("cell_type", "celltype", "CellType", "cell_types", "cell_label"),
    "batch": ("batch", "Batch", "batch_id"),
    "condition": ("condition", "treatment", "disease"),
    "donor": ("donor", "donor_id", "patient"),
}
_TOTALS = ("n_counts", "total_counts", "nCount_RNA")


def in_form(
    raw: anndata.AnnData, name: str, entry: dict[str, Any], sha256: str, label: str | None, batch: str | None
) -> anndata.AnnData:
    """Bring what a file holds into the course's form; ``entry`` is its line of the list, or says that it is a user's file.

    Raises
    ------
    DatasetError
        Or a child of it: no cells or genes, no raw counts, genes of another species or in the rows, no such column.
    """
    import anndata
    import pandas as pd

    listed = entry["source"] != "file"
    if 0 in raw.shape:
        raise DatasetError(f"{name} has {raw.n_obs:,} cells and {raw.n_vars:,} genes: there is nothing to load.")
    if counts.looks_like_genes(raw.obs_names) and not counts.looks_like_genes(raw.var_names):
        raise GeneNameError(
            f"{name} seems to be transposed: its {raw.n_obs:,} cell names are gene names ({raw.obs_names[0]}, ...). Cells "
            "belong in the rows: save adata.T."
        )
    raw = _passed(raw, name)
    columns = _columns(raw.obs, entry, label, batch, name)
    if entry.get("drop_batches_without_counts"):
        raw, matrix, var, where = _counts_by_batch(raw, columns["batch"])
    else:
        matrix, var, where = counts.find_counts(raw)
    gene = counts.gene_columns(var)
    if gene is not None:
        matrix, var = matrix[:, gene], var[gene]
    matrix = counts.as_counts(matrix)
    genes, report = counts.map_genes(var.index.tolist(), var)
    for sentence in counts.sentences(report):
        log.log(logging.INFO if listed else logging.WARNING, "%s: %s", name, sentence)
    totals = _totals(matrix, raw.obs, name, logging.INFO if listed else logging.WARNING)  # before any gene changes
    matrix, genes = counts.sum_duplicates(matrix, genes, report)

    obs = raw.obs.copy()
    obs.index = _unique(obs.index, name)
    for role, column in columns.items():
        values = raw.obs[column] if column else pd.Series(UNKNOWN, index=raw.obs_names)
        words = ["" if pd.isna(value) else str(value) for value in values]
        words = [UNKNOWN if word.strip().lower() in _MISSING else word for word in words]
        if column or role != "donor":
            if not listed or column in (label, batch):
                _keep_own(obs, "cell_type" if role == "label" else role, column, name)
            obs["cell_type" if role == "label" else role] = pd.Categorical(words)
    obs["n_counts"] = totals
    empty = int((np.diff(matrix.indptr) == 0).sum())
    if empty:
        log.warning(
            "%s: %s cell(s) have no counts at all. They are kept; a model will have no tokens for them.",
            name,
            f"{empty:,}",
        )
    about = {
        **{
            field: entry.get(field, "")
            for field in ("title", "citation", "doi", "licence", "tissue", "counts", "notes")
        },
        "name": name,
        "source": f"{entry['source']}: {entry['file']}",
        "sha256": sha256,
        "organism": "human",
        "label": columns["label"] or "",
        "batch": columns["batch"] or "",
        "counts_from": where,
        "n_empty_cells": empty,
        "simulated": False,
        "gene_report": {**report, "unmapped_examples": np.array(report["unmapped_examples"], dtype=object)},
    }
    # what a file computed from its expression (X_pca, X_umap) stays behind; measured things (proteins) come along
    measured = {key: value for key, value in raw.obsm.items() if not key.startswith("X_")}
    names = {key: value for key, value in raw.uns.items() if key.endswith("_names")}
    return anndata.AnnData(X=matrix, obs=obs, var=genes, obsm=measured, uns={**names, "scfm": about})


def _columns(
    obs: pd.DataFrame, entry: dict[str, Any], label: str | None, batch: str | None, name: str
) -> dict[str, str | None]:
    """Which column of ``obs`` plays which role; None where it is not known."""
    there = ", ".join(map(str, obs.columns)) or "none"
    chosen: dict[str, str | None] = {}
    for role, asked in (("label", label), ("batch", batch), ("condition", None), ("donor", None)):
        named = entry.get("columns", {}).get(role)
        if asked is not None and asked not in obs:
            near = difflib.get_close_matches(asked, map(str, obs.columns), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ColumnError(f"{name} has no column {asked!r} to use as {role}.{hint} Its columns: {there}.")
        if asked is None and named and named not in obs:
            log.warning("%s: the column %s (%s) is not in the file. Its columns: %s.", name, named, role, there)
        if asked is None and entry["source"] == "file":
            named = next((guess for guess in _GUESSES[role] if guess in obs), None)
        chosen[role] = asked or (named if named in obs else None)
    return chosen


def _keep_own(obs: pd.DataFrame, role: str, column: str | None, name: str) -> None:
    """A column of the file that has the role's name and is not the one asked for stays, under another name."""
    if column in (None, role) or role not in obs:
        return
    other = next(new for new in (f"{role}_in_file", f"{role}_in_file_2", f"{role}_in_file_3") if new not in obs)
    obs[other] = obs[role]
    log.warning(
        "%s: %s is taken from obs[%r]; the file's own column %s is kept as %s.", name, role, column, role, other
    )


def _passed(raw: anndata.AnnData, name: str) -> anndata.AnnData:
    """Only the cells with Geneformer's filter_pass == 1, now: tokenization would leave the others out, and rows out of step."""
    kept = passed(raw.obs)
    if kept is None or kept.all():
        return raw
    if not kept.any():
        raise DatasetError(f"{name} has a column filter_pass that is 1 in none of its cells: delete it to keep all.")
    log.warning(
        "%s: %s of %s cells are left out, since their filter_pass is not 1 (Geneformer's column of cells that passed quality "
        "control). Delete the column from the file to keep them.",
        name,
        f"{(~kept).sum():,}",
        f"{len(kept):,}",
    )
    return raw[kept].copy()


def _counts_by_batch(raw: anndata.AnnData, batch: str | None) -> tuple[anndata.AnnData, Any, pd.DataFrame, str]:
    """Keep the batches whose values are counts, or are after rounding; name those that are left out."""
    from scipy import sparse

    where = 'layers["counts"]' if "counts" in raw.layers else "X"
    matrix = sparse.csr_matrix(raw.layers.get("counts", raw.X))
    groups = raw.obs[batch].astype(str).to_numpy() if batch else np.full(raw.n_obs, "all")
    good = np.zeros(raw.n_obs, dtype=bool)
    for group in np.unique(groups):
        rows = groups == group
        verdict = counts.judge(matrix[rows])
        if verdict == "counts" or counts.nearly_counts(matrix[rows]):
            good |= rows
        else:
            log.warning("The batch %s (%s cells) is left out: it holds %s.", group, f"{rows.sum():,}", verdict)
    if not good.any():
        raise NotCountsError(f"{where} holds no counts in any batch.")
    return raw[good].copy(), matrix[good], raw.var, where


def _totals(matrix: Any, obs: pd.DataFrame, name: str, level: int) -> np.ndarray:
    """Counts of each whole cell: the file's own total where the matrix is only a part of the genes, else the row sum."""
    summed = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    for column in _TOTALS:
        if column in obs and obs[column].dtype.kind in "fiu":
            stated = obs[column].to_numpy(np.float64)
            whole = np.isfinite(stated).all() and np.abs(stated - np.rint(stated)).max() < 0.01
            if whole and (stated >= summed * 0.999).all() and (stated > summed * 1.001).any():
                sentence = "%s: n_counts of whole cells is taken from obs[%r]; the matrix holds a part of the genes."
                log.log(level, sentence, name, column)
                return stated
    return summed


def _unique(names: pd.Index, name: str) -> pd.Index:
    import anndata.utils

    names = names.astype(str)
    if names.is_unique:
        return names
    double = names[names.duplicated()].unique()
    log.warning(
        "%s: %s cell name(s) occur more than once (for example %s); -1, -2, ... was added to make them unique.",
        name,
        f"{len(double):,}",
        double[0],
    )
    return anndata.utils.make_index_unique(names)
