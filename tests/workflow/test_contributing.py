"""CONTRIBUTING.md is followed to the letter in a clone: a lesson, a data set and a model are added, and all of them work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- test: (\w+) -->\n```sh\n(.*?)```", re.S)
Follow = Callable[[str], str]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed files with those that were changed since, as a repository of its own."""
    folder = tmp_path_factory.mktemp("clone") / "course"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-m", "-o", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def follow(clone: Path) -> Follow:
    """``follow("lesson")`` runs the blocks of CONTRIBUTING.md with this mark, line by line; returns what they said."""
    (clone / "cache").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("COURSEKIT")}
    env |= {
        "MAKEFLAGS": f"PY={sys.executable}",  # this environment; what the clone would set up for itself is the bundle's test
        "PYTHONPATH": str(clone / "lib"),
        "SCFM_CACHE": str(clone / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def run(mark: str) -> str:
        blocks = [text for name, text in BLOCK.findall((clone / "CONTRIBUTING.md").read_text()) if name == mark]
        assert blocks, f"CONTRIBUTING.md has no commands marked {mark}"
        said = ""
        for line in "".join(blocks).splitlines():
            done = subprocess.run(["sh", "-c", line], cwd=clone, env=env, capture_output=True, text=True)
            said += done.stdout + done.stderr
            assert done.returncode == 0, f"$ {line}\n{said}"
        return said

    def python(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=clone, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.python = python  # type: ignore[attr-defined]
    return run


def test_a_lesson(clone: Path, follow: Follow) -> None:
    said = follow("lesson")
    assert re.search(r"^\d+ passed", said.split("\n= ")[-1] if "\n= " in said else said, re.M) or " passed" in said
    assert " failed" not in said
    assert (clone / "notebooks" / "42_my_question.ipynb").is_file()
    row = next(line for line in (clone / "README.md").read_text().splitlines() if "42 · My question?" in line)
    assert re.search(r"minus by PCA: \*\*-0\.\d+\*\* \[-0\.\d+, -0\.\d+\]", row), row


def test_a_dataset(clone: Path, follow: Follow) -> None:
    follow.python(  # type: ignore[attr-defined]
        "import scfm; a = scfm.load_dataset('pbmc68k')[::2].copy(); a.uns.clear(); a.write_h5ad('my_cells.h5ad')"
    )
    said = follow("dataset")
    assert "ok" in said
    assert (clone / "data" / "cards" / "my-cells.md").is_file()
    (clone / "my_cells.h5ad").unlink()  # from here on the name is enough
    assert follow.python("import scfm; print(scfm.load_dataset('my-cells').n_obs)").split() == ["350"]  # type: ignore[attr-defined]


def test_a_model(clone: Path, follow: Follow) -> None:
    follow("model")
    code = (
        "import scfm; m = scfm.load_model('my-model'); a = scfm.load_dataset('pbmc68k')[:5]; print(*m.embed(m.tokenize(a), "
        "progress=False).shape)"
    )
    assert follow.python(code).split()[-2:] == ["5", "128"]  # type: ignore[attr-defined]
