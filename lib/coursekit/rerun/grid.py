"""A grid of runs: lessons × datasets × models × seeds, through Snakemake, on a laptop or a cluster. ``make grid`` calls it.

A run's place is named by the hash of all that it depends on (coursekit.run.runkey), so "is it current?" is "is it there?". A run is
made in a scratch folder and moved to its place when it is complete; whatever was killed half way is simply not there.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson, choose
from coursekit.files import write_json
from coursekit.lesson.notebook import read_source
from coursekit.lesson.params import accept, files_from, from_words, parameters_of
from coursekit.run import card as cards
from coursekit.run import runkey

FAILED = "failed.json"  # a failed run's card; only a run that passed has a card.json
AXES = {"datasets": "dataset", "models": "model", "seeds": "seed"}
FIELDS = {"lessons", *AXES, "profile", "parameters", "axes", "exclude", "threads", "resources"}
_Form = tuple[Callable[[Any], bool], str]


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


FORMS: dict[str, _Form] = {  # field → what it has to be, as a test and in words
    **{name: (lambda value: isinstance(value, list), f"a list, as in {name}: [...]") for name in ("lessons", *AXES)},
    "parameters": (_named, "name: value, as in parameters: {n_cells: 100}"),
    "axes": (
        lambda value: _named(value) and all(isinstance(values, list) and values for values in value.values()),
        "name: list of values, as in axes: {share: [0.25, 0.5]}",
    ),
    "exclude": (
        lambda value: isinstance(value, list) and all(map(_named, value)),
        "a list of rules, as in exclude: [{lesson: '03', seed: 2}]",
    ),
    "threads": (lambda value: type(value) is int and value > 0, "a whole number of at least 1"),
    "resources": (_named, "name: value, as in resources: {mem_mb: 8000}"),
}
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
        """The runs that are not there yet, or not whole."""
        return [run for run in self.runs if not cards.complete(run.folder(self.store))]

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
        write_json(path, content)
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
    (name: list of values, further dimensions); exclude (list of name: value, lesson among them; runs that match all of one
    are left out);
    threads; resources (mem_mb, runtime in minutes, gpu). A dataset may be ``{dataset: mine.h5ad, label: …, batch: …}``; its
    path is seen from the file's folder, one in ``words`` from the current folder.

    Raises CourseError for a file that is no grid, and for parameters that a lesson does not have.
    """
    spec = _read(file)
    chosen = choose(root, [str(lesson) for lesson in spec["lessons"]])
    excluded = _exclude(file, spec, chosen)
    runs: dict[str, GridRun] = {}
    notes: list[str] = []
    for lesson, point in itertools.product(chosen, list(_points(spec))):
        values, more = _values(lesson, point, words, file.parent)
        notes += [note for note in more if note not in notes]
        if any(rule.items() <= values.items() for rule in excluded[lesson.name]):
            continue
        key, parts = runkey.key_of(lesson, values)
        runs.setdefault(key, GridRun(key, lesson.name, values, parts))  # a lesson without seeds gives one run, not many
    if not runs:
        raise CourseError(f"{file.name}: no run is left; `exclude` leaves out all of them.")
    own = threads or spec.get("threads", 1)
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
    spec = {name: value for name, value in spec.items() if value is not None}  # `axes:` with nothing behind it
    strange = sorted({str(name) for name in spec} - FIELDS)
    if strange:
        raise CourseError(f"{file}: unknown field {', '.join(strange)}. The fields are: {', '.join(sorted(FIELDS))}.")
    for name, (fits, form) in FORMS.items():
        if name in spec and not fits(spec[name]):
            raise CourseError(f"{file}: {name} must be {form}, not {spec[name]!r}")
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


def _exclude(file: Path, spec: dict[str, Any], chosen: Sequence[Lesson]) -> dict[str, list[dict[str, Any]]]:
    """Lesson → its rules, each as parameters in the lesson's own types: a run with all values of one is left out."""
    parameters = {lesson.name: parameters_of(read_source(lesson)) for lesson in chosen}
    found: dict[str, list[dict[str, Any]]] = {lesson.name: [] for lesson in chosen}
    for rule in spec.get("exclude", []):
        meant = choose(chosen[0].root, [str(rule["lesson"])]) if "lesson" in rule else chosen
        own = {name: value for name, value in rule.items() if name != "lesson"}
        fitting = [lesson.name for lesson in meant if own.keys() <= parameters.get(lesson.name, own).keys()]
        if not fitting:
            raise CourseError(f"{file}: no lesson has the parameters of the rule {rule} in exclude.")
        for name in set(fitting) & found.keys():
            known = parameters[name]
            words = [f"{parameter}={value}" for parameter, value in own.items()]
            found[name].append(files_from(accept(known, from_words(known, words)), file.parent))
    return found


# --- one run, as a job of Snakemake calls it -----------------------------------------------------------


def run_one(plan_file: Path, key: str) -> bool:
    """Make one run of a plan and move it to its place; a run that failed leaves its notebook, traceback and FAILED there."""
    from coursekit.rerun.watchdog import end_with, me
    from coursekit.run.execute import run

    whole = Plan.read(plan_file)
    entry = next((run for run in whole.runs if run.key == key), None)
    if entry is None:
        raise CourseError(f"{plan_file} has no run {key}.")
    place = entry.folder(whole.store)
    if cards.complete(place):
        return True
    end_with(os.environ.get("COURSEKIT_GRID_DRIVER"))
    scratch = whole.folder / "scratch" / f"{me().replace(':', '~')}~{secrets.token_hex(4)}"
    try:
        done = run(choose(whole.root, [entry.lesson])[0], entry.parameters, folder=scratch, threads=whole.threads)
        cards.write(done.folder / "card.json", {**done.card, "grid": {"key": key, "parts": entry.parts}})
        publish(done.folder, place, done.passed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return done.passed


def publish(made: Path, place: Path, passed: bool) -> None:
    """Move a finished run's files to their place, the card last: where it is, everything is."""
    if cards.complete(place):  # another grid was faster; its run is as good
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
