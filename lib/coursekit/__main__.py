"""The command line: ``python -m coursekit build | run | course | site | progress | …`` (``--help`` lists them)."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coursekit import commands
from coursekit.course import PROFILES, CourseError, find_root


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coursekit", description="Build, run and check the lessons of the course.")
    parser.add_argument("--root", type=Path, help="the course's folder (default: found from the current one)")
    known = parser.add_subparsers(dest="command", required=True)

    add = known.add_parser("build", help="make the notebooks from notebooks/source")
    add.add_argument("lessons", nargs="*", metavar="NN")
    add.add_argument("--check", action="store_true", help="change nothing; say what is wrong and exit 1")
    add.set_defaults(go=commands.build)

    add = known.add_parser("run", help="run one lesson and keep notebook, page and card")
    add.add_argument(
        "lesson", metavar="NN", type=os.path.expanduser, help="number, name, or the path of a notebook you changed"
    )
    _run_options(add)
    add.add_argument("--again", action="store_true", help="start from the parameters of its last run")
    add.add_argument("--progress-lines", action="store_true", help=argparse.SUPPRESS)
    add.set_defaults(go=commands.run)

    add = known.add_parser("course", help="run all lessons (or those named) and end with a table")
    add.add_argument("lessons", nargs="*", metavar="NN")
    _run_options(add)
    add.add_argument("--jobs", type=int, default=1, help="lessons at a time (default 1)")
    add.set_defaults(go=commands.course)

    add = known.add_parser("verify", help="run a card's lesson again and compare the results")
    add.add_argument("card", type=_file, help="card.json or its folder")
    add.set_defaults(go=commands.verify)

    add = known.add_parser("expect", help="draft tests/notebooks/expected/NN.toml from a lesson's last run")
    add.add_argument("lesson", metavar="NN")
    add.add_argument("--write", action="store_true", help="write the file where there is none")
    add.set_defaults(go=commands.expect)

    add = known.add_parser("list", help="the lessons with their parameters")
    add.set_defaults(go=commands.list_lessons)

    add = known.add_parser("table", help="the table of the last run of each lesson")
    add.set_defaults(go=commands.table)

    add = known.add_parser("progress", help="which exercises you have solved")
    add.set_defaults(go=commands.progress)

    add = known.add_parser("site", help="build the book from the last run of each lesson, running what is missing")
    add.add_argument("lessons", nargs="*", metavar="NN", help="only these (default: all)")
    add.add_argument("--profile", choices=PROFILES, default="quick", help="which runs to show (default quick)")
    add.add_argument("--jobs", type=int, default=1, help="lessons at a time (default 1)")
    add.add_argument("--output", type=Path, help="where to put it (default site/_build/html)")
    add.add_argument("--fresh", action="store_true", help="run all lessons again")
    add.set_defaults(go=commands.site)

    add = known.add_parser("workshop", help="a schedule of any length, notes and instructor notebooks")
    add.add_argument("--hours", default="3", help="1 to 40, breaks included (default 3)")
    add.add_argument("lessons", nargs="*", metavar="NN", help="these lessons (default: as many as fit)")
    add.set_defaults(go=commands.workshop)

    add = known.add_parser("slides", help="slides of the lessons from their last runs, with notes for the speaker")
    add.add_argument("lessons", nargs="*", metavar="NN")
    add.set_defaults(go=commands.slides)

    add = known.add_parser("gain", help="what was learned between the quiz before and the quiz after")
    add.add_argument("before", type=Path, help="CSV: participant and a column per topic")
    add.add_argument("after", type=Path)
    add.set_defaults(go=commands.gain)

    add = known.add_parser("grid", help="run lessons × datasets × models × seeds, only what is missing")
    add.add_argument("grid", type=_file, help="a YAML file, see workflow/grids")
    _words(add)
    add.add_argument("--jobs", type=int, default=1, help="runs at a time on this machine (default 1)")
    add.add_argument("--threads", type=int, help="threads of each run (default: what the grid says)")
    add.add_argument("--on", metavar="PROFILE", help="slurm, kubernetes, or a folder with a Snakemake profile")
    add.add_argument("--dry-run", action="store_true", help="only say what would run")
    add.set_defaults(go=commands.grid)

    add = known.add_parser("board", help="the leaderboard of all grids (or those named): table, page, figure")
    add.add_argument("grids", nargs="*", metavar="NAME")
    add.set_defaults(go=commands.board)

    add = known.add_parser("atlas", help="tokenize and embed a file of any size in shards")
    add.add_argument("file", type=_file, help=".h5ad or .zarr")
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
    add.set_defaults(go=commands.atlas)

    add = known.add_parser(
        "bundle", help="wheels, course, data, models and book in one archive for a room without internet"
    )
    add.add_argument("data", nargs="*", metavar="NAME", help="data sets and models to pack beside the bundled ones")
    add.add_argument("--profile", choices=PROFILES, default="quick", help="which runs the book shows (default quick)")
    add.add_argument("--jobs", type=int, default=1, help="lessons at a time, where runs are missing (default 1)")
    add.add_argument("--output", type=Path, help="the archive (default: runs/bundle/…tar.gz)")
    add.add_argument("--lessons", nargs="+", default=[], metavar="NN", help="the book shows only these (default: all)")
    add.add_argument("--dirty", action="store_true", help="pack HEAD also where files differ from it")
    add.set_defaults(go=commands.bundle)

    add = known.add_parser("changed", help="the lessons that a change can have touched, as JSON (all without --since)")
    add.add_argument("--since", metavar="REF", help="a commit; one that is not here means all lessons")
    add.set_defaults(go=commands.changed)

    add = known.add_parser("new", help="begin a lesson, or enter a data set or a model (see CONTRIBUTING.md)")
    kinds = add.add_subparsers(dest="what", required=True)
    kind = kinds.add_parser("lesson", help="42_my_question: source, checkers and expectations that run as they are")
    kind.add_argument("name")
    kind = kinds.add_parser(
        "dataset", help="a file (or a folder of 10x or .zarr) of raw counts becomes a data set with a name"
    )
    kind.add_argument("name")
    kind.add_argument("file", type=_file)
    kind.add_argument("--label", default="", help="column of obs that holds the cell types")
    kind.add_argument("--batch", default="", help="column of obs that holds batches or donors")
    kind = kinds.add_parser("model", help="the Geneformer or scGPT in data/models/NAME becomes a model with a name")
    kind.add_argument("name")
    kind.add_argument("--random", action="store_true", help="write that folder first, with random weights, to try it")
    add.set_defaults(go=commands.new)

    add = known.add_parser("readme", help="keep the results of the last runs, and write the README's table from them")
    add.add_argument("--runs", type=Path, action="append", default=[], help="runs that were made elsewhere (on a GPU)")
    add.set_defaults(go=commands.readme)

    add = known.add_parser("atlas-step")  # what a job of the atlas calls
    add.add_argument("plan", type=Path)
    add.add_argument("what", choices=("tokens", "embedding", "gather"))
    add.add_argument("number", type=int, nargs="?", default=0)
    add.set_defaults(go=commands.atlas_step)

    add = known.add_parser("grid-run")  # what a job of the grid calls
    add.add_argument("plan", type=Path)
    add.add_argument("key")
    add.set_defaults(go=commands.grid_run)

    add = known.add_parser("lock", help="write requirements*.lock and environment.yml with uv")
    add.add_argument("--upgrade", action="store_true", help="take newer versions")
    add.set_defaults(go=commands.lock)

    add = known.add_parser("doctor", help="is this machine ready for the course?")
    add.add_argument("--offline", action="store_true", help="do not try the network")
    add.set_defaults(go=commands.doctor)
    return parser


def _file(text: str) -> Path:
    """A path; the Makefile quotes it, so the shell has not put the home folder in the place of ~."""
    return Path(text).expanduser()


def _words(add: argparse.ArgumentParser) -> None:
    words: dict[str, Any] = {"default": [], "metavar": "NAME=VALUE", "dest": "words"}
    add.add_argument("-p", "--parameter", action="append", help="a parameter of the lesson", **words)
    add.add_argument("--with", action="extend", nargs="+", help="several at once", **words)


def _run_options(add: argparse.ArgumentParser) -> None:
    add.add_argument("--profile", choices=PROFILES)
    _words(add)
    add.add_argument("--edition", choices=("solution", "learner"), default="solution")
    add.add_argument("--threads", type=int, help="limit the threads of BLAS, OpenMP and numba")
    add.add_argument("--runs", type=Path, help="where to put the runs (default: runs/<lesson>)")


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM (a cluster's or a container's way to stop) and SIGHUP (a closed terminal's) end a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heard = [number for number in known if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_words(error: Exception) -> str | None:
    """An error as a sentence where it was made for people (ours, scfm's, the system's about a file); None for a fault of ours."""
    if isinstance(error, CourseError) or any(kind.__module__.split(".")[0] == "scfm" for kind in type(error).__mro__):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in ("coursekit", "scfm"):
        return f"the package {error.name!r} is missing. Run: make setup (make doctor tells more)"
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
    return None


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status (0 well, 1 not well, 2 wrong use, 130 stopped)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not know the tick of `progress`
    args = _parser().parse_args(argv)
    try:
        root = args.root.resolve() if args.root else find_root()
        with _terminate_as_interrupt():
            return int(args.go(args, root))
    except KeyboardInterrupt:
        print("\ncoursekit: stopped; what was finished is kept.", file=sys.stderr)
        return 130
    except Exception as error:
        words = _in_words(error)
        if words is None:
            raise
        print(f"coursekit: {words}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
