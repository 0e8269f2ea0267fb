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


def test_what_a_library_writes_privately_others_may_read(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with cache.new_folder(tmp_path / "model") as folder, cache.atomic_write(tmp_path / "alone") as alone:
            (folder / "inside").mkdir(mode=0o700)
            for private in (folder / "weights", folder / "inside" / "more", alone):
                private.write_bytes(b"")
                private.chmod(0o600)  # as safetensors does
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"model": 0o755, "inside": 0o755, "weights": 0o644, "more": 0o644, "alone": 0o644}


def test_a_user_without_name_and_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no home"))))
    assert cache.user_cache().name == "scfm"


def test_texts_are_read_and_written_as_utf8_wherever_the_locale_stands() -> None:
    library = Path(__file__).parents[4] / "lib"
    bare = [f for f in library.rglob("*.py") if ".read_text()" in f.read_text(encoding="utf-8")]
    assert not bare
