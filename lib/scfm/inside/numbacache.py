"""A place for compiled code where there is none: a checkout of somebody else, and a user without a home."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def choose(beside: Path = Path(__file__).parent) -> None:
    """Set ``NUMBA_CACHE_DIR`` to a folder of this process's own where numba would find no place, and stop.

    numba looks beside the code (``beside``), then in the user's cache folder; without both it refuses to compile. Code that was
    compiled in a private folder is not found again, which costs some seconds each time and is safe from other users.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    pycache = beside / "__pycache__"
    if os.access(pycache if pycache.is_dir() else beside, os.W_OK):
        return
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user id without a name
        home = Path(os.sep)
    at = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(at, os.W_OK):
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="scfm-numba-")
