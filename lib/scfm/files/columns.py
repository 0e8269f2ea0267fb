"""A column of a table about cells, as a recipe (:mod:`scfm.files.recipes`) describes it.

A column is a text with columns of the tables in braces ("{part}_{cell}", ``n`` the cell's number), or a table: ``of`` that text,
``match`` a pattern, ``translate`` words (``otherwise`` for all others), ``then`` for what is known, ``missing`` for what is not, ``as``
"int" or "float", ``digits``. ``test`` is a condition, ``shared_with`` another listed set: is there a cell of the same text ``by``?
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]+))?\}")


def column(
    frame: pd.DataFrame, spec: str | Mapping[str, Any], frame_of: Callable[[str], pd.DataFrame] | None = None
) -> pd.Series:
    """A column as a recipe describes it (see the top of this module), with the index of ``frame``; NaN where it is not known."""
    if isinstance(spec, str):
        return _text(frame, spec)
    if "test" in spec:
        return truth(frame, spec["test"])
    if "shared_with" in spec:
        assert frame_of is not None  # only columns of obs can be
        there = set(_text(frame_of(spec["shared_with"]), spec["by"]))
        return _text(frame, spec["by"]).isin(there)
    values = _text(frame, spec["of"])
    if "match" in spec:
        pattern = re.compile(spec["match"])
        found = values.map(lambda word: pattern.search(str(word)), na_action="ignore")
        values = found.map(lambda match: match[match.lastindex or 0] if match else np.nan, na_action="ignore")
    if "translate" in spec:
        words = spec["translate"]
        values = values.map(lambda word: words.get(str(word), spec.get("otherwise", word)), na_action="ignore")
    if "then" in spec:
        values = values.where(values.isna(), spec["then"])
    if "missing" in spec:
        values = values.where(values.notna(), _text(frame, spec["missing"]))
    if "digits" in spec:
        values = values.map(lambda number: float(f"{number:.{spec['digits']}g}"), na_action="ignore")
    return values.astype({"int": np.int64, "float": np.float64}[spec["as"]]) if "as" in spec else values


def truth(frame: pd.DataFrame, condition: str) -> pd.Series:
    """Of which rows a condition on the columns holds, bool."""
    return pd.Series(frame.eval(condition, engine="python"), index=frame.index, dtype=bool)


def _text(frame: pd.DataFrame, template: str) -> pd.Series:
    """``template`` with the values of the columns in braces; one column alone keeps its numbers. NaN where one is missing."""
    fields = _FIELD.findall(template)
    for what, _ in fields:
        if what not in frame:
            raise KeyError(f"no column {what!r} (there is {', '.join(map(str, frame))})")
    alone = len(fields) == 1 and template == f"{{{fields[0][0]}}}"
    if alone and pd.api.types.is_numeric_dtype(frame[fields[0][0]].dtype):
        return frame[fields[0][0]]
    pieces = _FIELD.split(template)
    made = pd.Series(pieces[0], index=frame.index, dtype=object)
    for what, form, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        words = frame[what].astype(object).map(lambda value, form=form: _word(value, form), na_action="ignore")
        made = made + words + text
    return made.where(made.notna(), np.nan)


def _word(value: Any, form: str | None) -> str:
    whole = isinstance(value, float) and value.is_integer()  # R counts in doubles
    return format(int(value) if whole else value, form or "")
