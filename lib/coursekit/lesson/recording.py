"""``record("name", value)``: a result goes into the notebook as data, not as printed text, and from there into the run card."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MIME = "application/vnd.coursekit.record+json"
MAX_VALUES = 2_000
HEADLINE = "headline"  # the name under which record.headline records
AHEAD = {"model": "the model is ahead", "baseline": "*the baseline is ahead*", "undecided": "undecided"}
SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # JSON has no words for these numbers


_quiet = False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """For as long as the block runs nothing is recorded, and no exercise is checked: someone catches up (lesson/resume.py)."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Whether the code that runs is none of the reader's own."""
    return _quiet


class Recorder:
    """Call it to record a result; ``record.used`` notes a dataset or a checkpoint that scfm did not load."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __call__(self, name: str, value: Any, tolerance: float | str | None = None, key: bool = False) -> None:
        """Record one result of the lesson under a name that is unique within it.

        ``value``: number, bool, string, list, dict, numpy scalar or array, pandas Series (a dict) or DataFrame (a dict for each
        row, with the index where it is more than the number of the row).
        ``tolerance``: a number (absolute), "5%" (relative), "any" (never compared) or None (see coursekit.run.compare).
        ``key``: show it in the table at the end of ``make course``.
        Raises ValueError for a bad name, a name used twice in one run or a key twice in a value, TypeError for a value that is no result.
        """
        if _quiet:
            return
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ValueError(f"record: {name!r} is no name. Use letters, digits, _ . - and begin with a letter.")
        # By hand in Jupyter a cell is often run again: then the new value simply takes the place of the old one.
        if name in self._names and os.environ.get("COURSEKIT_RUN"):
            raise ValueError(f"record: {name!r} has been recorded before in this run. Every result needs its own name.")
        plain = to_plain(value, name)
        parse_tolerance(tolerance)
        self._names.add(name)
        data = {"name": name, "value": plain, "tolerance": tolerance, "key": bool(key)}
        if os.environ.get("COURSEKIT_RUN") or not _in_a_notebook():  # a reader has enough to read
            show_bundle({MIME: data, "text/plain": f"recorded  {name} = {in_words(plain)}"})

    def headline(
        self,
        what: str,
        interval: Any,
        lower_is_better: bool = False,
        stored: bool = False,
        cells: str = "",
        varies: str = "draws",
    ) -> None:
        """The lesson's one result for the README's table: ``what`` it is in words, and its mean with the interval.

        ``interval`` has ``mean``, ``low`` and ``high`` (scfm.stats.Interval); None where the lesson has no result that could be read as
        a verdict, and ``what`` says why. Called once, with a difference between the model and its best simple rival where the lesson has
        one; ``lower_is_better`` where it is one of errors. ``stored``: it is not of this run, but of a study whose table comes with the
        course. ``cells``: of which data, and after how much training. ``varies``: what the interval is over (draws, sets, seeds).
        """
        from scfm.stats import Interval

        entry: dict[str, Any] = {"what": what, "stored": stored, "cells": cells}
        if interval is not None:
            found = Interval(interval.mean, interval.low, interval.high).verdict(lower_is_better=lower_is_better)
            ahead = {"better": "model", "worse": "baseline"}.get(found, found)
            entry |= {
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "ahead": ahead,
                "varies": varies,
            }
        self(HEADLINE, entry, tolerance="any")

    def scores(self, table: Any, roles: Any, key: Any, lower_is_better: Any = (), cost: Any = None) -> None:
        """Hand every score, draw by draw, to the leaderboard (``make grid``, ``make board``).

        ``table``: long, columns model, method, dataset, labels_per_class, seed, metric, value. ``roles``: method → "model",
        "baseline", "twin" or "control". ``key``: the metrics that decide. See :func:`coursekit.lesson.scores.in_form`.
        """
        from coursekit.lesson.scores import in_form, keep

        found = in_form(table, roles, key, lower_is_better, cost)
        if not _quiet and keep(found):
            print(f"{len(found):,} scores kept for the leaderboard.")

    def used(self, kind: str, name: str, sha256: str, **more: Any) -> None:
        """Note a dataset or model (``kind``) that this run used and scfm did not load, with the hash of its file.

        As scfm does by itself: one JSON line in the file that SCFM_PROVENANCE names, if it names one.
        """
        path = os.environ.get("SCFM_PROVENANCE")
        if path:
            with open(path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps({"kind": kind, "name": name, "sha256": sha256, **more}) + "\n")


def to_plain(value: Any, name: str = "value") -> Any:
    """``value`` as plain JSON: numpy and pandas unpacked, NaN and infinity as the words of ``SPECIAL``.

    Raises TypeError for what is no result, ValueError for more than ``MAX_VALUES`` values and for a key that comes twice.
    """
    plain = _plain(value, name)
    size = _count(plain)
    if size > MAX_VALUES:
        raise ValueError(f"record: {name!r} holds {size} values; at most {MAX_VALUES} are a result. Record a summary.")
    return plain


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return float(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return _keyed(value.items(), name)
    if isinstance(value, (list, tuple)):
        return [_plain(item, name) for item in value]
    kind = type(value).__module__.split(".")[0]
    if kind == "pandas" and hasattr(value, "columns"):
        return _rows(value, name)
    if kind == "pandas" and hasattr(value, "to_dict"):
        return _keyed(value.items(), name)
    if kind == "torch" and hasattr(value, "tolist"):
        return _plain(value.detach().cpu().tolist(), name)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, pandas Index
        unpacked = value.tolist()
        if type(unpacked) is not type(value):
            return _plain(unpacked, name)
    raise TypeError(
        f"record: {name!r} is a {type(value).__name__}. "
        "Record a number, a string, a list, a dict, a numpy array or a pandas table."
    )


def _keyed(pairs: Iterable[tuple[Any, Any]], name: str) -> dict[str, Any]:
    """Pairs as a dict with keys of text. Raises ValueError where two keys become the same: one value would be lost."""
    found: dict[str, Any] = {}
    for key, item in pairs:
        word = str(_plain(key, name))
        if word in found:
            raise ValueError(f"record: {name!r} has the key {word!r} twice. Each of its values needs a key of its own.")
        found[word] = _plain(item, name)
    return found


def _rows(table: Any, name: str) -> list[dict[str, Any]]:
    """The rows of a pandas DataFrame; an index that says more than the number of the row comes first in each."""
    import pandas as pd

    if not isinstance(table.index, pd.RangeIndex) or table.index.name is not None:
        table = table.reset_index(allow_duplicates=True)  # a column of the same name is refused below
    return [_keyed(zip(table.columns, row, strict=True), name) for row in table.itertuples(index=False, name=None)]


def _count(plain: Any) -> int:
    if isinstance(plain, dict):
        return sum(_count(item) for item in plain.values())
    return sum(_count(item) for item in plain) if isinstance(plain, list) else 1


def number(plain: Any) -> float | None:
    """The recorded ``plain`` as a float, also where it is one of the words NaN, Infinity, -Infinity; else None."""
    if isinstance(plain, bool) or plain is None:
        return None
    if isinstance(plain, str):
        return SPECIAL.get(plain)
    return float(plain) if isinstance(plain, (int, float)) else None


def headline_in_words(found: Mapping[str, Any], strong: str = "") -> str:
    """A recorded headline as one line: what it is, mean and interval, who is ahead. ``strong``: what stands around the mean.

    Only what it is where a number is none.
    """
    mean, low, high = (number(found.get(key)) for key in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return str(found["what"])
    digits = 3 if max(abs(low), abs(high)) < 1 else 2
    over = f" over {found['varies']}" if found.get("varies") else ""
    text = f"{found['what']}: {strong}{mean:+.{digits}f}{strong} [{low:+.{digits}f}, {high:+.{digits}f}]{over}"
    text += f", {AHEAD[found['ahead']].replace('*', strong)}" if "ahead" in found else ""
    return text + (" (stored runs)" if found.get("stored") else "")


def in_words(plain: Any, width: int = 100) -> str:
    """One line for people: numbers to 4 digits, NaN told as what it is, long things cut at ``width`` characters."""
    if isinstance(plain, str):
        text = {"NaN": "not a number (NaN)", "Infinity": "infinite", "-Infinity": "minus infinite"}.get(plain, plain)
    elif isinstance(plain, float):
        text = f"{plain:.4g}"
    elif isinstance(plain, dict):
        text = f"{{{', '.join(f'{k}: {in_words(v, width)}' for k, v in plain.items())}}}"
    elif isinstance(plain, list):
        text = f"[{', '.join(in_words(item, width) for item in plain)}]"
    else:
        text = str(plain)
    return text if len(text) <= width else text[: width - 1] + "…"


def parse_tolerance(tolerance: float | str | None) -> tuple[str, float]:
    """A stated tolerance as (kind, size): "absolute", "relative", "any" or "default". Raises ValueError for anything else."""
    if tolerance is None:
        return "default", 0.0
    if isinstance(tolerance, str):
        if tolerance == "any":
            return "any", math.inf
        percent = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", tolerance)
        if percent:
            return "relative", float(percent[1]) / 100
    elif not isinstance(tolerance, bool) and isinstance(tolerance, (int, float)) and 0 <= tolerance < math.inf:
        return "absolute", float(tolerance)
    raise ValueError(f'A tolerance is a number from 0 (absolute), "5%" (relative), "any" or None, not {tolerance!r}.')


def collect(notebook: Any) -> dict[str, dict[str, Any]]:
    """All results recorded in an executed notebook, by name, in order; they go from its outputs into the metadata of its cells.

    Raises ValueError where a name comes twice.
    """
    recorded = []
    for cell in notebook["cells"]:
        metadata = cell.setdefault("metadata", {})
        if own := outputs_of({"cells": [cell]}, MIME):
            cell["outputs"] = [output for output in cell["outputs"] if MIME not in output.get("data", {})]
            metadata["coursekit"] = {"recorded": own}
        recorded += metadata.get("coursekit", {}).get("recorded", [])
    found: dict[str, dict[str, Any]] = {}
    for data in recorded:
        if data["name"] in found:
            raise ValueError(f"{data['name']!r} was recorded twice in this run. Every result needs its own name.")
        found[data["name"]] = {key: data[key] for key in ("value", "tolerance", "key")}
    return found


def outputs_of(notebook: Any, mime: str) -> list[dict[str, Any]]:
    """The data of one MIME type among the outputs of an executed notebook, in order."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get(mime)
            if data is not None:
                found.append(json.loads(data) if isinstance(data, str) else dict(data))
    return found


def show_bundle(bundle: dict[str, Any]) -> None:
    """Show a MIME bundle in a notebook, or print its plain text outside one."""
    if _in_a_notebook():
        from IPython.display import display

        display(bundle, raw=True)
    else:
        print(bundle["text/plain"])


def _in_a_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    return ipython is not None and ipython.get_ipython() is not None


record = Recorder()
