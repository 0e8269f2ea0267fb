"""A small server on 127.0.0.1 that answers as the Hugging Face hub does, and misbehaves when told to."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "1f7fbae4e469a5f4f1af8c111a529cfe1b3829f5"


class HubServer:
    """Serves ``files`` (path in the repository → bytes) of ``ctheodoris/Geneformer`` at one commit.

    ``trouble``: path → "corrupted" (one byte differs), "truncated" (half of the file, called complete), "dropped" (the
    connection closes once in the middle), or an HTTP status.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.trouble: dict[str, str | int] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def downloads(self) -> list[str]:
        return [path for method, path, _ in self.requests if method == "GET"]

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        prefix = f"/ctheodoris/Geneformer/resolve/{REVISION}/"
        path = request.path.split("?")[0]
        name = path.removeprefix(prefix)
        self.requests.append((request.command, name, dict(request.headers)))
        trouble = self.trouble.get(name)
        if isinstance(trouble, int):
            return self.error(request, trouble, {401: "RepoNotFound", 404: "EntryNotFound"}.get(trouble))
        if not path.startswith(prefix):
            wrong_commit = path.startswith("/ctheodoris/Geneformer/resolve/")
            return self.error(
                request, 404 if wrong_commit else 401, "RevisionNotFound" if wrong_commit else "RepoNotFound"
            )
        if name not in self.files:
            return self.error(request, 404, "EntryNotFound")
        content = self.files[name]
        etag = hashlib.sha256(content).hexdigest()
        if trouble == "corrupted":
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]) if body else 0
        served = content[start:]
        if trouble == "truncated" and body:
            served = served[: len(served) // 2]
        request.send_response(206 if start else 200)
        request.send_header("X-Repo-Commit", REVISION)
        request.send_header("ETag", f'"{etag}"')
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(served)))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        if not body:
            return None
        if trouble == "dropped":
            del self.trouble[name]  # the second try goes well
            request.wfile.write(served[: len(served) // 2])
            request.close_connection = True
            return None
        request.wfile.write(served)
        return None

    @staticmethod
    def error(request: BaseHTTPRequestHandler, status: int, code: str | None) -> None:
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()
