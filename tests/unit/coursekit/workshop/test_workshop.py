"""Schedules of any length: to the minute, with breaks, in order; notes that say what to skip."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline import outside_references

from coursekit.course import CourseError, Lesson, find_root, lessons
from coursekit.lesson.lint import note_problems
from coursekit.lesson.notebook import to_json
from coursekit.lesson.outline import Exercise, Outline, Section, meant, outline
from coursekit.workshop import paper, plan

ROOT = find_root(Path(__file__))
NEEDS = {"01": (), "02": ("01",), "03": ("01", "02"), "04": ("03",), "07": ("02", "03"), "08": ("07",)}


def lesson(number: str, minutes: int = 50, sections: int = 7) -> Outline:
    parts = [Section(f"Part {k}", (k, k + 1), 0.7 * minutes / sections) for k in range(sections)]
    parts[1].exercises = [Exercise(f"{number}.1", 0.1 * minutes)]
    parts[3].exercises = [Exercise(f"{number}.2", 0.1 * minutes)]
    parts[5].exercises = [Exercise(f"{number}.3", 0.1 * minutes)]
    parts[2].optional = True
    return Outline(Lesson(ROOT, f"{number}_x"), f"{number} · What?", minutes, NEEDS[number], parts)


KNOWN = [lesson(number, 40 + 5 * place) for place, number in enumerate(NEEDS)]
FIRST = ["01", "03", "02"]


def sound(made: plan.Workshop, minutes: int) -> None:
    """What holds for every schedule."""
    assert sum(slot.minutes for day in made.days for slot in day) == minutes
    for day in made.days:
        assert sum(slot.minutes for slot in day) <= plan.DAY
        work = 0
        for slot in day:
            assert slot.minutes >= 1
            if slot.kind in ("break", "lunch"):
                assert slot.minutes >= 10
                assert work > 0
                work = 0
            else:
                work += slot.minutes
                assert work <= 90
        assert day[-1].kind not in ("break", "lunch")
    order = [slot.number for day in made.days for slot in day if slot.kind in ("lesson", "exercise")]
    assert order == sorted(order)
    told: set[str] = set()
    for slot in (slot for day in made.days for slot in day if slot.number):
        told.add(slot.number)
        if slot.kind != "bridge":
            assert set(NEEDS[slot.number]) <= told, f"{slot.number} comes before what it needs"
    for done in made.parts:
        assert done.minutes >= plan.LEAST
        assert sum(slot.minutes for slot in done.slots) == done.minutes


@settings(max_examples=60, deadline=None)
@given(st.integers(60, 2400))
def test_every_length_adds_up_and_has_its_breaks(minutes: int) -> None:
    sound(plan.plan(KNOWN, minutes, first=FIRST), minutes)


@pytest.mark.parametrize("hours", ["1.5", "3", "6", "16"])
def test_the_lessons_that_are_there(hours: str) -> None:
    known = [outline(one) for one in lessons(ROOT)]
    made = plan.plan(known, plan.in_minutes(hours), first=plan.first_lessons(ROOT))
    NEEDS.update({o.number: o.after for o in known})
    sound(made, round(float(hours) * 60))
    chosen = [p.outline.number for p in made.parts]
    if hours == "1.5":
        assert chosen == ["01", "03"]
        assert made.bridges == ["02"]
    if hours == "16":
        assert len(made.days) == 2
        assert chosen == [o.number for o in known]


def test_what_a_note_lets_go_is_skipped_first() -> None:
    full = plan.part(KNOWN[0], round(1.5 * KNOWN[0].minutes))  # solving takes longer in a room
    assert full.skipped == []
    less = plan.part(KNOWN[0], 34)
    assert less.skipped[0] == "“Part 2”"
    short = plan.part(KNOWN[0], 20)
    kept = [slot.section for slot in short.slots]
    assert kept[0] == "Part 0"
    assert kept[-1] == "Part 6"  # the answer of the lesson is never skipped
    assert len(short.skipped) > len(less.skipped)


def test_a_schedule_has_no_lines_of_a_minute_and_a_page_that_asks_for_nothing() -> None:
    made = plan.plan(KNOWN, 180, first=FIRST)
    assert [p.outline.number for p in made.parts] == ["01", "02", "03"]
    for day in made.days:
        lines = paper.rows(day)
        assert sum(slot.minutes for slot in lines) == sum(slot.minutes for slot in day)
        assert len(lines) < len(day)
    text = paper.markdown(made)
    assert text.count("| 12:00 | | *End* |") == 1
    page = paper.to_page(text, "A workshop")
    assert "<table>" in page
    assert outside_references(page) == []


def test_the_instructor_edition_holds_everything() -> None:
    for one in lessons(ROOT):
        made = paper.instructor_notebook(one)
        found = {tag for cell in made["cells"] for tag in cell["metadata"].get("tags", [])}
        assert {"exercise", "solution", "instructor", "quiz"} <= found, one.name
        assert "For instructors." in to_json(made)


def test_wanted_lessons_and_what_they_need() -> None:
    made = plan.plan(KNOWN, 120, ["07"])
    assert [p.outline.number for p in made.parts] == ["07"]
    assert made.bridges == ["01", "02", "03"]
    sound(made, 120)


@pytest.mark.parametrize("hours", ["0", "-3", "many", "nan", "0.5", "41", "inf", ""])
def test_nonsense_is_refused_in_words(hours: str) -> None:
    with pytest.raises(CourseError, match="A workshop takes 1 to 40 hours"):
        plan.in_minutes(hours)


def test_too_many_lessons_are_refused_with_the_hours_that_they_need() -> None:
    with pytest.raises(CourseError, match=r"too short for 01, 02, 03, 04, 07, 08.*HOURS=(\d+(\.5)?)") as caught:
        plan.plan(KNOWN, 90, list(NEEDS))
    enough = float(str(caught.value).split("HOURS=")[1].split()[0])
    sound(plan.plan(KNOWN, round(enough * 60), list(NEEDS)), round(enough * 60))


def test_notes_need_a_question_a_misconception_and_a_word_on_time() -> None:
    assert note_problems([]) == ["no notes for instructors: markdown cells with the tag instructor."]
    assert note_problems(["**Ask before running:** a? **Common misconception:** b. **Skip** this section."]) == []
    assert "no Misconception" in note_problems(["**Ask:** a? **Time check:** go on."])[0]
    assert len(note_problems(["ask, skip and misconception without emphasis"])) == 3


def test_a_note_names_the_section_to_skip() -> None:
    one, other = Section("Score 2: can a few labels?", (0, 1)), Section("Batches", (1, 2))
    assert meant(one, one, "**Skip** this section if you are late.")
    assert not meant(other, one, "**Skip** this section if you are late.")
    assert meant(one, other, 'Never mind. **Skip** "Score 2" if you are late. **Ask:** "Batches"?')
    assert not meant(other, other, 'Never mind. **Skip** "Score 2" if you are late. **Ask:** "Batches"?')
