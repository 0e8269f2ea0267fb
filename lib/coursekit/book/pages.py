"""The pages of the book that nobody writes by hand: results, datasets, models, papers, and the list of lessons.

Each function returns Markdown (MyST). Everything is found: lessons, run cards, data cards, folders of models.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coursekit.course import Lesson
from coursekit.files import filled, read_toml
from coursekit.lesson.facts import FURTHER_READING, facts_of, lines_under
from coursekit.lesson.recording import in_words
from coursekit.run.courserun import headline, key_results

TEMPLATES = Path(__file__).parent / "templates"
Cards = Mapping[str, Mapping[str, Any]]  # lesson name -> run card

# Elsevier's hold pairs of brackets
_DOI = re.compile(r"(?:https?://doi\.org/)?(10\.\d{4,}/(?:\([^\s()]*\)|[^\s()\]>,;\"])+)")


def lessons_table(lessons: list[Lesson], runs: Cards, prefix: str = "lessons/") -> str:
    """The table of all lessons: question, what one will be able to do, reading and computing time."""
    lines = ["| Lesson | You will be able to | Time | Computing |", "|---|---|---|---|"]
    for lesson in lessons:
        facts = facts_of(lesson)
        card = runs.get(lesson.name)
        took = f"{card['seconds'] / 60:.1f} min" if card else "not run"
        minutes = f"{facts['minutes']} min" if facts["minutes"] else ""
        objectives = facts["objectives"] or ""
        lines.append(f"| [{facts['title']}]({prefix}{lesson.name}.ipynb) | {objectives} | {minutes} | {took} |")
    return "\n".join(lines) + "\n"


def results(lessons: list[Lesson], runs: Cards) -> str:
    """The page of results: one row per lesson, then, folded, everything that each lesson recorded, all from the run cards."""
    lines = []
    for lesson in lessons:
        card, title = runs.get(lesson.name), facts_of(lesson)["title"]
        if card is None:
            lines.append(f"| {title} | not run | | | |")
            continue
        own = (f"{name.replace('_', ' ')}: {_value(value)}" for name, value in key_results(dict(card)))
        found = _cell(headline(card)) or "<br>".join(own)
        link = f"[{title}](lessons/{lesson.name}.ipynb)"
        memory = f"{card['peak_memory_bytes'] / 2**20:,.0f} MiB"
        lines.append(f"| {link} | {found} | {card['seconds'] / 60:.1f} | {memory} | {_machine(card)} |")
    for lesson in lessons:
        card = runs.get(lesson.name)
        if card is None:
            continue
        lines += ["", f"## {facts_of(lesson)['title']}", "", _ran(card), ""]
        lines += [f"<details><summary>All {len(card['results'])} results that it recorded</summary>", ""]
        lines += ["| Result | Value | May differ by |", "|---|---|---|"]
        for name, entry in card["results"].items():
            lines.append(f"| `{name}` | {_value(entry['value'])} | {_tolerance(entry.get('tolerance'))} |")
        used = [f"{entry['kind']} {entry['name']} (`{str(entry['sha256'])[:12]}…`)" for entry in card["used"]]
        lines += ["", "</details>"]
        lines += ["", f"Used: {'; '.join(used) or 'nothing that was noted'}.", ""]
        lines += [f'<a href="downloads/{lesson.name}.card.json" download>The run card as JSON</a>']
    return filled(TEMPLATES / "results.md", ROWS="\n".join(lines))


def _machine(card: Mapping[str, Any]) -> str:
    device = card["device"]
    words = ", ".join(device["gpus"]) or f"{device['cpu']}, {device['cores']} core{'s' if device['cores'] != 1 else ''}"
    return _cell(words)


def _ran(card: Mapping[str, Any]) -> str:
    commit = (card["git"]["commit"] or "no commit")[:10] + (" with changes" if card["git"]["dirty"] else "")
    parameters = ", ".join(f"{name} = {value!r}" for name, value in card["parameters"].items())
    return f"Run {card['started'][:10]} on Python {card['python']}, {card['os']}; commit {commit}. Parameters: `{parameters}`."


def _value(value: Any) -> str:
    """A recorded value in a table's cell: an interval as one, a dict as one line per entry."""
    if isinstance(value, dict) and {"mean", "low", "high"} <= set(value):
        return f"{in_words(value['mean'])} [{in_words(value['low'])}, {in_words(value['high'])}]"
    if isinstance(value, dict):
        return "<br>".join(f"{_cell(str(name))}: {_value(item)}" for name, item in value.items())
    return _cell(in_words(value, 200))


def _tolerance(tolerance: Any) -> str:
    return {"any": "anything", None: "nothing"}.get(tolerance, str(tolerance))


