"""Slides of a lesson, made from its source and its last run: headings, key sentences, figures, exercises, quizzes, notes.

reveal.js comes with the course (site/_static/reveal), so a room without a network can show them. ``make slides`` calls it.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson
from coursekit.files import filled, write_text
from coursekit.lesson.facts import FURTHER_READING, KEY_POINTS, facts_of, lines_under
from coursekit.lesson.lint import exercise_ids
from coursekit.lesson.notebook import from_json, read_source, tags
from coursekit.lesson.outline import OPENING, Outline, Section, outline
from coursekit.lesson.quiz import asked, quiz_options, to_html
from coursekit.run.last import last_run, own_cells
from coursekit.run.maths import with_formulas

FOLDER = Path("site") / "_build" / "slides"
REVEAL = Path("site") / "_static" / "reveal"
PAGE = Path(__file__).with_name("slides.html")
SENTENCES, LETTERS = 4, 460  # of text on one slide
FIGURES = 2  # of one section
POINTS = 4  # key points on one slide
SHORT = 60  # letters below which a sentence says too little alone
_SENTENCE = re.compile(r".+?[.?!][\"”*)]*(?=\s+[A-Z*`\"“(]|$)")


def last_page(lesson: Lesson) -> Path:
    """The folder of the run whose figures the slides show. Raises CourseError where there is none of this text."""
    found = last_run(lesson)
    if found is None:
        raise CourseError(f"{lesson.name} has no quick run of this text. Run it first: make run NB={lesson.number}")
    return found


def deck(lesson: Lesson, run: Path) -> str:
    """All slides of a lesson as one page; ``run`` is the folder of an executed notebook of the same text."""
    own = outline(lesson)
    full = read_source(lesson)["cells"]
    executed = iter(own_cells(from_json(run / "notebook.ipynb")))
    outputs = [[] if {"instructor", "exercise"} & set(tags(c)) else next(executed).get("outputs", []) for c in full]
    slides = [_title(own, full)]
    for section in own.sections:
        if section.heading == KEY_POINTS:
            slides += _points(lines_under(lesson, KEY_POINTS), own)
        elif section.heading != FURTHER_READING:
            slides += list(_section(section, full, outputs))
    return filled(PAGE, TITLE=html.escape(own.title), SLIDES="\n".join(slides))


def _title(own: Outline, cells: Sequence[Any]) -> str:
    facts = facts_of(own.lesson)
    body = f"<h1>{html.escape(own.title)}</h1><p class='small'>{own.minutes} minutes. Needs: {rich(facts['needs'] or 'nothing')}.</p>"
    notes = f"You will be able to: {facts['objectives'] or ''}. Start all cells now: they compute while you talk."
    return _slide(body, notes)


def _section(section: Section, cells: Sequence[Any], outputs: Sequence[list[Any]]) -> Iterator[str]:
    start, end = section.cells
    minutes = section.minutes + sum(e.minutes for e in section.exercises)
    spare = " May be skipped." if section.optional else ""
    told = "\n\n".join(_paragraphs(cells[start:end]))  # what the slide has no room for
    notes = "\n\n".join(
        [f"About {minutes:.0f} minutes.{spare}", *section.notes, *([f"**The text:** {told}"] if told else [])]
    )
    body = "".join(f"<p>{rich(sentence)}</p>" for sentence in key_sentences(cells[start:end]))
    heading = rich(section.heading)
    if section.heading != OPENING or body:
        name = "The question" if section.heading == OPENING else heading
        yield _slide(f"<h2>{name}</h2>{body}", notes)
    shown = 0
    for i in range(start, end):
        for output in outputs[i]:
            picture = output.get("data", {}).get("image/png")
            if picture and shown < FIGURES:
                shown += 1
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                image = f'<img src="data:image/png;base64,{picture.strip()}" alt="{html.escape(alt)}">'
                yield _slide(f"<h2>{heading}</h2>{image}", f"What there is to see: {alt}")
        marks = tags(cells[i])
        if "exercise" in marks:
            yield _exercise(cells, i)
        if "quiz" in marks:
            yield _quiz(cells[i]["source"])


def key_sentences(cells: Sequence[Any]) -> list[str]:
    """How a section's paragraphs begin, as many as fit a slide: with their first sentence, a short one with the next."""
    found: list[str] = []
    for block in _paragraphs(cells):
        first, *more = [one.strip() for one in _SENTENCE.findall(block)] or [""]
        sentence = f"{first} {more[0]}" if more and len(first) < SHORT else first
        if sentence and len(found) < SENTENCES and sum(map(len, found)) + len(sentence) <= LETTERS:
            found.append(sentence)
    return found


