"""The stored tables of ``data/results``: what lessons and boards read, in long form."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from scfm.store import cache

if TYPE_CHECKING:
    import pandas as pd


def results_path(name: str) -> Path:
    """Where the table of this name lies, or would lie."""
    return cache.repo_data() / "results" / f"{name}.parquet"


def results(name: str) -> pd.DataFrame:
    """A stored table, for example ``scfm.results("ladder")``.

    Returns a DataFrame in long form; most have the columns model, method, dataset, labels_per_class, seed, metric, value.

    Raises
    ------
    FileNotFoundError
        There is no table of this name; the message lists those that are there.
    """
    import pandas as pd

    path = results_path(name)
    if not path.exists():
        known = sorted(file.stem for file in path.parent.glob("*.parquet"))
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise FileNotFoundError(f"There is no stored table {name!r}.{hint} There are: {', '.join(known)}.")
    return pd.read_parquet(path)
