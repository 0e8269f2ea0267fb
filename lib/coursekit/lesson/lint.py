"""The form of a lesson: what must be there, and what must not be seen in the learner's notebook."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import tokenize
from collections.abc import Sequence
from typing import Any

from coursekit.course import CourseError, Lesson
from coursekit.lesson.facts import of_title
from coursekit.lesson.notebook import TAGS, parse, tags, unparse
from coursekit.lesson.params import parameters_of
from coursekit.lesson.quiz import fold_quiz, quiz_options, unfold_quiz

_CALL = re.compile(r"""\bcheck\.exercise\(\s*["']([^"']+)["']""")
WIDTH = 120  # of a line of code
OF_COURSEKIT = ("check", "record", "resume")  # what lessons import from here
_NOTES = {  # what the notes for instructors must have → the bold words that begin it, an example
    "Ask": (r"ask|discuss(?:ion)?|questions?|vote", "**Ask before running:**"),
    "Misconception": (r"misconceptions?|watch for", "**Misconception:**"),
    "Time check or Skip": (r"skip|time check|timing|spend the time", "**Skip** or **Time check:**"),
}
_DOI = re.compile(r"https://doi\.org/10\.\d{4,}/\S+")


def exercise_ids(cell: Any) -> list[str]:
    """The exercise numbers that a code cell hands to ``check.exercise``."""
    return _CALL.findall(cell["source"])


def lint(lesson: Lesson) -> list[str]:
    """Everything wrong with the source of a lesson, one sentence each; an empty list means that it is in form."""
    text = lesson.source.read_text(encoding="utf-8")
    full = parse(text)
    problems = _canonical(text, unparse(full))
    unknown = sorted({tag for cell in full["cells"] for tag in tags(cell)} - set(TAGS))
    if unknown:
        problems.append(f"unknown tag {', '.join(unknown)}; the tags are {', '.join(TAGS)}.")
    problems += _parts(lesson, full)
    problems += _exercises(lesson, full)
    problems += [line for cell in full["cells"] if cell["cell_type"] == "code" for line in _reads_well(cell["source"])]
    problems += note_problems([cell["source"] for cell in full["cells"] if "instructor" in tags(cell)])
    problems += [f"line of the solution of {number} readable outside it: {line}" for number, line in leaks(full, full)]
    return problems


def _canonical(text: str, written: str) -> list[str]:
    if text == written:
        return []
    old, new = text.splitlines(), written.splitlines()
    at = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new)))
    here = old[at] if at < len(old) else "(end)"
    there = new[at] if at < len(new) else "(end)"
    words = f"source -> notebook -> source changes line {at + 1}: {here!r} becomes {there!r}."
    return [f"{words} Write it in the second form."]


def _parts(lesson: Lesson, full: Any) -> list[str]:
    """Title, objectives, time, parameters, quiz, key points, further reading."""
    cells = full["cells"]
    first = cells[0] if cells else {"cell_type": "", "source": ""}
    facts = of_title(first["source"] if first["cell_type"] == "markdown" else "")
    title, quizzes = facts["title"] or "", [cell["source"] for cell in cells if "quiz" in tags(cell)]
    shown = [cell["source"] for cell in cells if cell["cell_type"] == "markdown" and "solution" not in tags(cell)]
    prose = "\n\n".join(shown)
    reading = re.search(r"^## Further reading\s*\n(.*)", prose, re.M | re.S)
    wanted = {
        f"the first cell must be markdown with the title `# {lesson.number} · A question?`.": (
            title.startswith(f"{lesson.number} · ") and title.endswith("?")
        ),
        "no objectives: the first cell needs a table `| You will be able to | Time | Needs |`.": (
            facts["objectives"] and facts["needs"] is not None
        ),
        'no time estimate: the column Time of the first table must say how long, as in "35 min".': facts["minutes"],
        "no quiz cell.": quizzes,
        "no key points: a heading `## Key points` with `- ` lines right below it.": (
            re.search(r"^## Key points\s*\n(?:\s*\n)?- ", prose, re.M)
        ),
        "no further reading: a heading `## Further reading` with a https://doi.org/10. link.": (
            reading and _DOI.search(reading[1])
        ),
    }
    problems = [words for words, there in wanted.items() if not there]
    return problems + _parameters(full) + [line for source in quizzes for line in _quiz(source)]


def _parameters(full: Any) -> list[str]:
    try:
        known = parameters_of(full)
    except CourseError as error:
        return [str(error)]
    found = [f"the parameters cell does not set `{name}`." for name in ("profile", "seed") if name not in known]
    if "profile" in known and known["profile"].default != "quick":
        found.append('the parameters cell must say `profile = "quick"`: a plain run needs no network.')
    return found


def _quiz(source: str) -> list[str]:
    options, found = quiz_options(source), []
    if len(options) < 2 or not any(right for right, _, _ in options):
        found.append("a quiz needs two lines or more `- [ ] option -> feedback`, at least one of them `- [x]`.")
    if unfold_quiz(fold_quiz(source)) != source:
        found.append("a quiz option cannot be folded and unfolded: use only `code`, *em* and **strong** in it.")
    return found


def _exercises(lesson: Lesson, full: Any) -> list[str]:
    """Each exercise: one check, numbers in order, a solution right behind it, a checker in the checks file."""
    problems = []
    code = [cell for cell in full["cells"] if cell["cell_type"] == "code" and "instructor" not in tags(cell)]
    numbers: list[str] = []
    twins = 0
    for i, cell in enumerate(code):
        if "exercise" in tags(cell):
            ids = exercise_ids(cell)
            if len(ids) != 1:
                problems.append(f"an exercise cell calls check.exercise {len(ids)} times, not once: {_head(cell)}")
                continue
            numbers += ids
            twin = code[i + 1] if i + 1 < len(code) else None
            if twin is None or "solution" not in tags(twin) or exercise_ids(twin) != ids:
                problems.append(f"exercise {ids[0]} has no solution cell right behind it that checks the same number.")
            else:
                twins += 1
        elif exercise_ids(cell) and "solution" not in tags(cell):
            problems.append(f"check.exercise is called outside an exercise cell: {_head(cell)}")
    lonely = sum("solution" in tags(cell) and bool(exercise_ids(cell)) for cell in code) - twins
    if lonely > 0:
        problems.append(f"{lonely} solution cell(s) without an exercise cell right before.")
    if not numbers:
        problems.append("no exercises: a code cell with the tag exercise that ends with check.exercise(...).")
    wanted = [f"{lesson.number}.{k + 1}" for k in range(len(numbers))]
    if numbers != wanted:
        problems.append(f"the exercises are numbered {', '.join(numbers)}; expected {', '.join(wanted)}.")
    present = checkers_in(lesson)
    for number in numbers:
        if number not in present:
            problems.append(
                f'{lesson.checks.name}: exercise {number} has no checker: @checker("{number}", hints=[...]).'
            )
    for number in present:
        if number not in numbers:
            problems.append(f"{lesson.checks.name} checks {number}, which is no exercise of this lesson.")
    return problems


def _reads_well(source: str) -> list[str]:
    """Lines that no page shows whole, and names that are not made for lessons."""
    wide = [line for line in source.split("\n") if len(line) > WIDTH]
    found = [f"a line of code has {len(line)} characters, and {WIDTH} fit a page: {line.strip()[:60]}" for line in wide]
    names = f"import what scfm, its rooms and studies offer, and from coursekit {', '.join(OF_COURSEKIT)}"
    with contextlib.suppress(SyntaxError):  # said by others
        found += [f"{name} is not made for lessons; {names}." for name in hidden_names(ast.parse(source))]
    return found


def hidden_names(tree: ast.Module) -> list[str]:
    """Underscore names, what coursekit has for itself, and the insides of scfm."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            inside = ast.unparse(node).startswith(("scfm.store.", "scfm.inside."))
            found += [ast.unparse(node)] if inside or re.match(r"_(?!.*__$)", node.attr) else []
        elif isinstance(node, ast.ImportFrom):
            module, names = str(node.module), {alias.name for alias in node.names}
            inside = module.startswith(("coursekit.", "scfm.store", "scfm.inside")) and module != "scfm.store.results"
            found += [ast.unparse(node)] if inside or (module == "coursekit" and names - {*OF_COURSEKIT}) else []
    return found


def note_problems(notes: Sequence[str]) -> list[str]:
    """What the notes for instructors of one lesson lack, one sentence each."""
    if not notes:
        return ["no notes for instructors: markdown cells with the tag instructor."]
    return [
        f"the notes for instructors have no {kind}; write one that begins with {example}"
        for kind, (words, example) in _NOTES.items()
        if not re.search(rf"\*\*[^*]*\b(?:{words})\b[^*]*\*\*", "\n".join(notes), re.I)
    ]


def checkers_in(lesson: Lesson) -> list[str]:
    """The exercise numbers in the lesson's checks file, read without running it."""
    if not lesson.checks.is_file():
        return []
    tree = ast.parse(lesson.checks.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    marks = [mark for node in functions for mark in node.decorator_list if isinstance(mark, ast.Call) and mark.args]
    of_checker = [mark for mark in marks if ast.unparse(mark.func) in ("checker", "check.checker")]
    return [str(mark.args[0].value) for mark in of_checker if isinstance(mark.args[0], ast.Constant)]


def leaks(full: Any, seen: Any) -> list[tuple[str, str]]:
    """Lines of solutions that a learner can read: (exercise number, line).

    ``full`` is the parsed source, ``seen`` the notebook that learners get (or ``full`` again: solution and instructor
    cells are skipped). A line is no leak where it is an ordinary line of code of the lesson (`import`, a `def` that the
    stub shows too), except where that way the whole solution stands in ordinary cells.
    """
    kept = [cell for cell in full["cells"] if not {"solution", "instructor"} & set(tags(cell))]
    ordinary = {line for cell in kept if cell["cell_type"] == "code" for line in code_lines(cell["source"])}
    readable = [_squeeze(cell["source"]) for cell in seen["cells"] if not {"solution", "instructor"} & set(tags(cell))]
    found = []
    stub: set[str] = set()
    for cell in full["cells"]:
        if cell["cell_type"] != "code":
            continue
        if "exercise" in tags(cell):
            stub = set(code_lines(cell["source"]))
        if "solution" not in tags(cell):
            continue
        number = (exercise_ids(cell) or ["?"])[0]
        own = [line for line in code_lines(cell["source"]) if not _CALL.search(line)]
        new = [line for line in own if line not in ordinary]
        if own and not new:
            found.append((number, "the whole solution stands in the stub or in ordinary cells"))
        for line in new:
            if line not in stub and len(_squeeze(line)) >= 8 and any(_squeeze(line) in text for text in readable):
                found.append((number, line))
    return found


def code_lines(source: str) -> list[str]:
    """The lines of code without comments, indents and blank lines; in source that does not parse, the bare lines."""
    lines = source.split("\n")
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    except (tokenize.TokenError, SyntaxError):
        lines = [line.split("  #")[0] for line in lines]
    bare = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    # a formatter puts a stub's body behind its `def`: it is the same line of code for that
    return [line.removesuffix(" ...") if line.endswith(": ...") else line for line in bare]


def _squeeze(text: str) -> str:
    """Text without white space and with one kind of quotes, so that a re-wrapped quotation is still found."""
    return re.sub(r"\s+", "", text).replace("'", '"')


def _head(cell: Any) -> str:
    return repr(cell["source"].strip().split("\n")[0][:60])
