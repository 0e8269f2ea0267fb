"""The reference: a page for each module and each room of scfm, which Sphinx fills from the docstrings (sphinx.ext.autodoc)."""

from __future__ import annotations

import ast
from pathlib import Path

from coursekit.files import filled

INDEX = Path(__file__).parent / "templates" / "reference.md"
NOT_SHOWN = ("inside",)  # what a reader need not know
_MEMBERS = "```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :ignore-module-all:\n```\n"


def pages(root: Path) -> dict[str, str]:
    """docname → Markdown (MyST) of all pages of the reference; empty for a course without scfm."""
    home = root / "lib" / "scfm"
    if not home.is_dir():
        return {}
    modules = sorted(path for path in home.glob("*.py") if path.stem != "__init__")
    rooms = sorted(path.parent for path in home.glob("*/__init__.py") if path.parent.name not in NOT_SHOWN)
    found = {f"reference/{path.stem}": _module(path) for path in modules}
    found |= {f"reference/{room.name}": _room(room) for room in rooms}
    listed = {"MODULES": "\n".join(map(_line, modules)), "ROOMS": "\n".join(map(_line, rooms))}
    names = "\n".join(sorted(name.split("/")[1] for name in found))
    return found | {"reference/index": filled(INDEX, PAGES=names, **listed)}


def _line(path: Path) -> str:
    """A module or room in the list: its link, and what it is about."""
    about = _docstring(path / "__init__.py" if path.is_dir() else path).splitlines()[0]
    return f"- [scfm.{path.stem}]({path.stem}.md): {about}"


def _module(path: Path) -> str:
    return f"# scfm.{path.stem}\n\n" + _MEMBERS.format(name=f"scfm.{path.stem}")


def _room(folder: Path) -> str:
    """A room's page: what its docstring says, then each of its files."""
    first, _, rest = _docstring(folder / "__init__.py").partition("\n")
    parts = [f"# scfm.{folder.name}\n", f"{first}\n", *([f"```text\n{rest.strip()}\n```\n"] if rest.strip() else [])]
    for path in sorted(folder.glob("[a-z]*.py")):
        name = f"scfm.{folder.name}.{path.stem}"
        parts.append(f"## {name}\n\n" + _MEMBERS.format(name=name))
    return "\n".join(parts)


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "…"
