"""A built book on localhost, a Chromium to open it in, and a network that is not there."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import shutil
import subprocess
import threading
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
