"""Run many lessons, each in a process of its own, with a progress bar per lesson and a table at the end."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.course import Lesson
from coursekit.lesson.recording import HEADLINE, headline_in_words, in_words
from coursekit.machine.facts import cores
from coursekit.run import card as cards

KEY_RESULTS = 4


@dataclass
class Outcome:
    """How one lesson of a course run ended: its ``card`` and ``folder``, or the last ``words`` it said."""

    lesson: Lesson
    folder: Path | None
    card: dict[str, Any] | None
    words: str = ""


def run_all(chosen: Sequence[Lesson], options: Sequence[str], jobs: int = 1) -> list[Outcome]:
    """Run lessons in order, ``jobs`` at a time; ``options`` are those of ``coursekit run``.

    A lesson that fails does not stop the others, and every one of ``chosen`` has its outcome, also where its process could not
    be started or listened to. Where several run at a time they share the cores, unless ``options`` or OMP_NUM_THREADS say how
    many threads there are. Ctrl-C stops all of them and raises KeyboardInterrupt.
    """
    jobs = max(1, min(jobs, len(chosen)))
    told = "--threads" in options or "OMP_NUM_THREADS" in os.environ
    threads = ["--threads", str(max(1, cores() // jobs))] if jobs > 1 and not told else []
    children: list[subprocess.Popen[str]] = []
    stopping = threading.Event()

    def work(lesson: Lesson, own: Any) -> Outcome:
        try:
            return _one(lesson, [*options, *threads], own, children, stopping)
        except Exception as error:  # else the lesson would be missing from the table
            return Outcome(lesson, None, None, f"{type(error).__name__}: {error}")

    with contextlib.ExitStack() as stack:
        bars = [stack.enter_context(bar(1, " step", one.name, place)) for place, one in enumerate(chosen)]
        pool = ThreadPoolExecutor(jobs)
        try:
            return list(pool.map(work, chosen, bars))
        except KeyboardInterrupt:
            stopping.set()
            for child in children:
                child.terminate()  # not SIGINT: a child of a background job inherits that it is ignored
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(15)
                child.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def bar(total: int, unit: str, name: str = "", place: int = 0) -> Any:
    """A progress bar on stderr; in a log, a line now and then is enough."""
    from tqdm import tqdm

    every = 0.1 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=name or None, unit=unit, position=place, mininterval=every, file=sys.stderr)


def _one(lesson: Lesson, options: list[str], bar: Any, children: list[Any], stopping: threading.Event) -> Outcome:
    command = [sys.executable, "-m", "coursekit", "run", lesson.name, *options, "--progress-lines"]
    folder: Path | None = None
    said: list[str] = []
    bar.reset(total=bar.total)  # the clock of the bar begins when the lesson does
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",  # a lesson may print any byte
        env=dict(os.environ, COURSEKIT_ROOT=str(lesson.root)),
    ) as child:  # waited for in any case
        children.append(child)
        if stopping.is_set():
            child.terminate()
        assert child.stdout is not None
        for line in child.stdout:
            if progress := _progress(line):
                done, bar.total = progress
                bar.update(done - bar.n)
            elif line.startswith("@folder "):
                folder = Path(line.removeprefix("@folder ").strip())
            elif line.strip():
                said.append(line.rstrip())
    bar.refresh()
    card = cards.read(folder) if folder and (folder / "card.json").is_file() else None
    words = "" if stopping.is_set() else "\n".join(said[-12:])
    return Outcome(lesson, folder, card, words)


def _progress(line: str) -> tuple[int, int] | None:
    """(done, total) of a line that `run.progress_line` printed; None for any other, also one that another text was printed into."""
    found = re.fullmatch(r"@progress \[(\d+), (\d+)\]\s*", line)
    return (int(found[1]), int(found[2])) if found else None


def key_results(card: dict[str, Any]) -> list[tuple[str, Any]]:
    """The results to show in a table beside the headline: those recorded with ``key=True``; without either the first few numbers."""
    results = card["results"]
    chosen = [name for name, entry in results.items() if entry.get("key")]
    plain = [name for name, entry in results.items() if not isinstance(entry["value"], (dict, list))]
    return [(name, results[name]["value"]) for name in chosen or plain[: 0 if HEADLINE in results else KEY_RESULTS]]


def headline(card: Mapping[str, Any]) -> str:
    """The lesson's one result in words; "" where it has none."""
    found = card["results"].get(HEADLINE, {}).get("value")
    return headline_in_words(found) if isinstance(found, dict) else ""


def table(outcomes: Sequence[Outcome]) -> str:
    """The table that ends ``make course``: lesson, minutes, peak memory, key results, where notebook and HTML lie."""
    lines = [f"{'lesson':<28} {'status':<7} {'minutes':>7} {'memory':>9}  results", "-" * 100]
    for outcome in outcomes:
        card = outcome.card
        if card is None:
            lines.append(f"{outcome.lesson.name:<28} {'ERROR':<7} {'-':>7} {'-':>9}")
            lines += [f"    {line}" for line in outcome.words.splitlines()]
            continue
        memory = f"{card['peak_memory_bytes'] / 2**20:,.0f} MiB"
        status = "ok" if card["status"] == "passed" else "FAILED"
        found = [f"{name} = {in_words(value, 60)}" for name, value in key_results(card)]
        head = f"{outcome.lesson.name:<28} {status:<7} {card['seconds'] / 60:>7.1f} {memory:>9}  "
        lines.append(head + (found[0] if found else ""))
        lines += [" " * len(head) + line for line in found[1:]]
        lines += [f"    {line}" for line in (cards.whose(card["parameters"]), headline(card)) if line]
        if "error" in card:
            lines.append(f"    {card['error']}")
        assert outcome.folder is not None
        files = ["notebook.ipynb", "notebook.html"] + (["traceback.txt"] if "error" in card else [])
        lines += [f"    {_short(outcome.folder / name)}" for name in files]
    return "\n".join(lines)


def _short(path: Path) -> str:
    """A path as seen from the current folder where that is shorter."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
