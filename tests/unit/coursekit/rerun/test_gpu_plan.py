"""Which lessons a fresh GPU runner can run on their own data: only what nobody can fetch or replace counts as missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import pytest

from scfm import datasets

FILE = Path(__file__).resolve().parents[3] / "gpu" / "test_lessons_gpu.py"


def test_what_can_be_downloaded_made_or_replaced_is_not_missing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = {
        name: {key: value for key, value in datasets.entries()[name].items() if key != "origin"}
        for name in ("kang_ifnb_pbmc", "pancreas_baron_175")
    }
    known = datasets.entries() | without
    monkeypatch.setattr(datasets, "entries", lambda: known)
    spec = importlib.util.spec_from_file_location("lessons_gpu", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    named = 'sets = ["pbmc68k", "pbmc_zheng_facs", "kang", "kang_ifnb_pbmc", "pancreas_baron_175", "no set"]'
    full = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(named)])
    assert module.missing(full) == ["pancreas_baron_175"]
