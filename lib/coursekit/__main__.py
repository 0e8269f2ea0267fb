"""The command line: ``python -m coursekit build | run | course | site | progress | …`` (``--help`` lists them)."""

from __future__ import annotations

import argparse
import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coursekit.commands import COMMANDS
from coursekit.course import CourseError, find_root


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coursekit", description="Build, run and check the lessons of the course.")
    parser.add_argument("--root", type=Path, help="the course's folder (default: found from the current one)")
    known = parser.add_subparsers(dest="command", required=True)
    for name, (function, words, arguments) in COMMANDS.items():
        one = known.add_parser(name, help=words) if words else known.add_parser(name)  # jobs call it, not people
        one.set_defaults(go=function)
        for add in arguments:
            add(one)
    return parser


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
            return args.go(args, root) or 0
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
