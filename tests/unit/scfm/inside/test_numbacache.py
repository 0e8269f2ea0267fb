"""Where compiled code goes when neither the checkout nor the home can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scfm.inside import numbacache


@pytest.mark.parametrize("writable", [True, False])
def test_a_private_folder_is_taken_only_where_no_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(numbacache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numbacache.os, "access", lambda path, mode: writable)
    numbacache.choose()
    assert os.environ["NUMBA_CACHE_DIR"].startswith(str(tmp_path)) is not writable
