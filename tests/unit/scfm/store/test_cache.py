"""Files that are written whole or not at all, with the permissions of any other file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scfm.store import cache


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_written_file_has_the_ordinary_permissions(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:  # the umask is the whole process's: a thread must not touch it
            patch.setattr(os, "umask", lambda mask: pytest.fail("it was changed"))
            with cache.atomic_write(tmp_path / "a") as path:
                path.write_text("whole")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with cache.atomic_write(tmp_path / "a") as path:
            path.write_text(str(number) * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set((tmp_path / "a").read_text())) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), cache.atomic_write(tmp_path / "a") as path:
        fail(path)
    assert list(tmp_path.iterdir()) == []
