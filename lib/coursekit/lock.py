"""requirements.lock: the tested versions, and whether pyproject.toml and environment.yml say the same."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from . import card as cards
from .course import CourseError, atomic_write

OWN = "scfm-course"
# What differs by platform and comes by itself with torch; and the installers, which are not the course's
LEFT_OUT = re.compile(r"^(nvidia-|cuda-|triton$|pytorch-triton|pip$|setuptools$|wheel$)")


def write(root: Path) -> Path:
    """Write the versions installed here to requirements.lock, without addresses and without suffixes such as +cpu."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and cards.normalized(name) != OWN and not LEFT_OUT.match(cards.normalized(name)):
            found[cards.normalized(name)] = f"{name}=={distribution.version.split('+')[0]}"
    path = root / cards.LOCK
    with atomic_write(path) as handle:
        handle.write("\n".join(found[name] for name in sorted(found)) + "\n")
    return path


def disagreements(root: Path) -> list[str]:
    """Where pyproject.toml, environment.yml and requirements.lock do not say the same, one sentence each."""
    from packaging.requirements import Requirement

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project.get("optional-dependencies", {}).get("dev", [])]
    locked = cards.locked(root)
    problems = []
    for text in wanted:
        requirement = Requirement(text)
        version = locked.get(cards.normalized(requirement.name))
        if version is None:
            problems.append(f"{requirement.name} is in pyproject.toml and not in {cards.LOCK}. Run: make lock")
        elif not requirement.specifier.contains(version, prereleases=True):
            problems.append(
                f"{cards.LOCK} has {requirement.name} {version}; pyproject.toml wants {requirement.specifier}."
            )
    for line in (root / cards.LOCK).read_text(encoding="utf-8").splitlines():
        if line and not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!]+", line):
            problems.append(f"{cards.LOCK} has a line that is no plain version: {line}")
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
