"""Does the foundation model beat the baseline? From the scores of many runs to one table, its intervals and its tests.

Every comparison is paired: model and rival saw the same cells and the same labels in each draw. A result that speaks against the
model stays in the table like any other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coursekit.course import CourseError
from coursekit.files import atomic_write
from coursekit.lesson import scores
from coursekit.lesson.recording import number
from coursekit.run import card as cards

if TYPE_CHECKING:
    import pandas as pd

    from scfm.stats import Interval

COSTS = (
    "ms_per_cell",
    "run_seconds",
    "run_memory_bytes",
    "model_ms",
    "rival_ms",
)  # what a clock says: never twice the same
TIDY = (*scores.COLUMNS, "lesson", "setting", "run_seed", "role", "better", "key", *COSTS[:3], "device", "run")
GROUP = ["lesson", "setting", "model", "dataset", "labels_per_class", "metric"]
OF_DATASET = ("label", "batch")
AXES = (
    "dataset",
    "model",
    "seed",
    "labels_per_class",
    *OF_DATASET,
)  # parameters that have columns, or go with the dataset
RECORDED = "recorded"  # the role of results recorded as numbers, without draws: in the table, not on the board
N_FLIPS = 10_000
LEVEL = 0.05


# --- gathering ------------------------------------------------------------------------------------------


def gather(folders: Iterable[Path]) -> pd.DataFrame:
    """One tidy table of the runs in ``folders`` (each with card.json, and scores.parquet where the lesson keeps scores).

    A lesson without scores gives its recorded numbers: metric is the result's name, method the key within it. ``setting`` names
    the further parameters in which runs of a lesson differ, all those of ``folders`` compared. Rows are sorted by what they say, so that the order of the runs
    leaves no trace.
    """
    import pandas as pd

    found = [(folder, cards.read(folder)) for folder in folders]
    settings = _settings([card for _, card in found])
    tables = [_of_run(folder, card, setting) for (folder, card), setting in zip(found, settings, strict=True)]
    tables = [table for table in tables if len(table)]
    from scfm.datasets import short_names

    if not tables:
        return pd.DataFrame(columns=list(TIDY))
    whole = pd.concat(tables, ignore_index=True)
    whole["dataset"] = whole["dataset"].map(short_names(set(whole["dataset"])))
    order = ["lesson", "setting", "model", "dataset", "labels_per_class", "metric", "method", "run_seed", "seed", "run"]
    return whole.sort_values(order, kind="stable", ignore_index=True)[list(TIDY)]


def _settings(found: list[dict[str, Any]]) -> list[str]:
    """The parameters of each card that are no AXES and differ from another card's; label and batch only on one dataset."""
    values: dict[tuple[str, ...], set[str]] = {}
    for card in found:
        for name, value in card["parameters"].items():
            values.setdefault(_compared(card, name), set()).add(str(value))
    return [
        ", ".join(
            f"{name} {value}"
            for name, value in card["parameters"].items()
            if (name not in AXES or name in OF_DATASET) and len(values[_compared(card, name)]) > 1
        )
        for card in found
    ]


def _compared(card: dict[str, Any], name: str) -> tuple[str, ...]:
    """Among which cards a parameter's values are compared."""
    return card["lesson"], name, *([str(card["parameters"].get("dataset"))] if name in OF_DATASET else [])


def _of_run(folder: Path, card: dict[str, Any], setting: str) -> pd.DataFrame:
    import pandas as pd

    path = folder / scores.FILE
    table = pd.read_parquet(path) if path.is_file() else _recorded(card)
    given = card["parameters"]
    return table.assign(
        lesson=card["lesson"],
        setting=setting,
        run_seed=int(given.get("seed") or 0),
        run_seconds=float(card["seconds"]),
        run_memory_bytes=int(card["peak_memory_bytes"]),
        device=", ".join(card["device"]["gpus"]) or card["device"]["cpu"],
        run=card.get("grid", {}).get("key", folder.name),
    )


