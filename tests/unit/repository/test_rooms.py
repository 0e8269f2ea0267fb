"""A room's first file names the others in it, so that a stranger finds a thing by walking the tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parents[3] / "lib"
ROOMS = sorted(
    path.parent for path in LIB.glob("*/*/__init__.py") if path.parents[2] == LIB and path.parent.name != "models"
)


@pytest.mark.parametrize("room", [*ROOMS, LIB / "studies"], ids=lambda room: str(room.relative_to(LIB)))
def test_a_rooms_docstring_names_its_files(room: Path) -> None:
    said = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    files = {path.stem for path in room.glob("*.py")} - {"__init__", "__main__"}
    assert files
    assert [name for name in sorted(files) if name not in said] == []
