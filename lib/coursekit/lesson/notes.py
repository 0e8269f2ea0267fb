"""What the notes for instructors of a lesson must say: something to ask, what people get wrong, what to do when time runs out."""

from __future__ import annotations

import re
from collections.abc import Sequence

ASK, MISCONCEPTION, TIMING = "Ask", "Misconception", "Time check or Skip"
_KINDS = (  # what the bold words at the start of a note say
    (ASK, re.compile(r"\*\*[^*]*\b(?:ask|discuss(?:ion)?|questions?|vote)\b[^*]*\*\*", re.I)),
    (MISCONCEPTION, re.compile(r"\*\*[^*]*\b(?:misconceptions?|watch for)\b[^*]*\*\*", re.I)),
    (TIMING, re.compile(r"\*\*[^*]*\b(?:skip|time check|timing|spend the time)\b[^*]*\*\*", re.I)),
)


def note_problems(notes: Sequence[str]) -> list[str]:
    """What the notes for instructors of one lesson lack, one sentence each."""
    if not notes:
        return ["no notes for instructors: markdown cells with the tag instructor."]
    text = "\n".join(notes)
    examples = {
        ASK: "**Ask before running:**",
        MISCONCEPTION: "**Misconception:**",
        TIMING: "**Skip** or **Time check:**",
    }
    return [
        f"the notes for instructors have no {kind}; write one that begins with {examples[kind]}"
        for kind, pattern in _KINDS
        if not pattern.search(text)
    ]
