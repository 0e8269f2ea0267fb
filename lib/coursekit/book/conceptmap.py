"""The map of the course: which lesson builds on which, and the words that each one brings. Drawn from the lessons themselves."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coursekit.book import glossary
from coursekit.course import Lesson
from coursekit.files import filled
from coursekit.lesson.facts import facts_of

WIDTH, GAP_X, GAP_Y, LINE, PAD = 290, 36, 46, 19, 14  # pixels
WORDS_SHOWN = 6
PAGE = Path(__file__).parent / "templates" / "map.md"
_COLOURS = (
    "text{font:14px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.words{font-size:12.5px;fill:#57606a}"
    "rect{fill:#f6f8fa;stroke:#0072b2;stroke-width:1.5}.arrow{fill:none;stroke:#57606a;stroke-width:1.5}.tip{fill:#57606a}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.words{fill:#9da7b3}rect{fill:#161b22;stroke:#56b4e9}"
    ".arrow{stroke:#9da7b3}.tip{fill:#9da7b3}}"
)


@dataclass(frozen=True)
class Stop:
    """One lesson on the map: ``number``, ``question``, page to ``link`` to, the numbers it comes ``after``, new ``words``,
    and what else a reader needs (``needs``, in words)."""

    number: str
    question: str
    link: str
    after: Sequence[str] = ()
    words: Sequence[str] = field(default=())
    needs: str = ""


def stops_of(root: Path, known: Sequence[Lesson]) -> list[Stop]:
    """The lessons as stops of the map, with the glossary's words that each is the first to use."""
    words = root / "site" / "glossary.md"
    met = glossary.first_met(glossary.terms(words) if words.is_file() else [], known)
    stops = []
    for lesson in known:
        facts = facts_of(lesson)
        names = [term.names[0] for term in met[lesson.name]]
        link = f"lessons/{lesson.name}.html"
        stops.append(Stop(lesson.number, facts["question"], link, facts["after"], names, facts["needs"] or ""))
    return stops


def levels(stops: Sequence[Stop]) -> list[list[Stop]]:
    """The stops in rows: each below all those that it comes after (numbers that no stop has are left aside)."""
    depth: dict[str, int] = {}
    for stop in sorted(stops, key=lambda stop: stop.number):
        known = [depth[number] for number in stop.after if number in depth]
        depth[stop.number] = max(known, default=-1) + 1
    rows: list[list[Stop]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for stop in sorted(stops, key=lambda stop: stop.number):
        rows[depth[stop.number]].append(stop)
    return rows


def direct(stops: Sequence[Stop]) -> list[tuple[str, str]]:
    """The arrows (from, to) that no chain of other arrows says already."""
    after = {stop.number: [n for n in stop.after if any(o.number == n for o in stops)] for stop in stops}

    def before(number: str) -> set[str]:
        return {n for parent in after[number] for n in (parent, *before(parent)) if parent < number}

    return [
        (parent, stop.number)
        for stop in stops
        for parent in after[stop.number]
        if not any(parent in before(other) for other in after[stop.number] if other != parent)
    ]


def svg(stops: Sequence[Stop]) -> str:
    """The map as SVG that takes its colours from the page (dark mode) and whose boxes are links."""
    rows = levels(stops)
    columns = max((len(row) for row in rows), default=1)
    wide = columns * WIDTH + (columns - 1) * GAP_X + 2 * PAD
    place: dict[str, tuple[float, float, float]] = {}  # number -> left, top, height
    boxes, top = [], float(PAD)
    for row in rows:
        written = [_lines(stop) for stop in row]
        tall = max(len(title) + len(words) for title, words in written) * LINE + 2 * PAD + 4
        left = (wide - len(row) * WIDTH - (len(row) - 1) * GAP_X) / 2
        for stop, (title, words) in zip(row, written, strict=True):
            place[stop.number] = (left, top, tall)
            boxes.append(_box(stop, title, words, left, top, tall))
            left += WIDTH + GAP_X
        top += tall + GAP_Y
    arrows = [_arrow(place[a], place[b]) for a, b in direct(stops)]
    high = top - GAP_Y + PAD
    label = html.escape(in_words(stops), quote=True)
    return (
        f'<svg class="concept-map" role="group" aria-label="{label}" viewBox="0 0 {wide:.0f} {high:.0f}" '
        f'style="min-width:{min(wide, 2 * WIDTH + GAP_X + 2 * PAD):.0f}px;max-width:{wide:.0f}px">'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 10 5 0 10z" class="tip"/></marker></defs>' + "".join(arrows + boxes) + "</svg>"
    )


def picture(stops: Sequence[Stop]) -> str:
    """The map as a file of its own, that follows the reader's light or dark mode; its boxes are no links."""
    text = re.sub(r"<a href=[^>]*>|</a>", "", svg([replace(stop, words=stop.words[:3]) for stop in stops]))
    wide, high = re.search(r'viewBox="0 0 (\d+) (\d+)"', text).groups()  # type: ignore[union-attr]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" role="img" '
    text = re.sub(r' style="[^"]*"', "", text.replace('<svg class="concept-map" role="group" ', head, 1), count=1)
    return text.replace("<defs>", f"<style>{_COLOURS}</style><defs>", 1) + "\n"


def in_words(stops: Sequence[Stop]) -> str:
    """The map for someone who cannot see it."""
    return "Map of the course. " + " ".join(
        f"Lesson {stop.number}: {stop.question}"
        + (f" It builds on {' and '.join(stop.after)}." if stop.after else " It needs no other lesson.")
        for stop in stops
    )


def page(stops: Sequence[Stop]) -> str:
    """The page of the map as Markdown (MyST), with the same said as a list whose words lead to the glossary."""
    lines = []
    for stop in stops:
        needs = f"Needs {stop.needs or ', '.join(stop.after) or 'nothing'}."
        brings = ", ".join(f"{{term}}`{word}`" for word in stop.words)
        page = stop.link.replace(".html", ".ipynb")
        lines.append(f"- **[{stop.number} · {stop.question}]({page})** {needs}" + f" Brings: {brings}." * bool(brings))
    return filled(PAGE, MAP=svg(stops), ROWS="\n".join(lines))


def _lines(stop: Stop) -> tuple[list[str], list[str]]:
    title = textwrap.wrap(f"{stop.number} · {stop.question}", 29)
    shown = list(stop.words[:WORDS_SHOWN])
    rest = len(stop.words) - len(shown)
    text = ", ".join(shown) + (f" and {rest} more" if rest else "")
    return title, textwrap.wrap(text, 36)


def _box(stop: Stop, title: list[str], words: list[str], left: float, top: float, tall: float) -> str:
    text, y = "", top + PAD + 12
    for kind, lines in (("title", title), ("words", words)):
        for line in lines:
            text += f'<text class="{kind}" x="{left + PAD:.0f}" y="{y:.0f}">{html.escape(line)}</text>'
            y += LINE
        y += 4
    return (
        f'<a href="{html.escape(stop.link, quote=True)}"><rect x="{left:.0f}" y="{top:.0f}" width="{WIDTH}" '
        f'height="{tall:.0f}" rx="8"/>{text}</a>'
    )


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    x0, y0, x1, y1 = start[0] + WIDTH / 2, start[1] + start[2], end[0] + WIDTH / 2, end[1]
    bend = (y1 - y0) / 2
    return (
        f'<path class="arrow" marker-end="url(#tip)" d="M{x0:.0f} {y0:.0f} C{x0:.0f} {y0 + bend:.0f} '
        f'{x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"/>'
    )
