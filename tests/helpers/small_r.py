"""R objects as R itself serializes them (its binary format, version 2), so that tests need no R: bytes are objects here.

save(path, pbmc=seurat)             # an .rda of one object
save_rds(path, dgc(matrix, rows, cells))
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

NULL = struct.pack(">i", 254)
_GLOBAL = struct.pack(">i", 253)
_HEAD = b"X\n" + struct.pack(">iii", 2, 0x00040300, 0x00020300)
Attributes = Mapping[str, bytes]


def _flags(kind: int, attributes: bool = False, tag: bool = False, an_object: bool = False, levels: int = 0) -> bytes:
    return struct.pack(">i", kind | an_object << 8 | attributes << 9 | tag << 10 | levels << 12)


def _char(word: str | None) -> bytes:
    if word is None:
        return _flags(9) + struct.pack(">i", -1)
    text = word.encode()
    return _flags(9, levels=64) + struct.pack(">i", len(text)) + text


def symbol(name: str) -> bytes:
    return _flags(1) + _char(name)


def pairs(values: Attributes) -> bytes:
    return b"".join(_flags(2, tag=True) + symbol(name) + value for name, value in values.items()) + NULL


def _vector(kind: int, length: int, body: bytes, attributes: Attributes | None) -> bytes:
    own = attributes or {}
    start = _flags(kind, bool(own), an_object="class" in own) + struct.pack(">i", length)
    return start + body + (pairs(own) if own else b"")


def ints(values: Iterable[int], attributes: Attributes | None = None, kind: int = 13) -> bytes:
    numbers = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, ">i4")
    return _vector(kind, numbers.size, numbers.tobytes(order="F"), attributes)


def reals(values: Iterable[float], attributes: Attributes | None = None) -> bytes:
    numbers = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, ">f8")
    return _vector(14, numbers.size, numbers.tobytes(order="F"), attributes)


def words(values: Iterable[str | None], attributes: Attributes | None = None) -> bytes:
    found = list(values)
    return _vector(16, len(found), b"".join(map(_char, found)), attributes)


def items(values: Iterable[bytes], attributes: Attributes | None = None) -> bytes:
    found = list(values)
    return _vector(19, len(found), b"".join(found), attributes)


def named(**values: bytes) -> bytes:
    """A list with names."""
    return items(values.values(), {"names": words(values)})


def factor(values: Iterable[str | None], names: Iterable[str] | None = None) -> bytes:
    found = list(values)
    levels = sorted({word for word in found if word is not None})
    own = {"levels": words(levels), "class": words(["factor"])} | ({"names": words(names)} if names else {})
    return ints([levels.index(word) + 1 if word is not None else -(2**31) for word in found], own)


def _column(values: pd.Series) -> bytes:
    if values.dtype == "category":
        return factor([None if pd.isna(word) else str(word) for word in values])
    if pd.api.types.is_integer_dtype(values.dtype):
        return ints(values.to_numpy())
    if pd.api.types.is_float_dtype(values.dtype):
        return reals(values.to_numpy())
    return words([None if pd.isna(word) else str(word) for word in values])


def data_frame(table: pd.DataFrame) -> bytes:
    own = {"names": words(map(str, table)), "row.names": words(map(str, table.index)), "class": words(["data.frame"])}
    return items([_column(table[name]) for name in table], own)


def s4(name: str, package: str = "Matrix", **slots: bytes) -> bytes:
    """An object of an S4 class; a slot's dot is written as two underscores (``meta__data``)."""
    kind = words([name], {"package": words([package])})
    return _flags(25, True, an_object=True, levels=16) + pairs(
        {**{slot.replace("__", "."): value for slot, value in slots.items()}, "class": kind}
    )


def _dimnames(rows: Iterable[str] | None, columns: Iterable[str] | None) -> bytes:
    return items([NULL if names is None else words(names) for names in (rows, columns)])


