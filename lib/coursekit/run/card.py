"""The run card: what was run, on what, with which code, data and results. One JSON file beside the executed notebook."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, atomic_write
from coursekit.lesson.scores import FILE as SCORES

VERSION = 1
LOCK = "requirements.lock"


def surroundings(root: Path) -> dict[str, Any]:
    """What does not depend on the lesson: git, lock, Python, operating system, packages, device."""
    return {
        "git": git_state(root),
        "lock_sha256": file_hash(root / LOCK),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": device(),
        "packages": packages(root),
    }


def git_state(root: Path) -> dict[str, Any]:
    """{"commit": hash or None outside git, "dirty": whether tracked or untracked files differ from it}."""
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    status = _output(["git", "-C", str(root), "status", "--porcelain"])
    return {"commit": commit or None, "dirty": bool(status) if commit else None}


def file_hash(path: Path) -> str | None:
    """The sha256 of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def locked(root: Path, name: str = LOCK) -> dict[str, str]:
    """The versions of requirements.lock (or the lock ``name``) by normalized name; empty where there is no lock."""
    path = root / name
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = {}
    for line in lines:
        match = re.match(r"^([A-Za-z0-9][\w.-]*)==([^\s;#]+)", line)
        if match:
            found[normalized(match[1])] = match[2]
    return found


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(root: Path) -> dict[str, str]:
    """The installed versions of all that the lock names (of everything installed where there is no lock)."""
    wanted = locked(root)
    found = {}
    for distribution in importlib.metadata.distributions():
        name = normalized(distribution.metadata["Name"] or "")
        if name and (not wanted or name in wanted):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def device() -> dict[str, Any]:
    """Names of the CPU and of the GPUs, and the number of cores this process may use."""
    gpus = _output(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]).splitlines()
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
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.M)
        if match:
            return match[1].strip()
    return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor() or platform.machine()


def provenance(path: Path) -> list[dict[str, Any]]:
    """The distinct datasets and models that a run said it used (see COURSEKIT: SCFM_PROVENANCE); broken lines are kept as text."""
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"kind": "unreadable", "name": line[:200], "sha256": None}
        if entry not in found:
            found.append(entry)
    return found


def write(path: Path, card: dict[str, Any]) -> None:
    """Write a card, whole or not at all."""
    with atomic_write(path) as handle:
        json.dump(card, handle, indent=1, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


def read(path: Path) -> dict[str, Any]:
    """Read a card (a path of the card or of its folder). Raises CourseError where it is missing or no card."""
    path = path / "card.json" if path.is_dir() else path
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"There is no run card at {path}. A run writes one: python -m coursekit run 01") from error
    except ValueError as error:
        raise CourseError(f"{path} is no run card: {error}") from error
    if not isinstance(card, dict) or card.get("card") != VERSION:
        raise CourseError(f"{path} is no run card of version {VERSION}.")
    return card


def complete(folder: Path) -> bool:
    """Whether a run is whole: its card, and the scores where the card names some."""
    try:
        return not read(folder).get("scores") or (folder / SCORES).is_file()
    except CourseError:  # no card, or none that can be read
        return False


def latest(folder: Path) -> Path | None:
    """The newest card below a lesson's folder of runs."""
    cards = sorted(folder.glob("*/card.json"), key=lambda path: path.stat().st_mtime)
    return cards[-1] if cards else None


def _output(command: list[str]) -> str:
    """The output of a command, empty where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
