"""The glossary: its terms, where each is first met, and the pattern that finds a term in running text.

``site/glossary.md`` holds the terms in Sphinx's own form: one or several names, each on a line, then the definition indented.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coursekit.course import CourseError, Lesson
from coursekit.lesson.notebook import read_source, tags

_DIRECTIVE = re.compile(r"^```\{glossary\}\s*\n(.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Term:
    """One entry: its ``names`` (the first is the one it is listed under) and its ``definition``."""

    names: tuple[str, ...]
    definition: str


def terms(path: Path) -> list[Term]:
    """All terms of a glossary file in their order. Raises CourseError where the form is broken or a name stands twice."""
    match = _DIRECTIVE.search(path.read_text(encoding="utf-8"))
    if not match:
        raise CourseError(f"{path.name} holds no ```{{glossary}} block.")
    found: list[Term] = []
    names: list[str] = []
    words: list[str] = []
    for line in [*match[1].splitlines(), ""]:
        if line.startswith(("  ", "\t")):
            words.append(line.strip())
        elif line.strip() and not line.startswith(":"):
            names.append(line.strip())
        elif names and words:
            found.append(Term(tuple(names), " ".join(words)))
            names, words = [], []
        elif names:
            raise CourseError(f"{path.name}: the term {names[0]!r} has no definition.")
    known = [name.lower() for term in found for name in term.names]
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice:
        raise CourseError(f"{path.name}: defined more than once: {', '.join(twice)}.")
    return found


def pattern(names: Iterable[str]) -> re.Pattern[str]:
    """What finds the names as whole words, also in the plural; the longest name wins.

    Names with two or more capitals (ARI, PCA, LoRA) are found only as written, all others also with a capital or in capitals.
    """
    parts = []
    for name in sorted(names, key=len, reverse=True):
        exact = sum(letter.isupper() for letter in name) > 1
        words = r"[\s\-]+".join(map(re.escape, re.split(r"[\s-]+", name)))
        parts.append(rf"{words}s?" if exact else rf"(?i:{words}(?:s|es)?)")
    return re.compile(rf"(?<![\w-])(?:{'|'.join(parts)})(?![\w-])")


def finder(known: Sequence[Term]) -> tuple[re.Pattern[str], dict[str, Term]]:
    """One pattern for all terms, and the term of each lower-case name (see ``term_of``)."""
    by_name = {name: term for term in known for name in term.names}
    return pattern(by_name), {name.lower(): term for name, term in by_name.items()}


def term_of(found: str, by_name: dict[str, Term]) -> Term:
    """The term that a match of ``finder`` means: as written, or without its plural."""
    plain = re.sub(r"[\s-]+", " ", found.lower())
    spaced = {re.sub(r"[\s-]+", " ", name): term for name, term in by_name.items()}
    for word in (plain, plain.removesuffix("s"), plain.removesuffix("es")):
        if word in spaced:
            return spaced[word]
    raise KeyError(found)


def first_met(known: Sequence[Term], lessons: Sequence[Lesson]) -> dict[str, list[Term]]:
    """Lesson name -> the terms that its prose uses and no earlier lesson's does, in order of appearance."""
    if not known:
        return {lesson.name: [] for lesson in lessons}
    wanted, by_name = finder(known)
    seen: set[str] = set()
    found: dict[str, list[Term]] = {}
    for lesson in lessons:
        prose = "\n".join(
            cell["source"]
            for cell in read_source(lesson)["cells"]
            if cell["cell_type"] == "markdown" and "instructor" not in tags(cell)
        )
        found[lesson.name] = []
        for match in wanted.finditer(prose):
            term = term_of(match[0], by_name)
            if term.names[0] not in seen:
                seen.add(term.names[0])
                found[lesson.name].append(term)
    return found


def with_lessons(text: str, known: Sequence[Term], met: dict[str, list[Term]], links: dict[str, str]) -> str:
    """The glossary page with a link behind each definition to the lesson that first uses the term.

    ``met`` as from ``first_met``; ``links`` gives the Markdown link of each lesson.
    """
    where = {term.names[0]: links[name] for name, found in met.items() for term in found}
    block = _DIRECTIVE.search(text)
    if not block:
        return text
    parts = []
    for term in known:
        link = f" {where[term.names[0]]}" if term.names[0] in where else ""
        shown = (name.replace("<", "\\<") for name in term.names)  # <cls> is no tag
        parts.append("\n".join(shown) + f"\n  {term.definition}{link}\n")
    options = "".join(f"{line}\n" for line in block[1].splitlines() if line.startswith(":"))
    return text[: block.start(1)] + options + "\n" + "\n".join(parts) + text[block.end(1) :]