def _recorded(card: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    given = card["parameters"]
    rows = []
    for name, entry in card["results"].items():
        values = entry["value"] if isinstance(entry["value"], dict) else {"": entry["value"]}
        rows += [(method, name, float(v)) for method, plain in values.items() if (v := number(plain)) is not None]
    table = pd.DataFrame(rows, columns=["method", "metric", "value"])
    return table.assign(
        model=str(given.get("model") or ""),
        dataset=str(given.get("dataset") or ""),
        labels_per_class=int(given.get("labels_per_class") or 0),
        seed=0,
        role=RECORDED,
        better="higher",
        key=False,
        ms_per_cell=np.nan,
    )


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as Parquet, whole or not at all."""
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)
    return path


# --- comparing ------------------------------------------------------------------------------------------


def compare(tidy: pd.DataFrame) -> pd.DataFrame:
    """Each model against each of its rivals, on the metrics that decide; one row per comparison.

    Columns: GROUP, method, rival, rival_role, strongest (is it the baseline with the best mean?), model_mean, rival_mean, gain
    with low and high (95 % t interval; positive: the model is better, also where a low value is good), p (sign flips of the paired
    differences), p_holm (corrected for all comparisons of the table), verdict, too_few_draws (undecided by the test alone, which so
    few draws could not have passed), n_seeds, n_draws, and what it cost.

    The interval is over all draws; from three runs (seeds) on over the runs' means, where that is wider: runs may disagree.
    """
    import pandas as pd

    deciding = tidy[tidy["key"] & (tidy["role"] != RECORDED)]
    found = [
        dict(zip(GROUP, group, strict=True)) | row
        for group, part in deciding.groupby(GROUP, sort=True, observed=True)
        for row in _comparisons(part)
    ]
    table = pd.DataFrame(found)
    if len(table):
        table["p_holm"] = holm(table["p"].to_numpy())
        rows = list[Any](table.itertuples())
        table["verdict"] = [verdict(row.low, row.high, row.p_holm) for row in rows]
        apart = np.array([verdict(row.low, row.high, 0.0) != "undecided" for row in rows])
        powerless = len(table) * np.array([least_p(row.n_draws) for row in rows]) >= LEVEL
        table["too_few_draws"] = (table["verdict"] == "undecided") & apart & powerless
    return table


def _comparisons(part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Each model against each rival, in the rows of one lesson, setting, model, dataset, number of labels and metric."""
    sign = -1.0 if part["better"].iloc[0] == "lower" else 1.0
    roles = part.drop_duplicates("method").set_index("method")["role"]
    ms = part.groupby("method")["ms_per_cell"].median()
    wide = part.pivot_table(index=["run_seed", "seed"], columns="method", values="value", aggfunc="mean")
    means = wide.mean()
    rivals = [m for m in roles.index if roles[m] in ("baseline", "twin")]
    best = max((m for m in rivals if roles[m] == "baseline"), key=lambda m: (sign * means[m], m), default=None)
    for method, rival in itertools.product((m for m in roles.index if roles[m] == "model"), rivals):
        gains = (sign * (wide[method] - wide[rival])).dropna()
        if gains.empty:
            continue
        found = _interval(gains)
        yield {
            "method": method,
            "rival": rival,
            "rival_role": roles[rival],
            "strongest": rival == best,
            "model_mean": means[method],
            "rival_mean": means[rival],
            "gain": found.mean,
            "low": found.low,
            "high": found.high,
            "p": sign_flips(gains.to_numpy()),
            "n_seeds": gains.index.get_level_values(0).nunique(),
            "n_draws": len(gains),
            "model_ms": ms[method],
            "rival_ms": ms[rival],
            "run_seconds": part.groupby("run")["run_seconds"].first().median(),
            "run_memory_bytes": part["run_memory_bytes"].max(),
        }


def _interval(gains: pd.Series) -> Interval:
    """Of paired differences by run and draw: over all draws, or over the means of three runs and more where that is wider."""
    from scfm.stats import FEWEST_GROUPS, interval

    over_draws, runs = interval(gains.to_numpy()), gains.groupby(level=0).mean().to_numpy()
    if len(runs) < FEWEST_GROUPS:
        return over_draws
    over_runs = interval(runs)
    return max(over_draws, over_runs, key=lambda found: found.high - found.low)


def sign_flips(differences: np.ndarray, n: int = N_FLIPS, seed: int = 0) -> float:
    """Two-sided p of a paired randomization test: how often is the mean as far from 0 when each sign is tossed?

    Exact up to 13 differences, else by ``n`` random tosses (Fisher; Phipson & Smyth 2010, 10.2202/1544-6115.1585).
    """
    size = len(differences)
    if size <= 13:
        signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * size)).reshape(size, -1).T
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (n, size))
    means = np.abs(signs @ differences) / size
    rounding = 1e-12 * np.abs(differences).max()  # a fixed one would swallow tiny differences
    as_far = means >= abs(differences.mean()) - rounding
    return float(as_far.mean()) if size <= 13 else float((1 + as_far.sum()) / (1 + n))


