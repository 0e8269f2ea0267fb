"""The book: a website made of the executed lessons, that builds and reads without a network. ``make site`` calls it."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coursekit.book import conceptmap, glossary, pages, reference
from coursekit.book.lessonpage import alternatives, page
from coursekit.course import CourseError, Lesson
from coursekit.files import write_text
from coursekit.lesson import bootstrap
from coursekit.run import card as cards
from coursekit.run.last import last_run

NEEDED = {"sphinx": "Sphinx", "myst_nb": "MyST-NB", "sphinx_book_theme": "sphinx-book-theme"}
BUILT = Path("site") / "_build"  # ignored by git
BOOK_MARK = "searchindex.js"  # Sphinx writes it into every book
BOARD = Path("runs") / "board"  # pages that another command has made for the book, for example the leaderboard


def build(
    root: Path,
    known: Sequence[Lesson],
    profile: str = "quick",
    jobs: int = 1,
    output: Path | None = None,
    fresh: bool = False,
    board: bool = True,
) -> Path:
    """Build the book from the last run of each lesson, running what is missing; returns the folder with index.html.

    ``known`` are the lessons to show; ``profile`` says which runs; ``output`` another place than site/_build/html; ``fresh``
    runs all lessons again (a run is taken as long as its lesson's text is the same, also where the library has changed);
    ``board`` shows the leaderboard of the grids that were run here.
    Raises CourseError where a lesson fails, a package is missing, ``output`` holds other files than a book, or Sphinx finds a
    fault (a broken link, a figure without alternative text, a formula that cannot be rendered).
    """
    missing = [title for name, title in NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise CourseError(f"The book needs {', '.join(missing)}. make site installs them")
    target = output or root / BUILT / "html"
    refuse_other_files(target)
    runs = gather(known, profile, jobs, fresh)
    (root / BUILT).mkdir(parents=True, exist_ok=True)
    # In a folder of its own, so that two builds do not meet, and a failed one leaves the book that was there
    with tempfile.TemporaryDirectory(prefix="book-", dir=root / BUILT) as work:
        source, made = Path(work) / "source", Path(work) / "html"
        write_source(root, known, runs, source, board)
        _sphinx(root, source, made)
        replace_book(made, target)
    return target


def refuse_other_files(target: Path) -> None:
    """Raise CourseError where ``target`` is neither a book, nor an empty folder, nor free: building deletes what is there."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and ((target / BOOK_MARK).is_file() or not any(target.iterdir())):
        return
    raise CourseError(f"{target} holds other files; name a new or empty folder for the book.")


def replace_book(made: Path, target: Path) -> None:
    """Move a finished book to ``target``. The old one steps aside first and is deleted last; it comes back where this fails."""
    refuse_other_files(target)  # once more: a build takes a while
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        old, new = Path(beside) / "old", Path(beside) / "new"
        shutil.move(made, new)  # may cross disks, and so fail half way: not yet under its name
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except BaseException:
            if old.exists():
                os.replace(old, target)
            raise


def gather(known: Sequence[Lesson], profile: str, jobs: int = 1, fresh: bool = False) -> dict[str, Path]:
    """The folder of the run to show for each lesson; lessons without one are run now."""
    from coursekit.run.courserun import run_all

    runs = {lesson.name: None if fresh else last_run(lesson, profile) for lesson in known}
    todo = [lesson for lesson in known if runs[lesson.name] is None]
    for name, folder in runs.items():
        print(f"{name}: " + (f"executed notebook of {folder.name}" if folder else f"no {profile} run of this text yet"))
    if todo:
        print(f"Running {', '.join(lesson.name for lesson in todo)}.", flush=True)
        outcomes = run_all(todo, ["--profile", profile], jobs)
        failed = [o for o in outcomes if not o.card or o.card["status"] != "passed"]
        if failed:
            words = "\n".join(f"{o.lesson.name}: {o.card['error'] if o.card else o.words}" for o in failed)
            raise CourseError(f"The book needs all lessons, and {len(failed)} failed:\n{words}")
        runs |= {outcome.lesson.name: outcome.folder for outcome in outcomes}
    return {name: folder for name, folder in runs.items() if folder is not None}


def write_source(root: Path, known: Sequence[Lesson], runs: dict[str, Path], source: Path, board: bool = True) -> None:
    """Write everything that Sphinx reads: the hand-written pages of site/, lessons, generated pages, downloads.

    ``board``: the leaderboard of the grids that were run here, where there is one.
    """
    import nbformat

    shutil.rmtree(source, ignore_errors=True)
    for path in sorted((root / "site").glob("*.md")):
        write_text(source / path.name, path.read_text(encoding="utf-8"))
    repository = bootstrap.address(root)
    alts: dict[str, str] = {}
    found_cards = {name: cards.read(folder) for name, folder in runs.items()}
    downloads = source / "extra" / "downloads"
    downloads.mkdir(parents=True)
    for lesson in known:
        executed = page(lesson, runs[lesson.name], lesson_bar(lesson, found_cards[lesson.name], repository))
        for picture, alt in alternatives(executed):
            alts[hashlib.sha256(base64.b64decode(picture)).hexdigest()] = alt
        write_text(source / "lessons" / f"{lesson.name}.ipynb", nbformat.writes(executed))
        for name in ("learner", "solution"):
            suffix = "" if name == "learner" else ".solution"
            if not lesson.notebook(name).is_file():
                raise CourseError(f"{lesson.notebook(name).name} is missing. Run: make build")
            shutil.copyfile(lesson.notebook(name), downloads / f"{lesson.name}{suffix}.ipynb")
        shutil.copyfile(runs[lesson.name] / "card.json", downloads / f"{lesson.name}.card.json")
    write_text(source / "alternatives.json", json.dumps(alts, indent=1, ensure_ascii=False))
    for name, text in generated_pages(root, list(known), found_cards).items():
        write_text(source / f"{name}.md", text)
    board = board and (root / BOARD / "index.md").is_file()
    if board:
        shutil.copytree(root / BOARD, source / "board")
    index = source / "index.md"
    if index.is_file():
        text = index.read_text(encoding="utf-8")
        text = text.replace("<!-- lessons -->", pages.lessons_table(list(known), found_cards))
        for name in ("board", "reference"):
            text = text.replace(f"<!-- {name} -->\n", f"{name}/index\n" if (source / name).is_dir() else "")
        link = " Over many datasets, models and seeds: [the leaderboard](board/index.md)." if board else ""
        write_text(index, text.replace("<!-- leaderboard -->", link))


def generated_pages(root: Path, known: list[Lesson], found: dict[str, Any]) -> dict[str, str]:
    """docname -> Markdown of all pages that are made and not written."""
    words = root / "site" / "glossary.md"
    terms = glossary.terms(words) if words.is_file() else []
    met = glossary.first_met(terms, known)
    links = {lesson.name: f"[Lesson {lesson.number}.](lessons/{lesson.name}.ipynb)" for lesson in known}
    stops = conceptmap.stops_of(root, known)
    return {
        "map": conceptmap.page(stops),
        **({"glossary": glossary.with_lessons(words.read_text(encoding="utf-8"), terms, met, links)} if terms else {}),
        "results": pages.results(known, found),
        "papers": pages.bibliography(root, known),
        **pages.data_pages(root),
        **pages.model_pages(root),
        **reference.pages(root),
    }


def lesson_bar(lesson: Lesson, card: dict[str, Any], repository: tuple[str, str] | None) -> str:
    """The line below a lesson's title: where to open it (only with an address), what to download, when it was run."""
    links = []
    path = f"notebooks/{lesson.name}.ipynb"
    if repository:
        url, branch = repository
        name = url.removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{name}/blob/{branch}/{path}"
        binder = f"https://mybinder.org/v2/gh/{name}/{branch}?labpath={path}"
        commands = f"git clone {url}\ncd {name.split('/')[1]}\nmake setup\n.venv/bin/jupyter lab {path}"
        links = [
            f'<a class="launch" href="{html.escape(colab)}">Open in Colab</a>',
            f'<a class="launch" href="{html.escape(binder)}">Open in Binder</a>',
            '<details class="launch local"><summary>Run on your machine</summary>'
            f'<pre tabindex="0">{html.escape(commands)}</pre></details>',
        ]
    links += [
        f'<a href="../downloads/{lesson.name}.ipynb" download>Notebook with open exercises</a>',
        f'<a href="../downloads/{lesson.name}.solution.ipynb" download>with solutions</a>',
        f'<a href="../downloads/{lesson.name}.card.json" download>run card</a>',
    ]
    seconds, memory = card["seconds"], card["peak_memory_bytes"] / 2**20
    took = f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"
    words = f"All numbers below were computed on {card['started'][:10]} in {took} with {memory:,.0f} MiB (profile {card['parameters'].get('profile')})."
    return f'<div class="lesson-bar"><p class="links">{"".join(links)}</p><p class="ran">{html.escape(words)}</p></div>'


def _sphinx(root: Path, source: Path, target: Path) -> None:
    command = [
        *(sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E", "-c", str(root / "site")),
        *("-D", f"html_extra_path={source / 'extra'}", "-D", f"coursekit_alternatives={source / 'alternatives.json'}"),
        *("-d", str(target.parent / "doctrees"), str(source), str(target)),
    ]
    done = subprocess.run(command, env=dict(os.environ, PYTHONWARNINGS="ignore"), capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).replace(f"{source}{os.sep}", "")
        raise CourseError(f"Sphinx could not build the book:\n{said.rstrip()}")
