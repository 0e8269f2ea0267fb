"""What each command of the command line does: ``command(args, root)`` → the exit status (0 well, 1 not well)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coursekit.course import CourseError, choose, lessons


def build(args: argparse.Namespace, root: Path) -> int:
    from coursekit.book import readme
    from coursekit.lesson import build

    chosen = choose(root, args.lessons)
    problems: list[str] = []
    for lesson in chosen:
        if args.check:
            problems += [f"{lesson.name}: {line}" for line in build.check(lesson)]
        else:
            for path in build.build(lesson):
                print(f"built {path.relative_to(root)}")
            problems += [f"{lesson.name}: {line}" for line in build.check(lesson)]
    if not args.lessons:
        problems += build.strangers(root)
        problems += readme.refresh(root, write=not args.check)
    for line in problems:
        print(line, file=sys.stderr)
    print(f"{len(chosen)} lessons, {len(problems)} problems.")
    return 1 if problems else 0


def run(args: argparse.Namespace, root: Path) -> int:
    from coursekit.run.execute import progress_line, run
    from coursekit.run.last import newest

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
    else:
        from coursekit.run.courserun import Outcome, table

        print(table([Outcome(lesson, done.folder, done.card)]))
        if not done.passed:
            print((done.folder / "traceback.txt").read_text(encoding="utf-8"), file=sys.stderr)
    return 0 if done.passed else 1


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


def verify(args: argparse.Namespace, root: Path) -> int:
    from coursekit.run.verify import verify

    lines, good = verify(root, args.card, bar=True)
    print("\n".join(lines))
    return 0 if good else 1


def expect(args: argparse.Namespace, root: Path) -> int:
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
    return 0


def list_lessons(args: argparse.Namespace, root: Path) -> int:
    from coursekit.lesson.facts import facts_of
    from coursekit.lesson.notebook import read_source
    from coursekit.lesson.params import parameters_of

    for lesson in lessons(root):
        facts = facts_of(lesson)
        print(f"{lesson.name}   {facts['title']}   {facts['time'] or ''}")
        for parameter in parameters_of(read_source(lesson)).values():
            print(f"    {parameter.describe()}")
    return 0


def table(args: argparse.Namespace, root: Path) -> int:
    from coursekit.run.courserun import Outcome, table
    from coursekit.run.last import newest

    found = [(lesson, newest(lesson)) for lesson in lessons(root)]
    print(table([Outcome(lesson, *(last or (None, None, "no run yet"))) for lesson, last in found]))
    return 0


def progress(args: argparse.Namespace, root: Path) -> int:
    from coursekit.lesson.progress import report

    print(report(root))
    return 0


def site(args: argparse.Namespace, root: Path) -> int:
    from coursekit.book.site import build

    output = args.output.resolve() if args.output else None
    folder = build(root, choose(root, args.lessons), args.profile, args.jobs, output, args.fresh)
    print(f"The book is in {folder}. To read it: {Path(sys.executable).name} -m http.server -d {folder}")
    return 0


def workshop(args: argparse.Namespace, root: Path) -> int:
    from coursekit.lesson.outline import outline
    from coursekit.workshop import paper, plan

    minutes = plan.in_minutes(args.hours)
    known = lessons(root)
    wanted = [lesson.number for lesson in choose(root, args.lessons)] if args.lessons else []
    made = plan.plan([outline(one) for one in known], minutes, wanted, plan.first_lessons(root))
    files = paper.write(root, made, known)
    print(paper.markdown(made))
    print(
        f"To print: {files[1].relative_to(root)}; notes: {files[2].relative_to(root)}; quizzes and notebooks beside them"
    )
    return 0


def slides(args: argparse.Namespace, root: Path) -> int:
    from coursekit.workshop.slides import write

    for path in write(root, choose(root, args.lessons)):
        print(f"slides: {path.relative_to(root)}")
    return 0


def gain(args: argparse.Namespace, root: Path) -> int:
    from coursekit.workshop import quizpage

    for name, value in quizpage.gain(args.before, args.after, quizpage.topics(root / quizpage.QUESTIONS)).items():
        print(f"{name}: {value}")
    return 0


def grid(args: argparse.Namespace, root: Path) -> int:
    from coursekit.rerun import grid, gridrun

    plan = grid.plan(root, args.grid, args.words, args.threads)
    for note in plan.notes:
        print(f"note: {note}")
    if args.dry_run:
        print(gridrun.preview(plan))
        return 0
    report = gridrun.make(plan, args.jobs, args.on)
    print(gridrun.words(plan, report))
    return 0 if report.good else 1


def board(args: argparse.Namespace, root: Path) -> int:
    from coursekit.rerun import board, boardpage

    tidy = board.results_of(root, args.grids)
    page = boardpage.publish(root, tidy)
    print(page.read_text(encoding="utf-8"))
    print(f"Scores: {root / boardpage.STORED}; page and figure for the book: {page.parent}")
    return 0


def atlas(args: argparse.Namespace, root: Path) -> int:
    from coursekit.rerun import atlas

    own = atlas.plan(
        root,
        args.file,
        args.model,
        args.cells_per_shard,
        args.counts_in,
        args.device,
        args.dtype,
        {"pooling": args.pooling} if args.pooling else {},
        args.threads,
        {"gpu": args.gpus} if args.gpus else {},
    )
    made = atlas.make(own, args.jobs, args.on)
    print(atlas.words(own, made))
    return 0 if made else 1


def bundle(args: argparse.Namespace, root: Path) -> int:
    from coursekit.workshop.bundle import make

    output = args.output.resolve() if args.output else None
    make(root, choose(root, args.lessons), args.data, output, args.profile, args.jobs, args.dirty)
    return 0


def changed(args: argparse.Namespace, root: Path) -> int:
    import json

    from coursekit.run.changed import changed

    found, why = changed(root, args.since)
    print(why, file=sys.stderr)
    print(json.dumps([lesson.name for lesson in found]))
    return 0


def new(args: argparse.Namespace, root: Path) -> int:
    from coursekit.lesson import new

    more = {name: getattr(args, name) for name in ("file", "label", "batch", "random") if hasattr(args, name)}
    for path in new.make(root, args.what, args.name, **more):
        print(f"wrote {path.relative_to(root) if path.is_relative_to(root) else path}")
    print(
        f'CONTRIBUTING.md says what is next. Look for "{new.TO_FILL}".' if args.what != "lesson" else "Next: make build"
    )
    return 0


def readme(args: argparse.Namespace, root: Path) -> int:
    from coursekit.book import readme

    kept = readme.keep(root, [path.resolve() for path in args.runs])
    readme.refresh(root, write=True)
    for lesson in lessons(root):
        print(f"{lesson.name}: {', '.join(kept.get(lesson.name, {})) or 'no run of this text'}")
    return 0


def atlas_step(args: argparse.Namespace, root: Path) -> int:
    from coursekit.rerun.atlas import step

    step(args.plan, args.what, args.number)
    return 0


def grid_run(args: argparse.Namespace, root: Path) -> int:
    from coursekit.rerun.grid import run_one

    return 0 if run_one(args.plan, args.key) else 1


def lock(args: argparse.Namespace, root: Path) -> int:
    from coursekit.machine.lock import disagreements, write

    print(f"wrote {', '.join(path.name for path in write(root, args.upgrade))}")
    problems = disagreements(root)
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


def doctor(args: argparse.Namespace, root: Path) -> int:
    from coursekit.machine.doctor import FAIL, WARN, examine

    levels = []
    for finding in examine(root, network=not args.offline):
        print(finding.text(), flush=True)
        levels.append(finding.level)
    print(f"\n{len(levels)} questions: {levels.count(FAIL)} failures, {levels.count(WARN)} warnings.")
    return 1 if FAIL in levels else 0
