"""Files from the internet: resumed where they stopped, checked before they count, tried from several places.

pooch keeps the cache and checks the hash; what it lacks is resuming, which :class:`Resuming` adds. A file gets its final name
only after its hash was found right, so a partial download (``.NAME.part``) is never mistaken for a complete one.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scfm.errors import DownloadError
from scfm.store import cache

log = logging.getLogger("scfm")

LOCK = "lock.json"
_BLOCK = 1 << 18
_HASH = re.compile("^[0-9a-f]{40}-")  # before a carrier's name


class Truncated(Exception):
    """The connection ended before the file did; what has arrived is kept and the next attempt goes on from there."""


class Resuming:
    """A pooch downloader for http(s) that continues a partial file of the same address and version.

    ``part``: where the partial file lies; beside it ``.from`` holds the address and the server's version tag (ETag or date),
    so that two versions of a file are never glued together. ``verify`` raises DownloadError for a file that is another one: then a
    partial file is continued from any address, since what does not fit together is found out. ``headers``: sent with each request.
    """

    def __init__(
        self,
        part: Path,
        timeout: float = 60.0,
        verify: Callable[[Path], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.part, self.note, self.timeout = part, part.with_name(part.name + ".from"), timeout
        self.verify, self.headers = verify, dict(headers or {})

    def __call__(self, url: str, output_file: Any, pooch: Any = None, check_only: bool = False) -> None:
        """Fetch ``url`` to ``output_file``, as pooch calls a downloader."""
        import requests
        from tqdm.auto import tqdm

        started = self.part.stat().st_size if self.part.exists() else 0
        address, _, version = (
            self.note.read_text(encoding="utf-8").partition("\n") if self.note.exists() else ("", "", "")
        )
        if started and not (address == url and version) and not self.verify:
            started = 0
        # identity: a compressed transfer could not be continued by byte position
        headers = {"Accept-Encoding": "identity", **self.headers}
        if started:
            headers |= {"Range": f"bytes={started}-"} | ({} if self.verify else {"If-Range": version})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as reply:
                if reply.status_code == 416:  # nothing is left to send, or the partial file is longer than the file
                    self.part.unlink(missing_ok=True)
                    raise Truncated("the partial file did not fit and was deleted")
                _check(reply)
                if reply.status_code != 206:
                    started = 0
                tag = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
                self.note.write_text(f"{url}\n{'' if tag.startswith('W/') else tag}", encoding="utf-8")
                length = reply.headers.get("Content-Length")
                total = started + int(length) if length else None
                name = _HASH.sub("", self.part.name.strip(".").removesuffix(".part"))
                with (
                    self.part.open("ab" if started else "wb") as file,
                    tqdm(total=total, initial=started, unit="B", unit_scale=True, desc=name) as bar,
                ):
                    for block in _blocks(reply):
                        file.write(block)
                        bar.update(len(block))
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ReadTimeout) as error:
            raise Truncated(f"the connection broke off ({type(error).__name__})") from error
        size = self.part.stat().st_size
        if total is not None and size < total:
            raise Truncated(f"only {size:,} of {total:,} bytes came")
        if size == 0:
            raise DownloadError("the file that came is empty")
        if self.verify:
            self._verified(bool(started))
        os.replace(self.part, output_file)
        self.note.unlink(missing_ok=True)

    def _verified(self, continued: bool) -> None:
        assert self.verify is not None
        try:
            self.verify(self.part)
        except DownloadError as error:
            self.part.unlink()
            self.note.unlink(missing_ok=True)
            if continued:  # what had come before may be at fault
                raise Truncated(f"{error}; it was deleted") from error
            raise DownloadError(f"{error}; it was deleted") from error


def _blocks(reply: Any) -> Iterator[bytes]:
    """The body, block by block. A server that falls silent in the middle is no missing network: the next attempt goes on."""
    import requests

    try:
        yield from reply.iter_content(_BLOCK)
    except requests.exceptions.ConnectionError as error:  # what requests makes of a read timeout in here
        raise Truncated("the connection stalled") from error


def _check(reply: Any) -> None:
    """Refuse what is no file: an error status, a bot check, a web page."""
    code = reply.status_code
    if code == 202 or "x-amzn-waf-action" in reply.headers:
        raise DownloadError("the server asks for a browser (a bot check) instead of sending the file")
    if code == 404:
        raise DownloadError("there is no such file (HTTP 404)")
    if code in (401, 403):
        raise DownloadError(f"the server refuses access (HTTP {code})")
    if code >= 400:
        raise DownloadError(f"the server answered with an error (HTTP {code})")
    if reply.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError("a web page came instead of the file (a login page, a proxy or a moved address)")


def fetch(
    name: str,
    urls: Sequence[str],
    folder: str | Path,
    sha256: str | None = None,
    md5: str | None = None,
    attempts: int = 3,
    wait: float = 1.0,
    record: bool = True,
    verify: Callable[[Path], None] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Path:
    """Return the path of ``folder/name``, downloading it first if it is not there; its hash is checked either way.

    ``urls`` are tried in order, each up to ``attempts`` times while it breaks off, ``wait`` seconds apart (growing).
    Without a published hash (``sha256``, else ``md5``) the first download is recorded in ``folder/lock.json``, and says so; not with
    ``record=False``, for a file whose content is checked in another way, nor with ``verify``, which raises DownloadError for
    another file than the wanted one. ``headers``: sent with each request.

    Raises
    ------
    DownloadError
        If no address gave the file, each with its reason; or if the file differs from the published or recorded hash.
    """
    from filelock import FileLock

    folder = Path(folder)
    target = folder / name
    if verify:
        record = False
        if target.exists():
            return _verified(target, verify)
    locked = _locked(folder).get(name, {}).get("sha256")
    known = f"sha256:{sha256}" if sha256 else f"md5:{md5}" if md5 else f"sha256:{locked}" if locked else None
    if target.exists() and (known is None or _has(target, known)):
        if known is None and record:
            _record(folder, name, "(found in place)")
        return target
    if target.exists():
        raise DownloadError(
            f"{target} is not the file that was {'published' if sha256 or md5 else 'recorded at its first download'} "
            f"({known} expected, sha256 {cache.sha256(target)} found). It was changed or damaged: delete it and it is "
            f"downloaded again{'' if sha256 or md5 else f'; if the new file is wanted, delete its entry in {LOCK} too'}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):  # two notebooks may want the same file at once
        if not target.exists():
            downloader = Resuming(folder / f".{name}.part", verify=verify, headers=headers)
            url = _from_any(name, urls, folder, known, attempts, wait, bool(sha256 or md5), downloader)
            if known is None and record:
                _record(folder, name, url)
    return target


def _verified(target: Path, verify: Callable[[Path], None]) -> Path:
    try:
        verify(target)
    except DownloadError as error:
        raise DownloadError(
            f"{target} is not what it should be: {error}. Delete it and it is downloaded again."
        ) from error
    return target


def _from_any(
    name: str,
    urls: Sequence[str],
    folder: Path,
    known: str | None,
    attempts: int,
    wait: float,
    published: bool,
    downloader: Resuming,
) -> str:
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")  # it would print paths and an advice that is not ours
    reasons = []
    for url in urls:
        reason = "it broke off"
        for attempt in range(attempts):
            try:
                pooch.retrieve(url, known_hash=known, fname=name, path=folder, downloader=downloader)
                return url
            except Truncated as error:
                reason = f"{error}, {attempt + 1} time(s)"
                time.sleep(wait * attempt)
            except DownloadError as error:
                reason = str(error)
                break
            except requests.exceptions.ConnectionError as error:
                refused = "refused" in str(error).lower()
                reason = (
                    "the connection was refused"
                    if refused
                    else "the server could not be reached (no network, or no such host)"
                )
                break
            except requests.exceptions.RequestException as error:
                reason = f"{type(error).__name__}: {error}"
                break
            except ValueError as error:  # pooch's word for a wrong hash
                if "hash" not in str(error):
                    raise
                reason = (
                    f"its content is not that of the {'published' if published else 'first downloaded'} file "
                    f"({known} was expected); it was deleted"
                )
                break
        reasons.append(f"  {url}\n    {reason}")
    raise DownloadError(
        f"{name} could not be downloaded:\n"
        + "\n".join(reasons)
        + f"\nTry again later (what has arrived is kept), or fetch "
        f"it with a browser and put it at {folder / name}; it is checked there."
    )


def _has(path: Path, known: str) -> bool:
    import pooch

    algorithm, _, value = known.partition(":")
    return pooch.file_hash(str(path), alg=algorithm) == value


def _locked(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / LOCK
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _record(folder: Path, name: str, url: str) -> None:
    entry = {
        "sha256": cache.sha256(folder / name),
        "bytes": (folder / name).stat().st_size,
        "url": url,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if not os.access(folder, os.W_OK):
        log.warning("%s has no published hash, and %s is read-only: it was not checked.", name, folder)
        return
    with cache.atomic_write(folder / LOCK) as path:
        path.write_text(json.dumps({**_locked(folder), name: entry}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    log.warning(
        "%s has no published hash: its sha256 %s was recorded in %s. A later difference will be an error.",
        name,
        entry["sha256"],
        folder / LOCK,
    )
