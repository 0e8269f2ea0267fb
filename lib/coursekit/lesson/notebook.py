"""From one source to its editions: parse py:percent, keep and drop cells by tag, write the same JSON every time.

jupytext does the parsing; what is added here is the choice of cells, ids that depend on nothing but the text, and quizzes
that hide their answers (:mod:`coursekit.lesson.quiz`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson
from coursekit.lesson.quiz import fold_quiz, unfold_quiz

FORMAT = "py:percent"
TAGS = ("parameters", "exercise", "solution", "instructor", "quiz", "figure")
SETUP = "setup"  # of the one cell that no source has; see coursekit.lesson.bootstrap
EDITIONS = {  # edition -> the tags whose cells it leaves out
    "learner": ("solution", "instructor"),
    "solution": ("exercise", "instructor"),
}
UNCOMMITTED = {"instructor": ()}  # editions that a command writes when somebody wants them
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_FILTER = {"jupytext": {"notebook_metadata_filter": "-all", "cell_metadata_filter": "tags,-all"}}


def tags(cell: Any) -> list[str]:
    """The tags of a cell."""
    return list(cell["metadata"].get("tags", []))


def parse(text: str) -> Any:
    """A source as a notebook object with all its cells, nothing dropped or changed."""
    import jupytext

    return jupytext.reads(text, fmt=FORMAT)


def unparse(notebook: Any) -> str:
    """A notebook as py:percent text: cell types, tags and the blank lines between cells, and nothing else."""
    import copy

    import jupytext

    plain = copy.deepcopy(notebook)
    plain["metadata"] = copy.deepcopy(_FILTER)
    return str(jupytext.writes(plain, fmt=FORMAT))


def read_source(lesson: Lesson) -> Any:
    """The parsed source of a lesson. Raises CourseError where it is not there or not text."""
    try:
        return parse(lesson.source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{lesson.source.name} cannot be read: {error}") from error


def edition(full: Any, name: str, lesson: str) -> Any:
    """The cells of an edition ("learner", "solution" or "instructor") as a notebook ready to be written or executed.

    ``full`` is a parsed source, ``lesson`` the lesson's name. Quizzes are folded; ids come from the text of the cells, so
    that an edit changes one id and not all that follow.
    """
    import nbformat

    dropped = set({**EDITIONS, **UNCOMMITTED}[name])
    seen: dict[str, int] = {}
    cells = []
    for cell in full["cells"]:
        if dropped & set(tags(cell)):
            continue
        source = fold_quiz(cell["source"]) if "quiz" in tags(cell) else cell["source"]
        metadata = {key: cell["metadata"][key] for key in ("tags", "lines_to_next_cell") if key in cell["metadata"]}
        metadata |= {"jupyter": {"source_hidden": True}} if "figure" in tags(cell) else {}  # JupyterLab folds it
        digest = _digest(cell["cell_type"], metadata.get("tags"), source)
        seen[digest] = seen.get(digest, 0) + 1
        make = getattr(nbformat.v4, f"new_{cell['cell_type']}_cell")
        twin = f"-{seen[digest]}" if seen[digest] > 1 else ""
        cells.append(make(source=source, metadata=metadata, id=f"{digest}{twin}"))
    about = {**KERNEL, "coursekit": {"edition": name, "lesson": lesson}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=about)
    notebook["nbformat_minor"] = 5
    return notebook


def _digest(kind: str, named: list[str] | None, source: str) -> str:
    return hashlib.sha256(f"{kind}\n{named}\n{source}".encode()).hexdigest()[:10]


def edited(notebook: Any) -> bool:
    """Whether somebody has written into a built notebook: the id of a cell tells the text that it was built with."""
    cells = [cell for cell in notebook["cells"] if SETUP not in tags(cell)]
    return any(
        cell.get("id", "").split("-")[0] != _digest(cell["cell_type"], cell["metadata"].get("tags"), cell["source"])
        for cell in cells
        if cell["source"].strip()  # JupyterLab ends a notebook with an empty cell
    )


def to_json(notebook: Any) -> str:
    """The notebook's JSON: sorted keys, one space of indent, a newline at the end; valid nbformat 4.5."""
    import nbformat

    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def from_json(path: Path) -> Any:
    """A notebook file. Raises CourseError where it is missing or not a notebook."""
    import nbformat

    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise CourseError(f"{path} is not a readable notebook: {error}") from error


def restore(notebook: Any) -> Any:
    """The same notebook with its quizzes unfolded and without the set-up cell: what stands in the source."""
    import copy

    back = copy.deepcopy(notebook)
    back["cells"] = [cell for cell in back["cells"] if SETUP not in tags(cell)]
    for cell in back["cells"]:
        if "quiz" in tags(cell):
            cell["source"] = unfold_quiz(cell["source"])
    return back
