"""Datasets by name or from a file, always in the same form: raw counts of human genes, cells in the rows.

    adata = scfm.load_dataset("pbmc68k")          # a name of data/datasets.toml
    adata = scfm.load_dataset("my_cells.h5ad")    # or a file of your own

The form that everything else in the course relies on:

- ``X``: CSR float32 of whole numbers, cells x genes
- ``obs``: ``cell_type``, ``batch``, ``condition`` (categories; "unknown" where not known), ``n_counts`` (of the whole cell,
  before any gene was dropped), ``donor`` where known; the file's own columns stay beside them;
  where Geneformer's ``filter_pass`` is among these, only its cells with 1 are there
- ``var``: ``ensembl_id`` ("" where not known), ``gene_symbol``; a unique index
- ``uns["scfm"]``: name, source, sha256, licence, citation, and what was done to the genes
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import logging
import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.errors import (
    ColumnError,
    DatasetError,
    DownloadError,
    FileFormatError,
    GeneNameError,
    NotCountsError,
    UnknownDatasetError,
)
from scfm.files.form import UNKNOWN, in_form
from scfm.files.technology import simulate_batch
from scfm.store import cache

if TYPE_CHECKING:
    import anndata
    import pandas as pd

__all__ = [
    "ColumnError",
    "DatasetError",
    "DownloadError",
    "FileFormatError",
    "GeneNameError",
    "NotCountsError",
    "UnknownDatasetError",
    "at_hand",
    "entries",
    "list_datasets",
    "load_dataset",
    "short_names",
    "simulate_batch",
    "split_names",
]

log = logging.getLogger("scfm")

NOT_HERE = "not here (a file of SCFM_CACHE)"
CONVERTED = "converted"  # the folder of a cache folder that holds what was made of downloads


@functools.lru_cache(maxsize=1)
def entries() -> dict[str, dict[str, Any]]:
    """The list of datasets (data/datasets.toml): name → its entry."""
    with (cache.repo_data() / "datasets.toml").open("rb") as file:
        return tomllib.load(file)


def list_datasets() -> pd.DataFrame:
    """All datasets by name: what each is, how large, under which licence, and whether it is at hand."""
    import pandas as pd

    fields = ("title", "tissue", "cells", "genes", "counts", "split", "bytes", "licence", "citation", "doi")
    rows = {
        name: {"availability": _availability(entry), **{field: entry.get(field) for field in fields}}
        for name, entry in entries().items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["megabytes"] = (table.pop("bytes").astype(float) / 1e6).round(1)
    return table.astype({"cells": "Int64", "genes": "Int64"}).rename_axis("name")


def _availability(entry: dict[str, Any]) -> str:
    source = entry["source"]
    if source in ("bundled", "simulated"):
        return "bundled"
    if source == "subset":
        return _availability(entries()[entry["of"]])
    if cache.find(entry["file"] if source == "cache" else f"downloads/{entry['file']}"):
        return "in cache"
    if "origin" in entry:
        made = cache.find(f"{CONVERTED}/{Path(entry['file']).name}")
        return "in cache" if made else "download (converted here)"
    if source == "cache":
        return NOT_HERE
    return "download" if source == "download" else "download (needs cellxgene-census)"


def _replacement(name: str) -> str | None:
    """What is loaded for a name: itself, its fallback where its file is nowhere, or None where nothing can be."""
    entry = entries().get(name)
    if entry is None or _availability(entry) != NOT_HERE:
        return name
    return entry.get("fallback")


def places(name: str) -> list[str]:
    """Where the files that a listed set is read from lie in a cache folder; [] for one that comes with the course."""
    entry = entries()[name]
    if entry["source"] in ("bundled", "simulated"):
        return []
    if entry["source"] == "subset":
        return places(entry["of"])
    if entry["source"] == "cache":
        made = "origin" in entry and not cache.find(entry["file"])
        return [f"{CONVERTED}/{name}.h5ad" if made else entry["file"]]
    files = [entry["file"], *([entry["labels"]["file"]] if "labels" in entry else [])]
    return [f"downloads/{file}" for file in files]


def load_dataset(
    name_or_path: str | Path, label: str | None = None, batch: str | None = None, seed: int = 0
) -> anndata.AnnData:
    """Load a dataset by name, or a file, as raw counts in the course's form (see the top of this module).

    ``label``, ``batch``: columns of the file's ``obs`` to use as ``cell_type`` and ``batch``. ``seed``: for what is drawn at
    random (the simulated batch, a slice of the Census).

    Raises
    ------
    UnknownDatasetError
        If there is no such name and no such file; close names are given.
    NotCountsError, GeneNameError, FileFormatError, ColumnError, DownloadError
        If the file does not hold raw counts of human genes, cannot be read, lacks the column, or could not be fetched.
    """
    name = str(name_or_path)
    entry = entries().get(name)
    if entry is None:
        path = Path(name_or_path).expanduser()
        if not path.exists():
            raise UnknownDatasetError(_not_found(name))
        from scfm.files.readers import read_any

        entry = {"title": path.name, "source": "file", "file": str(path), "licence": UNKNOWN, "citation": UNKNOWN}
        adata = in_form(read_any(path), path.name.split(".")[0], entry, cache.sha256(path), label, batch)
    elif entry["source"] == "simulated":
        base = entries()[entry["of"]]
        raw, sha256 = _read_entry(entry["of"], base, seed)
        adata = simulate_batch(in_form(raw, entry["of"], base, sha256, label, batch), seed)
        adata.uns["scfm"] |= {"name": name, "title": entry["title"], "citation": entry["citation"]}
    elif entry["source"] == "subset":
        base = entries()[entry["of"]]
        raw, sha256 = _read_entry(entry["of"], base, seed)
        always = np.random.default_rng(0)  # the set is one, whatever the seed
        drawn = np.sort(always.permutation(raw.n_obs)[: entry["cells"]])
        adata = in_form(raw[drawn].copy(), name, {**base, **entry, "file": base["file"]}, sha256, label, batch)
    elif (instead := _replacement(name)) not in (name, None):
        log.warning("%s is in no folder of SCFM_CACHE; %s is loaded instead: %s", name, instead, entry["notes"])
        return load_dataset(instead, label, batch, seed)
    else:
        raw, sha256 = _read_entry(name, entry, seed)
        adata = in_form(raw, name, entry, sha256, label, batch)
    cache.announce("dataset", adata.uns["scfm"]["name"], adata.uns["scfm"]["sha256"])
    return adata


def at_hand(names: Sequence[str], exact: bool = False) -> list[str]:
    """What can be loaded for these names: the set itself, or its fallback; a warning says what was replaced or left out.

    ``exact``: nothing in the place of another, for work that keeps its results under a set's name. A name that is not listed (a
    file's) is returned as it is.

    Raises
    ------
    DatasetError
        If none can be loaded.
    """
    found = []
    for name in names:
        instead = _replacement(name)
        if instead is None or (exact and instead != name):
            log.warning("%s is left out: it is in no folder of SCFM_CACHE and cannot be downloaded.", name)
            continue
        if instead != name:
            log.warning(
                "%s is in no folder of SCFM_CACHE and cannot be downloaded; %s is taken instead.", name, instead
            )
        found.append(instead)
    if not found:
        raise DatasetError(f"None of these sets can be loaded: {', '.join(names)}. scfm.list_datasets() says what can.")
    return found


def split_names(names: str, start: Path | None = None) -> list[str]:
    """The datasets that ``names`` joins by +, as in "pbmc68k+my_cells.h5ad": names of the list, or files seen from ``start``.

    A + that belongs to the name of a file or folder that is there (CD4+_cells.h5ad) stays in it.
    """
    words, found = names.split("+"), []
    while words:
        lengths = range(len(words), 1, -1)
        n = next((n for n in lengths if _is_there(start, "+".join(words[:n]))), 1)
        found.append("+".join(words[:n]))
        words = words[n:]
    return found


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Datasets as a reader sees them: of a file its name, with as much of its folder as tells it from the others."""
    whole = list(dict.fromkeys(names))
    short = {}
    for name in whole:
        parts = Path(name).parts
        others = [Path(other).parts for other in whole if other != name]
        for n in range(1, len(parts) + 1):
            if all(other[-n:] != parts[-n:] for other in others):
                break
        short[name] = "/".join(parts[-n:]) if len(parts) > 1 else name
    return short


