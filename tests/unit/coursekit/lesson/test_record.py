"""Recorded values: what is taken, how they compare, what is expected of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_course import make_course

from coursekit.course import CourseError, lessons
from coursekit.lesson import recording
from coursekit.lesson.recording import MIME, Recorder, collect, in_words, to_plain
from coursekit.run import expect
from coursekit.run.compare import OTHER_MACHINE, SAME_MACHINE, differences


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1, 2]), [1, 2]),
        (np.array([[1.5], [math.nan]]), [[1.5], ["NaN"]]),
        (np.array(2.5), 2.5),
        (pd.Series({"a": 1}), {"a": 1}),
        (pd.DataFrame({"m": ["x"], "v": [1.0]}), [{"m": "x", "v": 1.0}]),
        (pd.DataFrame({"v": [1, 2]})[1:], [{"v": 2}]),  # a number of a row is no result
        (pd.DataFrame({"v": [1.0]}, index=["x"]), [{"index": "x", "v": 1.0}]),
        (pd.DataFrame({"m": ["x"], "k": [2], "v": [1.0]}).set_index(["m", "k"]), [{"m": "x", "k": 2, "v": 1.0}]),
        ((1, "a", None), [1, "a", None]),
        ({1: -math.inf, "b": math.inf}, {"1": "-Infinity", "b": "Infinity"}),
    ],
)
def test_values_become_plain_json(value: object, plain: object) -> None:
    assert to_plain(value) == plain
    json.dumps(to_plain(value), allow_nan=False)


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(TypeError, match="'x' is a function"):
        to_plain(lambda: 1, "x")
    with pytest.raises(ValueError, match="3000 values"):
        to_plain(np.zeros(3000))
    record = Recorder()
    with pytest.raises(ValueError, match="is no name"):
        record("two words", 1)
    for bad in (-1, "much", True, math.nan):
        with pytest.raises(ValueError, match="A tolerance is"):
            record("x", 1, tolerance=bad)


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", "1": "b"},
        {"outer": {True: 1, "True": 2}},
        pd.Series([1, 2], index=["1", "1"]),
        pd.Series([1, 2], index=[1, "1"]),
        pd.DataFrame([[1, 2]], columns=["1", "1"]),
        pd.DataFrame({"1": [3]}, index=pd.Index(["x"], name="1")),
    ],
)
def test_no_value_is_lost_to_another_of_the_same_key(value: object) -> None:
    with pytest.raises(ValueError, match=r"record: 'x' has the key '(1|True)' twice"):
        to_plain(value, "x")


def test_a_name_twice_is_an_error_in_a_run_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Recorder()
    monkeypatch.delenv("COURSEKIT_RUN", raising=False)
    record("x", 1)
    record("x", float("nan"))
    assert "recorded  x = not a number (NaN)" in capsys.readouterr().out
    monkeypatch.setenv("COURSEKIT_RUN", "1")
    with pytest.raises(ValueError, match="recorded before"):
        record("x", 2)


def test_a_reader_is_not_told_what_is_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "_in_a_notebook", lambda: True)
    monkeypatch.setattr(recording, "show_bundle", lambda bundle: print(bundle["text/plain"]))
    monkeypatch.delenv("COURSEKIT_RUN", raising=False)
    Recorder()("x", 1)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("COURSEKIT_RUN", "1")
    Recorder()("x", 1)
    assert capsys.readouterr().out == "recorded  x = 1\n"


def test_collect_finds_results_and_doubles() -> None:
    def cell(name: str) -> dict[str, object]:
        return {
            "outputs": [
                {"data": {MIME: {"name": name, "value": 1, "tolerance": None, "key": False}}},
                {"text": "other"},
            ]
        }

    executed = {"cells": [cell("b"), {}, cell("a")]}
    assert list(collect(executed)) == ["b", "a"]
    assert [one.get("outputs") for one in executed["cells"]] == [[{"text": "other"}], None, [{"text": "other"}]]
    assert list(collect(executed)) == ["b", "a"]  # now from the metadata
    with pytest.raises(ValueError, match="'a' was recorded twice"):
        collect({"cells": [cell("a"), cell("a")]})


def test_used_appends_a_line_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = tmp_path / "trail"
    monkeypatch.setenv("SCFM_PROVENANCE", str(trail))
    Recorder().used("model", "m", "00", revision="r")
    assert json.loads(trail.read_text()) == {"kind": "model", "name": "m", "sha256": "00", "revision": "r"}


@pytest.mark.parametrize(
    ("was", "now", "tolerance", "same"),
    [
        (1.0, 1.0 + 1e-7, None, True),
        (1.0, 1.0 + 1e-5, None, False),
        (1.0, 1.0005, 0.001, True),
        (1.0, 1.002, 0.001, False),
        (200, 209, "5%", True),
        (200, 211, "5%", False),
        (3, 4, None, False),
        (3, 3.0, None, True),
        (3.0, 900.0, "any", True),
        ("NaN", "NaN", None, True),
        (1.0, "NaN", 10, False),
        ("NaN", 1.0, 10, False),
        ("Infinity", "Infinity", 1, True),
        ("Infinity", "-Infinity", 1, False),
        ("a", "b", 1, False),
        (True, 1, None, False),
        ({"a": 1.0}, {"a": 1.04}, 0.05, True),
        ({"a": 1.0}, {"b": 1.0}, 0.05, False),
        ([1, 2], [1, 2, 3], None, False),
        ([{"m": "x", "v": 1.0}], [{"m": "x", "v": 1.2}], 0.1, False),
        (0.0, 1e-12, None, True),
    ],
)
def test_differences(was: object, now: object, tolerance: object, same: bool) -> None:
    assert (differences(was, now, tolerance) == []) is same  # type: ignore[arg-type]


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_a_value_is_the_same_as_itself_and_not_as_another(value: float) -> None:
    assert differences(value, value, None) == []
    assert differences(value, value, 0) == []
    assert differences(value, value * (1 + 1e-3) + math.copysign(1e-3, value), None, SAME_MACHINE) != []
    assert differences(value, value * (1 + 1e-5), None, OTHER_MACHINE) == []


def test_words_of_a_difference() -> None:
    assert differences({"a": {"b": 1.0}}, {"a": {"b": "NaN"}}, None) == [
        "['a']['b']: expected 1, came not a number (NaN)"
    ]
    assert in_words({"a": [0.123456, 2]}) == "{a: [0.1235, 2]}"


def result(value: object) -> dict[str, object]:
    return {"value": value, "tolerance": None, "key": False}


def test_invariants() -> None:
    values = {"nmi": {"pca": 0.5, "mini": 0.4}, "shift": -3.0, "xs": [1, 2]}
    assert expect.evaluate("nmi['pca'] > nmi['mini'] and abs(shift) < 5", values)
    assert expect.evaluate("all(0 < x <= len(xs) for x in xs) and min(nmi.values()) >= 0.4", values)
    assert not expect.evaluate("isnan(shift)", values)
    for bad in (
        "__import__('os')",
        "xs.__class__",
        "(lambda: 1)()",
        "nope > 1",
        "shift",
        "1 +",
        "open('x')",
        "shift ** 9",
    ):
        with pytest.raises(CourseError):
            expect.evaluate(bad, values)


def test_judge_demands_that_every_result_is_checked() -> None:
    expected = {
        "values": {"a": {"value": 1, "tolerance": None}, "gone": {"value": 1, "tolerance": None}},
        "invariants": ["b > 2", "c <"],
    }
    found = "\n".join(expect.judge(expected, {"a": result(1), "b": result(1.5), "d": result(0)}))
    assert "gone was expected" in found
    assert "b > 2 does not hold: b = 1.5" in found
    assert "'c <' cannot be evaluated" in found
    assert "d is recorded and nobody checks it" in found
    assert expect.judge({"values": {}, "invariants": ["isnan(a)"]}, {"a": result("NaN")}) == []


def test_expectations_file_and_its_draft(tmp_path: Path) -> None:
    lesson = lessons(make_course(tmp_path))[0]
    with pytest.raises(CourseError, match=r"01.toml is missing.*expect 01 --write"):
        expect.load(lesson, "quick")
    results = {
        "a": result(1),
        "b": result(0.25),
        "c": result({"x": "NaN", "y z": -1.5}),
        "d": result("word"),
        "e.f": result([True]),
    }
    lesson.expected.parent.mkdir(parents=True)
    lesson.expected.write_text(expect.draft({"parameters": {"profile": "quick"}, "results": results}))
    assert expect.judge(expect.load(lesson, "quick"), results) == []
    nothing = {**results, "g": result({"x": 1, "y": None})}
    lesson.expected.write_text(expect.draft({"parameters": {"profile": "quick"}, "results": nothing}))
    assert "# g holds None" in lesson.expected.read_text()
    assert expect.load(lesson, "quick")["values"].keys() == results.keys()
    assert expect.judge(expect.load(lesson, "quick"), {**results, "b": result(0.3)}) != []
    with pytest.raises(CourseError, match=r"no table \[cpu\]"):
        expect.load(lesson, "cpu")
    lesson.expected.write_text("[quick]\nvalue = 1\n")
    with pytest.raises(CourseError, match="unknown keys: value"):
        expect.load(lesson, "quick")
