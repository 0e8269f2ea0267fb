"""Who goes on from a checkpoint in the middle of a lesson gets the results of who ran all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from coursekit.course import Lesson, lessons
from coursekit.lesson.notebook import tags, to_json
from coursekit.run import compare
from coursekit.run.execute import Run, prepare, run
from coursekit.workshop import checkpoint, keep

ROOT = Path(__file__).resolve().parents[2]
LESSONS = [pytest.param(lesson, id=lesson.name) for lesson in lessons(ROOT)]


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS)
def test_the_rest_of_a_lesson_from_a_checkpoint(
    lesson: Lesson, lesson_run: Callable[[str, str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the point in the middle; every result that is recorded below it is as in the whole run."""
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path / "checkpoints")  # absolute: it replaces the course's own
    assert keep.LACKS not in (said := keep.make(lesson)), said
    stored = checkpoint.manifest(lesson)["points"]
    chosen = stored[len(stored) // 2]
    notebook = prepare(lesson)
    point = checkpoint.Point.of(chosen)
    line = point.call(lesson.number)
    begin = f"from pathlib import Path; from coursekit import checkpoint; checkpoint.FOLDER = Path({str(checkpoint.FOLDER)!r})"
    cells = notebook["cells"]
    own = next(cell for cell in cells if "parameters" in tags(cell))
    notebook["cells"] = [own, nbformat.v4.new_code_cell(f"{begin}\n{line}", id="resume"), *cells[chosen["cell"] :]]
    file = tmp_path / f"{lesson.name}.ipynb"
    file.write_text(to_json(notebook))
    done = run(lesson, file=file, folder=tmp_path / "run")
    assert done.passed, (done.folder / "traceback.txt").read_text()
    whole = lesson_run(lesson.name, "solution").card["results"]
    found = done.card["results"]
    assert found, f"nothing is recorded after {point.words}"
    for name, entry in found.items():
        assert (
            compare.differences(whole[name]["value"], entry["value"], entry["tolerance"], compare.SAME_MACHINE) == []
        ), name
