"""What a learner has solved: one line per checked attempt in ``.progress.jsonl`` of the course's folder, never sent anywhere.

Lines are only added, so two notebooks may be open at once. To begin anew, delete the file.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coursekit.course import Lesson, lessons
from coursekit.lesson.facts import facts_of

FILE = ".progress.jsonl"


@dataclass
class Exercise:
    """How far one exercise is: attempts that failed before it was solved, and the day it was (None = not yet)."""

    number: str
    failed: int = 0
    solved: str | None = None

    def mark(self) -> str:
        """A sign with the number: ✓ solved, ✗ tried, ○ open."""
        return f"{'✓' if self.solved else '✗' if self.failed else '○'} {self.number}"


def note(root: Path, number: str, passed: bool) -> None:
    """Add one attempt; runs by coursekit and notebooks with solutions do not count. Never raises: a full disk stops no lesson."""
    if os.environ.get("COURSEKIT_RUN") or "solutions/" in os.environ.get("JPY_SESSION_NAME", "").replace("\\", "/"):
        return
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    line = json.dumps({"time": now, "exercise": number, "passed": passed}) + "\n"
    for folder in (root, Path.cwd()):  # the course may lie where a learner cannot write
        try:
            with open(folder / FILE, "a", encoding="utf-8") as handle:
                handle.write(line)
            return
        except OSError:
            continue


def where(root: Path) -> Path | None:
    """The file of attempts: in the course's folder, else (where that cannot be written) in the working folder."""
    return next((path for path in (root / FILE, Path.cwd() / FILE) if path.is_file()), None)


def attempts(root: Path) -> Iterator[tuple[str, str, bool]]:
    """(time, exercise, passed) of every attempt, oldest first; lines that cannot be read are left out."""
    found = []
    path = where(root)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path else []:
        try:
            entry = json.loads(line)
            found.append((str(entry["time"]), str(entry["exercise"]), bool(entry["passed"])))
        except (ValueError, KeyError, TypeError):
            continue
    yield from sorted(found, key=lambda attempt: attempt[0])


def state(root: Path) -> list[tuple[Lesson, list[Exercise]]]:
    """All exercises of all lessons, in order, with how far each is."""
    from coursekit.lesson.lint import checkers_in

    chapters = [(lesson, [Exercise(number) for number in checkers_in(lesson)]) for lesson in lessons(root)]
    by_number = {exercise.number: exercise for _, exercises in chapters for exercise in exercises}
    for time, number, passed in attempts(root):
        exercise = by_number.get(number)
        if exercise is None or exercise.solved:
            continue
        if passed:
            exercise.solved = time[:10]
        else:
            exercise.failed += 1
    return chapters


def report(root: Path) -> str:
    """What ``coursekit progress`` prints: a line per lesson, the sum, and where to go on."""
    chapters = state(root)
    lines, open_ones = [], []
    for lesson, exercises in chapters:
        done = sum(exercise.solved is not None for exercise in exercises)
        marks = "   ".join(exercise.mark() for exercise in exercises)
        lines.append(f"{facts_of(lesson)['title']}\n    {done} of {len(exercises)}   {marks}")
        open_ones += [(lesson, exercise) for exercise in exercises if not exercise.solved]
    total = sum(len(exercises) for _, exercises in chapters)
    lines.append(f"\n{total - len(open_ones)} of {total} exercises solved (✓ solved, ✗ tried, ○ open).")
    if open_ones:
        lesson, exercise = open_ones[0]
        lines.append(f"Next: {exercise.number} in {lesson.notebook('learner').relative_to(root).as_posix()}")
    if where(root) is None:
        lines.append("Nothing is noted yet. An exercise is noted when its check runs in a notebook.")
    return "\n".join(lines)
