"""What `coursekit new` writes, and what it refuses; CONTRIBUTING.md as a whole is followed in tests/workflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_course import make_course

from coursekit import build, new
from coursekit.course import CourseError, lessons

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_a_new_lesson_is_in_form(tmp_path: Path) -> None:
    root = make_course(tmp_path)
    paths = new.lesson(root, "42_my_question")
    assert [path.relative_to(root).as_posix() for path in paths] == [
        "notebooks/source/42_my_question.py",
        "notebooks/source/checks_42.py",
        "tests/notebooks/expected/42.toml",
    ]
    lesson = lessons(root)[1]
    build.build(lesson)
    assert build.check(lesson) == []
    assert all("@" + "NN@" not in path.read_text() for path in paths)
    assert "# # 42 · My question?" in paths[0].read_text()
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--config", str(PYPROJECT), *map(str, paths[:2])],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [("01_twin", "01 is taken by 01_tiny"), ("my_question", "like 42_my_question"), ("7_x", "like 42")],
)
def test_a_lesson_that_cannot_be(tmp_path: Path, name: str, said: str) -> None:
    root = make_course(tmp_path)
    with pytest.raises(CourseError, match=said):
        new.lesson(root, name)


def test_names_that_are_taken_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "datasets.toml").write_text("[here]\ntitle = 'x'\n")
    (tmp_path / "data" / "models.toml").write_text("[models.here]\nkind = 'x'\n")
    for make in (lambda name: new.dataset(tmp_path, name, tmp_path / "x.h5ad"), lambda name: new.model(tmp_path, name)):
        with pytest.raises(CourseError, match="here is in"):
            make("here")
        with pytest.raises(CourseError, match="small letters"):
            make("Not A Name")
    with pytest.raises(CourseError, match="no file"):
        new.dataset(tmp_path, "other", tmp_path / "x.h5ad")
    with pytest.raises(CourseError, match="no model in"):
        new.model(tmp_path, "other")


def test_an_entry_that_would_break_the_list_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text("[a]\n")
    with pytest.raises(ValueError):
        new._append(path, ["[a]"])
    assert path.read_text() == "[a]\n"
