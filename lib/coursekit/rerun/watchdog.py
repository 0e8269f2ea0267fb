"""A job ends when the process that ordered it is gone, also when that one was killed with -9 and could tell nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from typing import Any


def me() -> str:
    """This process, named so that others can tell whether it lives: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def end_with(driver: str | None, every: float = 1.0) -> None:
    """End this process (as SIGTERM does) soon after ``driver`` is gone; on another host there is nothing to watch.

    Raises KeyboardInterrupt where it is gone already.
    """
    host, _, pid = (driver or "").rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return
    import psutil

    try:
        process = psutil.Process(int(pid))
    except psutil.Error:
        raise KeyboardInterrupt from None
    threading.Thread(target=_watch, args=(process, every), daemon=True).start()


def _watch(process: Any, every: float, again: float = 30.0) -> None:
    import time

    import psutil

    with contextlib.suppress(psutil.Error):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(every)
    # Again and again: a signal that comes while Python imports something can be lost. In between there is time to tidy up.
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(again)