def _is_there(start: Path | None, name: str) -> bool:
    return os.path.exists((start or Path()) / Path(name).expanduser())  # False also for a name too long for a file


def _not_found(name: str) -> str:
    near = difflib.get_close_matches(name, entries(), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    if Path(name).suffix or "/" in name:
        return f"There is no file {name} (seen from {Path.cwd()}).{hint} scfm.list_datasets() shows the sets known by name."
    return f"There is no dataset named {name!r} and no such file.{hint} scfm.list_datasets() shows all names."


# --- where the listed sets come from ----------------------------------------------------------------


def _read_entry(name: str, entry: dict[str, Any], seed: int) -> tuple[anndata.AnnData, str]:
    """Read a listed set as its file holds it, and the sha256 of the file."""
    from scfm.files.readers import read_any

    if entry["source"] == "bundled":
        path = _bundled(entry["file"])
        sha256 = cache.sha256(path)
        if sha256 != entry["sha256"]:
            log.warning(
                "%s differs from the file this course was tested with (another scanpy); its counts are checked.", name
            )
        return _recover_pbmc68k(path), sha256
    if entry["source"] == "cache" and "origin" in entry and not cache.find(entry["file"]):
        return _converted(name), entry["sha256"]  # the same content, so it goes by the listed file's hash
    if entry["source"] == "cache":
        path = _in_cache(name, entry)
    elif entry["source"] == "census":
        path = _census(entry, seed)
    else:
        path = _fetch(entry)
    adata = read_any(path)
    if "labels" in entry:
        column = entry["labels"]["column"]
        adata.obs[column] = _read_labels(_fetch(entry["labels"]), entry["labels"]).reindex(adata.obs_names).to_numpy()
    return adata, cache.sha256(path)


def _bundled(file: str) -> Path:
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)  # finding costs nothing, importing scanpy two seconds
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.exists():
        raise DatasetError(
            f"{file} comes with the package {package}, which lacks it or is not installed: pip install {package}"
        )
    return path


