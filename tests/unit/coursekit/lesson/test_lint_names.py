"""Lessons name only what the library has, also in cells that only the bigger profiles reach and that no quick run executes.

A test and no part of the lint: to know what a module has it is imported, and torch with it, which costs `make check` seconds.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coursekit.lesson.lint import hidden_names

SOURCES = sorted((Path(__file__).resolve().parents[4] / "notebooks" / "source").glob("*.py"))
OURS = ("scfm", "studies", "coursekit")


def strange_names(code: str) -> list[str]:
    """What code imports from scfm, studies or coursekit, or reads of a module of theirs, and is not there: "line 3: scfm.nothing"."""
    tree = ast.parse(code)
    modules: dict[str, ModuleType] = {}
    found: list[str] = []

    def get(module: ModuleType, name: str, node: ast.AST, submodules: bool = False) -> Any:
        if not hasattr(module, name) and submodules:
            try:
                return importlib.import_module(f"{module.__name__}.{name}")
            except ModuleNotFoundError:
                pass
        if not hasattr(module, name):
            found.append(f"line {getattr(node, 'lineno', 0)}: {module.__name__}.{name}")
        return getattr(module, name, None)

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in OURS:
            module = _module(node.module or "", node, found)
            for alias in node.names if module else []:
                value = get(module, alias.name, node, submodules=True)
                if isinstance(value, ModuleType):
                    modules[alias.asname or alias.name] = value
        elif isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                if first in OURS and (module := _module(alias.name, node, found)):
                    modules[alias.asname or first] = module if alias.asname else importlib.import_module(first)
    # What the lesson gives a value of its own is not the module everywhere
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}

    def value_of(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return modules.get(node.id) if node.id not in own else None
        if isinstance(node, ast.Attribute):
            owner = value_of(node.value)
            return get(owner, node.attr, node) if isinstance(owner, ModuleType) else None
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            value_of(node)
    return sorted(set(found))


def _module(name: str, node: ast.stmt, found: list[str]) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        found.append(f"line {node.lineno}: {name}")
        return None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_lesson_names_only_what_is_there(path: Path) -> None:
    assert strange_names(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (
            "from studies import headstudy\nif False:\n    headstudy.stored()",
            ["line 3: studies.headstudy.stored"],
        ),
        ("import scfm\nscfm.nothing", ["line 2: scfm.nothing"]),
        (
            "import scfm\nscfm.store.cache.nowhere()\nscfm.store.cache.repo_data().nowhere",
            ["line 2: scfm.store.cache.nowhere"],
        ),
        ("import scfm.lost", ["line 1: scfm.lost"]),
        ("from scfm.lost import thing", ["line 1: scfm.lost"]),
        ("from coursekit import check, lost", ["line 1: coursekit.lost"]),
        ("from scfm.store import cache as c\nc.lost", ["line 2: scfm.store.cache.lost"]),
        ("import scfm.store.cache as c\nc.lost", ["line 2: scfm.store.cache.lost"]),
        ("from scfm.store import cache\ncache = {}\ncache.lost", []),
        ("import scfm\nscfm.adapt(1)\nscfm.adapt.__name__\nfrom studies import seen", []),
        ("import numpy as np\nnp.lost", []),
    ],
)
def test_what_is_not_there_is_found(code: str, found: list[str]) -> None:
    assert strange_names(code) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import scfm\nscfm.store.cache.repo_data()", 2),
        ("from scfm.store import cache", 1),
        ("from scfm.store.results import results_path", 0),
        ("from coursekit import check, record, resume", 0),
        ("from coursekit import check, course", 1),
        ("from coursekit.lesson import build", 1),
        ("import scfm\nscfm.inside.seeded", 1),
        ("model._network\nlist.__class__", 1),
    ],
)
def test_hidden_names_are_found(source: str, found: int) -> None:
    assert len(hidden_names(ast.parse(source))) == found
