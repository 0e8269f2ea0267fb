"""The rooms of lib/scfm import one another in one direction."""

from __future__ import annotations

import ast
from pathlib import Path

SCFM = Path(__file__).resolve().parents[3] / "lib" / "scfm"
LEVELS = (
    ("adapt", "generate", "pretrain"),
    ("models",),
    ("objectives",),
    ("embed", "tokenize", "datasets"),
    ("genes",),
)
ALONE = ("metrics", "plots", "baselines")
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imported(room: str) -> set[str]:
    """The rooms of scfm that a room imports, wherever in its files."""
    found: set[str] = set()
    for path in (SCFM / room).rglob("*.py") if (SCFM / room).is_dir() else [SCFM / f"{room}.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("scfm.")}
            elif isinstance(node, ast.ImportFrom) and node.module == "scfm":
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scfm."):
                found.add(str(node.module).split(".")[1])
    return found - {room}


def test_arrows_point_one_way() -> None:
    for room, level in LEVEL.items():
        back = {other for other in imported(room) if LEVEL.get(other, level + 1) <= level}
        assert not back, f"{room} imports {back}"
    for room in ALONE:
        assert not imported(room) & {*LEVEL, *ALONE}
