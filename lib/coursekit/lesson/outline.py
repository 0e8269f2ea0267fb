"""What a lesson is made of, for who teaches it: its sections with minutes, exercises, quizzes and the notes for instructors.

The minutes of a section are the lesson's own estimate (the column Time of its first table) shared out by what stands in the
section: words to read, lines of code to follow, exercises to solve, quizzes to answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from coursekit.course import Lesson
from coursekit.lesson.facts import CLOSING, FURTHER_READING, facts_of
from coursekit.lesson.lint import code_lines, exercise_ids
from coursekit.lesson.notebook import read_source, tags

WORDS_PER_MINUTE = 150  # prose that explains, read or told
LINES_PER_MINUTE = 25  # code that is walked through, not typed
EXERCISE_MINUTES, QUIZ_MINUTES = 5.0, 1.5
OPENING = "Opening"  # what stands before the first heading
SECTION = re.compile(r"^## (.+)$", re.M)
_SKIP = re.compile(r"\*\*Skip\*\*(.*?)(?=\*\*|\Z)", re.I | re.S)


@dataclass(frozen=True)
class Exercise:
    """One exercise: its ``number`` ("03.2") and the ``minutes`` that it takes."""

    number: str
    minutes: float


@dataclass
class Section:
    """A part of a lesson below one ``## heading``: ``cells`` are the indices (from, below) in the parsed source."""

    heading: str
    cells: tuple[int, int]
    minutes: float = 0.0  # without its exercises
    exercises: list[Exercise] = field(default_factory=list)
    quizzes: int = 0
    notes: list[str] = field(default_factory=list)
    optional: bool = False  # a note says that it may be skipped


@dataclass(frozen=True)
class Outline:
    """A lesson as a list of sections; ``minutes`` is the lesson's own estimate, ``after`` the lessons that it needs."""

    lesson: Lesson
    title: str
    minutes: int
    after: tuple[str, ...]
    sections: list[Section]

    @property
    def number(self) -> str:
        """The lesson's two digits."""
        return self.lesson.number


def outline(lesson: Lesson) -> Outline:
    """The outline of a lesson, read from its source."""
    full, facts = read_source(lesson), facts_of(lesson)
    found = [_section(heading, start, end, full["cells"]) for heading, start, end in _bounds(full["cells"])]
    for section in found:
        skipped = any(meant(section, own, note) for own in found for note in own.notes)
        section.optional = section.heading not in CLOSING and skipped
    total = sum(s.minutes + sum(e.minutes for e in s.exercises) for s in found)
    scale = (facts["minutes"] or 45) / (total or 1.0)
    for section in found:
        section.minutes *= scale
        section.exercises = [Exercise(e.number, e.minutes * scale) for e in section.exercises]
    after = tuple(number for number in facts["after"] if number < lesson.number)
    return Outline(lesson, facts["title"], facts["minutes"] or 45, after, found)


def _bounds(cells: Sequence[Any]) -> list[tuple[str, int, int]]:
    """(heading, first cell, cell behind the last) of each section; what stands before the first heading is OPENING."""
    starts = [(OPENING, 0)]
    for i, cell in enumerate(cells):
        head = SECTION.search(cell["source"]) if cell["cell_type"] == "markdown" else None
        if head and not {"instructor", "solution"} & set(tags(cell)):
            starts.append((head[1].strip(), i))
    ends = [start for _, start in starts[1:]] + [len(cells)]
    return [(heading, start, end) for (heading, start), end in zip(starts, ends, strict=True) if end > start]


def _section(heading: str, start: int, end: int, cells: Sequence[Any]) -> Section:
    """A section with minutes that are not yet scaled to the lesson's own."""
    section = Section(heading, (start, end))
    for cell in cells[start:end]:
        marks = tags(cell)
        if "instructor" in marks:
            section.notes.append(cell["source"].strip())
        elif "exercise" in marks:
            section.exercises += [Exercise(number, EXERCISE_MINUTES) for number in exercise_ids(cell)]
        elif "quiz" in marks:
            section.quizzes += 1
        elif "solution" in marks:
            continue
        elif cell["cell_type"] == "code" and "figure" not in marks:  # one that only draws is folded
            section.minutes += len(code_lines(cell["source"])) / LINES_PER_MINUTE
        elif cell["cell_type"] == "markdown" and heading != FURTHER_READING:
            section.minutes += len(cell["source"].split()) / WORDS_PER_MINUTE
    section.minutes += QUIZ_MINUTES * section.quizzes
    return section


def meant(section: Section, own: Section, note: str) -> bool:
    """Whether a note that stands in the section ``own`` says that ``section`` may be skipped.

    It does with ``**Skip** this section`` or ``**Skip** "its heading"`` (or the beginning of the heading) in quotes.
    """
    for said in _SKIP.findall(note):
        if section is own and re.match(r"\s*this section\b", said):
            return True
        quoted = re.findall(r"[\"“]([^\"”]+)[\"”]", said)
        if any(len(words) > 3 and plain(section.heading).startswith(plain(words)) for words in quoted):
            return True
    return False


def plain(text: str) -> str:
    """Letters and digits only, in small, so that a heading is found with and without its emphasis."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
