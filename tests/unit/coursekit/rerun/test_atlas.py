"""An atlas without Snakemake: what is refused, and that a result without its report is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coursekit.course import CourseError
from coursekit.rerun import atlas
from scfm.files import shards

REPORT = {"n_cells": 60, "n_shards": 3, "empty_cells": 0, "peak_memory": 2**30}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> atlas.Atlas:
    """An atlas whose gathering writes a word, and whose Snakemake does what the Snakefile says of embedding.h5ad."""

    def gather(parts: Any, out: Path, source: Any) -> dict[str, Any]:
        Path(out).write_text("vectors")
        return REPORT

    def snakemake(plan: Path, *_: Any) -> int:
        if not found.embedding.is_file():
            atlas.step(plan, "gather", 0)
        return 0

    found = atlas.Atlas(str(tmp_path), str(tmp_path / "cells.h5ad"), "m", 60, 20, "key")
    monkeypatch.setattr(shards, "gather", gather)
    monkeypatch.setattr(atlas.snakemake, "snakemake", snakemake)
    return found


def test_the_embedding_appears_after_its_report(own: atlas.Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    plan = own.write()
    monkeypatch.setattr(atlas, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        atlas.step(plan, "gather", 0)
    assert [path.name for path in own.folder.iterdir()] == ["plan.json"]
    assert not own.done


def test_an_embedding_without_its_report_is_gathered_anew(own: atlas.Atlas) -> None:
    assert atlas.make(own)
    assert "60 cells in 3 shards" in atlas.words(own, True)
    own.report.unlink()
    own.embedding.write_text("of a call that was killed")
    assert atlas.make(own)
    assert own.embedding.read_text() == "vectors"
    assert "60 cells in 3 shards" in atlas.words(own, True)


def test_a_call_that_broke_does_not_lock_the_next_one_out(own: atlas.Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(atlas.snakemake, "snakemake", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError) as kept:  # as Jupyter keeps the last traceback
            atlas.make(own)
    assert kept.value
    assert atlas.make(own)


def test_shards_without_cells_are_refused(tmp_path: Path) -> None:
    for n in (0, -1):
        with pytest.raises(CourseError, match="at least one cell"):
            atlas.plan(tmp_path, tmp_path / "cells.h5ad", cells_per_shard=n)
