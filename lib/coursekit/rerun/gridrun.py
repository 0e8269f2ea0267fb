"""Make a grid: what is missing runs, what failed is told in the end, the results go into one table."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.files import alone
from coursekit.rerun import snakemake
from coursekit.rerun.board import gather, write_table
from coursekit.rerun.grid import FAILED, GridRun, Plan
from coursekit.run import card as cards
from coursekit.run.courserun import bar


@dataclass(frozen=True)
class Report:
    """How a grid ended: runs that were ``there`` before, ``made`` now, ``failed`` (with their errors), and ``lost`` (no trace)."""

    there: list[GridRun]
    made: list[GridRun]
    failed: list[tuple[GridRun, dict[str, Any]]]
    lost: list[GridRun]

    @property
    def good(self) -> bool:
        """Whether every run is there."""
        return not self.failed and not self.lost


def make(plan: Plan, jobs: int = 1, on: str | None = None, more: Sequence[str] = ()) -> Report:
    """Run what is missing of a plan and report. Raises CourseError where another process is at work on the same grid."""
    with alone(plan.folder / "lock", f"The grid {plan.name} is being run by another process; wait for it, or stop it."):
        sweep(plan.folder / "scratch")
        missing = plan.missing()
        for run in missing:
            for card in (FAILED, "card.json"):  # of a run whose scores are gone: Snakemake would take it for current
                (run.folder(plan.store) / card).unlink(missing_ok=True)
        if missing:
            _run(plan, missing, jobs, on, more)
        still = {run.key for run in plan.missing()}
        failed, lost = [], []
        for run in plan.runs:
            if run.key in still:
                path = run.folder(plan.store) / FAILED
                if path.is_file():
                    failed.append((run, cards.read(path)))
                else:
                    lost.append(run)
        made = gather(run.folder(plan.store) for run in plan.runs if run.key not in still)
        write_table(made, plan.folder / "results.parquet")
        begun = {run.key for run in missing}
        there = [run for run in plan.runs if run.key not in begun]
        return Report(there, [run for run in missing if run.key not in still], failed, lost)


def sweep(scratch: Path) -> None:
    """Remove what killed runs of this host have left; a job on another host, or of an earlier grid, may still be at work."""
    import psutil

    for folder in scratch.glob("*~*~*"):
        host, pid, _ = folder.name.rsplit("~", 2)
        if host == socket.gethostname() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _run(plan: Plan, missing: list[GridRun], jobs: int, on: str | None, more: Sequence[str]) -> None:
    with bar(len(missing), "run", plan.name) as shown:

        def watch() -> None:
            ended = [r for r in missing if any((r.folder(plan.store) / n).is_file() for n in ("card.json", FAILED))]
            shown.update(len(ended) - shown.n)

        snakemake.snakemake(plan.write(), min(jobs, len(missing)), plan.threads, on, more, watch)


def preview(plan: Plan) -> str:
    """What would run, and what would not, without running anything."""
    titles, missing = plan.titles(), {run.key for run in plan.missing()}
    state = {run.key: "to run" if run.key in missing else "current" for run in plan.runs}
    lines = [f"{state[run.key]:<8} {run.lesson:<24} {titles[run.key]}" for run in plan.runs]
    n, new = len(plan.runs), len(missing)
    return "\n".join([*lines, f"{n} runs: {n - new} current, {new} to run."])


def words(plan: Plan, report: Report) -> str:
    """The report for people: a line for each run, then each failure with its error, then the sum."""
    lines = [f"{'lesson':<24} {'run':<48} {'status':<8} {'minutes':>7} {'memory':>10}", "-" * 101]
    failed = {run.key: card for run, card in report.failed}
    made = {run.key for run in report.made}
    titles = plan.titles()
    for run in plan.runs:
        path = run.folder(plan.store) / "card.json"
        card = failed.get(run.key) or (cards.read(path) if path.is_file() else None)
        state = "made" if run.key in made else "current"
        status = "FAILED" if run.key in failed else state if card else "no run"
        cost = f"{card['seconds'] / 60:>7.1f} {card['peak_memory_bytes'] / 2**20:>6,.0f} MiB" if card else ""
        lines.append(f"{run.lesson:<24} {titles[run.key]:<48} {status:<8} {cost}".rstrip())
    for run, card in report.failed:
        lines += ["", f"FAILED {run.lesson}: {titles[run.key]}", f"    {card.get('error', '')}"]
        lines.append(f"    {run.folder(plan.store) / 'traceback.txt'}")
    if report.lost:
        log = plan.folder / "snakemake.log"
        lines += ["", f"{len(report.lost)} runs did not come to an end; the last words of {log}:"]
        lines += [f"    {line}" for line in _tail(log, 40)]
    lines += ["", f"{len(plan.runs)} runs: {len(report.there)} current before, {len(report.made)} made now, "
              f"{len(report.failed)} failed, {len(report.lost)} not ended. Results: {plan.folder / 'results.parquet'}"]  # fmt: skip
    return "\n".join(lines)


def _tail(path: Path, n: int) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-n:] if path.is_file() else ["(no log)"]
