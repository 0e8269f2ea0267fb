"""Tables that grow: nothing is made twice, nothing that depends on something else is taken as done."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from scfm.store import cache
from studies.tables import COLUMNS, Growing, weights_of, write

KEY = ("mini", "blood", 0)
BY = ("model", "dataset", "seed")
STAMP = {"steps": 30, "max_len": None, "weights": "abc"}


def rows(value: float, seed: int = 0) -> list[list]:
    return [["mini", "head", "blood", 10, seed, "accuracy", value]]


def test_a_piece_is_there_under_its_own_stamp_only(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table = Growing(path, BY)
    assert not table.has(KEY, STAMP)
    table.put(KEY, STAMP, rows(0.5))
    again = Growing(path, BY)
    assert again.has(KEY, STAMP)
    assert not again.has(("mini", "blood", 1), STAMP)
    for name, other in (("steps", 31), ("max_len", 128), ("weights", "other")):
        assert not again.has(KEY, STAMP | {name: other}), name
    assert not again.has(KEY, STAMP | {"dtype": "float32"})  # something that was not said then


def test_a_piece_made_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table = Growing(path, BY)
    table.put(KEY, STAMP, rows(0.5))
    table.put(("mini", "blood", 1), STAMP, rows(0.7, seed=1))
    table.put(KEY, STAMP | {"steps": 60}, rows(0.6))
    kept = pd.read_parquet(path)
    assert list(kept.columns) == COLUMNS
    assert sorted(kept["value"]) == [0.6, 0.7]
    assert Growing(path, BY).has(("mini", "blood", 1), STAMP)


def test_a_table_never_mixes_two_settings(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table = Growing(path, BY)
    table.put(KEY, STAMP, rows(0.5))
    table.put(("mini", "blood", 1), STAMP, rows(0.7, seed=1))
    table.put(("other", "blood", 0), STAMP, [["other", *rows(0.9)[0][1:]]])
    new = STAMP | {"steps": 60}
    table.forget_others(lambda key: new if key[0] == "mini" else None)
    table.put(KEY, new, rows(0.6))
    assert sorted(pd.read_parquet(path)["value"]) == [0.6, 0.9]


def test_pieces_from_before_there_were_stamps_count_as_what_their_columns_say(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pd.DataFrame(rows(0.5), columns=COLUMNS).to_parquet(path)
    table = Growing(path, BY)
    assert table.has(KEY, STAMP)
    assert table.has(KEY, STAMP | {"labels_per_class": 10})
    assert not table.has(KEY, STAMP | {"labels_per_class": 30})


def test_an_error_while_writing_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    Growing(path, BY).put(KEY, STAMP, rows(0.5))
    before = path.read_bytes()
    monkeypatch.setattr("pyarrow.parquet.write_table", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Growing(path, BY).put(KEY, STAMP, rows(0.6))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]


def test_weights_are_told_without_loading_a_model(tmp_path: Path) -> None:
    known = weights_of("geneformer-mini")
    assert len(known) == 12
    assert cache.sha256(cache.repo_data() / "models" / "geneformer-mini" / "model.safetensors").startswith(known)
    assert weights_of(cache.repo_data() / "models" / "geneformer-mini") == known
    assert weights_of("none") == ""


def test_the_stored_tables_can_all_be_grown() -> None:
    """What lies in data/results is taken as done by the studies that made it."""
    table = Growing(cache.repo_data() / "results" / "forgetting.parquet", BY)
    first = table.table.iloc[0]
    assert table.has(
        (first["model"], first["dataset"], first["seed"]), {"labels_per_class": int(first["labels_per_class"])}
    )


def test_a_table_keeps_its_rows_beside_its_stamps(tmp_path: Path) -> None:
    write(pd.DataFrame(rows(0.5), columns=COLUMNS), tmp_path / "t.parquet", {"shard": STAMP})
    assert Growing(tmp_path / "t.parquet", BY).stamps == {"shard": STAMP}
