"""Listed sets that nobody serves as .h5ad: made from public files that carry them, with the same counts.

An entry of data/datasets.toml with a table ``origin`` can be made this way where no folder of SCFM_CACHE holds its file:

    files     its raw files, each by repository, commit, path, git blob SHA-1 and bytes (:mod:`scfm.store.carriers`)
    content   the hash that :func:`content_hash` gives of the listed file
    all else  the recipe (:mod:`scfm.files.recipes`)

What a recipe makes is used only if its hash is that of the listed file: the same cells in the same order, the same genes, labels and
counts. So a lesson gives the same numbers with either.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.errors import DownloadError, FileFormatError
from scfm.store import cache
from scfm.store.carriers import Carrier, fetch_carrier

if TYPE_CHECKING:
    import anndata
    import pandas as pd

Entries = Mapping[str, dict[str, Any]]


def carriers(name: str, entries: Entries) -> dict[str, Carrier]:
    """The raw files of a listed set: "its name in the recipe" → file; those of sets that its recipe looks into as well."""
    origin = entries[name]["origin"]
    found = {f"{name}: {file}": Carrier(**facts) for file, facts in origin["files"].items()}
    for other in _looked_into(origin):
        found |= carriers(other, entries)
    return found


def _looked_into(origin: Mapping[str, Any]) -> list[str]:
    columns = origin.get("obs", {}).values()
    return [column["shared_with"] for column in columns if isinstance(column, dict) and "shared_with" in column]


def converted(name: str, entries: Entries, folder: Path) -> anndata.AnnData:
    """Read a set of the list from ``folder``/``name``.h5ad; if it is not there, fetch its raw files and make it first.

    Raises
    ------
    DownloadError
        If a file could not be fetched.
    FileFormatError
        If the files do not hold what the recipe expects, or give other cells, genes, labels or counts than the listed set.
    """
    from filelock import FileLock

    from scfm.files.readers import read_any

    path, entry = folder / f"{name}.h5ad", entries[name]
    if not path.exists():
        locks = cache.writable() / "carriers"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f".{name}.lock"):  # two notebooks may want the same set at once
            if not path.exists():
                return _make(name, entries, path)
    adata = read_any(path)
    if content_hash(adata, entry["columns"]) == entry["origin"]["content"]:
        return adata
    raise FileFormatError(f"{path} was changed or damaged since it was made: delete it and it is made again.")


def _make(name: str, entries: Entries, path: Path) -> anndata.AnnData:
    for half in path.parent.glob(f".{path.name}.*.part"):  # of a run that was killed
        half.unlink()
    try:
        files = {what: fetch_carrier(carrier) for what, carrier in carriers(name, entries).items()}
    except DownloadError as error:
        raise DownloadError(f"{name} cannot be made: {error}\nIn its place: {_instead(name, entries)}") from error
    try:
        adata = _cook(name, entries, files)
    except Exception as error:  # a file of another kind breaks a reader in any way
        raise FileFormatError(_other(name, files.values(), f"{type(error).__name__}: {error}")) from error
    if content_hash(adata, entries[name]["columns"]) != entries[name]["origin"]["content"]:
        why = f"{adata.n_obs:,} cells and {adata.n_vars:,} genes came of it"
        raise FileFormatError(_other(name, files.values(), why))
    with cache.atomic_write(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
    return adata


def _instead(name: str, entries: Entries) -> str:
    """What to take where a set cannot be had: its fallback, sets of the same tissue and role, or that which everybody has."""
    entry = entries[name]
    if "fallback" in entry:
        return f"scfm.load_dataset({entry['fallback']!r}), of the same cells or study."
    tissue, split = entry["tissue"].split()[0].strip(","), entry["split"]
    near = [n for n, e in entries.items() if n != name and e["tissue"].startswith(tissue) and e["split"] == split]
    return f"{' or '.join(near[:3])}, of the same tissue." if near else "pbmc68k, which comes with the course."


def _cook(name: str, entries: Entries, files: Mapping[str, Path]) -> anndata.AnnData:
    from scfm.files.recipes import build

    def cook(one: str) -> tuple[anndata.AnnData, pd.DataFrame]:
        origin = entries[one]["origin"]
        return build(one, origin, {what: files[f"{one}: {what}"] for what in origin["files"]}, frame_of)

    @functools.cache
    def frame_of(other: str) -> pd.DataFrame:
        return cook(other)[1]

    return cook(name)[0]


def _other(name: str, files: Iterable[Path], why: str) -> str:
    names = ", ".join(path.name.partition("-")[2] for path in dict.fromkeys(files))
    return (
        f"{name} could not be made from {names}: though these are the listed files, the cells, genes, labels and counts of the listed "
        f"set did not come of them ({why}). Another version of a package may read them differently: `make doctor` compares "
        "yours with the tested ones. In its place: another set (scfm.list_datasets() shows them)."
    )


def content_hash(adata: anndata.AnnData, columns: dict[str, str]) -> str:
    """SHA-256 of what a lesson sees of a set: names of cells and genes, the labels in ``columns``, the counts; in order."""
    from scipy import sparse

    digest = hashlib.sha256()
    for words in (
        adata.obs_names,
        adata.var_names,
        adata.var["gene_symbol"],
        *(adata.obs[columns[role]] for role in sorted(columns)),
    ):
        digest.update("\n".join(map(str, words)).encode() + b"\0")
    matrix = sparse.csr_matrix(adata.X)
    matrix.sort_indices()
    matrix.eliminate_zeros()
    for values, kind in ((matrix.indptr, "<i8"), (matrix.indices, "<i4"), (matrix.data, "<f4")):
        digest.update(np.ascontiguousarray(values, dtype=kind).tobytes())
    return digest.hexdigest()
