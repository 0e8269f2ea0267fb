"""A planned workshop on paper: the schedule as Markdown and as a page to print, and the instructor's edition of each lesson."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coursekit.course import Lesson
from coursekit.files import filled, write_text
from coursekit.lesson.notebook import edition, read_source, to_json
from coursekit.lesson.outline import OPENING, outline
from coursekit.lesson.resume import Place
from coursekit.run.last import last_seconds
from coursekit.workshop import quizpage
from coursekit.workshop.plan import Slot, Workshop

CSS, END = (Path(__file__).with_name(name) for name in ("paper.css", "schedule.md"))
FOLDER = Path("runs") / "workshop"
TOGETHER = 6
START = 9 * 60  # minutes after midnight
_WHO = (
    (120, "A taste: for people who want to see one honest comparison before they decide to learn more."),
    (300, "A half day: for people who use embeddings, or will, and want to judge them."),
    (480, "A day: for people who will adapt a model to their own labels."),
    (2400, "Several days: for people who will train, generate and perturb, with time for their own data."),
)


def markdown(made: Workshop) -> str:
    """The schedule as Markdown."""
    hours = f"{made.minutes / 60:g}"
    lines = [
        f"# A workshop of {hours} hours",
        "",
        next(words for limit, words in _WHO if made.minutes <= limit or limit == 2400),
        "",
        f"Lessons: {'; '.join(part.outline.title for part in made.parts)}.",
    ]
    if made.bridges:
        lines += [
            "",
            f"Not taught, but needed, and told in a short slot each: {', '.join(made.bridges)}. "
            "Send them to the participants to read before.",
        ]
    for k, day in enumerate(made.days):
        lines += ["", f"## Day {k + 1}" if len(made.days) > 1 else "## Schedule", ""]
        lines += ["| Time | Minutes | What |", "|---|---|---|"]
        lines += _table_of(rows(day), made)
    lines += ["", "## What is done, and what is not", "", "| Lesson | Minutes | Left out, to read later | Computing |"]
    lines.append("|---|---|---|---|")
    for part in made.parts:
        gone = ", ".join(part.skipped) or "nothing"
        lines.append(f"| {part.outline.title} | {part.minutes} | {gone} | {_computing(part.outline.lesson)} |")
    return "\n".join(lines) + "\n" + filled(END, RESUME=_resume(made))


def _table_of(day: Sequence[Slot], made: Workshop) -> Iterator[str]:
    """The rows of one day; a lesson's title stands where it begins."""
    now, lesson = START, ""
    for place, slot in enumerate(day):
        words = _words(slot, day[place + 1 :])
        if slot.number and slot.kind != "bridge" and slot.number != lesson:
            lesson = slot.number
            title = next(part.outline.title for part in made.parts if part.outline.number == lesson)
            words = f"**{title}**<br>{words}"
        yield f"| {_clock(now)} | {slot.minutes} | {words.replace('|', '&#124;')} |"
        now += slot.minutes
    yield f"| {_clock(now)} | | *End* |"


def _resume(made: Workshop) -> str:
    """The line that leads to an exercise in the middle of this workshop; an example where it has none."""
    numbers = [slot.words for day in made.days for slot in day if slot.kind == "exercise"]
    return Place("", "", numbers[len(numbers) // 2] if numbers else "03.2").call()


def rows(day: Sequence[Slot]) -> list[Slot]:
    """The slots as a schedule shows them: short sections that follow each other stand in one line of at least six minutes."""
    out: list[Slot] = []
    for slot in day:
        last = out[-1] if out else None
        same = last is not None and last.kind == slot.kind == "lesson" and last.number == slot.number
        if last is not None and same and (last.minutes < TOGETHER or slot.minutes < TOGETHER // 2):
            out[-1] = replace(last, minutes=last.minutes + slot.minutes, words=f"{last.words} · {slot.words}")
        else:
            out.append(slot)
    return out


def _words(slot: Slot, later: Sequence[Slot]) -> str:
    if slot.kind in ("break", "lunch"):
        return f"*{slot.words}.* Helpers: who is behind? Set them level now{_level(later)}"
    return f"Exercise {slot.words}" if slot.kind == "exercise" else slot.words


def _level(later: Sequence[Slot]) -> str:
    """How those who are behind get to what comes after a break; no line where a new lesson begins, or none."""
    after = next((slot for slot in later if slot.number and slot.kind in ("lesson", "exercise")), None)
    if after is None or after.section == OPENING:
        return "."
    return f": `{Place(after.number, after.section, after.words if after.kind == 'exercise' else '').call()}`."


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _computing(lesson: Lesson) -> str:
    seconds = last_seconds(lesson)
    return f"{seconds:.0f} s" if seconds is not None else "not measured here: `make course` first"


def to_page(text: str, title: str) -> str:
    """Markdown as one HTML page that prints well and asks the network for nothing."""
    import html

    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{CSS.read_text(encoding="utf-8")}</style></head>\n<body>\n{body}</body></html>\n'


def instructor_notebook(lesson: Lesson) -> Any:
    """The instructor's edition: notes, exercises and solutions in one notebook; the notes stand in a box."""
    full = copy.deepcopy(read_source(lesson))
    made = edition(full, "instructor", lesson.name)
    for cell in made["cells"]:
        if "instructor" in cell["metadata"].get("tags", []):
            cell["source"] = f'<div class="alert alert-info note">\n\n**For instructors.** {cell["source"]}\n\n</div>'
        if "solution" in cell["metadata"].get("tags", []) and cell["cell_type"] == "code":
            cell["source"] = f"# The solution\n{cell['source']}"
    return made


def notes(lessons: Sequence[Lesson]) -> str:
    """All notes for instructors on one page, by lesson and section."""
    lines = ["# Notes for instructors", ""]
    for lesson in lessons:
        own = outline(lesson)
        lines += [f"## {own.title}", "", f"{own.minutes} minutes. Computing: {_computing(lesson)}.", ""]
        for section in own.sections:
            minutes = section.minutes + sum(e.minutes for e in section.exercises)
            solve = f", with {', '.join(e.number for e in section.exercises)}" if section.exercises else ""
            spare = "; may be skipped" if section.optional else ""
            lines += [f"- **{section.heading}** ({minutes:.0f} min{solve}{spare})"]
            lines += [f"    - {' '.join(note.split())}" for note in section.notes]
        lines.append("")
    return "\n".join(lines)


def write(root: Path, made: Workshop, known: Sequence[Lesson]) -> list[Path]:
    """Write schedule, notes and instructor notebooks below runs/workshop; returns the files."""
    folder, files = root / FOLDER, []
    stem = f"schedule-{made.minutes / 60:g}h"
    texts = {
        f"{stem}.md": (text := markdown(made)),
        f"{stem}.html": to_page(text, f"A workshop of {made.minutes / 60:g} hours"),
        "notes.html": to_page(notes(known), "Notes for instructors"),
    }
    questions = root / quizpage.QUESTIONS
    taught = {*(part.outline.number for part in made.parts), *made.bridges}
    chosen = [topic for topic in quizpage.topics(questions) if topic.lesson in taught] if questions.is_file() else []
    if chosen:
        texts |= {
            f"quiz-{time}.html": quizpage.sheet(chosen, time, CSS.read_text(encoding="utf-8"))
            for time in quizpage.TIMES
        }
        texts["quiz-key.html"] = to_page(quizpage.key(chosen), "Key to the quizzes")
    texts |= {f"instructor/{lesson.name}.ipynb": to_json(instructor_notebook(lesson)) for lesson in known}
    for name, text in texts.items():
        write_text(folder / name, text)
        files.append(folder / name)
    return files
