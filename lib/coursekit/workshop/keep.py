"""Fill ``runs/checkpoints``: a lesson's solution is run once, and at every section and exercise its names are stored.

``make checkpoints`` calls it. See :mod:`coursekit.workshop.checkpoint` for what a participant does with them.
"""

from __future__ import annotations

import datetime
import json
import tempfile
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson
from coursekit.files import alone, write_json
from coursekit.lesson.notebook import to_json
from coursekit.run.execute import prepare, run
from coursekit.run.runkey import digest, library_hash, stored_results
from coursekit.workshop import checkpoint, pieces

LACKS = "not kept"
_CELL = (
    "__import__('importlib').import_module('coursekit.workshop.keep').point({lesson!r}, {folder!r}, {trail!r}, {index})"
)


def make(lesson: Lesson, words: list[str] | None = None, threads: int | None = None) -> str:
    """Run the solution of a lesson and store its checkpoints; returns a line about them, and one per result that they lack.

    ``words``: parameters as "name=value". Raises CourseError where the lesson fails (what was stored before then stays), and
    where another process makes checkpoints: its pieces, which no file names yet, would be swept away.
    """
    folder = lesson.root / checkpoint.FOLDER
    busy = "Checkpoints are being made by another process; wait for it, or stop it."
    with alone(folder / "lock", busy):
        return _make(lesson, folder, words, threads)


def _make(lesson: Lesson, folder: Path, words: list[str] | None, threads: int | None) -> str:
    import nbformat

    notebook = prepare(lesson)
    text = digest(checkpoint.code_above(notebook))
    places = checkpoint.places(notebook)
    if not places:
        return f"{lesson.name}: nothing is computed before its first section; no checkpoints."
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as scratch:
        trail = Path(scratch) / "points.jsonl"
        for index in reversed(range(len(places))):
            source = _CELL.format(lesson=lesson.name, folder=str(folder), trail=str(trail), index=index)
            notebook["cells"].insert(places[index].cell, nbformat.v4.new_code_cell(source, id=f"keep-{index}"))
        file = Path(scratch) / f"{lesson.name}.ipynb"
        file.write_text(to_json(notebook), encoding="utf-8")
        done = run(lesson, words=words, file=file, folder=Path(scratch) / "run", threads=threads, bar=True)
        if not done.passed:
            raise CourseError(f"{lesson.name} failed, so it has no new checkpoints: {done.card['error']}")
        entries = [json.loads(line) for line in trail.read_text(encoding="utf-8").splitlines()]
        parameters = done.card["parameters"]
    content = {
        "lesson": text,
        "library": library_hash(),
        # as they are now: a lesson in a bigger profile may have stored its own before it read them
        "results": stored_results(lesson, str(parameters.get("model") or "")),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parameters": parameters,
        "points": entries,
    }
    write_json(folder / f"{lesson.name}.json", content)
    sweep(folder)
    size = sum(pieces.place(folder, name).stat().st_size for name in names_of(content))
    return "\n".join([f"{lesson.name}: {len(entries)} checkpoints, {size / 2**20:.0f} MB", *_lacking(lesson, entries)])


def _lacking(lesson: Lesson, entries: list[dict[str, Any]]) -> list[str]:
    """A line for each name that could not be kept at a point and that the cells below it read."""
    notebook = prepare(lesson)
    found = []
    for entry in entries:
        below = checkpoint.read_first(
            c["source"] for c in notebook["cells"][entry["cell"] :] if c["cell_type"] == "code"
        )
        for name in sorted(below & entry["left_out"].keys()):
            point = checkpoint.Point.of(entry).words
            found.append(f"  {LACKS} at {point}: {name} ({entry['left_out'][name]}). What follows there reads it.")
    return found


def point(name: str, folder: str, trail: str, index: int) -> None:
    """Called in the lesson's kernel: store what it holds as checkpoint ``index``, and add a line about it to ``trail``."""
    from IPython import get_ipython

    from coursekit.course import choose, find_root

    lesson = choose(find_root(), [name])[0]
    notebook = prepare(lesson)
    place = checkpoint.places(notebook)[index]
    cells = checkpoint.code_above(notebook, place.cell)
    values = checkpoint.values_of(get_ipython().user_ns, cells)
    stream, buffers, left_out = pieces.freeze(values, Path(folder), chance=checkpoint.chance())
    entry: dict[str, Any] = {
        "exercise": place.exercise,
        "section": place.section,
        "cell": place.cell,
        "pickle": stream,
        "buffers": buffers,
        "names": sorted(set(values) - set(left_out)),
        "left_out": left_out,
    }
    with open(trail, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(entry, ensure_ascii=False) + "\n")


def names_of(content: dict[str, Any]) -> set[str]:
    """The pieces that a lesson's checkpoints consist of."""
    return {name for entry in content["points"] for name in (entry["pickle"], *entry["buffers"])}


def sweep(folder: Path) -> None:
    """Delete the pieces that no lesson's checkpoints name any more."""
    wanted: set[str] = set()
    for path in folder.glob("*.json"):
        wanted |= names_of(json.loads(path.read_text(encoding="utf-8")))
    for path in (folder / "objects").glob("*/*"):
        if path.name not in wanted:
            path.unlink()


def fresh(root: Path, lessons: list[Lesson]) -> tuple[dict[str, Path], list[str]]:
    """path below the course → file, of all checkpoints that can be used, and the numbers of the lessons that have none."""
    folder = root / checkpoint.FOLDER
    found: dict[str, Path] = {}
    without = []
    for lesson in lessons:
        try:
            content = checkpoint.manifest(lesson)
        except CourseError:
            without.append(lesson.number)
            continue
        files = [folder / f"{lesson.name}.json", *(pieces.place(folder, name) for name in sorted(names_of(content)))]
        found |= {file.relative_to(root).as_posix(): file for file in files}
    return found, without
