"""Who goes on from the middle of a lesson gets the names and the results of who ran all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from coursekit.course import Lesson, choose, lessons
from coursekit.lesson.notebook import edition, read_source, tags, to_json
from coursekit.lesson.resume import Place, places
from coursekit.run import compare
from coursekit.run.execute import Run, run

ROOT = Path(__file__).resolve().parents[2]
LESSONS = [pytest.param(lesson, id=lesson.name) for lesson in lessons(ROOT)]
# What a kernel holds: every name of the lesson with what it is, and of arrays and tables their bytes
_NAMES = """
import hashlib as _hash, json as _json, numpy as _np, pandas as _pd

def _said(value):
    if isinstance(value, _np.ndarray) and value.dtype != object:
        return _hash.sha256(_np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, (_pd.DataFrame, _pd.Series)):
        return value.to_json() if not any(word in str(list(getattr(value, "columns", []))) for word in ("second", "ms")) else "times"
    return repr(value) if isinstance(value, (int, float, str, bool)) else type(value).__name__

_skip = {{"In", "Out", "exit", "quit", "open", "get_ipython", "resume"}}
_found = {{k: _said(v) for k, v in list(globals().items()) if not k.startswith("_") and k not in _skip}}
open({path!r}, "w").write(_json.dumps(_found))
"""


def middle(lesson: Lesson) -> tuple[list[Any], Place]:
    """The cells of a lesson's solution, and the place in their middle."""
    cells = edition(read_source(lesson), "solution", lesson.name)["cells"]
    known = places(lesson.number, cells)
    return cells, known[len(known) // 2]


def run_cells(lesson: Lesson, cells: list[Any], folder: Path) -> Run:
    notebook = edition(read_source(lesson), "solution", lesson.name)
    notebook["cells"] = cells
    file = folder / f"{lesson.name}.ipynb"
    file.write_text(to_json(notebook), encoding="utf-8")
    done = run(lesson, file=file, folder=folder / "run")
    assert done.passed, (done.folder / "traceback.txt").read_text()
    return done


def code(source: str) -> Any:
    return nbformat.v4.new_code_cell(source, id=hashlib.sha256(source.encode()).hexdigest()[:8])


def test_the_names_are_those_of_a_run_of_all_cells_above(tmp_path: Path) -> None:
    lesson = choose(ROOT, ["02"])[0]
    cells, place = middle(lesson)
    found = []
    for name, above in (
        ("whole", cells[: place.cell]),
        ("resumed", [code(f"from coursekit import resume\n{place.call()}")]),
    ):
        path = tmp_path / f"{name}.json"
        (tmp_path / name).mkdir()
        own = next(cell for cell in cells if "parameters" in tags(cell))
        above = above if own in above else [own, *above]
        run_cells(lesson, [*above, code(_NAMES.format(path=str(path)))], tmp_path / name)
        found.append(json.loads(path.read_text()))
    assert len(found[0]) > 10
    assert found[1] == found[0]


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS)
def test_the_rest_of_a_lesson_from_its_middle(
    lesson: Lesson, lesson_run: Callable[[str, str], Run], tmp_path: Path
) -> None:
    """Every result that is recorded below the place is as in the whole run, and none from above it is recorded again."""
    cells, place = middle(lesson)
    own = next(cell for cell in cells if "parameters" in tags(cell))
    begin = code(f"from coursekit import resume\n{place.call()}")
    found = run_cells(lesson, [own, begin, *cells[place.cell :]], tmp_path).card["results"]
    whole = lesson_run(lesson.name, "solution").card["results"]
    assert found, f"nothing is recorded after {place.words}"
    for name, entry in found.items():
        assert (
            compare.differences(whole[name]["value"], entry["value"], entry["tolerance"], compare.SAME_MACHINE) == []
        ), name
