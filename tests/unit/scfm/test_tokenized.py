"""TokenizedCells: slices, minibatches, rectangles, and what survives on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.tokenize import TokenizedCells

LISTS = [[2, 7, 8, 3], [2, 3], [], [2, 9, 10, 11, 12, 3], [5]]


def example(values=False) -> TokenizedCells:
    return TokenizedCells.from_lists(
        LISTS,
        [[token / 2 for token in cell] for cell in LISTS] if values else None,
        cell_ids=list("abcde"),
        vocabulary_name="small",
        vocabulary_sha256="0" * 64,
        pad_id=0,
        report={"empty_cells": ["c"]},
    )


def test_cells_are_ragged_rows():
    cells = example()
    assert len(cells) == 5
    assert [cells[i].tolist() for i in range(5)] == LISTS
    assert cells[-1].tolist() == [5]
    assert cells.lengths.tolist() == [4, 2, 0, 6, 1]
    assert cells.tokens.dtype == np.int32
    assert cells.offsets.dtype == np.int64
    with pytest.raises(IndexError):
        cells[5]
    assert len(TokenizedCells.from_lists([])) == 0


@pytest.mark.parametrize(
    "key", [slice(1, 4), slice(None, None, 2), slice(4, 1), np.array([3, 0, 0]), [2], [], np.array([True, False, True, False, True])]
)  # fmt: skip
def test_slices_indices_and_masks(key):
    expected = np.arange(5)[key if not isinstance(key, list) else np.array(key, int)]
    for cells in (example(), example(values=True)):
        some = cells[key]
        assert [some[i].tolist() for i in range(len(some))] == [LISTS[i] for i in expected]
        assert some.cell_ids.tolist() == [list("abcde")[i] for i in expected]
        assert (some.vocabulary_name, some.pad_id) == ("small", 0)
        if cells.values is not None:
            assert np.array_equal(some.values, some.tokens / 2)


def test_inconsistent_arrays_are_refused():
    with pytest.raises(ValueError, match="offsets must begin with 0"):
        TokenizedCells(np.arange(3), np.array([0, 2]))
    with pytest.raises(ValueError, match="decrease"):
        TokenizedCells(np.arange(3), np.array([0, 3, 2, 3]))
    with pytest.raises(ValueError, match="2 values for 3 tokens"):
        TokenizedCells(np.arange(3), np.array([0, 3]), values=np.zeros(2))
    with pytest.raises(ValueError, match="2 cell ids for 1 cells"):
        TokenizedCells(np.arange(3), np.array([0, 3]), cell_ids=["a", "b"])
    with pytest.raises(ValueError, match="as many values as tokens"):
        TokenizedCells.from_lists([[1, 2]], [[1.0]])
    with pytest.raises(IndexError, match="mask of 2 for 5"):
        example()[np.array([True, False])]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 200), st.one_of(st.none(), st.integers(1, 7)))
def test_minibatches_keep_to_their_budget(lengths, max_tokens, max_cells):
    cells = TokenizedCells.from_lists([[1] * n for n in lengths])
    minibatches = cells.minibatches(max_tokens, max_cells)
    assert sorted(np.concatenate([[], *minibatches]).tolist()) == list(range(len(lengths)))  # each cell once
    for indices in minibatches:
        padded = len(indices) * max(lengths[i] for i in indices)
        assert padded <= max_tokens or len(indices) == 1
        assert max_cells is None or len(indices) <= max_cells
    in_order = [lengths[i] for indices in minibatches for i in indices]
    assert in_order == sorted(lengths, reverse=True)  # neighbours in length together, the longest first
    again = cells.minibatches(max_tokens, max_cells)
    assert all(np.array_equal(a, b) for a, b in zip(minibatches, again, strict=True))


def test_padded_rectangles():
    cells = example(values=True)
    input_ids, mask = cells.padded([3, 2, 1])
    assert input_ids.tolist() == [[2, 9, 10, 11, 12, 3], [0] * 6, [2, 3, 0, 0, 0, 0]]
    assert mask.tolist() == [[1] * 6, [0] * 6, [1, 1, 0, 0, 0, 0]]
    assert cells.padded(slice(1, 2), width=4)[0].tolist() == [[2, 3, 0, 0]]
    assert cells.padded_values([1, 4]).tolist() == [[1, 1.5], [2.5, -2]]
    with pytest.raises(ValueError, match="width is 3"):
        cells.padded([0], width=3)
    with pytest.raises(ValueError, match="no values"):
        example().padded_values([0])


@pytest.mark.parametrize("values", [False, True])
def test_disk_keeps_everything(tmp_path, values):
    cells = example(values)
    cells.save(tmp_path / "cells.parquet")
    back = TokenizedCells.load(tmp_path / "cells.parquet")
    assert np.array_equal(back.tokens, cells.tokens)
    assert np.array_equal(back.offsets, cells.offsets)
    assert np.array_equal(back.cell_ids, cells.cell_ids)
    assert (back.values is None) if not values else np.array_equal(back.values, cells.values)
    for name in ("vocabulary_name", "vocabulary_sha256", "pad_id", "report"):
        assert getattr(back, name) == getattr(cells, name)
    assert [file.name for file in tmp_path.iterdir()] == ["cells.parquet"]  # no temporary file stays
    empty = cells[:0]
    empty.save(tmp_path / "empty.parquet")
    assert len(TokenizedCells.load(tmp_path / "empty.parquet")) == 0


def test_hugging_face_datasets_reads_it(tmp_path):
    from datasets import Dataset

    cells = example(values=True)
    cells.save(tmp_path / "cells.parquet")
    data = Dataset.from_parquet(str(tmp_path / "cells.parquet"), cache_dir=str(tmp_path / "cache"))
    assert data["input_ids"][:] == LISTS
    assert data["length"][:] == [4, 2, 0, 6, 1]
    assert data["cell_id"][:] == list("abcde")


def test_many_cells_span_row_groups(tmp_path):
    import pyarrow.parquet as pq

    cells = TokenizedCells.from_lists([[i] * (i % 5) for i in range(5000)])
    cells.save(tmp_path / "cells.parquet")
    assert pq.read_metadata(tmp_path / "cells.parquet").num_row_groups > 1
    assert np.array_equal(TokenizedCells.load(tmp_path / "cells.parquet").tokens, cells.tokens)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "cells.parquet"
    example().save(path)

    def disk_full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(TokenizedCells, "_table", disk_full)
    with pytest.raises(OSError, match="no space"):
        example()[:2].save(path)
    monkeypatch.undo()
    assert len(TokenizedCells.load(path)) == 5
    assert [file.name for file in tmp_path.iterdir()] == ["cells.parquet"]


def test_wrong_files_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(FileNotFoundError, match="does not exist"):
        TokenizedCells.load(tmp_path / "none.parquet")
    example().save(tmp_path / "cells.parquet")
    whole = (tmp_path / "cells.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut off"):
        TokenizedCells.load(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="not of tokenized cells"):
        TokenizedCells.load(tmp_path / "other.parquet")
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        TokenizedCells.load(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"complete": False}))
    with pytest.raises(ValueError, match="unfinished"):
        TokenizedCells.load(tmp_path)
