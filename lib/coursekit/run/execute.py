"""Run one lesson: papermill, an HTML page, and a card that says what was run and what came out."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.check import MIME as CHECK_MIME
from coursekit.course import CourseError, Lesson
from coursekit.files import file_hash, write_text
from coursekit.lesson import recording
from coursekit.lesson.notebook import edition as make_edition
from coursekit.lesson.notebook import from_json, read_source, tags
from coursekit.lesson.params import Parameter, accept, files_from, from_words, parameters_of
from coursekit.lesson.scores import FILE as SCORES
from coursekit.lesson.scores import PLACE
from coursekit.run import card as cards

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass
class Run:
    """A finished run: its ``folder`` (notebook.ipynb, notebook.html, card.json, traceback.txt where it failed) and ``card``."""

    folder: Path
    card: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every cell ran."""
        return bool(self.card["status"] == "passed")


def prepare(lesson: Lesson, edition: str = "solution", file: Path | None = None) -> Any:
    """The notebook to run: an edition made fresh from the source, or the ``file`` that a learner has changed."""
    return from_json(file) if file else make_edition(read_source(lesson), edition, lesson.name)


def run(
    lesson: Lesson,
    parameters: dict[str, Any] | None = None,
    words: list[str] | None = None,
    edition: str = "solution",
    file: Path | None = None,
    folder: Path | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    bar: bool = False,
) -> Run:
    """Run a lesson and keep everything that it leaves behind, also when it fails.

    ``parameters`` by name and ``words`` as "name=value" override the parameters cell; ``folder`` takes the runs instead of
    ``runs/<lesson>``; ``threads`` limits BLAS, OpenMP and numba, whatever is exported; ``progress(done, total)`` is called after each cell.
    Raises CourseError for a parameter that the lesson does not have, KeyboardInterrupt when it was stopped (then the
    notebook so far is kept, and no card is written). A lesson that fails is returned with the status "failed".
    """
    notebook = prepare(lesson, edition, file)
    known = parameters_of(notebook)
    given = files_from(accept(known, {**from_words(known, words or []), **(parameters or {})}), Path.cwd())
    values = {name: parameter.default for name, parameter in known.items()} | given
    _say_whose(notebook, known, values)
    folder = _new_folder(folder or lesson.runs, str(values.get("profile", "run")))
    started = datetime.datetime.now(datetime.UTC)
    clock = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coursekit-") as scratch:
        trail, scores = Path(scratch) / "provenance.jsonl", Path(scratch) / SCORES
        env = _environment(lesson.root, trail, threads, scores)
        watch, failure = _execute(lesson, notebook, given, folder, env, progress, bar)
        used = cards.provenance(trail)
        if scores.is_file():  # only now: whatever happens to the folder meanwhile, what the card names is there
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(scores, folder / SCORES)
    about = {
        "lesson": lesson.name,
        "edition": file.name if file else edition,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        "parameters": values,
        "seed": values.get("seed"),
        "threads": threads,
        "used": used,
    }
    return _kept(lesson, folder, watch, about, failure)


def _say_whose(notebook: Any, known: dict[str, Parameter], values: dict[str, Any]) -> None:
    """Put a note below the title where cells or model are not the lesson's own: its prose was written for those."""
    import nbformat

    changed = {name: value for name, value in values.items() if value != known[name].default}
    other = f"with the model {Path(str(changed['model'])).name}" if "model" in changed else ""
    if said := " ".join(filter(None, (cards.whose(changed), other))):
        note = f"> **A run {said}.** What the cells print, draw and record is of these, except where they say that a table is stored. "
        note += "The text around them was written about the course's own sets and models."
        notebook["cells"].insert(1, nbformat.v4.new_markdown_cell(source=note, id="course-whose"))


