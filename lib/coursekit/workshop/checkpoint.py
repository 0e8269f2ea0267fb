"""For who fell behind: go on from any section or exercise of a lesson as if its solution had been run up to there.

In a notebook, in a new cell of its own::

    from coursekit import checkpoint
    checkpoint.resume("06.3")                     # to exercise 06.3
    checkpoint.resume("06", "The price list")     # to a section (the beginning of its heading will do)
    checkpoint.points("06")                       # where one can go on

What was computed comes from ``runs/checkpoints`` (``make checkpoints`` fills it, ``make bundle`` packs it); imports and
functions come from the lesson's source. Every stored piece bears its SHA-256 as its name and is read only if it still has
it, and only for the text of the lesson, the library and the stored results that it was made with.

The pieces are pickles: take them from those from whom you would take a notebook.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson, choose, find_root
from coursekit.lesson.outline import SECTION, plain
from coursekit.workshop import pieces

FOLDER = Path("runs") / "checkpoints"
STATEMENTS = ("pd.set_option", "warnings.filterwarnings", "warnings.simplefilter")  # calls whose effect is no name
_EXERCISE = re.compile(r"^### Exercise (\d\d\.\d+)", re.M)
_OF_JUPYTER = {"In", "Out", "get_ipython", "exit", "quit", "open"}


@dataclass(frozen=True)
class Point:
    """A place where one can go on: ``exercise`` ("06.3", or "" for a section), its ``section``, ``cell`` it stands before."""

    exercise: str
    section: str = ""
    cell: int = 0  # index in the solution edition

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Point:
        """The point of a stored entry."""
        return cls(entry["exercise"], entry["section"], entry["cell"])

    @property
    def words(self) -> str:
        """How a person calls it."""
        return f"exercise {self.exercise}" if self.exercise else f"“{self.section}”"

    def call(self, number: str = "") -> str:
        """What to type to get there; ``number`` is the lesson's, which an exercise has in its own."""
        if self.exercise:
            return f'checkpoint.resume("{self.exercise}")'
        return f'checkpoint.resume("{number}", {json.dumps(self.section, ensure_ascii=False)})'


def places(notebook: Any) -> list[Point]:
    """The points of a lesson's solution edition, in order; those before which nothing was computed are left out."""
    found, section, computed = [], "", 0
    for i, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            computed += 1
            continue
        head = SECTION.search(cell["source"])
        exercise = _EXERCISE.search(cell["source"])
        section = head[1].strip() if head else section
        if head and computed:
            found.append(Point("", section, i))
        if exercise and computed:
            found.append(Point(exercise[1], section, i))
    return found


def code_above(notebook: Any, cell: int | None = None) -> list[str]:
    """The sources of the code cells that stand before a cell (all of them without one), the parameters' included."""
    return [c["source"] for c in notebook["cells"][:cell] if c["cell_type"] == "code"]


# --- names ------------------------------------------------------------------------------------------------


def trees(cells: Iterable[str]) -> Iterator[ast.Module]:
    """The code cells parsed, without those that are no Python (a magic of Jupyter)."""
    for source in cells:
        with contextlib.suppress(SyntaxError):
            yield ast.parse(source)


def statements(cells: Iterable[str]) -> Iterator[ast.stmt]:
    """The statements of code cells that are run again instead of stored: imports, functions, classes, and settings."""
    for tree in trees(cells):
        for node in tree.body:
            again = isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func)
            if again or call in STATEMENTS:
                yield node


def bound(cells: Iterable[str]) -> set[str]:
    """The names that ``statements`` bind."""
    names = set()
    for node in statements(cells):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def assigned(cells: Iterable[str]) -> set[str]:
    """All names to which code cells assign something."""
    return {name for tree in trees(cells) for name in _names(tree, ast.Store)}


def read_first(cells: Iterable[str]) -> set[str]:
    """The names that code cells read and that neither they nor cells before them assign: what has to be there to begin with them."""
    read: set[str] = set()
    known: set[str] = set()
    for source in cells:
        known |= assigned([source]) | bound([source])
        read |= {name for tree in trees([source]) for name in _names(tree, ast.Load)} - known
    return read


