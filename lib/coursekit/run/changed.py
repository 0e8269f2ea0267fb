"""Which lessons a change can have touched, so that a machine that costs money runs only those."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from coursekit.course import Lesson, lessons
from coursekit.machine.facts import git

# What every lesson rests on: the library, the versions, the data (lists, tables, our own checkpoints, stored results; not what
# only people and the README read), how lessons are run
FOR_ALL = re.compile(
    r"lib/|requirements[\w.-]*\.lock$|pyproject\.toml$|data/(?!cards/|results/cards\.json$)"
    r"|tests/gpu/test_lessons_gpu\.py$|\.github/workflows/gpu\.yml$"
)
FOR_ONE = re.compile(
    r"notebooks/source/(?P<source>\d\d)_[^/]+\.py$|notebooks/source/checks_(?P<checks>\d\d)\.py$"
    r"|tests/notebooks/expected/(?P<expected>\d\d)\.toml$"
)


def touched(known: Iterable[Lesson], paths: Iterable[str]) -> list[Lesson]:
    """Those of ``known`` that may come out differently after a change of ``paths`` (relative to the course)."""
    numbers: set[str] = set()
    for path in paths:
        if FOR_ALL.match(path):
            return list(known)
        found = FOR_ONE.match(path)
        numbers |= {number for number in found.groups() if number} if found else set()
    return [lesson for lesson in known if lesson.number in numbers]


def differing(root: Path, since: str) -> list[str] | None:
    """The files that differ between the commit ``since`` and the working tree, new ones included; None for no such commit."""
    known = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{since}^{{commit}}")
    if known is None:
        return None
    changed = git(root, "diff", "--name-only", "--no-renames", known.strip())
    new = git(root, "ls-files", "--others", "--exclude-standard")
    return None if changed is None or new is None else [*changed.splitlines(), *new.splitlines()]


def changed(root: Path, since: str | None) -> tuple[list[Lesson], str]:
    """The lessons to run after ``since``, and why; all of them where nothing is said or the commit is not here."""
    known = lessons(root)
    if not since:
        return known, "all lessons: no commit was named"
    paths = differing(root, since)
    if paths is None:
        return known, f"all lessons: there is no commit {since} here"
    found = touched(known, paths)
    return found, f"{len(found)} of {len(known)} lessons: {len(paths)} files differ from {since}"
