"""The README's generated parts: the table of lessons with their measured results, and the map of the course.

The results come from run cards. ``keep`` takes what the table needs from the last runs into data/results/cards.json, which is
committed, so that everyone makes the same table; a result whose lesson has changed since is not shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coursekit.book import conceptmap
from coursekit.course import CourseError, Lesson, lessons
from coursekit.files import file_hash, write_json, write_text
from coursekit.lesson import bootstrap
from coursekit.lesson.facts import facts_of
from coursekit.lesson.recording import HEADLINE, headline_in_words
from coursekit.run import card as cards
from coursekit.run.last import defaults, last_run, same_text

KEPT = Path("data") / "results" / "cards.json"
_TABLE = re.compile(r"(<!-- lessons -->\n).*?(<!-- /lessons -->)", re.S)
_MAP = re.compile(r"(<!-- map -->\n).*?(<!-- /map -->)", re.S)
MAP = Path("site") / "_static" / "course-map.svg"


def refresh(root: Path, write: bool) -> list[str]:
    """Write the README's table of lessons and the map of the course, or say that they are out of step.

    Each stands between two comments (``<!-- lessons -->`` … ``<!-- /lessons -->``, and ``map``); without them nothing is done.
    """
    path = root / "README.md"
    if not path.is_file():
        return []
    text, files = path.read_text(encoding="utf-8"), {}
    if _TABLE.search(text):
        rows = table(root)
        text = _TABLE.sub(lambda match: match[1] + rows + match[2], text)
    if _MAP.search(text):
        files[root / MAP], words = picture(root)
        alt = words.replace('"', "&quot;")
        image = f'<img src="{MAP.as_posix()}" alt="{alt}">\n'
        text = _MAP.sub(lambda match: match[1] + image + match[2], text)
    files[path] = text
    stale = [file for file in files if not file.is_file() or file.read_text(encoding="utf-8") != files[file]]
    if stale and not write:
        return ["README.md: its table or its map of the lessons is out of step. Run: make build"]
    for file in stale:
        write_text(file, files[file])
    return []


def keep(root: Path, more: Sequence[Path] = ()) -> dict[str, Any]:
    """Take the newest fitting run of each lesson into cards.json: the quick one, and one with the gpu profile on a GPU.

    All other parameters are as the lesson has them: on smaller data the minutes of a GPU would say nothing about the profile.
    ``more``: folders with runs that were made elsewhere. Returns what is kept now: lesson → {"cpu" | "gpu": facts}.
    """
    kept = load(root)
    for lesson in lessons(root):
        usual = defaults(lesson, "gpu")
        own = {k: v for k, v in kept.get(lesson.name, {}).items() if v["source_sha256"] == _hash(lesson)}
        run = last_run(lesson, "quick")
        if run is not None:
            own["cpu"] = facts(lesson, cards.read(run))
        found = [
            card
            for folder in [root / "runs", *more]
            for path in folder.rglob(f"{lesson.name}/**/card.json")
            for card in [cards.read(path)]
            if _on_a_gpu(card) and card["parameters"] == usual and same_text(lesson, path.parent)
        ]
        if found:
            own["gpu"] = facts(lesson, max(found, key=lambda card: card["started"]))
        kept[lesson.name] = own
    kept = {lesson.name: kept[lesson.name] for lesson in lessons(root) if kept.get(lesson.name)}
    write_json(root / KEPT, kept)
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


def _hash(lesson: Lesson) -> str:
    return file_hash(lesson.source) or ""


def table(root: Path) -> str:
    """Two tables: each lesson's question and key result with model, cells and interval; and what a lesson costs."""
    kept, known = load(root), bootstrap.address(root)
    results = ["Lesson", "Network", "Cells", "Key result [95 % interval]"] + (["Open"] if known else [])
    costs = ["Lesson", "To learn", "CPU", "GPU", "Memory"]
    result_rows, cost_rows = [_row(results), _rule(results)], [_row(costs), _rule(costs)]
    for lesson in lessons(root):
        said = facts_of(lesson)
        here, there = (lesson.notebook(name).relative_to(root).as_posix() for name in ("learner", "solution"))
        own = {k: v for k, v in kept.get(lesson.name, {}).items() if v["source_sha256"] == _hash(lesson)}
        cpu, gpu = own.get("cpu"), own.get("gpu")
        row = [f"[{said['title']}]({here}) ([solutions]({there}))", *_subject(cpu), _result(cpu)]
        if known:
            url, branch = known
            name = url.removeprefix("https://github.com/")
            colab = f"https://colab.research.google.com/github/{name}/blob/{branch}/{here}"
            row.append(f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})")
        result_rows.append(_row(row))
        minutes = f"{said['minutes']} min" if said["minutes"] else ""
        memory = f"{cpu['peak_memory_bytes'] / 2**30:.1f} GiB" if cpu else ""
        cost_rows.append(_row([said["title"], minutes, _minutes(cpu), _minutes(gpu), memory]))
    return "\n".join([*result_rows, "", *_notes(kept), "", *cost_rows, "", _devices(kept)]).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(cells: Sequence[str]) -> str:
    return "|" + "---|" * len(cells)


def _notes(kept: dict[str, Any]) -> list[str]:
    """How to read the results: what a verdict needs, and how many of them chance alone would give."""
    found = [own["cpu"][HEADLINE] for own in kept.values() if own.get("cpu", {}).get(HEADLINE, {}).get("ahead")]
    if not found:
        return []
    decided = sum(entry["ahead"] != "undecided" for entry in found)
    return [
        "**How to read it.** A difference is the network minus its best simple rival; *ahead* needs the whole 95 % interval beyond "
        "one point (0.01), everything else is *undecided*. The interval says how the mean varies over what stands behind it "
        "(draws of labelled cells from one set, or sets); another donor or laboratory can differ by more. Of "
        f"{len(found)} such intervals {0.05 * len(found):.1f} would be decided by chance if nothing differed; here {decided} are. "
        "*Stored runs* are of a larger study, whose table comes with the course (`data/results`). The networks are our own and "
        "small (3 million parameters): **no row is a verdict on the published Geneformer or scGPT.** What others measured on "
        "those, beside the baselines of the same source, stands in lesson 03."
    ]


def _devices(kept: dict[str, Any]) -> str:
    devices = {kind: sorted({own[kind]["device"] for own in kept.values() if kind in own}) for kind in ("cpu", "gpu")}
    if not devices["cpu"]:
        return ""
    text = f"CPU: profile `quick` on {'; '.join(devices['cpu'])}."
    text += f" GPU: profile `gpu` on {'; '.join(devices['gpu'])}." if devices["gpu"] else ""
    return text + " Each number is that of a run card; `make readme` takes them from the last runs."


def _minutes(own: dict[str, Any] | None) -> str:
    return f"{own['seconds'] / 60:.1f} min" if own else "not measured"


def _subject(own: dict[str, Any] | None) -> tuple[str, str]:
    """The network and the cells that a key result is of."""
    if not own or not own.get(HEADLINE):
        return "", ""
    said = own[HEADLINE].get("cells") or own["parameters"].get("dataset", "")
    return own["parameters"].get("model", "none"), said


def _result(own: dict[str, Any] | None) -> str:
    if not own or not own.get(HEADLINE):
        return "not measured" if not own else ""
    return headline_in_words(own[HEADLINE], "**")


def picture(root: Path) -> tuple[str, str]:
    """The map of the course as a picture of its own (SVG), and what it shows in words."""
    stops = conceptmap.stops_of(root, lessons(root))
    return conceptmap.picture(stops), conceptmap.in_words(stops)
