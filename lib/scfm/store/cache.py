"""Where files are found and where they are put.

One setting, ``SCFM_CACHE``, names the folders to look in: colon-separated, earlier ones first, read-only ones allowed.
The first writable one takes downloads; if there is none, the user's own cache folder does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path


def user_cache() -> Path:
    """The folder for downloads when ``SCFM_CACHE`` names no writable one (follows the XDG convention)."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a container's user without a name and without HOME
        base = Path(tempfile.gettempdir()) / f"scfm-{os.getuid()}"
    return Path(base) / "scfm"


def folders() -> list[Path]:
    """All folders that are searched, in order: those of ``SCFM_CACHE`` that exist, then the user's cache."""
    named = [Path(part).expanduser() for part in os.environ.get("SCFM_CACHE", "").split(os.pathsep) if part]
    return [folder for folder in [*named, user_cache()] if folder.is_dir()]


def find(*names: str | Path) -> Path | None:
    """The first existing file or folder among ``names``, each relative to a cache folder; None if there is none."""
    for folder in folders():
        for name in names:
            if (folder / name).exists():
                return folder / name
    return None


def downloads() -> Path:
    """Where downloads go: the first writable folder of ``SCFM_CACHE``, else the user's cache (which may not be there yet)."""
    return next((folder for folder in folders() if os.access(folder, os.W_OK)), user_cache())


def writable() -> Path:
    """The folder that takes downloads, made if needed."""
    folder = downloads()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def repo_data() -> Path:
    """The course's own ``data/`` folder.

    Raises
    ------
    FileNotFoundError
        If the package was installed away from its repository.
    """
    data = Path(__file__).resolve().parents[3] / "data"
    if not data.is_dir():
        raise FileNotFoundError(
            f"The course's data folder is not at {data}. scfm is made to be installed from a clone of the "
            "repository in editable mode: run `make setup` there."
        )
    return data


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, or of a folder's files (names and contents, in sorted order), as 64 hex digits."""
    path, digest = Path(path), hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        if file != path:
            digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it on success, delete it on any error: no half-written file stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _new_file(path)
    mode = temporary.stat().st_mode & 0o777
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors puts a private file (0600) in its place
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    """An empty file beside ``path``, of a name that nobody has.

    mkstemp's file would be private, and the umask that says what an ordinary one may is the whole process's: to read it is to
    change it, for every thread.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return temporary


@contextlib.contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``folder``; rename it on success, delete it on any error: all or nothing.

    Raises
    ------
    FileExistsError
        If ``folder`` exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty; choose a new name.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
        whole = Path(staging) / folder.name
        whole.mkdir()
        mode = whole.stat().st_mode & 0o777  # as the umask allows
        yield whole
        for inside in whole.rglob("*"):  # safetensors writes private files, and a model is there for colleagues too
            inside.chmod(mode if inside.is_dir() else mode & 0o666)
        if folder.exists():
            folder.rmdir()
        os.replace(whole, folder)


def announce(kind: str, name: str, sha256: str | None) -> None:
    """Tell the run card what was used: one JSON line to the file named by ``SCFM_PROVENANCE``, if it is set."""
    log = os.environ.get("SCFM_PROVENANCE")
    if log:
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"kind": kind, "name": name, "sha256": sha256}) + "\n")
