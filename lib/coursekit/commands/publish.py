"""Commands about what is made of lessons: the book, the README, workshops, bundles; and of many runs: grids, boards, atlases."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from coursekit.commands.registry import JOBS, LESSONS, ON, SHOWN, THREADS, WORDS, arg, command, file_path
from coursekit.course import choose, lessons


@command(
    "build the book from the last run of each lesson, running what is missing",
    *(LESSONS, SHOWN, JOBS, arg("--fresh", action="store_true", help="run all lessons again")),
    arg("--output", type=Path, help="where to put it (default site/_build/html)"),
)
def site(args: argparse.Namespace, root: Path) -> None:
    from coursekit.book.site import build

    output = args.output.resolve() if args.output else None
    folder = build(root, choose(root, args.lessons), args.profile, args.jobs, output, args.fresh)
    print(f"The book is in {folder}. To read it: {Path(sys.executable).name} -m http.server -d {folder}")


@command(
    "keep the results of the last runs, and write the README's table from them",
    arg("--runs", type=Path, action="append", default=[], help="runs that were made elsewhere (on a GPU)"),
)
def readme(args: argparse.Namespace, root: Path) -> None:
    from coursekit.book import readme

    kept = readme.keep(root, [path.resolve() for path in args.runs])
    readme.refresh(root, write=True)
    for lesson in lessons(root):
        print(f"{lesson.name}: {', '.join(kept.get(lesson.name, {})) or 'no run of this text'}")


@command(
    "a schedule of any length, notes and instructor notebooks",
    *(LESSONS, arg("--hours", default="3", help="1 to 40, breaks included (default 3)")),
)
def workshop(args: argparse.Namespace, root: Path) -> None:
    from coursekit.lesson.outline import outline
    from coursekit.workshop import paper, plan

    minutes = plan.in_minutes(args.hours)
    known = lessons(root)
    wanted = [lesson.number for lesson in choose(root, args.lessons)] if args.lessons else []
    made = plan.plan([outline(one) for one in known], minutes, wanted, plan.first_lessons(root))
    files = paper.write(root, made, known)
    print(paper.markdown(made))
    page, notes = (path.relative_to(root) for path in files[1:3])
    print(f"To print: {page}; notes: {notes}; quizzes and notebooks beside them")


@command("slides of the lessons from their last runs, with notes for the speaker", LESSONS)
def slides(args: argparse.Namespace, root: Path) -> None:
    from coursekit.workshop.slides import write

    for path in write(root, choose(root, args.lessons)):
        print(f"slides: {path.relative_to(root)}")


@command(
    "what was learned between the quiz before and the quiz after",
    arg("before", type=file_path, help="the folder of the files that participants saved, or one CSV of them all"),
    arg("after", type=file_path),
)
def gain(args: argparse.Namespace, root: Path) -> None:
    from coursekit.workshop import quizpage

    known = quizpage.asked_in(args.before, quizpage.topics(root / quizpage.QUESTIONS))
    for name, value in quizpage.gain(args.before, args.after, known).items():
        print(f"{name}: {value}")


@command(
    "wheels, course, data, models and book in one archive for a room without internet",
    *(arg("data", nargs="*", metavar="NAME", help="data sets and models to pack beside the bundled ones"), SHOWN, JOBS),
    arg("--output", type=Path, help="the archive (default: runs/bundle/…tar.gz)"),
    arg("--lessons", nargs="+", default=[], metavar="NN", help="the book shows only these (default: all)"),
    arg("--dirty", action="store_true", help="pack HEAD also where files differ from it"),
)
def bundle(args: argparse.Namespace, root: Path) -> None:
    from coursekit.workshop.bundle import make

    output = args.output.resolve() if args.output else None
    make(root, choose(root, args.lessons), args.data, output, args.profile, args.jobs, args.dirty)


@command(
    "run lessons × datasets × models × seeds, only what is missing",
    *(arg("grid", type=file_path, help="a YAML file, see workflow/grids"), *WORDS, JOBS, THREADS, ON),
    arg("--dry-run", action="store_true", help="only say what would run"),
)
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


@command("the leaderboard of all grids (or those named): table, page, figure", arg("grids", nargs="*", metavar="NAME"))
def board(args: argparse.Namespace, root: Path) -> None:
    from coursekit.rerun import board, boardpage

    tidy = board.results_of(root, args.grids)
    page = boardpage.publish(root, tidy)
    print(page.read_text(encoding="utf-8"))
    print(f"Scores: {root / boardpage.STORED}; page and figure for the book: {page.parent}")


@command(
    "tokenize and embed a file of any size in shards",
    *(arg("file", type=file_path, help=".h5ad or .zarr"), arg("--model", default="geneformer-mini"), JOBS, ON),
    arg("--cells-per-shard", type=int, default=10_000, help="memory goes with it (default 10000)"),
    arg("--counts-in", default="X", help="where the raw counts lie: X, layers/NAME or raw/X"),
    arg("--pooling", choices=("cls", "mean"), help="default: the model's own"),
    *(arg("--device", default="auto"), arg("--dtype", default="auto")),
    arg("--threads", type=int, default=1, help="threads of each job (default 1)"),
    arg("--gpus", type=int, default=0, help="GPUs to ask a cluster for, for each shard"),
)
def atlas(args: argparse.Namespace, root: Path) -> int:
    from coursekit.rerun import atlas

    names = ("cells_per_shard", "counts_in", "device", "dtype", "threads")
    choices: dict[str, Any] = {name: getattr(args, name) for name in names}
    choices["how"] = {"pooling": args.pooling} if args.pooling else {}
    choices["resources"] = {"gpu": args.gpus} if args.gpus else {}
    own = atlas.plan(root, args.file, args.model, **choices)
    made = atlas.make(own, args.jobs, args.on)
    print(atlas.words(own, made))
    return 0 if made else 1


@command(
    "",
    *(arg("plan", type=Path), arg("what", choices=("tokens", "embedding", "gather"))),
    arg("number", type=int, nargs="?", default=0),
    name="atlas-step",
)
def atlas_step(args: argparse.Namespace, root: Path) -> None:
    from coursekit.rerun.atlas import step

    step(args.plan, args.what, args.number)


@command("", arg("plan", type=Path), arg("key"), name="grid-run")
def grid_run(args: argparse.Namespace, root: Path) -> int:
    from coursekit.rerun.grid import run_one

    return 0 if run_one(args.plan, args.key) else 1