def dgc(matrix: sparse.spmatrix, rows: Iterable[str] | None = None, columns: Iterable[str] | None = None) -> bytes:
    by_column = sparse.csc_matrix(matrix)
    by_column.sort_indices()
    return s4(
        "dgCMatrix",
        i=ints(by_column.indices),
        p=ints(by_column.indptr),
        Dim=ints(by_column.shape),
        Dimnames=_dimnames(rows, columns),
        x=reals(by_column.data),
    )


def dgt(matrix: sparse.spmatrix, rows: Iterable[str] | None = None, columns: Iterable[str] | None = None) -> bytes:
    triples = sparse.coo_matrix(matrix)
    return s4(
        "dgTMatrix",
        i=ints(triples.row),
        j=ints(triples.col),
        Dim=ints(triples.shape),
        Dimnames=_dimnames(rows, columns),
        x=reals(triples.data),
    )


def dense(matrix: np.ndarray, rows: Iterable[str] | None = None, columns: Iterable[str] | None = None) -> bytes:
    own = {"dim": ints(matrix.shape)}
    return reals(matrix, own if rows is None and columns is None else own | {"dimnames": _dimnames(rows, columns)})


def environment(hashed: bool = True, **values: bytes) -> bytes:
    """An environment inside another that holds a function (as a package's do), its variables in a table or in a list."""
    start = _flags(4) + struct.pack(">i", 0)
    around = start + _GLOBAL + pairs({"helper": function()}) + NULL + NULL
    table = items([NULL, *(pairs({name: value}) for name, value in values.items())])
    return start + around + (NULL + table if hashed else pairs(values) + NULL) + NULL


def function() -> bytes:
    """``function(x) x + 1``, and its environment."""
    call = _flags(6) + symbol("+") + _flags(2) + symbol("x") + _flags(2) + reals([1.0]) + NULL
    return _flags(3, tag=True) + _GLOBAL + pairs({"x": struct.pack(">i", 251)}) + call


def promise() -> bytes:
    """``x + 1``, not evaluated yet."""
    call = _flags(6) + symbol("+") + _flags(2) + symbol("x") + _flags(2) + reals([1.0]) + NULL
    return _flags(5, tag=True) + _GLOBAL + symbol("unbound") + call


def frame_s4(table: pd.DataFrame, row_names: bool = True) -> bytes:
    """A DataFrame of Bioconductor. Without row names the slot is NULL, which R writes as a symbol."""
    return s4(
        "DFrame",
        "S4Vectors",
        rownames=words(map(str, table.index)) if row_names else symbol("\1NULL\1"),
        nrows=ints([len(table)]),
        listData=named(**{str(name): _column(table[name]) for name in table}),
    )


def seurat(meta: pd.DataFrame, **assays: bytes) -> bytes:
    """A Seurat object; its commands hold calls and functions."""
    return s4(
        "Seurat",
        "SeuratObject",
        assays=named(**assays),
        meta__data=data_frame(meta),
        commands=named(last=promise(), f=function()),
    )


def assay(counts: bytes) -> bytes:
    return s4("Assay", "SeuratObject", counts=counts, data=counts)


def assay5(counts: sparse.spmatrix, rows: list[str], cells: list[str]) -> bytes:
    """An assay of Seurat 5: layers without names, and two tables that say which row and cell is in which layer."""

    def logmap(names: list[str]) -> bytes:
        own = {"dim": ints([len(names), 1]), "dimnames": _dimnames(names, ["counts"])}
        return ints(
            np.ones(len(names), int), {**own, "class": words(["LogMap"], {"package": words(["SeuratObject"])})}, 10
        )

    return s4("Assay5", "SeuratObject", layers=named(counts=dgc(counts)), cells=logmap(cells), features=logmap(rows))


def save(path: Path, **objects: bytes) -> None:
    path.write_bytes(gzip.compress(b"RDX2\n" + _HEAD + pairs(objects), 1))


def save_rds(path: Path, found: bytes) -> None:
    path.write_bytes(gzip.compress(_HEAD + found, 1))
