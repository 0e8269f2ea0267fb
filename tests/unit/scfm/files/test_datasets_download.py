"""Downloads against a local server: complete, broken off, corrupted, refused, resumed, and without a published hash."""

from __future__ import annotations

import functools
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scfm.errors import DownloadError
from scfm.store import download
from scfm.store.download import LOCK, fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB: a half and a quarter are whole blocks of the downloader
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /file; other paths misbehave. ``requests``: (path, Range header) in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.tag = '"v1"'
        self.content = CONTENT
        self.over = threading.Event()  # lets go of the requests that stall

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        content, start = self.server.content, 0
        if self.path == "/missing":
            return self.send(404, b"gone")
        if self.path == "/forbidden":
            return self.send(403, b"no")
        if self.path == "/challenge":
            return self.send(202, b"", {"x-amzn-waf-action": "challenge"})
        if self.path == "/page":
            return self.send(200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"})
        if self.path == "/empty":
            return self.send(200, b"")
        if self.path == "/corrupt":
            return self.send(200, content[:-1] + b"!")
        if wanted and self.path != "/norange" and self.headers.get("If-Range") == self.server.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send(416, b"")
        # "breaks": half of what is left is sent, then the line goes dead; "breaksonce" only at the first request
        first = [path for path, _ in self.server.requests].count(self.path) == 1
        breaks = self.path == "/breaks" or (self.path in ("/breaksonce", "/norange") and first)
        body = content[start:]
        stalls = self.path == "/stalls" or (self.path == "/stallsonce" and first)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.tag)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if breaks or stalls else body)
        if stalls:  # the line stays open, and nothing comes
            self.wfile.flush()
            self.server.over.wait(5)
        if breaks:
            self.close_connection = True

    def send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")  # the local server is never reached through a proxy


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.over.set()
    running.shutdown()
    running.server_close()


def left_over(folder: Path) -> list[str]:
    """Everything in the folder but lock files of processes."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("known", [{"sha256": SHA}, {"md5": MD5}])
def test_a_file_is_fetched_checked_and_not_fetched_again(server: Server, tmp_path: Path, known: dict) -> None:
    path = fetch("a.h5ad", [server.url("file")], tmp_path, **known)
    assert path.read_bytes() == CONTENT
    assert fetch("a.h5ad", [server.url("file")], tmp_path, **known) == path
    assert len(server.requests) == 1
    assert left_over(tmp_path) == ["a.h5ad"]


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    path = fetch("a.h5ad", [server.url("breaksonce")], tmp_path, sha256=SHA, wait=0)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_stalled_transfer_is_taken_up_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "Resuming", functools.partial(download.Resuming, timeout=0.3))
    path = fetch("a.h5ad", [server.url("stallsonce")], tmp_path, sha256=SHA, wait=0)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={len(CONTENT) // 2}-"]
    with pytest.raises(DownloadError, match="stalled"):
        fetch("b.h5ad", [server.url("stalls")], tmp_path, sha256=SHA, attempts=1, wait=0)


def test_a_partial_file_survives_the_process_and_is_never_taken_for_the_whole(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="broke off"):
        fetch("a.h5ad", [server.url("breaks")], tmp_path, sha256=SHA, attempts=1, wait=0)
    assert not (tmp_path / "a.h5ad").exists()
    part = tmp_path / ".a.h5ad.part"
    assert part.read_bytes() == CONTENT[: len(CONTENT) // 2]
    with pytest.raises(DownloadError):  # a second call gets a quarter further
        fetch("a.h5ad", [server.url("breaks")], tmp_path, sha256=SHA, attempts=1, wait=0)
    assert part.stat().st_size == len(CONTENT) * 3 // 4


def test_a_new_version_on_the_server_is_not_glued_to_an_old_part(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        fetch("a.h5ad", [server.url("breaks")], tmp_path, attempts=1, wait=0)
    server.tag, server.content = '"v2"', CONTENT[::-1]
    (tmp_path / ".a.h5ad.part.from").write_text(server.url("file") + '\n"v1"')  # same address, older tag
    assert fetch("a.h5ad", [server.url("file")], tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    assert fetch("a.h5ad", [server.url("norange")], tmp_path, sha256=SHA, wait=0).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".a.h5ad.part").write_bytes(CONTENT + b"more")
    (tmp_path / ".a.h5ad.part.from").write_text(server.url("file") + '\n"v1"')
    assert fetch("a.h5ad", [server.url("file")], tmp_path, sha256=SHA, wait=0).read_bytes() == CONTENT


def test_the_next_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    urls = [server.url(path) for path in ("missing", "challenge", "page", "corrupt", "file")]
    assert fetch("a.h5ad", urls, tmp_path, sha256=SHA).read_bytes() == CONTENT
    assert left_over(tmp_path) == ["a.h5ad"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", "HTTP 404"),
        ("forbidden", "refuses access"),
        ("challenge", "browser"),
        ("page", "web page"),
        ("empty", "empty"),
        ("corrupt", "not that of the published file"),
        ("breaks", "broke off"),
    ],
)
def test_each_failure_has_its_own_sentence(server: Server, tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(DownloadError, match=words) as caught:
        fetch("a.h5ad", [server.url(path)], tmp_path, sha256=SHA, attempts=1, wait=0)
    assert server.url(path) in str(caught.value)
    assert not (tmp_path / "a.h5ad").exists()


def test_a_refused_connection(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="connection was refused"):
        fetch("a.h5ad", [f"http://127.0.0.1:{port}/a"], tmp_path, sha256=SHA)


def test_a_host_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="could not be reached"):
        fetch("a.h5ad", ["http://no-such-host.invalid/a"], tmp_path, sha256=SHA)


def test_without_a_published_hash_the_first_download_is_recorded(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch("a.h5ad", [server.url("file")], tmp_path)
    assert SHA in (tmp_path / LOCK).read_text()
    assert "no published hash" in caplog.text
    path.unlink()
    fetch("a.h5ad", [server.url("file")], tmp_path)  # the same bytes again: fine
    path.write_bytes(CONTENT + b"x")
    with pytest.raises(DownloadError, match="recorded at its first download"):
        fetch("a.h5ad", [server.url("file")], tmp_path)
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match="not that of the first downloaded file"):
        fetch("a.h5ad", [server.url("file")], tmp_path)


def test_a_file_put_there_by_hand_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="delete it"):
        fetch("a.h5ad", [], tmp_path, sha256=SHA)
    (tmp_path / "a.h5ad").write_bytes(CONTENT)
    assert fetch("a.h5ad", [], tmp_path, sha256=SHA).name == "a.h5ad"