def _paragraphs(cells: Sequence[Any]) -> list[str]:
    """The prose of cells, a line for each paragraph; of exercises, notes, solutions, lists and tables none."""
    prose = [c for c in cells if c["cell_type"] == "markdown" and not {"instructor", "solution", "quiz"} & set(tags(c))]
    texts = [re.split(r"^### Exercise", cell["source"], flags=re.M)[0] for cell in prose]
    blocks = [block for text in texts for block in re.split(r"\n\s*\n", text)]
    plain = ["\n".join(line for line in block.splitlines() if not line.startswith("#")).strip() for block in blocks]
    return [" ".join(block.split()) for block in plain if block and not re.match(r"[-|>$<!`]|\d+\.\s", block)]


def _exercise(cells: Sequence[Any], i: int) -> str:
    number = exercise_ids(cells[i])[0]
    told = next((c["source"] for c in reversed(cells[:i]) if f"### Exercise {number}" in c["source"]), "")
    words = told.split(f"### Exercise {number}", 1)[-1].strip()
    body = f"<h2>Exercise {number}</h2><div class='text'>{_blocks(words)}</div><pre tabindex='0'><code>{html.escape(cells[i]['source'])}</code></pre>"
    return _slide(body, f"Exercise {number}: give the room five minutes; each check that fails gives a hint.")


def _quiz(source: str) -> str:
    options = quiz_options(source)
    right = [(chr(65 + k), feedback) for k, (good, _, feedback) in enumerate(options) if good]
    listed = "".join(f"<li>{rich(text)}</li>" for _, text, _ in options)
    answer = " ".join(f"<strong>{letter}.</strong> {rich(feedback)}" for letter, feedback in right)
    told = "; ".join(f"{chr(65 + k)}: {feedback}" for k, (_, _, feedback) in enumerate(options))
    body = f"<h2>Quiz</h2><div class='question'>{_blocks(asked(source))}</div><ol class='options'>{listed}</ol><p class='fragment answer'>{answer}</p>"
    return _slide(body, f"Let all vote before the next click. {told}")


def _points(points: Sequence[str], own: Outline) -> list[str]:
    lists = ["".join(f"<li>{rich(p)}</li>" for p in points[k : k + POINTS]) for k in range(0, len(points), POINTS)]
    return [_slide(f"<h2>Key points</h2><ul>{one}</ul>", f"End of {own.title}") for one in lists]


def _slide(body: str, notes: str) -> str:
    return f'<section>{body}<aside class="notes">{_blocks(notes)}</aside></section>'


def rich(text: str) -> str:
    """One line of Markdown as HTML: links lose their address, mathematics becomes MathML."""
    return with_formulas(re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text), to_html)


def _blocks(text: str) -> str:
    from markdown_it import MarkdownIt

    return with_formulas(text, lambda part: MarkdownIt("commonmark", {"html": False}).enable("table").render(part))


def write(root: Path, lessons: Sequence[Lesson], folder: Path | None = None) -> list[Path]:
    """Write the decks and an index into site/_build/slides, with reveal.js beside them; returns the decks."""
    target = folder or root / FOLDER
    decks = {lesson: deck(lesson, last_page(lesson)) for lesson in lessons}
    shutil.copytree(root / REVEAL, target / "reveal", dirs_exist_ok=True)
    made = []
    for lesson, text in decks.items():
        write_text(target / f"{lesson.name}.html", text)
        made.append(target / f"{lesson.name}.html")
    known = sorted(path.stem for path in target.glob("[0-9][0-9]_*.html"))
    links = "".join(f'<li><a href="{name}.html">{name.replace("_", " ")}</a></li>' for name in known)
    write_text(
        target / "index.html",
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Slides</title><h1>Slides</h1><ul>{links}</ul>'
        "<p>S opens the speaker's view, ? the keys.</p></html>",
    )
    return made
