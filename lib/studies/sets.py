"""Which cells of a set count, and the labelled sets that are kept out of every corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

import scfm
from scfm import datasets, metrics

if TYPE_CHECKING:
    import anndata


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


def evaluation_set(name: str) -> anndata.AnnData:
    """A labelled evaluation set, by its name: its cells that count.

    Raises
    ------
    DatasetError
        If another set would be loaded in its place: results are kept under the name of their set.
    """
    datasets.at_hand([name], exact=True)
    return counted(scfm.load_dataset(name))[0]
