"""The book is built once, without a network where this machine can do that, served on localhost and opened in Chromium.

Needs the extras ``site`` and ``browser`` and a Chromium of the system; what is missing is the reason of the skip.
BOOK_LESSONS="01 02" builds a smaller book, for who works on a lesson.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bookshelf import CHROMIUM, FLAGS, ROOT, Book, Tab, need, new_tab, served, without_network

sys.path.append(str(ROOT / "tests" / "unit"))  # the tiny course


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture
def tab(chromium: Any, book: Book) -> Iterator[Tab]:
    tab = new_tab(chromium, book.address)
    yield tab
    tab.page.context.close()
