"""Raw files of public repositories against a local server: by place, by blob, broken off, and every way to be another file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from carrier_server import CarrierServer

from scfm.errors import DownloadError
from scfm.store import carriers
from scfm.store.carriers import Carrier, blob_sha1, fetch_carrier

CONTENT = bytes(range(256)) * 4096  # 1 MiB: a half is whole blocks of the downloader
ONE = Carrier("owner/name", "c" * 40, "data/some cells.rda", blob_sha1(CONTENT), len(CONTENT))
BY_PATH, BY_BLOB = f"/owner/name/{'c' * 40}/data/some%20cells.rda", f"/repos/owner/name/git/blobs/{ONE.blob}"


@pytest.fixture
def mirror(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CarrierServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("scfm.store.download.time.sleep", lambda seconds: None)
    quoted = Carrier(ONE.repo, ONE.commit, "data/some%20cells.rda", ONE.blob, ONE.bytes)
    server = CarrierServer({quoted: CONTENT})
    monkeypatch.setenv(carriers.MIRROR, server.url + "/")
    yield server
    server.close()


@pytest.fixture
def misbehave(mirror: CarrierServer) -> Callable[[str | int, str], None]:
    return lambda trouble, where: mirror.trouble.update({(next(iter(mirror.files)), where): trouble})


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_the_hash_is_that_of_git() -> None:
    assert blob_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_by_place_first_and_only_once(mirror: CarrierServer, empty_cache: Path) -> None:
    path = fetch_carrier(ONE)
    assert path.read_bytes() == CONTENT
    assert path == empty_cache / "carriers" / "files" / f"{ONE.blob}-some cells.rda"
    assert fetch_carrier(ONE) == path
    assert mirror.paths() == [BY_PATH]
    assert left_over(empty_cache) == [path.name]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("trouble", [404, 403, 500, "corrupted", "truncated", "replaced"])
def test_by_blob_where_the_place_has_something_else(
    mirror: CarrierServer,
    misbehave: Callable[[str | int, str], None],
    trouble: str | int,
    as_json: bool,
    empty_cache: Path,
) -> None:
    mirror.as_json = as_json
    misbehave(trouble, "path")
    assert fetch_carrier(ONE).read_bytes() == CONTENT
    assert mirror.paths() == [BY_PATH, BY_BLOB]
    assert left_over(empty_cache) == [ONE.name]


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (404, "no such file"),
        ("corrupted", "it is another file: 1,048,576 bytes, git blob [0-9a-f]{40}, and not 1,048,576 bytes"),
        ("truncated", "it is cut short: 524,288 of 1,048,576 bytes; it was deleted"),
        ("replaced", "it is another file: 1,127,245 bytes"),
    ],
)
def test_what_came_instead_is_told_and_not_kept(
    mirror: CarrierServer,
    misbehave: Callable[[str | int, str], None],
    trouble: str | int,
    words: str,
    empty_cache: Path,
) -> None:
    for where in ("path", "blob"):
        misbehave(trouble, where)
    with pytest.raises(DownloadError, match=words) as caught:
        fetch_carrier(ONE)
    said = str(caught.value)
    assert all(
        part in said for part in (BY_PATH, BY_BLOB, ONE.source, ONE.name, "Only http://127.0.0.1", "gone for good")
    )
    assert left_over(empty_cache) == []


def test_a_broken_transfer_goes_on_where_it_stopped(
    mirror: CarrierServer, misbehave: Callable[[str | int, str], None], empty_cache: Path
) -> None:
    """Without a version tag from the server: the blob proves that both halves belong together."""
    misbehave("dropped", "path")
    assert fetch_carrier(ONE).read_bytes() == CONTENT
    assert mirror.requests == [(BY_PATH, None), (BY_PATH, f"bytes={len(CONTENT) // 2}-")]
    assert left_over(empty_cache) == [ONE.name]


def test_a_half_that_does_not_fit_is_fetched_anew(mirror: CarrierServer, empty_cache: Path) -> None:
    part = empty_cache / "carriers" / "files" / f".{ONE.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of another file")
    assert fetch_carrier(ONE).read_bytes() == CONTENT
    assert mirror.requests == [(BY_PATH, "bytes=15-"), (BY_PATH, None)]
    assert left_over(empty_cache) == [ONE.name]


def test_a_file_that_is_there_is_checked(mirror: CarrierServer, empty_cache: Path) -> None:
    path = empty_cache / "carriers" / "files" / ONE.name
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:100])
    with pytest.raises(
        DownloadError, match=r"cut short: 100 of 1,048,576 bytes\. Delete it and it is downloaded again"
    ):
        fetch_carrier(ONE)
    path.write_bytes(CONTENT)
    assert fetch_carrier(ONE) == path
    assert mirror.requests == []


def test_without_a_mirror_github_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(carriers.MIRROR, raising=False)
    assert ONE.addresses() == [
        f"https://raw.githubusercontent.com{BY_PATH}",
        f"https://api.github.com{BY_BLOB}",
        f"https://cdn.jsdelivr.net/gh/owner/name@{ONE.commit}/data/some%20cells.rda",
        f"https://archive.softwareheritage.org/api/1/content/sha1_git:{ONE.blob}/raw/",
    ]
