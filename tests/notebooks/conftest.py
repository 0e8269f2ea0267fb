"""Each lesson is run once per edition, in the quick profile, and all tests look at that run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coursekit.course import choose
from coursekit.machine.facts import cores
from coursekit.run.execute import Run, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def lesson_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Run]:
    """``lesson_run(name, edition)`` → the run; made when it is first asked for."""
    done: dict[tuple[str, str], Run] = {}
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    threads = max(1, cores() // workers) if workers > 1 else None

    def make(name: str, edition: str) -> Run:
        if (name, edition) not in done:
            folder = tmp_path_factory.mktemp(f"{name}-{edition}")
            done[name, edition] = run(
                choose(ROOT, [name])[0], {"profile": "quick"}, edition=edition, folder=folder, threads=threads
            )
        return done[name, edition]

    return make
