"""What a run depends on, as one hash: the same content gives the same key, whatever the clock or the folder says.

Code (the lesson, the library, the machinery that runs it), parameters, data, model, the stored results that it reads, and lock.
A run whose key is there is current; any other is made anew.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson
from coursekit.files import file_hash, read_toml, sha256
from coursekit.machine.facts import LOCK

MACHINERY = (  # of coursekit: what touches a result
    *("check.py", "lesson/notebook.py", "lesson/params.py", "lesson/recording.py", "lesson/scores.py"),
    *("run/engine.py", "run/execute.py"),
)
# parameter → its list, the table within
LISTS = {"dataset": ("datasets.toml", None), "model": ("models.toml", "models")}


def key_of(lesson: Lesson, values: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """(key, its parts): the key is 20 hex digits; the parts say what it is made of, each as a hash.

    ``values``: every parameter of the lesson; files of one's own by their full path (see params.files_from).
    """
    from scfm.datasets import split_names

    text = lesson.source.read_text(encoding="utf-8")
    plain, contents = dict(values), {}
    for name in LISTS:
        found = []
        for part in split_names(str(values.get(name) or "")):
            path = Path(part)
            if part and path.is_absolute() and path.exists():
                found.append([path.name, content_hash(path)])  # moved elsewhere it is still the same file
                plain[name] = plain[name].replace(part, path.name)
            elif part:
                found.append([part, ""])
        contents[name] = found
    parts = {
        "lesson": digest([text, lesson.checks.read_text(encoding="utf-8") if lesson.checks.is_file() else ""]),
        "library": library_hash(),
        "lock": file_hash(lesson.root / LOCK) or "",
        "parameters": digest(plain),
        "results": digest(stored_results(lesson, str(plain.get("model") or ""))),
    }
    for name, found in contents.items():
        parts[name] = digest([found, listed(lesson.root, name, text, tuple(one for one, _ in found))])
    return digest(parts)[:20], parts


def listed(root: Path, kind: str, text: str, chosen: tuple[str, ...]) -> dict[str, Any]:
    """What the course's list says (with its hashes) about the datasets or models that are chosen, or named in ``text``."""
    file, table = LISTS[kind]
    known = _list(_data(root) / file)
    entries = known.get(table, {}) if table else known
    wanted = [*chosen, *(name for name in entries if _stands_in(name, text))]
    found: dict[str, Any] = {name: value for name, value in known.items() if table and name != table}
    while wanted:
        name = wanted.pop()
        if name in entries and name not in found:
            found[name] = entries[name]
            wanted += [str(entries[name][more]) for more in ("of", "fallback") if more in entries[name]]
    return found


def stored_results(lesson: Lesson, model: str = "") -> dict[str, str]:
    """The files of data/results that a lesson names, and its ``model``'s own table, each with its sha256: a lesson reads them."""
    text = f"{lesson.source.read_text(encoding='utf-8')} {model.replace('-', '_')}.parquet"
    files = sorted((_data(lesson.root) / "results").glob("*.*"))
    return {path.name: file_hash(path) or "" for path in files if _stands_in(path.name, text)}


def _stands_in(name: str, text: str) -> bool:
    """Whether a text has a name as a word of its own."""
    return bool(re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text))


@functools.cache
def library_hash() -> str:
    """Hash over every Python file of scfm, the machinery that runs a lesson, and the tables that the library reads."""
    science = importlib.util.find_spec("scfm")
    own = Path(__file__).resolve().parents[1]
    files = [own / name for name in MACHINERY]
    if science is not None and science.origin is not None:
        files += sorted(Path(science.origin).parent.rglob("*.py"))
        files += sorted(path for path in own.parents[1].glob("data/*") if path.suffix in (".csv", ".gz"))
    return digest([[path.name, path.parent.name, file_hash(path)] for path in files])


@functools.cache
def content_hash(path: Path) -> str:
    """The sha256 of a file, or of a folder's files with their names. Raises CourseError where it cannot be read."""
    try:
        return sha256(path)
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {error}") from error


def _data(root: Path) -> Path:
    """The lists of the course; those that scfm itself reads where the course has none of its own."""
    own = root / "data"
    return own if (own / "datasets.toml").is_file() else Path(__file__).resolve().parents[3] / "data"


_list = functools.cache(read_toml)


def digest(value: Any) -> str:
    """The sha256 of anything that JSON can say, the same for the same content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()
