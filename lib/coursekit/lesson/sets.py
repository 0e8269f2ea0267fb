"""Which listed sets a lesson takes in a profile, read from its source: nothing is listed by hand, nothing has to run.

A set counts where its name, that of a study of two batches, or a table of a module of ``studies`` stands in the profile's part of a dict
like ``{"quick": ..., "cpu": ...}``, or where a function that loads sets is called with it. What stands under ``if profile !=
"quick"`` counts for the other profiles only.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from coursekit.course import PROFILES, Lesson
from coursekit.lesson.notebook import read_source, tags

LOADERS = ("load_dataset", "at_hand", "cells_of", "load_study", "study_at_hand", "evaluation_set")


def sets_of(lesson: Lesson, profile: str) -> list[str]:
    """The names of the listed sets that a lesson takes in this profile, in the order of its text."""
    cells = [
        cell for cell in read_source(lesson)["cells"] if cell["cell_type"] == "code" and "exercise" not in tags(cell)
    ]
    tree = ast.parse("\n".join(cell["source"] for cell in cells))
    return list(dict.fromkeys(_Reader(tree).names(tree, profile)))


class _Reader:
    """Walks a lesson's code, with what it knows of its dicts by profile and of the modules of ``studies`` it imports."""

    def __init__(self, tree: ast.Module) -> None:
        self.dicts: dict[str, ast.Dict] = {}
        self.studies: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                for part in ast.walk(node.value):
                    if _by_profile(part):
                        self.dicts[node.targets[0].id] = part
            elif isinstance(node, ast.ImportFrom) and node.module == "studies":
                self.studies |= {alias.name for alias in node.names}

    def names(self, node: ast.AST, profile: str) -> Iterator[str]:
        """The sets that code takes in this profile."""
        parts: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, ast.If) and not _may_hold(node.test, profile):
            parts = node.orelse
        elif _by_profile(node):
            yield from self.said(self._part(node, profile))
            return
        elif isinstance(node, ast.Assign) and (own := _of_profile(node.targets[0])):
            if own[1] == profile:  # SIZES["gpu"] = SIZES["cpu"] | {...}
                for name, other in filter(None, map(_of_profile, ast.walk(node.value))):
                    yield from self.said(self._part(self.dicts[name], other) if name in self.dicts else [])
                yield from self.said([node.value])
            return
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in LOADERS:
            yield from self.said(node.args)
        for part in parts:
            yield from self.names(part, profile)

    def said(self, nodes: Iterable[ast.AST]) -> Iterator[str]:
        """The sets that these expressions name, as a text or by a table of ``studies``."""
        for node in (inner for outer in nodes for inner in ast.walk(outer)):
            if isinstance(node, ast.Constant):
                yield from listed(node.value)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in self.studies:
                found = getattr(importlib.import_module(f"studies.{node.value.id}"), node.attr, None)
                yield from listed(*(found if isinstance(found, (Mapping, tuple, list)) else ()))

    @staticmethod
    def _part(by_profile: ast.Dict, profile: str) -> list[ast.AST]:
        pairs = zip(by_profile.keys, by_profile.values, strict=True)
        return [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == profile]


def listed(*values: Any) -> Iterator[str]:
    """The listed sets among ``values``; a study of two batches stands for its set."""
    from scfm.datasets import entries
    from studies.ablation import STUDIES

    for value in values:
        name = STUDIES[value].dataset if isinstance(value, str) and value in STUDIES else value
        if isinstance(name, str) and name in entries():
            yield name


def _by_profile(node: ast.AST) -> TypeGuard[ast.Dict]:
    keys = node.keys if isinstance(node, ast.Dict) else []
    return bool(keys) and all(isinstance(key, ast.Constant) and key.value in PROFILES for key in keys)


def _of_profile(node: ast.AST) -> tuple[str, str] | None:
    """Name and profile of ``SIZES["cpu"]``."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Constant):
        return (node.value.id, str(node.slice.value)) if node.slice.value in PROFILES else None
    return None


def _may_hold(test: ast.expr, profile: str) -> bool:
    """False where a condition says that the profile is another one."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(_may_hold(part, profile) for part in test.values)
    if isinstance(test, ast.Compare) and ast.unparse(test.left) == "profile" and len(test.ops) == 1:
        other = test.comparators[0]
        if isinstance(other, ast.Constant) and isinstance(test.ops[0], (ast.Eq, ast.NotEq)):
            return (other.value == profile) == isinstance(test.ops[0], ast.Eq)
    return True
