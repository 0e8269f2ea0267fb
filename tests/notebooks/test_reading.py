"""How a lesson reads: short cells that compute, folded ones that draw (lines that fit and public names: coursekit.lesson.lint).

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
LONGEST = 25


def code(lesson: Lesson) -> list[str]:
    return [cell["source"] for cell in read_source(lesson)["cells"] if cell["cell_type"] == "code"]


def lines(source: str) -> list[str]:
    """The lines that say something: no comments, no blank ones."""
    return [line for line in source.split("\n") if line.strip() and not line.strip().startswith("#")]


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