def _kept(lesson: Lesson, folder: Path, watch: Any, about: dict[str, Any], failure: str) -> Run:
    """Write all files of a run, the card last: where it is, everything is."""
    from coursekit.run.engine import write_notebook
    from coursekit.run.page import write_page

    executed = watch.notebook
    try:
        results = recording.collect(executed)
    except ValueError as error:
        results, failure = {}, failure or str(error)
    card = {
        "card": cards.VERSION,
        **about,
        "status": "failed" if failure else "passed",
        "peak_memory_bytes": watch.peak_memory,
        "scores": file_hash(folder / SCORES),
        "results": results,
        "exercises": recording.outputs_of(executed, CHECK_MIME),
        "cells": _cell_times(executed),
        **cards.surroundings(lesson.root),
    }
    write_notebook(folder / "notebook.ipynb", executed)
    write_page(folder / "notebook.html", executed, lesson.name)
    if failure:
        card["error"] = failure.strip().splitlines()[-1]
        write_text(folder / "traceback.txt", failure.rstrip() + "\n")
    cards.write(folder / "card.json", card)
    return Run(folder, card)


def _execute(
    lesson: Lesson, notebook: Any, given: dict[str, Any], folder: Path, env: dict[str, str], progress: Any, bar: bool
) -> tuple[Any, str]:
    """Execute through papermill; returns the watch (with the notebook as far as it came) and the failure as text."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from coursekit.run.engine import NAME, Watch, write_notebook

    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a kernel "python3" in the home folder may be another Python
    # Parameters have been checked, and better: papermill cannot read an annotated one and would warn about it
    logging.getLogger("papermill").setLevel(logging.ERROR)
    watch = Watch(folder / "notebook.ipynb", progress)
    cwd = lesson.root / "notebooks"
    try:
        papermill.execute_notebook(
            notebook,
            None,
            parameters=given,
            engine_name=NAME,
            kernel_name="python3",
            progress_bar={"desc": lesson.name, "file": sys.stderr, "unit": " step"} if bar else False,
            cwd=str(cwd) if cwd.is_dir() else None,
            start_timeout=120,
            watch=watch,
            env=env,
        )
    except PapermillExecutionError as error:
        return watch, _plain("\n".join(error.traceback)) or f"{error.ename}: {error.evalue}"
    except KeyboardInterrupt:
        if watch.notebook is not None:
            write_notebook(folder / "notebook.ipynb", watch.notebook)
        raise
    except Exception as error:
        if watch.notebook is None:
            raise
        return watch, f"The kernel ended before the lesson did (out of memory?).\n{type(error).__name__}: {error}"
    return watch, ""


def _environment(root: Path, trail: Path, threads: int | None, scores: Path) -> dict[str, str]:
    env = dict(os.environ, COURSEKIT_ROOT=str(root), COURSEKIT_RUN="1", SCFM_PROVENANCE=str(trail))
    env[PLACE] = str(scores)
    env.setdefault("NUMBA_CACHE_DIR", str(root / ".cache" / "numba"))
    # A kernel's text goes into notebooks and pages: no colour codes, no widgets that a page cannot show
    env.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    if "OMP_NUM_THREADS" in env:  # numba's threads would undo it: they share torch's OpenMP, and set its number
        env.setdefault("NUMBA_NUM_THREADS", env["OMP_NUM_THREADS"])
    if threads:
        env.update(dict.fromkeys(THREADS, str(threads)))  # goes before what is exported: the card will say so
    return env


def _new_folder(runs: Path, profile: str) -> Path:
    """A fresh folder such as 20261120-201500-quick; the number behind it keeps two runs of one second apart."""
    stem = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{profile}"
    for k in range(1, 1000):
        folder = runs / (stem if k == 1 else f"{stem}-{k}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise CourseError(f"No free name for a run in {runs}; delete the runs of lessons: make clean")


def _cell_times(notebook: Any) -> list[dict[str, Any]]:
    """Seconds of each code cell that was run, with its first line so that a person finds it."""
    found = []
    for index, cell in enumerate(notebook["cells"]):
        times = cell["metadata"].get("papermill", {})
        if cell["cell_type"] == "code" and times.get("duration") is not None:
            first = cell["source"].strip().split("\n")[0][:80]
            one = {"cell": index, "seconds": round(times["duration"], 3), "tags": tags(cell)}
            found.append(one | {"status": times["status"], "begins": first})
    return found


def _plain(text: str) -> str:
    """Text without the terminal's colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def progress_line(done: int, total: int) -> None:
    """Tell a parent process how far a lesson is (see coursekit.run.courserun)."""
    print(f"@progress {json.dumps([done, total])}", flush=True)
