"""A job ends when the process that ordered it is gone, also when that one was killed with -9 and could tell nobody."""

from __future__ import annotations

import os
import signal
import socket
import threading


def me() -> str:
    """This process, named so that others can tell whether it lives: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def end_with(driver: str | None, every: float = 1.0) -> None:
    """End this process (as SIGTERM does) soon after ``driver`` is gone; on another host there is nothing to watch."""
    host, _, pid = (driver or "").rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return
    threading.Thread(target=_watch, args=(int(pid), every), daemon=True).start()


def _watch(pid: int, every: float) -> None:
    import time

    import psutil

    try:
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(every)
    except psutil.Error:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
