"""Files of published checkpoints: found in a cache, or downloaded from the Hugging Face hub, and verified either way.

A file is pinned twice: by the commit it is asked for at, and by the sha256 and size that ``data/models.toml`` lists. It is
downloaded into a hidden folder, checked there, and only then renamed to its place, so the cache never holds half a file.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from scfm.store import cache


class HubError(RuntimeError):
    """A published file could not be had, or is not what was published; the message says which and what to do."""


def catalogue_path() -> Path:
    """``data/models.toml``."""
    return cache.repo_data() / "models.toml"


def catalogue() -> dict[str, Any]:
    """The content of ``data/models.toml``: ``models``, ``dictionaries`` and ``old_names``."""
    path = catalogue_path()
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, modified: int) -> dict[str, Any]:  # the time of change is part of the key
    return tomllib.loads(path.read_text(encoding="utf-8"))


def plain_name(name: str) -> str:
    """A name as ``data/models.toml`` writes it: "ctheodoris/Geneformer/Geneformer_V1 10M" is geneformer-v1-10m."""
    return re.sub(r"[_\s]+", "-", name.strip()).lower().removeprefix("ctheodoris/geneformer/")


def offline() -> bool:
    """Whether the user forbade the network (``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``)."""
    return any(
        os.environ.get(name, "").lower() in {"1", "on", "yes", "true"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT`` (a mirror) or the hub itself. Read at each call, not once at import."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def fetch(repo: str, revision: str, name: str, pin: dict[str, Any], in_repo: str | None = None) -> Path:
    """The local path of one verified file of a hub repository, downloading it if no cache has it.

    Looked for in this order: the folders of ``SCFM_CACHE``, the user's cache, the cache of huggingface_hub, the hub.

    Parameters
    ----------
    repo, revision, name
        Repository, commit and path of the file in the repository.
    pin
        ``{"sha256": hex digits, "bytes": size}``; either may be absent.
    in_repo
        The path in the repository, where it is not ``name``: files in a repository's root get a folder in the cache.

    Raises
    ------
    HubError
        No network, offline mode, not found, no access, a transfer cut short, or other bytes than the published ones.
    """
    found = cache.find(name)
    if found is None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(repo, in_repo or name, revision=revision)
        found = Path(cached) if isinstance(cached, str) else None
    if found is not None:
        verify(found, pin, advice="Delete or move it, and it will be downloaded again.")
        return found
    if offline():
        raise HubError(
            f"{name} is not on this machine, and HF_HUB_OFFLINE forbids downloading it. Unset HF_HUB_OFFLINE, or copy "
            f"the file of {repo} into one of these folders as {name}: {', '.join(map(str, cache.folders()))}."
        )
    return _download(repo, revision, name, pin, in_repo or name)


def fetch_dictionary(name: str) -> Path:
    """The local path of one of Geneformer's gene dictionaries, by its path on the hub; raises as :func:`fetch` does."""
    for entry in catalogue()["dictionaries"].values():
        if name in entry["files"]:
            return fetch(entry["repo"], entry["revision"], name, entry["files"][name])
    raise HubError(f"data/models.toml lists no dictionary {name!r}, so nothing vouches for its content.")


def verify(path: Path, pin: dict[str, Any], advice: str = "") -> str:
    """Compare a file with its published size and sha256; the sha256 it has.

    Raises
    ------
    HubError
        If either differs; the message says by how much, and gives ``advice``.
    """
    size = path.stat().st_size
    if "bytes" in pin and size != pin["bytes"]:
        kind = "is cut short" if size < pin["bytes"] else "is too long"
        if size < 1000 and path.read_bytes().startswith(b"version https://git-lfs"):
            kind = "is a git-lfs pointer, not the file itself (run `git lfs pull` where it came from)"
        raise HubError(f"{path} {kind}: {size:,} bytes, published are {pin['bytes']:,}. {advice}".strip())
    digest = cache.sha256(path)
    if "sha256" in pin and digest != pin["sha256"]:
        raise HubError(
            f"{path} has other content than the published file: its sha256 is {digest}, published is {pin['sha256']}. "
            f"{advice}".strip()
        )
    return digest


def _download(repo: str, revision: str, name: str, pin: dict[str, Any], in_repo: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    folder = cache.writable()
    target = folder / name
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as staging:
        try:
            # one quick question first: hf_hub_download answers a refused connection only after half a minute of retries
            url = hf_hub_url(repo, in_repo, revision=revision, endpoint=endpoint())
            get_hf_file_metadata(url, token=False, timeout=20, endpoint=endpoint())
            # token=False: the files are public, so no credentials go to whatever HF_ENDPOINT names
            path = hf_hub_download(
                repo, in_repo, revision=revision, local_dir=staging, endpoint=endpoint(), token=False, etag_timeout=20
            )
        except Exception as error:
            _explain(error, repo, revision, name)
        verify(
            Path(path),
            pin,
            advice=f"The download from {endpoint()} was thrown away; try again, and if it repeats, use another endpoint.",
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    return target


def _explain(error: Exception, repo: str, revision: str, name: str) -> NoReturn:
    """Turn what went wrong on the way to the hub into a sentence and an advice."""
    from huggingface_hub import errors

    where = f"{name} of {repo} at {endpoint()}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    copy = f"or copy the file into {cache.writable()} as {name} and it will be found there"
    if isinstance(error, errors.OfflineModeIsEnabled):
        message = f"{where}: offline mode is on. Unset HF_HUB_OFFLINE and restart Python, {copy}."
    elif isinstance(error, errors.GatedRepoError | errors.RepositoryNotFoundError) or status in {401, 403}:
        message = (
            f"{where}: the server refuses access or has no such repository (HTTP {status}). The repository is public on "
            "huggingface.co: if HF_ENDPOINT names a mirror, check that it carries it."
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        message = f"{where}: the repository has no commit {revision}. If HF_ENDPOINT names a mirror, it may lag behind."
    elif isinstance(error, errors.EntryNotFoundError) and status == 404:
        message = f"{where}: no such file in commit {revision} (HTTP 404). If HF_ENDPOINT names a mirror, check it."
    elif status is not None:
        message = f"{where}: the server answered HTTP {status}. Try again later, {copy}."
    elif "onsistency check failed" in str(error):
        message = f"{where}: the transfer ended early ({str(error).splitlines()[0]}). Nothing was kept; try again."
    elif isinstance(error, OSError) and error.errno == 28:
        message = f"{where}: no space left in {cache.writable()}. Free some, or point SCFM_CACHE to a larger disk."
    else:
        message = (
            f"{where} could not be reached ({type(error).__name__}: {error}). Check the network and HF_ENDPOINT; without a "
            f"network use geneformer-mini, which comes with the course, {copy}."
        )
    raise HubError(message) from error
