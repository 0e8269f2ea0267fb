"""Where the course lies on disk, and which lessons it has (found, never listed)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

LESSON_GLOB = "[0-9][0-9]_*.py"
PROFILES = ("quick", "cpu", "gpu")


class CourseError(Exception):
    """Something a person can put right; its text says what, and how. The command line prints it without a traceback."""


@dataclass(frozen=True)
class Lesson:
    """One lesson: ``number`` ("02"), ``name`` ("02_tokens") and the course ``root`` it belongs to."""

    root: Path
    name: str

    @property
    def number(self) -> str:
        """The two digits that begin the file's name."""
        return self.name[:2]

    @property
    def source(self) -> Path:
        """The only file that a person edits."""
        return self.root / "notebooks" / "source" / f"{self.name}.py"

    @property
    def checks(self) -> Path:
        """The checkers of its exercises."""
        return checks_path(self.root, self.number)

    @property
    def expected(self) -> Path:
        """What its recorded values must be."""
        return self.root / "tests" / "notebooks" / "expected" / f"{self.number}.toml"

    @property
    def runs(self) -> Path:
        """The folder of its runs, which git ignores."""
        return self.root / "runs" / self.name

    def notebook(self, edition: str) -> Path:
        """The generated notebook of an edition: "learner" or "solution"."""
        folder = self.root / "notebooks"
        return (folder if edition == "learner" else folder / "solutions") / f"{self.name}.ipynb"


def checks_path(root: Path, number: str) -> Path:
    """The file that holds the exercise checkers of lesson ``number``."""
    return root / "notebooks" / "source" / f"checks_{number}.py"


def find_root(start: str | Path | None = None) -> Path:
    """The folder of the course: COURSEKIT_ROOT, else upwards from ``start`` (the current folder), else from this package.

    Raises CourseError where none of them holds ``notebooks/source``, or where what COURSEKIT_ROOT names does not.
    """
    given = os.environ.get("COURSEKIT_ROOT")
    if given and start is None:
        if not (Path(given) / "notebooks" / "source").is_dir():
            raise CourseError(
                f"COURSEKIT_ROOT is {given}, which is no folder of the course: no notebooks/source there."
            )
        return Path(given).resolve()
    for origin in (Path(start or Path.cwd()).resolve(), Path(__file__).resolve()):
        for folder in (origin, *origin.parents):
            if (folder / "notebooks" / "source").is_dir():
                return folder
    raise CourseError(
        "No course found: neither the current folder nor any above it holds notebooks/source.\n"
        "Go to the folder you cloned, or name it: COURSEKIT_ROOT=/path/to/the/course"
    )


def lessons(root: Path) -> list[Lesson]:
    """All lessons of the course in order. Raises CourseError where two share a number."""
    found = [Lesson(root, path.stem) for path in sorted((root / "notebooks" / "source").glob(LESSON_GLOB))]
    numbers = [lesson.number for lesson in found]
    for lesson in found:
        if numbers.count(lesson.number) > 1:
            twins = ", ".join(other.name for other in found if other.number == lesson.number)
            raise CourseError(f"Two lessons have the number {lesson.number}: {twins}. Rename one of them.")
    return found


def choose(root: Path, wanted: list[str]) -> list[Lesson]:
    """The lessons meant by ``wanted`` (numbers, names, or paths of their files); all of them when it is empty."""
    known = lessons(root)
    if not wanted:
        return known
    chosen = []
    for word in wanted:
        stem = lesson_of(Path(word))
        stem = stem.zfill(2) if stem.isdigit() else stem
        match = [lesson for lesson in known if stem in (lesson.number, lesson.name)]
        if not match:
            names = ", ".join(lesson.name for lesson in known) or "none yet (notebooks/source is empty)"
            raise CourseError(f"There is no lesson {word!r}. The lessons are: {names}.")
        chosen += match
    return chosen


def lesson_of(path: Path) -> str:
    """The lesson that a word means: of a notebook that is there the one that it was made from, whatever it is called now."""
    if path.suffix != ".ipynb" or not path.is_file():
        return path.stem
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["metadata"]["coursekit"]["lesson"])
    except (ValueError, LookupError, TypeError):  # another program's; what is no notebook is refused when it is read
        return path.stem[:2] if path.stem[:2].isdigit() else path.stem
