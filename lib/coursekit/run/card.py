"""The run card: what was run, on what, with which code, data and results. One JSON file beside the executed notebook."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coursekit.course import CourseError
from coursekit.files import file_hash, write_json
from coursekit.lesson.scores import FILE as SCORES
from coursekit.machine import facts

VERSION = 1


def surroundings(root: Path) -> dict[str, Any]:
    """What does not depend on the lesson: git, lock, Python, operating system, packages, device."""
    return {
        "git": facts.git_state(root),
        "lock_sha256": file_hash(root / facts.LOCK),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": facts.device(),
        "packages": facts.packages(root),
    }


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


def whose(parameters: Mapping[str, Any]) -> str:
    """On what a lesson was run, where it was not its own set: "on mine.h5ad (label = cell type)"; else ""."""
    from scfm.datasets import short_names, split_names

    if not parameters.get("dataset"):
        return ""
    names = short_names(split_names(str(parameters["dataset"]))).values()
    more = ", ".join(f"{name} = {parameters[name]}" for name in ("label", "batch") if parameters.get(name))
    return f"on {' + '.join(names)}" + (f" ({more})" if more else "")


def write(path: Path, card: dict[str, Any]) -> None:
    """Write a card, whole or not at all."""
    write_json(path, card, allow_nan=False)


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
