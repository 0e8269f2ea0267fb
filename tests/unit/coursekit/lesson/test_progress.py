"""A learner's progress is kept in a file that only grows, and is never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_course import make_course

from coursekit import check
from coursekit.__main__ import main
from coursekit.lesson import progress


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_course(tmp_path / "course")
    monkeypatch.setenv("COURSEKIT_ROOT", str(root))
    monkeypatch.delenv("COURSEKIT_RUN", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.chdir(root)
    check.reset()
    return root


def test_open_then_tried_then_solved(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.exercise("01.1", ...)
    assert not (root / progress.FILE).exists()  # an untouched stub is no attempt
    assert "○ 01.1" in progress.report(root)
    assert "Nothing is noted yet" in progress.report(root)
    check.exercise("01.1", lambda a, b: a)
    check.exercise("01.1", lambda a, b: b)
    assert "✗ 01.1" in progress.report(root)
    assert "Next: 01.1 in notebooks/01_tiny.ipynb" in progress.report(root)
    check.exercise("01.1", max)
    check.exercise("01.1", lambda a, b: a)  # what was solved stays solved
    [(_, [exercise])] = progress.state(root)
    assert exercise.solved
    assert exercise.failed == 2
    capsys.readouterr()
    assert main(["progress"]) == 0
    said = capsys.readouterr().out
    assert "✓ 01.1" in said
    assert "1 of 1 exercises solved" in said
    assert "Next" not in said


@pytest.mark.parametrize(
    ("name", "value"), [("COURSEKIT_RUN", "1"), ("JPY_SESSION_NAME", "/x/notebooks/solutions/01.ipynb")]
)
def test_runs_and_solutions_do_not_count(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    check.exercise("01.1", max)
    assert not (root / progress.FILE).exists()


def test_a_course_that_cannot_be_written_falls_back_to_the_working_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / progress.FILE).mkdir()  # whoever runs the tests, a folder cannot be opened as a file
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    check.exercise("01.1", max)
    assert (work / progress.FILE).is_file()
    assert "✓ 01.1" in progress.report(root)
    (work / progress.FILE).unlink()
    (work / progress.FILE).mkdir()
    check.exercise("01.1", max)  # nowhere to write: the lesson goes on


def test_broken_and_foreign_lines_are_left_out(root: Path) -> None:
    lines = ["", "{", "[1]", json.dumps({"time": "2026-01-01", "exercise": "99.9", "passed": True}), "\x00\xff"]
    lines.append(json.dumps({"time": "2026-01-02", "exercise": "01.1", "passed": True}))
    (root / progress.FILE).write_text("\n".join(lines), encoding="utf-8")
    [(_, [exercise])] = progress.state(root)
    assert exercise.solved == "2026-01-02"
