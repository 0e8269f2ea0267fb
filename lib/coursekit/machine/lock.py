"""requirements.lock: the tested versions, and whether pyproject.toml and environment.yml say the same.

What only the book, its tests and the grids need stands in locks of their own, so that setting up the course stays small.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

from coursekit.course import CourseError
from coursekit.files import write_text
from coursekit.machine import facts

OWN = "scfm-course"
SITE_LOCK = "requirements-site.lock"
GRID_LOCK = "requirements-grid.lock"
# what is installed on first use: lock → the extras it holds, and the command that installs them
EXTRA_LOCKS = {SITE_LOCK: (("site", "browser"), "make site test-full"), GRID_LOCK: (("grid",), "make grid")}
# What differs by platform and comes by itself with torch; and the installers, which are not the course's
LEFT_OUT = re.compile(r"^(nvidia-|cuda-|triton$|pytorch-triton|pip$|setuptools$|wheel$)")


def write(root: Path) -> Path:
    """Write the versions installed here to the locks, without addresses and without suffixes such as +cpu.

    requirements.lock gets what the course and its tests need, each of ``EXTRA_LOCKS`` what its extras add to that. Returns the
    first.
    """
    project = _project(root)
    extras = project.get("optional-dependencies", {})
    course = closure([*project["dependencies"], *extras.get("dev", [])])
    wanted = {root / facts.LOCK: course}
    for name, (own, _) in EXTRA_LOCKS.items():
        found = closure([text for extra in own for text in extras.get(extra, [])])
        wanted[root / name] = {key: found[key] for key in found.keys() - course.keys()}
    for path, found in wanted.items():
        if found or path.is_file():
            write_text(path, "\n".join(found[name] for name in sorted(found)) + "\n")
    return root / facts.LOCK


def closure(wanted: list[str]) -> dict[str, str]:
    """normalized name -> "Name==version" of everything that ``wanted`` draws in and that is installed here."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    todo = [Requirement(text) for text in wanted]
    seen = set()
    while todo:
        requirement = todo.pop()
        name = facts.normalized(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen or LEFT_OUT.match(name) or name == OWN:
            continue
        seen.add(key)
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not for this platform, or not installed: `disagreements` names what is missing
        found[name] = f"{distribution.metadata['Name']}=={distribution.version.split('+')[0]}"
        for text in distribution.requires or []:
            further = Requirement(text)
            if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in (*requirement.extras, "")):
                todo.append(further)
    return found


def disagreements(root: Path) -> list[str]:
    """Where pyproject.toml, environment.yml and requirements.lock do not say the same, one sentence each."""
    from packaging.requirements import Requirement

    project = _project(root)
    wanted = [*project["dependencies"], *project.get("optional-dependencies", {}).get("dev", [])]
    locked = facts.locked(root)
    problems = []
    for text in wanted:
        requirement = Requirement(text)
        version = locked.get(facts.normalized(requirement.name))
        if version is None:
            problems.append(f"{requirement.name} is in pyproject.toml and not in {facts.LOCK}. Run: make lock")
        elif not requirement.specifier.contains(version, prereleases=True):
            problems.append(
                f"{facts.LOCK} has {requirement.name} {version}; pyproject.toml wants {requirement.specifier}."
            )
    problems += _extra_disagreements(root, project)
    for line in (root / facts.LOCK).read_text(encoding="utf-8").splitlines():
        if line and not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!]+", line):
            problems.append(f"{facts.LOCK} has a line that is no plain version: {line}")
    conda, pip = _environment(root)
    python = next((word.removeprefix("python") for word in conda if re.match(r"python[<>=]", word)), "")
    if set(python.split(",")) != set(project["requires-python"].split(",")):
        problems.append(f"environment.yml has python{python}; pyproject.toml wants {project['requires-python']}.")
    ours, theirs = ({_key(text) for text in words} for words in (wanted, [w for w in pip if not w.startswith("-")]))
    problems += [f"{text} is in pyproject.toml and not in environment.yml." for text in sorted(ours - theirs)]
    problems += [f"{text} is in environment.yml and not in pyproject.toml." for text in sorted(theirs - ours)]
    if "-c requirements.lock" not in pip:
        problems.append("environment.yml does not hold its packages to the tested versions (-c requirements.lock).")
    return problems


def _extra_disagreements(root: Path, project: dict[str, Any]) -> list[str]:
    from packaging.requirements import Requirement

    problems = []
    for name, (extras, command) in EXTRA_LOCKS.items():
        locked = facts.locked(root, name)
        for extra in extras:
            for requirement in map(Requirement, project.get("optional-dependencies", {}).get(extra, [])):
                version = locked.get(facts.normalized(requirement.name))
                if version is None or not requirement.specifier.contains(version, prereleases=True):
                    problems.append(
                        f"{name} has {requirement.name} {version or 'not at all'}; the extra {extra} wants "
                        f"{requirement.specifier}. Run: {command}, then make lock"
                    )
    return problems


def _project(root: Path) -> dict[str, Any]:
    return dict(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def _key(text: str) -> str:
    return re.sub(r"\s", "", text).lower().replace("_", "-")


def _environment(root: Path) -> tuple[list[str], list[str]]:
    """The conda and the pip requirements of environment.yml; read line by line, for its form is plain."""
    try:
        lines = (root / "environment.yml").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CourseError("environment.yml is missing.") from error
    body = lines[lines.index("dependencies:") + 1 :]
    items = [
        (len(line) - len(line.lstrip()), line.strip()[2:].strip('"')) for line in body if line.strip().startswith("- ")
    ]
    return [word for indent, word in items if indent == 2 and word != "pip:"], [
        word for indent, word in items if indent > 2
    ]
