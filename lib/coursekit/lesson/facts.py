"""What a lesson says about itself: its title and the table below it, its key points, its further reading."""

from __future__ import annotations

import re
from typing import Any

from coursekit.course import Lesson
from coursekit.lesson.notebook import read_source

CLOSING = KEY_POINTS, FURTHER_READING = "Key points", "Further reading"  # the headings that end a lesson


def of_title(title_cell: str) -> dict[str, Any]:
    """Title, objectives and minutes as the first cell of a lesson states them: a heading and a one-row table.

    Returns the keys title, objectives, time, needs, minutes; a value is None where the cell does not say it.
    """
    facts: dict[str, Any] = dict.fromkeys(("title", "objectives", "time", "needs", "minutes"))
    heading = re.search(r"^# (\d\d · .+)$", title_cell, re.M)
    facts["title"] = heading[1].strip() if heading else None
    rows = [
        [part.strip() for part in line.strip().strip("|").split("|")]
        for line in title_cell.splitlines()
        if line.lstrip().startswith("|")
    ]
    if len(rows) >= 3:
        row = dict(zip([word.lower() for word in rows[0]], rows[2], strict=False))
        facts["objectives"] = row.get("you will be able to") or None
        facts["time"] = row.get("time") or None
        facts["needs"] = row.get("needs") or None
        minutes = re.search(r"(\d+)\s*min", facts["time"] or "")
        facts["minutes"] = int(minutes[1]) if minutes else None
    return facts


def facts_of(lesson: Lesson) -> dict[str, Any]:
    """Title, question, objectives, time and needs of a lesson, and the numbers of the lessons that it needs."""
    facts = of_title(read_source(lesson)["cells"][0]["source"])
    facts["title"] = facts["title"] or lesson.name
    facts["question"] = facts["title"].split(" · ", 1)[-1]
    facts["after"] = needed(facts["needs"] or "", lesson.number)
    return facts


def needed(text: str, own: str) -> list[str]:
    """The lesson numbers in a column "Needs" such as "lessons 01 and 02" or "lessons 01-03", without the lesson's own."""
    found: list[int] = []
    for first, last in re.findall(r"\b(\d\d)(?:\s*(?:-|–|to)\s*(\d\d))?\b", text):
        found += range(int(first), int(last or first) + 1)
    return [number for number in dict.fromkeys(f"{n:02d}" for n in found) if number != own]


def lines_under(lesson: Lesson, heading: str) -> list[str]:
    """The list below one of a lesson's headings, a string for each of its lines."""
    prose = "\n\n".join(cell["source"] for cell in read_source(lesson)["cells"] if cell["cell_type"] == "markdown")
    match = re.search(rf"^## {heading}\s*\n(.*?)(?=^#|\Z)", prose, re.M | re.S)
    return re.findall(r"^- (.+)$", match[1], re.M) if match else []
