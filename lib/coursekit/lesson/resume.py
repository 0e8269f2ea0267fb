"""For who fell behind: run the solution up to a place, in the notebook that asks, and go on from there.

In a new cell of its own::

    from coursekit import resume
    resume("06.3")                     # to exercise 06.3
    resume("06", "The price list")     # to a section (the beginning of its heading will do)
"""

from __future__ import annotations

import itertools
import json
import linecache
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson, choose, find_root, lesson_of, lessons
from coursekit.lesson.notebook import edition, read_source, tags
from coursekit.lesson.outline import OPENING, SECTION, plain
from coursekit.lesson.params import accept, assignments, parameters_of
from coursekit.lesson.recording import quiet

_EXERCISE = re.compile(r"^### Exercise (\d\d\.\d+)", re.M)


@dataclass(frozen=True)
class Place:
    """Where one can go on in lesson ``number``: at a ``section``, or at an ``exercise`` ("06.3") in it; above ``cell``."""

    number: str
    section: str
    exercise: str = ""
    cell: int = 0  # index in the solution edition

    @property
    def words(self) -> str:
        """How a person calls it."""
        return f"exercise {self.exercise}" if self.exercise else f"“{self.section}” of lesson {self.number}"

    def call(self) -> str:
        """What to type to get there."""
        if self.exercise:
            return f'resume("{self.exercise}")'
        return f'resume("{self.number}", {json.dumps(self.section, ensure_ascii=False)})'


def resume(where: str, section: str = "", namespace: dict[str, Any] | None = None) -> None:
    """Go on in this notebook from exercise ``where`` ("06.3"), or from a ``section`` of lesson ``where`` ("06").

    The cells of the lesson's solution above that place are run with the parameters that your notebook has set; names of yours that
    they use are overwritten. Nothing is recorded, no exercise counts as solved, and figures and tables are not shown.

    Raises CourseError where there is no such place (it names all there are), and in the notebook of another lesson.
    """
    lesson = choose(find_root(), [where.split(".")[0]])[0]
    names = _names_of_the_notebook() if namespace is None else namespace
    _refuse_another_notebook(lesson, names)
    solution = edition(read_source(lesson), "solution", lesson.name)
    place = _chosen(places(lesson.number, solution["cells"]), where, section)
    given = _own_parameters(solution, names.get("In", ()))
    above = list(zip(_headings(solution["cells"]), solution["cells"], strict=True))[: place.cell]
    for heading, group in itertools.groupby(enumerate(above), lambda item: item[1][0]):
        start = time.monotonic()
        for number, (_, cell) in group:
            if cell["cell_type"] == "code":
                _run(cell["source"], names, f"<lesson {lesson.number}, cell {number}>")
                names.update(given if "parameters" in tags(cell) else {})
        print(f"{heading}: {time.monotonic() - start:.1f} s", flush=True)
    told = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    print(f"You are at {place.words}, as the solution leaves it ({told}). Go on with the cell below that heading.")


def places(number: str, cells: Sequence[Any]) -> list[Place]:
    """All places of a lesson's solution edition, in order."""
    found = []
    for i, (heading, cell) in enumerate(zip(_headings(cells), cells, strict=True)):
        if cell["cell_type"] == "markdown":
            found += [Place(number, heading, "", i)] if SECTION.search(cell["source"]) else []
            found += [Place(number, heading, exercise, i) for exercise in _EXERCISE.findall(cell["source"])]
    return found


def _headings(cells: Iterable[Any]) -> list[str]:
    """The heading of the section that each cell stands in."""
    found = [OPENING]
    for cell in cells:
        head = SECTION.search(cell["source"]) if cell["cell_type"] == "markdown" else None
        found.append(head[1].strip() if head else found[-1])
    return found[1:]


def _chosen(known: list[Place], where: str, section: str) -> Place:
    """The place that is meant. Raises CourseError, naming all there are, where it is none or not one."""
    begins = plain(section)
    found = [
        place
        for place in known
        if (begins and not place.exercise and plain(place.section).startswith(begins))
        or (not begins and place.exercise == where)
    ]
    if len(found) != 1:
        said = f"{where!r}, {section!r}" if section else repr(where)
        listed = "\n".join(f"  {place.call()}" for place in known)
        raise CourseError(f"{'More than one' if found else 'No'} place is meant by {said}. There are:\n{listed}")
    return found[0]


def _own_parameters(solution: Any, history: Iterable[str]) -> dict[str, Any]:
    """The lesson's parameters as the notebook's own cells have set them last; those that they have not, as the lesson has them."""
    known = parameters_of(solution)
    own: dict[str, Any] = {}
    for source in history:
        try:
            values = {name: parameter.default for name, parameter in assignments(source).items()}
        except CourseError:  # a cell that does more than set plain values
            continue
        own |= values if values.keys() <= known.keys() else {}
    return {name: parameter.default for name, parameter in known.items()} | accept(known, own)


def _run(source: str, names: dict[str, Any], called: str) -> None:
    """Execute one cell; what it prints and draws is not shown. Its lines are kept for tracebacks and for ``inspect``."""
    from IPython.utils.capture import capture_output

    linecache.cache[called] = (len(source), None, source.splitlines(keepends=True), called)
    try:
        with capture_output(), quiet():
            exec(compile(source, called, "exec"), names)
    finally:
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")  # else they are drawn when the notebook's own cell ends


def _refuse_another_notebook(lesson: Lesson, names: dict[str, Any]) -> None:
    """Raise CourseError where Jupyter (or VS Code) says that the open notebook is of another lesson."""
    path = names.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME", "")
    own = lesson_of(Path(path))[:2] if path else ""
    if own != lesson.number and own in {other.number for other in lessons(lesson.root)}:
        raise CourseError(f"This is a notebook of lesson {own}, and lesson {lesson.number} was asked for.")


def _names_of_the_notebook() -> dict[str, Any]:
    from IPython import get_ipython

    shell = get_ipython()
    return shell.user_ns if shell is not None else sys.modules["__main__"].__dict__
