"""A clone is the same byte for byte where git writes Windows' line ends, as Git for Windows does by default."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def git(at: Path, *words: str, given: str = "") -> list[str]:
    done = subprocess.run(["git", "-C", str(at), *words], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked archive, not a clone")
def test_a_clone_with_autocrlf_has_the_committed_bytes(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(ROOT, "clone", "-q", "-c", "core.autocrlf=true", str(ROOT), str(clone))
    entries = [line.split("\t", 1) for line in git(clone, "ls-files", "-s")]
    committed = {path: facts.split()[1] for facts, path in entries}
    written = git(clone, "hash-object", "--no-filters", "--stdin-paths", given="\n".join(committed))
    assert [path for path, found in zip(committed, written, strict=True) if committed[path] != found] == []
    assert "data/models/geneformer-mini/config.json" in committed  # hashed by load_model
