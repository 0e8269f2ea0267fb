"""Which cells of a set count, whether a lesson can run on them, and the labelled sets that are kept out of every corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

import scfm
from scfm import datasets, metrics
from scfm.store import hub

if TYPE_CHECKING:
    import anndata

    from scfm.models import Model


def own_labels(adata: anndata.AnnData) -> np.ndarray:
    """Which cells have a label of their own study, bool (cell,): one that a classifier transferred would favour that classifier."""
    if "cell_type_source" not in adata.obs:
        return np.ones(adata.n_obs, bool)
    return (adata.obs["cell_type_source"] == "original").to_numpy()


def counted(adata: anndata.AnnData, wanted: Mapping[str, str] | None = None) -> tuple[anndata.AnnData, dict[str, int]]:
    """The cells that count: with a known label of their own, in a class of at least 20 cells; and the classes left out.

    ``wanted``: column of ``obs`` → the value that its cells must have.
    """
    keep = own_labels(adata)
    for column, value in (wanted or {}).items():
        keep &= (adata.obs[column].astype(str) == value).to_numpy()
    adata = adata[keep]
    kept, left_out = metrics.usable_cells(adata.obs["cell_type"])
    return adata[kept].copy(), left_out


def suitable(
    adata: anndata.AnnData, types: int = 2, each: int = metrics.SMALLEST_CLASS, batches: int = 1, cells: int = 1
) -> None:
    """Stop here and in words where a lesson cannot run on these cells, before anything that takes time.

    Parameters
    ----------
    types, each
        So many cell types, each of so many cells that count (see :func:`counted`).
    batches
        So many batches; where it is two or more, a type must occur in two of them: else batch and type are one.
    cells
        So many cells, of any type.

    Raises
    ------
    ColumnError
        Types or batches are lacking; it names the columns that might hold them, and the parameter to set.
    DatasetError
        Cells are lacking.
    """
    name, rows = adata.uns["scfm"]["name"], np.flatnonzero(own_labels(adata))
    if adata.n_obs < cells:
        raise datasets.DatasetError(f"{name} has {adata.n_obs:,} cells; this lesson needs {cells:,} or more.")
    kinds = adata.obs["cell_type"].iloc[rows].astype(str)
    rows = rows[metrics.usable_cells(kinds, each)[0]] if types else rows
    kinds, groups = (adata.obs[column].iloc[rows].astype(str) for column in ("cell_type", "batch"))
    if kinds.nunique() < types:
        found = f"{kinds.nunique()} of {each} cells or more"
        raise datasets.ColumnError(_lacking(adata, "label", f"{types} cell types of {each} cells or more", found))
    if groups.nunique() < batches:
        raise datasets.ColumnError(_lacking(adata, "batch", f"{batches} batches", str(groups.nunique())))
    met = kinds.groupby(kinds).transform(lambda own: groups[own.index].nunique())
    if batches > 1 and (met < 2).all():
        found = f"{groups.nunique()} of which each holds other types, so that batch and type cannot be told apart"
        raise datasets.ColumnError(_lacking(adata, "batch", f"{batches} batches with a type in common", found))


def of_kind(model: Model, kind: str) -> None:
    """Stop here and in words where a lesson takes another kind of model apart than this one. Raises TypeError."""
    if model.kind != kind:
        known = [name for name, entry in hub.catalogue()["models"].items() if entry["kind"] == kind]
        raise TypeError(
            f"{model.name} is a {model.kind}, and this lesson takes a {kind} apart: model= {', '.join(known)}, or a folder of one."
        )


def _lacking(adata: anndata.AnnData, role: str, wanted: str, found: str) -> str:
    """The sentence for a lesson that needs another column in this role."""
    about = adata.uns["scfm"]
    source = (
        f"its column {about[role]!r} has {found}" if about[role] else "which of its columns holds them is not known"
    )
    own = {about[role], "cell_type" if role == "label" else "batch"}
    others = [f"{name} ({n} values)" for name, n in grouping_columns(adata).items() if name not in own]
    asked = f"Name the column with {role}=: " + (
        ", ".join(others) if others else "none of its columns groups the cells"
    )
    return f"This lesson needs {wanted}. {about['name']}: {source}. {asked}."


def grouping_columns(adata: anndata.AnnData) -> dict[str, int]:
    """The columns of ``obs`` that could hold types or batches: name → how many values; each has ten cells on average at least."""
    values = {
        str(column): adata.obs[column].nunique()
        for column in adata.obs
        if adata.obs[column].dtype.kind not in "fc" and column not in ("n_counts", "cell_type_source")
    }
    return {name: n for name, n in values.items() if 2 <= n <= max(2, adata.n_obs / 10)}


def evaluation_set(name: str) -> anndata.AnnData:
    """A labelled evaluation set, by its name: its cells that count.

    Raises
    ------
    DatasetError
        If another set would be loaded in its place: results are kept under the name of their set.
    """
    datasets.at_hand([name], exact=True)
    return counted(scfm.load_dataset(name))[0]
