"""Stored tables that grow piece by piece: what is there is kept, what depends on something else is made again.

A *piece* is what one fit (or one draw) gives: a few rows, told apart from others by some columns. Its *stamp* says what its
numbers depend on and its columns do not tell: weights, steps, tokens, precision, the recipe. Stamps lie in the file's own
metadata. Each piece is written as it ends, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.models.base import WEIGHTS
from scfm.store import cache, hub

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["model", "method", "dataset", "labels_per_class", "seed", "metric", "value"]
RECIPE = 2  # of the code: raised where a change of the library changes what a study would find


def weights_of(model: str | Path) -> str:
    """The hash of a model's weights, by its name or folder, without loading it; "" where there is none."""
    entry = hub.catalogue()["models"].get(str(model))
    if entry is not None:
        return str(entry["files"][WEIGHTS]["sha256"])[:12]
    path = Path(model) / WEIGHTS
    return cache.sha256(path)[:12] if path.exists() else ""


class Growing:
    """A table on disk, and what its pieces depend on.

    Parameters
    ----------
    path
        The Parquet file; it need not be there yet.
    by
        The columns that tell pieces apart.
    columns
        Of the table.
    """

    def __init__(self, path: Path, by: Sequence[str], columns: Sequence[str] = COLUMNS) -> None:
        import pandas as pd
        import pyarrow.parquet as pq

        self.path, self.by, self.columns = path, list(by), list(columns)
        self.table, self.stamps = pd.DataFrame(columns=self.columns), {}
        if path.exists():
            self.table = pd.read_parquet(path)
            self.stamps = json.loads((pq.read_schema(path).metadata or {}).get(b"stamps", b"{}"))

    def has(self, key: Sequence[Any], stamp: Mapping[str, Any]) -> bool:
        """Is this piece there, made under this stamp? Pieces from before there were stamps count as what their columns say."""
        own = self.table[self._where(key)]
        if own.empty:
            return False
        known = self.stamps.get(_name(key))
        if known is None:  # what a column tells is compared all the same
            known = {name: own[name].iloc[0] for name in stamp if name in own}
            return all(known[name] == stamp[name] for name in known)
        return known == _plain(stamp)

    def put(self, key: Sequence[Any], stamp: Mapping[str, Any], rows: Iterable[Sequence[Any]] | pd.DataFrame) -> None:
        """Write a piece, in the place of an older one; the file is whole at any time."""
        import pandas as pd

        new = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), columns=self.columns)
        parts = [part for part in (self.table[~self._where(key)], new[self.columns]) if len(part)]
        self.table = pd.concat(parts, ignore_index=True)
        self.stamps[_name(key)] = _plain(stamp)
        write(self.table, self.path, self.stamps)

    def forget_others(self, stamp_of: Callable[[tuple], Mapping[str, Any] | None]) -> None:
        """Drop the pieces that were made under another stamp than ``stamp_of(key)`` (None: not ours to judge).

        A table never mixes pieces of two settings. The file changes with the next :meth:`put`.
        """
        for key in list(self.table[self.by].drop_duplicates().itertuples(index=False, name=None)):
            stamp = stamp_of(key)
            if stamp is not None and not self.has(key, stamp):
                self.table = self.table[~self._where(key)]
                self.stamps.pop(_name(key), None)

    def _where(self, key: Sequence[Any]) -> pd.Series:
        import pandas as pd

        found = pd.Series(True, index=self.table.index)
        for column, value in zip(self.by, key, strict=True):
            found &= self.table[column] == value
        return found


def write(table: pd.DataFrame, path: Path, stamps: Mapping[str, Any]) -> None:
    """A table with its stamps in the file's metadata; all or nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.Table.from_pandas(table, preserve_index=False)
    about = (made.schema.metadata or {}) | {b"stamps": json.dumps(stamps, sort_keys=True).encode()}
    with cache.atomic_write(path) as temporary:
        pq.write_table(made.replace_schema_metadata(about), temporary)


def _name(key: Sequence[Any]) -> str:
    return "|".join(map(str, key))


def _plain(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(dict(stamp), default=str))
