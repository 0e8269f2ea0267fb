"""Offline checks of exercises, with hints in steps.

In a notebook: ``check.exercise("02.1", answer)``. It never raises: a wrong answer, an answer that crashes and an open
stub are all told in words, and every failed attempt shows the next hint.

A checker stands next to its lesson, in ``notebooks/source/checks_02.py``::

    from coursekit.check import checker, need

    @checker("02.1", hints=["A nudge.", "The idea.", "Nearly the line itself."])
    def stable_order(order):
        got = order([3.0, 1.0, 3.0])
        need(list(got) == [0, 2, 1], f"order([3, 1, 3]) gave {list(got)}; expected [0, 2, 1].")
        return "What to say when it is right (optional)."
"""

from __future__ import annotations

import contextlib
import dis
import functools
import html
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, checks_path, find_root
from coursekit.lesson import progress
from coursekit.lesson.recording import is_quiet, show_bundle

MIME = "application/vnd.coursekit.check+json"


class NotYet(Exception):
    """Raised by ``need``: the answer is not right yet, and this says why."""


@dataclass
class Checker:
    """The checker of one exercise: ``function(*answers, **context)`` and its ``hints`` from mild to strong."""

    number: str
    function: Callable[..., Any]
    hints: Sequence[str]


@dataclass
class Result:
    """What a check found: ``passed``, a ``message`` in words, and the ``hint`` that this attempt uncovered."""

    number: str
    passed: bool
    message: str
    hint: str = ""
    open: bool = False  # an untouched stub, on which no hint is spent

    def text(self) -> str:
        """The result as plain text."""
        lines = [f"{'✓' if self.passed else '○' if self.open else '✗'} Exercise {self.number}: {self.message}"]
        return "\n".join([*lines, self.hint] if self.hint else lines)

    def html(self) -> str:
        """The result as a coloured box; symbol and words say the same as the colour."""
        colour = "#009e73" if self.passed else "#777777" if self.open else "#d55e00"  # Okabe-Ito
        body = "<br>".join(html.escape(line) for line in self.text().splitlines())
        return f'<div style="border-left:4px solid {colour};padding:.4em .8em;margin:.3em 0">{body}</div>'


_registry: dict[str, Checker] = {}
_files: dict[Path, tuple[float, dict[str, Checker]]] = {}  # path → when it was changed, what it holds
_failures: dict[str, int] = {}


def checker(number: str, hints: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function the checker of exercise ``number`` ("02.1"); at least one hint, mild ones first."""
    if isinstance(hints, str) or not hints:
        raise ValueError(f"The checker of exercise {number} needs a list of at least one hint.")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        if number in _registry:
            raise ValueError(f"Exercise {number} has two checkers: {_registry[number].function.__name__} and this one.")
        _registry[number] = Checker(number, function, tuple(hints))
        return function

    return register


def need(condition: Any, message: str) -> None:
    """Fail the attempt with ``message`` (what was wrong, what was expected) unless ``condition`` holds."""
    if not bool(condition):
        raise NotYet(message)


def exercise(number: str, *answers: Any, **context: Any) -> None:
    """Check the answers to an exercise and show the result; never raises.

    ``answers`` are the learner's; ``context`` hands things of the lesson to the checker by name.
    """
    if is_quiet():
        return
    result = run(number, *answers, **context)
    if not result.open:
        with contextlib.suppress(CourseError):
            progress.note(find_root(), number, result.passed)
    data = {"number": result.number, "passed": result.passed, "open": result.open}
    show_bundle({MIME: data, "text/html": result.html(), "text/plain": result.text()})


def hint(number: str) -> None:
    """Show the next hint of an exercise without an attempt."""
    try:
        text = _next_hint(_find(number))
    except Exception as error:
        text = _told(error)
    show_bundle({"text/plain": text})


def run(number: str, *answers: Any, **context: Any) -> Result:
    """Check the answers to an exercise and return the Result; never raises (interrupting the kernel still works)."""
    try:
        found = _find(number)
    except Exception as error:  # a missing or broken checks file must not stop a learner's notebook
        return Result(number, False, f"This exercise cannot be checked: {_told(error)}")
    blank = Result(number, False, "still open. Put your answer in place of the ... and run the cell again.", open=True)
    if not answers or any(_is_open(answer) for answer in answers):
        return blank
    watched = [_Watched(answer) if inspect.isfunction(answer) else answer for answer in answers]
    try:
        praise = found.function(*watched, **context)
    except (Exception, SystemExit) as error:  # an answer may call sys.exit
        silent = [answer for answer in watched if isinstance(answer, _Watched) and answer.returned_nothing]
        if any(not answer.forgot_return for answer in silent):
            return blank
        if silent:
            message = "not yet. Your function returns nothing: its last line has to be `return` and the value."
            return Result(number, False, message)
        message = str(error) if isinstance(error, NotYet) else f"your answer could not be used. {_told(error)}"
        return Result(number, False, f"not yet. {message}", _next_hint(found))
    return Result(number, True, f"right. {praise}" if isinstance(praise, str) else "right.")


# the steps of a function that only returns a constant, as the ... of a stub is
_OF_A_STUB = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}


class _Watched:
    """A learner's function that remembers whether it returned nothing, and whether it is still the stub."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.returned_nothing = self.forgot_return = False
        self._is_stub = {step.opname for step in dis.get_instructions(function)} <= _OF_A_STUB

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        value = self._function(*args, **kwargs)
        self.returned_nothing = self.returned_nothing or _is_open(value)
        self.forgot_return = self.forgot_return or (value is None and not self._is_stub)
        return value


def _is_open(answer: Any) -> bool:
    """Whether an answer is, or holds, the ``...`` or None of a stub."""
    if answer is None or answer is ...:
        return True
    if isinstance(answer, dict):
        return any(_is_open(item) for item in answer.values())
    if isinstance(answer, (list, tuple)) and len(answer) <= 1000:
        return any(item is ... or item is None for item in answer)
    return False


def _next_hint(found: Checker) -> str:
    """The hint of this failed attempt; after the last one, the last again."""
    spent = _failures.get(found.number, 0)
    _failures[found.number] = spent + 1
    which = min(spent, len(found.hints) - 1)
    return f"Hint {which + 1} of {len(found.hints)}: {found.hints[which]}"


def _told(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _find(number: str) -> Checker:
    path = checks_path(find_root(), number.split(".")[0])
    if not path.is_file():
        raise LookupError(f"the file notebooks/source/{path.name} is missing.")
    known = load(path)
    if number not in known:
        raise LookupError(f"{path.name} has no checker for {number} (it has {', '.join(known) or 'none'}).")
    return known[number]


def load(path: Path) -> dict[str, Checker]:
    """All checkers of a checks file by exercise number; read again when the file has changed."""
    path = path.resolve()
    stamp = path.stat().st_mtime
    if path not in _files or _files[path][0] != stamp:
        _registry.clear()
        try:
            spec = importlib.util.spec_from_file_location(f"coursekit_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            _files[path] = stamp, dict(_registry)
        finally:
            _registry.clear()
    return _files[path][1]


def reset() -> None:
    """Forget all failed attempts, so that hints begin again."""
    _failures.clear()
