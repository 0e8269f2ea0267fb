"""What is asked of a file before it is read: several matrices in one, parts of a newer anndata, chunks that are missing."""

from __future__ import annotations

from typing import Any

from scfm.errors import FileFormatError


def refuse_mudata(name: str, root: Any) -> None:
    """FileFormatError where an HDF5 file or .zarr holds several AnnData in one (MuData)."""
    if "mod" in root and "X" not in root:
        raise FileFormatError(
            f"{name} is MuData (.h5mu), which holds several matrices: {', '.join(root['mod'])}. Save the one of the genes: "
            'mudata.read(...).mod["rna"].write_h5ad("rna.h5ad").'
        )


def refuse_newer(name: str, error: Exception) -> None:
    """FileFormatError for what anndata raises (of a private class) at an encoding that it does not know."""
    if any(kind.__name__ == "IORegistryError" for kind in type(error).__mro__):
        from importlib.metadata import version

        raise FileFormatError(
            f"{name} holds something that anndata {version('anndata')} cannot read ({str(error).splitlines()[0][:160]}). It was "
            "written by a newer anndata: install that (pip install -U anndata), or delete the part and save the file again."
        ) from error


def refuse_holes(name: str, root: Any) -> None:
    """FileFormatError where a .zarr lost chunks of a sparse matrix or of names: zarr reads zeros in their place.

    A chunk of nothing but zeros is not stored, so only arrays that have none are asked.
    """
    matrices = ["X", "raw/X", *(f"layers/{key}" for key in root.get("layers", ()))]
    arrays = [f"{matrix}/{part}" for matrix in matrices for part in ("data", "indptr")]
    arrays += [f"{table}/{root[table].attrs.get('_index', '_index')}" for table in ("obs", "var") if table in root]
    for place in arrays:
        stored = root.get(place)
        if stored is not None and getattr(stored, "nchunks_initialized", 0) < getattr(stored, "nchunks", 0):
            missing = stored.nchunks - stored.nchunks_initialized
            raise FileFormatError(
                f"{name} is a damaged or incomplete .zarr store: {missing:,} of {stored.nchunks:,} chunks of {place} are missing, "
                "and zeros would be read in their place. Copy it again."
            )
