"""How a command is entered, and the arguments that several share.

A command is a function ``(args, root)`` that returns the exit status (0 or nothing: well, 1: not well); ``@command`` enters it into COMMANDS.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coursekit.course import PROFILES

Command = Callable[[argparse.Namespace, Path], int | None]
Adds = Callable[[argparse.ArgumentParser], Any]  # adds an argument to a command's parser
# name → function, help (none for what jobs call), arguments
COMMANDS: dict[str, tuple[Command, str, tuple[Adds, ...]]] = {}


def command(words: str, *arguments: Adds, name: str = "") -> Callable[[Command], Command]:
    """Decorator: the function is the command of its own name, or of ``name``."""

    def enter(function: Command) -> Command:
        COMMANDS[name or function.__name__] = (function, words, arguments)
        return function

    return enter


def arg(*names: str, **how: Any) -> Adds:
    """An argument as ``add_argument`` takes it."""
    return lambda parser: parser.add_argument(*names, **how)


def file_path(text: str) -> Path:
    """A path; the Makefile quotes it, so the shell has not put the home folder in the place of ~."""
    return Path(text).expanduser()


LESSON, LESSONS = arg("lesson", metavar="NN"), arg("lessons", nargs="*", metavar="NN", help="these (default: all)")
JOBS = arg("--jobs", type=int, default=1, help="how many at a time on this machine (default 1)")
SHOWN = arg("--profile", choices=PROFILES, default="quick", help="which runs to show (default quick)")
THREADS = arg("--threads", type=int, help="threads of BLAS, OpenMP and numba in each run")
ON = arg("--on", metavar="PROFILE", help="slurm, kubernetes, or a folder with a Snakemake profile")
_WORDS: dict[str, Any] = {"default": [], "metavar": "NAME=VALUE", "dest": "words"}
WORDS = (
    arg("-p", "--parameter", action="append", help="a parameter of the lesson", **_WORDS),
    arg("--with", action="extend", nargs="+", help="several at once", **_WORDS),
)
RUN = (
    *(arg("--profile", choices=PROFILES), *WORDS, THREADS),
    arg("--edition", choices=("solution", "learner"), default="solution"),
    arg("--runs", type=Path, help="where to put the runs (default: runs/<lesson>)"),
)
