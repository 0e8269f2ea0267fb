"""The runs of a lesson that are there: the newest one, and the newest that still is this lesson."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson
from coursekit.lesson.notebook import edition, from_json, read_source, tags
from coursekit.lesson.params import parameters_of
from coursekit.run import card as cards


def runs_of(lesson: Lesson) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, card) of every run of a lesson, the newest first; cards that cannot be read are left out."""
    for path in sorted(lesson.runs.glob("*/card.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            card = cards.read(path)
        except CourseError:
            continue
        yield path.parent, card


def newest(lesson: Lesson) -> tuple[Path, dict[str, Any]] | None:
    """(folder, card) of the newest run of a lesson; None without one."""
    return next(runs_of(lesson), None)


def last_run(lesson: Lesson, profile: str = "quick") -> Path | None:
    """The folder of the newest run that still is this lesson: passed, same cells, default parameters of ``profile``."""
    usual = defaults(lesson, profile)
    return next(
        (
            folder
            for folder, card in runs_of(lesson)
            if card["status"] == "passed" and card["edition"] == "solution" and card["parameters"] == usual
            if same_text(lesson, folder)
        ),
        None,
    )


def last_seconds(lesson: Lesson) -> float | None:
    """Seconds of computing in the newest passed run of a lesson with the profile quick; None without one."""
    for _, card in runs_of(lesson):
        if card["status"] == "passed" and card["parameters"].get("profile") == "quick":
            return float(card["seconds"])
    return None


def defaults(lesson: Lesson, profile: str) -> dict[str, Any]:
    """The parameters with which a profile runs when nothing else is said."""
    known = parameters_of(read_source(lesson))
    return {name: parameter.default for name, parameter in known.items()} | {"profile": profile}


def same_text(lesson: Lesson, folder: Path) -> bool:
    """Whether the notebook that was run in ``folder`` has the cells of the lesson's solution as it is now."""
    wanted = edition(read_source(lesson), "solution", lesson.name)["cells"]
    try:
        found = own_cells(from_json(folder / "notebook.ipynb"))
    except CourseError:  # deleted
        return False
    return [cell["source"] for cell in found] == [cell["source"] for cell in wanted]


def own_cells(executed: Any) -> list[Any]:
    """The cells of an executed notebook without the one in which papermill put the parameters."""
    return [cell for cell in executed["cells"] if "injected-parameters" not in tags(cell)]
