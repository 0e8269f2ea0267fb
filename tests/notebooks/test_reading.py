"""How a lesson reads: short cells that compute, folded ones that draw, lines that fit, names that are public.

The rules are in CONTRIBUTING's words: a cell shows an idea; what is long is a function of ``studies`` with a test of its own.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from coursekit.course import Lesson, lessons
from coursekit.lesson.notebook import read_source, tags

ROOT = Path(__file__).resolve().parents[2]
LESSONS = [pytest.param(lesson, id=lesson.name) for lesson in lessons(ROOT)]
WIDTH, LONGEST = 120, 25


def code(lesson: Lesson) -> list[str]:
    return [cell["source"] for cell in read_source(lesson)["cells"] if cell["cell_type"] == "code"]


def lines(source: str) -> list[str]:
    """The lines that say something: no comments, no blank ones."""
    return [line for line in source.split("\n") if line.strip() and not line.strip().startswith("#")]


@pytest.mark.parametrize("lesson", LESSONS)
def test_no_code_line_is_too_wide(lesson: Lesson) -> None:
    assert [line for source in code(lesson) for line in source.split("\n") if len(line) > WIDTH] == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_an_open_cell_fits_on_a_screen(lesson: Lesson) -> None:
    cells = [
        cell for cell in read_source(lesson)["cells"] if cell["cell_type"] == "code" and "figure" not in tags(cell)
    ]
    assert [lines(c["source"])[0] for c in cells if len(lines(c["source"])) > LONGEST] == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_an_alternative_text_only_names_what_was_computed(lesson: Lesson) -> None:
    """A reader of the code sees the numbers before the sentence: no calls, no look-ups inside ``alt=``."""
    assert [text for source in code(lesson) for text in computed_alts(ast.parse(source))] == []


def computed_alts(tree: ast.Module) -> list[str]:
    allowed = (ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.Name, ast.Load)
    given = [word.value for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords if word.arg == "alt"]  # fmt: skip
    return [ast.unparse(value) for value in given if not all(isinstance(part, allowed) for part in ast.walk(value))]


@pytest.mark.parametrize("lesson", LESSONS)
def test_lessons_use_public_names_only(lesson: Lesson) -> None:
    assert [name for source in code(lesson) for name in hidden_names(ast.parse(source))] == []


def hidden_names(tree: ast.Module) -> list[str]:
    """Underscore names, what coursekit has beside check and record, and the insides of scfm."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if node.attr.startswith("_") and not node.attr.endswith("__"):
                found.append(name)
            if name.startswith(("scfm.store.", "scfm.inside.")):
                found.append(name)
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            if module == "coursekit" and not {alias.name for alias in node.names} <= {"check", "record"}:
                found.append(ast.unparse(node))
            if module.startswith(("coursekit.", "scfm.store", "scfm.inside")) and module != "scfm.store.results":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import scfm\nscfm.store.cache.repo_data()", 2),
        ("from scfm.store import cache", 1),
        ("from scfm.store.results import results_path", 0),
        ("from coursekit.lesson import build", 1),
        ("from coursekit import check, record", 0),
        ("model._network\nlist.__class__", 1),
    ],
)
def test_hidden_names_are_found(source: str, found: int) -> None:
    assert len(hidden_names(ast.parse(source))) == found


@pytest.mark.parametrize("lesson", LESSONS)
def test_figures_stand_in_folded_cells(lesson: Lesson) -> None:
    """A cell that shows a figure does little else: it is folded. (A function that draws several is an idea of its own.)"""
    for cell in read_source(lesson)["cells"]:
        if cell["cell_type"] == "code" and not {"figure", "exercise", "solution"} & set(tags(cell)):
            tree: Any = ast.parse(cell["source"])
            shown = [
                node
                for node in tree.body
                if "plots.show(" in ast.unparse(node) and not isinstance(node, ast.FunctionDef)
            ]
            assert shown == [], ast.unparse(shown[0])[:80]
