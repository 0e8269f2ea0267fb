"""Quizzes before and after: in form, without answers on the sheet, and a gain that is what was put in."""

from __future__ import annotations

from pathlib import Path

import pytest
from offline import outside_references

from coursekit.course import CourseError, find_root, lessons
from coursekit.workshop import quizpage

TOPICS = quizpage.topics(find_root(Path(__file__)) / quizpage.QUESTIONS)


def answers(path: Path, time: str, right: list[int]) -> Path:
    lines = [",".join(["participant", *(t.name for t in TOPICS)])]
    for k, n in enumerate(right):
        letters = [t.right(time) if i < n else "" for i, t in enumerate(TOPICS)]
        lines.append(",".join([f"p{k}", *letters]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_sheets_ask_all_and_tell_nothing() -> None:
    assert len(TOPICS) >= 5
    for time in quizpage.TIMES:
        page = quizpage.sheet(TOPICS, time)
        assert page.count("<fieldset>") == len(TOPICS)
        assert outside_references(page) == []
        for topic in TOPICS:
            for _, _, feedback in quizpage.quiz_options(topic.questions[time]):
                assert feedback not in page
    assert len({t.right("before") + t.right("after") for t in TOPICS}) > 1  # the letter alone is no answer
    assert quizpage.key(TOPICS).count("\n| ") == len(TOPICS) + 1


def test_gain_is_what_was_put_in(tmp_path: Path) -> None:
    n = len(TOPICS)
    before, after = answers(tmp_path / "b.csv", "before", [1, 2, 3, 2]), answers(tmp_path / "a.csv", "after", [3, 4, 5])
    found = quizpage.gain(before, after, TOPICS)
    assert found["participants"] == 3
    assert found["only once"] == ["p3"]
    assert found["gain"] == pytest.approx((2 / n, 2 / n, 2 / n))
    value, low, high = found["normalized"]  # type: ignore[misc]
    assert value == pytest.approx((2 / n) / (1 - 2 / n))
    assert low < value < high
    same = quizpage.gain(before, answers(tmp_path / "s.csv", "after", [3, 2, 1, 2]), TOPICS)
    assert same["gain"][0] == pytest.approx(0)  # type: ignore[index]
    assert same["gain"][1] < 0 < same["gain"][2]  # type: ignore[index]


def test_the_files_that_pages_saved_need_no_merging(tmp_path: Path) -> None:
    for time, right in (("before", [1, 2, 3]), ("after", [3, 4, 5])):
        whole = answers(tmp_path / f"{time}.csv", time, right).read_text().splitlines()
        (tmp_path / time).mkdir()
        for k, line in enumerate(whole[1:]):
            (tmp_path / time / f"p{k}.csv").write_text(f"{whole[0]}\n{line}\n")
    by_folder = quizpage.gain(tmp_path / "before", tmp_path / "after", TOPICS)
    assert by_folder == quizpage.gain(tmp_path / "before.csv", tmp_path / "after.csv", TOPICS)
    assert quizpage.asked_in(tmp_path / "before", TOPICS) == TOPICS
    (tmp_path / "two.csv").write_text("participant,ranks,transfer\n")
    assert [topic.name for topic in quizpage.asked_in(tmp_path / "two.csv", TOPICS)] == ["transfer", "ranks"]


def test_lessons_have_topics_and_topics_lessons() -> None:
    asked, there = {topic.lesson for topic in TOPICS}, {lesson.number for lesson in lessons(find_root(Path(__file__)))}
    assert {f"{n:02d}" for n in range(1, 9)} <= asked <= there


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    two = answers(tmp_path / "b.csv", "before", [1, 2])
    with pytest.raises(CourseError, match="at least 3"):
        quizpage.gain(two, two, TOPICS)
    (tmp_path / "x.csv").write_text("participant\nme\n")
    with pytest.raises(CourseError, match="needs rows below the columns"):
        quizpage.gain(tmp_path / "x.csv", two, TOPICS)
