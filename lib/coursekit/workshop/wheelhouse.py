"""The wheels that set up the course on a machine like this one without internet, in one folder; pip fetches and verifies them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from coursekit.course import CourseError
from coursekit.machine import facts, lock

LOCKS = (facts.LOCK, lock.name_of("site"))  # the course with its tests, and the book
TORCH_INDEX = "https://download.pytorch.org/whl/"


def python_tag() -> str:
    """The Python that the wheels are for, as people say it: 3.12."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def requirements(root: Path) -> list[str]:
    """One line per locked package, "name==version"; where a variant is installed here (torch 2.x+cpu), that variant."""
    found = {name: version for file in LOCKS for name, version in facts.locked(root, file).items()}
    if not found:
        raise CourseError(f"{facts.LOCK} is missing or empty, so nobody knows which wheels to pack.")
    for name, version in found.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            here = importlib.metadata.version(name)
            found[name] = here if here.split("+")[0] == version else version
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def fill(root: Path, house: Path) -> list[Path]:
    """Get every wheel that is missing in ``house`` and return those that the locks need, in order of their names.

    What has been fetched stays, so that an interrupted call goes on. Raises CourseError with pip's last words where a package
    cannot be had.
    """
    wanted = requirements(root)
    house.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheels-") as scratch:
        pins = Path(scratch) / "pins.txt"
        pins.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        with contextlib.suppress(CourseError):
            return resolved(pins, house)
        fetch = ["download", "--only-binary", ":all:", "--dest", str(house), "--find-links", str(house)]
        locks = [word for file in LOCKS for word in ("-r", str(root / file))]
        torch = [line for line in wanted if line.startswith("torch==")]
        of_torch = [*fetch, "-c", str(pins), *torch]
        failed = _pip([*fetch, "--no-deps", "--require-hashes", *locks]) or (_pip(of_torch) if torch else "")
        if failed and "+" in "".join(torch):  # PyTorch's builds for one kind of machine lie in an index of their own
            failed = _pip([*of_torch, "--extra-index-url", TORCH_INDEX + torch[0].rsplit("+", 1)[1]])
        if failed:
            raise CourseError(f"Not all wheels could be had (what came is kept in {house}; run it again):\n{failed}")
        return resolved(pins, house)


def resolved(pins: Path, house: Path) -> list[Path]:
    """The wheels that pip would install from ``house`` alone. Raises CourseError where they are not enough."""
    with tempfile.TemporaryDirectory(prefix="wheels-") as scratch:
        report = Path(scratch) / "report.json"
        words = ["install", "--dry-run", "--ignore-installed", "--no-index", "--find-links", str(house)]
        failed = _pip([*words, "--report", str(report), "-r", str(pins)], alone=True)
        if failed:
            raise CourseError(f"The wheels in {house} are not enough to set up the course:\n{failed}")
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
    paths = [Path(url2pathname(unquote(urlparse(entry["download_info"]["url"]).path))) for entry in entries]
    return sorted(house / path.name for path in paths)


def _pip(words: Sequence[str], alone: bool = False) -> str:
    """Run pip; "" when it went well, else the end of what it said. ``alone``: without this machine's settings."""
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    if alone:
        env = {name: value for name, value in env.items() if not name.startswith("PIP_")}
        env["PIP_CONFIG_FILE"] = os.devnull
    command = [sys.executable, "-m", "pip", *words, "-q"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return "" if done.returncode == 0 else "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:]) or "?"
