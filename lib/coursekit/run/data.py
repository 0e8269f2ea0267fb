"""Data sets at hand before they are needed: those of lessons, of a corpus, or by name, fetched and made one after the other.

What is there stays, so a run that was stopped or killed goes on where it was; a set that cannot be had does not hold up the others.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.course import PROFILES, CourseError, choose, lessons
from coursekit.files import read_toml
from coursekit.lesson.sets import sets_of

CORPORA = "data/corpora.toml"


@dataclass(frozen=True)
class Row:
    """A set as it is here: its size, ``bytes`` on disk, how it came, and why it is not here (empty: it is)."""

    name: str
    cells: int = 0
    genes: int = 0
    licence: str = ""
    bytes: int = 0
    seconds: float = 0.0
    came: str = ""
    why: str = ""


def wanted(root: Path, words: Sequence[str]) -> list[str]:
    """The sets meant by ``words``: names of sets, corpora, lessons (numbers or names), and profiles, which hold for the lessons.

    Lessons without a profile stand for all profiles. Raises CourseError for a word that is none of these.
    """
    from scfm.datasets import entries

    corpora = read_toml(root / CORPORA)
    known = {word: lesson for lesson in lessons(root) for word in (lesson.number, lesson.name)}
    profiles = [word for word in words if word in PROFILES] or list(PROFILES)
    found: list[str] = []
    for word in words:
        if word in entries():
            found.append(word)
        elif word in corpora:
            found += corpora[word]["train"]
        elif (number := word.zfill(2) if word.isdigit() else word) in known:
            found += [name for profile in profiles for name in sets_of(choose(root, [number])[0], profile)]
        elif word not in PROFILES:
            near = difflib.get_close_matches(word, [*entries(), *corpora, *known], n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise CourseError(
                f"{word!r} is no data set, no corpus ({', '.join(corpora)}) and no lesson.{hint} For example: "
                'make data FOR="03 cpu", make data FOR=mini, make data FOR="kang_ifnb_pbmc pbmc3k"'
            )
    if words and not found and set(words) <= set(PROFILES):
        found = [name for lesson in lessons(root) for profile in profiles for name in sets_of(lesson, profile)]
    return list(dict.fromkeys(found))


def prepare(names: Sequence[str], say: Callable[[str], Any] = print) -> list[Row]:
    """Load every set once, so that it is fetched, made, kept and checked; ``say`` is told about each."""
    rows = []
    for i, name in enumerate(names, 1):
        say(f"[{i}/{len(names)}] {name}")
        rows.append(_row(name))
        if rows[-1].why:
            say(f"  not to be had: {rows[-1].why}")
    return rows


def _row(name: str) -> Row:
    from scfm import load_dataset
    from scfm.datasets import entries, places
    from scfm.errors import DatasetError
    from scfm.store import cache

    entry = entries()[name]
    begin = time.perf_counter()
    there = all(cache.find(place) for place in places(name))
    try:
        adata = load_dataset(name)
    except (DatasetError, OSError) as error:
        return Row(name, licence=entry["licence"], seconds=time.perf_counter() - begin, why=str(error))
    paths = [path for place in places(name) if (path := cache.find(place))]
    size = sum(path.stat().st_size for path in paths) or entry.get("bytes", 0)
    came = "was here" if there else "made" if "origin" in entry else "downloaded"
    return Row(name, adata.n_obs, adata.n_vars, entry["licence"], size, time.perf_counter() - begin, came)


def table(rows: Sequence[Row]) -> str:
    """The sets as a table for the terminal, and how many there are."""
    head = ("set", "cells", "genes", "bytes", "seconds", "how", "licence")
    lines = [head]
    for row in rows:
        sizes = ("", "", "") if row.why else (f"{row.cells:,}", f"{row.genes:,}", f"{row.bytes:,}")
        lines.append((row.name, *sizes, f"{row.seconds:.1f}", "not here" if row.why else row.came, row.licence))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(
            word.rjust(width) if 0 < column < 5 else word.ljust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    good = [row for row in rows if not row.why]
    total = f"{len(good)} of {len(rows)} sets are here: {sum(row.cells for row in good):,} cells, {sum(row.bytes for row in good) / 1e6:,.1f} MB."
    return "\n".join(line.rstrip() for line in [*text, "", total])
