"""Objects of R that tests write themselves: matrices of every kind, tables, environments, and code that is no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_r as r
from scipy import sparse

from scfm.files import r_objects

VALUES = np.array([[0.0, 2.0, 0.0], [5.0, 0.0, 1.0]])
ROWS, COLUMNS = ["g1", "g2"], ["a", "b", "c"]


def read(path: Path, **objects: bytes) -> dict:
    r.save(path / "a.rda", **objects)
    return r_objects.read_r(path / "a.rda")


@pytest.mark.parametrize("kind", [r.dgc, r.dgt, r.dense])
def test_every_matrix_gives_its_numbers_and_names(kind, tmp_path: Path) -> None:
    stored = VALUES if kind is r.dense else sparse.csr_matrix(VALUES)
    found = read(tmp_path, m=kind(stored, ROWS, COLUMNS), bare=kind(stored))
    named, bare = r_objects.matrix(found["m"]), r_objects.matrix(found["bare"])
    np.testing.assert_array_equal(named.values.toarray(), VALUES)
    assert (named.rows, named.columns) == (ROWS, COLUMNS)
    np.testing.assert_array_equal(bare.values.toarray(), VALUES)
    assert (bare.rows, bare.columns) == (["1", "2"], ["1", "2", "3"])  # as R counts
    assert named.T.rows == COLUMNS


def test_a_dge_matrix_and_a_data_frame_are_matrices_too(tmp_path: Path) -> None:
    dge = r.s4("dgeMatrix", x=r.reals(VALUES), Dim=r.ints(VALUES.shape), Dimnames=r.items([r.words(ROWS), r.NULL]))
    found = read(tmp_path, m=dge, d=r.data_frame(pd.DataFrame(VALUES, ROWS, COLUMNS)))
    for name, columns in (("m", ["1", "2", "3"]), ("d", COLUMNS)):
        named = r_objects.matrix(found[name])
        np.testing.assert_array_equal(named.values.toarray(), VALUES)
        assert (named.rows, named.columns) == (ROWS, columns)
    with pytest.raises(TypeError, match="str is no matrix"):
        r_objects.matrix("text")


def test_functions_promises_and_calls_are_no_data(tmp_path: Path) -> None:
    kept = r.words(["kept"])
    found = read(
        tmp_path,
        f=r.function(),
        p=r.promise(),
        inside=r.named(f=r.function(), word=kept),
        place=r.environment(word=kept, f=r.function()),
        few=r.environment(hashed=False, word=kept, p=r.promise()),
    )
    assert found["f"] is None
    assert found["p"] is None
    for path in ("inside$word", "place$word", "few$word"):
        assert list(r_objects.at(found, path)) == ["kept"]
    with pytest.raises(
        KeyError, match=r"helper of place\$helper \(there is word, f\)"
    ):  # the environment around is not read
        r_objects.at(found, "place$helper")


def test_tables(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"type": pd.Categorical(["B", None, "T"]), "word": ["x", None, "y"], "n": [1, 2, 3], "share": [0.5, 0.25, 1.0]},
        COLUMNS,
    )
    found = read(
        tmp_path,
        frame=r.data_frame(frame),
        named=r.frame_s4(frame),
        bare=r.frame_s4(frame, row_names=False),
        factor=r.factor(["T", "B", None], COLUMNS),
        words=r.words(["x", "y", "z"]),
    )
    for name in ("frame", "named", "bare"):
        table = r_objects.table(found[name])
        assert [str(word) for word in table["type"]] == ["B", "nan", "T"]
        assert table["word"].isna().tolist() == [False, True, False]
        assert table[["n", "share"]].astype(float).to_numpy().tolist() == [[1, 0.5], [2, 0.25], [3, 1.0]]
        assert list(table.index) == ([0, 1, 2] if name == "bare" else COLUMNS)
    factor = r_objects.table(found["factor"])["value"]
    assert factor.dropna().to_dict() == {"a": "T", "b": "B"}
    assert r_objects.table(found["words"])["value"].tolist() == ["x", "y", "z"]


def test_deep_objects_and_the_limit_of_python(tmp_path: Path) -> None:
    import sys

    deep, before = r.words(["bottom"]), sys.getrecursionlimit()
    for _ in range(600):
        deep = r.named(down=deep)
    found = read(tmp_path, deep=deep)["deep"]
    for _ in range(600):
        found = found["down"]
    assert list(found) == ["bottom"]
    assert sys.getrecursionlimit() == before
