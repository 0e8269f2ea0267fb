"""A lesson's scores, draw by draw, on their way to the leaderboard: ``record.scores(table, roles=…, key=…)``.

A recorded result is a number for people; a leaderboard needs every draw, to pair the methods that saw the same cells. So the
long table goes into a file beside the run card.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coursekit.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

FILE = "scores.parquet"
PLACE = "COURSEKIT_SCORES"  # the environment variable with the file's path; absent outside a run
COLUMNS = ("model", "method", "dataset", "labels_per_class", "seed", "metric", "value")
ROLES = ("model", "baseline", "twin", "control")
UNIT = [name for name in COLUMNS if name != "value"]  # what must be there only once


def in_form(
    table: pd.DataFrame,
    roles: Mapping[str, str],
    key: Sequence[str],
    lower_is_better: Sequence[str] = (),
    cost: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The scores in long form, with the columns role, better, key, and ms_per_cell where ``cost`` tells it.

    ``table`` has the columns of ``COLUMNS``; ``seed`` is the draw, and all methods of one draw saw the same cells and labels.
    ``roles``: method → "model", "baseline", "twin" (untrained or half-trained) or "control". ``key``: the metrics that decide.
    ``cost``: columns dataset, method, cells, seconds.

    Raises ValueError for a missing column, role or metric, a value that is no finite number, and a score that comes twice.
    """
    import numpy as np

    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise ValueError(f"record.scores: the table has no column {', '.join(lacking)}; it needs {', '.join(COLUMNS)}.")
    found = table[list(COLUMNS)].reset_index(drop=True)
    found["value"] = found["value"].astype(float)
    if problem := _refused(found, roles, key, lower_is_better):
        raise ValueError(f"record.scores: {problem}")
    found["role"] = found["method"].map(dict(roles))
    found["better"] = np.where(found["metric"].isin(list(lower_is_better)), "lower", "higher")
    found["key"] = found["metric"].isin(list(key))
    found["ms_per_cell"] = np.nan
    if cost is not None:
        per_cell = (1000 * cost["seconds"] / cost["cells"]).groupby([cost["dataset"], cost["method"]]).median()
        wanted = list(zip(found["dataset"], found["method"], strict=True))
        found["ms_per_cell"] = [per_cell.get(pair, np.nan) for pair in wanted]
    return found


def _refused(found: pd.DataFrame, roles: Mapping[str, str], key: Sequence[str], lower_is_better: Sequence[str]) -> str:
    """What is wrong with scores, in words; "" where nothing is."""
    import numpy as np

    homeless = sorted(set(found["method"]) - set(roles))
    strange = sorted({role for role in roles.values() if role not in ROLES})
    if homeless or strange:
        what = f"no role for {', '.join(homeless)}" if homeless else f"no role is called {', '.join(strange)}"
        return f"{what}. A method is one of: {', '.join(ROLES)}."
    unknown = sorted({*key, *lower_is_better} - set(found["metric"]))
    if unknown or not key:
        what = f"no metric {', '.join(unknown)}" if unknown else "key names no metric"
        return f"{what}; the table has {', '.join(sorted(set(found['metric'])))}."
    for wrong, said in (
        (~np.isfinite(found["value"]), lambda row: f"is {row['value']}; a score is a finite number."),
        (found.duplicated(UNIT), lambda row: "comes twice."),
    ):
        if wrong.any():
            row = found.loc[wrong].iloc[0]
            return f"{row['metric']} of {row['method']} on {row['dataset']}, draw {row['seed']}, {said(row)}"
    return ""


def keep(found: pd.DataFrame) -> bool:
    """Add scores in form to the run's file; False outside a run, where there is none."""
    import pandas as pd

    place = os.environ.get(PLACE)
    if not place:
        return False
    path = Path(place)
    if path.is_file():
        found = pd.concat([pd.read_parquet(path), found], ignore_index=True)
        if found.duplicated(UNIT).any():
            raise ValueError("record.scores: some of these scores were recorded before in this run.")
    with atomic_write(path) as temporary:
        found.to_parquet(temporary, index=False)
    return True
