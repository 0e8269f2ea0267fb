"""What this machine is and has: processor, GPUs, packages; and which versions the course was tested with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOCK = "requirements.lock"


def said(command: Sequence[str], seconds: float | None = 20, **environment: str) -> str | None:
    """What a command prints, without the white space at its end; None where it is missing, fails, or takes longer."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip() if done.returncode == 0 else None


def git(root: Path, *words: str) -> str | None:
    """What git says about the course; None where it fails, or where the course has no repository of its own.

    A repository further up is somebody's thesis, into which an archive of the course was unpacked. A checkout may belong to another
    user than the one who runs it: whose code runs is asked nothing by git either.
    """
    own = root.resolve()
    trusted = ["git", "-c", f"safe.directory={own}", "-C", str(root), *words]
    return said(trusted, None, GIT_CEILING_DIRECTORIES=str(own.parent))


def git_state(root: Path) -> dict[str, Any]:
    """{"commit": hash or None outside git, "dirty": whether tracked or untracked files differ from it}."""
    commit = git(root, "rev-parse", "HEAD") or None
    return {"commit": commit, "dirty": bool(git(root, "status", "--porcelain")) if commit else None}


def locked(root: Path, name: str = LOCK) -> dict[str, str]:
    """The versions of requirements.lock (or the lock ``name``) for this Python and system, by normalized name.

    Empty where there is no lock. PyTorch's version stands there in a comment (coursekit.machine.lock).
    """
    path = root / name
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = {}
    for line in lines:
        match = re.match(r"(?:# )?([A-Za-z0-9][\w.-]*)==([^\s;#]+)(?: ; ([^\\]+))?", line)
        if match and (not match[3] or _holds(match[3])):
            found[normalized(match[1])] = match[2]
    return found


def _holds(marker: str) -> bool:
    """Whether a marker such as ``sys_platform == 'win32'`` is true here."""
    try:
        from packaging.markers import Marker
    except ImportError:  # what pip brings is enough
        from pip._vendor.packaging.markers import Marker  # type: ignore[assignment]
    return bool(Marker(marker.strip()).evaluate())


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """The version of every installed distribution, by normalized name."""
    return {normalized(found.metadata["Name"] or ""): found.version for found in importlib.metadata.distributions()}


def packages(root: Path) -> dict[str, str]:
    """The installed versions of all that the lock names (of everything installed where there is no lock)."""
    wanted = locked(root)
    return {name: version for name, version in sorted(installed().items()) if name and (not wanted or name in wanted)}


def device() -> dict[str, Any]:
    """Names of the CPU and of the GPUs, and the number of cores this process may use."""
    gpus = (said(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]) or "").splitlines()
    return {"cpu": cpu_name(), "cores": cores(), "gpus": [line.strip() for line in gpus]}


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace", encoding="utf-8"), re.M)
        if match:
            return match[1].strip()
    return said(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor() or platform.machine()
