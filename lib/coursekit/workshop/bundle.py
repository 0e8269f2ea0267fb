"""One archive for a room without internet: wheels, course, data, models, book, executed notebooks. ``make bundle`` calls it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson
from coursekit.files import atomic_write, filled, sha256, write_text
from coursekit.workshop import paper, quizpage, wheelhouse

SCRIPTS = Path(__file__).parent / "bundled"
BUNDLES = Path("runs") / "bundle"
WHEELS = Path(".cache") / "wheels"
EXECUTED = ("notebook.ipynb", "notebook.html", "card.json")
SUMS = "SHA256SUMS"


def make(
    root: Path,
    known: Sequence[Lesson],
    data: Sequence[str] = (),
    output: Path | None = None,
    profile: str = "quick",
    jobs: int = 1,
    dirty: bool = False,
) -> Path:
    """Pack the course at HEAD with all that it needs; returns the archive, with its sha256 in a file beside it.

    ``data``: names of data sets and models to pack beside the bundled ones (from the caches, else fetched); ``profile``: which
    runs the book shows (missing ones are run now); ``dirty``: pack also where the working tree differs from HEAD.

    Raises CourseError where the tree differs, where a name is unknown or not to be had, or where a lesson fails.
    """
    from coursekit.book import site

    commit, when = _git(root, "log", "-1", "--format=%H %ct").split()
    changed = _differing(root, dirty)
    there = set(_git(root, "ls-tree", "-r", "--name-only", "HEAD").splitlines())
    known = [lesson for lesson in known if lesson.source.relative_to(root).as_posix() in there]  # drafts stay at home
    clock = time.monotonic()
    cache = cached(data)
    print("Getting the wheels; what is there already stays.", flush=True)
    wheels = wheelhouse.fill(root, root / WHEELS)
    runs = site.gather(known, profile, jobs)
    about = {
        "commit": commit,
        "differs_from_commit": changed,
        "python": wheelhouse.python_tag(),
        "platform": _platform(),
        "wheels": [path.name for path in wheels],
        "data": list(data),
        "lessons": [lesson.name for lesson in known],
    }
    stem = f"scfm-course-{commit[:10]}-{_platform().replace(' ', '-').lower()}-py{wheelhouse.python_tag()}"
    archive = output or root / BUNDLES / f"{stem}.tar.gz"
    (root / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bundle-", dir=root / ".cache") as scratch:
        checkout(root, Path(scratch) / "course")
        # what you compared on your own cells stays here
        book = site.build(root, known, profile, jobs, Path(scratch) / "book", board=False)
        files: dict[str, Path | bytes] = {**scripts(about), **_tree("course", Path(scratch) / "course")}
        files |= _tree("book", book)
        files |= quizzes(root)
        files |= {f"wheels/{path.name}": path for path in wheels}
        files |= {f"executed/{name}/{file}": folder / file for name, folder in runs.items() for file in EXECUTED}
        files |= {f"cache/{name}": path for name, path in cache.items()}
        pack(files, archive, stem, int(when))
        print(words(archive, files, time.monotonic() - clock))
    return archive


def _differing(root: Path, dirty: bool) -> list[str]:
    """The files in which the working tree differs from HEAD, new ones included. Raises CourseError for any, unless ``dirty``."""
    changed = [line[3:] for line in _git(root, "status", "--porcelain").splitlines()]
    if changed and not dirty:
        raise CourseError(
            f"{len(changed)} files differ from HEAD ({', '.join(changed[:4])}{', …' if len(changed) > 4 else ''}), and the "
            "bundle holds HEAD. Commit them, or pack nevertheless: make bundle ARGS=--dirty"
        )
    for name in changed:
        print(f"not in the bundle: {name} (differs from HEAD)")
    return changed


def checkout(root: Path, target: Path) -> None:
    """Write the repository as HEAD has it (without its history) to ``target``."""
    target.mkdir(parents=True)
    with tempfile.TemporaryFile() as stream:
        subprocess.run(["git", "-C", str(root), "archive", "--format=tar", "HEAD"], stdout=stream, check=True)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as archive:
            archive.extractall(target, filter="data")


def cached(names: Sequence[str]) -> dict[str, Path]:
    """path in a cache folder -> file here, of all files that the named data sets and models need; verified on the way.

    Raises CourseError for a name that is neither, or for files that are not here and cannot be fetched.
    """
    from scfm.datasets import entries
    from scfm.store import cache, hub

    found: dict[str, Path] = {}
    models, dictionaries = hub.catalogue()["models"], hub.catalogue()["dictionaries"]
    for name in names:
        try:
            if name in models:
                entry = models[name]
                if "bundled" in entry:
                    continue
                for file, pin in entry["files"].items():
                    more = {"in_repo": file} if entry.get("at_root") else {}
                    place = f"{entry['folder']}/{file}"
                    found[place] = hub.fetch(entry["repo"], entry["revision"], place, pin, **more)
                for place in dictionaries.get(entry.get("vocabulary"), {}).get("files", {}):
                    found[place] = hub.fetch_dictionary(place)
            elif name in entries():
                found |= _dataset_files(name)
            else:
                raise CourseError(f"{name!r} is neither a data set of datasets.toml nor a model of models.toml.")
        except (OSError, ValueError, RuntimeError) as error:
            raise CourseError(f"{name} cannot be packed: {error}") from error
    lock = cache.find("downloads/lock.json")
    if lock and any(place.startswith("downloads/") for place in found):
        found["downloads/lock.json"] = lock  # the hashes of files that were published without one
    return found


def _dataset_files(name: str) -> dict[str, Path]:
    from scfm import load_dataset
    from scfm.datasets import places
    from scfm.store import cache

    wanted = places(name)
    if wanted:
        load_dataset(name)  # fetches what is missing, and refuses what is damaged
    here = {place: cache.find(place) for place in wanted}
    missing = [place for place, path in here.items() if path is None]
    if missing:
        raise CourseError(f"{name}: {', '.join(missing)} is in no folder of SCFM_CACHE.")
    return {place: path for place, path in here.items() if path is not None}


def scripts(about: Mapping[str, Any]) -> dict[str, bytes]:
    """The files at the top of the archive: set-up, start, what this is, and what it was made from."""
    words = {name.upper(): about[name] for name in ("commit", "python", "platform")}
    data = ", ".join(about["data"]) or "nothing beside what comes with the course"
    found = {
        path.name: filled(path, COUNT=len(about["wheels"]), DATA=data, **words).encode()
        for path in sorted(SCRIPTS.iterdir())
    }
    found["bundle.json"] = (json.dumps(about, indent=1) + "\n").encode()
    return found


def quizzes(root: Path) -> dict[str, Path | bytes]:
    """The quiz pages before and after, as participants get them: without the key."""
    questions = root / quizpage.QUESTIONS
    chosen = quizpage.topics(questions) if questions.is_file() else []
    css = paper.CSS.read_text(encoding="utf-8")
    times = quizpage.TIMES if chosen else ()
    return {f"quiz/{time}.html": quizpage.sheet(chosen, time, css).encode() for time in times}


def pack(files: Mapping[str, Path | bytes], archive: Path, top: str, when: int) -> None:
    """Write ``files`` (place in the archive -> file or content) as a .tar.gz with SHA256SUMS inside, and its own hash beside.

    The same files at the same ``when`` give the same bytes. Wheels are compressed already, so it is compressed lightly.
    """
    sums = "".join(f"{_sha256(files[name])}  {name}\n" for name in sorted(files)).encode()
    with (
        atomic_write(archive) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, mtime=when) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in sorted({**files, SUMS: sums}.items()):
            _add(tar, f"{top}/{name}", content, when)
    write_text(archive.with_name(archive.name + ".sha256"), f"{_sha256(archive)}  {archive.name}\n")


def _add(tar: tarfile.TarFile, name: str, content: Path | bytes, when: int) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = when
    runs = name.endswith(".sh") or (isinstance(content, Path) and os.access(content, os.X_OK))
    info.mode = 0o755 if runs else 0o644
    if isinstance(content, bytes):
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        return
    info.size = content.stat().st_size
    with open(content, "rb") as stream:
        tar.addfile(info, stream)


def words(archive: Path, files: Mapping[str, Path | bytes], seconds: float) -> str:
    """What to tell the person who waits: sizes by part, the archive's own, minutes, and what comes next."""
    parts: dict[str, int] = {}
    for name, content in files.items():
        part = name.split("/")[0] if "/" in name else "scripts"
        parts[part] = parts.get(part, 0) + (len(content) if isinstance(content, bytes) else content.stat().st_size)
    lines = [f"  {part:<10} {size / 1e6:>8,.1f} MB" for part, size in sorted(parts.items(), key=lambda item: -item[1])]
    lines.append(f"{archive} ({archive.stat().st_size / 1e6:,.0f} MB) in {seconds / 60:.1f} min")
    lines.append(f"In the room: tar xf {archive.name} && sh {archive.name.removesuffix('.tar.gz')}/setup.sh")
    return "\n".join(lines)


def _tree(place: str, folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"{place}/{path.relative_to(folder).as_posix()}": path for path in files}


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)


def _platform() -> str:
    """As ``uname -s`` and ``uname -m`` say it."""
    return f"{platform.system()} {platform.machine()}"


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        problem = f"{root} is no git repository with a commit, and a bundle holds a commit. Git says: {said}"
        raise CourseError(problem) from error
    return done.stdout.rstrip()