def _in_cache(name: str, entry: dict[str, Any]) -> Path:
    path = cache.find(entry["file"])
    if path is None:
        looked = ", ".join(map(str, cache.folders())) or "no folder"
        raise DatasetError(
            f"{name} ({entry['citation']}) is not downloaded: put the file of its card, data/cards/{name}.md, as {entry['file']} into "
            f"a folder that SCFM_CACHE names (looked in: {looked}), or take a set that is bundled or downloaded "
            "(scfm.list_datasets() shows them; kang is one), or a file of your own."
        )
    if cache.sha256(path) != entry["sha256"]:
        raise FileFormatError(
            f"{path} is not the file that is listed as {name} (sha256 {entry['sha256']} expected, {cache.sha256(path)} "
            "found): changed or damaged. Copy it again, or give its path to load it as a file of your own."
        )
    return path


def _converted(name: str) -> anndata.AnnData:
    from scfm.files.convert import converted

    found = cache.find(f"{CONVERTED}/{name}.h5ad")
    folder = found.parent if found else cache.writable() / CONVERTED
    return converted(name, entries(), folder)


def _downloads(file: str) -> Path:
    """The downloads folder that has the file, else the one that takes new files."""
    found = cache.find(f"downloads/{file}")
    return found.parent if found else cache.writable() / "downloads"


def _fetch(entry: dict[str, Any]) -> Path:
    from scfm.store.download import fetch

    file = entry["file"]
    return fetch(file, entry["urls"], _downloads(file), sha256=entry.get("sha256"), md5=entry.get("md5"))


def _census(entry: dict[str, Any], seed: int) -> Path:
    from scfm.files.census import slice_census
    from scfm.store.download import fetch

    file = entry["file"] if seed == 0 else entry["file"].replace(".h5ad", f"_seed{seed}.h5ad")
    folder = _downloads(file)
    if not (folder / file).exists():
        adata = slice_census(entry, seed)
        with cache.atomic_write(folder / file) as path:
            adata.write_h5ad(path)
    return fetch(file, [], folder)  # checks against the record of the first time, or makes it


def _read_labels(path: Path, entry: dict[str, Any]) -> pd.Series:
    import pandas as pd

    if path.suffix == ".h5ad":
        import h5py
        from anndata.io import read_elem

        with h5py.File(path) as file:
            return read_elem(file["obs"])[entry["column"]].astype(str)
    return pd.read_csv(path, sep="\t", dtype=str).set_index(entry["key"])[entry["column"]]


def _recover_pbmc68k(path: Path) -> anndata.AnnData:
    """Undo scanpy's preprocessing: raw = log1p(counts / n_counts * 10,000), stored to three decimals.

    A rounding of ±0.0005 in raw is one of ±0.0005 (count + n_counts / 10,000) in the count: further off, it was not counts.
    """
    import anndata

    from scfm.files.readers import read_any

    stored = read_any(path)
    logged = stored.raw.X.tocsr().astype(np.float64)
    scale = np.repeat(stored.obs["n_counts"].to_numpy(np.float64) / 1e4, np.diff(logged.indptr))
    recovered = np.expm1(logged.data) * scale
    off = np.abs(recovered - np.rint(recovered))
    if (off > 0.0006 * (recovered + scale) + 1e-3).any() or off.max() > 0.25:
        raise NotCountsError(
            f"The counts of pbmc68k could not be recovered from {path.name}: some are {off.max():.2f} away from a whole number. "
            "This scanpy bundles another file than the course knows; install the version of requirements.lock."
        )
    logged.data = np.rint(recovered)
    return anndata.AnnData(
        X=logged.astype(np.float32), obs=stored.obs[["bulk_labels", "n_counts"]], var=stored.raw.var[[]].copy()
    )
