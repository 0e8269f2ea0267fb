"""A lesson as a page of the book: an executed notebook with stubs, stepped hints, folded solutions and quizzes to click.

Everything works without a kernel and without scripts: quizzes and hints are HTML's own fold-outs, which a keyboard opens
and a screen reader announces; ``site/_static/course.js`` only adds comfort.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from coursekit.check import Checker, load
from coursekit.course import Lesson
from coursekit.lesson.lint import exercise_ids
from coursekit.lesson.notebook import from_json, read_source, tags
from coursekit.lesson.quiz import asked, quiz_options, to_html
from coursekit.lesson.recording import MIME as RECORD_MIME
from coursekit.run.last import own_cells

_WIDGET = "application/vnd.jupyter.widget-view+json"
_BARE = re.compile(r"(?<![<(\"'\[`=])\bhttps?://[^\s<>()\[\]`]*[^\s<>()\[\]`.,;:]")  # an address that is no link yet
FOLDED = {  # tag of a cell → what of it is folded, and the words on the fold
    "solution": ("hide-cell", {"code_prompt_show": "Show a solution", "code_prompt_hide": "Hide the solution"}),
    "figure": ("hide-input", {"code_prompt_show": "Show code", "code_prompt_hide": "Hide code"}),
}


def page(lesson: Lesson, run: Path, bar: str = "") -> Any:
    """The notebook that the book shows for ``lesson``, from the folder of a ``run``; ``bar`` is HTML below the title."""
    import nbformat

    full = read_source(lesson)
    executed = iter(own_cells(from_json(run / "notebook.ipynb")))
    checkers = load(lesson.checks) if lesson.checks.is_file() else {}
    cells: list[Any] = []
    for source_cell in full["cells"]:
        marks = tags(source_cell)
        if "instructor" in marks:
            continue
        if "exercise" in marks:
            cells.append(_stub(source_cell))
            cells += [_markdown(hints_html(number, checkers[number])) for number in exercise_ids(source_cell)]
            continue
        cell = copy.deepcopy(next(executed))
        cell["metadata"] = {"tags": marks}
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if not _left_out(output)]
            for fold, words in [FOLDED[mark] for mark in FOLDED if mark in marks][:1]:
                cell["metadata"] = {"tags": [*marks, fold], "mystnb": dict(words)}
        elif "quiz" in marks:
            cell = _markdown(quiz_html(source_cell["source"], f"quiz-{lesson.number}-{len(cells)}"))
        elif "solution" in marks:
            cell = _markdown(f"<details><summary>Show the answer</summary>\n\n{cell['source']}\n\n</details>")
        cells.append(cell)
        if cell["cell_type"] == "markdown":
            cells[-1]["source"] = _BARE.sub(r"<\g<0>>", cells[-1]["source"])
        if bar and len(cells) == 1:
            cells.append(_markdown(bar))
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=from_json(run / "notebook.ipynb")["metadata"])
    notebook["metadata"] = {key: notebook["metadata"][key] for key in ("kernelspec", "language_info")}
    return notebook


def hints_html(number: str, checker: Checker) -> str:
    """The hints of an exercise as fold-outs, each inside the one before it, so that they open one step at a time."""
    text = ""
    total = len(checker.hints)
    for step in range(total, 0, -1):
        name = f"Hint {step} of {total}" if step > 1 else f"A hint for {number} ({total} in all)"
        words = to_html(str(checker.hints[step - 1]))
        text = f'<details class="hint"><summary>{name}</summary><p>{words}</p>{text}</details>'
    return f'<div class="hints">{text}</div>'


def quiz_html(source: str, name: str) -> str:
    """A quiz cell as Markdown and HTML: the question, then a fold-out per option that says whether it is right and why."""
    options = []
    for right, text, feedback in quiz_options(source):
        kind, verdict = ("right", "✓ Right.") if right else ("wrong", "✗ Not this one.")
        options.append(
            f'<li><details class="option {kind}"><summary>{to_html(text)}</summary>'
            f"<p><strong>{verdict}</strong> {to_html(feedback)}</p></details></li>"
        )
    return (
        f'<div class="quiz" id="{name}">\n\n{asked(source)}\n\n'
        f'<ul class="options">{"".join(options)}</ul><p class="tally" aria-live="polite"></p>\n\n</div>'
    )


def alternatives(notebook: Any) -> list[tuple[str, str]]:
    """(PNG in base64, alt text) of every figure; the alt text is empty where there is none."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                found.append((output["data"]["image/png"], alt))
    return found


def _stub(cell: Any) -> Any:
    import nbformat

    return nbformat.v4.new_code_cell(source=cell["source"], metadata={"tags": ["exercise"]})


def _markdown(source: str) -> Any:
    import nbformat

    return nbformat.v4.new_markdown_cell(source=source)


def _left_out(output: Any) -> bool:
    """Whether the book does not show an output: widgets, progress bars of stderr, and what was recorded."""
    stderr = output["output_type"] == "stream" and output.get("name") == "stderr"
    return stderr or bool({_WIDGET, RECORD_MIME} & set(output.get("data", {})))
