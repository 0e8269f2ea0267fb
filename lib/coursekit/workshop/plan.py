"""A workshop of any length: which lessons, which sections and exercises, when the breaks are. ``make workshop HOURS=3``.

Everything is counted in whole minutes, breaks and lunch included, and adds up to HOURS exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coursekit.course import CourseError
from coursekit.files import read_toml
from coursekit.lesson.outline import CLOSING, Outline

LONGEST = 90  # minutes of work without a break
SHORTEST_BREAK = 10
DAY = 8 * 60  # minutes of one day, with everything
LUNCH, LUNCH_FROM = 45, 5 * 60  # a day of five hours or more has a lunch
BOUNDS = (1.0, 40.0)  # hours
LEAST = 15  # minutes below which a lesson is not worth opening
# Shares of a lesson's own minutes: for one of the first lessons, for another one, and with discussion
SHORT, GOOD, MOST = 0.75, 0.9, 1.5
BRIDGE = 5  # minutes to tell what a left-out lesson would have taught
SOLVING = 7.0  # minutes of an exercise in a room: to read it, to type, to be stuck, to compare
RESERVE = 0.05  # of a day, for what takes longer than planned
PART = 30  # a slot longer than this may have a break in its middle


@dataclass(frozen=True)
class Slot:
    """One line of the schedule: ``minutes`` of a ``kind`` (talk, lesson, exercise, quiz, break, lunch, lab, bridge)."""

    kind: str
    minutes: int
    words: str
    number: str = ""  # the lesson's
    section: str = ""


@dataclass
class Part:
    """What is done of one lesson: its ``slots``, and what is ``skipped``, in words."""

    outline: Outline
    minutes: int
    slots: list[Slot]
    skipped: list[str]


@dataclass
class Workshop:
    """A planned workshop: one list of slots per day, and what is done of each lesson."""

    minutes: int
    days: list[list[Slot]]
    parts: list[Part]
    bridges: list[str] = field(default_factory=list)  # numbers of lessons that others need and that are only told


def in_minutes(hours: str | float) -> int:
    """HOURS as whole minutes. Raises CourseError for what is no length of a workshop."""
    low, high = BOUNDS
    try:
        value = float(str(hours).strip().replace(",", "."))
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise CourseError(f"A workshop takes {low:g} to {high:g} hours, and HOURS is {str(hours)!r}.")
    return round(value * 60)


def first_lessons(root: Path) -> list[str]:
    """The lessons that even a short workshop should have, as [tool.coursekit] workshop-first in pyproject.toml names them."""
    own = read_toml(root / "pyproject.toml").get("tool", {}).get("coursekit", {})
    return [str(number) for number in own.get("workshop-first", [])]


def plan(known: Sequence[Outline], minutes: int, wanted: Sequence[str] = (), first: Sequence[str] = ()) -> Workshop:
    """Plan a workshop of ``minutes`` with the lessons ``wanted`` (their numbers), or with as many as fit.

    ``known`` are the outlines of all lessons; ``first`` says which lessons come first when not all fit.
    Raises CourseError where the wanted lessons do not fit, saying how many hours they need.
    """
    if not known:
        raise CourseError("There are no lessons yet: notebooks/source is empty.")
    count = max(1, math.ceil(minutes / DAY))
    lengths = [minutes // count + (1 if k < minutes % count else 0) for k in range(count)]
    chosen = [o for o in known if o.number in wanted] if wanted else _fitting(known, lengths, first)
    told = missing(chosen, known)
    needs = [max(LEAST, round(0.4 * o.minutes)) for o in chosen]
    room = sum(_room(length, k, count) for k, length in enumerate(lengths)) - BRIDGE * len(told)
    if sum(needs) > room:
        short = math.ceil((minutes + (sum(needs) - room) * 1.25) / 30) / 2
        raise CourseError(
            f"{minutes / 60:g} hours are too short for {', '.join(o.number for o in chosen)}: even their short forms take "
            f"{sum(needs)} minutes, and {max(room, 0)} are left beside breaks and quizzes. Take HOURS={short:g} or fewer lessons."
        )
    days: list[list[Slot]] = []
    parts: list[Part] = []
    for k, group in enumerate(_by_day(chosen, lengths)):
        bridges = [o for o in known if o.number in told and o.number in missing(group, known)]
        bridges = [o for o in bridges if o.number not in {s.number for day in days for s in day if s.kind == "bridge"}]
        day, done = _day(group, bridges, lengths[k], k, count)
        days.append(day)
        parts += done
    return Workshop(minutes, days, parts, told)


def missing(chosen: Sequence[Outline], known: Sequence[Outline]) -> list[str]:
    """The lessons that the chosen ones need, directly or through others, and that are not among them; in order."""
    by_number = {o.number: o for o in known}
    open_ones, found = [n for o in chosen for n in o.after], set()
    while open_ones:
        number = open_ones.pop()
        if number in by_number and number not in found:
            found.add(number)
            open_ones += by_number[number].after
    return sorted(found - {o.number for o in chosen})


def _fitting(known: Sequence[Outline], lengths: Sequence[int], first: Sequence[str]) -> list[Outline]:
    """As many lessons as have SHORT of their minutes (the first ones), then with GOOD of them the others in order."""
    rank = {number: place for place, number in enumerate(first)}
    order = sorted(known, key=lambda o: (rank.get(o.number, len(rank)), o.number))
    room = sum(_room(length, k, len(lengths)) for k, length in enumerate(lengths))
    chosen: list[Outline] = []
    for candidate in order:
        tried = sorted([*chosen, candidate], key=lambda o: o.number)
        enough = SHORT if all(o.number in rank for o in tried) else GOOD
        if chosen and sum(enough * o.minutes for o in tried) + BRIDGE * len(missing(tried, known)) > room:
            break
        chosen = tried
    return chosen


def _frame(length: int, k: int, count: int) -> tuple[list[Slot], list[Slot]]:
    """What stands before and after the lessons of day ``k``."""
    some = 5 if length <= 120 else 10
    before = [Slot("talk", some, "Yesterday in one minute each: key points, open questions")]
    reserve = 5 * round(RESERVE * length / 5) if length > 120 else 0
    spare = [Slot("talk", reserve, "In reserve: what took longer, or questions")] if reserve else []
    after = [*spare, Slot("talk", some, "Questions of the day; what comes tomorrow")]
    if k == 0:
        before = [
            Slot("talk", some, "Welcome; `make doctor` on every machine, helpers go round"),
            Slot("quiz", some, "Quiz before: alone, on paper or in the page, no answers told"),
        ]
    if k == count - 1:
        after = [*spare, Slot("quiz", some, "Quiz after: the same topics; then the answers, and what to read next")]
    return before, after


def _pauses(length: int, stretches: int) -> list[Slot]:
    """The breaks between ``stretches`` of work; the middle one of a long day is lunch."""
    short = SHORTEST_BREAK if length <= 240 else 15
    found = [Slot("break", short, "Break")] * (stretches - 1)
    if length >= LUNCH_FROM and found:
        found[(len(found) - 1) // 2] = Slot("lunch", LUNCH, "Lunch")
    return found


def _stretches(length: int) -> int:
    """The smallest number of stretches of work in a day, none longer than LONGEST."""
    n = 1
    while length - sum(pause.minutes for pause in _pauses(length, n)) > n * LONGEST:
        n += 1
    return n if length < LUNCH_FROM else max(n, 3)


def _room(length: int, k: int, count: int) -> int:
    """Minutes for lessons in day ``k``."""
    before, after = _frame(length, k, count)
    pauses = _pauses(length, _stretches(length))
    return length - sum(slot.minutes for slot in [*before, *after, *pauses])


def _by_day(chosen: Sequence[Outline], lengths: Sequence[int]) -> list[list[Outline]]:
    """The lessons in order, cut into days so that the fullest day is as empty as it can be."""
    rooms = [max(1, _room(length, day, len(lengths))) for day, length in enumerate(lengths)]
    cuts = _cuts(len(chosen), len(lengths), lambda day, a, b: sum(o.minutes for o in chosen[a:b]) / rooms[day], max)
    return [list(chosen[a:b]) for a, b in itertools.pairwise(cuts or [])]


def _cuts(
    items: int, parts: int, cost: Callable[[int, int, int], float | None], total: Callable[[list[float]], float]
) -> list[int] | None:
    """Where to cut ``items`` in a row into ``parts`` at the least ``total`` of their costs; None where no way is allowed.

    ``cost(part, start, end)`` is what the items from start to below end cost as that part; None: not allowed.
    """
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [0])}
    for part in range(parts):
        for end in range(items + 1):
            before = [(start, *best[part, start]) for start in range(end + 1) if (part, start) in best]
            options = [
                (total([so_far, own]), [*cuts, end])
                for start, so_far, cuts in before
                if (own := cost(part, start, end)) is not None
            ]
            if options:
                best[part + 1, end] = min(options)
    return best[parts, items][1] if (parts, items) in best else None


def _day(
    group: Sequence[Outline], bridges: Sequence[Outline], length: int, k: int, count: int
) -> tuple[list[Slot], list[Part]]:
    """All slots of one day, exactly ``length`` minutes, and what is done of its lessons."""
    before, after = _frame(length, k, count)
    for stretches in range(_stretches(length), length // SHORTEST_BREAK):
        pauses = _pauses(length, stretches)
        room = length - sum(s.minutes for s in [*before, *after, *pauses]) - BRIDGE * len(bridges)
        given = share(room, [o.minutes for o in group])
        parts = [part(o, minutes) for o, minutes in zip(group, given, strict=True)]
        lab = room - sum(given)
        slots = [*before, *(_bridge(o) for o in bridges), *(slot for p in parts for slot in p.slots)]
        if 0 < lab < LEAST and slots:
            slots[-1] = replace(slots[-1], minutes=slots[-1].minutes + lab)
        elif lab:
            slots.append(
                Slot("lab", lab, 'Your own data: `make run NB=03 P="dataset=path/to/mine.h5ad label=…"`, in pairs')
            )
        day = with_pauses([*slots, *after], pauses)
        if day is not None:
            return day, parts
    raise CourseError(f"No way was found to put breaks into a day of {length} minutes; try another number of hours.")


def share(room: int, minutes: Sequence[int]) -> list[int]:
    """``room`` minutes shared out in proportion to the lessons' own, each at least LEAST and at most MOST of its own."""
    if not minutes:
        return []
    factor = min(MOST, max(0.0, room / sum(minutes)))
    exact = [max(float(LEAST), factor * m) for m in minutes]
    spare = sum(exact) - min(room, MOST * sum(minutes))
    if spare > 1e-9:  # those at the least took from the others
        above = sum(e - LEAST for e in exact)
        exact = [e - spare * (e - LEAST) / above if above else e for e in exact]
    return _rounded(exact, min(room, round(sum(exact))))


