"""Build the notebooks of a lesson from its source, or check that they are what the source says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from coursekit.course import Lesson, atomic_write, lessons
from coursekit.lesson import bootstrap
from coursekit.lesson.lint import leaks, lint
from coursekit.lesson.notebook import EDITIONS, edition, from_json, read_source, restore, to_json, unparse

_TABLE = re.compile(r"(<!-- lessons -->\n).*?(<!-- /lessons -->)", re.S)
_MAP = re.compile(r"(<!-- map -->\n).*?(<!-- /map -->)", re.S)


def build(lesson: Lesson) -> list[Path]:
    """Write both editions of a lesson; returns the files that changed."""
    full = read_source(lesson)
    changed = []
    for name in EDITIONS:
        path, text = lesson.notebook(name), to_json(_written(lesson, full, name))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_write(path) as handle:
                handle.write(text)
            changed.append(path)
    return changed


def check(lesson: Lesson) -> list[str]:
    """Everything wrong with a lesson and its two notebooks, one sentence each; an empty list means all is well."""
    problems = lint(lesson)
    full = read_source(lesson)
    for name in EDITIONS:
        path = lesson.notebook(name)
        where = path.relative_to(lesson.root)
        if not path.is_file():
            problems.append(f"{where} is missing. Run: make build")
            continue
        written = from_json(path)
        wanted = _written(lesson, full, name)
        if path.read_text(encoding="utf-8") != to_json(wanted):
            problems.append(f"{where} is out of step with its source{_outputs(written)}. Run: make build")
        if unparse(restore(written)) != unparse(restore(wanted)):
            problems.append(f"{where}: written back to py:percent, it is not what stands in the source.")
        if name == "learner":
            problems += [
                f"{where}: a line of the solution of {number} survives: {line}" for number, line in leaks(full, written)
            ]
    return list(dict.fromkeys(problems))


def _written(lesson: Lesson, full: object, name: str) -> Any:
    """An edition as it is written to a file: with the cell that makes the course importable."""
    return bootstrap.with_cell(edition(full, name, lesson.name), lesson.root)


def _outputs(notebook: object) -> str:
    cells = notebook["cells"]  # type: ignore[index]
    return " (it holds outputs)" if any(cell.get("outputs") for cell in cells) else ""


def strangers(root: Path) -> list[str]:
    """Generated notebooks whose source has gone, and checks files without a lesson."""
    names = {lesson.name for lesson in lessons(root)}
    numbers = {name[:2] for name in names}
    found = []
    for folder in (root / "notebooks", root / "notebooks" / "solutions"):
        for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
            if path.stem not in names:
                found.append(f"{path.relative_to(root)} has no source; delete it or bring back source/{path.stem}.py.")
    for path in sorted((root / "notebooks" / "source").glob("checks_*.py")):
        if path.stem.removeprefix("checks_") not in numbers:
            found.append(f"{path.relative_to(root)} belongs to no lesson.")
    return found


def readme(root: Path, write: bool) -> list[str]:
    """Write the README's table of lessons and the map of the course, or say that they are out of step.

    Each stands between two comments (``<!-- lessons -->`` … ``<!-- /lessons -->``, and ``map``); without them nothing is done.
    """
    from coursekit.book import readme as parts

    path = root / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    new, picture = text, None
    if _TABLE.search(new):
        table = parts.table(root)
        new = _TABLE.sub(lambda match: match[1] + table + match[2], new)
    if _MAP.search(new):
        picture, words = parts.picture(root)
        alt = words.replace('"', "&quot;")
        image = f'<img src="{parts.MAP.as_posix()}" alt="{alt}">\n'
        new = _MAP.sub(lambda match: match[1] + image + match[2], new)
    drawn = root / parts.MAP
    stale = picture is not None and (not drawn.is_file() or drawn.read_text(encoding="utf-8") != picture)
    if new == text and not stale:
        return []
    if not write:
        return ["README.md: its table or its map of the lessons is out of step. Run: make build"]
    for file, content in {path: new, **({drawn: picture} if picture and stale else {})}.items():
        with atomic_write(file) as handle:
            handle.write(content)
    return []
