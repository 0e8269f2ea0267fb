"""Build the notebooks of a lesson from its source, or check that they are what the source says."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson, lessons
from coursekit.files import write_text
from coursekit.lesson import bootstrap
from coursekit.lesson.lint import leaks, lint
from coursekit.lesson.notebook import EDITIONS, edited, edition, from_json, read_source, restore, to_json, unparse

YOURS = Path("runs") / "yours"


def build(lesson: Lesson) -> list[Path]:
    """Write both editions of a lesson; returns the files that changed.

    A notebook that somebody has written into is first copied to ``runs/yours``; the copy is among what is returned.
    """
    full = read_source(lesson)
    changed = []
    for name in EDITIONS:
        path, text = lesson.notebook(name), to_json(_written(lesson, full, name))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            changed += _kept(lesson.root, path)
            write_text(path, text)
            changed.append(path)
    return changed


def _kept(root: Path, path: Path) -> list[Path]:
    """Copy a notebook that holds somebody's work to where nothing is overwritten; returns the copy, or nothing."""
    try:
        if not path.is_file() or not edited(from_json(path)):
            return []
    except CourseError:  # no notebook at all: kept as well
        pass
    places = (root / YOURS / f"{path.stem}-{k}.ipynb" for k in itertools.count(1))
    copy = next(place for place in places if not place.exists())
    write_text(copy, path.read_text(encoding="utf-8", errors="replace"))
    return [copy]


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
