"""A grid of runs: lessons × datasets × models × seeds, through Snakemake, on a laptop or a cluster. ``make grid`` calls it.

A run's place is named by the hash of all that it depends on (coursekit.runkey), so "is it current?" is "is it there?". A run is
made in a scratch folder and moved to its place when it is complete; whatever was killed half way is simply not there.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import card as cards
from . import runkey
from .course import CourseError, Lesson, atomic_write, choose
from .notebook import read_source
from .params import accept, files_from, from_words, parameters_of

FAILED = "failed.json"  # a failed run's card; only a run that passed has a card.json
AXES = {"datasets": "dataset", "models": "model", "seeds": "seed"}
FIELDS = {"lessons", *AXES, "profile", "parameters", "axes", "exclude", "threads", "resources"}
OPTIONAL = ("label", "batch")  # a lesson that has no use for them may lack these


@dataclass(frozen=True)
class GridRun:
    """One run of a grid: the ``lesson``, all its ``parameters``, and the ``key`` made of the hashes in ``parts``."""

    key: str
    lesson: str
    parameters: dict[str, Any]
    parts: dict[str, str] = field(default_factory=dict)

    def folder(self, store: Path) -> Path:
        """Where it lies when it is complete."""
        return store / self.lesson / self.key


@dataclass(frozen=True)
class Plan:
    """All runs of a grid, and where they go."""

    name: str
    root: Path
    runs: tuple[GridRun, ...]
    threads: int = 1
    resources: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The grid's own folder: plan, results, Snakemake's log."""
        return self.root / "runs" / "grid" / self.name

    @property
    def store(self) -> Path:
        """The runs of all grids, by lesson and key: two grids share what they have in common."""
        return self.root / "runs" / "grid" / "store"

    def missing(self) -> list[GridRun]:
        """The runs that are not there yet."""
        return [run for run in self.runs if not (run.folder(self.store) / "card.json").is_file()]

    def titles(self) -> dict[str, str]:
        """key → a few words that tell a run from the others: the parameters in which they differ."""
        seen: dict[str, set[str]] = {}
        for run in self.runs:
            for name, value in run.parameters.items():
                seen.setdefault(name, set()).add(str(value))
        vary = [name for name, values in seen.items() if len(values) > 1] or ["seed"]
        shown = {"dataset": "{}", "model": "{}"}
        return {
            run.key: ", ".join(
                shown.get(name, name + " {}").format(Path(str(run.parameters[name])).name)
                for name in vary
                if run.parameters.get(name) is not None
            )
            for run in self.runs
        }

    def write(self) -> Path:
        """Write plan.json, which every job reads: nobody computes a key twice while files may change."""
        path = self.folder / "plan.json"
        content = {
            "kind": "grid",
            "name": self.name,
            "root": str(self.root),
            "store": str(self.store),
            "python": sys.executable,
            "threads": self.threads,
            "resources": self.resources,
            "runs": [asdict(run) for run in self.runs],
        }
        with atomic_write(path) as handle:
            json.dump(content, handle, indent=1, ensure_ascii=False)
        return path

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan.json."""
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = tuple(GridRun(**run) for run in content["runs"])
        return cls(content["name"], Path(content["root"]), runs, content["threads"], content["resources"])


def plan(root: Path, file: Path, words: Sequence[str] = (), threads: int | None = None) -> Plan:
    """Read a grid (YAML) and work out its runs; ``words`` ("name=value") set a parameter for all of them.

    The file's fields: lessons, datasets, models, seeds (lists); profile; parameters (name: value, for all runs); axes
    (name: list of values, further dimensions); exclude (list of name: value, runs that match all of one are left out);
    threads; resources (mem_mb, runtime in minutes, gpu). A dataset may be ``{dataset: mine.h5ad, label: …, batch: …}``; its
    path is seen from the file's folder, one in ``words`` from the current folder.

    Raises CourseError for a file that is no grid, and for parameters that a lesson does not have.
    """
    spec = _read(file)
    chosen = choose(root, [str(lesson) for lesson in spec["lessons"]])
    runs: dict[str, GridRun] = {}
    notes: list[str] = []
    for lesson, point in itertools.product(chosen, list(_points(spec))):
        values, more = _values(lesson, point, words, file.parent)
        notes += [note for note in more if note not in notes]
        if any(_matches(lesson, values, rule) for rule in spec.get("exclude", [])):
            continue
        key, parts = runkey.key_of(lesson, values)
        runs.setdefault(key, GridRun(key, lesson.name, values, parts))  # a lesson without seeds gives one run, not many
    if not runs:
        raise CourseError(f"{file.name}: no run is left; `exclude` leaves out all of them.")
    own = threads or int(spec.get("threads", 1))
    return Plan(file.stem, root, tuple(runs.values()), own, spec.get("resources", {}), tuple(notes))


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        spec = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"There is no grid {file}. workflow/grids has some to start from.") from error
    except yaml.YAMLError as error:
        raise CourseError(f"{file} is no valid YAML: {error}") from error
    if not isinstance(spec, dict) or not spec.get("lessons"):
        raise CourseError(f"{file} names no lessons; a grid begins with, for example, lessons: ['03']")
    strange = sorted(set(spec) - FIELDS)
    if strange:
        raise CourseError(f"{file}: unknown field {', '.join(strange)}. The fields are: {', '.join(sorted(FIELDS))}.")
    for name in ("lessons", *AXES, "exclude"):
        if not isinstance(spec.get(name, []), list):
            raise CourseError(f"{file}: {name} must be a list, as in {name}: [{spec[name]}]")
    if not re.fullmatch(r"[\w.-]+", file.stem):
        raise CourseError(f"The name of the grid {file.stem!r} becomes a folder: use letters, digits, _ . -")
    return spec


def _points(spec: dict[str, Any]) -> Any:
    """Every combination of the axes, as the parameters that it sets."""
    axes: list[list[dict[str, Any]]] = [
        [value if isinstance(value, dict) else {name: value} for value in spec[field_]]
        for field_, name in AXES.items()
        if spec.get(field_)
    ]
    axes += [[{name: value} for value in values] for name, values in spec.get("axes", {}).items()]
    fixed = {**({"profile": spec["profile"]} if "profile" in spec else {}), **spec.get("parameters", {})}
    for point in itertools.product(*axes):
        yield {**fixed, **{name: value for part in point for name, value in part.items()}}


def _values(
    lesson: Lesson, point: dict[str, Any], words: Sequence[str], start: Path
) -> tuple[dict[str, Any], list[str]]:
    """All parameters of a run: the lesson's defaults, the grid's point, the words of the command line."""
    known = parameters_of(read_source(lesson))
    given, notes = dict(point), []
    said = from_words(known, words)
    for name in OPTIONAL:
        if name in {**given, **said} and name not in known:
            notes.append(f"{lesson.name} has no parameter {name}; it runs without.")
            given.pop(name, None)
            said.pop(name, None)
    given = files_from(accept(known, given), start)
    said = files_from(accept(known, said), Path.cwd())
    return {**{name: parameter.default for name, parameter in known.items()}, **given, **said}, notes


def _matches(lesson: Lesson, values: dict[str, Any], rule: dict[str, Any]) -> bool:
    own = {**values, "lesson": lesson.number}
    return all(str(own.get(name)) == str(value) for name, value in rule.items())


# --- one run, as a job of Snakemake calls it -----------------------------------------------------------


def run_one(plan_file: Path, key: str) -> bool:
    """Make one run of a plan and move it to its place; a run that failed leaves its notebook, traceback and FAILED there."""
    from .run import run
    from .watchdog import end_with

    whole = Plan.read(plan_file)
    entry = next((run for run in whole.runs if run.key == key), None)
    if entry is None:
        raise CourseError(f"{plan_file} has no run {key}.")
    place = entry.folder(whole.store)
    if (place / "card.json").is_file():
        return True
    end_with(os.environ.get("COURSEKIT_GRID_DRIVER"))
    scratch = whole.folder / "scratch" / f"{key}-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        done = run(choose(whole.root, [entry.lesson])[0], entry.parameters, folder=scratch, threads=whole.threads)
        cards.write(done.folder / "card.json", {**done.card, "grid": {"key": key, "parts": entry.parts}})
        publish(done.folder, place, done.passed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return done.passed


def publish(made: Path, place: Path, passed: bool) -> None:
    """Move a finished run's files to their place, the card last: where it is, everything is."""
    if (place / "card.json").is_file():  # another grid was faster; its run is as good
        return
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():  # of an attempt that failed
        old.unlink()
    for file in sorted(made.iterdir()):
        if file.name != "card.json":
            shutil.move(file, place / file.name)
    shutil.move(made / "card.json", place / (FAILED if not passed else ".card.part"))
    if passed:
        os.replace(place / ".card.part", place / "card.json")
