"""What the raw files of a recipe hold: a matrix of counts with its names, tables about cells and genes, other measurements.

:mod:`scfm.files.recipes` says how a recipe names them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import sparse

from scfm.files import r_objects
from scfm.files.columns import column
from scfm.files.r_objects import Named

Other = Callable[[dict[str, Any]], Named]  # another measurement of the same cells


class Files:
    """The raw files of a recipe by name; each is read once."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = paths
        self._read = functools.lru_cache(maxsize=None)(r_objects.read_r)

    def object(self, spec: Mapping[str, Any]) -> Any:
        """What ``file`` holds at ``at``."""
        path = self.paths[spec["file"]]
        found = self._read(path)
        if "at" in spec:
            return r_objects.at(found, spec["at"])
        return found if ".rds" in path.name.lower() else next(iter(found.values()))

    def matrix(self, spec: Mapping[str, Any]) -> Named:
        """A matrix of genes or features x cells, however it is stored."""
        found = r_objects.matrix(self.object(spec))
        return found.T if spec.get("cells_in_rows") else found

    def table(self, spec: Mapping[str, Any]) -> pd.DataFrame:
        """A table; ``columns`` names those of a text file without a header."""
        path = self.paths[spec["file"]]
        if re.search(r"\.(csv|tsv|txt)(\.gz)?$", path.name):
            found = _text(path, names=spec.get("columns"), index_col=None if {"key", "columns"} & spec.keys() else 0)
        else:
            found = r_objects.table(self.object(spec))
        if "keep" in spec:
            found = found.query(spec["keep"], engine="python")
        if "key" in spec:
            found = found.set_axis(column(found, spec["key"]).astype(str))
        if "summary" in spec:
            found = found.groupby(level=0).agg(**{new: tuple(how) for new, how in spec["summary"].items()})
        return found


def _text(path: Path, names: Sequence[str] | None = None, **options: Any) -> pd.DataFrame:
    """A table in a text file: a comma or a tab between columns; R writes a name over the first or leaves it out."""
    separator = "," if ".csv" in path.name else "\t"
    # only the missing name of R is missing: a gene may be called NA
    options = {"dtype": str, "keep_default_na": False, "names": list(names) if names else None, **options}
    return pd.DataFrame(pd.read_csv(path, sep=separator, **options))


# --- the kinds ---------------------------------------------------------------------------------------


def _matrix(files: Files, spec: dict[str, Any]) -> tuple[Named, pd.DataFrame | None, Other]:
    rows_too = {"cells_in_rows": spec.get("cells_in_rows", False)}
    return files.matrix(spec), None, lambda other: files.matrix({**rows_too, "file": spec["file"], **other})


def _seurat(files: Files, spec: dict[str, Any]) -> tuple[Named, pd.DataFrame | None, Other]:
    whole = files.object(spec)

    def assay(other: dict[str, Any]) -> Named:
        found, layer = r_objects.at(whole, f"assays${other['assay']}"), other.get("layer", "counts")
        if not hasattr(found, "layers"):
            return r_objects.matrix(r_objects.at(found, layer))
        names = (r_objects.matrix(r_objects.at(found, axis)).rows for axis in ("features", "cells"))  # Seurat 5
        return Named(r_objects.matrix(r_objects.at(found, f"layers${layer}")).values, *names)

    return assay({"assay": "RNA", **spec}), r_objects.table(r_objects.at(whole, "meta.data")), assay


def _experiment(files: Files, spec: dict[str, Any]) -> tuple[Named, pd.DataFrame | None, Other]:
    whole, name = files.object(spec), spec.get("assay", "counts")
    if hasattr(whole, "assayData"):  # an ExpressionSet
        about = r_objects.table(r_objects.at(whole, "phenoData@data"))
        return r_objects.matrix(r_objects.at(whole, f"assayData${name}")), about, _no_other
    # before 2019 the assays were a reference class, its data in an environment
    inside = "data" if hasattr(whole.assays, "data") else ".xData@.->data"
    found = r_objects.matrix(r_objects.at(whole, f"assays@{inside}${name}"))
    about = r_objects.table(whole.colData)
    ranges = getattr(getattr(whole, "rowRanges", None), "partitioning", None)
    rows = r_objects.names_in(whole, "NAMES") or r_objects.names_in(ranges, "NAMES") or found.rows
    cells = found.columns if isinstance(about.index, pd.RangeIndex) else list(about.index)
    return Named(found.values, rows, cells), about, _no_other


def _no_other(other: dict[str, Any]) -> Named:
    raise KeyError("an experiment has no other measurement here")


def _tables(files: Files, spec: dict[str, Any]) -> tuple[Named, pd.DataFrame | None, Other]:
    found = _text(files.paths[spec["file"]], dtype={0: str}, index_col=0)
    return r_objects.matrix(found), None, _no_other


def _tenx(files: Files, spec: dict[str, Any]) -> tuple[Named, pd.DataFrame | None, Other]:
    from scipy.io import mmread

    counts, cells, rows = (files.paths[file] for file in spec["file"])
    names = [list(_text(path, header=None)[0]) for path in (rows, cells)]
    return Named(sparse.csr_matrix(mmread(counts), dtype=float), *names), None, _no_other


KINDS = {"matrix": _matrix, "seurat": _seurat, "experiment": _experiment, "tables": _tables, "10x": _tenx}
