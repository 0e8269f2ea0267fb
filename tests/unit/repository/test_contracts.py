"""Arrows point one way, and the tool that says so sees what is hidden in a function too."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytest.importorskip("importlinter", reason="needs import-linter, of the extra dev")

CASES = {
    "a circle within a room": ("scfm/adaptation/choices.py", "from scfm.adaptation import fit"),
    "upwards": ("scfm/genes.py", "from scfm.models import load_model"),
    "the science asks its experiments": ("scfm/plots.py", "import studies.ladder"),
    "the science asks the machinery": ("scfm/metrics.py", "from coursekit import record"),
}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    return subprocess.run(
        command,
        cwd=root,
        env={"PYTHONPATH": str(root / "lib"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def house(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_no_circle_and_no_arrow_upwards(house: Path) -> None:
    done = lint(house)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_an_import_in_a_function_body_is_found(house: Path, case: str) -> None:
    file, line = CASES[case]
    with (house / "lib" / file).open("a") as stream:
        stream.write(f"\n\ndef lazily() -> None:\n    {line}\n")
    done = lint(house)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
