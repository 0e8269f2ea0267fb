"""The wheels of everything that the locks name, for this platform, in one folder: what a room without internet installs from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from coursekit.course import CourseError
from coursekit.files import write_json
from coursekit.machine import facts
from coursekit.machine.lock import SITE_LOCK

LOCKS = (facts.LOCK, SITE_LOCK)  # the course with its tests, and the book
INSTALLER = "setuptools>=77"  # what `pip install -e .` needs, and a fresh environment lacks
STAMP = "complete.json"
TORCH_INDEX = "https://download.pytorch.org/whl/"


def python_tag() -> str:
    """The Python that the wheels are for, as people say it: 3.12."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def requirements(root: Path) -> list[str]:
    """One line per locked package, "name==version"; where a variant is installed here (torch 2.x+cpu), that variant."""
    found = {}
    for lock in LOCKS:
        found.update(facts.locked(root, lock))
    if not found:
        raise CourseError(f"{facts.LOCK} is missing or empty, so nobody knows which wheels to pack.")
    for name, version in found.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if "+" in here and here.split("+")[0] == version:
            found[name] = here
    return [f"{name}=={version}" for name, version in sorted(found.items())] + [INSTALLER]


def fill(root: Path, house: Path) -> list[Path]:
    """Get every wheel that is missing in ``house`` and return those that the locks need, in order of their names.

    What has been fetched stays, so that an interrupted call goes on. Afterwards pip itself proves, without any index, that the
    folder is enough. Raises CourseError with pip's last words where a package cannot be had.
    """
    wanted = requirements(root)
    text = "\n".join([*wanted, python_tag(), platform.system(), platform.machine(), sysconfig.get_platform()])
    key = hashlib.sha256(text.encode()).hexdigest()
    known = _stamp(house / STAMP)
    if known.get("key") == key and all((house / name).is_file() for name in known["wheels"]):
        return [house / name for name in known["wheels"]]
    house.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheels-") as scratch:
        file = Path(scratch) / "requirements.txt"
        file.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        fetch = ["wheel", "--wheel-dir", str(house), "--find-links", str(house), "-r", str(file)]
        failed = _pip(fetch)
        if failed:  # PyTorch's builds for one kind of machine lie in an index of their own
            own = sorted({line.rsplit("+", 1)[1] for line in wanted if "+" in line})
            failed = _pip([*fetch, *[word for name in own for word in ("--extra-index-url", TORCH_INDEX + name)]])
        if failed:
            raise CourseError(f"Not all wheels could be had (what came is kept in {house}; run it again):\n{failed}")
        wheels = resolved(file, house)
    write_json(house / STAMP, {"key": key, "wheels": [path.name for path in wheels]})
    return wheels


def resolved(requirements_file: Path, house: Path) -> list[Path]:
    """The wheels that pip would install from ``house`` alone. Raises CourseError where they are not enough."""
    with tempfile.TemporaryDirectory(prefix="wheels-") as scratch:
        report = Path(scratch) / "report.json"
        failed = _pip(
            [
                *("install", "--dry-run", "--ignore-installed", "--no-index", "--find-links", str(house)),
                *("--report", str(report), "-r", str(requirements_file)),
            ],
            alone=True,
        )
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
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "-q"], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return "" if done.returncode == 0 else "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:]) or "?"


def _stamp(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
