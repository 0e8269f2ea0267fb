"""Snakemake, called for a plan: on this machine, or with a profile on a cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coursekit.course import CourseError
from coursekit.rerun.watchdog import me

# What is there is current and complete by its name (see the Snakefile), so that Snakemake keeps no books about it: after a kill
# it neither waits for a lock nor doubts a file.
OPTIONS = (
    *("--keep-going", "--nolock", "--ignore-incomplete", "--drop-metadata", "--rerun-triggers", "mtime"),
    *("--nocolor", "--show-failed-logs"),
)


def snakemake(
    plan_file: Path,
    jobs: int = 1,
    threads: int = 1,
    on: str | None = None,
    more: Sequence[str] = (),
    watch: Callable[[], None] | None = None,
) -> int:
    """Make all that a plan asks for; returns Snakemake's exit status. Its words go to snakemake.log beside the plan.

    ``jobs`` at a time with ``threads`` each; ``on``: a profile of workflow/profiles (or a folder) instead of this machine;
    ``more``: further options of Snakemake; ``watch`` is called twice a second. Ctrl-C ends the jobs too.

    Raises CourseError where Snakemake or the profile is missing.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise CourseError("A grid needs Snakemake. `make grid` installs it; by hand: pip install -e '.[grid]'")
    home = Path(__file__).resolve().parents[3] / "workflow"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(home / "Snakefile")]
    # `none`: not the profile that the user's SNAKEMAKE_PROFILE names, which may send everything to a cluster
    profile = str(profile_folder(home, on))
    where = ["--profile", profile] if on else ["--profile", "none", "--cores", str(jobs * threads)]
    command += ["--directory", str(plan_file.parent), "--config", f"plan={plan_file}", *OPTIONS, *where]
    command += ["--workflow-profile", "none", *more]
    env = dict(os.environ, COURSEKIT_GRID_DRIVER=me(), COURSEKIT_ROOT="", COURSE_PROFILE=profile)
    with open(plan_file.with_name("snakemake.log"), "w", encoding="utf-8") as log:
        # On a cluster in a session of its own: a closed terminal must not end it before it has cancelled its jobs
        streams: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        child = subprocess.Popen(command, **streams, env=env, start_new_session=on is not None)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.5)
                if watch:
                    watch()
                if child.returncode is not None:
                    return child.returncode
        except BaseException:
            if on is not None:  # it tells the cluster to cancel what waits and runs
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(60)
            _end(child.pid)
            raise


def profile_folder(home: Path, on: str | None) -> Path:
    """The folder of a profile: one of workflow/profiles by its name, or any that holds a config.yaml."""
    profile = home / "profiles" / (on or "")
    if on and not profile.is_dir() and Path(on).is_dir():
        profile = Path(on).resolve()
    if on and not (profile / "config.yaml").is_file():
        known = ", ".join(sorted(path.name for path in (home / "profiles").iterdir()))
        raise CourseError(f"There is no profile {on!r}. There are: {known}; or name a folder that holds a config.yaml.")
    return profile


def _end(pid: int) -> None:
    """End a process and all that it started, first kindly (a run then tidies up), after some seconds not so."""
    import psutil

    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        children = parent.children(recursive=True)
        parent.kill()  # Snakemake would otherwise take a terminated run for a failed one and start the next
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.terminate()
        for child in psutil.wait_procs(children, timeout=10)[1]:
            with contextlib.suppress(psutil.Error):
                child.kill()
