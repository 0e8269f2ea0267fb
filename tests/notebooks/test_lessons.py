"""All lessons, found in the folder: they run in both editions, their results are as expected, their exercises can fail."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import nbformat
import pytest
from offline import outside_references

from coursekit import check
from coursekit.course import Lesson, lessons
from coursekit.lesson import build
from coursekit.lesson.lint import exercise_ids
from coursekit.lesson.notebook import read_source, tags
from coursekit.run import expect
from coursekit.run.execute import Run, prepare

ROOT = Path(__file__).resolve().parents[2]
LESSONS = lessons(ROOT)
LessonRun = Callable[[str, str], Run]


def each(editions: tuple[str, ...] = ()) -> list[object]:
    """A parameter per lesson (and edition); with pytest-xdist, one worker makes all the runs of one lesson's edition.

    The learner's edition as a whole is for make test-full: it computes the same once more, with the exercises open.
    """
    if not editions:
        return [pytest.param(lesson, id=lesson.name) for lesson in LESSONS]
    return [
        pytest.param(
            lesson,
            edition,
            id=f"{lesson.name}-{edition}",
            marks=[
                pytest.mark.xdist_group(f"{lesson.name}-{edition}"),
                *([pytest.mark.slow] if edition == "learner" else []),
            ],
        )
        for lesson in LESSONS
        for edition in editions
    ]


def test_there_are_lessons() -> None:
    assert LESSONS, "notebooks/source holds no lesson"
    assert build.strangers(ROOT) == []


@pytest.mark.parametrize("lesson", each())
def test_form_and_notebooks_in_step(lesson: Lesson) -> None:
    assert build.check(lesson) == []


@pytest.mark.parametrize(("lesson", "edition"), each(("solution", "learner")))
def test_runs_top_to_bottom(lesson: Lesson, edition: str, lesson_run: LessonRun) -> None:
    done = lesson_run(lesson.name, edition)
    assert done.passed, (done.folder / "traceback.txt").read_text()


@pytest.mark.parametrize(("lesson", "edition"), each(("solution",)))
def test_results_are_as_expected(lesson: Lesson, edition: str, lesson_run: LessonRun) -> None:
    results = lesson_run(lesson.name, edition).card["results"]
    assert results, "the lesson records nothing"
    assert expect.judge(expect.load(lesson, "quick"), results) == []


class _AnyName(dict):
    """The names of a lesson of which only the exercises are run: whatever else they mention is a stand-in."""

    def __missing__(self, name: str) -> object:
        if hasattr(builtins, name):
            raise KeyError(name)
        return mock.MagicMock(name=name)


@pytest.mark.parametrize("lesson", each())
def test_the_learners_exercise_cells_run_and_are_not_solved(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[check.Result] = []
    monkeypatch.setattr(check, "exercise", lambda number, *a, **more: found.append(check.run(number, *a, **more)))
    cells = [cell for cell in prepare(lesson, "learner").cells if "exercise" in tags(cell)]
    names = _AnyName(check=check)
    for cell in cells:
        exec(cell.source, {}, names)
    assert [result.number for result in found] == [number for cell in cells for number in exercise_ids(cell)]
    assert found, "a lesson without an exercise"
    assert not [result.text() for result in found if result.passed or "cannot be checked" in result.message]


@pytest.mark.parametrize(("lesson", "edition"), each(("solution", "learner")))
def test_stub_fails_and_solution_passes(lesson: Lesson, edition: str, lesson_run: LessonRun) -> None:
    cells = read_source(lesson)["cells"]
    numbers = [number for cell in cells if "exercise" in tags(cell) for number in exercise_ids(cell)]
    verdicts = {entry["number"]: entry["passed"] for entry in lesson_run(lesson.name, edition).card["exercises"]}
    assert verdicts == dict.fromkeys(numbers, edition == "solution")


@pytest.mark.parametrize(("lesson", "edition"), each(("solution",)))
def test_what_it_used_is_known_by_hash_and_the_page_is_offline(
    lesson: Lesson, edition: str, lesson_run: LessonRun
) -> None:
    done = lesson_run(lesson.name, edition)
    assert all(entry.get("sha256") for entry in done.card["used"]), done.card["used"]
    assert outside_references((done.folder / "notebook.html").read_text()) == []


@pytest.mark.parametrize(("lesson", "edition"), each(("solution",)))
def test_every_figure_has_an_alternative_text(lesson: Lesson, edition: str, lesson_run: LessonRun) -> None:
    notebook = nbformat.read(lesson_run(lesson.name, edition).folder / "notebook.ipynb", as_version=4)
    outputs = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert outputs, "a lesson without a figure"
    for output in outputs:
        assert len(output["metadata"].get("image/png", {}).get("alt", "")) >= 30, (
            "show figures by scfm.plots.show(ax, alt=...)"
        )