def _cell(text: str) -> str:
    """Text that may stand in a Markdown table."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def data_pages(root: Path) -> dict[str, str]:
    """A page per dataset, and the page that lists them: docname -> Markdown."""
    known = read_toml(root / "data" / "datasets.toml")
    lines = []
    pages = {}
    for path in sorted((root / "data" / "cards").glob("*.md")):
        facts = known.get(path.stem, {})
        cells, genes = (f"{facts[key]:,}" if isinstance(facts.get(key), int) else "?" for key in ("cells", "genes"))
        row = [
            f"[{path.stem}]({path.name})",
            *(_cell(str(word)) for word in (facts.get("title", ""), cells, genes)),
            *(_cell(str(facts.get(key, ""))) for key in ("counts", "split", "licence")),
        ]
        lines.append(f"| {' | '.join(row)} |")
        pages[f"data/{path.stem}"] = path.read_text(encoding="utf-8")
    pages["data/index"] = _index("datasets.md", lines, pages)
    return pages


def model_pages(root: Path) -> dict[str, str]:
    """A page per model that comes with the course (its own card), and the page that lists all known ones."""
    known = read_toml(root / "data" / "models.toml").get("models", {})
    pages = {}
    for path in sorted((root / "data" / "models").glob("*/README.md")):
        text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.S).lstrip()
        pages[f"models/{path.parent.name}"] = text
    lines = []
    for name, facts in known.items():
        shape = facts.get("architecture", {})
        layers, width = (_first(shape, keys) for keys in (("num_hidden_layers", "nlayers"), ("hidden_size", "embsize")))
        here = f"[{name}]({name}.md)" if f"models/{name}" in pages else f"`{name}`"
        words = (layers, width, facts.get("cells", ""), facts.get("licence", ""), _source(facts.get("citation", "")))
        lines.append(f"| {here} | {' | '.join(words)} |")
    pages["models/index"] = _index("models.md", lines, pages)
    return pages


def _first(shape: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((f"{shape[key]:,}" for key in keys if key in shape), "?")


def _source(text: str) -> str:
    match = _DOI.search(text)
    if not match:
        return text
    return _cell(text[: match.start()].rstrip(", ") + " ") + f"[{match[1]}](https://doi.org/{match[1]})"


def _index(template: str, rows: list[str], pages: Mapping[str, str]) -> str:
    """The page that lists ``pages``, with a row for each entry."""
    names = sorted(name.split("/")[1] for name in pages)
    return filled(TEMPLATES / template, ROWS="\n".join(rows), PAGES="\n".join(names))


def citations(line: str) -> list[tuple[str, str]]:
    """(words, DOI) of every DOI in a line: the words are those between the DOI before it and itself."""
    found, start = [], 0
    for match in _DOI.finditer(line):
        words = re.sub(r"^[\s.,;:)]*(?:and )?|[\s.,;:(]+$", "", line[start : match.start()])
        words += ")" * max(0, words.count("(") - words.count(")"))  # the bracket that closed behind the DOI
        found.append((words, match[1].rstrip(".")))
        start = match.end()
    return found


def bibliography(root: Path, lessons: list[Lesson]) -> str:
    """All papers with a DOI: those of the lessons' further reading, of the datasets and of the models, each once."""
    found: dict[str, dict[str, Any]] = {}

    def add(text: str, where: str) -> None:
        for words, doi in citations(text):
            entry = found.setdefault(doi.lower(), {"doi": doi, "words": words, "where": []})
            if where not in entry["where"]:
                entry["where"].append(where)

    for lesson in lessons:
        for line in lines_under(lesson, FURTHER_READING):
            add(line, f"[lesson {lesson.number}](lessons/{lesson.name}.ipynb)")
    in_lessons = set(found)
    for name, facts in read_toml(root / "data" / "datasets.toml").items():
        if isinstance(facts, dict) and facts.get("doi"):
            own, _, carrier = str(facts.get("citation", name)).replace("file by ", "").partition(";")
            for text in (f"{_DOI.sub('', own)} {facts['doi']}", carrier):
                add(text, f"[{name}](data/{name}.md)")
    for name, facts in read_toml(root / "data" / "models.toml").get("models", {}).items():
        card = root / "data" / "models" / name / "README.md"
        add(str(facts.get("citation", "")), f"[{name}](models/{name}.md)" if card.is_file() else f"`{name}`")
    lines = []
    for heading, chosen in (
        ("Read on after a lesson", [found[key] for key in found if key in in_lessons]),
        ("Behind the data and the models", [found[key] for key in found if key not in in_lessons]),
    ):
        lines += ["", f"## {heading}", ""]
        for entry in sorted(chosen, key=lambda entry: entry["words"].lower()):
            link = f"[doi:{entry['doi']}](https://doi.org/{entry['doi']})"
            lines.append(f"- {entry['words'] or entry['doi']}. {link}. See {', '.join(entry['where'])}.")
    return filled(TEMPLATES / "papers.md", ROWS="\n".join(lines))
