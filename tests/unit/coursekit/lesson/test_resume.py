"""Whoever fell behind goes on as if the solution had been run up to there, with parameters of their own."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_course import CHECKS, EXERCISE, make_course

import coursekit
from coursekit import check, resume
from coursekit.course import CourseError, choose
from coursekit.lesson import progress
from coursekit.lesson.notebook import edition, read_source
from coursekit.lesson.resume import places

LESSON = (
    """\
# %% [markdown]
# # 01 · Where did we leave?
#
# | You will be able to | Time | Needs |
# |---|---|---|
# | go on | 5 min | nothing |

# %% tags=["parameters"]
profile = "quick"  # quick | cpu | gpu
seed = 3

# %%
import numpy as np
import torch

from coursekit import check, record

numbers = np.arange(40.0)
torch.manual_seed(seed)
SCALE = 2.0


def scaled(x, by=SCALE):
    return by * x + seed


# %% [markdown]
# ## The first section
# Numbers are drawn.

# %%
drawn = torch.rand(3)
print("drawn", drawn)
record("drawn", drawn)
import matplotlib.pyplot as plt

figure, panels = plt.subplots(1, 2)

"""
    + EXERCISE
    + """\
# %% [markdown]
# ## The end of it
# What comes out depends on everything above.

# %%
numbers[0] = 5.0
after = torch.rand(2)
last = larger(1, 2)

# %% [markdown]
# ## Key points
# - One can go on.
"""
)


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_course(tmp_path / "course", LESSON, CHECKS)
    monkeypatch.setenv("COURSEKIT_ROOT", str(root))
    for name in ("COURSEKIT_RUN", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(root)
    return root


def cells(root: Path) -> list[Any]:
    lesson = choose(root, ["01"])[0]
    return edition(read_source(lesson), "solution", lesson.name)["cells"]


def names_above(root: Path, cell: int) -> dict[str, Any]:
    """The names after all cells above ``cell``, run by hand."""
    names: dict[str, Any] = {}
    for one in cells(root)[:cell]:
        if one["cell_type"] == "code":
            exec(one["source"], names)
    return names


@pytest.mark.parametrize("where", [("01.1", ""), ("01", "The first section"), ("1", "the end"), ("01", "Key points")])
def test_the_names_are_those_of_all_cells_above(course: Path, where: tuple[str, str]) -> None:
    names: dict[str, Any] = {"mine": 1}
    resume(*where, namespace=names)
    begins = where[1].lower()
    (cell,) = [
        place.cell
        for place in places("01", cells(course))
        if (
            place.exercise == where[0]
            if not begins
            else not place.exercise and place.section.lower().startswith(begins)
        )
    ]
    full = names_above(course, cell)
    assert names.keys() == full.keys() | {"mine"}
    for name in ("drawn", "after", "numbers"):
        np.testing.assert_array_equal(names.get(name, 0), full.get(name, 0))
    assert (names["scaled"](1), names["seed"]) == (5, 3)
    names["seed"] = 0
    assert names["scaled"](1) == 2.0, "a function's globals are those of the notebook it was brought into"
    assert "return by * x + seed" in inspect.getsource(names["scaled"])
    assert torch.equal(torch.rand(2), torch.rand(2)) is False


def test_it_says_where_one_is_and_shows_nothing_else(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib.pyplot as plt

    resume("01", "The end", namespace={})
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()[:2]] == ["Opening", "The first section"]
    assert "“The end of it” of lesson 01" in said
    assert "(profile=quick, seed=3)" in said
    assert "drawn" not in said
    assert "Exercise" not in said
    assert plt.get_fignums() == []


def test_nothing_is_recorded_twice_and_no_exercise_counts_as_solved(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resume("01", "The end", namespace=(names := {}))
    assert progress.where(course) is None
    check.exercise("01.1", names["larger"])
    assert "Exercise 01.1: right" in capsys.readouterr().out
    assert [passed for _, _, passed in progress.attempts(course)] == [True]
    monkeypatch.setenv("COURSEKIT_RUN", "1")
    recorder = coursekit.lesson.recording.Recorder()
    with coursekit.lesson.recording.quiet():
        recorder("drawn", 1)
    recorder("drawn", 2)
    with pytest.raises(ValueError, match="before in this run"):
        recorder("drawn", 3)


def test_parameters_are_those_that_the_notebook_set_last(course: Path) -> None:
    history = ["", 'profile = "cpu"\nseed = 5', "x = 1", "seed = 7", "seed = seed + 1", "import os", "seed = 8\ny = 2"]
    resume("01.1", namespace=(names := {"In": history, "seed": 4}))
    assert (names["profile"], names["seed"], names["scaled"](1)) == ("cpu", 7, 9)
    torch.manual_seed(3)  # the cell ran with the notebook's own seed
    assert not torch.equal(names["drawn"], torch.rand(3))
    with pytest.raises(CourseError, match="The parameter seed is int"):
        resume("01.1", namespace={"In": ["seed = 'x'"]})


def test_a_place_that_is_not_there_is_answered_with_those_that_are(course: Path) -> None:
    for wrong in (("01.9", ""), ("01", ""), ("01", "The"), ("01", "Nothing")):
        with pytest.raises(CourseError) as told:
            resume(*wrong, namespace=(names := {}))
        assert 'resume("01", "The end of it")\n' in str(told.value)
        assert 'resume("01.1")' in str(told.value)
        assert names == {}
    with pytest.raises(CourseError, match="There is no lesson"):
        resume("02.1", namespace={})


def test_the_notebook_of_another_lesson_is_refused(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (course / "notebooks" / "source" / "02_other.py").write_text(LESSON.replace("01", "02"))
    copy = course / "notebooks" / "my copy.ipynb"
    copy.write_text(json.dumps({"metadata": {"coursekit": {"lesson": "02_other"}}}))
    for open_one in (course / "notebooks" / "02_other.ipynb", copy):
        monkeypatch.setenv("JPY_SESSION_NAME", str(open_one))
        with pytest.raises(CourseError, match="a notebook of lesson 02, and lesson 01"):
            resume("01.1", namespace={})
    for open_one in ("Untitled.ipynb", "2024 analysis.ipynb", "01_tiny.ipynb"):
        monkeypatch.setenv("JPY_SESSION_NAME", str(course / open_one))
        resume("01.1", namespace={})
    with pytest.raises(CourseError, match="a notebook of lesson 02"):
        resume("01.1", namespace={"__vsc_ipynb_file__": str(copy)})


def test_a_cell_that_fails_is_shown_with_its_line(course: Path) -> None:
    source = course / "notebooks" / "source" / "01_tiny.py"
    source.write_text(LESSON.replace("numbers[0] = 5.0", "raise OSError('no disk')"))
    with pytest.raises(OSError, match="no disk") as told:
        resume("01", "Key points", namespace={})
    entry = told.traceback[-1]
    assert str(entry.path).startswith("<lesson 01, cell ") or "<lesson 01, cell " in str(entry)
    resume("01", "The end", namespace={})
