"""The README's generated parts: the table of lessons with their measured results, and the map of the course.

The results come from run cards. ``keep`` takes what the table needs from the last runs into data/results/cards.json, which is
committed, so that everyone makes the same table; a result whose lesson has changed since is not shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coursekit.book import conceptmap
from coursekit.course import CourseError, Lesson, atomic_write, lesson_facts, lessons
from coursekit.lesson import bootstrap
from coursekit.lesson.notebook import read_source
from coursekit.lesson.recording import HEADLINE, number
from coursekit.run import card as cards

KEPT = Path("data") / "results" / "cards.json"
AHEAD = {"model": "the model is ahead", "baseline": "**the baseline is ahead**", "undecided": "undecided"}
MAP = Path("site") / "_static" / "course-map.svg"


def keep(root: Path, more: Sequence[Path] = ()) -> dict[str, Any]:
    """Take the newest fitting run of each lesson into cards.json: the quick one, and one with the gpu profile on a GPU.

    All other parameters are as the lesson has them: on smaller data the minutes of a GPU would say nothing about the profile.
    ``more``: folders with runs that were made elsewhere. Returns what is kept now: lesson → {"cpu" | "gpu": facts}.
    """
    from coursekit.book.lessonpage import defaults, last_run

    kept = load(root)
    for lesson in lessons(root):
        usual = defaults(read_source(lesson), "gpu")
        own = {k: v for k, v in kept.get(lesson.name, {}).items() if v["source_sha256"] == _hash(lesson)}
        run = last_run(lesson, "quick")
        if run is not None:
            own["cpu"] = facts(lesson, cards.read(run))
        found = [
            card
            for folder in [root / "runs", *more]
            for path in folder.rglob(f"{lesson.name}/**/card.json")
            for card in [cards.read(path)]
            if _on_a_gpu(card) and card["parameters"] == usual and _same_text(lesson, path)
        ]
        if found:
            own["gpu"] = facts(lesson, max(found, key=lambda card: card["started"]))
        kept[lesson.name] = own
    kept = {lesson.name: kept[lesson.name] for lesson in lessons(root) if kept.get(lesson.name)}
    with atomic_write(root / KEPT) as handle:
        json.dump(kept, handle, indent=1, ensure_ascii=False)
        handle.write("\n")
    return kept


def load(root: Path) -> dict[str, Any]:
    """What cards.json holds; empty where there is none. Raises CourseError where it cannot be read."""
    path = root / KEPT
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise CourseError(f"{KEPT} is not readable: {error}. Delete it, and run: make readme") from error


def facts(lesson: Lesson, card: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a card."""
    headline = card["results"].get(HEADLINE, {}).get("value")
    device = card["device"]
    cores = card["threads"] or device["cores"]
    shown = {name: card["parameters"].get(name) for name in ("profile", "dataset", "model")}
    return {
        "source_sha256": _hash(lesson),
        "date": card["started"][:10],
        "seconds": round(card["seconds"], 1),
        "peak_memory_bytes": card["peak_memory_bytes"],
        "device": device["gpus"][0] if _on_a_gpu(card) else f"{device['cpu']}, {cores} core{'s' * (cores != 1)}",
        "parameters": {name: value for name, value in shown.items() if value is not None},
        HEADLINE: headline,
    }


def _on_a_gpu(card: dict[str, Any]) -> bool:
    ran = card["status"] == "passed" and card["edition"] == "solution"
    return ran and card["parameters"].get("profile") == "gpu" and bool(card["device"]["gpus"])


def _same_text(lesson: Lesson, path: Path) -> bool:
    from coursekit.book.lessonpage import _own_cells
    from coursekit.lesson.notebook import edition, from_json

    wanted = [cell["source"] for cell in edition(read_source(lesson), "solution", lesson.name)["cells"]]
    notebook = path.parent / "notebook.ipynb"
    return notebook.is_file() and [cell["source"] for cell in _own_cells(from_json(notebook))] == wanted


def _hash(lesson: Lesson) -> str:
    return cards.file_hash(lesson.source) or ""


def table(root: Path) -> str:
    """The table: question, minutes, memory, key result with its interval, and a Colab button where the address is known."""
    kept, known = load(root), bootstrap.address(root)
    head = ["Lesson", "To learn", "CPU", "GPU", "Memory", "Key result [95 % interval]"]
    head += ["Open"] if known else []
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for lesson in lessons(root):
        said = lesson_facts(read_source(lesson)["cells"][0]["source"])
        here, there = (lesson.notebook(name).relative_to(root).as_posix() for name in ("learner", "solution"))
        own = {k: v for k, v in kept.get(lesson.name, {}).items() if v["source_sha256"] == _hash(lesson)}
        cpu, gpu = own.get("cpu"), own.get("gpu")
        row = [
            f"[{said['title'] or lesson.name}]({here}) ([solutions]({there}))",
            f"{said['minutes']} min" if said["minutes"] else "",
            _minutes(cpu),
            _minutes(gpu),
            f"{cpu['peak_memory_bytes'] / 2**30:.1f} GiB" if cpu else "",
            _result(cpu),
        ]
        if known:
            url, branch = known
            name = url.removeprefix("https://github.com/")
            colab = f"https://colab.research.google.com/github/{name}/blob/{branch}/{here}"
            row.append(f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})")
        lines.append(f"| {' | '.join(row)} |")
    devices = {kind: sorted({own[kind]["device"] for own in kept.values() if kind in own}) for kind in ("cpu", "gpu")}
    if devices["cpu"]:
        text = f"CPU: profile `quick` on {'; '.join(devices['cpu'])}."
        text += f" GPU: profile `gpu` on {'; '.join(devices['gpu'])}." if devices["gpu"] else ""
        text += " Each number is that of a run card; `make readme` takes them from the last runs."
        text += " *Stored runs*: of a larger study, whose table comes with the course (`data/results`)."
        lines += ["", text]
    return "\n".join(lines) + "\n"


def _minutes(own: dict[str, Any] | None) -> str:
    return f"{own['seconds'] / 60:.1f} min" if own else "not measured"


def _result(own: dict[str, Any] | None) -> str:
    if not own or not own.get(HEADLINE):
        return "not measured" if not own else ""
    found = own[HEADLINE]
    mean, low, high = (number(found[key]) for key in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return ""
    digits = 3 if max(abs(low), abs(high)) < 1 else 2
    text = f"{found['what']}: **{mean:+.{digits}f}** [{low:+.{digits}f}, {high:+.{digits}f}]"
    text += f", {AHEAD[found['ahead']]}" if "ahead" in found else ""
    return text + (" (stored runs)" if found.get("stored") else "")


def picture(root: Path) -> tuple[str, str]:
    """The map of the course as a picture of its own (SVG), and what it shows in words."""
    from coursekit.book.site import stops_of

    stops = stops_of(root, lessons(root))
    return conceptmap.picture(stops), conceptmap.in_words(stops)
