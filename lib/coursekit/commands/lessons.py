"""Commands about lessons: build, run, compare, begin anew; and about the machine that they run on."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from coursekit.commands.registry import JOBS, LESSON, LESSONS, RUN, arg, command, file_path
from coursekit.course import CourseError, choose, lessons


def _kinds(parser: argparse.ArgumentParser) -> None:
    """What can be begun anew, each with its own arguments."""
    kinds = parser.add_subparsers(dest="what", required=True)
    kind = kinds.add_parser("lesson", help="42_my_question: source, checkers and expectations that run as they are")
    kind.add_argument("name")
    kind = kinds.add_parser("dataset", help="raw counts (a file, a folder of 10x or .zarr) become a named data set")
    kind.add_argument("name")
    kind.add_argument("file", type=file_path)
    kind.add_argument("--label", default="", help="column of obs that holds the cell types")
    kind.add_argument("--batch", default="", help="column of obs that holds batches or donors")
    kind = kinds.add_parser("model", help="the Geneformer or scGPT in data/models/NAME becomes a model with a name")
    kind.add_argument("name")
    kind.add_argument("--random", action="store_true", help="write that folder first, with random weights, to try it")


@command("make the notebooks", LESSONS, arg("--check", action="store_true", help="only say what is wrong"))
def build(args: argparse.Namespace, root: Path) -> int:
    from coursekit.book import readme
    from coursekit.lesson import build

    chosen = choose(root, args.lessons)
    problems: list[str] = []
    for lesson in chosen:
        for path in [] if args.check else build.build(lesson):
            kept = (root / build.YOURS) in path.parents
            print(f"{'your own work is kept in' if kept else 'built'} {path.relative_to(root)}")
        problems += [f"{lesson.name}: {line}" for line in build.check(lesson)]
    if not args.lessons:
        problems += build.strangers(root)
        problems += readme.refresh(root, write=not args.check)
    for line in problems:
        print(line, file=sys.stderr)
    print(f"{len(chosen)} lessons, {len(problems)} problems.")
    return 1 if problems else 0


@command(
    "run one lesson and keep notebook, page and card",
    arg("lesson", metavar="NN", type=os.path.expanduser, help="number, name, or the path of a notebook you changed"),
    *RUN,
    arg("--again", action="store_true", help="start from the parameters of its last run"),
    arg("--progress-lines", action="store_true", help=argparse.SUPPRESS),
)
def run(args: argparse.Namespace, root: Path) -> int:
    from coursekit.run.courserun import Outcome, table
    from coursekit.run.execute import progress_line, run
    from coursekit.run.last import newest
    from scfm import errors

    path = Path(args.lesson)
    file = path.resolve() if path.suffix == ".ipynb" else None
    if file and not file.is_file():
        raise CourseError(f"There is no notebook {path}.")
    lesson = choose(root, [args.lesson])[0]
    given = {}
    if args.again:
        last = newest(lesson)
        if last is None:
            raise CourseError(f"{lesson.name} has no earlier run to repeat.")
        given = last[1]["parameters"]
    words = [*([f"profile={args.profile}"] if args.profile else []), *args.words]
    if words and given:  # what is said now goes before what was said then
        given = {name: value for name, value in given.items() if not any(word.startswith(f"{name}=") for word in words)}
    done = run(
        lesson,
        given,
        words,
        edition=args.edition,
        file=file,
        folder=args.runs / lesson.name if args.runs else None,
        threads=args.threads,
        progress=progress_line if args.progress_lines else None,
        bar=not args.progress_lines,
    )
    if args.progress_lines:
        print(f"@folder {done.folder}", flush=True)
        return 0 if done.passed else 1
    print(table([Outcome(lesson, done.folder, done.card)]))
    in_words = done.card.get("error", "").split(":")[0] in vars(
        errors
    )  # of the data: where in the code says nothing more
    if not done.passed and not in_words:
        print((done.folder / "traceback.txt").read_text(encoding="utf-8"), file=sys.stderr)
    return 0 if done.passed else 1


@command("run all lessons (or those named) and end with a table", LESSONS, *RUN, JOBS)
def course(args: argparse.Namespace, root: Path) -> int:
    from coursekit.run.courserun import run_all, table

    chosen = choose(root, args.lessons)
    if not chosen:
        raise CourseError("There are no lessons yet: notebooks/source is empty.")
    options = ["--edition", args.edition]
    options += ["--profile", args.profile] if args.profile else []
    options += [part for word in args.words for part in ("-p", word)]
    options += ["--threads", str(args.threads)] if args.threads else []
    options += ["--runs", str(args.runs.resolve())] if args.runs else []
    outcomes = run_all(chosen, options, args.jobs)
    print("\n" + table(outcomes))
    failed = [outcome.lesson.name for outcome in outcomes if not outcome.card or outcome.card["status"] != "passed"]
    good = len(outcomes) - len(failed)
    print(f"\n{good} of {len(outcomes)} lessons ran." + (f" Failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


@command(
    "fetch and make the data sets of lessons (with a profile), of a corpus, or by name",
    arg("wanted", nargs="+", metavar="NAME", help="03 cpu | mini | kang_ifnb_pbmc pbmc3k"),
)
def data(args: argparse.Namespace, root: Path) -> int:
    from coursekit.run import data

    rows = data.prepare(data.wanted(root, args.wanted), lambda line: print(line, flush=True))
    print("\n" + data.table(rows))
    return 1 if any(row.why for row in rows) else 0


@command("run a card's lesson again and compare", arg("card", type=file_path, help="card.json or its folder"))
def verify(args: argparse.Namespace, root: Path) -> int:
    from coursekit.run.verify import verify

    lines, good = verify(root, args.card, bar=True)
    print("\n".join(lines))
    return 0 if good else 1


@command(
    "draft tests/notebooks/expected/NN.toml from a lesson's last run",
    *(LESSON, arg("--write", action="store_true", help="write the file where there is none")),
)
def expect(args: argparse.Namespace, root: Path) -> None:
    from coursekit.files import write_text
    from coursekit.run.expect import draft
    from coursekit.run.last import newest

    lesson = choose(root, [args.lesson])[0]
    last = newest(lesson)
    if last is None:
        raise CourseError(f"{lesson.name} has no run yet. Run it first: python -m coursekit run {lesson.number}")
    text = draft(last[1])
    print(text, end="")
    if args.write:
        if lesson.expected.exists():
            raise CourseError(f"{lesson.expected.name} is there already; take over what you need from above by hand.")
        write_text(lesson.expected, text)


@command("the lessons with their parameters", name="list")
def list_lessons(args: argparse.Namespace, root: Path) -> None:
    from coursekit.lesson.facts import facts_of
    from coursekit.lesson.notebook import read_source
    from coursekit.lesson.params import parameters_of

    for lesson in lessons(root):
        facts = facts_of(lesson)
        print(f"{lesson.name}   {facts['title']}   {facts['time'] or ''}")
        for parameter in parameters_of(read_source(lesson)).values():
            print(f"    {parameter.describe()}")


@command("the table of the last run of each lesson")
def table(args: argparse.Namespace, root: Path) -> None:
    from coursekit.run.courserun import Outcome, table
    from coursekit.run.last import newest

    found = [(lesson, newest(lesson)) for lesson in lessons(root)]
    print(table([Outcome(lesson, *(last or (None, None, "no run yet"))) for lesson, last in found]))


@command("which exercises you have solved")
def progress(args: argparse.Namespace, root: Path) -> None:
    from coursekit.lesson.progress import report

    print(report(root))


@command(
    "the lessons that a change can have touched, as JSON (all without --since)",
    arg("--since", metavar="REF", help="a commit; one that is not here means all lessons"),
)
def changed(args: argparse.Namespace, root: Path) -> None:
    from coursekit.run.changed import changed

    found, why = changed(root, args.since)
    print(why, file=sys.stderr)
    print(json.dumps([lesson.name for lesson in found]))


@command("begin a lesson, or enter a data set or a model (see CONTRIBUTING.md)", _kinds)
def new(args: argparse.Namespace, root: Path) -> None:
    from coursekit.lesson import new

    more = {name: getattr(args, name) for name in ("file", "label", "batch", "random") if hasattr(args, name)}
    for path in new.make(root, args.what, args.name, **more):
        print(f"wrote {path.relative_to(root) if path.is_relative_to(root) else path}")
    fill = f'CONTRIBUTING.md says what is next. Look for "{new.TO_FILL}".'
    print("Next: make build" if args.what == "lesson" else fill)


@command(
    "write requirements*.lock and environment.yml with uv",
    arg("--upgrade", action="store_true", help="take newer versions"),
)
def lock(args: argparse.Namespace, root: Path) -> int:
    from coursekit.machine.lock import disagreements, write

    print(f"wrote {', '.join(path.name for path in write(root, args.upgrade))}")
    problems = disagreements(root)
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


@command("is this machine ready for the course?", arg("--offline", action="store_true", help="do not try the network"))
def doctor(args: argparse.Namespace, root: Path) -> int:
    from coursekit.machine.doctor import FAIL, WARN, examine

    levels = []
    for finding in examine(root, network=not args.offline):
        print(finding.text(), flush=True)
        levels.append(finding.level)
    print(f"\n{len(levels)} questions: {levels.count(FAIL)} failures, {levels.count(WARN)} warnings.")
    return 1 if FAIL in levels else 0
