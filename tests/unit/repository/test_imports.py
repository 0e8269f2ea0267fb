"""The order of imports is kept by a tool, and the tool sees an import that hides in a function's body."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter is not installed")
ROOT = Path(__file__).resolve().parents[3]
LINT = "from importlinter.cli import lint_imports_command as lint; lint(['--no-logo', '--no-cache'])"


def lint(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "lib"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_an_arrow_upwards_is_found_also_in_a_function(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    good, said = lint(tmp_path)
    assert good == 0, said
    below = tmp_path / "lib" / "coursekit" / "machine" / "facts.py"
    below.write_text(below.read_text() + "\n\ndef later():\n    from coursekit.run import card\n\n    return card\n")
    bad, said = lint(tmp_path)
    assert bad == 1
    assert "coursekit.machine is not allowed to import coursekit.run" in said
