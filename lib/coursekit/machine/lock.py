"""The tested versions: requirements*.lock, with the hash of every file that pip may fetch, and environment.yml for conda.

`make lock` asks uv (a maintainer's tool) for versions that fit all extras at once, on every system and Python of the course; it
keeps those that the locks have. PyTorch has builds of the same version with other bytes, so it stands in a comment and its
version in pyproject.toml (docs/decisions/06_locks.md).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coursekit.course import CourseError
from coursekit.files import read_toml, write_text
from coursekit.machine import facts

EXTRAS = ("dev", "site", "browser", "grid")  # each lock holds what its extra adds to those before it
_WITHOUT_HASH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")  # PyTorch, and what only it draws in
_LINE = re.compile(r"#.*|[a-z0-9][\w.-]*==[\w.!]+( ; [^@\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
_HEAD = """\
# The tested versions and their hashes; `make lock` writes it. Installed with: pip install --no-deps --require-hashes -r {name}
"""
_TORCH = "# {torch} comes from pyproject.toml, without a hash: docs/decisions/06_locks.md\n"
_ENVIRONMENT = """\
# For conda and mamba, in the tested versions; `make lock` writes it.
#   mamba env create -f environment.yml && conda activate scfm-course && make course PY=python
name: scfm-course
channels:
  - conda-forge
dependencies:
  - python{python}
  - pip
  - make
  - pip:
{pins}
      - -e .
"""


def name_of(extra: str) -> str:
    """The lock of an extra; that of ``dev`` holds the course itself and its tests."""
    return facts.LOCK if extra == "dev" else f"requirements-{extra}.lock"


def write(root: Path, upgrade: bool = False) -> list[Path]:
    """Write all locks and environment.yml; versions stay unless ``upgrade`` or pyproject.toml asks for others.

    Raises CourseError where uv is missing or finds no versions that fit.
    """
    written, taken = [root / name_of(extra) for extra in EXTRAS], set()
    with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
        whole = Path(scratch) / "all.txt"
        whole.write_text(
            "".join(path.read_text(encoding="utf-8") for path in written if path.is_file()), encoding="utf-8"
        )
        _uv(root, EXTRAS, whole, *(["--upgrade"] if upgrade else []))
        for extra, path in zip(EXTRAS, written, strict=True):
            _uv(root, {"dev", extra}, own := Path(scratch) / f"{extra}.txt", "--constraint", str(whole))
            found = [block for block in blocks(own.read_text(encoding="utf-8")) if block not in taken]
            taken |= set(found)
            head = _HEAD.format(name=path.name) + (_TORCH.format(torch=_torch(root)) if extra == "dev" else "")
            write_text(path, head + "".join(found))
    write_text(root / "environment.yml", environment(root))
    return [*written, root / "environment.yml"]


def _uv(root: Path, extras: Iterable[str], out: Path, *more: str) -> None:
    words = ["uv", "pip", "compile", "pyproject.toml", "-o", str(out), *more, "--universal", "--python-version", "3.11"]
    words += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    words += [word for extra in extras for word in ("--extra", extra)]
    try:
        done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise CourseError("make lock needs uv, which is not here: https://docs.astral.sh/uv") from error
    if done.returncode:
        raise CourseError(f"uv found no versions that fit:\n{done.stderr.strip()}")


def blocks(text: str) -> list[str]:
    """The requirements of a compiled file, each with its hashes; without PyTorch and what only it draws in."""
    found = re.findall(r"^[a-z0-9].*\n(?:[ ].*\n)*", text, re.M)
    return [block for block in found if not _WITHOUT_HASH.match(block)]


def environment(root: Path) -> str:
    """environment.yml as the locked versions make it."""
    lines = (root / facts.LOCK).read_text(encoding="utf-8").splitlines()
    pins = [line.rstrip(" \\") for line in lines if re.match(r"[a-z0-9]", line)]
    shown = "\n".join(f'      - "{pin}"' for pin in sorted([*pins, _torch(root)]))
    return _ENVIRONMENT.format(python=_project(root)["requires-python"], pins=shown)


def disagreements(root: Path) -> list[str]:
    """Where pyproject.toml, the locks and environment.yml do not say the same, one sentence each."""
    from packaging.requirements import Requirement

    project, problems = _project(root), []
    locked: dict[str, str] = {}
    for extra in EXTRAS:
        locked |= facts.locked(root, name_of(extra))
        wanted = project["optional-dependencies"].get(extra, []) + (project["dependencies"] if extra == "dev" else [])
        for requirement in map(Requirement, wanted):
            version = locked.get(facts.normalized(requirement.name))
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                has = f"has {requirement.name} {version or 'not at all'}"
                problems.append(f"{name_of(extra)} {has}; pyproject.toml wants {requirement}. Run: make lock")
        text = (root / name_of(extra)).read_text(encoding="utf-8")
        strange = [line for line in text.splitlines() if not _LINE.fullmatch(line)]
        problems += [f"{name_of(extra)} has a line that is no version with its hashes: {line}" for line in strange]
    conda = root / "environment.yml"
    if not conda.is_file() or conda.read_text(encoding="utf-8") != environment(root):
        problems.append(f"environment.yml is out of step with {facts.LOCK}. Run: make lock")
    return problems


def _torch(root: Path) -> str:
    """PyTorch's version as pyproject.toml pins it: "torch==2.13.0"."""
    return str(next(text for text in _project(root)["dependencies"] if text.startswith("torch==")))


def _project(root: Path) -> dict[str, Any]:
    return dict(read_toml(root / "pyproject.toml")["project"])
