"""The command line: ``python -m coursekit build | run | course | site | progress | …`` (``--help`` lists them)."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .course import PROFILES, CourseError, atomic_write, choose, find_root, lessons


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coursekit", description="Build, run and check the lessons of the course.")
    parser.add_argument("--root", type=Path, help="the course's folder (default: found from the current one)")
    commands = parser.add_subparsers(dest="command", required=True)

    add = commands.add_parser("build", help="make the notebooks from notebooks/source")
    add.add_argument("lessons", nargs="*", metavar="NN")
    add.add_argument("--check", action="store_true", help="change nothing; say what is wrong and exit 1")
    add.set_defaults(go=_build)

    add = commands.add_parser("run", help="run one lesson and keep notebook, page and card")
    add.add_argument("lesson", metavar="NN", help="number, name, or the path of a notebook you changed")
    _run_options(add)
    add.add_argument("--again", action="store_true", help="start from the parameters of its last run")
    add.add_argument("--progress-lines", action="store_true", help=argparse.SUPPRESS)
    add.set_defaults(go=_run)

    add = commands.add_parser("course", help="run all lessons (or those named) and end with a table")
    add.add_argument("lessons", nargs="*", metavar="NN")
    _run_options(add)
    add.add_argument("--jobs", type=int, default=1, help="lessons at a time (default 1)")
    add.set_defaults(go=_course)

    add = commands.add_parser("verify", help="run a card's lesson again and compare the results")
    add.add_argument("card", type=Path, help="card.json or its folder")
    add.set_defaults(go=_verify)

    add = commands.add_parser("expect", help="draft tests/notebooks/expected/NN.toml from a lesson's last run")
    add.add_argument("lesson", metavar="NN")
    add.add_argument("--write", action="store_true", help="write the file where there is none")
    add.set_defaults(go=_expect)

    add = commands.add_parser("list", help="the lessons with their parameters")
    add.set_defaults(go=_list)

    add = commands.add_parser("table", help="the table of the last run of each lesson")
    add.set_defaults(go=_table)

    add = commands.add_parser("progress", help="which exercises you have solved")
    add.set_defaults(go=_progress)

    add = commands.add_parser("site", help="build the book from the last run of each lesson, running what is missing")
    add.add_argument("lessons", nargs="*", metavar="NN", help="only these (default: all)")
    add.add_argument("--profile", choices=PROFILES, default="quick", help="which runs to show (default quick)")
    add.add_argument("--jobs", type=int, default=1, help="lessons at a time (default 1)")
    add.add_argument("--output", type=Path, help="where to put it (default site/_build/html)")
    add.add_argument("--fresh", action="store_true", help="run all lessons again")
    add.set_defaults(go=_site)

    add = commands.add_parser("workshop", help="a schedule of any length, notes and instructor notebooks")
    add.add_argument("--hours", default="3", help="1 to 40, breaks included (default 3)")
    add.add_argument("lessons", nargs="*", metavar="NN", help="these lessons (default: as many as fit)")
    add.set_defaults(go=_workshop)

    add = commands.add_parser("slides", help="slides of the lessons from their last runs, with notes for the speaker")
    add.add_argument("lessons", nargs="*", metavar="NN")
    add.set_defaults(go=_slides)

    add = commands.add_parser("gain", help="what was learned between the quiz before and the quiz after")
    add.add_argument("before", type=Path, help="CSV: participant and a column per topic")
    add.add_argument("after", type=Path)
    add.set_defaults(go=_gain)

    add = commands.add_parser("grid", help="run lessons × datasets × models × seeds, only what is missing")
    add.add_argument("grid", type=Path, help="a YAML file, see workflow/grids")
    add.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", dest="words")
    add.add_argument("--jobs", type=int, default=1, help="runs at a time on this machine (default 1)")
    add.add_argument("--threads", type=int, help="threads of each run (default: what the grid says)")
    add.add_argument("--on", metavar="PROFILE", help="slurm, kubernetes, or a folder with a Snakemake profile")
    add.add_argument("--dry-run", action="store_true", help="only say what would run")
    add.set_defaults(go=_grid)

    add = commands.add_parser("board", help="the leaderboard of all grids (or those named): table, page, figure")
    add.add_argument("grids", nargs="*", metavar="NAME")
    add.set_defaults(go=_board)

    add = commands.add_parser("atlas", help="tokenize and embed a file of any size in shards")
    add.add_argument("file", type=Path, help=".h5ad or .zarr")
    add.add_argument("--model", default="geneformer-mini")
    add.add_argument("--cells-per-shard", type=int, default=10_000, help="memory goes with it (default 10000)")
    add.add_argument("--counts-in", default="X", help="where the raw counts lie: X, layers/NAME or raw/X")
    add.add_argument("--pooling", choices=("cls", "mean"), help="default: the model's own")
    add.add_argument("--device", default="auto")
    add.add_argument("--dtype", default="auto")
    add.add_argument("--jobs", type=int, default=1, help="shards at a time on this machine (default 1)")
    add.add_argument("--threads", type=int, default=1, help="threads of each job (default 1)")
    add.add_argument("--gpus", type=int, default=0, help="GPUs to ask a cluster for, for each shard")
    add.add_argument("--on", metavar="PROFILE", help="slurm, kubernetes, or a folder with a Snakemake profile")
    add.set_defaults(go=_atlas)

    add = commands.add_parser(
        "bundle", help="wheels, course, data, models and book in one archive for a room without internet"
    )
    add.add_argument("data", nargs="*", metavar="NAME", help="data sets and models to pack beside the bundled ones")
    add.add_argument("--profile", choices=PROFILES, default="quick", help="which runs the book shows (default quick)")
    add.add_argument("--jobs", type=int, default=1, help="lessons at a time, where runs are missing (default 1)")
    add.add_argument("--output", type=Path, help="the archive (default: runs/bundle/…tar.gz)")
    add.add_argument("--lessons", nargs="+", default=[], metavar="NN", help="the book shows only these (default: all)")
    add.add_argument("--dirty", action="store_true", help="pack HEAD also where files differ from it")
    add.set_defaults(go=_bundle)

    add = commands.add_parser(
        "changed", help="the lessons that a change can have touched, as JSON (all without --since)"
    )
    add.add_argument("--since", metavar="REF", help="a commit; one that is not here means all lessons")
    add.set_defaults(go=_changed)

    add = commands.add_parser("new", help="begin a lesson, or enter a data set or a model (see CONTRIBUTING.md)")
    kinds = add.add_subparsers(dest="what", required=True)
    kind = kinds.add_parser("lesson", help="42_my_question: source, checkers and expectations that run as they are")
    kind.add_argument("name")
    kind = kinds.add_parser("dataset", help="a file of raw counts becomes a data set with a name")
    kind.add_argument("name")
    kind.add_argument("file", type=Path)
    kind.add_argument("--label", default="", help="column of obs that holds the cell types")
    kind.add_argument("--batch", default="", help="column of obs that holds batches or donors")
    kind = kinds.add_parser("model", help="the Geneformer in data/models/NAME becomes a model with a name")
    kind.add_argument("name")
    kind.add_argument("--random", action="store_true", help="write that folder first, with random weights, to try it")
    add.set_defaults(go=_new)

    add = commands.add_parser(
        "readme", help="keep the results of the last runs, and write the README's table from them"
    )
    add.add_argument("--runs", type=Path, action="append", default=[], help="runs that were made elsewhere (on a GPU)")
    add.set_defaults(go=_readme)

    add = commands.add_parser("atlas-step")  # what a job of the atlas calls
    add.add_argument("plan", type=Path)
    add.add_argument("what", choices=("tokens", "embedding", "gather"))
    add.add_argument("number", type=int, nargs="?", default=0)
    add.set_defaults(go=_atlas_step)

    add = commands.add_parser("grid-run")  # what a job of the grid calls
    add.add_argument("plan", type=Path)
    add.add_argument("key")
    add.set_defaults(go=_grid_run)

    add = commands.add_parser("lock", help="write requirements.lock from what is installed")
    add.set_defaults(go=_lock)

    add = commands.add_parser("doctor", help="is this machine ready for the course?")
    add.add_argument("--offline", action="store_true", help="do not try the network")
    add.set_defaults(go=_doctor)
    return parser


def _run_options(add: argparse.ArgumentParser) -> None:
    add.add_argument("--profile", choices=PROFILES)
    add.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", dest="words")
    add.add_argument("--edition", choices=("solution", "learner"), default="solution")
    add.add_argument("--threads", type=int, help="limit the threads of BLAS, OpenMP and numba")
    add.add_argument("--runs", type=Path, help="where to put the runs (default: runs/<lesson>)")


def _build(args: argparse.Namespace, root: Path) -> int:
    from . import build

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
        problems += build.readme(root, write=not args.check)
    for line in problems:
        print(line, file=sys.stderr)
    print(f"{len(chosen)} lessons, {len(problems)} problems.")
    return 1 if problems else 0


def _run(args: argparse.Namespace, root: Path) -> int:
    from . import card as cards
    from .run import parameters_again, progress_line, run

    path = Path(args.lesson)
    file = path.resolve() if path.suffix == ".ipynb" else None
    if file and not file.is_file():
        raise CourseError(f"There is no notebook {path}.")
    lesson = choose(root, [args.lesson])[0]
    given = {}
    if args.again:
        last = cards.latest(lesson.runs)
        if last is None:
            raise CourseError(f"{lesson.name} has no earlier run to repeat.")
        given = parameters_again(last)
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
        from .courserun import Outcome, table

        print(table([Outcome(lesson, done.folder, done.card)]))
        if not done.passed:
            print((done.folder / "traceback.txt").read_text(encoding="utf-8"), file=sys.stderr)
    return 0 if done.passed else 1


def _course(args: argparse.Namespace, root: Path) -> int:
    from .courserun import run_all, table

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


def _verify(args: argparse.Namespace, root: Path) -> int:
    from .verify import verify

    lines, good = verify(root, args.card, bar=True)
    print("\n".join(lines))
    return 0 if good else 1


def _expect(args: argparse.Namespace, root: Path) -> int:
    from . import card as cards
    from .expect import draft

    lesson = choose(root, [args.lesson])[0]
    last = cards.latest(lesson.runs)
    if last is None:
        raise CourseError(f"{lesson.name} has no run yet. Run it first: python -m coursekit run {lesson.number}")
    text = draft(cards.read(last))
    print(text, end="")
    if args.write:
        if lesson.expected.exists():
            raise CourseError(f"{lesson.expected.name} is there already; take over what you need from above by hand.")
        with atomic_write(lesson.expected) as handle:
            handle.write(text)
    return 0


def _list(args: argparse.Namespace, root: Path) -> int:
    from .course import lesson_facts
    from .notebook import read_source
    from .params import parameters_of

    for lesson in lessons(root):
        full = read_source(lesson)
        facts = lesson_facts(full["cells"][0]["source"])
        print(f"{lesson.name}   {facts['title'] or ''}   {facts['time'] or ''}")
        for parameter in parameters_of(full).values():
            print(f"    {parameter.describe()}")
    return 0


def _table(args: argparse.Namespace, root: Path) -> int:
    from . import card as cards
    from .courserun import Outcome, table

    outcomes = []
    for lesson in lessons(root):
        last = cards.latest(lesson.runs)
        outcomes.append(
            Outcome(lesson, last.parent, cards.read(last)) if last else Outcome(lesson, None, None, "no run yet")
        )
    print(table(outcomes))
    return 0


def _progress(args: argparse.Namespace, root: Path) -> int:
    from .progress import report

    print(report(root))
    return 0


def _site(args: argparse.Namespace, root: Path) -> int:
    from .site import build

    output = args.output.resolve() if args.output else None
    folder = build(root, choose(root, args.lessons), args.profile, args.jobs, output, args.fresh)
    print(f"The book is in {folder}. To read it: {Path(sys.executable).name} -m http.server -d {folder}")
    return 0


def _workshop(args: argparse.Namespace, root: Path) -> int:
    from . import workshop, workshoppage
    from .outline import outline

    minutes = workshop.in_minutes(args.hours)
    known = lessons(root)
    wanted = [lesson.number for lesson in choose(root, args.lessons)] if args.lessons else []
    made = workshop.plan([outline(one) for one in known], minutes, wanted, workshop.first_lessons(root))
    files = workshoppage.write(root, made, known)
    print(workshoppage.markdown(made))
    print(
        f"To print: {files[1].relative_to(root)}; notes: {files[2].relative_to(root)}; quizzes and notebooks beside them"
    )
    return 0


def _slides(args: argparse.Namespace, root: Path) -> int:
    from .slides import write

    for path in write(root, choose(root, args.lessons)):
        print(f"slides: {path.relative_to(root)}")
    return 0


def _gain(args: argparse.Namespace, root: Path) -> int:
    from . import quizpage

    for name, value in quizpage.gain(args.before, args.after, quizpage.topics(root / quizpage.QUESTIONS)).items():
        print(f"{name}: {value}")
    return 0


def _grid(args: argparse.Namespace, root: Path) -> int:
    from . import grid, gridrun

    plan = grid.plan(root, args.grid, args.words, args.threads)
    for note in plan.notes:
        print(f"note: {note}")
    if args.dry_run:
        print(gridrun.preview(plan))
        return 0
    report = gridrun.make(plan, args.jobs, args.on)
    print(gridrun.words(plan, report))
    return 0 if report.good else 1


def _board(args: argparse.Namespace, root: Path) -> int:
    from . import board, boardpage

    tidy = board.results_of(root, args.grids)
    page = boardpage.publish(root, tidy)
    print(page.read_text(encoding="utf-8"))
    print(f"Scores: {root / boardpage.STORED}; page and figure for the book: {page.parent}")
    return 0


def _atlas(args: argparse.Namespace, root: Path) -> int:
    from . import atlas

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


def _bundle(args: argparse.Namespace, root: Path) -> int:
    from .bundle import make

    output = args.output.resolve() if args.output else None
    make(root, choose(root, args.lessons), args.data, output, args.profile, args.jobs, args.dirty)
    return 0


def _changed(args: argparse.Namespace, root: Path) -> int:
    import json

    from .changed import changed

    found, why = changed(root, args.since)
    print(why, file=sys.stderr)
    print(json.dumps([lesson.name for lesson in found]))
    return 0


def _new(args: argparse.Namespace, root: Path) -> int:
    from . import new

    more = {name: getattr(args, name) for name in ("file", "label", "batch", "random") if hasattr(args, name)}
    for path in new.make(root, args.what, args.name, **more):
        print(f"wrote {path.relative_to(root) if path.is_relative_to(root) else path}")
    print(
        f'CONTRIBUTING.md says what is next. Look for "{new.TO_FILL}".' if args.what != "lesson" else "Next: make build"
    )
    return 0


def _readme(args: argparse.Namespace, root: Path) -> int:
    from . import build, readme

    kept = readme.keep(root, [path.resolve() for path in args.runs])
    build.readme(root, write=True)
    for lesson in lessons(root):
        print(f"{lesson.name}: {', '.join(kept.get(lesson.name, {})) or 'no run of this text'}")
    return 0


def _atlas_step(args: argparse.Namespace, root: Path) -> int:
    from .atlas import step

    step(args.plan, args.what, args.number)
    return 0


def _grid_run(args: argparse.Namespace, root: Path) -> int:
    from .grid import run_one

    return 0 if run_one(args.plan, args.key) else 1


def _lock(args: argparse.Namespace, root: Path) -> int:
    from .lock import disagreements, write

    print(f"wrote {write(root).name}")
    problems = disagreements(root)
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


def _doctor(args: argparse.Namespace, root: Path) -> int:
    from .doctor import FAIL, WARN, examine

    levels = []
    for finding in examine(root, network=not args.offline):
        print(finding.text(), flush=True)
        levels.append(finding.level)
    print(f"\n{len(levels)} questions: {levels.count(FAIL)} failures, {levels.count(WARN)} warnings.")
    return 1 if FAIL in levels else 0


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM (a cluster's or a container's way to stop) ends a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status (0 well, 1 not well, 2 wrong use, 130 stopped)."""
    args = _parser().parse_args(argv)
    try:
        root = args.root.resolve() if args.root else find_root()
        with _terminate_as_interrupt():
            return int(args.go(args, root))
    except CourseError as error:
        print(f"coursekit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncoursekit: stopped; no card was written.", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("coursekit", "scfm"):
            raise
        print(
            f"coursekit: the package {error.name!r} is missing. Run: make setup (make doctor tells more)",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
