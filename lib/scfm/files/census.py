"""A random slice of CZ CELLxGENE Census, through its own package (not part of the course's environment: it is large)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.errors import DatasetError, DownloadError

if TYPE_CHECKING:
    import anndata

INSTALL = "pip install cellxgene-census"
_COLUMNS = ["soma_joinid", "cell_type", "dataset_id", "donor_id", "disease", "assay", "tissue"]


def slice_census(entry: dict[str, Any], seed: int) -> anndata.AnnData:
    """Draw ``entry["cells"]`` cells at random from those that ``entry["filter"]`` selects; raw counts, all genes.

    Follows ``cellxgene_census.get_obs`` and ``get_anndata`` with a pinned ``census_version``.

    Raises
    ------
    DatasetError
        If the package is not installed.
    DownloadError
        If the Census cannot be reached.
    """
    try:
        import cellxgene_census
    except ImportError as error:
        raise DatasetError(
            f"This set is a slice of CZ CELLxGENE Census and needs its package, which is not installed. Run: {INSTALL}"
        ) from error
    rng = np.random.default_rng(seed)
    try:
        with cellxgene_census.open_soma(census_version=entry["census_version"]) as census:
            found = cellxgene_census.get_obs(
                census, "homo_sapiens", value_filter=entry["filter"], column_names=["soma_joinid"]
            )
            ids = np.sort(found["soma_joinid"].to_numpy())
            drawn = np.sort(rng.choice(ids, size=min(entry["cells"], len(ids)), replace=False))
            return cellxgene_census.get_anndata(
                census,
                organism="Homo sapiens",
                obs_coords=drawn.tolist(),
                obs_column_names=_COLUMNS,
                var_column_names=["feature_id", "feature_name"],
            )
    except Exception as error:  # tiledbsoma has its own errors for a missing network and a missing release
        raise DownloadError(
            f"The Census (release {entry['census_version']}) could not be read: {error}. It needs a network; releases are "
            "kept for five years."
        ) from error
