"""What the Makefile does by itself: what it deletes, and what it says before it sets anything up."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parents[4] / "Makefile"
pytestmark = pytest.mark.skipif(
    shutil.which("make") is None, reason="needs make: install it with the system's packages"
)


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(MAKEFILE, folder)
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)


def test_clean_takes_the_runs_of_lessons_and_clean_all_the_rest(tmp_path: Path) -> None:
    for name in ("03_zero_shot", "grid/store", "atlas", "bundle"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert make(tmp_path, "clean").returncode == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["atlas", "bundle", "grid"]
    done = make(tmp_path, "clean-all")
    assert done.returncode == 0
    assert "runs/atlas" in done.stdout
    assert not (tmp_path / "runs").exists()
    assert make(tmp_path, "clean-all").returncode == 0


def test_an_intel_mac_hears_it_from_us_and_not_from_pip(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ncase "$*" in *Darwin*) exit 1 ;; *pip*) echo pip ;; esac\n')
    python.chmod(0o755)
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text("")
    done = make(tmp_path, "setup")
    assert done.returncode != 0
    assert "Intel processor" in done.stderr
    assert "pip" not in done.stdout
    assert not (tmp_path / ".venv" / "ready").exists()
    python.write_text("#!/bin/sh\n")
    assert make(tmp_path, "setup").returncode == 0


def test_a_pip_that_installs_for_the_user_does_not_stop_the_set_up(tmp_path: Path) -> None:
    shutil.copy(MAKEFILE, tmp_path)
    own = "include Makefile\nshown: ; @echo $$PIP_USER\n"
    environment = os.environ | {"PIP_USER": "1"}
    done = subprocess.run(
        ["make", "--no-print-directory", "-f", "-", "shown"],
        input=own,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout.strip() == "0"  # what pip is told goes before its pip.conf
