"""Processes that tests start, wait for and kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable

import psutil


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def kill_and_wait(process: subprocess.Popen[str], whole_group: bool) -> None:
    """SIGKILL to the command alone or to all of its group; then wait until nothing that it started is left."""
    family = psutil.Process(process.pid).children(recursive=True)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()

    def gone() -> bool:
        for child in list(family):
            with contextlib.suppress(psutil.Error):
                family.extend(c for c in child.children(recursive=True) if c not in family)
        return not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in alive(family))

    wait_for(gone, 90)


def alive(family: list[psutil.Process]) -> list[psutil.Process]:
    return [child for child in family if psutil.pid_exists(child.pid)]
