"""The quiz before and after a workshop: sheets to print or to click, the key for instructors, and what was learned.

The questions stand in ``site/quiz/questions.md``: topics with one question for before and one of the same kind for after.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coursekit.course import CourseError
from coursekit.lesson import quiz
from coursekit.lesson.quiz import quiz_options, to_html

SAVE = Path(__file__).with_name("quiz.js")
QUESTIONS = Path("site") / "quiz" / "questions.md"
TIMES = ("before", "after")


@dataclass(frozen=True)
class Topic:
    """One topic: its ``name``, the ``lesson`` that teaches it, and the question for each time, as the text of a quiz cell."""

    name: str
    lesson: str
    questions: dict[str, str]

    def right(self, time: str) -> str:
        """The letter of the right option."""
        return next(chr(65 + k) for k, (good, _, _) in enumerate(quiz_options(self.questions[time])) if good)

    def asked(self, time: str) -> str:
        """The question without its options."""
        return " ".join(quiz.asked(self.questions[time]).split())


def topics(path: Path) -> list[Topic]:
    """All topics of a file. Raises CourseError where a topic is not in form."""
    found = []
    text = path.read_text(encoding="utf-8")
    for head, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.M):
        name, _, lesson = head.partition(" · ")
        parts = dict(re.findall(r"^### (before|after)\n((?:(?!### ).*\n?)*)", body, re.M))
        topic = Topic(name.strip(), lesson.strip(), parts)
        for time in TIMES:
            options = quiz_options(parts.get(time, ""))
            if len(options) < 3 or sum(good for good, _, _ in options) != 1:
                raise CourseError(f"{path.name}: topic {name!r}, {time}: three or more options, exactly one right.")
        found.append(topic)
    return found


def sheet(chosen: Sequence[Topic], time: str, css: str = "") -> str:
    """A page to print or to click, without answers; its button saves the answers as CSV on the reader's own machine."""
    blocks = []
    for k, topic in enumerate(chosen, 1):
        options = "".join(
            f'<label><input type="radio" name="{topic.name}" value="{chr(65 + n)}"> <b>{chr(65 + n)}</b> {to_html(text)}</label>'
            for n, (_, text, _) in enumerate(quiz_options(topic.questions[time]))
        )
        blocks.append(f"<fieldset><legend>{k}. {to_html(topic.asked(time))}</legend>{options}</fieldset>")
    title, script = f"Quiz {time}", SAVE.read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{css}</style></head><body><h1>{title}</h1><form><p><label>Your name or number, the same before and after: "
        f'<input name="participant" required></label></p>{"".join(blocks)}<button>Save my answers</button></form><script>{script}</script></body></html>\n'
    )


def key(chosen: Sequence[Topic]) -> str:
    """The answers of both times, with the reasons, as Markdown for instructors."""
    lines = ["# Key to the quizzes", "", "| Topic | Lesson | Before | After |", "|---|---|---|---|"]
    for topic in chosen:
        cells = []
        for time in TIMES:
            why = next(feedback for good, _, feedback in quiz_options(topic.questions[time]) if good)
            cells.append(f"**{topic.right(time)}** {html.escape(why, quote=False)}")
        lines.append(f"| {topic.name} | {topic.lesson} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def scores(path: Path, chosen: Sequence[Topic], time: str) -> dict[str, float]:
    """participant → share of right answers; an empty answer is not right. Raises CourseError for a file that is not in form.

    ``path``: a table with a row for each participant, or the folder of the files that their pages saved.
    """
    rows = []
    for file in sorted(path.glob("*.csv")) if path.is_dir() else [path]:
        with open(file, encoding="utf-8-sig", newline="") as handle:
            rows += [row for row in csv.DictReader(handle) if row.get("participant") != "participant"]
    wanted = {"participant", *(topic.name for topic in chosen)}
    if not rows or not all(wanted <= set(row) for row in rows):
        raise CourseError(f"{path.name} needs rows below the columns {', '.join(sorted(wanted))}.")
    names = [row["participant"].strip() for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CourseError(f"{path.name} has more than one row of {', '.join(twice)}.")
    right = {topic.name: topic.right(time) for topic in chosen}
    return {
        name: sum((row[topic] or "").strip().upper() == letter for topic, letter in right.items()) / len(right)
        for name, row in zip(names, rows, strict=True)
    }


def asked_in(path: Path, known: Sequence[Topic]) -> list[Topic]:
    """The topics that a workshop's pages asked: those that have a column in its answers."""
    file = next(iter(sorted(path.glob("*.csv"))), path) if path.is_dir() else path
    try:
        head = file.read_text(encoding="utf-8-sig").splitlines()[:1]
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} holds no answers (CSV) that can be read: {error}") from error
    return [topic for topic in known if topic.name in next(csv.reader(head), [])]


def gain(before: Path, after: Path, chosen: Sequence[Topic], n_boot: int = 5000, seed: int = 0) -> dict[str, object]:
    """What the participants who answered twice have learned, with 95 % intervals from a bootstrap over participants.

    ``gain`` is the mean difference of the shares of right answers; ``normalized`` is Hake's (after - before) / (1 - before) of
    the group's means (https://doi.org/10.1119/1.18809), None where all was right before.
    Raises CourseError for fewer than three pairs.
    """
    import numpy as np

    first, second = scores(before, chosen, "before"), scores(after, chosen, "after")
    both = sorted(set(first) & set(second))
    if len(both) < 3:
        raise CourseError(f"Only {len(both)} participants answered before and after; an interval needs at least 3.")
    pairs = np.array([(first[name], second[name]) for name in both])
    drawn = pairs[np.random.default_rng(seed).integers(0, len(pairs), (n_boot, len(pairs)))].mean(axis=1)  # (draw, 2)
    change = drawn[:, 1] - drawn[:, 0]
    room, own = 1 - drawn[:, 0], pairs.mean(axis=0)
    limits = np.percentile(change[room > 0] / room[room > 0], [2.5, 97.5]) if (room > 0).any() else None
    return {
        "participants": len(both),
        "only once": sorted(set(first) ^ set(second)),
        "before": float(own[0]),
        "after": float(own[1]),
        "gain": (float(own[1] - own[0]), *map(float, np.percentile(change, [2.5, 97.5]))),
        "normalized": None
        if own[0] == 1 or limits is None
        else (float((own[1] - own[0]) / (1 - own[0])), *map(float, limits)),
    }
