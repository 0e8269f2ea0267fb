"""A small server on 127.0.0.1 that serves raw files by place and by blob, as GitHub does, and misbehaves when told to."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scfm.store.carriers import Carrier


class CarrierServer:
    """Serves ``files`` (carrier → content), to be named in SCFM_MIRROR.

    ``trouble``: (carrier, "path" or "blob") → "corrupted" (one byte differs), "truncated" (half of it, called complete), "replaced"
    (another file), "dropped" (the connection closes once in the middle), or an HTTP status. ``wait``: seconds before each
    64 KiB. ``as_json``: by blob comes what GitHub sends to those who do not ask for the bytes themselves.
    """

    def __init__(self, files: dict[Carrier, bytes]) -> None:
        self.files = files
        self.trouble: dict[tuple[Carrier, str], str | int] = {}
        self.wait = 0.0
        self.as_json = False
        self.requests: list[tuple[str, str | None]] = []  # path and Range, in order
        own = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                own.answer(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None: ...  # a killed client hangs up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        for carrier, content in self.files.items():
            places = {
                f"/{carrier.repo}/{carrier.commit}/{carrier.path}": "path",
                f"/repos/{carrier.repo}/git/blobs/{carrier.blob}": "blob",
            }
            if request.path in places:
                return self.send(request, content, wanted, (carrier, places[request.path]))
        return self.refuse(request, 404)

    def send(
        self, request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, key: tuple[Carrier, str]
    ) -> None:
        trouble = self.trouble.get(key)
        if isinstance(trouble, int):
            return self.refuse(request, trouble)
        if key[1] == "blob" and self.as_json:
            content = json.dumps({"encoding": "base64", "content": base64.encodebytes(content).decode()}).encode()
        if trouble == "corrupted":
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif trouble == "truncated":
            content = content[: len(content) // 2]
        elif trouble == "replaced":
            content = b"version https://git-lfs.github.com/spec/v1\n" * (len(content) // 40 + 1)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(content):
            return self.refuse(request, 416)
        body = content[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if trouble == "dropped":
            del self.trouble[key]  # the second try goes well
            request.close_connection = True
            body = body[: len(body) // 2]
        for at in range(0, len(body), 1 << 16):
            time.sleep(self.wait)
            request.wfile.write(body[at : at + (1 << 16)])
        return None

    @staticmethod
    def refuse(request: BaseHTTPRequestHandler, status: int) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()
