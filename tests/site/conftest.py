"""The book is built once, without a network where this machine can do that, served on localhost and opened in Chromium.

Needs the extras ``site`` and ``browser`` and a Chromium of the system; what is missing is the reason of the skip.
BOOK_LESSONS="01 02" builds a smaller book, for who works on a lesson.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
PATIENCE = 120_000  # milliseconds; how fast a machine is is no matter of these tests
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def need(*modules: str) -> None:
    """Skip where a package of the extras is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install -e '.[site,browser]' (make test-full does)")


def without_network() -> list[str]:
    """The words that start a command in a network namespace whose only interface is the loopback; empty where that cannot be."""
    for namespace in (["unshare", "-n"], ["unshare", "-rn"]):
        words = [*namespace, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if (
            shutil.which("unshare")
            and shutil.which("ip")
            and subprocess.run([*words, "true"], capture_output=True).returncode == 0
        ):
            return words
    return []


@dataclass
class Book:
    """The built book: its ``folder``, its ``address`` on localhost, and whether it was built ``offline``."""

    folder: Path
    address: str
    offline: bool
    said: str

    def pages(self) -> list[str]:
        """All pages, relative to the address."""
        return sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*.html")
            if "_static" not in path.parts
        )


@dataclass
class Tab:
    """A page of the browser that remembers what it should not have seen."""

    page: Any
    address: str
    faults: list[str] = field(default_factory=list)

    def open(self, name: str) -> Any:
        """Open a page of the book and wait until its scripts have run."""
        self.page.goto(self.address + name, wait_until="load")
        self.page.wait_for_timeout(100)
        return self.page


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    need("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml")
    folder = tmp_path_factory.mktemp("book") / "html"
    closed = without_network()
    chosen = os.environ.get("BOOK_LESSONS", "").split()
    done = subprocess.run(
        [*closed, sys.executable, "-m", "coursekit", "site", *chosen, "--output", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with served(folder) as address:
        yield Book(folder, address, bool(closed), done.stdout + done.stderr)


class served:
    """``with served(folder) as address``: a folder on localhost."""

    def __init__(self, folder: Path) -> None:
        handler = functools.partial(_Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    need("playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def new_tab(chromium: Any, address: str, **context: Any) -> Tab:
    """A tab of its own context that notes console errors, failed requests and requests that leave localhost (and stops those)."""
    opened = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    opened.set_default_timeout(PATIENCE)
    page = opened.new_page()
    tab = Tab(page, address)

    def leave(route: Any) -> None:
        tab.faults.append(f"asked for {route.request.url}")
        route.abort()

    page.route(lambda url: not url.startswith((address, "data:", "blob:")), leave)
    page.on(
        "console",
        lambda message: message.type in ("error", "warning") and tab.faults.append(f"console: {message.text}"),
    )
    page.on("pageerror", lambda error: tab.faults.append(f"script: {error}"))
    page.on("response", lambda answer: answer.status >= 400 and tab.faults.append(f"{answer.status}: {answer.url}"))
    return tab


@pytest.fixture
def tab(chromium: Any, book: Book) -> Iterator[Tab]:
    tab = new_tab(chromium, book.address)
    yield tab
    tab.page.context.close()
