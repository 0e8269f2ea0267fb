"""Files that are whole or not there, their hashes, and work that only one process does at a time."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coursekit.course import CourseError
from scfm.store.cache import atomic_write, sha256


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; lines end in LF on every system."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any, **more: Any) -> None:
    """Write JSON that a person can read, whole or not at all; ``more`` goes to json.dumps."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, **more) + "\n")


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds; nothing where there is none."""
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def filled(template: Path, **words: Any) -> str:
    """The text of a template with each ``@WORD@`` replaced."""
    text = template.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", str(value))
    return text


def file_hash(path: Path) -> str | None:
    """The sha256 of a file; None where there is none."""
    return sha256(path) if path.is_file() else None


@contextlib.contextmanager
def alone(lock: Path, words: str) -> Iterator[None]:
    """Hold the file ``lock`` for as long as the block runs. Raises CourseError with ``words`` where another process holds it."""
    import filelock

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(lock, timeout=0)  # the system gives it back however its holder ends
    try:
        held.acquire()
    except filelock.Timeout as error:
        raise CourseError(words) from error
    try:
        yield
    finally:
        held.release()
