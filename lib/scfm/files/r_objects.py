"""Objects of R, read from .rda, .RData and .rds files without R.

What a package of R hands on holds more than data: functions, promises, calls. None of them is run or kept; the package rdata
converts what is left, and three small readers here turn R's matrices, tables and paths into Python's.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse


class Named(NamedTuple):
    """A matrix: ``values`` CSR float64 (row, column), and the names of rows and columns."""

    values: sparse.csr_matrix
    rows: list[str]
    columns: list[str]

    @property
    def T(self) -> Named:
        """The same with its rows as columns."""
        return Named(self.values.T.tocsr(), self.columns, self.rows)


def read_r(path: Path) -> Any:
    """The objects of an .rda or .RData file by name, or the one object of an .rds file; code is NULL, unknown classes stay plain."""
    import rdata
    from rdata.conversion import DEFAULT_CLASS_MAP, convert

    classes = {**DEFAULT_CLASS_MAP, "factor": _factor, "data.frame": _data_frame}
    with warnings.catch_warnings(), _deep():
        warnings.simplefilter("ignore")  # a class of a package that is not R's own is no fault of the file
        parsed = rdata.parser.parse_file(path)
        _without_code(parsed.object)
        return convert(parsed, classes)


@contextmanager
def _deep() -> Iterator[None]:
    """R's objects lie deeper in one another than Python allows for."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 20_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _without_code(root: Any) -> None:
    """Every node that is code becomes NULL, and environments lose the one around them (a whole package, at times)."""
    from rdata.parser import RObjectInfo, RObjectType

    code = {
        *(RObjectType.CLO, RObjectType.PROM, RObjectType.LANG, RObjectType.BCODE, RObjectType.DOT, RObjectType.EXPR),
        *(RObjectType.SPECIAL, RObjectType.BUILTIN, RObjectType.EXTPTR, RObjectType.WEAKREF),
        *(RObjectType.NAMESPACE, RObjectType.MISSINGARG),
    }
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.info.type in code:
            node.info = RObjectInfo(RObjectType.NILVALUE, False, False, False, 0, 0)
            node.value = node.attributes = node.tag = node.referenced_object = None
            continue
        todo += [node.attributes, node.tag, node.referenced_object]
        value = node.value
        if isinstance(value, (tuple, list)):
            todo += [child for child in value if hasattr(child, "info")]
        elif hasattr(value, "info"):
            todo.append(value)
        elif hasattr(value, "hash_table"):
            nothing = RObjectInfo(RObjectType.EMPTYENV, False, False, False, 0, 0)
            value.enclosure = type(node)(nothing, None, None)
            todo += [value.frame, value.hash_table]


def _factor(codes: Any, attributes: Mapping[str, Any]) -> Any:
    """A factor; one whose entries have names becomes a Series (rdata drops them)."""
    levels = [str(level) for level in attributes["levels"]]
    numbers = np.ma.filled(getattr(codes, "values", codes), 0)
    words = pd.Series([levels[int(n) - 1] if n > 0 else np.nan for n in numbers], dtype="category").array
    names = attributes.get("names")
    return words if names is None else pd.Series(words, index=[str(name) for name in names])


def _data_frame(columns: Any, attributes: Mapping[str, Any]) -> Any:
    from rdata.conversion import dataframe_constructor

    plain = {name: column.array if isinstance(column, pd.Series) else column for name, column in columns.items()}
    return dataframe_constructor(plain, attributes)


def at(found: Any, path: str) -> Any:
    """The part of an object that R would call by ``path``: ``pbmc@assays$RNA@counts``.

    Raises
    ------
    KeyError
        If there is none; it names the step and what there is instead.
    """
    from rdata.conversion import REnvironment

    for step in re.split(r"[@$]", path):
        inside = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
        if isinstance(found, REnvironment):  # its variables lie in a table or, if they are few, in a list
            inside = {**(found.frame or {}), **found.maps[0]}
        inside = inside.get("listData", inside)  # a DataFrame or a List of Bioconductor
        if step not in inside:
            raise KeyError(f"{step} of {path} (there is {', '.join(map(str, list(inside)[:12])) or 'nothing'})")
        found = inside[step]
    return found


def matrix(found: Any) -> Named:
    """A dgCMatrix, dgTMatrix or dgeMatrix, an array or a data frame of R → its numbers and names.

    Raises
    ------
    TypeError
        If it is nothing of the kind.
    """
    if isinstance(found, pd.DataFrame):
        return Named(sparse.csr_matrix(found.to_numpy(float)), list(map(str, found.index)), list(map(str, found)))
    if hasattr(found, "coords"):  # an array whose dimensions have names
        names = [found.coords[d].values if d in found.coords else None for d in found.dims]
        return _named(sparse.csr_matrix(np.asarray(found.values, float)), names)
    if isinstance(found, np.ndarray) and found.ndim == 2:
        return _named(sparse.csr_matrix(found.astype(float)), [None, None])
    if not hasattr(found, "Dim"):
        raise TypeError(f"{type(found).__name__} is no matrix")
    shape = tuple(int(n) for n in found.Dim)
    numbers = np.asarray(found.x, float)
    if hasattr(found, "p"):
        values = sparse.csc_matrix((numbers, found.i, found.p), shape=shape)
    elif hasattr(found, "j"):
        values = sparse.coo_matrix((numbers, (found.i, found.j)), shape=shape)
    else:
        values = sparse.csr_matrix(numbers.reshape(shape, order="F"))
    return _named(values.tocsr(), list(found.Dimnames))


def _named(values: sparse.csr_matrix, names: list[Any]) -> Named:
    words = [
        [str(i + 1) for i in range(length)] if given is None else [str(name) for name in given]
        for given, length in zip(names, values.shape, strict=True)
    ]
    return Named(values, *words)


def names_in(found: Any, slot: str) -> list[str] | None:
    """The names that a slot holds; None where it is not there or NULL (which R stores as a word, that of a symbol)."""
    names = getattr(found, slot, None)
    return None if names is None or isinstance(names, str) else [str(name) for name in names]


def table(found: Any) -> pd.DataFrame:
    """A data frame of R or Bioconductor; a vector becomes one with the column ``value``, its names the index."""
    if isinstance(found, pd.DataFrame):
        return found.set_axis([str(name) for name in found.index])
    if hasattr(found, "listData"):
        plain = {
            name: values for name, values in found.listData.items() if np.ndim(values) == 1
        }  # not tables in a table
        return pd.DataFrame(plain, index=names_in(found, "rownames"))
    if hasattr(found, "coords"):
        return pd.DataFrame({"value": found.values}, index=[str(name) for name in found.coords[found.dims[0]].values])
    return pd.DataFrame({"value": found})
