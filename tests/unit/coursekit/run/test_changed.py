"""Which lessons a change touches."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from tiny_course import make_course

from coursekit.__main__ import main
from coursekit.course import Lesson, lessons
from coursekit.run.changed import touched


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_course(tmp_path)
    source = root / "notebooks" / "source"
    (source / "02_other.py").write_text((source / "01_tiny.py").read_text().replace("01 ·", "02 ·"))
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    return root


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


def names(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> list[str]:
    assert main(["--root", str(root), "changed", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


BOTH = ["01_tiny", "02_other"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("notebooks/source/02_other.py", ["02_other"]),
        ("notebooks/source/checks_01.py", ["01_tiny"]),
        ("tests/notebooks/expected/02.toml", ["02_other"]),
        ("lib/scfm/embed.py", BOTH),
        ("requirements.lock", BOTH),
        ("requirements-site.lock", BOTH),
        ("pyproject.toml", BOTH),
        ("data/models.toml", BOTH),
        ("data/models/geneformer-mini/config.json", BOTH),
        *(
            (f"data/{name}", BOTH)
            for name in ("fields.csv", "genes.tsv.gz", "listed/x.cells.tsv", "results/heads.parquet")
        ),
        ("data/cards/kang.md", []),
        ("data/results/cards.json", []),  # the README's own
        ("README.md", []),
        ("notebooks/01_tiny.ipynb", []),
        ("docs/lib/x.py", []),
        ("notebooks/source/03_gone.py", []),
    ],
)
def test_a_path_touches_its_lessons(path: str, expected: list[str], tmp_path: Path) -> None:
    known = [Lesson(tmp_path, name) for name in BOTH]
    assert [lesson.name for lesson in touched(known, ["README.md", path])] == expected


def test_the_command_prints_what_a_matrix_reads(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert names(capsys, root, "--since", "HEAD") == []
    checks = root / "notebooks" / "source" / "checks_01.py"
    checks.write_text(checks.read_text() + "\n")
    assert names(capsys, root, "--since", "HEAD") == ["01_tiny"]
    git(root, "commit", "-qam", "checks")
    assert names(capsys, root, "--since", "HEAD~1") == ["01_tiny"]
    (root / "lib").mkdir()
    (root / "lib" / "new.py").write_text("")  # new and not yet added
    assert names(capsys, root, "--since", "HEAD") == BOTH


@pytest.mark.parametrize("words", [[], ["--since", ""], ["--since", "0" * 40], ["--since", "--help"]])
def test_without_a_commit_all_lessons_run(root: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words == ["--since", "--help"]:
        words = ["--since=--help"]
    assert names(capsys, root, *words) == [lesson.name for lesson in lessons(root)]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_no_push_cancels_the_run_of_another_and_each_lesson_keeps_its_downloads(name: str) -> None:
    text = (Path(__file__).resolve().parents[4] / ".github" / "workflows" / f"{name}.yml").read_text()
    whole = yaml.safe_load(text)
    assert "github.event_name == 'push' && github.sha" in whole["concurrency"]["group"]
    assert whole["concurrency"]["cancel-in-progress"] in (False, "${{ github.event_name == 'pull_request' }}")
    steps = [step for job in whole["jobs"].values() for step in job["steps"]]
    (cache,) = [step["with"] for step in steps if step.get("uses", "").startswith("actions/cache@")]
    own = f"scfm-{name}-${{{{ matrix.lesson }}}}-"
    assert cache["key"].startswith(own)
    assert cache["restore-keys"] == own