def _names(tree: ast.Module, context: type[ast.expr_context]) -> set[str]:
    """The names that are read (``ast.Load``) or assigned (``ast.Store``) anywhere in a cell."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


def rebuild(cells: Iterable[str], namespace: dict[str, Any]) -> None:
    """Run imports, functions, classes and settings of code cells in ``namespace``."""
    for node in statements(cells):
        exec(compile(ast.Module([node], []), "<checkpoint>", "exec"), namespace)


def values_of(namespace: dict[str, Any], cells: list[str]) -> dict[str, Any]:
    """What of a kernel's names has to be stored: neither Jupyter's own nor what :func:`rebuild` makes."""
    ours, given = bound(cells), assigned(cells)

    def made_again(name: str, value: Any) -> bool:
        plain = inspect.isfunction(value) or inspect.isclass(value)
        return inspect.ismodule(value) or (name in ours and (plain or name not in given))

    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _OF_JUPYTER and not made_again(name, value)
    }


def chance() -> dict[str, Any]:
    """The state of the random number generators that are shared by everybody."""
    state: dict[str, Any] = {"random": random.getstate()}
    if "numpy" in sys.modules:
        state["numpy"] = sys.modules["numpy"].random.get_state()
    if "torch" in sys.modules:
        state["torch"] = sys.modules["torch"].get_rng_state()
    return state


def set_chance(state: dict[str, Any]) -> None:
    """The inverse of :func:`chance`."""
    random.setstate(state["random"])
    if "numpy" in state:
        import numpy as np

        np.random.set_state(state["numpy"])  # noqa: NPY002
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"])


# --- what a participant calls -----------------------------------------------------------------------------


def manifest(lesson: Lesson) -> dict[str, Any]:
    """What is stored of a lesson, and what it was made with.

    Raises CourseError where there is nothing, or where lesson, library or stored results are no longer those that it was made with.
    """
    from coursekit.run.execute import prepare
    from coursekit.run.runkey import digest, library_hash, stored_results

    path = lesson.root / FOLDER / f"{lesson.name}.json"
    again = f"make checkpoints NB={lesson.number}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"No checkpoints of lesson {lesson.number} are here. Make them: {again}") from error
    except ValueError as error:
        raise CourseError(f"{path.name} cannot be read ({error}). Make it anew: {again}") from error
    if content["lesson"] != digest(code_above(prepare(lesson))):
        raise CourseError(f"The checkpoints of lesson {lesson.number} belong to another text of it. Make them: {again}")
    if content["library"] != library_hash():
        raise CourseError(
            f"The checkpoints of lesson {lesson.number} were made with other code in lib/. Make them: {again}"
        )
    if content.get("results") != stored_results(lesson, str(content["parameters"].get("model") or "")):
        raise CourseError(
            f"The checkpoints of lesson {lesson.number} were made with other tables in data/results. Make them: {again}"
        )
    return dict(content)


def points(number: str) -> None:
    """Print where in a lesson ("06") one can go on."""
    lesson = choose(find_root(), [number])[0]
    for entry in manifest(lesson)["points"]:
        print(f"{Point.of(entry).call(lesson.number):60s} {len(entry['names'])} names")


def resume(where: str, section: str = "", namespace: dict[str, Any] | None = None) -> None:
    """Go on in this notebook from exercise ``where`` ("06.3"), or from a ``section`` of lesson ``where`` ("06").

    All names that the lesson's solution has made up to there are put into the notebook, in place of your own of that name.
    Raises CourseError where there is no such place, or where a stored piece is missing, changed, or of another version; then
    nothing in the notebook has changed.
    """
    from coursekit.run.execute import prepare

    lesson = choose(find_root(), [where.split(".")[0]])[0]
    folder = lesson.root / FOLDER
    stored = manifest(lesson)
    entry = _chosen(stored["points"], where, section)
    state = pieces.thaw(folder, entry["pickle"], entry["buffers"])
    target = _users() if namespace is None else namespace
    target.update(state["names"])  # first: a function's defaults and decorators may need them
    rebuild(code_above(prepare(lesson), entry["cell"]), target)
    target.update(state["names"])
    set_chance(state["chance"])
    point = Point.of(entry)
    given = ", ".join(f"{name}={value}" for name, value in stored["parameters"].items() if value is not None)
    print(
        f"You are at {point.words} of lesson {lesson.number}, as the solution leaves it. Go on with the cell below that heading."
    )
    print(f"{len(entry['names'])} results are back (made {stored['made']} with {given}).")
    if entry["left_out"]:
        print(f"Not kept: {', '.join(f'{k} ({v})' for k, v in entry['left_out'].items())}")


def _chosen(entries: list[dict[str, Any]], where: str, section: str) -> dict[str, Any]:
    """The stored point that is meant. Raises CourseError, naming all there are, where it is none or not one."""
    exact = [e for e in entries if e["exercise"] == where] if "." in where else []
    if section:
        begins = plain(section)
        exact = [e for e in entries if not e["exercise"] and plain(e["section"]).startswith(begins)]
    if len(exact) != 1:
        known = "\n".join("  " + Point.of(e).call(where.split(".")[0]) for e in entries)
        said = f"{where!r}, {section!r}" if section else repr(where)
        raise CourseError(f"{'More than one' if exact else 'No'} checkpoint is meant by {said}. There are:\n{known}")
    return exact[0]


def _users() -> dict[str, Any]:
    """The names of the notebook that calls, or of the program."""
    from IPython import get_ipython

    shell = get_ipython()
    return shell.user_ns if shell is not None else sys.modules["__main__"].__dict__
