"""Raw files that lie in public repositories, each known by its git blob SHA-1: whoever serves it, that hash proves it.

A carrier is fetched from GitHub by its place in a commit; if that fails, by its blob, then from two services that keep what GitHub
had. ``SCFM_MIRROR`` names another address in the place of all these, in a room without internet or behind a firm's proxy; it has to
answer ``/OWNER/NAME/COMMIT/PATH`` as raw.githubusercontent.com does, or ``/repos/OWNER/NAME/git/blobs/SHA1`` as api.github.com.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from scfm.errors import DownloadError
from scfm.store import cache
from scfm.store.download import fetch

FOLDER = "carriers/files"  # in a folder of SCFM_CACHE
MIRROR = "SCFM_MIRROR"
# by the blob interface: the bytes, not JSON around them; the others know no such kind
_RAW = {"Accept": "application/vnd.github.raw+json, */*;q=0.1"}


@dataclass(frozen=True)
class Carrier:
    """A file ``path`` of a repository ``repo`` at ``commit``: its git blob SHA-1 and its size in ``bytes``."""

    repo: str
    commit: str
    path: str
    blob: str
    bytes: int

    @property
    def name(self) -> str:
        """Its name in a cache folder: two files of one name may differ, two of one blob may not."""
        return f"{self.blob}-{Path(self.path).name}"

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return f"{self.repo} @ {self.commit[:12]} : {self.path}"

    def addresses(self) -> list[str]:
        """Where it is asked for, in this order."""
        path = quote(self.path)
        mirror = os.environ.get(MIRROR, "").rstrip("/")
        raw, api = (mirror or "https://raw.githubusercontent.com"), (mirror or "https://api.github.com")
        own = [f"{raw}/{self.repo}/{self.commit}/{path}", f"{api}/repos/{self.repo}/git/blobs/{self.blob}"]
        kept = [
            f"https://cdn.jsdelivr.net/gh/{self.repo}@{self.commit}/{path}",
            f"https://archive.softwareheritage.org/api/1/content/sha1_git:{self.blob}/raw/",
        ]
        return own if mirror else own + kept

    def verify(self, path: Path) -> None:
        """Raise DownloadError, in words, if ``path`` is another file. The blob interface's JSON becomes what it holds."""
        content = path.read_bytes()
        if blob_sha1(content) == self.blob:
            return
        inside = _from_json(content)
        if inside is not None and blob_sha1(inside) == self.blob:
            path.write_bytes(inside)
            return
        if len(content) < self.bytes:
            raise DownloadError(f"it is cut short: {len(content):,} of {self.bytes:,} bytes")
        raise DownloadError(
            f"it is another file: {len(content):,} bytes, git blob {blob_sha1(content)}, and not {self.bytes:,} bytes, {self.blob}"
        )


def blob_sha1(content: bytes) -> str:
    """The hash by which git knows a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _from_json(content: bytes) -> bytes | None:
    try:
        reply = json.loads(content)
        return base64.b64decode(reply["content"]) if reply["encoding"] == "base64" else None
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None


def here(carrier: Carrier) -> Path | None:
    """Where it lies in a folder of SCFM_CACHE; None where it has to be fetched."""
    return cache.find(f"{FOLDER}/{carrier.name}")


def fetch_carrier(carrier: Carrier) -> Path:
    """The path of a raw file: from a folder of SCFM_CACHE, else fetched into the first writable one.

    Raises
    ------
    DownloadError
        If it could not be fetched, each address with its reason and what to do; or if the file that is there is another one.
    """
    found = here(carrier)
    folder = found.parent if found else cache.writable() / FOLDER
    try:
        return fetch(carrier.name, carrier.addresses(), folder, verify=carrier.verify, headers=_RAW)
    except DownloadError as error:
        if found:
            raise
        mirror = os.environ.get(MIRROR)
        asked = f"Only {mirror} was asked, since {MIRROR} names it. " if mirror else ""
        raise DownloadError(
            f"{error}\n{asked}If {carrier.source} is gone for good, a copy of any other place will do: its git blob SHA-1 proves "
            f"it. {MIRROR} can name a server that has it."
        ) from error