def least_p(n: int) -> float:
    """The least p that :func:`sign_flips` can give for ``n`` differences: that of all signs alike."""
    return 2.0 ** (1 - n) if n <= 13 else 1 / (1 + N_FLIPS)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number (Holm 1979): the chance of even one false discovery stays below the level."""
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p, method="holm")[1])


def verdict(low: float, high: float, p_holm: float) -> str:
    """better or worse where interval and corrected test both say so; else undecided."""
    from scfm.stats import Interval

    return "undecided" if p_holm >= LEVEL else Interval((low + high) / 2, low, high).verdict()


def over_datasets(table: pd.DataFrame) -> pd.DataFrame:
    """The strongest-baseline comparisons summed over datasets: the question that draws from one set cannot answer.

    Columns: lesson, setting, model, method, labels_per_class, metric, n_datasets, better, undecided, worse, gain (mean over datasets), and
    from 6 datasets on low, high (t over datasets) and p (Wilcoxon's signed ranks); with fewer no test can decide.
    """
    import pandas as pd
    from scipy.stats import wilcoxon

    from scfm.stats import interval

    rows = []
    by = ["lesson", "setting", "model", "method", "labels_per_class", "metric"]
    for group, part in table[table["strongest"]].groupby(by, sort=True) if len(table) else []:
        tally = part["verdict"].value_counts()
        gains = part["gain"].to_numpy()
        enough = len(gains) >= 6
        found = interval(gains)
        rows.append(
            dict(zip(by, group, strict=True))
            | {"n_datasets": len(gains)}
            | {word: int(tally.get(word, 0)) for word in ("better", "undecided", "worse")}
            | {
                "gain": found.mean,
                "low": found.low if enough else np.nan,
                "high": found.high if enough else np.nan,
                "p": float(wilcoxon(gains).pvalue) if enough and np.any(gains) else np.nan,
            }
        )
    return pd.DataFrame(rows)


# --- from the grids to the board ---------------------------------------------------------------------


def results_of(root: Path, names: Sequence[str] = ()) -> pd.DataFrame:
    """The results of the grids ``names`` (all that have been run) in one table; where two runs answer the same, the later grid's counts.

    The runs are gathered anew, all at once: parameters that are the same throughout one grid may tell it from another.
    Raises CourseError where there are no results, and where runs are gone.
    """
    home = root / "runs" / "grid"
    files = [home / n / "results.parquet" for n in names] or list(home.glob("*/results.parquet"))
    lost = [path.parent.name for path in files if not path.is_file()]
    if lost or not files:
        which = f"The grid {', '.join(lost)} has no results" if lost else "No grid has been run"
        raise CourseError(f"{which} yet. Run one: make grid GRID=workflow/grids/quick.yaml")
    files.sort(key=lambda path: (path.stat().st_mtime_ns, path))
    folders: dict[Path, None] = {}
    for path in files:
        own = _folders_of(path, home / "store")
        folders = {folder: None for folder in folders if folder not in own} | dict.fromkeys(own)
    whole = gather(folders)
    later = {folder.name: place for place, folder in enumerate(folders)}
    whole = whole.sort_values("run", key=lambda runs: runs.map(later), kind="stable")
    # Whole runs, not single draws: an older run with more draws must not fill up a later one
    same = ["lesson", "setting", "run_seed", "model", "dataset", "labels_per_class"]
    whole = whole[whole["run"] == whole.groupby(same, dropna=False)["run"].transform("last")]
    return whole.sort_values([*GROUP, "method", "run_seed", "seed"], kind="stable", ignore_index=True)


def _folders_of(results: Path, store: Path) -> list[Path]:
    """The folders of the runs that a grid's results came from."""
    import pandas as pd

    table = pd.read_parquet(results, columns=["lesson", "run"]).drop_duplicates()
    folders = [store / lesson / run for lesson, run in zip(table["lesson"], table["run"], strict=True)]
    gone = sum(not cards.complete(folder) for folder in folders)
    if gone:
        name = results.parent.name
        raise CourseError(f"{gone} of the grid {name}'s {len(folders)} runs are gone from {store}. Run: make grid")
    return folders
