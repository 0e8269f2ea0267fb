"""A bundle, unpacked where there is no network: set-up, doctor, lessons, and the book in a browser.

With every lesson in the book and run in the room; BUNDLE_LESSONS="02 04" takes these only, which is quicker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bookshelf import CHROMIUM, ROOT, need, without_network

from coursekit.course import CourseError, choose
from coursekit.workshop import bundle, wheelhouse

CHOSEN = os.environ.get("BUNDLE_LESSONS", "").split()
PROBE = """
import socket, sys
for address in (("1.1.1.1", 443), ("2606:4700:4700::1111", 443)):
    try:
        socket.create_connection(address, 5)
    except OSError as error:
        print(type(error).__name__, error)
    else:
        sys.exit("there is a way out")
"""
READ = """
import sys, urllib.request
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bookshelf import CHROMIUM, FLAGS, new_tab, served
book = Path(sys.argv[2])
pages = sorted(path.relative_to(book).as_posix() for path in book.rglob("*.html") if "_static" not in path.parts)
with served(book) as address:
    for page in pages:
        assert b"<h1" in urllib.request.urlopen(address + page).read() or page in ("genindex.html", "search.html"), page
    if CHROMIUM and sys.argv[3] == "browser":
        from playwright.sync_api import sync_playwright
        with sync_playwright() as playwright:
            tab = new_tab(playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS), address)
            for page in pages:
                tab.open(page)
            assert not tab.faults, tab.faults
print(len(pages), "pages")
"""
Inside = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def inside() -> Inside:
    """``inside(folder, command…)`` runs a command in a network namespace that holds the loopback alone."""
    closed = without_network()
    if not closed:
        pytest.skip("needs a network namespace (Linux, with unshare and ip), else nothing would be proven")

    def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        env = {**kept, "HOME": str(folder), **more}
        return subprocess.run([*closed, *command], cwd=folder, env=env, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def room(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked and set-up bundle; only the making of it may use the network."""
    need("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml")
    folder = tmp_path_factory.mktemp("room")
    try:
        wheelhouse.fill(ROOT, ROOT / bundle.WHEELS)
    except CourseError as error:
        pytest.skip(f"needs the wheels of a package index: {error}")
    archive = bundle.make(ROOT, choose(ROOT, CHOSEN), output=folder / "bundle.tar.gz", dirty=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()
    (unpacked,) = [path for path in folder.iterdir() if path.is_dir()]
    done = inside(unpacked, "sh", "setup.sh", PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout
    return unpacked


def test_there_is_no_way_out(inside: Inside, room: Path) -> None:
    python = str(room / "course" / ".venv" / "bin" / "python")
    done = inside(room, python, "-c", PROBE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unreachable" in done.stdout
    done = inside(room / "course", python, "-m", "pip", "download", "--no-deps", "six", PIP_CONFIG_FILE=os.devnull)
    assert done.returncode != 0


def test_the_course_runs_in_the_room(inside: Inside, room: Path) -> None:
    words = [f"NB={' '.join(CHOSEN)}"] if CHOSEN else []
    done = inside(room, "sh", "start.sh", "make", "course", *words)
    count = len(choose(ROOT, CHOSEN))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} of {count} lessons ran." in done.stdout
    assert len(list((room / "course" / "runs").glob("*/*/card.json"))) == count


def test_the_book_opens_in_the_room(inside: Inside, room: Path) -> None:
    browser = "browser" if CHROMIUM else "none"
    done = inside(room, sys.executable, "-c", READ, str(ROOT / "tests" / "helpers"), str(room / "book"), browser)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 5
    executed = sorted(path.name for path in (room / "executed").iterdir())
    assert executed == [lesson.name for lesson in choose(ROOT, CHOSEN)]


def test_the_sums_hold(room: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=room, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
