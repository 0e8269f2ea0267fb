"""The first cell of every notebook, and what it calls where the course is not installed: Colab, Binder, another kernel.

Only the standard library is imported: the point is that nothing else may be there. Installed is only what is missing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from coursekit.files import filled, read_toml
from coursekit.machine.facts import installed, normalized

# What runs and shows notebooks. No lesson imports it, and Colab has its own, in versions that its kernel is bound to.
RUNNING = {"ipykernel", "ipywidgets", "jupyterlab", "nbclient", "nbconvert", "papermill"}
_CELL = Path(__file__).with_name("templates") / "setup_cell.txt"
_CLONE = """course = here / "{folder}"
        subprocess.run(["git", "clone", "-q", "--depth", "1", "--branch", "{branch}", "{url}", str(course)], check=True)"""
_NO_ADDRESS = 'raise FileNotFoundError("The course was not found. Open this notebook inside the folder of the course.")'


def address(root: Path) -> tuple[str, str] | None:
    """The repository's address and branch as [tool.coursekit] of pyproject.toml gives them; None where it gives none.

    Raises CourseError for an address that is not one of GitHub: only those open in Colab and Binder.
    """
    from coursekit.course import CourseError

    own = read_toml(root / "pyproject.toml").get("tool", {}).get("coursekit", {})
    url = str(own.get("repository", "")).rstrip("/").removesuffix(".git")
    if not url:
        return None
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise CourseError(f"pyproject.toml: repository is {url!r}; expected https://github.com/OWNER/NAME.")
    return url, str(own.get("branch", "main"))


def cell(root: Path) -> str:
    """The source of the set-up cell: with the repository's address it can fetch the course, without it says what to do."""
    known = address(root)
    folder = known[0].rsplit("/", 1)[1] if known else "scfm-course"
    fetch = _CLONE.format(folder=folder, branch=known[1], url=known[0]) if known else _NO_ADDRESS
    return filled(_CELL, FOLDER=folder, FETCH=fetch).rstrip("\n")


def with_cell(notebook: Any, root: Path) -> Any:
    """The notebook with the set-up cell behind its title, folded away where the program can."""
    import nbformat

    from coursekit.lesson.notebook import SETUP

    folded = {"tags": [SETUP], "cellView": "form", "jupyter": {"source_hidden": True}}
    notebook["cells"].insert(1, nbformat.v4.new_code_cell(source=cell(root), metadata=folded, id="course-setup"))
    return notebook


def missing(requirements: list[str]) -> list[str]:
    """Those of the requirements that the installed packages do not meet.

    A pinned version (torch==…) counts as met by any: Colab's own build fits its GPU, and is not replaced.
    """
    found = []
    for text in requirements:
        try:
            version = importlib.metadata.version(_name(text))
        except importlib.metadata.PackageNotFoundError:
            found.append(text)
            continue
        if "==" not in text and not _fits(text, version):
            found.append(text)
    return found


def _name(text: str) -> str:
    """The distribution that a requirement names."""
    return normalized(re.split(r"[^\w.-]", text.strip())[0])


def _fits(text: str, version: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]
    return bool(Requirement(text).specifier.contains(version, prereleases=True))


def install() -> list[str]:
    """Install what the course needs and this Python lacks; returns it. Says when a session has to be started again."""
    root = Path(__file__).resolve().parents[3]
    project = read_toml(root / "pyproject.toml")["project"]
    wanted = missing([text for text in project["dependencies"] if not (_on_colab() and _name(text) in RUNNING)])
    if wanted:
        print(f"Installing {len(wanted)} packages that are missing; this takes a few minutes once.", flush=True)
        before = installed()
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], check=True)
        importlib.invalidate_caches()
        after = installed()
        in_use = _loaded() & {name for name, version in before.items() if after.get(name) != version}
        if in_use:
            names = ", ".join(sorted(in_use))
            print(f"Start the session again (menu Runtime or Kernel): {names} was in use in another version.")
    return wanted


def _on_colab() -> bool:
    try:
        return importlib.util.find_spec("google.colab") is not None
    except ModuleNotFoundError:  # not even a package google
        return False


def _loaded() -> set[str]:
    """The distributions of which this session has imported something (sklearn is scikit-learn's)."""
    known = importlib.metadata.packages_distributions()
    modules = {name.split(".")[0] for name in sys.modules}
    return {normalized(name) for module in modules for name in known.get(module, [])}