def _rounded(exact: Sequence[float], total: int) -> list[int]:
    """Whole numbers next to ``exact`` that add up to ``total``: largest remainders first."""
    floor = [math.floor(e) for e in exact]
    order = sorted(range(len(exact)), key=lambda i: floor[i] - exact[i])
    for i in order[: max(0, total - sum(floor))]:
        floor[i] += 1
    return floor


def _bridge(o: Outline) -> Slot:
    return Slot("bridge", BRIDGE, f"What you need from {o.title}: its key points, told", o.number)


def part(o: Outline, minutes: int) -> Part:
    """What of a lesson is done in ``minutes``: sections and exercises are left out until the rest has nearly its own time.

    First go the sections that a note for instructors lets go, then exercises (all but the first and the last), then other
    sections from the back, except the last one, which has the answer.
    """
    units: list[tuple[int, float, str, str]] = []  # rank, minutes, exercise or "", section
    body = [s for s in o.sections if s.heading not in CLOSING]
    solved = [e.number for s in body for e in s.exercises]
    for place, section in enumerate(body):
        rank = 0 if place in (0, len(body) - 1) else 3 if section.optional else 1
        units.append((rank, section.minutes, "", section.heading))
        for exercise in section.exercises:
            own = rank if exercise.number in (solved[0], solved[-1]) else max(rank, 2)
            units.append((own, max(SOLVING, exercise.minutes), exercise.number, section.heading))
    end = [s for s in o.sections if s.heading == "Key points"]
    units += [(0, max(2.0, s.minutes), "", s.heading) for s in end]
    kept = set(range(len(units)))
    while sum(units[i][1] for i in kept) > minutes / 0.9 and any(units[i][0] for i in kept):
        worst = max(kept, key=lambda i: (units[i][0], i))
        gone = units[worst]
        kept -= {worst} | (set() if gone[2] else {i for i in kept if units[i][3] == gone[3]})
    slots = [
        Slot("exercise" if units[i][2] else "lesson", 0, units[i][2] or units[i][3], o.number, units[i][3])
        for i in sorted(kept)
    ]
    weight = [max(units[i][1], 0.5) for i in sorted(kept)]
    given = _rounded([1 + (minutes - len(weight)) * w / sum(weight) for w in weight], minutes)
    slots = [replace(slot, minutes=m) for slot, m in zip(slots, given, strict=True)]
    left = [i for i in range(len(units)) if i not in kept]
    sections = [units[i][3] for i in left if not units[i][2]]
    alone = [f"exercise {units[i][2]}" for i in left if units[i][2] and units[i][3] not in sections]
    return Part(o, minutes, slots, [f"“{name}”" for name in sections] + alone)


def with_pauses(slots: Sequence[Slot], pauses: Sequence[Slot]) -> list[Slot] | None:
    """The slots with the pauses between them, the stretches of work as even as can be; None where one is over LONGEST."""
    pieces: list[Slot] = []
    for slot in slots:
        parts = math.ceil(slot.minutes / PART)
        pieces += [replace(slot, minutes=m) for m in _rounded([slot.minutes / parts] * parts, slot.minutes)]
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + piece.minutes)

    def uneven(_: int, start: int, end: int) -> float | None:
        length = ends[end] - ends[start]
        return length**2 if start < end and length <= LONGEST else None

    cuts = _cuts(len(pieces), len(pauses) + 1, uneven, sum)
    if cuts is None:
        return None
    out: list[Slot] = []
    for place, piece in enumerate(pieces):
        if out and (out[-1].kind, out[-1].words, out[-1].number) == (piece.kind, piece.words, piece.number):
            out[-1] = replace(out[-1], minutes=out[-1].minutes + piece.minutes)
        else:
            out.append(piece)
        if place + 1 in cuts[1:-1]:
            out.append(pauses[cuts.index(place + 1) - 1])
    return out
