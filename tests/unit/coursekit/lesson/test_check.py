"""Exercise checks: hints in steps, an open stub told apart, and never an exception."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_course import make_course

from coursekit import check

CHECKS = """
from coursekit.check import checker, need


@checker("01.1", hints=["first", "second"])
def double(answer, factor=2):
    need(answer(3) == 3 * factor, f"gave {answer(3)}")
    return "Good."


@checker("01.2", hints=["only"])
def pair(low, high):
    need(low < high, "low is not below high")
"""


@pytest.fixture(autouse=True)
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_course(tmp_path, checks=CHECKS)
    monkeypatch.setenv("COURSEKIT_ROOT", str(root))
    check.reset()
    return root


def test_right_answer_with_praise_and_context() -> None:
    result = check.run("01.1", lambda x: 2 * x)
    assert result.passed
    assert "Good." in result.text()
    assert check.run("01.1", lambda x: 5 * x, factor=5).passed


def test_hints_come_one_by_one_and_the_last_stays() -> None:
    hints = [check.run("01.1", lambda x: x).hint for _ in range(3)]
    assert hints == ["Hint 1 of 2: first", "Hint 2 of 2: second", "Hint 2 of 2: second"]


@pytest.mark.parametrize("stub", [..., None, [1, ...], {"a": None}, lambda x: ..., lambda x: None])
def test_an_open_stub_fails_without_spending_a_hint(stub: object) -> None:
    result = check.run("01.1", stub)
    assert not result.passed
    assert result.open
    assert result.hint == ""
    assert check.run("01.1", lambda x: x).hint.startswith("Hint 1")


def test_a_forgotten_return_is_no_open_stub() -> None:
    def forgot(x: int) -> None:
        x * 2

    result = check.run("01.1", forgot)
    assert not result.passed
    assert not result.open
    assert "returns nothing" in result.message
    assert check.run("01.1", lambda x: x).hint.startswith("Hint 1")  # none was spent


@pytest.mark.parametrize(
    "answer", [lambda x: 1 / 0, lambda: 1, 3, "text", np.zeros(3), lambda x: np.zeros(2), lambda x: sys.exit(x)]
)
def test_answers_that_crash_are_told_in_words(answer: object) -> None:
    result = check.run("01.1", answer)
    assert not result.passed
    assert "could not be used" in result.message
    assert result.hint


def test_several_answers_and_no_answer() -> None:
    assert check.run("01.2", 1, 2).passed
    assert "low is not below high" in check.run("01.2", 2, 1).text()
    assert check.run("01.2").open
    assert "could not be used" in check.run("01.2", 1).message


def test_missing_and_broken_checks_do_not_stop_a_notebook(course: Path) -> None:
    assert "no checker for 01.9" in check.run("01.9", 1).message
    assert "missing" in check.run("05.1", 1).message
    (course / "notebooks" / "source" / "checks_06.py").write_text("import nothing_of_this_name\n")
    assert "nothing_of_this_name" in check.run("06.1", 1).message


def test_a_changed_checks_file_is_read_again(course: Path) -> None:
    assert not check.run("01.1", lambda x: 3 * x).passed
    path = course / "notebooks" / "source" / "checks_01.py"
    path.write_text(CHECKS.replace("factor=2", "factor=3"))
    os.utime(path, (1, 1))
    assert check.run("01.1", lambda x: 3 * x).passed


def test_exercise_prints_outside_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    check.exercise("01.1", lambda x: x)
    check.hint("01.1")
    said = capsys.readouterr().out
    assert "✗ Exercise 01.1: not yet. gave 3" in said
    assert "Hint 1 of 2: first" in said
    assert "Hint 2 of 2: second" in said


def test_html_says_the_same_and_escapes() -> None:
    result = check.Result("01.1", False, "not yet. <b> & co", "Hint 1 of 1: h")
    assert "&lt;b&gt; &amp; co<br>Hint 1 of 1: h" in result.html()


def test_checkers_need_hints_and_one_place() -> None:
    with pytest.raises(ValueError, match="at least one hint"):
        check.checker("01.1", hints=[])
    with pytest.raises(ValueError, match="at least one hint"):
        check.checker("01.1", hints="one string")
